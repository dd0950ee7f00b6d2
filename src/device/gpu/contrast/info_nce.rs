//! [`crate::device::Op::InfoNce`] and [`crate::device::Op::InfoNceBackward`].

use super::super::Launcher;
use super::super::driver::Ptr;
use super::super::kernels::{self, NceArgs, NceBackwardArgs, NceProblem};
use super::{Lists, Rows, counts_of, rings, size};
use crate::device::op::{InfoNce, Variant};
use crate::device::{DType, View};
use crate::error::Result;

/// Draws of anchors: M for each class.
fn draws(a: &InfoNce) -> usize {
    a.capacities.len() * a.anchors
}

/// A loss per draw.
pub(super) fn forward_workspace(a: &InfoNce) -> usize {
    draws(a) * size_of::<f32>()
}

/// Elements of the backward's scratch: a gradient per draw, each draw's pixel, and for each pixel
/// its lowest draw and its number of draws.
fn backward_parts(a: &InfoNce, rep: &View) -> [usize; 4] {
    let (draws, pixels) = (draws(a), rep.pixels());
    [draws * rep.channels(), draws, pixels, pixels]
}

pub(super) fn backward_workspace(a: &InfoNce, ins: &[View]) -> usize {
    ins.first().map_or(0, |rep| {
        backward_parts(a, rep).iter().sum::<usize>() * size_of::<f32>()
    })
}

/// The operands that both have.
fn problem(cx: &Launcher, a: &InfoNce) -> Result<NceProblem> {
    let (rep, prototype, bank, inv_norm) = (cx.input(0)?, cx.input(4)?, cx.input(5)?, cx.input(6)?);
    let lists = Lists::new(cx, cx.input(1)?, cx.input(2)?)?;
    let classes = lists.classes;
    let [_, _, slots, depth] = bank.shape;
    if depth != rep.channels() || prototype.shape != [1, 1, classes, depth] {
        return Err(cx.wrong(&format!(
            "prototypes and a bank as wide as the pixels, got {prototype:?}, {bank:?}"
        )));
    }
    if inv_norm.shape != [1, 1, 1, slots] || a.capacities.len() != classes {
        return Err(cx.wrong(&format!("a norm per slot, got {inv_norm:?}")));
    }
    let rng = cx.input(8)?;
    if rng.elements() != 4 {
        return Err(cx.wrong(&format!("expected the state of rng, got {rng:?}")));
    }
    size(cx, draws(a))?;
    let (z, positive, entry) = (
        Rows::new(cx, rep)?,
        Rows::new(cx, prototype)?,
        Rows::new(cx, bank)?,
    );
    Ok(NceProblem {
        rep: z.data,
        list: lists.list,
        counts: lists.counts,
        positives: counts_of(cx, cx.input(3)?, classes)?,
        prototype: positive.data,
        bank: entry.data,
        inv_norm: cx.dense(inv_norm, DType::F32)?,
        cursor: counts_of(cx, cx.input(7)?, classes)?,
        rings: rings(cx, &a.capacities, slots)?,
        rng: cx.dense(rng, DType::U32)?,
        rep_ld: z.ld,
        list_ld: lists.ld,
        prototype_ld: positive.ld,
        bank_ld: entry.ld,
        classes: size(cx, classes)?,
        depth: size(cx, depth)?,
        list_width: lists.width,
        anchors: size(cx, a.anchors)?,
        negatives: size(cx, a.negatives)?,
        stream: a.stream,
        released: u32::from(a.variant == Variant::Released),
        vec: u32::from(z.aligned && positive.aligned && entry.aligned),
        temperature: a.temperature,
        pad: 0,
    })
}

/// Shared memory of a block: the anchor and the small arrays.
fn shared_bytes(p: &NceProblem) -> usize {
    let row = (p.depth as usize).next_multiple_of(4);
    let small = 3 * (p.negatives as usize + 1);
    (row + small) * size_of::<f32>()
}

pub(in super::super) fn info_nce(cx: &Launcher, a: &InfoNce) -> Result<()> {
    let args = NceArgs {
        p: problem(cx, a)?,
        losses: cx.workspace()?.0,
        stats: stats(cx, cx.output(0)?)?,
    };
    let grid = [a.anchors, a.capacities.len(), 1];
    cx.launch(kernels::INFO_NCE, grid, shared_bytes(&args.p), &args)?;
    cx.launch(kernels::INFO_NCE_TOTAL, [1, 1, 1], 0, &args)
}

fn stats(cx: &Launcher, view: &View) -> Result<Ptr> {
    if view.elements() != 4 {
        return Err(cx.wrong(&format!("expected stats f32[4], got {view:?}")));
    }
    cx.dense(view, DType::F32)
}

pub(in super::super) fn info_nce_backward(cx: &Launcher, a: &InfoNce, weight: f32) -> Result<()> {
    let (rep, out) = (cx.input(0)?, cx.output(0)?);
    if out.shape != rep.shape {
        return Err(cx.wrong(&format!("expected the representation's shape, got {out:?}")));
    }
    let p = problem(cx, a)?;
    let shared = shared_bytes(&p);
    let [gradients, pixels, first, _] = backward_parts(a, rep).map(|n| n * size_of::<f32>());
    let drep = Rows::new(cx, out)?;
    let base = cx.workspace()?.0;
    let args = NceBackwardArgs {
        p,
        stats: stats(cx, cx.input(9)?)?,
        drep: drep.data,
        gradients: base,
        pixels: base.byte_add(gradients),
        first: base.byte_add(gradients + pixels),
        drawn: base.byte_add(gradients + pixels + first),
        drep_ld: drep.ld,
        map_pixels: size(cx, rep.pixels())?,
        accumulate: u32::from(cx.call.accumulates(0)),
        weight,
        pad: 0,
    };
    // nce_clear has a warp for each row that it zeroes.
    let clear = cx.stride_grid(&kernels::NCE_CLEAR, rep.pixels() * 32);
    cx.launch(kernels::NCE_CLEAR, clear, 0, &args)?;
    let grid = [a.anchors, a.capacities.len(), 1];
    cx.launch(kernels::NCE_GRADIENT, grid, shared, &args)?;
    let grid = [
        draws(a),
        rep.channels().div_ceil(kernels::NCE_SCATTER_CHANNELS),
        1,
    ];
    cx.launch(kernels::NCE_SCATTER, grid, 0, &args)
}
