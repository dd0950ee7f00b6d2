//! The micro-kernel under every convolution: a small block of outputs kept in registers while a
//! run of the reduction passes by.
//!
//! `out[i][j] += Σ_k a_i[k] · b[k][j]` for `mr` rows and one panel of `nv · lanes` columns. The
//! rows of `a` are plain pointers, so pixels of an NHWC map are read where they lie: there is no
//! im2col and no packing of the map. `b` is a packed panel, `[k][column]`.
//!
//! Each output is a chain of multiply-adds from zero, in the order of `k`, that is then added to
//! what the output holds: long reductions come in stretches, and the error grows with the length
//! of a stretch and the number of stretches, not with their product. The caller cuts stretches by
//! the shapes alone, so blocking, threads and vector width (among machines with FMA) do not change
//! a bit.

use std::fmt;

use super::winograd::transform;

/// Most rows of any kernel.
pub(super) const MAX_ROWS: usize = 8;
/// Fewest rows of any kernel.
pub(super) const MIN_ROWS: usize = 4;
/// Most columns of any panel.
pub(super) const MAX_COLUMNS: usize = 32;

/// One run of the reduction: `len` steps of `a` against a stretch of the packed panel.
#[derive(Clone, Copy)]
pub(super) struct Run {
    /// One pointer per row; a packed kernel reads `a[0]` alone, as `[k][mr]`.
    pub a: [*const f32; MAX_ROWS],
    /// Step of the panel, `[step][columns]`, that the run starts at.
    pub step: usize,
}

impl Run {
    /// Placeholder, never read.
    pub(super) const EMPTY: Self = Self {
        a: [std::ptr::null(); MAX_ROWS],
        step: 0,
    };
}

/// Where a block of outputs lies.
#[derive(Clone, Copy)]
pub(super) struct Block {
    /// Start of each row; a full panel of columns is read (without `init`) and written.
    pub out: [*mut f32; MAX_ROWS],
    /// The packed panel that every run reads from.
    pub panel: *const f32,
    /// What every row is added to (a panel of columns); null adds to `out`.
    pub init: *const f32,
}

impl Block {
    /// A block with no rows yet.
    pub(super) fn new(panel: *const f32, init: *const f32) -> Self {
        Self {
            out: [std::ptr::null_mut(); MAX_ROWS],
            panel,
            init,
        }
    }
}

/// Runs, steps of each run, block.
///
/// # Safety
/// Every row of every run is readable for `len` steps, the panel for `len` steps from each run's
/// first, and the block's rows for a panel. The processor has the kernel's instruction set.
type Kernel = unsafe fn(&[Run], usize, &Block);

/// An instruction set: block shape and kernels.
#[derive(Clone, Copy)]
pub(super) struct Isa {
    /// Name.
    pub name: &'static str,
    /// Rows of a block.
    pub mr: usize,
    /// Columns of a narrow panel; a full one has twice as many.
    pub lanes: usize,
    /// Kernels with one pointer a row: narrow panel, full panel.
    pub rows: [Kernel; 2],
    /// Kernels with packed rows: narrow panel, full panel.
    pub packed: [Kernel; 2],
    /// Winograd's way there.
    pub input: transform::Input,
    /// Winograd's way back.
    pub output: transform::Output,
}

impl fmt::Debug for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Runs a kernel on a block of `rows × columns` outputs, which may be smaller than the kernel's:
/// such a block is finished in a buffer and only its own part is copied.
///
/// # Safety
/// As [`Kernel`], for `rows` rows of `columns` columns of the block.
pub(super) unsafe fn run(
    (kernel, mr, width): (Kernel, usize, usize),
    runs: &[Run],
    len: usize,
    block: &Block,
    (rows, columns): (usize, usize),
) {
    if rows == mr && columns == width {
        // SAFETY: the caller's promise.
        return unsafe { kernel(runs, len, block) };
    }
    let mut buffer = [0.0f32; MAX_ROWS * MAX_COLUMNS];
    let start = buffer.as_mut_ptr();
    let inner = Block {
        out: std::array::from_fn(|i| start.wrapping_add(i * MAX_COLUMNS)),
        panel: block.panel,
        init: block.init,
    };
    // SAFETY: the buffer holds a block of any kernel; the rest is the caller's promise.
    unsafe {
        for i in 0..rows {
            std::ptr::copy_nonoverlapping(block.out[i], inner.out[i], columns);
        }
        kernel(runs, len, &inner);
        for i in 0..rows {
            std::ptr::copy_nonoverlapping(inner.out[i], block.out[i], columns);
        }
    }
}

impl Isa {
    /// Columns of a full panel.
    pub(super) fn nr(&self) -> usize {
        2 * self.lanes
    }

    /// Columns that `n` columns occupy once packed: full panels, the last one narrow if it can be.
    pub(super) fn padded(&self, n: usize) -> usize {
        n.next_multiple_of(self.lanes)
    }

