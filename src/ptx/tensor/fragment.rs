//! Which lane and register holds which element of a warp's matrices.
//!
//! With g = lane/4 and t = lane%4 (PTX ISA, "Matrix fragments for mma"); the low half of a register
//! comes first. Registers are counted as PTX lists them.

use super::accumulate::{Accumulation, COLUMNS, Sum, tile};
use super::element::Element;

/// A register row: one word per lane.
pub type Row = [u32; 32];

/// An `mma.sync` with f32 or f16 accumulators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mma {
    /// Type of A, and of B unless it is of 8 bits.
    pub element: Element,
    /// Type of B.
    pub right: Element,
    /// Type of C and D.
    pub sum: Sum,
    /// 16 or 8 (b16), 8 or 4 (tf32), 32 or 16 (8 bits). Rows are 16, columns 8.
    pub k: usize,
}

impl Mma {
    /// The shape `m16n8kK` of these types, if PTX has it.
    pub fn new(shape: &str, element: Element, sum: Sum) -> Option<Self> {
        let k = match (shape, element) {
            ("m16n8k16", Element::Bf16 | Element::F16) => 16,
            ("m16n8k16" | "m16n8k32", Element::E4m3 | Element::E5m2) => {
                if shape == "m16n8k16" {
                    16
                } else {
                    32
                }
            }
            ("m16n8k8", Element::Bf16 | Element::F16 | Element::Tf32) => 8,
            ("m16n8k4", Element::Tf32) => 4,
            _ => return None,
        };
        let halves = matches!(element, Element::F16 | Element::E4m3 | Element::E5m2);
        (sum == Sum::F32 || (sum == Sum::F16 && halves)).then_some(Self {
            element,
            right: element,
            sum,
            k,
        })
    }

    /// Registers of A.
    pub fn a_registers(self) -> usize {
        16 * self.k * self.element.bytes() as usize / 128
    }

    /// Registers of B.
    pub fn b_registers(self) -> usize {
        8 * self.k * self.element.bytes() as usize / 128
    }

    /// Registers of C and of D.
    pub fn d_registers(self) -> usize {
        if self.sum == Sum::F16 { 2 } else { 4 }
    }

    /// D = A·B + C on whole fragments: `a`, `b`, `c` hold [`Mma::a_registers`] … rows, `d` is written.
    ///
    /// # Panics
    /// If a slice has fewer rows than that.
    pub fn execute(self, model: Accumulation, a: &[Row], b: &[Row], c: &[Row], d: &mut [Row]) {
        match self.k {
            4 => self.terms::<4>(model, a, b, c, d),
            8 => self.terms::<8>(model, a, b, c, d),
            16 => self.terms::<16>(model, a, b, c, d),
            _ => self.terms::<32>(model, a, b, c, d),
        }
    }

    fn terms<const K: usize>(
        self,
        model: Accumulation,
        a: &[Row],
        b: &[Row],
        c: &[Row],
        d: &mut [Row],
    ) {
        let mut left = [[0; K]; 16];
        let mut right = [[0; COLUMNS]; K];
        let mut sums = [[0.0; COLUMNS]; 16];
        let (bits, mask) = (8 * self.element.bytes(), self.element.mask());
        let per_word = (32 / bits) as usize;
        // As `for_each_a` and `for_each_b` say, a register at a time.
        for (register, row) in a.iter().enumerate().take(self.a_registers()) {
            let first = per_word * 4 * (register >> 1);
            for (g, words) in row.as_chunks::<4>().0.iter().enumerate() {
                let line = &mut left[g + 8 * (register & 1)];
                for (t, word) in words.iter().enumerate() {
                    for part in 0..per_word {
                        line[first + per_word * t + part] = word >> (part as u32 * bits) & mask;
                    }
                }
            }
        }
        for (register, row) in b.iter().enumerate().take(self.b_registers()) {
            let first = per_word * 4 * register;
            for (g, words) in row.as_chunks::<4>().0.iter().enumerate() {
                for (t, word) in words.iter().enumerate() {
                    for part in 0..per_word {
                        right[first + per_word * t + part][g] = word >> (part as u32 * bits) & mask;
                    }
                }
            }
        }
        for (register, row) in c.iter().enumerate().take(self.d_registers()) {
            for (lane, word) in row.iter().enumerate() {
                get_sums(self.sum, lane, register, *word, |row, column, value| {
                    sums[row][column] = value
                });
            }
        }
        let elements = [self.element, self.right];
        tile(model, elements, self.sum, K, &left, &right, &mut sums);
        for (register, row) in d.iter_mut().enumerate().take(self.d_registers()) {
            for (lane, word) in row.iter_mut().enumerate() {
                *word = put_sums(self.sum, lane, register, |row, column| sums[row][column]);
            }
        }
    }
}

