//! Packed RGB, bytes or floats, to another size, by the triangle filter.
//!
//! Enlarging interpolates between the two nearest pixel centres; shrinking averages over a
//! triangle as wide as two output pixels, so that nothing is skipped. The numbers are those of the
//! `image` crate's filter of that name, bit for bit; a library for products should not depend on
//! every picture format and its colour management for this one function.

use crate::{Error, Result};

/// What a channel of a pixel is.
pub trait Channel: Copy {
    /// As a number to average.
    fn value(self) -> f32;

    /// The nearest that the type holds in its range: 0 to 255 for bytes, 0 to 1 for floats.
    fn nearest(value: f32) -> Self;
}

impl Channel for u8 {
    fn value(self) -> f32 {
        f32::from(self)
    }

    fn nearest(value: f32) -> Self {
        value.clamp(0.0, 255.0).round() as u8
    }
}

impl Channel for f32 {
    fn value(self) -> f32 {
        self
    }

    fn nearest(value: f32) -> Self {
        value.clamp(0.0, 1.0)
    }
}

/// The pixels behind one output position along an axis.
struct Taps {
    /// The first of them.
    first: usize,
    /// Their shares, which add up to 1.
    weights: Vec<f32>,
}

/// Resizes `rgb`, 3 channels a pixel, rows from the top, from one size (height, width) to another.
///
/// # Errors
/// [`Error::Internal`] when `rgb` is not of the first size, or a side is 0.
pub fn triangle<T: Channel>(rgb: &[T], from: [usize; 2], to: [usize; 2]) -> Result<Vec<T>> {
    let ([height, width], [h, w]) = (from, to);
    if rgb.len() != 3 * height * width || rgb.is_empty() || h * w == 0 {
        return Err(Error::internal(format!(
            "{} channels of an image of {height} × {width} to {h} × {w}",
            rgb.len()
        )));
    }
    if from == to {
        return Ok(rgb.to_vec());
    }
    let columns = taps(width, w);
    let mut out = Vec::with_capacity(3 * h * w);
    let mut line = vec![0.0f32; 3 * width];
    for row in taps(height, h) {
        // Rows first: `line` is one output row at the input's width.
        line.fill(0.0);
        for (i, &weight) in row.weights.iter().enumerate() {
            let pixels = &rgb[3 * width * (row.first + i)..][..3 * width];
            for (sum, &p) in line.iter_mut().zip(pixels) {
                *sum += p.value() * weight;
            }
        }
        for column in &columns {
            let pixels = line[3 * column.first..].chunks_exact(3);
            let mut sums = [0.0f32; 3];
            for (pixel, &weight) in pixels.zip(&column.weights) {
                for (sum, &p) in sums.iter_mut().zip(pixel) {
                    *sum += p * weight;
                }
            }
            out.extend(sums.map(T::nearest));
        }
    }
    Ok(out)
}

/// Which of `from` pixels make each of `to`.
fn taps(from: usize, to: usize) -> Vec<Taps> {
    let ratio = from as f32 / to as f32;
    // Half the filter's width, input pixels.
    let reach = ratio.max(1.0);
    let at = |i: usize| {
        let center = (i as f32 + 0.5) * ratio;
        let first = ((center - reach).floor().max(0.0) as usize).min(from - 1);
        let end = ((center + reach).ceil() as usize).clamp(first + 1, from);
        let share = |j: usize| (1.0 - ((j as f32 - (center - 0.5)) / reach).abs()).max(0.0);
        let mut weights: Vec<f32> = (first..end).map(share).collect();
        let sum: f32 = weights.iter().sum();
        weights.iter_mut().for_each(|w| *w /= sum);
        Taps { first, weights }
    };
    (0..to).map(at).collect()
}

#[cfg(test)]
mod tests {
    use image::imageops::{FilterType, resize};
    use image::{ImageBuffer, Pixel, Rgb};

    use super::*;
    use crate::device::philox::Rng;

    /// The same by the `image` crate.
    fn reference<P: Pixel + 'static>(
        pixels: &[P::Subpixel],
        from: [usize; 2],
        to: [usize; 2],
    ) -> Vec<P::Subpixel> {
        let [h, w, h2, w2] = [from[0], from[1], to[0], to[1]].map(|n| n as u32);
        let image = ImageBuffer::<P, _>::from_raw(w, h, pixels).unwrap();
        resize(&image, w2, h2, FilterType::Triangle).into_raw()
    }

    #[test]
    fn equals_the_image_crate_bit_for_bit() {
        let rng = Rng::seeded(3, 0, 0);
        let side = |i, most| 1 + rng.below(i, most) as usize;
        for case in 0..200 {
            let at = 4 * case;
            let from = [side(at, 60), side(at + 1, 60)];
            let to = [side(at + 2, 130), side(at + 3, 130)];
            let channels = 3 * from[0] * from[1];
            let bytes: Vec<u8> = (0..channels as u64)
                .map(|i| rng.below((case + 1) << 32 | i, 256) as u8)
                .collect();
            let floats: Vec<f32> = bytes.iter().map(|&b| f32::from(b) / 255.0).collect();
            let got = triangle(&bytes, from, to).unwrap();
            let want = reference::<Rgb<u8>>(&bytes, from, to);
            assert!(got == want, "bytes, {from:?} to {to:?}");
            let got = triangle(&floats, from, to).unwrap();
            let want = reference::<Rgb<f32>>(&floats, from, to);
            let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            assert!(bits(&got) == bits(&want), "floats, {from:?} to {to:?}");
        }
    }

    #[test]
    fn sizes_that_disagree_are_errors() {
        for (bytes, from, to) in [
            (11, [2, 2], [1, 1]),
            (0, [0, 4], [1, 1]),
            (12, [2, 2], [0, 5]),
        ] {
            assert!(triangle(&vec![0u8; bytes], from, to).is_err());
        }
    }
}