    /// The best instruction set of this processor.
    pub(super) fn detect() -> Self {
        *Self::available().first().unwrap_or(&PORTABLE)
    }

    /// Every instruction set that this processor can run, best first.
    pub(super) fn available() -> Vec<Self> {
        let mut all = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx512f") {
                all.push(x86::AVX512);
            }
            if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
                all.push(x86::AVX2);
            }
        }
        all.push(PORTABLE);
        all
    }
}

/// A vector at any address. (The unaligned-load intrinsics are a checked copy in debug builds,
/// which halves the speed of tests that run whole networks.)
#[repr(C, packed)]
struct Unaligned<V>(V);

/// The vector operations that kernels are written in.
pub(super) trait Simd {
    type V: Copy;
    const LANES: usize;
    fn zero() -> Self::V;
    /// The element at `p` in every lane.
    unsafe fn broadcast(p: *const f32) -> Self::V;
    /// `a + b`.
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    /// `a - b`.
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    /// Asks for the line at `p`, which will be read and written soon.
    fn prefetch(_p: *const f32) {}
    /// `a · b + c`.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;

    #[inline(always)]
    unsafe fn load(p: *const f32) -> Self::V {
        // SAFETY: the caller's: a vector is readable at `p`; any alignment will do.
        unsafe { (*p.cast::<Unaligned<Self::V>>()).0 }
    }

    #[inline(always)]
    unsafe fn store(p: *mut f32, v: Self::V) {
        // SAFETY: the caller's: a vector is writable at `p`; any alignment will do.
        unsafe { (*p.cast::<Unaligned<Self::V>>()).0 = v }
    }
}

/// The kernel: `MR` rows by `NV` vectors.
///
/// # Safety
/// See [`Kernel`].
// Plain counted loops: the compiler unrolls them and keeps `acc` in registers.
#[allow(clippy::needless_range_loop)]
#[inline(always)]
unsafe fn kernel<S: Simd, const MR: usize, const NV: usize, const PACKED: bool>(
    runs: &[Run],
    len: usize,
    block: &Block,
) {
    // SAFETY: the caller's promise covers every access; see `Kernel`.
    unsafe {
        let mut acc = [[S::zero(); NV]; MR];
        for out in &block.out[..MR] {
            for j in 0..NV {
                S::prefetch(out.wrapping_add(j * S::LANES));
            }
        }
        for run in runs {
            let mut a = [std::ptr::null(); MR];
            a.copy_from_slice(&run.a[..MR]);
            let mut b = block.panel.wrapping_add(run.step * NV * S::LANES);
            for k in 0..len {
                let mut column = [S::zero(); NV];
                for j in 0..NV {
                    column[j] = S::load(b.wrapping_add(j * S::LANES));
                }
                for i in 0..MR {
                    let x = if PACKED {
                        S::broadcast(a[0].wrapping_add(k * MR + i))
                    } else {
                        S::broadcast(a[i].wrapping_add(k))
                    };
                    for j in 0..NV {
                        acc[i][j] = S::fma(x, column[j], acc[i][j]);
                    }
                }
                b = b.wrapping_add(NV * S::LANES);
            }
        }
        for i in 0..MR {
            for j in 0..NV {
                let out = block.out[i].wrapping_add(j * S::LANES);
                let base = if block.init.is_null() {
                    S::load(out)
                } else {
                    S::load(block.init.wrapping_add(j * S::LANES))
                };
                S::store(out, S::add(base, acc[i][j]));
            }
        }
    }
}

/// One element, for the tails of rows.
pub(super) struct Scalar;

impl Simd for Scalar {
    type V = f32;
    const LANES: usize = 1;

    #[inline(always)]
    fn zero() -> f32 {
        0.0
    }

    #[inline(always)]
    unsafe fn broadcast(p: *const f32) -> f32 {
        // SAFETY: the caller's.
        unsafe { *p }
    }

    #[inline(always)]
    unsafe fn add(a: f32, b: f32) -> f32 {
        a + b
    }

    #[inline(always)]
    unsafe fn sub(a: f32, b: f32) -> f32 {
        a - b
    }

    #[inline(always)]
    unsafe fn fma(a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }
}

/// Any processor; the compiler vectorises the arrays as it can.
struct Portable;

impl Simd for Portable {
    type V = [f32; 8];
    const LANES: usize = 8;

    #[inline(always)]
    fn zero() -> Self::V {
        [0.0; 8]
    }

    #[inline(always)]
    unsafe fn broadcast(p: *const f32) -> Self::V {
        // SAFETY: the caller's.
        [unsafe { *p }; 8]
    }

    #[inline(always)]
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] - b[i])
    }

    #[inline(always)]
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }
}