/// Calls `f(row, column, shift)` for each element of A (16 rows) that this register holds; the
/// element is the register shifted right by `shift`. Used by `mma` and by A of `wgmma` alike.
#[inline(always)]
pub fn for_each_a(
    element: Element,
    lane: usize,
    register: usize,
    mut f: impl FnMut(usize, usize, u32),
) {
    let (g, t) = (lane / 4, lane % 4);
    let row = g + 8 * (register & 1);
    let (per_word, bits) = (4 / element.bytes() as usize, 8 * element.bytes());
    let column = per_word * (t + 4 * (register >> 1));
    for part in 0..per_word {
        f(row, column + part, part as u32 * bits);
    }
}

/// As [`for_each_a`], for B (8 columns).
#[inline(always)]
pub fn for_each_b(
    element: Element,
    lane: usize,
    register: usize,
    mut f: impl FnMut(usize, usize, u32),
) {
    let (g, t) = (lane / 4, lane % 4);
    let (per_word, bits) = (4 / element.bytes() as usize, 8 * element.bytes());
    let row = per_word * (t + 4 * register);
    for part in 0..per_word {
        f(row + part, g, part as u32 * bits);
    }
}

/// Calls `f(row, column, value)` for what accumulator register number `register` of a tile of 16
/// rows and any multiple of 8 columns holds. With f32, registers 4j … 4j+3 are columns 8j … 8j+7;
/// with f16, registers 2j and 2j+1.
#[inline(always)]
pub fn get_sums(
    sum: Sum,
    lane: usize,
    register: usize,
    word: u32,
    mut f: impl FnMut(usize, usize, f32),
) {
    let (g, t) = (lane / 4, lane % 4);
    match sum {
        Sum::F32 | Sum::S32 => {
            let (row, column) = (
                g + 8 * (register / 2 % 2),
                8 * (register / 4) + 2 * t + register % 2,
            );
            f(row, column, f32::from_bits(word));
        }
        Sum::F16 => {
            let (row, column) = (g + 8 * (register % 2), 8 * (register / 2) + 2 * t);
            f(row, column, Element::F16.value(word & 0xFFFF));
            f(row, column + 1, Element::F16.value(word >> 16));
        }
    }
}

/// The word of an accumulator register; the inverse of [`get_sums`].
#[inline(always)]
pub fn put_sums(sum: Sum, lane: usize, register: usize, f: impl Fn(usize, usize) -> f32) -> u32 {
    let mut word = 0;
    match sum {
        Sum::F32 | Sum::S32 => get_sums(sum, lane, register, 0, |row, column, _| {
            word = f(row, column).to_bits()
        }),
        Sum::F16 => get_sums(sum, lane, register, 0, |row, column, _| {
            // Columns come in order: the second moves the first down.
            word = word >> 16 | u32::from(half::f16::from_f32(f(row, column)).to_bits()) << 16;
        }),
    }
    word
}

/// `ldmatrix`: the word of `lane` from matrix rows of 16 bytes. `rows[r]` is row r of one 8×8
/// matrix of b16 as four words, read at the address of lane 8i + r for matrix i.
pub fn ldmatrix(rows: &[[u32; 4]; 8], transposed: bool, lane: usize) -> u32 {
    let element = |row: usize, column: usize| rows[row][column / 2] >> (16 * (column % 2)) & 0xFFFF;
    let (g, t) = (lane / 4, lane % 4);
    if transposed {
        element(2 * t, g) | element(2 * t + 1, g) << 16
    } else {
        rows[g][t]
    }
}

