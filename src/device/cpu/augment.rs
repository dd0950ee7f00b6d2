//! augment

use super::super::Call;
use super::super::op::Augment;
use super::memory::Ctx;
use crate::error::{Error, Result};

pub(super) fn augment(_cx: &Ctx, _call: &Call, _a: &Augment) -> Result<()> {
    Err(Error::internal("not written yet"))
}
