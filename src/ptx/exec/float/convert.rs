//! Conversions between any two types.

use super::{NAN, bits, directed, flush, from_half, odd_sum, saturate, to_half, to_odd};
use crate::ptx::program::op::{Cvt, Round, Ty};

fn round_to_integer(x: f64, round: Round) -> f64 {
    match round {
        Round::Near => x.round_ties_even(),
        Round::Away => x.round(),
        Round::Zero => x.trunc(),
        Round::Down => x.floor(),
        Round::Up => x.ceil(),
    }
}

/// f32 to tf32, its lower 13 bits zero.
pub fn to_tf32(x: u32, c: &Cvt) -> u32 {
    if f32::from_bits(x).is_nan() {
        return NAN & !0x1FFF | 0x1FFF;
    }
    if c.relu && f32::from_bits(x) <= 0.0 {
        return 0;
    }
    let infinity = x & 0x8000_0000 | 0x7F80_0000;
    let r = match c.round {
        _ if x == infinity => x,
        Round::Away => x.wrapping_add(0x1000) & !0x1FFF,
        Round::Near => x.wrapping_add(0xFFF + (x >> 13 & 1)) & !0x1FFF,
        _ => x & !0x1FFF,
    };
    if c.finite && r == infinity {
        infinity - 0x2000
    } else {
        r
    }
}

/// The range of an integer type.
fn range(ty: Ty) -> (i128, i128) {
    let bits = 8 * ty.bytes();
    match ty.signed() {
        true => (-(1 << (bits - 1)), (1 << (bits - 1)) - 1),
        false => (0, (1 << bits) - 1),
    }
}

/// The value of an integer type in a register.
fn integer(ty: Ty, raw: u64) -> i128 {
    let shift = 64 - 8 * ty.bytes();
    match ty.signed() {
        true => i128::from((raw << shift) as i64 >> shift),
        false => i128::from(raw << shift >> shift),
    }
}

/// Any conversion, bits to bits.
pub fn convert(c: &Cvt, raw: u64) -> u64 {
    if !c.from.float() {
        let value = integer(c.from, raw);
        if !c.to.float() {
            let (low, high) = range(c.to);
            let value = if c.sat { value.clamp(low, high) } else { value };
            // Cut to the type, then extended again as its sign says.
            let cut = integer(c.to, value as u64) as u64;
            return if c.to.bytes() < 8 {
                cut & 0xFFFF_FFFF
            } else {
                cut
            };
        }
        return integer_to_float(c, value);
    }
    let value = match c.from {
        Ty::F32 => f64::from(f32::from_bits(if c.ftz {
            flush(raw as u32)
        } else {
            raw as u32
        })),
        Ty::F64 => f64::from_bits(raw),
        Ty::F16 => f64::from(from_half(false, raw as u16)),
        _ => f64::from(from_half(true, raw as u16)),
    };
    if !c.to.float() {
        let (low, high) = range(c.to);
        if value.is_nan() {
            // sm_80 and later: 0 for narrow types, the top bit for wide ones (PTX ISA, cvt).
            return match c.to.bytes() {
                8 => 1 << 63,
                _ if c.to.bytes() == 4 && c.from == Ty::F64 => 0x8000_0000,
                _ => 0,
            };
        }
        let rounded = round_to_integer(value, c.round);
        let cut = (rounded as i128).clamp(low, high);
        let bits = integer(c.to, cut as u64) as u64;
        return if c.to.bytes() < 8 {
            bits & 0xFFFF_FFFF
        } else {
            bits
        };
    }
    let value = if c.integer {
        round_to_integer(value, c.round)
    } else {
        value
    };
    let round = if c.integer { Round::Near } else { c.round };
    match c.to {
        Ty::F64 => {
            let value = if c.sat {
                f64::from(saturate(value as f32))
            } else {
                value
            };
            value.to_bits()
        }
        Ty::Tf32 => u64::from(to_tf32(raw as u32, c)),
        Ty::F32 => {
            // Nothing is rounded where both are f32: a NaN's bits pass through.
            let narrow = directed(value, 0.0, round);
            let narrow = if c.sat { saturate(narrow) } else { narrow };
            let out = bits(narrow);
            u64::from(if c.ftz { flush(out) } else { out })
        }
        _ => {
            // From f64: to odd f32 first, so that it is rounded once.
            let narrow = to_odd(value);
            let narrow = if c.sat { saturate(narrow) } else { narrow };
            let narrow = if c.relu && narrow <= 0.0 { 0.0 } else { narrow };
            let narrow = if c.finite {
                finite(c.to, narrow)
            } else {
                narrow
            };
            u64::from(to_half(c.to == Ty::Bf16, narrow, round))
        }
    }
}

/// At most a half's largest finite value.
pub fn finite(to: Ty, x: f32) -> f32 {
    let most = match to {
        Ty::F16 | Ty::F16x2 => half::f16::MAX.to_f32(),
        _ => half::bf16::MAX.to_f32(),
    };
    if x.is_nan() { x } else { x.clamp(-most, most) }
}

fn integer_to_float(c: &Cvt, value: i128) -> u64 {
    // An f64 and what it lost are the integer exactly: both have at most 53 bits of 64.
    let s = value as f64;
    let e = (value - s as i128) as f64;
    match c.to {
        Ty::F64 => {
            let r = match c.round {
                Round::Zero if s > 0.0 && e < 0.0 => s.next_down(),
                Round::Zero if s < 0.0 && e > 0.0 => s.next_up(),
                Round::Down if e < 0.0 => s.next_down(),
                Round::Up if e > 0.0 => s.next_up(),
                _ => s,
            };
            r.to_bits()
        }
        Ty::F32 => {
            let r = directed(s, e, c.round);
            u64::from((if c.sat { saturate(r) } else { r }).to_bits())
        }
        _ => {
            let narrow = to_odd(odd_sum(s, e));
            u64::from(to_half(c.to == Ty::Bf16, narrow, c.round))
        }
    }
}
