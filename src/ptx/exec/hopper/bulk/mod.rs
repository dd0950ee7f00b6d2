//! Bulk copies, plain and by tensor maps: issued, in flight, landed.
//!
//! Everything that can be wrong with a copy's addresses is found when it is issued, at the thread
//! that issues it. What a load brings is read from global memory when it lands, what a store takes
//! from shared memory when somebody waits for its read, or chance has it.

mod store;

use std::sync::atomic::Ordering::Relaxed;

use super::super::access::{addresses, allocation, lanes, shared_wrong, unordered};
use super::super::warp::Warp;
use super::super::{BlockFault, Common, Stop};
use super::{draw, mbarrier, shared_at};
use crate::ptx::memory::PARAM_WINDOW;
use crate::ptx::memory::global::Allocation;
use crate::ptx::memory::shared::stamp;
use crate::ptx::program::op::{Addr, R};
use crate::ptx::tensor::map::{BYTES, Mode, TensorMap};
use crate::ptx::tensor::tma::Run;
pub use store::{Stores, commit, store, tensor_store, wait};

/// A copy into shared memory that has not landed.
pub struct Load {
    to: u32,
    bytes: u32,
    runs: Vec<Run>,
    fill: &'static [u8],
    barrier: u32,
    mark: u64,
    time: u32,
    thread: u32,
    pc: u32,
}

/// The bytes of global memory at an address that was checked.
fn global<'m>(common: &Common<'m>, address: u64, bytes: u32) -> Option<(&'m Allocation, usize)> {
    let memory = common.launch.memory;
    let found = memory.at(memory.find(address, u64::from(bytes))?)?;
    Some((found, (address - found.start) as usize))
}

/// Checks a read or write of global memory by a copy, and records it.
fn check_global(
    w: &mut Warp,
    common: &mut Common<'_>,
    lane: u32,
    address: u64,
    bytes: u32,
    write: Option<bool>,
) -> Result<(), Stop> {
    let what = if write.is_some() {
        "bulk write to"
    } else {
        "bulk read of"
    };
    let (found, offset) = allocation(w, common, lane, what, address, bytes)?;
    let checks = common.launch.options.checks;
    if write != Some(false) && checks.global_uninitialised && !found.is_full() {
        let written = (0..bytes as usize).all(|byte| found.is_written(offset + byte, 1));
        if !written {
            let words = format!(
                "{what} address {address:#x}, which nobody wrote: byte {offset} of an allocation of {}",
                found.bytes
            );
            return Err(Stop::lane(lane, words));
        }
    }
    if checks.global_races {
        let own = common.launch.times.stamp(&common.clock, w.pc);
        // Words that a write shares with a neighbour are left out: blocks may write their own bytes.
        let (first, last) = match write {
            None => (offset / 4, (offset + bytes as usize).div_ceil(4)),
            Some(_) => (offset.div_ceil(4), (offset + bytes as usize) / 4),
        };
        for index in first..last {
            let shadow = found.shadow(index);
            let result = match write {
                None => common.launch.times.read(shadow, own, &common.clock),
                Some(atomic) => common
                    .launch
                    .times
                    .write(shadow, own, &common.clock, atomic),
            };
            result.map_err(|other| unordered(common, lane, what, address, &other))?;
        }
    }
    if common.counting {
        let sectors = (address + u64::from(bytes)).div_ceil(32) - address / 32;
        for sector in 0..sectors {
            let at = (offset / 32) + sector as usize;
            if 32 * at < found.bytes as usize {
                common
                    .touched
                    .mark(w.allocation, found, at, write.is_some());
            }
        }
    }
    Ok(())
}

/// Sectors of a whole copy, in the order of its runs: neighbours in one sector count once.
fn count_sectors(common: &mut Common<'_>, runs: &[Run]) {
    if !common.counting {
        return;
    }
    let (mut last, mut bytes) = (u64::MAX, 0);
    for run in runs {
        let Some(address) = run.global else { continue };
        bytes += u64::from(run.bytes);
        for sector in address / 32..(address + u64::from(run.bytes)).div_ceil(32) {
            common.counters.global_sectors += u64::from(sector != last);
            last = sector;
        }
    }
    common.counters.global_sectors_least += bytes.div_ceil(32);
}

