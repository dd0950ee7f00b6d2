//! Instructions that only sm_90 has.

use super::warp::Warp;
use super::{Common, Next, Stop};
use crate::ptx::program::hopper::HopperOp;

/// What a block keeps for them.
#[derive(Default)]
pub struct State {}

/// Executes one.
pub fn step(
    op: &HopperOp,
    _warps: &mut [Warp],
    _w: usize,
    _common: &mut Common<'_>,
    _active: u32,
) -> Result<Next, Stop> {
    match *op {}
}

/// Whether a warp that waits ([`super::warp::Status::Blocked`]) may go on.
pub fn may_go(_common: &Common<'_>, _warp: &Warp) -> bool {
    true
}

/// What must hold when a block ends.
pub fn end(_common: &mut Common<'_>) -> Result<(), String> {
    Ok(())
}
