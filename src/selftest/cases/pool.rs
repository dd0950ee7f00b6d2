//! Max pooling and the global average.

use crate::device::op::Window;
use crate::device::{DType, Op};
use crate::selftest::{Case, Data, Operand, Tolerance};

pub(super) fn cases(seed: u64) -> Vec<Case> {
    let mut d = Data::new(seed, "pool");
    let window = Window {
        stride: 2,
        padding: 1,
        dilation: 1,
    };
    let (x, y) = ([2, 9, 7, 5], [2, 5, 4, 5]);
    let mut cases = Vec::new();
    for dtype in [DType::F32, DType::BF16] {
        // Few values: many ties.
        cases.push(
            Case::new("ties", Op::MaxPool { size: 3, window })
                .input(Operand::float(dtype, x, &d.ints(630, 2)).gap(1))
                .output(y, dtype, Tolerance::Exact)
                .output(y, DType::U8, Tolerance::Exact),
        );
    }
    cases
}
