//! A case with memory and data on a device, ready to run again and again.

use std::sync::Arc;

use super::cases::{Case, Operand};
use super::data;
use crate::device::{Call, Cost, DType, Device, View};
use crate::graph::exec::Arena;
use crate::{Error, Result};

/// Alignment of every operand, bytes: that of the planner.
const ALIGN: usize = 256;

/// Copies of `bytes` that together exceed a cache of `cache_bytes` twice over, so that the first
/// is gone from it when its turn comes again; at most `most`.
pub fn copies_to_exceed(bytes: usize, cache_bytes: usize, most: usize) -> usize {
    (2 * cache_bytes / bytes.max(1) + 1).clamp(1, most.max(1))
}

/// One or more copies of a case's operands in one arena, with a call for each.
pub struct Prepared {
    device: Arc<dyn Device>,
    arena: Arena,
    calls: Vec<Call>,
    next: usize,
    cost: Cost,
}

impl Prepared {
    /// Allocates `copies` (at least one) of the operands of `case` and fills them with random
    /// data that suits the operation: labels below the class count, lists in ascending order,
    /// positive variances. Every copy runs once, so that pages, plans and constants are in place.
    ///
    /// # Errors
    /// [`Error::Device`] when the memory is not there; the operation's own.
    pub fn new(case: &Case, device: &Arc<dyn Device>, copies: usize) -> Result<Self> {
        let (offsets, bytes) = layout(case, &**device);
        let copies = copies.max(1);
        let arena = Arena::new(device.clone(), bytes * copies)?;
        let values = data::values(case);
        let mut calls = Vec::with_capacity(copies);
        for copy in 0..copies {
            let call = offsets.call(case, arena.id(), copy * bytes);
            for (view, bytes) in call.ins.iter().zip(&values.ins) {
                write(&**device, view, bytes)?;
            }
            for (i, (view, bytes)) in call.outs.iter().zip(&values.outs).enumerate() {
                if !case.in_place.iter().any(|(out, _)| *out == i) {
                    write(&**device, view, bytes)?;
                }
            }
            calls.push(call);
        }
        let mut prepared = Self {
            device: device.clone(),
            arena,
            calls,
            next: 0,
            cost: case.cost(),
        };
        for _ in 0..copies {
            prepared.run().map_err(|e| match e {
                Error::Internal(problem) => Error::internal(format!("{}: {problem}", case.name)),
                other => other,
            })?;
        }
        Ok(prepared)
    }

    /// Runs the operation once, on the copy that was used longest ago. On a GPU it is queued, not
    /// waited for: time it with [`Device::time`].
    ///
    /// # Errors
    /// The device's.
    pub fn run(&mut self) -> Result<()> {
        let call = &self.calls[self.next];
        self.next = (self.next + 1) % self.calls.len();
        self.device.run(call)
    }

    /// The calls, one a copy.
    pub fn calls(&self) -> &[Call] {
        &self.calls
    }

    /// FLOPs and least bytes of one run.
    pub fn cost(&self) -> Cost {
        self.cost
    }

    /// Bytes that it holds on the device.
    pub fn bytes(&self) -> usize {
        self.arena.bytes()
    }
}

/// Bytes on `device` of one copy of `case`: operands, alignment and scratch.
pub(super) fn bytes_on(case: &Case, device: &dyn Device) -> usize {
    layout(case, device).1
}

/// Byte offsets within one copy.
struct Offsets {
    ins: Vec<usize>,
    outs: Vec<usize>,
    /// Offset and bytes.
    workspace: Option<(usize, usize)>,
}

impl Offsets {
    fn call(&self, case: &Case, arena: crate::device::ArenaId, base: usize) -> Call {
        let views = |operands: &[Operand], offsets: &[usize]| -> Vec<View> {
            let pairs = operands.iter().zip(offsets);
            pairs.map(|(o, at)| o.view(arena, base + at)).collect()
        };
        let workspace = self
            .workspace
            .map(|(at, bytes)| View::dense(arena, base + at, [1, 1, 1, bytes / 4], DType::F32));
        Call {
            op: case.op.clone(),
            ins: views(&case.ins, &self.ins),
            outs: views(&case.outs, &self.outs),
            accumulate: case.accumulate,
            workspace,
        }
    }
}

fn layout(case: &Case, device: &dyn Device) -> (Offsets, usize) {
    let mut end = 0;
    let mut place = |bytes: usize| {
        let at = end;
        end += bytes.next_multiple_of(ALIGN);
        at
    };
    let ins: Vec<usize> = case.ins.iter().map(|o| place(o.span_bytes())).collect();
    let mut outs = Vec::with_capacity(case.outs.len());
    for (i, operand) in case.outs.iter().enumerate() {
        let shared = case.in_place.iter().find(|(out, _)| *out == i);
        outs.push(match shared {
            Some((_, input)) => ins[*input],
            None => place(operand.span_bytes()),
        });
    }
    let mut offsets = Offsets {
        ins,
        outs,
        workspace: None,
    };
    let call = offsets.call(case, crate::device::ArenaId(0), 0);
    let scratch = device.workspace_bytes(&call.op, &call.ins, &call.outs);
    if scratch > 0 {
        let scratch = scratch.next_multiple_of(ALIGN);
        offsets.workspace = Some((place(scratch), scratch));
    }
    (offsets, end)
}

/// Fills a view, gaps included.
fn write(device: &dyn Device, view: &View, bytes: &[u8]) -> Result<()> {
    let dense = View::dense(view.arena, view.offset, [1, 1, 1, view.span()], view.dtype);
    device.write(&dense, bytes)
}
