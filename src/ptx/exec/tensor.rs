//! `ldmatrix`, `stmatrix`, `mma.sync`.

use super::access::{shared_address, shared_wrong, whole};
use super::warp::{ALL, Row, Warp, Wide};
use super::{Common, Stop, access};
use crate::ptx::program::op::{Addr, Element, Float8, Mma, R};
use crate::ptx::tensor::accumulate::{Shape, Sum, multiply_add_integers};
use crate::ptx::tensor::{self, fragment};

/// Matrices of 8 × 8 halves from rows of 16 bytes; lane 8 m + r has the address of row r of matrix m.
pub fn ldmatrix(
    w: &mut Warp,
    common: &mut Common<'_>,
    active: u32,
    count: u8,
    transposed: bool,
    d: &[R; 4],
    at: Addr,
) -> Result<(), Stop> {
    whole(w, active, "ldmatrix")?;
    let addresses = access::addresses(w, common, at);
    let count = usize::from(count);
    if common.counting {
        let lanes = if count == 4 {
            ALL
        } else {
            (1 << (8 * count)) - 1
        };
        access::count_banks(common, lanes, &addresses, 16);
    }
    for (m, d) in d.iter().enumerate().take(count) {
        let mut rows = [[0u32; 4]; 8];
        for (r, row) in rows.iter_mut().enumerate() {
            let lane = (8 * m + r) as u32;
            let start =
                shared_address(common, lane, "ldmatrix from", addresses[lane as usize], 16)?;
            for (word, value) in row.iter_mut().enumerate() {
                let address = start + 4 * word as u32;
                // Each lane reads its own fragment: the word of row r goes to lane 4 r + word, or,
                // transposed, its halves to two lanes of which this is the first.
                let reader = if transposed {
                    8 * word + r / 2
                } else {
                    4 * r + word
                } as u32;
                let who = common.who(w, reader);
                common
                    .shared
                    .read(address, 4, who, &common.clocks)
                    .map_err(|wrong| {
                        Stop::lane(lane, shared_wrong(common, "ldmatrix from", address, wrong))
                    })?;
                *value = common.shared.word(address as usize / 4);
            }
        }
        let mut out: Row = [0; 32];
        if transposed {
            let half = |r: usize, c: usize| rows[r][c / 2] >> (16 * (c % 2)) & 0xFFFF;
            for (lane, out) in out.iter_mut().enumerate() {
                let (r, c) = (lane / 4, 2 * (lane % 4));
                *out = half(c, r) | half(c + 1, r) << 16;
            }
        } else {
            out.copy_from_slice(rows.as_flattened());
        }
        w.put(*d, &out, ALL);
    }
    Ok(())
}

/// The inverse of [`ldmatrix`].
pub fn stmatrix(
    w: &mut Warp,
    common: &mut Common<'_>,
    active: u32,
    count: u8,
    transposed: bool,
    s: &[R; 4],
    at: Addr,
) -> Result<(), Stop> {
    whole(w, active, "stmatrix")?;
    let addresses = access::addresses(w, common, at);
    let count = usize::from(count);
    if common.counting {
        let lanes = if count == 4 {
            ALL
        } else {
            (1 << (8 * count)) - 1
        };
        access::count_banks(common, lanes, &addresses, 16);
    }
    for (m, s) in s.iter().enumerate().take(count) {
        let values = *w.r(common.entry, *s);
        for r in 0..8 {
            let lane = (8 * m + r) as u32;
            let start = shared_address(common, lane, "stmatrix to", addresses[lane as usize], 16)?;
            for word in 0..4 {
                let value = if transposed {
                    let half = |c: usize| values[4 * c + r / 2] >> (16 * (r % 2)) & 0xFFFF;
                    half(2 * word) | half(2 * word + 1) << 16
                } else {
                    values[4 * r + word]
                };
                let address = start + 4 * word as u32;
                let who = common.who(w, (4 * r + word) as u32);
                common
                    .shared
                    .write(address, 4, who, &common.clocks)
                    .map_err(|wrong| {
                        Stop::lane(lane, shared_wrong(common, "stmatrix to", address, wrong))
                    })?;
                *common.shared.word_mut(address as usize / 4) = value;
            }
        }
    }
    Ok(())
}

