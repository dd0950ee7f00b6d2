//! mix

use super::super::Call;
use super::super::op::MixKind;
use super::memory::Ctx;
use crate::error::{Error, Result};

pub(super) fn mix(
    _cx: &Ctx,
    _call: &Call,
    _kind: MixKind,
    _prob: f32,
    _ignore: u8,
    _stream: u32,
) -> Result<()> {
    Err(Error::internal("not written yet"))
}
