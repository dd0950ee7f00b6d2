"""PyTorch peer of the training benchmark: one U2PL step, as benches/README.md lists it.

Mode `paper`, teacher in eval mode with averaged buffers. Starts from u8 images and labels in
memory, as the engine's step does; everything is vectorised over pixels, classes are a short loop.
"""

import argparse
import random

import torch
import torch.nn.functional as F

import protocol
from network import Network, resize

CLASSES, IGNORE, REP = 21, 255, 256
ANCHORS, NEGATIVES, TEMPERATURE = 256, 50, 0.5
LOW_RANK, HIGH_RANK = 3, 20
LR, HEAD_LR_MULT, MOMENTUM, DECAY, EMA, PERCENT = 0.001, 10.0, 0.9, 1e-4, 0.99, 80.0
CONTRAST_WEIGHT = 0.1

parser = argparse.ArgumentParser()
parser.add_argument("--crop", type=int, default=129)
parser.add_argument("--batch", type=int, default=2, help="labelled images, and as many unlabelled")
parser.add_argument("--bank", type=int, default=3000, help="negatives kept per class")
parser.add_argument("--delta-p", type=float, default=0.0)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--format", choices=["nchw", "nhwc"], default="nchw")
parser.add_argument("--steps", type=int, help="run this many and end; default: one per line of stdin")
args = parser.parse_args()

torch.set_num_threads(args.threads)
torch.manual_seed(0)
random.seed(0)
base_mib = protocol.status_mib("VmRSS")
layout = torch.channels_last if args.format == "nhwc" else torch.contiguous_format


