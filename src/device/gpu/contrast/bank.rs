//! [`crate::device::Op::BankPush`] and [`crate::device::Op::Prototype`].

use super::super::Launcher;
use super::super::kernels::{self, BankPushArgs, PrototypeArgs};
use super::{Lists, Rows, counts_of, rings, size};
use crate::device::{DType, View};
use crate::error::Result;

/// Blocks per class at most: a class may have everything or nothing, and only the device knows.
const PUSH_BLOCKS: usize = 64;

/// Rows that a block of `bank_push` copies at once.
const PUSH_ROWS: usize = 8;

pub(in super::super) fn bank_push(cx: &Launcher, capacities: &[u32]) -> Result<()> {
    let (rep, bank, inv_norm) = (cx.input(0)?, cx.output(0)?, cx.output(1)?);
    let lists = Lists::new(cx, cx.input(1)?, cx.input(2)?)?;
    let [_, _, slots, depth] = bank.shape;
    if depth != rep.channels() || capacities.len() != lists.classes {
        return Err(cx.wrong(&format!("entries as wide as the pixels, got {bank:?}")));
    }
    if inv_norm.shape != [1, 1, 1, slots] {
        return Err(cx.wrong(&format!("a norm per slot, got {inv_norm:?}")));
    }
    let (from, to) = (Rows::new(cx, rep)?, Rows::new(cx, bank)?);
    let args = BankPushArgs {
        rep: from.data,
        list: lists.list,
        counts: lists.counts,
        bank: to.data,
        inv_norm: cx.dense(inv_norm, DType::F32)?,
        cursor: counts_of(cx, cx.output(2)?, lists.classes)?,
        rings: rings(cx, capacities, slots)?,
        rep_ld: from.ld,
        list_ld: lists.ld,
        bank_ld: to.ld,
        classes: size(cx, lists.classes)?,
        depth: size(cx, depth)?,
        list_width: lists.width,
        vec: u32::from(from.aligned && to.aligned),
    };
    let largest = capacities.iter().copied().max().unwrap_or(0) as usize;
    let rows = largest.min(rep.pixels());
    if rows == 0 {
        return Ok(());
    }
    let blocks = rows.div_ceil(PUSH_ROWS).min(PUSH_BLOCKS);
    cx.launch(kernels::BANK_PUSH, [blocks, lists.classes, 1], 0, &args)?;
    // Every block of the push reads the cursor: it moves when all are done.
    cx.launch(kernels::BANK_ADVANCE, [1, 1, 1], 0, &args)
}

/// Parts that the longest list can fall into.
fn splits(list: &View) -> usize {
    list.channels().div_ceil(kernels::PROTOTYPE_PART)
}

/// A sum in f64 per class, part and channel.
pub(super) fn prototype_workspace(ins: &[View]) -> usize {
    let [rep, list, ..] = ins else {
        return 0;
    };
    list.shape[2] * splits(list) * rep.channels() * size_of::<f64>()
}

pub(in super::super) fn prototype(cx: &Launcher) -> Result<()> {
    let (rep, list, out) = (cx.input(0)?, cx.input(1)?, cx.output(0)?);
    let lists = Lists::new(cx, list, cx.input(2)?)?;
    let depth = rep.channels();
    if out.shape != [1, 1, lists.classes, depth] {
        return Err(cx.wrong(&format!("a prototype per class, got {out:?}")));
    }
    let from = Rows::new(cx, rep)?;
    let args = PrototypeArgs {
        rep: from.data,
        list: lists.list,
        counts: lists.counts,
        prototype: cx.ptr(out, DType::F32)?,
        parts: cx.workspace()?.0,
        rep_ld: from.ld,
        list_ld: lists.ld,
        out_ld: out.ld as u64,
        depth: size(cx, depth)?,
        list_width: lists.width,
        splits: size(cx, splits(list))?,
        vec: u32::from(from.aligned),
    };
    let sums = [
        splits(list),
        depth.div_ceil(kernels::PROTOTYPE_SUM_CHANNELS),
        lists.classes,
    ];
    cx.launch(kernels::PROTOTYPE_SUM, sums, 0, &args)?;
    let means = [
        depth.div_ceil(kernels::PROTOTYPE_MEAN_CHANNELS),
        lists.classes,
        1,
    ];
    cx.launch(kernels::PROTOTYPE_MEAN, means, 0, &args)
}
