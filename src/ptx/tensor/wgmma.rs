//! `wgmma.mma_async`: D[64][N] (+)= A[64][K] · B[K][N] by four warps.
//!
//! Warp w of the warpgroup holds rows 16w … 16w + 15 of D, and of A where A comes from registers,
//! laid out as [`super::fragment`] says.

use super::accumulate::{Accumulation, COLUMNS, Shape, Sum, multiply_add_integers, tile};
use super::descriptor::{Descriptor, Major};
use super::element::Element;
use super::fragment::{Row, for_each_a, get_sums, put_sums};

/// Rows of every shape.
pub const M: usize = 64;

/// A shape, its types and immediates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wgmma {
    /// Columns: a multiple of 8 up to 256.
    pub n: usize,
    /// Type of A, and of B unless it is of 8 bits; K is 32 bytes of it.
    pub element: Element,
    /// Type of B.
    pub right: Element,
    /// Type of D.
    pub sum: Sum,
    /// `imm-scale-a` is -1.
    pub negate_a: bool,
    /// `imm-scale-b` is -1.
    pub negate_b: bool,
    /// Which direction lies inside A's chunks (shared-memory A only).
    pub a_major: Major,
    /// Which direction lies inside B's chunks.
    pub b_major: Major,
    /// Sums of integers are clamped.
    pub clamp: bool,
}

impl Wgmma {
    /// The shape `m64nNkK` with these types, nothing negated or transposed, if PTX has it.
    pub fn new(shape: &str, element: Element, sum: Sum) -> Option<Self> {
        let (n, k) = shape.strip_prefix("m64n")?.split_once('k')?;
        let (n, k): (usize, usize) = (n.parse().ok()?, k.parse().ok()?);
        let right_k = 32 / element.bytes() as usize;
        // Of integers there are fewer: every 8 columns up to 32, then every 16.
        let steps = !element.is_integer() || n <= 32 || n % 16 == 0;
        let fits = n % 8 == 0 && (8..=256).contains(&n) && k == right_k && steps;
        let halves = matches!(element, Element::F16 | Element::E4m3 | Element::E5m2);
        let sums = match sum {
            Sum::F32 => !element.is_integer(),
            Sum::F16 => halves,
            Sum::S32 => element.is_integer(),
        };
        (fits && sums).then_some(Self {
            n,
            element,
            right: element,
            sum,
            clamp: false,
            negate_a: false,
            negate_b: false,
            a_major: Major::K,
            b_major: Major::K,
        })
    }

    /// Terms of one product: 16, of tf32 8, of 8 bits 32.
    pub fn k(self) -> usize {
        32 / self.element.bytes() as usize
    }

    /// Accumulator registers per thread.
    pub fn d_registers(self) -> usize {
        if self.sum == Sum::F16 {
            self.n / 4
        } else {
            self.n / 2
        }
    }

    /// A's registers per thread, where it comes from registers.
    pub fn a_registers(self) -> usize {
        4
    }

    /// The chunks of 16 bytes that an operand of `lines` rows of A (64) or columns of B (n) reads,
    /// as (shared address, index of its first element in the row-major [lines][k] matrix, step
    /// between its elements there).
    pub fn chunks(
        self,
        descriptor: Descriptor,
        major: Major,
        lines: usize,
        mut f: impl FnMut(u32, usize, usize),
    ) {
        let (k, per_chunk) = (self.k(), 16 / self.element.bytes() as usize);
        match major {
            Major::K => {
                for line in 0..lines {
                    for chunk in 0..k / per_chunk {
                        let address = descriptor.chunk_address(major, line as u32, chunk as u32);
                        f(address, line * k + chunk * per_chunk, 1);
                    }
                }
            }
            Major::Mn => {
                for along_k in 0..k {
                    for chunk in 0..lines / per_chunk {
                        let address = descriptor.chunk_address(major, along_k as u32, chunk as u32);
                        f(address, chunk * per_chunk * k + along_k, k);
                    }
                }
            }
        }
    }

