//! Instructions on registers that kernels seldom have: carries, pairs, floats of 8 bits.

use super::{join, map1, map2, map3};
use crate::ptx::exec::warp::{Warp, Wide};
use crate::ptx::exec::{bits, float};
use crate::ptx::memory::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, WINDOW_BYTES};
use crate::ptx::program::Entry;
use crate::ptx::program::op::*;

/// Executes the instruction if it is one of these.
#[inline(never)]
pub fn step(w: &mut Warp, e: &Entry, op: &Op, active: u32) -> bool {
    match *op {
        Op::Cvt8 {
            kind,
            relu,
            d,
            a,
            b,
        } => map2(w, e, active, d, a, b, |a, b| {
            let part = |x: u32| float::to_float8(kind, relu, f32::from_bits(x));
            part(a) << 8 | part(b)
        }),
        Op::Cvt8Halves { kind, relu, d, a } => map1(w, e, active, d, a, |a| {
            let part = |x: u32| float::to_float8(kind, relu, float::from_half(false, x as u16));
            part(a >> 16) << 8 | part(a)
        }),
        Op::CvtFrom8 { kind, relu, d, a } => map1(w, e, active, d, a, |a| {
            let part = |x: u32| float::from_float8(kind, relu, x);
            part(a >> 8) << 16 | part(a)
        }),
        Op::CvtPackInt { to, d, a, b, c } => map3(w, e, active, d, a, b, c, |a, b, c| {
            let (low, high) = match to {
                Ty::S8 => (-128, 127),
                Ty::U8 => (0, 255),
                Ty::S16 => (-32768, 32767),
                _ => (0, 65535),
            };
            let bits = 8 * to.bytes();
            let part = |x: u32| (x as i32).clamp(low, high) as u32 & ((1 << bits) - 1);
            let rest = if bits == 16 { 0 } else { c << (2 * bits) };
            rest | part(a) << bits | part(b)
        }),
        Op::Parts {
            f,
            parts,
            signed,
            sat,
            add,
            d,
            a,
            b,
            c,
        } => map3(w, e, active, d, a, b, c, |a, b, c| {
            bits::parts(f, parts, signed, sat, add, a, b, c)
        }),
        Op::Carry {
            f,
            wide,
            carry,
            takes,
            gives,
            d,
            a,
            b,
            c,
        } => {
            let row = |r: R| -> Wide {
                match wide {
                    true => *w.w(e, r),
                    false => w.r(e, r).map(u64::from),
                }
            };
            let (a, b, c) = (row(a), row(b), row(c));
            let old = w.preds.get(carry as usize).copied().unwrap_or(0);
            let (mut out, mut given): (Wide, u32) = ([0; 32], 0);
            for i in 0..32 {
                let taken = takes.then_some(old >> i & 1 != 0);
                let width = if wide { 64 } else { 32 };
                let (value, carried) = bits::carry(f, width, a[i], b[i], c[i], taken);
                out[i] = value;
                given |= u32::from(carried) << i;
            }
            match wide {
                true => w.put_wide(d, &out, active),
                false => w.put(d, &out.map(|x| x as u32), active),
            }
            if gives {
                w.put_pred(carry, given, active);
            }
        }
        Op::SetpPair {
            brain,
            cmp,
            ftz,
            d,
            q,
            a,
            b,
            with,
        } => {
            let (a, b) = (w.r(e, a), w.r(e, b));
            let (mut low, mut high) = (0u32, 0u32);
            for i in 0..32 {
                let test = |shift: u32| {
                    let (a, b) = ((a[i] >> shift) as u16, (b[i] >> shift) as u16);
                    u32::from(float::compare_halves(brain, cmp, ftz, a, b)) << i
                };
                low |= test(0);
                high |= test(16);
            }
            if let Some((f, p)) = with {
                let p = w.p(p);
                (low, high) = (join(f, low, p), join(f, high, p));
            }
            w.put_pred(d, low, active);
            w.put_pred(q, high, active);
        }
        Op::SetHalves {
            h,
            cmp,
            ftz,
            float: ones,
            narrow,
            d,
            a,
            b,
        } => map2(w, e, active, d, a, b, |a, b| {
            let one = match (ones, h.brain) {
                (true, false) => 0x3C00,
                (true, true) => 0x3F80,
                _ => 0xFFFF,
            };
            let part = |shift: u32| {
                let (a, b) = ((a >> shift) as u16, (b >> shift) as u16);
                u32::from(float::compare_halves(h.brain, cmp, ftz, a, b)) * one
            };
            match (h.packed, narrow) {
                (true, _) => part(0) | part(16) << 16,
                (_, true) => part(0) * 0x1_0001,
                _ => part(0),
            }
        }),
        Op::Testp { kind, wide, d, a } => {
            let mut bits = 0u32;
            for i in 0..32 {
                let holds = match wide {
                    true => float::test(kind, w.w(e, a)[i], 0x7FF << 52, 1 << 52),
                    false => float::test(kind, u64::from(w.r(e, a)[i]), 0x7F80_0000, 0x80_0000),
                };
                bits |= u32::from(holds) << i;
            }
            w.put_pred(d, bits, active);
        }
        Op::IsSpace { space, d, a } => {
            let mut bits = 0u32;
            for (i, address) in w.w(e, a).iter().enumerate() {
                let within = |window: u64| address.wrapping_sub(window) < WINDOW_BYTES;
                let (shared, local, param) = (
                    within(SHARED_WINDOW),
                    within(LOCAL_WINDOW),
                    within(PARAM_WINDOW),
                );
                let holds = match space {
                    Space::Shared => shared,
                    Space::Local => local,
                    Space::Param => param,
                    _ => !shared && !local && !param,
                };
                bits |= u32::from(holds) << i;
            }
            w.put_pred(d, bits, active);
        }
        _ => return false,
    }
    true
}
