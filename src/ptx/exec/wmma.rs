//! `wmma`: a warp's matrices from and to memory, and their products.

use super::access::{self, addresses, whole};
use super::warp::{ALL, Row, Warp, Wide};
use super::{Common, Stop, float};
use crate::ptx::program::op::{Element, Fragment, Number, Round, Space, Wmma};
use crate::ptx::tensor;
use crate::ptx::tensor::accumulate::{Shape, Sum, multiply_add, multiply_add_integers};

/// Executes it.
pub fn step(w: &mut Warp, common: &mut Common<'_>, active: u32, op: &Wmma) -> Result<(), Stop> {
    whole(w, active, "wmma")?;
    match op {
        Wmma::Move {
            store,
            space,
            by_column,
            fragment,
            at,
            stride,
        } => {
            let starts = addresses(w, common, *at);
            let strides = *w.r(common.entry, *stride);
            if starts.iter().any(|start| *start != starts[0])
                || strides.iter().any(|stride| *stride != strides[0])
            {
                return Err(Stop::warp("wmma's address or stride differs between lanes"));
            }
            let of = Memory {
                space: *space,
                by_column: *by_column,
                start: starts[0],
                stride: strides[0],
            };
            match store {
                true => write(w, common, fragment, &of),
                false => read(w, common, fragment, &of),
            }
        }
        Wmma::Multiply { clamp, d, a, b, c } => {
            multiply(w, common, *clamp, d, a, b, c);
            Ok(())
        }
    }
}

struct Memory {
    space: Space,
    by_column: bool,
    start: u64,
    stride: u32,
}

impl Memory {
    /// The addresses of each lane's element number `i`.
    fn at(&self, fragment: &Fragment, i: usize) -> Wide {
        let bytes = u64::from(fragment.number.bits() / 8);
        std::array::from_fn(|lane| {
            let element = element(fragment, lane, i) as u64;
            let columns = u64::from(fragment.columns);
            let (row, column) = (element / columns, element % columns);
            let (outer, inner) = match self.by_column {
                true => (column, row),
                false => (row, column),
            };
            self.start
                .wrapping_add(bytes * (outer * u64::from(self.stride) + inner))
        })
    }
}

/// Elements of a register.
fn per_register(fragment: &Fragment) -> usize {
    (32 / fragment.number.bits()).max(1) as usize
}

fn element(fragment: &Fragment, lane: usize, i: usize) -> usize {
    let own = per_register(fragment) * fragment.registers.len();
    (lane * own + i) % (fragment.rows * fragment.columns) as usize
}

fn read(
    w: &mut Warp,
    common: &mut Common<'_>,
    fragment: &Fragment,
    of: &Memory,
) -> Result<(), Stop> {
    let (per, bytes) = (per_register(fragment), fragment.number.bits() / 8);
    for (register, row) in fragment.registers.iter().enumerate() {
        let mut out: Row = [0; 32];
        let mut high: Row = [0; 32];
        for part in 0..per {
            let at = of.at(fragment, register * per + part);
            let mut words = [[0; 32]; 2];
            access::fetch(w, common, ALL, of.space, at, bytes, false, &mut words)?;
            let mask = u32::MAX >> (32 - 8 * bytes.min(4));
            for lane in 0..32 {
                out[lane] |= (words[0][lane] & mask) << (8 * bytes * part as u32 % 32);
            }
            high = words[1];
        }
        match bytes {
            8 => {
                let wide: Wide =
                    std::array::from_fn(|i| u64::from(out[i]) | u64::from(high[i]) << 32);
                w.put_wide(*row, &wide, ALL);
            }
            _ => w.put(*row, &out, ALL),
        }
    }
    Ok(())
}

fn write(
    w: &mut Warp,
    common: &mut Common<'_>,
    fragment: &Fragment,
    of: &Memory,
) -> Result<(), Stop> {
    let (per, bytes) = (per_register(fragment), fragment.number.bits() / 8);
    for (register, row) in fragment.registers.iter().enumerate() {
        for part in 0..per {
            let at = of.at(fragment, register * per + part);
            let words: [Row; 2] = match bytes {
                8 => {
                    let wide = w.w(common.entry, *row);
                    [wide.map(|x| x as u32), wide.map(|x| (x >> 32) as u32)]
                }
                _ => [
                    w.r(common.entry, *row)
                        .map(|x| x >> (8 * bytes * part as u32 % 32)),
                    [0; 32],
                ],
            };
            access::put(w, common, ALL, of.space, at, bytes, false, &words)?;
        }
    }
    Ok(())
}

