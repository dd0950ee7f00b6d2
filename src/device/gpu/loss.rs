//! Launchers of `kernels/loss.cu`.

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

pub(super) fn cross_entropy(
    cx: &Launcher,
    _ignore: u8,
    _norm: crate::device::op::CeNorm,
) -> Result<()> {
    Err(cx.wrong("has no launcher"))
}

pub(super) fn cross_entropy_backward(cx: &Launcher, _ignore: u8, _weight: f32) -> Result<()> {
    Err(cx.wrong("has no launcher"))
}

pub(super) fn target_probability(cx: &Launcher, _ignore: u8) -> Result<()> {
    Err(cx.wrong("has no launcher"))
}

pub(super) fn ohem_threshold(
    cx: &Launcher,
    _ignore: u8,
    _thresh: f32,
    _min_kept: usize,
) -> Result<()> {
    Err(cx.wrong("has no launcher"))
}
