//! Tensor maps: what `cuTensorMapEncodeTiled` and `cuTensorMapEncodeIm2col` make, with their limits.
//!
//! NVIDIA does not document the 128 bytes; these are the machine's own. Arguments stand in the
//! driver's order and under the driver's limits (CUDA driver API, "Tensor Map Object Management"),
//! so that what is refused here is refused there.

use super::descriptor::Swizzle;

/// Bytes of a tensor map; as a kernel parameter it is aligned to 64.
pub const BYTES: usize = 128;

const MAGIC: u32 = u32::from_le_bytes(*b"TMap");

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

    /// The type of this name (`bf16`, `f32`, `u8`, …).
    pub fn named(name: &str) -> Option<Self> {
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

/// Interleaved layouts of `cuTensorMapEncode*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interleave {
    /// Plain.
    None,
    /// Slices of 16 bytes of channels: not modelled.
    B16,
    /// Slices of 32 bytes of channels: not modelled.
    B32,
}

/// A map that the driver would refuse, or that this machine does not model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("tensor map: {0}")]
pub struct MapError(pub String);

fn refuse<T>(what: impl Into<String>) -> Result<T, MapError> {
    Err(MapError(what.into()))
}

/// `cuTensorMapEncodeTiled`. Arrays run from the innermost dimension outwards; `global_strides`
/// has one entry fewer. The hint for L2 has no meaning here and is left out.
///
/// # Errors
/// Names the argument and the limit that it breaks.
#[allow(clippy::too_many_arguments)]
pub fn encode_tiled(
    data_type: DataType,
    global_address: u64,
    global_dim: &[u64],
    global_strides: &[u64],
    box_dim: &[u32],
    element_strides: &[u32],
    interleave: Interleave,
    swizzle: Swizzle,
    fill_nan: bool,
) -> Result<TensorMap, MapError> {
    let rank = global_dim.len();
    if box_dim.len() != rank {
        return refuse(format!(
            "boxDim has {} entries for {rank} dimensions",
            box_dim.len()
        ));
    }
    let mut map = common(
        data_type,
        global_address,
        global_dim,
        global_strides,
        element_strides,
        interleave,
        swizzle,
        fill_nan,
    )?;
    let mut box_dims = [1; 5];
    for (i, &extent) in box_dim.iter().enumerate() {
        if !(1..=256).contains(&extent) {
            return refuse(format!("boxDim[{i}] is {extent}, not within 1 to 256"));
        }
        box_dims[i] = extent;
    }
    inner_bytes(data_type, box_dim[0], swizzle, "boxDim[0]")?;
    map.mode = Mode::Tiled { box_dims };
    Ok(map)
}

/// `cuTensorMapEncodeIm2col`, for tensors of rank 3 to 5: channels, W, (H, (D,)) N. Corners have an
/// entry per spatial dimension, W first.
///
/// # Errors
/// Names the argument and the limit that it breaks.
#[allow(clippy::too_many_arguments)]
pub fn encode_im2col(
    data_type: DataType,
    global_address: u64,
    global_dim: &[u64],
    global_strides: &[u64],
    pixel_box_lower_corner: &[i32],
    pixel_box_upper_corner: &[i32],
    channels_per_pixel: u32,
    pixels_per_column: u32,
    element_strides: &[u32],
    interleave: Interleave,
    swizzle: Swizzle,
    fill_nan: bool,
) -> Result<TensorMap, MapError> {
    let rank = global_dim.len();
    if !(3..=5).contains(&rank) {
        return refuse(format!("im2col needs 3 to 5 dimensions, not {rank}"));
    }
    let mut map = common(
        data_type,
        global_address,
        global_dim,
        global_strides,
        element_strides,
        interleave,
        swizzle,
        fill_nan,
    )?;
    let limit = [1 << 15, 1 << 7, 1 << 4][rank - 3];
    let (mut lower, mut upper) = ([0; 3], [0; 3]);
    for (name, corner, into) in [
        ("Lower", pixel_box_lower_corner, &mut lower),
        ("Upper", pixel_box_upper_corner, &mut upper),
    ] {
        if corner.len() != rank - 2 {
            return refuse(format!(
                "pixelBox{name}Corner has {} entries for {} spatial dimensions",
                corner.len(),
                rank - 2
            ));
        }
        for (i, &at) in corner.iter().enumerate() {
            if !(-limit..limit).contains(&at) {
                return refuse(format!(
                    "pixelBox{name}Corner[{i}] is {at}, not within {} to {}",
                    -limit,
                    limit - 1
                ));
            }
            into[i] = at;
        }
    }
    for i in 0..rank - 2 {
        if i64::from(lower[i]) > global_dim[i + 1] as i64 - 1 + i64::from(upper[i]) {
            return refuse(format!(
                "the bounding box is empty in spatial dimension {i}"
            ));
        }
    }
    if !(1..=256).contains(&channels_per_pixel) {
        return refuse(format!(
            "channelsPerPixel is {channels_per_pixel}, not within 1 to 256"
        ));
    }
    if !(1..=1024).contains(&pixels_per_column) {
        return refuse(format!(
            "pixelsPerColumn is {pixels_per_column}, not within 1 to 1024"
        ));
    }
    inner_bytes(data_type, channels_per_pixel, swizzle, "channelsPerPixel")?;
    map.mode = Mode::Im2col {
        lower,
        upper,
        channels: channels_per_pixel,
        pixels: pixels_per_column,
    };
    Ok(map)
}

