//! Max pooling and the global average.

use rayon::prelude::*;

use super::super::op::Window;
use super::super::{Call, View};
use super::element::{Element, by_element};
use super::memory::Ctx;
use super::rows::{for_rows, ins, outs, pixel, task_pixels, want_shape};
use super::simd::vectorised;
use crate::error::{Error, Result};

/// One pooled axis: output position and tap to input position.
#[derive(Clone, Copy)]
struct Axis {
    size: usize,
    stride: usize,
    padding: usize,
    input: usize,
    output: usize,
}

impl Axis {
    /// The axis of `input` pixels pooled to `output`; every window must meet the input.
    fn new(size: usize, window: Window, input: usize, output: usize) -> Result<Self> {
        let Window {
            stride,
            padding,
            dilation,
        } = window;
        let fits = output == 0 || (output - 1) * stride < input + padding;
        // Taps are bytes.
        if stride == 0 || size * size > 256 || padding >= size || dilation != 1 || !fits {
            return Err(Error::internal(format!(
                "max_pool: window {size} {window:?} from {input} to {output} pixels"
            )));
        }
        Ok(Self {
            size,
            stride,
            padding,
            input,
            output,
        })
    }

    /// Taps of output `o` that fall on the input, with where they fall.
    fn taps(self, o: usize) -> impl Iterator<Item = (usize, usize)> {
        let origin = o * self.stride;
        let first = self.padding.saturating_sub(origin);
        let end = self.size.min((self.input + self.padding) - origin);
        (first..end).map(move |tap| (tap, origin + tap - self.padding))
    }

    /// Outputs whose window holds input `i`, ascending, with the tap that does.
    fn windows(self, i: usize) -> impl Iterator<Item = (usize, usize)> {
        let at = i + self.padding;
        let first = (at + 1).saturating_sub(self.size).div_ceil(self.stride);
        let end = self.output.min(at / self.stride + 1);
        (first..end).map(move |o| (o, at - o * self.stride))
    }
}

/// Row-major position of pixel `i` of `view`: image, row, column.
fn place(view: &View, i: usize) -> (usize, usize, usize) {
    let [_, h, w, _] = view.shape;
    (i / (h * w), i / w % h, i % w)
}

/// Both axes of a pooling from `x` to `y`.
fn axes(size: usize, window: Window, x: &View, y: &View) -> Result<[Axis; 2]> {
    Ok([
        Axis::new(size, window, x.shape[1], y.shape[1])?,
        Axis::new(size, window, x.shape[2], y.shape[2])?,
    ])
}

pub(super) fn max_pool(cx: &Ctx, call: &Call, size: usize, window: Window) -> Result<()> {
    by_element!(ins::<1>(call)?[0], max_pool_of(cx, call, size, window))
}

fn max_pool_of<T: Element>(cx: &Ctx, call: &Call, size: usize, window: Window) -> Result<()> {
    let ([x], [y, tap]) = (ins(call)?, outs(call)?);
    let [n, h, w, c] = x.shape;
    want_shape(call, y, [n, y.shape[1], y.shape[2], c])?;
    want_shape(call, tap, y.shape)?;
    let [rows, columns] = axes(size, window, x, y)?;
    let from = cx.map::<T>(x)?;
    let tasks = task_pixels(c);
    let out = cx.map_mut::<T>(y)?.par_chunks_mut((tasks * y.ld).max(1));
    let taps = cx.u8_mut(tap)?.par_chunks_mut((tasks * tap.ld).max(1));
    out.zip(taps).enumerate().for_each(|(task, (out, taps))| {
        let pairs = out.chunks_mut(y.ld).zip(taps.chunks_mut(tap.ld));
        let (mut own, mut other) = (T::scratch(c), T::scratch(c));
        for (i, (best, taps)) in pairs.enumerate() {
            let (best, taps) = (&mut best[..c], &mut taps[..c]);
            let (image, oy, ox) = place(y, task * tasks + i);
            T::update(best, &mut own, |best| {
                let mut first = true;
                for (ty, iy) in rows.taps(oy) {
                    for (tx, ix) in columns.taps(ox) {
                        let values = pixel(from, x, (image * h + iy) * w + ix);
                        let values = T::read(values, &mut other);
                        keep_larger(best, taps, values, (ty * size + tx) as u8, first);
                        first = false;
                    }
                }
            });
        }
    });
    Ok(())
}

