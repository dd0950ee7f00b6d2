//! Cross-entropy at label resolution from low-resolution logits, its gradient, and OHEM.

use rayon::prelude::*;

use super::super::op::CeNorm;
use super::super::{Call, View};
use super::entropy::{dense_map, nan_last, scalar};
use super::memory::Ctx;
use super::mismatch;
use super::upsample::{Rows, Tap, Upsample};
use super::vmath::{self, Softmax};
use crate::error::Result;

/// Low-resolution rows whose gradient one task gathers. Fixed, so that sums do not depend on
/// the number of threads.
const BAND: usize = 8;

/// Logits against labels: what the three operations of the loss share.
struct Loss<'a> {
    up: Upsample<'a>,
    labels: &'a [u8],
    ignore: u8,
    /// Pixels whose p(label) exceeds this do not count (OHEM).
    threshold: f32,
}

impl<'a> Loss<'a> {
    fn new(
        cx: &'a Ctx,
        op: &str,
        logits: &View,
        label: &View,
        threshold: Option<&View>,
        ignore: u8,
    ) -> Result<Self> {
        dense_map(op, label, label)?;
        if logits.shape[0] != label.shape[0] {
            return Err(mismatch(op, "a label map per image", label));
        }
        Ok(Self {
            up: Upsample::new(cx, op, logits, label.shape[1], label.shape[2])?,
            labels: cx.u8(label)?,
            ignore,
            threshold: match threshold {
                Some(view) => scalar(cx, view)?,
                None => f32::INFINITY,
            },
        })
    }

    /// Labels of an output row.
    fn row(&self, row: usize) -> &[u8] {
        let width = self.up.xs.len();
        &self.labels[row * width..][..width]
    }

    /// The class of a labelled pixel.
    fn class(&self, label: u8) -> Option<usize> {
        let class = usize::from(label);
        (label != self.ignore && class < self.up.classes).then_some(class)
    }

    /// Calls `each(column, class, x, e, softmax)` for the pixels of a row that count.
    fn each_valid(
        &self,
        row: usize,
        rows: &mut Rows,
        mut each: impl FnMut(usize, usize, &[f32], &mut [f32], Softmax),
    ) {
        let pixels = rows.full.chunks_exact(self.up.stride);
        for (i, (x, &label)) in pixels.zip(self.row(row)).enumerate() {
            let Some(class) = self.class(label) else {
                continue;
            };
            let s = vmath::softmax(x, &mut rows.pixel);
            let easy = self.threshold < 1.0 && probability(&rows.pixel, class, s) > self.threshold;
            if !easy {
                each(i, class, x, &mut rows.pixel, s);
            }
        }
    }
}

/// p(class); one expression everywhere, so that OHEM's threshold keeps the pixel it came from.
#[inline(always)]
fn probability(e: &[f32], class: usize, s: Softmax) -> f32 {
    e[class] / s.sum()
}

pub(super) fn cross_entropy(cx: &Ctx, call: &Call, ignore: u8, norm: CeNorm) -> Result<()> {
    let (logits, label) = (&call.ins[0], &call.ins[1]);
    let loss = Loss::new(cx, "cross_entropy", logits, label, call.ins.get(2), ignore)?;
    let stats = cx.f32_mut(&call.outs[0])?;
    let [mean, scale, valid_pixels, all_pixels] = stats else {
        return Err(mismatch("cross_entropy", "stats f32[4]", &call.outs[0]));
    };
    let sums = loss.up.map_rows(|row, rows| {
        let (mut sum, mut valid) = (0.0f64, 0u64);
        loss.each_valid(row, rows, |_, class, x, _, s| {
            sum += f64::from(s.ln_sum() - (x[class] - s.max));
            valid += 1;
        });
        (sum, valid)
    });
    let (sum, valid) = sums
        .iter()
        .fold((0.0, 0), |(sum, valid), row| (sum + row.0, valid + row.1));
    let (all, valid) = (label.pixels() as f64, valid as f64);
    let each = match norm {
        _ if valid == 0.0 => 0.0,
        CeNorm::Valid => 1.0 / valid,
        CeNorm::ValidTimesAllOverValid => all / (valid * valid),
        CeNorm::All => 1.0 / all,
    };
    *mean = (sum * each) as f32;
    *scale = each as f32;
    *valid_pixels = valid as f32;
    *all_pixels = all as f32;
    Ok(())
}

