//! The tiles of the convolution kernels (`kernels/include/conv/tile.cuh`) and what they take: the
//! one place of these numbers on this side.

use super::super::MathMode;
use super::super::driver::Ptr;
use super::super::levels::Level;
use crate::device::{DType, View};

/// Bytes of the reduction that a step takes (`STEP_BYTES` of tile.cuh).
pub(super) const STEP_BYTES: usize = 128;
/// What a block spends beside its steps, in steps: filling the pipeline, and carrying the product
/// through shared memory to the map.
const BLOCK_STEPS: usize = 2;

/// Shared memory that every block takes beside its own, bytes.
const RESERVED: usize = 1 << 10;

/// How products are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Product {
    Fp32,
    Tf32,
    Bf16,
}

impl Product {
    /// For operands of `dtype`, which must be f32 or bf16.
    pub(super) fn new(dtype: DType, math: MathMode) -> Option<Self> {
        match (dtype, math) {
            (DType::BF16, _) => Some(Self::Bf16),
            (DType::F32, MathMode::Tf32) => Some(Self::Tf32),
            (DType::F32, _) => Some(Self::Fp32),
            _ => None,
        }
    }

    /// Index in a table of kernels.
    pub(super) fn index(self) -> usize {
        self as usize
    }

    /// Elements of the reduction that a step takes.
    pub(super) fn step(self) -> usize {
        match self {
            Self::Bf16 => STEP_BYTES / 2,
            Self::Fp32 | Self::Tf32 => STEP_BYTES / 4,
        }
    }
}

/// Tile and way of loading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Variant {
    /// 128 × 128, 16-byte copies.
    Large,
    /// 64 × 64, 16-byte copies.
    Small,
    /// 64 × 64, any channel count and alignment.
    Any,
}

impl Variant {
    /// Side of the tile.
    pub(super) fn side(self) -> usize {
        match self {
            Self::Large => 128,
            Self::Small | Self::Any => 64,
        }
    }

    /// Dynamic shared memory of a block (`Tile::shared_bytes` of tile.cuh): the stages of A and B,
    /// or after them the product and four coefficients a column, and 16 bytes a row.
    pub(super) fn shared_bytes(self, stages: usize) -> usize {
        let side = self.side();
        let staged = stages * 2 * side * STEP_BYTES;
        let epilogue = 4 * side * (side + 8) + 16 * side;
        staged.max(epilogue) + 16 * side
    }

    /// Stages of the pipeline on a GPU whose blocks may ask for `most` bytes of shared memory: three,
    /// or two where a multiprocessor would hold one block of three and holds two of two (sm_80). No
    /// bit depends on it.
    pub(super) fn stages(self, product: Product, most: usize) -> usize {
        // A block may ask for all that the multiprocessor has but what every block takes.
        let fit = |stages| (most + RESERVED) / (self.shared_bytes(stages) + RESERVED);
        let one_of_three = fit(3) <= 1 && self.resident(product) >= 2;
        if one_of_three && fit(2) >= 2 { 2 } else { 3 }
    }

    /// The fastest that an operation of this level may use; none on the CPU.
    pub(super) fn most(level: Level) -> Self {
        match level {
            Level::All => Self::Large,
            Level::Small => Self::Small,
            Level::Any | Level::Cpu => Self::Any,
        }
    }

    /// Index in a table of kernels.
    pub(super) fn index(self) -> usize {
        self as usize
    }

    /// Blocks that a multiprocessor of sm_90 holds at once: what registers and shared memory allow
    /// (a test compares with kernels/resources.tsv).
    pub(super) fn resident(self, product: Product) -> usize {
        match (self, product) {
            (Self::Large, Product::Fp32) => 1,
            (Self::Large, _) => 2,
            (Self::Small | Self::Any, _) => 4,
        }
    }

    /// Clocks that a multiprocessor spends on a step of one block while others hide its waits. On
    /// tensor cores the larger of products / 1300 a clock (bf16 `mma.sync` on an H100; half the
    /// products at half the rate in tf32) and bytes through shared memory / 128 a clock (tile.cuh):
    /// 806 and 768 for `Large`, 202 and 384 for `Small`. In fp32 128 products a clock, and the reads
    /// from shared memory that take issue slots beside them. Only ratios matter. Not measured.
    fn step_clocks(self, product: Product) -> usize {
        match (self, product) {
            (Self::Large, Product::Fp32) => 4352,
            (_, Product::Fp32) => 1120,
            (Self::Large, _) => 806,
            (Self::Small | Self::Any, _) => 384,
        }
    }

