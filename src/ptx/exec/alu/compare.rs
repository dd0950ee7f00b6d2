//! Comparisons: a bit for each lane.

use crate::ptx::exec::float;
use crate::ptx::exec::warp::{Row, Warp, Wide};
use crate::ptx::program::Entry;
use crate::ptx::program::op::*;

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

/// The lanes where a comparison holds.
pub fn compare(w: &Warp, e: &Entry, ty: Ty, cmp: Cmp, ftz: bool, a: R, b: R) -> u32 {
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
