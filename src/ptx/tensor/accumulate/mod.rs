//! D = A·B + C as tensor cores add it.
//!
//! The PTX manual leaves order and rounding of the additions open. Three models:
//!
//! * `ieee`: products (exact in f32) are added to the accumulator one by one, in order of k, each
//!   sum rounded to nearest. No silicon does that; it is the model without an architecture.
//! * `ampere`, `hopper`: a *fused* addition. The exact products of a block of k terms and the
//!   accumulator are aligned to the largest exponent among them, each cut (towards zero) below a
//!   fixed number of fraction bits, added exactly, and the sum is cut to f32. An f16 accumulator
//!   is rounded to nearest even instead.
//!
//! | | terms f16, bf16 | terms tf32 | terms of 8 bits | fraction bits kept |
//! |---|---|---|---|---|
//! | `ampere` | 8 | 4 | none: as `ieee` | 24 |
//! | `hopper` | 16 | 8 | 32 | 25; of 8-bit floats 13, in the sum too |
//!
//! Sources: block sizes and "alignment bits beyond f32's 23" (1 and 2) agree in Xie et al.,
//! "MMA-Sim" (arXiv 2511.10909: bitwise equal to A100 and H100 on random and targeted inputs) and
//! Khattak & Mikaitis, "Accurate Models of NVIDIA Tensor Cores" (arXiv 2512.07004); that Ampere
//! truncates with one extra bit was first seen by Fasi et al. (PeerJ CS 2021) and Li et al.
//! ("FTTN", 2024). From MMA-Sim alone: a product's exponent is the sum of its factors' exponents
//! (the significand may reach 4, unnormalised), a zero factor counts with exponent -126, a
//! subnormal one with its type's smallest exponent, NaN comes out as 0x7FFFFFFF, and an exact zero
//! is +0. The same rule holds on Hopper for `mma.sync` and `wgmma`. That 8-bit floats keep 13
//! fraction bits is also what DeepSeek-AI report of H800 ("DeepSeek-V3 Technical Report", 2024).
//!
//! Integers are added exactly, whatever the model.

mod tile;

use super::element::Element;
pub use tile::{COLUMNS, tile};

/// How products are added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Accumulation {
    /// One by one in order of k, each sum rounded to nearest even in f32.
    Ieee,
    /// A100: 8 (tf32: 4) terms at once, 24 fraction bits.
    Ampere,
    /// H100: 16 (tf32: 8) terms at once, 25 fraction bits.
    Hopper,
}

impl Accumulation {
    /// The model of this name (`ieee`, `ampere`, `hopper`).
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "ieee" => Some(Self::Ieee),
            "ampere" => Some(Self::Ampere),
            "hopper" => Some(Self::Hopper),
            _ => None,
        }
    }

    /// The name that [`Accumulation::named`] takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ieee => "ieee",
            Self::Ampere => "ampere",
            Self::Hopper => "hopper",
        }
    }

    /// How terms are added at once; `None` where they are added one by one.
    fn fused(self, element: Element) -> Option<Fused> {
        let bytes = element.bytes() as usize;
        match self {
            Self::Ieee => None,
            Self::Ampere if bytes == 1 => None,
            Self::Ampere => Some(Fused {
                terms: 16 / bytes,
                fraction: 24,
                kept: 23,
            }),
            Self::Hopper => Some(Fused {
                terms: 32 / bytes,
                fraction: if bytes == 1 { 13 } else { 25 },
                kept: if bytes == 1 { 13 } else { 23 },
            }),
        }
    }
}

/// A fused addition.
#[derive(Clone, Copy)]
struct Fused {
    /// Terms that are added at once.
    terms: usize,
    /// Fraction bits of the largest term that the others keep.
    fraction: i32,
    /// Fraction bits of the sum.
    kept: u32,
}

/// What an accumulator is stored as. Values travel as f32 either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sum {
    /// 32 bits.
    F32,
    /// 16 bits.
    F16,
    /// An integer of 32 bits: see [`multiply_add_integers`].
    S32,
}

/// `d += a · b` of integers: exact, and wrapped to 32 bits or clamped to them. Slices as those of
/// [`multiply_add`].
pub fn multiply_add_integers(
    shape: Shape,
    clamp: bool,
    a: impl Fn(usize) -> i32,
    b: impl Fn(usize) -> i32,
    d: &mut [i32],
) {
    let Shape { m, n, k } = shape;
    for row in 0..m {
        for column in 0..n {
            let dot: i64 = (0..k)
                .map(|term| i64::from(a(row * k + term)) * i64::from(b(term * n + column)))
                .sum();
            let place = &mut d[row * n + column];
            let sum = i64::from(*place) + dot;
            *place = match clamp {
                true => sum.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32,
                false => sum as i32,
            };
        }
    }
}

