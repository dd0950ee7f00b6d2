//! Integers and bit fields of one lane.

use crate::ptx::program::op::{Carry, I32, I64, N64, Part, T32, U32};

const NONE: u32 = u32::MAX;

/// One 32-bit value to one.
pub fn one(f: U32, a: u32) -> u32 {
    let find = |a: u32| 31u32.wrapping_sub(a.leading_zeros());
    let signed = |a: u32| if (a as i32) < 0 { !a } else { a };
    let shift = |a: u32| if a == 0 { NONE } else { a.leading_zeros() };
    match f {
        U32::Not => !a,
        U32::Not16 => !a & 0xFFFF,
        U32::Neg => a.wrapping_neg(),
        U32::Neg16 => a.wrapping_neg() & 0xFFFF,
        U32::Abs => (a as i32).unsigned_abs(),
        U32::Abs16 => u32::from((a as i16).unsigned_abs()),
        U32::Popc => a.count_ones(),
        U32::Clz => a.leading_zeros(),
        U32::Brev => a.reverse_bits(),
        U32::BfindU => find(a),
        U32::BfindS => find(signed(a)),
        U32::BfindShiftU => shift(a),
        U32::BfindShiftS => shift(signed(a)),
        U32::Cnot => u32::from(a == 0),
    }
}

/// One 64-bit value to one of 32 bits.
pub fn narrow(f: N64, a: u64) -> u32 {
    let signed = if (a as i64) < 0 { !a } else { a };
    let find = |a: u64| 63u32.wrapping_sub(a.leading_zeros());
    let shift = |a: u64| if a == 0 { NONE } else { a.leading_zeros() };
    match f {
        N64::Popc => a.count_ones(),
        N64::Clz => a.leading_zeros(),
        N64::BfindU => find(a),
        N64::BfindS => find(signed),
        N64::BfindShiftU => shift(a),
        N64::BfindShiftS => shift(signed),
    }
}

/// Two 32-bit values to one. Division by zero gives all bits, as the hardware does.
pub fn two(f: I32, a: u32, b: u32) -> u32 {
    let (sa, sb) = (a as i32, b as i32);
    let (ha, hb) = (a as i16, b as i16);
    let low = |x: u32| x & 0xFFFF;
    match f {
        I32::Add => a.wrapping_add(b),
        I32::Sub => a.wrapping_sub(b),
        I32::Mul => a.wrapping_mul(b),
        I32::MulHiU => ((u64::from(a) * u64::from(b)) >> 32) as u32,
        I32::MulHiS => ((i64::from(sa) * i64::from(sb)) >> 32) as u32,
        I32::MulWideU16 => low(a) * low(b),
        I32::MulWideS16 => (i32::from(ha) * i32::from(hb)) as u32,
        I32::And => a & b,
        I32::Or => a | b,
        I32::Xor => a ^ b,
        I32::Shl => {
            if b > 31 {
                0
            } else {
                a << b
            }
        }
        I32::ShrU => {
            if b > 31 {
                0
            } else {
                a >> b
            }
        }
        I32::ShrS => (sa >> b.min(31)) as u32,
        I32::MinU => a.min(b),
        I32::MaxU => a.max(b),
        I32::MinS => sa.min(sb) as u32,
        I32::MaxS => sa.max(sb) as u32,
        I32::DivU => a.checked_div(b).unwrap_or(u32::MAX),
        I32::DivS => {
            if b == 0 {
                u32::MAX
            } else {
                sa.wrapping_div(sb) as u32
            }
        }
        I32::RemU => a.checked_rem(b).unwrap_or(a),
        I32::RemS => {
            if b == 0 {
                a
            } else {
                sa.wrapping_rem(sb) as u32
            }
        }
        I32::Mul24U => (a & 0xFF_FFFF).wrapping_mul(b & 0xFF_FFFF),
        I32::Mul24S => ((sa << 8 >> 8).wrapping_mul(sb << 8 >> 8)) as u32,
        I32::Add16 => low(a.wrapping_add(b)),
        I32::Sub16 => low(a.wrapping_sub(b)),
        I32::Mul16 => low(a.wrapping_mul(b)),
        I32::Shl16 => {
            if b > 15 {
                0
            } else {
                low(a << b)
            }
        }
        I32::ShrU16 => {
            if b > 15 {
                0
            } else {
                low(a) >> b
            }
        }
        I32::ShrS16 => low((ha >> b.min(15)) as u32),
        I32::MinS16 => low(ha.min(hb) as u32),
        I32::MaxS16 => low(ha.max(hb) as u32),
        I32::DivS16 => low(if hb == 0 {
            u32::MAX
        } else {
            ha.wrapping_div(hb) as u32
        }),
        I32::RemS16 => low(if hb == 0 {
            a
        } else {
            ha.wrapping_rem(hb) as u32
        }),
        I32::AddPair => pair(a, b, u16::wrapping_add),
        I32::MinUPair => pair(a, b, u16::min),
        I32::MaxUPair => pair(a, b, u16::max),
        I32::MinSPair => pair(a, b, |a, b| (a as i16).min(b as i16) as u16),
        I32::MaxSPair => pair(a, b, |a, b| (a as i16).max(b as i16) as u16),
        I32::MulHiU16 => (low(a) * low(b)) >> 16,
        I32::MulHiS16 => low(((i32::from(ha) * i32::from(hb)) >> 16) as u32),
        I32::Mul24HiU => ((u64::from(a & 0xFF_FFFF) * u64::from(b & 0xFF_FFFF)) >> 16) as u32,
        I32::Mul24HiS => ((i64::from(sa << 8 >> 8) * i64::from(sb << 8 >> 8)) >> 16) as u32,
        I32::AddSatS => sa.saturating_add(sb) as u32,
        I32::SubSatS => sa.saturating_sub(sb) as u32,
    }
}

