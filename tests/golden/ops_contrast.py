"""Reference cases for the contrastive part: masks, lists, memory bank, prototype, InfoNCE."""

import numpy as np
import torch
import torch.nn.functional as F

import philox
from fixture import SEED, Case, f32, integers, nhwc, save, values

IGNORE = 255


def pack_bits(masks):
    """Boolean [B, C, h, w] to u32 [B, h, w, ⌈C/32⌉]."""
    masks = masks.permute(0, 2, 3, 1).numpy()
    b, h, w, c = masks.shape
    words = np.zeros((b, h, w, (c + 31) // 32), np.uint32)
    for k in range(c):
        words[..., k // 32] |= masks[..., k].astype(np.uint32) << np.uint32(k % 32)
    return words


def nearest(maps, size):
    return F.interpolate(maps.float(), size, mode="nearest")


def ranks(logits):
    """Position of each class in descending order, [B, C, h, w]."""
    order = torch.sort(logits, stable=True, dim=1, descending=True).indices
    rank = torch.empty_like(order)
    rank.scatter_(1, order, torch.arange(logits.shape[1])[None, :, None, None].expand_as(order).contiguous())
    return rank


def paper_masks(logits, label_l, label_u, entropy, gamma, delta_p, low_rank, high_rank):
    c, size = logits.shape[1], logits.shape[2:]
    bl = len(label_l)
    label = nearest(torch.cat([label_l, label_u])[:, None], size).long()
    h_small = nearest(entropy[:, None], size)
    prob, rank = logits.softmax(1), ranks(logits)
    is_class = label == torch.arange(c)[None, :, None, None]
    valid = label != IGNORE
    confident = prob > delta_p
    anchors = is_class & confident
    anchors[bl:] &= h_small < gamma
    labelled = valid[:bl] & ~is_class[:bl] & (rank[:bl] < low_rank)
    unlabelled = valid[bl:] & (h_small > gamma) & (rank[bl:] >= low_rank) & (rank[bl:] < high_rank)
    return anchors, anchors.clone(), torch.cat([labelled, unlabelled])


def released_onehot(label, c):
    """Method §4 row 1: every image's classes are written into image 0, then ignored pixels are
    cleared per image; an ignored pixel is written as class 0 first."""
    onehot = torch.zeros(len(label), c, *label.shape[1:])
    for image in label:
        onehot[0].scatter_(0, image.where(image != IGNORE, torch.zeros_like(image))[None], 1.0)
    return onehot * (label != IGNORE)[:, None]


def released_masks(logits, label_l, label_u, entropy, low, high, delta_p, low_rank, high_rank):
    c, size = logits.shape[1], logits.shape[2:]
    bl = len(label_l)
    onehot_l = nearest(released_onehot(label_l, c), size)
    onehot_u = nearest(released_onehot(label_u, c), size)
    usable_l, usable_u = (label_l != IGNORE).float(), (label_u != IGNORE).float()
    low_mask = nearest(torch.cat([usable_l, (entropy <= low) * usable_u])[:, None], size)
    high_mask = nearest(torch.cat([usable_l, (entropy >= high) * usable_u])[:, None], size)
    onehot = torch.cat([onehot_l, onehot_u])
    positives = (onehot * low_mask).bool()
    candidates = (onehot * high_mask).bool()
    rank = ranks(logits)
    # Row 2: on labelled pixels the class must be present and absent at once.
    by_rank = torch.cat([
        (rank[:bl] < low_rank) & (onehot_l == 0),
        (rank[bl:] >= low_rank) & (rank[bl:] < high_rank),
    ])
    return positives & (logits.softmax(1) > delta_p), positives, candidates & by_rank


def partition_case(name, variant, c, bl, bu, small, large, low_rank, high_rank, quantiles=(60, 30, 70),
                   share=0.15, agree=False, tied=False, delta_p=0.3, empty=()):
    case = Case(f"partition/{variant}_{name}")
    logits = values(name, (bl + bu, c, *small), 2.0)
    if tied:
        logits = (logits * 1.5).round() / 2
    prob = logits.softmax(1)
    assert (prob - delta_p).abs().min() > 1e-6, name
    label_l, label_u = (integers(name + k, (b, *large), c) for k, b in (("l", bl), ("u", bu)))
    if agree:  # the pseudo-label is the most likely class of the same pixel
        label_u = nearest(logits[bl:].argmax(1, keepdim=True), large)[:, 0].long()
    for label, k in ((label_l, "li"), (label_u, "ui")):
        label[integers(name + k, tuple(label.shape), 1000) < share * 1000] = IGNORE
    entropy = values(name + "h", (bu, *large)).abs()
    gamma, low, high = np.percentile(entropy.numpy(), quantiles).astype(np.float32).tolist()
    entropy[0, 0, 0] = gamma if variant == "paper" else low  # equality is decided, too
    if variant == "paper":
        masks = paper_masks(logits, label_l, label_u, entropy, gamma, delta_p, low_rank, high_rank)
    else:
        masks = released_masks(logits, label_l, label_u, entropy, low, high, delta_p, low_rank, high_rank)
    for kind, mask in zip(("anchors", "positives", "negatives"), masks):
        assert mask.any() != (kind in empty), (name, kind)

    case.put("logits", nhwc(logits), wide=True)
    case.put("label_l", label_l.numpy().astype(np.uint8)[..., None])
    case.put("label_u", label_u.numpy().astype(np.uint8)[..., None])
    case.put("entropy", f32(entropy)[..., None])
    case.put("thresholds", f32([gamma, low, high]))
    outs = [case.expect(k, pack_bits(m)) for k, m in zip(("anchors", "positives", "negatives"), masks)]
    case.call("partition", ["logits", "label_l", "label_u", "entropy", "thresholds"], outs,
              variant=variant, classes=c, ignore=IGNORE, delta_p=delta_p, low_rank=low_rank, high_rank=high_rank)
    return case


def partition_cases():
    cases = []
    for variant in ("paper", "released"):
        cases += [
            partition_case("voc", variant, 21, 2, 2, (9, 9), (33, 33), 3, 20),
            partition_case("few_classes", variant, 5, 2, 2, (5, 5), (17, 17), 1, 4),
            partition_case("ragged", variant, 19, 2, 3, (7, 9), (25, 34), 3, 20),
            partition_case("one_image_each", variant, 6, 1, 1, (9, 8), (9, 8), 2, 5),
            partition_case("two_words", variant, 35, 1, 2, (5, 6), (16, 21), 3, 20),
            partition_case("ties", variant, 6, 1, 1, (9, 9), (17, 17), 2, 5, tied=True),
        ]
    # Row 3: when rank and pseudo-label agree, the top rank is never in [r_l, r_h).
    cases.append(partition_case("row3_no_negatives", "released", 6, 1, 1, (9, 9), (9, 9), 1, 6,
                                agree=True, empty=("negatives",)))
    # Row 11: r_h = 20 leaves out the last of 21 ranks; 21 does not.
    cases.append(partition_case("row11_all_ranks", "paper", 21, 1, 1, (7, 7), (25, 25), 3, 21))
    return cases


def compact_case(name, c, b, h, w, labeled, density=0.3):
    case = Case(f"compact/{name}")
    masks = values(name, (b, c, h, w)) < torch.linspace(-3, 3, c)[None, :, None, None] * density
    pixels = b * h * w
    lists, counts = np.zeros((c, pixels), np.uint32), np.zeros((2, c), np.uint32)
    flat = masks.permute(1, 0, 2, 3).reshape(c, pixels).numpy()
    for k in range(c):
        found = np.flatnonzero(flat[k])
        lists[k, :len(found)] = found
        counts[:, k] = len(found), (found < labeled).sum()
    case.put("bits", pack_bits(masks))
    only = [(k * pixels, counts[0, k]) for k in range(c)]
    case.call("compact", ["bits"], [case.expect("list", lists, only=only), case.expect("counts", counts)],
              labeled_pixels=labeled)
    return case


def put_lists(case, prefix, rows, pixels):
    """Lists with rubbish after their ends, and counts."""
    lists = np.full((len(rows), pixels), 0xFFFFFFFF, np.uint32)
    for k, row in enumerate(rows):
        lists[k, :len(row)] = row
    counts = np.array([[len(r) for r in rows], [0] * len(rows)], np.uint32)
    return [case.put(prefix + "list", lists), case.put(prefix + "counts", counts)]


def bank_case():
    """Pushes that fill, wrap, overflow and leave a ring as it is. A list longer than a ring is
    twice its size here: where in the ring another length would start is the device's choice."""
    case = Case("memory_bank/pushes")
    capacities, d, shape = [7, 4, 5, 3], 6, (2, 3, 4)
    pixels = int(np.prod(shape))
    r = np.random.default_rng(3)
    offsets = np.concatenate([[0], np.cumsum(capacities)])
    bank, inv = np.zeros((offsets[-1], d), np.float32), np.zeros(offsets[-1], np.float32)
    cursor = np.zeros((2, len(capacities)), np.uint32)
    for key, array in {"bank": bank, "inv_norm": inv, "cursor": cursor}.items():
        case.put(key, array.copy())
    for i, sizes in enumerate([(3, 0, 5, 1), (6, 2, 1, 0), (1, 8, 0, 6), (14, 1, 2, 3)]):
        rep = r.standard_normal((pixels, d)).astype(np.float32)
        rep[5] = 0.0  # its norm is clamped
        rows = [np.sort(r.choice(pixels, n, replace=False)) for n in sizes]
        for k, row in enumerate(rows):
            for pixel in row:
                slot = offsets[k] + cursor[0, k]
                bank[slot] = rep[pixel]
                inv[slot] = 1 / max(np.linalg.norm(rep[pixel].astype(np.float64)), 1e-8)
                cursor[0, k] = (cursor[0, k] + 1) % capacities[k]
                cursor[1, k] = min(cursor[1, k] + 1, capacities[k])
        case.put(f"rep{i}", rep.reshape(*shape, d), wide=True)
        lists = put_lists(case, f"p{i}_", rows, pixels)
        case.call("memory_bank", [f"rep{i}", *lists], ["bank", "inv_norm", "cursor"], capacities=capacities)
    case.expect("bank", bank, rtol=0.0, atol=0.0)
    case.expect("inv_norm", inv, rtol=1e-6, atol=0.0)
    case.expect("cursor", cursor)
    return case


def prototype_case():
    case = Case("prototype/means")
    shape, d = (2, 5, 6), 9
    pixels = int(np.prod(shape))
    r = np.random.default_rng(4)
    rep = r.standard_normal((pixels, d)).astype(np.float32)
    rows = [np.sort(r.choice(pixels, n, replace=False)) for n in (60, 0, 1, 17)]
    wanted = [rep[row].astype(np.float64).mean(0) if len(row) else np.zeros(d) for row in rows]
    case.put("rep", rep.reshape(*shape, d), wide=True)
    lists = put_lists(case, "", rows, pixels)
    case.call("prototype", ["rep", *lists], [case.expect("prototype", f32(np.stack(wanted)))])
    return case


def info_nce_terms(variant, anchors, positives, held):
    """(draw key, anchor class, ring class) per term, and the divisor."""
    c = len(anchors)
    if variant == "paper":
        terms = [(k, k, k) for k in range(c) if len(anchors[k]) and held[k]]
        return terms, len(terms)
    present = [k for k in range(c) if positives[k]]
    if len(present) < 2:
        return [], len(present)
    terms = [(i, i, k) for i, k in enumerate(present) if len(anchors[i]) and held[k]]
    return terms, len(present)


def info_nce_case(name, variant, sizes, positives, held, m=8, n=5, d=16, shape=(2, 5, 6), step=3,
                  temperature=0.5, weight=1.0, capacity=12, accumulate=False):
    case = Case(f"info_nce/{variant}_{name}")
    c, pixels, stream = len(sizes), int(np.prod(shape)), 32
    r = np.random.default_rng(len(name) + 10 * c)
    rep = torch.from_numpy(r.standard_normal((pixels, d)).astype(np.float32)).double().requires_grad_()
    prototype = torch.from_numpy(r.standard_normal((c, d)).astype(np.float32)).double()
    capacities = [capacity + k for k in range(c)]
    offsets = np.concatenate([[0], np.cumsum(capacities)])
    bank = r.standard_normal((offsets[-1], d)).astype(np.float32)
    bank[offsets[-2]] = 0.0
    inv = (1 / np.maximum(np.linalg.norm(bank.astype(np.float64), axis=1), 1e-8)).astype(np.float32)
    nxt = [h if h < q else int(r.integers(0, q)) for h, q in zip(held, capacities)]
    anchors = [np.sort(r.choice(pixels, size, replace=False)) for size in sizes]

    terms, divisor = info_nce_terms(variant, anchors, positives, held)
    loss = torch.zeros((), dtype=torch.float64)
    for key, anchor_class, ring in terms:
        picks = philox.Rng(SEED, stream, step).below(key * m + np.arange(m), len(anchors[anchor_class]))
        draws = philox.Rng(SEED, stream + 1, step).below(key * m * n + np.arange(m * n), held[ring])
        slots = offsets[ring] + (nxt[ring] + capacities[ring] - held[ring] + draws) % capacities[ring]
        anchor = rep[torch.from_numpy(anchors[anchor_class][picks].astype(np.int64))]
        negative = torch.from_numpy(bank[slots]).double().view(m, n, d)
        others = torch.cat([prototype[anchor_class].expand(m, 1, d), negative], 1)
        logits = F.cosine_similarity(anchor[:, None], others, dim=2, eps=1e-8) / temperature
        loss = loss + F.cross_entropy(logits, torch.zeros(m, dtype=torch.long))
    if terms:
        loss = loss / divisor
        (loss * weight).backward()
    grad = rep.grad if terms else torch.zeros_like(rep)

    ins = [case.put("rep", f32(rep).reshape(*shape, d), wide=True)]
    ins += put_lists(case, "", anchors, pixels)
    ins.append(case.put("positive_counts", np.array([positives, [0] * c], np.uint32)))
    ins.append(case.put("prototype", f32(prototype)))
    ins.append(case.put("bank", bank))
    ins.append(case.put("inv_norm", inv))
    ins.append(case.put("cursor", np.array([nxt, held], np.uint32)))
    ins.append(case.put("rng", philox.state(SEED, step)))
    attributes = {"variant": variant, "anchors": m, "negatives": n, "temperature": temperature,
                  "capacities": capacities, "stream": stream}
    # The gradient scale is the operation's own business; the gradient below decides.
    stats = case.expect("stats", f32([loss.item(), 0, divisor, 0]), atol=0.0, only=[(0, 1), (2, 1)] if terms else [(0, 1)])
    case.call("info_nce", ins, [stats], **attributes)
    wanted = f32(grad).reshape(*shape, d)
    if accumulate:
        start = f32(r.standard_normal(wanted.shape) * 0.01)
        case.put("drep", start, wide=True)
        wanted = wanted + start
    case.expect("drep", wanted, wide=True)
    case.call("info_nce_backward", [*ins, "stats"], ["drep"], accumulate=int(accumulate), weight=weight, **attributes)
    return case


def info_nce_cases():
    p = "paper"
    q = "released"
    return [
        info_nce_case("typical", p, (9, 20, 4), (9, 20, 4), (12, 5, 14)),
        info_nce_case("absent_classes", p, (9, 0, 4, 7, 1), (9, 0, 4, 7, 1), (12, 5, 0, 15, 3), weight=0.1),
        info_nce_case("nothing", p, (0, 5, 0), (0, 5, 0), (4, 0, 2)),
        info_nce_case("repeated_anchors", p, (1, 2), (1, 2), (3, 4), m=32, n=7, accumulate=True),
        info_nce_case("recipe_size", p, (30, 41, 11, 7), (30, 41, 11, 7), (12, 13, 9, 15), m=256, n=50,
                      d=32, temperature=0.3),
        info_nce_case("aligned", q, (9, 20, 4), (9, 20, 4), (12, 5, 14)),
        # Row 4: class 0 absent; position i reads anchors of class i but the ring of the i-th
        # present class. Row 13: the skipped position still divides.
        info_nce_case("misaligned", q, (0, 6, 9, 3, 0), (0, 8, 12, 5, 0), (5, 12, 13, 4, 9)),
        info_nce_case("skipped_class_divides", q, (6, 0, 3, 8), (6, 2, 3, 8), (12, 5, 0, 15), weight=0.5),
        info_nce_case("one_class_is_zero", q, (0, 6, 0), (0, 6, 0), (5, 12, 3)),
    ]


def make():
    save("partition", partition_cases())
    save("contrast", [
        compact_case("few", 5, 2, 5, 6, 30),
        compact_case("two_words", 40, 3, 7, 5, 70),
        compact_case("all_labeled", 3, 1, 9, 9, 81),
        compact_case("full", 2, 2, 16, 17, 272, density=99.0),
        bank_case(),
        prototype_case(),
        *info_nce_cases(),
    ])
