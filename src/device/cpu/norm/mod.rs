//! Batch norm: training, inference and backward, fused with a residual sum and ReLU.
//!
//! Memory-bound, so a map is read as few times as the mathematics allows: once for the
//! statistics (sum, then squared deviations, chunk by chunk while the chunk is in cache; chunks
//! merged in f64 in order) and once to write the result.

mod backward;
#[cfg(test)]
mod tests;

use half::bf16;
use rayon::prelude::*;

use super::element::{Element, by_element};
use super::elementwise::rectify;
use super::memory::Ctx;
use super::rows::{for_rows, ins, outs, pixel, want_shape, want_vector};
use super::simd::vectorised;
use crate::device::op::MOMENT_PIXELS;
use crate::device::{Call, DType, View};
use crate::error::{Error, Result};
pub(super) use backward::backward;

/// Pixels per statistics chunk: the chunk stays in a core's cache between its two passes, and f32
/// sums stay short. Depends on the shape alone.
fn chunk_pixels(channels: usize) -> usize {
    (65_536 / channels.max(1)).clamp(64, 1024)
}

/// Channels that one task merges.
const MERGE_CHANNELS: usize = 64;

/// Two per-channel sums for every chunk of pixels, `[chunk][2][C]`.
struct Partials {
    sums: Vec<f32>,
    channels: usize,
    pixels: usize,
}

impl Partials {
    /// Runs `f(pixels of the chunk, first sums, second sums)` on every chunk.
    fn collect(
        map: &View,
        f: impl Fn(std::ops::Range<usize>, &mut [f32], &mut [f32]) + Sync,
    ) -> Self {
        let (pixels, channels) = (map.pixels(), map.channels());
        let chunk = chunk_pixels(channels);
        let mut sums = vec![0.0; pixels.div_ceil(chunk) * 2 * channels];
        sums.par_chunks_mut(2 * channels)
            .enumerate()
            .for_each(|(i, pair)| {
                let (first, second) = pair.split_at_mut(channels);
                f(i * chunk..pixels.min((i + 1) * chunk), first, second);
            });
        Self {
            sums,
            channels,
            pixels,
        }
    }

    /// Per channel, the sum over chunks, in order, of `f(channel, pixels, first, second)`.
    fn merge(&self, f: impl Fn(usize, f64, f64, f64) -> f64 + Sync) -> Vec<f64> {
        let chunk = chunk_pixels(self.channels);
        let mut total = vec![0.0; self.channels];
        (total.par_chunks_mut(MERGE_CHANNELS).enumerate()).for_each(|(block, total)| {
            let start = block * MERGE_CHANNELS;
            for (i, pair) in self.sums.chunks(2 * self.channels).enumerate() {
                let n = chunk.min(self.pixels - i * chunk) as f64;
                let (first, second) = pair.split_at(self.channels);
                let pairs = first[start..].iter().zip(&second[start..]);
                for (c, (t, (&a, &b))) in total.iter_mut().zip(pairs).enumerate() {
                    *t += f(start + c, n, a.into(), b.into());
                }
            }
        });
        total
    }
}

/// A map that sums are taken over.
type Source<'a, T> = (&'a [T], &'a View);

/// `sum[c] += Σ_pixels term(values of the maps at (pixel, c), fixed[c])`. Four pixels at a time,
/// which spares traffic on `sum` and shortens the f32 sums.
#[inline(always)]
fn sum_pixels<T: Element, const K: usize>(
    pixels: std::ops::Range<usize>,
    sum: &mut [f32],
    maps: [Source<T>; K],
    fixed: &[f32],
    term: impl Fn([f32; K], f32) -> f32,
) {
    let n = sum.len();
    let fixed = &fixed[..n];
    let mut scratch: [[Vec<f32>; K]; 4] =
        std::array::from_fn(|_| std::array::from_fn(|_| T::scratch(n)));
    let at = |rows: &[&[f32]; K], c: usize| term(std::array::from_fn(|k| rows[k][c]), fixed[c]);
    let mut p = pixels.start;
    while p + 4 <= pixels.end {
        let [s, t, u, v] = &mut scratch;
        let quad = [
            rows(maps, p, n, s),
            rows(maps, p + 1, n, t),
            rows(maps, p + 2, n, u),
            rows(maps, p + 3, n, v),
        ];
        for (c, s) in sum.iter_mut().enumerate() {
            *s += (at(&quad[0], c) + at(&quad[1], c)) + (at(&quad[2], c) + at(&quad[3], c));
        }
        p += 4;
    }
    for p in p..pixels.end {
        let rows = rows(maps, p, n, &mut scratch[0]);
        for (c, s) in sum.iter_mut().enumerate() {
            *s += at(&rows, c);
        }
    }
}

