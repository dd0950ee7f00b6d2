//! Strong augmentation: copies only, so the bits agree.

use crate::device::op::MixKind;
use crate::device::{DType, Op};
use crate::selftest::{Case, Data, Operand, Tolerance};

const KINDS: [MixKind; 4] = [
    MixKind::None,
    MixKind::CutMix,
    MixKind::ClassMix,
    MixKind::CutOut,
];

/// A call on `labels`, with noise as images.
fn case(
    d: &mut Data,
    name: String,
    (kind, prob, ignore): (MixKind, f32, u8),
    [b, h, w]: [usize; 3],
    labels: &[u8],
    step: u32,
) -> Case {
    let op = Op::Mix {
        kind,
        prob,
        ignore,
        stream: 5,
    };
    let (map, image) = ([b, h, w, 1], [b, h, w, 3]);
    Case::new(name, op)
        .input(Operand::f32(image, &d.floats(b * h * w * 3, 2.0)))
        .input(Operand::u8(map, labels))
        .input(Operand::u8(map, &d.labels(b * h * w, 6, 255, 0.1)))
        .input(Operand::rng(d.seed(), step))
        .output(image, DType::F32, Tolerance::Exact)
        .output(map, DType::U8, Tolerance::Exact)
        .output(map, DType::U8, Tolerance::Exact)
}

/// The same with gaps between pixels.
fn gaps(mut case: Case) -> Case {
    for (i, operand) in case.ins.iter_mut().take(3).enumerate() {
        operand.gap = i + 1;
    }
    for (i, operand) in case.outs.iter_mut().enumerate() {
        operand.gap = 3 - i;
    }
    case
}

pub(super) fn cases(seed: u64) -> Vec<Case> {
    let d = &mut Data::new(seed, "mix");
    let mut cases = Vec::new();
    for kind in KINDS {
        for (i, size) in [[1, 1, 1], [2, 1, 7], [2, 5, 2], [3, 9, 13], [2, 70, 65]]
            .into_iter()
            .enumerate()
        {
            let labels = d.patches(size, 4, 6, 255, 0.1);
            let name = format!("{kind:?} {size:?}");
            cases.push(case(d, name, (kind, 1.0, 255), size, &labels, i as u32));
        }
        let size = [3, 9, 13];
        let labels = d.patches(size, 3, 9, 255, 0.1);
        let name = format!("{kind:?} with gaps");
        cases.push(gaps(case(d, name, (kind, 1.0, 255), size, &labels, 2)));
    }
    let kind = MixKind::ClassMix;
    let size = [2, 9, 13];
    let n = 2 * 9 * 13;
    for (name, labels, ignore) in [
        ("all ignored", vec![255; n], 255),
        ("every pixel one class", vec![3; n], 255),
        ("a class absent", d.labels_without(n, 7, 2), 255),
        ("every byte a label", d.bytes(n), 255),
        ("class 0 ignored", d.labels(n, 5, 0, 0.3), 0),
    ] {
        let name = format!("ClassMix, {name}");
        cases.push(case(d, name, (kind, 1.0, ignore), size, &labels, 3));
    }
    for step in 0..4 {
        for (kind, prob) in [
            (MixKind::CutMix, 0.5),
            (MixKind::ClassMix, 0.5),
            (MixKind::CutOut, 0.0),
        ] {
            let labels = d.labels(n, 6, 255, 0.1);
            let name = format!("{kind:?}, probability {prob}, step {step}");
            cases.push(case(d, name, (kind, prob, 255), size, &labels, step));
        }
    }
    cases
}
