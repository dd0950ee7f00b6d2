//! Loads, stores and atomics, in every state space.

use super::warp::{ALL, Row, Warp, Wide};
use super::{Common, Stop};
use crate::ptx::memory::global::Allocation;
use crate::ptx::memory::shared::Wrong;
use crate::ptx::memory::{PARAM_WINDOW, SHARED_WINDOW, WINDOW_BYTES};
use crate::ptx::program::op::{Addr, Atom, AtomOp, Base, R, SINK, Space, Ty};

/// The words of up to 32 bytes of each lane.
pub type Words = [Row];

/// The lanes of a mask.
#[inline(always)]
pub fn lanes(mask: u32) -> impl Iterator<Item = u32> {
    let mut left = mask;
    std::iter::from_fn(move || {
        (left != 0).then(|| {
            let lane = left.trailing_zeros();
            left &= left - 1;
            lane
        })
    })
}

/// Each lane's address.
#[inline(always)]
pub fn addresses(w: &Warp, common: &Common<'_>, at: Addr) -> Wide {
    let mut out: Wide = [at.offset as u64; 32];
    match at.base {
        Base::None => {}
        Base::R32(r) => {
            // Addresses of 32 bits wrap at 32 bits.
            for (out, base) in out.iter_mut().zip(w.r(common.entry, r)) {
                *out = u64::from(base.wrapping_add(at.offset as u32));
            }
        }
        Base::R64(r) => {
            for (out, base) in out.iter_mut().zip(w.w(common.entry, r)) {
                *out = base.wrapping_add(at.offset as u64);
            }
        }
    }
    out
}

/// The lanes of generic addresses in the shared window, in the parameters, elsewhere.
fn windows(addresses: &Wide, active: u32) -> (u32, u32, u32) {
    let (mut shared, mut param) = (0, 0);
    for lane in lanes(active) {
        let address = addresses[lane as usize];
        shared |= u32::from(address.wrapping_sub(SHARED_WINDOW) < WINDOW_BYTES) << lane;
        param |= u32::from(address.wrapping_sub(PARAM_WINDOW) < WINDOW_BYTES) << lane;
    }
    (shared, param, active & !shared & !param)
}

fn misaligned(lane: u32, what: &str, address: u64, bytes: u32) -> Stop {
    Stop::lane(
        lane,
        format!("{what} {address:#x}, misaligned: not a multiple of {bytes}"),
    )
}

/// An instruction's load.
#[allow(clippy::too_many_arguments)]
pub fn load(
    w: &mut Warp,
    common: &mut Common<'_>,
    active: u32,
    space: Space,
    ty: Ty,
    count: u8,
    d: &[R; 8],
    wide: bool,
    strong: bool,
    at: Addr,
) -> Result<(), Stop> {
    let total = ty.bytes() * u32::from(count);
    // No more rows than the access has words: most have one.
    let (mut one, mut four, mut eight);
    let words: &mut Words = match total {
        0..=4 => {
            one = [[0; 32]];
            &mut one
        }
        5..=16 => {
            four = [[0; 32]; 4];
            &mut four
        }
        _ => {
            eight = [[0; 32]; 8];
            &mut eight
        }
    };
    match space {
        Space::Param if at.base == Base::None => {
            let value = param(common, at.offset as u64, total).map_err(Stop::warp)?;
            for (row, value) in words.iter_mut().zip(value) {
                *row = [value; 32];
            }
        }
        _ => {
            let mut addresses = addresses(w, common, at);
            match space {
                Space::Param => load_param(common, active, &addresses, total, words)?,
                Space::Shared => load_shared(w, common, active, &addresses, total, words)?,
                Space::Global => load_global(w, common, active, &addresses, total, strong, words)?,
                Space::Generic => {
                    let (shared, params, global) = windows(&addresses, active);
                    for lane in lanes(shared | params) {
                        addresses[lane as usize] &= WINDOW_BYTES - 1;
                    }
                    if shared != 0 {
                        load_shared(w, common, shared, &addresses, total, words)?;
                    }
                    if params != 0 {
                        load_param(common, params, &addresses, total, words)?;
                    }
                    if global != 0 {
                        load_global(w, common, global, &addresses, total, strong, words)?;
                    }
                }
            }
        }
    }
    let size = ty.bytes();
    for (k, d) in d.iter().enumerate().take(usize::from(count)) {
        if *d == SINK {
            continue;
        }
        if size == 8 {
            let mut out: Wide = [0; 32];
            for i in 0..32 {
                out[i] = u64::from(words[2 * k][i]) | u64::from(words[2 * k + 1][i]) << 32;
            }
            w.put_wide(*d, &out, active);
            continue;
        }
        let byte = k as u32 * size;
        let row = &words[byte as usize / 4];
        let value = match size {
            4 => *row,
            _ => {
                let (shift, spare) = (8 * (byte % 4), 32 - 8 * size);
                match ty.signed() {
                    true => row.map(|x| ((x >> shift << spare) as i32 >> spare) as u32),
                    false => row.map(|x| x >> shift << spare >> spare),
                }
            }
        };
        match wide {
            false => w.put(*d, &value, active),
            true if ty.signed() => w.put_wide(*d, &value.map(|x| x as i32 as u64), active),
            true => w.put_wide(*d, &value.map(u64::from), active),
        }
    }
    Ok(())
}

