//! Element-wise operations and the optimiser: memory-bound loops, each element read once.

use half::bf16;
use rayon::prelude::*;

use super::super::op::SgdGroup;
use super::super::philox::{Rng, to_unit};
use super::super::{Call, DType, View};
use super::element::{Element, by_element, lift, lift1, lift2, round, rounded, widen};
use super::memory::Ctx;
use super::mismatch;
use super::rows::{
    for_pixels, ins, map, outs, pixel, refuse_accumulate, want_shape, want_vector, zip, zip2,
};
use crate::error::{Error, Result};

/// Parameters that one task of [`sgd_ema`] updates.
const SGD_TASK: usize = 16_384;

pub(super) fn fill(cx: &Ctx, call: &Call, value: f32) -> Result<()> {
    let [y] = outs(call)?;
    match y.dtype {
        DType::F32 => map(cx.f32_mut(y)?, y, |run| run.fill(value)),
        DType::BF16 => map(cx.map_mut(y)?, y, |run| run.fill(rounded(value))),
        DType::U8 => map(cx.u8_mut(y)?, y, |run| run.fill(value as u8)),
        DType::U32 => map(cx.u32_mut(y)?, y, |run| run.fill(value as u32)),
    }
    Ok(())
}

pub(super) fn copy(cx: &Ctx, call: &Call) -> Result<()> {
    use DType::{BF16, F32, U8, U32};
    let ([x], [y]) = (ins(call)?, outs(call)?);
    want_shape(call, y, x.shape)?;
    match (x.dtype, y.dtype, call.accumulates(0)) {
        (F32, F32, true) => zip((cx.f32_mut(y)?, y), (cx.f32(x)?, x), add),
        (BF16, F32, true) => zip((cx.f32_mut(y)?, y), (cx.map(x)?, x), add_half),
        (_, _, true) => return Err(mismatch("copy", "f32 to accumulate", y)),
        (F32, BF16, _) => zip((cx.map_mut(y)?, y), (cx.f32(x)?, x), |y, x| round(x, y)),
        (BF16, F32, _) => zip((cx.f32_mut(y)?, y), (cx.map(x)?, x), |y, x| widen(x, y)),
        (F32, F32, _) => same(cx.f32_mut(y)?, cx.f32(x)?, x, y),
        (BF16, BF16, _) => same::<bf16>(cx.map_mut(y)?, cx.map(x)?, x, y),
        (U8, U8, _) => same(cx.u8_mut(y)?, cx.u8(x)?, x, y),
        (U32, U32, _) => same(cx.u32_mut(y)?, cx.u32(x)?, x, y),
        _ => return Err(mismatch("copy", &format!("{:?}", x.dtype), y)),
    }
    Ok(())
}

fn same<T: Copy + Send + Sync>(to: &mut [T], from: &[T], x: &View, y: &View) {
    zip((to, y), (from, x), <[T]>::copy_from_slice);
}

fn add(y: &mut [f32], x: &[f32]) {
    for (y, &x) in y.iter_mut().zip(x) {
        *y += x;
    }
}

fn add_half(y: &mut [f32], x: &[bf16]) {
    lift1(y, x, add);
}

/// A one-element operand.
fn scalar(cx: &Ctx, view: &View) -> Result<f32> {
    let value = cx.f32(view)?.first().copied();
    value.ok_or_else(|| Error::internal("empty scalar operand"))
}

pub(super) fn lerp(cx: &Ctx, call: &Call) -> Result<()> {
    let ([src, m], [dst]) = (ins(call)?, outs(call)?);
    want_shape(call, dst, src.shape)?;
    let m = scalar(cx, m)?;
    let (data, from) = (cx.f32_mut(dst)?, cx.f32(src)?);
    if m != 1.0 {
        zip((&mut *data, dst), (from, src), |t, p| move_towards(t, p, m));
    }
    if let Some(copy) = call.outs.get(1) {
        want_shape(call, copy, dst.shape)?;
        zip((cx.map_mut(copy)?, copy), (&*data, dst), |c, t| round(t, c));
    }
    Ok(())
}

