"""Reference cases for the operations of the network: convolution to dropout."""

import numpy as np
import torch
import torch.nn.functional as F

import philox
from fixture import SEED, Case, f32, nhwc, save, values


def conv_case(name, n, c, h, w, k, size, stride=1, padding=0, dilation=1, bias=False, accumulate=False):
    case = Case(f"conv/{name}")
    x = values(name + "x", (n, c, h, w)).requires_grad_()
    weight = values(name + "w", (k, c, size, size), (c * size * size) ** -0.5).requires_grad_()
    b = values(name + "b", (k,)).requires_grad_() if bias else None
    y = F.conv2d(x, weight, b, stride, padding, dilation)
    dy = values(name + "dy", tuple(y.shape))
    y.backward(dy)
    attributes = {"stride": stride, "padding": padding, "dilation": dilation}

    ins = [case.put("x", nhwc(x), wide=True), case.put("w", nhwc(weight))]
    if bias:
        ins.append(case.put("b", f32(b)))
    case.call("conv", ins, [case.expect("y", nhwc(y), wide=True)], **attributes)

    case.put("dy", nhwc(dy), wide=True)
    grads = {"dx": nhwc(x.grad), "dw": nhwc(weight.grad)} | ({"db": f32(b.grad)} if bias else {})
    if accumulate:  # start from something and add to it
        for key in grads:
            start = f32(values(name + key, grads[key].shape))
            case.put(key, start, wide=key == "dx")
            grads[key] = f32(grads[key].astype(np.float64) + start)
    for key, grad in grads.items():
        case.expect(key, grad, wide=key == "dx")
    case.call("conv_dgrad", ["dy", "w"], ["dx"], accumulate=int(accumulate), **attributes)
    outs = ["dw", "db"] if bias else ["dw"]
    mask = (1 << len(outs)) - 1 if accumulate else 0
    case.call("conv_wgrad", ["x", "dy"], outs, accumulate=mask, **attributes)
    return case


def conv_cases():
    return [
        conv_case("1x1", 2, 5, 4, 6, 7, 1),
        conv_case("1x1_bias_accumulate", 2, 8, 5, 5, 16, 1, bias=True, accumulate=True),
        conv_case("1x1_stride2", 1, 6, 7, 9, 5, 1, stride=2),
        conv_case("1x1_one_pixel", 3, 20, 1, 1, 9, 1),
        conv_case("3x3_pad", 2, 4, 7, 5, 6, 3, padding=1),
        conv_case("3x3_bias", 1, 16, 8, 8, 16, 3, padding=1, bias=True),
        conv_case("3x3_rgb_stride2", 2, 3, 11, 10, 8, 3, stride=2, padding=1),
        conv_case("3x3_stride2_even", 1, 7, 8, 6, 5, 3, stride=2, padding=1, accumulate=True),
        conv_case("3x3_dilated2", 2, 5, 9, 7, 4, 3, padding=2, dilation=2),
        # Padding wider than the map: most taps lie wholly outside.
        conv_case("3x3_dilated12", 1, 6, 7, 8, 5, 3, padding=12, dilation=12),
        conv_case("3x3_dilated4_ragged", 2, 17, 13, 6, 19, 3, padding=4, dilation=4, bias=True),
        conv_case("3x3_nopad", 1, 3, 6, 5, 4, 3),
        conv_case("7x7_stem", 2, 3, 17, 15, 6, 7, stride=2, padding=3),
        conv_case("3x3_wide", 1, 33, 6, 6, 40, 3, padding=1),
    ]


