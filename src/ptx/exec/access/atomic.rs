//! Atomic operations.

use super::{addresses, allocation, count_banks, count_sectors, lanes, misaligned, shared_address};
use super::{replace, shared_wrong, unordered, windows};
use crate::ptx::exec::warp::{Warp, Wide};
use crate::ptx::exec::{Common, Stop, float};
use crate::ptx::memory::WINDOW_BYTES;
use crate::ptx::program::op::{Atom, AtomOp, F2, Half, Mods, R, Space, Ty};

/// The new value of an atomic operation.
pub fn combine(op: AtomOp, ty: Ty, old: u64, b: u64, c: u64) -> u64 {
    let (so, sb) = match ty {
        Ty::S32 => (i64::from(old as i32), i64::from(b as i32)),
        _ => (old as i64, b as i64),
    };
    match op {
        AtomOp::Add => match ty {
            Ty::F32 => u64::from(float::two(F2::Add, Mods::PLAIN, old as u32, b as u32)),
            Ty::F64 => float::two_wide(F2::Add, Mods::PLAIN, old, b),
            Ty::F16 | Ty::Bf16 | Ty::F16x2 | Ty::Bf16x2 => {
                let h = half(ty);
                u64::from(float::two_halves(
                    F2::Add,
                    h,
                    Mods::PLAIN,
                    old as u32,
                    b as u32,
                ))
            }
            Ty::U64 => old.wrapping_add(b),
            _ => u64::from((old as u32).wrapping_add(b as u32)),
        },
        AtomOp::Min | AtomOp::Max if ty.float() => {
            let f = if op == AtomOp::Min { F2::Min } else { F2::Max };
            let (old, b) = (old as u32, b as u32);
            u64::from(float::two_halves(f, half(ty), Mods::PLAIN, old, b))
        }
        AtomOp::Min if ty.signed() => {
            if sb < so {
                b
            } else {
                old
            }
        }
        AtomOp::Max if ty.signed() => {
            if sb > so {
                b
            } else {
                old
            }
        }
        AtomOp::Min => old.min(b),
        AtomOp::Max => old.max(b),
        AtomOp::And => old & b,
        AtomOp::Or => old | b,
        AtomOp::Xor => old ^ b,
        AtomOp::Inc => {
            if old >= b {
                0
            } else {
                old + 1
            }
        }
        AtomOp::Dec => {
            if old == 0 || old > b {
                b
            } else {
                old - 1
            }
        }
        AtomOp::Exch => b,
        AtomOp::Cas => {
            if old == b {
                c
            } else {
                old
            }
        }
    }
}

fn half(ty: Ty) -> Half {
    Half {
        brain: matches!(ty, Ty::Bf16 | Ty::Bf16x2),
        packed: matches!(ty, Ty::F16x2 | Ty::Bf16x2),
    }
}

/// Accesses in a row that change nothing, after which other blocks have their turn; and after which
/// the block waits in vain.
const TURN: u32 = 64;
const PATIENCE: u32 = 1 << 20;

/// An atomic operation, lane after lane.
pub fn atomic(w: &mut Warp, common: &mut Common<'_>, active: u32, atom: &Atom) -> Result<(), Stop> {
    let bytes = atom.ty.bytes();
    let total = bytes * atom.rows.len() as u32;
    let mut addresses = addresses(w, common, atom.at);
    let shared = match atom.space {
        Space::Shared => active,
        Space::Generic => {
            let at = windows(&addresses, active);
            if at.local | at.param != 0 {
                return Err(Stop::warp("an atomic on local memory or a parameter"));
            }
            for lane in lanes(at.shared) {
                addresses[lane as usize] &= WINDOW_BYTES - 1;
            }
            at.shared
        }
        _ => 0,
    };
    let global = active & !shared;
    if common.counting {
        if shared != 0 {
            count_banks(common, shared, &addresses, total);
        }
        if global != 0 {
            count_sectors(w, common, global, &addresses, total, true);
        }
    }
    if global != 0 && (common.fenced || atom.ordered) {
        common.fenced = false;
        common.launch.times.release(&mut common.clock);
    }
    for lane in lanes(active) {
        let address = addresses[lane as usize];
        if !address.is_multiple_of(u64::from(total)) {
            return Err(misaligned(lane, "atomic on address", address, total));
        }
    }
    let e = common.entry;
    let mut changed = false;
    for ([d, b, c], element) in atom.rows.iter().zip(0u64..) {
        let row = |w: &Warp, r: R| -> Wide {
            match bytes {
                8 => *w.w(e, r),
                _ => w.r(e, r).map(u64::from),
            }
        };
        let (b, c) = (row(w, *b), row(w, *c));
        let mut out: Wide = [0; 32];
        for lane in lanes(active) {
            let i = lane as usize;
            let address = addresses[i] + element * u64::from(bytes);
            let change = |old: u64| combine(atom.op, atom.ty, old, b[i], c[i]);
            let mask = u64::MAX >> (64 - 8 * bytes);
            out[i] = match shared >> lane & 1 {
                1 => atomic_shared(w, common, lane, address, bytes, change)?,
                _ => atomic_global(w, common, lane, address, bytes, change)?,
            };
            changed |= change(out[i]) & mask != out[i];
        }
        match bytes {
            8 => w.put_wide(*d, &out, active),
            _ => w.put(*d, &out.map(|x| x as u32), active),
        }
    }
    if global != 0 {
        common.launch.times.acquire(&mut common.clock);
    }
    let vain = global != 0 && !changed;
    waits(w, common, vain)
}