/// `t ← m·t + (1−m)·p`; a copy at m = 0, whatever `t` held.
fn move_towards(t: &mut [f32], p: &[f32], m: f32) {
    if m == 0.0 {
        t.copy_from_slice(p);
        return;
    }
    let rest = 1.0 - m;
    for (t, &p) in t.iter_mut().zip(p) {
        *t = m * *t + rest * p;
    }
}

/// `max(v, 0)` that lets NaN through, so that a diverged run shows.
#[inline(always)]
pub(super) fn rectify(v: f32) -> f32 {
    if v < 0.0 { 0.0 } else { v }
}

pub(super) fn relu(cx: &Ctx, call: &Call) -> Result<()> {
    by_element!(ins::<1>(call)?[0], relu_of(cx, call))
}

fn relu_of<T: Element>(cx: &Ctx, call: &Call) -> Result<()> {
    let ([x], [y]) = (ins(call)?, outs(call)?);
    want_shape(call, y, x.shape)?;
    let data = cx.map_mut::<T>(y)?;
    if cx.same(x, y) {
        map(data, y, |y| {
            lift(y, |y| y.iter_mut().for_each(|y| *y = rectify(*y)));
        });
    } else {
        zip((data, y), (cx.map::<T>(x)?, x), |y, x| {
            lift1(y, x, |y, x| {
                for (y, &x) in y.iter_mut().zip(x) {
                    *y = rectify(x);
                }
            });
        });
    }
    Ok(())
}

/// Gradient through a ReLU whose output was `y`.
#[inline(always)]
pub(super) fn masked(dy: f32, y: f32) -> f32 {
    if y > 0.0 { dy } else { 0.0 }
}

pub(super) fn relu_backward(cx: &Ctx, call: &Call) -> Result<()> {
    by_element!(ins::<1>(call)?[0], relu_backward_of(cx, call))
}

fn relu_backward_of<T: Element>(cx: &Ctx, call: &Call) -> Result<()> {
    let ([dy, y], [dx]) = (ins(call)?, outs(call)?);
    want_shape(call, y, dy.shape)?;
    want_shape(call, dx, dy.shape)?;
    let in_place = cx.same(dx, dy);
    refuse_accumulate(call, 0, in_place)?;
    let (out, ys) = (cx.map_mut::<T>(dx)?, cx.map::<T>(y)?);
    if in_place {
        zip((out, dx), (ys, y), |dx, y| {
            lift1(dx, y, |dx, y| {
                for (dx, &y) in dx.iter_mut().zip(y) {
                    *dx = masked(*dx, y);
                }
            });
        });
        return Ok(());
    }
    let keep = if call.accumulates(0) { 1.0 } else { 0.0 };
    let sum = |dx: &mut [f32], dy: &[f32], y: &[f32]| {
        for ((dx, &dy), &y) in dx.iter_mut().zip(dy).zip(y) {
            let old = if keep > 0.0 { *dx } else { 0.0 };
            *dx = old + masked(dy, y);
        }
    };
    let dys = cx.map::<T>(dy)?;
    zip2((out, dx), (dys, dy), (ys, y), |dx, dy, y| {
        lift2(dx, dy, y, sum);
    });
    Ok(())
}

pub(super) fn dropout2d(cx: &Ctx, call: &Call, p: f32, stream: u32) -> Result<()> {
    by_element!(ins::<1>(call)?[0], dropout2d_of(cx, call, p, stream))
}

fn dropout2d_of<T: Element>(cx: &Ctx, call: &Call, p: f32, stream: u32) -> Result<()> {
    let ([x, state], [y]) = (ins(call)?, outs(call)?);
    want_shape(call, y, x.shape)?;
    let in_place = cx.same(x, y);
    refuse_accumulate(call, 0, in_place)?;
    let rng = Rng::new(cx.rng_state(state)?, stream);
    let [n, h, w, c] = x.shape;
    let kept = 1.0 / (1.0 - p);
    let draw = |i| to_unit(rng.block(i)[0]);
    let scales: Vec<f32> = (0..(n * c) as u64)
        .map(|i| if draw(i) < p { 0.0 } else { kept })
        .collect();
    let scale_of = |i: usize| &scales[i / (h * w) * c..][..c];
    let data = cx.map_mut::<T>(y)?;
    if in_place {
        for_pixels(data, y, |i, row| {
            lift1(row, scale_of(i), |row, scale| {
                for (y, &s) in row.iter_mut().zip(scale) {
                    *y = dropped(*y, s);
                }
            });
        });
        return Ok(());
    }
    let (from, accumulate) = (cx.map::<T>(x)?, call.accumulates(0));
    for_pixels(data, y, |i, row| {
        lift2(row, pixel(from, x, i), scale_of(i), |row, x, scale| {
            for (y, (&x, &s)) in row.iter_mut().zip(x.iter().zip(scale)) {
                let old = if accumulate { *y } else { 0.0 };
                *y = old + dropped(x, s);
            }
        });
    });
    Ok(())
}

