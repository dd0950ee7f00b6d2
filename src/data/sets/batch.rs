//! A batch of decoded images and its layout on the device.

use std::sync::Arc;

use crate::data::decode::Decoded;
use crate::{Error, Result};

/// Images of one step, in the order the step sees them.
#[derive(Clone, Debug)]
pub struct Batch {
    /// The images; shared with the loader's cache.
    pub images: Vec<Arc<Decoded>>,
    /// Their positions in the dataset.
    pub indices: Vec<usize>,
}

/// Lays `batch` out for [`Op::Augment`](crate::device::op::Op::Augment): image b packed at the
/// start of row b, likewise its labels, sizes as (height, width).
///
/// `cap_pixels` is the row capacity; `images` is u8 `[B × 3·cap]`, `labels` u8 `[B × cap]`,
/// `sizes` u32 `[B × 2]`. An image without a mask gets `ignore_index` everywhere. Bytes past an
/// image's end keep their old contents: nothing reads them.
///
/// # Errors
/// [`Error::Internal`] when a buffer has another length or an image exceeds the capacity.
pub fn pack(
    batch: &Batch,
    cap_pixels: usize,
    ignore_index: u8,
    images: &mut [u8],
    labels: &mut [u8],
    sizes: &mut [u32],
) -> Result<()> {
    let count = batch.images.len();
    if images.len() != count * 3 * cap_pixels
        || labels.len() != count * cap_pixels
        || sizes.len() != count * 2
    {
        return Err(Error::internal(format!(
            "staging buffers of {}, {} and {} elements for {count} images of {cap_pixels} pixels",
            images.len(),
            labels.len(),
            sizes.len()
        )));
    }
    for (b, image) in batch.images.iter().enumerate() {
        let pixels = image.width * image.height;
        if pixels > cap_pixels {
            return Err(Error::internal(format!(
                "image {} has {pixels} pixels, the staging buffer holds {cap_pixels}",
                batch.indices.get(b).copied().unwrap_or(b)
            )));
        }
        images[b * 3 * cap_pixels..][..3 * pixels].copy_from_slice(&image.rgb);
        let row = &mut labels[b * cap_pixels..][..pixels];
        match &image.label {
            Some(label) => row.copy_from_slice(label),
            None => row.fill(ignore_index),
        }
        sizes[2 * b] = image.height as u32;
        sizes[2 * b + 1] = image.width as u32;
    }
    Ok(())
}