    /// Predicted clocks of `blocks` equal blocks of `steps` on `multiprocessors`: whole waves, then
    /// a last one that is not full. There a block has fewer neighbours; between the two extremes,
    /// that it runs no faster for it and that its multiprocessor's whole rate is shared by those
    /// that are left, the mean is taken.
    pub(super) fn clocks(
        self,
        product: Product,
        multiprocessors: usize,
        blocks: usize,
        steps: usize,
    ) -> usize {
        let resident = self.resident(product);
        let slots = multiprocessors * resident;
        let (waves, left) = (blocks / slots, blocks % slots);
        let last = match left {
            0 => 0,
            n => n.div_ceil(multiprocessors) + resident,
        };
        (2 * waves * resident + last) * (steps + BLOCK_STEPS) * self.step_clocks(product) / 2
    }
}

/// Whether every pixel of a map starts, and its channels end, on a 16-byte boundary, given that the
/// map itself starts on one.
pub(super) fn shape_in_vectors(view: &View) -> bool {
    let whole = |elements: usize| (elements * view.dtype.bytes()).is_multiple_of(16);
    whole(view.ld) && whole(view.channels())
}

/// The same, and the map does start on one.
pub(super) fn in_vectors(view: &View, ptr: Ptr) -> bool {
    ptr.0.is_multiple_of(16) && shape_in_vectors(view)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Registers of a multiprocessor, of a warp's allocation unit, and shared memory: sm_90.
    const REGISTERS: usize = 65_536;
    const UNIT: usize = 256;
    const SHARED: usize = 228 << 10;
    fn threads(variant: Variant, product: Product) -> usize {
        match (variant, product) {
            (Variant::Large, Product::Fp32) => 256,
            _ => 128,
        }
    }

    /// What the model says of blocks at once is what registers and shared memory allow.
    #[test]
    fn resident_blocks_fit_the_table_of_resources() {
        let table = include_str!("../../../../kernels/resources.tsv");
        let mut checked = 0;
        for line in table.lines() {
            let fields: Vec<&str> = line.split('\t').collect();
            let [kernel, "sm_90a", registers, ..] = fields[..] else {
                continue;
            };
            let parts: Vec<&str> = kernel.split('_').collect();
            let ["conv", pass, product, variant] = parts[..] else {
                continue;
            };
            let product = match product {
                "fp32" => Product::Fp32,
                "tf32" => Product::Tf32,
                "bf16" => Product::Bf16,
                _ => continue,
            };
            let variant = match variant {
                "large" => Variant::Large,
                "small" => Variant::Small,
                "any" => Variant::Any,
                _ => continue,
            };
            let warps = threads(variant, product) / 32;
            let registers: usize = registers.parse().expect("registers");
            let block = warps * (32 * registers).next_multiple_of(UNIT);
            let fit = (REGISTERS / block).min(SHARED / (variant.shared_bytes(3) + RESERVED));
            let said = variant.resident(product);
            assert!(fit >= said, "{kernel}: {fit} blocks at once, not {said}");
            checked += usize::from(matches!(
                pass,
                "forward" | "norm" | "moments" | "dgrad" | "wgrad"
            ));
        }
        assert_eq!(checked, 45);
    }

    /// Where three stages leave room for one block of a kind that could run two, there are two.
    #[test]
    fn two_large_blocks_fit_an_a100_and_an_h100() {
        let kib = |n: usize| n << 10;
        for (most, stages, blocks) in [(kib(227), 3, 2), (kib(163), 2, 2), (kib(99), 3, 1)] {
            let got = Variant::Large.stages(Product::Bf16, most);
            assert_eq!(got, stages, "{most} bytes");
            let block = Variant::Large.shared_bytes(got) + RESERVED;
            assert_eq!((most + RESERVED) / block, blocks, "{most} bytes");
            for variant in [Variant::Small, Variant::Any] {
                assert_eq!(variant.stages(Product::Tf32, most), 3, "{most} bytes");
            }
            assert_eq!(
                Variant::Large.stages(Product::Fp32, most),
                3,
                "{most} bytes"
            );
        }
    }
}
