"""Reference cases for pseudo-labels, losses, optimiser and evaluation."""

import numpy as np
import torch
import torch.nn.functional as F

from fixture import Case, f32, integers, nhwc, save, values

IGNORE = 255


def upsample(logits, size):
    return F.interpolate(logits, size, mode="bilinear", align_corners=True)


def entropy_of(prob, log_eps):
    return -(prob * torch.log(prob + log_eps)).nan_to_num(0.0).sum(1)


def clear_argmax(name, logits):
    """The top two must be apart by more than rounding, or the argmax is a coin toss."""
    top = logits.topk(2, dim=1).values
    assert (top[:, 0] - top[:, 1]).min() > 2e-5, name


def labels_with_ignore(name, shape, classes, share=0.15):
    label = integers(name, shape, classes)
    label[integers(name + "i", shape, 1000) < share * 1000] = IGNORE
    return label


def byte_map(label):
    return label.numpy().astype(np.uint8)[..., None]


def entropy_case(name, n, c, h, w, size, log_eps, scale=2.0, atol=None):
    case = Case(f"softmax_entropy/{name}")
    logits = values(name, (n, c, h, w), scale)
    full = upsample(logits, size)
    clear_argmax(name, full)
    prob = full.softmax(1)
    confidence, argmax = prob.max(1)
    case.put("logits", nhwc(logits), wide=True)
    case.call("softmax_entropy", ["logits"], [
        case.expect("entropy", f32(entropy_of(prob, log_eps))[..., None], atol=atol),
        case.expect("argmax", byte_map(argmax)),
        case.expect("confidence", f32(confidence)[..., None]),
    ], log_eps=log_eps)
    return case


def entropy_ties():
    """All classes equal: entropy log C, the lowest class wins."""
    case = Case("softmax_entropy/ties")
    case.put("logits", np.full((1, 2, 2, 4), 0.5, np.float32))
    case.call("softmax_entropy", ["logits"], [
        case.expect("entropy", np.full((1, 3, 3, 1), np.log(4.0), np.float32)),
        case.expect("argmax", np.zeros((1, 3, 3, 1), np.uint8)),
        case.expect("confidence", np.full((1, 3, 3, 1), 0.25, np.float32)),
    ], log_eps=0.0)
    return case


def percentile_case(name, value, label, percents):
    case = Case(f"percentile/{name}", rtol=1e-6)
    value = value.astype(np.float32)
    counted = value[label != IGNORE].astype(np.float64)
    q = np.array(percents, np.float32)
    wanted = np.percentile(counted, q.astype(np.float64)) if counted.size else np.full(len(q), np.inf)
    case.put("values", value.reshape(1, 1, -1, 1))
    case.put("label", label.astype(np.uint8).reshape(1, 1, -1, 1))
    case.put("q", q)
    case.call("percentile", ["values", "label", "q"], [case.expect("threshold", f32(wanted))], ignore=IGNORE)
    return case


def percentile_cases():
    r = np.random.default_rng(5)
    some = lambda n: np.where(r.random(n) < 0.2, IGNORE, 3)
    none = lambda n: np.zeros(n)
    return [
        percentile_case("typical", r.gamma(1.0, 0.4, 3000), some(3000), [83.75, 16.25, 80.0]),
        percentile_case("ends", r.normal(size=501), some(501), [0.0, 100.0, 50.0]),
        percentile_case("ties", r.integers(0, 3, 400) * 0.25, some(400), [10.0, 50.0, 90.0]),
        percentile_case("one", np.array([0.7, 0.1, 0.2]), np.array([0, IGNORE, IGNORE]), [35.0]),
        percentile_case("two", np.array([0.7, 0.1]), none(2), [25.0, 75.0]),
        percentile_case("zeros", np.zeros(64), none(64), [20.0, 80.0]),
        percentile_case("all_ignored", r.normal(size=9), np.full(9, IGNORE), [20.0, 80.0]),
    ]


