//! Launchers of `kernels/conv.cu` and `kernels/conv_wgrad.cu`.

mod axis;
mod plan;

use super::Launcher;
use super::driver::Ptr;
use super::kernels::{
    self, ConvArgs, ConvAxis, ConvBiasArgs, ConvFinish, ConvReduceArgs, ConvWgradArgs, Kernel,
};
use crate::device::op::{ConvNorm, MOMENT_PIXELS, Window};
use crate::device::{DType, Op, View};
use crate::error::Result;
use plan::{Product, Variant, WgradPlan, in_vectors};

/// Kernels by [`Product`], then [`Variant`].
type Table<A> = [[Kernel<A>; 3]; 3];

const FORWARD: Table<ConvArgs> = [
    [
        kernels::CONV_FORWARD_FP32_LARGE,
        kernels::CONV_FORWARD_FP32_SMALL,
        kernels::CONV_FORWARD_FP32_ANY,
    ],
    [
        kernels::CONV_FORWARD_TF32_LARGE,
        kernels::CONV_FORWARD_TF32_SMALL,
        kernels::CONV_FORWARD_TF32_ANY,
    ],
    [
        kernels::CONV_FORWARD_BF16_LARGE,
        kernels::CONV_FORWARD_BF16_SMALL,
        kernels::CONV_FORWARD_BF16_ANY,
    ],
];

const DGRAD: Table<ConvArgs> = [
    [
        kernels::CONV_DGRAD_FP32_LARGE,
        kernels::CONV_DGRAD_FP32_SMALL,
        kernels::CONV_DGRAD_FP32_ANY,
    ],
    [
        kernels::CONV_DGRAD_TF32_LARGE,
        kernels::CONV_DGRAD_TF32_SMALL,
        kernels::CONV_DGRAD_TF32_ANY,
    ],
    [
        kernels::CONV_DGRAD_BF16_LARGE,
        kernels::CONV_DGRAD_BF16_SMALL,
        kernels::CONV_DGRAD_BF16_ANY,
    ],
];

const WGRAD: Table<ConvWgradArgs> = [
    [
        kernels::CONV_WGRAD_FP32_LARGE,
        kernels::CONV_WGRAD_FP32_SMALL,
        kernels::CONV_WGRAD_FP32_ANY,
    ],
    [
        kernels::CONV_WGRAD_TF32_LARGE,
        kernels::CONV_WGRAD_TF32_SMALL,
        kernels::CONV_WGRAD_TF32_ANY,
    ],
    [
        kernels::CONV_WGRAD_BF16_LARGE,
        kernels::CONV_WGRAD_BF16_SMALL,
        kernels::CONV_WGRAD_BF16_ANY,
    ],
];

/// Largest extent of an axis, padding and dilation included, and of a map in pixels: the kernels
/// count in 32 bits with a sign.
const MOST: usize = 1 << 30;

/// Scratch bytes of a call.
pub(super) fn workspace(op: &Op, ins: &[View], outs: &[View]) -> usize {
    match (op, ins, outs) {
        (Op::ConvWgrad(_), [_, dy], [dw, rest @ ..]) => {
            WgradPlan::new(dy, dw, !rest.is_empty()).workspace_bytes()
        }
        _ => 0,
    }
}

/// A forward pass or data gradient that only adds its bias.
const UNFINISHED: ConvFinish = ConvFinish {
    mean: Ptr::NULL,
    variance: Ptr::NULL,
    gamma: Ptr::NULL,
    beta: Ptr::NULL,
    residual: Ptr::NULL,
    residual_ld: 0,
    moments: Ptr::NULL,
    eps: 0.0,
    relu: 0,
};

/// [`Op::Conv`].
pub(super) fn forward(cx: &Launcher, window: Window) -> Result<()> {
    forward_of(cx, window, cx.call.ins.get(2), UNFINISHED)
}

/// [`Op::ConvBatchNormEval`].
pub(super) fn forward_norm(cx: &Launcher, norm: ConvNorm) -> Result<()> {
    let y = cx.output(0)?;
    let channels = y.channels();
    let mut rest = cx.call.ins.get(6..).unwrap_or_default().iter();
    let bias = match norm.bias {
        true => Some(rest.next().ok_or_else(|| cx.wrong("the bias is missing"))?),
        false => None,
    };
    let mut finish = ConvFinish {
        gamma: vector(cx, cx.input(2)?, channels)?,
        beta: vector(cx, cx.input(3)?, channels)?,
        mean: vector(cx, cx.input(4)?, channels)?,
        variance: vector(cx, cx.input(5)?, channels)?,
        eps: norm.eps,
        relu: u32::from(norm.relu),
        ..UNFINISHED
    };
    if let Some(residual) = rest.next() {
        cx.want_shapes(&[(residual, y.shape)])?;
        finish.residual = cx.ptr(residual, y.dtype)?;
        finish.residual_ld = residual.ld as u64;
    }
    forward_of(cx, norm.window, bias, finish)
}

