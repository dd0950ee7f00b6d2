//! Convolution, its data gradient and its weight gradient, on all cores.
//!
//! Comes in: NHWC maps (possibly channel slices of a wider tensor) and weights `[K, R, S, C]`.
//! Goes out: the map or the gradient. [`implicit`] runs the forward pass and the data gradient,
//! [`wgrad`] the weight gradient, both by direct sums; [`winograd`] does 3×3 convolutions with
//! fewer products where that costs less. All feed the micro-kernels of [`micro`], chosen at run
//! time for the processor (AVX-512, AVX2, or whatever the compiler makes of plain arrays).
//! [`half`] is the same for bf16 operands.
//!
//! Bits do not depend on the number of threads: each output has one fixed order of summation.

mod finish;
mod geometry;
mod half;
mod implicit;
mod isa;
mod micro;
mod pack;
mod shared;
#[cfg(test)]
mod tests;
mod wgrad;
mod winograd;

use std::sync::LazyLock;

use ::half::bf16;

use super::super::{Call, DType, Op, View};
use super::element::Element;
use super::memory::Ctx;
use super::moments::of_tiles;
use super::rows::want_shape;
use super::{mismatch, want};
use crate::device::op::{ConvNorm, MOMENT_PIXELS, Window};
use crate::error::{Error, Result};
use finish::Finish;
use geometry::Geometry;
use implicit::{Map, Target};
use micro::Isa;

static ISA: LazyLock<Isa> =
    LazyLock::new(|| isa::choice().map_or_else(|_| Isa::detect(), |choice| choice.float));

/// Names of the instructions that f32 and bf16 convolutions use.
///
/// # Errors
/// [`Error::Input`] when `U2PL_CPU_ISA` names none of this processor's.
pub(super) fn instructions() -> Result<[&'static str; 2]> {
    isa::choice().map(|choice| [choice.float.name, choice.half.name()])
}

/// The geometry of a convolution from its map `x`, kernel `w` and result `y`.
fn geometry(window: Window, x: &View, kernel: [usize; 2], y: &View, transposed: bool) -> Geometry {
    let (dst, src) = if transposed { (x, y) } else { (y, x) };
    Geometry {
        window,
        images: x.shape[0],
        dst: [dst.shape[1], dst.shape[2]],
        src: [src.shape[1], src.shape[2]],
        kernel,
        transposed,
    }
}

/// Fails unless `x`, `w`, `y` are the operands of one convolution in f32.
fn check(op: &str, window: Window, x: &View, w: &View, y: &View) -> Result<()> {
    for view in [x, w, y] {
        want(op, view, DType::F32)?;
    }
    check_shapes(op, window, x, w, y)
}

/// Fails unless `x`, `w`, `y` are the operands of one convolution, of whatever type.
fn check_shapes(op: &str, window: Window, x: &View, w: &View, y: &View) -> Result<()> {
    let size = |axis: usize| {
        let reach = window.dilation * w.shape[axis].saturating_sub(1) + 1;
        (x.shape[axis] + 2 * window.padding)
            .checked_sub(reach)
            .map_or(0, |room| room / window.stride + 1)
    };
    if window.stride == 0 || !w.is_dense() || w.elements() == 0 || w.shape[3] != x.shape[3] {
        return Err(mismatch(op, "dense weights of the map's channels", w));
    }
    let expected = [x.shape[0], size(1), size(2), w.shape[0]];
    if y.shape != expected {
        return Err(mismatch(op, &format!("a map of shape {expected:?}"), y));
    }
    let most = u32::MAX as usize;
    if x.pixels() >= most || y.pixels() >= most {
        return Err(mismatch(op, "fewer than 2^32 pixels", x));
    }
    Ok(())
}

/// The call's workspace, `elements` long.
fn workspace<'a>(cx: &'a Ctx, call: &Call, elements: usize) -> Result<&'a mut [f32]> {
    let view = call
        .workspace
        .as_ref()
        .ok_or_else(|| Error::internal("convolution without a workspace"))?;
    let found = cx.f32_mut(view)?;
    let len = found.len();
    found.get_mut(..elements).ok_or_else(|| {
        Error::internal(format!(
            "convolution needs {elements} elements of workspace, got {len}"
        ))
    })
}

