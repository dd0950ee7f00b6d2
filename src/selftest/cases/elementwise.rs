//! Fill, copy, interpolation, ReLU, dropout.

use crate::device::{DType, Op};
use crate::selftest::{Case, Data, Operand, Tolerance};

pub(super) fn cases(seed: u64) -> Vec<Case> {
    let mut d = Data::new(seed, "elementwise");
    let mut cases = Vec::new();
    for (dtype, value) in [
        (DType::F32, -2.5),
        (DType::BF16, 0.1),
        (DType::U8, 255.0),
        (DType::U32, 70_000.0),
    ] {
        let out = Operand::undefined([2, 3, 5, 7], dtype).gap(3);
        cases.push(
            Case::new(format!("{dtype:?} with gaps"), Op::Fill { value })
                .output_with(out, Tolerance::Exact),
        );
    }
    for dtype in [DType::F32, DType::BF16] {
        let shape = [2, 3, 5, 13];
        let x = Operand::float(dtype, shape, &d.ints(390, 9)).gap(3);
        cases.push(Case::new("gaps", Op::Relu).input(x.clone()).output(
            shape,
            dtype,
            Tolerance::Exact,
        ));
        cases.push(
            Case::new("in place", Op::Relu)
                .input(x)
                .in_place(0, Tolerance::Exact),
        );
    }
    cases
}