/// Bytes of the parameter block as words.
fn param(common: &Common<'_>, offset: u64, total: u32) -> Result<[u32; 8], String> {
    let params = common.launch.params;
    let bytes = usize::try_from(offset)
        .ok()
        .and_then(|start| params.get(start..start.checked_add(total as usize)?));
    let Some(bytes) = bytes else {
        return Err(format!(
            "read of parameter byte {offset}, out of bounds: there are {}",
            params.len()
        ));
    };
    let mut out = [0; 8];
    for (i, byte) in bytes.iter().enumerate() {
        out[i / 4] |= u32::from(*byte) << (8 * (i % 4));
    }
    Ok(out)
}

fn load_param(
    common: &Common<'_>,
    active: u32,
    addresses: &Wide,
    total: u32,
    words: &mut Words,
) -> Result<(), Stop> {
    for lane in lanes(active) {
        let address = addresses[lane as usize];
        if !address.is_multiple_of(u64::from(total)) {
            return Err(misaligned(lane, "read of parameter", address, total));
        }
        let value = param(common, address, total).map_err(|what| Stop::lane(lane, what))?;
        for (row, value) in words.iter_mut().zip(value) {
            row[lane as usize] = value;
        }
    }
    Ok(())
}

/// Words about what is wrong with an access to shared memory.
pub fn shared_wrong(common: &Common<'_>, what: &str, address: u32, wrong: Wrong) -> String {
    let line = |pc: u32| match common.entry.code.get(pc as usize) {
        Some(inst) => common.launch.module.at(inst),
        None => "?".into(),
    };
    match wrong {
        Wrong::Unwritten => format!("{what} shared address {address:#x}, which nobody wrote"),
        Wrong::Nothing => format!(
            "{what} shared address {address:#x}, out of bounds: {}",
            near(common, address)
        ),
        Wrong::InFlight { pc } => format!(
            "{what} shared address {address:#x} while a copy to it, issued at {}, has not been waited for",
            line(pc)
        ),
        Wrong::Unfenced { thread, pc } => {
            let who =
                thread.map_or_else(|| "a warp".to_string(), |thread| format!("thread {thread}"));
            let words = "with no fence.proxy.async in between";
            format!(
                "{what} shared address {address:#x}, which {who} wrote at {}, {words}",
                line(pc)
            )
        }
        Wrong::Race {
            wrote,
            thread,
            warp,
            pc,
        } => {
            let did = if wrote { "write" } else { "read" };
            let who = match thread {
                Some(thread) => format!("thread {thread}"),
                None if warp < 32 => format!("warp {warp}"),
                None => super::hopper::agent(warp),
            };
            format!(
                "data race: {what} shared address {address:#x}, not ordered with the {did} by {who} at {}",
                line(pc)
            )
        }
    }
}

