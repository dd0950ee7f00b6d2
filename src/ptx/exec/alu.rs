//! Instructions that compute on registers: each lane for itself.

use super::Common;
use super::bits;
use super::float;
use super::warp::{Row, Warp, Wide};
use crate::ptx::program::Entry;
use crate::ptx::program::op::*;
use crate::ptx::program::resolve::Special;

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
        Op::Mad64 { d, a, b, c } => {
            let (a, b, c) = (w.w(e, a), w.w(e, b), w.w(e, c));
            let mut out: Wide = [0; 32];
            for i in 0..32 {
                out[i] = a[i].wrapping_mul(b[i]).wrapping_add(c[i]);
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
                (bits, rest) = match f {
                    Bool::And => (bits & p, rest & p),
                    Bool::Or => (bits | p, rest | p),
                    Bool::Xor => (bits ^ p, rest ^ p),
                };
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
            let (a, b) = (w.p(a), w.p(b));
            let bits = match f {
                Bool::And => a & b,
                Bool::Or => a | b,
                Bool::Xor => a ^ b,
            };
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
        Op::Fma64 { d, a, b, c } => {
            let (a, b, c) = (w.w(e, a), w.w(e, b), w.w(e, c));
            let mut out: Wide = [0; 32];
            for i in 0..32 {
                out[i] = f64::from_bits(a[i])
                    .mul_add(f64::from_bits(b[i]), f64::from_bits(c[i]))
                    .to_bits();
            }
            w.put_wide(d, &out, active);
        }
        Op::One32 { f, m, d, a } => lanes1(w, e, active, d, a, |a| float::one(f, m, a)),
        Op::One64 { f, d, a } => wide1(w, e, active, d, a, |a| float::one_wide(f, a)),
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
                u32::from(float::to_half(brain, x, c.round))
            };
            part(a) << 16 | part(b)
        }),
        Op::Nop => {}
        _ => return false,
    }
    true
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

#[inline(always)]
fn test(a: &Row, b: &Row, f: impl Fn(u32, u32) -> bool) -> u32 {
    let mut bits = 0;
    for i in 0..32 {
        bits |= u32::from(f(a[i], b[i])) << i;
    }
    bits
}

#[inline(always)]
fn test_wide(a: &Wide, b: &Wide, f: impl Fn(u64, u64) -> bool) -> u32 {
    let mut bits = 0;
    for i in 0..32 {
        bits |= u32::from(f(a[i], b[i])) << i;
    }
    bits
}

fn compare(w: &Warp, e: &Entry, ty: Ty, cmp: Cmp, ftz: bool, a: R, b: R) -> u32 {
    macro_rules! ordered {
        ($test:ident, $a:expr, $b:expr, $as:expr) => {{
            let f = $as;
            match cmp {
                Cmp::Eq => $test($a, $b, |a, b| f(a) == f(b)),
                Cmp::Ne => $test($a, $b, |a, b| f(a) != f(b)),
                Cmp::Lt => $test($a, $b, |a, b| f(a) < f(b)),
                Cmp::Le => $test($a, $b, |a, b| f(a) <= f(b)),
                Cmp::Gt => $test($a, $b, |a, b| f(a) > f(b)),
                Cmp::Ge => $test($a, $b, |a, b| f(a) >= f(b)),
                _ => 0,
            }
        }};
    }
    macro_rules! floating {
        ($test:ident, $a:expr, $b:expr, $as:expr) => {{
            let f = $as;
            let either = |a, b| f(a).is_nan() | f(b).is_nan();
            match cmp {
                // Of floats `ne` is false for NaN; `neu` is true.
                Cmp::Ne => $test($a, $b, |a, b| (f(a) < f(b)) | (f(a) > f(b))),
                Cmp::Equ => $test($a, $b, |a, b| (f(a) == f(b)) | either(a, b)),
                Cmp::Neu => $test($a, $b, |a, b| f(a) != f(b)),
                Cmp::Ltu => $test($a, $b, |a, b| (f(a) < f(b)) | either(a, b)),
                Cmp::Leu => $test($a, $b, |a, b| (f(a) <= f(b)) | either(a, b)),
                Cmp::Gtu => $test($a, $b, |a, b| (f(a) > f(b)) | either(a, b)),
                Cmp::Geu => $test($a, $b, |a, b| (f(a) >= f(b)) | either(a, b)),
                Cmp::Num => $test($a, $b, |a, b| !either(a, b)),
                Cmp::Nan => $test($a, $b, either),
                _ => ordered!($test, $a, $b, f),
            }
        }};
    }
    if ty.bytes() == 8 {
        let (a, b) = (w.w(e, a), w.w(e, b));
        return match ty {
            Ty::S64 => ordered!(test_wide, a, b, |x: u64| x as i64),
            Ty::F64 => floating!(test_wide, a, b, f64::from_bits),
            _ => ordered!(test_wide, a, b, |x: u64| x),
        };
    }
    let (a, b) = (w.r(e, a), w.r(e, b));
    match ty {
        Ty::S32 => ordered!(test, a, b, |x: u32| x as i32),
        Ty::S16 => ordered!(test, a, b, |x: u32| x as i16),
        Ty::U16 | Ty::B16 => ordered!(test, a, b, |x: u32| x as u16),
        Ty::F32 if ftz => floating!(test, a, b, |x: u32| f32::from_bits(float::flush(x))),
        Ty::F32 => floating!(test, a, b, f32::from_bits),
        Ty::F16 => floating!(test, a, b, |x: u32| float::from_half(false, x as u16)),
        Ty::Bf16 => floating!(test, a, b, |x: u32| float::from_half(true, x as u16)),
        _ => ordered!(test, a, b, |x: u32| x),
    }
}