/// The shape of a product: `A[m][k]`, `B[k][n]`, `D[m][n]`, all row-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Rows of A and D.
    pub m: usize,
    /// Columns of B and D.
    pub n: usize,
    /// Columns of A, rows of B.
    pub k: usize,
}

/// `d += a · b` of elements of A's and B's types. `a` holds m·k and `b` k·n element bits, `d` m·n
/// values (of `sum`'s precision).
///
/// # Panics
/// If a slice is shorter than `shape` says; the callers' slices come from fixed fragment sizes.
pub fn multiply_add(
    model: Accumulation,
    elements: [Element; 2],
    sum: Sum,
    shape: Shape,
    a: &[u32],
    b: &[u32],
    d: &mut [f32],
) {
    let Shape { m, n, k } = shape;
    assert!(a.len() >= m * k && b.len() >= k * n && d.len() >= m * n);
    // A multiple of the terms that any model adds at once.
    const K: usize = 32;
    let mut left = vec![[0; K]; m];
    for start in (0..k).step_by(K) {
        let terms = (k - start).min(K);
        for (row, left) in left.iter_mut().enumerate() {
            left[..terms].copy_from_slice(&a[row * k + start..][..terms]);
        }
        for first in (0..n).step_by(COLUMNS) {
            let columns = (n - first).min(COLUMNS);
            let (mut right, mut sums) = ([[0; COLUMNS]; K], vec![[0.0; COLUMNS]; m]);
            for (term, right) in right.iter_mut().enumerate().take(terms) {
                right[..columns].copy_from_slice(&b[(start + term) * n + first..][..columns]);
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                sums[..columns].copy_from_slice(&d[row * n + first..][..columns]);
            }
            tile(model, elements, sum, terms, &left, &right, &mut sums);
            for (row, sums) in sums.iter().enumerate() {
                d[row * n + first..][..columns].copy_from_slice(&sums[..columns]);
            }
        }
    }
}

