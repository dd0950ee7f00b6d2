//! Bulk copies, plain and by tensor maps: issued, in flight, landed.
//!
//! Everything that can be wrong with a copy's addresses is found when it is issued, at the thread
//! that issues it. What a load brings is read from global memory when it lands, what a store takes
//! from shared memory when somebody waits for its read, or chance has it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use super::super::access::{addresses, allocation, combine, lanes, shared_wrong, unordered};
use super::super::warp::Warp;
use super::super::{BlockFault, Common, Stop};
use super::{STORE_AGENT, STORE_AGENTS, draw, mbarrier, shared_at};
use crate::ptx::memory::PARAM_WINDOW;
use crate::ptx::memory::global::Allocation;
use crate::ptx::memory::shared::stamp;
use crate::ptx::program::hopper::{ReduceOp, Reduction};
use crate::ptx::program::op::{Addr, AtomOp, R, Ty};
use crate::ptx::tensor::map::{BYTES, DataType, Mode, TensorMap};
use crate::ptx::tensor::tma::Run;

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

/// Bulk stores of a block.
#[derive(Default)]
pub struct Stores {
    /// By thread.
    threads: BTreeMap<u32, Thread>,
    /// Time of each agent.
    times: [u32; STORE_AGENTS],
}

/// A thread's bulk groups.
#[derive(Default)]
struct Thread {
    open: Vec<Store>,
    groups: VecDeque<Vec<Store>>,
}