    /// Reads an operand as element bits, row-major [lines][k]. `read` gives the four words at a
    /// shared address that is a multiple of 16, or says why it cannot.
    pub fn fetch<E>(
        self,
        descriptor: Descriptor,
        major: Major,
        lines: usize,
        mut read: impl FnMut(u32) -> Result<[u32; 4], E>,
    ) -> Result<Vec<u32>, E> {
        let mut out = vec![0; lines * self.k()];
        let mut failed = None;
        self.chunks(descriptor, major, lines, |address, first, step| {
            if failed.is_some() {
                return;
            }
            match read(address) {
                Err(error) => failed = Some(error),
                Ok(words) => {
                    let (per_word, mask) = (4 / self.element.bytes() as usize, self.element.mask());
                    for i in 0..4 * per_word {
                        let shift = 32 / per_word * (i % per_word);
                        out[first + i * step] = words[i / per_word] >> shift & mask;
                    }
                }
            }
        });
        failed.map_or(Ok(out), Err)
    }

    /// A from registers: the 16 rows of one warp as element bits, row-major [16][k].
    pub fn a_from_registers(self, registers: &[Row]) -> Vec<u32> {
        let k = self.k();
        let mask = self.element.mask();
        let mut out = vec![0; 16 * k];
        for lane in 0..32 {
            for (register, row) in registers.iter().enumerate().take(self.a_registers()) {
                for_each_a(self.element, lane, register, |r, column, shift| {
                    out[r * k + column] = row[lane] >> shift & mask;
                });
            }
        }
        out
    }

    /// One warp's part: `d` holds [`Wgmma::d_registers`] rows, read and written; `a` is that warp's
    /// [16][k], `b` the whole [n][k] as [`Wgmma::fetch`] gives it. `scale_d` false ignores what `d` held.
    ///
    /// # Panics
    /// If a slice is shorter than that.
    pub fn execute(self, model: Accumulation, a: &[u32], b: &[u32], scale_d: bool, d: &mut [Row]) {
        let k = self.k();
        let sign = 1 << (8 * self.element.bytes() - 1);
        // A sign in each product is a sign in either factor.
        let flip = if self.negate_a != self.negate_b {
            sign
        } else {
            0
        };
        if self.sum == Sum::S32 {
            return self.execute_integers(a, b, scale_d, d);
        }
        match k {
            8 => self.execute_floats::<8>(model, a, b, flip, scale_d, d),
            16 => self.execute_floats::<16>(model, a, b, flip, scale_d, d),
            _ => self.execute_floats::<32>(model, a, b, flip, scale_d, d),
        }
    }

    fn execute_floats<const K: usize>(
        self,
        model: Accumulation,
        a: &[u32],
        b: &[u32],
        flip: u32,
        scale_d: bool,
        d: &mut [Row],
    ) {
        let mut left = [[0; K]; 16];
        for (line, bits) in left.iter_mut().zip(a.chunks_exact(K)) {
            *line = std::array::from_fn(|term| bits[term] ^ flip);
        }
        let per_tile = if self.sum == Sum::F16 { 2 } else { 4 };
        let elements = [self.element, self.right];
        // Columns 8 j … 8 j + 7 are four registers (of f16 two) of D.
        for (j, registers) in d
            .chunks_exact_mut(per_tile)
            .enumerate()
            .take(self.n / COLUMNS)
        {
            let mut right = [[0; COLUMNS]; K];
            for column in 0..COLUMNS {
                let bits = &b[(j * COLUMNS + column) * K..][..K];
                for (line, bits) in right.iter_mut().zip(bits) {
                    line[column] = *bits;
                }
            }
            let mut sums = [[0.0; COLUMNS]; 16];
            if scale_d {
                for (register, row) in registers.iter().enumerate() {
                    for (lane, &word) in row.iter().enumerate() {
                        get_sums(self.sum, lane, register, word, |r, column, value| {
                            sums[r][column] = value
                        });
                    }
                }
            }
            tile(model, elements, self.sum, K, &left, &right, &mut sums);
            for (register, row) in registers.iter_mut().enumerate() {
                for (lane, word) in row.iter_mut().enumerate() {
                    *word = put_sums(self.sum, lane, register, |r, column| sums[r][column]);
                }
            }
        }
    }

