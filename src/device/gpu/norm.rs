//! Launchers of `kernels/norm.cu`.

use super::Launcher;
use crate::device::{Op, View};
use crate::error::Result;

/// Scratch bytes of a call.
pub(super) fn workspace(
    _limits: &super::driver::Limits,
    _op: &Op,
    _ins: &[View],
    _outs: &[View],
) -> usize {
    0
}

pub(super) fn train(cx: &Launcher, _eps: f32, _momentum: f32, _relu: bool) -> Result<()> {
    Err(cx.wrong("has no launcher"))
}

pub(super) fn eval(cx: &Launcher, _eps: f32, _relu: bool) -> Result<()> {
    Err(cx.wrong("has no launcher"))
}

pub(super) fn backward(cx: &Launcher, _relu: bool) -> Result<()> {
    Err(cx.wrong("has no launcher"))
}
