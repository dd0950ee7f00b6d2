//! Entropy, percentiles, what to keep of the pseudo-labels, score maps.

use crate::device::{DType, Op};
use crate::selftest::{Case, Data, Operand, Tolerance};

pub(super) fn cases(seed: u64) -> Vec<Case> {
    let mut d = Data::new(seed, "entropy");
    let map = [2, 9, 13, 1];
    let n = 234;
    let close = Tolerance::Close {
        rtol: 1e-5,
        atol: 1e-5,
    };
    let percentile = |name: &str, values: &[f32], labels: &[u8]| {
        Case::new(name, Op::Percentile { ignore: 255 })
            .input(Operand::f32(map, values))
            .input(Operand::u8(map, labels))
            .input(Operand::vector(&[80.0, 20.0, 0.0, 100.0]))
            .output([1, 1, 1, 4], DType::F32, Tolerance::Exact)
    };
    vec![
        Case::new("ragged", Op::SoftmaxEntropy { log_eps: 0.0 })
            .input(Operand::f32([2, 4, 5, 7], &d.floats(280, 3.0)).gap(1))
            .output(map, DType::F32, close)
            .output(map, DType::U8, Tolerance::Exact)
            .output(map, DType::F32, close),
        percentile(
            "a fifth ignored",
            &d.uniform(n, 0.0, 3.0),
            &d.labels(n, 7, 255, 0.2),
        ),
        percentile("all ignored", &d.uniform(n, 0.0, 3.0), &vec![255; n]),
    ]
}
