//! Images in the caller's memory.

use std::ffi::c_void;

use super::error::{Failure, input, pointer};
use crate::eval::SampleKind;
use crate::infer::{Channels, Image, Samples, Strides};

/// Samples of one byte, 0 to 255.
pub const U2PL_U8: u32 = 0;
/// Samples of four bytes, IEEE floats from 0 to 1 (the byte over 255).
pub const U2PL_F32: u32 = 1;

/// Red, green, blue.
pub const U2PL_RGB: u32 = 0;
/// Blue, green, red.
pub const U2PL_BGR: u32 = 1;
/// Red, green, blue and one more that is not read.
pub const U2PL_RGBA: u32 = 2;
/// Blue, green, red and one more that is not read.
pub const U2PL_BGRA: u32 = 3;
/// Grey.
pub const U2PL_GRAY: u32 = 4;

/// An image, read during the call alone.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct u2pl_image {
    /// `sizeof(u2pl_image)`.
    pub struct_size: usize,
    /// The first sample of the first row.
    pub data: *const c_void,
    /// Samples that may be read from there.
    pub sample_count: usize,
    /// `U2PL_U8` or `U2PL_F32`.
    pub sample_type: u32,
    /// `U2PL_RGB` and so on.
    pub channels: u32,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Samples to the next row. All three strides 0: no gaps, channels side by side.
    pub row_stride: usize,
    /// Samples to the next column.
    pub pixel_stride: usize,
    /// Samples to the next channel.
    pub channel_stride: usize,
}

/// Which channels `given` says.
pub(super) fn channels(at: &str, given: u32) -> Result<Channels, Failure> {
    Ok(match given {
        U2PL_RGB => Channels::Rgb,
        U2PL_BGR => Channels::Bgr,
        U2PL_RGBA => Channels::Rgba,
        U2PL_BGRA => Channels::Bgra,
        U2PL_GRAY => Channels::Gray,
        other => {
            let problem = format!("{other} is no order of channels");
            return Err(input(at, problem, "use U2PL_RGB to U2PL_GRAY"));
        }
    })
}

/// Which type of samples `given` says.
pub(super) fn samples(at: &str, given: u32) -> Result<SampleKind, Failure> {
    match given {
        U2PL_U8 => Ok(SampleKind::Byte),
        U2PL_F32 => Ok(SampleKind::Float),
        other => {
            let problem = format!("{other} is no type of samples");
            Err(input(at, problem, "use U2PL_U8 or U2PL_F32"))
        }
    }
}

/// An image of the caller's, whose version was checked.
///
/// # Safety
/// `data` has as many samples as it says, or is NULL.
pub(super) unsafe fn read<'a>(given: &u2pl_image) -> Result<Image<'a>, Failure> {
    let first = "pass the first sample";
    pointer("image.data", given.data.cast::<u8>(), first)?;
    let channels = channels("image.channels", given.channels)?;
    let kind = samples("image.sample_type", given.sample_type)?;
    if given.sample_count > isize::MAX as usize / size_of::<f32>() {
        let problem = format!("{} samples fit no memory", given.sample_count);
        return Err(input("image.sample_count", problem, "give the buffer's"));
    }
    let samples = match kind {
        // SAFETY: the caller's.
        SampleKind::Byte => Samples::U8(unsafe {
            std::slice::from_raw_parts(given.data.cast(), given.sample_count)
        }),
        SampleKind::Float => {
            let data = given.data.cast::<f32>();
            pointer("image.data", data, first)?;
            // SAFETY: the caller's, and aligned.
            Samples::F32(unsafe { std::slice::from_raw_parts(data, given.sample_count) })
        }
    };
    let (height, width) = (given.height, given.width);
    let strides = Strides {
        row: given.row_stride,
        pixel: given.pixel_stride,
        channel: given.channel_stride,
    };
    Ok(match strides {
        Strides {
            row: 0,
            pixel: 0,
            channel: 0,
        } => Image::packed(samples, height, width, channels)?,
        strides => Image::strided(samples, height, width, channels, strides)?,
    })
}
