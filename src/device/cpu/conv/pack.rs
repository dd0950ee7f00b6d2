//! Packing of operands into the panels that the micro-kernel reads.
//!
//! A matrix of `n` columns becomes panels of `nr` columns, `[panel][row][column]`, padded with
//! zeros; the last panel is narrow (`lanes` columns) when that is enough.

use rayon::prelude::*;

use super::micro::Isa;

/// Rows handled at a time when the panel is a transposition: their lines stay in cache.
const STRIP: usize = 16;

/// Splits packed panels into tasks: `(first column, columns, width, panel)`.
fn panels<'a>(
    isa: &Isa,
    depth: usize,
    columns: usize,
    packed: &'a mut [f32],
) -> impl IndexedParallelIterator<Item = (usize, usize, usize, &'a mut [f32])> {
    let nr = isa.nr();
    packed
        .par_chunks_mut((nr * depth).max(1))
        .enumerate()
        .map(move |(i, panel)| {
            let first = i * nr;
            let width = panel.len() / depth;
            (first, width.min(columns - first), width, panel)
        })
}

/// Weights `[K][depth]` with columns K and rows `depth`.
pub(super) fn forward(isa: &Isa, weights: &[f32], depth: usize, k: usize, packed: &mut [f32]) {
    panels(isa, depth, k, packed).for_each(|(first, columns, width, panel)| {
        for (strip, lines) in panel.chunks_mut(STRIP * width).enumerate() {
            let rows = lines.len() / width;
            for j in 0..width {
                if j >= columns {
                    lines
                        .iter_mut()
                        .skip(j)
                        .step_by(width)
                        .for_each(|x| *x = 0.0);
                    continue;
                }
                let values = &weights[(first + j) * depth + strip * STRIP..][..rows];
                for (line, &value) in lines.chunks_exact_mut(width).zip(values) {
                    line[j] = value;
                }
            }
        }
    });
}

/// Weights `[K][taps][C]` with columns C and rows `[taps][K]`.
pub(super) fn transposed(
    isa: &Isa,
    weights: &[f32],
    taps: usize,
    k: usize,
    c: usize,
    packed: &mut [f32],
) {
    panels(isa, taps * k, c, packed).for_each(|(first, columns, width, panel)| {
        for (row, line) in panel.chunks_exact_mut(width).enumerate() {
            let (tap, output) = (row / k, row % k);
            let start = (output * taps + tap) * c + first;
            line[..columns].copy_from_slice(&weights[start..start + columns]);
            line[columns..].fill(0.0);
        }
    });
}

/// Asks for the cache lines of `line`, which will be read soon: rows of a map that are far apart
/// are not foreseen by the processor.
pub(super) fn prefetch<T>(line: &[T]) {
    #[cfg(target_arch = "x86_64")]
    for piece in line.chunks(64 / size_of::<T>()) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint; every x86-64 processor has the instruction.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(piece.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = line;
}

/// Copies `line` into panels of `W` columns that are `stride` elements apart, zeros at the end.
fn scatter_line<const W: usize>(line: &[f32], panels: &mut [f32], stride: usize) {
    let (whole, rest) = line.as_chunks::<W>();
    for (i, piece) in whole.iter().enumerate() {
        panels[i * stride..][..W].copy_from_slice(piece);
    }
    if !rest.is_empty() {
        let tail = &mut panels[whole.len() * stride..][..W];
        tail.fill(0.0);
        tail[..rest.len()].copy_from_slice(rest);
    }
}

/// Row `row` of a packed matrix of panels of `width` columns that are `stride` elements apart.
pub(super) fn line(width: usize, stride: usize, row: usize, line: &[f32], packed: &mut [f32]) {
    let packed = &mut packed[row * width..];
    match width {
        4 => scatter_line::<4>(line, packed, stride),
        6 => scatter_line::<6>(line, packed, stride),
        8 => scatter_line::<8>(line, packed, stride),
        16 => scatter_line::<16>(line, packed, stride),
        32 => scatter_line::<32>(line, packed, stride),
        _ => {
            for (i, piece) in line.chunks(width).enumerate() {
                let (head, tail) = packed[i * stride..][..width].split_at_mut(piece.len());
                head.copy_from_slice(piece);
                tail.fill(0.0);
            }
        }
    }
}
