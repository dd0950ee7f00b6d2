//! Accesses of the blocks of one launch to global memory: which of them are ordered, and what was
//! touched at all.
//!
//! A block's accesses happen before another's when the first block fenced and then did an atomic,
//! and the second did an atomic afterwards: the pattern by which a last block is found. Which word
//! the atomics were on is not looked at, so a race behind an unrelated atomic is missed.
//!
//! Reads are known by words of 4 bytes, writes of less by bytes: so blocks may write bytes of one
//! word, and a byte that another block reads or writes is still reported. What is missed is a write
//! of less than a word behind another block's read.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::global::{Allocation, Allocations, Shadow};
use crate::ptx::counters::Region;

/// An access: `[flags 2][launch 12][releases 8][block 22][instruction 20]`.
const PC_BITS: u32 = 20;
const BLOCK_BITS: u32 = 22;
const COUNT_BITS: u32 = 8;
const LAUNCH_BITS: u32 = 12;
const ATOMIC: u64 = 1 << 63;
/// Of reads: several blocks.
const SEVERAL: u64 = 1 << 62;

/// Launches after which stamps begin anew.
pub const LAUNCHES: u64 = 1 << LAUNCH_BITS;

/// An access that is not ordered with the one before it.
pub struct Unordered {
    pub block: u32,
    pub pc: u32,
    pub wrote: bool,
}

/// When blocks of a launch released what they had written.
pub struct BlockTimes {
    launch: u64,
    ticket: AtomicU64,
    releases: Mutex<HashMap<u32, Vec<u64>>>,
}

/// What a block knows of others, and how often it released.
#[derive(Clone, Copy, Default)]
pub struct BlockClock {
    pub block: u32,
    count: u32,
    acquired: u64,
}

impl BlockClock {
    /// A block that knows of no other.
    pub fn new(block: u32) -> BlockClock {
        BlockClock {
            block,
            ..BlockClock::default()
        }
    }
}

impl BlockTimes {
    /// Times of launch number `launch`.
    pub fn new(launch: u64) -> BlockTimes {
        BlockTimes {
            launch: launch % LAUNCHES,
            ticket: AtomicU64::new(0),
            releases: Mutex::new(HashMap::new()),
        }
    }

    /// Before an atomic behind a fence.
    pub fn release(&self, clock: &mut BlockClock) {
        let ticket = self.ticket.fetch_add(1, Relaxed) + 1;
        if let Ok(mut releases) = self.releases.lock() {
            releases.entry(clock.block).or_default().push(ticket);
        }
        clock.count += 1;
    }

    /// After an atomic.
    pub fn acquire(&self, clock: &mut BlockClock) {
        clock.acquired = self.ticket.fetch_add(1, Relaxed) + 1;
    }

    /// The stamp of an access.
    #[inline(always)]
    pub fn stamp(&self, clock: &BlockClock, pc: u32) -> u64 {
        let count = u64::from(clock.count.min((1 << COUNT_BITS) - 1));
        let block = u64::from(clock.block & ((1 << BLOCK_BITS) - 1));
        let pc = u64::from(pc.min((1 << PC_BITS) - 1));
        ((self.launch << COUNT_BITS | count) << BLOCK_BITS | block) << PC_BITS | pc
    }

    /// Whether the access is of this launch and another block, and nothing orders it before now.
    #[inline(always)]
    fn foreign(&self, stamp: u64, own: u64, clock: &BlockClock) -> bool {
        let launch = |s: u64| s >> (COUNT_BITS + BLOCK_BITS + PC_BITS) & (LAUNCHES - 1);
        let block = |s: u64| s >> PC_BITS & ((1 << BLOCK_BITS) - 1);
        // Stamps are never 0: launches count from 1.
        stamp != 0
            && launch(stamp) == launch(own)
            && block(stamp) != block(own)
            && !self.ordered(stamp, clock)
    }

    fn ordered(&self, stamp: u64, clock: &BlockClock) -> bool {
        if clock.acquired == 0 {
            return false;
        }
        let block = (stamp >> PC_BITS) as u32 & ((1 << BLOCK_BITS) - 1);
        let count = (stamp >> (PC_BITS + BLOCK_BITS)) as usize & ((1 << COUNT_BITS) - 1);
        let Ok(releases) = self.releases.lock() else {
            return false;
        };
        let release = releases.get(&block).and_then(|list| list.get(count));
        release.is_some_and(|ticket| *ticket < clock.acquired)
    }

    fn report(stamp: u64, wrote: bool) -> Unordered {
        Unordered {
            block: (stamp >> PC_BITS) as u32 & ((1 << BLOCK_BITS) - 1),
            pc: stamp as u32 & ((1 << PC_BITS) - 1),
            wrote,
        }
    }

