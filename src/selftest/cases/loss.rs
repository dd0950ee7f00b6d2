//! Cross-entropy, its gradient, OHEM.
//!
//! Order statistics are the CPU's bits, and so are gradients whose every term is a multiple of a
//! power of two. Elsewhere exp and log differ in their last digits and gradients are summed with
//! fused multiply-add.

use super::entropy::UPSAMPLINGS;
use crate::device::op::CeNorm;
use crate::device::{DType, Op, Shape, elements};
use crate::selftest::{Case, Data, Operand, Tolerance};

const CLOSE: Tolerance = Tolerance::Close {
    rtol: 2e-6,
    atol: 2e-6,
};

/// Shapes that the gradient's tiles do not divide, beside those of every upsampling.
const TILINGS: [(&str, Shape, [usize; 2]); 7] = [
    ("two tiles each way", [1, 9, 13, 21], [33, 49]),
    ("many tiles", [1, 33, 33, 21], [129, 129]),
    ("two groups of classes", [2, 3, 10, 40], [9, 37]),
    ("two classes", [1, 17, 33, 2], [40, 41]),
    ("a scale that is no fraction", [1, 7, 17, 5], [23, 45]),
    ("rows over 256 label pixels", [1, 2, 2, 3], [5, 300]),
    ("far smaller than the logits", [1, 30, 40, 3], [3, 2]),
];

/// Logits and labels of a call, the latter of `kind`: see `KINDS`.
struct Loss {
    name: String,
    shape: Shape,
    map: Shape,
    logits: Vec<f32>,
    labels: Vec<u8>,
}

const KINDS: [&str; 6] = [
    "a fifth ignored",
    "all ignored",
    "every pixel one class",
    "a class absent",
    "labels past the classes",
    "one valid pixel",
];

impl Loss {
    fn new(d: &mut Data, name: &str, shape: Shape, [h, w]: [usize; 2], kind: usize) -> Self {
        let map = [shape[0], h, w, 1];
        let (n, classes) = (elements(map), shape[3] as u32);
        let labels = match kind {
            1 => vec![255; n],
            2 => vec![shape[3] as u8 - 1; n],
            3 if classes > 1 => d.labels_without(n, classes, 1),
            4 => d.labels(n, (classes + 2).min(255), 255, 0.1),
            5 => (0..n).map(|i| if i == n / 2 { 0 } else { 255 }).collect(),
            _ => d.labels(n, classes, 255, 0.2),
        };
        Self {
            name: format!("{name}, {}", KINDS[kind]),
            shape,
            map,
            logits: d.floats(elements(shape), 4.0),
            labels,
        }
    }

    fn case(&self, op: Op, gap: usize) -> Case {
        Case::new(self.name.clone(), op)
            .input(Operand::f32(self.shape, &self.logits).gap(gap))
            .input(Operand::u8(self.map, &self.labels))
    }

    fn forward(&self, norm: CeNorm, threshold: Option<f32>) -> Case {
        let case = self.case(Op::CrossEntropy { ignore: 255, norm }, 1);
        let case = match threshold {
            Some(t) => case.input(Operand::vector(&[t])),
            None => case,
        };
        case.output([1, 1, 1, 4], DType::F32, CLOSE)
    }

    /// The gradient, scaled so that a label pixel adds at most 1/8.
    fn backward(&self, d: &mut Data, threshold: Option<f32>, adds: bool) -> Case {
        let op = Op::CrossEntropyBackward {
            ignore: 255,
            weight: 0.5,
        };
        let case = self
            .case(op, 2)
            .input(Operand::vector(&[1.5, 0.25, 7.0, 9.0]));
        let case = match threshold {
            Some(t) => case.input(Operand::vector(&[t])),
            None => case,
        };
        match adds {
            true => case.accumulates(
                Operand::f32(self.shape, &d.ints(self.logits.len(), 3)).gap(3),
                CLOSE,
            ),
            false => case.output(self.shape, DType::F32, CLOSE),
        }
    }

    fn target_probability(&self) -> Case {
        self.case(Op::TargetProbability { ignore: 255 }, 0)
            .output(self.map, DType::F32, CLOSE)
    }
}

