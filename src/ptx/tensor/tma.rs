//! The elements of a TMA box: where each comes from in global memory and goes to in shared memory.
//!
//! A box lies dense in shared memory, innermost dimension first (im2col: channels, then pixels).
//! The swizzle exchanges 16-byte chunks afterwards, by the bits of the shared *address*
//! ([`super::descriptor::Swizzle::apply`]). Elements outside the tensor are filled on loads, still
//! count as bytes of the transaction, and are left out on stores.

use super::map::{DataType, MapError, Mode, TensorMap};

/// Neighbouring bytes of a box, at most 16, within one 16-byte chunk of shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Shared address, after the swizzle.
    pub shared: u32,
    /// Bytes.
    pub bytes: u32,
    /// Global address; `None` out of bounds.
    pub global: Option<u64>,
}

impl TensorMap {
    /// Elements per row of the box, and rows.
    fn rows(&self) -> (u32, u32) {
        match self.mode {
            Mode::Tiled { box_dims } => {
                let rows = (1..self.rank)
                    .map(|i| box_dims[i].div_ceil(self.element_strides[i]))
                    .product();
                (box_dims[0], rows)
            }
            Mode::Im2col {
                channels, pixels, ..
            } => (channels, pixels),
        }
    }

    /// Bytes of a box in shared memory, and of its transaction.
    pub fn box_bytes(&self) -> u32 {
        let (elements, rows) = self.rows();
        elements * rows * self.data_type.bytes()
    }