def dataset(count):
    """u8 images [n, 3, H, W]; labels of 16-pixel tiles [n, 1, H, W]."""
    side = args.crop
    images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)
    tiles = torch.randint(0, CLASSES, (count, 1, side // 16 + 1, side // 16 + 1)).float()
    labels = tiles.repeat_interleave(16, 2).repeat_interleave(16, 3)[:, :, :side, :side]
    return images, labels.byte().contiguous()


MEAN = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
STD = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)


def weak(image, label):
    """Normalise, random resize, flip, pad, random crop of one image."""
    crop = args.crop
    scale = random.uniform(0.5, 1.0) if random.random() < 0.5 else random.uniform(1.0, 2.0)
    size = [int(scale * side) for side in image.shape[1:]]
    x = ((image.float() - MEAN) / STD)[None]
    x = F.interpolate(x, size, mode="bilinear", align_corners=False)
    y = F.interpolate(label[None].float(), size, mode="nearest")
    if random.random() < 0.5:
        x, y = x.flip(3), y.flip(3)
    short = [max(crop - side, 0) for side in size]
    pad = (short[1] // 2, short[1] - short[1] // 2, short[0] // 2, short[0] - short[0] // 2)
    x, y = F.pad(x, pad), F.pad(y, pad, value=IGNORE)
    top, left = (random.randint(0, side - crop) for side in x.shape[2:])
    window = (slice(None), slice(None), slice(top, top + crop), slice(left, left + crop))
    return x[window], y[window]


def weak_batch(images, labels):
    xs, ys = zip(*(weak(x, y) for x, y in zip(images, labels)))
    return torch.cat(xs).contiguous(memory_format=layout), torch.cat(ys)[:, 0].long()


def cutmix(x, label):
    """With probability 0.5, a box of half the area of each image from the next one."""
    if random.random() >= 0.5:
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


def rows(rep):
    """[B, D, h, w] to [B·h·w, D]."""
    return rep.permute(0, 2, 3, 1).reshape(-1, rep.shape[1])


def nearest(x, size):
    return F.interpolate(x[:, None].float(), size, mode="nearest")[:, 0]


class Bank:
    """A ring of negatives per class."""

    def __init__(self):
        self.rows = torch.zeros(CLASSES, args.bank, REP)
        self.inv_norm = torch.zeros(CLASSES, args.bank)
        self.next = [0] * CLASSES
        self.held = [0] * CLASSES

    def push(self, c, values):
        values = values[-args.bank :]
        inv_norm = 1 / values.norm(dim=1).clamp(min=1e-8)
        first = min(len(values), args.bank - self.next[c])
        for ring, new in ((self.rows[c], values), (self.inv_norm[c], inv_norm)):
            ring[self.next[c] : self.next[c] + first] = new[:first]
            ring[: len(values) - first] = new[first:]
        self.next[c] = (self.next[c] + len(values)) % args.bank
        self.held[c] = min(self.held[c] + len(values), args.bank)


@torch.no_grad()
def partition(logits, rep, label, label_u, entropy, gamma, bank):
    """Anchor mask [B·h·w, C]; pushes the step's negatives."""
    size = logits.shape[2:]
    p = logits.softmax(1)
    order = p.argsort(stable=True, dim=1, descending=True)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(CLASSES).view(1, -1, 1, 1).expand_as(order))
    classes = torch.arange(CLASSES).view(1, -1, 1, 1)
    y, y_u, h_u = (nearest(t, size)[:, None] for t in (label, label_u, entropy))
    n = len(y)
    confident = p > args.delta_p
    anchors = torch.cat([(y == classes), (y_u == classes) & (h_u < gamma)]) & confident
    unlike = (y != classes) & (y != IGNORE) & (rank[:n] < LOW_RANK)
    unreliable = (h_u > gamma) & (y_u != IGNORE) & (rank[n:] >= LOW_RANK) & (rank[n:] < HIGH_RANK)
    negatives = rows(torch.cat([unlike, unreliable]))
    features = rows(rep)
    for c in range(CLASSES):
        bank.push(c, features[negatives[:, c].nonzero()[-args.bank :, 0]])
    return rows(anchors)


@torch.no_grad()
def contrast(rep, anchors, bank):
    """Loss and its gradient to `rep`, by hand: autograd would keep a copy of every drawn negative,
    and cosine_similarity would write three more."""
    features = rows(rep)
    counts = anchors.sum(0)
    prototypes = F.normalize((anchors.float().T @ features) / counts.clamp(min=1)[:, None], dim=1)
    valid = [c for c in range(CLASSES) if counts[c] > 0 and bank.held[c] > 0]
    loss, pixels, gradients = 0.0, [], []
    for c in valid:
        candidates = anchors[:, c].nonzero()[:, 0]
        pixels.append(candidates[torch.randint(len(candidates), (ANCHORS,))])
        z = features[pixels[-1]]
        norm = z.norm(dim=1, keepdim=True).clamp(min=1e-8)
        unit = z / norm
        drawn = torch.randint(bank.held[c], (ANCHORS * NEGATIVES,))
        inv_norm = bank.inv_norm[c][drawn].view(ANCHORS, NEGATIVES)
        negatives = bank.rows[c].index_select(0, drawn).view(ANCHORS, NEGATIVES, REP)
        unlike = torch.bmm(negatives, unit[:, :, None])[:, :, 0] * inv_norm
        similarity = torch.cat([(unit @ prototypes[c])[:, None], unlike], 1) / TEMPERATURE
        log_p = similarity.log_softmax(1)
        loss -= log_p[:, 0].mean().item() / len(valid)
        d = log_p.exp() / (TEMPERATURE * ANCHORS * len(valid))
        d[:, 0] -= 1 / (TEMPERATURE * ANCHORS * len(valid))
        d_unit = torch.bmm((d[:, 1:] * inv_norm)[:, None], negatives)[:, 0] + d[:, :1] * prototypes[c]
        gradients.append((d_unit - (d_unit * unit).sum(1, keepdim=True) * unit) / norm)
    gradient = torch.zeros_like(features)
    if valid:
        gradient.index_add_(0, torch.cat(pixels), torch.cat(gradients), alpha=CONTRAST_WEIGHT)
    b, d, h, w = rep.shape
    return loss, gradient.view(b, h, w, d).permute(0, 3, 1, 2)


class Trainer:
    def __init__(self):
        self.student = Network(CLASSES).to(memory_format=layout).train()
        self.teacher = Network(CLASSES).to(memory_format=layout).eval().requires_grad_(False)
        self.teacher.load_state_dict(self.student.state_dict())
        encoder = self.student.encoder_parameters()
        ids = {id(p) for p in encoder}
        heads = [p for p in self.student.parameters() if id(p) not in ids]
        groups = [{"params": encoder}, {"params": heads, "lr": HEAD_LR_MULT * LR}]
        self.sgd = torch.optim.SGD(groups, lr=LR, momentum=MOMENTUM, weight_decay=DECAY, fused=True)
        self.bank = Bank()
        self.labeled, self.unlabeled = dataset(args.batch), dataset(args.batch)
        self.done = 0

    @torch.no_grad()
    def targets(self):
        """Both teacher passes: images, labels, kept pseudo-labels, anchor mask."""
        x_l, label = weak_batch(*self.labeled)
        x_u, _ = weak_batch(*self.unlabeled)
        size = x_u.shape[2:]
        pseudo = resize(self.teacher(x_u, rep=False)[0], size).argmax(1)
        x_u, pseudo = cutmix(x_u, pseudo)
        x = torch.cat([x_l, x_u])
        logits, rep = self.teacher(x)
        p = resize(logits[args.batch :], size).softmax(1)
        entropy = torch.special.entr(p).sum(1)
        gamma = torch.quantile(entropy[pseudo != IGNORE], PERCENT / 100)
        anchors = partition(logits, rep, label, pseudo, entropy, gamma, self.bank)
        kept = pseudo.masked_fill(entropy >= gamma, IGNORE)
        return x, label, kept, anchors

    def step(self):
        x, label, kept, anchors = self.targets()
        logits, rep = self.student(x)
        full = resize(logits, x.shape[2:])
        weight = kept.numel() / (kept != IGNORE).sum().clamp(min=1)
        loss = F.cross_entropy(full[: args.batch], label, ignore_index=IGNORE)
        loss = loss + weight * F.cross_entropy(full[args.batch :], kept, ignore_index=IGNORE)
        term, gradient = contrast(rep, anchors, self.bank)
        torch.autograd.backward([loss, rep], [None, gradient])
        self.sgd.step()
        self.sgd.zero_grad(set_to_none=True)
        self.average()
        return loss.item() + CONTRAST_WEIGHT * term

    @torch.no_grad()
    def average(self):
        self.done += 1
        weight = 1 - min(1 - 1 / self.done, EMA)
        for part in ("parameters", "buffers"):
            old, new = ([t for t in getattr(net, part)() if t.is_floating_point()] for net in (self.teacher, self.student))
            torch._foreach_lerp_(old, new, weight)


protocol.serve(Trainer().step, base_mib, args.steps)
