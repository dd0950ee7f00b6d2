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
        let width = self.width;
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
                    (entropy[i], argmax[i], confidence[i]) = (h, class as u8, p);
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
        .filter(|&&p| p > 0.0)
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
        .map(|(&value, _)| value)
        .collect();
    for (threshold, &q) in thresholds.iter_mut().zip(percents) {
        *threshold = order_statistic(&mut kept, f64::from(q));
    }
    Ok(())
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
        .par_chunks_mut(map_width * ld)
        .zip(counts.par_chunks_mut(map_width))
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
