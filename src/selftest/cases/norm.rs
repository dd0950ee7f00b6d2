//! Batch norm: training, from a convolution's moments, evaluation, backward.
//!
//! Evaluation has one rounding an operation, in the CPU's order: the same bits. The statistics and
//! the gradients' sums add up in another order than the CPU: the backward has the same bits on small
//! integers, everything else 1e-5 of the values at hand (one rounding more where maps are bf16).

use crate::device::op::MOMENT_PIXELS;
use crate::device::{DType, Op, Shape, elements};
use crate::selftest::{Case, Data, Operand, Tolerance};

const EPS: f32 = 1e-5;

/// Maps, with the gap that the first and the last operand of a call have.
const MAPS: [(Shape, usize); 11] = [
    // One pixel: no deviation.
    ([1, 1, 1, 5], 0),
    ([4, 1, 1, 256], 0),
    ([1, 4, 2, 2048], 0),
    ([2, 5, 7, 13], 2),
    ([2, 5, 7, 13], 0),
    ([2, 9, 11, 16], 16),
    ([1, 37, 23, 1], 0),
    ([1, 37, 23, 3], 1),
    // More than one chunk of pixels, the last with a tail.
    ([2, 33, 31, 8], 0),
    ([2, 41, 33, 21], 0),
    ([1, 67, 31, 64], 0),
];

/// A map's relative tolerance: f32's, and one rounding where the map is bf16.
fn map_close(dtype: DType, rtol: f64, atol: f64) -> Tolerance {
    match dtype {
        DType::BF16 => Tolerance::Close {
            rtol: 1.0 / 128.0,
            atol,
        },
        _ => Tolerance::Close { rtol, atol },
    }
}

pub(super) fn cases(seed: u64) -> Vec<Case> {
    let mut d = Data::new(seed, "norm");
    let mut cases = Vec::new();
    for dtype in [DType::F32, DType::BF16] {
        for (shape, gap) in MAPS {
            let mut bench = Bench {
                d: &mut d,
                dtype,
                shape,
                gap,
            };
            cases.extend(bench.train());
            cases.extend(bench.merge());
            cases.extend(bench.eval());
            cases.extend(bench.backward());
        }
        let mut bench = Bench {
            d: &mut d,
            dtype,
            shape: [2, 24, 25, 8],
            gap: 0,
        };
        cases.push(bench.large_mean());
        // More than one chunk of 64 tiles, the last tile of 37 pixels.
        bench.shape = [1, 1, 64 * 130 + 37, 5];
        cases.push(bench.merge_of("mean 1000", 1000.0, false, None));
        bench.shape = [2, 24, 25, 8];
        cases.push(bench.constant());
        cases.push(bench.not_a_number());
    }
    cases
}

/// Makes the cases of one map.
struct Bench<'a> {
    d: &'a mut Data,
    dtype: DType,
    shape: Shape,
    gap: usize,
}