vectorised! {
    /// Keeps the larger value and its tap; the earlier tap on a tie, NaN over everything. Selects
    /// instead of branches, so that the compiler vectorises it.
    fn keep_larger(best: &mut [f32], taps: &mut [u8], values: &[f32], tap: u8, first: bool) {
        if first {
            best.copy_from_slice(values);
            taps.fill(tap);
            return;
        }
        for ((best, t), &v) in best.iter_mut().zip(taps).zip(values) {
            let take = (v > *best) | v.is_nan();
            *best = if take { v } else { *best };
            *t = if take { tap } else { *t };
        }
    }
}

pub(super) fn max_pool_backward(cx: &Ctx, call: &Call, size: usize, window: Window) -> Result<()> {
    by_element!(
        ins::<1>(call)?[0],
        max_pool_backward_of(cx, call, size, window)
    )
}

fn max_pool_backward_of<T: Element>(
    cx: &Ctx,
    call: &Call,
    size: usize,
    window: Window,
) -> Result<()> {
    let ([dy, tap], [dx]) = (ins(call)?, outs(call)?);
    let [n, oh, ow, c] = dy.shape;
    want_shape(call, tap, dy.shape)?;
    want_shape(call, dx, [n, dx.shape[1], dx.shape[2], c])?;
    let [rows, columns] = axes(size, window, dx, dy)?;
    let (from, taps) = (cx.map::<T>(dy)?, cx.u8(tap)?);
    let accumulate = call.accumulates(0);
    for_rows::<T, 1>(cx.map_mut(dx)?, dx, |i, row, [scratch]| {
        if !accumulate {
            row.fill(0.0);
        }
        let (image, iy, ix) = place(dx, i);
        for (oy, ty) in rows.windows(iy) {
            for (ox, tx) in columns.windows(ix) {
                let o = (image * oh + oy) * ow + ox;
                let mine = (ty * size + tx) as u8;
                let sources = T::read(pixel(from, dy, o), scratch).iter();
                let sources = sources.zip(pixel(taps, tap, o));
                for (dx, (&dy, &t)) in row.iter_mut().zip(sources) {
                    *dx += if t == mine { dy } else { 0.0 };
                }
            }
        }
    });
    Ok(())
}

/// Sums of one image's chunk of pixels in f32, chunks in f64 in order.
pub(super) fn global_avg_pool(cx: &Ctx, call: &Call) -> Result<()> {
    by_element!(ins::<1>(call)?[0], global_avg_pool_of(cx, call))
}

fn global_avg_pool_of<T: Element>(cx: &Ctx, call: &Call) -> Result<()> {
    let ([x], [y]) = (ins(call)?, outs(call)?);
    let [n, h, w, c] = x.shape;
    want_shape(call, y, [n, 1, 1, c])?;
    let area = h * w;
    if x.elements() == 0 {
        return Err(Error::internal("global_avg_pool: no pixels"));
    }
    let from = cx.map::<T>(x)?;
    // Not fewer in wide maps: the sums of all chunks are there at once.
    let chunk = task_pixels(c).clamp(64, 128);
    let chunks = area.div_ceil(chunk);
    let mut partial = vec![0.0f32; n * chunks * c];
    partial.par_chunks_mut(c).enumerate().for_each(|(i, sum)| {
        let (image, start) = (i / chunks, i % chunks * chunk);
        let mut scratch = T::scratch(c);
        for p in start..area.min(start + chunk) {
            let values = T::read(pixel(from, x, image * area + p), &mut scratch);
            for (s, &v) in sum.iter_mut().zip(values) {
                *s += v;
            }
        }
    });
    let out = cx.map_mut::<T>(y)?;
    let mut scratch = T::scratch(c);
    for (image, partial) in partial.chunks(chunks * c).enumerate() {
        T::update(&mut out[image * y.ld..][..c], &mut scratch, |row| {
            for (i, mean) in row.iter_mut().enumerate() {
                let sums = partial.iter().skip(i).step_by(c);
                let sum: f64 = sums.map(|&s| f64::from(s)).sum();
                *mean = (sum / area as f64) as f32;
            }
        });
    }
    Ok(())
}

