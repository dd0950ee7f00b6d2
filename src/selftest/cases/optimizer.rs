//! SGD with the EMA teacher.
//!
//! The arithmetic of an element is the CPU's, operation by operation: the same bits.

use crate::device::Op;
use crate::device::op::SgdGroup;
use crate::selftest::{Case, Data, Operand, Tolerance};

fn group(start: usize, len: usize, lr_mult: f32, weight_decay: f32) -> SgdGroup {
    SgdGroup {
        start,
        len,
        lr_mult,
        weight_decay,
    }
}

/// Vectors: (name, elements, groups).
fn problems() -> Vec<(&'static str, usize, Vec<SgdGroup>)> {
    vec![
        ("one element", 1, vec![group(0, 1, 1.0, 0.5)]),
        (
            "gaps",
            1030,
            vec![group(0, 513, 1.0, 0.25), group(520, 510, 10.0, 0.0)],
        ),
        // A start that no vector has; a group without elements; a gap at the end.
        (
            "off alignment",
            300,
            vec![
                group(3, 70, 1.0, 0.1),
                group(80, 0, 1.0, 0.0),
                group(96, 201, 3.0, 1e-4),
            ],
        ),
        // More than one block for a group.
        (
            "blocks",
            40_003,
            vec![group(0, 35_000, 1.0, 1e-4), group(35_008, 4_995, 10.0, 0.0)],
        ),
        ("no groups", 17, Vec::new()),
    ]
}

pub(super) fn cases(seed: u64) -> Vec<Case> {
    let mut d = Data::new(seed, "optimizer");
    let mut cases = Vec::new();
    for (name, n, groups) in problems() {
        for (kind, m) in [("copied", 0.0), ("kept", 1.0), ("moved", 0.99)] {
            let op = Op::SgdEma {
                momentum: 0.9,
                groups: groups.clone(),
            };
            let flat = [1, 1, 1, n];
            let mut vector = || Operand::f32(flat, &d.floats(n, 1.0));
            let case = Case::new(format!("{name}, no teacher"), op)
                .input(vector())
                .input(Operand::vector(&[0.05]))
                .input(Operand::vector(&[m]))
                .output_with(vector(), Tolerance::Exact)
                .output_with(vector(), Tolerance::Exact);
            let teacher = Case {
                name: format!("{name}, teacher {kind}"),
                ..case.clone()
            }
            .output_with(vector(), Tolerance::Exact);
            let stale = || Operand::bf16(flat, &vec![1.0; n]);
            let copies = |case: &Case, count: usize| {
                let named = Case {
                    name: format!("{}, bf16 copies", case.name),
                    ..case.clone()
                };
                (0..count).fold(named, |c, _| c.output_with(stale(), Tolerance::Exact))
            };
            if kind == "copied" {
                cases.push(copies(&case, 1));
                cases.push(case);
            }
            cases.push(copies(&teacher, 2));
            cases.push(teacher);
        }
    }
    cases
}
