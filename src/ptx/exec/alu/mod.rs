//! Instructions that compute on registers: each lane for itself.

mod compare;
mod convert;
mod rare;
mod special;

use super::Common;
use super::bits;
use super::float;
use super::warp::{Row, Warp, Wide};
use crate::ptx::program::Entry;
use crate::ptx::program::op::*;
use compare::compare;
use convert::convert;
use special::special;

#[inline(always)]
fn map1(w: &mut Warp, e: &Entry, active: u32, d: R, a: R, f: impl Fn(u32) -> u32) {
    let a = w.r(e, a);
    let mut out: Row = [0; 32];
    for i in 0..32 {
        out[i] = f(a[i]);
    }
    w.put(d, &out, active);
}

#[inline(always)]
fn map2(w: &mut Warp, e: &Entry, active: u32, d: R, a: R, b: R, f: impl Fn(u32, u32) -> u32) {
    let (a, b) = (w.r(e, a), w.r(e, b));
    let mut out: Row = [0; 32];
    for i in 0..32 {
        out[i] = f(a[i], b[i]);
    }
    w.put(d, &out, active);
}

#[inline(always)]
#[allow(clippy::too_many_arguments)]
fn map3(
    w: &mut Warp,
    e: &Entry,
    active: u32,
    d: R,
    a: R,
    b: R,
    c: R,
    f: impl Fn(u32, u32, u32) -> u32,
) {
    let (a, b, c) = (w.r(e, a), w.r(e, b), w.r(e, c));
    let mut out: Row = [0; 32];
    for i in 0..32 {
        out[i] = f(a[i], b[i], c[i]);
    }
    w.put(d, &out, active);
}

#[inline(always)]
fn wide1(w: &mut Warp, e: &Entry, active: u32, d: R, a: R, f: impl Fn(u64) -> u64) {
    let a = w.w(e, a);
    let mut out: Wide = [0; 32];
    for i in 0..32 {
        out[i] = f(a[i]);
    }
    w.put_wide(d, &out, active);
}

#[inline(always)]
fn wide2(w: &mut Warp, e: &Entry, active: u32, d: R, a: R, b: R, f: impl Fn(u64, u64) -> u64) {
    let (a, b) = (w.w(e, a), w.w(e, b));
    let mut out: Wide = [0; 32];
    for i in 0..32 {
        out[i] = f(a[i], b[i]);
    }
    w.put_wide(d, &out, active);
}

