//! Floats of one lane, as the PTX manual says: canonical NaNs, flushed denormals, directed rounding.

mod convert;
mod halves;

use crate::ptx::program::op::{F1, F2, Kind, Mods, Round};
pub use convert::{convert, finite, to_tf32};
pub use halves::{
    compare_halves, fma_halves, from_float8, from_half, one_half, to_float8, to_half, two_halves,
};

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

/// x to odd in f32: rounding it again to a half is rounding once.
fn to_odd(x: f64) -> f32 {
    let r = x as f32;
    if f64::from(r) == x || !r.is_finite() {
        return r;
    }
    let r = match f64::from(r).abs() > x.abs() {
        true => f32::from_bits(r.to_bits() - 1),
        false => r,
    };
    f32::from_bits(r.to_bits() | 1)
}

/// The sign of what rounding to the quotient q lost of a / b.
fn lost_quotient(a: f64, b: f64, q: f64) -> f64 {
    let rest = (-q).mul_add(b, a);
    if b.is_sign_negative() { -rest } else { rest }
}

/// s, to nearest, of which rounding lost something of e's sign: rounded in another direction.
fn directed_wide(s: f64, e: f64, finite: bool, round: Round) -> f64 {
    if s.is_infinite() && finite {
        return match round {
            Round::Zero => f64::MAX.copysign(s),
            Round::Down if s > 0.0 => f64::MAX,
            Round::Up if s < 0.0 => f64::MIN,
            _ => s,
        };
    }
    match round {
        Round::Zero if s > 0.0 && e < 0.0 => s.next_down(),
        Round::Zero if s < 0.0 && e > 0.0 => s.next_up(),
        Round::Down if e < 0.0 => s.next_down(),
        Round::Up if e > 0.0 => s.next_up(),
        _ => s,
    }
}

/// fma of f64 with any rounding.
pub fn fma_wide(round: Round, a: f64, b: f64, c: f64) -> f64 {
    let s = a.mul_add(b, c);
    if round == Round::Near {
        return s;
    }
    let finite = a.is_finite() && b.is_finite() && c.is_finite();
    // What is lost (Boldo & Muller 2005).
    let p = a * b;
    let low = a.mul_add(b, -p);
    let (x, x_low) = two_sum(c, low);
    let (y, y_low) = two_sum(p, x);
    let e = ((y - s) + y_low) + x_low;
    if s == 0.0
        && e == 0.0
        && round == Round::Down
        && !(p.is_sign_positive() && c.is_sign_positive())
    {
        return -0.0;
    }
    directed_wide(s, e, finite, round)
}

/// Whether `testp` holds of a float: its bits, and those of infinity and of the smallest normal.
pub fn test(kind: Kind, bits: u64, infinity: u64, normal: u64) -> bool {
    // The sign is the bit above infinity's.
    let size = bits & (infinity | (infinity - 1) | (normal - 1));
    match kind {
        Kind::Finite => size < infinity,
        Kind::Infinite => size == infinity,
        Kind::Number => size <= infinity,
        Kind::NotANumber => size > infinity,
        Kind::Normal => (normal..infinity).contains(&size),
        Kind::Subnormal => size != 0 && size < normal,
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

/// `b` if `second`, else `a`; a number wins over NaN unless `nan`.
#[inline(always)]
fn pick(a: f32, b: f32, nan: bool, second: bool) -> f32 {
    match (a.is_nan(), b.is_nan()) {
        (true, true) => f32::NAN,
        (true, false) => [b, a][usize::from(nan)],
        (false, true) => [a, b][usize::from(nan)],
        (false, false) => [a, b][usize::from(second)],
    }
}

/// The smaller of two; a number wins over NaN unless `nan`.
#[inline(always)]
pub fn min(a: f32, b: f32, nan: bool) -> f32 {
    pick(a, b, nan, less(b, a))
}

/// The larger of two, likewise.
#[inline(always)]
pub fn max(a: f32, b: f32, nan: bool) -> f32 {
    pick(a, b, nan, less(a, b))
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
        F2::Div if near => x / y,
        F2::Div => {
            let (x, y) = (f64::from(x), f64::from(y));
            let q = x / y;
            directed(q, lost_quotient(x, y, q), m.round)
        }
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
        F1::Rcp if m.round != Round::Near => {
            let q = 1.0 / wide;
            directed(q, lost_quotient(1.0, wide, q), m.round)
        }
        F1::Sqrt if m.round != Round::Near => {
            let root = wide.sqrt();
            directed(root, (-root).mul_add(root, wide), m.round)
        }
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

/// Two f64 to one.
pub fn two_wide(f: F2, m: Mods, a: u64, b: u64) -> u64 {
    let (x, y) = (f64::from_bits(a), f64::from_bits(b));
    let less = |a: f64, b: f64| a < b || (a == b && a.is_sign_negative() && b.is_sign_positive());
    let finite = x.is_finite() && y.is_finite();
    let value = match f {
        F2::Add | F2::Sub | F2::Mul | F2::Div if m.round != Round::Near => match f {
            F2::Add => fma_wide(m.round, x, 1.0, y),
            F2::Sub => fma_wide(m.round, x, 1.0, -y),
            F2::Mul => {
                let p = x * y;
                directed_wide(p, x.mul_add(y, -p), finite, m.round)
            }
            _ => {
                let q = x / y;
                directed_wide(q, lost_quotient(x, y, q), finite && y != 0.0, m.round)
            }
        },
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

/// One f64 to one; `coarse`: of the upper 32 bits alone, denormals are zero.
pub fn one_wide(f: F1, round: Round, coarse: bool, a: u64) -> u64 {
    let a = match coarse && a & (0x7FF << 52) == 0 {
        true => a & 1 << 63,
        false => a,
    };
    let x = f64::from_bits(a);
    let value = match f {
        F1::Neg => return a ^ (1 << 63),
        F1::Abs => return a & (u64::MAX >> 1),
        F1::Rcp => {
            let q = 1.0 / x;
            directed_wide(q, lost_quotient(1.0, x, q), false, round)
        }
        F1::Sqrt => {
            let root = x.sqrt();
            directed_wide(root, (-root).mul_add(root, x), false, round)
        }
        F1::Rsqrt => 1.0 / x.sqrt(),
        _ => x,
    };
    match coarse {
        true => value.to_bits() >> 32 << 32,
        false => value.to_bits(),
    }
}