def keep_case():
    case = Case("keep_reliable/strict")
    entropy = np.array([0.1, 0.5, 0.5000001, 0.9, 0.2, 0.0], np.float32).reshape(1, 2, 3, 1)
    label = np.array([3, 2, 1, 0, IGNORE, 4], np.uint8).reshape(1, 2, 3, 1)
    kept = np.array([3, IGNORE, IGNORE, IGNORE, IGNORE, 4], np.uint8).reshape(1, 2, 3, 1)
    case.put("label", label)
    case.put("place", label)
    case.put("entropy", entropy)
    case.put("threshold", np.array([0.5], np.float32))
    for name in ("kept", "place"):
        case.expect(name, kept)
    case.call("keep_reliable", ["label", "entropy", "threshold"], ["kept"], ignore=IGNORE)
    case.call("keep_reliable", ["place", "entropy", "threshold"], ["place"], ignore=IGNORE)
    case.put("infinite", np.array([np.inf], np.float32))
    case.expect("all", label)
    case.call("keep_reliable", ["label", "entropy", "infinite"], ["all"], ignore=IGNORE)
    return case


def ce_case(name, n, c, h, w, size, norm="valid", weight=1.0, share=0.15, accumulate=False, scale=2.0):
    case = Case(f"cross_entropy/{name}")
    logits = values(name, (n, c, h, w), scale).requires_grad_()
    label = labels_with_ignore(name + "l", (n, *size), c, share)
    valid, total = int((label != IGNORE).sum()), label.numel()
    factor = total / valid if norm == "valid_times_all_over_valid" and valid else 1.0
    if valid:
        loss = F.cross_entropy(upsample(logits, size), label, ignore_index=IGNORE) * factor
        (loss * weight).backward()
        stats, grad = [loss.item(), factor / valid, valid, total], nhwc(logits.grad)
    else:
        stats, grad = [0, 0, 0, total], np.zeros((n, h, w, c), np.float32)
    case.put("logits", nhwc(logits), wide=True)
    case.put("label", byte_map(label))
    case.call("cross_entropy", ["logits", "label"], [case.expect("stats", f32(stats), atol=0.0)],
              ignore=IGNORE, norm=norm)
    if accumulate:
        start = f32(values(name + "d", grad.shape, 0.01))
        case.put("dlogits", start, wide=True)
        grad = grad + start
    case.expect("dlogits", grad, wide=True)
    case.call("cross_entropy_backward", ["logits", "label", "stats"], ["dlogits"],
              accumulate=int(accumulate), ignore=IGNORE, weight=weight)
    return case


def ohem_case(name, n, c, h, w, size, thresh, min_kept, share, weight=1.0, scale=1.5):
    """Threshold and loss as online hard example mining defines them: ignored pixels count as
    p = 1, the threshold is at least `thresh`, and too few valid pixels switch mining off."""
    case = Case(f"ohem/{name}")
    logits = values(name, (n, c, h, w), scale).requires_grad_()
    label = labels_with_ignore(name + "l", (n, *size), c, share)
    full = upsample(logits, size)
    valid = label != IGNORE
    target = label.where(valid, torch.zeros_like(label))
    p = full.softmax(1).gather(1, target[:, None])[:, 0].masked_fill(~valid, 1.0).detach()
    threshold, kept = np.inf, valid
    if min_kept <= valid.sum():
        ordered = p.flatten().sort().values
        threshold = max(thresh, ordered[min_kept - 1].item())
        kept = valid & (p <= threshold)
        others = (ordered - threshold).abs()
        assert others[others > 0].min() > 1e-6, name
    loss = F.cross_entropy(full, label.where(kept, torch.full_like(label, IGNORE)), ignore_index=IGNORE)
    (loss * weight).backward()
    count = int(kept.sum())

    case.put("logits", nhwc(logits), wide=True)
    case.put("label", byte_map(label))
    case.call("target_probability", ["logits", "label"], [case.expect("p", f32(p)[..., None])], ignore=IGNORE)
    case.call("ohem_threshold", ["p", "label"], [case.expect("threshold", f32([threshold]))],
              ignore=IGNORE, thresh=thresh, min_kept=min_kept)
    case.call("cross_entropy", ["logits", "label", "threshold"],
              [case.expect("stats", f32([loss.item(), 1 / count, count, label.numel()]), atol=0.0)],
              ignore=IGNORE, norm="valid")
    case.call("cross_entropy_backward", ["logits", "label", "stats", "threshold"],
              [case.expect("dlogits", nhwc(logits.grad), wide=True)], ignore=IGNORE, weight=weight)
    return case


