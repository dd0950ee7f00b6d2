//! The 128 bytes of a tensor map, and what a kernel replaces in them (`tensormap.replace`).

use super::encode::{Interleave, MapError, encode_tiled};
use super::{BYTES, DataType, Mode, TensorMap};
use crate::ptx::tensor::descriptor::Swizzle;

const MAGIC: u32 = u32::from_le_bytes(*b"TMap");
/// Flags in byte 6.
const FILL_NAN: u8 = 1;
const IM2COL: u8 = 2;
/// A kernel made or changed it: its fields have not been checked.
const REPLACED: u8 = 4;

/// A field that a kernel can replace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Address of element 0.
    GlobalAddress,
    /// Number of dimensions, less one.
    Rank,
    /// Elements of the box in a dimension.
    BoxDim,
    /// Elements of the tensor in a dimension.
    GlobalDim,
    /// Bytes between neighbours in a dimension behind the first.
    GlobalStride,
    /// Step between copied elements in a dimension.
    ElementStride,
    /// Element type.
    ElemType,
    /// Interleaved layout: none is modelled.
    InterleaveLayout,
    /// Exchange of chunks.
    SwizzleMode,
    /// Zeros or NaN out of bounds.
    FillMode,
}

/// Element types in the order of their codes (PTX ISA, tensormap.replace).
const CODES: [DataType; 13] = [
    DataType::U8,
    DataType::U16,
    DataType::U32,
    DataType::I32,
    DataType::U64,
    DataType::I64,
    DataType::F16,
    DataType::F32,
    DataType::F32Ftz,
    DataType::F64,
    DataType::Bf16,
    DataType::Tf32,
    DataType::Tf32Ftz,
];

/// Replaces a field. `dimension` is 0 where the field has none.
///
/// # Errors
/// If the value has no meaning for the field.
pub fn replace(
    bytes: &mut [u8; BYTES],
    field: Field,
    dimension: usize,
    value: u64,
) -> Result<(), MapError> {
    let refuse = || {
        Err(MapError(format!(
            "{field:?} of dimension {dimension} cannot be {value}"
        )))
    };
    if dimension >= 5 {
        return refuse();
    }
    bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
    bytes[6] |= REPLACED;
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    match field {
        Field::GlobalAddress => put(8, &value.to_le_bytes()),
        Field::Rank if value < 5 => bytes[5] = bytes[5] & 0xF0 | (value as u8 + 1),
        Field::BoxDim if value < 1 << 16 => {
            put(73 + 2 * dimension, &(value as u16).to_le_bytes());
        }
        Field::GlobalDim if (1..=1 << 32).contains(&value) => {
            put(16 + 4 * dimension, &((value - 1) as u32).to_le_bytes());
        }
        Field::GlobalStride if dimension < 4 => put(36 + 8 * dimension, &value.to_le_bytes()),
        Field::ElementStride if value < 256 => put(68 + dimension, &[value as u8]),
        Field::ElemType if (value as usize) < CODES.len() => {
            put(4, &[CODES[value as usize] as u8]);
        }
        Field::InterleaveLayout if value == 0 => {}
        Field::SwizzleMode if value < 4 => bytes[5] = bytes[5] & 0x0F | (value as u8) << 4,
        Field::FillMode if value < 2 => bytes[6] = bytes[6] & !FILL_NAN | value as u8,
        _ => return refuse(),
    }
    Ok(())
}

fn refuse<T>(what: impl Into<String>) -> Result<T, MapError> {
    Err(MapError(what.into()))
}

impl TensorMap {
    /// The 128 bytes of a parameter.
    pub fn to_bytes(&self) -> [u8; BYTES] {
        let mut out = Vec::with_capacity(BYTES);
        out.extend(MAGIC.to_le_bytes());
        let swizzle = match self.swizzle {
            Swizzle::None => 0,
            Swizzle::B32 => 1,
            Swizzle::B64 => 2,
            Swizzle::B128 => 3,
        };
        let im2col = matches!(self.mode, Mode::Im2col { .. });
        out.extend([
            self.data_type as u8,
            self.rank as u8 | (swizzle << 4),
            (u8::from(self.fill_nan) * FILL_NAN) | (u8::from(im2col) * IM2COL),
            0,
        ]);
        out.extend(self.address.to_le_bytes());
        // 2^32 does not fit 32 bits: one less does.
        self.dims
            .iter()
            .for_each(|&extent| out.extend(((extent - 1) as u32).to_le_bytes()));
        self.strides_bytes
            .iter()
            .for_each(|stride| out.extend(stride.to_le_bytes()));
        out.extend(self.element_strides.map(|step| step as u8));
        match self.mode {
            Mode::Tiled { box_dims } => box_dims
                .iter()
                .for_each(|&extent| out.extend((extent as u16).to_le_bytes())),
            Mode::Im2col {
                lower,
                upper,
                channels,
                pixels,
            } => {
                lower
                    .iter()
                    .chain(&upper)
                    .for_each(|&at| out.extend((at as i16).to_le_bytes()));
                out.extend((channels as u16).to_le_bytes());
                out.extend((pixels as u16).to_le_bytes());
            }
        }
        out.resize(BYTES, 0);
        let mut bytes = [0; BYTES];
        bytes.copy_from_slice(&out);
        bytes
    }

