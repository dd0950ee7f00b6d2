//! Weights, transformed (`G g Gᵀ`) and packed as `[panel][frequency][channel][column]`.

use rayon::prelude::*;

use super::super::micro::{Isa, MAX_COLUMNS};
use crate::device::cpu::simd::vectorised;

/// Channels handled at a time: their nine taps stay in the first-level cache.
const STRIP: usize = 16;

/// The nine taps of a strip, `[tap][channel][column]`.
type Taps = [[[f32; MAX_COLUMNS]; STRIP]; 9];

/// Transforms weights `[K][3][3][C]`. Plain: channels are C and columns K. Turned (the data
/// gradient): channels are K, columns C, and the kernel is turned by 180 degrees.
pub(super) fn pack(
    isa: &Isa,
    weights: &[f32],
    turned: bool,
    channels: usize,
    outputs: usize,
    packed: &mut [f32],
) {
    let nr = isa.nr();
    packed
        .par_chunks_mut(16 * channels * nr)
        .enumerate()
        .for_each(|(i, panel)| {
            let width = panel.len() / (16 * channels);
            let columns = i * nr..outputs.min(i * nr + width);
            let mut taps: Taps = [[[0.0; MAX_COLUMNS]; STRIP]; 9];
            for first in (0..channels).step_by(STRIP) {
                let strip = first..channels.min(first + STRIP);
                if turned {
                    for (row, k) in strip.clone().enumerate() {
                        for (tap, rows) in taps.iter_mut().rev().enumerate() {
                            let from = (k * 9 + tap) * outputs;
                            let line = &weights[from + columns.start..from + columns.end];
                            rows[row][..line.len()].copy_from_slice(line);
                        }
                    }
                } else {
                    for (column, k) in columns.clone().enumerate() {
                        for (tap, rows) in taps.iter_mut().enumerate() {
                            let from = (k * 9 + tap) * channels;
                            let line = &weights[from + strip.start..from + strip.end];
                            for (row, &value) in rows.iter_mut().zip(line) {
                                row[column] = value;
                            }
                        }
                    }
                }
                for (row, c) in strip.enumerate() {
                    for j in (0..width).step_by(isa.lanes.min(width)) {
                        transform(
                            &taps,
                            row,
                            j,
                            isa.lanes,
                            &mut panel[c * width + j..],
                            channels * width,
                        );
                    }
                }
            }
        });
}

/// `G g` of three values.
#[inline(always)]
fn widen(g: [f32; 3]) -> [f32; 4] {
    let outer = g[0] + g[2];
    [g[0], 0.5 * (outer + g[1]), 0.5 * (outer - g[1]), g[2]]
}

vectorised! {
    /// One row of channels, `lanes` columns from `column`; frequencies are `stride` apart.
    // The loop over lanes is the one that becomes a vector.
    #[allow(clippy::needless_range_loop)]
    fn transform(taps: &Taps, row: usize, column: usize, lanes: usize, out: &mut [f32], stride: usize) {
        const LANES: usize = 8;
        for piece in (0..lanes).step_by(LANES) {
            let mut all = [[0.0f32; LANES]; 16];
            for lane in 0..LANES {
                let at = column + piece + lane;
                let g = |r: usize| widen([taps[3 * r][row][at], taps[3 * r + 1][row][at], taps[3 * r + 2][row][at]]);
                let rows = [g(0), g(1), g(2)];
                for j in 0..4 {
                    let u = widen([rows[0][j], rows[1][j], rows[2][j]]);
                    for i in 0..4 {
                        all[4 * i + j][lane] = u[i];
                    }
                }
            }
            for (f, values) in all.iter().enumerate() {
                out[f * stride + piece..][..LANES].copy_from_slice(values);
            }
        }
    }
}
