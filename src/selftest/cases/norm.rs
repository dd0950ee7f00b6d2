//! Batch norm: training, evaluation, backward.

use crate::device::{DType, Op};
use crate::selftest::{Case, Data, Operand, Tolerance};

pub(super) fn cases(seed: u64) -> Vec<Case> {
    let mut d = Data::new(seed, "norm");
    let mut cases = Vec::new();
    let shape = [2, 5, 7, 13];
    let vector = [1, 1, 1, 13];
    for dtype in [DType::F32, DType::BF16] {
        let close = Tolerance::Close {
            rtol: if dtype == DType::BF16 {
                1.0 / 128.0
            } else {
                1e-5
            },
            atol: 1e-5,
        };
        let stats = Tolerance::Close {
            rtol: 1e-5,
            atol: 1e-6,
        };
        let op = Op::BatchNorm {
            eps: 1e-5,
            momentum: 0.1,
            relu: true,
        };
        cases.push(
            Case::new("ragged, residual", op)
                .input(Operand::float(dtype, shape, &d.floats(910, 3.0)).gap(2))
                .input(Operand::vector(&d.uniform(13, 0.5, 1.5)))
                .input(Operand::vector(&d.floats(13, 1.0)))
                .input(Operand::float(dtype, shape, &d.floats(910, 1.0)))
                .output(shape, dtype, close)
                .output(vector, DType::F32, stats)
                .output(vector, DType::F32, stats)
                .output_with(Operand::vector(&d.floats(13, 1.0)), stats)
                .output_with(Operand::vector(&d.uniform(13, 0.5, 1.5)), stats),
        );
    }
    cases
}
