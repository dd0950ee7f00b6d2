"""Reference cases for augmentation and mixing."""

import numpy as np
import torch
import torch.nn.functional as F

import philox
from fixture import SEED, Case, f32, save

IGNORE = 255
MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]


def drawn_scale(rng, b, low, high):
    coin, where = philox.unit(rng.words(2 * b))[:2]
    low, high = np.float32(low), np.float32(high)
    return low + where * (1 - low) if coin < 0.5 else 1 + where * (high - 1)


def scaled(extent, scale):
    exact = float(extent) * float(scale)
    near = abs(exact - round(exact))
    assert scale == 1.0 or near > 1e-4, "too close to a whole number of pixels: another seed"
    return int(exact)


def weak_augment(image, label, b, rng, size, scale, flip, random_crop, pad_label):
    """image f64 [3, h, w] in 0–255, label [h, w] → normalised crop and its label."""
    h, w = label.shape
    factor = drawn_scale(rng, b, *scale)
    target = (scaled(h, factor), scaled(w, factor))
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (MEAN, STD))
    image = (image - mean) / std
    image = F.interpolate(image[None], target, mode="bilinear", align_corners=False)[0]
    label = F.interpolate(label[None, None].float(), target, mode="nearest")[0, 0].long()
    if philox.unit(rng.words(2 * b))[2] < np.float32(flip):
        image, label = image.flip(2), label.flip(1)
    pad_h, pad_w = max(size[0] - target[0], 0), max(size[1] - target[1], 0)
    border = (pad_w // 2, pad_w - pad_w // 2, pad_h // 2, pad_h - pad_h // 2)
    image, label = F.pad(image, border, value=0.0), F.pad(label, border, value=pad_label)
    spare = (label.shape[0] - size[0], label.shape[1] - size[1])
    if random_crop:
        words = rng.words(2 * b + 1)
        y, x = (int(philox.below(words[i], s + 1)) for i, s in enumerate(spare))
    else:
        y, x = spare[0] // 2, spare[1] // 2
    return image[:, y:y + size[0], x:x + size[1]], label[y:y + size[0], x:x + size[1]]


def augment_case(name, sizes, size, scale, flip, random_crop, pad_label=IGNORE, step=0, stream=8):
    case = Case(f"augment/{name}")
    cap = max(h * w for h, w in sizes) + 3
    r = np.random.default_rng(sum(h * w for h, w in sizes))
    images, labels = np.full((len(sizes), 3 * cap), 77, np.uint8), np.full((len(sizes), cap), 77, np.uint8)
    xs, ys = [], []
    rng = philox.Rng(SEED, stream, step)
    for b, (h, w) in enumerate(sizes):
        image = r.integers(0, 256, (h, w, 3)).astype(np.uint8)
        label = r.integers(0, 5, (h, w)).astype(np.uint8)
        label[r.random((h, w)) < 0.1] = IGNORE
        images[b, :3 * h * w], labels[b, :h * w] = image.reshape(-1), label.reshape(-1)
        x, y = weak_augment(torch.from_numpy(image).double().permute(2, 0, 1), torch.from_numpy(label).long(),
                            b, rng, size, scale, flip, random_crop, pad_label)
        xs.append(x.permute(1, 2, 0).numpy())
        ys.append(y.numpy())
    b = len(sizes)
    case.put("images", images.reshape(b, 1, 1, -1))
    case.put("labels", labels.reshape(b, 1, 1, -1))
    case.put("sizes", np.array(sizes, np.uint32).reshape(b, 1, 1, 2))
    case.put("rng", philox.state(SEED, step))
    case.call("augment", ["images", "labels", "sizes", "rng"], [
        case.expect("x", f32(np.stack(xs)), rtol=1e-5, atol=1e-4),
        case.expect("label", np.stack(ys).astype(np.uint8)[..., None]),
    ], scale=list(scale), flip=flip, random_crop=random_crop, mean=MEAN, std=STD, pad_label=pad_label, stream=stream)
    return case


def augment_cases():
    some = [(25, 31), (40, 22), (18, 18), (33, 33)]
    return [
        augment_case("identity", [(17, 13)], (17, 13), (1.0, 1.0), 0.0, False),
        augment_case("centre_crop", [(30, 21), (24, 27)], (17, 16), (1.0, 1.0), 0.0, False),
        augment_case("centre_pad", [(9, 14), (30, 6)], (17, 19), (1.0, 1.0), 0.0, False),
        augment_case("pad_zero", [(9, 14)], (16, 18), (1.0, 1.0), 1.0, True, pad_label=0),
        augment_case("all", some, (25, 25), (0.5, 2.0), 0.5, True, step=5),
        augment_case("all_again", some, (33, 29), (0.5, 2.0), 0.5, True, step=6, stream=9),
        augment_case("shrink", some[:2], (17, 17), (0.25, 1.0), 0.5, False, step=2),
    ]


def box(rng, b, h, w):
    """The mixed box: half the area, row and column range."""
    words = rng.words(1 + b)
    width = w // 2 + 1 + int(philox.below(words[0], w - 1 - w // 2))
    height = int(np.round(h * w / 2 / width))
    y, x = int(philox.below(words[1], h - height + 1)), int(philox.below(words[2], w - width + 1))
    return slice(y, y + height), slice(x, x + width)


def mix_case(name, kind, prob, step, applied, n=3, h=17, w=15, stream=16, classes=6):
    case = Case(f"mix/{name}")
    rng = philox.Rng(SEED, stream, step)
    r = np.random.default_rng(step)
    x = r.standard_normal((n, h, w, 3)).astype(np.float32)
    label = (r.integers(0, classes, (n, 3, 3)).repeat(-(-h // 3), 1).repeat(-(-w // 3), 2)[:, :h, :w]).astype(np.uint8)
    extra = r.integers(0, classes, (n, h, w)).astype(np.uint8)
    extra[r.random(extra.shape) < 0.1] = IGNORE
    mixed = philox.unit(rng.words(0))[0] < np.float32(prob)
    assert mixed == applied, f"{name}: another step number"
    outs = [x.copy(), label.copy(), extra.copy()]
    for b in range(n if mixed and kind != "none" else 0):
        other = (b + 1) % n
        if kind == "classmix":
            present = np.unique(label[b]).astype(np.int64)
            keys = rng.words((1 + b) * 256 + present)[:, 0]
            pasted = present[np.argsort(keys, kind="stable")[:len(present) // 2]]
            foreign = ~np.isin(label[b], pasted)
        else:
            foreign = np.zeros((h, w), bool)
            foreign[box(rng, b, h, w)] = True
        for out, source, blank in zip(outs, (x, label, extra), (0.0, IGNORE, IGNORE)):
            out[b][foreign] = blank if kind == "cutout" else source[other][foreign]
    case.put("x", x)
    case.put("label", label[..., None])
    case.put("extra", extra[..., None])
    case.put("rng", philox.state(SEED, step))
    case.call("mix", ["x", "label", "extra", "rng"], [
        case.expect("mixed_x", outs[0], rtol=0.0, atol=0.0),
        case.expect("mixed_label", outs[1][..., None]),
        case.expect("mixed_extra", outs[2][..., None]),
    ], kind=kind, prob=prob, ignore=IGNORE, stream=stream)
    return case


def mix_cases():
    return [
        mix_case("none", "none", 1.0, 0, True),
        mix_case("cutmix", "cutmix", 1.0, 1, True),
        mix_case("cutmix_square", "cutmix", 1.0, 2, True, n=2, h=33, w=33),
        mix_case("cutmix_one_image", "cutmix", 1.0, 3, True, n=1),
        mix_case("cutout", "cutout", 1.0, 4, True),
        mix_case("classmix", "classmix", 1.0, 5, True),
        mix_case("classmix_two", "classmix", 1.0, 6, True, n=2, classes=3),
        mix_case("coin_heads", "cutmix", 0.5, *next((s, True) for s in range(50) if coin(s) < 0.5)),
        mix_case("coin_tails", "cutmix", 0.5, *next((s, False) for s in range(50) if coin(s) >= 0.5)),
    ]


def coin(step, stream=16):
    return philox.unit(philox.Rng(SEED, stream, step).words(0))[0]


def make():
    save("augment", augment_cases())
    save("mix", mix_cases())
