//! The memory bank and the prototypes.

use crate::device::{DType, Op};
use crate::selftest::{Case, Data, Operand, Tolerance};

use super::Lists;

/// One push into rings that hold something already.
struct Push<'a> {
    capacities: &'a [u32],
    next: &'a [u32],
    held: &'a [u32],
    /// Pixels per class.
    sizes: &'a [usize],
    shape: [usize; 3],
    depth: usize,
    gap: usize,
}

impl Push<'_> {
    /// Of integers, when even the norms are equal to the bit, or of any numbers.
    fn case(&self, d: &mut Data, name: &str, integers: bool) -> Case {
        let [b, h, w] = self.shape;
        let pixels = b * h * w;
        let mut numbers = |n: usize| match integers {
            true => d.ints(n, 9),
            false => d.floats(n, 1.0),
        };
        let mut rep = numbers(pixels * self.depth);
        rep[..self.depth].fill(0.0); // a norm that is clamped
        let slots = self.capacities.iter().sum::<u32>() as usize;
        let bank = numbers(slots * self.depth);
        let norms = numbers(slots);
        let [list, counts] = Lists::new(d, self.sizes, pixels).operands();
        let op = Op::BankPush {
            capacities: self.capacities.to_vec(),
        };
        let classes = self.capacities.len();
        let close = Tolerance::Close {
            rtol: 1e-6,
            atol: 0.0,
        };
        Case::new(name, op)
            .input(Operand::f32([b, h, w, self.depth], &rep).gap(self.gap))
            .input(list)
            .input(counts)
            .output_with(
                Operand::f32([1, 1, slots, self.depth], &bank),
                Tolerance::Exact,
            )
            .output_with(
                Operand::vector(&norms),
                if integers { Tolerance::Exact } else { close },
            )
            .output_with(
                Operand::u32([1, 1, 2, classes], &[self.next, self.held].concat()),
                Tolerance::Exact,
            )
    }
}

pub(super) fn push_cases(seed: u64) -> Vec<Case> {
    let mut d = Data::new(seed, "bank push");
    let some = Push {
        capacities: &[7, 1, 40, 0, 5],
        next: &[0; 5],
        held: &[0; 5],
        sizes: &[3, 0, 12, 4, 1],
        shape: [2, 4, 6],
        depth: 6,
        gap: 3,
    };
    let full = Push {
        next: &[5, 0, 38, 0, 4],
        held: &[7, 1, 40, 0, 5],
        ..some
    };
    vec![
        some.case(&mut d, "an empty bank", true),
        full.case(&mut d, "a full bank, round the end", true),
        full.case(&mut d, "a full bank, any numbers", false),
        Push {
            sizes: &[0; 5],
            ..full
        }
        .case(&mut d, "nothing to push", true),
        Push {
            sizes: &[48, 48, 41, 48, 11],
            ..full
        }
        .case(&mut d, "more than the capacity", true),
        Push {
            sizes: &[7, 1, 40, 1, 5],
            depth: 256,
            gap: 0,
            ..full
        }
        .case(&mut d, "exactly the capacity", true),
        Push {
            sizes: &[0, 0, 48, 0, 0],
            depth: 133,
            gap: 0,
            ..some
        }
        .case(&mut d, "every pixel one class", false),
        Push {
            capacities: &[900, 3],
            next: &[500, 2],
            held: &[900, 2],
            sizes: &[851, 2],
            shape: [1, 23, 37],
            depth: 4,
            gap: 4,
        }
        .case(&mut d, "more rows than warps", true),
        Push {
            capacities: &[2, 3],
            next: &[1, 0],
            held: &[1, 0],
            sizes: &[1, 1],
            shape: [1, 1, 1],
            depth: 5,
            gap: 0,
        }
        .case(&mut d, "one pixel", false),
        Push {
            capacities: &[3; 70],
            next: &[1; 70],
            held: &[2; 70],
            sizes: &[2; 70],
            shape: [1, 3, 5],
            depth: 8,
            gap: 0,
        }
        .case(&mut d, "70 classes", true),
    ]
}

pub(super) fn prototype_cases(seed: u64) -> Vec<Case> {
    let mut d = Data::new(seed, "prototype");
    // The sums are f64 on every device: half a unit of the last place, and what lies at a tie.
    let close = Tolerance::Close {
        rtol: 2e-7,
        atol: 1e-12,
    };
    let mut case = |name: &str, sizes: &[usize], [b, h, w, depth]: [usize; 4], gap, integers| {
        let pixels = b * h * w;
        let (rep, tolerance) = match integers {
            true => (d.ints(pixels * depth, 100), Tolerance::Exact),
            false => (d.floats(pixels * depth, 1.0), close),
        };
        let [list, counts] = Lists::new(&mut d, sizes, pixels).operands();
        let out = Operand::undefined([1, 1, sizes.len(), depth], DType::F32).gap(gap);
        Case::new(name, Op::Prototype)
            .input(Operand::f32([b, h, w, depth], &rep).gap(gap))
            .input(list)
            .input(counts)
            .output_with(out, tolerance)
    };
    vec![
        case("a class absent", &[60, 0, 1, 17], [2, 5, 6, 9], 3, true),
        case(
            "every pixel one class",
            &[0, 700, 0],
            [7, 10, 10, 256],
            0,
            true,
        ),
        case(
            "classes that overlap",
            &[129, 128, 127, 700],
            [7, 10, 10, 20],
            4,
            false,
        ),
        case("more than 256 channels", &[40, 33], [2, 5, 7, 301], 0, true),
        case("one pixel", &[1, 0], [1, 1, 1, 3], 0, false),
        case("no class at all", &[0, 0, 0], [1, 3, 3, 8], 0, true),
        case("70 classes", &[3; 70], [1, 3, 3, 8], 0, true),
    ]
}
