//! The contrastive loss and its gradient.
//!
//! Exact cases take every vector from the rows of a Hadamard matrix of side 16, anchors from one
//! half and keys from the other, each scaled by a power of two: all cosines are 0, all softmaxes
//! 1/(N + 1), and with N + 1, M and the number of classes powers of two the gradient is exact.

use crate::device::op::{InfoNce, Variant};
use crate::device::{DType, Op};
use crate::selftest::{Case, Data, Operand, Tolerance};

use super::Lists;

/// Side of the Hadamard matrix.
const SIDE: usize = 16;

/// A problem to be filled in.
#[derive(Clone)]
struct Problem {
    name: &'static str,
    variant: Variant,
    /// Anchors M and negatives N.
    draws: [usize; 2],
    /// Pixels in each class's list.
    sizes: Vec<usize>,
    /// Positives of each class.
    positives: Vec<u32>,
    capacities: Vec<u32>,
    held: Vec<u32>,
    /// Classes that the loss is divided by.
    divisor: usize,
    shape: [usize; 3],
    /// Channels; `None`: an exact case of 16.
    depth: Option<usize>,
    gap: usize,
    temperature: f32,
}

impl Problem {
    /// Four classes that all take part.
    fn new(name: &'static str, variant: Variant) -> Self {
        Self {
            name,
            variant,
            draws: [8, 3],
            sizes: vec![9, 20, 4, 13],
            positives: vec![9, 20, 4, 13],
            capacities: vec![12, 5, 14, 8],
            held: vec![12, 3, 1, 8],
            divisor: 4,
            shape: [2, 5, 6],
            depth: None,
            gap: 0,
            temperature: 0.5,
        }
    }

    fn op(&self) -> InfoNce {
        InfoNce {
            variant: self.variant,
            anchors: self.draws[0],
            negatives: self.draws[1],
            temperature: self.temperature,
            capacities: self.capacities.clone(),
            stream: 32,
        }
    }

    /// Rows of anchors (`key` 0) or keys (1).
    fn rows(&self, d: &mut Data, n: usize, key: usize) -> Vec<f32> {
        match self.depth {
            Some(depth) => d.floats(n * depth, 1.0),
            None => (d.words(n).into_iter())
                .flat_map(|word| hadamard(word, key))
                .collect(),
        }
    }

    /// The loss, and its gradient written and added to what is there.
    fn cases(&self, d: &mut Data) -> Vec<Case> {
        let [b, h, w] = self.shape;
        let (pixels, classes) = (b * h * w, self.sizes.len());
        let depth = self.depth.unwrap_or(SIDE);
        let slots = self.capacities.iter().sum::<u32>() as usize;
        let mut rep = self.rows(d, pixels, 0);
        if self.depth.is_none() {
            rep[..depth].fill(0.0); // a norm that is clamped
        }
        let bank = self.rows(d, slots, 1);
        let norm = |z: &[f32]| {
            let squares: f64 = z.iter().map(|&v| f64::from(v).powi(2)).sum();
            (1.0 / squares.sqrt()) as f32
        };
        let norms: Vec<f32> = bank.chunks(depth).map(norm).collect();
        let next: Vec<u32> = (self.capacities.iter().zip(&self.held).zip(d.words(classes)))
            .map(|((&capacity, &held), word)| match held < capacity {
                true => held,
                false => word % capacity.max(1),
            })
            .collect();
        let [list, counts] = Lists::new(d, &self.sizes, pixels).operands();
        let positives = [self.positives.clone(), vec![0; classes]].concat();
        let map = |values: &[f32]| Operand::f32([b, h, w, depth], values).gap(self.gap);
        let ins = vec![
            map(&rep),
            list,
            counts,
            Operand::u32([1, 1, 2, classes], &positives),
            Operand::f32([1, 1, classes, depth], &self.rows(d, classes, 1)),
            Operand::f32([1, 1, slots, depth], &bank),
            Operand::vector(&norms),
            Operand::u32([1, 1, 2, classes], &[next, self.held.clone()].concat()),
            Operand::rng(d.seed(), 7),
        ];
        let name = format!("{:?}: {}", self.variant, self.name);
        let with = |case: Case| ins.iter().cloned().fold(case, Case::input);
        let close = |atol| Tolerance::Close { rtol: 1e-5, atol };
        let tolerance = match self.depth {
            None => Tolerance::Exact,
            Some(_) => close(1e-6),
        };
        let scale = match self.divisor * self.draws[0] {
            0 => 0.0,
            n => 1.0 / n as f32,
        };
        let stats = Operand::vector(&[1.0, scale, self.divisor as f32, 0.0]);
        let before = d.ints(pixels * depth, 3);
        let backward = Op::InfoNceBackward(self.op(), 0.5);
        let empty = Operand::undefined([b, h, w, depth], DType::F32).gap(self.gap);
        vec![
            with(Case::new(name.clone(), Op::InfoNce(self.op()))).output(
                [1, 1, 1, 4],
                DType::F32,
                close(1e-6),
            ),
            with(Case::new(name.clone(), backward.clone()))
                .input(stats.clone())
                .output_with(empty, tolerance),
            with(Case::new(format!("{name}, added"), backward))
                .input(stats)
                .accumulates(map(&before), tolerance),
        ]
    }
}

