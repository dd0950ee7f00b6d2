//! Tensor maps: what `cuTensorMapEncodeTiled` and `cuTensorMapEncodeIm2col` make, with their limits.
//!
//! NVIDIA does not document the 128 bytes; these are the machine's own. Arguments stand in the
//! driver's order and under the driver's limits (CUDA driver API, "Tensor Map Object Management"),
//! so that what is refused here is refused there.

mod bytes;
mod encode;

use super::descriptor::Swizzle;
pub use bytes::{Field, replace};
pub use encode::{Interleave, MapError, encode_im2col, encode_tiled};

/// Bytes of a tensor map; as a kernel parameter it is aligned to 64.
pub const BYTES: usize = 128;

/// Element types of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum DataType {
    U8,
    U16,
    U32,
    I32,
    U64,
    I64,
    F16,
    F32,
    F64,
    Bf16,
    F32Ftz,
    Tf32,
    Tf32Ftz,
}

impl DataType {
    const ALL: [(Self, &'static str, u32); 13] = [
        (Self::U8, "u8", 1),
        (Self::U16, "u16", 2),
        (Self::U32, "u32", 4),
        (Self::I32, "i32", 4),
        (Self::U64, "u64", 8),
        (Self::I64, "i64", 8),
        (Self::F16, "f16", 2),
        (Self::F32, "f32", 4),
        (Self::F64, "f64", 8),
        (Self::Bf16, "bf16", 2),
        (Self::F32Ftz, "f32_ftz", 4),
        (Self::Tf32, "tf32", 4),
        (Self::Tf32Ftz, "tf32_ftz", 4),
    ];

    /// The type of this name (`bf16`, `f32`, `u8`, …). Narrow signed integers move as unsigned ones.
    pub fn named(name: &str) -> Option<Self> {
        let name = match name {
            "i8" => "u8",
            "i16" => "u16",
            name => name,
        };
        Self::ALL
            .iter()
            .find(|(_, known, _)| *known == name)
            .map(|(kind, ..)| *kind)
    }

    /// Bytes of an element.
    pub fn bytes(self) -> u32 {
        Self::ALL[self as usize].2
    }

    /// What a fill with NaN writes for an element (`cuTensorMap`'s NaN request).
    fn is_float(self) -> bool {
        matches!(
            self,
            Self::F16
                | Self::F32
                | Self::F64
                | Self::Bf16
                | Self::F32Ftz
                | Self::Tf32
                | Self::Tf32Ftz
        )
    }
}

/// How the elements of a box are named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A box of `box_dims` elements, every `element_strides`-th of them copied.
    Tiled {
        /// Elements per dimension, innermost first.
        box_dims: [u32; 5],
    },
    /// A column of pixels, from a base pixel on along W, H, D, N within the bounding box.
    Im2col {
        /// The first base pixel, per spatial dimension (W first).
        lower: [i32; 3],
        /// The last base pixel less the tensor's last pixel.
        upper: [i32; 3],
        /// Channels copied of each pixel.
        channels: u32,
        /// Pixels in a column.
        pixels: u32,
    },
}

/// A decoded tensor map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorMap {
    /// Element type.
    pub data_type: DataType,
    /// Dimensions, 1 to 5.
    pub rank: usize,
    /// Address of element 0.
    pub address: u64,
    /// Elements per dimension, innermost first.
    pub dims: [u64; 5],
    /// Bytes between neighbours in dimensions 1 … rank-1.
    pub strides_bytes: [u64; 4],
    /// Steps between copied elements, per dimension.
    pub element_strides: [u32; 5],
    /// Exchange of 16-byte chunks in shared memory.
    pub swizzle: Swizzle,
    /// Out of bounds reads as NaN, not as zero.
    pub fill_nan: bool,
    /// Tiled or im2col.
    pub mode: Mode,
}
