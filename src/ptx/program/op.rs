//! Decoded instructions: operands are row indices, modifiers are resolved.

use super::hopper::HopperOp;
use super::resolve::Special;
use crate::ptx::counters::Class;

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

/// Types of operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ty {
    U8,
    U16,
    U32,
    U64,
    S8,
    S16,
    S32,
    S64,
    B8,
    B16,
    B32,
    B64,
    F16,
    F16x2,
    Bf16,
    Bf16x2,
    Tf32,
    F32,
    F64,
    Pred,
}

impl Ty {
    pub fn from_name(name: &str) -> Option<Ty> {
        Some(match name {
            "u8" => Ty::U8,
            "u16" => Ty::U16,
            "u32" => Ty::U32,
            "u64" => Ty::U64,
            "s8" => Ty::S8,
            "s16" => Ty::S16,
            "s32" => Ty::S32,
            "s64" => Ty::S64,
            "b8" => Ty::B8,
            "b16" => Ty::B16,
            "b32" => Ty::B32,
            "b64" => Ty::B64,
            "f16" => Ty::F16,
            "f16x2" => Ty::F16x2,
            "bf16" => Ty::Bf16,
            "bf16x2" => Ty::Bf16x2,
            "tf32" => Ty::Tf32,
            "f32" => Ty::F32,
            "f64" => Ty::F64,
            "pred" => Ty::Pred,
            _ => return None,
        })
    }

    pub fn bytes(self) -> u32 {
        match self {
            Ty::U8 | Ty::S8 | Ty::B8 | Ty::Pred => 1,
            Ty::U16 | Ty::S16 | Ty::B16 | Ty::F16 | Ty::Bf16 => 2,
            Ty::U64 | Ty::S64 | Ty::B64 | Ty::F64 => 8,
            _ => 4,
        }
    }

    pub fn signed(self) -> bool {
        matches!(self, Ty::S8 | Ty::S16 | Ty::S32 | Ty::S64)
    }

    pub fn float(self) -> bool {
        matches!(
            self,
            Ty::F16 | Ty::F16x2 | Ty::Bf16 | Ty::Bf16x2 | Ty::Tf32 | Ty::F32 | Ty::F64
        )
    }
}

/// Rounding of a float result or to an integer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// To nearest, ties to even.
    Near,
    /// To nearest, ties away from zero.
    Away,
    Zero,
    Down,
    Up,
}

/// Modifiers of float arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mods {
    pub round: Round,
    pub ftz: bool,
    pub sat: bool,
    /// `.NaN` of min and max, `.relu`.
    pub nan: bool,
    pub relu: bool,
}

impl Mods {
    pub const PLAIN: Mods = Mods {
        round: Round::Near,
        ftz: false,
        sat: false,
        nan: false,
        relu: false,
    };
}

/// Two 32-bit (or 16-bit) integers to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum I32 {
    Add,
    Sub,
    Mul,
    MulHiU,
    MulHiS,
    /// 16 × 16 → 32.
    MulWideU16,
    MulWideS16,
    And,
    Or,
    Xor,
    Shl,
    ShrU,
    ShrS,
    MinU,
    MaxU,
    MinS,
    MaxS,
    DivU,
    DivS,
    RemU,
    RemS,
    Mul24U,
    Mul24S,
    Add16,
    Sub16,
    Mul16,
    Shl16,
    ShrU16,
    ShrS16,
    MinS16,
    MaxS16,
    DivS16,
    RemS16,
    AddSatS,
    SubSatS,
}

/// Two 64-bit integers to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum I64 {
    Add,
    Sub,
    Mul,
    MulHiU,
    MulHiS,
    And,
    Or,
    Xor,
    MinU,
    MaxU,
    MinS,
    MaxS,
    DivU,
    DivS,
    RemU,
    RemS,
}

