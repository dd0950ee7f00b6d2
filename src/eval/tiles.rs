//! Where tiles lie on an image that is too large to be looked at as a whole, and how much each
//! counts where they overlap.
//!
//! ```text
//!  tile 0   ├──────────────────────┤
//!  tile 1                  ├──────────────────────┤
//!  weight 0 ────────────────╲
//!  weight 1                  ╲──────── …             the middle half of the least overlap
//! ```
//!
//! Sides are multiples of the output stride plus one, and tiles begin on multiples of it: then,
//! corners being aligned, the grids inside the network fall on those of the whole image, and a
//! tile's logits are the whole image's wherever no padding of the tile is seen. Next to a border
//! that is not the image's a tile counts nothing.

use crate::{Error, Result};

/// How large images are cut up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tiling {
    /// Longest side of a tile, pixels.
    pub size: usize,
    /// Least overlap of neighbours, pixels; at most a third of the size.
    pub overlap: usize,
}

impl Tiling {
    /// Tiles of `size` with an overlap of a quarter.
    pub fn new(size: usize) -> Self {
        Self {
            size,
            overlap: size / 4,
        }
    }

    /// The tiles for a network of `stride`: sides as large as its grid allows, overlaps at least as
    /// large as asked for.
    ///
    /// # Errors
    /// [`Error::Input`] when tiles are smaller than four strides or overlap by more than a third.
    pub fn snapped(self, stride: usize) -> Result<Self> {
        if self.size < 4 * stride + 1 {
            return Err(Error::input(
                "tile",
                format!("{} pixels are too few", self.size),
                format!("use at least {}", 4 * stride + 1),
            ));
        }
        let size = (self.size - 1) / stride * stride + 1;
        let most = size / 3 / stride * stride;
        if self.overlap > most {
            return Err(Error::input(
                "tile overlap",
                format!("{} pixels are more than a third of a tile", self.overlap),
                format!("use at most {most} with tiles of {}", self.size),
            ));
        }
        Ok(Self {
            size,
            overlap: self.overlap.next_multiple_of(stride),
        })
    }
}

/// `n` pixels, lengthened to a multiple of `stride` plus one.
pub(super) fn on_grid(n: usize, stride: usize) -> usize {
    (n.max(2) - 1).next_multiple_of(stride) + 1
}

/// Tiles along one side of an image.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Axis {
    /// Side of a tile.
    pub size: usize,
    /// First pixel of each.
    pub starts: Vec<usize>,
    /// Half the length over which one tile gives way to the next, pixels.
    fade: f32,
}

impl Axis {
    /// Tiles over `length` pixels; both it and the tile are multiples of `stride` plus one.
    pub(super) fn new(length: usize, tiling: Tiling, stride: usize) -> Self {
        let size = tiling.size.min(length);
        let spare = length - size;
        let step = (tiling.size - tiling.overlap) / stride * stride;
        let gaps = spare.div_ceil(step);
        // Spread evenly: every overlap is as large as it can be.
        let starts = (0..=gaps).map(|i| i * (spare / stride) / gaps.max(1) * stride);
        Self {
            size,
            starts: starts.collect(),
            fade: tiling.overlap as f32 / 4.0,
        }
    }

    /// Where tile `i` gives way to the next.
    fn border(&self, i: usize) -> f32 {
        (self.starts[i + 1] + self.starts[i] + self.size - 1) as f32 / 2.0
    }

    /// The tile to which pixel `at` belongs.
    pub(super) fn owner(&self, at: usize) -> usize {
        let last = self.starts.len() - 1;
        (0..last)
            .find(|&i| (at as f32) < self.border(i))
            .unwrap_or(last)
    }

    /// How much tile `i` counts at pixel `at`; the tiles' weights add up to one.
    pub(super) fn weight(&self, i: usize, at: usize) -> f32 {
        // The share of the tiles after border `b`.
        let after = |b: usize| {
            let beyond = at as f32 - self.border(b);
            match self.fade > 0.0 {
                true => (0.5 + beyond / (2.0 * self.fade)).clamp(0.0, 1.0),
                false => f32::from(u8::from(beyond >= 0.0)),
            }
        };
        let before = if i == 0 { 1.0 } else { after(i - 1) };
        let next = if i + 1 == self.starts.len() {
            0.0
        } else {
            after(i)
        };
        before - next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axes() -> Vec<(Axis, usize, Tiling, usize)> {
        let mut all = Vec::new();
        for stride in [8, 16, 32] {
            for size in [129, 161, 257, 513] {
                let third = size / 3 / stride * stride;
                for overlap in [0, stride, third / 2, third] {
                    let tiling = Tiling { size, overlap }.snapped(stride).unwrap();
                    for length in (2..90).map(|i| on_grid(i * 17, stride)) {
                        let axis = Axis::new(length, tiling, stride);
                        all.push((axis, length, tiling, stride));
                    }
                }
            }
        }
        all
    }

    #[test]
    fn tiles_lie_on_the_grid_cover_the_image_and_overlap_enough() {
        for (axis, length, tiling, stride) in axes() {
            let first = axis.starts[0];
            let last = axis.starts[axis.starts.len() - 1];
            assert_eq!((first, last + axis.size), (0, length));
            assert!(axis.starts.iter().all(|s| s % stride == 0));
            for pair in axis.starts.windows(2) {
                let overlap = pair[0] + axis.size - pair[1];
                assert!(pair[1] > pair[0] && overlap >= tiling.overlap.max(1));
            }
        }
    }

    #[test]
    fn weights_add_up_to_one_inside_tiles_and_fade_before_their_ends() {
        for (axis, length, tiling, _) in axes() {
            for at in 0..length {
                let weights: Vec<f32> =
                    (0..axis.starts.len()).map(|i| axis.weight(i, at)).collect();
                assert!((weights.iter().sum::<f32>() - 1.0).abs() < 1e-5);
                for (i, &w) in weights.iter().enumerate() {
                    let (start, end) = (axis.starts[i], axis.starts[i] + axis.size);
                    assert!((-1e-6..=1.0).contains(&w), "{w}");
                    let margin = tiling.overlap / 4;
                    let deep = (start == 0 || at >= start + margin)
                        && (end == length || at + margin < end + 1);
                    assert!(w < 1e-6 || deep, "{axis:?} {tiling:?} {i} {at} {w}");
                    let owner = axis.owner(at);
                    assert!((axis.starts[owner]..axis.starts[owner] + axis.size).contains(&at));
                }
            }
        }
    }

    #[test]
    fn tiles_too_small_or_too_deep_in_each_other_are_refused() {
        let too_small = Tiling::new(32).snapped(8).unwrap_err();
        assert!(too_small.to_string().contains("at least 33"), "{too_small}");
        let deep = Tiling {
            size: 129,
            overlap: 60,
        };
        let error = deep.snapped(8).unwrap_err().to_string();
        assert!(error.contains("at most 40"), "{error}");
        let endless = Tiling {
            size: usize::MAX,
            overlap: usize::MAX,
        };
        assert!(endless.snapped(8).is_err());
        assert_eq!(
            Tiling::new(520).snapped(8).unwrap(),
            Tiling {
                size: 513,
                overlap: 136
            }
        );
    }
}
