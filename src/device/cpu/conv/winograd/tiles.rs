//! Where the tiles of a map lie.

use super::super::geometry::{Geometry, NONE};

/// The tiles of a destination map: 2×2 pixels, `dilation` apart, reading 4×4 source pixels.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Tiles {
    images: usize,
    dst: [usize; 2],
    src: [usize; 2],
    dilation: usize,
    /// A tile's first source pixel is so far before its first destination pixel.
    before: isize,
    /// The kernel is turned by 180 degrees.
    pub(super) turned: bool,
}

impl Tiles {
    /// None unless the convolution is 3×3 of stride 1.
    pub(in super::super) fn new(g: &Geometry) -> Option<Self> {
        let (dilation, padding) = (g.window.dilation, g.window.padding as isize);
        if g.kernel != [3, 3] || g.window.stride != 1 || dilation == 0 {
            return None;
        }
        let before = if g.transposed {
            2 * dilation as isize - padding
        } else {
            padding
        };
        Some(Self {
            images: g.images,
            dst: g.dst,
            src: g.src,
            dilation,
            before,
            turned: g.transposed,
        })
    }

    /// Phases of the longer kind on an axis, tiles of each, tiles of each other phase.
    fn phases(&self, axis: usize) -> [usize; 3] {
        let (length, longer) = (
            self.dst[axis] / self.dilation,
            self.dst[axis] % self.dilation,
        );
        [longer, (length + 1).div_ceil(2), length.div_ceil(2)]
    }

    /// Tiles along an axis.
    fn along(&self, axis: usize) -> usize {
        let [longer, many, few] = self.phases(axis);
        longer * many + (self.dilation - longer) * few
    }

    /// All tiles.
    pub(in super::super) fn count(&self) -> usize {
        self.images * self.along(0) * self.along(1)
    }

    /// Destination coordinate of a tile's first pixel on an axis.
    fn start(&self, axis: usize, index: usize) -> usize {
        let [longer, many, few] = self.phases(axis);
        let (phase, at) = match index.checked_sub(longer * many) {
            None => (index / many, index % many),
            Some(rest) => (longer + rest / few, rest % few),
        };
        phase + 2 * at * self.dilation
    }

    /// Source coordinate on an axis of a tile's `i`-th row or column, where there is one.
    fn source(&self, axis: usize, start: usize, i: usize) -> Option<usize> {
        let at = (start + i * self.dilation).checked_add_signed(-self.before)?;
        (at < self.src[axis]).then_some(at)
    }

    /// The pixels of a tile: the 16 that it reads and the 4 that it writes; [`NONE`] outside.
    pub(in super::super) fn pixels(&self, tile: usize) -> ([u32; 16], [u32; 4]) {
        let across = self.along(1);
        let (line, column) = (tile / across, tile % across);
        let (image, row) = (line / self.along(0), line % self.along(0));
        let start = [self.start(0, row), self.start(1, column)];
        let index = |map: [usize; 2], at: Option<(usize, usize)>| {
            at.map_or(NONE, |(y, x)| ((image * map[0] + y) * map[1] + x) as u32)
        };
        let read = std::array::from_fn(|i| {
            let row = self.source(0, start[0], i / 4);
            index(self.src, row.zip(self.source(1, start[1], i % 4)))
        });
        let written = std::array::from_fn(|i| {
            let [y, x] = [
                start[0] + i / 2 * self.dilation,
                start[1] + i % 2 * self.dilation,
            ];
            let inside = y < self.dst[0] && x < self.dst[1];
            index(self.dst, inside.then_some((y, x)))
        });
        (read, written)
    }
}
