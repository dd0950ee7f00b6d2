//! Global memory: allocations between red zones, with a bit per byte for what was written and, for
//! the launch that runs, who last wrote and read each word.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::ptx::Problem;

/// Bytes before and behind an allocation that are nobody's.
const RED_ZONE: u64 = 4096;
/// The first address that is given out.
const START: u64 = 0x10_0000_0000;
/// Words whose shadows are made at once.
const PAGE: usize = 4096;

/// Shadow of a word: its last writer and its last reader in a launch, see [`super::blocks`].
pub struct Shadow {
    pub write: AtomicU64,
    pub read: AtomicU64,
}

/// An allocation.
pub struct Allocation {
    pub start: u64,
    pub bytes: u64,
    words: Box<[AtomicU32]>,
    /// A bit per byte.
    written: Box<[AtomicU32]>,
    /// Every byte is written: the bits need no look.
    full: AtomicBool,
    shadows: Box<[OnceLock<Box<[Shadow]>>]>,
    /// Last writers of single bytes, where writes of less than a word were.
    bytes_written: Box<[OnceLock<Box<[AtomicU64]>>]>,
}

/// Pages that nobody touches take no memory: an allocation may be larger than the machine's.
fn zeros(count: usize) -> Box<[AtomicU32]> {
    bytemuck::zeroed_slice_box(count)
}

impl Allocation {
    fn new(start: u64, bytes: u64) -> Allocation {
        let words = bytes.div_ceil(4) as usize;
        Allocation {
            start,
            bytes,
            words: zeros(words),
            written: zeros(bytes.div_ceil(32) as usize),
            full: AtomicBool::new(bytes == 0),
            shadows: (0..words.div_ceil(PAGE)).map(|_| OnceLock::new()).collect(),
            bytes_written: (0..words.div_ceil(PAGE)).map(|_| OnceLock::new()).collect(),
        }
    }

    /// The word at this index, which the caller has checked against [`Allocation::bytes`].
    #[inline(always)]
    pub fn word(&self, index: usize) -> &AtomicU32 {
        &self.words[index]
    }

    /// Whether every byte is written.
    #[inline(always)]
    pub fn is_full(&self) -> bool {
        self.full.load(Relaxed)
    }

    /// Whether the `bytes` (at most 32, not across a multiple of 32) from `offset` are written.
    #[inline(always)]
    pub fn is_written(&self, offset: usize, bytes: u32) -> bool {
        let bits = mask(bytes) << (offset % 32);
        self.written[offset / 32].load(Relaxed) & bits == bits
    }

    /// Marks these bytes (as in [`Allocation::is_written`]) as written.
    #[inline(always)]
    pub fn mark(&self, offset: usize, bytes: u32) {
        let bits = mask(bytes) << (offset % 32);
        let place = &self.written[offset / 32];
        if place.load(Relaxed) & bits != bits {
            place.fetch_or(bits, Relaxed);
        }
    }

    /// The shadow of a word.
    #[inline(always)]
    pub fn shadow(&self, index: usize) -> &Shadow {
        let page = self.shadows[index / PAGE].get_or_init(|| {
            (0..PAGE)
                .map(|_| Shadow {
                    write: AtomicU64::new(0),
                    read: AtomicU64::new(0),
                })
                .collect()
        });
        &page[index % PAGE]
    }

    /// The last writers of these bytes within a word.
    pub fn byte_shadows(&self, offset: usize, bytes: u32) -> &[AtomicU64] {
        let page = self.bytes_written[offset / 4 / PAGE]
            .get_or_init(|| (0..4 * PAGE).map(|_| AtomicU64::new(0)).collect());
        &page[offset % (4 * PAGE)..][..bytes as usize]
    }

