//! Floats of one lane, as the PTX manual says: canonical NaNs, flushed denormals, directed rounding.

use half::{bf16, f16};

use crate::ptx::program::op::{Cvt, F1, F2, Half, Mods, Round, Ty};

/// What arithmetic in f32 gives for NaN.
pub const NAN: u32 = 0x7FFF_FFFF;

/// The bits of a result.
#[inline(always)]
pub fn bits(x: f32) -> u32 {
    if x.is_nan() { NAN } else { x.to_bits() }
}

/// Denormals to zero of the same sign.
#[inline(always)]
pub fn flush(x: u32) -> u32 {
    if x & 0x7F80_0000 == 0 {
        x & 0x8000_0000
    } else {
        x
    }
}

/// a × b + c in f64, rounded to odd: rounding it again to f32 is rounding once.
#[inline(always)]
fn odd_sum(p: f64, c: f64) -> f64 {
    let (s, e) = two_sum(p, c);
    let bits = s.to_bits();
    let inexact = (e > 0.0) | (e < 0.0);
    let up = (e > 0.0) == (s > 0.0);
    let step = if up { 1u64 } else { u64::MAX };
    let even = bits & 1 == 0;
    f64::from_bits(if inexact & even {
        bits.wrapping_add(step)
    } else {
        bits
    })
}

/// The sum and what rounding lost of it (Knuth).
#[inline(always)]
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let s = a + b;
    let t = s - a;
    (s, (a - (s - t)) + (b - t))
}

/// fma of f32, rounded to nearest.
#[inline(always)]
pub fn fma(a: u32, b: u32, c: u32) -> u32 {
    let p = f64::from(f32::from_bits(a)) * f64::from(f32::from_bits(b));
    bits(odd_sum(p, f64::from(f32::from_bits(c))) as f32)
}

/// s + e, where e is what rounding to s lost, rounded to f32.
fn directed(s: f64, e: f64, round: Round) -> f32 {
    if round == Round::Near {
        return odd_sum(s, e) as f32;
    }
    let r = s as f32;
    if !s.is_finite() {
        return r;
    }
    let d = s - f64::from(r);
    let d = if d == 0.0 { e } else { d };
    match round {
        Round::Zero if r > 0.0 && d < 0.0 => r.next_down(),
        Round::Zero if r < 0.0 && d > 0.0 => r.next_up(),
        Round::Down if d < 0.0 => r.next_down(),
        Round::Up if d > 0.0 => r.next_up(),
        _ => r,
    }
}

fn directed_sum(a: f64, b: f64, round: Round) -> f32 {
    let (s, e) = two_sum(a, b);
    let both_positive = a.is_sign_positive() && b.is_sign_positive();
    if s == 0.0 && round == Round::Down && !both_positive {
        return -0.0;
    }
    directed(s, e, round)
}

fn saturate(x: f32) -> f32 {
    // Also what NaN becomes.
    if x > 0.0 { x.min(1.0) } else { 0.0 }
}

fn finish(x: f32, m: Mods) -> u32 {
    let x = if m.sat { saturate(x) } else { x };
    let x = bits(x);
    if m.ftz { flush(x) } else { x }
}

#[inline(always)]
fn less(a: f32, b: f32) -> bool {
    a < b || (a == b && a.is_sign_negative() && b.is_sign_positive())
}

/// The smaller of two; a number wins over NaN unless `nan`.
#[inline(always)]
pub fn min(a: f32, b: f32, nan: bool) -> f32 {
    match (a.is_nan(), b.is_nan()) {
        (true, true) => f32::NAN,
        (true, false) => {
            if nan {
                a
            } else {
                b
            }
        }
        (false, true) => {
            if nan {
                b
            } else {
                a
            }
        }
        _ => {
            if less(b, a) {
                b
            } else {
                a
            }
        }
    }
}

/// The larger of two.
#[inline(always)]
pub fn max(a: f32, b: f32, nan: bool) -> f32 {
    match (a.is_nan(), b.is_nan()) {
        (true, true) => f32::NAN,
        (true, false) => {
            if nan {
                a
            } else {
                b
            }
        }
        (false, true) => {
            if nan {
                b
            } else {
                a
            }
        }
        _ => {
            if less(a, b) {
                b
            } else {
                a
            }
        }
    }
}

/// Two f32 to one with any modifiers.
pub fn two(f: F2, m: Mods, a: u32, b: u32) -> u32 {
    let flushed = |x: u32| f32::from_bits(if m.ftz { flush(x) } else { x });
    let (x, y) = (flushed(a), flushed(b));
    let near = m.round == Round::Near;
    let value = match f {
        F2::Add if near => x + y,
        F2::Sub if near => x - y,
        F2::Mul if near => x * y,
        F2::Add => directed_sum(f64::from(x), f64::from(y), m.round),
        F2::Sub => directed_sum(f64::from(x), -f64::from(y), m.round),
        F2::Mul => directed(f64::from(x) * f64::from(y), 0.0, m.round),
        F2::Div => x / y,
        F2::Min => min(x, y, m.nan),
        F2::Max => max(x, y, m.nan),
        // copysign.f32 d, a, b: the sign of a, the size of b.
        F2::Copysign => return b & 0x7FFF_FFFF | a & 0x8000_0000,
    };
    finish(value, m)
}

