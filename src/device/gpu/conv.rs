//! Launchers of `kernels/conv.cu`.

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

pub(super) fn forward(cx: &Launcher, _window: crate::device::op::Window) -> Result<()> {
    Err(cx.wrong("has no launcher"))
}

pub(super) fn dgrad(cx: &Launcher, _window: crate::device::op::Window) -> Result<()> {
    Err(cx.wrong("has no launcher"))
}

pub(super) fn wgrad(cx: &Launcher, _window: crate::device::op::Window) -> Result<()> {
    Err(cx.wrong("has no launcher"))
}
