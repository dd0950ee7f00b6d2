//! [`crate::device::Op::Partition`] and [`crate::device::Op::Compact`].

use super::super::Launcher;
use super::super::kernels::{self, CompactArgs, PartitionArgs};
use super::size;
use crate::device::op::{NegativePixels, Partition, Variant};
use crate::device::{DType, View};
use crate::error::Result;

/// Chunks that `compact` aims at: a block adds up the counts of all chunks before its own.
const CHUNKS: usize = 256;

pub(in super::super) fn partition(cx: &Launcher, p: &Partition) -> Result<()> {
    let (logits, label_l, label_u) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let (entropy_u, thresholds) = (cx.input(3)?, cx.input(4)?);
    let [batch, h, w, classes] = logits.shape;
    let [images_l, height, width, _] = label_l.shape;
    if classes != p.classes || logits.elements() == 0 || classes > 255 {
        return Err(cx.wrong(&format!("expected logits of all classes, got {logits:?}")));
    }
    let images_u = label_u.shape[0];
    let maps = [images_u, height, width, 1];
    let fit = label_l.shape[3] == 1 && label_u.shape == maps && entropy_u.shape == maps;
    if !fit || images_l + images_u != batch || height == 0 || width == 0 {
        return Err(cx.wrong("label maps of one size, an image for each of the logits'"));
    }
    if thresholds.elements() != 3 {
        return Err(cx.wrong(&format!("expected thresholds f32[3], got {thresholds:?}")));
    }
    let mask = |i| {
        let out = cx.output(i)?;
        if out.shape != [batch, h, w, classes.div_ceil(32)] {
            return Err(cx.wrong(&format!("expected masks [B, h, w, Wd], got {out:?}")));
        }
        cx.dense(out, DType::U32)
    };
    cx.ptr(logits, DType::F32)?;
    let args = PartitionArgs {
        logits: cx.map(logits)?,
        label_l: cx.dense(label_l, DType::U8)?,
        label_u: cx.dense(label_u, DType::U8)?,
        entropy_u: cx.dense(entropy_u, DType::F32)?,
        thresholds: cx.dense(thresholds, DType::F32)?,
        anchors: mask(0)?,
        positives: mask(1)?,
        negatives: mask(2)?,
        images_l: size(cx, images_l)?,
        images_u: size(cx, images_u)?,
        height: size(cx, height)?,
        width: size(cx, width)?,
        ignore: u32::from(p.ignore),
        low_rank: p.low_rank,
        high_rank: p.high_rank,
        released: u32::from(p.variant == Variant::Released),
        delta_p: p.delta_p,
        unlabeled: match p.unlabeled {
            NegativePixels::Unreliable => kernels::UNRELIABLE as u32,
            NegativePixels::Reliable => kernels::RELIABLE as u32,
            NegativePixels::All => kernels::EVERY as u32,
            NegativePixels::Labeled => kernels::LABELED_ONLY as u32,
        },
    };
    let shared = kernels::PARTITION_PIXELS * (classes | 1) * size_of::<f32>();
    let grid = [logits.pixels().div_ceil(kernels::PARTITION_PIXELS), 1, 1];
    cx.launch(kernels::PARTITION, grid, shared, &args)
}

/// Words of 32 classes, chunks of pixels, and pixels of a warp within a chunk.
fn split(pixels: usize, classes: usize) -> (usize, usize, usize) {
    let strip = pixels
        .div_ceil(CHUNKS * kernels::COMPACT_WARPS)
        .next_multiple_of(32)
        .max(32);
    let chunks = pixels.div_ceil(strip * kernels::COMPACT_WARPS).max(1);
    (classes.div_ceil(32), chunks, strip)
}

/// Counts per chunk and class, all and labelled.
pub(super) fn compact_workspace(ins: &[View], outs: &[View]) -> usize {
    let (Some(bits), Some(list)) = (ins.first(), outs.first()) else {
        return 0;
    };
    let (words, chunks, _) = split(bits.pixels(), list.shape[2]);
    2 * chunks * words * 32 * size_of::<u32>()
}

pub(in super::super) fn compact(cx: &Launcher, labeled_pixels: usize) -> Result<()> {
    let (bits, list, counts) = (cx.input(0)?, cx.output(0)?, cx.output(1)?);
    let [_, _, classes, width] = list.shape;
    let pixels = bits.pixels();
    if width < pixels || bits.channels() * 32 < classes || classes == 0 {
        return Err(cx.wrong(&format!(
            "a list for every pixel and class of {bits:?}: {list:?}"
        )));
    }
    let (words, chunks, strip) = split(pixels, classes);
    let args = CompactArgs {
        bits: cx.ptr(bits, DType::U32)?,
        list: cx.ptr(list, DType::U32)?,
        counts: super::counts_of(cx, counts, classes)?,
        sums: cx.workspace()?.0,
        bits_ld: bits.ld as u64,
        list_ld: list.ld as u64,
        pixels: size(cx, pixels)?,
        labeled: size(cx, labeled_pixels.min(pixels))?,
        classes: size(cx, classes)?,
        strip: size(cx, strip)?,
    };
    let grid = [chunks, words, 1];
    cx.launch(kernels::COMPACT_COUNT, grid, 0, &args)?;
    cx.launch(kernels::COMPACT_WRITE, grid, 0, &args)
}