/// Each half for itself.
fn pair(a: u32, b: u32, f: impl Fn(u16, u16) -> u16) -> u32 {
    let low = f(a as u16, b as u16);
    let high = f((a >> 16) as u16, (b >> 16) as u16);
    u32::from(low) | u32::from(high) << 16
}

/// Each part of a word for itself; with `add`, their sum and c.
#[allow(clippy::too_many_arguments)]
pub fn parts(
    f: Part,
    parts: u32,
    [to, left, right]: [bool; 3],
    sat: bool,
    add: bool,
    a: u32,
    b: u32,
    c: u32,
) -> u32 {
    let width = 32 / parts;
    let mask = u32::MAX >> (32 - width);
    let part = |word: u32, i: u32, signed: bool| {
        let high = word << (32 - width - width * i);
        match signed {
            true => i64::from(high as i32 >> (32 - width)),
            false => i64::from(high >> (32 - width)),
        }
    };
    let (low, high) = match to {
        true => (-1i64 << (width - 1), (1i64 << (width - 1)) - 1),
        false => (0, i64::from(mask)),
    };
    (0..parts).fold(if add { c } else { 0 }, |word, i| {
        let (a, b) = (part(a, i, left), part(b, i, right));
        let value = match f {
            Part::Add => a + b,
            Part::Sub => a - b,
            // Rounded away from zero.
            Part::Average => (a + b + i64::from(a + b >= 0)) >> 1,
            Part::Difference => (a - b).abs(),
            Part::Min => a.min(b),
            Part::Max => a.max(b),
        };
        let value = if sat { value.clamp(low, high) } else { value };
        match add {
            true => word.wrapping_add(value as u32),
            false => word | (value as u32 & mask) << (width * i),
        }
    })
}

/// A sum, difference or product with the carry in (`None`: none is taken), and the one that comes
/// out, of `width` bits. As the hardware has it, a difference is a sum with the complement: its carry
/// is 1 where nothing is borrowed. (The PTX manual says borrow; nvcc's division of 128 bits reads it
/// with `addc`, and is right.)
pub fn carry(f: Carry, width: u32, a: u64, b: u64, c: u64, taken: Option<bool>) -> (u64, bool) {
    let mask = u64::MAX >> (64 - width);
    let wide = |x: u64| u128::from(x & mask);
    if f == Carry::Sub {
        let sum = wide(a) + wide(!b) + u128::from(taken.unwrap_or(true));
        return (sum as u64 & mask, sum >> width != 0);
    }
    let taken = u128::from(taken.unwrap_or(false));
    let sum = match f {
        Carry::Add | Carry::Sub => wide(a) + wide(b) + taken,
        Carry::MadLo => ((wide(a) * wide(b)) & u128::from(mask)) + wide(c) + taken,
        Carry::MadHiU => ((wide(a) * wide(b)) >> width) + wide(c) + taken,
        Carry::MadHiS => {
            let signed = |x: u64| i128::from((x << (64 - width)) as i64 >> (64 - width));
            let high = ((signed(a) * signed(b)) >> width) as u64 & mask;
            u128::from(high) + wide(c) + taken
        }
    };
    (sum as u64 & mask, sum >> width != 0)
}