def loss_cases():
    return [
        ce_case("up", 2, 5, 5, 4, (17, 13)),
        ce_case("voc", 2, 21, 9, 9, (33, 33)),
        ce_case("ragged", 1, 19, 7, 6, (16, 23), weight=0.4),
        ce_case("same_size", 2, 4, 6, 5, (6, 5), accumulate=True),
        ce_case("one_pixel", 1, 3, 1, 1, (5, 4)),
        ce_case("down", 1, 4, 9, 8, (5, 6)),
        ce_case("reweighted", 2, 6, 5, 5, (17, 17), "valid_times_all_over_valid", share=0.7),
        ce_case("reweighted_all", 1, 6, 5, 5, (9, 9), "valid_times_all_over_valid", share=0.0),
        ce_case("nothing_valid", 1, 4, 3, 3, (9, 9), share=2.0),
        ce_case("nothing_reliable", 1, 4, 3, 3, (9, 9), "valid_times_all_over_valid", share=2.0),
        # exp would overflow, and log(0) appear, without the maximum taken out.
        ce_case("extreme", 1, 5, 4, 4, (9, 9), scale=120.0),
        ohem_case("threshold_rules", 2, 5, 5, 5, (17, 17), 0.7, 40, 0.1),
        ohem_case("count_rules", 2, 5, 5, 5, (17, 17), 0.05, 300, 0.2, weight=0.4),
        ohem_case("ignored_take_part", 1, 4, 5, 5, (13, 13), 0.1, 84, 0.5),
        ohem_case("too_few_valid", 1, 4, 4, 4, (9, 9), 0.7, 60, 0.5),
    ]


def sgd_case():
    """Four steps against torch.optim.SGD, two groups with a gap, then the teacher's average."""
    case = Case("sgd_ema/sequence", rtol=2e-6)
    n, momentum, base = 700, 0.9, [0.05, 0.04, 0.03, 0.02]
    groups = [
        {"start": 0, "len": 300, "lr_mult": 1.0, "weight_decay": 1e-2},
        {"start": 320, "len": 380, "lr_mult": 10.0, "weight_decay": 0.0},
    ]
    start, gap = values("sgd", (n,)), slice(300, 320)
    spans = [slice(g["start"], g["start"] + g["len"]) for g in groups]
    params = [start[s].clone().requires_grad_() for s in spans]
    optimizer = torch.optim.SGD(
        [{"params": [p], "weight_decay": g["weight_decay"]} for p, g in zip(params, groups)],
        lr=base[0], momentum=momentum)
    teacher0 = values("teacher", (n,))
    teacher = teacher0.clone()
    case.put("parameter", f32(start))
    case.put("velocity", np.zeros(n, np.float32))
    case.put("teacher", f32(teacher0))
    for i, m in enumerate([1.0, 0.0, 0.5, 0.99]):
        gradient = values(f"sgdg{i}", (n,))
        for p, s, g, group in zip(params, spans, groups, optimizer.param_groups):
            p.grad = gradient[s].clone()
            group["lr"] = float(np.float32(base[i])) * g["lr_mult"]
        optimizer.step()
        for p, s in zip(params, spans):
            m32 = float(np.float32(m))
            teacher[s] = m32 * teacher[s] + (1 - m32) * p.detach()
        case.put(f"g{i}", f32(gradient))
        case.put(f"lr{i}", f32([base[i]]))
        case.put(f"m{i}", f32([m]))
        case.call("sgd_ema", [f"g{i}", f"lr{i}", f"m{i}"], ["parameter", "velocity", "teacher"],
                  momentum=momentum, groups=groups)
    end, velocity = start.clone(), torch.zeros(n, dtype=torch.float64)
    for p, s in zip(params, spans):
        end[s] = p.detach()
        velocity[s] = optimizer.state[p]["momentum_buffer"]
    assert (end[gap] == start[gap]).all() and (teacher[gap] == teacher0[gap]).all()
    case.expect("parameter", f32(end))
    case.expect("velocity", f32(velocity))
    case.expect("teacher", f32(teacher))

    alone = Case("sgd_ema/no_teacher", rtol=2e-6)
    p, g, v = values("p", (65,)), values("g", (65,)), values("v", (65,))
    moved = momentum * v + g + 1e-2 * p
    for key, t in {"p": p, "v": v, "g": g}.items():
        alone.put(key, f32(t))
    alone.put("lr", f32([0.1]))
    alone.put("m", f32([0.5]))
    alone.expect("p", f32(p - float(np.float32(0.1)) * moved))
    alone.expect("v", f32(moved))
    alone.call("sgd_ema", ["g", "lr", "m"], ["p", "v"], momentum=momentum,
               groups=[{"start": 0, "len": 65, "lr_mult": 1.0, "weight_decay": 1e-2}])
    return [case, alone]


