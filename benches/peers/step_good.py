"""The U2PL step as an engineer who knows PyTorch would write it.

Channels-last, autocast, torch.compile on request, losses vectorised over classes, the bank on the
device, a contrast gradient by hand, fused SGD, foreach EMA. The host waits for the device three
times a step, where a number of pixels decides a shape.
"""

import torch
import torch.nn.functional as F

import common
import settings as s
from batches import IGNORE, Weak, cutmix, dataset, nearest, rows
from network import Network, resize


class Bank:
    """A ring of negatives per class: rows [C, Q, D] and what `push` needs to go on."""

    def __init__(self, classes, size, device, width=s.REP):
        self.size = size
        self.rows = torch.zeros(classes * size, width, device=device)
        self.inv_norm = torch.zeros(classes * size, device=device)
        self.next = torch.zeros(classes, dtype=torch.long, device=device)
        self.held = torch.zeros(classes, dtype=torch.long, device=device)

    def push(self, features, members):
        """Appends the features [P, D] of each class's pixels, `members` [P, C], in order."""
        count = members.sum(0)
        order = members.cumsum(0) - 1
        newest = members & (order >= count - self.size)
        pixel, c = newest.nonzero(as_tuple=True)
        slot = c * self.size + (self.next[c] + order[pixel, c]) % self.size
        values = features.index_select(0, pixel)
        self.rows.index_copy_(0, slot, values)
        self.inv_norm.index_copy_(0, slot, 1 / values.norm(dim=1).clamp(min=1e-8))
        self.next = (self.next + count) % self.size
        self.held = (self.held + count).clamp(max=self.size)


def uncertainty(logits, size):
    """Entropy [B, H, W] and argmax at full resolution."""
    p = resize(logits.float(), size).softmax(1)
    return torch.special.entr(p).sum(1), p.argmax(1)


def cross_entropies(logits, label, kept):
    """Both halves' losses; the second weighted by all over kept pixels."""
    full = resize(logits.float(), label.shape[1:])
    n = len(label)
    weight = kept.numel() / (kept != IGNORE).sum().clamp(min=1)
    supervised = F.cross_entropy(full[:n], label, ignore_index=IGNORE)
    return supervised + weight * F.cross_entropy(full[n:], kept, ignore_index=IGNORE)


def masks(logits, label, label_u, entropy, gamma, delta_p, low_rank=s.LOW_RANK, high_rank=s.HIGH_RANK):
    """Anchors and negatives, each [B·h·w, C]."""
    size, classes = logits.shape[2:], logits.shape[1]
    p = logits.float().softmax(1)
    # Low ranks are a top-k, and so are the last ones: no sort.
    likely = torch.zeros_like(p, dtype=torch.bool).scatter_(1, p.topk(min(low_rank, classes), 1).indices, True)
    last = p.topk(max(classes - high_rank, 0), 1, largest=False).indices
    unlikely = torch.zeros_like(likely).scatter_(1, last, True)
    c = torch.arange(classes, device=p.device).view(1, -1, 1, 1)
    y, y_u, h_u = (nearest(t, size)[:, None] for t in (label, label_u, entropy))
    n = len(y)
    anchors = torch.cat([y == c, (y_u == c) & (h_u < gamma)]) & (p > delta_p)
    other = (y != c) & (y != IGNORE) & likely[:n]
    unreliable = (h_u > gamma) & (y_u != IGNORE) & ~likely[n:] & ~unlikely[n:]
    return rows(anchors), rows(torch.cat([other, unreliable]))


def similarities(z, prototypes, negatives, inv_norm, temperature=s.TEMPERATURE):
    """log softmax [c, M, 1 + N] of the cosine similarities of anchors z [c, M, D] to their
    prototypes [c, D] and drawn negatives [c, M, N, D]."""
    unit = z / z.norm(dim=2, keepdim=True).clamp(min=1e-8)
    unlike = (negatives @ unit[..., None])[..., 0] * inv_norm
    like = unit @ prototypes[..., None]
    return (torch.cat([like, unlike], 2) / temperature).log_softmax(2)


def anchor_gradient(log_p, z, prototypes, negatives, inv_norm, share, temperature=s.TEMPERATURE):
    """Gradient of −share · Σ log_p[..., 0] to the anchors, by hand: autograd would keep a copy of
    every drawn negative, and cosine_similarity would write three more."""
    norm = z.norm(dim=2, keepdim=True).clamp(min=1e-8)
    unit = z / norm
    d = log_p.exp() * (share / temperature)
    d_like = d[..., :1] - share / temperature
    d_unit = ((d[..., 1:] * inv_norm)[:, :, None] @ negatives)[:, :, 0] + d_like * prototypes[:, None]
    return (d_unit - (d_unit * unit).sum(2, keepdim=True) * unit) / norm


