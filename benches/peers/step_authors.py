"""The U2PL step with the habits of the released code; written from the paper's equations.

Default memory format, full-resolution probabilities and one-hots, percentiles by numpy on the
host, a sort over classes, Python loops over classes and parameters, the bank as tensors on the
host that go to the device whole for each draw, autograd through the cosine similarities. As its
data loader would, the host prepares the crops: they are made once, outside the step.
"""

import numpy as np
import torch
import torch.nn.functional as F

import common
import settings as s
from batches import IGNORE, Weak, cutmix, dataset, nearest
from network import Network, resize


class AuthorsStep:
    def __init__(self, args):
        self.args = args
        self.student = Network(args.classes, args.encoder).to(args.device).train()
        self.teacher = Network(args.classes, args.encoder).to(args.device).eval()
        self.teacher.load_state_dict(self.student.state_dict())
        for p in self.teacher.parameters():
            p.requires_grad = False
        self.sgd = torch.optim.SGD(s.groups(self.student), lr=s.LR, momentum=s.MOMENTUM, weight_decay=s.DECAY)
        self.bank = [torch.zeros(0, s.REP) for _ in range(args.classes)]
        weak = Weak((args.crop, args.crop), "cpu")
        halves = [dataset(args.batch, args.crop, args.classes, "cpu") for _ in range(2)]
        (self.x_l, self.label), (self.x_u, _) = (weak.batch(*half, torch.contiguous_format) for half in halves)
        self.done = 0

    def one_hot(self, label, size):
        """[B, H, W] to a mask [B, C, h, w]; ignored pixels are of no class."""
        classes = self.args.classes
        hot = F.one_hot(label.clamp(max=classes), classes + 1)[..., :classes].permute(0, 3, 1, 2)
        return F.interpolate(hot.float(), size, mode="nearest").bool()

    def threshold(self, entropy, pseudo, percent):
        values = entropy[pseudo != IGNORE].detach().cpu().numpy().flatten()
        return float(np.percentile(values, percent))

    def enqueue(self, c, keys):
        self.bank[c] = torch.cat([self.bank[c], keys.cpu()])[-self.args.bank :]

    def contrast(self, rep, rep_teacher, logits, label, pseudo, entropy):
        """The contrastive loss, with a graph to `rep`."""
        args, size = self.args, rep.shape[2:]
        n = args.batch
        low = nearest(entropy, size) < self.threshold(entropy, pseudo, s.PERCENT)
        high = nearest(entropy, size) > self.threshold(entropy, pseudo, s.PERCENT)
        hot, hot_u = self.one_hot(label, size), self.one_hot(pseudo, size)
        known, known_u = nearest(label, size) != IGNORE, nearest(pseudo, size) != IGNORE
        p = logits.softmax(1)
        _, order = torch.sort(p, 1, descending=True)
        rep, rep_teacher = rep.permute(0, 2, 3, 1), rep_teacher.permute(0, 2, 3, 1)
        anchors, classes = {}, []
        for c in range(args.classes):
            reliable = torch.cat([hot[:, c], hot_u[:, c] & low])
            anchor = reliable & (p[:, c] > args.delta_p)
            likely = (order[:n, : s.LOW_RANK] == c).any(1)
            unlikely = (order[n:, s.LOW_RANK : s.HIGH_RANK] == c).any(1)
            negative = torch.cat([likely & ~hot[:, c] & known, unlikely & high & known_u])
            self.enqueue(c, rep_teacher[negative].detach())
            if anchor.sum() > 0 and len(self.bank[c]) > 0:
                classes.append(c)
                anchors[c] = rep[anchor]
        loss = rep.sum() * 0.0
        for c in classes:
            z = anchors[c][torch.randint(len(anchors[c]), (s.ANCHORS,), device=rep.device)]
            with torch.no_grad():
                positive = anchors[c].mean(0, keepdim=True)
                bank = self.bank[c].to(rep.device)
                drawn = torch.randint(len(bank), (s.ANCHORS * s.NEGATIVES,), device=rep.device)
                negatives = bank[drawn].reshape(s.ANCHORS, s.NEGATIVES, s.REP)
                keys = torch.cat([positive[None].repeat(s.ANCHORS, 1, 1), negatives], 1)
            similarity = torch.cosine_similarity(z[:, None], keys, dim=2)
            target = torch.zeros(s.ANCHORS, dtype=torch.long, device=rep.device)
            loss = loss + F.cross_entropy(similarity / s.TEMPERATURE, target)
        return loss / max(len(classes), 1)

    @torch.no_grad()
    def pseudo_labels(self, x_u):
        with common.autocast(self.args):
            logits, _ = self.teacher(x_u, rep=False)
        return resize(logits.float(), x_u.shape[2:]).softmax(1).max(1)[1]

    def step(self):
        """One step; the loss, still on the device."""
        args = self.args
        x_l, label, x_u = (t.to(args.device) for t in (self.x_l, self.label, self.x_u))
        x_u, pseudo = cutmix(x_u, self.pseudo_labels(x_u))
        x, size = torch.cat([x_l, x_u]), x_l.shape[2:]
        with torch.no_grad():
            with common.autocast(args):
                logits_t, rep_t = self.teacher(x)
            logits_t, rep_t = logits_t.float(), rep_t.float()
            p = resize(logits_t[args.batch :], size).softmax(1)
            entropy = -torch.sum(p * torch.log(p + 1e-10), dim=1)
            kept = pseudo.clone()
            kept[entropy >= self.threshold(entropy, pseudo, s.PERCENT)] = IGNORE
            weight = kept.numel() / max(int((kept != IGNORE).sum()), 1)
        with common.autocast(args):
            logits, rep = self.student(x)
        full = resize(logits.float(), size)
        loss = F.cross_entropy(full[: args.batch], label, ignore_index=IGNORE)
        loss = loss + weight * F.cross_entropy(full[args.batch :], kept, ignore_index=IGNORE)
        contrast = self.contrast(rep.float(), rep_t, logits_t, label, pseudo, entropy)
        loss = loss + s.CONTRAST_WEIGHT * contrast
        self.sgd.zero_grad()
        loss.backward()
        self.sgd.step()
        self.average()
        return loss.detach()

    @torch.no_grad()
    def average(self):
        self.done += 1
        m = min(1 - 1 / self.done, s.EMA)
        for old, new in zip(self.teacher.parameters(), self.student.parameters()):
            old.data = m * old.data + (1 - m) * new.data
        for old, new in zip(self.teacher.buffers(), self.student.buffers()):
            old.data = m * old.data + (1 - m) * new.data if old.is_floating_point() else new.data.clone()
