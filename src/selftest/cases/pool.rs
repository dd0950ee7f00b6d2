//! Max pooling and the global average.
//!
//! A maximum is exact and the backwards sum in the CPU's order: the same bits. The average sums in
//! another order: the same bits on small integers, else 1e-6 (and one rounding in bf16).

use crate::device::op::Window;
use crate::device::{DType, Op, Shape, elements};
use crate::selftest::{Case, Data, Operand, Tolerance};

/// A pooling: input, height and width of the output, side, stride, padding, gaps of both maps and
/// of the taps.
struct Pooling {
    name: &'static str,
    x: Shape,
    out: [usize; 2],
    side: usize,
    stride: usize,
    padding: usize,
    gaps: [usize; 3],
}

const fn pooling(
    name: &'static str,
    x: Shape,
    out: [usize; 2],
    [side, stride, padding]: [usize; 3],
    gaps: [usize; 3],
) -> Pooling {
    Pooling {
        name,
        x,
        out,
        side,
        stride,
        padding,
        gaps,
    }
}

const POOLINGS: [Pooling; 10] = [
    pooling("stem", [2, 13, 9, 64], [7, 5], [3, 2, 1], [0, 0, 0]),
    pooling("ceil", [2, 12, 9, 5], [7, 5], [3, 2, 1], [0, 0, 0]),
    pooling("floor, gaps", [2, 12, 9, 5], [6, 5], [3, 2, 1], [1, 2, 3]),
    pooling("vector gaps", [1, 7, 6, 8], [4, 3], [3, 2, 1], [8, 16, 8]),
    pooling("2 by 2", [1, 7, 6, 3], [3, 3], [2, 2, 0], [0, 0, 0]),
    pooling("side 1", [1, 3, 4, 4], [3, 4], [1, 1, 0], [0, 0, 0]),
    pooling("gaps between", [1, 9, 11, 4], [3, 3], [2, 4, 0], [0, 0, 0]),
    pooling("side 16", [1, 19, 23, 4], [4, 5], [16, 7, 9], [0, 0, 0]),
    pooling("one pixel", [3, 1, 1, 16], [1, 1], [3, 2, 1], [0, 0, 0]),
    pooling("side over map", [1, 3, 2, 1], [2, 1], [5, 3, 3], [0, 0, 0]),
];

pub(super) fn cases(seed: u64) -> Vec<Case> {
    let mut d = Data::new(seed, "pool");
    let mut cases = Vec::new();
    for dtype in [DType::F32, DType::BF16] {
        for pooling in &POOLINGS {
            cases.extend(max_pools(&mut d, dtype, pooling));
            cases.extend(max_pool_backwards(&mut d, dtype, pooling));
        }
        cases.extend(averages(&mut d, dtype));
    }
    cases
}

impl Pooling {
    fn window(&self) -> Window {
        Window {
            stride: self.stride,
            padding: self.padding,
            dilation: 1,
        }
    }

    fn y(&self) -> Shape {
        let [n, _, _, c] = self.x;
        [n, self.out[0], self.out[1], c]
    }
}

fn max_pools(d: &mut Data, dtype: DType, p: &Pooling) -> Vec<Case> {
    let n = elements(p.x);
    let op = Op::MaxPool {
        size: p.side,
        window: p.window(),
    };
    let mut nans = d.floats(n, 2.0);
    let places = d.indices(n.div_ceil(9), n as u32);
    places.iter().for_each(|&i| nans[i as usize] = f32::NAN);
    nans[0] = f32::NEG_INFINITY;
    // Few values: many ties.
    let contents = [("ties", d.ints(n, 2)), ("nan", nans)];
    let case = |(what, values): (&str, Vec<f32>)| {
        Case::new(format!("{}, {what}", p.name), op.clone())
            .input(Operand::float(dtype, p.x, &values).gap(p.gaps[0]))
            .output_with(
                Operand::undefined(p.y(), dtype).gap(p.gaps[1]),
                Tolerance::Exact,
            )
            .output_with(
                Operand::undefined(p.y(), DType::U8).gap(p.gaps[2]),
                Tolerance::Exact,
            )
    };
    contents.map(case).into()
}

/// Taps as the forward would write them: of the window's pixels that lie in the map.
fn taps(d: &mut Data, p: &Pooling) -> Vec<u8> {
    let [_, h, w, c] = p.x;
    let draws = d.words(elements(p.y()));
    let inside = |o: usize, input: usize, word: u32| {
        let origin = o * p.stride;
        let first = p.padding.saturating_sub(origin);
        let end = p.side.min(input + p.padding - origin);
        first + word as usize % (end - first)
    };
    let tap = |(i, &word): (usize, &u32)| {
        let pixel = i / c;
        let (oy, ox) = (pixel / p.out[1] % p.out[0], pixel % p.out[1]);
        (inside(oy, h, word >> 16) * p.side + inside(ox, w, word & 0xFFFF)) as u8
    };
    draws.iter().enumerate().map(tap).collect()
}

fn max_pool_backwards(d: &mut Data, dtype: DType, p: &Pooling) -> [Case; 2] {
    let op = Op::MaxPoolBackward {
        size: p.side,
        window: p.window(),
    };
    let dy = d.floats(elements(p.y()), 2.0);
    let case = Case::new(p.name, op)
        .input(Operand::float(dtype, p.y(), &dy).gap(p.gaps[1]))
        .input(Operand::u8(p.y(), &taps(d, p)).gap(p.gaps[2]));
    let out = Operand::undefined(p.x, dtype).gap(p.gaps[0]);
    let sum = Operand::float(dtype, p.x, &d.floats(elements(p.x), 2.0)).gap(p.gaps[0]);
    [
        case.clone().output_with(out, Tolerance::Exact),
        case.accumulates(sum, Tolerance::Exact),
    ]
}

/// Maps and gaps of the global average.
const AVERAGED: [(Shape, usize, usize); 6] = [
    ([3, 1, 1, 4], 0, 0),
    ([2, 7, 5, 21], 0, 0),
    ([2, 33, 17, 3], 2, 1),
    ([1, 5, 5, 2048], 0, 0),
    ([2, 9, 15, 64], 64, 16),
    ([1, 31, 41, 1], 0, 3),
];

fn averages(d: &mut Data, dtype: DType) -> Vec<Case> {
    let close = Tolerance::Close {
        rtol: match dtype {
            DType::BF16 => 1.0 / 128.0,
            _ => 1e-6,
        },
        atol: 1e-6,
    };
    let mut cases = Vec::new();
    for (x, x_gap, y_gap) in AVERAGED {
        let (n, y) = (elements(x), [x[0], 1, 1, x[3]]);
        let contents = [
            ("integers", d.ints(n, 9), Tolerance::Exact),
            ("random", d.floats(n, 2.0), close),
        ];
        for (name, values, tolerance) in contents {
            cases.push(
                Case::new(name, Op::GlobalAvgPool)
                    .input(Operand::float(dtype, x, &values).gap(x_gap))
                    .output_with(Operand::undefined(y, dtype).gap(y_gap), tolerance),
            );
        }
        let dy = Operand::float(dtype, y, &d.floats(elements(y), 2.0)).gap(y_gap);
        let case = Case::new("", Op::GlobalAvgPoolBackward).input(dy);
        let out = Operand::undefined(x, dtype).gap(x_gap);
        cases.push(case.clone().output_with(out, Tolerance::Exact));
        let sum = Operand::float(dtype, x, &d.floats(n, 2.0)).gap(x_gap);
        cases.push(case.accumulates(sum, Tolerance::Exact));
    }
    cases
}
