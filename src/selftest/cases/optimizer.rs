//! SGD with the EMA teacher.

use crate::device::Op;
use crate::device::op::SgdGroup;
use crate::selftest::{Case, Data, Operand, Tolerance};

pub(super) fn cases(seed: u64) -> Vec<Case> {
    let mut d = Data::new(seed, "optimizer");
    let n = 1030;
    let group = |start, len, lr_mult, weight_decay| SgdGroup {
        start,
        len,
        lr_mult,
        weight_decay,
    };
    let op = Op::SgdEma {
        momentum: 0.5,
        groups: vec![group(0, 513, 1.0, 0.25), group(520, 510, 10.0, 0.0)],
    };
    let flat = [1, 1, 1, n];
    let mut vector = |k| Operand::f32(flat, &d.ints(n, k));
    // Powers of two and small integers: exact.
    let case = Case::new("two groups, teacher", op)
        .input(vector(9))
        .input(Operand::vector(&[0.5]))
        .input(Operand::vector(&[0.75]))
        .output_with(vector(9), Tolerance::Exact)
        .output_with(vector(9), Tolerance::Exact)
        .output_with(vector(9), Tolerance::Exact);
    let copies = Case {
        name: "two groups, teacher, bf16 copies".into(),
        ..case.clone()
    };
    let stale = vec![1.0; n];
    let copies = copies
        .output_with(Operand::bf16(flat, &stale), Tolerance::Exact)
        .output_with(Operand::bf16(flat, &stale), Tolerance::Exact);
    vec![case, copies]
}
