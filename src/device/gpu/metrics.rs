//! Launchers of `kernels/metrics.cu`.

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

pub(super) fn confusion(cx: &Launcher, _ignore: u8) -> Result<()> {
    Err(cx.wrong("has no launcher"))
}

pub(super) fn label_confusion(cx: &Launcher, _ignore: u8) -> Result<()> {
    Err(cx.wrong("has no launcher"))
}