fn map<'a>(cx: &'a Ctx, view: &View) -> Result<Map<'a>> {
    Ok(Map {
        data: cx.f32(view)?,
        ld: view.ld,
    })
}

fn target<'a>(cx: &'a Ctx, call: &Call, i: usize) -> Result<Target<'a>> {
    Ok(Target {
        data: cx.f32_mut(&call.outs[i])?,
        ld: call.outs[i].ld,
        accumulate: call.accumulates(i),
        finish: None,
    })
}

/// The way that costs less for the shapes at hand.
enum Plan {
    Direct(implicit::Plan),
    Tiles(winograd::forward::Plan),
}

impl Plan {
    fn new(isa: Isa, geometry: Geometry, channels: usize, outputs: usize) -> Self {
        match winograd::forward::Plan::new(isa, &geometry, channels, outputs) {
            Some(plan) => Plan::Tiles(plan),
            None => Plan::Direct(implicit::Plan::new(isa, geometry, channels, outputs)),
        }
    }

    /// Elements of workspace.
    fn workspace(&self, threads: usize) -> usize {
        match self {
            Plan::Direct(plan) => plan.workspace(threads),
            Plan::Tiles(plan) => plan.workspace(threads),
        }
    }

    fn run(&self, src: Map, w: &[f32], bias: Option<&[f32]>, dst: Target, workspace: &mut [f32]) {
        match self {
            Plan::Direct(plan) => plan.run(src, w, bias, dst, workspace),
            Plan::Tiles(plan) => plan.run(src, w, bias, dst, workspace),
        }
    }
}

/// The way of the weight gradient that costs less for the shapes at hand.
enum WgradPlan {
    Direct(wgrad::Plan),
    Tiles(winograd::wgrad::Plan),
}

impl WgradPlan {
    fn new(isa: Isa, geometry: Geometry, channels: usize, outputs: usize) -> Self {
        match winograd::wgrad::Plan::new(isa, &geometry, channels, outputs) {
            Some(plan) => WgradPlan::Tiles(plan),
            None => WgradPlan::Direct(wgrad::Plan::new(isa, geometry, channels, outputs)),
        }
    }

    /// Elements of workspace.
    fn workspace(&self, threads: usize) -> usize {
        match self {
            WgradPlan::Direct(plan) => plan.workspace(threads),
            WgradPlan::Tiles(plan) => plan.workspace(threads),
        }
    }

    fn run(&self, x: Map, dy: Map, dw: Target, workspace: &mut [f32]) {
        match self {
            WgradPlan::Direct(plan) => plan.run(x, dy, dw, workspace),
            WgradPlan::Tiles(plan) => plan.run(x, dy, dw, workspace),
        }
    }
}

fn forward_plan(isa: Isa, window: Window, x: &View, w: &View, y: &View) -> Plan {
    let kernel = [w.shape[1], w.shape[2]];
    let geometry = geometry(window, x, kernel, y, false);
    Plan::new(isa, geometry, w.shape[3], w.shape[0])
}

fn dgrad_plan(isa: Isa, window: Window, dy: &View, w: &View, dx: &View) -> Plan {
    let kernel = [w.shape[1], w.shape[2]];
    let geometry = geometry(window, dx, kernel, dy, true);
    Plan::new(isa, geometry, w.shape[0], w.shape[3])
}

fn wgrad_plan(isa: Isa, window: Window, x: &View, dy: &View, dw: &View) -> WgradPlan {
    let kernel = [dw.shape[1], dw.shape[2]];
    let geometry = geometry(window, x, kernel, dy, false);
    WgradPlan::new(isa, geometry, dw.shape[3], dw.shape[0])
}

/// [`crate::device::Op::Conv`].
pub(super) fn forward(cx: &Ctx, call: &Call, window: Window) -> Result<()> {
    if half::applies(&call.ins) {
        return half::run(cx, call, window);
    }
    forward_on(*ISA, cx, call, window)
}

