//! Which kernel a convolution runs on and how its work is cut up.
//!
//! Where a sum is cut decides its bits, so a plan is a function of the shapes and of the machine
//! that is planned for, which is the same one whatever the machine at hand
//! ([`Limits::planned_multiprocessors`](super::super::driver::Limits)).

use super::super::TICKETS;
use super::tiles::{Product, Variant};
use crate::device::View;

/// Most parts that a tile's reduction is cut into: the last block to arrive reads them all.
const MOST_PARTS: usize = 16;
/// What it costs to read one part back, in steps: 64 KB from L2 at 64 bytes a clock.
const JOIN_STEPS: usize = 1;
/// Bytes of workspace for the parts of cut tiles, at most.
const MOST_PARTIALS: usize = 64 << 20;

/// Fewest steps of a part of a weight gradient.
const PART_STEPS: usize = 8;
/// Parts of a weight gradient beyond those that fill the machine once, so that several waves may be
/// nearly full where one would be half empty.
const MORE_PARTS: usize = 8;
/// Bytes of partial sums that a weight gradient moves in a clock (4.3 TB/s at 1.7 GHz).
const BYTES_PER_CLOCK: usize = 2500;
/// Pixels that a block of the bias gradient adds up, at least.
const BIAS_PIXELS: usize = 2048;
/// Most blocks of the bias gradient along the pixels.
const BIAS_PARTS: usize = 60_000;

/// The product of a forward pass, or of one phase of a data gradient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// Positions of the destination.
    pub(super) rows: usize,
    /// Its channels.
    pub(super) columns: usize,
    /// Steps of the reduction, taps in the padding included.
    pub(super) steps: usize,
}

/// How a forward pass, or a phase of a data gradient, is cut up: `whole` tiles with a block each,
/// and the rest with `parts` blocks each (`kernels/include/conv/schedule.cuh`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MapPlan {
    pub(super) variant: Variant,
    /// Of the product.
    pub(super) tiles: usize,
    /// Not cut.
    pub(super) whole: usize,
    /// Of each of the other tiles.
    pub(super) parts: usize,
    /// Predicted clocks.
    pub(super) clocks: usize,
}

impl MapPlan {
    /// The fastest by [`Variant::clocks`], `most` or slower. `vectors`: whether shapes and addresses
    /// allow copies of 16 bytes. The plan, and with it the order of sums, depends on both.
    pub(super) fn new(
        product: Product,
        multiprocessors: usize,
        vectors: bool,
        most: Variant,
        extent: Extent,
    ) -> Self {
        let plan = |variant| Self::cut(variant, product, multiprocessors, extent);
        match (vectors, most) {
            (false, _) | (_, Variant::Any) => return plan(Variant::Any),
            (true, Variant::Small) => return plan(Variant::Small),
            (true, Variant::Large) => {}
        }
        let (large, small) = (plan(Variant::Large), plan(Variant::Small));
        if large.clocks <= small.clocks {
            large
        } else {
            small
        }
    }

    /// With tiles of `variant`, a block each.
    pub(super) fn uncut(
        variant: Variant,
        product: Product,
        multiprocessors: usize,
        extent: Extent,
    ) -> Self {
        let side = variant.side();
        let tiles = extent.rows.div_ceil(side) * extent.columns.div_ceil(side);
        Self {
            variant,
            tiles,
            whole: tiles,
            parts: 1,
            clocks: variant.clocks(product, multiprocessors, tiles, extent.steps),
        }
    }

    /// The same, or the tiles after the last full wave cut into the number of parts that ends
    /// soonest.
    fn cut(variant: Variant, product: Product, multiprocessors: usize, extent: Extent) -> Self {
        let clocks = |blocks, steps| variant.clocks(product, multiprocessors, blocks, steps);
        let mut best = Self::uncut(variant, product, multiprocessors, extent);
        let slots = multiprocessors * variant.resident(product);
        let (whole, left) = (best.tiles / slots * slots, best.tiles % slots);
        if left == 0 || left > TICKETS {
            return best;
        }
        let most = MOST_PARTIALS / (4 * left * variant.side().pow(2));
        for parts in 2..=most.min(MOST_PARTS).min(extent.steps) {
            let steps = extent.steps.div_ceil(parts) + JOIN_STEPS * parts;
            let clocks = clocks(whole, extent.steps) + clocks(left * parts, steps);
            if clocks < best.clocks {
                best = Self {
                    whole,
                    parts,
                    clocks,
                    ..best
                };
            }
        }
        best
    }

