//! bf16 convolutions by way of f32: on processors that have no bf16 products, the operands are
//! widened into the workspace, the f32 convolution runs on them, and its result is rounded.

use half::bf16;

use super::super::super::element::{round, widen};
use super::super::super::memory::Ctx;
use super::super::super::rows::{for_rows, pixel, zip};
use super::super::{
    dgrad, dgrad_workspace, forward, forward_norm, forward_workspace, wgrad, wgrad_workspace,
};
use crate::device::op::Window;
use crate::device::{Call, DType, Op, View};
use crate::error::{Error, Result};

/// A dense f32 map in the place of `view`, `used` elements into the workspace.
fn stand_in(view: &View, workspace: &View, used: &mut usize) -> View {
    let offset = workspace.offset + 4 * *used;
    // Whole cache lines.
    *used += view.elements().next_multiple_of(16);
    View::dense(workspace.arena, offset, view.shape, DType::F32)
}

/// The same operands in f32, those in bf16 with a place in the workspace, which starts at
/// `workspace`; and the elements that those places take.
fn widened(ins: &[View], outs: &[View], workspace: &View) -> (Vec<View>, Vec<View>, usize) {
    let mut used = 0;
    let mut place = |view: &View| match view.dtype {
        DType::BF16 => stand_in(view, workspace, &mut used),
        _ => *view,
    };
    let ins = ins.iter().map(&mut place).collect();
    let outs = outs.iter().map(&mut place).collect();
    (ins, outs, used)
}

/// Elements of workspace.
pub(super) fn workspace(op: &Op, ins: &[View], outs: &[View], threads: usize) -> usize {
    let Some(nowhere) = ins.first() else {
        return 0;
    };
    let (ins, outs, used) = widened(ins, outs, nowhere);
    let rest = match op {
        Op::Conv(w) => forward_workspace(*w, &ins, &outs, threads),
        Op::ConvDgrad(w) => dgrad_workspace(*w, &ins, &outs, threads),
        Op::ConvWgrad(w) => wgrad_workspace(*w, &ins, &outs, threads),
        _ => 0,
    };
    used + rest.div_ceil(4)
}

/// Runs a convolution, or either gradient, of bf16 operands in f32.
pub(super) fn run(cx: &Ctx, call: &Call, window: Window) -> Result<()> {
    let space = call
        .workspace
        .ok_or_else(|| Error::internal("convolution without a workspace"))?;
    let (ins, outs, used) = widened(&call.ins, &call.outs, &space);
    let left = space.elements().checked_sub(used);
    let left = left.ok_or_else(|| Error::internal("convolution: the workspace is too small"))?;
    for (half, wide) in call.ins.iter().zip(&ins) {
        if half.dtype == DType::BF16 {
            let from = (cx.map::<bf16>(half)?, half);
            zip((cx.f32_mut(wide)?, wide), from, |wide, half| {
                widen(half, wide)
            });
        }
    }
    // A bf16 result is added to after the sum, in `finish`.
    let rounds = call.outs.first().is_some_and(|y| y.dtype == DType::BF16);
    let inner = Call {
        op: call.op.clone(),
        accumulate: if rounds { 0 } else { call.accumulate },
        workspace: Some(View::dense(
            space.arena,
            space.offset + 4 * used,
            [1, 1, 1, left],
            DType::F32,
        )),
        ins,
        outs,
    };
    match inner.op {
        Op::ConvBatchNormEval(norm) => forward_norm(cx, &inner, norm)?,
        Op::ConvDgrad(_) => dgrad(cx, &inner, window)?,
        Op::ConvWgrad(_) => wgrad(cx, &inner, window)?,
        _ => forward(cx, &inner, window)?,
    }
    if rounds {
        finish(cx, &call.outs[0], &inner.outs[0], call.accumulates(0))?;
    }
    Ok(())
}

/// Rounds the f32 result into the map, or adds it.
fn finish(cx: &Ctx, half: &View, wide: &View, accumulate: bool) -> Result<()> {
    let (to, from) = (cx.map_mut::<bf16>(half)?, cx.f32(wide)?);
    if accumulate {
        for_rows::<bf16, 0>(to, half, |i, row, _| {
            for (sum, v) in row.iter_mut().zip(pixel(from, wide, i)) {
                *sum += v;
            }
        });
    } else {
        zip((to, half), (from, wide), |half, wide| round(wide, half));
    }
    Ok(())
}
