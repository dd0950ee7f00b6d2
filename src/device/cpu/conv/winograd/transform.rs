//! The transforms of one tile, channel by channel, in vectors.

use super::super::micro::{Scalar, Simd};

/// Sixteen rows of channels to sixteen frequencies that lie `stride` elements apart.
///
/// # Safety
/// `channels` elements are readable at each source and writable at each frequency.
pub(in super::super) type Input =
    unsafe fn(sources: &[*const f32; 16], channels: usize, out: *mut f32, stride: usize);

/// Sixteen frequencies, `stride` apart, to the four rows of a tile, `columns` apart. The number
/// of columns is a whole number of vectors.
///
/// # Safety
/// `columns` elements are readable at each frequency and `4 · columns` writable at `out`.
pub(in super::super) type Output =
    unsafe fn(sums: *const f32, stride: usize, columns: usize, out: *mut f32);

/// `Bᵀ d` of four values.
#[inline(always)]
unsafe fn spread<S: Simd>(d: [S::V; 4]) -> [S::V; 4] {
    // SAFETY: the caller's: the processor has the instruction set.
    unsafe {
        [
            S::sub(d[0], d[2]),
            S::add(d[1], d[2]),
            S::sub(d[2], d[1]),
            S::sub(d[1], d[3]),
        ]
    }
}

/// `Aᵀ m` of four values.
#[inline(always)]
unsafe fn gather<S: Simd>(m: [S::V; 4]) -> [S::V; 2] {
    // SAFETY: the caller's: the processor has the instruction set.
    unsafe {
        [
            S::add(S::add(m[0], m[1]), m[2]),
            S::sub(S::sub(m[1], m[2]), m[3]),
        ]
    }
}

/// One vector of [`Input`].
// Plain counted loops: the compiler unrolls them and keeps the patch in registers.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
unsafe fn input_vector<S: Simd>(d: &[*const f32; 16], c: usize, out: *mut f32, stride: usize) {
    // SAFETY: the caller's promise, see `Input`.
    unsafe {
        let mut rows = [[S::zero(); 4]; 4];
        for (i, row) in rows.iter_mut().enumerate() {
            let load = |j: usize| S::load(d[4 * i + j].wrapping_add(c));
            *row = spread::<S>([load(0), load(1), load(2), load(3)]);
        }
        for j in 0..4 {
            let column = spread::<S>([rows[0][j], rows[1][j], rows[2][j], rows[3][j]]);
            for (i, v) in column.into_iter().enumerate() {
                S::store(out.wrapping_add((4 * i + j) * stride + c), v);
            }
        }
    }
}

/// [`Input`], for every instruction set.
#[inline(always)]
pub(in super::super) unsafe fn input<S: Simd>(
    sources: &[*const f32; 16],
    channels: usize,
    out: *mut f32,
    stride: usize,
) {
    let whole = channels - channels % S::LANES;
    for c in (0..whole).step_by(S::LANES) {
        // SAFETY: the caller's promise; a whole vector is left.
        unsafe { input_vector::<S>(sources, c, out, stride) };
    }
    for c in whole..channels {
        // SAFETY: the caller's promise.
        unsafe { input_vector::<Scalar>(sources, c, out, stride) };
    }
}

/// [`Output`], for every instruction set.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
pub(in super::super) unsafe fn output<S: Simd>(
    sums: *const f32,
    stride: usize,
    columns: usize,
    out: *mut f32,
) {
    for c in (0..columns).step_by(S::LANES) {
        // SAFETY: the caller's promise, see `Output`.
        unsafe {
            let mut rows = [[S::zero(); 2]; 4];
            for (i, row) in rows.iter_mut().enumerate() {
                let load = |j: usize| S::load(sums.wrapping_add((4 * i + j) * stride + c));
                *row = gather::<S>([load(0), load(1), load(2), load(3)]);
            }
            for j in 0..2 {
                let column = gather::<S>([rows[0][j], rows[1][j], rows[2][j], rows[3][j]]);
                for (i, v) in column.into_iter().enumerate() {
                    S::store(out.wrapping_add((2 * i + j) * columns + c), v);
                }
            }
        }
    }
}