    /// Blocks of the launch.
    pub(super) fn blocks(&self) -> usize {
        self.whole + (self.tiles - self.whole) * self.parts
    }

    /// Bytes of workspace.
    pub(super) fn workspace_bytes(&self) -> usize {
        let side = self.variant.side();
        4 * (self.blocks() - self.whole) * side * side
    }
}

/// How a weight gradient is cut up. Every number is a function of shapes, not of addresses, so
/// that the workspace is known before any run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WgradPlan {
    /// Parts of the pixels.
    pub(super) parts: usize,
    /// Predicted clocks, without the bias.
    #[cfg_attr(not(test), allow(dead_code, reason = "what the parts were chosen by"))]
    pub(super) clocks: usize,
    /// Floats of one part: the size of dw.
    pub(super) elements: usize,
    /// Pixels of one block of the bias gradient, and such blocks; 0 without one.
    pub(super) bias_pixels: usize,
    pub(super) bias_parts: usize,
    bias_channels: usize,
}

/// Tile of a weight gradient of `k × c` a tap: `most` or a slower one.
pub(super) fn wgrad_variant(vectors: bool, most: Variant, k: usize, c: usize) -> Variant {
    let best = if !vectors {
        Variant::Any
    } else if k > 64 && c > 64 {
        Variant::Large
    } else {
        Variant::Small
    };
    best.max(most)
}

impl WgradPlan {
    /// From dy, dw and whether there is a bias.
    pub(super) fn new(
        product: Product,
        multiprocessors: usize,
        most: Variant,
        [dy, dw]: [&View; 2],
        bias: bool,
    ) -> Self {
        let [k, r, s, c] = dw.shape;
        let vectors = [k, c].map(|n| (n * dy.dtype.bytes()).is_multiple_of(16)) == [true; 2];
        let variant = wgrad_variant(vectors, most, k, c);
        let side = variant.side();
        let across = match variant {
            Variant::Any => (r * s * c).div_ceil(side),
            _ => r * s * c.div_ceil(side),
        };
        let tiles = (k.div_ceil(side) * across).max(1);
        let steps = dy.pixels().div_ceil(product.step());
        let pixels = dy.pixels().max(1);
        let bias_pixels = BIAS_PIXELS.max(pixels.div_ceil(BIAS_PARTS));
        let (parts, clocks) = parts(
            product,
            multiprocessors,
            variant,
            [tiles, steps],
            dw.elements(),
        );
        Self {
            parts,
            clocks,
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

/// The number of parts that ends soonest, and its clocks: waves of tiles × parts blocks, and every
/// part's sums written and read once. A convolution of 512 to 512 channels, 3×3, has 144 tiles: 288 blocks in
/// two parts would leave the second of two waves of 264 almost empty; seven parts fill 3.8 waves.
fn parts(
    product: Product,
    multiprocessors: usize,
    variant: Variant,
    [tiles, steps]: [usize; 2],
    elements: usize,
) -> (usize, usize) {
    let slots = multiprocessors * variant.resident(product);
    let most = (slots.div_ceil(tiles).max(MORE_PARTS)).min(steps / PART_STEPS);
    let clocks = |parts: usize| {
        let sums = if parts > 1 { 8 * parts * elements } else { 0 };
        variant.clocks(
            product,
            multiprocessors,
            tiles * parts,
            steps.div_ceil(parts),
        ) + sums / BYTES_PER_CLOCK
    };
    let plans = (1..=most.max(1)).map(|parts| (parts, clocks(parts)));
    plans.min_by_key(|&(_, clocks)| clocks).unwrap_or((1, 0))
}
