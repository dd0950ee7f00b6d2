//! mbarriers in shared memory: the word, and beside it who may see what when a phase completes.

use super::super::access::{lanes, shared_wrong};
use super::super::warp::Warp;
use super::super::{Common, Next, Stop};
use super::{BARRIER_AGENT, BARRIER_AGENTS, PATIENCE, Wait, draw, shared_at};
use crate::ptx::memory::clocks::{AGENTS, Vector, join};
use crate::ptx::memory::shared::stamp;
use crate::ptx::options::Schedule;
use crate::ptx::program::hopper::{Mbarrier as Op, Phase};
use crate::ptx::program::op::{Addr, R};
use crate::ptx::tensor::mbarrier::{Mbarrier, MbarrierError};

/// What the machine knows of an mbarrier besides its word.
pub struct Side {
    /// Arrivals of the current phase: what they pass on.
    board: Vector,
    fenced: Vector,
    /// What the completed phases passed on.
    done: Vector,
    done_fenced: Vector,
    /// The agent of copies that complete here.
    agent: usize,
    /// Copies issued, and the last one that landed.
    issued: u32,
    landed: u32,
}

impl Side {
    /// Agent and time of a new copy.
    pub fn issue(&mut self) -> (usize, u32) {
        self.issued += 1;
        (self.agent, self.issued)
    }
}

/// The state in the word.
pub fn state(common: &Common<'_>, at: u32) -> Result<Mbarrier, MbarrierError> {
    let index = at as usize / 4;
    let low = u64::from(common.shared.word(index));
    Mbarrier::from_bits(low | u64::from(common.shared.word(index + 1)) << 32)
}

fn put(common: &mut Common<'_>, at: u32, bits: u64) {
    let index = at as usize / 4;
    *common.shared.word_mut(index) = bits as u32;
    *common.shared.word_mut(index + 1) = (bits >> 32) as u32;
}

/// Whether the phase of this parity is complete.
pub fn is_complete(common: &Common<'_>, at: u32, parity: bool) -> bool {
    state(common, at).is_ok_and(|barrier| barrier.is_complete_parity(parity))
}

/// The phase completed: what its arrivals and copies passed on may be seen.
fn complete(common: &mut Common<'_>, at: u32) {
    if let Some(side) = common.hopper.barriers.get_mut(&at) {
        side.board[side.agent] = side.board[side.agent].max(side.landed);
        join(&mut side.done, &side.board);
        join(&mut side.done_fenced, &side.fenced);
        side.board = [0; AGENTS];
        side.fenced = [0; AGENTS];
    }
    common.hopper.changed = true;
    common.hopper.asked = 0;
}

/// A copy of so many bytes, issued as `time` of the barrier's agent, has landed.
pub fn complete_tx(
    common: &mut Common<'_>,
    at: u32,
    bytes: u32,
    time: u32,
) -> Result<(), MbarrierError> {
    let mut barrier = state(common, at)?;
    if let Some(side) = common.hopper.barriers.get_mut(&at) {
        side.landed = side.landed.max(time);
    }
    let completed = barrier.complete_tx(bytes)?;
    put(common, at, barrier.to_bits());
    if completed {
        complete(common, at);
    }
    Ok(())
}

/// Agent and time of a copy that will complete on the barrier.
pub fn issue_copy(common: &mut Common<'_>, lane: u32, at: u32) -> Result<(usize, u32), Stop> {
    state(common, at).map_err(|e| said(lane, at, e))?;
    match common.hopper.barriers.get_mut(&at) {
        Some(side) => Ok(side.issue()),
        None => Err(said(lane, at, MbarrierError::NotABarrier)),
    }
}

fn said(lane: u32, at: u32, error: MbarrierError) -> Stop {
    Stop::lane(lane, format!("mbarrier at shared address {at:#x}: {error}"))
}

/// This thread's operation on the word is ordered with its initialisation.
pub fn reach(warp: &Warp, common: &mut Common<'_>, lane: u32, at: u32) -> Result<(), Stop> {
    let who = common.who(warp, lane);
    let done = common.shared.atomic(at, 8, who, &common.clocks);
    done.map_err(|wrong| {
        Stop::lane(
            lane,
            shared_wrong(common, "mbarrier operation on", at, wrong),
        )
    })
}

