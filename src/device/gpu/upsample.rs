//! Geometry of the kernels that upsample logits on the fly (`kernels/include/upsample.cuh`), and
//! operand checks that their launchers share.

use super::Launcher;
use super::driver::Ptr;
use super::kernels::{self, UpsampleArgs};
use crate::device::{DType, View};
use crate::error::Result;

/// Shared memory for low-resolution columns, bytes: with the counts of a confusion matrix it stays
/// within the 48 KiB that every GPU gives unasked.
const COLUMN_BYTES: usize = 32 * 1024;

/// Classes that a byte can name.
const MAX_CLASSES: usize = 256;

/// Alignment of the workspace's contents, bytes.
pub(super) const SCRATCH_ALIGN: usize = 16;

/// Logits seen at label resolution.
pub(super) struct Upsampling {
    /// For the kernel.
    pub(super) args: UpsampleArgs,
    /// Runs of output pixels over the batch: blocks of the grid.
    pub(super) runs: usize,
    /// Shared memory of a block, bytes.
    pub(super) shared_bytes: usize,
}

/// Runs of a row of `width` pixels: the fewest that fit a block's threads, then equally long.
fn run_of(width: usize) -> usize {
    width
        .div_ceil(width.div_ceil(kernels::UPSAMPLE_THREADS).max(1))
        .max(1)
}

/// Runs of output pixels of a batch of maps; a shape alone decides, so sums by run do not depend
/// on the device.
pub(super) fn runs([batch, height, width, _]: [usize; 4]) -> usize {
    batch * height * width.div_ceil(run_of(width))
}

/// Input positions that `n` outputs span at most, when `input` become `output`.
fn span(input: usize, output: usize, n: usize) -> usize {
    let scale = match output {
        0 | 1 => 0.0,
        _ => (input - 1) as f32 / (output - 1) as f32,
    };
    ((n - 1) as f32 * scale) as usize + 4
}

/// Floats between columns in shared memory (`stride_of`).
fn stride_of(classes: usize) -> usize {
    classes | 1
}

impl Upsampling {
    /// Of `logits` to `height × width`.
    pub(super) fn new(cx: &Launcher, logits: &View, height: usize, width: usize) -> Result<Self> {
        let run = run_of(width);
        Self::with_columns(cx, logits, height, width, span(logits.shape[2], width, run))
    }

    /// Of `logits` to a window of unknown size within `height × width`.
    pub(super) fn within(
        cx: &Launcher,
        logits: &View,
        height: usize,
        width: usize,
    ) -> Result<Self> {
        Self::with_columns(cx, logits, height, width, logits.shape[2])
    }

    fn with_columns(
        cx: &Launcher,
        logits: &View,
        height: usize,
        width: usize,
        columns: usize,
    ) -> Result<Self> {
        let [batch, h, w, classes] = logits.shape;
        if classes == 0 || classes > MAX_CLASSES || h == 0 || w == 0 {
            return Err(cx.wrong(&format!(
                "logits with pixels and 1 to 256 classes: {logits:?}"
            )));
        }
        // A coordinate must survive f32.
        if [h, w, height, width].iter().any(|&n| n > 1 << 24) {
            return Err(cx.wrong("a side over 2^24"));
        }
        let bytes = 4 * stride_of(classes);
        let columns = columns.min(w).min(COLUMN_BYTES / bytes);
        let args = UpsampleArgs {
            logits: cx.ptr(logits, DType::F32)?,
            ld: logits.ld as u64,
            batch: batch as u32,
            h: h as u32,
            w: w as u32,
            classes: classes as u32,
            height: height as u32,
            width: width as u32,
            run: run_of(width) as u32,
            columns: columns as u32,
        };
        Ok(Self {
            args,
            runs: runs([batch, height, width, 1]),
            shared_bytes: columns * bytes,
        })
    }
}

/// Address of a dense one-channel map of `like`'s size.
pub(super) fn dense_map(cx: &Launcher, view: &View, like: &View, dtype: DType) -> Result<Ptr> {
    let [b, h, w, _] = like.shape;
    if view.shape != [b, h, w, 1] {
        return Err(cx.wrong(&format!("expected a map [{b}, {h}, {w}, 1], got {view:?}")));
    }
    cx.dense(view, dtype)
}

/// Address of a vector of `n` floats.
pub(super) fn vector(cx: &Launcher, view: &View, n: usize) -> Result<Ptr> {
    if view.elements() != n {
        return Err(cx.wrong(&format!("expected {n} floats, got {view:?}")));
    }
    cx.dense(view, DType::F32)
}

/// The workspace's address, aligned, after checking that it holds `bytes` + [`SCRATCH_ALIGN`].
pub(super) fn scratch(cx: &Launcher, bytes: usize) -> Result<Ptr> {
    let (ptr, size) = cx.workspace()?;
    if size < bytes + SCRATCH_ALIGN {
        return Err(cx.wrong(&format!("needs {bytes} bytes of workspace, got {size}")));
    }
    Ok(Ptr(ptr.0.next_multiple_of(SCRATCH_ALIGN as u64)))
}

/// Whether every address is a multiple of its number of bytes.
pub(super) fn aligned(addresses: &[(Ptr, u64)]) -> u32 {
    u32::from(addresses.iter().all(|(ptr, n)| ptr.0.is_multiple_of(*n)))
}