fn losses(d: &mut Data) -> Vec<Case> {
    let mut cases = Vec::new();
    for (i, (name, shape, size)) in UPSAMPLINGS.into_iter().chain(TILINGS).enumerate() {
        let loss = Loss::new(d, name, shape, size, i % KINDS.len());
        let norm = match i % 2 {
            0 => CeNorm::Valid,
            _ => CeNorm::ValidTimesAllOverValid,
        };
        let threshold = [None, Some(0.3), Some(1.0)][i % 3];
        cases.push(loss.forward(norm, threshold));
        cases.push(loss.backward(d, None, i % 2 == 1));
        cases.push(loss.target_probability());
        let loss = Loss::new(d, name, shape, size, 0);
        cases.push(loss.backward(d, threshold, i % 2 == 0));
    }
    for kind in 0..KINDS.len() {
        let loss = Loss::new(d, "divided by all pixels", [2, 4, 5, 7], [9, 13], kind);
        cases.push(loss.forward(CeNorm::All, Some(0.2)));
        let loss = Loss::new(d, "each kind of labels", [2, 4, 5, 7], [9, 13], kind);
        cases.push(loss.forward(CeNorm::Valid, None));
        cases.push(loss.forward(CeNorm::ValidTimesAllOverValid, Some(0.2)));
        cases.push(loss.backward(d, None, false));
        cases.push(loss.backward(d, Some(0.2), true));
        cases.push(loss.target_probability());
    }
    cases
}

/// Gradients made of powers of two: the same bits in any order of summation.
fn exact_gradients(d: &mut Data) -> Vec<Case> {
    let mut cases = Vec::new();
    for (shape, size, logits) in [
        // Equal logits: p = 1/C.
        ([2, 3, 4, 4], [5, 7], None),
        ([1, 5, 14, 8], [17, 53], None),
        ([1, 9, 2, 64], [9, 5], None),
        // One class far above the others, nothing between pixels: p = 0 or 1.
        ([2, 7, 13, 5], [7, 13], Some(200.0)),
    ] {
        let mut loss = Loss::new(d, "powers of two", shape, size, 0);
        loss.logits.fill(0.0);
        if let Some(high) = logits {
            let tops = d.indices(elements(shape) / shape[3], shape[3] as u32);
            for (pixel, top) in loss.logits.chunks_mut(shape[3]).zip(tops) {
                pixel[top as usize] = high;
            }
        }
        for adds in [false, true] {
            let mut case = loss.backward(d, None, adds);
            case.tolerance = vec![Tolerance::Exact];
            cases.push(case);
        }
    }
    cases
}

fn ohem_threshold(name: &str, p: &[f32], labels: &[u8], thresh: f32, min_kept: usize) -> Case {
    let op = Op::OhemThreshold {
        ignore: 255,
        thresh,
        min_kept,
    };
    let map = [1, 1, p.len(), 1];
    Case::new(format!("{name}, {thresh} and {min_kept} kept"), op)
        .input(Operand::f32(map, p))
        .input(Operand::u8(map, labels))
        .output([1, 1, 1, 1], DType::F32, Tolerance::Exact)
}

fn ohem_thresholds(d: &mut Data) -> Vec<Case> {
    let n = 5003;
    let labels = d.labels(n, 7, 255, 0.2);
    let valid = labels.iter().filter(|&&l| l != 255).count();
    let mut p = d.uniform(n, 0.0, 1.0);
    for (p, &label) in p.iter_mut().zip(&labels) {
        if label == 255 {
            *p = 1.0;
        }
    }
    let coarse: Vec<f32> = p.iter().map(|p| (p * 8.0).floor() / 8.0).collect();
    let mut nan = p.clone();
    nan.iter_mut().step_by(2).for_each(|p| *p = f32::NAN);
    let mut cases = Vec::new();
    for (thresh, min_kept) in [
        (0.7, 0),
        (0.7, 1),
        (0.01, 1700),
        (0.01, valid),
        (0.7, valid + 1),
        (0.7, usize::MAX),
    ] {
        cases.push(ohem_threshold("random", &p, &labels, thresh, min_kept));
        cases.push(ohem_threshold("ties", &coarse, &labels, thresh, min_kept));
    }
    cases.push(ohem_threshold("NaN", &nan, &labels, 0.6, 3000));
    cases.push(ohem_threshold("all ignored", &[1.0; 9], &[255; 9], 0.7, 1));
    cases.push(ohem_threshold("one pixel", &[0.25], &[0], 0.1, 1));
    cases
}

pub(super) fn cases(seed: u64) -> Vec<Case> {
    let mut d = Data::new(seed, "loss");
    let families = [losses, exact_gradients, ohem_thresholds];
    families.iter().flat_map(|cases| cases(&mut d)).collect()
}
