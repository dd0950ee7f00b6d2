//! Global memory: allocations, initialised bytes, races between blocks.

use super::{Words, count_sectors, lanes, misaligned, replace, waits};
use crate::ptx::exec::warp::{Warp, Wide};
use crate::ptx::exec::{Common, Stop};
use crate::ptx::memory::global::Allocation;

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
    if strong {
        let first = active.trailing_zeros() as usize & 31;
        let seen = (w.pc, addresses[first], words[0][first]);
        let vain = std::mem::replace(&mut w.seen, seen) == seen;
        return waits(w, common, vain);
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
        let written = found.known_bytes(offset, bytes);
        if !written.is_empty() {
            let result = common.launch.times.check_bytes(written, own, &common.clock);
            let address = found.start + offset as u64;
            result.map_err(|other| unordered(common, lane, what, address, &other))?;
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

/// A warp's store.
#[allow(clippy::too_many_arguments)]
pub fn store_global(
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
            if races {
                let (times, shadow) = (&common.launch.times, found.shadow(index));
                // Blocks that write to different bytes of a word do not disturb each other.
                let result = match total {
                    1 | 2 if strong => Ok(()),
                    1 | 2 => {
                        let bytes = found.byte_shadows(offset, total);
                        times.write_bytes(shadow, bytes, own, &common.clock)
                    }
                    _ => times
                        .check_bytes(found.known_bytes(4 * index, 4), own, &common.clock)
                        .and_then(|()| times.write(shadow, own, &common.clock, strong)),
                };
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
