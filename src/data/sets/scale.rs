//! `data.image_scale`: image and label of a sample at another size.

use crate::Result;
use crate::data::decode::Decoded;
use crate::data::resize::triangle;

/// Resizes image (triangle filter) and label (nearest, the same half-pixel centres) by `scale`.
///
/// # Errors
/// [`Error::Internal`](crate::Error::Internal) when the buffers disagree with the size.
pub(super) fn rescale(decoded: Decoded, scale: f32) -> Result<Decoded> {
    if scale == 1.0 {
        return Ok(decoded);
    }
    let Decoded {
        width,
        height,
        rgb,
        label,
    } = decoded;
    let (w, h) = (scaled(width, scale), scaled(height, scale));
    let rgb = triangle(&rgb, [height, width], [h, w])?;
    let label = label.map(|label| nearest(&label, (width, height), (w, h)));
    Ok(Decoded {
        width: w,
        height: h,
        rgb,
        label,
    })
}

/// A side after `image_scale`: rounded, at least 1.
pub(super) fn scaled(side: usize, scale: f32) -> usize {
    ((side as f64 * f64::from(scale)).round() as usize).max(1)
}

fn nearest(label: &[u8], (width, height): (usize, usize), (w, h): (usize, usize)) -> Vec<u8> {
    // ⌊(i + ½)·from/to⌋ in whole numbers.
    let source = |i: usize, from: usize, to: usize| ((2 * i + 1) * from / (2 * to)).min(from - 1);
    let columns: Vec<usize> = (0..w).map(|x| source(x, width, w)).collect();
    (0..h)
        .flat_map(|y| {
            let row = &label[source(y, height, h) * width..][..width];
            columns.iter().map(move |&x| row[x])
        })
        .collect()
}