pub(super) fn cross_entropy_backward(cx: &Ctx, call: &Call, ignore: u8, weight: f32) -> Result<()> {
    let op = "cross_entropy_backward";
    let (logits, label, out) = (&call.ins[0], &call.ins[1], &call.outs[0]);
    if out.shape != logits.shape {
        return Err(mismatch(op, "the shape of the logits", out));
    }
    let loss = Loss::new(cx, op, logits, label, call.ins.get(3), ignore)?;
    let scale = match cx.f32(&call.ins[2])? {
        &[_, scale, _, _] => scale * weight,
        _ => return Err(mismatch(op, "stats f32[4]", &call.ins[2])),
    };
    let bands = gather_bands(&loss, scale);
    store_bands(
        &loss.up,
        &bands,
        cx.f32_mut(out)?,
        out.ld,
        call.accumulates(0),
    );
    Ok(())
}

/// Gradients of bands of [`BAND`] low-resolution rows, image after image, from the output rows
/// whose upper tap lies in the band. Row `BAND` of a band is what spills into the next one.
fn gather_bands(loss: &Loss, scale: f32) -> Vec<Vec<f32>> {
    let up = &loss.up;
    let (height, line) = (up.ys.len(), up.w * up.stride);
    let per_image = up.h.div_ceil(BAND);
    (0..up.batch * per_image)
        .into_par_iter()
        .map_init(
            || (up.buffers(), vec![0.0f32; line]),
            |(rows, low), band| {
                let (image, first) = (band / per_image, band % per_image * BAND);
                let mut sums = vec![0.0f32; (BAND + 1) * line];
                // Taps ascend, so the band's output rows are one run.
                let from = up.ys.partition_point(|tap| tap.lo < first);
                let to = up.ys.partition_point(|tap| tap.lo < first + BAND);
                for y in from..to {
                    row_gradient(loss, image * height + y, rows, low, scale);
                    let Tap { lo, hi, t } = up.ys[y];
                    add_scaled(&mut sums[(lo - first) * line..][..line], low, 1.0 - t);
                    add_scaled(&mut sums[(hi - first) * line..][..line], low, t);
                }
                sums
            },
        )
        .collect()
}

/// Gradient of output row `row`, gathered along x, to `low` (`w` padded pixels).
fn row_gradient(loss: &Loss, row: usize, rows: &mut Rows, low: &mut [f32], scale: f32) {
    let up = &loss.up;
    low.fill(0.0);
    up.row(row, rows);
    loss.each_valid(row, rows, |i, class, _, e, s| {
        // dL/dx = scale·(p − onehot). 1 − p(argmax) is taken from the other classes' sum.
        let inverse = scale / s.sum();
        e.iter_mut().for_each(|e| *e *= inverse);
        if class == s.argmax {
            e[class] = -s.others * inverse;
        } else {
            e[class] -= scale;
        }
        let Tap { lo, hi, t } = up.xs[i];
        add_scaled(&mut low[lo * up.stride..][..up.stride], e, 1.0 - t);
        add_scaled(&mut low[hi * up.stride..][..up.stride], e, t);
    });
}

/// `sum += factor·x`.
#[inline(always)]
fn add_scaled(sum: &mut [f32], x: &[f32], factor: f32) {
    for (sum, x) in sum.iter_mut().zip(x) {
        *sum += factor * x;
    }
}

/// Writes or adds the bands' gradients to the low-resolution logits' gradient.
fn store_bands(up: &Upsample, bands: &[Vec<f32>], out: &mut [f32], ld: usize, adds: bool) {
    let line = up.w * up.stride;
    let per_image = up.h.div_ceil(BAND);
    out.par_chunks_mut(up.w * ld)
        .enumerate()
        .for_each(|(row, out)| {
            let (image, y) = (row / up.h, row % up.h);
            let (band, inner) = (image * per_image + y / BAND, y % BAND);
            let own = &bands[band][inner * line..][..line];
            let spill = (inner == 0 && y > 0).then(|| &bands[band - 1][BAND * line..]);
            for x in 0..up.w {
                for (c, out) in out[x * ld..][..up.classes].iter_mut().enumerate() {
                    let i = x * up.stride + c;
                    let gradient = own[i] + spill.map_or(0.0, |spill| spill[i]);
                    *out = if adds { *out + gradient } else { gradient };
                }
            }
        });
}

pub(super) fn target_probability(cx: &Ctx, call: &Call, ignore: u8) -> Result<()> {
    let (logits, label, out) = (&call.ins[0], &call.ins[1], &call.outs[0]);
    let loss = Loss::new(cx, "target_probability", logits, label, None, ignore)?;
    dense_map("target_probability", out, label)?;
    let out = cx.f32_mut(out)?;
    out.fill(1.0);
    out.par_chunks_mut(label.shape[2].max(1))
        .enumerate()
        .for_each_init(
            || loss.up.buffers(),
            |rows, (row, out)| {
                loss.up.row(row, rows);
                loss.each_valid(row, rows, |i, class, _, e, s| {
                    out[i] = probability(e, class, s);
                });
            },
        );
    Ok(())
}

