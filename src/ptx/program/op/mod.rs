//! Decoded instructions: operands are row indices, modifiers are resolved.

mod functions;
mod parts;
mod types;
mod wmma;

use super::hopper::HopperOp;
use super::resolve::Special;
use crate::ptx::counters::Class;
pub use functions::*;
pub use parts::{Atom, Barrier, Mma, Reduce};
pub use types::*;
pub use wmma::{Fragment, Number, Wmma};

/// A register row, or with [`CONST`] set a row of constants.
pub type R = u32;
/// Marks a row of constants.
pub const CONST: R = 1 << 31;
/// The sink `_`: what is written there is dropped.
pub const SINK: R = u32::MAX >> 1;

/// A predicate row that is read, perhaps negated. Row 0 is always true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct P {
    pub row: u32,
    pub negated: bool,
}

/// State spaces of memory instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    Generic,
    Global,
    Shared,
    Local,
    Param,
}

/// An address: a row of 32 or 64 bits (or nothing) and an offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addr {
    pub base: Base,
    pub offset: i64,
}

/// What an offset is added to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Base {
    None,
    R32(R),
    R64(R),
}

/// What an instruction does.
#[derive(Clone, Debug)]
pub enum Op {
    Nop,
    /// `nanosleep`: another warp may run.
    Sleep,
    Mov32 {
        d: R,
        s: R,
    },
    Mov64 {
        d: R,
        s: R,
    },
    MovPred {
        d: u32,
        s: P,
    },
    Read {
        d: R,
        what: Special,
        wide: bool,
    },
    /// Halves or quarters of a wider value.
    Pack64 {
        d: R,
        parts: [R; 2],
    },
    Unpack64 {
        d: [R; 2],
        s: R,
    },
    Pack32 {
        d: R,
        parts: [R; 2],
    },
    Unpack32 {
        d: [R; 2],
        s: R,
    },
    Pack64x4 {
        d: R,
        parts: [R; 4],
    },
    Unpack64x4 {
        d: [R; 4],
        s: R,
    },
    I32 {
        f: I32,
        d: R,
        a: R,
        b: R,
    },
    I64 {
        f: I64,
        d: R,
        a: R,
        b: R,
    },
    Shl64 {
        d: R,
        a: R,
        b: R,
    },
    Shr64 {
        signed: bool,
        d: R,
        a: R,
        b: R,
    },
    U32 {
        f: U32,
        d: R,
        a: R,
    },
    U64 {
        f: U64,
        d: R,
        a: R,
    },
    N64 {
        f: N64,
        d: R,
        a: R,
    },
    T32 {
        f: T32,
        d: R,
        a: R,
        b: R,
        c: R,
    },
    MulWide {
        signed: bool,
        d: R,
        a: R,
        b: R,
    },
    MadWide {
        signed: bool,
        d: R,
        a: R,
        b: R,
        c: R,
    },
    /// A product's lower or upper half, plus c.
    Mad64 {
        f: I64,
        d: R,
        a: R,
        b: R,
        c: R,
    },
    Bfi32 {
        d: R,
        a: R,
        b: R,
        c: R,
        e: R,
    },
    Bfi64 {
        d: R,
        a: R,
        b: R,
        c: R,
        e: R,
    },
    Bfe64 {
        signed: bool,
        d: R,
        a: R,
        b: R,
        c: R,
    },
    /// `add.cc`, `addc`, `mad.lo.cc` and kin, of 32 or 64 bits.
    Carry {
        f: Carry,
        wide: bool,
        /// Row of the carry, a predicate; whether it is added, and whether it is written.
        carry: u32,
        takes: bool,
        gives: bool,
        d: R,
        a: R,
        b: R,
        c: R,
    },
    Selp32 {
        d: R,
        a: R,
        b: R,
        p: P,
    },
    Selp64 {
        d: R,
        a: R,
        b: R,
        p: P,
    },
    /// `slct`: a where c >= 0.
    Slct {
        d: R,
        a: R,
        b: R,
        c: R,
        float: bool,
    },
    Setp {
        ty: Ty,
        cmp: Cmp,
        ftz: bool,
        d: u32,
        q: u32,
        a: R,
        b: R,
        with: Option<(Bool, P)>,
    },
    /// Of pairs of halves: a predicate each.
    SetpPair {
        brain: bool,
        cmp: Cmp,
        ftz: bool,
        d: u32,
        q: u32,
        a: R,
        b: R,
        with: Option<(Bool, P)>,
    },
    /// `set` of halves, alone or packed; `float`: 1.0, else all bits.
    SetHalves {
        h: Half,
        cmp: Cmp,
        ftz: bool,
        float: bool,
        /// The result has 32 bits, of one comparison.
        narrow: bool,
        d: R,
        a: R,
        b: R,
    },
    /// `testp`.
    Testp {
        kind: Kind,
        wide: bool,
        d: u32,
        a: R,
    },
    /// `isspacep`.
    IsSpace {
        space: Space,
        d: u32,
        a: R,
    },
    /// `set.…`: all bits, or 1.0, where true.
    Set {
        ty: Ty,
        cmp: Cmp,
        ftz: bool,
        float: bool,
        d: R,
        a: R,
        b: R,
    },
    Pred2 {
        f: Bool,
        d: u32,
        a: P,
        b: P,
    },
    F32 {
        f: F2,
        m: Mods,
        d: R,
        a: R,
        b: R,
    },
    F64 {
        f: F2,
        m: Mods,
        d: R,
        a: R,
        b: R,
    },
    Fma32 {
        m: Mods,
        d: R,
        a: R,
        b: R,
        c: R,
    },
    Fma64 {
        round: Round,
        d: R,
        a: R,
        b: R,
        c: R,
    },
    One32 {
        f: F1,
        m: Mods,
        d: R,
        a: R,
    },
    One64 {
        f: F1,
        round: Round,
        /// `.approx.ftz`: of the upper 32 bits only.
        coarse: bool,
        d: R,
        a: R,
    },
    Half2 {
        f: F2,
        h: Half,
        m: Mods,
        d: R,
        a: R,
        b: R,
    },
    HalfFma {
        h: Half,
        m: Mods,
        d: R,
        a: R,
        b: R,
        c: R,
    },
    Half1 {
        f: F1,
        h: Half,
        m: Mods,
        d: R,
        a: R,
    },
    /// Conversions between rows: `wide` operands come from the types.
    Cvt {
        c: Cvt,
        d: R,
        a: R,
    },
    /// Two f32 to a packed half; `a` becomes the upper one.
    CvtPack {
        brain: bool,
        c: Cvt,
        d: R,
        a: R,
        b: R,
    },
    /// Two f32 to a pair of 8-bit floats; `a` becomes the upper one.
    Cvt8 {
        kind: Float8,
        relu: bool,
        d: R,
        a: R,
        b: R,
    },
    /// A pair of halves to a pair of 8-bit floats.
    Cvt8Halves {
        kind: Float8,
        relu: bool,
        d: R,
        a: R,
    },
    /// A pair of 8-bit floats to a pair of halves.
    CvtFrom8 {
        kind: Float8,
        relu: bool,
        d: R,
        a: R,
    },
    /// `cvt.pack.sat`: two s32, cut to a narrower type, above the lower bits of `c`.
    CvtPackInt {
        to: Ty,
        d: R,
        a: R,
        b: R,
        c: R,
    },
    /// `vadd4` and kin. Signs are of d, a and b.
    Parts {
        f: Part,
        parts: u32,
        signed: [bool; 3],
        sat: bool,
        /// The parts' sum is added to c.
        add: bool,
        d: R,
        a: R,
        b: R,
        c: R,
    },
    /// `strong`: volatile, relaxed, acquire: may meet other threads' accesses.
    Ld {
        space: Space,
        ty: Ty,
        count: u8,
        d: [R; 8],
        wide: bool,
        strong: bool,
        at: Addr,
    },
    St {
        space: Space,
        ty: Ty,
        count: u8,
        s: [R; 8],
        wide: bool,
        strong: bool,
        at: Addr,
    },
    Atom(Box<Atom>),
    CpAsync {
        bytes: u8,
        to: Addr,
        from: Addr,
        source_bytes: Option<R>,
        ignore: Option<P>,
    },
    CpCommit,
    /// At most so many groups stay in flight; `None`: nothing at all does.
    CpWait(Option<u32>),
    Ldmatrix {
        count: u8,
        transposed: bool,
        d: [R; 4],
        at: Addr,
    },
    Stmatrix {
        count: u8,
        transposed: bool,
        s: [R; 4],
        at: Addr,
    },
    Mma(Box<Mma>),
    Wmma(Box<Wmma>),
    Shfl {
        mode: Shuffle,
        d: R,
        p: u32,
        a: R,
        b: R,
        c: R,
        mask: R,
    },
    Vote {
        kind: Vote,
        d: u32,
        p: P,
        mask: R,
    },
    /// `match.any`, `match.all`.
    Match {
        all: bool,
        wide: bool,
        d: R,
        p: u32,
        a: R,
        mask: R,
    },
    Redux {
        f: I32,
        d: R,
        a: R,
        mask: R,
    },
    ActiveMask {
        d: R,
    },
    Bar(Box<Barrier>),
    WarpSync {
        mask: R,
    },
    /// Scope: `true` for device or system.
    Fence {
        device: bool,
    },
    Bra {
        to: u32,
        meet: u32,
    },
    Exit,
    /// Why.
    Trap(Box<str>),
    /// What only sm_90 has.
    Hopper(Box<HopperOp>),
}

/// An instruction with what does not depend on the operation.
#[derive(Clone, Debug)]
pub struct Inst {
    pub op: Op,
    pub guard: P,
    pub class: Class,
    /// Another warp may run before it.
    pub yields: bool,
    /// Line of the PTX text.
    pub line: u32,
    pub location: u32,
}
