//! Masks and lists of pixels. Everything here is decided alike on every device, to the bit.

use std::ops::Range;

use crate::device::op::{NegativePixels, Partition, Variant};
use crate::device::{DType, Op};
use crate::selftest::{Case, Data, Defined, Operand, Tolerance};

const IGNORE: u8 = 255;
/// {γ, low, high}: entropies are uniform on 0 to 1.
const THRESHOLDS: [f32; 3] = [0.5, 0.3, 0.7];

/// A partition to be filled in.
struct Masks {
    variant: Variant,
    classes: usize,
    /// Labelled and unlabelled images.
    images: [usize; 2],
    small: [usize; 2],
    large: [usize; 2],
    ranks: [u32; 2],
    unlabeled: NegativePixels,
    gap: usize,
}

/// Where labels come from.
enum Labels {
    /// Any class, a share ignored.
    Share(f32),
    /// This one everywhere.
    All(u8),
    /// Any but this one.
    Without(u8),
}

impl Masks {
    fn new(variant: Variant, classes: usize) -> Self {
        Self {
            variant,
            classes,
            images: [2, 3],
            small: [5, 4],
            large: [9, 13],
            ranks: [3.min(classes as u32 - 1), 20],
            unlabeled: NegativePixels::Unreliable,
            gap: 3,
        }
    }

    fn case(&self, d: &mut Data, name: &str, logits: &[f32], labels: &Labels) -> Case {
        let [h, w] = self.small;
        let [height, width] = self.large;
        let batch = self.images[0] + self.images[1];
        let op = Op::Partition(Partition {
            variant: self.variant,
            classes: self.classes,
            ignore: IGNORE,
            delta_p: 1.5 / self.classes as f32,
            low_rank: self.ranks[0],
            high_rank: self.ranks[1],
            unlabeled: self.unlabeled,
        });
        let mut maps = |images: usize| {
            let n = images * height * width;
            let labels = match *labels {
                Labels::Share(share) => d.labels(n, self.classes as u32, IGNORE, share),
                Labels::All(label) => vec![label; n],
                Labels::Without(class) => d.labels_without(n, self.classes as u32, class),
            };
            Operand::u8([images, height, width, 1], &labels)
        };
        let (label_l, label_u) = (maps(self.images[0]), maps(self.images[1]));
        // Tenths, so that some equal a threshold.
        let entropy: Vec<f32> = d
            .indices(self.images[1] * height * width, 11)
            .into_iter()
            .map(|v| v as f32 / 10.0)
            .collect();
        let mask = [batch, h, w, self.classes.div_ceil(32)];
        Case::new(format!("{:?}: {name}", self.variant), op)
            .input(Operand::f32([batch, h, w, self.classes], logits).gap(self.gap))
            .input(label_l)
            .input(label_u)
            .input(Operand::f32([self.images[1], height, width, 1], &entropy))
            .input(Operand::vector(&THRESHOLDS))
            .output(mask, DType::U32, Tolerance::Exact)
            .output(mask, DType::U32, Tolerance::Exact)
            .output(mask, DType::U32, Tolerance::Exact)
    }

    fn elements(&self) -> usize {
        (self.images[0] + self.images[1]) * self.small[0] * self.small[1] * self.classes
    }
}

pub(super) fn cases(seed: u64) -> Vec<Case> {
    let mut d = Data::new(seed, "partition");
    let mut cases = Vec::new();
    for variant in [Variant::Paper, Variant::Released] {
        for classes in [2, 5, 21, 33, 70, 255] {
            let masks = Masks::new(variant, classes);
            let logits = d.floats(masks.elements(), 4.0);
            let name = format!("{classes} classes");
            cases.push(masks.case(&mut d, &name, &logits, &Labels::Share(0.2)));
        }
        let masks = Masks::new(variant, 21);
        let tied = d.ints(masks.elements(), 2);
        let any = d.floats(masks.elements(), 4.0);
        for (name, logits, labels) in [
            ("ties", &tied, Labels::Share(0.1)),
            ("all ignored", &any, Labels::All(IGNORE)),
            ("a label past the classes", &any, Labels::All(21)),
            ("every pixel one class", &any, Labels::All(20)),
            ("a class absent", &any, Labels::Without(0)),
        ] {
            cases.push(masks.case(&mut d, name, logits, &labels));
        }
        for unlabeled in [
            NegativePixels::Reliable,
            NegativePixels::All,
            NegativePixels::Labeled,
        ] {
            let masks = Masks {
                unlabeled,
                ..Masks::new(variant, 21)
            };
            let name = format!("negatives {unlabeled:?}");
            cases.push(masks.case(&mut d, &name, &any, &Labels::Share(0.1)));
        }
        let pixel = Masks {
            images: [1, 1],
            small: [1, 1],
            large: [3, 2],
            gap: 0,
            ..masks
        };
        let logits = d.floats(pixel.elements(), 4.0);
        cases.push(pixel.case(&mut d, "one pixel", &logits, &Labels::Share(0.0)));
        let fine = Masks {
            small: [9, 13],
            gap: 0,
            ..Masks::new(variant, 19)
        };
        let logits = d.floats(fine.elements(), 4.0);
        cases.push(fine.case(&mut d, "no sampling", &logits, &Labels::Share(0.3)));
    }
    cases
}

/// The entries of `Compact`'s lists (output 0) below the counts (output 1, row 0).
fn listed(case: &Case, outs: &[Vec<u8>]) -> Vec<Range<usize>> {
    let pixels = case.outs[0].shape[3];
    let counts: Vec<u32> = bytemuck::pod_collect_to_vec(&outs[1]);
    let classes = case.outs[1].shape[3];
    let filled = counts[..classes].iter().enumerate();
    filled
        .map(|(class, &n)| class * pixels..class * pixels + n as usize)
        .collect()
}

pub(super) fn compact_cases(seed: u64) -> Vec<Case> {
    let mut d = Data::new(seed, "compact");
    let mut case = |name: &str, [b, h, w]: [usize; 3], classes: usize, labeled, gap, fill| {
        let words = classes.div_ceil(32);
        let bits = match fill {
            Some(word) => vec![word; b * h * w * words],
            None => d.words(b * h * w * words),
        };
        let op = Op::Compact {
            labeled_pixels: labeled,
        };
        let list = Operand::undefined([1, 1, classes, b * h * w], DType::U32);
        Case::new(name, op)
            .input(Operand::u32([b, h, w, words], &bits).gap(gap))
            .output_with(list.defined(Defined::By(listed)), Tolerance::Exact)
            .output([1, 1, 2, classes], DType::U32, Tolerance::Exact)
    };
    vec![
        case("two words per pixel", [2, 5, 7], 37, 35, 0, None),
        case("three words, a gap", [2, 9, 31], 70, 279, 2, None),
        case("many chunks", [2, 65, 65], 21, 4225, 0, None),
        case(
            "strips of more than a warp",
            [1, 269, 263],
            3,
            70_000,
            0,
            None,
        ),
        case("no bit set", [2, 17, 16], 21, 272, 0, Some(0)),
        case("every bit set", [2, 17, 16], 33, 272, 0, Some(u32::MAX)),
        case("one class has all", [1, 23, 29], 8, 0, 0, Some(1 << 5)),
        case("one pixel", [1, 1, 1], 2, 1, 0, Some(2)),
    ]
}
