//! A block's shared memory. Each 4-byte word knows whether it was written, is in flight or belongs
//! to nothing, who wrote it last and who has read it since. Words that are accessed in parts are
//! split into their bytes.

mod copies;
mod stamp;

use super::clocks::{AGENTS, Clocks, FIRST_COPIER};
use stamp::{ATOMIC, IN_FLIGHT, LIST, NOTHING, agent, merge, ordered, pc, race};
pub use stamp::{MAX_INSTRUCTIONS, Stamp, Who, stamp};

/// What is wrong with an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Nobody wrote it.
    Unwritten,
    /// It belongs to no array.
    Nothing,
    /// A copy, issued there, is on its way.
    InFlight { pc: u32 },
    /// Written through the generic proxy, read by the asynchronous one without a fence between them.
    Unfenced { thread: Option<u32>, pc: u32 },
    /// Not ordered with the access of that thread there.
    Race {
        wrote: bool,
        thread: Option<u32>,
        warp: u32,
        pc: u32,
    },
}

#[derive(Clone, Copy, Default)]
struct Shade {
    write: Stamp,
    read: Stamp,
}

/// The last read of each agent.
#[derive(Clone, Copy)]
struct Readers {
    stamps: [Stamp; AGENTS],
    /// The block's barriers before the last of them.
    epoch: u32,
    /// Copies are among them, which barriers do not order.
    copies: bool,
}

const NOBODY: Readers = Readers {
    stamps: [0; AGENTS],
    epoch: 0,
    copies: false,
};

/// Shared memory of a block.
pub struct Shared {
    words: Vec<u32>,
    shades: Vec<Shade>,
    split: Vec<[Shade; 4]>,
    free_split: Vec<u32>,
    readers: Vec<Readers>,
    free_readers: Vec<u32>,
    /// First byte behind everything.
    end: u32,
    checked: bool,
}

/// What a word's access does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Atomic,
}

impl Readers {
    #[inline(always)]
    fn add(&mut self, who: Who, clocks: &Clocks) {
        let place = &mut self.stamps[who.warp as usize];
        *place = merge(*place, who.stamp(), who);
        self.epoch = clocks.epoch;
    }
}

impl Shared {
    /// Nothing yet.
    pub fn new(checked: bool) -> Shared {
        Shared {
            words: Vec::new(),
            shades: Vec::new(),
            split: Vec::new(),
            free_split: Vec::new(),
            readers: Vec::new(),
            free_readers: Vec::new(),
            end: 0,
            checked,
        }
    }

    /// As it is when a block starts: every byte 0xFF, nothing written. `arrays` are start and bytes
    /// of what belongs to something.
    pub fn reset(&mut self, end: u32, arrays: impl Iterator<Item = (u32, u32)>) {
        self.end = end;
        let count = end.div_ceil(4) as usize;
        self.words.clear();
        self.words.resize(count, u32::MAX);
        self.split.clear();
        self.free_split.clear();
        self.readers.clear();
        self.free_readers.clear();
        if !self.checked {
            return;
        }
        let nothing = Shade {
            write: NOTHING,
            read: 0,
        };
        self.shades.clear();
        self.shades.resize(count, nothing);
        for (start, bytes) in arrays {
            let stop = start + bytes;
            for word in start / 4..stop.div_ceil(4) {
                let inside = |byte: u32| (start..stop).contains(&byte);
                let at = word as usize;
                if (4 * word..4 * word + 4).all(inside) {
                    self.shades[at] = Shade::default();
                } else {
                    let slot = self.split_word(at);
                    for byte in 0..4 {
                        if inside(4 * word + byte) {
                            self.split[slot][byte as usize] = Shade::default();
                        }
                    }
                }
            }
        }
    }

    /// First byte behind everything.
    pub fn end(&self) -> u32 {
        self.end
    }

    /// Whether the access lies within.
    #[inline(always)]
    pub fn holds(&self, address: u32, bytes: u32) -> bool {
        address <= self.end && bytes <= self.end - address
    }

    /// A word, by index.
    #[inline(always)]
    pub fn word(&self, index: usize) -> u32 {
        self.words[index]
    }

    /// A word to be changed, by index.
    #[inline(always)]
    pub fn word_mut(&mut self, index: usize) -> &mut u32 {
        &mut self.words[index]
    }