def bn_case(name, n, c, h, w, relu, residual, accumulate=False, momentum=0.1, offset=0.0):
    # A mean of 200 in f32 is itself off by up to 1e-5 deviations.
    case = Case(f"batch_norm/{name}", rtol=5e-5 if offset else 1e-5)
    x = (values(name + "x", (n, c, h, w)) + offset).float().double().requires_grad_()
    gamma = (values(name + "g", (c,), 0.3) + 1).float().double().requires_grad_()
    beta = values(name + "b", (c,), 0.3).requires_grad_()
    res = values(name + "r", (n, c, h, w)).requires_grad_() if residual else None
    mean0, var0 = values(name + "m", (c,)), values(name + "v", (c,)).abs() + 0.5
    var0 = var0.float().double()
    run_mean, run_var = mean0.clone(), var0.clone()

    def tail(y):
        y = y + res if residual else y
        return y.relu() if relu else y

    y = tail(F.batch_norm(x, run_mean, run_var, gamma, beta, True, momentum, 1e-5))
    y_eval = tail(F.batch_norm(x, mean0, var0, gamma, beta, False, momentum, 1e-5))
    dy = values(name + "dy", tuple(y.shape))
    y.backward(dy)

    ins = [case.put("x", nhwc(x), wide=True), case.put("gamma", f32(gamma)), case.put("beta", f32(beta))]
    extra = [case.put("residual", nhwc(res), wide=True)] if residual else []
    case.put("running_mean", f32(mean0))
    case.put("running_var", f32(var0))
    # Evaluation first: the training call moves the running buffers.
    case.call("batch_norm_eval", ins + ["running_mean", "running_var"] + extra,
              [case.expect("y_eval", nhwc(y_eval), wide=True)], eps=1e-5, relu=relu)
    axes = (0, 2, 3)
    batch_mean, batch_var = x.mean(axes), x.var(axes, unbiased=False)
    case.expect("running_mean", f32(run_mean))
    case.expect("running_var", f32(run_var))
    case.call("batch_norm", ins + extra, [
        case.expect("y", nhwc(y), wide=True),
        case.expect("mean", f32(batch_mean)),
        case.expect("inv_std", f32((batch_var + 1e-5).rsqrt())),
        "running_mean", "running_var",
    ], eps=1e-5, momentum=momentum, relu=relu)
    case.put("dy", nhwc(dy), wide=True)
    grads = {"dx": nhwc(x.grad), "dgamma": f32(gamma.grad), "dbeta": f32(beta.grad)}
    if residual:
        grads["dresidual"] = nhwc(res.grad)
    for key, grad in grads.items():
        wide = key in ("dx", "dresidual")
        if accumulate:
            start = f32(values(name + key, grad.shape))
            case.put(key, start, wide=wide)
            grad = f32(grad.astype(np.float64) + start)
        case.expect(key, grad, wide=wide, rtol=max(2e-5, case.rtol))
    case.call("batch_norm_backward", ["dy", "x", "y", "gamma", "mean", "inv_std"], list(grads),
              accumulate=(1 << len(grads)) - 1 if accumulate else 0, relu=relu)
    return case


def bn_cases():
    return [
        bn_case("plain", 2, 5, 4, 3, False, False),
        bn_case("relu", 2, 16, 5, 5, True, False),
        bn_case("residual", 1, 7, 6, 5, False, True),
        bn_case("relu_residual", 3, 9, 3, 4, True, True),
        bn_case("relu_residual_accumulate", 2, 8, 4, 4, True, True, accumulate=True),
        bn_case("global_pool", 4, 6, 1, 1, True, False, momentum=0.05),
        # Mean ≫ deviation: E[x²] − E[x]² in f32 would lose every digit.
        bn_case("large_mean", 2, 4, 9, 8, False, False, offset=200.0),
    ]


