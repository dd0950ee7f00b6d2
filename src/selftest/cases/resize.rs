//! Bilinear resize and its gather backward.
//!
//! Both sum in the CPU's order: the same bits.

use crate::device::{DType, Op, Shape, elements};
use crate::selftest::{Case, Data, Operand, Tolerance};

/// (name, small map, height and width of the other, gaps of the two).
type Problem = (&'static str, Shape, [usize; 2], [usize; 2]);

const PROBLEMS: [Problem; 12] = [
    ("x2", [2, 9, 9, 8], [17, 17], [0, 0]),
    ("x2, many columns", [1, 5, 33, 4], [9, 65], [0, 0]),
    ("x4", [1, 6, 5, 21], [21, 17], [0, 0]),
    ("up, gaps", [2, 3, 4, 5], [7, 9], [3, 2]),
    ("up, vectors over gaps", [1, 3, 4, 16], [7, 10], [16, 8]),
    ("ragged", [1, 7, 6, 3], [16, 11], [0, 0]),
    ("down", [2, 17, 12, 3], [5, 7], [0, 0]),
    ("down far", [1, 40, 31, 4], [3, 2], [0, 0]),
    ("up and down", [1, 4, 15, 4], [9, 6], [0, 0]),
    ("from one pixel", [2, 1, 1, 24], [4, 5], [0, 8]),
    ("to one pixel", [1, 6, 5, 3], [1, 1], [0, 0]),
    ("same size", [1, 4, 5, 3], [4, 5], [0, 1]),
];

pub(super) fn cases(seed: u64) -> Vec<Case> {
    let mut d = Data::new(seed, "resize");
    let mut cases = Vec::new();
    for (name, x, [oh, ow], [x_gap, y_gap]) in PROBLEMS {
        let y = [x[0], oh, ow, x[3]];
        for dtype in [DType::F32, DType::BF16] {
            let mut map = |shape: Shape, gap| {
                Operand::float(dtype, shape, &d.floats(elements(shape), 2.0)).gap(gap)
            };
            let out = |shape, gap| Operand::undefined(shape, dtype).gap(gap);
            cases.push(
                Case::new(name, Op::Resize)
                    .input(map(x, x_gap))
                    .output_with(out(y, y_gap), Tolerance::Exact),
            );
            let backward = Case::new(name, Op::ResizeBackward).input(map(y, y_gap));
            let fresh = backward.clone();
            cases.push(fresh.output_with(out(x, x_gap), Tolerance::Exact));
            cases.push(backward.accumulates(map(x, x_gap), Tolerance::Exact));
        }
    }
    cases
}
