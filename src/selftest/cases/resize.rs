//! Bilinear resize and its gather backward.

use crate::device::{DType, Op};
use crate::selftest::{Case, Data, Operand, Tolerance};

pub(super) fn cases(seed: u64) -> Vec<Case> {
    let mut d = Data::new(seed, "resize");
    let (low, high) = ([2, 3, 4, 5], [2, 7, 9, 5]);
    let close = Tolerance::Close {
        rtol: 1e-5,
        atol: 1e-5,
    };
    vec![
        Case::new("up, gaps", Op::Resize)
            .input(Operand::f32(low, &d.floats(120, 2.0)).gap(3))
            .output(high, DType::F32, close),
        Case::new("up", Op::ResizeBackward)
            .input(Operand::f32(high, &d.floats(630, 2.0)))
            .accumulates(Operand::f32(low, &d.floats(120, 2.0)), close),
    ]
}
