"""How PyTorch does each operation of the engine.

A builder takes a case and returns a call without arguments. Operands are dense and random: the
engine's slices of wider maps (concat without a copy) are maps of their own here.
"""

import torch
import torch.nn.functional as F

import common
from batches import Weak, cutmix
from network import resize
from step_good import Bank, Draw, anchor_gradient, masks, prototype, similarities

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16}
BUILDERS = {}


class NoPeer(Exception):
    """PyTorch has nothing to set against a case; why."""


def operation(*kinds):
    def register(builder):
        for kind in kinds:
            BUILDERS[kind] = builder
        return builder

    return register


class Case:
    """A case of the engine's table with random operands."""

    def __init__(self, case, args):
        self.kind, self.ins, self.outs = case["kind"], case["ins"], case["outs"]
        self.adds = case["accumulate"] & 1
        op = case["op"]
        self.attributes = next(iter(op.values())) if isinstance(op, dict) else {}
        self.args, self.device = args, args.device

    def __getitem__(self, attribute):
        return self.attributes[attribute]

    def get(self, attribute):
        return self.attributes.get(attribute) if isinstance(self.attributes, dict) else None

    def random(self, operand, low=-1.0, high=1.0):
        """In PyTorch's order of dimensions and the engine's order in memory (channels last)."""
        dtype = DTYPES[operand["dtype"]]
        t = torch.empty(operand["shape"], device=self.device).uniform_(low, high).to(dtype)
        return t.permute(0, 3, 1, 2)

    def map(self, i, low=-1.0, high=1.0):
        return self.random(self.ins[i], low, high)

    def vector(self, i, low=0.5, high=1.5):
        return torch.empty(self.ins[i]["shape"][3], device=self.device).uniform_(low, high)

    def labels(self, i, classes=21):
        """[B, H, W] in patches, a twentieth of the pixels ignored."""
        n, h, w, _ = self.ins[i]["shape"]
        patches = torch.randint(classes, (n, 1, h // 32 + 1, w // 32 + 1), device=self.device)
        label = F.interpolate(patches.float(), scale_factor=32.0, mode="nearest")[:, 0, :h, :w].long()
        return label.masked_fill(torch.rand(label.shape, device=self.device) < 0.05, 255)

    def out_map(self, i=0):
        return self.random(self.outs[i])

    def out_size(self, i=0):
        return tuple(self.outs[i]["shape"][1:3])

    def compiled(self, function):
        return common.compiled(function, self.args)

    def finish(self, function):
        """`function` with what the engine does to its first output in the same call: the type
        that it is wanted in, and adding to what is there."""
        dtype = DTYPES.get(self.outs[0]["dtype"])
        total = self.out_map() if self.adds else None

        def call():
            result = function()
            first = result[0] if isinstance(result, (tuple, list)) else result
            if total is not None:
                return total.add_(first.reshape(total.shape))
            return first.to(dtype) if first.dtype != dtype else result

        return call


def build(case, args):
    """The call for one case."""
    case = Case(case, args)
    if case.kind not in BUILDERS:
        raise NoPeer(f"no peer for {case.kind}")
    with torch.no_grad():
        return BUILDERS[case.kind](case)


def backward(case, forward, inputs):
    """Autograd's backward of `forward`, run again and again on one kept graph."""
    with torch.enable_grad():
        inputs = [t.detach().requires_grad_() for t in inputs]
        y = case.compiled(forward)(*inputs)
    dy = torch.rand_like(y) - 0.5

    return case.finish(lambda: torch.autograd.grad(y, inputs, dy, retain_graph=True))


# --- Convolution -----------------------------------------------------------------------------


def window(case):
    """Stride, padding and dilation; refuses what else a convolution may have been fused with."""
    known = {"stride", "padding", "dilation"}
    extra = [k for k, v in case.attributes.items() if k not in known and v not in (None, False)]
    if extra:
        raise NoPeer(f"no peer for a convolution fused with {', '.join(extra)}")
    return [case["stride"]] * 2, [case["padding"]] * 2, [case["dilation"]] * 2


@operation("conv")
def conv(case):
    stride, padding, dilation = window(case)
    x, w = case.map(0), case.map(1)
    bias = case.vector(2).to(x.dtype) if len(case.ins) > 2 else None
    return case.finish(lambda: F.conv2d(x, w, bias, stride, padding, dilation))


def convolution_backward(case, dy, x, w, bias, wanted):
    stride, padding, dilation = window(case)
    sizes = [w.shape[0]] if bias else None

    def call():
        grads = torch.ops.aten.convolution_backward(
            dy, x, w, sizes, stride, padding, dilation, False, [0, 0], 1, wanted
        )
        return [g for g, asked in zip(grads, wanted) if asked]

    return case.finish(call)


@operation("conv_dgrad")
def conv_dgrad(case):
    dy, w = case.map(0), case.map(1)
    x = case.out_map().to(dy.dtype)  # its shape decides, not its values
    return convolution_backward(case, dy, x, w, False, [True, False, False])


@operation("conv_wgrad")
def conv_wgrad(case):
    x, dy = case.map(0), case.map(1)
    w = case.out_map().to(x.dtype)
    bias = len(case.outs) > 1
    return convolution_backward(case, dy, x, w, bias, [False, True, bias])


# --- Batch norm, pools, resize and the like --------------------------------------------------


def after_norm(y, residual, relu):
    if residual is not None:
        y = y + residual
    return F.relu(y, inplace=True) if relu else y


@operation("batch_norm")
def batch_norm(case):
    x, gamma, beta = case.map(0), case.vector(1), case.vector(2)
    residual = case.map(3) if len(case.ins) > 3 else None
    mean, var = torch.zeros_like(beta), torch.ones_like(beta)

    def forward():
        y = F.batch_norm(x, mean, var, gamma, beta, True, case["momentum"], case["eps"])
        return after_norm(y, residual, case["relu"])

    return case.compiled(forward)


@operation("batch_norm_eval")
def batch_norm_eval(case):
    x, gamma, beta, mean, var = case.map(0), *(case.vector(i) for i in range(1, 5))
    residual = case.map(5) if len(case.ins) > 5 else None

    def forward():
        y = F.batch_norm(x, mean, var, gamma, beta, False, 0.0, case["eps"])
        return after_norm(y, residual, case["relu"])

    return case.compiled(forward)


@operation("batch_norm_backward")
def batch_norm_backward(case):
    x, gamma = case.map(1), case.vector(3)
    inputs = [x, gamma, torch.zeros_like(gamma)]
    inputs += [case.map(1)] if len(case.outs) > 3 else []
    mean, var = torch.zeros_like(gamma), torch.ones_like(gamma)

    def forward(x, gamma, beta, residual=None):
        y = F.batch_norm(x, mean, var, gamma, beta, True)
        return after_norm(y, residual, case["relu"])

    return backward(case, forward, inputs)


@operation("relu")
def relu(case):
    x = case.map(0)
    return lambda: F.relu(x)


@operation("relu_backward")
def relu_backward(case):
    dy, y = case.map(0), case.map(1)
    return case.finish(lambda: torch.ops.aten.threshold_backward(dy, y, 0))


def max_pooling(case, from_size, to_size):
    size, w = case["size"], case["window"]
    # Whether the last window may hang over the edge shows in the output's size.
    floor = (from_size[0] + 2 * w["padding"] - size) // w["stride"] + 1
    ceil = floor < to_size[0]
    return lambda x: F.max_pool2d(x, size, w["stride"], w["padding"], ceil_mode=ceil)


@operation("max_pool")
def max_pool(case):
    pool, x = max_pooling(case, case.ins[0]["shape"][1:3], case.out_size()), case.map(0)
    return lambda: pool(x)


@operation("max_pool_backward")
def max_pool_backward(case):
    pool = max_pooling(case, case.out_size(), case.ins[0]["shape"][1:3])
    return backward(case, pool, [case.out_map()])


@operation("global_avg_pool")
def global_avg_pool(case):
    x = case.map(0)
    return lambda: x.mean((2, 3), keepdim=True)


@operation("global_avg_pool_backward")
def global_avg_pool_backward(case):
    return backward(case, lambda x: x.mean((2, 3), keepdim=True), [case.out_map()])


@operation("resize")
def resize_(case):
    x, size = case.map(0), case.out_size()
    return case.finish(lambda: resize(x, size))


@operation("resize_backward")
def resize_backward(case):
    size = case.ins[0]["shape"][1:3]
    return backward(case, lambda x: resize(x, size), [case.out_map()])


@operation("dropout2d")
def dropout2d(case):
    x = case.map(0)
    return case.finish(lambda: F.dropout2d(x, case["p"]))


@operation("fill")
def fill(case):
    y = case.out_map()
    return lambda: y.fill_(case["value"])


@operation("copy")
def copy(case):
    x, y = case.map(0), case.out_map()
    return lambda: y.add_(x) if case.adds else y.copy_(x)


@operation("lerp")
def lerp(case):
    src, dst = case.map(0), case.out_map()
    return lambda: dst.lerp_(src, 0.01)


# --- Losses and what chooses pixels ----------------------------------------------------------


@operation("softmax_entropy")
def softmax_entropy(case):
    logits, size = case.map(0, -4, 4), case.out_size()

    def forward():
        p = resize(logits.float(), size).softmax(1)
        confidence, argmax = p.max(1)
        return torch.special.entr(p).sum(1), argmax.byte(), confidence

    return case.compiled(forward)


@operation("percentile")
def percentile(case):
    values, label = case.map(0, 0, 3)[:, 0], case.labels(1)
    q = torch.linspace(0.2, 0.8, case.ins[2]["shape"][3], device=case.device)
    if values.numel() > 2**24:
        raise NoPeer("torch.quantile takes at most 2^24 values")
    return lambda: torch.quantile(values[label != case["ignore"]], q)


@operation("keep_reliable")
def keep_reliable(case):
    label, entropy = case.labels(0), case.map(1, 0, 3)[:, 0]
    threshold = torch.tensor(2.4, device=case.device)
    return lambda: label.masked_fill(entropy >= threshold, case["ignore"])


def cross_entropy_of(case, classes, label):
    if len(case.ins) > (2 if case.kind == "cross_entropy" else 3):
        raise NoPeer("no peer for a cross-entropy over hard pixels alone")

    def loss(logits):
        full = resize(logits.float(), label.shape[1:])
        return F.cross_entropy(full, label, ignore_index=case["ignore"])

    return loss


@operation("cross_entropy")
def cross_entropy(case):
    logits = case.map(0, -4, 4)
    loss = case.compiled(cross_entropy_of(case, logits.shape[1], case.labels(1, logits.shape[1])))
    return lambda: loss(logits)


@operation("cross_entropy_backward")
def cross_entropy_backward(case):
    logits = case.map(0, -4, 4)
    loss = cross_entropy_of(case, logits.shape[1], case.labels(1, logits.shape[1]))
    return backward(case, loss, [logits])


@operation("target_probability")
def target_probability(case):
    logits = case.map(0, -4, 4)
    label = case.labels(1, logits.shape[1])

    def forward():
        p = resize(logits.float(), label.shape[1:]).softmax(1)
        ignored = label == case["ignore"]
        return p.gather(1, label.masked_fill(ignored, 0)[:, None])[:, 0].masked_fill(ignored, 1.0)

    return case.compiled(forward)


@operation("ohem_threshold")
def ohem_threshold(case):
    p = case.map(0, 0, 1).reshape(-1)
    count = min(max(case["min_kept"], 1), p.numel())
    return lambda: p.kthvalue(count).values.clamp(min=case["thresh"])


@operation("partition")
def partition(case):
    logits, label, label_u = case.map(0, -4, 4), case.labels(1), case.labels(2)
    entropy = case.map(3, 0, 3)[:, 0]
    if case["variant"] != "Paper":
        raise NoPeer("no peer for the released code's partition")
    gamma = torch.tensor(2.4, device=case.device)
    forward = case.compiled(masks)
    ranks = case["low_rank"], case["high_rank"]
    return lambda: forward(logits, label, label_u, entropy, gamma, case["delta_p"], *ranks)


@operation("compact")
def compact(case):
    raise NoPeer("PyTorch indexes by mask: within the peers of memory_bank and info_nce")


def members(case, list_operand):
    """A mask [P, C] in which each pixel is of one class."""
    _, _, classes, pixels = list_operand["shape"]
    return F.one_hot(torch.randint(classes, (pixels,), device=case.device), classes).bool()


def features(case):
    """Representations [P, D] in f32."""
    return case.map(0).permute(0, 2, 3, 1).reshape(-1, case.ins[0]["shape"][3]).float()


def full_bank(case, capacities):
    """Rings of the mean capacity, all full."""
    width = case.ins[0]["shape"][3]
    bank = Bank(len(capacities), sum(capacities) // len(capacities), case.device, width)
    bank.rows.uniform_(-1, 1)
    bank.inv_norm = 1 / bank.rows.norm(dim=1)
    bank.held.fill_(bank.size)
    return bank


@operation("memory_bank")
def memory_bank(case):
    rep, mask, bank = features(case), members(case, case.ins[1]), full_bank(case, case["capacities"])
    return lambda: bank.push(rep, mask)


@operation("prototype")
def prototypes(case):
    rep, mask = features(case), members(case, case.ins[1])
    return lambda: prototype(rep, mask, mask.sum(0))


def drawn(case, attributes):
    """What both directions of the contrastive loss begin with."""
    rep, mask = features(case), members(case, case.ins[1])
    bank = full_bank(case, attributes["capacities"])
    counts = mask.sum(0)
    c = (counts > 0).nonzero()[:, 0]
    positive = F.normalize(prototype(rep, mask, counts), dim=1)[c]
    each, against = attributes["anchors"], attributes["negatives"]
    return lambda: Draw(rep, mask, counts, bank, c, each, against), positive, rep


@operation("info_nce")
def info_nce(case):
    draw, positive, _ = drawn(case, case.attributes)
    forward = case.compiled(similarities)

    def call():
        z, negatives, inv_norm = draw().gather()
        return -forward(z, positive, negatives, inv_norm, case["temperature"])[..., 0].mean()

    return call


@operation("info_nce_backward")
def info_nce_backward(case):
    attributes, weight = case.attributes
    draw, positive, rep = drawn(case, attributes)
    draw = draw()
    z, negatives, inv_norm = draw.gather()
    temperature = attributes["temperature"]
    log_p = similarities(z, positive, negatives, inv_norm, temperature)
    share = 1 / log_p[..., 0].numel()
    gradient = case.compiled(anchor_gradient)

    def call():
        z, negatives, inv_norm = draw.gather()
        d = gradient(log_p, z, positive, negatives, inv_norm, share, temperature)
        return torch.zeros_like(rep).index_add_(0, draw.pixel, d.view(-1, rep.shape[1]), alpha=weight)

    return case.finish(call)


# --- Optimiser, augmentation, metrics --------------------------------------------------------


@operation("sgd_ema")
def sgd_ema(case):
    # As many tensors as a ResNet-50 DeepLabv3+ has, of one size.
    count, total = 207, case.outs[0]["shape"][3]

    def tensors():
        return [torch.rand(total // count, device=case.device) for _ in range(count)]

    params, teacher = [p.requires_grad_() for p in tensors()], tensors()
    for p in params:
        p.grad = torch.rand_like(p)
    sgd = torch.optim.SGD(params, lr=1e-4, momentum=case["momentum"], weight_decay=1e-4, fused=True)
    copies = [[t.detach().bfloat16() for t in params] for o in case.outs if o["dtype"] == "BF16"]
    averages = sum(o["dtype"] == "F32" for o in case.outs) > 2

    @torch.no_grad()
    def call():
        sgd.step()
        if averages:
            torch._foreach_lerp_(teacher, params, 0.01)
        for copy, source in zip(copies, (params, teacher)):
            torch._foreach_copy_(copy, source)

    return call


@operation("augment")
def augment(case):
    images, cap = case.ins[1]["shape"][0], case.ins[1]["shape"][3]
    width = max(1, int((cap * 4 / 3) ** 0.5))
    shape = (images, 3, max(1, cap // width), width)
    x = torch.randint(0, 256, shape, dtype=torch.uint8, device=case.device)
    y = torch.randint(0, 21, (images, 1, *shape[2:]), dtype=torch.uint8, device=case.device)
    weak = Weak(case.out_size(), case.device)
    if not case["random_crop"]:
        return lambda: ((x.float() - weak.mean) / weak.std).contiguous(memory_format=torch.channels_last)
    return lambda: weak.batch(x, y, torch.channels_last)


@operation("mix")
def mix(case):
    if case["kind"] != "CutMix":
        raise NoPeer(f"no peer for {case['kind']}")
    x, label = case.map(0), case.labels(1)

    return lambda: cutmix(x, label, 1.0)


def count_pairs(truth, prediction, classes, ignore):
    valid = (truth != ignore) & (prediction != ignore)
    pairs = truth[valid] * classes + prediction[valid]
    return torch.bincount(pairs, minlength=classes**2).view(classes, classes)


@operation("confusion")
def confusion(case):
    logits = case.map(0, -4, 4)
    classes = logits.shape[1]
    label = case.labels(1, classes)
    return lambda: count_pairs(label, resize(logits, label.shape[1:]).argmax(1), classes, case["ignore"])


@operation("label_confusion")
def label_confusion(case):
    classes = case.outs[0]["shape"][3]
    truth, prediction = case.labels(0, classes), case.labels(1, classes)
    return lambda: count_pairs(truth, prediction, classes, case["ignore"])


@operation("add_scores")
def add_scores(case):
    logits, scores, counts = case.map(0, -4, 4), case.out_map(0), case.out_map(1)
    size = [min(4 * (low - 1) + 1, full) for low, full in zip(logits.shape[2:], scores.shape[2:])]
    top, left = ((full - own) // 2 for full, own in zip(scores.shape[2:], size))
    box = (slice(None), slice(None), slice(top, top + size[0]), slice(left, left + size[1]))

    def call():
        window = resize(logits, size)
        window = window.softmax(1) if case["softmax"] else window
        scores[box] += window.flip(3) if case["flip"] else window
        counts[box] += 1

    return call


@operation("finish_scores")
def finish_scores(case):
    scores, counts = case.map(0, 0.1, 1), case.map(1, 1, 2)

    def forward():
        p = scores / counts.clamp(min=1)
        p = p if case["softmax"] else p.softmax(1)
        confidence, argmax = p.max(1)
        return torch.special.entr(p).sum(1), argmax.byte(), confidence

    return case.compiled(forward)
