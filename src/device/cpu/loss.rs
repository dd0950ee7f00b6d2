//! loss

use super::super::Call;
use super::super::op::CeNorm;
use super::memory::Ctx;
use crate::error::{Error, Result};

pub(super) fn cross_entropy(_cx: &Ctx, _call: &Call, _ignore: u8, _norm: CeNorm) -> Result<()> {
    Err(Error::internal("not written yet"))
}

pub(super) fn cross_entropy_backward(
    _cx: &Ctx,
    _call: &Call,
    _ignore: u8,
    _weight: f32,
) -> Result<()> {
    Err(Error::internal("not written yet"))
}

pub(super) fn target_probability(_cx: &Ctx, _call: &Call, _ignore: u8) -> Result<()> {
    Err(Error::internal("not written yet"))
}

pub(super) fn ohem_threshold(
    _cx: &Ctx,
    _call: &Call,
    _ignore: u8,
    _thresh: f32,
    _min_kept: usize,
) -> Result<()> {
    Err(Error::internal("not written yet"))
}