def pool_case(name, n, c, h, w, size, stride, padding, ceil):
    case = Case(f"max_pool/{name}")
    x = values(name, (n, c, h, w)).requires_grad_()
    y, index = F.max_pool2d(x, size, stride, padding, ceil_mode=ceil, return_indices=True)
    dy = values(name + "dy", tuple(y.shape))
    y.backward(dy)
    # Tap within the window, from the flat index within the image.
    top = torch.arange(y.shape[2]).view(1, 1, -1, 1) * stride - padding
    left = torch.arange(y.shape[3]).view(1, 1, 1, -1) * stride - padding
    tap = (index // w - top) * size + (index % w - left)
    attributes = {"size": size, "stride": stride, "padding": padding}
    case.put("x", nhwc(x), wide=True)
    case.call("max_pool", ["x"], [
        case.expect("y", nhwc(y), wide=True),
        case.expect("tap", tap.permute(0, 2, 3, 1).numpy().astype(np.uint8)),
    ], **attributes)
    case.put("dy", nhwc(dy), wide=True)
    case.call("max_pool_backward", ["dy", "tap"], [case.expect("dx", nhwc(x.grad), wide=True)], **attributes)
    start = nhwc(values(name + "dx", (n, c, h, w)))
    case.put("dx_sum", start)
    case.expect("dx_sum", start + nhwc(x.grad))
    case.call("max_pool_backward", ["dy", "tap"], ["dx_sum"], accumulate=1, **attributes)
    return case


def max_pool_ties():
    """All taps equal: the first in row-major order wins; outside the map none does."""
    case = Case("max_pool/ties")
    x = torch.full((1, 2, 5, 5), -3.0, dtype=torch.float64).requires_grad_()
    y = F.max_pool2d(x, 3, 2, 1, ceil_mode=True)
    case.put("x", nhwc(x))
    tap = np.zeros((1, 3, 3, 2), np.uint8)
    tap[:, 0] += 3  # the window's first row is padding
    tap[:, :, 0] += 1
    case.call("max_pool", ["x"], [case.expect("y", nhwc(y)), case.expect("tap", tap)],
              size=3, stride=2, padding=1)
    return case


def pool_cases():
    cases = [
        pool_case("stem_ceil", 2, 5, 12, 9, 3, 2, 1, True),
        pool_case("stem_floor", 2, 5, 12, 9, 3, 2, 1, False),
        pool_case("odd_ceil", 1, 8, 33, 31, 3, 2, 1, True),
        pool_case("2x2", 1, 3, 7, 6, 2, 2, 0, False),
        max_pool_ties(),
    ]
    for name, shape in {"map": (2, 7, 5, 6), "one": (3, 4, 1, 1)}.items():
        case = Case(f"global_avg_pool/{name}")
        x = values(name, shape).requires_grad_()
        y = x.mean((2, 3), keepdim=True)
        dy = values(name + "dy", tuple(y.shape))
        y.backward(dy)
        case.put("x", nhwc(x), wide=True)
        case.call("global_avg_pool", ["x"], [case.expect("y", nhwc(y), wide=True)])
        case.put("dy", nhwc(dy), wide=True)
        case.call("global_avg_pool_backward", ["dy"], [case.expect("dx", nhwc(x.grad), wide=True)])
        start = nhwc(values(name + "dx", shape))
        case.put("dx_sum", start)
        case.expect("dx_sum", start + nhwc(x.grad))
        case.call("global_avg_pool_backward", ["dy"], ["dx_sum"], accumulate=1)
        cases.append(case)
    return cases


def resize_case(name, shape, size):
    case = Case(f"resize/{name}")
    x = values(name, shape).requires_grad_()
    y = F.interpolate(x, size, mode="bilinear", align_corners=True)
    dy = values(name + "dy", tuple(y.shape))
    y.backward(dy)
    case.put("x", nhwc(x), wide=True)
    case.call("resize", ["x"], [case.expect("y", nhwc(y), wide=True)])
    case.put("dy", nhwc(dy), wide=True)
    case.call("resize_backward", ["dy"], [case.expect("dx", nhwc(x.grad), wide=True)])
    start = nhwc(values(name + "dx", shape))
    case.put("dx_sum", start)
    case.expect("dx_sum", start + nhwc(x.grad))
    case.call("resize_backward", ["dy"], ["dx_sum"], accumulate=1)
    return case


def resize_cases():
    return [
        resize_case("up", (2, 5, 5, 4), (9, 13)),
        resize_case("up_ragged", (1, 3, 7, 6), (16, 11)),
        resize_case("down", (2, 3, 17, 12), (5, 7)),
        resize_case("mixed", (1, 4, 4, 15), (9, 6)),
        resize_case("broadcast", (2, 6, 1, 1), (4, 5)),
        resize_case("to_one", (1, 3, 6, 5), (1, 1)),
        resize_case("same", (1, 3, 4, 5), (4, 5)),
    ]


def elementwise_cases():
    cases = []
    for name, p, stream, step in (("tenth", 0.1, 3, 0), ("half", 0.5, 40, 7), ("zero", 0.0, 1, 2)):
        case = Case(f"dropout2d/{name}")
        n, c = 3, 21
        x = values(name, (n, c, 3, 4))
        draws = philox.Rng(SEED, stream, step).unit(np.arange(n * c)).reshape(n, c)
        keep = torch.from_numpy((draws >= np.float32(p)).astype(np.float64))
        y = x * keep[:, :, None, None] / (1 - p)
        case.put("x", nhwc(x), wide=True)
        case.put("rng", philox.state(SEED, step))
        case.call("dropout2d", ["x", "rng"], [case.expect("y", nhwc(y), wide=True)], p=p, stream=stream)
        start = nhwc(values(name + "sum", (n, c, 3, 4)))
        case.put("sum", start)
        case.expect("sum", start + nhwc(y))
        case.call("dropout2d", ["x", "rng"], ["sum"], accumulate=1, p=p, stream=stream)
        case.put("place", nhwc(x))
        case.expect("place", nhwc(y))
        case.call("dropout2d", ["place", "rng"], ["place"], p=p, stream=stream)
        cases.append(case)

    case = Case("elementwise/relu")
    x = values("relu", (2, 5, 3, 4)).requires_grad_()
    with torch.no_grad():
        x[0, 0, 0, 0] = 0.0
    dy = values("reludy", (2, 5, 3, 4))
    y = x.relu()
    y.backward(dy)
    case.put("x", nhwc(x), wide=True)
    case.call("relu", ["x"], [case.expect("y", nhwc(y), wide=True)])
    case.put("dy", nhwc(dy), wide=True)
    case.call("relu_backward", ["dy", "y"], [case.expect("dx", nhwc(x.grad), wide=True)])
    start = nhwc(values("reludx", (2, 5, 3, 4)))
    case.put("dx_sum", start)
    case.expect("dx_sum", start + nhwc(x.grad))
    case.call("relu_backward", ["dy", "y"], ["dx_sum"], accumulate=1)
    case.call("relu", [case.put("place", nhwc(x))], [case.expect("place", nhwc(y))])
    cases.append(case)

    case = Case("elementwise/copy_fill_lerp")
    x, t = nhwc(values("copy", (2, 5, 3, 4))), nhwc(values("copyt", (2, 5, 3, 4)))
    case.put("x", x, wide=True)
    case.call("copy", ["x"], [case.expect("y", x, wide=True)])
    case.put("sum", t, wide=True)
    case.expect("sum", x + t)
    case.call("copy", ["x"], ["sum"], accumulate=1)
    case.call("fill", [], [case.expect("filled", np.full((2, 3, 4, 5), -1.5, np.float32), wide=True)], value=-1.5)
    case.call("fill", [], [case.expect("bytes", np.full((1, 2, 3, 1), 255, np.uint8))], value=255.0)
    case.call("fill", [], [case.expect("words", np.full((7,), 12, np.uint32))], value=12.0)
    for key, m in (("copied", 0.0), ("kept", 1.0), ("mixed", 0.99)):
        case.put("m_" + key, np.array([m], np.float32))
        case.put(key, t.reshape(-1))
        wanted = np.float64(np.float32(m)) * t + (1 - np.float64(np.float32(m))) * x
        exact = {"rtol": 0.0, "atol": 0.0} if m in (0.0, 1.0) else {}
        case.expect(key, f32(wanted.reshape(-1)), **exact)
        case.call("lerp", ["flat", "m_" + key], [key])
    case.put("flat", x.reshape(-1))
    cases.append(case)
    return cases


def make():
    save("conv", conv_cases())
    save("norm", bn_cases())
    save("pool_resize", pool_cases() + resize_cases())
    save("elementwise", elementwise_cases())
