//! The gradient of batch norm: per-channel sums, then one pass that writes `dx`.

use half::bf16;
use rayon::prelude::*;

use super::super::element::{Element, by_element};
use super::super::elementwise::masked;
use super::super::memory::Ctx;
use super::super::rows::{
    ins, outs, pixel, refuse_accumulate, scratch, task_pixels, want_shape, want_vector,
};
use super::super::simd::vectorised;
use super::{Partials, Source, product, sum_pixels};
use crate::device::{Call, DType, View};
use crate::error::{Error, Result};

pub(in super::super) fn backward(cx: &Ctx, call: &Call, relu: bool) -> Result<()> {
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
