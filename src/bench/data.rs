//! Data for the operands of a case: random, never zeros, and of the kind that the operation meets
//! in a step: labels in patches, ascending lists, full rings, positive variances.

use super::cases::{Case, Operand};
use crate::device::op::InfoNce;
use crate::device::philox::{Rng, to_unit};
use crate::device::{DType, Op, bf16_bytes, elements};
use crate::selftest::Data;

/// Random elements are drawn this many and then repeat: a prime, so that rows do not line up.
const PERIOD: usize = 1_048_573;
const SEED: u64 = 0x0B5E_55ED;
/// Where an operation does not say.
const IGNORE: u8 = 255;
/// Share of ignored pixels in label maps.
const IGNORED: f32 = 0.05;
/// Side of a patch of one class, pixels.
const PATCH: usize = 32;

/// Bytes of every operand.
pub(crate) struct Values {
    pub(crate) ins: Vec<Vec<u8>>,
    /// What is in the outputs before the first run.
    pub(crate) outs: Vec<Vec<u8>>,
}

/// Bytes for the operands of `case`; the same for the same case.
pub(crate) fn values(case: &Case) -> Values {
    let mut source = Source {
        data: Data::new(SEED, &case.name),
    };
    let mut plain = |operands: &[Operand]| -> Vec<Vec<u8>> {
        operands.iter().map(|o| source.plain(o)).collect()
    };
    let mut values = Values {
        ins: plain(&case.ins),
        outs: plain(&case.outs),
    };
    source.suit(case, &mut values);
    values
}

struct Source {
    data: Data,
}

impl Source {
    /// Elements of `span` from a period of random ones.
    fn repeated<T: Copy>(&mut self, n: usize, draw: impl Fn(&mut Data, usize) -> Vec<T>) -> Vec<T> {
        let period = draw(&mut self.data, n.min(PERIOD));
        period.iter().copied().cycle().take(n).collect()
    }

    fn uniform(&mut self, operand: &Operand, low: f32, high: f32) -> Vec<u8> {
        let n = operand.span_bytes() / operand.dtype.bytes();
        let floats = self.repeated(n, |d, n| d.uniform(n, low, high));
        let bytes = bytemuck::cast_slice(&floats);
        match operand.dtype {
            DType::BF16 => bf16_bytes(bytes),
            _ => bytes.to_vec(),
        }
    }

    /// What suits an operand that nothing is known of.
    fn plain(&mut self, operand: &Operand) -> Vec<u8> {
        let n = operand.span_bytes() / operand.dtype.bytes();
        match operand.dtype {
            DType::F32 | DType::BF16 => self.uniform(operand, -1.0, 1.0),
            DType::U8 => self.repeated(n, Data::bytes),
            DType::U32 => vec![0; 4 * n],
        }
    }

    /// Labels of a dense map, in patches.
    fn labels(&mut self, operand: &Operand, classes: usize, ignore: u8) -> Vec<u8> {
        let [n, h, w, c] = operand.shape;
        let dims = [n, h, w * c];
        self.data
            .patches(dims, PATCH, classes.clamp(1, 255) as u32, ignore, IGNORED)
    }

    /// Replaces what the operation cannot or would not meet.
    fn suit(&mut self, case: &Case, values: &mut Values) {
        let (ins, outs) = (&mut values.ins, &mut values.outs);
        match &case.op {
            Op::Lerp => ins[1] = floats(&[0.99]),
            Op::SgdEma { .. } => {
                ins[1] = floats(&[1e-4]);
                ins[2] = floats(&[0.99]);
            }
            Op::Augment(_) => {
                ins[2] = sizes(&case.ins[1], case.ins[2].shape[0]);
                ins[3] = words(&[1, 2, 3, 0]);
            }
            Op::Mix { prob, stream, .. } => {
                ins[1] = self.labels(&case.ins[1], 21, IGNORE);
                ins[3] = words(&mixing_state(*prob, *stream));
            }
            Op::Dropout2d { .. } => ins[1] = words(&[1, 2, 3, 0]),
            Op::BatchNorm { .. } => {
                ins[1] = self.uniform(&case.ins[1], 0.9, 1.1);
                outs[4] = self.uniform(&case.outs[4], 0.5, 1.5);
            }
            Op::ConvBatchNormEval(_) => {
                ins[2] = self.uniform(&case.ins[2], 0.9, 1.1);
                ins[5] = self.uniform(&case.ins[5], 0.5, 1.5);
            }
            Op::BatchNormMerge { .. } => {
                ins[1] = self.uniform(&case.ins[1], 0.9, 1.1);
                // Means and squares alike.
                ins[3] = self.uniform(&case.ins[3], 0.5, 1.5);
                outs[4] = self.uniform(&case.outs[4], 0.5, 1.5);
            }
            Op::BatchNormEval { .. } => {
                ins[1] = self.uniform(&case.ins[1], 0.9, 1.1);
                ins[4] = self.uniform(&case.ins[4], 0.5, 1.5);
            }
            Op::BatchNormBackward { .. } => {
                // Near 1: a gradient that passes in place again and again keeps its size.
                ins[3] = self.uniform(&case.ins[3], 0.99, 1.01);
                ins[5] = self.uniform(&case.ins[5], 0.99, 1.01);
            }
            Op::MaxPoolBackward { size, .. } => {
                let taps = (size * size) as u32;
                let n = case.ins[1].span_bytes();
                let tap = self.repeated(n, |d, n| d.indices(n, taps));
                ins[1] = tap.into_iter().map(|t| t as u8).collect();
            }
            _ => self.suit_losses(case, values),
        }
    }

