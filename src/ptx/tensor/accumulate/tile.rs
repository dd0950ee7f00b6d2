//! Eight columns at a time, in shapes that the compiler makes vectors of.

use super::{Accumulation, Fused, Sum, not_finite};
use crate::ptx::tensor::element::{Element, ZERO_EXPONENT};

/// Columns of a tile: those of `mma.sync`.
pub const COLUMNS: usize = 8;

type Columns<T> = [T; COLUMNS];

/// `d += a · b` of the first `k` terms: rows of A, rows of B (terms) and rows of D of eight columns.
pub fn tile<const K: usize>(
    model: Accumulation,
    [element, right_element]: [Element; 2],
    sum: Sum,
    k: usize,
    a: &[[u32; K]],
    b: &[Columns<u32>; K],
    d: &mut [Columns<f32>],
) {
    let k = k.min(K);
    let mut right = [[0.0; COLUMNS]; K];
    for (values, bits) in right.iter_mut().zip(b) {
        values_of(right_element, bits, values);
    }
    let Some(fused) = model.fused(element) else {
        for (d, bits) in d.iter_mut().zip(a) {
            let mut left = [0.0; K];
            values_of(element, bits, &mut left);
            let mut sums = *d;
            for (left, right) in left.iter().zip(&right).take(k) {
                for (sum, right) in sums.iter_mut().zip(right) {
                    *sum += left * right;
                }
            }
            if sum == Sum::F16 {
                sums = sums.map(|sum| half::f16::from_f32(sum).to_f32());
            }
            *d = sums;
        }
        return;
    };
    let finite = |rows: &[Columns<f32>]| -> bool { rows.iter().flatten().all(|v| v.is_finite()) };
    let plain = finite(&right);
    let mut exponents = [[0; COLUMNS]; K];
    for (exponents, bits) in exponents.iter_mut().zip(b) {
        exponents_of(right_element, bits, exponents);
    }
    for (d, bits) in d.iter_mut().zip(a) {
        let (mut left, mut left_exponents) = ([0.0; K], [0; K]);
        values_of(element, bits, &mut left);
        exponents_of(element, bits, &mut left_exponents);
        if plain && left.iter().chain(d.iter()).all(|v| v.is_finite()) {
            for start in (0..k).step_by(fused.terms) {
                let terms = start..(start + fused.terms).min(k);
                let left = (&left[terms.clone()], &left_exponents[terms.clone()]);
                block(
                    fused,
                    sum,
                    left,
                    (&right[terms.clone()], &exponents[terms]),
                    d,
                );
                if !d.iter().all(|v| v.is_finite()) {
                    break;
                }
            }
            continue;
        }
        for (column, d) in d.iter_mut().enumerate() {
            let strange = !left[..k].iter().all(|v| v.is_finite())
                || !right[..k].iter().all(|row| row[column].is_finite());
            if strange || !d.is_finite() {
                *d = not_finite(&left[..k], |term| right[term][column], *d);
                continue;
            }
            let mut all = [0.0; COLUMNS];
            for start in (0..k).step_by(fused.terms) {
                let terms = start..(start + fused.terms).min(k);
                all[column] = *d;
                let left = (&left[terms.clone()], &left_exponents[terms.clone()]);
                let only = |row: &Columns<f32>| {
                    let mut one = [0.0; COLUMNS];
                    one[column] = row[column];
                    one
                };
                let right: Vec<_> = right[terms.clone()].iter().map(only).collect();
                block(fused, sum, left, (&right, &exponents[terms]), &mut all);
                *d = all[column];
                if !d.is_finite() {
                    break;
                }
            }
        }
    }
}

/// One fused addition: terms and accumulator are cut at the same place and added exactly.
fn block(
    fused: Fused,
    sum: Sum,
    (left, left_exponents): (&[f32], &[i32]),
    (right, right_exponents): (&[Columns<f32>], &[Columns<i32>]),
    d: &mut Columns<f32>,
) {
    let mut top = d.map(|d| accumulator_exponent(d, sum));
    for (left, right) in left_exponents.iter().zip(right_exponents) {
        for (top, right) in top.iter_mut().zip(right) {
            *top = (*top).max(left + right);
        }
    }
    // Exact in f64: products of 22 bits times powers of two, whose sums have 32.
    let scale = top.map(|top| power_of_two(fused.fraction - top));
    let mut total = [0.0f64; COLUMNS];
    for j in 0..COLUMNS {
        total[j] = f64::from((f64::from(d[j]) * scale[j]) as i32);
    }
    for (left, right) in left.iter().zip(right) {
        let left = f64::from(*left);
        for j in 0..COLUMNS {
            let term = left * f64::from(right[j]) * scale[j];
            total[j] += f64::from(term as i32);
        }
    }
    for j in 0..COLUMNS {
        let value = total[j] * power_of_two(top[j] - fused.fraction);
        d[j] = match sum {
            Sum::F16 => half::f16::from_f64(value).to_f32(),
            _ => towards_zero(value, fused.kept),
        };
    }
}

