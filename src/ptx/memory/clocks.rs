//! Who has seen what: vector clocks of a block's warps.
//!
//! An access happens before another when a chain of barriers leads from one to the other
//! (FastTrack: Flanagan & Freund 2009). Lanes of one warp are threads of their own: what orders them
//! is a barrier or `bar.warp.sync`, not the lock step that this machine happens to run in.

/// Warps, and behind them agents of asynchronous copies (mbarrier phases).
pub const AGENTS: usize = 64;
/// The first agent that is no warp.
pub const FIRST_COPIER: usize = 32;

/// What an agent knows of every other's time.
pub type Vector = [u32; AGENTS];

/// Per lane: accesses of every other lane before this time are ordered.
type LaneTimes = [[u32; 32]; 32];

/// Clocks of a block.
pub struct Clocks {
    /// Per warp: the last time of each agent that happened before now.
    pub seen: Vec<Vector>,
    /// The same for writes that a proxy fence has handed to the asynchronous proxy.
    pub fenced: Vec<Vector>,
    /// Each agent's own time; 0 is before everything.
    pub now: Vector,
    /// Per warp: accesses of its other lanes before this time are ordered.
    pub lanes: [u32; 32],
    /// Per warp that has synchronised some of its lanes: what each lane knows of each other one.
    partial: Vec<Option<Box<LaneTimes>>>,
    /// Barriers of the whole block: before the last one, all accesses of warps are ordered.
    pub epoch: u32,
}

impl Clocks {
    /// Clocks of so many warps at their start.
    pub fn new(warps: usize) -> Clocks {
        Clocks {
            seen: vec![[0; AGENTS]; warps],
            fenced: vec![[0; AGENTS]; warps],
            now: [1; AGENTS],
            lanes: [0; 32],
            partial: vec![None; warps],
            epoch: 0,
        }
    }

    /// What `warp` passes on when it arrives somewhere, into `board`; its time goes on.
    pub fn release(&mut self, warp: usize, board: &mut Vector, fenced: &mut Vector) {
        join(board, &self.seen[warp]);
        board[warp] = self.now[warp];
        join(fenced, &self.fenced[warp]);
        self.now[warp] += 1;
    }

    /// What `warp` learns when it passes; `whole`: all its lanes do.
    pub fn acquire(&mut self, warp: usize, board: &Vector, fenced: &Vector, whole: bool) {
        join(&mut self.seen[warp], board);
        join(&mut self.fenced[warp], fenced);
        if whole {
            self.lanes[warp] = self.now[warp];
        }
    }

    /// The lanes of a warp meet.
    pub fn meet(&mut self, warp: usize) {
        self.now[warp] += 1;
        self.lanes[warp] = self.now[warp];
    }

    /// Some lanes of a warp meet: each knows afterwards what any of them knew.
    pub fn meet_some(&mut self, warp: usize, mask: u32) {
        self.now[warp] += 1;
        let now = self.now[warp];
        let known = self.partial[warp].get_or_insert_with(|| Box::new([[0; 32]; 32]));
        let here = |lane: &usize| mask >> lane & 1 != 0;
        let mut all = [0; 32];
        for lane in (0..32).filter(here) {
            for (all, own) in all.iter_mut().zip(&known[lane]) {
                *all = (*all).max(*own);
            }
            all[lane] = now;
        }
        for lane in (0..32).filter(here) {
            known[lane] = all;
        }
    }

    /// Whether a lane knows of another's access at this time. Of several lanes' (any number from 32
    /// on) it is taken to know where it knows of any: nothing ordered is reported.
    #[cold]
    pub fn lane_knows(&self, warp: usize, lane: u32, other: usize, time: u32) -> bool {
        let Some(known) = self.partial.get(warp).and_then(Option::as_ref) else {
            return false;
        };
        let own = &known[lane as usize & 31];
        match own.get(other) {
            Some(known) => *known > time,
            None => own.iter().any(|known| *known > time),
        }
    }

    /// `fence.proxy.async` by a warp: what it knows of generic writes, the asynchronous proxy may
    /// now see.
    pub fn fence_proxy(&mut self, warp: usize) {
        let mut known = self.seen[warp];
        known[warp] = self.now[warp];
        join(&mut self.fenced[warp], &known);
        self.now[warp] += 1;
    }
}

/// The later of both, agent by agent.
pub fn join(into: &mut Vector, from: &Vector) {
    for (a, b) in into.iter_mut().zip(from) {
        *a = (*a).max(*b);
    }
}
