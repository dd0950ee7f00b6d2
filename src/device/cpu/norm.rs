//! Batch norm: training, inference and backward, fused with a residual sum and ReLU.
//!
//! Memory-bound, so the map is read as few times as the mathematics allows: once for the
//! statistics (mean, then squared deviations, chunk by chunk while the chunk is in cache; chunks
//! merged in f64 in order) and once to write the result.

use rayon::prelude::*;

use super::super::{Call, Shape, View};
use super::elementwise::{masked, rectify};
use super::memory::Ctx;
use super::rows::{
    for_pixels, ins, outs, pixel, refuse_accumulate, task_pixels, want_shape, want_vector,
};
use crate::error::{Error, Result};

/// Pixels per statistics chunk: the chunk stays in a core's cache between its two passes, and f32
/// sums stay short. Depends on the shape alone.
fn chunk_pixels(channels: usize) -> usize {
    (65_536 / channels.max(1)).clamp(64, 1024)
}

/// Channels merged by one task.
const MERGE_CHANNELS: usize = 64;

/// Per-chunk sums of two quantities per channel: `[chunk][2][C]`.
struct Partials {
    sums: Vec<f32>,
    channels: usize,
    pixels: usize,
    chunk: usize,
}

impl Partials {
    /// Runs `f(first pixel, end pixel, first sums, second sums)` on every chunk.
    fn collect(
        pixels: usize,
        channels: usize,
        f: impl Fn(usize, usize, &mut [f32], &mut [f32]) + Sync,
    ) -> Self {
        let chunk = chunk_pixels(channels);
        let mut sums = vec![0.0; pixels.div_ceil(chunk) * 2 * channels];
        sums.par_chunks_mut(2 * channels)
            .enumerate()
            .for_each(|(i, pair)| {
                let (first, second) = pair.split_at_mut(channels);
                f(i * chunk, pixels.min((i + 1) * chunk), first, second);
            });
        Self {
            sums,
            channels,
            pixels,
            chunk,
        }
    }

    /// Pixels of chunk `i`.
    fn len(&self, i: usize) -> usize {
        self.chunk.min(self.pixels - i * self.chunk)
    }

    /// Both sums of channel `c`, chunk by chunk: `(pixels, first, second)`.
    fn of(&self, c: usize) -> impl Iterator<Item = (f64, f64, f64)> + '_ {
        (self.sums.chunks(2 * self.channels).enumerate()).map(move |(i, pair)| {
            let [first, second] = [pair[c], pair[self.channels + c]].map(f64::from);
            (self.len(i) as f64, first, second)
        })
    }

    /// `f(channel)` for every channel, in parallel.
    fn per_channel<T: Send>(&self, f: impl Fn(usize) -> T + Sync + Send) -> Vec<T> {
        (0..self.channels)
            .into_par_iter()
            .with_min_len(MERGE_CHANNELS)
            .map(f)
            .collect()
    }
}

/// `sum[c] += Σ_pixels f(pixel, c)`, four pixels at a time to spare traffic on `sum`.
#[inline(always)]
fn sum_pixels(from: usize, to: usize, sum: &mut [f32], f: impl Fn(usize, usize) -> f32) {
    let mut p = from;
    while p + 4 <= to {
        for (c, s) in sum.iter_mut().enumerate() {
            *s += (f(p, c) + f(p + 1, c)) + (f(p + 2, c) + f(p + 3, c));
        }
        p += 4;
    }
    for p in p..to {
        for (c, s) in sum.iter_mut().enumerate() {
            *s += f(p, c);
        }
    }
}
