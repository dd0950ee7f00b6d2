//! Bulk stores and reductions: groups of a thread, what they read, what they write.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::Ordering::{Relaxed, SeqCst};

use super::super::super::access::{addresses, combine, lanes, shared_wrong};
use super::super::super::warp::Warp;
use super::super::super::{Common, Stop};
use super::super::{STORE_AGENT, STORE_AGENTS, shared_at};
use super::{check_global, count_sectors, global, line, plain_runs, tensor_map};
use crate::ptx::memory::global::Allocation;
use crate::ptx::memory::shared::stamp;
use crate::ptx::program::hopper::{ReduceOp, Reduction};
use crate::ptx::program::op::{Addr, AtomOp, R, Ty};
use crate::ptx::tensor::map::{DataType, Mode};
use crate::ptx::tensor::tma::Run;

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
    let floats = matches!(op, AtomOp::Add | AtomOp::Min | AtomOp::Max);
    match reduction.data_type {
        DataType::U32 => integer(Ty::U32),
        DataType::I32 => integer(Ty::S32),
        DataType::U64 => integer(Ty::U64),
        DataType::I64 => integer(if op == AtomOp::Add { Ty::U64 } else { Ty::S64 }),
        DataType::F32 | DataType::F32Ftz if op == AtomOp::Add => Some((op, Ty::F32)),
        DataType::F64 if op == AtomOp::Add => Some((op, Ty::F64)),
        DataType::F16 if floats => Some((op, Ty::F16x2)),
        DataType::Bf16 if floats => Some((op, Ty::Bf16x2)),
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

/// The block ends: stores write what they have read.
pub fn end(common: &mut Common<'_>) -> Result<(), String> {
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
