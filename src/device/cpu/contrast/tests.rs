//! The contrastive operations against their definitions.

use std::collections::VecDeque;

use super::super::super::DType::{F32, U32};
use super::super::super::View;
use super::super::super::op::{InfoNce, NegativePixels, Op, Partition, Variant};
use super::super::super::philox::Rng;
use super::super::rig::{Rig, THREADS, close, floats, labels, softmax};

const CLASSES: usize = 37;
/// Two labelled and three unlabelled images.
const LABELED: usize = 2;
const UNLABELED: usize = 3;
const SIZE: (usize, usize) = (9, 13);
const SMALL: (usize, usize) = (5, 4);

struct Inputs {
    logits: Vec<f32>,
    label_l: Vec<u8>,
    label_u: Vec<u8>,
    entropy: Vec<f32>,
    a: Partition,
}

const GAMMA: f32 = 0.1;
const LOW: f32 = -0.3;
const HIGH: f32 = 0.2;

fn inputs(variant: Variant) -> Inputs {
    let pixels = SIZE.0 * SIZE.1;
    Inputs {
        // Rounded, so that ranks meet ties.
        logits: floats((LABELED + UNLABELED) * SMALL.0 * SMALL.1 * CLASSES, 6.0, 1)
            .iter()
            .map(|v| v.round() + 0.0) // no −0: it equals 0 but sorts before it
            .collect(),
        label_l: labels(LABELED * pixels, CLASSES as u32, 255, 2),
        label_u: labels(UNLABELED * pixels, CLASSES as u32, 255, 3),
        entropy: floats(UNLABELED * pixels, 1.0, 4),
        a: Partition {
            variant,
            classes: CLASSES,
            ignore: 255,
            delta_p: 0.02,
            low_rank: 3,
            high_rank: 20,
            unlabeled: NegativePixels::Unreliable,
        },
    }
}

impl Inputs {
    fn run(&self, threads: usize) -> [Vec<u32>; 3] {
        let rig = Rig::new(threads);
        let (h, w) = SMALL;
        let batch = LABELED + UNLABELED;
        let ins = [
            rig.strided([batch, h, w, CLASSES], &self.logits, CLASSES + 3),
            rig.u8([LABELED, SIZE.0, SIZE.1, 1], &self.label_l),
            rig.u8([UNLABELED, SIZE.0, SIZE.1, 1], &self.label_u),
            rig.f32([UNLABELED, SIZE.0, SIZE.1, 1], &self.entropy),
            rig.f32([1, 1, 1, 3], &[GAMMA, LOW, HIGH]),
        ];
        // What was there before must not show.
        let garbage = vec![u32::MAX; batch * h * w * 2];
        let outs = [(); 3].map(|()| rig.u32([batch, h, w, 2], &garbage));
        rig.run(Op::Partition(self.a), &ins, &outs, 0);
        outs.map(|view| rig.get_u32(&view))
    }

    /// Sampled label, or `None` where ignored.
    fn label(&self, labeled: bool, image: usize, y: usize, x: usize) -> Option<usize> {
        let at = place(image, y, x);
        let label = if labeled {
            self.label_l[at]
        } else {
            self.label_u[at]
        };
        (label != 255).then_some(usize::from(label))
    }

    /// One-hot of the label, or the released code's wrongly scattered one (row 1).
    fn one_hot(&self, labeled: bool, image: usize, y: usize, x: usize, class: usize) -> bool {
        match self.a.variant {
            Variant::Paper => self.label(labeled, image, y, x) == Some(class),
            Variant::Released => {
                let images = if labeled { LABELED } else { UNLABELED };
                let any = (0..images).any(|i| self.label(labeled, i, y, x).unwrap_or(0) == class);
                image == 0 && self.label(labeled, 0, y, x).is_some() && any
            }
        }
    }

