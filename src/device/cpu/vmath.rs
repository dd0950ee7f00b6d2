//! Vector arithmetic over channels: exp, ln, dot, softmax of one pixel.
//!
//! Written over fixed blocks of [`LANES`] so that the compiler vectorises it for any instruction
//! set and the order of every sum is the same on all of them.

use super::simd::vectorised;

/// Width of the blocks that sums run over.
pub(super) const LANES: usize = 8;

/// Logit of the channels that pad a pixel to a multiple of [`LANES`]: their exp is exactly 0.
pub(super) const PAD: f32 = -1e30;

/// Channels rounded up to whole blocks.
pub(super) const fn padded(channels: usize) -> usize {
    channels.next_multiple_of(LANES)
}

/// e^x for x ≤ 0, within 1e-7 relative; 0 below −87 (where e^x leaves the normal floats).
///
/// Range reduction to |r| ≤ ln 2 / 2 and the degree-5 minimax polynomial of Cephes' `expf`.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Adding 1.5·2²³ rounds to an integer that sits in the low mantissa bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_199_9e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let mantissa = p * r * r + r + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0f32.to_bits()));
    // NaN fails the comparison and stays NaN: a diverged network must not look like p = 0.
    if x < -87.0 { 0.0 } else { mantissa * power }
}

/// ln x for normal x > 0, within 1e-7 relative or absolute (Cephes' `logf`).
#[inline(always)]
pub(super) fn ln(x: f32) -> f32 {
    const SQRT_HALF: u32 = 0x3F35_04F3;
    // Split x = m·2^e with m in [√½, √2).
    let bits = x.to_bits().wrapping_sub(SQRT_HALF);
    let e = ((bits as i32) >> 23) as f32;
    let m = f32::from_bits((bits & 0x007F_FFFF).wrapping_add(SQRT_HALF)) - 1.0;
    let z = m * m;
    let mut p = 7.037_683_6e-2;
    p = p * m - 1.151_461e-1;
    p = p * m + 1.167_699_9e-1;
    p = p * m - 1.242_014_1e-1;
    p = p * m + 1.424_932_3e-1;
    p = p * m - 1.666_805_8e-1;
    p = p * m + 2.000_071_5e-1;
    p = p * m - 2.499_999_4e-1;
    p = p * m + 3.333_333e-1;
    let tail = m * z * p + e * -2.121_944_4e-4 - 0.5 * z;
    m + tail + e * 0.693_359_4
}

/// Sum of one block, pairwise.
#[inline(always)]
fn fold(v: [f32; LANES]) -> f32 {
    ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]))
}

/// Sum of a padded pixel, in blocks.
#[inline(always)]
fn sum(e: &[f32]) -> f32 {
    let mut sums = [0.0; LANES];
    for block in e.as_chunks::<LANES>().0 {
        for i in 0..LANES {
            sums[i] += block[i];
        }
    }
    fold(sums)
}

vectorised! {
    /// Σ a·b of two vectors of one length.
    pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
        let (a8, a_rest) = a.as_chunks::<LANES>();
        let (b8, b_rest) = b.as_chunks::<LANES>();
        let mut sums = [0.0; LANES];
        for (x, y) in a8.iter().zip(b8) {
            for i in 0..LANES {
                sums[i] += x[i] * y[i];
            }
        }
        let rest: f32 = a_rest.iter().zip(b_rest).map(|(x, y)| x * y).sum();
        fold(sums) + rest
    }
}

/// Softmax of one pixel, unnormalised.
#[derive(Clone, Copy)]
pub(super) struct Softmax {
    /// Channel of the largest logit, the lower one of equals.
    pub(super) argmax: usize,
    /// Largest logit.
    pub(super) max: f32,
    /// Σ e^(x − max) over the channels other than `argmax`. Keeping the 1 out of the sum keeps
    /// the digits of a confident pixel.
    pub(super) others: f32,
}

impl Softmax {
    /// Σ e^(x − max).
    #[inline(always)]
    pub(super) fn sum(self) -> f32 {
        1.0 + self.others
    }

    /// ln Σ e^(x − max).
    #[inline(always)]
    pub(super) fn ln_sum(self) -> f32 {
        self.others.ln_1p()
    }
}

/// The largest of a padded pixel's channels and where it is, the lower channel of equals.
#[inline(always)]
pub(super) fn arg_max(x: &[f32]) -> (usize, f32) {
    let (blocks, _) = x.as_chunks::<LANES>();
    let mut best = [f32::NEG_INFINITY; LANES];
    for block in blocks {
        for i in 0..LANES {
            best[i] = if block[i] > best[i] {
                block[i]
            } else {
                best[i]
            };
        }
    }
    let max = best
        .iter()
        .fold(f32::NEG_INFINITY, |m, &v| if v > m { v } else { m });
    let argmax = x.iter().position(|&v| v == max).unwrap_or(0);
    (argmax, max)
}

vectorised! {
    /// Softmax of a padded pixel: writes e^(x − max) to `e`.
    pub(super) fn softmax(x: &[f32], e: &mut [f32]) -> Softmax {
        let (argmax, max) = arg_max(x);
        // One plain loop: over fixed blocks the compiler unrolls it and leaves half of it scalar.
        for (x, e) in x.iter().zip(e.iter_mut()) {
            *e = exp(x - max);
        }
        let at_max = e[argmax];
        e[argmax] = 0.0;
        let others = sum(e);
        e[argmax] = at_max;
        Softmax {
            argmax,
            max,
            others,
        }
    }

    /// −Σ p·ln(p + eps) of a padded pixel from its softmax, which it uses up.
    pub(super) fn entropy(x: &[f32], e: &mut [f32], s: Softmax, log_eps: f32) -> f32 {
        let inverse = 1.0 / s.sum();
        if log_eps > 0.0 {
            for e in e.iter_mut() {
                let p = *e * inverse;
                *e = p * ln(p + log_eps);
            }
            -sum(e)
        } else {
            // H = ln Σe − Σ e·(x − max) / Σe: one logarithm instead of one per class.
            for (x, e) in x.iter().zip(e.iter_mut()) {
                *e *= x - s.max;
            }
            s.ln_sum() - sum(e) * inverse
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_accurate() {
        for i in 0..200_000 {
            let x = -86.9 * i as f32 / 200_000.0;
            let exact = f64::from(x).exp();
            assert!(((f64::from(exp(x)) - exact) / exact).abs() < 2e-7, "{x}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(PAD), 0.0);
        assert_eq!(exp(-90.0), 0.0);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn ln_is_accurate() {
        for i in 0..200_000 {
            let x = 10f32.powf(-10.0 + 11.0 * i as f32 / 200_000.0);
            let exact = f64::from(x).ln();
            let error = (f64::from(ln(x)) - exact).abs();
            assert!(error < 2e-7 * exact.abs().max(0.1), "{x}: {error}");
        }
        assert_eq!(ln(1.0), 0.0);
    }

    #[test]
    fn dot_takes_every_element() {
        for n in [0, 1, 7, 8, 9, 31] {
            let a: Vec<f32> = (0..n).map(|i| i as f32).collect();
            let b: Vec<f32> = (0..n).map(|i| (i % 3) as f32).collect();
            let exact: f32 = (0..n).map(|i| (i * (i % 3)) as f32).sum();
            assert_eq!(dot(&a, &b), exact);
        }
    }

    #[test]
    fn equal_logits_go_to_the_lower_class() {
        let mut x = [PAD; 8];
        x[1..4].copy_from_slice(&[2.0, 5.0, 5.0]);
        assert_eq!(arg_max(&x), (2, 5.0));
    }
}
