//! The conformance suite: what shows, on any machine, that a device computes what the CPU does.
//!
//! A [`Case`] is one call of one operation with its data; [`cases::all`] makes every case from a
//! seed. [`run`] lays the operands out on a device among canaries, runs the call there and on the
//! CPU device, and compares. The binary's `selftest` and the tests run the same cases.

pub mod cases;
pub mod data;
mod layout;
mod oracle;
mod runner;

use std::ops::Range;

use half::bf16;

use crate::device::{DType, Op, Shape, elements};

pub use crate::device::gpu::MathMode as Math;
pub use data::Data;
pub use oracle::{Expected, expected};
pub use runner::{Outcome, Verdict, bits, check, run, same_bits};

/// How near an output must be to the CPU's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Tolerance {
    /// The same bits (any NaN is any NaN, and +0 is −0). In a bf16 output: the bits of the CPU's
    /// f32 result rounded to bf16.
    Exact,
    /// |got − want| ≤ atol + rtol·|want|.
    Close {
        /// Relative part.
        rtol: f64,
        /// Absolute part.
        atol: f64,
    },
}

/// Which elements of an output count.
#[derive(Clone, Debug, Default)]
pub enum Defined {
    /// All.
    #[default]
    All,
    /// Those in these ranges of (packed) elements.
    Ranges(Vec<Range<usize>>),
    /// Those that a function of the case and the CPU's outputs (packed) gives, such as a list's
    /// entries below its count.
    By(WhichElements),
}

/// From a case and the CPU's outputs (packed): the elements that count.
pub type WhichElements = fn(&Case, &[Vec<u8>]) -> Vec<Range<usize>>;

/// A tensor of a case.
#[derive(Clone, Debug)]
pub struct Operand {
    /// Shape.
    pub shape: Shape,
    /// Type on the device under test; the CPU gets f32 for bf16.
    pub dtype: DType,
    /// Elements between a pixel's last channel and the next pixel: `ld − C`.
    pub gap: usize,
    /// Contents without gaps; `None`: undefined before the call.
    pub data: Option<Vec<u8>>,
    /// For an output: the elements that count.
    pub defined: Defined,
}

impl Operand {
    fn new(shape: Shape, dtype: DType, data: Option<Vec<u8>>) -> Self {
        if let Some(bytes) = &data {
            assert_eq!(
                bytes.len(),
                elements(shape) * dtype.bytes(),
                "data of {shape:?}"
            );
        }
        Self {
            shape,
            dtype,
            gap: 0,
            data,
            defined: Defined::All,
        }
    }

    /// An output without contents.
    pub fn undefined(shape: Shape, dtype: DType) -> Self {
        Self::new(shape, dtype, None)
    }

    /// f32.
    pub fn f32(shape: Shape, values: &[f32]) -> Self {
        Self::new(
            shape,
            DType::F32,
            Some(bytemuck::cast_slice(values).to_vec()),
        )
    }

    /// bf16, rounded from f32.
    pub fn bf16(shape: Shape, values: &[f32]) -> Self {
        let rounded: Vec<bf16> = values.iter().map(|&v| bf16::from_f32(v)).collect();
        Self::new(
            shape,
            DType::BF16,
            Some(bytemuck::cast_slice(&rounded).to_vec()),
        )
    }

    /// f32 or bf16.
    pub fn float(dtype: DType, shape: Shape, values: &[f32]) -> Self {
        match dtype {
            DType::BF16 => Self::bf16(shape, values),
            _ => Self::f32(shape, values),
        }
    }

    /// u8.
    pub fn u8(shape: Shape, values: &[u8]) -> Self {
        Self::new(shape, DType::U8, Some(values.to_vec()))
    }

    /// u32.
    pub fn u32(shape: Shape, values: &[u32]) -> Self {
        Self::new(
            shape,
            DType::U32,
            Some(bytemuck::cast_slice(values).to_vec()),
        )
    }

    /// `f32 [1, 1, 1, n]`.
    pub fn vector(values: &[f32]) -> Self {
        Self::f32([1, 1, 1, values.len()], values)
    }

    /// The random state that operations draw from.
    pub fn rng(seed: u64, step: u32) -> Self {
        Self::u32([1, 1, 1, 4], &[seed as u32, (seed >> 32) as u32, step, 0])
    }