    /// Membership of (anchors, positives, negatives) by the definition.
    fn exact(&self, image: usize, y: usize, x: usize, class: usize) -> [bool; 3] {
        let start = ((image * SMALL.0 + y) * SMALL.1 + x) * CLASSES;
        let logits: Vec<f64> = self.logits[start..][..CLASSES]
            .iter()
            .map(|&v| v.into())
            .collect();
        let mut order: Vec<usize> = (0..CLASSES).collect();
        order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a])); // stable
        let rank = order.iter().position(|&c| c == class).unwrap() as u32;
        let sure = softmax(&logits)[class] > f64::from(self.a.delta_p);
        let labeled = image < LABELED;
        let image = if labeled { image } else { image - LABELED };
        let hot = self.one_hot(labeled, image, y, x, class);
        let valid = self.label(labeled, image, y, x).is_some();
        let between = (self.a.low_rank..self.a.high_rank).contains(&rank);
        let h = if labeled {
            f32::NEG_INFINITY
        } else {
            self.entropy[place(image, y, x)]
        };
        match self.a.variant {
            Variant::Paper => {
                let positive = hot && h < GAMMA && sure;
                let negative = match labeled {
                    true => valid && !hot && rank < self.a.low_rank,
                    false => {
                        let counts = match self.a.unlabeled {
                            NegativePixels::Unreliable => h > GAMMA,
                            NegativePixels::Reliable => h <= GAMMA,
                            NegativePixels::All => true,
                            NegativePixels::Labeled => false,
                        };
                        valid && counts && between
                    }
                };
                [positive, positive, negative]
            }
            Variant::Released => {
                let positive = hot && h <= LOW;
                [positive && sure, positive, hot && h >= HIGH && between]
            }
        }
    }
}

/// Index at label resolution of a feature pixel.
fn place(image: usize, y: usize, x: usize) -> usize {
    (image * SIZE.0 + y * SIZE.0 / SMALL.0) * SIZE.1 + x * SIZE.1 / SMALL.1
}

#[test]
fn partition_follows_both_texts() {
    for (variant, unlabeled) in [
        (Variant::Paper, NegativePixels::Unreliable),
        (Variant::Paper, NegativePixels::Reliable),
        (Variant::Paper, NegativePixels::All),
        (Variant::Paper, NegativePixels::Labeled),
        (Variant::Released, NegativePixels::Unreliable),
    ] {
        let mut inputs = inputs(variant);
        inputs.a.unlabeled = unlabeled;
        let masks = inputs.run(THREADS[0]);
        assert_eq!(masks, inputs.run(THREADS[1]));
        let mut members = [0; 3];
        for pixel in 0..(LABELED + UNLABELED) * SMALL.0 * SMALL.1 {
            let (image, y, x) = (
                pixel / (SMALL.0 * SMALL.1),
                pixel / SMALL.1 % SMALL.0,
                pixel % SMALL.1,
            );
            for class in 0..64 {
                let want = match class < CLASSES {
                    true => inputs.exact(image, y, x, class),
                    false => [false; 3],
                };
                for i in 0..3 {
                    let got = masks[i][pixel * 2 + class / 32] >> (class % 32) & 1 == 1;
                    assert_eq!(
                        got, want[i],
                        "{variant:?} mask {i} pixel {pixel} class {class}"
                    );
                    members[i] += usize::from(got);
                }
            }
        }
        assert!(members.iter().all(|&n| n > 0), "{variant:?} {members:?}");
    }
}

/// A list per class as `compact` leaves it, and the counts.
fn put_lists(rig: &Rig, lists: &[Vec<u32>], pixels: usize) -> [View; 2] {
    let mut flat = vec![u32::MAX; lists.len() * pixels];
    let mut counts = vec![0; 2 * lists.len()];
    for (class, list) in lists.iter().enumerate() {
        flat[class * pixels..][..list.len()].copy_from_slice(list);
        counts[class] = list.len() as u32;
    }
    [
        rig.u32([1, 1, lists.len(), pixels], &flat),
        rig.u32([1, 1, 2, lists.len()], &counts),
    ]
}

/// Random ascending lists; each pixel joins a class with probability `p`.
fn random_lists(classes: usize, pixels: usize, p: f32, seed: u64) -> Vec<Vec<u32>> {
    let rng = Rng::seeded(seed, 2, 0);
    let joins =
        |class: usize, pixel: u32| rng.uniform((class * pixels) as u64 + u64::from(pixel)) < p;
    (0..classes)
        .map(|class| {
            (0..pixels as u32)
                .filter(|&pixel| joins(class, pixel))
                .collect()
        })
        .collect()
}