/// D = A B + C of one warp, as [`fragment`](crate::ptx::tensor::fragment) lays it out.
pub fn mma(w: &mut Warp, common: &mut Common<'_>, active: u32, op: &Mma) -> Result<(), Stop> {
    whole(w, active, "mma.sync")?;
    if !common.launch.options.products {
        for (d, c) in op.d.iter().zip(&op.c) {
            let kept = *w.r(common.entry, *c);
            w.put(*d, &kept, ALL);
        }
        return Ok(());
    }
    let float = |element: Element| match element {
        Element::F16 => tensor::Element::F16,
        Element::Bf16 => tensor::Element::Bf16,
        Element::Float8(Float8::E4m3) => tensor::Element::E4m3,
        Element::Float8(Float8::E5m2) => tensor::Element::E5m2,
        _ => tensor::Element::Tf32,
    };
    match op.a_type {
        Element::F64 => {
            wide_mma(w, common, op);
            return Ok(());
        }
        Element::S8 | Element::U8 | Element::S4 | Element::U4 => {
            integer_mma(w, common, op);
            return Ok(());
        }
        _ => {}
    }
    let sum = if op.half_sums { Sum::F16 } else { Sum::F32 };
    let shape = fragment::Mma {
        element: float(op.a_type),
        right: float(op.b_type),
        sum,
        k: op.k as usize,
    };
    let rows = |list: &[R]| -> [Row; 4] {
        std::array::from_fn(|i| list.get(i).map_or([0; 32], |row| *w.r(common.entry, *row)))
    };
    let (a, b, c) = (rows(&op.a), rows(&op.b), rows(&op.c));
    let mut d = [[0; 32]; 4];
    shape.execute(common.launch.options.mma, &a, &b, &c, &mut d);
    for (row, value) in op.d.iter().zip(&d) {
        w.put(*row, value, ALL);
    }
    Ok(())
}

/// Registers of A and of C come in pairs of rows 8 apart where there are 16 rows.
fn pairs(op: &Mma) -> usize {
    op.m as usize / 8
}

/// Products of f64: fused, one after the other.
fn wide_mma(w: &mut Warp, common: &Common<'_>, op: &Mma) {
    let e = common.entry;
    let (k, pairs) = (op.k as usize, pairs(op));
    let (mut a, mut b) = ([[0f64; 16]; 16], [[0f64; 8]; 16]);
    for (i, row) in op.a.iter().enumerate() {
        for (lane, bits) in w.w(e, *row).iter().enumerate() {
            a[lane / 4 + 8 * (i % pairs)][4 * (i / pairs) + lane % 4] = f64::from_bits(*bits);
        }
    }
    for (i, row) in op.b.iter().enumerate() {
        for (lane, bits) in w.w(e, *row).iter().enumerate() {
            b[4 * i + lane % 4][lane / 4] = f64::from_bits(*bits);
        }
    }
    let c: Vec<Wide> = op.c.iter().map(|row| *w.w(e, *row)).collect();
    for (i, row) in op.d.iter().enumerate() {
        let mut out: Wide = [0; 32];
        for (lane, out) in out.iter_mut().enumerate() {
            let (r, column) = (lane / 4 + 8 * (i / 2), 2 * (lane % 4) + i % 2);
            let sum = (0..k).fold(f64::from_bits(c[i][lane]), |sum, term| {
                a[r][term].mul_add(b[term][column], sum)
            });
            *out = sum.to_bits();
        }
        w.put_wide(*row, &out, ALL);
    }
}

/// Products of integers of 8 or 4 bits.
fn integer_mma(w: &mut Warp, common: &Common<'_>, op: &Mma) {
    let e = common.entry;
    let (k, pairs) = (op.k as usize, pairs(op));
    let bits = match op.a_type {
        Element::S4 | Element::U4 => 4,
        _ => 8,
    };
    let per_word = 32 / bits;
    let value = |signed: bool, word: u32, part: usize| {
        let high = word << (32 - bits - bits * part);
        match signed {
            true => high as i32 >> (32 - bits),
            false => (high >> (32 - bits)) as i32,
        }
    };
    let signed = |element: Element| matches!(element, Element::S8 | Element::S4);
    let (sa, sb) = (signed(op.a_type), signed(op.b_type));
    let (mut a, mut b) = ([0i32; 16 * 64], [0i32; 64 * 8]);
    for (i, row) in op.a.iter().enumerate() {
        for (lane, word) in w.r(e, *row).iter().enumerate() {
            for part in 0..per_word {
                let column = per_word * (4 * (i / pairs) + lane % 4) + part;
                a[(lane / 4 + 8 * (i % pairs)) * k + column] = value(sa, *word, part);
            }
        }
    }
    for (i, row) in op.b.iter().enumerate() {
        for (lane, word) in w.r(e, *row).iter().enumerate() {
            for part in 0..per_word {
                let line = per_word * (4 * i + lane % 4) + part;
                b[line * 8 + lane / 4] = value(sb, *word, part);
            }
        }
    }
    let place = |i: usize, lane: usize| 8 * (lane / 4 + 8 * (i / 2)) + 2 * (lane % 4) + i % 2;
    let mut sums = [0i32; 16 * 8];
    for (i, row) in op.c.iter().enumerate() {
        for (lane, word) in w.r(e, *row).iter().enumerate() {
            sums[place(i, lane)] = *word as i32;
        }
    }
    let shape = Shape {
        m: op.m as usize,
        n: 8,
        k,
    };
    multiply_add_integers(shape, op.finite, |i| a[i], |i| b[i], &mut sums);
    for (i, row) in op.d.iter().enumerate() {
        let out: Row = std::array::from_fn(|lane| sums[place(i, lane)] as u32);
        w.put(*row, &out, ALL);
    }
}