impl Bench<'_> {
    fn floats(&mut self, range: f32) -> Operand {
        let values = self.d.floats(elements(self.shape), range);
        Operand::float(self.dtype, self.shape, &values)
    }

    fn ints(&mut self, k: u32) -> Operand {
        let values = self.d.ints(elements(self.shape), k);
        Operand::float(self.dtype, self.shape, &values)
    }

    fn out(&self) -> Operand {
        Operand::undefined(self.shape, self.dtype).gap(self.gap)
    }

    fn vector(&mut self, low: f32, high: f32) -> Operand {
        Operand::vector(&self.d.uniform(self.shape[3], low, high))
    }

    /// The call, `y` and `residual` left out, and the outputs after `y` added by `finish`.
    fn train_of(&mut self, name: &str, relu: bool, x: Operand) -> Case {
        let op = Op::BatchNorm {
            eps: EPS,
            momentum: 0.1,
            relu,
        };
        Case::new(name, op)
            .input(x)
            .input(self.vector(0.5, 1.5))
            .input(self.vector(-1.0, 1.0))
    }

    fn finish(&mut self, case: Case, tolerance: Tolerance) -> Case {
        let vector = [1, 1, 1, self.shape[3]];
        case.output(vector, DType::F32, tolerance)
            .output(vector, DType::F32, tolerance)
            .output_with(self.vector(-1.0, 1.0), tolerance)
            .output_with(self.vector(0.5, 1.5), tolerance)
    }

    fn train(&mut self) -> Vec<Case> {
        let stats = Tolerance::Close {
            rtol: 1e-5,
            atol: 2e-6,
        };
        // A deviation of nothing is 1/sqrt(eps) = 316 times as large behind the norm.
        let close = map_close(self.dtype, 1e-5, 2e-5);
        let mut cases = Vec::new();
        let x = self.floats(3.0).gap(self.gap);
        let plain = self
            .train_of("plain", false, x)
            .output_with(self.out(), close);
        cases.push(self.finish(plain, stats));
        let x = self.floats(3.0);
        let case = self.train_of("relu, residual", true, x);
        let case = case.input(self.floats(1.0).gap(self.gap));
        let case = case.output_with(self.out(), close);
        cases.push(self.finish(case, stats));
        let x = self.floats(3.0).gap(self.gap);
        let on_x = self.train_of("relu, in place", true, x).in_place(0, close);
        cases.push(self.finish(on_x, stats));
        let x = self.floats(3.0).gap(self.gap);
        let case = self.train_of("relu, onto the residual", true, x);
        let case = case.input(self.floats(1.0)).in_place(3, close);
        cases.push(self.finish(case, stats));
        cases
    }

    fn merge(&mut self) -> Vec<Case> {
        vec![
            self.merge_of("plain", 0.5, false, None),
            self.merge_of("relu, in place", -2.0, true, Some(0)),
            self.merge_of("relu, onto the residual", 3.0, true, Some(4)),
        ]
    }

    /// Moments about `mean`; they need not be those of `x`. `in_place` names an input.
    fn merge_of(&mut self, name: &str, mean: f32, relu: bool, in_place: Option<usize>) -> Case {
        let op = Op::BatchNormMerge {
            eps: EPS,
            momentum: 0.1,
            relu,
        };
        let (pixels, c) = (elements(self.shape) / self.shape[3], self.shape[3]);
        let tiles = pixels.div_ceil(MOMENT_PIXELS);
        let mut moments = Vec::with_capacity(tiles * 2 * c);
        for tile in 0..tiles {
            let n = MOMENT_PIXELS.min(pixels - tile * MOMENT_PIXELS) as f32;
            moments.extend(self.d.uniform(c, mean - 0.5, mean + 0.5));
            moments.extend(self.d.uniform(c, 0.5 * n, 1.5 * n));
        }
        let values: Vec<f32> = (self.d.floats(elements(self.shape), 3.0).iter())
            .map(|v| v + mean)
            .collect();
        let x = Operand::float(self.dtype, self.shape, &values).gap(self.gap);
        let mut case = Case::new(name, op)
            .input(x)
            .input(self.vector(0.5, 1.5))
            .input(self.vector(-1.0, 1.0))
            .input(Operand::f32([1, 1, tiles, 2 * c], &moments));
        if in_place == Some(4) {
            case = case.input(self.floats(1.0));
        }
        let stats = Tolerance::Close {
            rtol: 1e-6,
            atol: 1e-6,
        };
        // An ulp of the mean is that much of a deviation of 1.
        let close = map_close(self.dtype, 1e-5, 2e-6 + 4e-7 * f64::from(mean.abs()));
        let case = match in_place {
            Some(input) => case.in_place(input, close),
            None => case.output_with(self.out(), close),
        };
        self.finish(case, stats)
    }

    fn eval(&mut self) -> Vec<Case> {
        let mut cases = Vec::new();
        for (name, relu, residual, in_place) in [
            ("plain", false, false, None),
            ("relu, residual", true, true, None),
            ("relu, in place", true, false, Some(0)),
            ("relu, onto the residual", true, true, Some(5)),
        ] {
            let mut case = Case::new(name, Op::BatchNormEval { eps: EPS, relu })
                .input(self.floats(3.0).gap(self.gap))
                .input(self.vector(0.5, 1.5))
                .input(self.vector(-1.0, 1.0))
                .input(self.vector(-1.0, 1.0))
                .input(self.vector(0.1, 2.0));
            if residual {
                case = case.input(self.floats(1.0));
            }
            cases.push(match in_place {
                Some(input) => case.in_place(input, Tolerance::Exact),
                None => case.output_with(self.out(), Tolerance::Exact),
            });
        }
        cases
    }

    /// Inputs of the backward; small integers and powers of two when `exact`.
    fn backward_of(&mut self, name: &str, relu: bool, exact: bool) -> Case {
        let op = Op::BatchNormBackward { relu };
        let (gap, channels) = (self.gap, self.shape[3]);
        if exact {
            let halves = vec![0.5; channels];
            return Case::new(format!("{name}, integers"), op)
                .input(self.ints(4).gap(gap))
                .input(self.ints(4))
                .input(self.ints(1))
                .input(Operand::vector(&vec![2.0; channels]))
                .input(Operand::vector(&self.d.ints(channels, 2)))
                .input(Operand::vector(&halves));
        }
        Case::new(name, op)
            .input(self.floats(1.0).gap(gap))
            .input(self.floats(3.0))
            .input(self.floats(1.0).gap(gap))
            .input(self.vector(0.5, 1.5))
            .input(self.vector(-1.0, 1.0))
            .input(self.vector(0.3, 1.0))
    }

    fn backward(&mut self) -> Vec<Case> {
        let mut cases = Vec::new();
        for exact in [false, true] {
            // Sums of n terms about 1: their rounding grows with them.
            let n = (elements(self.shape) / self.shape[3]) as f64;
            let (map, vector) = match exact {
                true => (Tolerance::Exact, Tolerance::Exact),
                false => (
                    map_close(self.dtype, 1e-5, 1e-5),
                    Tolerance::Close {
                        rtol: 1e-5,
                        atol: 1e-6 * n.sqrt().max(1.0),
                    },
                ),
            };
            let shape = [1, 1, 1, self.shape[3]];
            let vectors = |case: Case| {
                let case = case.output(shape, DType::F32, vector);
                case.output(shape, DType::F32, vector)
            };
            let plain = self.backward_of("plain", false, exact);
            cases.push(vectors(plain.output_with(self.out(), map)));
            let case = self.backward_of("relu, residual", true, exact);
            let case = vectors(case.output_with(self.out(), map));
            cases.push(case.output(self.shape, self.dtype, map));
            let case = self.backward_of("relu, dx on dy", true, exact);
            let case = vectors(case.in_place(0, map));
            cases.push(case.output_with(self.out(), map));
            let case = self.backward_of("relu, dresidual on dy", true, exact);
            let case = vectors(case.output_with(self.out(), map));
            cases.push(case.in_place(0, map));
            let case = self.backward_of("relu, adding", true, exact);
            let case = case.accumulates(self.ints(3).gap(self.gap), map);
            let [dgamma, dbeta] = [0, 1].map(|_| Operand::vector(&self.d.ints(self.shape[3], 3)));
            let case = case.accumulates(dgamma, vector).accumulates(dbeta, vector);
            cases.push(case.accumulates(self.ints(3), map));
        }
        cases
    }

    /// Mean 200, deviation below 1: E[x²] − E[x]² in f32 would lose every digit. In bf16 the values
    /// are whole numbers.
    fn large_mean(&mut self) -> Case {
        let n = elements(self.shape);
        let values = self.d.uniform(n, 199.0, 201.0);
        let x = Operand::float(self.dtype, self.shape, &values);
        // The CPU sums a chunk in f32, so its own mean is a few ulps of 200 off (1.5e-5 each), and a
        // deviation of 0.58 with a gamma of 1.5 makes 2.6 times that of it.
        let map = map_close(self.dtype, 5e-5, 3e-4);
        let case = self.train_of("mean 200", false, x);
        let case = case.output_with(self.out(), map);
        let stats = Tolerance::Close {
            rtol: 1e-5,
            atol: 1e-6,
        };
        self.finish(case, stats)
    }

    /// Channels that do not vary: y = beta, variance 0, to the bit.
    fn constant(&mut self) -> Case {
        self.shape = [1, 8, 8, 6];
        let row = self.d.ints(6, 100);
        let values: Vec<f32> = (0..elements(self.shape)).map(|i| row[i % 6]).collect();
        let x = Operand::float(self.dtype, self.shape, &values);
        let case = self.train_of("constant", true, x);
        let case = case.output_with(self.out(), Tolerance::Exact);
        self.finish(case, Tolerance::Exact)
    }

    /// A NaN spoils its channel, through the ReLU, and no other.
    fn not_a_number(&mut self) -> Case {
        self.shape = [2, 7, 9, 8];
        let mut values = self.d.floats(elements(self.shape), 2.0);
        values[8 * 50 + 3] = f32::NAN;
        let x = Operand::float(self.dtype, self.shape, &values);
        let close = Tolerance::Close {
            rtol: 1e-5,
            atol: 2e-5,
        };
        let map = map_close(self.dtype, 1e-5, 2e-5);
        let case = self.train_of("a NaN", true, x).output_with(self.out(), map);
        self.finish(case, close)
    }
}