/// fma with any modifiers.
pub fn fma_with(m: Mods, a: u32, b: u32, c: u32) -> u32 {
    let flushed = |x: u32| f64::from(f32::from_bits(if m.ftz { flush(x) } else { x }));
    let (p, c) = (flushed(a) * flushed(b), flushed(c));
    let value = match m.round {
        Round::Near => odd_sum(p, c) as f32,
        round => directed_sum(p, c, round),
    };
    let value = if m.relu && value <= 0.0 { 0.0 } else { value };
    finish(value, m)
}

/// One f32 to one. What PTX calls approximate is the f64 result rounded: within the error that the
/// manual allows, and not what a chip gives to the last bit.
pub fn one(f: F1, m: Mods, a: u32) -> u32 {
    let a = if m.ftz { flush(a) } else { a };
    let x = f32::from_bits(a);
    let wide = f64::from(x);
    let value = match f {
        F1::Neg if x.is_nan() => return a,
        F1::Neg => return a ^ 0x8000_0000,
        F1::Abs => return a & 0x7FFF_FFFF,
        F1::Rcp => 1.0 / x,
        F1::Sqrt => x.sqrt(),
        F1::Rsqrt => (1.0 / wide.sqrt()) as f32,
        F1::Sin => wide.sin() as f32,
        F1::Cos => wide.cos() as f32,
        F1::Lg2 => wide.log2() as f32,
        F1::Ex2 => wide.exp2() as f32,
        F1::Tanh => wide.tanh() as f32,
    };
    finish(value, m)
}

/// Two f64 to one, rounded to nearest.
pub fn two_wide(f: F2, m: Mods, a: u64, b: u64) -> u64 {
    let (x, y) = (f64::from_bits(a), f64::from_bits(b));
    let less = |a: f64, b: f64| a < b || (a == b && a.is_sign_negative() && b.is_sign_positive());
    let value = match f {
        F2::Add => x + y,
        F2::Sub => x - y,
        F2::Mul => x * y,
        F2::Div => x / y,
        F2::Min | F2::Max if x.is_nan() || y.is_nan() => {
            if x.is_nan() != m.nan {
                y
            } else {
                x
            }
        }
        F2::Min => {
            if less(y, x) {
                y
            } else {
                x
            }
        }
        F2::Max => {
            if less(x, y) {
                y
            } else {
                x
            }
        }
        F2::Copysign => return b & (u64::MAX >> 1) | a & (1 << 63),
    };
    value.to_bits()
}

/// One f64 to one.
pub fn one_wide(f: F1, a: u64) -> u64 {
    let x = f64::from_bits(a);
    match f {
        F1::Neg => a ^ (1 << 63),
        F1::Abs => a & (u64::MAX >> 1),
        F1::Rcp => (1.0 / x).to_bits(),
        F1::Sqrt => x.sqrt().to_bits(),
        _ => a,
    }
}

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
        let s = odd_sum(wide(a) * wide(b), wide(c));
        // To odd once more on the way: f32 has more than twice a half's digits, and two.
        let mut r = s as f32;
        if f64::from(r) != s && r.is_finite() {
            if f64::from(r).abs() > s.abs() {
                r = f32::from_bits(r.to_bits() - 1);
            }
            r = f32::from_bits(r.to_bits() | 1);
        }
        end_half(h, m, r)
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
pub fn to_tf32(x: u32, round: Round) -> u32 {
    if f32::from_bits(x).is_nan() {
        return NAN & !0x1FFF | 0x1FFF;
    }
    if x & 0x7F80_0000 == 0x7F80_0000 {
        return x;
    }
    match round {
        Round::Away => x.wrapping_add(0x1000) & !0x1FFF,
        Round::Near => x.wrapping_add(0xFFF + (x >> 13 & 1)) & !0x1FFF,
        _ => x & !0x1FFF,
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
        Ty::Tf32 => u64::from(to_tf32(raw as u32, c.round)),
        Ty::F32 => {
            // Nothing is rounded where both are f32: a NaN's bits pass through.
            let narrow = directed(value, 0.0, round);
            let narrow = if c.sat { saturate(narrow) } else { narrow };
            let out = bits(narrow);
            u64::from(if c.ftz { flush(out) } else { out })
        }
        _ => {
            // From f64: to odd f32 first, so that it is rounded once.
            let mut narrow = value as f32;
            if f64::from(narrow) != value && narrow.is_finite() {
                if f64::from(narrow).abs() > value.abs() {
                    narrow = f32::from_bits(narrow.to_bits() - 1);
                }
                narrow = f32::from_bits(narrow.to_bits() | 1);
            }
            let narrow = if c.sat { saturate(narrow) } else { narrow };
            let narrow = if c.relu && narrow <= 0.0 { 0.0 } else { narrow };
            u64::from(to_half(c.to == Ty::Bf16, narrow, round))
        }
    }
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
            let odd = odd_sum(s, e);
            let mut narrow = odd as f32;
            if f64::from(narrow) != odd {
                if f64::from(narrow).abs() > odd.abs() {
                    narrow = f32::from_bits(narrow.to_bits() - 1);
                }
                narrow = f32::from_bits(narrow.to_bits() | 1);
            }
            u64::from(to_half(c.to == Ty::Bf16, narrow, c.round))
        }
    }
}
