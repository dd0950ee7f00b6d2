//! Shared-memory matrices of `wgmma`: descriptors, swizzles, and where an element lies.
//!
//! A descriptor's 64 bits (PTX ISA, "Matrix descriptor format"; addresses and offsets without their
//! low 4 bits):
//!
//! | bits | |
//! |---|---|
//! | 0–13 | start address |
//! | 16–29 | leading-dimension byte offset |
//! | 32–45 | stride-dimension byte offset |
//! | 49–51 | base offset: the phase of the swizzle pattern where it does not start at a multiple of its length |
//! | 62–63 | swizzle: 0 none, 1 128 bytes, 2 64 bytes, 3 32 bytes |
//!
//! An operand is an array of *chunks* of 16 bytes. Eight of them, a core matrix, go in a row in the
//! direction that does not lie inside a chunk; where the rest goes depends on the swizzle's width W
//! in chunks (1, 2, 4, 8). With c = chunk, r = line across the chunks:
//!
//! * K-major (a chunk runs along k): offset = (r%8)·W + (r/8)·stride + c for W > 1, and
//!   r%8 + (r/8)·stride + c·leading without a swizzle.
//! * MN-major (a chunk runs along m or n): offset = c%W + (c/W)·leading + (r%8)·W + (r/8)·stride
//!   for W > 1, and r%8 + (r/8)·leading + c·stride without a swizzle.
//!
//! Then the swizzle exchanges chunks: bits 4… of the address are XORed with bits 7….

use super::element::Element;

/// How 16-byte chunks are exchanged within a repeating pattern of 8·W chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Swizzle {
    /// Left in place.
    None,
    /// Pairs of chunks; the pattern is 256 bytes long.
    B32,
    /// Four chunks; 512 bytes.
    B64,
    /// Eight chunks; 1024 bytes.
    B128,
}

impl Swizzle {
    /// The swizzle of so many bytes (0, 32, 64, 128).
    pub fn of_bytes(bytes: u32) -> Option<Self> {
        match bytes {
            0 => Some(Self::None),
            32 => Some(Self::B32),
            64 => Some(Self::B64),
            128 => Some(Self::B128),
            _ => None,
        }
    }

    /// Bytes within which chunks are exchanged; 16 for none.
    pub fn span(self) -> u32 {
        match self {
            Self::None => 16,
            Self::B32 => 32,
            Self::B64 => 64,
            Self::B128 => 128,
        }
    }

    /// The address where what belongs at `address` lies, for a pattern that starts at a multiple
    /// of its length.
    pub fn apply(self, address: u32) -> u32 {
        self.apply_from(address, 0)
    }

    /// The same for a pattern that starts `base_offset` lines of 128 bytes later.
    pub fn apply_from(self, address: u32, base_offset: u32) -> u32 {
        let mask = self.span() / 16 - 1;
        let line = (address >> 7).wrapping_sub(base_offset);
        address ^ (line & mask) << 4
    }
}

/// A decoded descriptor; addresses and offsets in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Start address in shared memory.
    pub start: u32,
    /// Leading-dimension byte offset.
    pub leading: u32,
    /// Stride-dimension byte offset.
    pub stride: u32,
    /// Phase of the swizzle pattern, in lines of 128 bytes.
    pub base_offset: u32,
    /// The swizzle.
    pub swizzle: Swizzle,
}

/// Which direction lies inside a 16-byte chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Major {
    /// k: the plain form, and the only one of tf32.
    K,
    /// m or n: the transposed form.
    Mn,
}

impl Descriptor {
    /// Decodes the 64 bits. Bits that should be zero are said in the error.
    pub fn decode(bits: u64) -> Result<Self, String> {
        let reserved = bits & !(0x3FFF | 0x3FFF << 16 | 0x3FFF << 32 | 7 << 49 | 3 << 62);
        if reserved != 0 {
            return Err(format!(
                "matrix descriptor {bits:#018x} has bits set that must be zero ({reserved:#x})"
            ));
        }
        let field = |at: u32| (bits >> at & 0x3FFF) as u32 * 16;
        let swizzle =
            [Swizzle::None, Swizzle::B128, Swizzle::B64, Swizzle::B32][(bits >> 62) as usize];
        Ok(Self {
            start: field(0),
            leading: field(16),
            stride: field(32),
            base_offset: (bits >> 49 & 7) as u32,
            swizzle,
        })
    }

    /// The 64 bits; the inverse of [`Descriptor::decode`] for fields in range.
    pub fn encode(self) -> u64 {
        let swizzle = match self.swizzle {
            Swizzle::None => 0,
            Swizzle::B128 => 1,
            Swizzle::B64 => 2,
            Swizzle::B32 => 3,
        };
        u64::from(self.start >> 4 & 0x3FFF)
            | u64::from(self.leading >> 4 & 0x3FFF) << 16
            | u64::from(self.stride >> 4 & 0x3FFF) << 32
            | u64::from(self.base_offset & 7) << 49
            | swizzle << 62
    }

