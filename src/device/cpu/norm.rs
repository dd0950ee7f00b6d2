//! Batch norm: training, inference and backward, fused with a residual sum and ReLU.
//!
//! Memory-bound, so a map is read as few times as the mathematics allows: once for the
//! statistics (sum, then squared deviations, chunk by chunk while the chunk is in cache; chunks
//! merged in f64 in order) and once to write the result.

use half::bf16;
use rayon::prelude::*;

use super::super::{Call, DType, View};
use super::element::{Element, by_element};
use super::elementwise::{masked, rectify};
use super::memory::Ctx;
use super::rows::{
    for_rows, ins, outs, pixel, refuse_accumulate, scratch, task_pixels, want_shape, want_vector,
};
use super::simd::vectorised;
use crate::device::op::MOMENT_PIXELS;
use crate::error::{Error, Result};

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

pub(super) fn backward(cx: &Ctx, call: &Call, relu: bool) -> Result<()> {
    let [dy, x, y, gamma, mean, inv_std] = ins(call)?;
    let [dx, dgamma, dbeta] = outs(call)?;
    for map in [x, y, dx].into_iter().chain(call.outs.get(3)) {
        want_shape(call, map, dy.shape)?;
    }
    for vector in [gamma, mean, inv_std, dgamma, dbeta] {
        want_vector(call, vector, dy.channels())?;
    }
    if dy.elements() == 0 {
        return Err(Error::internal("batch_norm_backward: no pixels"));
    }
    let (gamma, mean, inv_std) = (cx.f32(gamma)?, cx.f32(mean)?, cx.f32(inv_std)?);
    let sums = by_element!(dy, gradient_sums(cx, [dy, x, y], mean, relu))?;
    let sum_dy = sums.merge(|_, _, sum, _| sum);
    let sum_dy_xhat = sums.merge(|c, _, _, sum| sum * f64::from(inv_std[c]));
    for (i, view, sum) in [(1, dgamma, &sum_dy_xhat), (2, dbeta, &sum_dy)] {
        for (out, &sum) in cx.f32_mut(view)?.iter_mut().zip(sum) {
            let old = if call.accumulates(i) { *out } else { 0.0 };
            *out = old + sum as f32;
        }
    }
    let n = dy.pixels() as f64;
    let slope = |(&sum, &inv_std): (&f64, &f32)| (sum / n * f64::from(inv_std)) as f32;
    let coefficients = Coefficients {
        mean,
        scale: product(gamma, inv_std),
        offset: sum_dy.iter().map(|sum| (sum / n) as f32).collect(),
        slope: sum_dy_xhat.iter().zip(inv_std).map(slope).collect(),
    };
    match dy.dtype {
        DType::BF16 => coefficients.write::<bf16>(cx, call, relu),
        _ => coefficients.write::<f32>(cx, call, relu),
    }
}

/// Per chunk and channel: Σ dy' and Σ dy'·(x − mean), dy' the gradient behind the ReLU.
fn gradient_sums<T: Element>(
    cx: &Ctx,
    [dy, x, y]: [&View; 3],
    mean: &[f32],
    relu: bool,
) -> Result<Partials> {
    let maps = [(cx.map::<T>(dy)?, dy), (cx.map(x)?, x), (cx.map(y)?, y)];
    Ok(Partials::collect(dy, |pixels, sum, sum_x| {
        if relu {
            chunk_gradients_relu(maps, pixels, mean, sum, sum_x);
        } else {
            chunk_gradients(maps, pixels, mean, sum, sum_x);
        }
    }))
}

vectorised! {
    /// Both sums of a chunk of pixels, without a ReLU.
    fn chunk_gradients<T: Element>(
        maps: [Source<T>; 3],
        pixels: std::ops::Range<usize>,
        mean: &[f32],
        sum: &mut [f32],
        sum_x: &mut [f32],
    ) {
        let [dy, x, _] = maps;
        sum_pixels(pixels.clone(), sum, [dy], mean, |[dy], _| dy);
        let term = |[dy, x]: [f32; 2], mean: f32| dy * (x - mean);
        sum_pixels(pixels, sum_x, [dy, x], mean, term);
    }

    /// Both sums of a chunk of pixels, behind a ReLU.
    fn chunk_gradients_relu<T: Element>(
        maps: [Source<T>; 3],
        pixels: std::ops::Range<usize>,
        mean: &[f32],
        sum: &mut [f32],
        sum_x: &mut [f32],
    ) {
        let [dy, x, y] = maps;
        sum_pixels(pixels.clone(), sum, [dy, y], mean, |[dy, y], _| masked(dy, y));
        let term = |[dy, x, y]: [f32; 3], mean: f32| masked(dy, y) * (x - mean);
        sum_pixels(pixels, sum_x, [dy, x, y], mean, term);
    }
}

