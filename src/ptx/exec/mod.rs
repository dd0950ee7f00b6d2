//! Execution of a block: its warps, what they share, and the loop that lets them run.

mod access;
mod alu;
mod async_copy;
mod barrier;
mod bits;
mod collective;
pub(super) mod float;
mod hopper;
mod reports;
mod tensor;
#[cfg(test)]
mod tests;
mod warp;
mod wmma;

use super::counters::{CLASSES, Counters};
use super::memory::blocks::{BlockClock, BlockTimes, Touched};
use super::memory::clocks::Clocks;
use super::memory::global::Allocations;
use super::memory::shared::{Shared, Who};
use super::options::{Counting, Options};
use super::program::op::{Inst, Op};
use super::program::{Entry, Module};
use super::schedule::Chooser;
use barrier::Barriers;
use warp::{Status, Warp};

/// What a launch is, for each of its blocks.
pub struct Launch<'m> {
    pub module: &'m Module,
    pub entry: &'m Entry,
    pub options: Options,
    pub memory: &'m Allocations,
    pub times: &'m BlockTimes,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared_bytes: u32,
    pub params: &'m [u8],
}

/// Why an instruction stops the launch. Who and where are known to the caller.
pub struct Stop {
    /// A lane, or `None` for the warp's first active one.
    pub lane: Option<u32>,
    pub what: String,
}

impl Stop {
    fn warp(what: impl Into<String>) -> Stop {
        Stop {
            lane: None,
            what: what.into(),
        }
    }

    fn lane(lane: u32, what: impl Into<String>) -> Stop {
        Stop {
            lane: Some(lane),
            what: what.into(),
        }
    }
}

/// A fault of a block: thread, instruction, words.
pub struct BlockFault {
    pub thread: Option<u32>,
    pub pc: Option<u32>,
    pub what: String,
}

/// What comes after an instruction.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The following one.
    On,
    /// The instruction set the place itself, or the warp waits.
    Stay,
}

/// What the warps of a block share.
pub struct Common<'m> {
    pub launch: &'m Launch<'m>,
    pub entry: &'m Entry,
    pub shared: Shared,
    pub clocks: Clocks,
    pub barriers: Barriers,
    pub counters: Counters,
    pub counting: bool,
    /// Number of the block in the grid, x fastest.
    pub block: u32,
    pub at: [u32; 3],
    pub hopper: hopper::State,
    /// What the block knows of other blocks.
    pub clock: BlockClock,
    /// A barrier let warps go.
    pub woke: bool,
    /// A thread waits for another block.
    pub waits: bool,
    /// Warp instructions that the block has run.
    pub clock_now: u64,
    /// A device-wide fence since the last atomic.
    pub fenced: bool,
    /// Sectors touched, for distinct bytes.
    pub touched: Touched,
}

impl Common<'_> {
    /// A lane of a warp at its instruction.
    #[inline(always)]
    fn who(&self, warp: &Warp, lane: u32) -> Who {
        let at = warp.index as usize;
        Who {
            warp: warp.index,
            lane,
            pc: warp.pc,
            time: self.clocks.now[at],
            lanes: self.clocks.lanes[at],
        }
    }
}

/// A block that runs; used again for the next one.
pub struct Block<'m> {
    warps: Vec<Warp>,
    common: Common<'m>,
    chooser: Chooser,
    threads: u32,
    /// Warps that can run.
    ready: u32,
    /// Those that wait for others, and let them run first.
    resting: u32,
    /// Instructions that are left to it.
    budget: u64,
}