    /// Bytes as they are, for copies that check for themselves.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.words)
    }

    fn split_word(&mut self, at: usize) -> usize {
        let whole = self.shades[at];
        // A list of readers must stay with one owner: bytes get copies.
        let mut parts = [whole; 4];
        if whole.read & LIST != 0 {
            for part in &mut parts[1..] {
                let list = self.readers[(whole.read & !LIST) as usize];
                let slot = self.take_readers();
                self.readers[slot] = list;
                part.read = LIST | slot as u64;
            }
        }
        let slot = match self.free_split.pop() {
            Some(slot) => slot as usize,
            None => {
                self.split.push([Shade::default(); 4]);
                self.split.len() - 1
            }
        };
        self.split[slot] = parts;
        self.shades[at] = Shade {
            write: LIST | slot as u64,
            read: 0,
        };
        slot
    }

    fn take_readers(&mut self) -> usize {
        match self.free_readers.pop() {
            Some(slot) => {
                self.readers[slot as usize] = NOBODY;
                slot as usize
            }
            None => {
                self.readers.push(NOBODY);
                self.readers.len() - 1
            }
        }
    }

    /// Checks and records a read of `bytes` (at most 4, within a word).
    #[inline(always)]
    pub fn read(
        &mut self,
        address: u32,
        bytes: u32,
        who: Who,
        clocks: &Clocks,
    ) -> Result<(), Wrong> {
        if !self.checked {
            return Ok(());
        }
        // The common case: a whole word that was written before the last barrier.
        let Shade { write, read } = self.shades[address as usize / 4];
        let plain = write & (IN_FLIGHT | LIST | ATOMIC) == 0 && write != 0;
        if bytes == 4 && plain && ordered(write, who, clocks) {
            if read & LIST != 0 {
                self.readers[(read & !LIST) as usize].add(who, clocks);
                return Ok(());
            }
            let mut read = read;
            self.add_reader(&mut read, who, clocks);
            self.shades[address as usize / 4].read = read;
            return Ok(());
        }
        self.touch(address, bytes, who, clocks, Kind::Read)
    }

    /// Checks and records a write.
    #[inline(always)]
    pub fn write(
        &mut self,
        address: u32,
        bytes: u32,
        who: Who,
        clocks: &Clocks,
    ) -> Result<(), Wrong> {
        if !self.checked {
            return Ok(());
        }
        if bytes == 4 && self.claim(address as usize / 4, who, clocks, who.stamp()) {
            return Ok(());
        }
        self.touch(address, bytes, who, clocks, Kind::Write)
    }

    /// The common case of a write: nobody else's access since the last barrier. False if it is not
    /// that simple.
    #[inline(always)]
    fn claim(&mut self, at: usize, who: Who, clocks: &Clocks, mark: Stamp) -> bool {
        let Shade { write, read } = self.shades[at];
        let simple = write & (IN_FLIGHT | LIST | ATOMIC) == 0
            && (write == 0 || ordered(write, who, clocks))
            && self.check_readers(read, who, clocks, false).is_ok();
        if simple {
            if read & LIST != 0 {
                self.free_readers.push((read & !LIST) as u32);
            }
            self.shades[at] = Shade {
                write: mark,
                read: 0,
            };
        }
        simple
    }

    /// Checks and records an atomic operation.
    pub fn atomic(
        &mut self,
        address: u32,
        bytes: u32,
        who: Who,
        clocks: &Clocks,
    ) -> Result<(), Wrong> {
        if !self.checked {
            return Ok(());
        }
        for word in 0..bytes.div_ceil(4) {
            self.touch(address + 4 * word, bytes.min(4), who, clocks, Kind::Atomic)?;
        }
        Ok(())
    }

    fn touch(
        &mut self,
        address: u32,
        bytes: u32,
        who: Who,
        clocks: &Clocks,
        kind: Kind,
    ) -> Result<(), Wrong> {
        let at = address as usize / 4;
        let write = self.shades[at].write;
        if write == NOTHING {
            return Err(Wrong::Nothing);
        }
        let split = write & LIST != 0;
        if bytes >= 4 && !split {
            let mut shade = self.shades[at];
            self.one(&mut shade, who, clocks, kind)?;
            self.shades[at] = shade;
            return Ok(());
        }
        let slot = match split {
            true => (write & !LIST) as usize,
            false => self.split_word(at),
        };
        let first = address as usize % 4;
        for byte in first..(first + bytes as usize).min(4) {
            let mut shade = self.split[slot][byte];
            if shade.write == NOTHING {
                return Err(Wrong::Nothing);
            }
            self.one(&mut shade, who, clocks, kind)?;
            self.split[slot][byte] = shade;
        }
        // Written as a whole again: one shade is enough.
        if bytes >= 4 && kind != Kind::Read {
            self.shades[at] = self.split[slot][0];
            self.free_split.push(slot as u32);
        }
        Ok(())
    }

    fn one(
        &mut self,
        shade: &mut Shade,
        who: Who,
        clocks: &Clocks,
        kind: Kind,
    ) -> Result<(), Wrong> {
        let write = shade.write;
        if write & IN_FLIGHT != 0 {
            return Err(Wrong::InFlight { pc: pc(write) });
        }
        if write == 0 && kind != Kind::Write {
            return Err(Wrong::Unwritten);
        }
        let both_atomic = kind == Kind::Atomic && write & ATOMIC != 0;
        // Of a word that atomics have changed since, this is still the last plain write.
        if write != 0 && !ordered(write, who, clocks) {
            return Err(race(write, true));
        }
        if kind == Kind::Read && write & ATOMIC == 0 {
            self.add_reader(&mut shade.read, who, clocks);
            return Ok(());
        }
        // Of an atomically written word the readers' list holds all who took part.
        if both_atomic {
            self.add_reader(&mut shade.read, who, clocks);
            return Ok(());
        }
        let last = self.any_reader(shade.read);
        self.check_readers(shade.read, who, clocks, write & ATOMIC != 0)?;
        if shade.read & LIST != 0 {
            self.free_readers.push((shade.read & !LIST) as u32);
        }
        match kind {
            Kind::Read => {
                shade.write = last;
                shade.read = who.stamp();
            }
            Kind::Write => {
                shade.write = who.stamp();
                shade.read = 0;
            }
            Kind::Atomic => {
                shade.write |= ATOMIC;
                shade.read = who.stamp();
            }
        }
        Ok(())
    }

    /// One of those who took part in an atomic operation.
    fn any_reader(&self, read: Stamp) -> Stamp {
        match read & LIST {
            0 => read,
            _ => {
                let list = &self.readers[(read & !LIST) as usize];
                list.stamps.iter().copied().max().unwrap_or(0)
            }
        }
    }

    #[inline]
    fn check_readers(
        &self,
        read: Stamp,
        who: Who,
        clocks: &Clocks,
        atomics: bool,
    ) -> Result<(), Wrong> {
        if read & LIST == 0 {
            return match read == 0 || ordered(read, who, clocks) {
                true => Ok(()),
                false => Err(race(read, atomics)),
            };
        }
        let list = &self.readers[(read & !LIST) as usize];
        if !list.copies && list.epoch < clocks.epoch {
            return Ok(());
        }
        let (warps, copies) = list.stamps.split_at(FIRST_COPIER);
        let copies = if list.copies { copies } else { &[] };
        let mut all = warps[..clocks.seen.len()].iter().chain(copies);
        match all.find(|r| **r != 0 && !ordered(**r, who, clocks)) {
            Some(read) => Err(race(*read, atomics)),
            None => Ok(()),
        }
    }

    #[inline]
    fn add_reader(&mut self, read: &mut Stamp, who: Who, clocks: &Clocks) {
        let own = who.stamp();
        let old = *read;
        if old & LIST != 0 {
            self.readers[(old & !LIST) as usize].add(who, clocks);
        } else if old == 0 || agent(old) == who.warp as usize {
            *read = merge(old, own, who);
        } else if ordered(old, who, clocks) {
            *read = own;
        } else {
            let slot = self.take_readers();
            let list = &mut self.readers[slot];
            list.stamps[agent(old)] = old;
            list.copies = agent(old) >= FIRST_COPIER;
            list.add(who, clocks);
            *read = LIST | slot as u64;
        }
    }
}