/// Executes the instruction if it is one of these.
pub fn step(w: &mut Warp, common: &mut Common<'_>, op: &Op, active: u32) -> bool {
    let e = common.entry;
    match *op {
        Op::Mov32 { d, s } => {
            let value = *w.r(e, s);
            w.put(d, &value, active);
        }
        Op::Mov64 { d, s } => {
            let value = *w.w(e, s);
            w.put_wide(d, &value, active);
        }
        Op::MovPred { d, s } => {
            let bits = w.p(s);
            w.put_pred(d, bits, active);
        }
        Op::Read { d, what, wide } => {
            let row = special(w, common, what);
            match wide {
                false => w.put(d, &row, active),
                true => w.put_wide(d, &row.map(u64::from), active),
            }
        }
        Op::Pack64 { d, parts: [a, b] } => {
            let (a, b) = (w.r(e, a), w.r(e, b));
            let mut out: Wide = [0; 32];
            for i in 0..32 {
                out[i] = u64::from(a[i]) | u64::from(b[i]) << 32;
            }
            w.put_wide(d, &out, active);
        }
        Op::Unpack64 { d: [a, b], s } => {
            let s = *w.w(e, s);
            w.put(a, &s.map(|x| x as u32), active);
            w.put(b, &s.map(|x| (x >> 32) as u32), active);
        }
        Op::Pack32 { d, parts: [a, b] } => map2(w, e, active, d, a, b, |a, b| a & 0xFFFF | b << 16),
        Op::Unpack32 { d: [a, b], s } => {
            let s = *w.r(e, s);
            w.put(a, &s.map(|x| x & 0xFFFF), active);
            w.put(b, &s.map(|x| x >> 16), active);
        }
        Op::Pack64x4 { d, parts } => {
            let mut out: Wide = [0; 32];
            for (k, part) in parts.iter().enumerate() {
                for (out, x) in out.iter_mut().zip(w.r(e, *part)) {
                    *out |= u64::from(x & 0xFFFF) << (16 * k);
                }
            }
            w.put_wide(d, &out, active);
        }
        Op::Unpack64x4 { d, s } => {
            let s = *w.w(e, s);
            for (k, d) in d.iter().enumerate() {
                w.put(*d, &s.map(|x| (x >> (16 * k)) as u32 & 0xFFFF), active);
            }
        }
        Op::I32 { f, d, a, b } => integers(w, e, active, f, d, a, b),
        Op::I64 { f, d, a, b } => wide_integers(w, e, active, f, d, a, b),
        Op::Shl64 { d, a, b } => shift64(
            w,
            e,
            active,
            d,
            a,
            b,
            |a, b| if b > 63 { 0 } else { a << b },
        ),
        Op::Shr64 {
            signed: false,
            d,
            a,
            b,
        } => shift64(
            w,
            e,
            active,
            d,
            a,
            b,
            |a, b| if b > 63 { 0 } else { a >> b },
        ),
        Op::Shr64 {
            signed: true,
            d,
            a,
            b,
        } => {
            shift64(w, e, active, d, a, b, |a, b| {
                ((a as i64) >> b.min(63)) as u64
            });
        }
        Op::U32 { f, d, a } => match f {
            U32::Not => map1(w, e, active, d, a, |a| !a),
            U32::Neg => map1(w, e, active, d, a, u32::wrapping_neg),
            _ => map1(w, e, active, d, a, |a| bits::one(f, a)),
        },
        Op::U64 { f, d, a } => match f {
            U64::Not => wide1(w, e, active, d, a, |a| !a),
            U64::Neg => wide1(w, e, active, d, a, u64::wrapping_neg),
            U64::Abs => wide1(w, e, active, d, a, |a| (a as i64).unsigned_abs()),
            U64::Cnot => wide1(w, e, active, d, a, |a| u64::from(a == 0)),
            U64::Brev => wide1(w, e, active, d, a, u64::reverse_bits),
        },
        Op::N64 { f, d, a } => {
            let out = w.w(e, a).map(|a| bits::narrow(f, a));
            w.put(d, &out, active);
        }
        Op::T32 { f, d, a, b, c } => match f {
            T32::Mad => map3(w, e, active, d, a, b, c, |a, b, c| {
                a.wrapping_mul(b).wrapping_add(c)
            }),
            _ => map3(w, e, active, d, a, b, c, |a, b, c| bits::three(f, a, b, c)),
        },
        Op::MulWide {
            signed: false,
            d,
            a,
            b,
        } => product(w, e, active, d, a, b, |a, b| u64::from(a) * u64::from(b)),
        Op::MulWide {
            signed: true,
            d,
            a,
            b,
        } => {
            product(w, e, active, d, a, b, |a, b| {
                (i64::from(a as i32) * i64::from(b as i32)) as u64
            });
        }
        Op::MadWide { signed, d, a, b, c } => {
            let (a, b, c) = (w.r(e, a), w.r(e, b), w.w(e, c));
            let mut out: Wide = [0; 32];
            for i in 0..32 {
                let p = match signed {
                    true => (i64::from(a[i] as i32) * i64::from(b[i] as i32)) as u64,
                    false => u64::from(a[i]) * u64::from(b[i]),
                };
                out[i] = p.wrapping_add(c[i]);
            }
            w.put_wide(d, &out, active);
        }
        Op::Mad64 { f, d, a, b, c } => {
            let (a, b, c) = (w.w(e, a), w.w(e, b), w.w(e, c));
            let mut out: Wide = [0; 32];
            for i in 0..32 {
                out[i] = bits::two_wide(f, a[i], b[i]).wrapping_add(c[i]);
            }
            w.put_wide(d, &out, active);
        }
        Op::Bfi32 {
            d,
            a,
            b,
            c,
            e: length,
        } => {
            let (a, b, c, n) = (w.r(e, a), w.r(e, b), w.r(e, c), w.r(e, length));
            let mut out: Row = [0; 32];
            for i in 0..32 {
                out[i] = bits::insert(u64::from(a[i]), u64::from(b[i]), c[i], n[i], 32) as u32;
            }
            w.put(d, &out, active);
        }
        Op::Bfi64 {
            d,
            a,
            b,
            c,
            e: length,
        } => {
            let (a, b, c, n) = (w.w(e, a), w.w(e, b), w.r(e, c), w.r(e, length));
            let mut out: Wide = [0; 32];
            for i in 0..32 {
                out[i] = bits::insert(a[i], b[i], c[i], n[i], 64);
            }
            w.put_wide(d, &out, active);
        }
        Op::Bfe64 { signed, d, a, b, c } => {
            let (a, b, c) = (w.w(e, a), w.r(e, b), w.r(e, c));
            let mut out: Wide = [0; 32];
            for i in 0..32 {
                out[i] = bits::extract(a[i], b[i], c[i], 64, signed);
            }
            w.put_wide(d, &out, active);
        }
        Op::Selp32 { d, a, b, p } => {
            let p = w.p(p);
            let mut out = *w.r(e, b);
            super::warp::select(&mut out, w.r(e, a), p);
            w.put(d, &out, active);
        }
        Op::Selp64 { d, a, b, p } => {
            let p = w.p(p);
            let (a, b) = (w.w(e, a), w.w(e, b));
            let mut out: Wide = [0; 32];
            for i in 0..32 {
                let keep = u64::from(p >> i & 1).wrapping_neg();
                out[i] = a[i] & keep | b[i] & !keep;
            }
            w.put_wide(d, &out, active);
        }
        Op::Slct { d, a, b, c, float } => map3(w, e, active, d, a, b, c, |a, b, c| {
            let first = if float {
                f32::from_bits(c) >= 0.0
            } else {
                c as i32 >= 0
            };
            if first { a } else { b }
        }),
        Op::Setp {
            ty,
            cmp,
            ftz,
            d,
            q,
            a,
            b,
            with,
        } => {
            let mut bits = compare(w, e, ty, cmp, ftz, a, b);
            let mut rest = !bits;
            if let Some((f, p)) = with {
                let p = w.p(p);
                (bits, rest) = (join(f, bits, p), join(f, rest, p));
            }
            w.put_pred(d, bits, active);
            w.put_pred(q, rest, active);
        }
        Op::Set {
            ty,
            cmp,
            ftz,
            float,
            d,
            a,
            b,
        } => {
            let bits = compare(w, e, ty, cmp, ftz, a, b);
            let one = if float { 1.0f32.to_bits() } else { u32::MAX };
            let mut out: Row = [0; 32];
            super::warp::select(&mut out, &[one; 32], bits);
            w.put(d, &out, active);
        }
        Op::Pred2 { f, d, a, b } => {
            let bits = join(f, w.p(a), w.p(b));
            w.put_pred(d, bits, active);
        }
        Op::F32 { f, m, d, a, b } => floats(w, e, active, f, m, d, a, b),
        Op::F64 { f, m, d, a, b } => {
            wide2(w, e, active, d, a, b, |a, b| float::two_wide(f, m, a, b))
        }
        Op::Fma32 { m, d, a, b, c } => match m == Mods::PLAIN {
            true => map3(w, e, active, d, a, b, c, float::fma),
            false => map3(w, e, active, d, a, b, c, |a, b, c| {
                float::fma_with(m, a, b, c)
            }),
        },
        Op::Fma64 { round, d, a, b, c } => {
            let (a, b, c) = (w.w(e, a), w.w(e, b), w.w(e, c));
            let mut out: Wide = [0; 32];
            for i in 0..32 {
                let of = f64::from_bits;
                out[i] = float::fma_wide(round, of(a[i]), of(b[i]), of(c[i])).to_bits();
            }
            w.put_wide(d, &out, active);
        }
        Op::One32 { f, m, d, a } => lanes1(w, e, active, d, a, |a| float::one(f, m, a)),
        Op::One64 {
            f,
            round,
            coarse,
            d,
            a,
        } => wide1(w, e, active, d, a, |a| float::one_wide(f, round, coarse, a)),
        Op::Half2 { f, h, m, d, a, b } => map2(w, e, active, d, a, b, |a, b| {
            float::two_halves(f, h, m, a, b)
        }),
        Op::HalfFma { h, m, d, a, b, c } => map3(w, e, active, d, a, b, c, |a, b, c| {
            float::fma_halves(h, m, a, b, c)
        }),
        Op::Half1 { f, h, m, d, a } => lanes1(w, e, active, d, a, |a| float::one_half(f, h, m, a)),
        Op::Cvt { c, d, a } => convert(w, e, active, &c, d, a),
        Op::CvtPack { brain, c, d, a, b } => map2(w, e, active, d, a, b, |a, b| {
            let part = |x: u32| {
                let x = f32::from_bits(x);
                let x = if c.relu && x <= 0.0 { 0.0 } else { x };
                let x = if c.finite { float::finite(c.to, x) } else { x };
                u32::from(float::to_half(brain, x, c.round))
            };
            part(a) << 16 | part(b)
        }),
        Op::Nop | Op::Sleep => {}
        _ => return rare::step(w, e, op, active),
    }
    true
}