/// Infinities and NaN follow the usual rules; every NaN comes out as the canonical one.
fn not_finite(left: &[f32], right: impl Fn(usize) -> f32, d: f32) -> f32 {
    let sum: f64 = left
        .iter()
        .enumerate()
        .map(|(term, &l)| f64::from(l) * f64::from(right(term)))
        .sum();
    let sum = sum + f64::from(d);
    if sum.is_nan() {
        f32::from_bits(0x7FFF_FFFF)
    } else {
        sum as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bf16(v: f32) -> u32 {
        u32::from(half::bf16::from_f32(v).to_bits())
    }

    fn dot(model: Accumulation, a: &[f32], b: &[f32], c: f32) -> f32 {
        let (a, b): (Vec<u32>, Vec<u32>) = (
            a.iter().map(|&v| bf16(v)).collect(),
            b.iter().map(|&v| bf16(v)).collect(),
        );
        let mut d = [c];
        multiply_add(
            model,
            [Element::Bf16; 2],
            Sum::F32,
            Shape {
                m: 1,
                n: 1,
                k: a.len(),
            },
            &a,
            &b,
            &mut d,
        );
        d[0]
    }

    /// A small generator: no test draws from the system.
    fn draw(state: &mut u64) -> f32 {
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (*state >> 40) as f32 / (1u64 << 24) as f32
    }

    #[test]
    fn small_integers_are_exact_in_every_model() {
        let mut state = 1;
        for model in [
            Accumulation::Ieee,
            Accumulation::Ampere,
            Accumulation::Hopper,
        ] {
            let a: Vec<f32> = (0..16)
                .map(|_| (draw(&mut state) * 17.0).floor() - 8.0)
                .collect();
            let b: Vec<f32> = (0..16)
                .map(|_| (draw(&mut state) * 17.0).floor() - 8.0)
                .collect();
            let exact: f32 = a.iter().zip(&b).map(|(a, b)| a * b).sum::<f32>() + 5.0;
            assert_eq!(dot(model, &a, &b, 5.0), exact, "{model:?}");
        }
    }

    #[test]
    fn bits_below_the_kept_fraction_are_cut() {
        // Beside 1, four quarters of a unit: kept whole by 25 fraction bits, half by 24, none by 23.
        let tiny = 2f32.powi(-25);
        let one = [1.0, tiny, tiny, tiny, tiny, 0.0, 0.0, 0.0];
        let all = [1.0; 8];
        assert_eq!(
            dot(Accumulation::Hopper, &one, &all, 0.0),
            1.0 + 2f32.powi(-23)
        );
        assert_eq!(dot(Accumulation::Ampere, &one, &all, 0.0), 1.0);
        let halves = [1.0, 2.0 * tiny, 2.0 * tiny, 0.0, 0.0, 0.0, 0.0, 0.0];
        assert_eq!(
            dot(Accumulation::Ampere, &halves, &all, 0.0),
            1.0 + 2f32.powi(-23)
        );
        // The sum itself is cut, not rounded.
        let three = [1.0, 2.0 * tiny, tiny, 0.0, 0.0, 0.0, 0.0, 0.0];
        assert_eq!(dot(Accumulation::Hopper, &three, &all, 0.0), 1.0);
        assert_eq!(
            dot(Accumulation::Hopper, &three.map(|v| -v), &all, 0.0),
            -1.0
        );
    }

    #[test]
    fn blocks_differ_between_the_models() {
        // The large pair cancels only where both stand in one block.
        let mut a = [0.0; 16];
        (a[0], a[1], a[15]) = (2f32.powi(30), 1.0, -(2f32.powi(30)));
        let all = [1.0; 16];
        assert_eq!(dot(Accumulation::Hopper, &a, &all, 0.0), 0.0);
        assert_eq!(dot(Accumulation::Ieee, &a, &all, 0.0), 0.0);
        (a[1], a[15], a[7], a[8]) = (0.0, 0.0, -(2f32.powi(30)), 1.0);
        assert_eq!(
            dot(Accumulation::Hopper, &a, &all, 0.0),
            0.0,
            "1 is cut beside 2^30"
        );
        assert_eq!(
            dot(Accumulation::Ampere, &a, &all, 0.0),
            1.0,
            "the second block is alone"
        );
    }

    #[test]
    fn strange_values() {
        let inf = f32::INFINITY;
        for model in [Accumulation::Ampere, Accumulation::Hopper] {
            assert_eq!(dot(model, &[inf, 1.0], &[1.0, 1.0], 0.0), inf);
            assert_eq!(
                dot(model, &[inf, 1.0], &[0.0, 1.0], 0.0).to_bits(),
                0x7FFF_FFFF
            );
            assert_eq!(
                dot(model, &[inf, -inf], &[1.0, 1.0], 0.0).to_bits(),
                0x7FFF_FFFF
            );
            assert_eq!(dot(model, &[2f32.powi(100)], &[2f32.powi(100)], 0.0), inf);
            assert_eq!(dot(model, &[-1.0], &[1.0], 1.0).to_bits(), 0);
            // Subnormal results are kept.
            assert_eq!(
                dot(model, &[2f32.powi(-70)], &[2f32.powi(-70)], 0.0),
                2f32.powi(-140)
            );
        }
    }

    /// All-positive sums drift down. Over K = 18 432 products of uniform numbers, about 1.9e-4 on
    /// an A100 and 9e-5 on an H100; one model is not the other.
    #[test]
    fn long_positive_sums_come_out_low() {
        let (m, k) = (8, 18_432);
        let mut state = 7;
        let mut low = [0.0; 3];
        for row in 0..m {
            let a: Vec<u32> = (0..k).map(|_| bf16(draw(&mut state))).collect();
            let b: Vec<u32> = (0..k).map(|_| bf16(draw(&mut state))).collect();
            let exact: f64 = a
                .iter()
                .zip(&b)
                .map(|(&a, &b)| {
                    f64::from(Element::Bf16.value(a)) * f64::from(Element::Bf16.value(b))
                })
                .sum();
            for (low, model) in low.iter_mut().zip([
                Accumulation::Ieee,
                Accumulation::Ampere,
                Accumulation::Hopper,
            ]) {
                let mut d = [0f32];
                for start in (0..k).step_by(16) {
                    let shape = Shape { m: 1, n: 1, k: 16 };
                    multiply_add(
                        model,
                        [Element::Bf16; 2],
                        Sum::F32,
                        shape,
                        &a[start..][..16],
                        &b[start..][..16],
                        &mut d,
                    );
                }
                *low += (exact - f64::from(d[0])) / exact / m as f64;
            }
            assert!(row < m);
        }
        println!(
            "relative shortfall at K = {k}: ieee {:.2e}, ampere {:.2e}, hopper {:.2e}",
            low[0], low[1], low[2]
        );
        assert!(low[0].abs() < 1e-5, "{low:?}");
        assert!((1.9e-4 / 1.5..1.9e-4 * 1.5).contains(&low[1]), "{low:?}");
        assert!((9e-5 / 1.5..9e-5 * 1.5).contains(&low[2]), "{low:?}");
    }

    #[test]
    fn an_f16_sum_rounds_to_nearest() {
        let one = u32::from(half::f16::from_f32(1.0).to_bits());
        let tiny = u32::from(half::f16::from_f32(2f32.powi(-11)).to_bits());
        for (a, want) in [([one, tiny], 1.0), ([one, tiny | 1], 1.0 + 2f32.powi(-10))] {
            let mut d = [0f32];
            let shape = Shape { m: 1, n: 1, k: 2 };
            multiply_add(
                Accumulation::Hopper,
                [Element::F16; 2],
                Sum::F16,
                shape,
                &a,
                &[one, one],
                &mut d,
            );
            assert_eq!(d[0], want);
        }
    }
}
