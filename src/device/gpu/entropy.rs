//! Launchers of `kernels/entropy.cu`.

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

pub(super) fn softmax_entropy(cx: &Launcher, _log_eps: f32) -> Result<()> {
    Err(cx.wrong("has no launcher"))
}

pub(super) fn percentile(cx: &Launcher, _ignore: u8) -> Result<()> {
    Err(cx.wrong("has no launcher"))
}

pub(super) fn keep_reliable(cx: &Launcher, _ignore: u8) -> Result<()> {
    Err(cx.wrong("has no launcher"))
}

pub(super) fn add_scores(cx: &Launcher, _flip: bool, _softmax: bool) -> Result<()> {
    Err(cx.wrong("has no launcher"))
}

pub(super) fn finish_scores(cx: &Launcher, _softmax: bool) -> Result<()> {
    Err(cx.wrong("has no launcher"))
}