    /// The same with `gap` elements between pixels.
    pub fn gap(mut self, gap: usize) -> Self {
        self.gap = gap;
        self
    }

    /// The same, of which only these elements count.
    pub fn defined(mut self, defined: Defined) -> Self {
        self.defined = defined;
        self
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        elements(self.shape)
    }
}

/// One call of one operation, its data and how near the result must be.
#[derive(Clone, Debug)]
pub struct Case {
    /// What is special about it; with the operation's name and the precision it names the case.
    pub name: String,
    /// The operation's name.
    pub family: &'static str,
    /// The operation.
    pub op: Op,
    /// Inputs.
    pub ins: Vec<Operand>,
    /// Outputs.
    pub outs: Vec<Operand>,
    /// As in [`crate::device::Call`].
    pub accumulate: u32,
    /// (output, input) pairs that share memory: the output takes the input's place.
    pub aliases: Vec<(usize, usize)>,
    /// Which precision it is for.
    pub math: Math,
    /// One per output.
    pub tolerance: Vec<Tolerance>,
}

impl Case {
    /// A case without operands. It is for bf16 as soon as it has a bf16 operand, else for fp32.
    pub fn new(name: impl Into<String>, op: Op) -> Self {
        Self {
            name: name.into(),
            family: op.name(),
            op,
            ins: Vec::new(),
            outs: Vec::new(),
            accumulate: 0,
            aliases: Vec::new(),
            math: Math::Fp32,
            tolerance: Vec::new(),
        }
    }

    fn noticed(mut self, dtype: DType) -> Self {
        if dtype == DType::BF16 {
            self.math = Math::Bf16;
        }
        self
    }

    /// Adds an input.
    pub fn input(mut self, operand: Operand) -> Self {
        let dtype = operand.dtype;
        self.ins.push(operand);
        self.noticed(dtype)
    }

    /// Adds an output that the call overwrites.
    pub fn output(self, shape: Shape, dtype: DType, tolerance: Tolerance) -> Self {
        self.output_with(Operand::undefined(shape, dtype), tolerance)
    }

    /// Adds an output with a gap, with earlier contents (state), or of which only a part counts.
    pub fn output_with(mut self, operand: Operand, tolerance: Tolerance) -> Self {
        let dtype = operand.dtype;
        self.outs.push(operand);
        self.tolerance.push(tolerance);
        self.noticed(dtype)
    }

    /// Adds an output that the call adds to.
    pub fn accumulates(mut self, operand: Operand, tolerance: Tolerance) -> Self {
        self.accumulate |= 1 << self.outs.len();
        self.output_with(operand, tolerance)
    }

    /// Adds an output in the place of input `input`.
    pub fn in_place(mut self, input: usize, tolerance: Tolerance) -> Self {
        let operand = Operand {
            data: None,
            ..self.ins[input].clone()
        };
        self.aliases.push((self.outs.len(), input));
        self.output_with(operand, tolerance)
    }

    /// For another precision than the operands say: tf32.
    pub fn math(mut self, math: Math) -> Self {
        self.math = math;
        self
    }

    /// Whether output `out` takes the place of an input.
    pub fn alias(&self, out: usize) -> Option<usize> {
        let pair = self.aliases.iter().find(|(o, _)| *o == out);
        pair.map(|&(_, input)| input)
    }

    /// Shapes and types in one line.
    pub fn shapes(&self) -> String {
        let list = |operands: &[Operand]| {
            let each: Vec<String> = operands.iter().map(describe).collect();
            each.join(" ")
        };
        let mut text = format!("{} → {}", list(&self.ins), list(&self.outs));
        if self.accumulate != 0 {
            text += &format!(" accumulate {:#b}", self.accumulate);
        }
        for (out, input) in &self.aliases {
            text += &format!(" out {out} in place of in {input}");
        }
        text
    }
}

fn describe(operand: &Operand) -> String {
    let [n, h, w, c] = operand.shape;
    let shape = match (n, h, w) {
        (1, 1, 1) => format!("[{c}]"),
        _ => format!("[{n},{h},{w},{c}]"),
    };
    let dtype = format!("{:?}", operand.dtype).to_lowercase();
    match operand.gap {
        0 => format!("{dtype}{shape}"),
        gap => format!("{dtype}{shape}+{gap}"),
    }
}