fn forward_on(isa: Isa, cx: &Ctx, call: &Call, window: Window) -> Result<()> {
    let ([x, w], bias, [y]) = match (&call.ins[..], &call.outs[..]) {
        ([x, w], [y]) => ([x, w], None, [y]),
        ([x, w, bias], [y]) => ([x, w], Some(bias), [y]),
        _ => return Err(Error::internal("conv: wrong number of operands")),
    };
    product(isa, cx, call, window, [x, w, y], bias, None)
}

/// [`crate::device::Op::ConvBatchNormEval`].
pub(super) fn forward_norm(cx: &Ctx, call: &Call, norm: ConvNorm) -> Result<()> {
    if half::applies(&call.ins) {
        return half::run(cx, call, norm.window);
    }
    forward_norm_on(*ISA, cx, call, norm)
}

fn forward_norm_on(isa: Isa, cx: &Ctx, call: &Call, norm: ConvNorm) -> Result<()> {
    let ([x, w, y], bias, finish) = norm_operands(cx, call, norm)?;
    product(isa, cx, call, norm.window, [&x, &w, &y], bias, Some(finish))
}

/// Of [`crate::device::Op::ConvBatchNormEval`]: x, w and y, the bias, and what finishes a row,
/// with a residual of `T`.
fn norm_operands<'a, T: Element>(
    cx: &'a Ctx,
    call: &'a Call,
    norm: ConvNorm,
) -> Result<([View; 3], Option<&'a View>, Finish<'a, T>)> {
    let op = call.op.name();
    let (&[x, w, gamma, beta, mean, var, ref rest @ ..], &[y]) = (&call.ins[..], &call.outs[..])
    else {
        return Err(Error::internal(format!("{op}: wrong number of operands")));
    };
    let (bias, residual) = match (norm.bias, rest) {
        (false, []) => (None, None),
        (false, [residual]) => (None, Some(residual)),
        (true, [bias]) => (Some(bias), None),
        (true, [bias, residual]) => (Some(bias), Some(residual)),
        _ => return Err(Error::internal(format!("{op}: wrong number of operands"))),
    };
    if let Some(residual) = residual {
        want_shape(call, residual, y.shape)?;
    }
    let vectors = [gamma, beta, mean, var];
    let finish = Finish::new(cx, call, &vectors, residual, norm.eps, norm.relu)?;
    Ok(([x, w, y], bias, finish))
}

/// [`crate::device::Op::ConvMoments`].
pub(super) fn forward_moments(cx: &Ctx, call: &Call, window: Window) -> Result<()> {
    let &[y, moments] = &call.outs[..] else {
        return Err(Error::internal("conv_moments: wrong number of operands"));
    };
    let expected = [1, 1, y.pixels().div_ceil(MOMENT_PIXELS), 2 * y.channels()];
    if moments.shape != expected || !moments.is_dense() {
        let expected = format!("dense moments of shape {expected:?}");
        return Err(mismatch("conv_moments", &expected, &moments));
    }
    let plain = Call {
        op: Op::Conv(window),
        outs: vec![y],
        ..call.clone()
    };
    forward(cx, &plain, window)?;
    let out = cx.f32_mut(&moments)?;
    match y.dtype {
        DType::BF16 => of_tiles(cx.map::<bf16>(&y)?, &y, out),
        _ => of_tiles(cx.f32(&y)?, &y, out),
    }
    Ok(())
}

/// The forward pass, its sums finished where there is something to finish.
fn product(
    isa: Isa,
    cx: &Ctx,
    call: &Call,
    window: Window,
    [x, w, y]: [&View; 3],
    bias: Option<&View>,
    finish: Option<Finish>,
) -> Result<()> {
    check(call.op.name(), window, x, w, y)?;
    if let Some(bias) = bias.filter(|b| b.span() != w.shape[0]) {
        return Err(mismatch(
            call.op.name(),
            "one bias per output channel",
            bias,
        ));
    }
    if y.elements() == 0 {
        return Ok(());
    }
    let plan = forward_plan(isa, window, x, w, y);
    let workspace = workspace(cx, call, plan.workspace(rayon::current_num_threads()))?;
    let bias = bias.map(|b| cx.f32(b)).transpose()?;
    let (src, mut dst) = (map(cx, x)?, target(cx, call, 0)?);
    dst.finish = finish;
    plan.run(src, cx.f32(w)?, bias, dst, workspace);
    Ok(())
}

