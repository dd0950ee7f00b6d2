//! Bilinear resize with align_corners = true, and its adjoint.
//!
//! Output pixel o of an axis reads input coordinate `o · (in − 1)/(out − 1)` (0 when out = 1), in
//! f32 as PyTorch does: input `i = ⌊·⌋` with weight `1 − f` and `min(i + 1, in − 1)` with weight
//! `f`, the fraction.

use super::super::{Call, View};
use super::element::{Element, by_element};
use super::memory::Ctx;
use super::rows::{for_rows, ins, outs, pixel, want_shape};
use crate::error::{Error, Result};

/// Where one output position of an axis reads.
#[derive(Clone, Copy)]
struct Tap {
    low: usize,
    high: usize,
    fraction: f32,
}

/// The taps of every output position of an axis.
fn taps(input: usize, output: usize) -> Vec<Tap> {
    let scale = match output {
        0 | 1 => 0.0,
        _ => (input - 1) as f32 / (output - 1) as f32,
    };
    let tap = |o: usize| {
        let at = o as f32 * scale;
        let low = (at as usize).min(input - 1);
        Tap {
            low,
            high: (low + 1).min(input - 1),
            fraction: (at - low as f32).clamp(0.0, 1.0),
        }
    };
    (0..output).map(tap).collect()
}

/// For every input position of an axis, the output positions that read it, ascending, with the
/// weight.
fn readers(input: usize, output: usize) -> Vec<Vec<(usize, f32)>> {
    let mut readers = vec![Vec::new(); input];
    for (o, tap) in taps(input, output).into_iter().enumerate() {
        if tap.high == tap.low {
            readers[tap.low].push((o, 1.0));
            continue;
        }
        readers[tap.low].push((o, 1.0 - tap.fraction));
        // A weight of 0 is left out: it would turn an infinite gradient into NaN.
        if tap.fraction > 0.0 {
            readers[tap.high].push((o, tap.fraction));
        }
    }
    readers
}

/// Fails unless `to` is a resized `from`: same images and channels, no empty axis.
fn check(call: &Call, from: &View, to: &View) -> Result<()> {
    let [n, h, w, c] = from.shape;
    want_shape(call, to, [n, to.shape[1], to.shape[2], c])?;
    if h * w == 0 || to.shape[1] * to.shape[2] == 0 {
        return Err(Error::internal("resize: empty map"));
    }
    Ok(())
}

pub(super) fn resize(cx: &Ctx, call: &Call) -> Result<()> {
    by_element!(ins::<1>(call)?[0], resize_of(cx, call))
}

fn resize_of<T: Element>(cx: &Ctx, call: &Call) -> Result<()> {
    let ([x], [y]) = (ins(call)?, outs(call)?);
    check(call, x, y)?;
    let [_, h, w, _] = x.shape;
    let [_, oh, ow, _] = y.shape;
    let (rows, columns) = (taps(h, oh), taps(w, ow));
    let from = cx.map::<T>(x)?;
    for_rows::<T, 4>(cx.map_mut(y)?, y, |i, row, [s, t, u, v]| {
        let (top, left) = (rows[i / ow % oh], columns[i % ow]);
        let image = i / (oh * ow);
        let at = |iy: usize, ix: usize| pixel(from, x, (image * h + iy) * w + ix);
        let (fy, fx) = (top.fraction, left.fraction);
        if fy == 0.0 && fx == 0.0 {
            row.copy_from_slice(T::read(at(top.low, left.low), s));
            return;
        }
        let upper = T::read(at(top.low, left.low), s).iter();
        let upper = upper.zip(T::read(at(top.low, left.high), t));
        let lower = T::read(at(top.high, left.low), u).iter();
        let lower = lower.zip(T::read(at(top.high, left.high), v));
        for (y, ((a, b), (c, d))) in row.iter_mut().zip(upper.zip(lower)) {
            let upper = (1.0 - fx) * a + fx * b;
            let lower = (1.0 - fx) * c + fx * d;
            *y = (1.0 - fy) * upper + fy * lower;
        }
    });
    Ok(())
}

/// Each input pixel sums its readers: columns within a row, then rows, both ascending.
pub(super) fn resize_backward(cx: &Ctx, call: &Call) -> Result<()> {
    by_element!(ins::<1>(call)?[0], resize_backward_of(cx, call))
}

