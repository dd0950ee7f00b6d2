//! Launchers of `kernels/resize.cu`.

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

pub(super) fn resize(cx: &Launcher) -> Result<()> {
    Err(cx.wrong("has no launcher"))
}

pub(super) fn resize_backward(cx: &Launcher) -> Result<()> {
    Err(cx.wrong("has no launcher"))
}
