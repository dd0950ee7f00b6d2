//! Convolution, fused with batch norm or with the moments of its result, and its two gradients.
//!
//! Every shape runs in fp32, tf32 and bf16, on integers: sums of their products are exact in all
//! three, so the bits must be the CPU's. A few run on fractions too. Maps and weights of 8 channels
//! and more (4 in fp32) take 16-byte copies where they also start aligned, which half of the cases
//! do; the others and narrower ones take the element-wise path.

use crate::device::op::{ConvNorm, MOMENT_PIXELS, Window};
use crate::device::{DType, Op};
use crate::selftest::{Case, Data, Math, Operand, Tolerance};

/// One convolution.
#[derive(Clone, Copy)]
struct Shape {
    name: &'static str,
    /// N, H, W, C.
    x: [usize; 4],
    /// K, R, S.
    kernel: [usize; 3],
    stride: usize,
    padding: usize,
    dilation: usize,
    /// Elements between the pixels of each map.
    gap: usize,
    /// With bias, and gradients added to what is there.
    extra: bool,
}

/// `same` padding for the odd kernel of `side`.
const fn shape(
    name: &'static str,
    x: [usize; 4],
    k: usize,
    side: usize,
    stride: usize,
    dilation: usize,
) -> Shape {
    Shape {
        name,
        x,
        kernel: [k, side, side],
        stride,
        padding: dilation * (side - 1) / 2,
        dilation,
        gap: 0,
        extra: false,
    }
}

