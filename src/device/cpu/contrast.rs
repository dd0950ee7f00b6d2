//! contrast

use super::super::Call;
use super::super::op::{InfoNce, Partition};
use super::memory::Ctx;
use crate::error::{Error, Result};

pub(super) fn partition(_cx: &Ctx, _call: &Call, _a: &Partition) -> Result<()> {
    Err(Error::internal("not written yet"))
}

pub(super) fn compact(_cx: &Ctx, _call: &Call, _labeled_pixels: usize) -> Result<()> {
    Err(Error::internal("not written yet"))
}

pub(super) fn bank_push(_cx: &Ctx, _call: &Call, _capacities: &[u32]) -> Result<()> {
    Err(Error::internal("not written yet"))
}

pub(super) fn prototype(_cx: &Ctx, _call: &Call) -> Result<()> {
    Err(Error::internal("not written yet"))
}

pub(super) fn info_nce(_cx: &Ctx, _call: &Call, _a: &InfoNce) -> Result<()> {
    Err(Error::internal("not written yet"))
}

pub(super) fn info_nce_backward(_cx: &Ctx, _call: &Call, _a: &InfoNce, _weight: f32) -> Result<()> {
    Err(Error::internal("not written yet"))
}
