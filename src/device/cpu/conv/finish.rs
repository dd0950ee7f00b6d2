//! What happens to a convolution's sums before they are final: batch norm by running statistics,
//! residual and ReLU ([`crate::device::Op::ConvBatchNormEval`]).
//!
//! Whatever computes a convolution calls [`Finish::row`] once on every stretch of a pixel's
//! channels, when the sums in it are whole and still in cache.

use half::bf16;

use super::super::element::widen;
use super::super::elementwise::rectify;
use super::super::memory::Ctx;
use super::super::rows::{want_shape, want_vector};
use super::super::simd::vectorised;
use crate::device::op::ConvNorm;
use crate::device::{Call, DType, View};
use crate::error::{Error, Result};

/// Channels of a bf16 residual that are widened at a time.
const BLOCK: usize = 256;

/// A map that is added.
#[derive(Clone, Copy)]
enum Residual<'a> {
    F32(&'a [f32]),
    BF16(&'a [bf16]),
}

/// The tail of a fused convolution.
pub(super) struct Finish<'a> {
    mean: &'a [f32],
    scale: Vec<f32>,
    beta: &'a [f32],
    /// And the distance between its pixels.
    residual: Option<(Residual<'a>, usize)>,
    relu: bool,
}

impl<'a> Finish<'a> {
    /// Of a [`crate::device::Op::ConvBatchNormEval`], beside the convolution's bias.
    pub(super) fn of<'c>(
        cx: &'a Ctx,
        call: &'c Call,
        norm: ConvNorm,
    ) -> Result<(Option<&'c View>, Self)> {
        let wrong = || Error::internal("conv_batch_norm_eval: wrong number of operands");
        let ([_, _, gamma, beta, mean, var, rest @ ..], [y]) = (&call.ins[..], &call.outs[..])
        else {
            return Err(wrong());
        };
        let (bias, residual) = match (norm.bias, rest) {
            (false, []) => (None, None),
            (false, [residual]) => (None, Some(residual)),
            (true, [bias]) => (Some(bias), None),
            (true, [bias, residual]) => (Some(bias), Some(residual)),
            _ => return Err(wrong()),
        };
        for vector in [gamma, beta, mean, var] {
            want_vector(call, vector, y.channels())?;
        }
        let residual = match residual {
            Some(view) => {
                want_shape(call, view, y.shape)?;
                let residual = match view.dtype {
                    DType::BF16 => Residual::BF16(cx.map(view)?),
                    _ => Residual::F32(cx.f32(view)?),
                };
                Some((residual, view.ld))
            }
            None => None,
        };
        // As batch_norm_eval has it, rounding by rounding.
        let scale = (cx.f32(gamma)?.iter().zip(cx.f32(var)?))
            .map(|(gamma, var)| gamma * (1.0 / (var + norm.eps).sqrt()))
            .collect();
        let finish = Self {
            mean: cx.f32(mean)?,
            scale,
            beta: cx.f32(beta)?,
            residual,
            relu: norm.relu,
        };
        Ok((bias, finish))
    }

    /// Finishes channels `first ..` of pixel `pixel` of the result.
    #[inline]
    pub(super) fn row(&self, pixel: usize, first: usize, row: &mut [f32]) {
        match self.residual {
            None => self.part(first, row, None),
            Some((Residual::F32(data), ld)) => {
                self.part(first, row, Some(&data[pixel * ld + first..]));
            }
            Some((Residual::BF16(data), ld)) => {
                let mut wide = [0.0; BLOCK];
                for (i, row) in row.chunks_mut(BLOCK).enumerate() {
                    let first = first + i * BLOCK;
                    let wide = &mut wide[..row.len()];
                    widen(&data[pixel * ld + first..][..row.len()], wide);
                    self.part(first, row, Some(wide));
                }
            }
        }
    }

    #[inline]
    fn part(&self, first: usize, row: &mut [f32], residual: Option<&[f32]>) {
        let channels = first..first + row.len();
        let affine = [
            &self.mean[channels.clone()],
            &self.scale[channels.clone()],
            &self.beta[channels],
        ];
        finish(row, affine, residual, self.relu);
    }
}

vectorised! {
    /// `row ← relu?((row − mean)·scale + beta + residual?)`.
    fn finish(row: &mut [f32], affine: [&[f32]; 3], residual: Option<&[f32]>, relu: bool) {
        let n = row.len();
        let [mean, scale, beta] = affine.map(|a| &a[..n]);
        match residual {
            Some(residual) => {
                let residual = &residual[..n];
                for i in 0..n {
                    row[i] = (row[i] - mean[i]) * scale[i] + beta[i] + residual[i];
                }
            }
            None => {
                for i in 0..n {
                    row[i] = (row[i] - mean[i]) * scale[i] + beta[i];
                }
            }
        }
        if relu {
            row.iter_mut().for_each(|y| *y = rectify(*y));
        }
    }
}