struct Store {
    runs: Vec<Run>,
    reduce: Option<Reduction>,
    time: u32,
    pc: u32,
    /// What it has read of shared memory, run after run.
    data: Option<Vec<u8>>,
    written: bool,
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

/// A plain store or reduction.
pub fn store(
    w: &mut Warp,
    common: &mut Common<'_>,
    active: u32,
    to: Addr,
    from: Addr,
    bytes: R,
    reduce: Option<Reduction>,
) -> Result<(), Stop> {
    for lane in lanes(active) {
        let bytes = w.r(common.entry, bytes)[lane as usize];
        let place = shared_at(w, common, lane, "bulk read of", from, bytes, 16)?;
        let address = addresses(w, common, to)[lane as usize];
        let runs = plain_runs(lane, place, address, bytes)?;
        issue_store(w, common, lane, runs, reduce)?;
    }
    Ok(())
}

/// A store or reduction by a tensor map.
pub fn tensor_store(
    w: &mut Warp,
    common: &mut Common<'_>,
    active: u32,
    map: Addr,
    coordinates: &[R],
    from: Addr,
    reduce: Option<ReduceOp>,
) -> Result<(), Stop> {
    for lane in lanes(active) {
        let map = tensor_map(w, common, lane, map)?;
        if !matches!(map.mode, Mode::Tiled { .. }) {
            return Err(Stop::lane(lane, "a tiled copy needs a tiled tensor map"));
        }
        let place = shared_at(w, common, lane, "bulk read of", from, map.box_bytes(), 128)?;
        let at: Vec<i32> = coordinates
            .iter()
            .map(|row| w.r(common.entry, *row)[lane as usize] as i32)
            .collect();
        let mut runs = Vec::new();
        map.runs(&at, &[], place, |run| runs.push(run))
            .map_err(|e| Stop::lane(lane, e.to_string()))?;
        runs.retain(|run| run.global.is_some());
        let reduce = reduce.map(|op| Reduction {
            op,
            data_type: map.data_type,
        });
        issue_store(w, common, lane, runs, reduce)?;
    }
    Ok(())
}

fn issue_store(
    w: &mut Warp,
    common: &mut Common<'_>,
    lane: u32,
    runs: Vec<Run>,
    reduce: Option<Reduction>,
) -> Result<(), Stop> {
    if let Some(reduction) = reduce
        && atomic(reduction).is_none()
    {
        let words = format!(
            "a bulk reduction {:?} of {:?} is not known to this machine",
            reduction.op, reduction.data_type
        );
        return Err(Stop::lane(lane, words));
    }
    let index = w.index as usize;
    let agent = index % STORE_AGENTS;
    common.hopper.stores.times[agent] += 1;
    let time = common.hopper.stores.times[agent];
    let mark = stamp((STORE_AGENT + agent) as u32, 0, time, w.pc);
    let mut knows = common.clocks.seen[index];
    knows[index] = common.clocks.now[index];
    let fenced = common.clocks.fenced[index];
    for run in &runs {
        for word in run.shared / 4..(run.shared + run.bytes).div_ceil(4) {
            let at = 4 * word;
            let done = common.shared.read_async(at, &knows, &fenced, mark);
            done.map_err(|wrong| {
                Stop::lane(lane, shared_wrong(common, "bulk read of", at, wrong))
            })?;
        }
        if let Some(address) = run.global {
            // A reduction reads what is there; a store does not.
            check_global(w, common, lane, address, run.bytes, Some(reduce.is_some()))?;
        }
    }
    count_sectors(common, &runs);
    let store = Store {
        runs,
        reduce,
        time,
        pc: w.pc,
        data: None,
        written: false,
    };
    common
        .hopper
        .stores
        .threads
        .entry(32 * w.index + lane)
        .or_default()
        .open
        .push(store);
    Ok(())
}

/// `cp.async.bulk.commit_group`.
pub fn commit(w: &Warp, common: &mut Common<'_>, active: u32) {
    for lane in lanes(active) {
        let thread = common
            .hopper
            .stores
            .threads
            .entry(32 * w.index + lane)
            .or_default();
        let group = std::mem::take(&mut thread.open);
        thread.groups.push_back(group);
        // Empty groups at the front have nothing left to wait for, but count.
    }
}

/// `cp.async.bulk.wait_group`.
pub fn wait(
    w: &Warp,
    common: &mut Common<'_>,
    active: u32,
    left: u32,
    read: bool,
) -> Result<(), Stop> {
    for lane in lanes(active) {
        let id = 32 * w.index + lane;
        let Some(mut thread) = common.hopper.stores.threads.remove(&id) else {
            continue;
        };
        let done = thread.groups.len().saturating_sub(left as usize);
        let mut last = 0;
        for store in thread.groups.iter_mut().take(done).flatten() {
            last = last.max(store.time);
            take(common, store);
            if !read {
                put(common, store);
            }
        }
        let index = w.index as usize;
        let seen = &mut common.clocks.seen[index][STORE_AGENT + index % STORE_AGENTS];
        *seen = (*seen).max(last);
        if !read {
            thread.groups.drain(..done);
        }
        common.hopper.stores.threads.insert(id, thread);
    }
    Ok(())
}

/// Reads what a store takes from shared memory.
fn take(common: &mut Common<'_>, store: &mut Store) {
    if store.data.is_some() {
        return;
    }
    let shared = common.shared.bytes_mut();
    let mut data = Vec::new();
    for run in &store.runs {
        data.extend_from_slice(&shared[run.shared as usize..][..run.bytes as usize]);
    }
    store.data = Some(data);
}

/// Writes what a store brings to global memory.
fn put(common: &mut Common<'_>, store: &mut Store) {
    take(common, store);
    let Some(data) = store.data.as_deref().filter(|_| !store.written) else {
        return;
    };
    let mut from = 0;
    for run in &store.runs {
        let bytes = &data[from..][..run.bytes as usize];
        from += run.bytes as usize;
        let Some((found, offset)) = run
            .global
            .and_then(|address| global(common, address, run.bytes))
        else {
            continue;
        };
        match store.reduce {
            None => write(found, offset, bytes),
            Some(reduction) => reduce(common, found, offset, bytes, reduction),
        }
        for byte in 0..bytes.len() {
            found.mark(offset + byte, 1);
        }
    }
    store.written = true;
}

fn write(found: &Allocation, offset: usize, bytes: &[u8]) {
    let mut at = 0;
    while at < bytes.len() {
        let index = (offset + at) / 4;
        let within = (offset + at) % 4;
        let count = (4 - within).min(bytes.len() - at);
        if count == 4 {
            let word = u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
            found.word(index).store(word, Relaxed);
        } else {
            let _ = found.word(index).fetch_update(Relaxed, Relaxed, |old| {
                let mut new = old.to_le_bytes();
                new[within..within + count].copy_from_slice(&bytes[at..at + count]);
                Some(u32::from_le_bytes(new))
            });
        }
        at += count;
    }
}

/// The atomic operation that a reduction does on each element.
fn atomic(reduction: Reduction) -> Option<(AtomOp, Ty)> {
    let op = match reduction.op {
        ReduceOp::Add => AtomOp::Add,
        ReduceOp::Min => AtomOp::Min,
        ReduceOp::Max => AtomOp::Max,
        ReduceOp::And => AtomOp::And,
        ReduceOp::Or => AtomOp::Or,
        ReduceOp::Xor => AtomOp::Xor,
        ReduceOp::Inc => AtomOp::Inc,
        ReduceOp::Dec => AtomOp::Dec,
    };
    let integer = |ty: Ty| Some((op, ty));
    match reduction.data_type {
        DataType::U32 => integer(Ty::U32),
        DataType::I32 => integer(Ty::S32),
        DataType::U64 => integer(Ty::U64),
        DataType::I64 => integer(if op == AtomOp::Add { Ty::U64 } else { Ty::S64 }),
        DataType::F32 | DataType::F32Ftz if op == AtomOp::Add => Some((op, Ty::F32)),
        DataType::F64 if op == AtomOp::Add => Some((op, Ty::F64)),
        DataType::F16 if op == AtomOp::Add => Some((op, Ty::F16x2)),
        DataType::Bf16 if op == AtomOp::Add => Some((op, Ty::Bf16x2)),
        _ => None,
    }
}

fn reduce(
    common: &Common<'_>,
    found: &Allocation,
    offset: usize,
    bytes: &[u8],
    reduction: Reduction,
) {
    let Some((op, ty)) = atomic(reduction) else {
        return;
    };
    let size = reduction.data_type.bytes() as usize;
    for (i, element) in bytes.chunks_exact(size).enumerate() {
        let at = offset + i * size;
        let value = element
            .iter()
            .rev()
            .fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
        if size <= 4 {
            let shift = 8 * (at % 4);
            // A half is added beside a zero.
            let value = value << shift;
            let _ = found.word(at / 4).fetch_update(SeqCst, SeqCst, |old| {
                let new = combine(op, ty, u64::from(old), value, 0) as u32;
                let mask = if size == 4 { u32::MAX } else { 0xFFFF << shift };
                Some(old & !mask | new & mask)
            });
        } else {
            let _turn = common.launch.memory.turn();
            let (low, high) = (found.word(at / 4), found.word(at / 4 + 1));
            let old = u64::from(low.load(SeqCst)) | u64::from(high.load(SeqCst)) << 32;
            let new = combine(op, ty, old, value, 0);
            low.store(new as u32, SeqCst);
            high.store((new >> 32) as u32, SeqCst);
        }
    }
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

/// The block ends: stores write what they have read.
pub fn end(common: &mut Common<'_>) -> Result<(), String> {
    if let Some(load) = common.hopper.loads.first() {
        let line = line(common, load.pc);
        return Err(format!(
            "the block ends while a bulk copy into shared memory, issued at {line}, has not landed"
        ));
    }
    let threads = std::mem::take(&mut common.hopper.stores.threads);
    for (id, mut thread) in threads {
        let open = std::mem::take(&mut thread.open);
        for mut store in thread.groups.into_iter().flatten().chain(open) {
            if store.data.is_none() {
                let line = line(common, store.pc);
                return Err(format!(
                    "the block ends while a bulk store by thread {id}, issued at {line}, has not read shared memory: \
                     no cp.async.bulk.wait_group waits for it"
                ));
            }
            put(common, &mut store);
        }
    }
    Ok(())
}
