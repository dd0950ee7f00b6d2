//! Launchers of `kernels/metrics.cu`.

use super::Launcher;
use super::kernels::{self, ConfusionArgs, LabelConfusionArgs, MatrixArgs};
use super::upsample::{Upsampling, aligned, dense_map};
use crate::device::DType;
use crate::error::Result;

/// Counts that a block may keep in shared memory, bytes; larger matrices are counted in place.
const SHARED_COUNTS: usize = 16 * 1024;

/// The matrix that output 0 is, zeroed unless the counts accumulate, and a block's counts in bytes.
fn matrix(cx: &Launcher) -> Result<(MatrixArgs, usize)> {
    let view = cx.output(0)?;
    let classes = match view.shape {
        [1, 1, rows, columns] if rows == columns && (1..=256).contains(&rows) => rows,
        _ => return Err(cx.wrong(&format!("expected a matrix [1, 1, C, C], got {view:?}"))),
    };
    let bytes = 4 * classes * classes;
    let shared = bytes <= SHARED_COUNTS;
    let args = MatrixArgs {
        cells: cx.ptr(view, DType::U32)?,
        ld: view.ld as u64,
        classes: classes as u32,
        shared: u32::from(shared),
    };
    if !cx.call.accumulates(0) {
        let clear = kernels::CONFUSION_CLEAR;
        cx.launch(clear, cx.stride_grid(&clear, classes * classes), 0, &args)?;
    }
    Ok((args, if shared { bytes } else { 0 }))
}

/// Blocks that share `work` pieces: eight per multiprocessor.
fn blocks(cx: &Launcher, work: usize) -> usize {
    work.min(8 * cx.limits().multiprocessors as usize)
}

/// [`crate::device::Op::Confusion`].
pub(super) fn confusion(cx: &Launcher, ignore: u8) -> Result<()> {
    let (logits, label) = (cx.input(0)?, cx.input(1)?);
    let (matrix, counts) = matrix(cx)?;
    if logits.channels() != matrix.classes as usize || logits.shape[0] != label.shape[0] {
        return Err(cx.wrong(&format!("expected logits [B, h, w, C], got {logits:?}")));
    }
    let up = Upsampling::new(cx, logits, label.shape[1], label.shape[2])?;
    let args = ConfusionArgs {
        u: up.args,
        matrix,
        truth: dense_map(cx, label, label, DType::U8)?,
        runs: up.runs as u64,
        ignore: u32::from(ignore),
        pad: 0,
    };
    let grid = [blocks(cx, up.runs), 1, 1];
    cx.launch(kernels::CONFUSION, grid, up.shared_bytes + counts, &args)
}

/// [`crate::device::Op::LabelConfusion`].
pub(super) fn label_confusion(cx: &Launcher, ignore: u8) -> Result<()> {
    let map = cx.input(0)?;
    let (matrix, counts) = matrix(cx)?;
    let truth = dense_map(cx, map, map, DType::U8)?;
    let prediction = dense_map(cx, cx.input(1)?, map, DType::U8)?;
    let args = LabelConfusionArgs {
        matrix,
        truth,
        prediction,
        n: map.elements() as u64,
        ignore: u32::from(ignore),
        aligned: aligned(&[(truth, 16), (prediction, 16)]),
    };
    let kernel = kernels::LABEL_CONFUSION;
    let pieces = map.elements().div_ceil(16 * kernel.info.threads as usize);
    cx.launch(kernel, [blocks(cx, pieces), 1, 1], counts, &args)
}