/// A row of the Hadamard matrix: one of the first half, or of the second (`half` 1); scaled.
fn hadamard(word: u32, half: usize) -> impl Iterator<Item = f32> {
    let row = word as usize % (SIDE / 2) + half * SIDE / 2;
    let scale = [0.5, 1.0, 2.0, 4.0][(word >> 30) as usize];
    (0..SIDE).map(move |column| match (row & column).count_ones() % 2 {
        0 => scale,
        _ => -scale,
    })
}

/// What both texts treat alike when all classes have positives.
fn either(variant: Variant) -> Vec<Problem> {
    let plain = Problem::new("all classes", variant);
    let nothing = Problem {
        name: "an empty bank",
        held: vec![0; 4],
        divisor: if variant == Variant::Paper { 0 } else { 4 },
        ..plain.clone()
    };
    vec![
        Problem {
            name: "more draws than pixels",
            draws: [256, 7],
            sizes: vec![1, 2, 3, 60],
            ..plain.clone()
        },
        Problem {
            name: "one pixel",
            sizes: vec![1; 4],
            shape: [1, 1, 1],
            ..plain.clone()
        },
        Problem {
            name: "a full bank",
            held: vec![12, 5, 14, 8],
            depth: Some(11),
            gap: 3,
            draws: [9, 4],
            ..plain.clone()
        },
        Problem {
            name: "keys that fit shared memory",
            depth: Some(256),
            draws: [16, 50],
            temperature: 0.3,
            ..plain.clone()
        },
        Problem {
            name: "keys that do not",
            depth: Some(260),
            draws: [3, 130],
            ..plain.clone()
        },
        Problem {
            name: "a low temperature",
            depth: Some(24),
            draws: [5, 33],
            temperature: 0.01,
            ..plain.clone()
        },
        Problem {
            name: "no negatives drawn",
            depth: Some(6),
            draws: [4, 0],
            ..plain.clone()
        },
        Problem {
            name: "64 classes",
            draws: [4, 3],
            sizes: vec![2; 64],
            positives: vec![2; 64],
            capacities: vec![3; 64],
            held: vec![2; 64],
            divisor: 64,
            ..plain.clone()
        },
        Problem {
            name: "no anchors",
            sizes: vec![0; 4],
            ..nothing.clone()
        },
        nothing,
        plain,
    ]
}

pub(super) fn cases(seed: u64) -> Vec<Case> {
    let mut d = Data::new(seed, "info_nce");
    let mut problems = [either(Variant::Paper), either(Variant::Released)].concat();
    problems.extend([
        Problem {
            sizes: vec![9, 0, 4, 7, 1],
            positives: vec![9, 0, 4, 7, 1],
            capacities: vec![12, 5, 14, 8, 3],
            held: vec![12, 5, 0, 8, 3],
            divisor: 3,
            depth: Some(16),
            ..Problem::new("absent classes", Variant::Paper)
        },
        Problem {
            sizes: vec![0, 6, 9, 3, 0],
            positives: vec![0, 8, 12, 5, 0],
            capacities: vec![12, 5, 14, 8, 3],
            held: vec![5, 5, 14, 4, 3],
            divisor: 3,
            depth: Some(16),
            ..Problem::new("rings of other classes", Variant::Released)
        },
        Problem {
            sizes: vec![6, 0, 3, 8],
            positives: vec![6, 2, 3, 8],
            held: vec![12, 5, 0, 8],
            ..Problem::new("skipped classes divide", Variant::Released)
        },
        Problem {
            sizes: vec![0, 6, 0, 0],
            positives: vec![0, 6, 0, 0],
            divisor: 0,
            ..Problem::new("one class is not enough", Variant::Released)
        },
    ]);
    problems.iter().flat_map(|p| p.cases(&mut d)).collect()
}
