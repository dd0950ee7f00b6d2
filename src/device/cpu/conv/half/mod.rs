//! Convolutions of bf16 operands: `x`, `w` and `dy` in bf16, sums in f32, `y` and `dx` in f32 or
//! bf16 (rounded once), `dw` and the biases in f32.
//!
//! [`Path`] is how a processor does it: on AMX tiles, with AVX-512's `vdpbf16ps`, or (without
//! either) in f32 on widened copies of the operands. The first two share the packed layout and
//! everything but the micro-kernel. Bits do not depend on the number of threads; they do on the
//! path, which [`kernel`] explains.
//!
//! The AMX path has run with its five instructions emulated (every test here does so), not yet on
//! a processor that has them.

#![cfg_attr(
    not(all(target_arch = "x86_64", target_os = "linux")),
    allow(
        dead_code,
        reason = "no kernel of this architecture uses the packed layout"
    )
)]

mod kernel;
mod pack;
mod product;
#[cfg(test)]
mod tests;
mod tiles;
mod wgrad;
mod widen;

use std::sync::LazyLock;

use half::bf16;

use super::super::element::Element;
use super::super::memory::Ctx;
use super::super::{mismatch, want};
use super::finish::Finish;
use super::{check_shapes, geometry, isa, norm_operands, workspace as space};
use crate::device::op::Window;
use crate::device::{Call, DType, Op, View};
use crate::error::{Error, Result};
use kernel::{Kernel, TileKernel};
use product::Target;

/// How a processor multiplies bf16.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Path {
    /// AMX tiles.
    Amx,
    /// The AMX path on tiles in plain Rust.
    #[cfg(test)]
    Emulated,
    /// `vdpbf16ps`.
    Avx512,
    /// f32 arithmetic on widened operands.
    Widened,
}

impl Path {
    /// The paths that this processor can take, best first.
    pub(super) fn available() -> Vec<Self> {
        let mut all = Vec::new();
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        if tiles::Amx::available() {
            all.push(Self::Amx);
        }
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bf16") {
            all.push(Self::Avx512);
        }
        all.push(Self::Widened);
        all
    }

    /// Its name for `U2PL_CPU_ISA` and `info`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Amx => "amx",
            #[cfg(test)]
            Self::Emulated => "emulated",
            Self::Avx512 => "avx512bf16",
            Self::Widened => "f32",
        }
    }
}

static PATH: LazyLock<Path> =
    LazyLock::new(|| isa::choice().map_or(Path::Widened, |choice| choice.half));

/// A bf16 map that is read: its elements and the distance between its pixels.
#[derive(Clone, Copy)]
struct Half<'a> {
    data: &'a [bf16],
    ld: usize,
}

impl<'a> Half<'a> {
    fn new(cx: &'a Ctx, view: &View) -> Result<Self> {
        Ok(Self {
            data: cx.map(view)?,
            ld: view.ld,
        })
    }
}

/// The workspace from its first whole cache line.
fn aligned(workspace: &mut [f32]) -> &mut [f32] {
    let skip = workspace.as_ptr().align_offset(64).min(workspace.len());
    &mut workspace[skip..]
}

/// Whether a call's operands are bf16.
pub(super) fn applies(ins: &[View]) -> bool {
    ins.first().is_some_and(|x| x.dtype == DType::BF16)
}

/// Bytes of workspace of [`run`].
pub(super) fn workspace(op: &Op, ins: &[View], outs: &[View], threads: usize) -> usize {
    4 * workspace_on(*PATH, op, ins, outs, threads)
}

fn workspace_on(path: Path, op: &Op, ins: &[View], outs: &[View], threads: usize) -> usize {
    if path == Path::Widened {
        return widen::workspace(op, ins, outs, threads);
    }
    match (op, ins, outs) {
        (Op::Conv(w), [x, weights, ..], [y, ..]) => {
            forward_plan(*w, x, weights, y).workspace(threads)
        }
        (Op::ConvDgrad(w), [dy, weights], [dx]) => {
            dgrad_plan(*w, dy, weights, dx).workspace(threads)
        }
        (Op::ConvWgrad(w), [x, dy], [dw, ..]) => wgrad_plan(*w, x, dy, dw).workspace(threads),
        _ => 0,
    }
}

fn forward_plan(window: Window, x: &View, w: &View, y: &View) -> product::Plan {
    let geometry = geometry(window, x, [w.shape[1], w.shape[2]], y, false);
    product::Plan::new(geometry, w.shape[3], w.shape[0])
}

fn dgrad_plan(window: Window, dy: &View, w: &View, dx: &View) -> product::Plan {
    let geometry = geometry(window, dx, [w.shape[1], w.shape[2]], dy, true);
    product::Plan::new(geometry, w.shape[0], w.shape[3])
}

fn wgrad_plan(window: Window, x: &View, dy: &View, dw: &View) -> wgrad::Plan {
    let geometry = geometry(window, x, [dw.shape[1], dw.shape[2]], dy, false);
    wgrad::Plan::new(geometry, dw.shape[3], dw.shape[0])
}

/// Runs a convolution or either of its gradients.
pub(super) fn run(cx: &Ctx, call: &Call, window: Window) -> Result<()> {
    run_on(*PATH, cx, call, window)
}