/// The bits of each element, row-major.
fn gather(w: &Warp, common: &Common<'_>, fragment: &Fragment) -> Vec<u64> {
    let (per, bits) = (per_register(fragment), fragment.number.bits());
    let mut out = vec![0; (fragment.rows * fragment.columns) as usize];
    for (register, row) in fragment.registers.iter().enumerate() {
        for lane in 0..32 {
            for part in 0..per {
                let place = element(fragment, lane, register * per + part);
                out[place] = match bits {
                    64 => w.w(common.entry, *row)[lane],
                    _ => {
                        let word = w.r(common.entry, *row)[lane] >> (bits * part as u32 % 32);
                        u64::from(word & u32::MAX >> (32 - bits))
                    }
                };
            }
        }
    }
    out
}

fn scatter(w: &mut Warp, fragment: &Fragment, values: &[u64]) {
    let (per, bits) = (per_register(fragment), fragment.number.bits());
    for (register, row) in fragment.registers.iter().enumerate() {
        let wide: Wide = std::array::from_fn(|lane| {
            (0..per).fold(0, |word, part| {
                let value = values[element(fragment, lane, register * per + part)];
                word | value << (bits * part as u32 % 64)
            })
        });
        match bits {
            64 => w.put_wide(*row, &wide, ALL),
            _ => w.put(*row, &wide.map(|x| x as u32), ALL),
        }
    }
}

fn multiply(
    w: &mut Warp,
    common: &Common<'_>,
    clamp: bool,
    d: &Fragment,
    a: &Fragment,
    b: &Fragment,
    c: &Fragment,
) {
    let (left, right, old) = (
        gather(w, common, a),
        gather(w, common, b),
        gather(w, common, c),
    );
    let shape = Shape {
        m: d.rows as usize,
        n: d.columns as usize,
        k: a.columns as usize,
    };
    let f16 = Number::Element(Element::F16);
    let values: Vec<u64> = match (a.number, b.number) {
        (Number::Element(Element::F64), _) => {
            let of = |bits: u64| f64::from_bits(bits);
            (0..shape.m * shape.n)
                .map(|i| {
                    let (row, column) = (i / shape.n, i % shape.n);
                    let sum = (0..shape.k).fold(of(old[i]), |sum, k| {
                        let (l, r) = (left[row * shape.k + k], right[k * shape.n + column]);
                        of(l).mul_add(of(r), sum)
                    });
                    sum.to_bits()
                })
                .collect()
        }
        (Number::Element(Element::S8 | Element::U8), _) => {
            let value = |number: Number, bits: u64| match number {
                Number::Element(Element::S8) => i32::from(bits as u8 as i8),
                _ => i32::from(bits as u8),
            };
            let mut sums: Vec<i32> = old.iter().map(|bits| *bits as u32 as i32).collect();
            multiply_add_integers(
                shape,
                clamp,
                |i| value(a.number, left[i]),
                |i| value(b.number, right[i]),
                &mut sums,
            );
            sums.iter().map(|sum| u64::from(*sum as u32)).collect()
        }
        _ => {
            let element = |number: Number| match number {
                Number::Element(Element::F16) => tensor::Element::F16,
                Number::Element(Element::Bf16) => tensor::Element::Bf16,
                _ => tensor::Element::Tf32,
            };
            let mut sums: Vec<f32> = old
                .iter()
                .map(|bits| match c.number == f16 {
                    true => float::from_half(false, *bits as u16),
                    false => f32::from_bits(*bits as u32),
                })
                .collect();
            let narrow = |list: &[u64]| list.iter().map(|bits| *bits as u32).collect::<Vec<_>>();
            multiply_add(
                common.launch.options.mma,
                [element(a.number), element(b.number)],
                if d.number == f16 { Sum::F16 } else { Sum::F32 },
                shape,
                &narrow(&left),
                &narrow(&right),
                &mut sums,
            );
            sums.iter()
                .map(|sum| match d.number == f16 {
                    true => u64::from(float::to_half(false, *sum, Round::Near)),
                    false => u64::from(sum.to_bits()),
                })
                .collect()
        }
    };
    scatter(w, d, &values);
}