pub(super) fn ohem_threshold(
    cx: &Ctx,
    call: &Call,
    ignore: u8,
    thresh: f32,
    min_kept: usize,
) -> Result<()> {
    let (p, label) = (&call.ins[0], &call.ins[1]);
    dense_map("ohem_threshold", p, p)?;
    dense_map("ohem_threshold", label, p)?;
    let labels = cx.u8(label)?;
    let mut p: Vec<f32> = cx.f32(p)?.iter().copied().map(nan_last).collect();
    let [threshold] = cx.f32_mut(&call.outs[0])? else {
        return Err(mismatch("ohem_threshold", "f32[1]", &call.outs[0]));
    };
    let valid = labels.iter().filter(|&&label| label != ignore).count();
    *threshold = if min_kept == 0 || valid < min_kept {
        f32::INFINITY
    } else {
        let (_, &mut kth, _) = p.select_nth_unstable_by(min_kept - 1, f32::total_cmp);
        kth.max(thresh)
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::super::DType::F32;
    use super::super::super::op::Op;
    use super::super::super::{Shape, View};
    use super::super::rig::{Rig, THREADS, close, floats, labels, softmax, tent, upsampled};
    use super::*;

    struct Case {
        shape: Shape,
        size: (usize, usize),
        logits: Vec<f32>,
        labels: Vec<u8>,
        threshold: Option<f32>,
        norm: CeNorm,
    }

    fn cases() -> Vec<Case> {
        let mut cases = Vec::new();
        for (shape, size) in [
            ([2, 19, 4, 5], (37, 9)),
            ([1, 8, 8, 21], (8, 8)),
            ([3, 1, 1, 2], (5, 3)),
            ([1, 9, 5, 3], (4, 3)),
        ] {
            for (threshold, norm) in [
                (None, CeNorm::Valid),
                (None, CeNorm::ValidTimesAllOverValid),
                (Some(0.4), CeNorm::Valid),
                (Some(0.4), CeNorm::All),
            ] {
                cases.push(Case {
                    shape,
                    size,
                    logits: floats(shape.iter().product(), 3.0, 5),
                    labels: labels(shape[0] * size.0 * size.1, shape[3] as u32, 255, 6),
                    threshold,
                    norm,
                });
            }
        }
        cases
    }

    impl Case {
        fn operands(&self, rig: &Rig) -> Vec<View> {
            let map = [self.shape[0], self.size.0, self.size.1, 1];
            vec![
                rig.strided(self.shape, &self.logits, self.shape[3] + 4),
                rig.u8(map, &self.labels),
            ]
        }

        /// (stats, gradient), the gradient added to a map of ones.
        fn run(&self, threads: usize, weight: f32) -> (Vec<f32>, Vec<f32>) {
            let rig = Rig::new(threads);
            let mut ins = self.operands(&rig);
            let threshold = self.threshold.map(|t| rig.f32([1, 1, 1, 1], &[t]));
            ins.extend(threshold);
            let stats = rig.zeros([1, 1, 1, 4], F32);
            let op = Op::CrossEntropy {
                ignore: 255,
                norm: self.norm,
            };
            rig.run(op, &ins, &[stats], 0);
            ins.insert(2, stats);
            let gradient = rig.f32(self.shape, &vec![1.0; self.logits.len()]);
            let op = Op::CrossEntropyBackward {
                ignore: 255,
                weight,
            };
            rig.run(op, &ins, &[gradient], 1);
            (rig.get_f32(&stats), rig.get_f32(&gradient))
        }

        /// Loss, scale, valid pixels and gradient by the definition in f64.
        fn exact(&self) -> (f64, f64, f64, Vec<f64>) {
            let [_, h, w, c] = self.shape;
            let (height, width) = self.size;
            let threshold = self.threshold.map_or(2.0, f64::from);
            let (mut sum, mut valid) = (0.0, 0.0);
            let mut gradient = vec![0.0; self.logits.len()];
            let pixels = upsampled(&self.logits, self.shape, height, width);
            for (i, (x, &label)) in pixels.iter().zip(&self.labels).enumerate() {
                let mut p = softmax(x);
                if label == 255 || p[usize::from(label)] > threshold {
                    continue;
                }
                sum -= p[usize::from(label)].ln();
                valid += 1.0;
                p[usize::from(label)] -= 1.0;
                let wy = tent(i / width % height, h, height);
                let wx = tent(i % width, w, width);
                for (at, g) in gradient[i / (height * width) * h * w * c..][..h * w * c]
                    .iter_mut()
                    .enumerate()
                {
                    *g += wy[at / (w * c)] * wx[at / c % w] * p[at % c];
                }
            }
            let all = self.labels.len() as f64;
            let scale = match self.norm {
                CeNorm::Valid => 1.0 / valid,
                CeNorm::ValidTimesAllOverValid => all / (valid * valid),
                CeNorm::All => 1.0 / all,
            };
            gradient.iter_mut().for_each(|g| *g *= scale);
            (sum * scale, scale, valid, gradient)
        }
    }

    #[test]
    fn loss_and_gradient_follow_the_definition() {
        for case in cases() {
            let weight = 0.4;
            let one = case.run(THREADS[0], weight);
            assert_eq!(one, case.run(THREADS[1], weight));
            let (loss, scale, valid, gradient) = case.exact();
            close(one.0[0], loss, 1e-5);
            close(one.0[1], scale, 1e-6);
            assert_eq!(one.0[2], valid as f32);
            assert_eq!(one.0[3], case.labels.len() as f32);
            for (got, want) in one.1.iter().zip(gradient) {
                close(*got, 1.0 + f64::from(weight) * want, 2e-6);
            }
        }
    }

    #[test]
    fn gradient_is_the_slope_of_the_loss() {
        let mut case = cases().remove(0);
        let (_, gradient) = case.run(2, 1.0);
        for i in (0..case.logits.len()).step_by(17) {
            let step = 0.05;
            let mut at = |x: f32| {
                let old = std::mem::replace(&mut case.logits[i], x);
                let loss = case.exact().0;
                case.logits[i] = old;
                loss
            };
            let x = floats(i + 1, 3.0, 5)[i];
            let slope = (at(x + step) - at(x - step)) / f64::from((x + step) - (x - step));
            close(gradient[i], 1.0 + slope, 1e-5);
        }
    }

    #[test]
    fn no_valid_pixel_gives_zero() {
        for norm in [CeNorm::Valid, CeNorm::ValidTimesAllOverValid, CeNorm::All] {
            let case = Case {
                shape: [1, 2, 2, 3],
                size: (3, 3),
                logits: floats(12, 1.0, 1),
                labels: vec![255; 9],
                threshold: None,
                norm,
            };
            let (stats, gradient) = case.run(1, 1.0);
            assert_eq!(stats, [0.0, 0.0, 0.0, 9.0]);
            assert_eq!(gradient, [1.0; 12]);
        }
    }

    /// (probabilities, threshold) of a case.
    fn run_ohem(case: &Case, thresh: f32, min_kept: usize) -> (Vec<f32>, f32) {
        let rig = Rig::new(2);
        let ins = case.operands(&rig);
        let p = rig.zeros(ins[1].shape, F32);
        rig.run(Op::TargetProbability { ignore: 255 }, &ins, &[p], 0);
        let threshold = rig.zeros([1, 1, 1, 1], F32);
        let op = Op::OhemThreshold {
            ignore: 255,
            thresh,
            min_kept,
        };
        rig.run(op, &[p, ins[1]], &[threshold], 0);
        (rig.get_f32(&p), rig.get_f32(&threshold)[0])
    }

    #[test]
    fn ohem_keeps_at_least_min_kept() {
        let mut case = cases().remove(0);
        let valid = case.labels.iter().filter(|&&l| l != 255).count();
        for min_kept in [1, 7, valid - 1, valid] {
            let (p, threshold) = run_ohem(&case, 0.01, min_kept);
            let mut sorted = p.clone();
            sorted.sort_by(f32::total_cmp);
            assert_eq!(threshold, sorted[min_kept - 1].max(0.01));
            case.threshold = Some(threshold);
            // The pixel that set the threshold is itself kept.
            let kept = p.iter().filter(|&&p| p <= threshold && p < 1.0).count();
            assert_eq!(case.run(1, 1.0).0[2], kept as f32);
            assert!(kept >= min_kept);
        }
        assert_eq!(run_ohem(&case, 0.7, 1).1, 0.7);
        assert_eq!(run_ohem(&case, 0.7, valid + 1).1, f32::INFINITY);
        assert_eq!(run_ohem(&case, 0.7, 0).1, f32::INFINITY);
    }

    #[test]
    fn target_probability_is_that_of_the_label() {
        let case = cases().remove(0);
        let (p, _) = run_ohem(&case, 0.7, 1);
        let pixels = upsampled(&case.logits, case.shape, case.size.0, case.size.1);
        for ((&p, x), &label) in p.iter().zip(&pixels).zip(&case.labels) {
            match label {
                255 => assert_eq!(p, 1.0),
                _ => close(p, softmax(x)[usize::from(label)], 1e-5),
            }
        }
    }
}