/// The array that a shared address is next to.
fn near(common: &Common<'_>, address: u32) -> String {
    let layout = &common.entry.shared;
    let dynamic = (
        "dynamic shared memory".to_string(),
        layout.dynamic_start,
        common.launch.dynamic_shared_bytes,
    );
    let all = layout.arrays.iter().chain(std::iter::once(&dynamic));
    let mut before = all.filter(|(_, start, _)| *start <= address);
    match before.next_back() {
        Some((name, start, bytes)) => {
            format!("byte {} of {name}, which has {bytes}", address - start)
        }
        None => "before all shared memory".into(),
    }
}

/// The address of a shared access, checked for bounds and alignment.
#[inline(always)]
pub fn shared_address(
    common: &Common<'_>,
    lane: u32,
    what: &str,
    address: u64,
    bytes: u32,
) -> Result<u32, Stop> {
    let at = address as u32;
    if address > u64::from(u32::MAX) || !common.shared.holds(at, bytes) {
        return Err(Stop::lane(
            lane,
            format!(
                "{what} shared address {address:#x}, out of bounds: {}",
                near(common, at)
            ),
        ));
    }
    if !at.is_multiple_of(bytes) {
        return Err(misaligned(
            lane,
            &format!("{what} shared address"),
            address,
            bytes,
        ));
    }
    Ok(at)
}

fn load_shared(
    w: &Warp,
    common: &mut Common<'_>,
    active: u32,
    addresses: &Wide,
    total: u32,
    words: &mut Words,
) -> Result<(), Stop> {
    if common.counting {
        count_banks(common, active, addresses, total);
    }
    for lane in lanes(active) {
        let at = shared_address(common, lane, "read of", addresses[lane as usize], total)?;
        let who = common.who(w, lane);
        let count = total.div_ceil(4);
        for word in 0..count {
            let address = at + 4 * word;
            common
                .shared
                .read(address, total.min(4), who, &common.clocks)
                .map_err(|wrong| {
                    Stop::lane(lane, shared_wrong(common, "read of", address, wrong))
                })?;
            let value = common.shared.word(address as usize / 4);
            words[word as usize][lane as usize] = value >> (8 * (address % 4));
        }
    }
    Ok(())
}

/// Finds the allocation of an access, first where the last one was.
#[inline(always)]
pub fn allocation<'m>(
    w: &mut Warp,
    common: &Common<'m>,
    lane: u32,
    what: &str,
    address: u64,
    bytes: u32,
) -> Result<(&'m Allocation, usize), Stop> {
    let memory = common.launch.memory;
    if let Some(found) = memory.at(w.allocation) {
        let offset = address.wrapping_sub(found.start);
        if offset < found.bytes && u64::from(bytes) <= found.bytes - offset {
            return Ok((found, offset as usize));
        }
    }
    let found = memory
        .find(address, u64::from(bytes))
        .and_then(|at| Some((at, memory.at(at)?)));
    match found {
        Some((at, found)) => {
            w.allocation = at;
            Ok((found, (address - found.start) as usize))
        }
        None => Err(Stop::lane(
            lane,
            format!("{what} address {address:#x}, {}", memory.describe(address)),
        )),
    }
}

#[allow(clippy::too_many_arguments)]
pub fn load_global(
    w: &mut Warp,
    common: &mut Common<'_>,
    active: u32,
    addresses: &Wide,
    total: u32,
    strong: bool,
    words: &mut Words,
) -> Result<(), Stop> {
    if common.counting {
        count_sectors(w, common, active, addresses, total, false);
    }
    for lane in lanes(active) {
        let address = addresses[lane as usize];
        if !address.is_multiple_of(u64::from(total)) {
            return Err(misaligned(lane, "read of address", address, total));
        }
        let (found, offset) = allocation(w, common, lane, "read of", address, total)?;
        check_read(w, common, lane, "read of", found, offset, total, strong)?;
        for (word, row) in words
            .iter_mut()
            .enumerate()
            .take(total.div_ceil(4) as usize)
        {
            let index = offset / 4 + word;
            let value = found.word(index).load(std::sync::atomic::Ordering::Relaxed);
            row[lane as usize] = value >> (8 * (offset % 4));
        }
    }
    Ok(())
}