    fn suit_losses(&mut self, case: &Case, values: &mut Values) {
        let ins = &mut values.ins;
        let channels = case.ins.first().map_or(1, |o| o.shape[3]);
        match &case.op {
            Op::SoftmaxEntropy { .. } => ins[0] = self.uniform(&case.ins[0], -4.0, 4.0),
            Op::Percentile { ignore } => {
                ins[0] = self.uniform(&case.ins[0], 0.0, 3.0);
                ins[1] = self.labels(&case.ins[1], 21, *ignore);
                let q = [80.0, 20.0, 70.0, 50.0];
                let count = elements(case.ins[2].shape);
                ins[2] = floats(&q.repeat(count.div_ceil(4))[..count]);
            }
            Op::KeepReliable { ignore } => {
                ins[0] = self.labels(&case.ins[0], 21, *ignore);
                ins[1] = self.uniform(&case.ins[1], 0.0, 3.0);
                ins[2] = floats(&[2.4]);
            }
            Op::CrossEntropy { ignore, .. }
            | Op::CrossEntropyBackward { ignore, .. }
            | Op::TargetProbability { ignore }
            | Op::Confusion { ignore } => {
                ins[0] = self.uniform(&case.ins[0], -4.0, 4.0);
                ins[1] = self.labels(&case.ins[1], channels, *ignore);
                let pixels = elements(case.ins[1].shape) as f32;
                let threshold = match &case.op {
                    Op::CrossEntropyBackward { .. } => {
                        ins[2] = floats(&[1.0, 1.0 / pixels, pixels, pixels]);
                        3
                    }
                    _ => 2,
                };
                if let Some(bytes) = ins.get_mut(threshold) {
                    *bytes = floats(&[0.7]);
                }
            }
            Op::OhemThreshold { ignore, .. } => {
                ins[0] = self.uniform(&case.ins[0], 0.0, 1.0);
                ins[1] = self.labels(&case.ins[1], 21, *ignore);
            }
            Op::LabelConfusion { ignore } => {
                let classes = case.outs[0].shape[3];
                for (bytes, operand) in ins.iter_mut().zip(&case.ins) {
                    *bytes = self.labels(operand, classes, *ignore);
                }
            }
            Op::AddScores { .. } => {
                let ([_, h, w, _], [_, map_h, map_w, _]) = (window_size(case), case.outs[0].shape);
                let window = [(map_h - h) / 2, (map_w - w) / 2, h, w];
                ins[1] = words(&window.map(|v| v as u32));
            }
            Op::FinishScores { .. } => ins[1] = self.uniform(&case.ins[1], 1.0, 2.0),
            _ => self.suit_contrast(case, values),
        }
    }

    fn suit_contrast(&mut self, case: &Case, values: &mut Values) {
        let (ins, outs) = (&mut values.ins, &mut values.outs);
        match &case.op {
            Op::Partition(p) => {
                ins[0] = self.uniform(&case.ins[0], -4.0, 4.0);
                for i in [1, 2] {
                    ins[i] = self.labels(&case.ins[i], p.classes, p.ignore);
                }
                ins[3] = self.uniform(&case.ins[3], 0.0, 3.0);
                ins[4] = floats(&[2.4, 0.6, 2.4]);
            }
            Op::Compact { .. } => {
                let classes = case.outs[0].shape[2];
                let wide = case.ins[0].shape[3];
                let pixels = elements(case.ins[0].shape) / wide;
                let mut bits = vec![0u32; pixels * wide];
                // Two classes a pixel, as where the second-ranked is no anchor but a negative.
                for _ in 0..2 {
                    let class = self.data.indices(pixels, classes as u32);
                    for (pixel, class) in class.into_iter().enumerate() {
                        bits[pixel * wide + class as usize / 32] |= 1 << (class % 32);
                    }
                }
                ins[0] = words(&bits);
            }
            Op::BankPush { capacities } => {
                [ins[1], ins[2]] = self.lists(&case.ins[1]);
                outs[1] = self.uniform(&case.outs[1], 0.1, 1.0);
                outs[2] = words(&full(capacities));
            }
            Op::Prototype => [ins[1], ins[2]] = self.lists(&case.ins[1]),
            Op::InfoNce(a) => self.contrast(case, a, ins),
            Op::InfoNceBackward(a, _) => {
                self.contrast(case, a, ins);
                let classes = a.capacities.len() as f32;
                ins[9] = floats(&[1.0, 1.0 / (a.anchors as f32 * classes), classes, 0.0]);
            }
            _ => {}
        }
    }

