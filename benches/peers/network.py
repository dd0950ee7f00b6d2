"""ResNet DeepLabv3+ as a careful PyTorch user would write it.

The same network as the engine's (output stride 8, deep stem, multi-grid, representation head);
activations in place, so that only what backward needs stays in memory.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def conv(c, k, size, stride=1, dilation=1, bias=False):
    return nn.Conv2d(c, k, size, stride, dilation * (size // 2), dilation, bias=bias)


def unit(c, k, size=1, stride=1, dilation=1, bias=False, relu=True):
    layers = [conv(c, k, size, stride, dilation, bias), nn.BatchNorm2d(k)]
    return layers + [nn.ReLU(inplace=True)] if relu else layers


class Bottleneck(nn.Module):
    def __init__(self, c, planes, stride, dilation):
        super().__init__()
        out = 4 * planes
        self.branch = nn.Sequential(
            *unit(c, planes), *unit(planes, planes, 3, stride, dilation), *unit(planes, out, relu=False)
        )
        self.shortcut = None
        if stride != 1 or c != out:
            self.shortcut = nn.Sequential(*unit(c, out, stride=stride, relu=False))

    def forward(self, x):
        y = self.branch(x)
        y += x if self.shortcut is None else self.shortcut(x)
        return F.relu_(y)


def stage(c, planes, stride, dilations):
    blocks = []
    for i, dilation in enumerate(dilations):
        blocks.append(Bottleneck(c, planes, stride if i == 0 else 1, dilation))
        c = 4 * planes
    return nn.Sequential(*blocks)


def resize(x, size):
    return F.interpolate(x, size, mode="bilinear", align_corners=True)


BLOCKS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}


class Network(nn.Module):
    """Images [B, 3, H, W] to logits [B, C, h, w] and representations [B, 256, h, w] or None."""

    def __init__(self, classes=21, encoder="resnet50", dropout=0.1):
        super().__init__()
        self.stem = nn.Sequential(
            *unit(3, 64, 3, 2), *unit(64, 64, 3), *unit(64, 128, 3), nn.MaxPool2d(3, 2, 1, ceil_mode=True)
        )
        first, second, third, _ = BLOCKS[encoder]
        self.layer1 = stage(128, 64, 1, [1] * first)
        self.layer2 = stage(256, 128, 2, [1] * second)
        # Output stride 8: dilation instead of stride; a stage's first block keeps the one before.
        self.layer3 = stage(512, 256, 1, [1] + [2] * (third - 1))
        self.layer4 = stage(1024, 512, 1, [4, 8, 16])
        self.context = nn.Sequential(nn.AdaptiveAvgPool2d(1), *unit(2048, 256))
        self.point = nn.Sequential(*unit(2048, 256))
        self.atrous = nn.ModuleList(nn.Sequential(*unit(2048, 256, 3, dilation=d)) for d in (12, 24, 36))
        self.high = nn.Sequential(*unit(1280, 256, 3), nn.Dropout2d(dropout))
        self.low = nn.Sequential(*unit(256, 256, bias=True))

        def head(out):
            drop = nn.Dropout2d(dropout)
            return nn.Sequential(
                *unit(512, 256, 3, bias=True), drop, *unit(256, 256, 3, bias=True), drop, conv(256, out, 1, bias=True)
            )

        self.classifier = head(classes)
        self.representation = head(256)

    def encoder_parameters(self):
        parts = (self.stem, self.layer1, self.layer2, self.layer3, self.layer4)
        return [p for part in parts for p in part.parameters()]

    def forward(self, x, rep=True):
        low = self.layer1(self.stem(x))
        x = self.layer4(self.layer3(self.layer2(low)))
        branches = [resize(self.context(x), x.shape[2:]), self.point(x), *(b(x) for b in self.atrous)]
        high = self.high(torch.cat(branches, 1))
        fused = torch.cat([self.low(low), resize(high, low.shape[2:])], 1)
        return self.classifier(fused), self.representation(fused) if rep else None


def fold_batch_norm(module):
    """Multiplies eval-mode batch norms into the convolutions before them."""
    for child in module.children():
        fold_batch_norm(child)
    if isinstance(module, nn.Sequential):
        layers = list(module)
        for i in range(len(layers) - 1):
            if isinstance(layers[i], nn.Conv2d) and isinstance(layers[i + 1], nn.BatchNorm2d):
                module[i] = fuse_conv_bn_eval(layers[i], layers[i + 1])
                module[i + 1] = nn.Identity()
    return module