/// [`Op::ConvMoments`].
pub(super) fn forward_moments(cx: &Launcher, window: Window) -> Result<()> {
    let (y, moments) = (cx.output(0)?, cx.output(1)?);
    let tiles = y.pixels().div_ceil(MOMENT_PIXELS);
    cx.want_shapes(&[(moments, [1, 1, tiles, 2 * y.channels()])])?;
    let finish = ConvFinish {
        moments: cx.dense(moments, DType::F32)?,
        ..UNFINISHED
    };
    forward_of(cx, window, cx.call.ins.get(2), finish)
}

fn forward_of(
    cx: &Launcher,
    window: Window,
    bias: Option<&View>,
    finish: ConvFinish,
) -> Result<()> {
    let (x, w, y) = (cx.input(0)?, cx.input(1)?, cx.output(0)?);
    check(cx, window, x, w, y)?;
    let product = product(cx, x, w)?;
    let bias = match bias {
        Some(bias) => vector(cx, bias, w.shape[0])?,
        None => Ptr::NULL,
    };
    let axes = [1, 2].map(|i| {
        let taps = w.shape[i] as u32;
        axis::forward(window, y.shape[i] as u32, x.shape[i] as u32, taps)
    });
    launch_map(
        cx,
        FORWARD[product.index()],
        [x, w, y],
        (bias, finish),
        axes,
    )
}

/// [`Op::ConvDgrad`].
pub(super) fn dgrad(cx: &Launcher, window: Window) -> Result<()> {
    let (dy, w, dx) = (cx.input(0)?, cx.input(1)?, cx.output(0)?);
    check(cx, window, dx, w, dy)?;
    let product = product(cx, dy, w)?;
    let phase = |i: usize, phase: usize| {
        let (size, source) = (dx.shape[i] as u32, dy.shape[i] as u32);
        axis::phase(window, phase as u32, size, source, w.shape[i] as u32)
    };
    // A stride larger than the map leaves phases without pixels.
    for py in 0..window.stride.min(dx.shape[1]) {
        for px in 0..window.stride.min(dx.shape[2]) {
            let axes = [phase(1, py), phase(2, px)];
            let nothing = axes.iter().any(|a| a.taps == 0);
            if !(nothing && cx.call.accumulates(0)) {
                launch_map(
                    cx,
                    DGRAD[product.index()],
                    [dy, w, dx],
                    (Ptr::NULL, UNFINISHED),
                    axes,
                )?;
            }
        }
    }
    Ok(())
}

/// [`Op::ConvWgrad`].
pub(super) fn wgrad(cx: &Launcher, window: Window) -> Result<()> {
    let (x, dy, dw) = (cx.input(0)?, cx.input(1)?, cx.output(0)?);
    check(cx, window, x, dw, dy)?;
    let product = product(cx, x, dy)?;
    let dbias = cx.call.outs.get(1);
    let plan = WgradPlan::new(dy, dw, dbias.is_some());
    let (scratch, bytes) = cx.workspace()?;
    if bytes < plan.workspace_bytes() {
        let need = plan.workspace_bytes();
        return Err(cx.wrong(&format!("needs {need} bytes of workspace, got {bytes}")));
    }
    if let Some(dbias) = dbias {
        let sums = scratch.byte_add(4 * plan.partials());
        bias_gradient(cx, &plan, dy, dbias, sums)?;
    }
    let out = cx.dense(dw, DType::F32)?;
    let (x_map, dy_map) = (cx.map(x)?, cx.map(dy)?);
    let [k, r, s, c] = dw.shape;
    let vectors = in_vectors(x, x_map.data) && in_vectors(dy, dy_map.data);
    let variant = Variant::of_weights(vectors, k, c);
    let side = variant.side();
    let across = match variant {
        Variant::Any => (r * s * c).div_ceil(side),
        _ => r * s * c.div_ceil(side),
    };
    let axis = |i: usize| {
        let (size, source) = (dy.shape[i] as u32, x.shape[i] as u32);
        axis::forward(window, size, source, dw.shape[i] as u32)
    };
    let one = plan.parts == 1;
    let args = ConvWgradArgs {
        x: x_map,
        dy: dy_map,
        out: if one { out } else { scratch },
        rows: axis(1),
        columns: axis(2),
        parts: plan.parts as u32,
        accumulate: u32::from(one && cx.call.accumulates(0)),
    };
    let kernel = WGRAD[product.index()][variant.index()];
    let grid = [plan.parts * k.div_ceil(side) * across, 1, 1];
    cx.launch(kernel, grid, variant.shared_bytes(), &args)?;
    if one {
        return Ok(());
    }
    reduce(cx, scratch, out, plan.elements, plan.parts, 0)
}

