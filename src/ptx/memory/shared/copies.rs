//! Copies: words in flight, and reads through the asynchronous proxy.

use super::stamp::{
    COPIED, IN_FLIGHT, LIST, NOTHING, SEVERAL, Stamp, Who, agent, lane, pc, race, time,
};
use super::{Kind, Shade, Shared, Wrong};
use crate::ptx::memory::clocks::{Clocks, FIRST_COPIER, Vector};

impl Shared {
    /// Marks whole words as on their way. Whoever accesses them before [`Shared::land`] is told so.
    pub fn depart(
        &mut self,
        address: u32,
        bytes: u32,
        who: Who,
        clocks: &Clocks,
    ) -> Result<(), Wrong> {
        self.depart_as(address, bytes, who, clocks, who.stamp())
    }

    /// As [`Shared::depart`], with the stamp of another agent.
    pub fn depart_as(
        &mut self,
        address: u32,
        bytes: u32,
        who: Who,
        clocks: &Clocks,
        mark: Stamp,
    ) -> Result<(), Wrong> {
        if !self.checked {
            return Ok(());
        }
        for word in 0..bytes / 4 {
            let address = address + 4 * word;
            if self.claim(address as usize / 4, who, clocks, mark | IN_FLIGHT) {
                continue;
            }
            self.touch(address, 4, who, clocks, Kind::Write)?;
            self.shades[address as usize / 4] = Shade {
                write: mark | IN_FLIGHT,
                read: 0,
            };
        }
        Ok(())
    }

    /// Words have arrived: from now on they are a write with this stamp.
    pub fn land(&mut self, address: u32, bytes: u32, mark: Stamp) {
        if !self.checked {
            return;
        }
        for word in address / 4..(address + bytes).div_ceil(4) {
            if let Some(shade) = self.shades.get_mut(word as usize) {
                shade.write = mark;
            }
        }
    }

    /// As [`Shared::land`], as a write of a thread by `cp.async`.
    pub fn land_for(&mut self, address: u32, bytes: u32, who: Who) {
        self.land_copied(address, bytes, who.stamp());
    }

    /// As [`Shared::land`], of a `cp.async`.
    pub fn land_copied(&mut self, address: u32, bytes: u32, mark: Stamp) {
        self.land(address, bytes, mark | COPIED);
    }

    /// Checks a read of a word through the asynchronous proxy, by an agent behind the warps, and
    /// records it under `mark`. `seen` and `fenced` are what its issuers know together.
    ///
    /// What `cp.async` wrote needs no fence: Triton's wgmma kernels have none there, and run.
    pub fn read_async(
        &mut self,
        address: u32,
        seen: &Vector,
        fenced: &Vector,
        mark: Stamp,
    ) -> Result<(), Wrong> {
        if !self.checked {
            return Ok(());
        }
        let at = address as usize / 4;
        let write = self.shades[at].write;
        if write == NOTHING {
            return Err(Wrong::Nothing);
        }
        if write & LIST != 0 && write & IN_FLIGHT == 0 {
            let slot = (write & !LIST) as usize;
            for byte in 0..4 {
                let mut shade = self.split[slot][byte];
                self.one_async(&mut shade, seen, fenced, mark)?;
                self.split[slot][byte] = shade;
            }
            return Ok(());
        }
        let mut shade = self.shades[at];
        self.one_async(&mut shade, seen, fenced, mark)?;
        self.shades[at] = shade;
        Ok(())
    }

    fn one_async(
        &mut self,
        shade: &mut Shade,
        seen: &Vector,
        fenced: &Vector,
        mark: Stamp,
    ) -> Result<(), Wrong> {
        let write = shade.write;
        if write == NOTHING {
            return Err(Wrong::Nothing);
        }
        if write & IN_FLIGHT != 0 {
            return Err(Wrong::InFlight { pc: pc(write) });
        }
        if write == 0 {
            return Err(Wrong::Unwritten);
        }
        if time(write) > seen[agent(write)] {
            return Err(race(write, true));
        }
        if agent(write) < FIRST_COPIER && write & COPIED == 0 && time(write) > fenced[agent(write)]
        {
            let lane = lane(write);
            let thread = (lane < SEVERAL).then(|| 32 * agent(write) as u32 + lane as u32);
            return Err(Wrong::Unfenced {
                thread,
                pc: pc(write),
            });
        }
        let old = shade.read;
        if old & LIST != 0 {
            let list = &mut self.readers[(old & !LIST) as usize];
            list.stamps[agent(mark)] = mark;
            list.copies = true;
        } else if old == 0 || agent(old) == agent(mark) || time(old) <= seen[agent(old)] {
            shade.read = mark;
        } else {
            let slot = self.take_readers();
            let list = &mut self.readers[slot];
            list.stamps[agent(old)] = old;
            list.stamps[agent(mark)] = mark;
            list.copies = true;
            shade.read = LIST | slot as u64;
        }
        Ok(())
    }
}