fn convert(w: &mut Warp, e: &Entry, active: u32, c: &Cvt, d: R, a: R) {
    let plain = !c.sat && !c.ftz && !c.relu;
    match (c.from, c.to) {
        (Ty::U32, Ty::U64 | Ty::S64) => {
            let out = w.r(e, a).map(u64::from);
            return w.put_wide(d, &out, active);
        }
        (Ty::S32, Ty::S64 | Ty::U64) if plain => {
            let out = w.r(e, a).map(|x| x as i32 as u64);
            return w.put_wide(d, &out, active);
        }
        (Ty::U64 | Ty::S64, Ty::U32 | Ty::S32) if plain => {
            let out = w.w(e, a).map(|x| x as u32);
            return w.put(d, &out, active);
        }
        (Ty::U16, Ty::U32) => return map1(w, e, active, d, a, |x| x & 0xFFFF),
        (Ty::U32, Ty::U16) if plain => return map1(w, e, active, d, a, |x| x & 0xFFFF),
        (Ty::Bf16, Ty::F32) if plain => {
            return map1(w, e, active, d, a, |x| {
                let x = x << 16;
                if x & 0x7FFF_FFFF > 0x7F80_0000 {
                    float::NAN
                } else {
                    x
                }
            });
        }
        (Ty::F32, Ty::Bf16) if plain && c.round == Round::Near => {
            return map1(w, e, active, d, a, |x| {
                let rounded = (x.wrapping_add(0x7FFF + (x >> 16 & 1))) >> 16;
                if x & 0x7FFF_FFFF > 0x7F80_0000 {
                    0x7FFF
                } else {
                    rounded
                }
            });
        }
        (Ty::U32, Ty::F32) if c.round == Round::Near && !c.sat => {
            return map1(w, e, active, d, a, |x| (x as f32).to_bits());
        }
        (Ty::S32, Ty::F32) if c.round == Round::Near && !c.sat => {
            return map1(w, e, active, d, a, |x| (x as i32 as f32).to_bits());
        }
        (Ty::F32, Ty::U32) if plain && c.round == Round::Zero => {
            return map1(w, e, active, d, a, |x| f32::from_bits(x) as u32);
        }
        (Ty::F32, Ty::S32) if plain && c.round == Round::Zero => {
            return map1(w, e, active, d, a, |x| f32::from_bits(x) as i32 as u32);
        }
        (Ty::F32, Ty::Tf32) => return map1(w, e, active, d, a, |x| float::to_tf32(x, c.round)),
        _ => {}
    }
    let source: Wide = match c.from.bytes() {
        8 => *w.w(e, a),
        _ => w.r(e, a).map(u64::from),
    };
    let mut out: Wide = [0; 32];
    for i in 0..32 {
        if active >> i & 1 != 0 {
            out[i] = float::convert(c, source[i]);
        }
    }
    match c.to.bytes() {
        8 => w.put_wide(d, &out, active),
        _ => w.put(d, &out.map(|x| x as u32), active),
    }
}

fn special(w: &Warp, common: &Common<'_>, what: Special) -> Row {
    let launch = common.launch;
    let [x, y, _] = launch.block;
    let thread = |lane: u32| 32 * w.index + lane;
    let mut out: Row = [0; 32];
    for (lane, out) in (0u32..).zip(out.iter_mut()) {
        *out = match what {
            Special::Tid(0) => thread(lane) % x,
            Special::Tid(1) => thread(lane) / x % y,
            Special::Tid(_) => thread(lane) / x / y,
            Special::Ntid(axis) => launch.block[usize::from(axis)],
            Special::Ctaid(axis) => common.at[usize::from(axis)],
            Special::Nctaid(axis) => launch.grid[usize::from(axis)],
            Special::Laneid => lane,
            Special::Warpid => w.index,
            Special::Nwarpid => (x * y * launch.block[2]).div_ceil(32),
            Special::LanemaskEq => 1 << lane,
            Special::LanemaskLt => (1 << lane) - 1,
            Special::LanemaskLe => (1 << lane) | ((1 << lane) - 1),
            Special::LanemaskGt => !((1 << lane) | ((1 << lane) - 1)),
            Special::LanemaskGe => !((1 << lane) - 1),
            Special::Zero => 0,
            Special::One => 1,
            Special::DynamicShared => launch.dynamic_shared_bytes,
            Special::TotalShared => common.shared.end(),
        };
    }
    out
}
