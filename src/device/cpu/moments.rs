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