#[test]
fn compact_lists_set_bits_in_order() {
    let (classes, pixels, labeled) = (40, 77, 30);
    let lists = random_lists(classes, pixels, 0.3, 9);
    let mut bits = vec![0u32; pixels * 2];
    for (class, list) in lists.iter().enumerate() {
        for &pixel in list {
            bits[pixel as usize * 2 + class / 32] |= 1 << (class % 32);
        }
    }
    for threads in THREADS {
        let rig = Rig::new(threads);
        let bits = rig.u32([1, 7, 11, 2], &bits);
        let list = rig.zeros([1, 1, classes, pixels], U32);
        let counts = rig.zeros([1, 1, 2, classes], U32);
        let op = Op::Compact {
            labeled_pixels: labeled,
        };
        rig.run(op, &[bits], &[list, counts], 0);
        let (got, counts) = (rig.get_u32(&list), rig.get_u32(&counts));
        for (class, list) in lists.iter().enumerate() {
            assert_eq!(counts[class] as usize, list.len());
            assert_eq!(&got[class * pixels..][..list.len()], list);
            let below = list.iter().filter(|&&p| (p as usize) < labeled).count();
            assert_eq!(counts[classes + class] as usize, below);
        }
    }
}

#[test]
fn bank_is_a_queue_per_class() {
    let capacities = [7u32, 1, 40, 0, 5];
    let (depth, pixels) = (6, 24);
    let slots = capacities.iter().sum::<u32>() as usize;
    let rig = Rig::new(2);
    let bank = rig.zeros([1, 1, slots, depth], F32);
    let norms = rig.zeros([1, 1, 1, slots], F32);
    let cursor = rig.zeros([1, 1, 2, capacities.len()], U32);
    let mut queues: Vec<VecDeque<Vec<f32>>> = vec![VecDeque::new(); capacities.len()];
    for push in 0..25 {
        let rep = floats(pixels * depth, 1.0, push);
        // From empty lists to lists far over the capacity.
        let lists = random_lists(capacities.len(), pixels, (push % 5) as f32 * 0.25, push);
        let [list, counts] = put_lists(&rig, &lists, pixels);
        let view = rig.strided([1, 4, 6, depth], &rep, depth + 3);
        let op = Op::BankPush {
            capacities: capacities.to_vec(),
        };
        rig.run(op, &[view, list, counts], &[bank, norms, cursor], 0);
        let (entries, norms, cursor) = (
            rig.get_f32(&bank),
            rig.get_f32(&norms),
            rig.get_u32(&cursor),
        );
        let mut start = 0;
        for (class, (queue, &capacity)) in queues.iter_mut().zip(&capacities).enumerate() {
            let capacity = capacity as usize;
            for &pixel in &lists[class] {
                queue.push_back(rep[pixel as usize * depth..][..depth].to_vec());
                if queue.len() > capacity {
                    queue.pop_front();
                }
            }
            let (next, held) = (cursor[class] as usize, cursor[5 + class] as usize);
            assert_eq!(held, queue.len());
            for (j, z) in queue.iter().enumerate() {
                let slot = start + (next + capacity - held + j) % capacity;
                assert_eq!(&entries[slot * depth..][..depth], z.as_slice());
                let norm: f64 = z.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
                close(norms[slot], 1.0 / norm, 1e-6);
            }
            start += capacity;
        }
    }
}

