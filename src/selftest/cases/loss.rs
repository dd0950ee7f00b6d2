//! Cross-entropy, its gradient, OHEM.

use crate::device::op::CeNorm;
use crate::device::{DType, Op};
use crate::selftest::{Case, Data, Operand, Tolerance};

pub(super) fn cases(seed: u64) -> Vec<Case> {
    let mut d = Data::new(seed, "loss");
    let close = Tolerance::Close {
        rtol: 1e-5,
        atol: 1e-6,
    };
    let (low, map) = ([2, 4, 5, 7], [2, 9, 13, 1]);
    let n = 234;
    let op = Op::CrossEntropy {
        ignore: 255,
        norm: CeNorm::Valid,
    };
    let mut case = |name: &str, labels: Vec<u8>| {
        Case::new(name, op.clone())
            .input(Operand::f32(low, &d.floats(280, 3.0)))
            .input(Operand::u8(map, &labels))
            .output([1, 1, 1, 4], DType::F32, close)
    };
    let mut l = Data::new(seed, "loss labels");
    vec![
        case("a fifth ignored", l.labels(n, 7, 255, 0.2)),
        case("all ignored", vec![255; n]),
        case("every pixel one class", vec![3; n]),
        case("a class absent", l.labels_without(n, 7, 2)),
    ]
}