fn join(f: Bool, a: u32, b: u32) -> u32 {
    match f {
        Bool::And => a & b,
        Bool::Or => a | b,
        Bool::Xor => a ^ b,
    }
}

/// As [`map1`], for what is too costly to compute in lanes that are not active.
#[inline(always)]
fn lanes1(w: &mut Warp, e: &Entry, active: u32, d: R, a: R, f: impl Fn(u32) -> u32) {
    let a = *w.r(e, a);
    let mut out: Row = [0; 32];
    for i in 0..32 {
        if active >> i & 1 != 0 {
            out[i] = f(a[i]);
        }
    }
    w.put(d, &out, active);
}

#[inline(always)]
fn shift64(w: &mut Warp, e: &Entry, active: u32, d: R, a: R, b: R, f: impl Fn(u64, u32) -> u64) {
    let (a, b) = (w.w(e, a), w.r(e, b));
    let mut out: Wide = [0; 32];
    for i in 0..32 {
        out[i] = f(a[i], b[i]);
    }
    w.put_wide(d, &out, active);
}

#[inline(always)]
fn product(w: &mut Warp, e: &Entry, active: u32, d: R, a: R, b: R, f: impl Fn(u32, u32) -> u64) {
    let (a, b) = (w.r(e, a), w.r(e, b));
    let mut out: Wide = [0; 32];
    for i in 0..32 {
        out[i] = f(a[i], b[i]);
    }
    w.put_wide(d, &out, active);
}

