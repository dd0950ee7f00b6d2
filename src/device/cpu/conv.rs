//! conv

use super::super::Call;
use super::super::View;
use super::super::op::Window;
use super::memory::Ctx;
use crate::error::{Error, Result};

pub(super) fn forward(_cx: &Ctx, _call: &Call, _w: Window) -> Result<()> {
    Err(Error::internal("not written yet"))
}

pub(super) fn dgrad(_cx: &Ctx, _call: &Call, _w: Window) -> Result<()> {
    Err(Error::internal("not written yet"))
}

pub(super) fn wgrad(_cx: &Ctx, _call: &Call, _w: Window) -> Result<()> {
    Err(Error::internal("not written yet"))
}

pub(super) fn forward_workspace(
    _w: Window,
    _ins: &[View],
    _outs: &[View],
    _threads: usize,
) -> usize {
    0
}

pub(super) fn dgrad_workspace(_w: Window, _ins: &[View], _outs: &[View], _threads: usize) -> usize {
    0
}

pub(super) fn wgrad_workspace(_w: Window, _ins: &[View], _outs: &[View], _threads: usize) -> usize {
    0
}
