//! What the forward pass does to its sums besides the bias (`kernels/include/conv/epilogue.cuh`).

use super::super::Launcher;
use super::super::driver::Ptr;
use super::super::kernels::ConvFinish;
use super::vector;
use crate::device::op::{ConvNorm, MOMENT_PIXELS};
use crate::device::{DType, View};
use crate::error::Result;

/// Nothing.
pub(super) const NONE: ConvFinish = ConvFinish {
    mean: Ptr::NULL,
    variance: Ptr::NULL,
    gamma: Ptr::NULL,
    beta: Ptr::NULL,
    residual: Ptr::NULL,
    residual_ld: 0,
    moments: Ptr::NULL,
    eps: 0.0,
    relu: 0,
};

/// Of [`crate::device::Op::ConvBatchNormEval`], beside the convolution's bias.
pub(super) fn norm<'a>(
    cx: &Launcher<'a>,
    norm: ConvNorm,
) -> Result<(Option<&'a View>, ConvFinish)> {
    let y = cx.output(0)?;
    let channels = y.channels();
    let mut rest = cx.call.ins.get(6..).unwrap_or_default().iter();
    let bias = match norm.bias {
        true => Some(rest.next().ok_or_else(|| cx.wrong("the bias is missing"))?),
        false => None,
    };
    let mut finish = ConvFinish {
        gamma: vector(cx, cx.input(2)?, channels)?,
        beta: vector(cx, cx.input(3)?, channels)?,
        mean: vector(cx, cx.input(4)?, channels)?,
        variance: vector(cx, cx.input(5)?, channels)?,
        eps: norm.eps,
        relu: u32::from(norm.relu),
        ..NONE
    };
    if let Some(residual) = rest.next() {
        cx.want_shapes(&[(residual, y.shape)])?;
        finish.residual = cx.ptr(residual, y.dtype)?;
        finish.residual_ld = residual.ld as u64;
    }
    Ok((bias, finish))
}

/// Of [`crate::device::Op::ConvMoments`].
pub(super) fn moments(cx: &Launcher) -> Result<ConvFinish> {
    let (y, moments) = (cx.output(0)?, cx.output(1)?);
    let tiles = y.pixels().div_ceil(MOMENT_PIXELS);
    cx.want_shapes(&[(moments, [1, 1, tiles, 2 * y.channels()])])?;
    Ok(ConvFinish {
        moments: cx.dense(moments, DType::F32)?,
        ..NONE
    })
}
