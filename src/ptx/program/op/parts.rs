//! Instructions with more operands than a few: boxed.

use super::{Addr, AtomOp, Element, P, R, Space, Ty};

/// What a barrier does besides waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reduce {
    And(P),
    Or(P),
    Popc(P),
}

/// A block barrier.
#[derive(Clone, Debug)]
pub struct Barrier {
    pub id: R,
    /// Threads that take part; `None`: all of the block.
    pub threads: Option<R>,
    /// `arrive`: does not wait.
    pub arrive: bool,
    /// `barrier.sync` without `.aligned`: lanes may come apart.
    pub aligned: bool,
    pub reduce: Option<Reduce>,
    /// Row of the reduction's result: a predicate, or of 32 bits for `popc`.
    pub result: u32,
}

/// `mma.sync`.
#[derive(Clone, Debug)]
pub struct Mma {
    /// Rows, 8 or 16; columns are 8.
    pub m: u32,
    pub k: u32,
    pub a_type: Element,
    pub b_type: Element,
    /// Sums of f16 instead of f32 (or s32 for integers).
    pub half_sums: bool,
    /// Sums of integers are clamped.
    pub finite: bool,
    pub d: Vec<R>,
    pub a: Vec<R>,
    pub b: Vec<R>,
    pub c: Vec<R>,
}

/// An atomic operation, on one element or on a vector of them, each for itself.
#[derive(Clone, Debug)]
pub struct Atom {
    pub op: AtomOp,
    pub ty: Ty,
    pub space: Space,
    pub at: Addr,
    /// Per element: the row of the old value ([`super::SINK`] for `red`), the operand, and the new value
    /// of `cas`.
    pub rows: Vec<[R; 3]>,
    /// `.acq_rel`, `.acquire`, `.release`.
    pub ordered: bool,
}
