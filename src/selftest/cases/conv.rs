//! Convolution and its two gradients.

use crate::device::op::Window;
use crate::device::{DType, Op};
use crate::selftest::{Case, Data, Math, Operand, Tolerance};

pub(super) fn cases(seed: u64) -> Vec<Case> {
    let mut d = Data::new(seed, "conv");
    let window = Window {
        stride: 1,
        padding: 1,
        dilation: 1,
    };
    let mut cases = Vec::new();
    for (math, dtype) in [
        (Math::Fp32, DType::F32),
        (Math::Tf32, DType::F32),
        (Math::Bf16, DType::BF16),
    ] {
        let (x, w, y) = ([2, 5, 7, 13], [9, 3, 3, 13], [2, 5, 7, 9]);
        let xs = Operand::float(dtype, x, &d.ints(910, 4)).gap(3);
        let ws = Operand::float(dtype, w, &d.ints(1053, 4));
        let dys = Operand::float(dtype, y, &d.ints(630, 4));
        cases.push(
            Case::new("3x3 integers", Op::Conv(window))
                .input(xs.clone())
                .input(ws.clone())
                .input(Operand::vector(&d.ints(9, 4)))
                .output(y, dtype, Tolerance::Exact)
                .math(math),
        );
        cases.push(
            Case::new("3x3 integers", Op::ConvDgrad(window))
                .input(dys.clone())
                .input(ws)
                .accumulates(Operand::float(dtype, x, &d.ints(910, 9)), Tolerance::Exact)
                .math(math),
        );
        cases.push(
            Case::new("3x3 integers", Op::ConvWgrad(window))
                .input(xs)
                .input(dys)
                .output(w, DType::F32, Tolerance::Exact)
                .output([1, 1, 1, 9], DType::F32, Tolerance::Exact)
                .math(math),
        );
    }
    cases
}
