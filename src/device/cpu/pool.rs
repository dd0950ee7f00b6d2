//! pool

use super::super::Call;
use super::super::op::Window;
use super::memory::Ctx;
use crate::error::{Error, Result};

pub(super) fn max_pool(_cx: &Ctx, _call: &Call, _size: usize, _window: Window) -> Result<()> {
    Err(Error::internal("not written yet"))
}

pub(super) fn max_pool_backward(
    _cx: &Ctx,
    _call: &Call,
    _size: usize,
    _window: Window,
) -> Result<()> {
    Err(Error::internal("not written yet"))
}

pub(super) fn global_avg_pool(_cx: &Ctx, _call: &Call) -> Result<()> {
    Err(Error::internal("not written yet"))
}

pub(super) fn global_avg_pool_backward(_cx: &Ctx, _call: &Call) -> Result<()> {
    Err(Error::internal("not written yet"))
}