const SHAPES: &[Shape] = &[
    shape("one pixel, one channel", [1, 1, 1, 1], 1, 1, 1, 1),
    shape("one pixel", [3, 1, 1, 16], 9, 1, 1, 1),
    shape("one pixel, 3x3", [1, 1, 1, 8], 16, 3, 1, 1),
    shape("1x1", [2, 5, 7, 24], 40, 1, 1, 1),
    slice(shape("1x1 slice", [2, 5, 7, 24], 40, 1, 1, 1), 8),
    slice(shape("1x1 odd slice", [2, 5, 7, 24], 40, 1, 1, 1), 3),
    shape("1x1 tail of 8 rows", [1, 8, 9, 32], 21, 1, 1, 1),
    shape("1x1 one output", [1, 6, 5, 16], 1, 1, 1, 1),
    shape("1x1 odd channels", [1, 6, 5, 21], 19, 1, 1, 1),
    shape("1x1 many channels", [1, 3, 3, 200], 72, 1, 1, 1),
    shape("1x1 stride 2", [2, 7, 6, 8], 16, 1, 2, 1),
    shape("1x1 stride 3", [1, 7, 8, 8], 8, 1, 3, 1),
    shape("3x3", [2, 7, 5, 16], 24, 3, 1, 1),
    slice(shape("3x3 slice", [2, 7, 5, 16], 24, 3, 1, 1), 16),
    shape("3x3 RGB", [1, 9, 8, 3], 16, 3, 2, 1),
    shape("3x3 grey", [2, 5, 6, 1], 8, 3, 1, 1),
    shape("3x3 classes", [1, 6, 6, 21], 21, 3, 1, 1),
    slice(shape("3x3 classes slice", [1, 6, 6, 21], 21, 3, 1, 1), 5),
    shape("3x3 stride 2 odd", [2, 9, 7, 16], 8, 3, 2, 1),
    shape("3x3 stride 2 even", [1, 8, 6, 16], 8, 3, 2, 1),
    slice(shape("3x3 stride 2 slice", [1, 8, 6, 16], 8, 3, 2, 1), 8),
    shape("3x3 stride 2 dilated 2", [1, 9, 10, 8], 8, 3, 2, 2),
    shape("3x3 stride 3", [1, 10, 8, 8], 8, 3, 3, 1),
    shape("3x3 dilated 2", [2, 7, 9, 8], 16, 3, 1, 2),
    shape("3x3 dilated 12", [1, 14, 13, 8], 16, 3, 1, 12),
    shape("3x3 dilation past the map", [2, 6, 5, 16], 8, 3, 1, 12),
    shape("7x7 RGB stride 2", [2, 15, 13, 3], 16, 7, 2, 1),
    shape("7x7 stride 2", [1, 9, 11, 8], 16, 7, 2, 1),
    // Rows that the window leaves over; a kernel that is not square; padding beyond the kernel.
    window(
        "3x3 no padding, rows left over",
        [1, 9, 8, 8],
        [8, 3, 3],
        [3, 0, 1],
    ),
    window("2x3", [1, 6, 7, 8], [16, 2, 3], [2, 1, 1]),
    window("1x1 padded", [1, 3, 4, 8], [8, 1, 1], [1, 2, 1]),
    window(
        "3x3 stride beyond the map",
        [1, 3, 3, 8],
        [8, 3, 3],
        [5, 1, 1],
    ),
    // More than one tile each way, both tile sizes; several parts of a weight gradient.
    slice(shape("tiles", [2, 11, 12, 72], 136, 1, 1, 1), 8),
    shape("tiles, tail of 8 rows", [2, 12, 11, 136], 72, 1, 1, 1),
    shape("tiles, aligned", [1, 12, 22, 136], 136, 1, 1, 1),
    shape("tiles, aligned or not", [1, 22, 12, 136], 136, 1, 1, 1),
    shape("tiles, 3x3", [2, 12, 11, 72], 72, 3, 1, 5),
    // Reductions that several blocks share (on a device that is planned for 4 multiprocessors):
    // all tiles, the last of 17 small ones, and the two of 8 rows after 8 large ones.
    shape("cut", [1, 5, 5, 128], 24, 3, 1, 1),
    slice(shape("cut, slice", [1, 5, 5, 128], 72, 3, 1, 1), 8),
    shape("cut, dilation past the map", [2, 6, 5, 128], 40, 3, 1, 4),
    shape("cut, stride 2", [1, 9, 10, 128], 64, 3, 2, 1),
    shape("cut last tile", [1, 32, 33, 64], 40, 3, 1, 1),
    slice(
        window(
            "cut tail of 8 rows",
            [1, 20, 28, 136],
            [136, 1, 3],
            [1, 0, 1],
        ),
        8,
    ),
    // Four large tiles: a full wave of the exact kernels, so that fp32 takes them too. Several,
    // since only those that start aligned do.
    shape("wave", [1, 16, 32, 128], 128, 1, 1, 1),
    shape("wave, two images", [2, 16, 16, 128], 128, 1, 1, 1),
    shape("wave, high", [1, 32, 16, 128], 128, 1, 1, 1),
    shape("wave, four images", [4, 8, 16, 128], 128, 1, 1, 1),
    shape("wave, wide", [1, 8, 64, 128], 128, 1, 1, 1),
    shape("parts", [2, 24, 23, 8], 16, 1, 1, 1),
    slice(shape("parts, 3x3", [1, 33, 32, 8], 8, 3, 1, 3), 8),
];

const fn slice(shape: Shape, gap: usize) -> Shape {
    Shape {
        gap,
        extra: true,
        ..shape
    }
}

const fn window(
    name: &'static str,
    x: [usize; 4],
    kernel: [usize; 3],
    [stride, padding, dilation]: [usize; 3],
) -> Shape {
    Shape {
        name,
        x,
        kernel,
        stride,
        padding,
        dilation,
        gap: 0,
        extra: true,
    }
}

impl Shape {
    fn weights(&self) -> [usize; 4] {
        let [k, r, s] = self.kernel;
        [k, r, s, self.x[3]]
    }

    fn y(&self) -> [usize; 4] {
        let size = |n: usize, taps: usize| {
            (n + 2 * self.padding - self.dilation * (taps - 1) - 1) / self.stride + 1
        };
        let [k, r, s] = self.kernel;
        [self.x[0], size(self.x[1], r), size(self.x[2], s), k]
    }

    fn window(&self) -> Window {
        Window {
            stride: self.stride,
            padding: self.padding,
            dilation: self.dilation,
        }
    }
}

