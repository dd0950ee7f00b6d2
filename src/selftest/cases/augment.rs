//! Weak augmentation.

use crate::device::op::Augment;
use crate::device::{DType, Op};
use crate::selftest::{Case, Data, Operand, Tolerance};

pub(super) fn cases(seed: u64) -> Vec<Case> {
    let mut d = Data::new(seed, "augment");
    let capacity = 12 * 17;
    let op = Op::Augment(Augment {
        scale: (0.5, 2.0),
        flip: 0.5,
        random_crop: true,
        mean: [123.7, 116.3, 103.5],
        std: [58.4, 57.1, 57.4],
        pad_label: 255,
        stream: 3,
    });
    let close = Tolerance::Close {
        rtol: 1e-5,
        atol: 1e-5,
    };
    vec![
        Case::new("two sizes, crop larger than one", op)
            .input(Operand::u8([2, 1, 1, 3 * capacity], &d.bytes(6 * capacity)))
            .input(Operand::u8(
                [2, 1, 1, capacity],
                &d.labels(2 * capacity, 5, 255, 0.2),
            ))
            .input(Operand::u32([2, 1, 1, 2], &[12, 17, 9, 5]))
            .input(Operand::rng(d.seed(), 4))
            .output([2, 11, 9, 3], DType::F32, close)
            .output([2, 11, 9, 1], DType::U8, Tolerance::Exact),
    ]
}
