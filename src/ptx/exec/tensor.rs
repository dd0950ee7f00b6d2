//! `ldmatrix`, `stmatrix`, `mma.sync`.

use super::access::{shared_address, shared_wrong, whole};
use super::warp::{ALL, Row, Warp};
use super::{Common, Stop, access};
use crate::ptx::program::op::{Addr, Element, Mma, R};
use crate::ptx::tensor::accumulate::Sum;
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
    let element = match op.a_type {
        Element::S8 | Element::U8 => return integer_mma(w, common, op),
        Element::F16 => tensor::Element::F16,
        Element::Bf16 => tensor::Element::Bf16,
        Element::Tf32 => tensor::Element::Tf32,
    };
    let sum = if op.half_sums { Sum::F16 } else { Sum::F32 };
    let shape = fragment::Mma {
        element,
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

fn integer_mma(w: &mut Warp, common: &Common<'_>, op: &Mma) -> Result<(), Stop> {
    let e = common.entry;
    let value = |signed: bool, word: u32, part: usize| {
        let byte = (word >> (8 * part)) as u8;
        if signed {
            i32::from(byte as i8)
        } else {
            i32::from(byte)
        }
    };
    let (sa, sb) = (op.a_type == Element::S8, op.b_type == Element::S8);
    let mut a = [[0i32; 32]; 16];
    for (i, row) in op.a.iter().enumerate() {
        let words = w.r(e, *row);
        for lane in 0..32 {
            for part in 0..4 {
                a[lane / 4 + 8 * (i % 2)][16 * (i / 2) + 4 * (lane % 4) + part] =
                    value(sa, words[lane], part);
            }
        }
    }
    let mut b = [[0i32; 8]; 32];
    for (i, row) in op.b.iter().enumerate() {
        let words = w.r(e, *row);
        for lane in 0..32 {
            for part in 0..4 {
                b[16 * i + 4 * (lane % 4) + part][lane / 4] = value(sb, words[lane], part);
            }
        }
    }
    let c: Vec<Row> = op.c.iter().map(|row| *w.r(e, *row)).collect();
    for (i, row) in op.d.iter().enumerate() {
        let mut out: Row = [0; 32];
        for (lane, out) in out.iter_mut().enumerate() {
            let (r, column) = (lane / 4 + 8 * (i / 2), 2 * (lane % 4) + i % 2);
            *out = (0..op.k as usize).fold(c[i][lane], |sum, k| {
                sum.wrapping_add((a[r][k] * b[k][column]) as u32)
            });
        }
        w.put(*row, &out, ALL);
    }
    Ok(())
}