fn resize_backward_of<T: Element>(cx: &Ctx, call: &Call) -> Result<()> {
    let ([dy], [dx]) = (ins(call)?, outs(call)?);
    check(call, dx, dy)?;
    let [_, h, w, c] = dx.shape;
    let [_, oh, ow, _] = dy.shape;
    let (rows, columns) = (readers(h, oh), readers(w, ow));
    let from = cx.map::<T>(dy)?;
    let accumulate = call.accumulates(0);
    for_rows::<T, 1>(cx.map_mut(dx)?, dx, |i, row, [scratch]| {
        if !accumulate {
            row.fill(0.0);
        }
        let image = i / (h * w);
        let mut line = vec![0.0; c];
        for &(oy, wy) in &rows[i / w % h] {
            line.fill(0.0);
            for &(ox, wx) in &columns[i % w] {
                let dy = T::read(pixel(from, dy, (image * oh + oy) * ow + ox), scratch);
                line.iter_mut().zip(dy).for_each(|(s, &g)| *s += wx * g);
            }
            row.iter_mut().zip(&line).for_each(|(dx, s)| *dx += wy * s);
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Bench, close, noise};
    use crate::device::{Op, Shape, elements};

    /// The map as a function of real coordinates, in f64.
    fn reference(x: &[f32], [n, h, w, c]: Shape, oh: usize, ow: usize) -> Vec<f64> {
        let coordinate = |o: usize, input: usize, output: usize| match output {
            1 => 0.0,
            _ => (o * (input - 1)) as f64 / (output - 1) as f64,
        };
        let mut y = Vec::new();
        for (image, oy, ox) in
            (0..n).flat_map(|b| (0..oh).flat_map(move |y| (0..ow).map(move |x| (b, y, x))))
        {
            let (fy, fx) = (coordinate(oy, h, oh), coordinate(ox, w, ow));
            for ch in 0..c {
                let mut sum = 0.0;
                for (iy, ix) in (0..h).flat_map(|y| (0..w).map(move |x| (y, x))) {
                    let hat = |a: f64, b: usize| (1.0 - (a - b as f64).abs()).max(0.0);
                    let v = f64::from(x[((image * h + iy) * w + ix) * c + ch]);
                    sum += hat(fy, iy) * hat(fx, ix) * v;
                }
                y.push(sum);
            }
        }
        y
    }

    const CASES: [(Shape, usize, usize); 6] = [
        ([2, 3, 5, 3], 9, 9),
        ([1, 9, 7, 2], 4, 3),
        ([2, 1, 1, 4], 5, 6),
        ([1, 4, 6, 2], 4, 6),
        ([1, 5, 5, 2], 1, 1),
        ([1, 2, 3, 1], 17, 33),
    ];

    #[test]
    fn forward_matches_hat_functions() {
        for (shape, oh, ow) in CASES {
            let data = noise(elements(shape), 1);
            let run = |threads| {
                let b = Bench::new(threads);
                let x = b.f32(shape, 2, &data);
                let y = b.out([shape[0], oh, ow, shape[3]], 1);
                b.run(Op::Resize, &[x], &[y]);
                b.get(&y)
            };
            let got = run(1);
            assert_eq!(got, run(3));
            close(&got, &reference(&data, shape, oh, ow), 1e-5);
            if (oh, ow) == (shape[1], shape[2]) {
                assert_eq!(got, data);
            }
        }
    }

    /// ⟨resize(x), dy⟩ = ⟨x, backward(dy)⟩ for every unit x: the gradient is read off exactly.
    #[test]
    fn backward_is_the_adjoint() {
        for (shape, oh, ow) in CASES {
            let out = [shape[0], oh, ow, shape[3]];
            let dy = noise(elements(out), 2);
            let run = |threads, accumulate| {
                let b = Bench::new(threads);
                let dys = b.f32(out, 1, &dy);
                let dx = b.f32(shape, 3, &vec![2.0; elements(shape)]);
                b.add(Op::ResizeBackward, &[dys], &[dx], accumulate);
                b.get(&dx)
            };
            let got = run(1, 0);
            assert_eq!(got, run(3, 0));
            let unit = |i: usize| {
                let mut x = vec![0.0; elements(shape)];
                x[i] = 1.0;
                let y = reference(&x, shape, oh, ow);
                y.iter()
                    .zip(&dy)
                    .map(|(y, &d)| y * f64::from(d))
                    .sum::<f64>()
            };
            let want: Vec<f64> = (0..elements(shape)).map(unit).collect();
            close(&got, &want, 2e-5);
            let want: Vec<f64> = want.iter().map(|v| v + 2.0).collect();
            close(&run(2, 1), &want, 2e-5);
        }
    }

    #[test]
    fn an_empty_map_is_an_error() {
        let b = Bench::new(1);
        let x = b.f32([1, 0, 4, 2], 0, &[]);
        let y = b.out([1, 2, 2, 2], 0);
        assert!(b.try_run(Op::Resize, &[x], &[y], 0).is_err());
    }
}
