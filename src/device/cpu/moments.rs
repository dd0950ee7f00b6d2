//! Moments of tiles of pixels: what [`crate::device::Op::ConvMoments`] takes of a finished map, and
//! how [`crate::device::Op::BatchNormMerge`] puts them together.

use rayon::prelude::*;

use super::super::View;
use super::element::Element;
use super::rows::pixel;
use super::simd::vectorised;
use crate::device::op::MOMENT_PIXELS;

/// Moments of every tile of a map, `[tile][mean of each channel, squares of each channel]`.
pub(super) fn of_tiles<T: Element>(data: &[T], view: &View, out: &mut [f32]) {
    let (pixels, channels) = (view.pixels(), view.channels());
    out.par_chunks_mut(2 * channels)
        .enumerate()
        .for_each(|(tile, out)| {
            let start = tile * MOMENT_PIXELS;
            let pixels = start..pixels.min(start + MOMENT_PIXELS);
            let mut scratch: Vec<Vec<f32>> = pixels.clone().map(|_| T::scratch(channels)).collect();
            let rows: Vec<&[f32]> = (pixels.zip(&mut scratch))
                .map(|(p, scratch)| T::read(pixel(data, view, p), scratch))
                .collect();
            let (mean, squares) = out.split_at_mut(channels);
            of_tile(&rows, mean, squares);
        });
}

vectorised! {
    /// Moments of one tile, its pixels in order; the order of sums is that of the operation's
    /// documentation.
    fn of_tile(rows: &[&[f32]], mean: &mut [f32], squares: &mut [f32]) {
        let (channels, n) = (mean.len(), rows.len() as f32);
        let first = &rows[0][..channels];
        let mut sums = vec![0.0f32; 4 * channels];
        for (p, row) in rows.iter().enumerate() {
            let sums = &mut sums[p % 4 * channels..][..channels];
            for ((sum, v), first) in sums.iter_mut().zip(*row).zip(first) {
                *sum += v - first;
            }
        }
        for (c, mean) in mean.iter_mut().enumerate() {
            let at = |i: usize| sums[i * channels + c];
            *mean = ((at(0) + at(1)) + (at(2) + at(3))) / n;
        }
        sums.fill(0.0);
        for (p, row) in rows.iter().enumerate() {
            let sums = &mut sums[p % 4 * channels..][..channels];
            for (((sum, v), first), mean) in sums.iter_mut().zip(*row).zip(first).zip(&*mean) {
                let off = (v - first) - mean;
                *sum += off * off;
            }
        }
        for (c, square) in squares.iter_mut().enumerate() {
            let at = |i: usize| sums[i * channels + c];
            *square = (at(0) + at(1)) + (at(2) + at(3));
        }
        for (mean, first) in mean.iter_mut().zip(first) {
            *mean += first;
        }
    }
}

/// Mean and sum of squared deviations of each channel of a map of `pixels`, from its tiles'
/// moments, in ascending order.
pub(super) fn merged(tiles: &[f32], pixels: usize, channels: usize) -> (Vec<f64>, Vec<f64>) {
    let tiles = || {
        let starts = (0..pixels).step_by(MOMENT_PIXELS);
        let sizes = starts.map(|start| MOMENT_PIXELS.min(pixels - start) as f64);
        sizes.zip(tiles.chunks(2 * channels))
    };
    let mut mean = vec![0.0; channels];
    for (n, tile) in tiles() {
        for (sum, &m) in mean.iter_mut().zip(tile) {
            *sum += n * f64::from(m);
        }
    }
    mean.iter_mut().for_each(|sum| *sum /= pixels as f64);
    let mut squares = vec![0.0; channels];
    for (n, tile) in tiles() {
        let (means, inner) = tile.split_at(channels);
        for (((sum, &m), &s), mean) in squares.iter_mut().zip(means).zip(inner).zip(&mean) {
            let off = f64::from(m) - mean;
            *sum += f64::from(s) + n * off * off;
        }
    }
    (mean, squares)
}

#[cfg(test)]
mod tests {
    use super::super::testing::noise;
    use super::*;
    use crate::device::{ArenaId, DType};

    /// Mean 1000, deviation 1, a last tile of 37 pixels: E[x²] − E[x]² in f32 would have no digit.
    #[test]
    fn a_large_mean_keeps_the_variance() {
        const PIXELS: usize = 70 * MOMENT_PIXELS + 37;
        const CHANNELS: usize = 3;
        let x: Vec<f32> = (noise(PIXELS * CHANNELS, 5).iter())
            .map(|v| 1000.0 + 3f32.sqrt() * v)
            .collect();
        let view = View::dense(ArenaId(0), 0, [1, 1, PIXELS, CHANNELS], DType::F32);
        let mut tiles = vec![f32::NAN; PIXELS.div_ceil(MOMENT_PIXELS) * 2 * CHANNELS];
        of_tiles(&x, &view, &mut tiles);
        let (mean, squares) = merged(&tiles, PIXELS, CHANNELS);
        for c in 0..CHANNELS {
            let values = || x.iter().skip(c).step_by(CHANNELS).map(|&v| f64::from(v));
            let want = values().sum::<f64>() / PIXELS as f64;
            let want_squares: f64 = values().map(|v| (v - want).powi(2)).sum();
            assert!((mean[c] - want).abs() < 2e-5, "{} is not {want}", mean[c]);
            let off = (squares[c] / want_squares - 1.0).abs();
            assert!(off < 1e-6, "{} is not {want_squares}", squares[c]);
        }
    }

    /// Channels that do not vary have no variance, to the bit.
    #[test]
    fn constants_have_no_squares() {
        let x = vec![0.1f32; 100];
        let view = View::dense(ArenaId(0), 0, [1, 1, 100, 1], DType::F32);
        let mut tiles = [f32::NAN; 4];
        of_tiles(&x, &view, &mut tiles);
        assert_eq!(tiles, [0.1, 0.0, 0.1, 0.0]);
    }
}
