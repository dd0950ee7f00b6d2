"""The network of method §2 in PyTorch, written from its description.

State-dict names are those of released checkpoints without the leading `module.`.
"""

import math
import re
import zlib

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import philox

STAGES = {18: ("basic", [2, 2, 2, 2]), 34: ("basic", [3, 4, 6, 3]), 50: ("bottleneck", [3, 4, 6, 3]),
          101: ("bottleneck", [3, 4, 23, 3]), 152: ("bottleneck", [3, 8, 36, 3])}


# The last batch norm of a bottleneck.
LAST_NORM = re.compile(r"layer\d\.\d+\.bn3\.weight$")


def conv(c, k, size, stride=1, dilation=1, bias=False):
    padding = dilation * (size // 2)
    return nn.Conv2d(c, k, size, stride, padding, dilation, bias=bias)


class Block(nn.Module):
    """Residual block: basic (two 3×3) or bottleneck (1×1, 3×3, 1×1 to four times the planes)."""

    def __init__(self, kind, c, planes, stride, dilation):
        super().__init__()
        out = planes if kind == "basic" else 4 * planes
        sizes = [3, 3] if kind == "basic" else [1, 3, 1]
        widths = [c] + [planes] * (len(sizes) - 1) + [out]
        strided = sizes.index(3)
        self.depth = len(sizes)
        for i, size in enumerate(sizes):
            spread = dilation if size == 3 else 1
            layer = conv(widths[i], widths[i + 1], size, stride if i == strided else 1, spread)
            self.add_module(f"conv{i + 1}", layer)
            self.add_module(f"bn{i + 1}", nn.BatchNorm2d(widths[i + 1]))
        self.downsample = None
        if stride != 1 or c != out:
            self.downsample = nn.Sequential(conv(c, out, 1, stride), nn.BatchNorm2d(out))

    def forward(self, x):
        y = x
        for i in range(1, self.depth + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            if i < self.depth:
                y = y.relu()
        return (y + (x if self.downsample is None else self.downsample(x))).relu()


class Encoder(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        kind, counts = STAGES[cfg["depth"]]
        w = cfg["width"]
        self.deep = cfg["stem"] == "deep"
        if self.deep:
            c = 2 * w
            self.conv1 = nn.Sequential(conv(3, w, 3, 2), nn.BatchNorm2d(w), nn.ReLU(),
                                       conv(w, w, 3), nn.BatchNorm2d(w), nn.ReLU(), conv(w, c, 3))
        else:
            c = w
            self.conv1 = conv(3, w, 7, 2)
        self.bn1 = nn.BatchNorm2d(c)
        dilated = {8: (2, 3), 16: (3,), 32: ()}[cfg["output_stride"]]
        dilation = 1
        for stage, count in enumerate(counts):
            stride, first = (1 if stage == 0 else 2), dilation
            if stage in dilated:
                stride, dilation = 1, dilation * 2
            grid = [2, 2, 4] if cfg["multi_grid"] and stage == 3 else [1] * count
            planes, blocks = w << stage, []
            for b in range(count):
                spread = grid[b] * (first if b == 0 else dilation)
                blocks.append(Block(kind, c, planes, stride if b == 0 else 1, spread))
                c = planes if kind == "basic" else 4 * planes
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.channels = [(w << s) * (1 if kind == "basic" else 4) for s in range(4)]

    def forward(self, x):
        x = self.bn1(self.conv1(x)).relu()
        x = F.max_pool2d(x, 3, 2, 1, ceil_mode=self.deep)
        features = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            features.append(x)
        return features


def resize(x, like):
    return F.interpolate(x, like.shape[2:], mode="bilinear", align_corners=True)


class Aspp(nn.Module):
    def __init__(self, c, width, dilations):
        super().__init__()
        act = lambda layer: [layer, nn.BatchNorm2d(width), nn.ReLU()]
        self.conv1 = nn.Sequential(nn.AdaptiveAvgPool2d(1), *act(conv(c, width, 1)))
        self.conv2 = nn.Sequential(*act(conv(c, width, 1)))
        for i, d in enumerate(dilations):
            self.add_module(f"conv{i + 3}", nn.Sequential(*act(conv(c, width, 3, dilation=d))))
        self.branches = len(dilations) + 2

    def forward(self, x):
        maps = [getattr(self, f"conv{i + 1}")(x) for i in range(self.branches)]
        return torch.cat([resize(maps[0], x)] + maps[1:], 1)


def head(c, width, out, p):
    """Two 3×3 units and a 1×1."""
    unit = lambda c: [conv(c, width, 3, bias=True), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout2d(p)]
    return nn.Sequential(*unit(c), *unit(width), conv(width, out, 1, bias=True))


class Decoder(nn.Module):
    def __init__(self, cfg, channels):
        super().__init__()
        width, p = cfg["head_width"], cfg["dropout"]
        self.plus = cfg["decoder"] == "deeplabv3plus"
        self.aspp = Aspp(channels[3], width, cfg["aspp_dilations"])
        pyramid = self.aspp.branches * width
        unit = [conv(pyramid, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout2d(p)]
        if self.plus:
            self.low_conv = nn.Sequential(conv(channels[0], width, 1, bias=True), nn.BatchNorm2d(width), nn.ReLU())
            self.head = nn.Sequential(*unit)
            self.classifier = head(2 * width, width, cfg["classes"], p)
        else:
            self.head = nn.Sequential(*unit, conv(width, cfg["classes"], 1, bias=True))
        # The released DeepLabv3 has no representation head; here it reads the pyramid.
        self.representation = head(2 * width if self.plus else pyramid, width, cfg["rep_width"], p)

    def forward(self, features):
        pyramid = self.aspp(features[3])
        if not self.plus:
            return self.head(pyramid), self.representation(pyramid)
        low = self.low_conv(features[0])
        fused = torch.cat([low, resize(self.head(pyramid), low)], 1)
        return self.classifier(fused), self.representation(fused)


class Auxor(nn.Module):
    def __init__(self, cfg, c):
        super().__init__()
        width = cfg["head_width"]
        self.aux = nn.Sequential(conv(c, width, 3, bias=True), nn.BatchNorm2d(width), nn.ReLU(),
                                 nn.Dropout2d(cfg["dropout"]), conv(width, cfg["classes"], 1, bias=True))

    def forward(self, x):
        return self.aux(x)


class Network(nn.Module):
    """Returns (logits, representation, auxiliary logits or None)."""

    def __init__(self, cfg):
        super().__init__()
        self.encoder = Encoder(cfg)
        self.decoder = Decoder(cfg, self.encoder.channels)
        self.auxor = Auxor(cfg, self.encoder.channels[2]) if cfg["aux"] else None

    def forward(self, x):
        features = self.encoder(x)
        logits, rep = self.decoder(features)
        return logits, rep, None if self.auxor is None else self.auxor(features[2])


def uniform(name, count):
    """2u − 1 per element: element i is word i mod 4 of Philox block i div 4, keyed by
    crc32(name), stream 0, step 0."""
    out = np.empty((count + 3) // 4 * 4, np.float32)
    for start in range(0, len(out) // 4, 1 << 20):
        index = np.arange(start, min(start + (1 << 20), len(out) // 4), dtype=np.uint64)
        words = philox.block(index, 0, 0, zlib.crc32(name.encode()))
        out[4 * start:4 * start + words.size] = philox.unit(words).reshape(-1)
    return out[:count] * np.float32(2) - np.float32(1)


def formula(name, shape, gain):
    """Initial value of a parameter or buffer (README.md, "Weights by formula")."""
    u = uniform(name, math.prod(shape)).reshape(shape)
    if len(shape) == 4:
        fan_in = shape[1] * shape[2] * shape[3]
        return u * np.float32(gain * math.sqrt(3.0 / fan_in))
    if name.endswith("running_var") or name.endswith("weight"):
        # Bottleneck branches a quarter as strong: a deep random network is chaotic otherwise.
        scale = np.float32(0.25 if LAST_NORM.search(name) else 1.0)
        return scale * (np.float32(1) + np.float32(0.5) * u)
    return np.float32(0.1) * u  # biases, BN beta, running mean


def fill(network, gain):
    """Sets every parameter and buffer by formula; returns them by name."""
    state = network.state_dict()
    for name, tensor in state.items():
        if tensor.dtype.is_floating_point:
            tensor.copy_(torch.from_numpy(formula(name, tuple(tensor.shape), gain)))
    network.load_state_dict(state)
    return network


def image(name, shape):
    """Input, NCHW: √3 · (u + 0.8 · one u per 8 × 8 cell + one u per image and channel). Images
    that differ in the large keep batch statistics of pooled features well conditioned."""
    n, c, h, w = shape
    cells = (n, c, (h + 7) // 8, (w + 7) // 8)
    part = lambda suffix, s: uniform(name + suffix, math.prod(s)).reshape(s)
    coarse = part("/cells", cells).repeat(8, 2).repeat(8, 3)[:, :, :h, :w]
    x = part("", shape) + np.float32(0.8) * coarse + part("/offset", (n, c, 1, 1))
    return torch.from_numpy(np.float32(math.sqrt(3.0)) * x)