    /// The same, or none where no write of less than a word was near.
    #[inline(always)]
    pub fn known_bytes(&self, offset: usize, bytes: u32) -> &[AtomicU64] {
        match self.bytes_written[offset / 4 / PAGE].get() {
            Some(page) => &page[offset % (4 * PAGE)..][..bytes as usize],
            None => &[],
        }
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        let (mut at, mut rest) = (offset as usize, bytes);
        let end = at + bytes.len();
        while !rest.is_empty() {
            if at.is_multiple_of(4) && rest.len() >= 4 {
                let (chunks, tail) = rest.as_chunks::<4>();
                let first = at / 4;
                for (word, chunk) in self.words[first..].iter().zip(chunks) {
                    word.store(u32::from_le_bytes(*chunk), Relaxed);
                }
                at += 4 * chunks.len();
                rest = tail;
            } else {
                let shift = 8 * (at % 4);
                let word = &self.words[at / 4];
                let old = word.load(Relaxed) & !(0xFF << shift);
                word.store(old | u32::from(rest[0]) << shift, Relaxed);
                at += 1;
                rest = &rest[1..];
            }
        }
        self.mark_range(offset as usize, end);
    }

    fn mark_range(&self, start: usize, end: usize) {
        if self.is_full() || start >= end {
            return;
        }
        if start == 0 && end as u64 == self.bytes {
            self.full.store(true, Relaxed);
            return;
        }
        let mut at = start;
        while at < end {
            let bytes = (32 - at % 32).min(end - at);
            self.mark(at, bytes as u32);
            at += bytes;
        }
    }

    fn read(&self, offset: u64, bytes: &mut [u8]) {
        let mut at = offset as usize;
        let mut rest = bytes;
        while !rest.is_empty() {
            if at.is_multiple_of(4) && rest.len() >= 4 {
                let (chunks, tail) = rest.as_chunks_mut::<4>();
                let first = at / 4;
                for (word, chunk) in self.words[first..].iter().zip(chunks.iter_mut()) {
                    *chunk = word.load(Relaxed).to_le_bytes();
                }
                at += 4 * chunks.len();
                rest = tail;
            } else {
                let (first, tail) = rest.split_at_mut(1);
                first[0] = self.words[at / 4].load(Relaxed).to_le_bytes()[at % 4];
                at += 1;
                rest = tail;
            }
        }
    }
}

#[inline(always)]
fn mask(bytes: u32) -> u32 {
    u32::MAX >> (32 - bytes)
}

/// All allocations, in order of their addresses. Cloned for a launch, which then sees no change.
#[derive(Clone, Default)]
pub struct Allocations {
    live: Vec<Arc<Allocation>>,
    next: u64,
    /// Held by whoever changes two words at once.
    pair: Arc<Mutex<()>>,
}

impl Allocations {
    /// See [`crate::ptx::Machine::alloc`].
    pub fn alloc(&mut self, bytes: u64, align: u64) -> Result<u64, Problem> {
        if !align.is_power_of_two() || bytes > 1 << 40 {
            let words = format!("no {bytes} bytes aligned to {align} can be had");
            return Err(Problem::new(words));
        }
        let start = self.next.max(START) + RED_ZONE;
        let start = start.next_multiple_of(align.max(16));
        self.next = start + bytes;
        self.live.push(Arc::new(Allocation::new(start, bytes)));
        Ok(start)
    }

    /// See [`crate::ptx::Machine::alloc_zeroed`].
    pub fn alloc_zeroed(&mut self, bytes: u64, align: u64) -> Result<u64, Problem> {
        let start = self.alloc(bytes, align)?;
        if let Some(found) = self.live.last() {
            found.full.store(true, Relaxed);
        }
        Ok(start)
    }

    /// Memory that holds these bytes, at an address of its own.
    pub fn variable(address: u64, bytes: &[u8]) -> Arc<Allocation> {
        let made = Allocation::new(address, bytes.len() as u64);
        made.write(0, bytes);
        Arc::new(made)
    }

    /// Adds variables, whose addresses are behind all others and in order.
    pub fn add(&mut self, variables: &[Arc<Allocation>]) {
        self.live.extend(variables.iter().cloned());
    }