/// `stmatrix`: the rows that one register row of a warp makes; the inverse of [`ldmatrix`].
pub fn stmatrix(words: &Row, transposed: bool) -> [[u32; 4]; 8] {
    let mut rows = [[0; 4]; 8];
    for (lane, &word) in words.iter().enumerate() {
        let (g, t) = (lane / 4, lane % 4);
        if transposed {
            for (row, half) in [(2 * t, word & 0xFFFF), (2 * t + 1, word >> 16)] {
                rows[row][g / 2] |= half << (16 * (g % 2));
            }
        } else {
            rows[g][t] = word;
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Integers in every element: the fragment layout is right when the product is.
    #[test]
    fn products_of_integers() {
        let table = [
            ("m16n8k16", Element::Bf16, Sum::F32),
            ("m16n8k16", Element::F16, Sum::F32),
            ("m16n8k16", Element::F16, Sum::F16),
            ("m16n8k8", Element::Bf16, Sum::F32),
            ("m16n8k8", Element::F16, Sum::F16),
            ("m16n8k8", Element::Tf32, Sum::F32),
            ("m16n8k4", Element::Tf32, Sum::F32),
            ("m16n8k32", Element::E4m3, Sum::F32),
            ("m16n8k32", Element::E5m2, Sum::F16),
            ("m16n8k16", Element::E4m3, Sum::F16),
        ];
        for (shape, element, sum) in table {
            let mma = Mma::new(shape, element, sum).unwrap();
            let bits = |v: i32| match element {
                Element::Bf16 => u32::from(half::bf16::from_f32(v as f32).to_bits()),
                Element::F16 => u32::from(half::f16::from_f32(v as f32).to_bits()),
                Element::E5m2 => u32::from(half::f16::from_f32(v as f32).to_bits()) >> 8,
                Element::E4m3 => (0..256)
                    .find(|bits| Element::E4m3.value(*bits) == v as f32)
                    .unwrap(),
                _ => (v as f32).to_bits(),
            };
            let a_at = |row: usize, column: usize| (row * 3 + column * 5) as i32 % 7 - 3;
            let b_at = |row: usize, column: usize| (row * 5 + column * 2) as i32 % 9 - 4;
            let c_at = |row: usize, column: usize| (row * 11 + column) as i32 - 50;
            let mut a = vec![[0; 32]; mma.a_registers()];
            let mut b = vec![[0; 32]; mma.b_registers()];
            let mut c = vec![[0; 32]; mma.d_registers()];
            for lane in 0..32 {
                for (register, row) in a.iter_mut().enumerate() {
                    for_each_a(element, lane, register, |r, k, shift| {
                        row[lane] |= bits(a_at(r, k)) << shift
                    });
                }
                for (register, row) in b.iter_mut().enumerate() {
                    for_each_b(element, lane, register, |k, n, shift| {
                        row[lane] |= bits(b_at(k, n)) << shift
                    });
                }
                for (register, row) in c.iter_mut().enumerate() {
                    row[lane] = put_sums(sum, lane, register, |r, n| c_at(r, n) as f32);
                }
            }
            for model in [
                Accumulation::Ieee,
                Accumulation::Ampere,
                Accumulation::Hopper,
            ] {
                let mut d = vec![[0; 32]; mma.d_registers()];
                mma.execute(model, &a, &b, &c, &mut d);
                let mut seen = 0;
                for lane in 0..32 {
                    for (register, row) in d.iter().enumerate() {
                        get_sums(sum, lane, register, row[lane], |r, n, value| {
                            let want: i32 =
                                (0..mma.k).map(|k| a_at(r, k) * b_at(k, n)).sum::<i32>()
                                    + c_at(r, n);
                            assert_eq!(
                                value, want as f32,
                                "{shape} {element:?} {sum:?} {model:?} D[{r}][{n}]"
                            );
                            seen += 1;
                        });
                    }
                }
                assert_eq!(seen, 128);
            }
        }
    }

    #[test]
    fn every_place_is_held_once() {
        for (element, registers, columns) in [(Element::Bf16, 4, 16), (Element::Tf32, 4, 8)] {
            let mut held = vec![0; 16 * columns];
            for lane in 0..32 {
                for register in 0..registers {
                    for_each_a(element, lane, register, |row, column, _| {
                        held[row * columns + column] += 1
                    });
                }
            }
            assert!(held.iter().all(|&times| times == 1));
        }
    }

    #[test]
    fn ldmatrix_and_stmatrix_are_inverse() {
        let rows: [[u32; 4]; 8] = std::array::from_fn(|r| {
            std::array::from_fn(|w| (r * 8 + 2 * w) as u32 | ((r * 8 + 2 * w + 1) as u32) << 16)
        });
        assert_eq!(
            ldmatrix(&rows, false, 5),
            10 | 11 << 16,
            "row 1, columns 2 and 3"
        );
        assert_eq!(
            ldmatrix(&rows, true, 5),
            17 | 25 << 16,
            "column 1, rows 2 and 3"
        );
        for transposed in [false, true] {
            let words: Row = std::array::from_fn(|lane| ldmatrix(&rows, transposed, lane));
            assert_eq!(stmatrix(&words, transposed), rows);
        }
    }

    #[test]
    fn shapes_that_ptx_does_not_have() {
        assert_eq!(Mma::new("m16n8k16", Element::Tf32, Sum::F32), None);
        assert_eq!(Mma::new("m16n8k4", Element::Bf16, Sum::F32), None);
        assert_eq!(Mma::new("m16n8k16", Element::Bf16, Sum::F16), None);
    }
}