    /// Records a read.
    #[inline(always)]
    pub fn read(&self, shadow: &Shadow, own: u64, clock: &BlockClock) -> Result<(), Unordered> {
        let write = shadow.write.load(Relaxed);
        if self.foreign(write, own, clock) {
            return Err(Self::report(write, true));
        }
        let read = shadow.read.load(Relaxed);
        let high = |s: u64| s >> PC_BITS & !(SEVERAL >> PC_BITS);
        if high(read) == high(own) {
            return Ok(());
        }
        let several = if self.foreign(read, own, clock) {
            SEVERAL
        } else {
            0
        };
        shadow.read.store(own | several, Relaxed);
        Ok(())
    }

    /// Records a write; `atomic`: of an atomic operation or a volatile store.
    #[inline(always)]
    pub fn write(
        &self,
        shadow: &Shadow,
        own: u64,
        clock: &BlockClock,
        atomic: bool,
    ) -> Result<(), Unordered> {
        let write = shadow.write.load(Relaxed);
        if !(atomic && write & ATOMIC != 0) && self.foreign(write, own, clock) {
            return Err(Self::report(write, true));
        }
        let read = shadow.read.load(Relaxed);
        if read != 0 {
            if self.foreign(read, own, clock) && !(read & SEVERAL != 0 && clock.acquired != 0) {
                return Err(Self::report(read, false));
            }
            shadow.read.store(0, Relaxed);
        }
        let mark = own | if atomic { ATOMIC } else { 0 };
        if write != mark {
            shadow.write.store(mark, Relaxed);
        }
        Ok(())
    }
}

impl BlockTimes {
    /// Checks an access to bytes that were written one by one.
    #[inline]
    pub fn check_bytes(
        &self,
        bytes: &[AtomicU64],
        own: u64,
        clock: &BlockClock,
    ) -> Result<(), Unordered> {
        for byte in bytes {
            let write = byte.load(Relaxed);
            if self.foreign(write, own, clock) {
                return Err(Self::report(write, true));
            }
        }
        Ok(())
    }

    /// Records a write of less than a word.
    pub fn write_bytes(
        &self,
        shadow: &Shadow,
        bytes: &[AtomicU64],
        own: u64,
        clock: &BlockClock,
    ) -> Result<(), Unordered> {
        let word = shadow.write.load(Relaxed);
        if self.foreign(word, own, clock) {
            return Err(Self::report(word, true));
        }
        self.check_bytes(bytes, own, clock)?;
        bytes.iter().for_each(|byte| byte.store(own, Relaxed));
        Ok(())
    }
}

/// Sectors of 32 bytes that a launch touched, a bit each.
#[derive(Default)]
pub struct Touched {
    read: Vec<Vec<u64>>,
    written: Vec<Vec<u64>>,
}

impl Touched {
    /// Nothing, of so many allocations.
    pub fn new(allocations: usize) -> Touched {
        Touched {
            read: vec![Vec::new(); allocations],
            written: vec![Vec::new(); allocations],
        }
    }

    /// Marks a sector of an allocation.
    pub fn mark(&mut self, index: usize, allocation: &Allocation, sector: usize, write: bool) {
        let list = if write {
            &mut self.written
        } else {
            &mut self.read
        };
        let Some(bits) = list.get_mut(index) else {
            return;
        };
        if bits.is_empty() {
            bits.resize((allocation.bytes as usize).div_ceil(32 * 64), 0);
        }
        bits[sector / 64] |= 1 << (sector % 64);
    }

    /// Adds what others touched.
    pub fn join(&mut self, other: Touched) {
        for (mine, theirs) in [
            (&mut self.read, other.read),
            (&mut self.written, other.written),
        ] {
            mine.resize(mine.len().max(theirs.len()), Vec::new());
            for (mine, theirs) in mine.iter_mut().zip(theirs) {
                mine.resize(mine.len().max(theirs.len()), 0);
                for (a, b) in mine.iter_mut().zip(theirs) {
                    *a |= b;
                }
            }
        }
    }

    /// Bytes read and written, by allocation.
    pub fn regions(&self, memory: &Allocations) -> Vec<Region> {
        let count = |lists: &[Vec<u64>], i: usize| {
            let bits = lists.get(i).into_iter().flatten();
            32 * bits.map(|bits| u64::from(bits.count_ones())).sum::<u64>()
        };
        let region = |i: usize| {
            let (read_bytes, written_bytes) = (count(&self.read, i), count(&self.written, i));
            (read_bytes + written_bytes > 0).then_some(Region {
                start: memory.at(i)?.start,
                read_bytes,
                written_bytes,
            })
        };
        let lists = self.read.len().max(self.written.len());
        (0..lists).filter_map(region).collect()
    }
}