/// `dx = scale·((dy' − offset) − (x − mean)·slope)` per channel.
struct Coefficients<'a> {
    mean: &'a [f32],
    scale: Vec<f32>,
    offset: Vec<f32>,
    slope: Vec<f32>,
}

impl Coefficients<'_> {
    /// Writes or adds to dx and dresidual; either may be dy itself.
    fn write<T: Element>(&self, cx: &Ctx, call: &Call, relu: bool) -> Result<()> {
        let ([dyv, xv, yv], [dxv]) = (ins(call)?, outs(call)?);
        let residual = call.outs.get(3);
        let dx_is_dy = cx.same(dxv, dyv);
        let residual_is_dy = residual.is_some_and(|r| cx.same(r, dyv));
        refuse_accumulate(call, 0, dx_is_dy)?;
        refuse_accumulate(call, 3, residual_is_dy)?;
        let (x, y, dx) = (cx.map::<T>(xv)?, cx.map::<T>(yv)?, cx.map_mut::<T>(dxv)?);
        let dy = match dx_is_dy || residual_is_dy {
            true => None,
            false => Some(cx.map::<T>(dyv)?),
        };
        // dy' of pixel p, from dy or from the output row that holds it, into `g`.
        let load = |g: &mut [f32], p: usize, held: Option<&[f32]>, scratch: &mut [f32]| {
            match (dy, held) {
                (Some(dy), _) => g.copy_from_slice(T::read(pixel(dy, dyv, p), scratch)),
                (None, Some(held)) => g.copy_from_slice(held),
                (None, None) => {}
            }
            if relu {
                for (g, &y) in g.iter_mut().zip(T::read(pixel(y, yv, p), scratch)) {
                    *g = masked(*g, y);
                }
            }
        };
        let c = dxv.channels();
        let tasks = task_pixels(c);
        let dx_tasks = dx.par_chunks_mut(tasks * dxv.ld).enumerate();
        let add = call.accumulates(0);
        match residual {
            None => dx_tasks.for_each(|(task, dx)| {
                let (mut g, [mut own, mut other]) = (vec![0.0; c], scratch::<T, 2>(dxv));
                for (i, dx) in dx.chunks_mut(dxv.ld).enumerate() {
                    let p = task * tasks + i;
                    T::update(&mut dx[..c], &mut own, |dx| {
                        load(&mut g, p, dx_is_dy.then_some(&*dx), &mut other);
                        self.row(dx, &g, T::read(pixel(x, xv, p), &mut other), add);
                    });
                }
            }),
            Some(rv) => {
                let residual = cx.map_mut::<T>(rv)?.par_chunks_mut(tasks * rv.ld);
                let add_residual = call.accumulates(3);
                dx_tasks.zip(residual).for_each(|((task, dx), dr)| {
                    let (mut g, [mut own, mut others, mut input]) =
                        (vec![0.0; c], scratch::<T, 3>(dxv));
                    let rows = dx.chunks_mut(dxv.ld).zip(dr.chunks_mut(rv.ld));
                    for (i, (dx, dr)) in rows.enumerate() {
                        let p = task * tasks + i;
                        T::update(&mut dx[..c], &mut own, |dx| {
                            T::update(&mut dr[..c], &mut others, |dr| {
                                let held = if dx_is_dy { &*dx } else { &*dr };
                                load(&mut g, p, Some(held), &mut input);
                                if add_residual {
                                    dr.iter_mut().zip(&g).for_each(|(dr, g)| *dr += g);
                                } else {
                                    dr.copy_from_slice(&g);
                                }
                            });
                            self.row(dx, &g, T::read(pixel(x, xv, p), &mut input), add);
                        });
                    }
                });
            }
        }
        Ok(())
    }

    /// One pixel of dx from its dy' and x.
    #[inline(always)]
    fn row(&self, dx: &mut [f32], g: &[f32], x: &[f32], add: bool) {
        let slopes = self.mean.iter().zip(&self.slope);
        let scales = self.offset.iter().zip(&self.scale);
        let terms = g.iter().zip(x).zip(slopes.zip(scales));
        for (dx, ((g, x), ((mean, slope), (offset, scale)))) in dx.iter_mut().zip(terms) {
            let old = if add { *dx } else { 0.0 };
            *dx = old + scale * ((g - offset) - (x - mean) * slope);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Bench, close, noise};
    use crate::device::{Op, Shape, View};

    const EPS: f32 = 1e-5;

    /// Batch norm in f64: (x̂·γ + β + residual, mean, 1/σ, unbiased variance).
    fn reference(x: &[f64], c: usize, gamma: &[f64], beta: &[f64]) -> [Vec<f64>; 4] {
        let n = (x.len() / c) as f64;
        let column = |i: usize| x.iter().skip(i).step_by(c);
        let mean: Vec<f64> = (0..c).map(|i| column(i).sum::<f64>() / n).collect();
        let squares: Vec<f64> = (0..c)
            .map(|i| column(i).map(|v| (v - mean[i]).powi(2)).sum())
            .collect();
        let inv: Vec<f64> = (squares.iter())
            .map(|s| 1.0 / (s / n + f64::from(EPS)).sqrt())
            .collect();
        let y = (x.iter().enumerate())
            .map(|(i, v)| (v - mean[i % c]) * inv[i % c] * gamma[i % c] + beta[i % c])
            .collect();
        let unbiased = squares.iter().map(|s| s / (n - 1.0).max(1.0)).collect();
        [y, mean, inv, unbiased]
    }

    fn wide(v: &[f32]) -> Vec<f64> {
        v.iter().map(|&v| f64::from(v)).collect()
    }

    /// More than one chunk, with a tail; a mean far from 0.
    const SHAPE: Shape = [2, 25, 41, 7];

    struct Case {
        x: Vec<f32>,
        residual: Vec<f32>,
        dy: Vec<f32>,
        gamma: Vec<f32>,
        beta: Vec<f32>,
    }

    impl Case {
        fn new(shape: Shape) -> Self {
            let n = crate::device::elements(shape);
            Self {
                x: noise(n, 1).iter().map(|v| 3.0 * v + 100.0).collect(),
                residual: noise(n, 2),
                dy: noise(n, 3),
                gamma: noise(shape[3], 4),
                beta: noise(shape[3], 5),
            }
        }

        /// y = relu(bn(x) + residual) in f64.
        fn output(&self, c: usize) -> Vec<f64> {
            let [y, ..] = reference(&wide(&self.x), c, &wide(&self.gamma), &wide(&self.beta));
            let sum = y.iter().zip(&self.residual);
            sum.map(|(y, &r)| (y + f64::from(r)).max(0.0)).collect()
        }
    }

    fn train_op(relu: bool) -> Op {
        Op::BatchNorm {
            eps: EPS,
            momentum: 0.1,
            relu,
        }
    }

    /// mean, inv_std, running mean (from 1), running variance (from 2).
    fn state(b: &Bench, c: usize) -> [View; 4] {
        let fresh = || b.vector(&vec![Bench::GAP; c]);
        [
            fresh(),
            fresh(),
            b.vector(&vec![1.0; c]),
            b.vector(&vec![2.0; c]),
        ]
    }

    #[test]
    fn train_matches_f64() {
        let (case, c) = (Case::new(SHAPE), SHAPE[3]);
        let b = Bench::new(2);
        let x = b.f32(SHAPE, 2, &case.x);
        let [gamma, beta] = [&case.gamma, &case.beta].map(|v| b.vector(v));
        let y = b.out(SHAPE, 1);
        let [mean, inv, rm, rv] = state(&b, c);
        b.run(train_op(false), &[x, gamma, beta], &[y, mean, inv, rm, rv]);
        let [want, means, invs, unbiased] =
            reference(&wide(&case.x), c, &wide(&case.gamma), &wide(&case.beta));
        // x is near 100, so f32 holds the mean, and each difference, to some 4e-6.
        close(&b.get(&y), &want, 1e-5);
        close(&b.get(&mean), &means, 3e-7);
        close(&b.get(&inv), &invs, 1e-6);
        let moved: Vec<f64> = means.iter().map(|m| 0.9 + 0.1 * m).collect();
        close(&b.get(&rm), &moved, 1e-6);
        let moved: Vec<f64> = unbiased.iter().map(|v| 1.8 + 0.1 * v).collect();
        close(&b.get(&rv), &moved, 1e-6);
    }

    #[test]
    fn residual_and_relu_separate_and_in_place() {
        let (case, c) = (Case::new(SHAPE), SHAPE[3]);
        let want = case.output(c);
        let mut bits = Vec::new();
        for place in 0..3 {
            let b = Bench::new(1 + place);
            let x = b.f32(SHAPE, 1, &case.x);
            let residual = b.f32(SHAPE, 3, &case.residual);
            let [gamma, beta] = [&case.gamma, &case.beta].map(|v| b.vector(v));
            let y = [b.out(SHAPE, 0), x, residual][place];
            let [mean, inv, rm, rv] = state(&b, c);
            let outs = [y, mean, inv, rm, rv];
            b.run(train_op(true), &[x, gamma, beta, residual], &outs);
            let got = b.get(&y);
            close(&got, &want, 1e-5);
            bits.push(got);
        }
        assert_eq!(bits[0], bits[1]);
        assert_eq!(bits[0], bits[2]);
    }

    #[test]
    fn eval_uses_running_statistics() {
        let b = Bench::new(1);
        let x = b.f32([1, 1, 2, 2], 1, &[1.0, 2.0, 3.0, 4.0]);
        let [gamma, beta] = [[2.0, 1.0], [0.5, 0.0]].map(|v| b.vector(&v));
        let [mean, var] = [[1.0, 0.0], [4.0, 0.25]].map(|v| b.vector(&v));
        let residual = b.f32([1, 1, 2, 2], 0, &[0.0, -5.0, 1.0, 0.0]);
        let y = b.out([1, 1, 2, 2], 2);
        let op = |relu| Op::BatchNormEval { eps: 0.0, relu };
        let ins = [x, gamma, beta, mean, var, residual];
        b.run(op(false), &ins[..5], &[y]);
        assert_eq!(b.get(&y), [0.5, 4.0, 2.5, 8.0]);
        b.run(op(true), &ins, &[y]);
        assert_eq!(b.get(&y), [0.5, 0.0, 3.5, 8.0]);
        b.run(op(true), &ins, &[residual]);
        assert_eq!(b.get(&residual), [0.5, 0.0, 3.5, 8.0]);
        b.run(op(false), &ins[..5], &[x]);
        assert_eq!(b.get(&x), [0.5, 4.0, 2.5, 8.0]);
    }

    #[test]
    fn one_pixel_has_no_variance() {
        let b = Bench::new(1);
        let x = b.f32([1, 1, 1, 2], 0, &[5.0, -3.0]);
        let [gamma, beta] = [[2.0, 2.0], [0.25, 0.5]].map(|v| b.vector(&v));
        let y = b.out([1, 1, 1, 2], 0);
        let [mean, inv, rm, rv] = state(&b, 2);
        b.run(train_op(false), &[x, gamma, beta], &[y, mean, inv, rm, rv]);
        assert_eq!(b.get(&y), [0.25, 0.5]);
        close(&b.get(&rv), &[1.8, 1.8], 1e-7);
    }

    /// Outputs of forward then backward: dx, dgamma, dbeta, dresidual.
    /// `place`: 0 separate, 1 dx is dy, 2 dresidual is dy.
    fn gradients(case: &Case, shape: Shape, threads: usize, place: usize) -> [Vec<f32>; 4] {
        let b = Bench::new(threads);
        let x = b.f32(shape, 1, &case.x);
        let residual = b.f32(shape, 0, &case.residual);
        let dy = b.f32(shape, 2, &case.dy);
        let [gamma, beta] = [&case.gamma, &case.beta].map(|v| b.vector(v));
        let y = b.out(shape, 3);
        let [mean, inv, rm, rv] = state(&b, shape[3]);
        let outs = [y, mean, inv, rm, rv];
        b.run(train_op(true), &[x, gamma, beta, residual], &outs);
        let [dgamma, dbeta, ..] = state(&b, shape[3]);
        let dx = if place == 1 { dy } else { b.out(shape, 1) };
        let dr = if place == 2 { dy } else { b.out(shape, 0) };
        let outs = [dx, dgamma, dbeta, dr];
        let op = Op::BatchNormBackward { relu: true };
        b.run(op, &[dy, x, y, gamma, mean, inv], &outs);
        outs.map(|v| b.get(&v))
    }

    /// Finite differences of Σ dy·y in f64, every parameter and a sample of pixels.
    #[test]
    fn backward_matches_finite_differences() {
        let shape = [2, 3, 5, 3];
        let mut case = Case::new(shape);
        case.x = noise(case.x.len(), 8);
        let c = shape[3];
        let [dx, dgamma, dbeta, dr] = gradients(&case, shape, 2, 0);
        let h = 1e-6;
        let slope = |which: usize, i: usize| {
            let at = |step: f64| {
                let mut args = [&case.x, &case.residual, &case.gamma, &case.beta].map(|v| wide(v));
                args[which][i] += step;
                let [y, ..] = reference(&args[0], c, &args[2], &args[3]);
                let out = y.iter().zip(&args[1]).map(|(y, r)| (y + r).max(0.0));
                out.zip(&case.dy)
                    .map(|(y, &d)| y * f64::from(d))
                    .sum::<f64>()
            };
            (at(h) - at(-h)) / (2.0 * h)
        };
        for (which, got) in [(0, &dx), (1, &dr), (2, &dgamma), (3, &dbeta)] {
            let want: Vec<f64> = (0..got.len()).map(|i| slope(which, i)).collect();
            close(got, &want, 2e-5);
        }
    }

    #[test]
    fn backward_in_place_and_on_any_threads_gives_the_same_bits() {
        let case = Case::new(SHAPE);
        let want = gradients(&case, SHAPE, 1, 0);
        assert_eq!(want, gradients(&case, SHAPE, 3, 0));
        let [dx, dgamma, dbeta, dr] = gradients(&case, SHAPE, 2, 1);
        assert_eq!([&dx, &dgamma, &dbeta, &dr], want.each_ref());
        let [dx, dgamma, dbeta, dr] = gradients(&case, SHAPE, 2, 2);
        assert_eq!([&dx, &dgamma, &dbeta, &dr], want.each_ref());
    }

    #[test]
    fn backward_without_relu_accumulates() {
        let (case, c) = (Case::new(SHAPE), SHAPE[3]);
        let b = Bench::new(2);
        let [x, dy] = [&case.x, &case.dy].map(|v| b.f32(SHAPE, 0, v));
        let [gamma, beta] = [&case.gamma, &case.beta].map(|v| b.vector(v));
        let y = b.out(SHAPE, 0);
        let [mean, inv, rm, rv] = state(&b, c);
        b.run(train_op(false), &[x, gamma, beta], &[y, mean, inv, rm, rv]);
        let [dgamma, dbeta, ..] = state(&b, c);
        let outs = [b.out(SHAPE, 1), dgamma, dbeta];
        let op = Op::BatchNormBackward { relu: false };
        let ins = [dy, x, y, gamma, mean, inv];
        b.run(op.clone(), &ins, &outs);
        let once = outs.map(|v| b.get(&v));
        b.add(op.clone(), &ins, &outs, 0b111);
        for (out, once) in outs.iter().zip(&once) {
            let twice: Vec<f32> = once.iter().map(|v| v + v).collect();
            assert_eq!(b.get(out), twice);
        }
        let sum: f64 = case.dy.iter().step_by(c).map(|&d| f64::from(d)).sum();
        close(&once[2][..1], &[sum], 1e-6);
        // The gradient has no component along a constant: dx sums to 0 in every channel.
        let sum: f64 = once[0].iter().step_by(c).map(|&d| f64::from(d)).sum();
        assert!(sum.abs() < 1e-3, "{sum}");
        assert!(b.try_run(op, &ins, &[dy, dgamma, dbeta], 1).is_err());
    }
}