    /// See [`crate::ptx::Machine::free`].
    pub fn free(&mut self, address: u64) -> Result<(), Problem> {
        match self.live.binary_search_by_key(&address, |a| a.start) {
            Ok(at) => {
                self.live.remove(at);
                Ok(())
            }
            Err(_) => Err(Problem::new(format!(
                "no allocation starts at {address:#x}"
            ))),
        }
    }

    /// The allocation whose `bytes` bytes from `address` all lie in it.
    #[inline]
    pub fn find(&self, address: u64, bytes: u64) -> Option<usize> {
        let at = self
            .live
            .partition_point(|a| a.start <= address)
            .checked_sub(1)?;
        let found = &self.live[at];
        let offset = address - found.start;
        (offset <= found.bytes && bytes <= found.bytes - offset).then_some(at)
    }

    /// An allocation by the index that [`Allocations::find`] gave.
    #[inline(always)]
    pub fn at(&self, index: usize) -> Option<&Allocation> {
        self.live.get(index).map(|a| &**a)
    }

    /// The turn to change two words at once.
    pub fn turn(&self) -> MutexGuard<'_, ()> {
        self.pair.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets who accessed what.
    pub fn forget(&self) {
        for allocation in &self.live {
            for page in allocation.shadows.iter().filter_map(OnceLock::get) {
                for shadow in page {
                    shadow.write.store(0, Relaxed);
                    shadow.read.store(0, Relaxed);
                }
            }
            for page in allocation.bytes_written.iter().filter_map(OnceLock::get) {
                page.iter().for_each(|byte| byte.store(0, Relaxed));
            }
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.live.len()
    }

    fn range(&self, address: u64, bytes: u64, what: &str) -> Result<(&Allocation, u64), Problem> {
        match self.find(address, bytes).and_then(|at| self.at(at)) {
            Some(found) => Ok((found, address - found.start)),
            None => Err(Problem::new(format!(
                "{what} of {bytes} bytes at {address:#x}: {}",
                self.describe(address)
            ))),
        }
    }

    /// What an address that is in no allocation, or not wholly, is near to.
    pub fn describe(&self, address: u64) -> String {
        let behind = self.live.partition_point(|a| a.start <= address);
        let before = behind.checked_sub(1).and_then(|at| self.live.get(at));
        if let Some(found) = before {
            let offset = address - found.start;
            if offset < found.bytes + RED_ZONE {
                return format!(
                    "out of bounds: byte {offset} of an allocation of {}",
                    found.bytes
                );
            }
        }
        if let Some(found) = self.live.get(behind) {
            let distance = found.start - address;
            if distance <= RED_ZONE {
                return format!(
                    "out of bounds: {distance} bytes before an allocation of {}",
                    found.bytes
                );
            }
        }
        if address < 4096 {
            return "a null pointer".into();
        }
        match address >= START && address < self.next {
            true => "no allocation is there any more".into(),
            false => "no allocation was ever there".into(),
        }
    }

    /// See [`crate::ptx::Machine::write`].
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Problem> {
        let (found, offset) = self.range(address, bytes.len() as u64, "write")?;
        found.write(offset, bytes);
        Ok(())
    }

    /// See [`crate::ptx::Machine::read`].
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Problem> {
        let (found, offset) = self.range(address, bytes.len() as u64, "read")?;
        found.read(offset, bytes);
        Ok(())
    }

    /// See [`crate::ptx::Machine::fill`].
    pub fn fill(&self, address: u64, bytes: u64, byte: u8) -> Result<(), Problem> {
        let (found, offset) = self.range(address, bytes, "fill")?;
        let block = [byte; 4096];
        let mut at = 0;
        while at < bytes {
            let step = (bytes - at).min(block.len() as u64);
            found.write(offset + at, &block[..step as usize]);
            at += step;
        }
        found.mark_range(offset as usize, (offset + bytes) as usize);
        Ok(())
    }
}