/// Checks and records a read of global memory by a lane.
#[allow(clippy::too_many_arguments)]
#[inline(always)]
pub fn check_read(
    w: &Warp,
    common: &Common<'_>,
    lane: u32,
    what: &str,
    found: &Allocation,
    offset: usize,
    bytes: u32,
    strong: bool,
) -> Result<(), Stop> {
    let checks = common.launch.options.checks;
    if checks.global_uninitialised && !found.is_full() && !found.is_written(offset, bytes) {
        let address = found.start + offset as u64;
        return Err(Stop::lane(
            lane,
            format!(
                "{what} address {address:#x}, which nobody wrote: byte {offset} of an allocation of {}",
                found.bytes
            ),
        ));
    }
    if checks.global_races && !strong {
        let own = common.launch.times.stamp(&common.clock, w.pc);
        for index in offset / 4..(offset + bytes as usize).div_ceil(4) {
            let result = common
                .launch
                .times
                .read(found.shadow(index), own, &common.clock);
            result.map_err(|other| {
                unordered(common, lane, what, found.start + 4 * index as u64, &other)
            })?;
        }
    }
    Ok(())
}

pub fn unordered(
    common: &Common<'_>,
    lane: u32,
    what: &str,
    address: u64,
    other: &crate::ptx::memory::blocks::Unordered,
) -> Stop {
    let [x, y, _] = common.launch.grid;
    let b = other.block;
    let line = match common.entry.code.get(other.pc as usize) {
        Some(inst) => common.launch.module.at(inst),
        None => "?".into(),
    };
    let did = if other.wrote { "write" } else { "read" };
    let (bx, by, bz) = (b % x, b / x % y, b / x / y);
    Stop::lane(
        lane,
        format!(
            "data race between blocks: {what} address {address:#x}, not ordered with the {did} by block ({bx},{by},{bz}) at {line}"
        ),
    )
}

/// An instruction's store.
#[allow(clippy::too_many_arguments)]
pub fn store(
    w: &mut Warp,
    common: &mut Common<'_>,
    active: u32,
    space: Space,
    ty: Ty,
    count: u8,
    s: &[R; 8],
    wide: bool,
    strong: bool,
    at: Addr,
) -> Result<(), Stop> {
    let size = ty.bytes();
    let total = size * u32::from(count);
    let (mut one, mut four, mut eight);
    let words: &mut Words = match total {
        0..=4 => {
            one = [[0; 32]];
            &mut one
        }
        5..=16 => {
            four = [[0; 32]; 4];
            &mut four
        }
        _ => {
            eight = [[0; 32]; 8];
            &mut eight
        }
    };
    for (k, s) in s.iter().enumerate().take(usize::from(count)) {
        if size == 8 {
            let row = w.w(common.entry, *s);
            for i in 0..32 {
                words[2 * k][i] = row[i] as u32;
                words[2 * k + 1][i] = (row[i] >> 32) as u32;
            }
            continue;
        }
        let row: Row = if wide {
            w.w(common.entry, *s).map(|x| x as u32)
        } else {
            *w.r(common.entry, *s)
        };
        let byte = k as u32 * size;
        let place = &mut words[byte as usize / 4];
        if size == 4 {
            *place = row;
        } else {
            let mask = (1 << (8 * size)) - 1;
            for i in 0..32 {
                place[i] |= (row[i] & mask) << (8 * (byte % 4));
            }
        }
    }
    let mut addresses = addresses(w, common, at);
    match space {
        Space::Shared => store_shared(w, common, active, &addresses, total, words),
        Space::Global => store_global(w, common, active, &addresses, total, strong, words),
        Space::Param => Err(Stop::warp("a store to a parameter")),
        Space::Generic => {
            let (shared, params, global) = windows(&addresses, active);
            if params != 0 {
                return Err(Stop::warp("a store to a parameter"));
            }
            for lane in lanes(shared) {
                addresses[lane as usize] &= WINDOW_BYTES - 1;
            }
            if shared != 0 {
                store_shared(w, common, shared, &addresses, total, words)?;
            }
            match global {
                0 => Ok(()),
                _ => store_global(w, common, global, &addresses, total, strong, words),
            }
        }
    }
}

