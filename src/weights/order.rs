//! Memory order of tensors: K·R·S·C here, K·C·R·S on disk, vectors alike.

use crate::device::{Shape, elements};
use crate::error::{Error, Result};
use crate::graph::params::Spec;

/// Shape of `spec` on disk: `[K, C, R, S]` or `[n]`.
pub(super) fn disk_shape(spec: &Spec) -> Vec<usize> {
    let [k, r, s, c] = spec.shape;
    if spec.is_kernel() {
        vec![k, c, r, s]
    } else {
        vec![c]
    }
}

/// The part of `flat`, the flat vector of its kind, that is `spec`, as it is on disk: shape and
/// values.
///
/// # Errors
/// [`Error::Internal`] when the vector is too short.
pub fn tensor_for_disk(spec: &Spec, flat: &[f32]) -> Result<(Vec<usize>, Vec<f32>)> {
    let values = flat
        .get(spec.offset..spec.offset + elements(spec.shape))
        .ok_or_else(|| Error::internal(format!("{} lies beyond the flat vector", spec.name)))?;
    Ok((disk_shape(spec), to_disk(values, spec.shape)))
}

/// K·R·S·C to K·C·R·S. Both orders agree for vectors and 1×1 kernels.
pub(super) fn to_disk(values: &[f32], shape: Shape) -> Vec<f32> {
    let [_, r, s, c] = shape;
    let taps = r * s;
    let mut out = vec![0.0; values.len()];
    for (from, to) in values
        .chunks_exact(taps * c)
        .zip(out.chunks_exact_mut(taps * c))
    {
        for (tap, pixel) in from.chunks_exact(c).enumerate() {
            for (channel, &v) in pixel.iter().enumerate() {
                to[channel * taps + tap] = v;
            }
        }
    }
    out
}

/// K·C·R·S to K·R·S·C.
pub(super) fn from_disk(values: &[f32], shape: Shape, out: &mut [f32]) {
    let [_, r, s, c] = shape;
    let taps = r * s;
    for (from, to) in values
        .chunks_exact(taps * c)
        .zip(out.chunks_exact_mut(taps * c))
    {
        for (channel, kernel) in from.chunks_exact(taps).enumerate() {
            for (tap, &v) in kernel.iter().enumerate() {
                to[tap * c + channel] = v;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::params::{Init, Kind};

    #[test]
    fn orders_are_inverse() {
        let shape = [2, 1, 3, 4];
        let ours: Vec<f32> = (0..24).map(|v| v as f32).collect();
        let disk = to_disk(&ours, shape);
        // Element (k, r, s, c) = (1, 0, 2, 3) of ours is (1, 3, 0, 2) of theirs.
        assert_eq!(disk[12 + 3 * 3 + 2], ours[12 + 2 * 4 + 3]);
        let mut back = vec![0.0; 24];
        from_disk(&disk, shape, &mut back);
        assert_eq!(back, ours);
    }

    #[test]
    fn kernels_of_one_filter_keep_four_dimensions() {
        let mut spec = Spec {
            name: "decoder.classifier.8.weight".into(),
            shape: [1, 1, 1, 16],
            kind: Kind::Weight,
            init: Init::UniformFanIn { fan_in: 16 },
            offset: 0,
            vector: None,
        };
        assert_eq!(disk_shape(&spec), [1, 16, 1, 1]);
        spec.name = "decoder.classifier.8.bias".into();
        assert_eq!(disk_shape(&spec), [16]);
        spec.name = "encoder.bn1.weight".into();
        spec.init = Init::Constant(1.0);
        assert_eq!(disk_shape(&spec), [16]);
    }
}