fn power_of_two(exponent: i32) -> f64 {
    f64::from_bits(((1023 + exponent) as u64) << 52)
}

/// Cut to f32 with `kept` fraction bits; too large becomes infinity, an exact zero +0.
fn towards_zero(value: f64, kept: u32) -> f32 {
    let near = value as f32;
    let cut = match f64::from(near).abs() > value.abs() && value.abs() < 2f64.powi(128) {
        true => f32::from_bits(near.to_bits() - 1),
        false => near,
    };
    let cut = match cut.is_finite() {
        true => f32::from_bits(cut.to_bits() >> (23 - kept) << (23 - kept)),
        false => cut,
    };
    if cut == 0.0 { 0.0 } else { cut }
}

/// The exponent that an accumulator takes part in the alignment with.
fn accumulator_exponent(c: f32, sum: Sum) -> i32 {
    let bits = c.to_bits();
    let exponent = ((bits >> 23 & 0xFF) as i32).max(1) - 127;
    // An f16 subnormal is a normal f32: it aligns with f16's smallest exponent.
    match bits << 1 {
        0 => ZERO_EXPONENT,
        _ if sum == Sum::F16 => exponent.max(-14),
        _ => exponent,
    }
}

/// The values of elements.
fn values_of<const N: usize>(element: Element, bits: &[u32; N], out: &mut [f32; N]) {
    match element {
        Element::Bf16 => *out = bits.map(|x| f32::from_bits(x << 16)),
        Element::Tf32 => *out = bits.map(|x| f32::from_bits(x & 0xFFFF_E000)),
        Element::F16 => *out = bits.map(half_value),
        _ => *out = bits.map(|x| element.value(x)),
    }
}

/// An f16 in f32: its digits moved, its exponent by a product that is exact even for subnormals.
#[inline(always)]
fn half_value(x: u32) -> f32 {
    let size = (x & 0x7FFF) << 13;
    let value = (f32::from_bits(size) * f32::from_bits(0x7780_0000)).to_bits();
    let strange = size | 0x7F80_0000;
    let value = if size >= 0x0F80_0000 { strange } else { value };
    f32::from_bits(value | (x & 0x8000) << 16)
}

/// The exponents of elements, as [`Element::parts`] has them.
fn exponents_of<const N: usize>(element: Element, bits: &[u32; N], out: &mut [i32; N]) {
    let (shift, mask, bias, zero) = match element {
        Element::Bf16 => (7, 0xFF, 127, 0x7FFF),
        Element::Tf32 => (23, 0xFF, 127, 0x7FFF_E000),
        Element::F16 => (10, 0x1F, 15, 0x7FFF),
        _ => {
            *out = bits.map(|x| element.parts(x).1);
            return;
        }
    };
    *out = bits.map(|x| {
        let exponent = ((x >> shift & mask) as i32).max(1) - bias;
        if x & zero == 0 {
            ZERO_EXPONENT
        } else {
            exponent
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_ways_are_the_long_ones() {
        for x in 0..=0xFFFFu32 {
            let (short, long) = (half_value(x), Element::F16.value(x));
            assert!(short == long || (short.is_nan() && long.is_nan()), "{x:#x}");
            for element in [Element::F16, Element::Bf16] {
                let mut exponent = [0];
                exponents_of(element, &[x], &mut exponent);
                if element.value(x).is_finite() {
                    assert_eq!(exponent[0], element.parts(x).1, "{element:?} {x:#x}");
                }
            }
            let tf32 = x << 16 | 0x2000;
            let mut exponent = [0];
            exponents_of(Element::Tf32, &[tf32], &mut exponent);
            assert_eq!(exponent[0], Element::Tf32.parts(tf32).1, "{tf32:#x}");
        }
        for (value, kept, want) in [
            (1.0 + 2f64.powi(-24), 23, 1.0),
            (-(2.0 - 2f64.powi(-30)), 23, -1.999_999_9),
            (1.999, 13, 1.998_901_4),
            (f64::from(f32::MAX) * 1.000_000_01, 23, f32::MAX),
            (2f64.powi(128), 23, f32::INFINITY),
            (2f64.powi(-149) * 1.9, 23, f32::from_bits(1)),
        ] {
            assert_eq!(towards_zero(value, kept), want);
        }
    }
}