#[test]
fn prototype_is_the_mean_and_zero_without_pixels() {
    let (classes, pixels, depth) = (4, 700, 5);
    let rep = floats(pixels * depth, 1.0, 3);
    let mut lists = random_lists(classes, pixels, 0.9, 4);
    lists[2].clear();
    let runs = THREADS.map(|threads| {
        let rig = Rig::new(threads);
        let [list, counts] = put_lists(&rig, &lists, pixels);
        let view = rig.strided([7, 10, 10, depth], &rep, depth + 4);
        let out = rig.f32([1, 1, classes, depth], &[9.0; 20]);
        rig.run(Op::Prototype, &[view, list, counts], &[out], 0);
        rig.get_f32(&out)
    });
    assert_eq!(runs[0], runs[1]);
    for (class, list) in lists.iter().enumerate() {
        for d in 0..depth {
            let sum: f64 = list
                .iter()
                .map(|&p| f64::from(rep[p as usize * depth + d]))
                .sum();
            close(
                runs[0][class * depth + d],
                sum / list.len().max(1) as f64,
                1e-6,
            );
        }
    }
}

/// A small contrastive problem.
struct Nce {
    a: InfoNce,
    rep: Vec<f32>,
    anchors: Vec<Vec<u32>>,
    positives: Vec<u32>,
    prototype: Vec<f32>,
    bank: Vec<f32>,
    cursor: Vec<u32>,
}

const DEPTH: usize = 11;
const PIXELS: usize = 12;
const STATE: [u32; 4] = [5, 6, 7, 0];

fn nce(variant: Variant) -> Nce {
    let mut anchors = random_lists(5, PIXELS, 0.4, 8);
    anchors[1].clear();
    let capacities = vec![4, 3, 6, 2, 5];
    Nce {
        rep: floats(PIXELS * DEPTH, 1.0, 1),
        positives: anchors.iter().map(|list| list.len() as u32).collect(),
        anchors,
        prototype: floats(5 * DEPTH, 1.0, 2),
        bank: floats(20 * DEPTH, 1.0, 3),
        // Class 3 has an empty ring, class 2 one that has wrapped round.
        cursor: vec![2, 0, 4, 0, 3, 2, 3, 6, 0, 3],
        a: InfoNce {
            variant,
            anchors: 9,
            negatives: 4,
            temperature: 0.5,
            capacities,
            stream: 40,
        },
    }
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(a, b) / (dot(a, a).sqrt().max(1e-8) * dot(b, b).sqrt().max(1e-8))
}

impl Nce {
    /// (stats, gradient), the gradient added to ones when `adds`.
    fn run(&self, threads: usize, weight: f32, adds: bool) -> (Vec<f32>, Vec<f32>) {
        let rig = Rig::new(threads);
        let [list, counts] = put_lists(&rig, &self.anchors, PIXELS);
        let norms: Vec<f32> = self
            .bank
            .chunks(DEPTH)
            .map(|z| 1.0 / z.iter().map(|v| v * v).sum::<f32>().sqrt())
            .collect();
        let positives = [self.positives.clone(), vec![0; 5]].concat();
        let mut ins = vec![
            rig.strided([1, 3, 4, DEPTH], &self.rep, DEPTH + 3),
            list,
            counts,
            rig.u32([1, 1, 2, 5], &positives),
            rig.f32([1, 1, 5, DEPTH], &self.prototype),
            rig.f32([1, 1, 20, DEPTH], &self.bank),
            rig.f32([1, 1, 1, 20], &norms),
            rig.u32([1, 1, 2, 5], &self.cursor),
            rig.u32([1, 1, 1, 4], &STATE),
        ];
        let stats = rig.zeros([1, 1, 1, 4], F32);
        rig.run(Op::InfoNce(self.a.clone()), &ins, &[stats], 0);
        ins.push(stats);
        let out = rig.f32([1, 3, 4, DEPTH], &[1.0; PIXELS * DEPTH]);
        let op = Op::InfoNceBackward(self.a.clone(), weight);
        rig.run(op, &ins, &[out], u32::from(adds));
        (rig.get_f32(&stats), rig.get_f32(&out))
    }