    /// Calls `f` with every run of the box at `coordinates` (innermost first) whose destination or
    /// source begins at `shared`. `offsets` are those of im2col (W first): added to each base pixel.
    ///
    /// # Errors
    /// If the number of coordinates or offsets does not fit the map, an offset is out of range, or
    /// `shared` is not aligned.
    pub fn runs(
        &self,
        coordinates: &[i32],
        offsets: &[u32],
        shared: u32,
        mut f: impl FnMut(Run),
    ) -> Result<(), MapError> {
        if coordinates.len() != self.rank {
            return Err(MapError(format!(
                "{} coordinates for a map of {} dimensions",
                coordinates.len(),
                self.rank
            )));
        }
        if !shared.is_multiple_of(128) {
            return Err(MapError(format!(
                "shared address {shared:#x} is no multiple of 128"
            )));
        }
        let mut row_at = shared;
        let row_bytes = self.rows().0 * self.data_type.bytes();
        let mut row = |outer: Option<u64>| {
            self.row(i64::from(coordinates[0]), row_bytes, outer, row_at, &mut f);
            row_at += row_bytes;
        };
        match self.mode {
            Mode::Tiled { box_dims } => {
                if !offsets.is_empty() {
                    return Err(MapError("im2col offsets with a tiled map".into()));
                }
                let mut index = [0u32; 5];
                'rows: loop {
                    let mut address = Some(self.address);
                    for i in 1..self.rank {
                        let at = i64::from(coordinates[i]) + i64::from(index[i]);
                        address = self.step(address, i, at);
                    }
                    row(address);
                    for i in 1..self.rank {
                        index[i] += self.element_strides[i];
                        if index[i] < box_dims[i] {
                            continue 'rows;
                        }
                        index[i] = 0;
                    }
                    return Ok(());
                }
            }
            Mode::Im2col {
                lower,
                upper,
                pixels,
                ..
            } => {
                let spatial = self.rank - 2;
                let limit = [1 << 16, 1 << 8, 1 << 5][spatial - 1];
                if offsets.len() != spatial || offsets.iter().any(|&offset| offset >= limit) {
                    return Err(MapError(format!(
                        "im2col offsets {offsets:?}: {spatial} below {limit} each are needed"
                    )));
                }
                let mut base: [i64; 4] = [0; 4];
                for (into, &at) in base.iter_mut().zip(&coordinates[1..]) {
                    *into = i64::from(at);
                }
                for _ in 0..pixels {
                    let mut address = Some(self.address);
                    for i in 0..spatial {
                        address = self.step(address, i + 1, base[i] + i64::from(offsets[i]));
                    }
                    row(self.step(address, self.rank - 1, base[spatial]));
                    // The next base pixel: along W, at its last one back to the first and on in H, …
                    for i in 0..=spatial {
                        base[i] += if i < spatial {
                            i64::from(self.element_strides[i + 1])
                        } else {
                            1
                        };
                        if i == spatial
                            || base[i] <= self.dims[i + 1] as i64 - 1 + i64::from(upper[i])
                        {
                            break;
                        }
                        base[i] = i64::from(lower[i]);
                    }
                }
                Ok(())
            }
        }
    }

    fn step(&self, address: Option<u64>, dimension: usize, at: i64) -> Option<u64> {
        let inside = at >= 0 && (at as u64) < self.dims[dimension];
        address
            .filter(|_| inside)
            .map(|address| address + at as u64 * self.strides_bytes[dimension - 1])
    }

    /// One row of the innermost dimension, chunk by chunk.
    fn row(
        &self,
        first: i64,
        row_bytes: u32,
        outer: Option<u64>,
        row_at: u32,
        f: &mut impl FnMut(Run),
    ) {
        let size = i64::from(self.data_type.bytes());
        // Bytes of the row that lie within the tensor.
        let low = (-first * size).clamp(0, i64::from(row_bytes)) as u32;
        let high = ((self.dims[0] as i64 - first) * size).clamp(0, i64::from(row_bytes)) as u32;
        for chunk in (0..row_bytes).step_by(16) {
            let to = self.swizzle.apply(row_at + chunk);
            let end = (chunk + 16).min(row_bytes);
            let mut piece = |from: u32, until: u32, inside: bool| {
                if from < until {
                    let global = outer
                        .filter(|_| inside)
                        .map(|base| (base as i64 + first * size + i64::from(from)) as u64);
                    f(Run {
                        shared: to + from - chunk,
                        bytes: until - from,
                        global,
                    });
                }
            };
            piece(chunk, low.clamp(chunk, end), false);
            piece(low.clamp(chunk, end), high.clamp(chunk, end), high > low);
            piece(high.max(low).clamp(chunk, end), end, false);
        }
    }

    /// The bytes that fill an element outside the tensor, repeated over a run.
    pub fn fill(&self) -> &'static [u8] {
        // NaN as the manual's special constant: all ones in the fraction.
        match (self.fill_nan, self.data_type) {
            (false, _) => &[0],
            (true, DataType::F16) => &[0xFF, 0x7F],
            (true, DataType::Bf16) => &[0xFF, 0x7F],
            (true, DataType::F64) => &[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F],
            (true, _) => &[0xFF, 0xFF, 0xFF, 0x7F],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::descriptor::{Descriptor, Major, Swizzle};
    use super::super::element::Element;
    use super::super::map::{Interleave, encode_im2col, encode_tiled};
    use super::*;

    fn matrix(rows: u64, columns: u64, box_dim: [u32; 2], swizzle: Swizzle) -> TensorMap {
        let (dims, strides) = ([columns, rows], [columns * 2]);
        encode_tiled(
            DataType::Bf16,
            0,
            &dims,
            &strides,
            &box_dim,
            &[1, 1],
            Interleave::None,
            swizzle,
            false,
        )
        .unwrap()
    }

    fn runs(map: &TensorMap, coordinates: &[i32], offsets: &[u32], shared: u32) -> Vec<Run> {
        let mut all = Vec::new();
        map.runs(coordinates, offsets, shared, |run| all.push(run))
            .unwrap();
        assert_eq!(
            all.iter().map(|run| run.bytes).sum::<u32>(),
            map.box_bytes()
        );
        let mut touched: Vec<u32> = all
            .iter()
            .flat_map(|run| run.shared..run.shared + run.bytes)
            .collect();
        touched.sort_unstable();
        assert!(
            touched.windows(2).all(|w| w[0] + 1 == w[1]),
            "each byte of the box once"
        );
        all
    }

    #[test]
    fn a_box_within_the_tensor() {
        let map = matrix(100, 128, [64, 4], Swizzle::None);
        let all = runs(&map, &[64, 10], &[], 0x800);
        assert_eq!(
            all[0],
            Run {
                shared: 0x800,
                bytes: 16,
                global: Some(10 * 256 + 128)
            }
        );
        assert_eq!(
            all[9],
            Run {
                shared: 0x890,
                bytes: 16,
                global: Some(11 * 256 + 144)
            }
        );
    }

    /// Every way of hanging over an edge, element by element against the plain definition.
    #[test]
    fn out_of_bounds_is_filled() {
        let map = matrix(9, 24, [16, 8], Swizzle::B32);
        for (x, y) in [
            (-3, -2),
            (20, 5),
            (0, 0),
            (24, 0),
            (-16, 0),
            (5, 9),
            (17, -8),
            (i32::MAX, i32::MIN),
        ] {
            let mut got = [[None; 16]; 8];
            for run in runs(&map, &[x, y], &[], 0x400) {
                for byte in (0..run.bytes).step_by(2) {
                    let at = Swizzle::B32.apply((run.shared + byte) & !15)
                        + (run.shared + byte) % 16
                        - 0x400;
                    got[at as usize / 32][at as usize % 32 / 2] =
                        run.global.map(|global| global + u64::from(byte));
                }
            }
            for (row, line) in got.iter().enumerate() {
                for (column, &address) in line.iter().enumerate() {
                    let (i, j) = (i64::from(y) + row as i64, i64::from(x) + column as i64);
                    let inside = (0..9).contains(&i) && (0..24).contains(&j);
                    assert_eq!(
                        address,
                        inside.then_some((i * 48 + j * 2) as u64),
                        "box ({x}, {y}) element ({row}, {column})"
                    );
                }
            }
        }
    }

    #[test]
    fn strides_skip_elements() {
        let map = encode_tiled(
            DataType::F32,
            0,
            &[8, 16, 4],
            &[32, 512],
            &[4, 5, 2],
            &[1, 2, 1],
            Interleave::None,
            Swizzle::None,
            false,
        )
        .unwrap();
        assert_eq!(map.box_bytes(), 4 * 3 * 2 * 4, "5 elements by twos are 3");
        let all = runs(&map, &[0, 1, 1], &[], 0);
        let globals: Vec<u64> = all.iter().map(|run| run.global.unwrap()).collect();
        assert_eq!(
            globals,
            [
                512 + 32,
                512 + 96,
                512 + 160,
                1024 + 32,
                1024 + 96,
                1024 + 160
            ]
        );
    }

    /// What TMA writes, a descriptor finds.
    #[test]
    fn tma_and_wgmma_agree_on_swizzles() {
        for (swizzle, columns) in [(Swizzle::B128, 64), (Swizzle::B64, 32), (Swizzle::B32, 16)] {
            let map = matrix(64, u64::from(columns), [columns, 64], swizzle);
            let mut held = std::collections::HashMap::new();
            for run in runs(&map, &[0, 0], &[], 0x1000) {
                for byte in (0..run.bytes).step_by(2) {
                    held.insert(
                        run.shared + byte,
                        run.global.unwrap() / 2 + u64::from(byte) / 2,
                    );
                }
            }
            let d = Descriptor {
                start: 0x1000,
                leading: 16,
                stride: 8 * swizzle.span(),
                base_offset: 0,
                swizzle,
            };
            for row in 0..64 {
                for k in 0..16 {
                    let got = held[&d.address(Element::Bf16, Major::K, row, k)];
                    assert_eq!(got, u64::from(row * columns + k));
                    // The same tile read as B with n = columns and k = rows.
                    let got = held[&d.address(Element::Bf16, Major::Mn, k, row % 16)];
                    assert_eq!(got, u64::from(row % 16 * columns + k));
                }
            }
        }
    }

    /// A 3×3 convolution's tap by im2col, against the definition: output pixel p of the flattened
    /// N·H·W reads input (h·s + r·d - pad, w·s + q·d - pad).
    #[test]
    fn im2col_walks_a_convolution() {
        for (stride, dilation, pad) in [(1, 1, 1), (1, 3, 3), (2, 1, 1), (1, 1, 0)] {
            let (n, h, w, c) = (2i64, 7i64, 9i64, 16i64);
            let size = |extent: i64| (extent + 2 * pad - 2 * dilation - 1) / stride + 1;
            let (oh, ow) = (size(h), size(w));
            let lower = -pad as i32;
            // The last base pixel is where the last tap still starts inside the padded image.
            let upper = (pad - 2 * dilation) as i32;
            let pixels = 24;
            let map = encode_im2col(
                DataType::Bf16,
                0,
                &[c as u64, w as u64, h as u64, n as u64],
                &[2 * c as u64, (2 * c * w) as u64, (2 * c * w * h) as u64],
                &[lower; 2],
                &[upper; 2],
                8,
                pixels,
                &[1, stride as u32, stride as u32, 1],
                Interleave::None,
                Swizzle::None,
                false,
            )
            .unwrap();
            for (r, q) in [(0, 0), (1, 2), (2, 1)] {
                for first in [0, 5, n * oh * ow - 11] {
                    let (image, rest) = (first / (oh * ow), first % (oh * ow));
                    let base = [
                        8,
                        (rest % ow * stride - pad) as i32,
                        (rest / ow * stride - pad) as i32,
                        image as i32,
                    ];
                    let all = runs(
                        &map,
                        &base,
                        &[(q * dilation) as u32, (r * dilation) as u32],
                        0,
                    );
                    for (row, run) in all.iter().enumerate() {
                        let p = first + row as i64;
                        let (image, y, x) = (p / (oh * ow), p % (oh * ow) / ow, p % ow);
                        let (i, j) = (
                            y * stride + r * dilation - pad,
                            x * stride + q * dilation - pad,
                        );
                        let inside = image < n && (0..h).contains(&i) && (0..w).contains(&j);
                        let want =
                            inside.then_some((2 * (((image * h + i) * w + j) * c + 8)) as u64);
                        assert_eq!(
                            run.global, want,
                            "s{stride} d{dilation} tap ({r}, {q}) pixel {p}"
                        );
                    }
                }
            }
        }
    }

    #[test]
    fn misuse_is_said() {
        let map = matrix(64, 64, [64, 8], Swizzle::B128);
        assert!(map.runs(&[0], &[], 0, |_| {}).is_err());
        assert!(map.runs(&[0, 0], &[], 64, |_| {}).is_err());
        assert!(map.runs(&[0, 0], &[1], 0, |_| {}).is_err());
    }
}