    /// Decodes a parameter.
    ///
    /// # Errors
    /// If the bytes are not a map that [`TensorMap::to_bytes`] made.
    pub fn from_bytes(bytes: &[u8; BYTES]) -> Result<Self, MapError> {
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let long = |at: usize| u64::from(word(at)) | u64::from(word(at + 4)) << 32;
        let short = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let rank = usize::from(bytes[5] & 15);
        let (Some((data_type, ..)), 1..=5, MAGIC) =
            (DataType::ALL.get(usize::from(bytes[4])), rank, word(0))
        else {
            return refuse("these 128 bytes are not a tensor map");
        };
        let swizzle = match bytes[5] >> 4 {
            0 => Swizzle::None,
            1 => Swizzle::B32,
            2 => Swizzle::B64,
            _ => Swizzle::B128,
        };
        let mode = if bytes[6] & IM2COL == 0 {
            Mode::Tiled {
                box_dims: std::array::from_fn(|i| u32::from(short(73 + 2 * i))),
            }
        } else {
            let corner = |at: usize| i32::from(short(at) as i16);
            Mode::Im2col {
                lower: std::array::from_fn(|i| corner(73 + 2 * i)),
                upper: std::array::from_fn(|i| corner(79 + 2 * i)),
                channels: u32::from(short(85)),
                pixels: u32::from(short(87)),
            }
        };
        let map = Self {
            data_type: *data_type,
            rank,
            address: long(8),
            dims: std::array::from_fn(|i| u64::from(word(16 + 4 * i)) + 1),
            strides_bytes: std::array::from_fn(|i| long(36 + 8 * i)),
            element_strides: std::array::from_fn(|i| u32::from(bytes[68 + i])),
            swizzle,
            fill_nan: bytes[6] & FILL_NAN != 0,
            mode,
        };
        match (map.mode, bytes[6] & REPLACED) {
            (Mode::Tiled { box_dims }, REPLACED) => encode_tiled(
                map.data_type,
                map.address,
                &map.dims[..rank],
                &map.strides_bytes[..rank - 1],
                &box_dims[..rank],
                &map.element_strides[..rank],
                Interleave::None,
                map.swizzle,
                map.fill_nan,
            ),
            _ => Ok(map),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_made_field_by_field() {
        let want = encode_tiled(
            DataType::F16,
            0x1000,
            &[192, 100],
            &[384],
            &[64, 32],
            &[1, 1],
            Interleave::None,
            Swizzle::B128,
            true,
        );
        let mut bytes = [0; BYTES];
        for (field, dimension, value) in [
            (Field::GlobalAddress, 0, 0x1000),
            (Field::Rank, 0, 1),
            (Field::BoxDim, 0, 64),
            (Field::BoxDim, 1, 32),
            (Field::GlobalDim, 0, 192),
            (Field::GlobalDim, 1, 100),
            (Field::GlobalStride, 0, 384),
            (Field::ElementStride, 0, 1),
            (Field::ElementStride, 1, 1),
            (Field::ElemType, 0, 6),
            (Field::InterleaveLayout, 0, 0),
            (Field::SwizzleMode, 0, 3),
            (Field::FillMode, 0, 1),
        ] {
            replace(&mut bytes, field, dimension, value).unwrap();
        }
        assert_eq!(TensorMap::from_bytes(&bytes), want);
        replace(&mut bytes, Field::GlobalStride, 0, 24).unwrap();
        assert!(TensorMap::from_bytes(&bytes).is_err());
        assert!(replace(&mut bytes, Field::ElemType, 0, 13).is_err());
        assert!(replace(&mut bytes, Field::GlobalDim, 5, 8).is_err());
    }
}