pub(super) fn global_avg_pool_backward(cx: &Ctx, call: &Call) -> Result<()> {
    by_element!(ins::<1>(call)?[0], global_avg_pool_backward_of(cx, call))
}

fn global_avg_pool_backward_of<T: Element>(cx: &Ctx, call: &Call) -> Result<()> {
    let ([dy], [dx]) = (ins(call)?, outs(call)?);
    let [n, h, w, c] = dx.shape;
    want_shape(call, dy, [n, 1, 1, c])?;
    let from = cx.map::<T>(dy)?;
    let (area, accumulate) = (h * w, call.accumulates(0));
    let share = 1.0 / area as f32;
    for_rows::<T, 1>(cx.map_mut(dx)?, dx, |i, row, [scratch]| {
        let dy = T::read(pixel(from, dy, i / area), scratch);
        for (dx, &dy) in row.iter_mut().zip(dy) {
            let old = if accumulate { *dx } else { 0.0 };
            *dx = old + dy * share;
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Bench, close, noise};
    use super::*;
    use crate::device::{Op, Shape};

    const STEM: Window = Window {
        stride: 2,
        padding: 1,
        dilation: 1,
    };

    fn pool(size: usize, window: Window) -> Op {
        Op::MaxPool { size, window }
    }

    fn unpool(size: usize, window: Window) -> Op {
        Op::MaxPoolBackward { size, window }
    }

    /// The stem's pooling with ceil mode: 4 → 3 instead of 2; the last window is half outside.
    #[test]
    fn ceil_mode_is_the_output_size() {
        let b = Bench::new(2);
        let x: Vec<f32> = (0..16).map(|v| v as f32).collect();
        let x = b.f32([1, 4, 4, 1], 1, &x);
        for (side, want) in [
            (2, vec![5.0, 7.0, 13.0, 15.0]),
            (3, vec![5.0, 7.0, 7.0, 13.0, 15.0, 15.0, 13.0, 15.0, 15.0]),
        ] {
            let y = b.out([1, side, side, 1], 2);
            let tap = b.u8([1, side, side, 1], &vec![9; side * side]);
            b.run(pool(3, STEM), &[x], &[y, tap]);
            assert_eq!(b.get(&y), want);
            assert_eq!(b.get_u8(&tap)[0], 8);
        }
        let y = b.out([1, 4, 4, 1], 0);
        let tap = b.u8([1, 4, 4, 1], &[0; 16]);
        assert!(b.try_run(pool(3, STEM), &[x], &[y, tap], 0).is_err());
    }

    #[test]
    fn ties_take_the_first_tap_and_nan_wins() {
        let b = Bench::new(1);
        let x = [
            -1.0,
            f32::NEG_INFINITY,
            -1.0,
            f32::NEG_INFINITY,
            f32::NAN,
            3.0,
        ];
        let x = b.f32([1, 1, 2, 3], 0, &x);
        let y = b.out([1, 1, 1, 3], 0);
        let tap = b.u8([1, 1, 1, 3], &[7; 3]);
        b.run(pool(3, STEM), &[x], &[y, tap]);
        let got = b.get(&y);
        // Columns 0 and 1 are taps 1 and 2 of window row 1: 4 and 5.
        assert_eq!((got[0], got[2]), (-1.0, 3.0));
        assert!(got[1].is_nan());
        assert_eq!(b.get_u8(&tap), [4, 5, 5]);
    }

    /// The gather equals scattering every output's gradient to the input it was taken from.
    #[test]
    fn backward_is_the_adjoint() {
        for (size, window, side) in [
            (3, STEM, 5),
            (
                2,
                Window {
                    stride: 2,
                    padding: 0,
                    dilation: 1,
                },
                5,
            ),
            (
                3,
                Window {
                    stride: 1,
                    padding: 1,
                    dilation: 1,
                },
                9,
            ),
        ] {
            let (n, h, c) = (2, 9, 3);
            let out: Shape = [n, side, side, c];
            let x = noise(n * h * h * c, 1);
            let dy = noise(n * side * side * c, 2);
            let run = |threads, accumulate| {
                let b = Bench::new(threads);
                let xs = b.f32([n, h, h, c], 1, &x);
                let y = b.out(out, 2);
                let tap = b.u8(out, &vec![0; dy.len()]);
                b.run(pool(size, window), &[xs], &[y, tap]);
                let dys = b.f32(out, 3, &dy);
                let dx = b.f32([n, h, h, c], 1, &vec![10.0; x.len()]);
                b.add(unpool(size, window), &[dys, tap], &[dx], accumulate);
                (b.get(&dx), b.get_u8(&tap), b.get(&y))
            };
            let (dx, taps, y) = run(1, 0);
            assert_eq!((&dx, &taps, &y), (&run(3, 0).0, &run(3, 0).1, &run(3, 0).2));
            let mut want = vec![0.0f64; x.len()];
            for (i, (&t, &g)) in taps.iter().zip(&dy).enumerate() {
                let (ch, ox, oy) = (i % c, i / c % side, i / c / side % side);
                let image = i / c / side / side;
                let iy = oy * window.stride + t as usize / size - window.padding;
                let ix = ox * window.stride + t as usize % size - window.padding;
                let at = ((image * h + iy) * h + ix) * c + ch;
                assert_eq!(x[at], y[i]);
                want[at] += f64::from(g);
            }
            close(&dx, &want, 1e-6);
            let (added, ..) = run(2, 1);
            let want: Vec<f64> = want.iter().map(|v| v + 10.0).collect();
            close(&added, &want, 1e-6);
        }
    }

    #[test]
    fn global_average_and_its_adjoint() {
        let (n, h, w, c) = (2, 70, 67, 5);
        let x: Vec<f32> = noise(n * h * w * c, 3).iter().map(|v| v + 4.0).collect();
        let run = |threads| {
            let b = Bench::new(threads);
            let xs = b.f32([n, h, w, c], 2, &x);
            let y = b.out([n, 1, 1, c], 1);
            b.run(Op::GlobalAvgPool, &[xs], &[y]);
            b.get(&y)
        };
        let got = run(1);
        assert_eq!(got, run(3));
        let mut want = vec![0.0f64; n * c];
        for (i, &v) in x.iter().enumerate() {
            want[i / (h * w * c) * c + i % c] += f64::from(v) / (h * w) as f64;
        }
        close(&got, &want, 1e-6);

        let b = Bench::new(1);
        let dy = b.f32([2, 1, 1, 1], 1, &[4.0, 8.0]);
        let dx = b.f32([2, 2, 2, 1], 1, &[1.0; 8]);
        b.add(Op::GlobalAvgPoolBackward, &[dy], &[dx], 1);
        assert_eq!(b.get(&dx), [2.0, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0, 3.0]);
        b.run(Op::GlobalAvgPoolBackward, &[dy], &[dx]);
        assert_eq!(b.get(&dx), [1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0]);
    }
}
