//! Packing of operands into the tiles that [`super::kernel`] multiplies, zeros in the margins.

use half::bf16;
use rayon::prelude::*;

use super::tiles::{SIDE, TILE};

/// Steps of the reduction that a tile covers.
pub(super) const STEPS: usize = 2 * SIDE;

/// Weights `[K][taps][C]`, columns K: panels of 16 columns, `[panel][tap][C / 32]` tiles.
pub(super) fn forward(weights: &[bf16], taps: usize, c: usize, k: usize, packed: &mut [bf16]) {
    let tiles = c.div_ceil(STEPS);
    packed
        .par_chunks_exact_mut(taps * tiles * TILE)
        .enumerate()
        .for_each(|(panel, packed)| {
            let columns = SIDE.min(k - panel * SIDE);
            // The tile as one of `a`: a row for each column, which is how the weights lie.
            let mut rows = [bf16::ZERO; TILE];
            for (i, tile) in packed.chunks_exact_mut(TILE).enumerate() {
                let (tap, first) = (i / tiles, i % tiles * STEPS);
                for column in 0..columns {
                    let start = ((panel * SIDE + column) * taps + tap) * c;
                    let line = &weights[start + first..start + c.min(first + STEPS)];
                    row(Some(line), column, TILE, &mut rows, 1);
                }
                transpose(&rows, tile);
            }
        });
}

/// Weights `[K][taps][C]`, columns C: panels of 16 columns, `[panel][tap][K / 32]` tiles.
pub(super) fn transposed(weights: &[bf16], taps: usize, k: usize, c: usize, packed: &mut [bf16]) {
    let tiles = k.div_ceil(STEPS);
    packed
        .par_chunks_exact_mut(taps * tiles * TILE)
        .enumerate()
        .for_each(|(panel, packed)| {
            let columns = SIDE.min(c - panel * SIDE);
            for (i, tile) in packed.chunks_exact_mut(TILE).enumerate() {
                let (tap, first) = (i / tiles, i % tiles * STEPS);
                let line = |step: usize| {
                    let start = ((first + step) * taps + tap) * c + panel * SIDE;
                    (first + step < k).then(|| &weights[start..start + columns])
                };
                for (pair, row) in tile.chunks_exact_mut(STEPS).enumerate() {
                    interleave(line(2 * pair), line(2 * pair + 1), row);
                }
            }
        });
}

/// A row of 16 pairs from two lines of up to 16 elements each.
#[inline(always)]
fn interleave(even: Option<&[bf16]>, odd: Option<&[bf16]>, row: &mut [bf16]) {
    if let (Some(Ok(even)), Some(Ok(odd))) = (
        even.map(<&[bf16; SIDE]>::try_from),
        odd.map(<&[bf16; SIDE]>::try_from),
    ) {
        for (i, pair) in row.chunks_exact_mut(2).enumerate() {
            pair[0] = even[i];
            pair[1] = odd[i];
        }
        return;
    }
    let at = |line: Option<&[bf16]>, i: usize| {
        line.and_then(|line| line.get(i)).map_or(bf16::ZERO, |&v| v)
    };
    for (i, pair) in row.chunks_exact_mut(2).enumerate() {
        pair[0] = at(even, i);
        pair[1] = at(odd, i);
    }
}

/// Row `row` of consecutive tiles `stride` elements apart, from a pixel's channels; zeros where
/// there is no pixel.
#[inline(always)]
pub(super) fn row(
    line: Option<&[bf16]>,
    row: usize,
    stride: usize,
    tiles: &mut [bf16],
    count: usize,
) {
    let mut whole = line.unwrap_or(&[]);
    for tile in 0..count {
        let to = &mut tiles[tile * stride + row * STEPS..][..STEPS];
        match whole.split_first_chunk::<STEPS>() {
            Some((steps, rest)) => {
                to.copy_from_slice(steps);
                whole = rest;
            }
            None => {
                to.fill(bf16::ZERO);
                to[..whole.len()].copy_from_slice(whole);
                whole = &[];
            }
        }
    }
}

