//! Launchers of `kernels/entropy.cu`.

use super::Launcher;
use super::driver::Ptr;
use super::kernels::{self, AddScoresArgs, FinishScoresArgs, KeepReliableArgs, SoftmaxEntropyArgs};
use super::upsample::{Upsampling, aligned, dense_map, vector};
use crate::device::{DType, View};
use crate::error::Result;

/// Shared memory for staged scores, bytes.
const STAGE_BYTES: usize = 32 * 1024;

/// The entropy, argmax and confidence maps of a call, of one size.
fn prediction_maps(cx: &Launcher, like: &View) -> Result<[Ptr; 3]> {
    Ok([
        dense_map(cx, cx.output(0)?, like, DType::F32)?,
        dense_map(cx, cx.output(1)?, like, DType::U8)?,
        dense_map(cx, cx.output(2)?, like, DType::F32)?,
    ])
}

/// [`crate::device::Op::SoftmaxEntropy`].
pub(super) fn softmax_entropy(cx: &Launcher, log_eps: f32) -> Result<()> {
    let (logits, map) = (cx.input(0)?, cx.output(0)?);
    let [batch, height, width, _] = map.shape;
    if logits.shape[0] != batch {
        return Err(cx.wrong("expected one map per image"));
    }
    let up = Upsampling::new(cx, logits, height, width)?;
    let [entropy, argmax, confidence] = prediction_maps(cx, map)?;
    let args = SoftmaxEntropyArgs {
        u: up.args,
        entropy,
        argmax,
        confidence,
        log_eps,
        pad: 0,
    };
    cx.launch(
        kernels::SOFTMAX_ENTROPY,
        [up.runs, 1, 1],
        up.shared_bytes,
        &args,
    )
}

/// [`crate::device::Op::KeepReliable`].
pub(super) fn keep_reliable(cx: &Launcher, ignore: u8) -> Result<()> {
    let map = cx.input(0)?;
    let label = dense_map(cx, map, map, DType::U8)?;
    let entropy = dense_map(cx, cx.input(1)?, map, DType::F32)?;
    let kept = dense_map(cx, cx.output(0)?, map, DType::U8)?;
    let args = KeepReliableArgs {
        label,
        entropy,
        threshold: vector(cx, cx.input(2)?, 1)?,
        kept,
        n: map.elements() as u64,
        ignore: u32::from(ignore),
        aligned: aligned(&[(label, 4), (entropy, 16), (kept, 4)]),
    };
    let kernel = kernels::KEEP_RELIABLE;
    let grid = cx.stride_grid(&kernel, map.elements().div_ceil(4));
    cx.launch(kernel, grid, 0, &args)
}

/// [`crate::device::Op::AddScores`]. The window is known to the device alone.
pub(super) fn add_scores(cx: &Launcher, flip: bool, softmax: bool) -> Result<()> {
    let (logits, window) = (cx.input(0)?, cx.input(1)?);
    let (scores, counts) = (cx.output(0)?, cx.output(1)?);
    let [batch, height, width, classes] = scores.shape;
    if batch != 1 || logits.shape[0] != 1 || logits.channels() != classes {
        return Err(cx.wrong("expected one image and its score map"));
    }
    if window.elements() != 4 || !window.is_dense() {
        return Err(cx.wrong("expected a window {y, x, height, width}"));
    }
    let up = Upsampling::within(cx, logits, height, width)?;
    let args = AddScoresArgs {
        u: up.args,
        window: cx.ptr(window, DType::U32)?,
        scores: cx.ptr(scores, DType::F32)?,
        scores_ld: scores.ld as u64,
        counts: dense_map(cx, counts, scores, DType::F32)?,
        flip: u32::from(flip),
        softmax: u32::from(softmax),
    };
    cx.launch(kernels::ADD_SCORES, [up.runs, 1, 1], up.shared_bytes, &args)
}

/// [`crate::device::Op::FinishScores`].
pub(super) fn finish_scores(cx: &Launcher, softmax: bool) -> Result<()> {
    let (scores, counts) = (cx.input(0)?, cx.input(1)?);
    let classes = scores.channels();
    if classes == 0 || classes > 256 {
        return Err(cx.wrong("expected 1 to 256 classes"));
    }
    let [entropy, argmax, confidence] = prediction_maps(cx, scores)?;
    let kernel = kernels::FINISH_SCORES;
    let pixel_bytes = 4 * (classes | 1);
    let run = (STAGE_BYTES / pixel_bytes).min(kernel.info.threads as usize);
    let args = FinishScoresArgs {
        scores: cx.ptr(scores, DType::F32)?,
        ld: scores.ld as u64,
        counts: dense_map(cx, counts, scores, DType::F32)?,
        entropy,
        argmax,
        confidence,
        pixels: scores.pixels() as u64,
        classes: classes as u32,
        run: run as u32,
        softmax: u32::from(softmax),
        pad: 0,
    };
    let blocks = scores.pixels().div_ceil(run);
    cx.launch(kernel, [blocks, 1, 1], run * pixel_bytes, &args)
}
