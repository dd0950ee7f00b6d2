//! Launchers of `kernels/loss.cu`.

use super::Launcher;
use super::driver::Ptr;
use super::kernels::{self, GatherArgs, LossArgs, LossStatsArgs};
use super::upsample::{SCRATCH_ALIGN, Upsampling, dense_map, runs, scratch, vector};
use crate::device::op::CeNorm;
use crate::device::{DType, Op, View};
use crate::error::Result;

/// Scratch bytes of a call.
pub(super) fn workspace(op: &Op, ins: &[View]) -> usize {
    let Some(label) = ins.get(1) else { return 0 };
    match op {
        Op::CrossEntropy { .. } => runs(label.shape) * kernels::LOSS_PART_BYTES + SCRATCH_ALIGN,
        Op::CrossEntropyBackward { .. } => {
            label.pixels() * kernels::LOSS_PIXEL_BYTES + SCRATCH_ALIGN
        }
        _ => 0,
    }
}

/// Logits against labels: what the kernels of the loss share. `threshold` is that input, if any.
fn operands(cx: &Launcher, ignore: u8, threshold: usize) -> Result<(LossArgs, Upsampling)> {
    let (logits, label) = (cx.input(0)?, cx.input(1)?);
    if logits.shape[0] != label.shape[0] {
        return Err(cx.wrong("expected a label map per image"));
    }
    let up = Upsampling::new(cx, logits, label.shape[1], label.shape[2])?;
    let args = LossArgs {
        u: up.args,
        label: dense_map(cx, label, label, DType::U8)?,
        threshold: match cx.call.ins.get(threshold) {
            Some(view) => vector(cx, view, 1)?,
            None => Ptr::NULL,
        },
        stats: Ptr::NULL,
        out: Ptr::NULL,
        ignore: u32::from(ignore),
        weight: 0.0,
    };
    Ok((args, up))
}

/// [`Op::CrossEntropy`].
pub(super) fn cross_entropy(cx: &Launcher, ignore: u8, norm: CeNorm) -> Result<()> {
    let (mut args, up) = operands(cx, ignore, 2)?;
    args.out = scratch(cx, up.runs * kernels::LOSS_PART_BYTES)?;
    cx.launch(
        kernels::CROSS_ENTROPY_PARTS,
        [up.runs, 1, 1],
        up.shared_bytes,
        &args,
    )?;
    let stats = LossStatsArgs {
        parts: args.out,
        stats: vector(cx, cx.output(0)?, 4)?,
        count: up.runs as u64,
        pixels: cx.input(1)?.pixels() as u64,
        norm: match norm {
            CeNorm::Valid => kernels::OVER_VALID as u32,
            CeNorm::ValidTimesAllOverValid => kernels::ALL_OVER_VALID as u32,
            CeNorm::All => kernels::OVER_ALL as u32,
        },
        pad: 0,
    };
    cx.launch(kernels::CROSS_ENTROPY_STATS, [1, 1, 1], 0, &stats)
}

/// [`Op::CrossEntropyBackward`].
pub(super) fn cross_entropy_backward(cx: &Launcher, ignore: u8, weight: f32) -> Result<()> {
    let (logits, out) = (cx.input(0)?, cx.output(0)?);
    if out.shape != logits.shape {
        return Err(cx.wrong(&format!("expected the shape of the logits, got {out:?}")));
    }
    let (mut args, up) = operands(cx, ignore, 3)?;
    args.stats = vector(cx, cx.input(2)?, 4)?;
    args.weight = weight;
    args.out = scratch(cx, cx.input(1)?.pixels() * kernels::LOSS_PIXEL_BYTES)?;
    cx.launch(
        kernels::CROSS_ENTROPY_PIXELS,
        [up.runs, 1, 1],
        up.shared_bytes,
        &args,
    )?;
    gather(cx, &args, out)
}

/// Low-resolution rows of a block of the gather.
const TILE_ROWS: usize = 8;

/// Low-resolution columns of a block of the gather, at most.
const TILE_COLUMNS: usize = 16;

/// Classes of a block of the gather, at most; with these its shared memory stays under 48 KiB.
const GROUP: usize = 32;

/// The gradients of the label pixels, summed to the low-resolution logits.
fn gather(cx: &Launcher, loss: &LossArgs, out: &View) -> Result<()> {
    let [batch, h, w, classes] = out.shape;
    let kernel = kernels::CROSS_ENTROPY_GATHER;
    let threads = kernel.info.threads as usize;
    let groups = classes.div_ceil(GROUP);
    let group = classes.div_ceil(groups);
    let tile_w = (threads / group).min(TILE_COLUMNS).min(w);
    let tile_h = TILE_ROWS.min(h);
    // About as many label columns touch a tile; a chunk takes whole rows of them.
    let width = loss.u.width as usize;
    let columns = match w {
        1 => width,
        _ => ((tile_w + 1) * width.saturating_sub(1))
            .div_ceil(w - 1)
            .min(width),
    };
    let rows = (threads / columns.max(1)).clamp(1, kernels::GATHER_ROWS);
    let args = GatherArgs {
        u: loss.u,
        pixels: loss.out,
        dlogits: cx.ptr(out, DType::F32)?,
        ld: out.ld as u64,
        tile_h: tile_h as u32,
        tile_w: tile_w as u32,
        group: group as u32,
        rows: rows as u32,
        accumulate: u32::from(cx.call.accumulates(0)),
        pad: 0,
    };
    let blocks = w.div_ceil(tile_w) * h.div_ceil(tile_h) * groups * batch;
    let shared = 4 * (group | 1) * ((tile_h + 2) * (tile_w + 2) + threads);
    cx.launch(kernel, [blocks, 1, 1], shared, &args)
}

/// [`Op::TargetProbability`].
pub(super) fn target_probability(cx: &Launcher, ignore: u8) -> Result<()> {
    let (mut args, up) = operands(cx, ignore, usize::MAX)?;
    args.out = dense_map(cx, cx.output(0)?, cx.input(1)?, DType::F32)?;
    cx.launch(
        kernels::TARGET_PROBABILITY,
        [up.runs, 1, 1],
        up.shared_bytes,
        &args,
    )
}