    /// The shared address of the 16-byte chunk that holds elements `chunk·(16/size)` … of line
    /// `line`. K-major: line = row of A or column of B, chunk along k. MN-major: line = k, chunk
    /// along m or n.
    pub fn chunk_address(self, major: Major, line: u32, chunk: u32) -> u32 {
        let width = self.swizzle.span() / 16;
        let (inner, outer) = (line % 8, line / 8);
        let offset = match (major, self.swizzle) {
            (Major::K, Swizzle::None) => inner * 16 + outer * self.stride + chunk * self.leading,
            (Major::K, _) => inner * 16 * width + outer * self.stride + chunk * 16,
            (Major::Mn, Swizzle::None) => inner * 16 + outer * self.leading + chunk * self.stride,
            (Major::Mn, _) => {
                chunk % width * 16
                    + chunk / width * self.leading
                    + inner * 16 * width
                    + outer * self.stride
            }
        };
        self.swizzle
            .apply_from(self.start.wrapping_add(offset), self.base_offset)
    }

    /// The shared address of one element: `along_mn` its row of A or column of B, `along_k` its k.
    pub fn address(self, element: Element, major: Major, along_mn: u32, along_k: u32) -> u32 {
        let per_chunk = 16 / element.bytes();
        let (line, within) = match major {
            Major::K => (along_mn, along_k),
            Major::Mn => (along_k, along_mn),
        };
        self.chunk_address(major, line, within / per_chunk) + within % per_chunk * element.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_of_triton_decodes() {
        // What Triton 3.6 ORs with the address of a 64-wide bf16 tile.
        let d = Descriptor::decode(4_611_686_293_305_294_848 | 0x123).unwrap();
        let want = Descriptor {
            start: 0x1230,
            leading: 0,
            stride: 1024,
            base_offset: 0,
            swizzle: Swizzle::B128,
        };
        assert_eq!(d, want);
        assert_eq!(Descriptor::decode(want.encode()), Ok(want));
        assert!(Descriptor::decode(1 << 14).is_err());
        assert!(Descriptor::decode(1 << 55).is_err());
    }

    #[test]
    fn swizzles_are_involutions_within_their_span() {
        for (bytes, length) in [(32, 256), (64, 512), (128, 1024)] {
            let swizzle = Swizzle::of_bytes(bytes).unwrap();
            let mut moved = 0;
            for address in (0..4096).step_by(16) {
                let there = swizzle.apply(address);
                assert_eq!(swizzle.apply(there), address);
                assert_eq!(there / bytes, address / bytes);
                assert_eq!(
                    swizzle.apply(address + length),
                    there + length,
                    "the pattern repeats"
                );
                moved += u32::from(there != address);
            }
            assert!(moved > 100);
        }
        assert_eq!(Swizzle::of_bytes(16), None);
        assert_eq!(Swizzle::B128.apply(0x80), 0x90);
        assert_eq!(Swizzle::B64.apply(0x180), 0x1B0);
        assert_eq!(Swizzle::B32.apply(0x80), 0x90);
        assert_eq!(Swizzle::B32.apply(0x100), 0x100);
    }

    /// A K-major tile of 64 rows and 64 b16 as TMA with a 128-byte swizzle leaves it.
    #[test]
    fn k_major_with_every_swizzle_is_a_dense_row() {
        for (swizzle, row_bytes) in [(Swizzle::B128, 128), (Swizzle::B64, 64), (Swizzle::B32, 32)] {
            for step in 0..row_bytes / 32 {
                let d = Descriptor {
                    start: 0x2000 + 32 * step,
                    leading: 16,
                    stride: 8 * row_bytes,
                    base_offset: 0,
                    swizzle,
                };
                for (row, k) in [(0, 0), (1, 3), (7, 15), (8, 8), (63, 9)] {
                    let dense = 0x2000 + row * row_bytes + 32 * step + 2 * k;
                    let want = swizzle.apply(dense & !15) + dense % 16;
                    assert_eq!(d.address(Element::Bf16, Major::K, row, k), want);
                }
            }
        }
    }

    /// An MN-major tile: 64 k-lines of 64 n, one after the other; two tiles side by side for n > 64.
    #[test]
    fn mn_major_is_a_row_per_k() {
        let d = Descriptor {
            start: 0x4000,
            leading: 8192,
            stride: 1024,
            base_offset: 0,
            swizzle: Swizzle::B128,
        };
        for (n, k) in [(0, 0), (5, 1), (63, 7), (64, 8), (127, 15)] {
            let dense = 0x4000 + n / 64 * 8192 + k * 128 + 2 * (n % 64);
            let want = Swizzle::B128.apply(dense & !15) + dense % 16;
            assert_eq!(d.address(Element::F16, Major::Mn, n, k), want);
        }
    }

    #[test]
    fn without_a_swizzle_core_matrices_lie_anywhere() {
        let d = Descriptor {
            start: 0,
            leading: 128,
            stride: 256,
            base_offset: 0,
            swizzle: Swizzle::None,
        };
        assert_eq!(
            d.address(Element::Bf16, Major::K, 0, 8),
            128,
            "the next core matrix along k"
        );
        assert_eq!(
            d.address(Element::Bf16, Major::K, 8, 0),
            256,
            "the next one along m"
        );
        assert_eq!(d.address(Element::Bf16, Major::K, 3, 2), 52);
        assert_eq!(d.address(Element::Tf32, Major::K, 3, 5), 128 + 48 + 4);
        assert_eq!(d.address(Element::Bf16, Major::Mn, 8, 0), 256);
        assert_eq!(d.address(Element::Bf16, Major::Mn, 0, 8), 128);
    }

    #[test]
    fn a_base_offset_moves_the_phase() {
        assert_eq!(Swizzle::B128.apply_from(0x080, 1), 0x080);
        assert_eq!(Swizzle::B128.apply_from(0x100, 1), 0x110);
    }
}
