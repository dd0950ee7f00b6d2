//! Launchers of the contrastive half of U2PL: which pixels are anchors, positives and negatives
//! ([`partition`], `kernels/partition.cu`), the memory bank and prototypes ([`bank`],
//! `kernels/memory_bank.cu`), the loss ([`info_nce`], `kernels/info_nce.cu`).

mod bank;
mod info_nce;
mod partition;

pub(super) use bank::{bank_push, prototype};
pub(super) use info_nce::{info_nce, info_nce_backward};
pub(super) use partition::{compact, partition};

use super::Launcher;
use super::driver::Ptr;
use crate::device::{DType, Op, View};
use crate::error::Result;

/// Scratch bytes of a call.
pub(super) fn workspace(op: &Op, ins: &[View], outs: &[View]) -> usize {
    match op {
        Op::Compact { .. } => partition::compact_workspace(ins, outs),
        Op::Prototype => bank::prototype_workspace(ins),
        Op::InfoNce(a) => info_nce::forward_workspace(a),
        Op::InfoNceBackward(a, _) => info_nce::backward_workspace(a, ins),
        _ => 0,
    }
}

/// A size as the kernels' `uint32_t`, with room to add two of them.
fn size(cx: &Launcher, value: usize) -> Result<u32> {
    u32::try_from(value)
        .ok()
        .filter(|&v| v < 1 << 31)
        .ok_or_else(|| cx.wrong(&format!("a size of {value}")))
}

/// Rows of f32 that kernels read: where the first starts, and the distance between two.
struct Rows {
    data: Ptr,
    ld: u64,
    /// All start on 16 bytes and are a multiple of 16 bytes long.
    aligned: bool,
}

impl Rows {
    fn new(cx: &Launcher, view: &View) -> Result<Self> {
        let data = cx.ptr(view, DType::F32)?;
        let fours = view.ld.is_multiple_of(4) && view.channels().is_multiple_of(4);
        Ok(Self {
            data,
            ld: view.ld as u64,
            aligned: data.0.is_multiple_of(16) && fours,
        })
    }
}

/// What [`Op::Compact`] leaves: per class a list of pixels, and counts.
struct Lists {
    list: Ptr,
    ld: u64,
    width: u32,
    counts: Ptr,
    classes: usize,
}

impl Lists {
    fn new(cx: &Launcher, list: &View, counts: &View) -> Result<Self> {
        let [_, _, classes, width] = list.shape;
        Ok(Self {
            list: cx.ptr(list, DType::U32)?,
            ld: list.ld as u64,
            width: size(cx, width)?,
            counts: counts_of(cx, counts, classes)?,
            classes,
        })
    }
}

/// A `u32 [1, 1, 2, C]` of counts, or a cursor.
fn counts_of(cx: &Launcher, counts: &View, classes: usize) -> Result<Ptr> {
    if counts.shape != [1, 1, 2, classes] {
        return Err(cx.wrong(&format!("expected [1, 1, 2, {classes}], got {counts:?}")));
    }
    cx.dense(counts, DType::U32)
}

/// The rings of a bank of `slots` entries as a table in device memory: first slots, then
/// capacities.
fn rings(cx: &Launcher, capacities: &[u32], slots: usize) -> Result<Ptr> {
    let mut start = 0;
    let mut table = Vec::with_capacity(2 * capacities.len());
    for &capacity in capacities {
        table.push(size(cx, start)?);
        start += capacity as usize;
    }
    if size(cx, start)? as usize != slots {
        return Err(cx.wrong(&format!(
            "capacities sum to {start}, the bank has {slots} slots"
        )));
    }
    table.extend_from_slice(capacities);
    cx.constant(&table)
}
