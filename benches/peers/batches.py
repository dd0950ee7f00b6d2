"""What both versions of the training step begin with: images, weak augmentation, cutmix."""

import random

import torch
import torch.nn.functional as F

from settings import MEAN, STD

IGNORE = 255
TILE = 16


def dataset(count, side, classes, device):
    """Noise as u8 images [n, 3, H, W]; labels [n, 1, H, W] of 16-pixel tiles, as on the engine's side."""
    images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)
    tile = torch.arange(side) // TILE
    image = torch.arange(count).view(-1, 1, 1, 1)
    labels = (tile.view(1, 1, -1, 1) * 7 + tile.view(1, 1, 1, -1) * 5 + image) % classes
    return images.to(device), labels.byte().to(device)


class Weak:
    """Normalise, random resize, flip, pad, random crop."""

    def __init__(self, crop, device):
        self.crop = crop  # (height, width)
        self.mean = torch.tensor(MEAN, device=device).view(3, 1, 1)
        self.std = torch.tensor(STD, device=device).view(3, 1, 1)

    def one(self, image, label):
        scale = random.uniform(0.5, 1.0) if random.random() < 0.5 else random.uniform(1.0, 2.0)
        size = [int(scale * side) for side in image.shape[1:]]
        x = ((image.float() - self.mean) / self.std)[None]
        x = F.interpolate(x, size, mode="bilinear", align_corners=False)
        y = F.interpolate(label[None].float(), size, mode="nearest")
        if random.random() < 0.5:
            x, y = x.flip(3), y.flip(3)
        short = [max(crop - side, 0) for crop, side in zip(self.crop, size)]
        pad = (short[1] // 2, short[1] - short[1] // 2, short[0] // 2, short[0] - short[0] // 2)
        x, y = F.pad(x, pad), F.pad(y, pad, value=IGNORE)
        top, left = (random.randint(0, side - crop) for crop, side in zip(self.crop, x.shape[2:]))
        window = (slice(None), slice(None), slice(top, top + self.crop[0]), slice(left, left + self.crop[1]))
        return x[window], y[window]

    def batch(self, images, labels, layout):
        """Crops [n, 3, H, W] and labels [n, H, W]."""
        xs, ys = zip(*(self.one(x, y) for x, y in zip(images, labels)))
        return torch.cat(xs).contiguous(memory_format=layout), torch.cat(ys)[:, 0].long()


def cutmix(x, label, probability=0.5):
    """With this probability, a box of half the area of each image from the next one."""
    if random.random() >= probability:
        return x, label
    h, w = x.shape[2:]
    mixed_x, mixed_label = x.clone(), label.clone()
    for i in range(len(x)):
        width = random.randint(w // 2 + 1, w - 1)
        height = round(h * w / 2 / width)
        top, left = random.randint(0, h - height), random.randint(0, w - width)
        box = (slice(top, top + height), slice(left, left + width))
        source = (i + 1) % len(x)
        mixed_x[(i, slice(None), *box)] = x[(source, slice(None), *box)]
        mixed_label[(i, *box)] = label[(source, *box)]
    return mixed_x, mixed_label


def nearest(x, size):
    """Maps [B, H, W] at the grid `size`, by PyTorch's nearest."""
    return F.interpolate(x[:, None].float(), size, mode="nearest")[:, 0]


def rows(maps):
    """[B, D, h, w] to [B·h·w, D]."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])
