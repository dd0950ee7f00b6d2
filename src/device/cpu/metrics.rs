//! Confusion matrices: counts of (truth, prediction), from which IoU and accuracies come.

use rayon::prelude::*;

use super::super::{Call, View};
use super::entropy::dense_map;
use super::memory::Ctx;
use super::mismatch;
use super::upsample::Upsample;
use super::vmath;
use crate::error::Result;

/// Counts of one part of the pixels, `classes × classes`, row = truth.
struct Counts {
    classes: usize,
    cells: Vec<u32>,
}

impl Counts {
    fn new(classes: usize) -> Self {
        Self {
            classes,
            cells: vec![0; classes * classes],
        }
    }

    /// Counts a pixel unless either side names no class.
    fn add(&mut self, truth: u8, prediction: u8) {
        let (truth, prediction) = (usize::from(truth), usize::from(prediction));
        if truth < self.classes && prediction < self.classes {
            self.cells[truth * self.classes + prediction] += 1;
        }
    }

    /// Sum of two parts; integers, so any order gives the same counts.
    fn merge(mut self, other: Self) -> Self {
        self.cells
            .iter_mut()
            .zip(other.cells)
            .for_each(|(a, b)| *a += b);
        self
    }

    /// Writes or adds the counts to output 0.
    fn store(self, cx: &Ctx, call: &Call) -> Result<()> {
        let (view, adds) = (&call.outs[0], call.accumulates(0));
        let out = cx.u32_mut(view)?;
        for (row, cells) in self.cells.chunks_exact(self.classes).enumerate() {
            for (cell, &count) in out[row * view.ld..].iter_mut().zip(cells) {
                *cell = if adds {
                    cell.wrapping_add(count)
                } else {
                    count
                };
            }
        }
        Ok(())
    }
}

/// Number of classes of a `[1, 1, C, C]` matrix.
fn classes_of(op: &str, matrix: &View) -> Result<usize> {
    match matrix.shape {
        [1, 1, rows, columns] if rows == columns && rows > 0 => Ok(rows),
        _ => Err(mismatch(op, "a matrix [1, 1, C, C]", matrix)),
    }
}

pub(super) fn confusion(cx: &Ctx, call: &Call, ignore: u8) -> Result<()> {
    let (logits, label) = (&call.ins[0], &call.ins[1]);
    let classes = classes_of("confusion", &call.outs[0])?;
    if logits.channels() != classes || logits.shape[0] != label.shape[0] || classes > 256 {
        return Err(mismatch("confusion", "logits [B, h, w, C]", logits));
    }
    dense_map("confusion", label, label)?;
    let [_, height, width, _] = label.shape;
    let up = Upsample::new(cx, "confusion", logits, height, width)?;
    let labels = cx.u8(label)?;
    let counts = (0..up.rows())
        .into_par_iter()
        .fold(
            || (up.buffers(), Counts::new(classes)),
            |(mut rows, mut counts), row| {
                up.row(row, &mut rows);
                let truths = &labels[row * width..][..width];
                for (x, &truth) in rows.full.chunks_exact(up.stride).zip(truths) {
                    if truth != ignore {
                        counts.add(truth, vmath::arg_max(x).0 as u8);
                    }
                }
                (rows, counts)
            },
        )
        .map(|(_, counts)| counts)
        .reduce(|| Counts::new(classes), Counts::merge);
    counts.store(cx, call)
}

pub(super) fn label_confusion(cx: &Ctx, call: &Call, ignore: u8) -> Result<()> {
    const CHUNK: usize = 1 << 14;
    let classes = classes_of("label_confusion", &call.outs[0])?;
    let (truth, prediction) = (&call.ins[0], &call.ins[1]);
    dense_map("label_confusion", truth, truth)?;
    dense_map("label_confusion", prediction, truth)?;
    let counts = cx
        .u8(truth)?
        .par_chunks(CHUNK)
        .zip(cx.u8(prediction)?.par_chunks(CHUNK))
        .fold(
            || Counts::new(classes),
            |mut counts, (truths, predictions)| {
                for (&truth, &prediction) in truths.iter().zip(predictions) {
                    if truth != ignore && prediction != ignore {
                        counts.add(truth, prediction);
                    }
                }
                counts
            },
        )
        .reduce(|| Counts::new(classes), Counts::merge);
    counts.store(cx, call)
}

#[cfg(test)]
mod tests {
    use super::super::super::DType::U32;
    use super::super::super::op::Op;
    use super::super::rig::{Rig, THREADS, floats, labels, upsampled};

    #[test]
    fn confusion_is_a_plain_count_and_accumulates() {
        let (shape, height, width) = ([2, 3, 4, 6], 9, 11);
        let logits = floats(shape.iter().product(), 3.0, 1);
        let truth = labels(2 * height * width, 6, 255, 2);
        let mut exact = [0u32; 36];
        for (x, &truth) in upsampled(&logits, shape, height, width).iter().zip(&truth) {
            let best = (0..6).max_by(|&a, &b| x[a].total_cmp(&x[b])).unwrap();
            if truth != 255 {
                exact[usize::from(truth) * 6 + best] += 1;
            }
        }
        for threads in THREADS {
            let rig = Rig::new(threads);
            let ins = [
                rig.strided(shape, &logits, 16),
                rig.u8([2, height, width, 1], &truth),
            ];
            let out = rig.zeros([1, 1, 6, 6], U32);
            rig.run(Op::Confusion { ignore: 255 }, &ins, &[out], 0);
            rig.run(Op::Confusion { ignore: 255 }, &ins, &[out], 1);
            let twice: Vec<u32> = exact.iter().map(|n| 2 * n).collect();
            assert_eq!(rig.get_u32(&out), twice);
        }
    }

    #[test]
    fn label_confusion_is_a_plain_count() {
        let n = 40_000;
        let (truth, guess) = (labels(n, 7, 255, 3), labels(n, 7, 255, 4));
        let mut exact = [0u32; 49];
        for (&t, &g) in truth.iter().zip(&guess) {
            if t != 255 && g != 255 {
                exact[usize::from(t) * 7 + usize::from(g)] += 1;
            }
        }
        for threads in THREADS {
            let rig = Rig::new(threads);
            let map = [1, 200, 200, 1];
            let ins = [rig.u8(map, &truth), rig.u8(map, &guess)];
            let out = rig.zeros([1, 1, 7, 7], U32);
            rig.run(Op::LabelConfusion { ignore: 255 }, &ins, &[out], 0);
            assert_eq!(rig.get_u32(&out), exact);
        }
    }
}
