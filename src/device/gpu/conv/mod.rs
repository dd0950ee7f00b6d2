//! Launchers of `kernels/conv.cu` and `kernels/conv_wgrad.cu`.

mod axis;
mod finish;
mod plan;
#[cfg(all(test, feature = "cli"))]
mod table;
mod tiles;

use super::driver::Ptr;
use super::kernels::{
    self, ConvArgs, ConvAxis, ConvBiasArgs, ConvFinish, ConvReduceArgs, ConvSchedule,
    ConvWgradArgs, Kernel,
};
use super::{GpuDevice, Launcher, TICKETS};
use crate::device::op::{ConvNorm, Window};
use crate::device::{DType, Op, View};
use crate::error::Result;
use plan::{Extent, MapPlan, WgradPlan, wgrad_variant};
use tiles::{Product, Variant, in_vectors, shape_in_vectors};

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

const NORM: Table<ConvArgs> = [
    [
        kernels::CONV_NORM_FP32_LARGE,
        kernels::CONV_NORM_FP32_SMALL,
        kernels::CONV_NORM_FP32_ANY,
    ],
    [
        kernels::CONV_NORM_TF32_LARGE,
        kernels::CONV_NORM_TF32_SMALL,
        kernels::CONV_NORM_TF32_ANY,
    ],
    [
        kernels::CONV_NORM_BF16_LARGE,
        kernels::CONV_NORM_BF16_SMALL,
        kernels::CONV_NORM_BF16_ANY,
    ],
];

