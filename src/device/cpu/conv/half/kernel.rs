//! The micro-kernels: a block of f32 sums kept in registers or tiles while bf16 operands pass by.
//!
//! Both operands come packed in tiles of 1 KiB. A tile of `a` holds 16 rows of 32 steps of the
//! reduction; a tile of `b` the same 32 steps of 16 columns, as 16 rows of 16 pairs, since the
//! instructions multiply pairs. What a block adds up, in what order, depends on the shapes and
//! the kernel alone.
//!
//! Rounding: both instructions round to nearest even and take subnormal numbers as 0. `vdpbf16ps`
//! adds the two products of a pair to the sum one after the other; `tdpbf16ps` adds the even and
//! the odd products of 32 steps apart and then both to the sum. So kernels differ from one another
//! in the last bits of f32, and agree exactly where all sums are integers below 2^24.

use half::bf16;

use super::tiles::{SIDE, TILE, Tiles};

/// Most rows of any group.
pub(super) const MAX_GROUP: usize = 2 * SIDE;
/// Columns of a full block.
pub(super) const COLUMNS: usize = 2 * SIDE;
/// Most tiles of any kernel's stretch.
pub(super) const MAX_STRETCH: usize = 16;

/// Consecutive tiles of the reduction.
#[derive(Clone, Copy)]
pub(super) struct Run {
    /// First tile of `a`, counted from the block's first.
    pub a: usize,
    /// First tile of `b`, likewise.
    pub b: usize,
    /// How many.
    pub tiles: usize,
}

impl Run {
    /// Placeholder, never read.
    pub(super) const EMPTY: Self = Self {
        a: 0,
        b: 0,
        tiles: 0,
    };
}

/// A group of rows times one or two panels of 16 columns.
#[derive(Clone, Copy)]
pub(super) struct Block {
    /// Tiles of `a`, `[step of the reduction][group / 16]`.
    pub a: *const bf16,
    /// Tiles of the first panel of `b`.
    pub b: *const bf16,
    /// Elements from a panel of `b` to the next.
    pub panel: usize,
    /// First sum; whole groups of rows and whole panels are read and written.
    pub out: *mut f32,
    /// Elements from a row of sums to the next.
    pub ld: usize,
    /// Rows that count.
    pub rows: usize,
    /// Two panels, not one.
    pub wide: bool,
    /// Start from 0, not from the sums that are there.
    pub fresh: bool,
}

/// Something that multiplies blocks.
pub(super) trait Kernel {
    /// Rows of a group, a multiple of 16.
    const GROUP: usize;
    /// Tiles of the reduction between loads and stores of the sums: two panels of `b` that long
    /// stay in the first-level cache.
    const STRETCH: usize;

    /// Prepares the calling thread.
    ///
    /// # Safety
    /// The processor has the kernel's instructions; [`Kernel::end`] follows on this thread.
    unsafe fn begin() -> Self;

    /// Adds `a · b` to a block.
    ///
    /// # Safety
    /// Between [`Kernel::begin`] and [`Kernel::end`]; the block's operands hold the runs' tiles.
    unsafe fn block(&mut self, runs: &[Run], block: &Block);

    /// Undoes [`Kernel::begin`].
    ///
    /// # Safety
    /// After [`Kernel::begin`] on this thread.
    unsafe fn end(self);
}

/// Blocks of 2 × 2 tiles: four of sums, two of each operand.
pub(super) struct TileKernel<T>(T);

impl<T: Tiles> Kernel for TileKernel<T> {
    const GROUP: usize = 2 * SIDE;
    const STRETCH: usize = 16;

    unsafe fn begin() -> Self {
        // SAFETY: the caller's.
        Self(unsafe { T::configure() })
    }

    unsafe fn block(&mut self, runs: &[Run], block: &Block) {
        // SAFETY: the caller's.
        unsafe {
            match (block.rows > SIDE, block.wide) {
                (true, true) => self.tiles::<true, true>(runs, block),
                (true, false) => self.tiles::<true, false>(runs, block),
                (false, true) => self.tiles::<false, true>(runs, block),
                (false, false) => self.tiles::<false, false>(runs, block),
            }
        }
    }

    unsafe fn end(self) {
        // SAFETY: the caller's.
        unsafe { self.0.release() };
    }
}

