//! resize

use super::super::Call;
use super::memory::Ctx;
use crate::error::{Error, Result};

pub(super) fn resize(_cx: &Ctx, _call: &Call) -> Result<()> {
    Err(Error::internal("not written yet"))
}

pub(super) fn resize_backward(_cx: &Ctx, _call: &Call) -> Result<()> {
    Err(Error::internal("not written yet"))
}