impl<'m> Block<'m> {
    /// A place for the blocks of a launch to run in.
    pub fn new(launch: &'m Launch<'m>) -> Block<'m> {
        let threads: u32 = launch.block.iter().product();
        let count = threads.div_ceil(32);
        let counting = launch.options.counting == Counting::Full;
        let mut counters = Counters::default();
        if counting {
            counters.executed = vec![0; launch.entry.code.len()];
        }
        Block {
            warps: (0..count).map(|i| Warp::new(i, launch.entry)).collect(),
            common: Common {
                launch,
                entry: launch.entry,
                shared: Shared::new(launch.options.checks.shared),
                clocks: Clocks::new(count as usize),
                barriers: Barriers::new(),
                counters,
                counting,
                block: 0,
                at: [0; 3],
                hopper: hopper::State::default(),
                clock: BlockClock::default(),
                fenced: false,
                clock_now: 0,
                woke: false,
                waits: false,
                touched: Touched::new(if counting { launch.memory.count() } else { 0 }),
            },
            chooser: Chooser::new(launch.options.schedule, count),
            threads,
            ready: 0,
            resting: 0,
            budget: 0,
        }
    }

    /// What all blocks that ran here cost.
    pub fn finish(self) -> (Counters, Touched) {
        (self.common.counters, self.common.touched)
    }

    /// Puts a block of the grid at its start.
    pub fn start(&mut self, block: u32) {
        let launch = self.common.launch;
        let [x, y, _] = launch.grid;
        self.common.block = block;
        self.common.at = [block % x, block / x % y, block / x / y];
        self.common.fenced = false;
        self.common.waits = false;
        self.common.clock = BlockClock::new(block);
        let layout = &launch.entry.shared;
        let dynamic = (layout.dynamic_start, launch.dynamic_shared_bytes);
        let arrays = layout
            .arrays
            .iter()
            .map(|(_, start, bytes)| (*start, *bytes));
        let end = layout.dynamic_start + launch.dynamic_shared_bytes;
        self.common.shared.reset(end, arrays.chain([dynamic]));
        self.common.clocks = Clocks::new(self.warps.len());
        self.common.barriers.reset(self.threads);
        self.common.hopper = hopper::State::default();
        for warp in &mut self.warps {
            let left = self.threads - 32 * warp.index;
            warp.reset(if left >= 32 {
                u32::MAX
            } else {
                (1 << left) - 1
            });
        }
        self.chooser.reset(launch.options.seed, block);
        self.common.counters.blocks += 1;
        self.common.counters.warps += self.warps.len() as u64;
        self.ready = if self.warps.len() == 32 {
            u32::MAX
        } else {
            (1u32 << self.warps.len()) - 1
        };
        self.budget = launch.options.max_instructions;
        self.resting = 0;
    }

    /// Runs it on. False where it waits for another block.
    pub fn run(&mut self) -> Result<bool, BlockFault> {
        loop {
            if self.ready == 0 {
                self.ready = self.wake();
                // What still flies when all have ended, nobody waited for.
                while self.ready == 0 && !self.is_done() && hopper::relieve(&mut self.common)? {
                    self.ready = self.wake();
                }
                if self.ready == 0 {
                    break;
                }
            }
            if self.ready & !self.resting == 0 {
                self.resting = 0;
                return Ok(false);
            }
            let w = self.chooser.choose(self.ready & !self.resting);
            self.run_warp(w as usize)?;
            match self.warps[w as usize].status {
                Status::Ready => {}
                _ => {
                    self.ready &= !(1 << w);
                    self.ready |= self.wake();
                }
            }
            if self.common.hopper.take_changed() | std::mem::take(&mut self.common.woke) {
                self.ready |= self.wake();
            }
            if std::mem::take(&mut self.common.waits) {
                self.resting |= 1 << w;
            }
        }
        match self.is_done() {
            true => match hopper::end(&mut self.common) {
                Ok(()) => Ok(true),
                Err(what) => Err(BlockFault {
                    thread: None,
                    pc: None,
                    what,
                }),
            },
            false => Err(reports::deadlock(&self.warps, &self.common)),
        }
    }

    fn is_done(&self) -> bool {
        self.warps.iter().all(|warp| warp.status == Status::Done)
    }

    /// Warps that can run.
    fn wake(&mut self) -> u32 {
        let mut ready = 0;
        for warp in &mut self.warps {
            if warp.status == Status::Blocked && hopper::may_go(&self.common, warp) {
                warp.status = Status::Ready;
            }
            ready |= u32::from(warp.status == Status::Ready) << warp.index;
        }
        ready
    }

    /// Lets a warp run until another may, or until it waits or ends.
    fn run_warp(&mut self, w: usize) -> Result<(), BlockFault> {
        let mut classes = [0u64; CLASSES];
        let entry = self.common.entry;
        let runs_on = self.chooser.runs_on();
        let result = loop {
            let warp = &mut self.warps[w];
            let inst = &entry.code[warp.pc as usize];
            if self.budget == 0 {
                break Err(reports::endless(&self.warps, &self.common));
            }
            self.budget -= 1;
            self.common.clock_now += 1;
            // Asking again after a wait is the same instruction.
            if !self.common.hopper.takes_again(w) {
                classes[inst.class as usize] += 1;
                if self.common.counting {
                    self.common.counters.executed[warp.pc as usize] += 1;
                }
            }
            let active = warp.active & warp.p(inst.guard);
            if !entry.touches.is_empty() && active != 0 {
                let pc = warp.pc;
                match hopper::touch(warp, &mut self.common, pc) {
                    Ok(true) => {}
                    Ok(false) => break Ok(()),
                    Err(stop) => break Err(reports::fault(&self.warps[w], stop)),
                }
            }
            let next = match &inst.op {
                Op::Bra { to, meet } => {
                    warp.branch(active, *to, *meet);
                    Ok(Next::Stay)
                }
                _ if active == 0 => Ok(Next::On),
                Op::Bar(barrier) => {
                    barrier::step(&mut self.warps, w, &mut self.common, barrier, active)
                }
                Op::Exit => exit(&mut self.warps, w, &mut self.common, active),
                Op::Hopper(op) => hopper::step(op, &mut self.warps, w, &mut self.common, active),
                _ => step(warp, &mut self.common, inst, active).map(|()| Next::On),
            };
            match next {
                Ok(Next::On) => self.warps[w].advance(),
                Ok(Next::Stay) => {}
                Err(stop) => break Err(reports::fault(&self.warps[w], stop)),
            }
            let stops = (inst.yields && !runs_on) || self.common.waits;
            if self.warps[w].status != Status::Ready || stops {
                break Ok(());
            }
        };
        for (sum, class) in self.common.counters.instructions.iter_mut().zip(classes) {
            *sum += class;
        }
        result
    }
}