/// Column sums of dy into dbias, through partial sums at `sums`.
fn bias_gradient(
    cx: &Launcher,
    plan: &WgradPlan,
    dy: &View,
    dbias: &View,
    sums: Ptr,
) -> Result<()> {
    let out = vector(cx, dbias, dy.channels())?;
    let kernel = match dy.dtype {
        DType::BF16 => kernels::CONV_BIAS_BF16,
        _ => kernels::CONV_BIAS_F32,
    };
    let args = ConvBiasArgs {
        dy: cx.map(dy)?,
        sums,
        pixels: plan.bias_pixels as u32,
        pad: 0,
    };
    let grid = [dy.channels().div_ceil(32), plan.bias_parts, 1];
    cx.launch(kernel, grid, 0, &args)?;
    reduce(cx, sums, out, dy.channels(), plan.bias_parts, 1)
}

/// Adds `count` parts of `n` floats into output `index`.
fn reduce(cx: &Launcher, parts: Ptr, out: Ptr, n: usize, count: usize, index: usize) -> Result<()> {
    let args = ConvReduceArgs {
        parts,
        out,
        n: n as u64,
        count: count as u32,
        accumulate: u32::from(cx.call.accumulates(index)),
    };
    let kernel = kernels::CONV_REDUCE;
    cx.launch(kernel, cx.stride_grid(&kernel, n), 0, &args)
}

/// One launch of the forward pass, or of one phase of the data gradient: `src`, weights, `dst`.
fn launch_map(
    cx: &Launcher,
    table: [Kernel<ConvArgs>; 3],
    [src, w, dst]: [&View; 3],
    (bias, finish): (Ptr, ConvFinish),
    [y, x]: [ConvAxis; 2],
) -> Result<()> {
    let (src_map, dst_map) = (cx.map(src)?, cx.map(dst)?);
    let weights = cx.dense(w, src.dtype)?;
    let (rows, columns) = (dst.shape[0] * (y.count * x.count) as usize, dst.channels());
    if rows == 0 || columns == 0 {
        return Ok(());
    }
    let vectors = in_vectors(src, src_map.data) && in_vectors(w, weights);
    let variant = Variant::of_map(&cx.limits(), vectors, rows, columns);
    let args = ConvArgs {
        src: src_map,
        dst: dst_map,
        weights,
        bias,
        y,
        x,
        outer: w.shape[0] as u32,
        inner: w.shape[3] as u32,
        kernel_h: w.shape[1] as u32,
        kernel_w: w.shape[2] as u32,
        dst_bf16: u32::from(dst.dtype == DType::BF16),
        accumulate: u32::from(cx.call.accumulates(0)),
        finish,
    };
    let side = variant.side();
    let grid = [rows.div_ceil(side) * columns.div_ceil(side), 1, 1];
    cx.launch(table[variant.index()], grid, variant.shared_bytes(), &args)
}

/// How `a` and `b` are multiplied; they must be of one type.
fn product(cx: &Launcher, a: &View, b: &View) -> Result<Product> {
    let product = Product::new(a.dtype, cx.math()).filter(|_| a.dtype == b.dtype);
    product.ok_or_else(|| {
        let (a, b) = (a.dtype, b.dtype);
        cx.wrong(&format!(
            "multiplies f32 or bf16 alike, got {a:?} and {b:?}"
        ))
    })
}

/// Address of a dense f32 vector of `n`.
fn vector(cx: &Launcher, view: &View, n: usize) -> Result<Ptr> {
    if view.elements() != n {
        return Err(cx.wrong(&format!("expected a vector of {n}, got {:?}", view.shape)));
    }
    cx.dense(view, DType::F32)
}

/// Fails unless `x`, `w`, `y` are the operands of one convolution that the kernels can count.
fn check(cx: &Launcher, window: Window, x: &View, w: &View, y: &View) -> Result<()> {
    let reach = |i: usize| window.dilation * w.shape[i].saturating_sub(1) + 1;
    let size = |i: usize| {
        let room = (x.shape[i] + 2 * window.padding).checked_sub(reach(i));
        room.map_or(0, |room| room / window.stride + 1)
    };
    if window.stride == 0 || !w.is_dense() || w.elements() == 0 || w.shape[3] != x.shape[3] {
        let shape = w.shape;
        return Err(cx.wrong(&format!(
            "dense weights of the map's channels, got {shape:?}"
        )));
    }
    let expected = [x.shape[0], size(1), size(2), w.shape[0]];
    if y.shape != expected {
        let got = y.shape;
        return Err(cx.wrong(&format!(
            "expected a map of shape {expected:?}, got {got:?}"
        )));
    }
    if [x, y]
        .iter()
        .any(|v| !matches!(v.dtype, DType::F32 | DType::BF16))
    {
        return Err(cx.wrong("maps must be f32 or bf16"));
    }
    let extents = [1, 2].map(|i| x.shape[i] + 2 * window.padding + reach(i) + window.stride);
    let flat = w.shape[1] * w.shape[2] * w.shape[0].max(w.shape[3]);
    let counts = [x.pixels(), y.pixels(), w.shape[0], flat];
    if extents.iter().chain(&counts).any(|&n| n >= MOST) {
        return Err(cx.wrong("too large: 2^30 pixels or more"));
    }
    Ok(())
}
