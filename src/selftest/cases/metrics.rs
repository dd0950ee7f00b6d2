//! Confusion matrices: counts, so all of it is exact.

use super::entropy::UPSAMPLINGS;
use crate::device::{DType, Op, Shape, elements};
use crate::selftest::{Case, Data, Operand, Tolerance};

fn confusion(d: &mut Data, name: &str, shape: Shape, [h, w]: [usize; 2], labels: &[u8]) -> Case {
    let logits = d.floats(elements(shape), 3.0);
    Case::new(name, Op::Confusion { ignore: 255 })
        .input(Operand::f32(shape, &logits).gap(shape[3] % 3))
        .input(Operand::u8([shape[0], h, w, 1], labels))
}

fn label_confusion(name: &str, truth: &[u8], prediction: &[u8]) -> Case {
    let map = [1, 1, truth.len(), 1];
    Case::new(name, Op::LabelConfusion { ignore: 255 })
        .input(Operand::u8(map, truth))
        .input(Operand::u8(map, prediction))
}

/// Overwrites a matrix, or adds to one with gaps.
fn counted(d: &mut Data, case: Case, classes: usize, adds: bool) -> Case {
    let shape = [1, 1, classes, classes];
    match adds {
        true => case.accumulates(
            Operand::u32(shape, &d.indices(classes * classes, 100)).gap(3),
            Tolerance::Exact,
        ),
        false => case.output(shape, DType::U32, Tolerance::Exact),
    }
}

pub(super) fn cases(seed: u64) -> Vec<Case> {
    let d = &mut Data::new(seed, "metrics");
    let mut cases = Vec::new();
    let wide = [
        ("64 classes", [1, 3, 4, 64], [9, 13]),
        ("65 classes", [1, 3, 4, 65], [9, 13]),
    ];
    for (i, (name, shape, [h, w])) in UPSAMPLINGS.into_iter().chain(wide).enumerate() {
        let (n, classes) = (shape[0] * h * w, shape[3]);
        let labels = d.labels(n, (classes as u32 + 1).min(255), 255, 0.2);
        let case = confusion(d, name, shape, [h, w], &labels);
        cases.push(counted(d, case, classes, i % 2 == 1));
    }
    let n = 234;
    for (name, labels) in [
        ("all ignored", vec![255; n]),
        ("every pixel one class", vec![3; n]),
        ("a class absent", d.labels_without(n, 7, 2)),
        ("labels past the classes", d.bytes(n)),
    ] {
        for adds in [false, true] {
            let case = confusion(d, name, [2, 4, 5, 7], [9, 13], &labels);
            cases.push(counted(d, case, 7, adds));
            let guess = d.labels(n, 7, 255, 0.2);
            let case = label_confusion(name, &labels, &guess);
            cases.push(counted(d, case, 7, adds));
        }
    }
    for (i, (n, classes)) in [
        (1, 1),
        (15, 2),
        (17, 21),
        (9001, 21),
        (777, 64),
        (4999, 255),
    ]
    .into_iter()
    .enumerate()
    {
        let truth = d.patches([1, 1, n], 5, classes, 255, 0.1);
        let guess = d.patches([1, 1, n], 3, classes, 255, 0.1);
        let case = label_confusion("runs of labels", &truth, &guess);
        cases.push(counted(d, case, classes as usize, i % 2 == 0));
    }
    cases
}
