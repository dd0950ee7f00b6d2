//! Confusion matrices.

use crate::device::Op;
use crate::selftest::{Case, Data, Operand, Tolerance};

pub(super) fn cases(seed: u64) -> Vec<Case> {
    let mut d = Data::new(seed, "metrics");
    let map = [2, 9, 13, 1];
    let n = 234;
    vec![
        Case::new("logits", Op::Confusion { ignore: 255 })
            .input(Operand::f32([2, 4, 5, 7], &d.floats(280, 3.0)))
            .input(Operand::u8(map, &d.labels(n, 7, 255, 0.2)))
            .accumulates(
                Operand::u32([1, 1, 7, 7], &d.indices(49, 100)),
                Tolerance::Exact,
            ),
        Case::new("two maps", Op::LabelConfusion { ignore: 255 })
            .input(Operand::u8(map, &d.labels(n, 7, 255, 0.2)))
            .input(Operand::u8(map, &d.labels(n, 7, 255, 0.2)))
            .accumulates(
                Operand::u32([1, 1, 7, 7], &d.indices(49, 100)),
                Tolerance::Exact,
            ),
    ]
}