/// Sixteen channels of 32 pixels as a tile of 16 steps' pairs (pixels are the reduction): the
/// tile of `b`, one per 16 channels of `lines`, `stride` elements apart.
pub(super) fn pairs(lines: &[Option<&[bf16]>; STEPS], stride: usize, tiles: &mut [bf16]) {
    let channels = lines.iter().flatten().map(|l| l.len()).max().unwrap_or(0);
    for (i, start) in (0..channels).step_by(SIDE).enumerate() {
        let tile = &mut tiles[i * stride..][..TILE];
        let end = channels.min(start + SIDE);
        for (pair, row) in lines.chunks_exact(2).zip(tile.chunks_exact_mut(STEPS)) {
            let [even, odd] = [pair[0], pair[1]].map(|line| line?.get(start..end));
            interleave(even, odd, row);
        }
    }
}

/// A tile of `b` as a tile of `a`: its 16 × 16 pairs transposed.
pub(super) fn transpose(from: &[bf16], to: &mut [bf16]) {
    debug_assert!(from.len() >= TILE && to.len() >= TILE);
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") {
        // SAFETY: the processor has the instructions; both slices hold a tile.
        unsafe { x86::transpose(from.as_ptr().cast(), to.as_mut_ptr().cast()) };
        return;
    }
    for (i, row) in to.chunks_exact_mut(STEPS).take(SIDE).enumerate() {
        for (j, pair) in row.chunks_exact_mut(2).enumerate() {
            pair.copy_from_slice(&from[j * STEPS + 2 * i..][..2]);
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    /// Transposes 16 × 16 words.
    ///
    /// # Safety
    /// 1 KiB is readable and writable.
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn transpose(from: *const i32, to: *mut i32) {
        // SAFETY: the caller's.
        let r: [__m512i; 16] =
            std::array::from_fn(|i| unsafe { _mm512_loadu_epi32(from.add(16 * i)) });
        let mut t = [_mm512_setzero_si512(); 16];
        for i in 0..8 {
            t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
            t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
        }
        // u[4q + p] holds, in lane l, column 4l + p of rows 4q to 4q + 3.
        let mut u = [_mm512_setzero_si512(); 16];
        for q in 0..4 {
            u[4 * q] = _mm512_unpacklo_epi64(t[4 * q], t[4 * q + 2]);
            u[4 * q + 1] = _mm512_unpackhi_epi64(t[4 * q], t[4 * q + 2]);
            u[4 * q + 2] = _mm512_unpacklo_epi64(t[4 * q + 1], t[4 * q + 3]);
            u[4 * q + 3] = _mm512_unpackhi_epi64(t[4 * q + 1], t[4 * q + 3]);
        }
        for p in 0..4 {
            let low = [
                _mm512_shuffle_i32x4::<0x88>(u[p], u[4 + p]),
                _mm512_shuffle_i32x4::<0x88>(u[8 + p], u[12 + p]),
            ];
            let high = [
                _mm512_shuffle_i32x4::<0xDD>(u[p], u[4 + p]),
                _mm512_shuffle_i32x4::<0xDD>(u[8 + p], u[12 + p]),
            ];
            let rows = [
                (p, _mm512_shuffle_i32x4::<0x88>(low[0], low[1])),
                (8 + p, _mm512_shuffle_i32x4::<0xDD>(low[0], low[1])),
                (4 + p, _mm512_shuffle_i32x4::<0x88>(high[0], high[1])),
                (12 + p, _mm512_shuffle_i32x4::<0xDD>(high[0], high[1])),
            ];
            for (row, v) in rows {
                // SAFETY: the caller's.
                unsafe { _mm512_storeu_epi32(to.add(16 * row), v) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transposed_tile_swaps_rows_and_pairs() {
        let from: Vec<bf16> = (0..TILE as u16).map(bf16::from_bits).collect();
        let mut to = vec![bf16::ZERO; TILE];
        transpose(&from, &mut to);
        for i in 0..SIDE {
            for j in 0..SIDE {
                for half in 0..2 {
                    let (a, b) = (to[i * STEPS + 2 * j + half], from[j * STEPS + 2 * i + half]);
                    assert_eq!(a.to_bits(), b.to_bits(), "{i} {j}");
                }
            }
        }
    }
}