/// The word with the bytes from `shift` on replaced by the lowest of `value`.
fn replace(old: u32, value: u32, bytes: u32, shift: u32) -> u32 {
    let mask = ((1u64 << (8 * bytes)) - 1) as u32;
    old & !(mask << shift) | (value & mask) << shift
}

fn store_shared(
    w: &Warp,
    common: &mut Common<'_>,
    active: u32,
    addresses: &Wide,
    total: u32,
    words: &Words,
) -> Result<(), Stop> {
    if common.counting {
        count_banks(common, active, addresses, total);
    }
    for lane in lanes(active) {
        let at = shared_address(common, lane, "write to", addresses[lane as usize], total)?;
        let who = common.who(w, lane);
        for word in 0..total.div_ceil(4) {
            let address = at + 4 * word;
            let value = words[word as usize][lane as usize];
            let old = common.shared.word(address as usize / 4);
            let new = match total {
                1 | 2 => replace(old, value, total, 8 * (address % 4)),
                _ => value,
            };
            if let Err(wrong) = common
                .shared
                .write(address, total.min(4), who, &common.clocks)
            {
                // Threads that write the same value by the same store: no matter who wins.
                let same = matches!(wrong, Wrong::Race { wrote: true, pc, .. } if pc == w.pc);
                if !same || old != new {
                    return Err(Stop::lane(
                        lane,
                        shared_wrong(common, "write to", address, wrong),
                    ));
                }
            }
            *common.shared.word_mut(address as usize / 4) = new;
        }
    }
    Ok(())
}

#[allow(clippy::too_many_arguments)]
fn store_global(
    w: &mut Warp,
    common: &mut Common<'_>,
    active: u32,
    addresses: &Wide,
    total: u32,
    strong: bool,
    words: &Words,
) -> Result<(), Stop> {
    use std::sync::atomic::Ordering::Relaxed;
    let races = common.launch.options.checks.global_races;
    let own = common.launch.times.stamp(&common.clock, w.pc);
    if common.counting {
        count_sectors(w, common, active, addresses, total, true);
    }
    for lane in lanes(active) {
        let address = addresses[lane as usize];
        if !address.is_multiple_of(u64::from(total)) {
            return Err(misaligned(lane, "write to address", address, total));
        }
        let (found, offset) = allocation(w, common, lane, "write to", address, total)?;
        for (word, row) in words.iter().enumerate().take(total.div_ceil(4) as usize) {
            let index = offset / 4 + word;
            let value = row[lane as usize];
            // Blocks that write to different bytes of a word do not disturb each other.
            if races && total >= 4 {
                let result =
                    common
                        .launch
                        .times
                        .write(found.shadow(index), own, &common.clock, strong);
                result.map_err(|other| unordered(common, lane, "write to", address, &other))?;
            }
            let place = found.word(index);
            if total >= 4 {
                place.store(value, Relaxed);
            } else {
                let shift = 8 * (offset as u32 % 4);
                // Another block's thread may write the word's other bytes: replace until it fits.
                let _ = place.fetch_update(Relaxed, Relaxed, |old| {
                    Some(replace(old, value, total, shift))
                });
            }
        }
        if !found.is_full() {
            found.mark(offset, total);
        }
    }
    Ok(())
}

