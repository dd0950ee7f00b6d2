//! Images and maps with any strides, as pairs of views that [`Op::Copy`](super::Op::Copy) copies
//! between them and packed ones.

use super::{ArenaId, DType, Shape, View};
use crate::error::{Error, Result};

/// `[N, H, W, C]` elements of an arena, at any distances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strided {
    /// The allocation.
    pub arena: ArenaId,
    /// Byte offset of the first element; a multiple of the element size.
    pub offset: usize,
    /// Element type.
    pub dtype: DType,
    /// Shape in elements.
    pub shape: Shape,
    /// Elements to the next image, row, pixel, channel.
    pub strides: [usize; 4],
}

impl From<View> for Strided {
    fn from(view: View) -> Self {
        let [_, h, w, _] = view.shape;
        Self {
            arena: view.arena,
            offset: view.offset,
            dtype: view.dtype,
            shape: view.shape,
            strides: [h * w * view.ld, w * view.ld, view.ld, 1],
        }
    }
}

impl Strided {
    /// Strides of `shape` without gaps; of one that is larger than memory, some that are, too.
    pub const fn packed([_, h, w, c]: Shape) -> [usize; 4] {
        let row = w.saturating_mul(c);
        [h.saturating_mul(row), row, c, 1]
    }

    /// Elements from the first to one past the last of a `shape` with these `strides`; `None` where
    /// that is none, or no number.
    pub fn span(shape: Shape, strides: [usize; 4]) -> Option<usize> {
        let steps = |(&n, s): (&usize, usize)| n.checked_sub(1)?.checked_mul(s);
        let mut ends = shape.iter().zip(strides).map(steps);
        ends.try_fold(1usize, |end, more| end.checked_add(more?))
    }

    /// The strides, those along a single element as if what they lead to followed.
    fn told(&self) -> [usize; 4] {
        let [n, h, w, c] = self.shape;
        let [mut image, mut row, mut pixel, mut channel] = self.strides;
        if c == 1 {
            channel = 1;
        }
        if w == 1 {
            pixel = match (h, n) {
                (1, 1) => c * channel,
                (1, _) => image,
                _ => row,
            };
        }
        if h == 1 {
            row = w * pixel;
        }
        if n == 1 {
            image = h * row;
        }
        [image, row, pixel, channel]
    }

