//! Which source pixel a tap reads.

use crate::device::op::Window;

/// No source pixel: the tap falls in the padding (or between the pixels of a strided gradient).
pub(super) const NONE: u32 = u32::MAX;

/// The map from (destination pixel, tap) to source pixel, for the convolution and its transpose.
#[derive(Clone, Copy, Debug)]
pub(super) struct Geometry {
    pub window: Window,
    /// Images.
    pub images: usize,
    /// Height and width of the map that is written.
    pub dst: [usize; 2],
    /// Height and width of the map that is read.
    pub src: [usize; 2],
    /// Kernel height and width.
    pub kernel: [usize; 2],
    /// The data gradient: destination and source swap places.
    pub transposed: bool,
}

impl Geometry {
    pub(super) fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Destination pixels.
    pub(super) fn pixels(&self) -> usize {
        self.images * self.dst[0] * self.dst[1]
    }

    /// Source coordinate on one axis, where there is one.
    fn source(&self, axis: usize, at: usize, tap: usize) -> Option<usize> {
        let Window {
            stride,
            padding,
            dilation,
        } = self.window;
        let source = if self.transposed {
            let strided = (at + padding).checked_sub(tap * dilation)?;
            if !strided.is_multiple_of(stride) {
                return None;
            }
            strided / stride
        } else {
            (at * stride + tap * dilation).checked_sub(padding)?
        };
        (source < self.src[axis]).then_some(source)
    }

    /// Image, row and column of the `index`-th destination pixel in the order of work.
    ///
    /// The convolution goes row by row. Its transpose goes phase by phase (pixels equal modulo
    /// the stride), so that neighbours in the order share the taps that hit a source pixel.
    pub(super) fn pixel(&self, index: usize) -> [usize; 3] {
        let phases = if self.transposed {
            self.window.stride
        } else {
            1
        };
        let mut rest = index;
        for phase_y in 0..phases {
            for phase_x in 0..phases {
                let rows = (self.dst[0] + phases - 1 - phase_y) / phases;
                let columns = (self.dst[1] + phases - 1 - phase_x) / phases;
                let count = self.images * rows * columns;
                if rest < count {
                    let (line, x) = (rest / columns, rest % columns);
                    return [
                        line / rows,
                        line % rows * phases + phase_y,
                        x * phases + phase_x,
                    ];
                }
                rest -= count;
            }
        }
        [self.images, 0, 0]
    }

    /// Index of a destination pixel in its view.
    pub(super) fn dst_index(&self, [image, y, x]: [usize; 3]) -> usize {
        (image * self.dst[0] + y) * self.dst[1] + x
    }

    /// Index of the source pixel of each tap in its view, or [`NONE`], handed to `put`.
    pub(super) fn sources(&self, [image, y, x]: [usize; 3], mut put: impl FnMut(usize, u32)) {
        for r in 0..self.kernel[0] {
            let row = self.source(0, y, r);
            for s in 0..self.kernel[1] {
                let at = row.zip(self.source(1, x, s));
                let index = at.map_or(NONE, |(sy, sx)| {
                    ((image * self.src[0] + sy) * self.src[1] + sx) as u32
                });
                put(r * self.kernel[1] + s, index);
            }
        }
    }

    /// Index of the source pixel of a tap that is known to hit one (convolution only).
    pub(super) fn hit(&self, [image, y, x]: [usize; 3], tap: usize) -> usize {
        let Window {
            stride,
            padding,
            dilation,
        } = self.window;
        let (r, s) = (tap / self.kernel[1], tap % self.kernel[1]);
        let sy = y * stride + r * dilation - padding;
        let sx = x * stride + s * dilation - padding;
        (image * self.src[0] + sy) * self.src[1] + sx
    }

    /// Destination coordinates on one axis whose tap hits a source (of stride 1 only, if
    /// transposed): a range.
    pub(super) fn hits(&self, axis: usize, tap: usize) -> std::ops::Range<usize> {
        let hit = |&at: &usize| self.source(axis, at, tap).is_some();
        let first = (0..self.dst[axis]).find(hit).unwrap_or(0);
        let end = (0..self.dst[axis]).rev().find(hit).map_or(0, |at| at + 1);
        first..end.max(first)
    }

    /// Row blocks of `rows` destination pixels times their live taps, times `rows`: the work of the
    /// direct sum for each pair of a channel and an output. For stride 1.
    pub(super) fn live(&self, rows: usize) -> usize {
        let mut live = 0;
        for r in 0..self.kernel[0] {
            let lines = self.hits(0, r);
            for s in 0..self.kernel[1] {
                let columns = self.hits(1, s);
                if columns.is_empty() {
                    continue;
                }
                // Blocks may span lines: none is counted twice.
                let mut counted = 0;
                for line in 0..self.images * lines.len() {
                    let y = line / lines.len() * self.dst[0] + lines.start + line % lines.len();
                    let first = (y * self.dst[1] + columns.start) / rows;
                    let end = (y * self.dst[1] + columns.end).div_ceil(rows);
                    live += end - first.max(counted).min(end);
                    counted = end;
                }
            }
        }
        live * rows
    }

    /// Copies the patch of a destination pixel, `[taps][channels]`, zeros in the padding.
    pub(super) fn gather<T: Copy + Default>(
        &self,
        pixel: [usize; 3],
        src: &[T],
        ld: usize,
        channels: usize,
        patch: &mut [T],
    ) {
        let [image, y, x] = pixel;
        let Window {
            stride,
            padding,
            dilation,
        } = self.window;
        let width = self.kernel[1] * channels;
        // Left end inside and right end inside: the row of taps is one run of a dense map.
        let left = (x * stride).checked_sub(padding);
        let run = left.filter(|l| {
            !self.transposed && dilation == 1 && ld == channels && l + self.kernel[1] <= self.src[1]
        });
        for (r, line) in patch.chunks_exact_mut(width).enumerate() {
            let Some(sy) = self.source(0, y, r) else {
                line.fill(T::default());
                continue;
            };
            let base = (image * self.src[0] + sy) * self.src[1];
            if let Some(left) = run {
                let start = (base + left) * ld;
                line.copy_from_slice(&src[start..start + width]);
                continue;
            }
            for (s, tap) in line.chunks_exact_mut(channels).enumerate() {
                match self.source(1, x, s) {
                    Some(sx) => tap.copy_from_slice(&src[(base + sx) * ld..][..channels]),
                    None => tap.fill(T::default()),
                }
            }
        }
    }
}