/// What the operands hold.
#[derive(Clone, Copy)]
enum Values {
    Integers,
    Fractions,
}

/// One shape in one precision.
struct Maker<'a> {
    data: &'a mut Data,
    shape: Shape,
    math: Math,
    values: Values,
    /// Type of y and dx where the operands are bf16.
    result: DType,
}

impl Maker<'_> {
    fn dtype(&self) -> DType {
        match self.math {
            Math::Bf16 => DType::BF16,
            _ => DType::F32,
        }
    }

    fn numbers(&mut self, shape: [usize; 4]) -> Vec<f32> {
        let n = crate::device::elements(shape);
        match self.values {
            Values::Integers => self.data.ints(n, 4),
            Values::Fractions => self.data.bf16s(n, -1.0, 1.0),
        }
    }

    /// Fractions that tf32 has to round; bf16 operands are what they are.
    fn operand(&mut self, shape: [usize; 4]) -> Operand {
        let dtype = self.dtype();
        let numbers = match (self.values, dtype) {
            (Values::Fractions, DType::F32) => {
                self.data.floats(crate::device::elements(shape), 1.0)
            }
            _ => self.numbers(shape),
        };
        Operand::float(dtype, shape, &numbers)
    }

    /// An output that is overwritten, or added to in the shapes with `extra`.
    fn output(&mut self, case: Case, shape: [usize; 4], dtype: DType, terms: usize) -> Case {
        let gap = match shape {
            s if s == self.shape.weights()
                || s[..3] == [1, 1, 1] && s[3] == self.shape.kernel[0] =>
            {
                0
            }
            _ => self.shape.gap,
        };
        let tolerance = self.tolerance(dtype, terms);
        if self.shape.extra && case.op.can_accumulate(case.outs.len()) {
            let numbers = self.numbers(shape);
            return case.accumulates(Operand::float(dtype, shape, &numbers).gap(gap), tolerance);
        }
        case.output_with(Operand::undefined(shape, dtype).gap(gap), tolerance)
    }

    /// Integers: equality. Fractions on ±1: the rounding of sums of `terms` products (each of
    /// 2^-11 more in tf32), and of the result.
    fn tolerance(&self, dtype: DType, terms: usize) -> Tolerance {
        if let Values::Integers = self.values {
            return Tolerance::Exact;
        }
        let root = (terms as f64).sqrt();
        Tolerance::Close {
            rtol: match dtype {
                DType::BF16 => 1.0 / 128.0,
                _ => 1e-5,
            },
            atol: match self.math {
                Math::Tf32 => 8e-4 * root,
                _ => 2e-6 * root,
            },
        }
    }

    fn case(&self, op: Op) -> Case {
        let kind = match self.values {
            Values::Integers => "integers",
            Values::Fractions => "fractions",
        };
        Case::new(format!("{}, {kind}", self.shape.name), op).math(self.math)
    }

    fn forward(&mut self) -> Case {
        let Shape { x, gap, .. } = self.shape;
        let (w, y, k) = (self.shape.weights(), self.shape.y(), self.shape.kernel[0]);
        let terms = w[1] * w[2] * w[3];
        let mut case = self
            .case(Op::Conv(self.shape.window()))
            .input(self.operand(x).gap(gap))
            .input(self.operand(w));
        if self.shape.extra {
            let bias = self.numbers([1, 1, 1, k]);
            case = case.input(Operand::vector(&bias));
        }
        self.output(case, y, self.result, terms).math(self.math)
    }

    /// With batch norm by running statistics: the CPU's arithmetic to the rounding, so exact where
    /// the sums are. The shapes with `extra` have bias and residual.
    fn norm(&mut self) -> Case {
        let Shape { x, gap, extra, .. } = self.shape;
        let (w, y, k) = (self.shape.weights(), self.shape.y(), self.shape.kernel[0]);
        let op = Op::ConvBatchNormEval(ConvNorm {
            window: self.shape.window(),
            bias: extra,
            eps: 1e-5,
            relu: k % 16 == 8,
        });
        let mut case = self
            .case(op)
            .input(self.operand(x).gap(gap))
            .input(self.operand(w));
        for (low, high) in [(0.5, 1.5), (-1.0, 1.0), (-1.0, 1.0), (0.5, 2.0)] {
            case = case.input(Operand::vector(&self.data.uniform(k, low, high)));
        }
        if extra {
            let bias = self.numbers([1, 1, 1, k]);
            let residual = self.data.floats(crate::device::elements(y), 2.0);
            let residual = Operand::float(self.result, y, &residual).gap(gap / 2);
            case = case.input(Operand::vector(&bias)).input(residual);
        }
        self.output(case, y, self.result, w[1] * w[2] * w[3])
            .math(self.math)
    }

    /// Sums that bf16 holds exactly, so that the moments are exact too.
    fn moments(&mut self) -> Case {
        let Shape { x, gap, .. } = self.shape;
        let (w, y, k) = (self.shape.weights(), self.shape.y(), self.shape.kernel[0]);
        let dtype = self.dtype();
        let mut units = |shape| {
            let values = self.data.ints(crate::device::elements(shape), 1);
            Operand::float(dtype, shape, &values)
        };
        let (x, weights) = (units(x).gap(gap), units(w));
        let mut case = self
            .case(Op::ConvMoments(self.shape.window()))
            .input(x)
            .input(weights);
        if self.shape.extra {
            let values: Vec<f32> = (0..k).map(|i| (i % 7) as f32).collect();
            case = case.input(Operand::vector(&values));
        }
        let tiles = (y[0] * y[1] * y[2]).div_ceil(MOMENT_PIXELS);
        self.output(case, y, self.result, 0)
            .output([1, 1, tiles, 2 * k], DType::F32, Tolerance::Exact)
            .math(self.math)
    }

    fn dgrad(&mut self) -> Case {
        let Shape { x, gap, .. } = self.shape;
        let (w, y) = (self.shape.weights(), self.shape.y());
        let case = self
            .case(Op::ConvDgrad(self.shape.window()))
            .input(self.operand(y).gap(gap))
            .input(self.operand(w));
        self.output(case, x, self.result, w[0] * w[1] * w[2])
            .math(self.math)
    }

    fn wgrad(&mut self) -> Case {
        let Shape { x, gap, .. } = self.shape;
        let (w, y) = (self.shape.weights(), self.shape.y());
        let terms = y[0] * y[1] * y[2];
        let case = self
            .case(Op::ConvWgrad(self.shape.window()))
            .input(self.operand(x).gap(gap))
            .input(self.operand(y).gap(gap));
        let case = self.output(case, w, DType::F32, terms);
        let case = match self.shape.extra {
            true => self.output(case, [1, 1, 1, w[0]], DType::F32, terms),
            false => case,
        };
        case.math(self.math)
    }
}

