//! Halves, alone and in pairs, and floats of 8 bits.

use half::{bf16, f16};

use super::{max, min, odd_sum, saturate, to_odd};
use crate::ptx::program::op::{Cmp, F1, F2, Float8, Half, Mods, Round};
use crate::ptx::tensor::Element;

/// A half as f32.
#[inline(always)]
pub fn from_half(brain: bool, x: u16) -> f32 {
    match brain {
        true => f32::from_bits(u32::from(x) << 16),
        false => f16::from_bits(x).to_f32(),
    }
}

/// f32 to a half.
#[inline(always)]
pub fn to_half(brain: bool, x: f32, round: Round) -> u16 {
    if x.is_nan() {
        return 0x7FFF;
    }
    if brain {
        let b = x.to_bits();
        return match round {
            Round::Zero => (b >> 16) as u16,
            Round::Near => ((b + 0x7FFF + (b >> 16 & 1)) >> 16) as u16,
            _ => bf16::from_f32(x).to_bits(),
        };
    }
    let r = f16::from_f32(x);
    let back = r.to_f32();
    // One step towards zero, up or down; the bits of a magnitude are in its order.
    let (smaller, larger) = (r.to_bits().wrapping_sub(1), r.to_bits().wrapping_add(1));
    match round {
        Round::Zero if back.abs() > x.abs() => smaller,
        Round::Down if back > x => {
            if r.to_bits() == 0 {
                0x8001
            } else if back > 0.0 {
                smaller
            } else {
                larger
            }
        }
        Round::Up if back < x => {
            if r.to_bits() == 0x8000 {
                1
            } else if back < 0.0 {
                smaller
            } else {
                larger
            }
        }
        _ => r.to_bits(),
    }
}

fn halves(h: Half, a: u32, f: impl Fn(u16) -> u16) -> u32 {
    let low = u32::from(f(a as u16));
    if h.packed {
        low | u32::from(f((a >> 16) as u16)) << 16
    } else {
        low
    }
}

fn end_half(h: Half, m: Mods, x: f32) -> u16 {
    let x = if m.sat { saturate(x) } else { x };
    let x = if m.relu && x <= 0.0 { 0.0 } else { x };
    let r = to_half(h.brain, x, Round::Near);
    if m.ftz && !h.brain && r & 0x7C00 == 0 {
        r & 0x8000
    } else {
        r
    }
}

fn start_half(h: Half, m: Mods, x: u16) -> f32 {
    from_half(
        h.brain,
        if m.ftz && !h.brain && x & 0x7C00 == 0 {
            x & 0x8000
        } else {
            x
        },
    )
}

/// Two halves (or pairs) to one.
pub fn two_halves(f: F2, h: Half, m: Mods, a: u32, b: u32) -> u32 {
    let lane = |a: u16, b: u16| {
        let (x, y) = (start_half(h, m, a), start_half(h, m, b));
        end_half(
            h,
            m,
            match f {
                F2::Add => x + y,
                F2::Sub => x - y,
                F2::Mul => x * y,
                F2::Min => min(x, y, m.nan),
                F2::Max => max(x, y, m.nan),
                F2::Div | F2::Copysign => f32::NAN,
            },
        )
    };
    let low = u32::from(lane(a as u16, b as u16));
    if h.packed {
        low | u32::from(lane((a >> 16) as u16, (b >> 16) as u16)) << 16
    } else {
        low
    }
}

/// fma of halves.
pub fn fma_halves(h: Half, m: Mods, a: u32, b: u32, c: u32) -> u32 {
    let lane = |a: u16, b: u16, c: u16| {
        let wide = |x| f64::from(start_half(h, m, x));
        // To odd once more on the way: f32 has more than twice a half's digits, and two.
        end_half(h, m, to_odd(odd_sum(wide(a) * wide(b), wide(c))))
    };
    let low = u32::from(lane(a as u16, b as u16, c as u16));
    match h.packed {
        true => low | u32::from(lane((a >> 16) as u16, (b >> 16) as u16, (c >> 16) as u16)) << 16,
        false => low,
    }
}

/// One half (or pair) to one.
pub fn one_half(f: F1, h: Half, m: Mods, a: u32) -> u32 {
    halves(h, a, |x| match f {
        F1::Neg => x ^ 0x8000,
        F1::Abs => x & 0x7FFF,
        F1::Ex2 => end_half(h, m, f64::from(start_half(h, m, x)).exp2() as f32),
        F1::Tanh => end_half(h, m, f64::from(start_half(h, m, x)).tanh() as f32),
        _ => 0x7FFF,
    })
}

/// f32 to a float of 8 bits: to nearest, the largest finite value beyond the range.
pub fn to_float8(kind: Float8, relu: bool, x: f32) -> u32 {
    if x.is_nan() {
        return 0x7F;
    }
    if relu && x <= 0.0 {
        return 0;
    }
    // Digits behind the point, the least exponent, the largest value's bits.
    let (digits, least, most) = match kind {
        Float8::E4m3 => (3, -6, 0x7E),
        Float8::E5m2 => (2, -14, 0x7B),
    };
    let size = f64::from(x.abs());
    let exponent = ((size.to_bits() >> 52) as i32 - 1023).max(least);
    // Exact but for the rounding: a power of two's quotient.
    let units = (size / 2f64.powi(exponent - digits)).round_ties_even() as u64;
    let bits = (((exponent - least) as u64) << digits) + units;
    let sign = u32::from(x.is_sign_negative()) << 7;
    sign | bits.min(most) as u32
}

/// A float of 8 bits to f16.
pub fn from_float8(kind: Float8, relu: bool, x: u32) -> u32 {
    let element = match kind {
        Float8::E4m3 => Element::E4m3,
        Float8::E5m2 => Element::E5m2,
    };
    let value = element.value(x & 0xFF);
    let value = if relu && value <= 0.0 { 0.0 } else { value };
    u32::from(to_half(false, value, Round::Near))
}

/// Compares two halves.
pub fn compare_halves(brain: bool, cmp: Cmp, ftz: bool, a: u16, b: u16) -> bool {
    let value = |x: u16| {
        let x = from_half(brain, x);
        if ftz && !brain && x.abs() < 2f32.powi(-14) {
            0.0
        } else {
            x
        }
    };
    let (a, b) = (value(a), value(b));
    let strange = a.is_nan() || b.is_nan();
    match cmp {
        Cmp::Eq => a == b,
        // False for NaN.
        Cmp::Ne => (a < b) | (a > b),
        Cmp::Lt => a < b,
        Cmp::Le => a <= b,
        Cmp::Gt => a > b,
        Cmp::Ge => a >= b,
        Cmp::Equ => a == b || strange,
        Cmp::Neu => a != b,
        Cmp::Ltu => a < b || strange,
        Cmp::Leu => a <= b || strange,
        Cmp::Gtu => a > b || strange,
        Cmp::Geu => a >= b || strange,
        Cmp::Num => !strange,
        Cmp::Nan => strange,
    }
}