/// Two 64-bit values to one.
pub fn two_wide(f: I64, a: u64, b: u64) -> u64 {
    let (sa, sb) = (a as i64, b as i64);
    match f {
        I64::Add => a.wrapping_add(b),
        I64::Sub => a.wrapping_sub(b),
        I64::Mul => a.wrapping_mul(b),
        I64::MulHiU => ((u128::from(a) * u128::from(b)) >> 64) as u64,
        I64::MulHiS => ((i128::from(sa) * i128::from(sb)) >> 64) as u64,
        I64::And => a & b,
        I64::Or => a | b,
        I64::Xor => a ^ b,
        I64::MinU => a.min(b),
        I64::MaxU => a.max(b),
        I64::MinS => sa.min(sb) as u64,
        I64::MaxS => sa.max(sb) as u64,
        I64::DivU => a.checked_div(b).unwrap_or(u64::MAX),
        I64::DivS => {
            if b == 0 {
                u64::MAX
            } else {
                sa.wrapping_div(sb) as u64
            }
        }
        I64::RemU => a.checked_rem(b).unwrap_or(a),
        I64::RemS => {
            if b == 0 {
                a
            } else {
                sa.wrapping_rem(sb) as u64
            }
        }
    }
}

/// The lowest `length` bits of a, put into b at `at`.
pub fn insert(a: u64, b: u64, at: u32, length: u32, width: u32) -> u64 {
    let (at, length) = (at & 0xFF, length & 0xFF);
    if at >= width || length == 0 {
        return b;
    }
    let field = if length >= 64 {
        u64::MAX
    } else {
        (1 << length) - 1
    };
    b & !(field << at) | (a & field) << at
}

/// `length` bits of a from `at` on, extended by the sign of the field.
pub fn extract(a: u64, at: u32, length: u32, width: u32, signed: bool) -> u64 {
    let (at, length) = (at & 0xFF, length & 0xFF);
    if length == 0 {
        return 0;
    }
    let top = (at + length - 1).min(width - 1);
    let sign = signed && a >> top & 1 != 0;
    let field = if length >= 64 {
        u64::MAX
    } else {
        (1 << length) - 1
    };
    let low = if at >= width { 0 } else { a >> at };
    // Bits behind the register's end are the sign too.
    let have = if at >= width {
        0
    } else {
        (width - at).min(length)
    };
    let known = if have >= 64 {
        u64::MAX
    } else {
        (1 << have) - 1
    };
    let value = low & field & known;
    if sign { value | !known } else { value }
}