/// The new value of an atomic operation.
pub fn combine(op: AtomOp, ty: Ty, old: u64, b: u64, c: u64) -> u64 {
    use crate::ptx::program::op::{F2, Half, Mods};
    let (so, sb) = match ty {
        Ty::S32 => (i64::from(old as i32), i64::from(b as i32)),
        _ => (old as i64, b as i64),
    };
    match op {
        AtomOp::Add => match ty {
            Ty::F32 => u64::from(super::float::two(
                F2::Add,
                Mods::PLAIN,
                old as u32,
                b as u32,
            )),
            Ty::F64 => super::float::two_wide(F2::Add, Mods::PLAIN, old, b),
            Ty::F16x2 | Ty::Bf16x2 => {
                let h = Half {
                    brain: ty == Ty::Bf16x2,
                    packed: true,
                };
                u64::from(super::float::two_halves(
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

/// Global atomics of a warp without a barrier after which it counts as waiting for another block.
const PATIENCE: u32 = 1 << 22;

/// An atomic operation, lane after lane.
pub fn atomic(w: &mut Warp, common: &mut Common<'_>, active: u32, atom: &Atom) -> Result<(), Stop> {
    let bytes = atom.ty.bytes();
    let e = common.entry;
    let row = |w: &Warp, r: R| -> Wide {
        match bytes {
            8 => *w.w(e, r),
            _ => w.r(e, r).map(u64::from),
        }
    };
    let (b, c) = (row(w, atom.b), row(w, atom.c));
    let mut addresses = addresses(w, common, atom.at);
    let shared = match atom.space {
        Space::Shared => active,
        Space::Generic => {
            let (shared, _, _) = windows(&addresses, active);
            for lane in lanes(shared) {
                addresses[lane as usize] &= WINDOW_BYTES - 1;
            }
            shared
        }
        _ => 0,
    };
    let global = active & !shared;
    if common.counting {
        if shared != 0 {
            count_banks(common, shared, &addresses, bytes);
        }
        if global != 0 {
            count_sectors(w, common, global, &addresses, bytes, true);
        }
    }
    if global != 0 {
        w.atomics += 1;
        if w.atomics > PATIENCE {
            return Err(Stop::warp(format!(
                "{PATIENCE} global atomics without a barrier: a thread that waits for another block"
            )));
        }
        if common.fenced || atom.ordered {
            common.fenced = false;
            common.launch.times.release(&mut common.clock);
        }
    }
    let mut out: Wide = [0; 32];
    for lane in lanes(active) {
        let i = lane as usize;
        let address = addresses[i];
        let change = |old: u64| combine(atom.op, atom.ty, old, b[i], c[i]);
        out[i] = match shared >> lane & 1 {
            1 => {
                let at = shared_address(common, lane, "atomic on", address, bytes)?;
                let who = common.who(w, lane);
                common
                    .shared
                    .atomic(at, bytes, who, &common.clocks)
                    .map_err(|wrong| {
                        Stop::lane(lane, shared_wrong(common, "atomic on", at, wrong))
                    })?;
                let index = at as usize / 4;
                let mut old = u64::from(common.shared.word(index));
                if bytes == 8 {
                    old |= u64::from(common.shared.word(index + 1)) << 32;
                }
                let new = change(old);
                *common.shared.word_mut(index) = new as u32;
                if bytes == 8 {
                    *common.shared.word_mut(index + 1) = (new >> 32) as u32;
                }
                old
            }
            _ => atomic_global(w, common, lane, address, bytes, change)?,
        };
    }
    if global != 0 {
        common.launch.times.acquire(&mut common.clock);
    }
    match bytes {
        8 => w.put_wide(atom.d, &out, active),
        _ => w.put(atom.d, &out.map(|x| x as u32), active),
    }
    Ok(())
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

/// Wavefronts of a shared access: as often as its busiest bank has distinct words. Accesses of 8
/// and 16 bytes go in halves and quarters of the warp.
pub fn count_banks(common: &mut Common<'_>, active: u32, addresses: &Wide, bytes: u32) {
    let parts = (bytes / 4).clamp(1, 4);
    let group = 32 / parts;
    let mut all = 0u32;
    for part in 0..parts {
        // Most accesses meet no conflict: a word for each bank, or the same for several lanes.
        let mut of_bank = [u32::MAX; 32];
        let (mut words, mut conflict) = (0u32, false);
        for lane in lanes(active).filter(|lane| lane / group == part) {
            let first = addresses[lane as usize] as u32 / 4;
            for word in first..first + bytes.div_ceil(4) {
                let place = &mut of_bank[word as usize % 32];
                conflict |= *place != u32::MAX && *place != word;
                words += u32::from(*place == u32::MAX);
                *place = word;
            }
        }
        if !conflict {
            common.counters.shared_wavefronts += u64::from(words > 0);
            all += words;
            continue;
        }
        let mut found: [u32; 128] = [u32::MAX; 128];
        let mut count = 0;
        for lane in lanes(active).filter(|lane| lane / group == part) {
            let first = addresses[lane as usize] as u32 / 4;
            for word in first..first + bytes.div_ceil(4) {
                if count < 128 {
                    found[count] = word;
                    count += 1;
                }
            }
        }
        let found = &mut found[..count];
        found.sort_unstable();
        let mut banks = [0u64; 32];
        let mut distinct = 0;
        for (i, word) in found.iter().enumerate() {
            if i == 0 || found[i - 1] != *word {
                banks[*word as usize % 32] += 1;
                distinct += 1;
            }
        }
        common.counters.shared_wavefronts += banks.iter().copied().max().unwrap_or(0);
        all += distinct;
    }
    common.counters.shared_wavefronts_least +=
        u64::from(all.div_ceil(32)).max(u64::from(active != 0));
}

/// Sectors of a global access, and those of 32 bytes that would do for as many distinct bytes.
pub fn count_sectors(
    w: &mut Warp,
    common: &mut Common<'_>,
    active: u32,
    addresses: &Wide,
    bytes: u32,
    write: bool,
) {
    let mut sectors = [u64::MAX; 32];
    let mut starts = [u64::MAX; 32];
    let mut count = 0;
    for lane in lanes(active) {
        sectors[count] = addresses[lane as usize] / 32;
        starts[count] = addresses[lane as usize];
        count += 1;
    }
    let distinct = |list: &mut [u64]| {
        list.sort_unstable();
        list.iter()
            .enumerate()
            .filter(|(i, x)| *i == 0 || list[i - 1] != **x)
            .count() as u64
    };
    common.counters.global_sectors += distinct(&mut sectors[..count]);
    common.counters.global_sectors_least +=
        (distinct(&mut starts[..count]) * u64::from(bytes)).div_ceil(32);
    for i in 0..count {
        if i > 0 && sectors[i] == sectors[i - 1] {
            continue;
        }
        let Ok((found, offset)) =
            allocation(w, common, 0, "", starts[i] & !(u64::from(bytes) - 1), 1)
        else {
            continue;
        };
        let _ = offset;
        let sector = (sectors[i] * 32).saturating_sub(found.start & !31) / 32;
        let index = w.allocation;
        common.touched.mark(index, found, sector as usize, write);
    }
}

/// The mask of every lane, for instructions that the whole warp takes part in.
pub fn whole(w: &Warp, active: u32, what: &str) -> Result<(), Stop> {
    if active == ALL {
        return Ok(());
    }
    let missing = (!active).trailing_zeros();
    Err(Stop::warp(format!(
        "{what} by part of a warp: lane {missing} {}",
        absence(w, missing)
    )))
}

/// Why a lane is not there.
pub fn absence(w: &Warp, lane: u32) -> &'static str {
    if w.born >> lane & 1 == 0 {
        "does not exist"
    } else if w.alive >> lane & 1 == 0 {
        "has exited"
    } else {
        "is elsewhere: the warp has diverged"
    }
}
