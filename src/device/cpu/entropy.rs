//! Entropy of the teacher's prediction, its percentiles, the pseudo-labels that survive them, and
//! the score maps of sliding-window evaluation.

use rayon::prelude::*;

use super::super::{Call, View};
use super::memory::Ctx;
use super::mismatch;
use super::upsample::{Rows, Upsample};
use super::vmath::{self, PAD, padded};
use crate::error::{Error, Result};

/// Entropy, argmax and confidence maps, written a row at a time.
struct Maps<'a> {
    entropy: &'a mut [f32],
    argmax: &'a mut [u8],
    confidence: &'a mut [f32],
    width: usize,
    classes: usize,
}

impl<'a> Maps<'a> {
    /// The three outputs of a call, which must be dense maps of one size.
    fn new(cx: &'a Ctx, op: &str, outs: &[View], classes: usize) -> Result<Self> {
        let [entropy, argmax, confidence] = outs else {
            return Err(Error::internal(format!("{op}: expected three outputs")));
        };
        if classes > 256 {
            return Err(Error::internal(format!(
                "{op}: {classes} classes in a byte"
            )));
        }
        for view in outs {
            dense_map(op, view, entropy)?;
        }
        Ok(Self {
            entropy: cx.f32_mut(entropy)?,
            argmax: cx.u8_mut(argmax)?,
            confidence: cx.f32_mut(confidence)?,
            width: entropy.shape[2].max(1),
            classes,
        })
    }

    /// Fills the maps: `prepare(row, rows)` leaves the row's padded pixels in `rows.full`,
    /// `value(x, e)` gives (entropy, argmax, confidence) of one of them.
    fn fill(
        self,
        buffers: impl Fn() -> Rows + Send + Sync,
        prepare: impl Fn(usize, &mut Rows) + Send + Sync,
        value: impl Fn(&[f32], &mut [f32]) -> (f32, usize, f32) + Send + Sync,
    ) {
        let (width, classes) = (self.width, self.classes);
        self.entropy
            .par_chunks_mut(width)
            .zip(self.argmax.par_chunks_mut(width))
            .zip(self.confidence.par_chunks_mut(width))
            .enumerate()
            .for_each_init(buffers, |rows, (row, ((entropy, argmax), confidence))| {
                prepare(row, rows);
                let stride = rows.pixel.len();
                let pixels = rows.full.chunks_exact(stride);
                for (i, x) in pixels.enumerate() {
                    let (h, class, p) = value(x, &mut rows.pixel);
                    // Where nothing beats the padding there is no answer.
                    (entropy[i], argmax[i], confidence[i]) = match class < classes {
                        true => (h, class as u8, p),
                        false => (f32::NAN, 0, f32::NAN),
                    };
                }
            });
    }
}

/// Fails unless `view` is a dense one-channel map of `like`'s size.
pub(super) fn dense_map(op: &str, view: &View, like: &View) -> Result<()> {
    let [b, h, w, _] = like.shape;
    if view.shape == [b, h, w, 1] && view.is_dense() {
        Ok(())
    } else {
        Err(mismatch(
            op,
            &format!("a dense map [{b}, {h}, {w}, 1]"),
            view,
        ))
    }
}

/// (entropy, argmax, confidence) of a padded pixel of logits.
fn of_logits(x: &[f32], e: &mut [f32], log_eps: f32) -> (f32, usize, f32) {
    let s = vmath::softmax(x, e);
    (vmath::entropy(x, e, s, log_eps), s.argmax, 1.0 / s.sum())
}

/// (entropy, argmax, confidence) of a padded pixel of probabilities (padding < 0).
fn of_probabilities(p: &[f32]) -> (f32, usize, f32) {
    let (argmax, max) = vmath::arg_max(p);
    let h = p
        .iter()
        // NaN stays, so that it shows in the sum; the padding is below zero.
        .filter(|&&p| p > 0.0 || p.is_nan())
        .map(|&p| p * p.ln())
        .sum::<f32>();
    (-h, argmax, max)
}

pub(super) fn softmax_entropy(cx: &Ctx, call: &Call, log_eps: f32) -> Result<()> {
    let (logits, out) = (&call.ins[0], &call.outs[0]);
    if logits.shape[0] != out.shape[0] {
        return Err(mismatch("softmax_entropy", "one map per image", out));
    }
    let up = Upsample::new(cx, "softmax_entropy", logits, out.shape[1], out.shape[2])?;
    Maps::new(cx, "softmax_entropy", &call.outs, up.classes)?.fill(
        || up.buffers(),
        |row, rows| up.row(row, rows),
        |x, e| of_logits(x, e, log_eps),
    );
    Ok(())
}

