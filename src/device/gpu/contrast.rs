//! Launchers of `kernels/contrast.cu`.

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

pub(super) fn partition(cx: &Launcher, _p: &crate::device::op::Partition) -> Result<()> {
    Err(cx.wrong("has no launcher"))
}

pub(super) fn compact(cx: &Launcher, _labeled_pixels: usize) -> Result<()> {
    Err(cx.wrong("has no launcher"))
}

pub(super) fn bank_push(cx: &Launcher, _capacities: &[u32]) -> Result<()> {
    Err(cx.wrong("has no launcher"))
}

pub(super) fn prototype(cx: &Launcher) -> Result<()> {
    Err(cx.wrong("has no launcher"))
}

pub(super) fn info_nce(cx: &Launcher, _a: &crate::device::op::InfoNce) -> Result<()> {
    Err(cx.wrong("has no launcher"))
}

pub(super) fn info_nce_backward(
    cx: &Launcher,
    _a: &crate::device::op::InfoNce,
    _weight: f32,
) -> Result<()> {
    Err(cx.wrong("has no launcher"))
}
