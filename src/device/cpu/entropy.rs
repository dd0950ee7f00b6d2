//! entropy

use super::super::Call;
use super::memory::Ctx;
use crate::error::{Error, Result};

pub(super) fn softmax_entropy(_cx: &Ctx, _call: &Call, _log_eps: f32) -> Result<()> {
    Err(Error::internal("not written yet"))
}

pub(super) fn percentile(_cx: &Ctx, _call: &Call, _ignore: u8) -> Result<()> {
    Err(Error::internal("not written yet"))
}

pub(super) fn keep_reliable(_cx: &Ctx, _call: &Call, _ignore: u8) -> Result<()> {
    Err(Error::internal("not written yet"))
}

pub(super) fn add_scores(_cx: &Ctx, _call: &Call, _flip: bool, _softmax: bool) -> Result<()> {
    Err(Error::internal("not written yet"))
}

pub(super) fn finish_scores(_cx: &Ctx, _call: &Call, _softmax: bool) -> Result<()> {
    Err(Error::internal("not written yet"))
}