/// Instructions that concern one warp.
#[inline(always)]
fn step(warp: &mut Warp, common: &mut Common<'_>, inst: &Inst, active: u32) -> Result<(), Stop> {
    if alu::step(warp, common, &inst.op, active) {
        return Ok(());
    }
    match &inst.op {
        Op::Ld {
            space,
            ty,
            count,
            d,
            wide,
            strong,
            at,
        } => access::load(
            warp, common, active, *space, *ty, *count, d, *wide, *strong, *at,
        ),
        Op::St {
            space,
            ty,
            count,
            s,
            wide,
            strong,
            at,
        } => access::store(
            warp, common, active, *space, *ty, *count, s, *wide, *strong, *at,
        ),
        Op::Atom(atom) => access::atomic(warp, common, active, atom),
        Op::CpAsync {
            bytes,
            to,
            from,
            source_bytes,
            ignore,
        } => async_copy::copy(
            warp,
            common,
            active,
            u32::from(*bytes),
            *to,
            *from,
            *source_bytes,
            *ignore,
        ),
        Op::CpCommit => {
            async_copy::commit(warp, active);
            Ok(())
        }
        Op::CpWait(left) => {
            async_copy::wait(warp, common, active, *left);
            Ok(())
        }
        Op::Ldmatrix {
            count,
            transposed,
            d,
            at,
        } => tensor::ldmatrix(warp, common, active, *count, *transposed, d, *at),
        Op::Stmatrix {
            count,
            transposed,
            s,
            at,
        } => tensor::stmatrix(warp, common, active, *count, *transposed, s, *at),
        Op::Mma(mma) => tensor::mma(warp, common, active, mma),
        Op::Wmma(op) => wmma::step(warp, common, active, op),
        Op::Shfl {
            mode,
            d,
            p,
            a,
            b,
            c,
            mask,
        } => collective::shuffle(warp, common, active, *mode, *d, *p, *a, *b, *c, *mask),
        Op::Vote { kind, d, p, mask } => {
            collective::vote(warp, common, active, *kind, *d, *p, *mask)
        }
        Op::Match {
            all,
            wide,
            d,
            p,
            a,
            mask,
        } => collective::matching(warp, common, active, *all, *wide, *d, *p, *a, *mask),
        Op::Redux { f, d, a, mask } => collective::redux(warp, common, active, *f, *d, *a, *mask),
        Op::ActiveMask { d } => {
            warp.put(*d, &[active; 32], active);
            Ok(())
        }
        Op::WarpSync { mask } => collective::warp_sync(warp, common, active, *mask),
        Op::Fence { device } => {
            common.fenced |= *device;
            Ok(())
        }
        Op::Trap(why) => Err(Stop::warp(&**why)),
        Op::Nop | Op::Sleep => Ok(()),
        _ => Err(Stop::warp("an instruction that is read but not executed")),
    }
}

/// Lanes end.
fn exit(warps: &mut [Warp], w: usize, common: &mut Common<'_>, active: u32) -> Result<Next, Stop> {
    let warp = &mut warps[w];
    async_copy::check_exit(warp, common, active)?;
    if !warp.exit(active) {
        warp.status = Status::Done;
        barrier::check_exit(warps, w, common)?;
    }
    Ok(Next::Stay)
}