/// Three 32-bit values to one.
pub fn three(f: T32, a: u32, b: u32, c: u32) -> u32 {
    let both = u64::from(b) << 32 | u64::from(a);
    let bytes = |a: u32, b: u32, sa: bool, sb: bool, c: u32| {
        (0..4).fold(c, |sum, i| {
            let of = |x: u32, signed: bool| {
                let x = (x >> (8 * i)) as u8;
                if signed {
                    i32::from(x as i8)
                } else {
                    i32::from(x)
                }
            };
            sum.wrapping_add((of(a, sa) * of(b, sb)) as u32)
        })
    };
    match f {
        T32::Mad => a.wrapping_mul(b).wrapping_add(c),
        T32::MadHiU => two(I32::MulHiU, a, b).wrapping_add(c),
        T32::MadHiS => two(I32::MulHiS, a, b).wrapping_add(c),
        T32::Mad16 => a.wrapping_mul(b).wrapping_add(c) & 0xFFFF,
        T32::MadWideU16 => two(I32::MulWideU16, a, b).wrapping_add(c),
        T32::MadWideS16 => two(I32::MulWideS16, a, b).wrapping_add(c),
        T32::Lop3(table) => (0..8u32)
            .filter(|k| table >> k & 1 != 0)
            .fold(0, |bits, k| {
                let of = |x: u32, one: bool| if one { x } else { !x };
                bits | of(a, k & 4 != 0) & of(b, k & 2 != 0) & of(c, k & 1 != 0)
            }),
        T32::Prmt => permute(both, |i| c >> (4 * i) & 0xF),
        T32::PrmtF4e => permute(both, |i| (c & 3) + i),
        T32::PrmtB4e => permute(both, |i| (c & 3).wrapping_sub(i) & 7),
        T32::PrmtRc8 => permute(both, |_| c & 3),
        T32::PrmtEcl => permute(both, |i| i.max(c & 3)),
        T32::PrmtEcr => permute(both, |i| i.min(c & 3)),
        T32::PrmtRc16 => permute(both, |i| 2 * (c & 1) + (i & 1)),
        T32::ShfLWrap => (both << (c & 31) >> 32) as u32,
        T32::ShfLClamp => (both << c.min(32) >> 32) as u32,
        T32::ShfRWrap => (both >> (c & 31)) as u32,
        T32::ShfRClamp => (both >> c.min(32)) as u32,
        T32::BfeU => extract(u64::from(a), b, c, 32, false) as u32,
        T32::BfeS => extract(u64::from(a), b, c, 32, true) as u32,
        T32::SadU => a.abs_diff(b).wrapping_add(c),
        T32::SadS => (a as i32).abs_diff(b as i32).wrapping_add(c),
        T32::Dp4aUU => bytes(a, b, false, false, c),
        T32::Dp4aSS => bytes(a, b, true, true, c),
        T32::Dp4aUS => bytes(a, b, false, true, c),
        T32::Dp4aSU => bytes(a, b, true, false, c),
        T32::Dp2a(sa, sb, upper) => (0..2).fold(c, |sum, i| {
            let half = (a >> (16 * i)) as u16;
            let byte = (b >> (8 * i + if upper { 16 } else { 0 })) as u8;
            let half = if sa {
                i32::from(half as i16)
            } else {
                i32::from(half)
            };
            let byte = if sb {
                i32::from(byte as i8)
            } else {
                i32::from(byte)
            };
            sum.wrapping_add((half * byte) as u32)
        }),
        T32::Mad24U => two(I32::Mul24U, a, b).wrapping_add(c),
        T32::Mad24S => two(I32::Mul24S, a, b).wrapping_add(c),
        T32::MadSatHi => (two(I32::MulHiS, a, b) as i32).saturating_add(c as i32) as u32,
        T32::SadU16 => u32::from((a as u16).abs_diff(b as u16)).wrapping_add(c) & 0xFFFF,
        T32::SadS16 => u32::from((a as i16).abs_diff(b as i16)).wrapping_add(c) & 0xFFFF,
        T32::Fns => find_nth(a, b & 31, c as i32),
        T32::BmskClamp => {
            let (at, length) = (a.min(32), b.min(32));
            ((((1u64 << length) - 1) << at) & 0xFFFF_FFFF) as u32
        }
        T32::BmskWrap => {
            let (at, length) = (a & 31, b & 31);
            ((((1u64 << length) - 1) << at) & 0xFFFF_FFFF) as u32
        }
        T32::SzextUClamp => {
            if b > 31 {
                a
            } else {
                a & ((1 << b) - 1)
            }
        }
        T32::SzextUWrap => a & ((1 << (b & 31)) - 1),
        T32::SzextSClamp => extend(a, b.min(32)),
        T32::SzextSWrap => extend(a, b & 31),
    }
}

/// The place of the n-th set bit from `base` on, upwards or, for negative n, downwards.
fn find_nth(mask: u32, base: u32, n: i32) -> u32 {
    if n == 0 {
        return if mask >> base & 1 != 0 { base } else { NONE };
    }
    let places: &mut dyn Iterator<Item = u32> = match n > 0 {
        true => &mut (base..32),
        false => &mut (0..=base).rev(),
    };
    places
        .filter(|place| mask >> place & 1 != 0)
        .nth(n.unsigned_abs() as usize - 1)
        .unwrap_or(NONE)
}

/// The lowest `length` bits, extended by their sign.
fn extend(a: u32, length: u32) -> u32 {
    match length {
        0 => 0,
        32.. => a,
        _ => ((a << (32 - length)) as i32 >> (32 - length)) as u32,
    }
}

/// Four bytes of eight; bit 3 of a selector spreads the byte's sign.
fn permute(bytes: u64, select: impl Fn(u32) -> u32) -> u32 {
    (0..4).fold(0, |out, i| {
        let s = select(i);
        let byte = (bytes >> (8 * (s & 7))) as u8;
        let byte = if s & 8 != 0 {
            ((byte as i8) >> 7) as u8
        } else {
            byte
        };
        out | u32::from(byte) << (8 * i)
    })
}