fn write(
    warp: &Warp,
    common: &mut Common<'_>,
    lane: u32,
    at: u32,
    what: &str,
    bits: u64,
) -> Result<(), Stop> {
    let who = common.who(warp, lane);
    for word in [at, at + 4] {
        let done = common.shared.write(word, 4, who, &common.clocks);
        done.map_err(|wrong| Stop::lane(lane, shared_wrong(common, what, word, wrong)))?;
    }
    put(common, at, bits);
    Ok(())
}

/// An operation on an mbarrier.
pub fn step(
    warp: &mut Warp,
    common: &mut Common<'_>,
    active: u32,
    at: Addr,
    what: &Op,
) -> Result<Next, Stop> {
    let entry = common.entry;
    if let Op::Test { d, phase, wait } = what {
        return test(warp, common, active, at, *d, *phase, *wait);
    }
    for lane in lanes(active) {
        let i = lane as usize;
        let place = shared_at(warp, common, lane, "mbarrier operation on", at, 8, 8)?;
        let fail = |e| said(lane, place, e);
        match what {
            Op::Init { count } => {
                let barrier = Mbarrier::init(warp.r(entry, *count)[i]).map_err(fail)?;
                write(
                    warp,
                    common,
                    lane,
                    place,
                    "mbarrier.init of",
                    barrier.to_bits(),
                )?;
                let agent = BARRIER_AGENT + common.hopper.barriers.len() % BARRIER_AGENTS;
                // A barrier that comes again keeps its agent, whose time goes on.
                let old = common.hopper.barriers.remove(&place);
                let (agent, issued, landed) =
                    old.map_or((agent, 0, 0), |old| (old.agent, old.issued, old.landed));
                let zero = [0; AGENTS];
                let (board, fenced, done, done_fenced) = (zero, zero, zero, zero);
                let side = Side {
                    board,
                    fenced,
                    done,
                    done_fenced,
                    agent,
                    issued,
                    landed,
                };
                common.hopper.barriers.insert(place, side);
            }
            Op::Inval => {
                state(common, place).map_err(fail)?;
                write(warp, common, lane, place, "mbarrier.inval of", 0)?;
            }
            Op::Arrive {
                d,
                count,
                tx,
                no_complete,
                drop,
            } => {
                reach(warp, common, lane, place)?;
                let mut barrier = state(common, place).map_err(fail)?;
                let token = barrier.token();
                let count = count.map_or(1, |count| warp.r(entry, count)[i]);
                release(warp, common, place);
                if let Some(tx) = tx {
                    barrier.expect_tx(warp.r(entry, *tx)[i]).map_err(fail)?;
                }
                let completed = match (no_complete, drop) {
                    (true, true) => {
                        let completed = barrier.arrive_drop(count).map_err(fail)?;
                        if completed {
                            Err(fail(MbarrierError::Completes))
                        } else {
                            Ok(false)
                        }
                    }
                    (true, false) => barrier
                        .arrive_no_complete(count)
                        .map_err(fail)
                        .map(|()| false),
                    (false, true) => barrier.arrive_drop(count).map_err(fail),
                    (false, false) => barrier.arrive(count).map_err(fail),
                }?;
                put(common, place, barrier.to_bits());
                if completed {
                    complete(common, place);
                }
                warp.put_wide(*d, &[token; 32], 1 << lane);
            }
            Op::ExpectTx { bytes } => {
                reach(warp, common, lane, place)?;
                let mut barrier = state(common, place).map_err(fail)?;
                barrier.expect_tx(warp.r(entry, *bytes)[i]).map_err(fail)?;
                put(common, place, barrier.to_bits());
            }
            Op::CompleteTx { bytes } => {
                reach(warp, common, lane, place)?;
                release(warp, common, place);
                complete_tx(common, place, warp.r(entry, *bytes)[i], 0).map_err(fail)?;
            }
            Op::Test { .. } => {}
        }
    }
    Ok(Next::On)
}

fn release(warp: &Warp, common: &mut Common<'_>, at: u32) {
    if let Some(side) = common.hopper.barriers.get_mut(&at) {
        common
            .clocks
            .release(warp.index as usize, &mut side.board, &mut side.fenced);
    }
}

