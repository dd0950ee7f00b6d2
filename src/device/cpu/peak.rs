//! What the cores can do at most: multiply-adds that never leave the registers.
//!
//! The yardstick of the benchmarks (`bench::ceilings`), not part of any operation. Every loop keeps
//! enough independent sums in flight to hide the latency of its instruction.

use std::hint::black_box;
use std::time::Instant;

/// Arithmetic whose peak is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arithmetic {
    /// f32 products, f32 sums.
    F32,
    /// bf16 products in pairs, f32 sums; `None` where the processor has no such instruction.
    Bf16,
}

/// Independent sums.
const SUMS: usize = 16;
/// Rounds of `SUMS` instructions between looks at the clock.
const ROUNDS: usize = 20_000;

/// A loop of `ROUNDS` rounds, its FLOPs a call, and the instruction it repeats.
struct Loop {
    run: fn() -> f32,
    flops: f64,
    instruction: &'static str,
}

/// FLOP/s of `threads` threads together over about `seconds`, and the instruction that made them.
pub fn peak(arithmetic: Arithmetic, threads: usize, seconds: f64) -> Option<(f64, &'static str)> {
    let kernel = choose(arithmetic)?;
    let rates = std::thread::scope(|scope| {
        let count = threads.max(1);
        let workers: Vec<_> = (0..count)
            .map(|_| scope.spawn(|| rate(&kernel, seconds)))
            .collect();
        let rates = workers.into_iter().map(|w| w.join().unwrap_or(0.0));
        rates.sum::<f64>()
    });
    Some((rates, kernel.instruction))
}

/// The best of the calls that fit: an interrupted one says nothing of the core.
fn rate(kernel: &Loop, seconds: f64) -> f64 {
    let start = Instant::now();
    let mut best = 0.0f64;
    loop {
        let call = Instant::now();
        black_box((kernel.run)());
        best = best.max(kernel.flops / call.elapsed().as_secs_f64().max(1e-9));
        if start.elapsed().as_secs_f64() >= seconds {
            return best;
        }
    }
}

fn flops(lanes: usize, per_lane: usize) -> f64 {
    (ROUNDS * SUMS * lanes * per_lane) as f64
}

#[cfg(target_arch = "x86_64")]
fn choose(arithmetic: Arithmetic) -> Option<Loop> {
    let wide = is_x86_feature_detected!("avx512f");
    match arithmetic {
        Arithmetic::Bf16 if wide && is_x86_feature_detected!("avx512bf16") => Some(Loop {
            // SAFETY: the processor has the instructions.
            run: || unsafe { x86::bf16() },
            flops: flops(16, 4),
            instruction: "AVX-512 bf16 dot products",
        }),
        Arithmetic::Bf16 => None,
        Arithmetic::F32 if wide => Some(Loop {
            // SAFETY: as above.
            run: || unsafe { x86::avx512() },
            flops: flops(16, 2),
            instruction: "AVX-512 multiply-adds",
        }),
        Arithmetic::F32 if is_x86_feature_detected!("fma") && is_x86_feature_detected!("avx2") => {
            Some(Loop {
                // SAFETY: as above.
                run: || unsafe { x86::avx2() },
                flops: flops(8, 2),
                instruction: "AVX2 multiply-adds",
            })
        }
        Arithmetic::F32 => Some(portable()),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn choose(arithmetic: Arithmetic) -> Option<Loop> {
    match arithmetic {
        Arithmetic::Bf16 => None,
        Arithmetic::F32 => Some(portable()),
    }
}

/// What the compiler makes of a product and a sum.
fn portable() -> Loop {
    const LANES: usize = 4;
    Loop {
        run: || {
            let (a, b) = (black_box([0.5f32; LANES]), black_box([0.25f32; LANES]));
            let mut sums = [[1.0f32; LANES]; SUMS];
            for _ in 0..ROUNDS {
                for sum in &mut sums {
                    for (i, s) in sum.iter_mut().enumerate() {
                        *s = *s * a[i] + b[i];
                    }
                }
            }
            sums.iter().flatten().sum()
        },
        flops: flops(LANES, 2),
        instruction: "products and sums of the portable build",
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    use super::{ROUNDS, SUMS};

    #[target_feature(enable = "avx512f")]
    pub(super) fn avx512() -> f32 {
        let (a, b) = black_box((_mm512_set1_ps(0.5), _mm512_set1_ps(0.25)));
        let mut sums = [_mm512_set1_ps(1.0); SUMS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm512_fmadd_ps(*sum, a, b);
            }
        }
        let total = sums.iter().fold(a, |t, s| _mm512_add_ps(t, *s));
        _mm512_reduce_add_ps(total)
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) fn bf16() -> f32 {
        let (a, b) = black_box((_mm512_set1_ps(1e-3), _mm512_set1_ps(2e-3)));
        let (a, b) = (_mm512_cvtne2ps_pbh(a, a), _mm512_cvtne2ps_pbh(b, b));
        let mut sums = [_mm512_set1_ps(1.0); SUMS];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                *sum = _mm512_dpbf16_ps(*sum, a, b);
            }
        }
        let total = sums.iter().fold(sums[0], |t, s| _mm512_add_ps(t, *s));
        _mm512_reduce_add_ps(total)
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn avx2() -> f32 {
        // Twelve sums and two factors: what sixteen registers hold.
        let (a, b) = black_box((_mm256_set1_ps(0.5), _mm256_set1_ps(0.25)));
        let mut sums = [_mm256_set1_ps(1.0); SUMS * 3 / 4];
        for _ in 0..ROUNDS * 4 / 3 {
            for sum in &mut sums {
                *sum = _mm256_fmadd_ps(*sum, a, b);
            }
        }
        let total = sums.iter().fold(a, |t, s| _mm256_add_ps(t, *s));
        let mut lanes = [0.0f32; 8];
        // SAFETY: eight floats of room.
        unsafe { _mm256_storeu_ps(lanes.as_mut_ptr(), total) };
        lanes.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_loop_of_this_machine_ends_in_a_number() {
        for arithmetic in [Arithmetic::F32, Arithmetic::Bf16] {
            let Some(kernel) = choose(arithmetic) else {
                assert_eq!(arithmetic, Arithmetic::Bf16);
                continue;
            };
            assert!((kernel.run)().is_finite(), "{}", kernel.instruction);
        }
        assert!((portable().run)().is_finite());
    }
}
