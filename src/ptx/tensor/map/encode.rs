//! Tensor maps as the driver encodes them, under the driver's limits.

use super::{DataType, Mode, TensorMap};
use crate::ptx::tensor::descriptor::Swizzle;

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

#[cfg(test)]
mod tests {
    use super::super::BYTES;
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