    /// Per class an ascending list of about a C-th of the pixels, and its counts.
    fn lists(&mut self, list: &Operand) -> [Vec<u8>; 2] {
        let [_, _, classes, pixels] = list.shape;
        let owner = self.data.indices(pixels, classes as u32);
        let mut lists = vec![0u32; classes * pixels];
        let mut counts = vec![0u32; 2 * classes];
        for (pixel, &class) in owner.iter().enumerate() {
            let class = class as usize;
            lists[class * pixels + counts[class] as usize] = pixel as u32;
            counts[class] += 1;
            // The first half of the pixels is of labelled images.
            counts[classes + class] += u32::from(pixel < pixels / 2);
        }
        [words(&lists), words(&counts)]
    }

    fn contrast(&mut self, case: &Case, a: &InfoNce, ins: &mut [Vec<u8>]) {
        let [list, counts] = self.lists(&case.ins[1]);
        ins[1] = list;
        ins[2] = counts.clone();
        ins[3] = counts;
        ins[6] = self.uniform(&case.ins[6], 0.1, 1.0);
        ins[7] = words(&full(&a.capacities));
        ins[8] = words(&[1, 2, 3, 0]);
    }
}

/// Cursors of rings that are full.
fn full(capacities: &[u32]) -> Vec<u32> {
    let next = capacities.iter().map(|_| 0);
    next.chain(capacities.iter().copied()).collect()
}

/// Height and width of `images` images of four to three that fit a row of `labels`.
fn sizes(labels: &Operand, images: usize) -> Vec<u8> {
    let cap = labels.shape[3];
    let width = ((cap as f64 * 4.0 / 3.0).sqrt() as usize).clamp(1, cap.max(1));
    let height = (cap / width).max(1);
    words(&[height as u32, width as u32].repeat(images))
}

/// A random state with which a batch is mixed, if it ever is.
fn mixing_state(prob: f32, stream: u32) -> [u32; 4] {
    let state = |step| [1, 2, step, 0];
    let mixes = |s: &[u32; 4]| to_unit(Rng::new(*s, stream).block(0)[0]) < prob;
    (0..64).map(state).find(mixes).unwrap_or(state(0))
}

/// Full-resolution size of the window that scores are added for: that of a whole map's crop.
fn window_size(case: &Case) -> [usize; 4] {
    let ([_, h, w, _], [_, map_h, map_w, c]) = (case.ins[0].shape, case.outs[0].shape);
    // Logits of stride 4, odd sizes: the networks' own.
    let size = |low: usize, map: usize| (4 * low.saturating_sub(1) + 1).clamp(1, map);
    [1, size(h, map_h), size(w, map_w), c]
}

fn floats(values: &[f32]) -> Vec<u8> {
    bytemuck::cast_slice(values).to_vec()
}

fn words(values: &[u32]) -> Vec<u8> {
    bytemuck::cast_slice(values).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_that_mixes_is_found() {
        for prob in [0.2, 0.5, 1.0] {
            let state = mixing_state(prob, 0);
            assert!(to_unit(Rng::new(state, 0).block(0)[0]) < prob);
        }
    }

    #[test]
    fn lists_are_ascending_and_hold_every_pixel_once() {
        let operand = Operand {
            shape: [1, 1, 3, 50],
            ld: 50,
            dtype: DType::U32,
        };
        let mut source = Source {
            data: Data::new(1, "lists"),
        };
        let [list, counts] = source.lists(&operand);
        let list: Vec<u32> = bytemuck::pod_collect_to_vec(&list);
        let counts: Vec<u32> = bytemuck::pod_collect_to_vec(&counts);
        let mut seen = Vec::new();
        for class in 0..3 {
            let pixels = &list[class * 50..][..counts[class] as usize];
            assert!(pixels.is_sorted());
            let labeled = pixels.iter().filter(|&&p| p < 25).count();
            assert_eq!(labeled, counts[3 + class] as usize);
            seen.extend_from_slice(pixels);
        }
        seen.sort_unstable();
        assert_eq!(seen, (0..50).collect::<Vec<u32>>());
    }
}