const PORTABLE: Isa = Isa {
    name: "portable",
    mr: 4,
    lanes: 8,
    rows: [
        kernel::<Portable, 4, 1, false>,
        kernel::<Portable, 4, 2, false>,
    ],
    packed: [
        kernel::<Portable, 4, 1, true>,
        kernel::<Portable, 4, 2, true>,
    ],
    input: transform::input::<Portable>,
    output: transform::output::<Portable>,
};

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Block, Isa, Run, Simd, kernel, transform};

    macro_rules! simd {
        ($name:ident, $vector:ty, $lanes:literal, $zero:ident, $broadcast:ident, $add:ident, $sub:ident, $fma:ident) => {
            struct $name;

            impl Simd for $name {
                type V = $vector;
                const LANES: usize = $lanes;

                #[inline(always)]
                fn zero() -> Self::V {
                    // SAFETY: the instruction set was detected before the kernel was chosen.
                    unsafe { $zero() }
                }

                #[inline(always)]
                unsafe fn broadcast(p: *const f32) -> Self::V {
                    // SAFETY: as in `zero`; readable by the caller's promise. (A plain `*p`
                    // would be checked in debug builds, at half the speed of the loop.)
                    unsafe { $broadcast(_mm_load_ss(p)) }
                }

                #[inline(always)]
                unsafe fn add(a: Self::V, b: Self::V) -> Self::V {
                    // SAFETY: as in `zero`.
                    unsafe { $add(a, b) }
                }

                #[inline(always)]
                unsafe fn sub(a: Self::V, b: Self::V) -> Self::V {
                    // SAFETY: as in `zero`.
                    unsafe { $sub(a, b) }
                }

                #[inline(always)]
                fn prefetch(p: *const f32) {
                    // SAFETY: a hint, whatever the address.
                    unsafe { _mm_prefetch::<_MM_HINT_T0>(p.cast()) }
                }

                #[inline(always)]
                unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V {
                    // SAFETY: as in `zero`.
                    unsafe { $fma(a, b, c) }
                }
            }
        };
    }

    macro_rules! entry {
        ($name:ident, $features:literal, $simd:ty, $mr:literal, $nv:literal, $packed:literal) => {
            #[target_feature(enable = $features)]
            unsafe fn $name(runs: &[Run], len: usize, block: &Block) {
                // SAFETY: the caller's promise, see `Kernel`.
                unsafe { kernel::<$simd, $mr, $nv, $packed>(runs, len, block) }
            }
        };
    }

    macro_rules! transforms {
        ($input:ident, $output:ident, $features:literal, $simd:ty) => {
            #[target_feature(enable = $features)]
            unsafe fn $input(d: &[*const f32; 16], channels: usize, out: *mut f32, stride: usize) {
                // SAFETY: the caller's promise, see `transform::Input`.
                unsafe { transform::input::<$simd>(d, channels, out, stride) }
            }

            #[target_feature(enable = $features)]
            unsafe fn $output(sums: *const f32, stride: usize, columns: usize, out: *mut f32) {
                // SAFETY: the caller's promise, see `transform::Output`.
                unsafe { transform::output::<$simd>(sums, stride, columns, out) }
            }
        };
    }

    simd!(
        Ymm,
        __m256,
        8,
        _mm256_setzero_ps,
        _mm256_broadcastss_ps,
        _mm256_add_ps,
        _mm256_sub_ps,
        _mm256_fmadd_ps
    );
    entry!(avx2_rows_8, "avx2,fma", Ymm, 6, 1, false);
    entry!(avx2_rows_16, "avx2,fma", Ymm, 6, 2, false);
    entry!(avx2_packed_8, "avx2,fma", Ymm, 6, 1, true);
    entry!(avx2_packed_16, "avx2,fma", Ymm, 6, 2, true);
    transforms!(avx2_input, avx2_output, "avx2,fma", Ymm);

    /// 12 of the 16 registers hold outputs.
    pub(super) const AVX2: Isa = Isa {
        name: "avx2",
        mr: 6,
        lanes: 8,
        rows: [avx2_rows_8, avx2_rows_16],
        packed: [avx2_packed_8, avx2_packed_16],
        input: avx2_input,
        output: avx2_output,
    };

    simd!(
        Zmm,
        __m512,
        16,
        _mm512_setzero_ps,
        _mm512_broadcastss_ps,
        _mm512_add_ps,
        _mm512_sub_ps,
        _mm512_fmadd_ps
    );
    entry!(avx512_rows_16, "avx512f", Zmm, 8, 1, false);
    entry!(avx512_rows_32, "avx512f", Zmm, 8, 2, false);
    entry!(avx512_packed_16, "avx512f", Zmm, 8, 1, true);
    entry!(avx512_packed_32, "avx512f", Zmm, 8, 2, true);
    transforms!(avx512_input, avx512_output, "avx512f", Zmm);

    /// 16 of the 32 registers hold outputs: enough to hide the latency of the multiply-add, and
    /// eight row pointers still fit the general registers.
    pub(super) const AVX512: Isa = Isa {
        name: "avx512",
        mr: 8,
        lanes: 16,
        rows: [avx512_rows_16, avx512_rows_32],
        packed: [avx512_packed_16, avx512_packed_32],
        input: avx512_input,
        output: avx512_output,
    };
}