/// [`crate::device::Op::ConvDgrad`].
pub(super) fn dgrad(cx: &Ctx, call: &Call, window: Window) -> Result<()> {
    if half::applies(&call.ins) {
        return half::run(cx, call, window);
    }
    dgrad_on(*ISA, cx, call, window)
}

fn dgrad_on(isa: Isa, cx: &Ctx, call: &Call, window: Window) -> Result<()> {
    let ([dy, w], [dx]) = (&call.ins[..], &call.outs[..]) else {
        return Err(Error::internal("conv_dgrad: wrong number of operands"));
    };
    check("conv_dgrad", window, dx, w, dy)?;
    if dx.elements() == 0 {
        return Ok(());
    }
    let plan = dgrad_plan(isa, window, dy, w, dx);
    let workspace = workspace(cx, call, plan.workspace(rayon::current_num_threads()))?;
    let (src, dst) = (map(cx, dy)?, target(cx, call, 0)?);
    plan.run(src, cx.f32(w)?, None, dst, workspace);
    Ok(())
}

/// [`crate::device::Op::ConvWgrad`].
pub(super) fn wgrad(cx: &Ctx, call: &Call, window: Window) -> Result<()> {
    if half::applies(&call.ins) {
        return half::run(cx, call, window);
    }
    wgrad_on(*ISA, cx, call, window)
}

fn wgrad_on(isa: Isa, cx: &Ctx, call: &Call, window: Window) -> Result<()> {
    let (&[x, dy], [dw, rest @ ..]) = (&call.ins[..], &call.outs[..]) else {
        return Err(Error::internal("conv_wgrad: wrong number of operands"));
    };
    check("conv_wgrad", window, &x, dw, &dy)?;
    let dy_map = map(cx, &dy)?;
    if let Some(dbias) = rest.first() {
        if dbias.span() != dw.shape[0] {
            return Err(mismatch("conv_wgrad", "one bias per output channel", dbias));
        }
        wgrad::bias(dy_map, dy.pixels(), cx.f32_mut(dbias)?, call.accumulates(1));
    }
    let plan = wgrad_plan(isa, window, &x, &dy, dw);
    let workspace = workspace(cx, call, plan.workspace(rayon::current_num_threads()))?;
    plan.run(map(cx, &x)?, dy_map, target(cx, call, 0)?, workspace);
    Ok(())
}

/// Bytes of workspace of [`forward`].
pub(super) fn forward_workspace(w: Window, ins: &[View], outs: &[View], threads: usize) -> usize {
    // Moments are taken without any.
    let outs = &outs[..outs.len().min(1)];
    if half::applies(ins) {
        return half::workspace(&Op::Conv(w), ins, outs, threads);
    }
    match (ins, outs) {
        ([x, weights, ..], [y]) => 4 * forward_plan(*ISA, w, x, weights, y).workspace(threads),
        _ => 0,
    }
}

/// Bytes of workspace of [`dgrad`].
pub(super) fn dgrad_workspace(w: Window, ins: &[View], outs: &[View], threads: usize) -> usize {
    if half::applies(ins) {
        return half::workspace(&Op::ConvDgrad(w), ins, outs, threads);
    }
    match (ins, outs) {
        ([dy, weights], [dx]) => 4 * dgrad_plan(*ISA, w, dy, weights, dx).workspace(threads),
        _ => 0,
    }
}

/// Bytes of workspace of [`wgrad`].
pub(super) fn wgrad_workspace(w: Window, ins: &[View], outs: &[View], threads: usize) -> usize {
    if half::applies(ins) {
        return half::workspace(&Op::ConvWgrad(w), ins, outs, threads);
    }
    match (ins, outs) {
        ([x, dy], [dw, ..]) => 4 * wgrad_plan(*ISA, w, x, dy, dw).workspace(threads),
        _ => 0,
    }
}
