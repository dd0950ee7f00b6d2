//! Who accessed a word, when and where, in 64 bits.

use super::Wrong;
use crate::ptx::memory::clocks::Clocks;

/// An access: `[flags 4][time 26][agent 6][lane 6][instruction 22]`; 0 is none.
pub type Stamp = u64;

pub(super) const PC_BITS: u32 = 22;
pub(super) const LANE_BITS: u32 = 6;
const AGENT_BITS: u32 = 6;
const TIME_BITS: u32 = 26;
/// In place of a lane: several lanes of the warp.
pub(super) const SEVERAL: u64 = 32;
/// A copy that nobody has waited for yet.
pub(super) const IN_FLIGHT: u64 = 1 << 63;
/// The write was atomic.
pub(super) const ATOMIC: u64 = 1 << 62;
/// Of writes: the word is split; of reads: several warps have read. The rest is an index.
pub(super) const LIST: u64 = 1 << 61;
/// Written by a `cp.async` that has been waited for: the asynchronous proxy sees it without a fence.
pub(super) const COPIED: u64 = 1 << 60;
/// The word belongs to no array.
pub(super) const NOTHING: u64 = u64::MAX;

/// Longest program whose instructions fit a stamp.
pub const MAX_INSTRUCTIONS: usize = 1 << PC_BITS;

/// Who accesses.
#[derive(Clone, Copy, Debug)]
pub struct Who {
    pub warp: u32,
    pub lane: u32,
    pub pc: u32,
    /// The warp's time.
    pub time: u32,
    /// Accesses of its other lanes before this time are ordered.
    pub lanes: u32,
}

impl Who {
    pub(super) fn stamp(self) -> Stamp {
        stamp(self.warp, self.lane, self.time, self.pc)
    }
}

/// A stamp of its parts.
pub fn stamp(agent: u32, lane: u32, time: u32, pc: u32) -> Stamp {
    let time = u64::from(time) & ((1 << TIME_BITS) - 1);
    (((time << AGENT_BITS | u64::from(agent)) << LANE_BITS | u64::from(lane)) << PC_BITS)
        | u64::from(pc)
}

pub(super) fn pc(stamp: Stamp) -> u32 {
    stamp as u32 & ((1 << PC_BITS) - 1)
}
pub(super) fn lane(stamp: Stamp) -> u64 {
    stamp >> PC_BITS & ((1 << LANE_BITS) - 1)
}
pub(super) fn agent(stamp: Stamp) -> usize {
    (stamp >> (PC_BITS + LANE_BITS)) as usize & ((1 << AGENT_BITS) - 1)
}
pub(super) fn time(stamp: Stamp) -> u32 {
    (stamp >> (PC_BITS + LANE_BITS + AGENT_BITS)) as u32 & ((1 << TIME_BITS) - 1)
}

/// Whether an access happened before `who`'s.
#[inline(always)]
pub(super) fn ordered(stamp: Stamp, who: Who, clocks: &Clocks) -> bool {
    let agent = agent(stamp);
    if agent == who.warp as usize {
        return lane(stamp) == u64::from(who.lane)
            || time(stamp) < who.lanes
            || clocks.lane_knows(agent, who.lane, lane(stamp) as usize, time(stamp));
    }
    time(stamp) <= clocks.seen[who.warp as usize][agent]
}

/// The reads of one warp in one stamp.
pub(super) fn merge(old: Stamp, own: Stamp, who: Who) -> Stamp {
    if old == 0 || time(old) < who.lanes || lane(old) == lane(own) {
        return own;
    }
    own & !(((1 << LANE_BITS) - 1) << PC_BITS) | SEVERAL << PC_BITS
}

pub(super) fn race(stamp: Stamp, wrote: bool) -> Wrong {
    let (warp, lane) = (agent(stamp) as u32, lane(stamp));
    Wrong::Race {
        wrote,
        thread: (lane < SEVERAL && warp < 32).then(|| 32 * warp + lane as u32),
        warp,
        pc: pc(stamp),
    }
}