/// Shapes that run on fractions too.
const FRACTIONS: &[&str] = &[
    "1x1 odd channels",
    "3x3 slice",
    "3x3 stride 2 slice",
    "7x7 RGB stride 2",
    "tiles, tail of 8 rows",
    "cut, slice",
    "cut tail of 8 rows",
    "parts, 3x3",
];

pub(super) fn cases(seed: u64) -> Vec<Case> {
    let mut data = Data::new(seed, "conv");
    let mut cases = Vec::new();
    for (i, &shape) in SHAPES.iter().enumerate() {
        for math in Math::ALL {
            for values in [Values::Integers, Values::Fractions] {
                if matches!(values, Values::Fractions) && !FRACTIONS.contains(&shape.name) {
                    continue;
                }
                let mut maker = Maker {
                    data: &mut data,
                    shape,
                    math,
                    values,
                    // bf16 operands with a bf16 result, every third time with an f32 one.
                    result: match (math, i % 3) {
                        (Math::Bf16, 0 | 1) => DType::BF16,
                        _ => DType::F32,
                    },
                };
                cases.extend([maker.forward(), maker.dgrad(), maker.wgrad(), maker.norm()]);
                if matches!(values, Values::Integers) {
                    cases.push(maker.moments());
                }
            }
        }
    }
    cases
}