    fn execute_integers(self, a: &[u32], b: &[u32], scale_d: bool, d: &mut [Row]) {
        let (n, k) = (self.n, self.k());
        let mut sums = vec![0i32; 16 * n];
        let rows = self.d_registers();
        if scale_d {
            for (register, row) in d.iter().enumerate().take(rows) {
                for (lane, &word) in row.iter().enumerate() {
                    get_sums(self.sum, lane, register, 0, |r, column, _| {
                        sums[r * n + column] = word as i32
                    });
                }
            }
        }
        multiply_add_integers(
            Shape { m: 16, n, k },
            self.clamp,
            |i| self.element.integer(a[i]),
            |i| self.right.integer(b[i % n * k + i / n]),
            &mut sums,
        );
        for (register, row) in d.iter_mut().enumerate().take(rows) {
            for (lane, word) in row.iter_mut().enumerate() {
                get_sums(self.sum, lane, register, 0, |r, column, _| {
                    *word = sums[r * n + column] as u32
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::descriptor::Swizzle;
    use super::*;
    use std::convert::Infallible;

    fn bits(element: Element, v: i32) -> u32 {
        match element {
            Element::Bf16 => u32::from(half::bf16::from_f32(v as f32).to_bits()),
            Element::F16 => u32::from(half::f16::from_f32(v as f32).to_bits()),
            Element::E5m2 => u32::from(half::f16::from_f32(v as f32).to_bits()) >> 8,
            Element::E4m3 => (0..256)
                .find(|bits| element.value(*bits) == v as f32)
                .unwrap(),
            Element::S8 | Element::U8 => u32::from(v as u8),
            Element::Tf32 => (v as f32).to_bits(),
        }
    }

    fn a_at(row: usize, k: usize) -> i32 {
        (row * 3 + k * 5) as i32 % 7 - 3
    }

    fn b_at(k: usize, column: usize) -> i32 {
        (k * 5 + column * 2) as i32 % 9 - 4
    }

    /// Every shape, type, direction and swizzle: integers, laid out through the address function.
    #[test]
    fn products_of_integers() {
        let mut cases = 0;
        for n in (8..=256).step_by(8) {
            for (element, sum) in [
                (Element::Bf16, Sum::F32),
                (Element::F16, Sum::F32),
                (Element::F16, Sum::F16),
                (Element::Tf32, Sum::F32),
                (Element::E4m3, Sum::F32),
                (Element::E5m2, Sum::F16),
                (Element::S8, Sum::S32),
            ] {
                let k = 32 / element.bytes();
                let Some(base) = Wgmma::new(&format!("m64n{n}k{k}"), element, sum) else {
                    assert!(element == Element::S8 && n > 32 && n % 16 != 0);
                    continue;
                };
                for (i, swizzle) in [Swizzle::None, Swizzle::B32, Swizzle::B64, Swizzle::B128]
                    .into_iter()
                    .enumerate()
                {
                    let transposed = element.bytes() == 2 && (n / 8 + i) % 2 == 0;
                    // A chunk of 8 columns at a time: n must fill whole spans of the swizzle.
                    let fills = n * 2 % swizzle.span() as usize == 0;
                    let major = if transposed && fills {
                        Major::Mn
                    } else {
                        Major::K
                    };
                    let w = Wgmma {
                        b_major: major,
                        negate_a: n % 16 == 0 && sum != Sum::S32,
                        negate_b: n % 24 == 0 && sum != Sum::S32,
                        ..base
                    };
                    check(w, swizzle);
                    cases += 1;
                }
            }
        }
        assert_eq!(cases, 32 * 24 + (4 + 14) * 4);
    }

    fn check(w: Wgmma, swizzle: Swizzle) {
        let k = w.k();
        let span = swizzle.span();
        let descriptor = match (w.b_major, swizzle) {
            (Major::K, Swizzle::None) => Descriptor {
                start: 0,
                leading: 128,
                stride: 256,
                base_offset: 0,
                swizzle,
            },
            (Major::K, _) => Descriptor {
                start: 0,
                leading: 16,
                stride: 8 * span,
                base_offset: 0,
                swizzle,
            },
            (Major::Mn, Swizzle::None) => Descriptor {
                start: 0,
                leading: 128,
                stride: 256,
                base_offset: 0,
                swizzle,
            },
            (Major::Mn, _) => Descriptor {
                start: 0,
                leading: 16 * span,
                stride: 8 * span,
                base_offset: 0,
                swizzle,
            },
        };
        let mut shared = vec![0u32; 1 << 14];
        for column in 0..w.n {
            for term in 0..k {
                let at =
                    descriptor.address(w.element, w.b_major, column as u32, term as u32) as usize;
                shared[at / 4] |= bits(w.element, b_at(term, column)) << (8 * (at % 4));
            }
        }
        let b = w
            .fetch::<Infallible>(descriptor, w.b_major, w.n, |at| {
                Ok(std::array::from_fn(|i| shared[at as usize / 4 + i]))
            })
            .unwrap_or_else(|never| match never {});
        let mut a = vec![[0; 32]; 4];
        for lane in 0..32 {
            for (register, row) in a.iter_mut().enumerate() {
                for_each_a(w.element, lane, register, |r, term, shift| {
                    row[lane] |= bits(w.element, a_at(r, term)) << shift;
                });
            }
        }
        let a = w.a_from_registers(&a);
        let sign = if w.negate_a != w.negate_b { -1 } else { 1 };
        for scale_d in [false, true] {
            let mut d = vec![[0; 32]; w.d_registers()];
            for (register, row) in d.iter_mut().enumerate() {
                for (lane, word) in row.iter_mut().enumerate() {
                    *word = put_sums(w.sum, lane, register, |r, column| match w.sum {
                        Sum::S32 => f32::from_bits((r + column) as u32),
                        _ => (r + column) as f32,
                    });
                }
            }
            w.execute(Accumulation::Hopper, &a, &b, scale_d, &mut d);
            let mut seen = 0;
            for (register, row) in d.iter().enumerate() {
                for (lane, &word) in row.iter().enumerate() {
                    get_sums(w.sum, lane, register, word, |r, column, value| {
                        let dot: i32 = (0..k).map(|term| a_at(r, term) * b_at(term, column)).sum();
                        let want = sign * dot + if scale_d { (r + column) as i32 } else { 0 };
                        let value = match w.sum {
                            Sum::S32 => value.to_bits() as i32 as f32,
                            _ => value,
                        };
                        assert_eq!(value, want as f32, "{w:?} {swizzle:?} D[{r}][{column}]");
                        seen += 1;
                    });
                }
            }
            assert_eq!(seen, 16 * w.n);
        }
    }

    #[test]
    fn shapes_that_ptx_does_not_have() {
        for (shape, element, sum) in [
            ("m64n12k16", Element::Bf16, Sum::F32),
            ("m64n264k16", Element::Bf16, Sum::F32),
            ("m64n64k8", Element::Bf16, Sum::F32),
            ("m64n64k16", Element::Tf32, Sum::F32),
            ("m64n64k16", Element::Bf16, Sum::F16),
            ("m16n8k16", Element::Bf16, Sum::F32),
        ] {
            assert_eq!(Wgmma::new(shape, element, sum), None, "{shape}");
        }
    }
}
