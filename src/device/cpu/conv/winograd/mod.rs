//! Winograd's minimal filtering, F(2×2, 3×3), for 3×3 convolutions of stride 1: 16 products for
//! four outputs where the direct sum takes 36 (Winograd 1980; Lavin and Gray 2016).
//!
//! With `g` the weights of a channel pair and `d` a 4×4 patch of the source, the four outputs are
//! `Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A`; summed over channels, each of the 16 positions ("frequencies")
//! is a matrix product of its own. The matrices hold 0, ±1 and ±½ alone, so small integers stay
//! exact, and larger tiles, which would save more but round worse, are not used.
//!
//! A dilated convolution is `dilation²` undilated ones, each over the pixels equal modulo the
//! dilation: [`Tiles`] counts tiles phase by phase and spreads a tile's pixels `dilation` apart.
//! Nothing is copied for it. The data gradient is the convolution of `dy` with the kernel turned
//! by 180 degrees.

pub(super) mod forward;
mod tiles;
pub(super) mod transform;
mod weights;
pub(super) mod wgrad;

pub(super) use tiles::Tiles;

use crate::device::cpu::simd::vectorised;

/// Products of a tile and a channel pair.
const FREQUENCIES: usize = 16;

vectorised! {
    /// `sums ← sums + values`.
    fn add(sums: &mut [f32], values: &[f32]) {
        for (sum, value) in sums.iter_mut().zip(values) {
            *sum += value;
        }
    }
}
