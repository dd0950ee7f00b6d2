//! Scores that are no finite numbers: of weights that diverged, or of an image that holds such values.
//! Nothing can be said of those pixels, so nothing is: the image fails, and the pixels are counted.

use super::network::{Shape, Tail, Weights};
use super::predictor::{Maps, Predictor};
use super::windows::{Rgb, Sample, center, cut};
use crate::config::schema::Protocol;
use crate::{Error, Result};

/// How to find where it begins.
const TRACE: &str = "use weights from before the run diverged (--trace-nan of eval and infer names the \
                     first layer with such values)";

/// Refuses the maps of scores that are no finite numbers: of those the entropy or the confidence is
/// none either.
pub(super) fn check_maps(maps: Maps) -> Result<Maps> {
    let bad = |(h, p): &(&f32, &f32)| !(h.is_finite() && p.is_finite());
    let pixels = maps
        .entropy
        .iter()
        .zip(&maps.confidence)
        .filter(bad)
        .count();
    refuse(pixels, maps.entropy.len()).map(|()| maps)
}

/// Refuses scores of which some are no finite numbers, `classes` of them a pixel.
pub(super) fn check_scores(values: &[f32], classes: usize) -> Result<()> {
    // 0 · x is 0 of every number, and NaN of what is none: one pass without branches.
    if values.iter().map(|v| 0.0 * v).sum::<f32>() == 0.0 {
        return Ok(());
    }
    let pixels = values.chunks(classes.max(1));
    let of = pixels.len();
    let bad = pixels.filter(|scores| !scores.iter().all(|s| s.is_finite()));
    refuse(bad.count(), of)
}

fn refuse(pixels: usize, of: usize) -> Result<()> {
    match pixels {
        0 => Ok(()),
        _ => Err(Error::NotFinite {
            at: "image".into(),
            pixels,
            of,
            layer: TRACE.into(),
        }),
    }
}

impl Predictor {
    /// Looks for the first layer with values that are no finite numbers, operation by operation, when an
    /// image's scores are none ([`Error::NotFinite`]).
    pub fn trace_nan(&mut self, trace: bool) {
        self.trace = trace;
    }

    /// `error`, with the layer where it begins if that is asked for: found on the whole image, or of a
    /// larger one on the part in the middle that fits a window or a tile.
    pub fn explained<T: Sample>(
        &mut self,
        error: Error,
        weights: Weights,
        image: &Rgb<T>,
    ) -> Error {
        let Error::NotFinite { at, pixels, of, .. } = error else {
            return error;
        };
        let layer = match self.trace {
            false => {
                return Error::NotFinite {
                    at,
                    pixels,
                    of,
                    layer: TRACE.into(),
                };
            }
            true => self.first_not_finite(weights, image),
        };
        let layer = match layer {
            Ok(Some(layer)) => format!("the first layer with such values is {layer}"),
            Ok(None) => "in one look at its middle every layer is finite".into(),
            Err(e) => format!("the first layer could not be found: {e}"),
        };
        Error::NotFinite {
            at,
            pixels,
            of,
            layer,
        }
    }

    fn first_not_finite<T: Sample>(
        &mut self,
        weights: Weights,
        image: &Rgb<T>,
    ) -> Result<Option<String>> {
        let most = match (self.protocol, self.tiling) {
            (Protocol::Whole, None) => [usize::MAX; 2],
            (Protocol::Whole, Some(tiling)) => [tiling.size; 2],
            _ => self.crop,
        };
        let rect = center(image.height, image.width, most);
        let pixels = cut(&image.pixels, image.width, 3, rect);
        let size = [rect.height, rect.width];
        let net = self
            .nets
            .get::<T>(weights, Shape::one(size), Tail::Logits)?;
        net.first_not_finite(&[&pixels[..]], size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_value_of_a_pixel_is_enough() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = vec![1e30f32; 3 * 40];
            assert!(check_scores(&values, 3).is_ok());
            (values[7], values[8], values[100]) = (bad, bad, bad);
            match check_scores(&values, 3) {
                Err(Error::NotFinite { pixels, of, .. }) => assert_eq!((pixels, of), (2, 40)),
                other => panic!("{other:?}"),
            }
        }
        assert!(check_scores(&[], 3).is_ok());
    }
}
