//! Strong augmentation.

use crate::device::op::MixKind;
use crate::device::{DType, Op};
use crate::selftest::{Case, Data, Operand, Tolerance};

pub(super) fn cases(seed: u64) -> Vec<Case> {
    let mut d = Data::new(seed, "mix");
    let mut cases = Vec::new();
    let (b, h, w) = (3, 9, 13);
    for kind in [
        MixKind::None,
        MixKind::CutMix,
        MixKind::ClassMix,
        MixKind::CutOut,
    ] {
        let op = Op::Mix {
            kind,
            prob: 1.0,
            ignore: 255,
            stream: 5,
        };
        let labels = [b, h, w, 1];
        cases.push(
            Case::new(format!("{kind:?}"), op)
                .input(Operand::f32([b, h, w, 3], &d.floats(b * h * w * 3, 2.0)))
                .input(Operand::u8(labels, &d.patches([b, h, w], 4, 6, 255, 0.1)))
                .input(Operand::u8(labels, &d.labels(b * h * w, 6, 255, 0.1)))
                .input(Operand::rng(d.seed(), 2))
                .output([b, h, w, 3], DType::F32, Tolerance::Exact)
                .output(labels, DType::U8, Tolerance::Exact)
                .output(labels, DType::U8, Tolerance::Exact),
        );
    }
    cases
}
