//! Convolutions of bf16 operands: `x`, `w` and `dy` in bf16, sums in f32, `y` and `dx` in f32 or
//! bf16 (rounded once), `dw` and the biases in f32.

mod widen;

use super::super::memory::Ctx;
use crate::device::op::Window;
use crate::device::{Call, DType, Op, View};
use crate::error::Result;

/// Whether a call's operands are bf16.
pub(super) fn applies(ins: &[View]) -> bool {
    ins.first().is_some_and(|x| x.dtype == DType::BF16)
}

/// Bytes of workspace of [`run`].
pub(super) fn workspace(op: &Op, ins: &[View], outs: &[View], threads: usize) -> usize {
    4 * widen::workspace(op, ins, outs, threads)
}

/// Runs a convolution or either of its gradients.
pub(super) fn run(cx: &Ctx, call: &Call, window: Window) -> Result<()> {
    widen::run(cx, call, window)
}
