//! Fill, copy, interpolation, ReLU, dropout.
//!
//! One rounding an element and no sums: the same bits everywhere. Channel counts and gaps give
//! whole vectors, rows with a tail and single elements; half of all cases start off alignment.

use crate::device::{DType, Op, Shape, elements};
use crate::selftest::{Case, Data, Operand, Tolerance};

/// Maps: (shape, gap of the first operand, gap of the second).
const LAYOUTS: [(Shape, usize, usize); 7] = [
    ([1, 1, 1, 1], 0, 0),
    // One row with a tail, two and a bit blocks.
    ([1, 1, 1, 4099], 0, 0),
    ([2, 3, 5, 13], 0, 0),
    ([2, 3, 5, 13], 3, 0),
    // Vectors over gaps; a tail of channels beside them.
    ([1, 4, 3, 16], 16, 32),
    ([1, 3, 3, 21], 11, 3),
    ([3, 1, 7, 1], 4, 2),
];

pub(super) fn cases(seed: u64) -> Vec<Case> {
    let mut d = Data::new(seed, "elementwise");
    let mut cases = fills();
    cases.extend(copies(&mut d));
    cases.extend(lerps(&mut d));
    cases.extend(relus(&mut d));
    cases.extend(dropouts(&mut d));
    cases
}

fn fills() -> Vec<Case> {
    let values = [
        (DType::F32, -2.5),
        (DType::BF16, 0.1),
        (DType::U8, 255.0),
        (DType::U32, 70_000.0),
    ];
    let case = |(shape, gap, _), (dtype, value)| {
        let out = Operand::undefined(shape, dtype).gap(gap);
        Case::new(format!("{dtype:?}"), Op::Fill { value }).output_with(out, Tolerance::Exact)
    };
    let each = |layout| values.map(|value| case(layout, value));
    LAYOUTS.into_iter().flat_map(each).collect()
}

fn copies(d: &mut Data) -> Vec<Case> {
    use DType::{BF16, F32, U8, U32};
    let mut cases = Vec::new();
    for (shape, from_gap, to_gap) in LAYOUTS {
        let n = elements(shape);
        for dtype in [U8, U32] {
            let x = match dtype {
                U8 => Operand::u8(shape, &d.bytes(n)),
                _ => Operand::u32(shape, &d.words(n)),
            };
            let y = Operand::undefined(shape, dtype).gap(to_gap);
            let case = Case::new(format!("{dtype:?}"), Op::Copy).input(x.gap(from_gap));
            cases.push(case.output_with(y, Tolerance::Exact));
        }
        for (from, to) in [(F32, F32), (BF16, BF16), (F32, BF16), (BF16, F32)] {
            let x = Operand::float(from, shape, &d.floats(n, 3.0)).gap(from_gap);
            let y = Operand::undefined(shape, to).gap(to_gap);
            let case = Case::new(format!("{from:?} to {to:?}"), Op::Copy).input(x.clone());
            cases.push(case.output_with(y, Tolerance::Exact));
            if to == F32 {
                let y = Operand::f32(shape, &d.floats(n, 3.0)).gap(to_gap);
                let case = Case::new(format!("{from:?} added to {to:?}"), Op::Copy).input(x);
                cases.push(case.accumulates(y, Tolerance::Exact));
            }
        }
    }
    cases
}

fn lerps(d: &mut Data) -> Vec<Case> {
    let mut cases = Vec::new();
    for (shape, from_gap, to_gap) in LAYOUTS {
        let n = elements(shape);
        // At 0 what dst held does not matter; at 1 it stays.
        for (name, m) in [("copied", 0.0), ("kept", 1.0), ("mixed", 0.99)] {
            let dst = match name {
                "copied" => vec![f32::NAN; n],
                _ => d.floats(n, 3.0),
            };
            let case = Case::new(name, Op::Lerp)
                .input(Operand::f32(shape, &d.floats(n, 3.0)).gap(from_gap))
                .input(Operand::vector(&[m]))
                .output_with(Operand::f32(shape, &dst).gap(to_gap), Tolerance::Exact);
            cases.push(case.clone());
            cases.push(case.output(shape, DType::BF16, Tolerance::Exact));
        }
    }
    cases
}

/// Random values, the first of them 0, −0, infinities and NaN.
fn with_specials(d: &mut Data, n: usize) -> Vec<f32> {
    let mut values = d.floats(n, 3.0);
    let specials = [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
    values.iter_mut().zip(specials).for_each(|(v, s)| *v = s);
    values
}

fn relus(d: &mut Data) -> Vec<Case> {
    let mut cases = Vec::new();
    for (shape, from_gap, to_gap) in LAYOUTS {
        for dtype in [DType::F32, DType::BF16] {
            let n = elements(shape);
            let out = Operand::undefined(shape, dtype).gap(to_gap);
            let x = Operand::float(dtype, shape, &with_specials(d, n)).gap(from_gap);
            let case = Case::new("", Op::Relu).input(x);
            cases.push(case.clone().output_with(out.clone(), Tolerance::Exact));
            cases.push(case.in_place(0, Tolerance::Exact));

            let case = Case::new("", Op::ReluBackward)
                .input(Operand::float(dtype, shape, &d.floats(n, 3.0)).gap(from_gap))
                .input(Operand::float(dtype, shape, &with_specials(d, n)).gap(to_gap));
            cases.push(case.clone().output_with(out, Tolerance::Exact));
            cases.push(case.clone().in_place(0, Tolerance::Exact));
            let sum = Operand::float(dtype, shape, &d.floats(n, 3.0)).gap(from_gap);
            cases.push(case.accumulates(sum, Tolerance::Exact));
        }
    }
    cases
}

fn dropouts(d: &mut Data) -> Vec<Case> {
    let maps = [
        ([1, 1, 1, 1], 0, 0),
        ([3, 3, 4, 21], 0, 3),
        ([2, 5, 5, 256], 0, 0),
        ([2, 9, 7, 8], 8, 16),
    ];
    let mut cases = Vec::new();
    for (shape, from_gap, to_gap) in maps {
        for dtype in [DType::F32, DType::BF16] {
            let n = elements(shape);
            for p in [0.0, 0.1, 0.5] {
                let op = Op::Dropout2d { p, stream: 7 };
                let case = Case::new(format!("p {p}"), op)
                    .input(Operand::float(dtype, shape, &with_specials(d, n)).gap(from_gap))
                    .input(Operand::rng(d.seed(), 3));
                let out = Operand::undefined(shape, dtype).gap(to_gap);
                cases.push(case.clone().output_with(out, Tolerance::Exact));
                cases.push(case.clone().in_place(0, Tolerance::Exact));
                let sum = Operand::float(dtype, shape, &d.floats(n, 3.0)).gap(to_gap);
                cases.push(case.accumulates(sum, Tolerance::Exact));
            }
        }
    }
    cases
}