/// `x·scale`, and exactly 0 in a dropped channel even where x is not finite.
#[inline(always)]
fn dropped(x: f32, scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { x * scale }
}

pub(super) fn sgd_ema(cx: &Ctx, call: &Call, momentum: f32, groups: &[SgdGroup]) -> Result<()> {
    let ([grad, lr, m], [param, velocity]) = (ins(call)?, outs(call)?);
    let n = grad.elements();
    for view in [grad, param, velocity] {
        want_vector(call, view, n)?;
    }
    if let Some(g) = groups.iter().find(|g| g.start + g.len > n) {
        return Err(Error::internal(format!(
            "sgd_ema: {g:?} past {n} parameters"
        )));
    }
    let rates = (scalar(cx, lr)?, momentum, scalar(cx, m)?);
    let (floats, copies): (Vec<&View>, Vec<&View>) =
        (call.outs[2..].iter()).partition(|view| view.dtype == DType::F32);
    for view in floats.iter().chain(&copies) {
        want_vector(call, view, n)?;
    }
    let teacher = floats.first().map(|view| cx.f32_mut(view)).transpose()?;
    let mut copies = copies.into_iter().map(|view| cx.map_mut::<bf16>(view));
    let param_copy = copies.next().transpose()?;
    let teacher_copy = copies.next().transpose()?;
    (cx.f32_mut(param)?.par_chunks_mut(SGD_TASK))
        .zip(cx.f32_mut(velocity)?.par_chunks_mut(SGD_TASK))
        .zip(cx.f32(grad)?.par_chunks(SGD_TASK))
        .zip(pieces(teacher, n))
        .zip(
            pieces(param_copy, n)
                .into_par_iter()
                .zip(pieces(teacher_copy, n)),
        )
        .enumerate()
        .for_each(|(i, ((((p, v), g), t), (p_copy, t_copy)))| {
            let mut piece = Piece {
                p,
                v,
                g,
                t,
                p_copy,
                t_copy,
            };
            piece.update(i * SGD_TASK, rates, groups);
        });
    Ok(())
}

/// One piece a task of a vector of `n` elements that may not be there.
fn pieces<T>(vector: Option<&mut [T]>, n: usize) -> Vec<Option<&mut [T]>> {
    match vector {
        Some(vector) => vector.chunks_mut(SGD_TASK).map(Some).collect(),
        None => (0..n.div_ceil(SGD_TASK)).map(|_| None).collect(),
    }
}

/// What one task of [`sgd_ema`] updates: parameters, velocity, gradient, teacher, bf16 copies.
struct Piece<'a> {
    p: &'a mut [f32],
    v: &'a mut [f32],
    g: &'a [f32],
    t: Option<&'a mut [f32]>,
    p_copy: Option<&'a mut [bf16]>,
    t_copy: Option<&'a mut [bf16]>,
}

