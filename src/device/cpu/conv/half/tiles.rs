//! The tile operations that the AMX kernel is made of, and two who perform them: the processor,
//! and plain Rust that follows the architecture's description of each instruction. The kernel is
//! written once over [`Tiles`], so everything but the five instructions runs on any machine.

/// Rows of a tile; also f32 columns, and pairs of bf16 a row.
pub(super) const SIDE: usize = 16;
/// bf16 elements of a tile.
pub(super) const TILE: usize = SIDE * 2 * SIDE;

/// Eight tiles of 16 rows of 64 bytes.
pub(super) trait Tiles {
    /// Tiles in the shape that the kernel wants, on the calling thread.
    ///
    /// # Safety
    /// The processor has the tiles and the system permits them; [`Tiles::release`] follows on the
    /// same thread.
    unsafe fn configure() -> Self;

    /// Gives the tiles back: what the thread does next need not save them.
    ///
    /// # Safety
    /// After [`Tiles::configure`] on this thread.
    unsafe fn release(self);

    /// Tile `D` becomes 0.
    ///
    /// # Safety
    /// As [`Tiles::release`].
    unsafe fn zero<const D: usize>(&mut self);

    /// Loads tile `D` from rows `stride` bytes apart.
    ///
    /// # Safety
    /// As [`Tiles::release`]; the rows are readable.
    unsafe fn load<const D: usize>(&mut self, from: *const u8, stride: usize);

    /// Stores tile `S` to rows `stride` bytes apart.
    ///
    /// # Safety
    /// As [`Tiles::release`]; the rows are writable.
    unsafe fn store<const S: usize>(&mut self, to: *mut u8, stride: usize);

    /// `D[m][n] += Σ_k A[m][2k]·B[k][2n] + A[m][2k + 1]·B[k][2n + 1]`, A and B in bf16, D in f32.
    ///
    /// # Safety
    /// As [`Tiles::release`].
    unsafe fn dot<const D: usize, const A: usize, const B: usize>(&mut self);
}

/// The processor's tiles.
#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
pub(super) struct Amx;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx {
    use std::arch::asm;
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    use std::sync::LazyLock;

    use super::{Amx, SIDE, Tiles};

    /// Palette 1, and for each of eight tiles 64 bytes a row and 16 rows.
    #[repr(C, align(64))]
    struct Config([u8; 64]);

    static CONFIG: Config = {
        let mut bytes = [0; 64];
        bytes[0] = 1;
        let mut tile = 0;
        while tile < 8 {
            bytes[16 + 2 * tile] = 64;
            bytes[48 + tile] = SIDE as u8;
            tile += 1;
        }
        Config(bytes)
    };

    impl Amx {
        /// Whether the processor has bf16 tiles and the system lets this process use them. Asks
        /// the system once.
        pub(in super::super) fn available() -> bool {
            static AVAILABLE: LazyLock<bool> = LazyLock::new(|| present() && permitted());
            *AVAILABLE
        }
    }

    /// CPUID leaf 7: AMX-BF16 (EDX bit 22) and AMX-TILE (bit 24).
    fn present() -> bool {
        const BITS: u32 = 1 << 22 | 1 << 24;
        __cpuid(0).eax >= 7 && __cpuid_count(7, 0).edx & BITS == BITS
    }