/// One 32-bit value to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum U32 {
    Not,
    Not16,
    Neg,
    Neg16,
    Abs,
    Abs16,
    Popc,
    Clz,
    Brev,
    BfindU,
    BfindS,
    BfindShiftU,
    BfindShiftS,
    Cnot,
}

/// One 64-bit value to one of 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum U64 {
    Not,
    Neg,
    Abs,
    Brev,
}

/// One 64-bit value to one of 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum N64 {
    Popc,
    Clz,
    BfindU,
    BfindS,
    BfindShiftU,
    BfindShiftS,
}

/// Three 32-bit values to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum T32 {
    Mad,
    MadHiU,
    MadHiS,
    Mad16,
    /// 16 × 16 + 32 → 32.
    MadWideU16,
    MadWideS16,
    /// Truth table.
    Lop3(u8),
    Prmt,
    PrmtF4e,
    PrmtB4e,
    PrmtRc8,
    PrmtEcl,
    PrmtEcr,
    PrmtRc16,
    ShfLWrap,
    ShfLClamp,
    ShfRWrap,
    ShfRClamp,
    BfeU,
    BfeS,
    SadU,
    SadS,
    Dp4aUU,
    Dp4aSS,
    Dp4aUS,
    Dp4aSU,
    BmskClamp,
    BmskWrap,
    SzextUClamp,
    SzextUWrap,
    SzextSClamp,
    SzextSWrap,
}

/// Two floats to one, in any format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum F2 {
    Add,
    Sub,
    Mul,
    Div,
    Min,
    Max,
    Copysign,
}

/// One float to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum F1 {
    Neg,
    Abs,
    Rcp,
    Sqrt,
    Rsqrt,
    Sin,
    Cos,
    Lg2,
    Ex2,
    Tanh,
}

/// Formats of halves, alone or packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Half {
    pub brain: bool,
    pub packed: bool,
}

/// Comparisons. Those of floats with `u` are true for NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cmp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    Equ,
    Neu,
    Ltu,
    Leu,
    Gtu,
    Geu,
    Num,
    Nan,
}

/// Functions of two predicates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bool {
    And,
    Or,
    Xor,
}

/// State spaces of memory instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    Generic,
    Global,
    Shared,
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

/// Atomic operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtomOp {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Inc,
    Dec,
    Exch,
    Cas,
}

/// How a shuffle finds its source lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shuffle {
    Up,
    Down,
    Bfly,
    Idx,
}

/// Votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vote {
    All,
    Any,
    Uni,
    Ballot,
}

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

/// Element types of mma operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    F16,
    Bf16,
    Tf32,
    S8,
    U8,
}

/// `mma.sync.m16n8k…`.
#[derive(Clone, Debug)]
pub struct Mma {
    pub k: u32,
    pub a_type: Element,
    pub b_type: Element,
    /// Sums of f16 instead of f32 (or s32 for integers).
    pub half_sums: bool,
    pub d: Vec<R>,
    pub a: Vec<R>,
    pub b: Vec<R>,
    pub c: Vec<R>,
}

/// A conversion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cvt {
    pub to: Ty,
    pub from: Ty,
    /// Rounding, to integers for `integer`.
    pub round: Round,
    pub integer: bool,
    pub ftz: bool,
    pub sat: bool,
    pub relu: bool,
}

/// What an instruction does.
#[derive(Clone, Debug)]
pub enum Op {
    Nop,
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
    Mad64 {
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
    /// `add.cc`, `addc` and kin are not known.
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
    Trap,
    /// What only sm_90 has.
    Hopper(Box<HopperOp>),
}

/// An atomic operation.
#[derive(Clone, Debug)]
pub struct Atom {
    pub op: AtomOp,
    pub ty: Ty,
    pub space: Space,
    /// Row of the old value; [`SINK`] for `red`.
    pub d: R,
    pub at: Addr,
    pub b: R,
    /// The new value of `cas`.
    pub c: R,
    /// `.acq_rel`, `.acquire`, `.release`.
    pub ordered: bool,
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