def count_matrix(truth, prediction, classes):
    matrix = np.zeros((classes, classes), np.uint32)
    np.add.at(matrix, (truth, prediction), 1)
    return matrix


def confusion_cases():
    c = 6
    case = Case("confusion/upsampled")
    logits = values("confusion", (2, c, 5, 4))
    label = labels_with_ignore("confusion", (2, 17, 13), c)
    full = upsample(logits, (17, 13))
    clear_argmax("confusion", full)
    valid = (label != IGNORE).numpy()
    matrix = count_matrix(label.numpy()[valid], full.argmax(1).numpy()[valid], c)
    start = np.arange(c * c, dtype=np.uint32).reshape(c, c)
    case.put("logits", nhwc(logits), wide=True)
    case.put("label", byte_map(label))
    case.put("sum", start)
    case.expect("sum", start + matrix)
    case.call("confusion", ["logits", "label"], [case.expect("matrix", matrix)], ignore=IGNORE)
    case.call("confusion", ["logits", "label"], ["sum"], accumulate=1, ignore=IGNORE)

    maps = Case("confusion/label_maps")
    truth, guess = (labels_with_ignore(k, (2, 9, 11), c) for k in ("truth", "guess"))
    valid = ((truth != IGNORE) & (guess != IGNORE)).numpy()
    matrix = count_matrix(truth.numpy()[valid], guess.numpy()[valid], c)
    maps.put("truth", byte_map(truth))
    maps.put("guess", byte_map(guess))
    maps.put("sum", start)
    maps.expect("sum", start + matrix)
    maps.call("label_confusion", ["truth", "guess"], [maps.expect("matrix", matrix)], ignore=IGNORE)
    maps.call("label_confusion", ["truth", "guess"], ["sum"], accumulate=1, ignore=IGNORE)
    return [case, maps]


def scores_case(softmax):
    """Three overlapping windows over a 20 × 26 image, one of them seen mirrored."""
    case = Case(f"scores/{'probabilities' if softmax else 'logits'}")
    c, height, width = 5, 20, 26
    scores = torch.zeros(1, c, height, width, dtype=torch.float64)
    counts = torch.zeros(height, width, dtype=torch.float64)
    case.put("scores", nhwc(scores))
    case.put("counts", np.zeros((1, height, width, 1), np.float32))
    windows = [(0, 0, 20, 17, False), (0, 9, 20, 17, True), (3, 5, 17, 21, False)]
    for i, (y, x, h, w, flip) in enumerate(windows):
        logits = values(f"scores{i}", (1, c, 5, 6), 2.0)
        full = upsample(logits, (h, w))
        full = full.softmax(1) if softmax else full
        scores[:, :, y:y + h, x:x + w] += full.flip(3) if flip else full
        counts[y:y + h, x:x + w] += 1
        case.put(f"logits{i}", nhwc(logits), wide=True)
        case.put(f"window{i}", np.array([y, x, h, w], np.uint32))
        case.call("add_scores", [f"logits{i}", f"window{i}"], ["scores", "counts"], flip=flip, softmax=softmax)
    case.expect("scores", nhwc(scores))
    case.expect("counts", f32(counts)[None, ..., None])
    mean = scores / counts
    clear_argmax(case.name, mean)
    prob = mean if softmax else mean.softmax(1)
    confidence, argmax = prob.max(1)
    case.call("finish_scores", ["scores", "counts"], [
        case.expect("entropy", f32(entropy_of(prob, 0.0))[..., None]),
        case.expect("argmax", byte_map(argmax)),
        case.expect("confidence", f32(confidence)[..., None]),
    ], softmax=softmax)
    return case


def make():
    save("pseudo_label", [
        entropy_case("up", 2, 5, 5, 4, (17, 13), 0.0),
        entropy_case("voc_released", 1, 21, 9, 9, (33, 33), 1e-10),
        entropy_case("same_size", 1, 3, 6, 5, (6, 5), 0.0),
        # Probabilities underflow to zero: 0 · log 0 counts as 0.
        entropy_case("saturated", 1, 5, 4, 4, (9, 9), 0.0, scale=150.0, atol=2e-6),
        entropy_ties(),
        keep_case(),
        *percentile_cases(),
    ])
    save("loss", loss_cases())
    save("optimizer", sgd_case())
    save("evaluation", [*confusion_cases(), scores_case(False), scores_case(True)])
