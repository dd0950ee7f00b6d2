"""A small stand-in for a checkout of the authors' code and its data: their folders, lists and
configurations, pictures of coloured shapes with VOC's masks, and a backbone that PyTorch wrote.

    python checkout.py FOLDER

Needs torch, numpy and Pillow. Everything is drawn from fixed seeds."""

import pathlib
import sys

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import nn

LABELED, UNLABELED, VAL = 20, 60, 16
SIZE = (128, 96)  # width, height
# Class of VOC and colour of its shapes: aeroplane, bicycle, bird, boat, bottle.
SHAPES = {1: (200, 60, 60), 2: (60, 170, 70), 3: (70, 90, 210), 4: (210, 190, 60), 5: (170, 80, 190)}

CONFIG = """\
dataset:
  type: {kind}
  train:
    data_root: ../../../../data/VOC2012
    data_list: ../../../../data/splits/pascal/{labeled}/labeled.txt
    flip: True
    GaussianBlur: False
    rand_resize: [0.5, 2.0]
    crop: {{type: rand, size: [65, 65]}}
  val:
    data_root: ../../../../data/VOC2012
    data_list: ../../../../data/splits/pascal/val.txt
    crop: {{type: center, size: [97, 129]}}
  batch_size: 2
  n_sup: {n_sup}
  noise_std: 0.1
  workers: 2
  mean: [123.675, 116.28, 103.53]
  std: [58.395, 57.12, 57.375]
  ignore_label: 255

trainer:
  epochs: {epochs}
  eval_on: True
  {sup_only}optimizer:
    type: SGD
    kwargs: {{lr: 0.005, momentum: 0.9, weight_decay: 0.0001}}
  lr_scheduler: {{mode: poly, kwargs: {{power: 0.9}}}}
{semi}
saver:
  snapshot_dir: checkpoints
  pretrain: ''
  auto_resume: False

criterion:
  type: CELoss
  kwargs: {{use_weight: False}}

net:
  num_classes: 21
  sync_bn: True
  {ema}encoder:
    type: u2pl.models.resnet.resnet18
    kwargs:
      multi_grid: False
      zero_init_residual: True
      fpn: True
      replace_stride_with_dilation: [False, False, True]
  decoder:
    type: u2pl.models.decoder.dec_deeplabv3_plus
    kwargs: {{inner_planes: 256, dilations: [6, 12, 18]{rep_head}}}
"""

SEMI = """
  unsupervised:
    TTA: False
    drop_percent: 80
    apply_aug: cutmix
  contrastive:
    negative_high_entropy: True
    low_rank: 3
    high_rank: 20
    current_class_threshold: 0.3
    current_class_negative_threshold: 1
    unsupervised_entropy_ignore: 80
    low_entropy_threshold: 20
    num_negatives: 50
    num_queries: 256
    temperature: 0.5
"""

# Their loaders stretch the lists to as many images as this, less n_sup.
ALL_OF_VOC = 10_582


def configurations(root):
    folder = root / "experiments" / "pascal" / str(LABELED)
    semi = {
        "kind": "pascal_semi", "n_sup": ALL_OF_VOC - 160, "epochs": 6, "sup_only": "sup_only_epoch: 1\n  ",
        "semi": SEMI, "ema": "ema_decay: 0.99\n  ", "rep_head": "",
    }
    alone = {
        "kind": "pascal", "n_sup": LABELED, "epochs": 24, "sup_only": "",
        "semi": "", "ema": "", "rep_head": ", rep_head: False",
    }
    for name, values in {"ours": semi, "suponly": alone}.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "config.yaml").write_text(CONFIG.format(labeled=LABELED, **values))


def picture(rng):
    """Shapes on an uneven ground, and the mask of their classes; borders are 255, as in VOC."""
    width, height = SIZE
    ground = rng.integers(60, 200, 3)[None, None] + rng.normal(0, 12, (height, width, 3))
    image = Image.fromarray(ground.clip(0, 255).astype(np.uint8))
    mask = Image.new("L", SIZE, 0)
    for _ in range(rng.integers(1, 4)):
        klass = int(rng.choice(list(SHAPES)))
        colour = tuple(int(c + rng.integers(-30, 31)) for c in SHAPES[klass])
        side = int(rng.integers(24, 52))
        x, y = int(rng.integers(0, width - side)), int(rng.integers(0, height - side))
        box = (x, y, x + side, y + side)
        for canvas, fill, line in ((ImageDraw.Draw(image), colour, None), (ImageDraw.Draw(mask), klass, 255)):
            if klass % 3 == 0:
                canvas.ellipse(box, fill, line)
            elif klass % 3 == 1:
                canvas.rectangle(box, fill, line)
            else:
                canvas.polygon([(x, y + side), (x + side // 2, y), (x + side, y + side)], fill, line)
    return image, mask


def data(root):
    voc = root / "data" / "VOC2012"
    splits = root / "data" / "splits" / "pascal"
    for folder in (voc / "JPEGImages", voc / "SegmentationClassAug", splits / str(LABELED)):
        folder.mkdir(parents=True)
    rng = np.random.default_rng(7)
    names = [f"2007_{i:06}" for i in range(LABELED + UNLABELED + VAL)]
    for name in names:
        image, mask = picture(rng)
        image.save(voc / "JPEGImages" / f"{name}.jpg", quality=92)
        mask.save(voc / "SegmentationClassAug" / f"{name}.png")
    lists = {
        f"{LABELED}/labeled.txt": names[:LABELED],
        f"{LABELED}/unlabeled.txt": names[LABELED:-VAL],
        "val.txt": names[-VAL:],
    }
    for path, of in lists.items():
        (splits / path).write_text("\n".join(of) + "\n")


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )


class Backbone(nn.Module):
    """ResNet-18 with their deep stem. Its names and shapes are what matters here: it never runs."""

    def __init__(self):
        super().__init__()
        stem = [
            nn.Conv2d(3, 64, 3, 2, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
            nn.Conv2d(64, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
            nn.Conv2d(64, 128, 3, 1, 1, bias=False),
        ]
        self.conv1 = nn.Sequential(*stem)
        self.bn1 = nn.BatchNorm2d(128)
        width = 128
        for i, outputs in enumerate((64, 128, 256, 512), 1):
            blocks = [Block(width, outputs, 1 if i == 1 else 2), Block(outputs, outputs, 1)]
            setattr(self, f"layer{i}", nn.Sequential(*blocks))
            width = outputs
        self.fc = nn.Linear(512, 1000)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    root = pathlib.Path(sys.argv[1])
    configurations(root)
    data(root)
    torch.manual_seed(0)
    torch.save(Backbone().state_dict(), root / "resnet18.pth")


main()
