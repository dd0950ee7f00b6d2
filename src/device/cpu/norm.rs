//! norm

use super::super::Call;
use super::memory::Ctx;
use crate::error::{Error, Result};

pub(super) fn train(_cx: &Ctx, _call: &Call, _eps: f32, _momentum: f32, _relu: bool) -> Result<()> {
    Err(Error::internal("not written yet"))
}

pub(super) fn eval(_cx: &Ctx, _call: &Call, _eps: f32, _relu: bool) -> Result<()> {
    Err(Error::internal("not written yet"))
}

pub(super) fn backward(_cx: &Ctx, _call: &Call, _relu: bool) -> Result<()> {
    Err(Error::internal("not written yet"))
}
