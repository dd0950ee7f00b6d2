//! Which kernel a convolution runs on and how its work is cut up.
//!
//! What a sum's order depends on (the weight gradient's parts) is a function of the shapes alone;
//! tile sizes of the other passes also look at the machine, since every tile sums alike.

use super::super::MathMode;
use super::super::driver::{Limits, Ptr};
use crate::device::{DType, View};

/// Bytes of the reduction that a step takes (`STEP_BYTES` of tile.cuh).
const STEP_BYTES: usize = 128;
/// Blocks that a weight gradient's parts should add up to.
const WGRAD_BLOCKS: usize = 256;
/// Fewest steps of a part.
const PART_STEPS: usize = 8;
/// Pixels that a block of the bias gradient adds up, at least.
const BIAS_PIXELS: usize = 2048;
/// Most blocks of the bias gradient along the pixels.
const BIAS_PARTS: usize = 60_000;

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
}

/// Tile and way of loading.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

    /// Dynamic shared memory of a block (`Tile::SHARED_BYTES` of tile.cuh): three stages of A and
    /// B, and 16 bytes a row.
    pub(super) fn shared_bytes(self) -> usize {
        self.side() * (3 * 2 * STEP_BYTES + 16)
    }

    /// Index in a table of kernels.
    pub(super) fn index(self) -> usize {
        self as usize
    }

    /// Of a forward pass or data gradient: `rows × columns` of the product.
    pub(super) fn of_map(limits: &Limits, vectors: bool, rows: usize, columns: usize) -> Self {
        let side = Self::Large.side();
        let blocks = rows.div_ceil(side) * columns.div_ceil(side);
        let fills = blocks >= limits.multiprocessors as usize;
        if !vectors {
            Self::Any
        } else if rows > 64 && columns > 64 && fills {
            Self::Large
        } else {
            Self::Small
        }
    }

    /// Of a weight gradient; from the shapes alone.
    pub(super) fn of_weights(vectors: bool, k: usize, c: usize) -> Self {
        if !vectors {
            Self::Any
        } else if k > 64 && c > 64 {
            Self::Large
        } else {
            Self::Small
        }
    }
}

/// Whether every pixel of a map starts, and its channels end, on a 16-byte boundary.
pub(super) fn in_vectors(view: &View, ptr: Ptr) -> bool {
    let whole = |elements: usize| (elements * view.dtype.bytes()).is_multiple_of(16);
    ptr.0.is_multiple_of(16) && whole(view.ld) && whole(view.channels())
}

/// How a weight gradient is cut up. Every number is a function of shapes, not of addresses, so
/// that the workspace is known before any run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WgradPlan {
    /// Parts of the pixels.
    pub(super) parts: usize,
    /// Floats of one part: the size of dw.
    pub(super) elements: usize,
    /// Pixels of one block of the bias gradient, and such blocks; 0 without one.
    pub(super) bias_pixels: usize,
    pub(super) bias_parts: usize,
    bias_channels: usize,
}

impl WgradPlan {
    /// From dy, dw and whether there is a bias.
    pub(super) fn new(dy: &View, dw: &View, bias: bool) -> Self {
        let [k, r, s, c] = dw.shape;
        let vectors = [k, c].map(|n| (n * dy.dtype.bytes()).is_multiple_of(16)) == [true; 2];
        let side = Variant::of_weights(vectors, k, c).side();
        let tiles = k.div_ceil(side)
            * if vectors {
                r * s * c.div_ceil(side)
            } else {
                (r * s * c).div_ceil(side)
            };
        let steps = dy.pixels().div_ceil(STEP_BYTES / dy.dtype.bytes());
        let parts = WGRAD_BLOCKS
            .div_ceil(tiles.max(1))
            .min(steps / PART_STEPS)
            .max(1);
        let pixels = dy.pixels().max(1);
        let bias_pixels = BIAS_PIXELS.max(pixels.div_ceil(BIAS_PARTS));
        Self {
            parts,
            elements: dw.elements(),
            bias_pixels,
            bias_parts: if bias {
                pixels.div_ceil(bias_pixels)
            } else {
                0
            },
            bias_channels: k,
        }
    }

    /// Floats of the workspace before the bias gradient's.
    pub(super) fn partials(&self) -> usize {
        if self.parts > 1 {
            self.parts * self.elements
        } else {
            0
        }
    }

    /// Bytes of workspace.
    pub(super) fn workspace_bytes(&self) -> usize {
        4 * (self.partials() + self.bias_parts * self.bias_channels)
    }
}
