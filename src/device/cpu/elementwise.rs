//! elementwise

use super::super::Call;
use super::super::op::SgdGroup;
use super::memory::Ctx;
use crate::error::{Error, Result};

pub(super) fn fill(_cx: &Ctx, _call: &Call, _value: f32) -> Result<()> {
    Err(Error::internal("not written yet"))
}

pub(super) fn copy(_cx: &Ctx, _call: &Call) -> Result<()> {
    Err(Error::internal("not written yet"))
}

pub(super) fn lerp(_cx: &Ctx, _call: &Call) -> Result<()> {
    Err(Error::internal("not written yet"))
}

pub(super) fn relu(_cx: &Ctx, _call: &Call) -> Result<()> {
    Err(Error::internal("not written yet"))
}

pub(super) fn relu_backward(_cx: &Ctx, _call: &Call) -> Result<()> {
    Err(Error::internal("not written yet"))
}

pub(super) fn dropout2d(_cx: &Ctx, _call: &Call, _p: f32, _stream: u32) -> Result<()> {
    Err(Error::internal("not written yet"))
}

pub(super) fn sgd_ema(_cx: &Ctx, _call: &Call, _momentum: f32, _groups: &[SgdGroup]) -> Result<()> {
    Err(Error::internal("not written yet"))
}
