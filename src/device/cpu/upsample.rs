//! Bilinear upsampling (align_corners) of low-resolution logits, one output row at a time.
//!
//! Comes in: logits `[B, h, w, C]`. Goes out: rows of `W` pixels at label resolution, each padded
//! to whole vector blocks. The `C × H × W` tensor that a framework would make never exists; a
//! thread holds two rows.

use rayon::prelude::*;

use super::super::View;
use super::memory::Ctx;
use super::mismatch;
use super::simd::vectorised;
use super::vmath::{LANES, PAD, padded};
use crate::error::Result;

/// Where one output coordinate reads: `(1 − t)·lo + t·hi`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tap {
    pub(super) lo: usize,
    pub(super) hi: usize,
    pub(super) t: f32,
}

/// Taps of a resize from `input` to `output` positions, coordinates in f32 as PyTorch has them.
fn taps(input: usize, output: usize) -> Vec<Tap> {
    let last = input.saturating_sub(1);
    let scale = if output > 1 {
        last as f32 / (output - 1) as f32
    } else {
        0.0
    };
    (0..output)
        .map(|i| {
            let source = scale * i as f32;
            let lo = (source as usize).min(last);
            Tap {
                lo,
                hi: (lo + 1).min(last),
                t: source - lo as f32,
            }
        })
        .collect()
}

/// Logits with the geometry of their upsampling.
pub(super) struct Upsample<'a> {
    logits: &'a [f32],
    ld: usize,
    /// Low-resolution size.
    pub(super) h: usize,
    pub(super) w: usize,
    /// Classes.
    pub(super) classes: usize,
    /// Floats per pixel of a row: classes, padded.
    pub(super) stride: usize,
    /// Images.
    pub(super) batch: usize,
    /// Taps of the output rows and columns.
    pub(super) ys: Vec<Tap>,
    pub(super) xs: Vec<Tap>,
}

/// A thread's rows.
pub(super) struct Rows {
    /// One row at low resolution, interpolated vertically.
    low: Vec<f32>,
    /// The output row, `W` pixels of `stride` floats; padding channels hold [`PAD`].
    pub(super) full: Vec<f32>,
    /// Scratch for one pixel.
    pub(super) pixel: Vec<f32>,
}

impl Rows {
    /// A row of `width` pixels without a low-resolution source.
    pub(super) fn of(width: usize, stride: usize) -> Self {
        Self {
            low: Vec::new(),
            full: vec![PAD; width * stride],
            pixel: vec![0.0; stride],
        }
    }
}

impl<'a> Upsample<'a> {
    /// Upsampling of `logits` to `height × width`.
    pub(super) fn new(
        cx: &'a Ctx,
        op: &str,
        logits: &View,
        height: usize,
        width: usize,
    ) -> Result<Self> {
        let [batch, h, w, classes] = logits.shape;
        if classes == 0 || h == 0 || w == 0 {
            return Err(mismatch(op, "logits with pixels and classes", logits));
        }
        Ok(Self {
            logits: cx.f32(logits)?,
            ld: logits.ld,
            h,
            w,
            classes,
            stride: padded(classes),
            batch,
            ys: taps(h, height),
            xs: taps(w, width),
        })
    }

    /// Output rows of the whole batch, B·H.
    pub(super) fn rows(&self) -> usize {
        self.batch * self.ys.len()
    }

    /// Buffers for [`Upsample::row`].
    pub(super) fn buffers(&self) -> Rows {
        Rows {
            low: vec![PAD; self.w * self.stride],
            ..Rows::of(self.xs.len(), self.stride)
        }
    }

    /// Writes output row `row` (counted over the batch) to `rows.full`.
    pub(super) fn row(&self, row: usize, rows: &mut Rows) {
        let image = row / self.ys.len();
        let tap = self.ys[row % self.ys.len()];
        let line = |y: usize| (image * self.h + y) * self.w;
        let (lo, hi) = (line(tap.lo), line(tap.hi));
        let pixels = rows.low.chunks_exact_mut(self.stride);
        for (x, out) in pixels.enumerate() {
            let a = &self.logits[(lo + x) * self.ld..][..self.classes];
            let b = &self.logits[(hi + x) * self.ld..][..self.classes];
            mix(&mut out[..self.classes], a, b, tap.t);
        }
        spread(
            &rows.low,
            &mut rows.full,
            &self.xs,
            self.classes,
            self.stride,
        );
    }

    /// Runs `each(row, rows)` over all output rows in parallel; results come in row order.
    pub(super) fn map_rows<T: Send>(
        &self,
        each: impl Fn(usize, &mut Rows) -> T + Send + Sync,
    ) -> Vec<T> {
        (0..self.rows())
            .into_par_iter()
            .map_init(
                || self.buffers(),
                |rows, row| {
                    self.row(row, rows);
                    each(row, rows)
                },
            )
            .collect()
    }
}

vectorised! {
    /// Interpolates a row of padded pixels horizontally.
    fn spread(low: &[f32], full: &mut [f32], xs: &[Tap], classes: usize, stride: usize) {
        for (tap, out) in xs.iter().zip(full.chunks_exact_mut(stride)) {
            let a = &low[tap.lo * stride..][..stride];
            let b = &low[tap.hi * stride..][..stride];
            let blocks = a.as_chunks::<LANES>().0.iter().zip(b.as_chunks::<LANES>().0);
            for (out, (a, b)) in out.as_chunks_mut::<LANES>().0.iter_mut().zip(blocks) {
                mix(out, a, b, tap.t);
            }
            // The padding must stay where exp is 0 whatever the weights round to.
            out[classes..].fill(PAD);
        }
    }
}

/// `out = (1 − t)·a + t·b`.
#[inline(always)]
fn mix(out: &mut [f32], a: &[f32], b: &[f32], t: f32) {
    let keep = 1.0 - t;
    for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
        *out = keep * a + t * b;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taps_keep_the_corners_and_stay_inside() {
        for (input, output) in [
            (1, 1),
            (1, 9),
            (2, 5),
            (65, 129),
            (129, 513),
            (7, 3),
            (5, 1),
        ] {
            let taps = taps(input, output);
            assert_eq!((taps[0].lo, taps[0].t), (0, 0.0));
            for tap in &taps {
                assert!(tap.lo < input && tap.hi < input);
                assert!((-1e-4..=1.0).contains(&tap.t), "{tap:?}");
            }
            if output > 1 {
                let last = taps[output - 1];
                let at = last.lo as f32 + last.t;
                assert!((at - (input - 1) as f32).abs() < 1e-4);
            }
        }
    }
}