impl Piece<'_> {
    /// Updates the parts of the piece, which starts at `start`, that groups cover.
    fn update(&mut self, start: usize, (lr, momentum, m): (f32, f32, f32), groups: &[SgdGroup]) {
        let end = start + self.p.len();
        for group in groups {
            let from = group.start.clamp(start, end) - start;
            let to = (group.start + group.len).clamp(start, end) - start;
            let rate = lr * group.lr_mult;
            let decay = group.weight_decay;
            let p = &mut self.p[from..to];
            let state = self.v[from..to].iter_mut().zip(&self.g[from..to]);
            for (p, (v, &g)) in p.iter_mut().zip(state) {
                *v = momentum * *v + (g + decay * *p);
                *p -= rate * *v;
            }
            if let Some(copy) = self.p_copy.as_deref_mut() {
                round(p, &mut copy[from..to]);
            }
            let Some(t) = self.t.as_deref_mut() else {
                continue;
            };
            if m != 1.0 {
                move_towards(&mut t[from..to], p, m);
            }
            if let Some(copy) = self.t_copy.as_deref_mut() {
                round(&t[from..to], &mut copy[from..to]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Bench, close, noise};
    use super::*;
    use crate::device::Op;

    #[test]
    fn fill_converts_and_respects_gaps() {
        let b = Bench::new(2);
        let y = b.out([1, 3, 5, 2], 3);
        b.run(Op::Fill { value: 2.5 }, &[], &[y]);
        assert_eq!(b.get(&y), vec![2.5; 30]);
        let y = b.u8([1, 1, 1, 4], &[0; 4]);
        b.run(Op::Fill { value: 255.0 }, &[], &[y]);
        assert_eq!(b.get_u8(&y), [255; 4]);
    }

    #[test]
    fn copy_strided_and_accumulating() {
        let b = Bench::new(2);
        let data = noise(24, 1);
        let x = b.f32([2, 2, 2, 3], 5, &data);
        let y = b.out([2, 2, 2, 3], 1);
        b.run(Op::Copy, &[x], &[y]);
        assert_eq!(b.get(&y), data);
        b.add(Op::Copy, &[x], &[y], 1);
        let twice: Vec<f32> = data.iter().map(|v| v + v).collect();
        assert_eq!(b.get(&y), twice);
        let wrong = b.out([2, 2, 2, 4], 0);
        assert!(b.try_run(Op::Copy, &[x], &[wrong], 0).is_err());
    }

    #[test]
    fn lerp_ends_are_exact() {
        let b = Bench::new(1);
        let src = b.vector(&[1.0, -2.0]);
        for (m, want) in [
            (0.0, [1.0, -2.0]),
            (1.0, [f32::INFINITY, 6.0]),
            (0.75, [f32::INFINITY, 4.0]),
        ] {
            let dst = b.vector(&[f32::INFINITY, 6.0]);
            let m = b.vector(&[m]);
            b.run(Op::Lerp, &[src, m], &[dst]);
            assert_eq!(b.get(&dst), want);
        }
    }

    #[test]
    fn relu_and_its_backward() {
        let b = Bench::new(2);
        let x = b.f32([1, 1, 2, 2], 1, &[-1.0, 2.0, f32::NAN, 0.0]);
        let y = b.out([1, 1, 2, 2], 0);
        b.run(Op::Relu, &[x], &[y]);
        let got = b.get(&y);
        assert_eq!((got[0], got[1], got[3]), (0.0, 2.0, 0.0));
        assert!(got[2].is_nan());
        b.run(Op::Relu, &[x], &[x]);
        assert_eq!(b.get(&x)[..2], [0.0, 2.0]);

        let y = b.f32([1, 1, 2, 2], 2, &[0.0, 3.0, 1.0, -0.0]);
        let dy = b.f32([1, 1, 2, 2], 1, &[1.0, 2.0, 3.0, 4.0]);
        let dx = b.f32([1, 1, 2, 2], 0, &[10.0; 4]);
        b.add(Op::ReluBackward, &[dy, y], &[dx], 1);
        assert_eq!(b.get(&dx), [10.0, 12.0, 13.0, 10.0]);
        b.run(Op::ReluBackward, &[dy, y], &[dx]);
        assert_eq!(b.get(&dx), [0.0, 2.0, 3.0, 0.0]);
        assert!(b.try_run(Op::ReluBackward, &[dy, y], &[dy], 1).is_err());
        b.run(Op::ReluBackward, &[dy, y], &[dy]);
        assert_eq!(b.get(&dy), [0.0, 2.0, 3.0, 0.0]);
    }

    #[test]
    fn dropout_drops_whole_channels_at_the_documented_draws() {
        let (n, c, p, stream) = (2, 40, 0.3, 9);
        let b = Bench::new(3);
        let state = [5, 6, 7, 0];
        let rng = b.u32([1, 1, 1, 4], &state);
        let data = noise(n * 6 * c, 2);
        let x = b.f32([n, 2, 3, c], 4, &data);
        let y = b.out([n, 2, 3, c], 1);
        let op = Op::Dropout2d { p, stream };
        b.run(op.clone(), &[x, rng], &[y]);
        let draws = Rng::new(state, stream);
        let want: Vec<f32> = (0..data.len())
            .map(|i| {
                let (image, channel) = (i / (6 * c), i % c);
                let dropped = draws.uniform((image * c + channel) as u64) < p;
                if dropped {
                    0.0
                } else {
                    data[i] * (1.0 / (1.0 - p))
                }
            })
            .collect();
        assert_eq!(b.get(&y), want);
        assert!(want.contains(&0.0));
        b.add(op.clone(), &[x, rng], &[y], 1);
        let twice: Vec<f32> = want.iter().map(|v| v + v).collect();
        assert_eq!(b.get(&y), twice);
        b.run(op, &[x, rng], &[x]);
        assert_eq!(b.get(&x), want);
    }

    /// Two steps against the textbook recurrence in f64; the gap between groups stays.
    #[test]
    fn sgd_ema_follows_the_recurrence() {
        let n = 40_000;
        let groups = vec![
            SgdGroup {
                start: 0,
                len: 20_000,
                lr_mult: 1.0,
                weight_decay: 0.01,
            },
            SgdGroup {
                start: 20_010,
                len: n - 20_010,
                lr_mult: 10.0,
                weight_decay: 0.0,
            },
        ];
        let (g, p0, t0) = (noise(n, 1), noise(n, 2), noise(n, 3));
        let (lr, mu, m) = (0.05f64, 0.9f64, 0.75f64);
        let run = |threads| {
            let b = Bench::new(threads);
            let [grad, param, teacher] = [&g, &p0, &t0].map(|v| b.vector(v));
            let velocity = b.vector(&vec![0.0; n]);
            let (lr, m) = (b.vector(&[lr as f32]), b.vector(&[m as f32]));
            let op = Op::SgdEma {
                momentum: mu as f32,
                groups: groups.clone(),
            };
            for _ in 0..2 {
                b.run(op.clone(), &[grad, lr, m], &[param, velocity, teacher]);
            }
            [b.get(&param), b.get(&velocity), b.get(&teacher)]
        };
        let got = run(1);
        assert_eq!(got, run(3));
        let mut want: [Vec<f64>; 3] =
            [&p0, &vec![0.0; n], &t0].map(|v| v.iter().map(|&x| f64::from(x)).collect());
        for group in groups.iter().chain(&groups) {
            for i in group.start..group.start + group.len {
                let grad = f64::from(g[i]) + f64::from(group.weight_decay) * want[0][i];
                want[1][i] = mu * want[1][i] + grad;
                want[0][i] -= lr * f64::from(group.lr_mult) * want[1][i];
                want[2][i] = m * want[2][i] + (1.0 - m) * want[0][i];
            }
        }
        for (got, want) in got.iter().zip(&want) {
            close(got, want, 1e-6);
        }
        assert_eq!(got[0][20_000..20_010], p0[20_000..20_010]);
    }

    #[test]
    fn sgd_without_a_teacher_and_with_a_frozen_one() {
        let b = Bench::new(1);
        let groups = vec![SgdGroup {
            start: 0,
            len: 1,
            lr_mult: 1.0,
            weight_decay: 0.5,
        }];
        let op = Op::SgdEma {
            momentum: 0.5,
            groups,
        };
        let [grad, lr, one] = [1.0, 0.5, 1.0].map(|v| b.vector(&[v]));
        let [param, velocity, teacher] = [2.0, 4.0, 9.0].map(|v| b.vector(&[v]));
        b.run(op.clone(), &[grad, lr, one], &[param, velocity]);
        // v = 0.5·4 + 1 + 0.5·2 = 4; p = 2 − 0.5·4 = 0.
        assert_eq!((b.get(&velocity), b.get(&param)), (vec![4.0], vec![0.0]));
        b.run(op, &[grad, lr, one], &[param, velocity, teacher]);
        assert_eq!(b.get(&teacher), [9.0]);
    }
}
