//! What is computed of values, apart from where they are.

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
    /// Pairs of 16 bits.
    AddPair,
    MinUPair,
    MinSPair,
    MaxUPair,
    MaxSPair,
    MulHiU16,
    MulHiS16,
    Mul24HiU,
    Mul24HiS,
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
    Cnot,
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
    /// Signs of a and b; whether b's upper bytes.
    Dp2a(bool, bool, bool),
    Mad24U,
    Mad24S,
    MadSatHi,
    SadU16,
    SadS16,
    /// `fns`: the n-th set bit from a place on.
    Fns,
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

/// What carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carry {
    Add,
    Sub,
    MadLo,
    MadHiU,
    MadHiS,
}

/// Kinds of floats that `testp` tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Finite,
    Infinite,
    Number,
    NotANumber,
    Normal,
    Subnormal,
}

/// What video instructions do with each part of 8 or 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Add,
    Sub,
    Average,
    Difference,
    Min,
    Max,
}