fn run_on(path: Path, cx: &Ctx, call: &Call, window: Window) -> Result<()> {
    for view in call.ins.iter().take(2) {
        want(call.op.name(), view, DType::BF16)?;
    }
    match path {
        Path::Widened => widen::run(cx, call, window),
        #[cfg(all(target_arch = "x86_64", target_os = "linux"))]
        Path::Amx => run_with::<TileKernel<tiles::Amx>>(cx, call, window),
        #[cfg(target_arch = "x86_64")]
        Path::Avx512 => run_with::<kernel::Avx512>(cx, call, window),
        #[cfg(test)]
        Path::Emulated => run_with::<TileKernel<tiles::Emulated>>(cx, call, window),
        // Not on this architecture, and so never chosen.
        #[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
        _ => widen::run(cx, call, window),
    }
}

fn run_with<K: Kernel>(cx: &Ctx, call: &Call, window: Window) -> Result<()> {
    let half = |y: &View| y.dtype == DType::BF16;
    match (&call.op, &call.ins[..], &call.outs[..]) {
        (Op::Conv(_), [x, w, bias @ ..], [y]) if bias.len() < 2 => {
            let (maps, bias) = ([x, w, y], bias.first());
            match half(y) {
                true => forward_to::<K, bf16>(cx, call, window, maps, bias, None),
                false => forward_to::<K, f32>(cx, call, window, maps, bias, None),
            }
        }
        (&Op::ConvBatchNormEval(norm), _, [y]) => match half(y) {
            true => {
                let (maps, bias, finish) = norm_operands(cx, call, norm)?;
                forward_to::<K, bf16>(cx, call, window, maps.each_ref(), bias, Some(finish))
            }
            false => {
                let (maps, bias, finish) = norm_operands(cx, call, norm)?;
                forward_to::<K, f32>(cx, call, window, maps.each_ref(), bias, Some(finish))
            }
        },
        (Op::ConvDgrad(_), [dy, w], [dx]) => {
            check_shapes("conv_dgrad", window, dx, w, dy)?;
            let plan = dgrad_plan(window, dy, w, dx);
            match half(dx) {
                true => product_to::<K, bf16>(cx, call, &plan, None, None),
                false => product_to::<K, f32>(cx, call, &plan, None, None),
            }
        }
        (Op::ConvWgrad(_), [x, dy], [dw, dbias @ ..]) => {
            check_shapes("conv_wgrad", window, x, dw, dy)?;
            wgrad_to::<K>(cx, call, &wgrad_plan(window, x, dy, dw), dbias.first())
        }
        (op, ..) => {
            let problem = format!("{}: wrong number of operands", op.name());
            Err(Error::internal(problem))
        }
    }
}

/// The convolution, finished where there is something to finish, to a map of `T`.
fn forward_to<K: Kernel, T: Element>(
    cx: &Ctx,
    call: &Call,
    window: Window,
    [x, w, y]: [&View; 3],
    bias: Option<&View>,
    finish: Option<Finish<T>>,
) -> Result<()> {
    let op = call.op.name();
    check_shapes(op, window, x, w, y)?;
    if let Some(bias) = bias.filter(|b| b.span() != w.shape[0]) {
        return Err(mismatch(op, "one bias per output channel", bias));
    }
    product_to::<K, T>(cx, call, &forward_plan(window, x, w, y), bias, finish)
}

/// The convolution or its data gradient, to a map of `T`.
fn product_to<K: Kernel, T: Element>(
    cx: &Ctx,
    call: &Call,
    plan: &product::Plan,
    bias: Option<&View>,
    finish: Option<Finish<T>>,
) -> Result<()> {
    let y = &call.outs[0];
    if y.elements() == 0 {
        return Ok(());
    }
    let workspace = space(cx, call, plan.workspace(rayon::current_num_threads()))?;
    let bias = bias.map(|b| cx.f32(b)).transpose()?;
    let target = Target {
        data: cx.map_mut::<T>(y)?,
        ld: y.ld,
        accumulate: call.accumulates(0),
        finish,
    };
    let src = Half::new(cx, &call.ins[0])?;
    plan.run::<K, T>(src, cx.map(&call.ins[1])?, bias, target, workspace);
    Ok(())
}

fn wgrad_to<K: Kernel>(
    cx: &Ctx,
    call: &Call,
    plan: &wgrad::Plan,
    dbias: Option<&View>,
) -> Result<()> {
    let ([x, dy], dw) = ([0, 1].map(|i| &call.ins[i]), &call.outs[0]);
    let map = Half::new(cx, dy)?;
    if let Some(dbias) = dbias {
        if dbias.span() != dw.shape[0] {
            return Err(mismatch("conv_wgrad", "one bias per output channel", dbias));
        }
        wgrad::bias(map, dy.pixels(), cx.f32_mut(dbias)?, call.accumulates(1));
    }
    let workspace = space(cx, call, plan.workspace(rayon::current_num_threads()))?;
    let target = Target {
        data: cx.f32_mut(dw)?,
        ld: dw.ld,
        accumulate: call.accumulates(0),
        finish: None,
    };
    plan.run::<K>(Half::new(cx, x)?, map, target, workspace);
    Ok(())
}
