//! A warp: 32 lanes in lock step, their registers, and where diverged lanes wait to meet again.

use std::collections::VecDeque;

use crate::ptx::flow::NEVER;
use crate::ptx::program::Entry;
use crate::ptx::program::op::{CONST, P, R};

/// A 32-bit value of each lane.
pub type Row = [u32; 32];
/// A 64-bit value of each lane.
pub type Wide = [u64; 32];

/// All lanes.
pub const ALL: u32 = u32::MAX;

/// Lanes that wait to run from `pc` until they reach `meet`.
#[derive(Clone, Copy, Debug)]
struct Frame {
    pc: u32,
    meet: u32,
    mask: u32,
}

/// What a warp does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Can run.
    Ready,
    /// Waits at the block barrier of this number.
    Barrier(u8),
    /// Waits for something that [`super::hopper`] knows.
    Blocked,
    /// All its lanes have exited.
    Done,
}

/// An asynchronous copy that its thread has not waited for.
#[derive(Clone, Debug)]
pub struct Copy {
    pub mask: u32,
    pub bytes: u32,
    pub pc: u32,
    pub to: Row,
    /// Each lane's group.
    pub group: Row,
}

/// A warp.
pub struct Warp {
    pub index: u32,
    pub pc: u32,
    meet: u32,
    pub active: u32,
    stack: Vec<Frame>,
    /// Lanes that exist.
    pub born: u32,
    /// Lanes that have not exited.
    pub alive: u32,
    pub status: Status,
    pub preds: Vec<u32>,
    pub narrow: Vec<Row>,
    pub wide: Vec<Wide>,
    /// Words of local memory.
    pub local: Vec<Row>,
    pub copies: VecDeque<Copy>,
    /// Groups that each lane has committed.
    pub committed: Row,
    /// The allocation that was accessed last.
    pub allocation: usize,
    /// Atomics and strong loads in a row that found and left everything as the one before did.
    pub vain: u32,
    /// Instruction, address and value of the last strong load.
    pub seen: (u32, u64, u32),
}

impl Warp {
    /// A warp with registers for the entry; [`Warp::reset`] starts it.
    pub fn new(index: u32, entry: &Entry) -> Warp {
        Warp {
            index,
            pc: 0,
            meet: NEVER,
            active: 0,
            stack: Vec::new(),
            born: 0,
            alive: 0,
            status: Status::Done,
            preds: vec![0; entry.rows[0] as usize],
            narrow: vec![[0; 32]; entry.rows[1] as usize],
            wide: vec![[0; 32]; entry.rows[2] as usize],
            local: vec![[0; 32]; entry.local_bytes.div_ceil(4) as usize],
            copies: VecDeque::new(),
            committed: [0; 32],
            allocation: 0,
            vain: 0,
            seen: (0, 0, 0),
        }
    }

    /// At the entry's start, with these lanes.
    pub fn reset(&mut self, lanes: u32) {
        self.pc = 0;
        self.meet = NEVER;
        self.active = lanes;
        self.born = lanes;
        self.alive = lanes;
        self.stack.clear();
        self.status = Status::Ready;
        self.preds.fill(0);
        self.preds[0] = ALL;
        self.narrow.fill([0; 32]);
        self.wide.fill([0; 32]);
        // Nobody wrote it: as shared memory, all bits.
        self.local.fill([u32::MAX; 32]);
        self.copies.clear();
        self.committed = [0; 32];
        self.vain = 0;
        self.seen = (0, 0, 0);
    }

    /// A row that is read.
    #[inline(always)]
    pub fn r<'a>(&'a self, entry: &'a Entry, row: R) -> &'a Row {
        match row & CONST {
            0 => &self.narrow[row as usize],
            _ => &entry.narrow[(row & !CONST) as usize],
        }
    }

    /// A wide row that is read.
    #[inline(always)]
    pub fn w<'a>(&'a self, entry: &'a Entry, row: R) -> &'a Wide {
        match row & CONST {
            0 => &self.wide[row as usize],
            _ => &entry.wide[(row & !CONST) as usize],
        }
    }

    /// The lanes where a predicate is true.
    #[inline(always)]
    pub fn p(&self, p: P) -> u32 {
        let bits = self.preds[p.row as usize];
        if p.negated { !bits } else { bits }
    }

    /// Writes a row in the lanes of the mask.
    #[inline(always)]
    pub fn put(&mut self, row: R, value: &Row, mask: u32) {
        if let Some(place) = self.narrow.get_mut(row as usize) {
            select(place, value, mask);
        }
    }

    /// Writes a wide row in the lanes of the mask.
    #[inline(always)]
    pub fn put_wide(&mut self, row: R, value: &Wide, mask: u32) {
        if let Some(place) = self.wide.get_mut(row as usize) {
            if mask == ALL {
                *place = *value;
            } else {
                for (lane, (place, value)) in place.iter_mut().zip(value).enumerate() {
                    let keep = u64::from(mask >> lane & 1).wrapping_neg();
                    *place = *place & !keep | *value & keep;
                }
            }
        }
    }

    /// Writes a predicate in the lanes of the mask.
    #[inline(always)]
    pub fn put_pred(&mut self, row: u32, bits: u32, mask: u32) {
        if let Some(place) = self.preds.get_mut(row as usize) {
            *place = *place & !mask | bits & mask;
        }
    }

    /// Goes to the next instruction.
    #[inline(always)]
    pub fn advance(&mut self) {
        self.pc += 1;
        if self.pc == self.meet {
            self.pop();
        }
    }

    /// Lanes `taken` of the active ones go to `to`, the others on; all meet at `meet`.
    pub fn branch(&mut self, taken: u32, to: u32, meet: u32) {
        let stay = self.active & !taken;
        if taken == 0 {
            return self.advance();
        }
        if stay == 0 {
            self.pc = to;
        } else {
            if meet != NEVER && meet != self.meet {
                self.stack.push(Frame {
                    pc: meet,
                    meet: self.meet,
                    mask: self.active,
                });
            }
            if self.pc + 1 != meet {
                self.stack.push(Frame {
                    pc: self.pc + 1,
                    meet,
                    mask: stay,
                });
            }
            self.pc = to;
            self.meet = meet;
            self.active = taken;
        }
        if self.pc == self.meet {
            self.pop();
        }
    }

    /// These lanes have exited. False when none is left.
    pub fn exit(&mut self, lanes: u32) -> bool {
        self.alive &= !lanes;
        self.active &= !lanes;
        if self.active == 0 {
            self.pop();
        } else {
            self.advance();
        }
        self.alive != 0
    }

    /// The next lanes that wait.
    fn pop(&mut self) {
        while let Some(frame) = self.stack.pop() {
            let mask = frame.mask & self.alive;
            if mask != 0 && frame.pc != frame.meet {
                self.pc = frame.pc;
                self.meet = frame.meet;
                self.active = mask;
                return;
            }
        }
        self.active = 0;
    }
}

/// Writes in the lanes of the mask.
#[inline(always)]
pub fn select(place: &mut Row, value: &Row, mask: u32) {
    if mask == ALL {
        *place = *value;
    } else {
        for (lane, (place, value)) in place.iter_mut().zip(value).enumerate() {
            let keep = (mask >> lane & 1).wrapping_neg();
            *place = *place & !keep | *value & keep;
        }
    }
}