#[allow(clippy::too_many_arguments)]
fn common(
    data_type: DataType,
    address: u64,
    global_dim: &[u64],
    global_strides: &[u64],
    element_strides: &[u32],
    interleave: Interleave,
    swizzle: Swizzle,
    fill_nan: bool,
) -> Result<TensorMap, MapError> {
    let rank = global_dim.len();
    if !(1..=5).contains(&rank) {
        return refuse(format!("tensorRank is {rank}, not within 1 to 5"));
    }
    if interleave != Interleave::None {
        return refuse("interleaved layouts are not modelled; use NONE");
    }
    if !address.is_multiple_of(16) {
        return refuse(format!("globalAddress {address:#x} is no multiple of 16"));
    }
    if global_strides.len() != rank - 1 {
        return refuse(format!(
            "globalStrides has {} entries for {rank} dimensions; one fewer is needed",
            global_strides.len()
        ));
    }
    if element_strides.len() != rank {
        return refuse(format!(
            "elementStrides has {} entries for {rank} dimensions",
            element_strides.len()
        ));
    }
    if fill_nan && !data_type.is_float() {
        return refuse(format!(
            "a fill with NaN needs a floating-point type, not {data_type:?}"
        ));
    }
    let (mut dims, mut strides_bytes, mut steps) = ([1; 5], [0; 4], [1; 5]);
    for (i, &extent) in global_dim.iter().enumerate() {
        if extent == 0 || extent > 1 << 32 {
            return refuse(format!("globalDim[{i}] is {extent}, not within 1 to 2^32"));
        }
        dims[i] = extent;
    }
    for (i, &stride) in global_strides.iter().enumerate() {
        if stride % 16 != 0 || stride >= 1 << 40 {
            return refuse(format!(
                "globalStrides[{i}] is {stride}: a multiple of 16 below 2^40 is needed"
            ));
        }
        strides_bytes[i] = stride;
    }
    for (i, &step) in element_strides.iter().enumerate() {
        if !(1..=8).contains(&step) {
            return refuse(format!("elementStrides[{i}] is {step}, not within 1 to 8"));
        }
        // Without interleave TMA has no stride in the innermost dimension: the entry is ignored.
        steps[i] = if i == 0 { 1 } else { step };
    }
    let mode = Mode::Tiled { box_dims: [1; 5] };
    Ok(TensorMap {
        data_type,
        rank,
        address,
        dims,
        strides_bytes,
        element_strides: steps,
        swizzle,
        fill_nan,
        mode,
    })
}

