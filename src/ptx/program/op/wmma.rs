//! `wmma`: matrices of a warp in registers whose layout is nobody's business but the machine's.

use super::{Addr, Element, R, Space};

/// What a fragment's numbers are, in memory and in registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    Element(Element),
    F32,
    S32,
}

impl Number {
    /// Bits of one in memory.
    pub fn bits(self) -> u32 {
        match self {
            Number::Element(Element::F64) => 64,
            Number::Element(Element::F16 | Element::Bf16) => 16,
            Number::Element(Element::S8 | Element::U8) => 8,
            _ => 32,
        }
    }
}

/// A matrix of a warp. Element `lane · n + i` of the row-major matrix (from the start again behind
/// its end) is the i-th of the n that a lane holds.
#[derive(Clone, Debug)]
pub struct Fragment {
    pub rows: u32,
    pub columns: u32,
    pub number: Number,
    pub registers: Vec<R>,
}

/// A `wmma` instruction.
#[derive(Clone, Debug)]
pub enum Wmma {
    /// `store`: to memory. `by_column`: a column's numbers lie side by side there.
    Move {
        store: bool,
        space: Space,
        by_column: bool,
        fragment: Fragment,
        at: Addr,
        stride: R,
    },
    Multiply {
        clamp: bool,
        d: Fragment,
        a: Fragment,
        b: Fragment,
        c: Fragment,
    },
}
