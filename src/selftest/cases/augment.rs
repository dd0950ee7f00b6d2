//! Weak augmentation: every f32 is rounded as on the CPU, so the bits agree.

use crate::device::op::Augment;
use crate::device::{DType, Op};
use crate::selftest::{Case, Data, Operand, Tolerance};

const TYPICAL: Augment = Augment {
    scale: (0.5, 2.0),
    flip: 0.5,
    random_crop: true,
    mean: [123.7, 116.3, 103.5],
    std: [58.4, 57.1, 57.4],
    pad_label: 255,
    stream: 3,
};

/// Images of these sizes to crops of `height × width`, each row `spare` pixels longer than needed.
fn case(
    d: &mut Data,
    name: &str,
    a: Augment,
    sizes: &[[u32; 2]],
    [height, width]: [usize; 2],
    step: u32,
) -> Case {
    let n = sizes.len();
    let most = sizes.iter().map(|s| (s[0] * s[1]) as usize).max();
    let capacity = most.unwrap_or(0) + 3;
    Case::new(name, Op::Augment(a))
        .input(Operand::u8(
            [n, 1, 1, 3 * capacity],
            &d.bytes(3 * n * capacity),
        ))
        .input(Operand::u8(
            [n, 1, 1, capacity],
            &d.labels(n * capacity, 5, 255, 0.2),
        ))
        .input(Operand::u32([n, 1, 1, 2], sizes.as_flattened()))
        .input(Operand::rng(d.seed(), step))
        .output([n, height, width, 3], DType::F32, Tolerance::Exact)
        .output([n, height, width, 1], DType::U8, Tolerance::Exact)
}

/// The same with gaps between all pixels and rows.
fn gaps(mut case: Case) -> Case {
    for (i, operand) in case.ins.iter_mut().take(3).enumerate() {
        operand.gap = i + 1;
    }
    for (i, operand) in case.outs.iter_mut().enumerate() {
        operand.gap = 3 - i;
    }
    case
}

pub(super) fn cases(seed: u64) -> Vec<Case> {
    let d = &mut Data::new(seed, "augment");
    let plain = Augment {
        scale: (1.0, 1.0),
        flip: 0.0,
        random_crop: false,
        ..TYPICAL
    };
    let shrink = Augment {
        scale: (0.1, 1.0),
        ..TYPICAL
    };
    let flip = Augment {
        flip: 1.0,
        ..plain.clone()
    };
    let enlarge = Augment {
        scale: (1.0, 3.0),
        random_crop: false,
        pad_label: 0,
        ..TYPICAL
    };
    let mut cases = vec![
        case(d, "same size", plain.clone(), &[[7, 9]], [7, 9], 0),
        case(d, "centre crop", plain.clone(), &[[12, 15]], [7, 8], 0),
        case(d, "padding all round", plain, &[[3, 4]], [8, 9], 0),
        case(d, "flipped", flip, &[[5, 7]], [4, 10], 0),
        case(d, "one pixel", TYPICAL, &[[1, 1]], [1, 1], 1),
        case(
            d,
            "one pixel becomes many",
            enlarge.clone(),
            &[[1, 1]],
            [3, 5],
            2,
        ),
        case(
            d,
            "a line shrinks to nothing",
            shrink,
            &[[1, 9], [9, 1]],
            [3, 3],
            3,
        ),
        case(
            d,
            "several blocks an image",
            TYPICAL,
            &[[31, 45], [40, 37]],
            [41, 53],
            4,
        ),
        case(d, "enlarged", enlarge, &[[12, 17], [9, 5]], [11, 9], 5),
        gaps(case(
            d,
            "gaps everywhere",
            TYPICAL,
            &[[12, 17], [9, 5]],
            [11, 9],
            6,
        )),
    ];
    for step in 7..11 {
        let sizes = [[12, 17], [9, 5], [20, 11]];
        let name = format!("three sizes, step {step}");
        cases.push(case(d, &name, TYPICAL, &sizes, [11, 9], step));
    }
    cases
}
