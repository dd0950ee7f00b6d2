//! Instructions that only sm_90 has.

use super::decode::Decoder;
use super::resolve::Line;
use crate::ptx::Problem;
use crate::ptx::counters::Class;

/// What such an instruction does.
#[derive(Clone, Debug)]
pub enum HopperOp {}

/// Decodes a line, or `None` when the opcode is none of these.
pub fn decode(_line: &Line<'_>, _decoder: &mut Decoder<'_>) -> Result<Option<HopperOp>, Problem> {
    Ok(None)
}

/// The class that it is counted in.
pub fn class(op: &HopperOp) -> Class {
    match *op {}
}