impl<T: Tiles> TileKernel<T> {
    /// Sums in tiles 0 to 3 (row by row), `a` in 4 and 5, `b` in 6 and 7.
    ///
    /// # Safety
    /// As [`Kernel::block`].
    #[inline(always)]
    unsafe fn tiles<const TALL: bool, const WIDE: bool>(&mut self, runs: &[Run], block: &Block) {
        let t = &mut self.0;
        let stride = 4 * block.ld;
        let right = block.out.wrapping_add(SIDE).cast::<u8>();
        let below = block.out.wrapping_add(SIDE * block.ld).cast::<u8>();
        let corner = block.out.wrapping_add(SIDE * block.ld + SIDE).cast::<u8>();
        // SAFETY: the caller's; a group of 32 rows has two tiles of `a` a step.
        unsafe {
            if block.fresh {
                t.zero::<0>();
                t.zero::<1>();
                t.zero::<2>();
                t.zero::<3>();
            } else {
                t.load::<0>(block.out.cast(), stride);
                if WIDE {
                    t.load::<1>(right, stride);
                }
                if TALL {
                    t.load::<2>(below, stride);
                }
                if TALL && WIDE {
                    t.load::<3>(corner, stride);
                }
            }
            for run in runs {
                let mut a = block.a.wrapping_add(run.a * 2 * TILE).cast::<u8>();
                let mut b = block.b.wrapping_add(run.b * TILE).cast::<u8>();
                for _ in 0..run.tiles {
                    t.load::<4>(a, 64);
                    t.load::<6>(b, 64);
                    t.dot::<0, 4, 6>();
                    if WIDE {
                        t.load::<7>(b.wrapping_add(2 * block.panel), 64);
                        t.dot::<1, 4, 7>();
                    }
                    if TALL {
                        t.load::<5>(a.wrapping_add(2 * TILE), 64);
                        t.dot::<2, 5, 6>();
                    }
                    if TALL && WIDE {
                        t.dot::<3, 5, 7>();
                    }
                    a = a.wrapping_add(4 * TILE);
                    b = b.wrapping_add(2 * TILE);
                }
            }
            t.store::<0>(block.out.cast(), stride);
            if WIDE {
                t.store::<1>(right, stride);
            }
            if TALL {
                t.store::<2>(below, stride);
            }
            if TALL && WIDE {
                t.store::<3>(corner, stride);
            }
        }
    }
}

/// `vdpbf16ps`: 8 rows by one or two vectors of sums.
#[cfg(target_arch = "x86_64")]
pub(super) struct Avx512;

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::arch::x86_64::*;

    use super::{Avx512, Block, Kernel, Run, SIDE, TILE};

    /// Rows of sums in registers: 16 of the 32 registers, which hides the latency.
    const ROWS: usize = 8;

    impl Kernel for Avx512 {
        const GROUP: usize = SIDE;
        const STRETCH: usize = 12;

        unsafe fn begin() -> Self {
            Self
        }

        unsafe fn block(&mut self, runs: &[Run], block: &Block) {
            // SAFETY: the caller's.
            unsafe {
                match block.wide {
                    true => rows::<2>(runs, block),
                    false => rows::<1>(runs, block),
                }
            }
        }

        unsafe fn end(self) {}
    }

    /// A vector at any address.
    #[repr(C, packed)]
    struct Unaligned<V>(V);

    #[inline(always)]
    unsafe fn load<V: Copy>(p: *const u8) -> V {
        // SAFETY: the caller's: a vector is readable at `p`.
        unsafe { (*p.cast::<Unaligned<V>>()).0 }
    }

    /// # Safety
    /// As [`Kernel::block`].
    // Plain counted loops: the compiler unrolls them and keeps `sums` in registers.
    #[allow(clippy::needless_range_loop)]
    #[target_feature(enable = "avx512f,avx512bf16")]
    unsafe fn rows<const NV: usize>(runs: &[Run], block: &Block) {
        for first in (0..block.rows).step_by(ROWS) {
            let out = block.out.wrapping_add(first * block.ld);
            let mut sums = [[_mm512_setzero_ps(); NV]; ROWS];
            let at = |i: usize, j: usize| out.wrapping_add(i * block.ld + j * SIDE);
            if !block.fresh {
                for i in 0..ROWS {
                    for j in 0..NV {
                        // SAFETY: whole groups and panels of sums are readable.
                        sums[i][j] = unsafe { load(at(i, j).cast()) };
                    }
                }
            }
            for run in runs {
                let a = block.a.wrapping_add(run.a * TILE + first * 2 * SIDE);
                let b = block.b.wrapping_add(run.b * TILE);
                for tile in 0..run.tiles {
                    let (a, b) = (a.wrapping_add(tile * TILE), b.wrapping_add(tile * TILE));
                    for pair in 0..SIDE {
                        let mut columns = [_mm512_setzero_si512(); NV];
                        for j in 0..NV {
                            let b = b.wrapping_add(j * block.panel + pair * 2 * SIDE);
                            // SAFETY: the panels hold the runs' tiles.
                            columns[j] = unsafe { load(b.cast()) };
                        }
                        for i in 0..ROWS {
                            let a = a.wrapping_add(i * 2 * SIDE + 2 * pair);
                            // SAFETY: the group holds the runs' tiles.
                            let a = _mm512_set1_epi32(unsafe { load::<i32>(a.cast()) });
                            for j in 0..NV {
                                sums[i][j] = dot(sums[i][j], a, columns[j]);
                            }
                        }
                    }
                }
            }
            for i in 0..ROWS {
                for j in 0..NV {
                    // SAFETY: whole groups and panels of sums are writable.
                    unsafe { (*at(i, j).cast::<Unaligned<__m512>>()).0 = sums[i][j] };
                }
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bf16")]
    fn dot(sum: __m512, a: __m512i, b: __m512i) -> __m512 {
        // SAFETY: both are 512 bits, of which any pattern is a value.
        let (a, b) = unsafe {
            (
                std::mem::transmute::<__m512i, __m512bh>(a),
                std::mem::transmute::<__m512i, __m512bh>(b),
            )
        };
        _mm512_dpbf16_ps(sum, a, b)
    }
}
