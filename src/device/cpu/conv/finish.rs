//! What happens to a convolution's sums before they are final: batch norm by running statistics,
//! residual and ReLU ([`crate::device::Op::ConvBatchNormEval`]).
//!
//! Whatever computes a convolution calls [`Finish::row`] once on every stretch of a pixel's
//! channels, when the sums in it are whole and still in cache.

use super::super::element::{BLOCK, Element};
use super::super::elementwise::rectify;
use super::super::memory::Ctx;
use super::super::rows::want_vector;
use super::super::simd::vectorised;
use crate::device::{Call, DType, View};
use crate::error::Result;

/// The tail of a fused convolution.
pub(super) struct Finish<'a, T = f32> {
    mean: &'a [f32],
    scale: Vec<f32>,
    beta: &'a [f32],
    /// Elements, and from a pixel to the next.
    residual: Option<(&'a [T], usize)>,
    relu: bool,
}

impl<'a, T: Element> Finish<'a, T> {
    /// From `[gamma, beta, running mean, running variance]` and the residual.
    pub(super) fn new(
        cx: &'a Ctx,
        call: &Call,
        vectors: &[View; 4],
        residual: Option<&View>,
        eps: f32,
        relu: bool,
    ) -> Result<Self> {
        for vector in vectors {
            want_vector(call, vector, call.outs[0].channels())?;
        }
        let [gamma, beta, mean, var] = vectors;
        let residual = match residual {
            Some(view) => Some((cx.map(view)?, view.ld)),
            None => None,
        };
        // As batch_norm_eval has it, rounding by rounding.
        let scale = (cx.f32(gamma)?.iter().zip(cx.f32(var)?))
            .map(|(gamma, var)| gamma * (1.0 / (var + eps).sqrt()))
            .collect();
        Ok(Self {
            mean: cx.f32(mean)?,
            scale,
            beta: cx.f32(beta)?,
            residual,
            relu,
        })
    }

    /// Finishes channels `first ..` of pixel `pixel` of the result.
    #[inline]
    pub(super) fn row(&self, pixel: usize, first: usize, row: &mut [f32]) {
        let channels = first..first + row.len();
        let affine = [
            &self.mean[channels.clone()],
            &self.scale[channels.clone()],
            &self.beta[channels],
        ];
        let Some((data, ld)) = self.residual else {
            return finish(row, affine, None, self.relu);
        };
        let residual = &data[pixel * ld + first..][..row.len()];
        if T::DTYPE == DType::F32 {
            return finish(row, affine, Some(T::read(residual, &mut [])), self.relu);
        }
        let mut scratch = [0.0; BLOCK];
        for (i, (row, residual)) in (row.chunks_mut(BLOCK))
            .zip(residual.chunks(BLOCK))
            .enumerate()
        {
            let affine = affine.map(|a| &a[i * BLOCK..][..row.len()]);
            let residual = T::read(residual, &mut scratch);
            finish(row, affine, Some(residual), self.relu);
        }
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