pub(super) fn percentile(cx: &Ctx, call: &Call, ignore: u8) -> Result<()> {
    let (values, labels) = (&call.ins[0], &call.ins[1]);
    dense_map("percentile", values, values)?;
    dense_map("percentile", labels, values)?;
    let percents = cx.f32(&call.ins[2])?;
    let thresholds = cx.f32_mut(&call.outs[0])?;
    if percents.len() != thresholds.len() {
        return Err(mismatch("percentile", "a threshold per q", &call.outs[0]));
    }
    let mut kept: Vec<f32> = cx
        .f32(values)?
        .iter()
        .zip(cx.u8(labels)?)
        .filter(|&(_, &label)| label != ignore)
        .map(|(&value, _)| nan_last(value))
        .collect();
    for (threshold, &q) in thresholds.iter_mut().zip(percents) {
        *threshold = order_statistic(&mut kept, f64::from(q));
    }
    Ok(())
}

/// The value; of a NaN the one that [`f32::total_cmp`] puts last. That of ∞ − ∞ on x86 has its
/// sign set and would come first.
pub(super) fn nan_last(value: f32) -> f32 {
    if value.is_nan() { f32::NAN } else { value }
}

/// numpy's `percentile(values, q)`; +∞ of no values. Reorders `values`.
fn order_statistic(values: &mut [f32], q: f64) -> f32 {
    if values.is_empty() {
        return f32::INFINITY;
    }
    let position = (values.len() - 1) as f64 * (q / 100.0).clamp(0.0, 1.0);
    let below = position.floor();
    let t = position - below;
    let (_, &mut a, above) = values.select_nth_unstable_by(below as usize, f32::total_cmp);
    let next = above.iter().copied().min_by(f32::total_cmp).unwrap_or(a);
    let (a, b) = (f64::from(a), f64::from(next));
    // numpy interpolates from the nearer end, so that t = 1 is exact.
    let value = if t < 0.5 {
        a + (b - a) * t
    } else {
        b - (b - a) * (1.0 - t)
    };
    value as f32
}

pub(super) fn keep_reliable(cx: &Ctx, call: &Call, ignore: u8) -> Result<()> {
    let (label, entropy, out) = (&call.ins[0], &call.ins[1], &call.outs[0]);
    for view in [label, entropy, out] {
        dense_map("keep_reliable", view, label)?;
    }
    let threshold = scalar(cx, &call.ins[2])?;
    let entropy = cx.f32(entropy)?;
    let in_place = cx.same(label, out);
    let kept = cx.u8_mut(out)?;
    if !in_place {
        kept.copy_from_slice(cx.u8(label)?);
    }
    kept.par_chunks_mut(1 << 14)
        .zip(entropy.par_chunks(1 << 14))
        .for_each(|(kept, entropy)| {
            for (label, &h) in kept.iter_mut().zip(entropy) {
                // As a keep test, so that NaN is unreliable.
                *label = if h < threshold { *label } else { ignore };
            }
        });
    Ok(())
}

/// First element of an `f32[1]`.
pub(super) fn scalar(cx: &Ctx, view: &View) -> Result<f32> {
    cx.f32(view)?
        .first()
        .copied()
        .ok_or_else(|| mismatch("scalar", "one element", view))
}

pub(super) fn add_scores(cx: &Ctx, call: &Call, flip: bool, softmax: bool) -> Result<()> {
    let (logits, scores, counts) = (&call.ins[0], &call.outs[0], &call.outs[1]);
    let &[top, left, height, width] = cx.u32(&call.ins[1])? else {
        return Err(mismatch(
            "add_scores",
            "{y, x, height, width}",
            &call.ins[1],
        ));
    };
    let [top, left, height, width] = [top, left, height, width].map(|v| v as usize);
    let [_, map_height, map_width, classes] = scores.shape;
    let fits = top.saturating_add(height) <= map_height && left.saturating_add(width) <= map_width;
    if !fits || scores.shape[0] != 1 || logits.shape[0] != 1 || logits.channels() != classes {
        return Err(mismatch(
            "add_scores",
            "a score map that holds the window",
            scores,
        ));
    }
    dense_map("add_scores", counts, scores)?;
    let ld = scores.ld;
    let (scores, counts) = (cx.f32_mut(scores)?, cx.f32_mut(counts)?);
    let up = Upsample::new(cx, "add_scores", logits, height, width)?;
    if height == 0 || width == 0 {
        return Ok(());
    }
    scores
        .par_chunks_mut((map_width * ld).max(1))
        .zip(counts.par_chunks_mut(map_width.max(1)))
        .skip(top)
        .take(height)
        .enumerate()
        .for_each_init(
            || up.buffers(),
            |rows, (row, (scores, counts))| {
                up.row(row, rows);
                for (i, x) in rows.full.chunks_exact_mut(up.stride).enumerate() {
                    if softmax {
                        probabilities(x, &mut rows.pixel);
                    }
                    let column = left + if flip { width - 1 - i } else { i };
                    let sums = &mut scores[column * ld..][..classes];
                    sums.iter_mut().zip(x.iter()).for_each(|(s, v)| *s += v);
                    counts[column] += 1.0;
                }
            },
        );
    Ok(())
}

