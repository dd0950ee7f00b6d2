//! Launchers of `kernels/mix.cu`.

use super::Launcher;
use super::driver::Ptr;
use super::kernels::{self, MixArgs};
use crate::device::op::MixKind;
use crate::device::{DType, Op, View};
use crate::error::Result;

/// Bytes of a bit per label.
const SET_BYTES: usize = kernels::MIX_SET_WORDS * size_of::<u32>();

/// Chunks of an image.
fn chunks(area: usize) -> usize {
    area.div_ceil(kernels::MIX_CHUNK_PIXELS)
}

/// Scratch bytes of a call: for classmix the classes present per chunk and those chosen per image.
pub(super) fn workspace(op: &Op, ins: &[View]) -> usize {
    match (op, ins.first()) {
        (Op::Mix { kind, .. }, Some(x)) if *kind == MixKind::ClassMix => {
            let [batch, height, width, _] = x.shape;
            batch * (chunks(height * width) + 1) * SET_BYTES
        }
        _ => 0,
    }
}

/// [`Op::Mix`].
pub(super) fn mix(cx: &Launcher, kind: MixKind, prob: f32, ignore: u8, stream: u32) -> Result<()> {
    let (x, label, extra, rng) = (cx.input(0)?, cx.input(1)?, cx.input(2)?, cx.input(3)?);
    let (x_out, label_out, extra_out) = (cx.output(0)?, cx.output(1)?, cx.output(2)?);
    let [batch, height, width, _] = x.shape;
    let map = [batch, height, width, 1];
    cx.want_shapes(&[
        (x, [batch, height, width, 3]),
        (label, map),
        (extra, map),
        (rng, [1, 1, 1, 4]),
        (x_out, x.shape),
        (label_out, map),
        (extra_out, map),
    ])?;
    let area = height * width;
    if area > 1 << 30 {
        return Err(cx.wrong("an image of more than 2^30 pixels"));
    }
    let (presence, chosen) = class_sets(cx, kind, batch, area)?;
    let args = MixArgs {
        x: cx.ptr(x, DType::F32)?,
        label: cx.ptr(label, DType::U8)?,
        extra: cx.ptr(extra, DType::U8)?,
        rng: cx.ptr(rng, DType::U32)?,
        x_out: cx.ptr(x_out, DType::F32)?,
        label_out: cx.ptr(label_out, DType::U8)?,
        extra_out: cx.ptr(extra_out, DType::U8)?,
        presence,
        chosen,
        x_ld: x.ld as u64,
        label_ld: label.ld as u64,
        extra_ld: extra.ld as u64,
        x_out_ld: x_out.ld as u64,
        label_out_ld: label_out.ld as u64,
        extra_out_ld: extra_out.ld as u64,
        batch: batch as u32,
        height: height as u32,
        width: width as u32,
        chunks: chunks(area) as u32,
        kind: match kind {
            MixKind::None => kernels::MIX_NONE as u32,
            MixKind::CutMix => kernels::MIX_CUT_MIX as u32,
            MixKind::ClassMix => kernels::MIX_CLASS_MIX as u32,
            MixKind::CutOut => kernels::MIX_CUT_OUT as u32,
        },
        prob,
        ignore: u32::from(ignore),
        stream,
    };
    if kind == MixKind::ClassMix {
        let blocks = batch * chunks(area);
        cx.launch(kernels::MIX_PRESENCE, [blocks, 1, 1], 0, &args)?;
        cx.launch(kernels::MIX_CHOOSE, [batch, 1, 1], 0, &args)?;
    }
    let blocks = batch * (3 * area).div_ceil(kernels::MIX_FLOATS);
    cx.launch(kernels::MIX_APPLY, [blocks, 1, 1], 0, &args)
}

/// Where classmix keeps its sets of classes: per chunk, per image.
fn class_sets(cx: &Launcher, kind: MixKind, batch: usize, area: usize) -> Result<(Ptr, Ptr)> {
    if kind != MixKind::ClassMix {
        return Ok((Ptr::NULL, Ptr::NULL));
    }
    let (ptr, bytes) = cx.workspace()?;
    let presence_bytes = batch * chunks(area) * SET_BYTES;
    if bytes < presence_bytes + batch * SET_BYTES {
        return Err(cx.wrong(&format!("workspace of {bytes} bytes is too small")));
    }
    Ok((ptr, ptr.byte_add(presence_bytes)))
}
