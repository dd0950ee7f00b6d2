//! Launcher of `kernels/optimizer.cu`.

use super::Launcher;
use super::driver::Ptr;
use super::elementwise::scalar;
use super::kernels::{self, SgdEmaArgs, SgdTile};
use crate::device::op::SgdGroup;
use crate::device::{DType, View};
use crate::error::Result;

/// Parameters of a block.
const TILE: usize = 16_384;

/// The groups cut into blocks' shares.
fn tiles(groups: &[SgdGroup]) -> Vec<SgdTile> {
    let cut = |group: &SgdGroup| {
        let SgdGroup {
            start,
            len,
            lr_mult,
            weight_decay,
        } = *group;
        (0..len).step_by(TILE).map(move |from| SgdTile {
            start: (start + from) as u64,
            len: TILE.min(len - from) as u32,
            lr_mult,
            weight_decay,
            pad: 0,
        })
    };
    groups.iter().flat_map(cut).collect()
}

/// [`crate::device::Op::SgdEma`]: dense flat vectors.
pub(super) fn sgd_ema(cx: &Launcher, momentum: f32, groups: &[SgdGroup]) -> Result<()> {
    let (gradient, lr, m) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let n = gradient.elements();
    if let Some(g) = groups.iter().find(|g| g.start + g.len > n) {
        return Err(cx.wrong(&format!("{g:?} past {n} parameters")));
    }
    // In order: parameter, velocity, teacher; then copies in bf16 of the first and the third.
    let floats = cx.call.outs.iter().take_while(|v| v.dtype == DType::F32);
    let copies: Vec<&View> = cx.call.outs.iter().skip(floats.clone().count()).collect();
    let floats: Vec<&View> = floats.collect();
    let (parameter, velocity, teacher) = match floats[..] {
        [p, v] => (p, v, None),
        [p, v, t] => (p, v, Some(t)),
        _ => return Err(cx.wrong(&format!("{} f32 outputs", floats.len()))),
    };
    if copies.len() > 1 + usize::from(teacher.is_some()) {
        return Err(cx.wrong(&format!("{} bf16 outputs", copies.len())));
    }
    let mut vector = true;
    let mut address = |view: &View, dtype: DType| {
        if view.elements() != n {
            return Err(cx.wrong(&format!("{view:?} beside {n} gradients")));
        }
        vector &= view.offset.is_multiple_of(4 * dtype.bytes());
        cx.dense(view, dtype)
    };
    let mut optional = |view: Option<&View>, dtype: DType| match view {
        Some(view) => address(view, dtype),
        None => Ok(Ptr::NULL),
    };
    let tiles = tiles(groups);
    let args = SgdEmaArgs {
        tiles: cx.constant(&tiles)?,
        gradient: optional(Some(gradient), DType::F32)?,
        lr: scalar(cx, lr)?,
        m: scalar(cx, m)?,
        parameter: optional(Some(parameter), DType::F32)?,
        velocity: optional(Some(velocity), DType::F32)?,
        teacher: optional(teacher, DType::F32)?,
        parameter_copy: optional(copies.first().copied(), DType::BF16)?,
        teacher_copy: optional(copies.get(1).copied(), DType::BF16)?,
        momentum,
        vector: u32::from(vector),
    };
    cx.launch(kernels::SGD_EMA, [tiles.len(), 1, 1], 0, &args)
}
