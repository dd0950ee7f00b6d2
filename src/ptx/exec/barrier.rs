//! Barriers of a block.

use super::access::absence;
use super::warp::{Row, Status, Warp};
use super::{Common, Next, Stop};
use crate::ptx::memory::clocks::{AGENTS, Vector};
use crate::ptx::program::op::{Barrier, Op, Reduce};

/// How many a block has, and behind them the one of its cluster.
const BARRIERS: usize = 16;
/// What an instruction gives as the number of the cluster's barrier.
pub const OF_CLUSTER: u32 = u32::MAX;

/// A barrier.
#[derive(Clone)]
struct State {
    /// Threads that have arrived, and those that are expected once the first has said so.
    arrived: u32,
    expected: u32,
    /// All threads of the block are expected.
    all: bool,
    /// Warps that wait.
    waiting: u32,
    /// Instruction of the first that arrived.
    first: Option<(u32, u32)>,
    any: bool,
    every: bool,
    count: u32,
    board: Vector,
    fenced: Vector,
}

impl State {
    fn new() -> State {
        State {
            arrived: 0,
            expected: 0,
            all: false,
            waiting: 0,
            first: None,
            any: false,
            every: true,
            count: 0,
            board: [0; AGENTS],
            fenced: [0; AGENTS],
        }
    }
}

/// A block's barriers.
pub struct Barriers {
    states: Vec<State>,
    threads: u32,
}

impl Barriers {
    /// None used yet.
    pub fn new() -> Barriers {
        Barriers {
            states: vec![State::new(); BARRIERS + 1],
            threads: 0,
        }
    }

    /// For a block of so many threads.
    pub fn reset(&mut self, threads: u32) {
        self.threads = threads;
        self.states.fill(State::new());
    }

    /// Threads that have arrived and that are expected.
    pub fn progress(&self, id: u8) -> (u32, u32) {
        let state = &self.states[usize::from(id)];
        (state.arrived, state.expected)
    }
}

/// Every active lane's value, which must be the same.
fn uniform(row: &Row, active: u32, what: &str) -> Result<u32, Stop> {
    let value = row[active.trailing_zeros() as usize];
    match super::access::lanes(active).find(|lane| row[*lane as usize] != value) {
        None => Ok(value),
        Some(lane) => Err(Stop::lane(
            lane,
            format!("{what} differs between the lanes of a warp"),
        )),
    }
}