/// Logits of a padded pixel to probabilities.
fn probabilities(x: &mut [f32], e: &mut [f32]) {
    let inverse = 1.0 / vmath::softmax(x, e).sum();
    x.iter_mut()
        .zip(e.iter())
        .for_each(|(x, e)| *x = e * inverse);
}

pub(super) fn finish_scores(cx: &Ctx, call: &Call, softmax: bool) -> Result<()> {
    let (scores, counts) = (&call.ins[0], &call.ins[1]);
    dense_map("finish_scores", counts, scores)?;
    dense_map("finish_scores", &call.outs[0], scores)?;
    let [_, _, width, classes] = scores.shape;
    let (ld, stride) = (scores.ld, padded(classes));
    let (scores, counts) = (cx.f32(scores)?, cx.f32(counts)?);
    Maps::new(cx, "finish_scores", &call.outs, classes)?.fill(
        || Rows::of(width, stride),
        |row, rows| {
            for (i, out) in rows.full.chunks_exact_mut(stride).enumerate() {
                let pixel = row * width + i;
                let inverse = 1.0 / counts[pixel].max(1.0);
                let sums = &scores[pixel * ld..][..classes];
                out.iter_mut().zip(sums).for_each(|(v, s)| *v = s * inverse);
                out[classes..].fill(PAD);
            }
        },
        |x, e| match softmax {
            true => of_probabilities(x),
            false => of_logits(x, e, 0.0),
        },
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::super::DType::{F32, U8};
    use super::super::super::op::Op;
    use super::super::rig::{Rig, THREADS, close, floats, labels, softmax, upsampled};

    /// Runs softmax_entropy on strided logits; (entropy, argmax, confidence).
    fn run_entropy(
        rig: &Rig,
        logits: &[f32],
        shape: [usize; 4],
        size: (usize, usize),
        log_eps: f32,
    ) -> (Vec<f32>, Vec<u8>, Vec<f32>) {
        let map = [shape[0], size.0, size.1, 1];
        let logits = rig.strided(shape, logits, shape[3] + 5);
        let outs = [rig.zeros(map, F32), rig.zeros(map, U8), rig.zeros(map, F32)];
        rig.run(Op::SoftmaxEntropy { log_eps }, &[logits], &outs, 0);
        let [entropy, argmax, confidence] = &outs;
        (
            rig.get_f32(entropy),
            rig.get_u8(argmax),
            rig.get_f32(confidence),
        )
    }

    #[test]
    fn softmax_entropy_follows_the_definition() {
        for (shape, size) in [
            ([2, 5, 4, 21], (17, 13)),
            ([1, 1, 1, 3], (4, 6)),
            ([1, 3, 3, 8], (3, 3)),
            ([1, 6, 7, 9], (1, 1)),
        ] {
            let logits = floats(shape.iter().product(), 12.0, 3);
            let exact = upsampled(&logits, shape, size.0, size.1);
            for log_eps in [0.0, 1e-10] {
                let one = run_entropy(&Rig::new(THREADS[0]), &logits, shape, size, log_eps);
                let many = run_entropy(&Rig::new(THREADS[1]), &logits, shape, size, log_eps);
                assert_eq!(one, many);
                for (i, x) in exact.iter().enumerate() {
                    let p = softmax(x);
                    let h: f64 = p.iter().map(|p| -p * (p + f64::from(log_eps)).ln()).sum();
                    close(one.0[i], h, 1e-5);
                    let top = p.iter().copied().fold(0.0, f64::max);
                    close(one.2[i], top, 1e-5);
                    assert!(top - p[usize::from(one.1[i])] < 1e-5);
                }
            }
        }
    }

    #[test]
    fn entropy_of_confident_pixels_keeps_its_digits() {
        let (entropy, ..) = run_entropy(&Rig::new(1), &[0.0, -25.0], [1, 1, 1, 2], (1, 1), 0.0);
        let p: Vec<f64> = softmax(&[0.0, -25.0]);
        let exact: f64 = p.iter().map(|p| -p * p.ln()).sum();
        assert!((f64::from(entropy[0]) / exact - 1.0).abs() < 1e-5);
    }

    fn run_percentile(values: &[f32], labels: &[u8], q: &[f32]) -> Vec<f32> {
        let rig = Rig::new(1);
        let map = [1, 1, values.len(), 1];
        let ins = [
            rig.f32(map, values),
            rig.u8(map, labels),
            rig.f32([1, 1, 1, q.len()], q),
        ];
        let out = rig.zeros([1, 1, 1, q.len()], F32);
        rig.run(Op::Percentile { ignore: 255 }, &ins, &[out], 0);
        rig.get_f32(&out)
    }

    #[test]
    fn percentile_is_that_of_the_sorted_values() {
        let q = [0.0, 20.0, 37.5, 50.0, 80.0, 99.9, 100.0];
        for n in [1, 2, 3, 10, 101, 4097] {
            for levels in [3.0, 1e6] {
                // Few levels make ties.
                let values: Vec<f32> = floats(n, 1.0, n as u64)
                    .iter()
                    .map(|v| (v * levels).round() / levels)
                    .collect();
                let mut labels = labels(n, 5, 255, n as u64);
                labels[0] = 1;
                let mut kept: Vec<f64> = (0..n)
                    .filter(|&i| labels[i] != 255)
                    .map(|i| f64::from(values[i]))
                    .collect();
                kept.sort_by(f64::total_cmp);
                for (got, q) in run_percentile(&values, &labels, &q).iter().zip(q) {
                    let at = (kept.len() - 1) as f64 * f64::from(q) / 100.0;
                    let (lo, hi) = (kept[at.floor() as usize], kept[at.ceil() as usize]);
                    assert_eq!(*got, (lo + (hi - lo) * at.fract()) as f32, "n {n} q {q}");
                }
            }
        }
    }

    #[test]
    fn percentile_of_nothing_is_infinite() {
        assert_eq!(
            run_percentile(&[1.0, 2.0], &[255, 255], &[50.0]),
            [f32::INFINITY]
        );
    }

    #[test]
    fn keep_reliable_is_strict_and_works_in_place() {
        let rig = Rig::new(2);
        let map = [1, 1, 4, 1];
        let label = rig.u8(map, &[3, 4, 5, 255]);
        let ins = [
            label,
            rig.f32(map, &[0.1, 0.5, f32::NAN, 0.2]),
            rig.f32([1, 1, 1, 1], &[0.5]),
        ];
        let out = rig.zeros(map, U8);
        rig.run(Op::KeepReliable { ignore: 255 }, &ins, &[out], 0);
        assert_eq!(rig.get_u8(&out), [3, 255, 255, 255]);
        rig.run(Op::KeepReliable { ignore: 255 }, &ins, &[label], 0);
        assert_eq!(rig.get_u8(&label), [3, 255, 255, 255]);
    }

    #[test]
    fn overlapping_windows_average() {
        let (shape, classes) = ([1, 3, 2, 5], 5);
        let windows = [[0, 0, 4, 5], [1, 2, 4, 5]];
        for softmax_scores in [false, true] {
            let rig = Rig::new(3);
            let scores = rig.zeros([1, 5, 7, classes], F32);
            let counts = rig.zeros([1, 5, 7, 1], F32);
            let mut exact = vec![(vec![0.0; classes], 0.0); 35];
            for (i, window) in windows.iter().enumerate() {
                let flip = i == 1;
                let logits = floats(30, 4.0, i as u64);
                let op = Op::AddScores {
                    flip,
                    softmax: softmax_scores,
                };
                let ins = [rig.f32(shape, &logits), rig.u32([1, 1, 1, 4], window)];
                rig.run(op, &ins, &[scores, counts], 0);
                for (j, x) in upsampled(&logits, shape, 4, 5).iter().enumerate() {
                    let (y, x_pos) = (j / 5, if flip { 4 - j % 5 } else { j % 5 });
                    let pixel = (window[0] as usize + y) * 7 + window[1] as usize + x_pos;
                    let x = if softmax_scores {
                        softmax(x)
                    } else {
                        x.clone()
                    };
                    exact[pixel].0.iter_mut().zip(x).for_each(|(s, x)| *s += x);
                    exact[pixel].1 += 1.0;
                }
            }
            let map = [1, 5, 7, 1];
            let outs = [rig.zeros(map, F32), rig.zeros(map, U8), rig.zeros(map, F32)];
            let op = Op::FinishScores {
                softmax: softmax_scores,
            };
            rig.run(op, &[scores, counts], &outs, 0);
            let (entropy, confidence) = (rig.get_f32(&outs[0]), rig.get_f32(&outs[2]));
            for (i, (sums, count)) in exact.iter().enumerate().filter(|(_, e)| e.1 > 0.0) {
                let mean: Vec<f64> = sums.iter().map(|s| s / count).collect();
                let p = if softmax_scores { mean } else { softmax(&mean) };
                close(entropy[i], p.iter().map(|p| -p * p.ln()).sum(), 1e-5);
                close(confidence[i], p.iter().copied().fold(0.0, f64::max), 1e-5);
            }
        }
    }
}
