//! Types of operands, and how results are rounded.

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

/// Formats of halves, alone or packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Half {
    pub brain: bool,
    pub packed: bool,
}

/// Element types of mma operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    F16,
    Bf16,
    Tf32,
    S8,
    U8,
    S4,
    U4,
    F64,
    Float8(Float8),
}

/// Floats of 8 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Float8 {
    E4m3,
    E5m2,
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
    /// Beyond the range comes the largest finite value.
    pub finite: bool,
}