fn inner_bytes(
    data_type: DataType,
    elements: u32,
    swizzle: Swizzle,
    name: &str,
) -> Result<(), MapError> {
    let bytes = elements * data_type.bytes();
    if !bytes.is_multiple_of(16) {
        return refuse(format!(
            "{name} is {elements} elements, {bytes} bytes: no multiple of 16 bytes"
        ));
    }
    if swizzle == Swizzle::None || bytes == swizzle.span() {
        return Ok(());
    }
    let span = swizzle.span();
    if bytes > span {
        return refuse(format!(
            "{name} is {bytes} bytes, more than the swizzle of {span}"
        ));
    }
    refuse(format!(
        "{name} is {bytes} bytes, less than the swizzle of {span}: allowed, but not modelled; use a swizzle of {bytes}"
    ))
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
            u8::from(self.fill_nan) | u8::from(im2col) << 1,
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
        let mode = if bytes[6] & 2 == 0 {
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
        Ok(Self {
            data_type: *data_type,
            rank,
            address: long(8),
            dims: std::array::from_fn(|i| u64::from(word(16 + 4 * i)) + 1),
            strides_bytes: std::array::from_fn(|i| long(36 + 8 * i)),
            element_strides: std::array::from_fn(|i| u32::from(bytes[68 + i])),
            swizzle,
            fill_nan: bytes[6] & 1 != 0,
            mode,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tiled(
        dims: &[u64],
        strides: &[u64],
        extent: &[u32],
        swizzle: u32,
    ) -> Result<TensorMap, MapError> {
        let steps = vec![1; dims.len()];
        let swizzle = Swizzle::of_bytes(swizzle).unwrap();
        encode_tiled(
            DataType::Bf16,
            0x1000,
            dims,
            strides,
            extent,
            &steps,
            Interleave::None,
            swizzle,
            false,
        )
    }

    #[test]
    fn bytes_decode_to_the_same_map() {
        let map = tiled(&[192, 1 << 32, 7], &[384, 1 << 39], &[64, 256, 3], 128).unwrap();
        assert_eq!(TensorMap::from_bytes(&map.to_bytes()), Ok(map));
        let map = encode_im2col(
            DataType::F32,
            0x7f00_0000_0010,
            &[64, 65, 66, 4],
            &[256, 256 * 65, 256 * 65 * 66],
            &[-128, -1],
            &[127, 1],
            32,
            1024,
            &[1, 2, 8, 1],
            Interleave::None,
            Swizzle::B128,
            true,
        )
        .unwrap();
        assert_eq!(TensorMap::from_bytes(&map.to_bytes()), Ok(map));
        assert!(TensorMap::from_bytes(&[0; BYTES]).is_err());
    }

    #[test]
    fn what_the_driver_refuses() {
        let table = [
            (tiled(&[], &[], &[], 0), "tensorRank is 0"),
            (tiled(&[8; 6], &[16; 5], &[8; 6], 0), "tensorRank is 6"),
            (tiled(&[8, 0], &[16], &[8, 1], 0), "globalDim[1]"),
            (tiled(&[8, 8], &[24], &[8, 1], 0), "globalStrides[0]"),
            (tiled(&[8, 8], &[1 << 40], &[8, 1], 0), "globalStrides[0]"),
            (tiled(&[8, 8], &[], &[8, 1], 0), "globalStrides has 0"),
            (tiled(&[8, 8], &[16], &[8, 257], 0), "boxDim[1]"),
            (tiled(&[8, 8], &[16], &[8, 0], 0), "boxDim[1]"),
            (tiled(&[8, 8], &[16], &[8], 0), "boxDim has 1"),
            (tiled(&[8, 8], &[16], &[4, 1], 0), "no multiple of 16 bytes"),
            (
                tiled(&[512, 8], &[1024], &[128, 1], 128),
                "more than the swizzle",
            ),
            (tiled(&[512, 8], &[1024], &[32, 1], 128), "not modelled"),
        ];
        for (got, want) in table {
            let message = got.unwrap_err().to_string();
            assert!(message.contains(want), "{message} lacks {want}");
        }
        let address = encode_tiled(
            DataType::U8,
            8,
            &[16],
            &[],
            &[16],
            &[1],
            Interleave::None,
            Swizzle::None,
            false,
        );
        assert!(address.unwrap_err().to_string().contains("globalAddress"));
        let nan = encode_tiled(
            DataType::U8,
            0,
            &[16],
            &[],
            &[16],
            &[1],
            Interleave::None,
            Swizzle::None,
            true,
        );
        assert!(nan.unwrap_err().to_string().contains("NaN"));
        let step = encode_tiled(
            DataType::U8,
            0,
            &[16],
            &[],
            &[16],
            &[9],
            Interleave::None,
            Swizzle::None,
            false,
        );
        assert!(step.unwrap_err().to_string().contains("elementStrides[0]"));
        let wide = encode_tiled(
            DataType::U8,
            0,
            &[16],
            &[],
            &[16],
            &[1],
            Interleave::B32,
            Swizzle::None,
            false,
        );
        assert!(wide.unwrap_err().to_string().contains("interleaved"));
    }

    #[test]
    fn what_im2col_refuses() {
        let encode = |rank: usize, lower: i32, upper: i32, channels: u32, pixels: u32| {
            let dims = [64, 65, 65, 65, 2];
            let mut dims = dims[..rank].to_vec();
            dims[rank - 1] = 2;
            let (strides, steps) = (vec![128; rank - 1], vec![1; rank]);
            let (lower, upper) = (
                vec![lower; rank.saturating_sub(2)],
                vec![upper; rank.saturating_sub(2)],
            );
            encode_im2col(
                DataType::Bf16,
                0,
                &dims,
                &strides,
                &lower,
                &upper,
                channels,
                pixels,
                &steps,
                Interleave::None,
                Swizzle::B128,
                false,
            )
        };
        // Dilation 36 of a 3×3 tap at 65²: corners of ±36 fit rank 4.
        assert!(encode(4, -36, 36, 64, 128).is_ok());
        let table = [
            (encode(2, 0, 0, 64, 8), "3 to 5 dimensions"),
            (encode(4, -129, 0, 64, 8), "pixelBoxLowerCorner[0] is -129"),
            (encode(4, 0, 128, 64, 8), "pixelBoxUpperCorner[0] is 128"),
            (encode(5, -17, 0, 64, 8), "pixelBoxLowerCorner[0] is -17"),
            (encode(4, 0, -65, 64, 8), "empty"),
            (encode(4, 0, 0, 0, 8), "channelsPerPixel"),
            (encode(4, 0, 0, 64, 1025), "pixelsPerColumn"),
        ];
        for (got, want) in table {
            let message = got.unwrap_err().to_string();
            assert!(message.contains(want), "{message} lacks {want}");
        }
    }
}