/// The rows of pixel `p` in f32.
#[inline(always)]
fn rows<'a, T: Element, const K: usize>(
    maps: [Source<'a, T>; K],
    p: usize,
    n: usize,
    scratch: &'a mut [Vec<f32>; K],
) -> [&'a [f32]; K] {
    let mut scratch = scratch.iter_mut();
    maps.map(|(data, view)| {
        let scratch: &'a mut [f32] = scratch.next().map_or(&mut [], |s| s);
        &T::read(pixel(data, view, p), scratch)[..n]
    })
}

vectorised! {
    /// Sums and squared deviations of a chunk of pixels.
    fn chunk_moments<T: Element>(
        x: Source<T>,
        pixels: std::ops::Range<usize>,
        sum: &mut [f32],
        squares: &mut [f32],
    ) {
        let nothing = vec![0.0; sum.len()];
        sum_pixels(pixels.clone(), sum, [x], &nothing, |[x], _| x);
        let inv_n = 1.0 / pixels.len() as f32;
        let mean: Vec<f32> = sum.iter().map(|s| s * inv_n).collect();
        let square = |[x]: [f32; 1], mean: f32| (x - mean) * (x - mean);
        sum_pixels(pixels, squares, [x], &mean, square);
    }
}

/// Mean and sum of squared deviations per channel.
fn moments<T: Element>(cx: &Ctx, view: &View) -> Result<(Vec<f64>, Vec<f64>)> {
    let x = cx.map::<T>(view)?;
    let partials = Partials::collect(view, |pixels, sum, squares| {
        chunk_moments((x, view), pixels, sum, squares);
    });
    let n = view.pixels() as f64;
    let mean: Vec<f64> = (partials.merge(|_, _, sum, _| sum).iter())
        .map(|sum| sum / n)
        .collect();
    let squares = partials.merge(|c, n, sum, squares| {
        let off = sum / n - mean[c];
        squares + n * off * off
    });
    Ok((mean, squares))
}

pub(super) fn train(cx: &Ctx, call: &Call, eps: f32, momentum: f32, relu: bool) -> Result<()> {
    let [x, gamma, beta] = ins(call)?;
    let [_, mean, inv_std, running_mean, running_var] = outs(call)?;
    let c = x.channels();
    for vector in [gamma, beta, mean, inv_std, running_mean, running_var] {
        want_vector(call, vector, c)?;
    }
    if x.elements() == 0 {
        return Err(Error::internal("batch_norm: no pixels"));
    }
    let moments = by_element!(x, moments(cx, x))?;
    normalise(cx, call, moments, call.ins.get(3), [eps, momentum], relu)
}

/// [`crate::device::Op::BatchNormMerge`].
pub(super) fn merge(cx: &Ctx, call: &Call, eps: f32, momentum: f32, relu: bool) -> Result<()> {
    let [x, gamma, beta, tiles] = ins(call)?;
    let [_, mean, inv_std, running_mean, running_var] = outs(call)?;
    let c = x.channels();
    for vector in [gamma, beta, mean, inv_std, running_mean, running_var] {
        want_vector(call, vector, c)?;
    }
    want_shape(
        call,
        tiles,
        [1, 1, x.pixels().div_ceil(MOMENT_PIXELS), 2 * c],
    )?;
    if x.elements() == 0 || !tiles.is_dense() {
        return Err(Error::internal("batch_norm_merge: no pixels"));
    }
    let moments = super::moments::merged(cx.f32(tiles)?, x.pixels(), c);
    normalise(cx, call, moments, call.ins.get(4), [eps, momentum], relu)
}