fn tensor_map(w: &Warp, common: &Common<'_>, lane: u32, at: Addr) -> Result<TensorMap, Stop> {
    let address = addresses(w, common, at)[lane as usize];
    let said = |words: String| Stop::lane(lane, words);
    let mut bytes = [0; BYTES];
    let offset = address.wrapping_sub(PARAM_WINDOW);
    // `mov` of a parameter's address without cvta gives its offset.
    let params = common.launch.params;
    let inside = [offset, address]
        .into_iter()
        .find(|offset| offset.saturating_add(BYTES as u64) <= params.len() as u64);
    if let Some(offset) = inside {
        if offset % 64 != 0 {
            return Err(said(format!(
                "tensor map at parameter byte {offset}, misaligned: not a multiple of 64"
            )));
        }
        bytes.copy_from_slice(&params[offset as usize..][..BYTES]);
    } else {
        let Some((found, at)) = global(common, address, BYTES as u32) else {
            return Err(said(format!(
                "tensor map at {address:#x}, {}",
                common.launch.memory.describe(address)
            )));
        };
        if !address.is_multiple_of(64) {
            return Err(said(format!(
                "tensor map at {address:#x}, misaligned: not a multiple of 64"
            )));
        }
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = found.word((at + i) / 4).load(Relaxed).to_le_bytes()[(at + i) % 4];
        }
    }
    TensorMap::from_bytes(&bytes).map_err(|e| said(format!("at {address:#x}: {e}")))
}

/// A plain load.
#[allow(clippy::too_many_arguments)]
pub fn load(
    w: &mut Warp,
    common: &mut Common<'_>,
    active: u32,
    to: Addr,
    from: Addr,
    bytes: R,
    barrier: Addr,
) -> Result<(), Stop> {
    for lane in lanes(active) {
        let bytes = w.r(common.entry, bytes)[lane as usize];
        let place = shared_at(w, common, lane, "bulk write to", to, bytes, 16)?;
        let address = addresses(w, common, from)[lane as usize];
        let runs = plain_runs(lane, place, address, bytes)?;
        issue(w, common, lane, place, bytes, runs, &[0], barrier)?;
    }
    Ok(())
}

fn plain_runs(lane: u32, shared: u32, global: u64, bytes: u32) -> Result<Vec<Run>, Stop> {
    if !bytes.is_multiple_of(16) || !global.is_multiple_of(16) {
        let words = format!(
            "a bulk copy of {bytes} bytes at address {global:#x}: both must be multiples of 16"
        );
        return Err(Stop::lane(lane, words));
    }
    let run = |at: u32| Run {
        shared: shared + at,
        bytes: 16,
        global: Some(global.wrapping_add(u64::from(at))),
    };
    Ok((0..bytes).step_by(16).map(run).collect())
}

/// A load by a tensor map.
#[allow(clippy::too_many_arguments)]
pub fn tensor_load(
    w: &mut Warp,
    common: &mut Common<'_>,
    active: u32,
    to: Addr,
    map: Addr,
    coordinates: &[R],
    im2col: bool,
    offsets: &[R],
    barrier: Addr,
) -> Result<(), Stop> {
    for lane in lanes(active) {
        let map = tensor_map(w, common, lane, map)?;
        if matches!(map.mode, Mode::Im2col { .. }) != im2col {
            return Err(Stop::lane(
                lane,
                "a tiled copy needs a tiled tensor map, an im2col copy one of im2col",
            ));
        }
        let bytes = map.box_bytes();
        let place = shared_at(w, common, lane, "bulk write to", to, bytes, 128)?;
        let value = |row: &R| w.r(common.entry, *row)[lane as usize];
        let at: Vec<i32> = coordinates.iter().map(|row| value(row) as i32).collect();
        // Offsets are registers of 16 bits.
        let by: Vec<u32> = offsets.iter().map(|row| value(row) & 0xFFFF).collect();
        let mut runs = Vec::new();
        map.runs(&at, &by, place, |run| runs.push(run))
            .map_err(|e| Stop::lane(lane, e.to_string()))?;
        issue(w, common, lane, place, bytes, runs, map.fill(), barrier)?;
    }
    Ok(())
}