/// Counts what a warp does in vain: a thread that waits for another block lets it run.
pub fn waits(w: &mut Warp, common: &mut Common<'_>, vain: bool) -> Result<(), Stop> {
    if !vain {
        w.vain = 0;
        return Ok(());
    }
    w.vain += 1;
    common.waits |= w.vain.is_multiple_of(TURN);
    match w.vain > PATIENCE {
        true => Err(Stop::warp(format!(
            "{PATIENCE} atomics or strong loads in a row changed nothing: \
             a thread that waits for another block in vain"
        ))),
        false => Ok(()),
    }
}

fn atomic_shared(
    w: &Warp,
    common: &mut Common<'_>,
    lane: u32,
    address: u64,
    bytes: u32,
    change: impl Fn(u64) -> u64,
) -> Result<u64, Stop> {
    let at = shared_address(common, lane, "atomic on", address, bytes)?;
    let who = common.who(w, lane);
    common
        .shared
        .atomic(at, bytes, who, &common.clocks)
        .map_err(|wrong| Stop::lane(lane, shared_wrong(common, "atomic on", at, wrong)))?;
    let index = at as usize / 4;
    let word = common.shared.word(index);
    if bytes == 2 {
        let shift = 8 * (at % 4);
        let old = u64::from(word >> shift & 0xFFFF);
        *common.shared.word_mut(index) = replace(word, change(old) as u32, 2, shift);
        return Ok(old);
    }
    let mut old = u64::from(word);
    if bytes == 8 {
        old |= u64::from(common.shared.word(index + 1)) << 32;
    }
    let new = change(old);
    *common.shared.word_mut(index) = new as u32;
    if bytes == 8 {
        *common.shared.word_mut(index + 1) = (new >> 32) as u32;
    }
    Ok(old)
}

fn atomic_global(
    w: &mut Warp,
    common: &mut Common<'_>,
    lane: u32,
    address: u64,
    bytes: u32,
    change: impl Fn(u64) -> u64,
) -> Result<u64, Stop> {
    use std::sync::atomic::Ordering::SeqCst;
    if !address.is_multiple_of(u64::from(bytes)) {
        return Err(misaligned(lane, "atomic on address", address, bytes));
    }
    let (found, offset) = allocation(w, common, lane, "atomic on", address, bytes)?;
    let checks = common.launch.options.checks;
    if checks.global_uninitialised && !found.is_full() && !found.is_written(offset, bytes) {
        return Err(Stop::lane(
            lane,
            format!(
                "atomic on address {address:#x}, which nobody wrote: byte {offset} of an allocation of {}",
                found.bytes
            ),
        ));
    }
    // Words have 32 bits here: atomics of 64 take turns. So do all where races are looked for, or the
    // last mark on a word could be of another block than the last that changed it.
    let alone = bytes == 8 || checks.global_races;
    let _turn = alone.then(|| common.launch.memory.turn());
    if checks.global_races {
        let own = common.launch.times.stamp(&common.clock, w.pc);
        for word in 0..bytes.div_ceil(4) as usize {
            let result = common.launch.times.write(
                found.shadow(offset / 4 + word),
                own,
                &common.clock,
                true,
            );
            result.map_err(|other| unordered(common, lane, "atomic on", address, &other))?;
        }
    }
    let place = found.word(offset / 4);
    if bytes == 2 {
        let shift = 8 * (offset as u32 % 4);
        let half = |word: u32| u64::from(word >> shift & 0xFFFF);
        let old = place.fetch_update(SeqCst, SeqCst, |old| {
            Some(replace(old, change(half(old)) as u32, 2, shift))
        });
        return Ok(half(old.unwrap_or_else(|old| old)));
    }
    if bytes == 4 {
        let old = place.fetch_update(SeqCst, SeqCst, |old| Some(change(u64::from(old)) as u32));
        return Ok(u64::from(old.unwrap_or_else(|old| old)));
    }
    let high = found.word(offset / 4 + 1);
    let old = u64::from(place.load(SeqCst)) | u64::from(high.load(SeqCst)) << 32;
    let new = change(old);
    place.store(new as u32, SeqCst);
    high.store((new >> 32) as u32, SeqCst);
    Ok(old)
}
