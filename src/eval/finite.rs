//! Scores that are no finite numbers: of weights that diverged, or of an image that holds such values.
//! Nothing can be said of those pixels, so nothing is: the image fails, and the pixels are counted.

use super::predictor::Maps;
use crate::{Error, Result};

/// How to find where it begins.
pub(super) const TRACE: &str = "use weights from before the run diverged (--trace-nan of eval and infer names the \
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
    // The sum of x − x is 0 unless there is such a value: one pass without branches.
    if values.iter().map(|v| v - v).sum::<f32>() == 0.0 {
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
