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
    /// A float of 8 bits, 4 of them exponent: no infinities, one NaN of each sign.
    E4m3,
    /// A float of 8 bits, 5 of them exponent: the upper half of an f16.
    E5m2,
    /// A signed integer of 8 bits.
    S8,
    /// An unsigned integer of 8 bits.
    U8,
}

/// Fraction bits of every [`Element::parts`] significand; those of f16 and tf32.
pub const SIGNIFICAND_FRACTION: u32 = 10;

/// The exponent that a zero operand carries into alignment (MMA-Sim, arXiv 2511.10909).
pub const ZERO_EXPONENT: i32 = -126;

impl Element {
    /// The element named in a PTX modifier, as `bf16`.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "bf16" => Some(Self::Bf16),
            "f16" => Some(Self::F16),
            "tf32" => Some(Self::Tf32),
            "e4m3" => Some(Self::E4m3),
            "e5m2" => Some(Self::E5m2),
            "s8" => Some(Self::S8),
            "u8" => Some(Self::U8),
            _ => None,
        }
    }

    /// Bytes in shared memory: 1, 2 or 4.
    pub fn bytes(self) -> u32 {
        match self {
            Self::Bf16 | Self::F16 => 2,
            Self::Tf32 => 4,
            Self::E4m3 | Self::E5m2 | Self::S8 | Self::U8 => 1,
        }
    }

    /// The bits of a word that an element has.
    pub fn mask(self) -> u32 {
        u32::MAX >> (32 - 8 * self.bytes())
    }

    /// Whether it is an integer.
    pub fn is_integer(self) -> bool {
        matches!(self, Self::S8 | Self::U8)
    }

    /// An integer element's value.
    pub fn integer(self, bits: u32) -> i32 {
        match self {
            Self::S8 => i32::from(bits as u8 as i8),
            _ => i32::from(bits as u8),
        }
    }

    /// The value, exact in f32.
    pub fn value(self, bits: u32) -> f32 {
        match self {
            Self::E5m2 => half::f16::from_bits((bits as u16) << 8).to_f32(),
            Self::E4m3 if bits & 0x7F == 0x7F => f32::NAN,
            Self::E4m3 => {
                let (significand, exponent) = self.parts(bits);
                // Exact: at most four digits. Zero keeps its sign.
                let size = significand.unsigned_abs() as f32 * 2f32.powi(exponent.max(-20) - 10);
                if bits & 0x80 != 0 { -size } else { size }
            }
            Self::S8 | Self::U8 => self.integer(bits) as f32,
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
            Self::E4m3 => (bits & 0x80 != 0, bits >> 3 & 0xF, (bits & 7) << 7, 7),
            Self::E5m2 => (bits & 0x80 != 0, bits >> 2 & 0x1F, (bits & 3) << 8, 15),
            Self::S8 | Self::U8 => return (self.integer(bits) << SIGNIFICAND_FRACTION, 0),
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
            (Element::E4m3, 1, 1 << 8),
            (Element::E5m2, 1, 1 << 8),
            (Element::S8, 1, 1 << 8),
            (Element::U8, 1, 1 << 8),
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

    #[test]
    fn floats_of_eight_bits() {
        // OCP 8-bit floating point specification: the largest, the smallest, and 1.
        for (element, bits, value) in [
            (Element::E4m3, 0x7E, 448.0),
            (Element::E4m3, 0x01, 2f32.powi(-9)),
            (Element::E4m3, 0xB8, -1.0),
            (Element::E5m2, 0x7B, 57344.0),
            (Element::E5m2, 0x01, 2f32.powi(-16)),
            (Element::E5m2, 0x7C, f32::INFINITY),
        ] {
            assert_eq!(element.value(bits), value, "{element:?} {bits:#x}");
        }
        assert!(Element::E4m3.value(0xFF).is_nan() && Element::E5m2.value(0x7D).is_nan());
        assert!(Element::E4m3.value(0x80).is_sign_negative());
    }
}
