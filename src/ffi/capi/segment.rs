//! What a segmenter does, and what it says of itself.

use super::error::{Failure, guard, input, pointer, u2pl_status};
use super::handle::{find, u2pl_segmenter};
use super::image::{self, u2pl_image};
use super::options::version;
use crate::infer::{Image, InputShape, MOST_IMAGES, Segmentation, Segmenter};

/// Where the maps of an image go: the caller's memory, rows from the top, no gaps, apart from each
/// other and from the image. What is NULL is not wanted.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct u2pl_maps {
    /// `sizeof(u2pl_maps)`.
    pub struct_size: usize,
    /// Pixels that there is room for, at least as many as the image has.
    pub pixels: usize,
    /// The most probable class of each pixel.
    pub classes: *mut u8,
    /// Its probability.
    pub confidence: *mut f32,
    /// Entropy of the probabilities of all classes, nats.
    pub entropy: *mut f32,
    /// Probability of each class, `u2pl_classes` of them a pixel, side by side. Asking for it runs
    /// the network a second time.
    pub probabilities: *mut f32,
}

/// Segments `count` images; those of one size and type run as one batch. Nothing is written unless
/// all succeed.
///
/// # Safety
/// `images` and `maps` point to `count` structures each; their memory is as large as they say, and
/// nobody else touches it until the call returns.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn u2pl_segment(
    segmenter: *const u2pl_segmenter,
    images: *const u2pl_image,
    count: usize,
    maps: *const u2pl_maps,
) -> u2pl_status {
    guard(|| {
        let segmenter = find(segmenter)?;
        if count == 0 {
            return Ok(());
        }
        if count > MOST_IMAGES {
            let problem = format!("{count} images");
            let mend = format!("pass at most {MOST_IMAGES}");
            return Err(input("count", problem, &mend));
        }
        // SAFETY: the caller's.
        let (given, maps) = unsafe {
            (
                structures("images", images, count)?,
                structures("maps", maps, count)?,
            )
        };
        // SAFETY: the caller's.
        let images = given.iter().map(|i| unsafe { image::read(i) });
        let images = images.collect::<Result<Vec<Image>, _>>()?;
        for (image, maps) in images.iter().zip(maps) {
            fits(image, maps)?;
        }
        let found = segmenter.segment_batch(&images)?;
        let wanted = |(image, maps): (&Image, &u2pl_maps)| match maps.probabilities.is_null() {
            true => Ok(None),
            false => segmenter.probabilities(image).map(Some),
        };
        let probabilities = images.iter().zip(maps).map(wanted);
        let probabilities = probabilities.collect::<crate::Result<Vec<_>>>()?;
        for ((found, probabilities), maps) in found.iter().zip(&probabilities).zip(maps) {
            // SAFETY: the caller's memory has room, which was checked.
            unsafe { write(found, probabilities.as_deref(), maps) };
        }
        Ok(())
    })
}

/// `count` structures of the caller's, all of this version.
///
/// # Safety
/// `first` is null or points to so many.
unsafe fn structures<'a, T>(at: &str, first: *const T, count: usize) -> Result<&'a [T], Failure> {
    // The first says how far it is to the second.
    // SAFETY: the caller's.
    unsafe { version(at, first) }?;
    // SAFETY: the caller's, aligned, and structures of this size.
    let all = unsafe { std::slice::from_raw_parts(first, count) };
    for one in all {
        // SAFETY: it is one of them.
        unsafe { version(at, one) }?;
    }
    Ok(all)
}

fn fits(image: &Image, maps: &u2pl_maps) -> Result<(), Failure> {
    let needed = image.height() * image.width();
    if maps.pixels < needed {
        let problem = format!("room for {} pixels, the image has {needed}", maps.pixels);
        return Err(input("maps.pixels", problem, "give larger buffers"));
    }
    let floats = [
        ("maps.confidence", maps.confidence),
        ("maps.entropy", maps.entropy),
        ("maps.probabilities", maps.probabilities),
    ];
    let wanted = floats.into_iter().filter(|(_, to)| !to.is_null());
    for (at, to) in wanted {
        pointer(at, to, "pass an array of floats")?;
    }
    Ok(())
}