/// What follows the statistics of a training pass: running buffers, `[eps, momentum]` given, and
/// the result.
fn normalise(
    cx: &Ctx,
    call: &Call,
    (means, squares): (Vec<f64>, Vec<f64>),
    residual: Option<&View>,
    [eps, momentum]: [f32; 2],
    relu: bool,
) -> Result<()> {
    let [x, gamma, beta] = ins(call)?;
    let [_, mean, inv_std, running_mean, running_var] = outs(call)?;
    let n = x.pixels() as f64;
    let (mean, inv_std) = (cx.f32_mut(mean)?, cx.f32_mut(inv_std)?);
    let (running_mean, running_var) = (cx.f32_mut(running_mean)?, cx.f32_mut(running_var)?);
    for i in 0..x.channels() {
        let var = squares[i] / n;
        mean[i] = means[i] as f32;
        inv_std[i] = (1.0 / (var + f64::from(eps)).sqrt()) as f32;
        // One pixel has no unbiased variance (and no deviation): 0.
        let unbiased = squares[i] / (n - 1.0).max(1.0);
        running_mean[i] = (1.0 - momentum) * running_mean[i] + momentum * mean[i];
        running_var[i] = (1.0 - momentum) * running_var[i] + momentum * unbiased as f32;
    }
    let affine = Affine {
        mean,
        scale: product(cx.f32(gamma)?, inv_std),
        beta: cx.f32(beta)?,
    };
    match x.dtype {
        DType::BF16 => affine.write::<bf16>(cx, call, residual, relu),
        _ => affine.write::<f32>(cx, call, residual, relu),
    }
}

pub(super) fn eval(cx: &Ctx, call: &Call, eps: f32, relu: bool) -> Result<()> {
    let [x, gamma, beta, mean, var] = ins(call)?;
    for vector in [gamma, beta, mean, var] {
        want_vector(call, vector, x.channels())?;
    }
    let inv_std: Vec<f32> = (cx.f32(var)?.iter())
        .map(|v| 1.0 / (v + eps).sqrt())
        .collect();
    let affine = Affine {
        mean: cx.f32(mean)?,
        scale: product(cx.f32(gamma)?, &inv_std),
        beta: cx.f32(beta)?,
    };
    let residual = call.ins.get(5);
    match x.dtype {
        DType::BF16 => affine.write::<bf16>(cx, call, residual, relu),
        _ => affine.write::<f32>(cx, call, residual, relu),
    }
}

fn product(a: &[f32], b: &[f32]) -> Vec<f32> {
    a.iter().zip(b).map(|(a, b)| a * b).collect()
}

/// `(x − mean)·scale + beta`, the difference first: exact where the mean dwarfs the deviation.
struct Affine<'a> {
    mean: &'a [f32],
    scale: Vec<f32>,
    beta: &'a [f32],
}

impl Affine<'_> {
    /// Each channel's `(mean, (scale, beta))`.
    fn coefficients(&self) -> impl Iterator<Item = (&f32, (&f32, &f32))> {
        self.mean.iter().zip(self.scale.iter().zip(self.beta))
    }

    /// `y = relu?(affine(x) + residual?)`, in place on `x` or `residual` where `y` is one.
    /// A row stays in the first-level cache between the small loops.
    fn write<T: Element>(
        &self,
        cx: &Ctx,
        call: &Call,
        residual: Option<&View>,
        relu: bool,
    ) -> Result<()> {
        let ([x], [y]) = (ins(call)?, outs(call)?);
        want_shape(call, y, x.shape)?;
        if let Some(residual) = residual {
            want_shape(call, residual, x.shape)?;
        }
        let in_place = cx.same(x, y);
        let onto_residual = residual.is_some_and(|r| cx.same(r, y));
        let data = cx.map_mut::<T>(y)?;
        let from = match in_place {
            true => None,
            false => Some(cx.map::<T>(x)?),
        };
        let residual = match residual.filter(|_| !onto_residual) {
            Some(view) => Some((cx.map::<T>(view)?, view)),
            None => None,
        };
        for_rows(data, y, |i, row, [s, t]| {
            match from.map(|from| T::read(pixel(from, x, i), s)) {
                None => {
                    for (y, (m, (s, b))) in row.iter_mut().zip(self.coefficients()) {
                        *y = (*y - m) * s + b;
                    }
                }
                Some(x) if onto_residual => {
                    for ((y, x), (m, (s, b))) in row.iter_mut().zip(x).zip(self.coefficients()) {
                        *y += (x - m) * s + b;
                    }
                }
                Some(x) => {
                    for ((y, x), (m, (s, b))) in row.iter_mut().zip(x).zip(self.coefficients()) {
                        *y = (x - m) * s + b;
                    }
                }
            }
            if let Some((residual, view)) = residual {
                let residual = T::read(pixel(residual, view, i), t);
                for (y, &r) in row.iter_mut().zip(residual) {
                    *y += r;
                }
            }
            if relu {
                row.iter_mut().for_each(|y| *y = rectify(*y));
            }
        });
        Ok(())
    }
}
