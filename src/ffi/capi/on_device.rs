//! Images and maps in device memory: for programs that work on a GPU themselves, on their own
//! context and stream.

use std::ffi::{c_char, c_void};
use std::sync::Arc;

use super::error::{Failure, guard, input, u2pl_status};
use super::handle::{find, open_on, u2pl_segmenter};
use super::image;
use super::options::{Chosen, u2pl_options, version};
#[cfg(feature = "cuda")]
use crate::device::gpu::GpuDevice;
use crate::device::gpu::MathMode;
use crate::device::{DType, Device, Strided, Tensor};
use crate::eval::SampleKind;
use crate::infer::MapTensors;

/// A batch of images in device memory.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct u2pl_device_image {
    /// `sizeof(u2pl_device_image)`.
    pub struct_size: usize,
    /// Address of the first sample: a `CUdeviceptr`, or with the devices `cpu` and `simt` an address
    /// of the host's.
    pub data: u64,
    /// `U2PL_U8` or `U2PL_F32`.
    pub sample_type: u32,
    /// `U2PL_RGB` and so on.
    pub channels: u32,
    /// Images.
    pub images: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Samples to the next image. All four strides 0: no gaps, channels side by side.
    pub image_stride: usize,
    /// Samples to the next row.
    pub row_stride: usize,
    /// Samples to the next column.
    pub pixel_stride: usize,
    /// Samples to the next channel.
    pub channel_stride: usize,
}

/// Where the maps of a batch go, image after image without gaps: addresses of the same kind of memory
/// as the image's. What is 0 is not wanted.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct u2pl_device_maps {
    /// `sizeof(u2pl_device_maps)`.
    pub struct_size: usize,
    /// The most probable class of each pixel, a byte.
    pub classes: u64,
    /// Its probability, a float.
    pub confidence: u64,
    /// Entropy of the probabilities of all classes, nats, a float.
    pub entropy: u64,
}

/// As `u2pl_open`, on a CUDA context (a `CUcontext`) and a stream of it (a `CUstream`; NULL is the
/// legacy default stream) that the caller keeps: the engine queues its work there, destroys neither,
/// and leaves every thread the context that was current. `options->device` must be NULL. Both must
/// live until `u2pl_close` has returned and the tensors of `u2pl_segment_dlpack` are gone.
///
/// # Safety
/// As `u2pl_open`; `context` and `stream` are live until the handle is closed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn u2pl_open_on_stream(
    path: *const c_char,
    options: *const u2pl_options,
    context: *mut c_void,
    stream: *mut c_void,
    out: *mut *mut u2pl_segmenter,
) -> u2pl_status {
    let device = |chosen: &Chosen| match chosen.device {
        // SAFETY: the caller's.
        None => unsafe { on_stream(context, stream, chosen.precision) },
        Some(_) => {
            let problem = "a device is named beside a stream, which is of one";
            Err(input("options.device", problem, "leave it NULL"))
        }
    };
    // SAFETY: the caller's.
    unsafe { open_on(path, options, out, device) }
}

/// # Safety
/// As of [`u2pl_open_on_stream`].
#[cfg(feature = "cuda")]
unsafe fn on_stream(
    context: *mut c_void,
    stream: *mut c_void,
    precision: MathMode,
) -> Result<Arc<dyn Device>, Failure> {
    // SAFETY: the caller's.
    let device = unsafe { GpuDevice::on_stream(context, stream, precision) }?;
    Ok(Arc::new(device))
}

/// # Safety
/// None is needed: there is nothing to open.
#[cfg(not(feature = "cuda"))]
unsafe fn on_stream(
    _: *mut c_void,
    _: *mut c_void,
    _: MathMode,
) -> Result<Arc<dyn Device>, Failure> {
    let mend = "build it with the default features";
    Err(input("stream", "this library has no cuda device", mend))
}

/// Segments a batch that lies in device memory into maps that stay there: nothing is copied through
/// the host. On a GPU the work is queued on the segmenter's stream (that of `u2pl_open_on_stream`,
/// or one of the engine's own) and, for a shape that was warmed up, not waited for: the memory must
/// stay allocated until the stream has passed the call, and is read and written in the stream's
/// order. On devices of the host the work is over when the call returns. Pixels whose scores are no
/// finite numbers are no error here: their entropy or confidence is NaN.
///
/// # Safety
/// Both point to structures; their memory is the segmenter's device's, as large as they say.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn u2pl_segment_device(
    segmenter: *const u2pl_segmenter,
    image: *const u2pl_device_image,
    maps: *const u2pl_device_maps,
) -> u2pl_status {
    guard(|| {
        let segmenter = find(segmenter)?;
        // SAFETY: the caller's.
        let (given, places) = unsafe {
            version("image", image)?;
            version("maps", maps)?;
            (image.read(), maps.read())
        };
        let device = segmenter.device();
        let channels = image::channels("image.channels", given.channels)?;
        let dtype = match image::samples("image.sample_type", given.sample_type)? {
            SampleKind::Byte => DType::U8,
            SampleKind::Float => DType::F32,
        };
        let shape = [given.images, given.height, given.width, channels.count()];
        let strides = match [
            given.image_stride,
            given.row_stride,
            given.pixel_stride,
            given.channel_stride,
        ] {
            [0, 0, 0, 0] => Strided::packed(shape),
            strides => strides,
        };
        // SAFETY: the caller's: the memory is there until the work is over.
        let image = unsafe { Tensor::new(device, "image", given.data, dtype, shape, strides) }?;
        let one = [given.images, given.height, given.width, 1];
        let map = |what: &str, address: u64, dtype: DType| -> Result<Option<Tensor>, Failure> {
            if address == 0 {
                return Ok(None);
            }
            // SAFETY: as above.
            let map =
                unsafe { Tensor::new(device, what, address, dtype, one, Strided::packed(one)) };
            Ok(Some(map?))
        };
        let classes = map("classes", places.classes, DType::U8)?;
        let confidence = map("confidence", places.confidence, DType::F32)?;
        let entropy = map("entropy", places.entropy, DType::F32)?;
        let maps = MapTensors {
            classes: classes.as_ref(),
            confidence: confidence.as_ref(),
            entropy: entropy.as_ref(),
        };
        segmenter.segment_device(&image, channels, &maps)?;
        Ok(())
    })
}

/// Waits until the segmenter's device has done what was queued on its stream.
#[unsafe(no_mangle)]
pub extern "C" fn u2pl_wait(segmenter: *const u2pl_segmenter) -> u2pl_status {
    guard(|| Ok(find(segmenter)?.device().wait()?))
}