/// A warp arrives.
pub fn step(
    warps: &mut [Warp],
    w: usize,
    common: &mut Common<'_>,
    barrier: &Barrier,
    active: u32,
) -> Result<Next, Stop> {
    let warp = &warps[w];
    let e = common.entry;
    let present = if barrier.aligned {
        warp.born
    } else {
        warp.alive
    };
    if active != present {
        let missing = (present & !active).trailing_zeros();
        return Err(Stop::warp(format!(
            "divergent barrier: reached without lane {missing} of the warp, which {}",
            absence(warp, missing)
        )));
    }
    let id = uniform(warp.r(e, barrier.id), active, "the barrier's number")?;
    let id = if id == OF_CLUSTER {
        BARRIERS as u32
    } else if id as usize >= BARRIERS {
        return Err(Stop::warp(format!("barrier {id}: there are {BARRIERS}")));
    } else {
        id
    };
    let threads = match barrier.threads {
        Some(row) => uniform(warp.r(e, row), active, "the barrier's number of threads")?,
        None => common.barriers.threads,
    };
    if !threads.is_multiple_of(32) && barrier.threads.is_some() || threads == 0 {
        return Err(Stop::warp(format!(
            "a barrier of {threads} threads: not a multiple of 32"
        )));
    }
    common.counters.barriers += 1;
    let (index, pc) = (warp.index, warp.pc);
    let own = warp.born.count_ones();
    let state = &mut common.barriers.states[id as usize];
    if let Some((first_pc, thread)) = state.first {
        let (a, b) = (&e.code[first_pc as usize], &e.code[pc as usize]);
        let module = common.launch.module;
        if state.expected != threads {
            return Err(Stop::warp(format!(
                "barrier {id} with {threads} threads, while thread {thread} expects {} at {}",
                state.expected,
                module.at(a)
            )));
        }
        let plain = id == 0 && state.all && barrier.threads.is_none() && !barrier.arrive;
        if common.launch.options.checks.barrier_lines
            && plain
            && first_pc != pc
            && !module.same_line(a, b)
        {
            return Err(Stop::warp(format!(
                "divergent barrier: thread {thread} waits at another one, at {}",
                module.at(a)
            )));
        }
    } else {
        state.first = Some((pc, 32 * index));
        state.expected = threads;
        state.all = barrier.threads.is_none();
    }
    if let Some(reduce) = barrier.reduce {
        let (Reduce::And(p) | Reduce::Or(p) | Reduce::Popc(p)) = reduce;
        let bits = warp.p(p) & active;
        state.any |= bits != 0;
        state.every &= bits == active;
        state.count += bits.count_ones();
    }
    common
        .clocks
        .release(w, &mut state.board, &mut state.fenced);
    state.arrived += own;
    if state.arrived > state.expected {
        return Err(Stop::warp(format!(
            "barrier {id}: {} threads arrived where {} are expected",
            state.arrived, state.expected
        )));
    }
    let warp = &mut warps[w];
    if barrier.arrive {
        warp.advance();
    } else {
        state.waiting |= 1 << index;
        warp.status = Status::Barrier(id as u8);
    }
    if state.arrived == state.expected {
        complete(warps, common, id as usize);
    } else if state.all {
        check_exit(warps, w, common)?;
    }
    Ok(Next::Stay)
}

/// Everybody is there.
fn complete(warps: &mut [Warp], common: &mut Common<'_>, id: usize) {
    let state = std::mem::replace(&mut common.barriers.states[id], State::new());
    common.clocks.epoch += u32::from(state.all);
    common.woke = true;
    for warp in warps
        .iter_mut()
        .filter(|warp| state.waiting >> warp.index & 1 != 0)
    {
        common
            .clocks
            .acquire(warp.index as usize, &state.board, &state.fenced, true);
        if let Op::Bar(barrier) = &common.entry.code[warp.pc as usize].op {
            let active = warp.active & warp.p(common.entry.code[warp.pc as usize].guard);
            let all = |value: bool| if value { u32::MAX } else { 0 };
            match barrier.reduce {
                Some(Reduce::And(_)) => warp.put_pred(barrier.result, all(state.every), active),
                Some(Reduce::Or(_)) => warp.put_pred(barrier.result, all(state.any), active),
                Some(Reduce::Popc(_)) => warp.put(barrier.result, &[state.count; 32], active),
                None => {}
            }
        }
        warp.status = Status::Ready;
        warp.advance();
    }
}

/// A barrier of the whole block that a thread has exited before can never be passed.
pub fn check_exit(warps: &[Warp], w: usize, common: &Common<'_>) -> Result<(), Stop> {
    let Some(gone) = warps.iter().find(|warp| warp.status == Status::Done) else {
        return Ok(());
    };
    let stuck = common
        .barriers
        .states
        .iter()
        .enumerate()
        .find(|(_, s)| s.all && s.waiting != 0);
    let Some((id, state)) = stuck else {
        return Ok(());
    };
    let thread = 32 * state.waiting.trailing_zeros();
    let line = match state.first {
        Some((pc, _)) => common.launch.module.at(&common.entry.code[pc as usize]),
        None => String::new(),
    };
    let _ = w;
    Err(Stop::warp(format!(
        "divergent barrier: thread {} exits while thread {thread} waits at barrier {id} at {line}",
        32 * gone.index
    )))
}
