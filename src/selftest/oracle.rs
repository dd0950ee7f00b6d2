//! What a case must give: the CPU device's results, in f32 where the device works in bf16.

use std::ops::Range;

use super::layout::{Layout, Side, widened};
use super::runner::execute;
use super::{Case, Defined};
use crate::device::cpu::CpuDevice;
use crate::device::{DType, Op};

/// The CPU's results for one case.
#[derive(Clone, Debug)]
pub struct Expected {
    /// Packed elements per output; f32 where the case says bf16.
    pub outs: Vec<Vec<u8>>,
    /// The elements of each output that count.
    pub defined: Vec<Vec<Range<usize>>>,
}

/// Runs a case on the CPU device.
///
/// # Errors
/// The device's, as text.
pub fn expected(oracle: &CpuDevice, case: &Case) -> Result<Expected, String> {
    let plain = without_copies(case);
    let layout = Layout::new(&plain, Side::Oracle, 0);
    let mut outs = execute(oracle, &plain, layout)?;
    for (i, source) in (plain.outs.len()..case.outs.len()).zip([PARAMETER, TEACHER]) {
        let copy = copy_of(case, i, &outs[source]);
        outs.push(copy);
    }
    let ranges = |(i, operand): (usize, &super::Operand)| match &operand.defined {
        Defined::All => std::iter::once(0..operand.elements()).collect(),
        Defined::Ranges(ranges) => ranges.clone(),
        Defined::By(f) => {
            debug_assert!(i < outs.len());
            f(case, &outs)
        }
    };
    let defined = case.outs.iter().enumerate().map(ranges).collect();
    Ok(Expected { outs, defined })
}

/// Outputs that have bf16 copies, in the copies' order (what `Lerp` moves counts as parameters).
const PARAMETER: usize = 0;
const TEACHER: usize = 2;

/// bf16 copies that the operation writes beside its f32 outputs; in f32 there are none.
fn copies(case: &Case) -> usize {
    match case.op {
        Op::Lerp | Op::SgdEma { .. } => {
            let last = case.outs.iter().rev();
            last.take_while(|o| o.dtype == DType::BF16).count()
        }
        _ => 0,
    }
}

fn without_copies(case: &Case) -> Case {
    let mut plain = case.clone();
    plain.outs.truncate(case.outs.len() - copies(case));
    plain
}

/// The copy (output `i`) of an f32 output: equal to it, except in what the optimiser leaves
/// alone.
fn copy_of(case: &Case, i: usize, source: &[u8]) -> Vec<u8> {
    let Op::SgdEma { groups, .. } = &case.op else {
        return source.to_vec();
    };
    let operand = &case.outs[i];
    let mut copy = match &operand.data {
        Some(bytes) => widened(bytes, operand.dtype),
        None => vec![super::layout::NAN; source.len()],
    };
    for group in groups {
        let bytes = group.start * 4..(group.start + group.len) * 4;
        copy[bytes.clone()].copy_from_slice(&source[bytes]);
    }
    copy
}
