//! Launchers of `kernels/pool.cu`.

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

pub(super) fn max_pool(
    cx: &Launcher,
    _size: usize,
    _window: crate::device::op::Window,
) -> Result<()> {
    Err(cx.wrong("has no launcher"))
}

pub(super) fn max_pool_backward(
    cx: &Launcher,
    _size: usize,
    _window: crate::device::op::Window,
) -> Result<()> {
    Err(cx.wrong("has no launcher"))
}

pub(super) fn global_avg_pool(cx: &Launcher) -> Result<()> {
    Err(cx.wrong("has no launcher"))
}

pub(super) fn global_avg_pool_backward(cx: &Launcher) -> Result<()> {
    Err(cx.wrong("has no launcher"))
}