const MOMENTS: Table<ConvArgs> = [
    [
        kernels::CONV_MOMENTS_FP32_LARGE,
        kernels::CONV_MOMENTS_FP32_SMALL,
        kernels::CONV_MOMENTS_FP32_ANY,
    ],
    [
        kernels::CONV_MOMENTS_TF32_LARGE,
        kernels::CONV_MOMENTS_TF32_SMALL,
        kernels::CONV_MOMENTS_TF32_ANY,
    ],
    [
        kernels::CONV_MOMENTS_BF16_LARGE,
        kernels::CONV_MOMENTS_BF16_SMALL,
        kernels::CONV_MOMENTS_BF16_ANY,
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

/// Largest extent of an axis, padding and dilation included, of a map in pixels, and of a pixel or
/// of the weights of a row in elements: the kernels count in 32 bits with a sign, bytes without.
const MOST: usize = 1 << 30;

/// Scratch bytes of a call.
pub(super) fn workspace(device: &GpuDevice, op: &Op, ins: &[View], outs: &[View]) -> usize {
    let multiprocessors = device.planned_multiprocessors();
    let product = ins.first().and_then(|a| Product::new(a.dtype, device.math));
    let most = Variant::most(device.level(op, ins, outs));
    match (op, product, ins, outs) {
        (Op::ConvWgrad(_), Some(product), [_, dy], [dw, rest @ ..]) => {
            let bias = !rest.is_empty();
            WgradPlan::new(product, multiprocessors, most, [dy, dw], bias).workspace_bytes()
        }
        (Op::Conv(window) | Op::ConvMoments(window), Some(product), [x, w, ..], [y, ..])
        | (Op::ConvBatchNormEval(ConvNorm { window, .. }), Some(product), [x, w, ..], [y, ..]) => {
            let extent = extent(product, x, y, &forward_axes(*window, x, w, y));
            map_workspace(product, multiprocessors, most, [x, w], extent)
        }
        (Op::ConvDgrad(window), Some(product), [dy, w, ..], [dx, ..]) => phases(*window, dx)
            .map(|phase| {
                let extent = extent(product, dy, dx, &dgrad_axes(*window, phase, dy, w, dx));
                map_workspace(product, multiprocessors, most, [dy, w], extent)
            })
            .max()
            .unwrap_or(0),
        _ => 0,
    }
}

/// Bytes of the partial sums that a weight gradient leaves for a second kernel (`conv_reduce`) to
/// add, those of the bias aside, on the GPU that work is planned for; 0 where it needs none.
#[cfg(feature = "cli")]
pub(crate) fn partial_bytes(op: &Op, ins: &[View], outs: &[View]) -> usize {
    let (Op::ConvWgrad(_), [_, dy], [dw, ..]) = (op, ins, outs) else {
        return 0;
    };
    let multiprocessors = super::driver::PLANNED_MULTIPROCESSORS as usize;
    Product::new(dy.dtype, super::MathMode::Fp32).map_or(0, |product| {
        4 * WgradPlan::new(product, multiprocessors, Variant::Large, [dy, dw], false).partials()
    })
}

/// Scratch bytes of one launch.
fn map_workspace(
    product: Product,
    multiprocessors: usize,
    most: Variant,
    operands: [&View; 2],
    extent: Extent,
) -> usize {
    let plan = |vectors| MapPlan::new(product, multiprocessors, vectors, most, extent);
    let bytes = |vectors| plan(vectors).workspace_bytes();
    // The launch finds out whether the operands also start aligned: room for either plan.
    match operands.iter().all(|view| shape_in_vectors(view)) {
        true => bytes(true).max(bytes(false)),
        false => bytes(false),
    }
}

/// [`Op::Conv`].
pub(super) fn forward(cx: &Launcher, window: Window) -> Result<()> {
    forward_of(cx, &FORWARD, window, cx.call.ins.get(2), finish::NONE)
}

/// [`Op::ConvBatchNormEval`].
pub(super) fn forward_norm(cx: &Launcher, norm: ConvNorm) -> Result<()> {
    let (bias, finish) = finish::norm(cx, norm)?;
    forward_of(cx, &NORM, norm.window, bias, finish)
}

/// [`Op::ConvMoments`].
pub(super) fn forward_moments(cx: &Launcher, window: Window) -> Result<()> {
    let bias = cx.call.ins.get(2);
    forward_of(cx, &MOMENTS, window, bias, finish::moments(cx)?)
}

fn forward_of(
    cx: &Launcher,
    table: &Table<ConvArgs>,
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
    let axes = forward_axes(window, x, w, y);
    launch_map(cx, table, product, [x, w, y], (bias, finish), axes)
}

/// Rows and columns of a forward pass.
fn forward_axes(window: Window, x: &View, w: &View, y: &View) -> [ConvAxis; 2] {
    [1, 2].map(|i| {
        let taps = w.shape[i] as u32;
        axis::forward(window, y.shape[i] as u32, x.shape[i] as u32, taps)
    })
}

/// [`Op::ConvDgrad`].
pub(super) fn dgrad(cx: &Launcher, window: Window) -> Result<()> {
    let (dy, w, dx) = (cx.input(0)?, cx.input(1)?, cx.output(0)?);
    check(cx, window, dx, w, dy)?;
    let product = product(cx, dy, w)?;
    for phase in phases(window, dx) {
        let axes = dgrad_axes(window, phase, dy, w, dx);
        let nothing = axes.iter().any(|a| a.taps == 0);
        if !(nothing && cx.call.accumulates(0)) {
            launch_map(
                cx,
                &DGRAD,
                product,
                [dy, w, dx],
                (Ptr::NULL, finish::NONE),
                axes,
            )?;
        }
    }
    Ok(())
}

/// The residues of dx's pixels modulo the stride. A stride larger than the map leaves phases
/// without pixels out.
fn phases(window: Window, dx: &View) -> impl Iterator<Item = [usize; 2]> {
    let [rows, columns] = [1, 2].map(|i| window.stride.min(dx.shape[i]));
    (0..rows).flat_map(move |y| (0..columns).map(move |x| [y, x]))
}

/// Rows and columns of a phase of the data gradient.
fn dgrad_axes(window: Window, phase: [usize; 2], dy: &View, w: &View, dx: &View) -> [ConvAxis; 2] {
    [1, 2].map(|i| {
        let (size, source) = (dx.shape[i] as u32, dy.shape[i] as u32);
        axis::phase(window, phase[i - 1] as u32, size, source, w.shape[i] as u32)
    })
}

/// The product that makes `dst` out of `src`.
fn extent(product: Product, src: &View, dst: &View, [y, x]: &[ConvAxis; 2]) -> Extent {
    Extent {
        rows: dst.shape[0] * y.count as usize * x.count as usize,
        columns: dst.channels(),
        steps: (y.taps * x.taps) as usize * src.channels().div_ceil(product.step()),
    }
}

/// [`Op::ConvWgrad`].
pub(super) fn wgrad(cx: &Launcher, window: Window) -> Result<()> {
    let (x, dy, dw) = (cx.input(0)?, cx.input(1)?, cx.output(0)?);
    check(cx, window, x, dw, dy)?;
    let product = product(cx, x, dy)?;
    let dbias = cx.call.outs.get(1);
    let multiprocessors = cx.device.planned_multiprocessors();
    let most = Variant::most(cx.level());
    let plan = WgradPlan::new(product, multiprocessors, most, [dy, dw], dbias.is_some());
    let scratch = scratch(cx, plan.workspace_bytes())?;
    if let Some(dbias) = dbias {
        let sums = scratch.byte_add(4 * plan.partials());
        bias_gradient(cx, &plan, dy, dbias, sums)?;
    }
    let out = cx.dense(dw, DType::F32)?;
    let (x_map, dy_map) = (cx.map(x)?, cx.map(dy)?);
    let [k, r, s, c] = dw.shape;
    let vectors = in_vectors(x, x_map.data) && in_vectors(dy, dy_map.data);
    let variant = wgrad_variant(vectors, most, k, c);
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
    let stages = variant.stages(product, cx.limits().shared_bytes as usize);
    let args = ConvWgradArgs {
        x: x_map,
        dy: dy_map,
        out: if one { out } else { scratch },
        rows: axis(1),
        columns: axis(2),
        parts: plan.parts as u32,
        accumulate: u32::from(one && cx.call.accumulates(0)),
        stages: stages as u32,
        pad: 0,
    };
    let kernel = WGRAD[product.index()][variant.index()];
    let grid = [plan.parts * k.div_ceil(side) * across, 1, 1];
    cx.launch(kernel, grid, variant.shared_bytes(stages), &args)?;
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
    // Four elements a thread, where the kernel can.
    let items = if n.is_multiple_of(4) { n / 4 } else { n };
    cx.launch(kernel, cx.stride_grid(&kernel, items), 0, &args)
}

/// One launch of the forward pass, or of one phase of the data gradient: `src`, weights, `dst`.
fn launch_map(
    cx: &Launcher,
    table: &Table<ConvArgs>,
    product: Product,
    [src, w, dst]: [&View; 3],
    (bias, finish): (Ptr, ConvFinish),
    axes: [ConvAxis; 2],
) -> Result<()> {
    let (src_map, dst_map) = (cx.map(src)?, cx.map(dst)?);
    let weights = cx.dense(w, src.dtype)?;
    let extent = extent(product, src, dst, &axes);
    if extent.rows == 0 || extent.columns == 0 {
        return Ok(());
    }
    let vectors = in_vectors(src, src_map.data) && in_vectors(w, weights);
    let plan = MapPlan::new(
        product,
        cx.device.planned_multiprocessors(),
        vectors,
        Variant::most(cx.level()),
        extent,
    );
    let [y, x] = axes;
    let stages = plan
        .variant
        .stages(product, cx.limits().shared_bytes as usize);
    let args = ConvArgs {
        src: src_map,
        dst: dst_map,
        weights,
        bias,
        y,
        x,
        schedule: schedule(cx, &plan, stages)?,
        outer: w.shape[0] as u32,
        inner: w.shape[3] as u32,
        kernel_h: w.shape[1] as u32,
        kernel_w: w.shape[2] as u32,
        dst_bf16: u32::from(dst.dtype == DType::BF16),
        accumulate: u32::from(cx.call.accumulates(0)),
        finish,
    };
    let kernel = table[product.index()][plan.variant.index()];
    let grid = [plan.blocks(), 1, 1];
    cx.launch(kernel, grid, plan.variant.shared_bytes(stages), &args)
}

/// A plan as the kernels take it.
fn schedule(cx: &Launcher, plan: &MapPlan, stages: usize) -> Result<ConvSchedule> {
    let cut = plan.parts > 1;
    Ok(ConvSchedule {
        partials: scratch(cx, plan.workspace_bytes())?,
        tickets: match cut {
            true => cx.tickets(TICKETS)?,
            false => Ptr::NULL,
        },
        whole: plan.whole as u32,
        parts: plan.parts as u32,
        stages: stages as u32,
        pad: 0,
    })
}

/// The workspace, which must have `bytes`.
fn scratch(cx: &Launcher, bytes: usize) -> Result<Ptr> {
    match cx.workspace()? {
        (ptr, got) if got >= bytes => Ok(ptr),
        (_, got) => Err(cx.wrong(&format!("needs {bytes} bytes of workspace, got {got}"))),
    }
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
    let counts = [x.pixels(), y.pixels(), w.shape[0], flat, x.ld, y.ld];
    if extents.iter().chain(&counts).any(|&n| n >= MOST) {
        return Err(cx.wrong("too large: 2^30 pixels, or elements of a pixel, or more"));
    }
    Ok(())
}