fn integers(w: &mut Warp, e: &Entry, active: u32, f: I32, d: R, a: R, b: R) {
    match f {
        I32::Add => map2(w, e, active, d, a, b, u32::wrapping_add),
        I32::Sub => map2(w, e, active, d, a, b, u32::wrapping_sub),
        I32::Mul => map2(w, e, active, d, a, b, u32::wrapping_mul),
        I32::And => map2(w, e, active, d, a, b, |a, b| a & b),
        I32::Or => map2(w, e, active, d, a, b, |a, b| a | b),
        I32::Xor => map2(w, e, active, d, a, b, |a, b| a ^ b),
        I32::Shl => map2(w, e, active, d, a, b, |a, b| {
            if b > 31 { 0 } else { a << (b & 31) }
        }),
        I32::ShrU => map2(w, e, active, d, a, b, |a, b| {
            if b > 31 { 0 } else { a >> (b & 31) }
        }),
        I32::ShrS => map2(w, e, active, d, a, b, |a, b| {
            ((a as i32) >> b.min(31)) as u32
        }),
        I32::MinU => map2(w, e, active, d, a, b, u32::min),
        I32::MaxU => map2(w, e, active, d, a, b, u32::max),
        I32::MinS => map2(w, e, active, d, a, b, |a, b| {
            (a as i32).min(b as i32) as u32
        }),
        I32::MaxS => map2(w, e, active, d, a, b, |a, b| {
            (a as i32).max(b as i32) as u32
        }),
        _ => map2(w, e, active, d, a, b, |a, b| bits::two(f, a, b)),
    }
}

fn wide_integers(w: &mut Warp, e: &Entry, active: u32, f: I64, d: R, a: R, b: R) {
    match f {
        I64::Add => wide2(w, e, active, d, a, b, u64::wrapping_add),
        I64::Sub => wide2(w, e, active, d, a, b, u64::wrapping_sub),
        I64::Mul => wide2(w, e, active, d, a, b, u64::wrapping_mul),
        I64::And => wide2(w, e, active, d, a, b, |a, b| a & b),
        I64::Or => wide2(w, e, active, d, a, b, |a, b| a | b),
        I64::Xor => wide2(w, e, active, d, a, b, |a, b| a ^ b),
        _ => wide2(w, e, active, d, a, b, |a, b| bits::two_wide(f, a, b)),
    }
}

#[allow(clippy::too_many_arguments)]
fn floats(w: &mut Warp, e: &Entry, active: u32, f: F2, m: Mods, d: R, a: R, b: R) {
    let of = f32::from_bits;
    if m != Mods::PLAIN {
        return map2(w, e, active, d, a, b, |a, b| float::two(f, m, a, b));
    }
    match f {
        F2::Add => map2(w, e, active, d, a, b, |a, b| float::bits(of(a) + of(b))),
        F2::Sub => map2(w, e, active, d, a, b, |a, b| float::bits(of(a) - of(b))),
        F2::Mul => map2(w, e, active, d, a, b, |a, b| float::bits(of(a) * of(b))),
        F2::Div => map2(w, e, active, d, a, b, |a, b| float::bits(of(a) / of(b))),
        _ => map2(w, e, active, d, a, b, |a, b| float::two(f, m, a, b)),
    }
}
