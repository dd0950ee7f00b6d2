//! Initial values of a network's parameters.

use rayon::prelude::*;

use crate::device::elements;
use crate::device::philox::{Rng, to_unit};
use crate::graph::params::{Init, Kind, Layout, Spec};

/// Elements that one task fills; a multiple of the four words of a draw.
const CHUNK: usize = 1 << 14;

/// Initial flat weights and flat buffers of `layout`; alignment gaps are 0.
///
/// A tensor's values are a function of the seed and its name alone: adding a head or using more
/// threads changes no other value.
pub fn init(layout: &Layout, seed: u64) -> (Vec<f32>, Vec<f32>) {
    let mut weights = vec![0.0; layout.weights_len()];
    let mut buffers = vec![0.0; layout.buffers_len()];
    for spec in layout.specs() {
        let flat = match spec.kind {
            Kind::Weight => &mut weights,
            Kind::Buffer => &mut buffers,
        };
        let end = spec.offset + elements(spec.shape);
        fill(&mut flat[spec.offset..end], spec, seed);
    }
    (weights, buffers)
}

fn fill(values: &mut [f32], spec: &Spec, seed: u64) {
    let key = fnv1a(&spec.name);
    let rng = Rng::seeded(seed, (key >> 32) as u32, key as u32);
    match spec.init {
        Init::Constant(value) => values.fill(value),
        Init::KaimingNormalFanOut => {
            let [k, r, s, _] = spec.shape;
            let std = (2.0 / (k * r * s) as f64).sqrt();
            draw(values, &rng, |words| {
                normals(words).map(|z| (z * std) as f32)
            });
        }
        Init::UniformFanIn { fan_in } => {
            let bound = 1.0 / (fan_in as f64).sqrt();
            draw(values, &rng, |words| {
                words.map(|w| ((2.0 * f64::from(to_unit(w)) - 1.0) * bound) as f32)
            });
        }
    }
}

/// Element i is word i mod 4 of block ⌊i / 4⌋.
fn draw(values: &mut [f32], rng: &Rng, map: impl Fn([u32; 4]) -> [f32; 4] + Sync) {
    let chunks = values.par_chunks_mut(CHUNK).enumerate();
    chunks.for_each(|(c, chunk)| {
        for (i, out) in chunk.chunks_mut(4).enumerate() {
            let four = map(rng.block((c * CHUNK / 4 + i) as u64));
            out.copy_from_slice(&four[..out.len()]);
        }
    });
}

/// Four standard normals from four words, by Box and Muller's transform.
fn normals(words: [u32; 4]) -> [f64; 4] {
    let pair = |a: u32, b: u32| {
        // On (0, 1], so that the logarithm is finite.
        let radius = (-2.0 * (1.0 - f64::from(to_unit(a))).ln()).sqrt();
        let angle = std::f64::consts::TAU * f64::from(to_unit(b));
        (radius * angle.cos(), radius * angle.sin())
    };
    let ((a, b), (c, d)) = (pair(words[0], words[1]), pair(words[2], words[3]));
    [a, b, c, d]
}

/// FNV-1a, 64 bits.
fn fnv1a(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Shape;

    fn one(name: &str, shape: Shape, init: Init) -> Vec<f32> {
        let mut layout = Layout::new();
        layout.declare(name, shape, Kind::Weight, init).unwrap();
        super::init(&layout, 1).0
    }

    fn moments(values: &[f32]) -> (f64, f64) {
        let n = values.len() as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        let var = values.iter().map(|&v| (f64::from(v) - mean).powi(2));
        (mean, var.sum::<f64>() / n)
    }

    #[test]
    fn fnv1a_known_answers() {
        // Published test vectors of the hash.
        assert_eq!(fnv1a(""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a("a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a("foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn kaiming_has_the_variance_of_fan_out() {
        let values = one("w", [64, 3, 3, 128], Init::KaimingNormalFanOut);
        let (mean, var) = moments(&values);
        let expected = 2.0 / (64.0 * 9.0);
        // 73 728 draws: the mean's deviation is 2.2e-4, the variance's relative one 0.5 %.
        assert!(mean.abs() < 1e-3, "{mean}");
        assert!((var / expected - 1.0).abs() < 0.03, "{var}");
    }

    #[test]
    fn uniform_fills_its_interval() {
        let values = one("w", [64, 3, 3, 64], Init::UniformFanIn { fan_in: 576 });
        let bound = 1.0 / 24.0;
        let (mean, var) = moments(&values);
        assert!(values.iter().all(|v| v.abs() <= bound));
        assert!(values.iter().any(|v| v.abs() > 0.999 * bound));
        assert!(mean.abs() < 1e-3, "{mean}");
        let expected = f64::from(bound).powi(2) / 3.0;
        assert!((var / expected - 1.0).abs() < 0.03, "{var}");
    }

    #[test]
    fn values_depend_on_name_and_seed_only() {
        let normal = Init::KaimingNormalFanOut;
        let mut layout = Layout::new();
        for name in ["first", "w", "last"] {
            let (shape, kind) = ([5, 3, 3, 7], Kind::Weight);
            layout.declare(name, shape, kind, normal).unwrap();
        }
        let (weights, _) = super::init(&layout, 1);
        let at = layout.get("w").unwrap().offset;
        let alone = one("w", [5, 3, 3, 7], normal);
        assert_eq!(weights[at..at + 315], alone[..315]);
        assert_ne!(weights[..315], alone[..315]);
        assert_ne!(super::init(&layout, 2).0, weights);
    }
}
