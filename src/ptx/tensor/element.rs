//! The element types of tensor-core operands.

/// An operand element. Each is handed about as the `u32` that holds its bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// bfloat16, in the low 16 bits.
    Bf16,
    /// IEEE half precision, in the low 16 bits.
    F16,
    /// tf32: a float whose low 13 bits the hardware ignores.
    Tf32,
}

/// Fraction bits of every [`Element::parts`] significand; those of f16 and tf32.
pub const SIGNIFICAND_FRACTION: u32 = 10;

/// The exponent that a zero operand carries into alignment (MMA-Sim, arXiv 2511.10909).
pub const ZERO_EXPONENT: i32 = -126;

impl Element {
    /// The element named in a PTX modifier (`bf16`, `f16`, `tf32`).
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "bf16" => Some(Self::Bf16),
            "f16" => Some(Self::F16),
            "tf32" => Some(Self::Tf32),
            _ => None,
        }
    }

    /// Bytes in shared memory: 2 or 4.
    pub fn bytes(self) -> u32 {
        match self {
            Self::Bf16 | Self::F16 => 2,
            Self::Tf32 => 4,
        }
    }

    /// The value, exact in f32.
    pub fn value(self, bits: u32) -> f32 {
        match self {
            Self::Bf16 => f32::from_bits(bits << 16),
            Self::F16 => half::f16::from_bits(bits as u16).to_f32(),
            Self::Tf32 => f32::from_bits(bits & 0xFFFF_E000),
        }
    }

    /// Signed significand with [`SIGNIFICAND_FRACTION`] fraction bits, and exponent: the value is
    /// `significand · 2^(exponent - 10)`. Subnormals keep the type's smallest exponent, zero has
    /// [`ZERO_EXPONENT`]. Meaningless for infinities and NaN: ask [`Element::value`] first.
    pub fn parts(self, bits: u32) -> (i32, i32) {
        let (negative, field, fraction, bias) = match self {
            Self::Bf16 => (
                bits & 0x8000 != 0,
                bits >> 7 & 0xFF,
                (bits & 0x7F) << 3,
                127,
            ),
            Self::F16 => (bits & 0x8000 != 0, bits >> 10 & 0x1F, bits & 0x3FF, 15),
            Self::Tf32 => (bits >> 31 != 0, bits >> 23 & 0xFF, bits >> 13 & 0x3FF, 127),
        };
        let (magnitude, exponent) = match (field, fraction) {
            (0, 0) => (0, ZERO_EXPONENT),
            (0, _) => (fraction as i32, 1 - bias),
            _ => ((fraction | 0x400) as i32, field as i32 - bias),
        };
        (if negative { -magnitude } else { magnitude }, exponent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_give_the_value_back() {
        for (element, step, words) in [
            (Element::Bf16, 1u32, 1u32 << 16),
            (Element::F16, 1, 1 << 16),
            (Element::Tf32, 0x2000, 1 << 19),
        ] {
            for word in 0..words {
                let bits = word.wrapping_mul(step);
                let value = element.value(bits);
                if value.is_finite() {
                    let (significand, exponent) = element.parts(bits);
                    let again = f64::from(significand) * 2f64.powi(exponent - 10);
                    assert_eq!(again, f64::from(value), "{element:?} {bits:#x}");
                }
            }
        }
    }
}
