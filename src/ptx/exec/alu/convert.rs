//! Conversions of whole rows.

use super::map1;
use crate::ptx::exec::float;
use crate::ptx::exec::warp::{Warp, Wide};
use crate::ptx::program::Entry;
use crate::ptx::program::op::*;

/// `cvt` between any two types.
pub fn convert(w: &mut Warp, e: &Entry, active: u32, c: &Cvt, d: R, a: R) {
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
        (Ty::F32, Ty::Tf32) => return map1(w, e, active, d, a, |x| float::to_tf32(x, c)),
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