fn test(
    warp: &mut Warp,
    common: &mut Common<'_>,
    active: u32,
    at: Addr,
    d: u32,
    phase: Phase,
    wait: bool,
) -> Result<Next, Stop> {
    let entry = common.entry;
    let (mut bits, mut missing) = (0, None);
    for lane in lanes(active) {
        let i = lane as usize;
        let place = shared_at(warp, common, lane, "mbarrier operation on", at, 8, 8)?;
        reach(warp, common, lane, place)?;
        let barrier = state(common, place).map_err(|e| said(lane, place, e))?;
        let parity = match phase {
            Phase::Parity(row) => warp.r(entry, row)[i] & 1 != 0,
            Phase::Token(row) => {
                let token = Mbarrier::from_bits(warp.w(entry, row)[i]);
                let words = || said(lane, place, MbarrierError::NotABarrier);
                token.map_err(|_| words())?.parity
            }
        };
        if barrier.is_complete_parity(parity) {
            bits |= 1 << lane;
        } else {
            missing = Some(Wait::Phase { at: place, parity });
        }
    }
    if let Some(missing) = missing {
        common.hopper.asked += 1;
        if common.hopper.asked > PATIENCE
            && let Wait::Phase { at, .. } = missing
        {
            let state = state(common, at).map_or_else(|e| e.to_string(), |b| b.to_string());
            let words = format!("asked {PATIENCE} times in vain: the mbarrier at {at:#x} {state}");
            return Err(Stop::warp(words));
        }
        // `try_wait` may give up after a time: a program must ask again.
        let patient =
            common.launch.options.schedule == Schedule::Sequential || draw(common, 2) != 0;
        if wait && patient {
            common.hopper.wait(warp, missing);
            return Ok(Next::Stay);
        }
        // In a fixed order the warp that asks would be the next to run: others go first.
        if common.launch.options.schedule == Schedule::Sequential {
            common.hopper.idle = false;
            common.hopper.wait(warp, Wait::Turn);
        }
    }
    for lane in lanes(bits) {
        let place = shared_at(warp, common, lane, "mbarrier operation on", at, 8, 8)?;
        if let Some(side) = common.hopper.barriers.get(&place) {
            common.clocks.acquire(
                warp.index as usize,
                &side.done,
                &side.done_fenced,
                bits == u32::MAX,
            );
        }
    }
    warp.put_pred(d, bits, active);
    Ok(Next::On)
}

/// `mbarrier.pending_count`.
pub fn pending_count(
    warp: &mut Warp,
    common: &Common<'_>,
    active: u32,
    d: R,
    token: R,
) -> Result<(), Stop> {
    let tokens = *warp.w(common.entry, token);
    let mut out = [0; 32];
    for lane in lanes(active) {
        let i = lane as usize;
        out[i] = Mbarrier::pending_count(tokens[i])
            .map_err(|_| Stop::lane(lane, "mbarrier.pending_count of what is no token"))?;
    }
    warp.put(d, &out, active);
    Ok(())
}

/// `cp.async.mbarrier.arrive`: this thread's copies so far land, as the barrier's agent, and the
/// thread arrives when they have.
pub fn copies_arrive(
    warp: &mut Warp,
    common: &mut Common<'_>,
    active: u32,
    at: Addr,
    noinc: bool,
) -> Result<(), Stop> {
    for lane in lanes(active) {
        let place = shared_at(warp, common, lane, "mbarrier operation on", at, 8, 8)?;
        reach(warp, common, lane, place)?;
        let fail = |e| said(lane, place, e);
        let mut barrier = state(common, place).map_err(fail)?;
        let (agent, time) = issue_copy(common, lane, place)?;
        for copy in &mut warp.copies {
            if copy.mask >> lane & 1 != 0 {
                copy.mask &= !(1 << lane);
                let mark = stamp(agent as u32, 0, time, copy.pc);
                common
                    .shared
                    .land_copied(copy.to[lane as usize], copy.bytes, mark);
            }
        }
        if let Some(side) = common.hopper.barriers.get_mut(&place) {
            side.landed = side.landed.max(time);
        }
        release(warp, common, place);
        if !noinc {
            // One arrival more is waited for: this one.
            barrier.pending += 1;
        }
        let completed = barrier.arrive(1).map_err(fail)?;
        put(common, place, barrier.to_bits());
        if completed {
            complete(common, place);
        }
    }
    warp.copies.retain(|copy| copy.mask != 0);
    Ok(())
}