    /// Loss and divisor by the definition in f64.
    fn exact(&self, rep: &[f64]) -> (f64, usize) {
        let valid: Vec<usize> = (0..5).filter(|&c| self.positives[c] > 0).collect();
        let takes_part = |anchor: usize, ring: usize| {
            !self.anchors[anchor].is_empty() && self.cursor[5 + ring] > 0
        };
        let (pairs, divisor): (Vec<(usize, usize)>, usize) = match self.a.variant {
            Variant::Paper => {
                let pairs: Vec<_> = (0..5)
                    .map(|c| (c, c))
                    .filter(|&(a, r)| takes_part(a, r))
                    .collect();
                (pairs.clone(), pairs.len())
            }
            Variant::Released if valid.len() < 2 => (Vec::new(), 0),
            Variant::Released => {
                let pairs = valid.iter().copied().enumerate();
                (
                    pairs.filter(|&(a, r)| takes_part(a, r)).collect(),
                    valid.len(),
                )
            }
        };
        let wide = |v: &[f32]| v.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>();
        let (m, n) = (self.a.anchors, self.a.negatives);
        let mut loss = 0.0;
        for (class, ring) in pairs {
            let start: u32 = self.a.capacities[..ring].iter().sum();
            let (next, held, q) = (
                self.cursor[ring],
                self.cursor[5 + ring],
                self.a.capacities[ring],
            );
            for i in 0..m {
                let draw = (class * m + i) as u64;
                let list = &self.anchors[class];
                let pixel = list[Rng::new(STATE, 40).below(draw, list.len() as u32) as usize];
                let z = &rep[pixel as usize * DEPTH..][..DEPTH];
                let mut logits =
                    vec![cosine(z, &wide(&self.prototype[class * DEPTH..][..DEPTH])) / 0.5];
                for j in 0..n {
                    let entry = Rng::new(STATE, 41).below(draw * n as u64 + j as u64, held);
                    let slot = (start + (next + q - held + entry) % q) as usize;
                    logits.push(cosine(z, &wide(&self.bank[slot * DEPTH..][..DEPTH])) / 0.5);
                }
                loss -= softmax(&logits)[0].ln() / (m * divisor) as f64;
            }
        }
        (loss, divisor)
    }
}

#[test]
fn info_nce_and_its_gradient_follow_the_definition() {
    for variant in [Variant::Paper, Variant::Released] {
        let problem = nce(variant);
        let (stats, gradient) = problem.run(THREADS[0], 0.7, true);
        assert_eq!(
            (stats.clone(), gradient.clone()),
            problem.run(THREADS[1], 0.7, true)
        );
        let mut rep: Vec<f64> = problem.rep.iter().map(|&v| v.into()).collect();
        let (loss, divisor) = problem.exact(&rep);
        assert!(loss > 0.5);
        close(stats[0], loss, 1e-5);
        close(stats[1], 1.0 / (9 * divisor) as f64, 1e-7);
        assert_eq!(stats[2..], [divisor as f32, 0.0]);
        let fresh = problem.run(1, 0.7, false).1;
        for i in 0..rep.len() {
            let (x, step) = (rep[i], 1e-4);
            let mut at = |x: f64| {
                rep[i] = x;
                problem.exact(&rep).0
            };
            let slope = 0.7 * (at(x + step) - at(x - step)) / (2.0 * step);
            rep[i] = x;
            close(gradient[i], 1.0 + slope, 2e-6);
            close(fresh[i], slope, 2e-6);
        }
        assert!(fresh.iter().any(|&g| g != 0.0));
    }
}

#[test]
fn released_divides_by_skipped_classes_too() {
    // Class 1 is absent and class 3's ring empty: the paper has three classes left, the released
    // code still divides by the four that have positives.
    let (paper, released) = (nce(Variant::Paper), nce(Variant::Released));
    assert_eq!(paper.run(1, 1.0, false).0[2], 3.0);
    assert_eq!(released.run(1, 1.0, false).0[2], 4.0);
}

#[test]
fn no_class_gives_zero_loss_and_gradient() {
    for variant in [Variant::Paper, Variant::Released] {
        let mut problem = nce(variant);
        match variant {
            Variant::Paper => problem.cursor[5..].fill(0),
            Variant::Released => problem.positives[1..].fill(0),
        }
        let (stats, gradient) = problem.run(1, 1.0, false);
        assert_eq!(stats, [0.0; 4]);
        assert_eq!(gradient, [0.0; PIXELS * DEPTH]);
    }
}