    /// The copies that bring channels `places` of this to the channels of `packed`, whose pixels have
    /// just as many: pairs of a view of this and a view of `packed`. The other way round they copy
    /// `packed` to this. `what` names it in errors.
    ///
    /// # Errors
    /// [`Error::Input`] for strides that this takes too many copies for: rows with gaps between
    /// them and channels that do not lie side by side in order.
    pub fn pairs(&self, what: &str, packed: &View, places: &[usize]) -> Result<Vec<(View, View)>> {
        let [n, h, w, channels] = self.shape;
        let [image, row, pixel, channel] = self.told();
        let k = places.len();
        let fits = packed.shape == [n, h, w, k] && packed.is_dense() && packed.dtype == self.dtype;
        if !fits || places.iter().any(|&p| p >= channels) {
            return Err(Error::internal(format!(
                "{places:?} of {self:?} as {packed:?}"
            )));
        }
        let in_order = places.iter().enumerate().all(|(i, &p)| p == i) && (channel == 1 || k == 1);
        let rows_follow = row == w * pixel;
        // Whole batches where images follow each other, else image by image.
        let together = if image == h * row { n } else { 1 };
        let starts = (0..n).step_by(together.max(1));
        let views = |first: usize, at: usize, to: usize, shape: Shape, lds: [usize; 2]| {
            let bytes = self.dtype.bytes();
            let view = |arena, offset, ld| View {
                arena,
                offset,
                shape,
                ld,
                dtype: self.dtype,
            };
            let mine = self.offset + (first * image + at) * bytes;
            let theirs = packed.offset + (first * h * w * k + to) * bytes;
            (
                view(self.arena, mine, lds[0]),
                view(packed.arena, theirs, lds[1]),
            )
        };
        if in_order && rows_follow && pixel >= k {
            let shape = [together, h, w, k];
            return Ok(starts.map(|i| views(i, 0, 0, shape, [pixel, k])).collect());
        }
        if in_order && pixel == k && row >= w * k {
            let shape = [together, h, 1, w * k];
            return Ok(starts
                .map(|i| views(i, 0, 0, shape, [row, w * k]))
                .collect());
        }
        if rows_follow {
            let shape = [together, h, w, 1];
            let one = |i| {
                let channels = places.iter().enumerate();
                channels.map(move |(to, &from)| (i, from * channel, to))
            };
            let all = starts.flat_map(one);
            return Ok(all
                .map(|(i, at, to)| views(i, at, to, shape, [pixel, k]))
                .collect());
        }
        let problem = format!(
            "{:?} with strides {:?}: gaps between rows, and channels that do not lie side by side \
             in order",
            self.shape, self.strides
        );
        Err(Error::input(
            what,
            problem,
            "pack its rows (a contiguous copy)",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::CpuDevice;
    use crate::device::{Call, Device, Op};

    /// Every layout that is taken brings the very elements it names; the others are refused.
    #[test]
    fn copies_follow_the_strides() {
        let cpu = CpuDevice::new(1).unwrap();
        let (n, h, w) = (2, 3, 4);
        let arena = cpu.alloc(4096).unwrap();
        let held: Vec<u8> = (0..2048).map(|i| (i * 7 + i / 256) as u8).collect();
        let all = View::dense(arena, 0, [1, 1, 1, 2048], DType::U8);
        cpu.write(&all, &held).unwrap();
        type Case<'a> = (usize, [usize; 4], &'a [usize], Option<usize>);
        let cases: [Case; 9] = [
            (3, [36, 12, 3, 1], &[0, 1, 2], Some(1)),
            (3, [50, 12, 3, 1], &[0, 1, 2], Some(2)),
            (3, [60, 20, 3, 1], &[0, 1, 2], Some(1)),
            (3, [36, 12, 3, 1], &[2, 1, 0], Some(3)),
            (4, [48, 16, 4, 1], &[0, 1, 2], Some(1)),
            (4, [64, 16, 4, 1], &[2, 1, 0], Some(6)),
            (3, [36, 4, 1, 12], &[0, 1, 2], Some(6)),
            (1, [12, 4, 1, 1], &[0, 0, 0], Some(3)),
            (3, [60, 5, 1, 20], &[0, 1, 2], None),
        ];
        for (channels, strides, places, copies) in cases {
            let strided = Strided {
                arena,
                offset: 5,
                dtype: DType::U8,
                shape: [n, h, w, channels],
                strides,
            };
            let k = places.len();
            let packed = View::dense(arena, 2048, [n, h, w, k], DType::U8);
            let pairs = strided.pairs("image", &packed, places);
            let Some(copies) = copies else {
                assert!(pairs.unwrap_err().to_string().contains("pack its rows"));
                continue;
            };
            let pairs = pairs.unwrap();
            assert_eq!(pairs.len(), copies, "{strides:?} {places:?}");
            for (from, to) in pairs {
                cpu.run(&Call {
                    op: Op::Copy,
                    ins: vec![from],
                    outs: vec![to],
                    accumulate: 0,
                    workspace: None,
                })
                .unwrap();
            }
            let mut got = vec![0; n * h * w * k];
            cpu.read(&packed, &mut got).unwrap();
            for (i, got) in got.into_iter().enumerate() {
                let (c, x, y, b) = (i % k, i / k % w, i / k / w % h, i / k / w / h);
                let at = b * strides[0] + y * strides[1] + x * strides[2] + places[c] * strides[3];
                assert_eq!(got, held[5 + at], "{strides:?} {places:?} at {i}");
            }
        }
    }

    #[test]
    fn a_stride_along_one_element_says_nothing() {
        let any = 1 << 40;
        let arena = ArenaId(0);
        for (shape, strides) in [
            ([1, 1, 5, 3], [any, any, 3, 1]),
            ([3, 1, 5, 1], [15, any, 3, any]),
            ([3, 1, 1, 3], [7, any, any, 1]),
            ([1, 4, 1, 3], [any, 9, any, 1]),
            ([1, 1, 1, 3], [any, any, any, 1]),
        ] {
            let strided = Strided {
                arena,
                offset: 0,
                dtype: DType::F32,
                shape,
                strides,
            };
            let packed = View::dense(arena, 4096, shape, DType::F32);
            let places: Vec<usize> = (0..shape[3]).collect();
            let pairs = strided.pairs("image", &packed, &places).unwrap();
            assert_eq!(pairs.len(), 1, "{shape:?}");
            let last = Strided::span(shape, strided.told()).unwrap();
            assert_eq!(pairs[0].0.span(), last, "{shape:?}");
        }
    }

    #[test]
    fn spans_that_are_no_number_are_none() {
        let shape = [2, 3, 4, 3];
        assert_eq!(Strided::span(shape, Strided::packed(shape)), Some(72));
        assert_eq!(Strided::span([1, 3, 4, 3], [0, 20, 3, 1]), Some(52));
        assert_eq!(Strided::span([0, 3, 4, 3], [36, 12, 3, 1]), None);
        assert_eq!(Strided::span([2, 3, 4, 3], [usize::MAX, 12, 3, 1]), None);
    }
}