class Draw:
    """Anchors and negatives of the classes c, drawn with replacement."""

    def __init__(self, features, anchors, counts, bank, c, each=s.ANCHORS, against=s.NEGATIVES):
        # The k-th anchor of a class is where its running count reaches k.
        running = anchors.T[c].cumsum(1, dtype=torch.int32)
        count, held = counts[c, None].to(torch.int32), bank.held[c, None]
        k = (torch.rand(len(c), each, device=c.device) * count).to(torch.int32) + 1
        self.pixel = torch.searchsorted(running, torch.minimum(k, count)).view(-1)
        slot = (torch.rand(len(c), each * against, device=c.device) * held).long()
        self.slot = (c[:, None] * bank.size + torch.minimum(slot, held - 1)).view(-1)
        self.bank, self.features = bank, features
        self.shape = (len(c), each, against)

    def gather(self):
        """z [c, M, D], negatives [c, M, N, D] and their inverse norms [c, M, N]."""
        z = self.features.index_select(0, self.pixel).view(*self.shape[:2], -1)
        negatives = self.bank.rows.index_select(0, self.slot).view(*self.shape, -1)
        return z, negatives, self.bank.inv_norm.index_select(0, self.slot).view(self.shape)


def prototype(features, anchors, counts):
    """Mean representation of each class's anchors [C, D]."""
    return (anchors.float().T @ features) / counts.clamp(min=1)[:, None]


class GoodStep:
    def __init__(self, args):
        self.args, device = args, args.device
        self.student = Network(args.classes, args.encoder).to(device, memory_format=args.layout).train()
        self.teacher = Network(args.classes, args.encoder).to(device, memory_format=args.layout).eval()
        self.teacher.requires_grad_(False).load_state_dict(self.student.state_dict())
        self.sgd = torch.optim.SGD(
            s.groups(self.student), lr=s.LR, momentum=s.MOMENTUM, weight_decay=s.DECAY, fused=True
        )
        self.bank = Bank(args.classes, args.bank, device)
        self.labeled, self.unlabeled = (dataset(args.batch, args.crop, args.classes, device) for _ in range(2))
        self.weak = Weak((args.crop, args.crop), device)
        self.run_student, self.run_teacher = (common.compiled(net, args) for net in (self.student, self.teacher))
        self.uncertainty, self.cross_entropies, self.masks, self.similarities, self.anchor_gradient = (
            common.compiled(f, args) for f in (uncertainty, cross_entropies, masks, similarities, anchor_gradient)
        )
        # On a GPU all classes at once; on a CPU one at a time stays in the cache.
        self.chunk = args.classes if device == "cuda" else 1
        self.done = 0

    @torch.no_grad()
    def targets(self):
        """Both teacher passes: images, labels, kept pseudo-labels, anchors [B·h·w, C]."""
        args = self.args
        x_l, label = self.weak.batch(*self.labeled, args.layout)
        x_u, _ = self.weak.batch(*self.unlabeled, args.layout)
        size = x_u.shape[2:]
        with common.autocast(args):
            clean, _ = self.run_teacher(x_u, rep=False)
        _, pseudo = self.uncertainty(clean, size)
        x_u, pseudo = cutmix(x_u, pseudo)
        x = torch.cat([x_l, x_u])
        with common.autocast(args):
            logits, rep = self.run_teacher(x)
        entropy, _ = self.uncertainty(logits[args.batch :], size)
        gamma = torch.quantile(entropy[pseudo != IGNORE], s.PERCENT / 100)
        anchors, negatives = self.masks(logits, label, pseudo, entropy, gamma, args.delta_p)
        self.bank.push(rows(rep.float()), negatives)
        return x, label, pseudo.masked_fill(entropy >= gamma, IGNORE), anchors

    @torch.no_grad()
    def contrast(self, rep, anchors):
        """The contrastive loss and its gradient to `rep`."""
        bank, features = self.bank, rows(rep.float())
        counts = anchors.sum(0)
        prototypes = F.normalize(prototype(features, anchors, counts), dim=1)
        valid = ((counts > 0) & (bank.held > 0)).nonzero()[:, 0]
        loss, gradient = features.new_zeros(()), torch.zeros_like(features)
        share = 1 / (s.ANCHORS * max(len(valid), 1))
        for c in valid.split(self.chunk):
            draw = Draw(features, anchors, counts, bank, c)
            z, negatives, inv_norm = draw.gather()
            log_p = self.similarities(z, prototypes[c], negatives, inv_norm)
            loss -= log_p[..., 0].sum() * share
            d = self.anchor_gradient(log_p, z, prototypes[c], negatives, inv_norm, share)
            gradient.index_add_(0, draw.pixel, d.view(-1, s.REP), alpha=s.CONTRAST_WEIGHT)
        b, d, h, w = rep.shape
        return loss, gradient.view(b, h, w, d).permute(0, 3, 1, 2).to(rep.dtype)

    def step(self):
        """One step; the loss, still on the device."""
        x, label, kept, anchors = self.targets()
        with common.autocast(self.args):
            logits, rep = self.run_student(x)
        loss = self.cross_entropies(logits, label, kept)
        term, gradient = self.contrast(rep, anchors)
        torch.autograd.backward([loss, rep], [None, gradient])
        self.sgd.step()
        self.sgd.zero_grad(set_to_none=True)
        self.average()
        return loss.detach() + s.CONTRAST_WEIGHT * term

    @torch.no_grad()
    def average(self):
        self.done += 1
        weight = 1 - min(1 - 1 / self.done, s.EMA)
        for part in ("parameters", "buffers"):
            old, new = (
                [t for t in getattr(net, part)() if t.is_floating_point()] for net in (self.teacher, self.student)
            )
            torch._foreach_lerp_(old, new, weight)
