//! Launchers of `kernels/select.cu`: exact order statistics.

use super::Launcher;
use super::driver::Ptr;
use super::kernels::{self, SelectArgs};
use super::upsample::{SCRATCH_ALIGN, aligned, dense_map, scratch, vector};
use crate::device::{DType, View};
use crate::error::Result;

/// Percentiles of one selection: two ranks each, and a histogram in shared memory for each rank.
const GROUP: usize = kernels::SELECT_TARGETS / 2;

/// Words of workspace that a selection of `targets` ranks takes: histograms, the valid count,
/// state.
const fn words(targets: usize) -> usize {
    4 * targets * kernels::SELECT_BINS + 1 + 4 * targets * 2
}

/// Scratch bytes of [`percentile`].
pub(super) fn percentile_workspace(ins: &[View]) -> usize {
    let k = ins.get(2).map_or(0, View::elements);
    4 * words(2 * k.min(GROUP)) + SCRATCH_ALIGN
}

/// Scratch bytes of [`ohem_threshold`].
pub(super) fn ohem_workspace() -> usize {
    4 * words(1) + SCRATCH_ALIGN
}

/// [`crate::device::Op::Percentile`].
pub(super) fn percentile(cx: &Launcher, ignore: u8) -> Result<()> {
    let (percents, out) = (cx.input(2)?, cx.output(0)?);
    let k = percents.elements();
    let (percents, out) = (vector(cx, percents, k)?, vector(cx, out, k)?);
    for first in (0..k).step_by(GROUP) {
        let mut args = operands(cx, 2 * GROUP.min(k - first))?;
        args.percents = percents.byte_add(4 * first);
        args.out = out.byte_add(4 * first);
        args.percentile = 1;
        args.ignore = u32::from(ignore);
        select(cx, args)?;
    }
    Ok(())
}

/// [`crate::device::Op::OhemThreshold`].
pub(super) fn ohem_threshold(
    cx: &Launcher,
    ignore: u8,
    thresh: f32,
    min_kept: usize,
) -> Result<()> {
    let mut args = operands(cx, 1)?;
    args.out = vector(cx, cx.output(0)?, 1)?;
    args.ignore = u32::from(ignore);
    // More than there are pixels is as good as any other such number.
    args.min_kept = u32::try_from(min_kept).unwrap_or(u32::MAX);
    args.thresh = thresh;
    select(cx, args)
}

/// What both have in common: values, labels, workspace for `targets` ranks.
fn operands(cx: &Launcher, targets: usize) -> Result<SelectArgs> {
    let (values, labels): (&View, &View) = (cx.input(0)?, cx.input(1)?);
    let n = values.elements();
    if u32::try_from(n).is_err() {
        return Err(cx.wrong("more than 2^32 values"));
    }
    let (values, labels) = (
        dense_map(cx, values, values, DType::F32)?,
        dense_map(cx, labels, values, DType::U8)?,
    );
    let histograms = scratch(cx, 4 * words(targets))?;
    let valid = histograms.byte_add(4 * (4 * targets * kernels::SELECT_BINS));
    Ok(SelectArgs {
        values,
        labels,
        percents: Ptr::NULL,
        out: Ptr::NULL,
        histograms,
        state: valid.byte_add(4),
        valid,
        n: n as u64,
        targets: targets as u32,
        pass: 0,
        percentile: 0,
        ignore: 0,
        min_kept: 0,
        thresh: 0.0,
        aligned: aligned(&[(values, 16), (labels, 4)]),
        pad: 0,
    })
}

fn select(cx: &Launcher, mut args: SelectArgs) -> Result<()> {
    let targets = args.targets as usize;
    let clear = kernels::SELECT_CLEAR;
    cx.launch(clear, cx.stride_grid(&clear, words(targets)), 0, &args)?;
    // A few blocks per multiprocessor: each adds its histograms to the grid's.
    let count = kernels::SELECT_COUNT;
    let most = 4 * cx.limits().multiprocessors as usize;
    let blocks = (args.n as usize).div_ceil(4096).clamp(1, most.max(1));
    for pass in 0..4 {
        args.pass = pass;
        let shared = 4 * kernels::SELECT_BINS * if pass == 0 { 1 } else { targets };
        cx.launch(count, [blocks, 1, 1], shared, &args)?;
    }
    cx.launch(kernels::SELECT_FINISH, [1, 1, 1], 0, &args)
}