    /// Asks Linux for the tiles' state: `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`. It
    /// holds for every thread of the process.
    fn permitted() -> bool {
        const ARCH_PRCTL: i64 = 158;
        const REQUEST_PERMISSION: i64 = 0x1023;
        const TILE_DATA: i64 = 18;
        let result: i64;
        // SAFETY: a system call that touches no memory of ours; it clobbers rcx and r11.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") ARCH_PRCTL => result,
                in("rdi") REQUEST_PERMISSION,
                in("rsi") TILE_DATA,
                out("rcx") _,
                out("r11") _,
                options(nostack),
            );
        }
        result == 0
    }

    // The compiler uses no tiles itself, so what they hold lives on from one block to the next,
    // and blocks of `asm!` keep their order.
    impl Tiles for Amx {
        #[inline(always)]
        unsafe fn configure() -> Self {
            // SAFETY: the caller's; the configuration is 64 readable bytes.
            unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIG, options(nostack)) };
            Self
        }

        #[inline(always)]
        unsafe fn release(self) {
            // SAFETY: the caller's.
            unsafe { asm!("tilerelease", options(nostack)) };
        }

        #[inline(always)]
        unsafe fn zero<const D: usize>(&mut self) {
            // SAFETY: the caller's.
            unsafe { asm!("tilezero tmm{d}", d = const D, options(nostack)) };
        }

        #[inline(always)]
        unsafe fn load<const D: usize>(&mut self, from: *const u8, stride: usize) {
            // SAFETY: the caller's.
            unsafe {
                asm!("tileloadd tmm{d}, [{from} + {stride}]", d = const D, from = in(reg) from,
                    stride = in(reg) stride, options(nostack));
            }
        }

        #[inline(always)]
        unsafe fn store<const S: usize>(&mut self, to: *mut u8, stride: usize) {
            // SAFETY: the caller's.
            unsafe {
                asm!("tilestored [{to} + {stride}], tmm{s}", s = const S, to = in(reg) to,
                    stride = in(reg) stride, options(nostack));
            }
        }

        #[inline(always)]
        unsafe fn dot<const D: usize, const A: usize, const B: usize>(&mut self) {
            // SAFETY: the caller's.
            unsafe {
                asm!("tdpbf16ps tmm{d}, tmm{a}, tmm{b}", d = const D, a = const A, b = const B,
                    options(nostack));
            }
        }
    }
}

#[cfg(test)]
pub(super) use emulated::Emulated;

/// The tiles in plain Rust, for tests.
#[cfg(test)]
mod emulated {
    use half::bf16;

    use super::{SIDE, Tiles};

    /// What the tiles hold.
    pub(in super::super) struct Emulated([[u8; 4 * SIDE * SIDE]; 8]);

    /// Flushes a subnormal number to 0 of its sign, as the tile unit does on the way in and out.
    fn flush(v: f32) -> f32 {
        if v.is_subnormal() {
            0.0f32.copysign(v)
        } else {
            v
        }
    }

    impl Emulated {
        fn half(&self, tile: usize, row: usize, i: usize) -> f32 {
            let at = row * 64 + 2 * i;
            flush(bf16::from_ne_bytes([self.0[tile][at], self.0[tile][at + 1]]).to_f32())
        }

        fn float(&self, tile: usize, row: usize, i: usize) -> f32 {
            let at = row * 64 + 4 * i;
            f32::from_ne_bytes(std::array::from_fn(|b| self.0[tile][at + b]))
        }
    }

    impl Tiles for Emulated {
        unsafe fn configure() -> Self {
            // Not zeros: the kernel must clear what it adds to.
            Self([[0x7F; 4 * SIDE * SIDE]; 8])
        }

        unsafe fn release(self) {}

        unsafe fn zero<const D: usize>(&mut self) {
            self.0[D].fill(0);
        }

        unsafe fn load<const D: usize>(&mut self, from: *const u8, stride: usize) {
            for (row, to) in self.0[D].chunks_exact_mut(64).enumerate() {
                // SAFETY: the caller's: the rows are readable.
                let line = unsafe { std::slice::from_raw_parts(from.add(row * stride), 64) };
                to.copy_from_slice(line);
            }
        }

        unsafe fn store<const S: usize>(&mut self, to: *mut u8, stride: usize) {
            for (row, from) in self.0[S].chunks_exact(64).enumerate() {
                // SAFETY: the caller's: the rows are writable.
                let line = unsafe { std::slice::from_raw_parts_mut(to.add(row * stride), 64) };
                line.copy_from_slice(from);
            }
        }

        /// Even and odd elements add up apart, each product and sum fused and rounded to nearest
        /// even; then their sum, then that on the destination.
        unsafe fn dot<const D: usize, const A: usize, const B: usize>(&mut self) {
            for m in 0..SIDE {
                for n in 0..SIDE {
                    let mut sums = [0.0f32; 2];
                    for k in 0..SIDE {
                        for (odd, sum) in sums.iter_mut().enumerate() {
                            let (a, b) =
                                (self.half(A, m, 2 * k + odd), self.half(B, k, 2 * n + odd));
                            *sum = flush(a.mul_add(b, *sum));
                        }
                    }
                    let sum = flush(flush(self.float(D, m, n)) + flush(sums[0] + sums[1]));
                    let at = m * 64 + 4 * n;
                    self.0[D][at..at + 4].copy_from_slice(&sum.to_ne_bytes());
                }
            }
        }
    }
}
