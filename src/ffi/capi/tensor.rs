//! Images and maps as DLPack tensors, for programs whose arrays speak it: PyTorch, NumPy, CuPy.

use std::ffi::c_void;

use super::error::{guard, pointer, u2pl_status};
use super::handle::{find, u2pl_segmenter};
use super::image;
use crate::ffi::dlpack::{self, DLManagedTensor, Dims};

/// Segments the image, or the batch of them, in a `DLManagedTensor` of u8 (0 to 255) or f32 (0 to 1):
/// `[H, W, C]` or `[N, H, W, C]`, with `channels_first` other than 0 `[C, H, W]` or `[N, C, H, W]`,
/// in memory of the segmenter's device. It stays the caller's.
///
/// Each of the last three that is not NULL gets a new `DLManagedTensor *` of `[N, H, W]` in memory of
/// the same device: the classes (u8), their probability and the entropy (f32). The caller calls its
/// deleter, before or after `u2pl_close`; on failure they are NULL. What `u2pl_segment_device` says of
/// streams holds here, too; memory for the maps is allocated, which may wait for the device.
///
/// # Safety
/// `image` is NULL or points to a tensor as DLPack (before 1.0) defines it, whose memory is there
/// until the work is over; the last three are NULL or can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn u2pl_segment_dlpack(
    segmenter: *const u2pl_segmenter,
    image: *const c_void,
    channels: u32,
    channels_first: u32,
    classes: *mut *mut c_void,
    confidence: *mut *mut c_void,
    entropy: *mut *mut c_void,
) -> u2pl_status {
    guard(|| {
        let segmenter = find(segmenter)?;
        let image = image.cast::<DLManagedTensor>();
        pointer("image", image, "pass a DLManagedTensor")?;
        let outs = [
            ("classes", classes),
            ("confidence", confidence),
            ("entropy", entropy),
        ];
        for (at, out) in outs.into_iter().filter(|(_, out)| !out.is_null()) {
            pointer(at, out, "pass where the tensor goes")?;
            // SAFETY: the caller's.
            unsafe { out.write(std::ptr::null_mut()) };
        }
        let channels = image::channels("channels", channels)?;
        let dims = match channels_first {
            0 => Dims::ChannelsLast,
            _ => Dims::ChannelsFirst,
        };
        // SAFETY: the caller's.
        let image = unsafe { dlpack::borrow(segmenter.device(), "image", image, dims) }?;
        let maps = segmenter.segment_to_device(&image, channels)?;
        let [images, height, width, _] = image.strided().shape;
        let shape = [images, height, width];
        let views = [maps.classes, maps.confidence, maps.entropy];
        let wanted = outs
            .into_iter()
            .zip(views)
            .filter(|((_, out), _)| !out.is_null());
        let tensors = wanted
            .map(|((_, out), view)| Ok((out, dlpack::export(maps.memory.clone(), &view, &shape)?)));
        for (out, tensor) in tensors.collect::<crate::Result<Vec<_>>>()? {
            // SAFETY: the caller's.
            unsafe { out.write(tensor.cast()) };
        }
        Ok(())
    })
}