/// # Safety
/// What `maps` points to has room for the maps.
unsafe fn write(found: &Segmentation, probabilities: Option<&[f32]>, maps: &u2pl_maps) {
    // SAFETY: the caller's; what was made here overlaps nothing of the caller's.
    unsafe {
        copy(&found.classes, maps.classes);
        copy(&found.confidence, maps.confidence);
        copy(&found.entropy, maps.entropy);
        copy(probabilities.unwrap_or_default(), maps.probabilities);
    }
}

/// # Safety
/// `to` is null or has room.
unsafe fn copy<T: Copy>(from: &[T], to: *mut T) {
    if !to.is_null() {
        // SAFETY: the caller's.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) };
    }
}

/// Writes what `value` says of a segmenter to `*out`.
///
/// # Safety
/// `out` is null or can be written.
unsafe fn tell<T>(
    segmenter: *const u2pl_segmenter,
    out: *mut T,
    value: impl FnOnce(&Segmenter) -> Result<T, Failure>,
) -> u2pl_status {
    guard(|| {
        let segmenter = find(segmenter)?;
        pointer("out", out, "pass where the answer goes")?;
        let value = value(&segmenter)?;
        // SAFETY: the caller's.
        unsafe { out.write(value) };
        Ok(())
    })
}

/// Classes of the network.
///
/// # Safety
/// `out` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn u2pl_classes(
    segmenter: *const u2pl_segmenter,
    out: *mut usize,
) -> u2pl_status {
    // SAFETY: the caller's.
    unsafe { tell(segmenter, out, |s| Ok(s.classes())) }
}

/// Bytes of device memory that the weights take, once for all callers.
///
/// # Safety
/// `out` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn u2pl_weights_bytes(
    segmenter: *const u2pl_segmenter,
    out: *mut usize,
) -> u2pl_status {
    // SAFETY: the caller's.
    unsafe { tell(segmenter, out, |s| Ok(s.weights_bytes())) }
}

/// Colours of the 256 class indices, RGB: 768 bytes.
///
/// # Safety
/// `out` has room for 768 bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn u2pl_palette(
    segmenter: *const u2pl_segmenter,
    out: *mut u8,
) -> u2pl_status {
    guard(|| {
        let segmenter = find(segmenter)?;
        pointer("out", out, "pass room for 768 bytes")?;
        let colors: Vec<u8> = segmenter.palette().iter().flatten().copied().collect();
        // SAFETY: the caller's; a palette has 256 colours.
        unsafe { copy(&colors[..colors.len().min(768)], out) };
        Ok(())
    })
}

fn shape(images: usize, height: usize, width: usize, sample: u32) -> Result<InputShape, Failure> {
    Ok(InputShape {
        images,
        height,
        width,
        samples: image::samples("sample_type", sample)?,
    })
}

/// Bytes of device memory that one caller takes for a batch of `images` images, the weights aside.
/// Where probabilities are asked for, about 4 · classes + 14 more for each pixel of one image.
///
/// # Safety
/// `out` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn u2pl_memory_required(
    segmenter: *const u2pl_segmenter,
    images: usize,
    height: usize,
    width: usize,
    sample_type: u32,
    out: *mut usize,
) -> u2pl_status {
    let value =
        |s: &Segmenter| Ok(s.memory_required(shape(images, height, width, sample_type)?)?);
    // SAFETY: the caller's.
    unsafe { tell(segmenter, out, value) }
}

/// Makes `callers` callers ready for batches of `images` images: afterwards as many threads segment
/// such batches without planning or allocating on the device.
#[unsafe(no_mangle)]
pub extern "C" fn u2pl_warm_up(
    segmenter: *const u2pl_segmenter,
    callers: usize,
    images: usize,
    height: usize,
    width: usize,
    sample_type: u32,
) -> u2pl_status {
    guard(|| {
        let segmenter = find(segmenter)?;
        segmenter.warm_up(callers, shape(images, height, width, sample_type)?)?;
        Ok(())
    })
}