#[allow(clippy::too_many_arguments)]
fn issue(
    w: &mut Warp,
    common: &mut Common<'_>,
    lane: u32,
    to: u32,
    bytes: u32,
    runs: Vec<Run>,
    fill: &'static [u8],
    barrier: Addr,
) -> Result<(), Stop> {
    let barrier = shared_at(w, common, lane, "mbarrier operation on", barrier, 8, 8)?;
    mbarrier::reach(w, common, lane, barrier)?;
    for run in &runs {
        if let Some(address) = run.global {
            check_global(w, common, lane, address, run.bytes, None)?;
        }
    }
    count_sectors(common, &runs);
    let (agent, time) = mbarrier::issue_copy(common, lane, barrier)?;
    let mark = stamp(agent as u32, 0, time, w.pc);
    let who = common.who(w, lane);
    common
        .shared
        .depart_as(to, bytes, who, &common.clocks, mark)
        .map_err(|wrong| Stop::lane(lane, shared_wrong(common, "bulk write to", to, wrong)))?;
    let (thread, pc) = (32 * w.index + lane, w.pc);
    common.hopper.loads.push(Load {
        to,
        bytes,
        runs,
        fill,
        barrier,
        mark,
        time,
        thread,
        pc,
    });
    Ok(())
}

/// Lands a copy, by chance in random schedules. False where none flies.
pub fn progress(common: &mut Common<'_>) -> Result<bool, BlockFault> {
    let flying = common.hopper.loads.len();
    if flying == 0 {
        return Ok(false);
    }
    let at = match common.launch.options.schedule {
        crate::ptx::options::Schedule::Sequential => 0,
        _ => draw(common, flying),
    };
    let load = common.hopper.loads.remove(at);
    for run in &load.runs {
        let to = run.shared as usize;
        match run
            .global
            .and_then(|address| global(common, address, run.bytes))
        {
            Some((found, offset)) => {
                let shared = common.shared.bytes_mut();
                for byte in 0..run.bytes as usize {
                    let from = offset + byte;
                    shared[to + byte] = found.word(from / 4).load(Relaxed).to_le_bytes()[from % 4];
                }
            }
            None => {
                let shared = common.shared.bytes_mut();
                for (byte, fill) in shared[to..][..run.bytes as usize]
                    .iter_mut()
                    .zip(load.fill.iter().cycle())
                {
                    *byte = *fill;
                }
            }
        }
    }
    common.shared.land(load.to, load.bytes, load.mark);
    let landed = mbarrier::complete_tx(common, load.barrier, load.bytes, load.time);
    landed.map_err(|error| BlockFault {
        thread: Some(load.thread),
        pc: Some(load.pc),
        what: format!(
            "mbarrier at shared address {:#x}, on which the bulk copy of thread {} at {} completes: {error}",
            load.barrier,
            load.thread,
            line(common, load.pc)
        ),
    })?;
    Ok(true)
}

fn line(common: &Common<'_>, pc: u32) -> String {
    let inst = common.entry.code.get(pc as usize);
    inst.map_or("?".into(), |inst| common.launch.module.at(inst))
}

/// The block ends: nothing flies any more, and stores write what they have read.
pub fn end(common: &mut Common<'_>) -> Result<(), String> {
    if let Some(load) = common.hopper.loads.first() {
        let line = line(common, load.pc);
        return Err(format!(
            "the block ends while a bulk copy into shared memory, issued at {line}, has not landed"
        ));
    }
    store::end(common)
}
