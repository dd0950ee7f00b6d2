//! A whole dataset to [`Metrics`].

use std::sync::Arc;

use super::Metrics;
use super::network::Weights;
use super::predictor::Predictor;
use super::prefetch;
use super::windows::Rgb;
use crate::config::Config;
use crate::data::Dataset;
use crate::device::{ArenaId, Device, Met};
use crate::graph::params::{Layout, ParamSet};
use crate::{Error, Result};

/// Scores datasets by the protocol of a configuration. Keeps programs from one call to the next.
pub struct Evaluator {
    predictor: Predictor,
    classes: usize,
    workers: usize,
}

impl Evaluator {
    /// An evaluator for networks of `layout` on `device`.
    pub fn new(device: Arc<dyn Device>, cfg: &Config, layout: Layout) -> Self {
        Self {
            predictor: Predictor::new(device, cfg, layout),
            classes: cfg.data.classes,
            workers: prefetch::workers(cfg.data.workers),
        }
    }

    /// As [`Predictor::met`], of everything that datasets are scored with.
    ///
    /// # Errors
    /// As [`Predictor::met`].
    pub fn met(&mut self, set: ParamSet) -> Result<Vec<Met>> {
        self.predictor.met(set, true)
    }

    /// Scores every image of `dataset` with the weights `set` of the state arena. Images are
    /// decoded ahead on threads; `progress` gets (done, total) after each.
    ///
    /// # Errors
    /// A damaged file's, an unlabelled image's, or one's whose scores are no finite numbers, naming it;
    /// the device's.
    pub fn evaluate(
        &mut self,
        arena: ArenaId,
        set: ParamSet,
        dataset: &Dataset,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Metrics> {
        let (weights, total) = (Weights { arena, set }, dataset.len());
        let mut metrics = Metrics::new(self.classes);
        self.each(weights, dataset, Look::Counts, &mut |i, scored| {
            metrics.add(&scored?.confusion)?;
            progress(i + 1, total);
            Ok(())
        })?;
        Ok(metrics)
    }

    /// Scores every image of `dataset` and hands what was found to `take`, in order, with the
    /// image's index; of an image or a mask that cannot be used, or whose scores are no finite numbers,
    /// what is wrong with it.
    ///
    /// # Errors
    /// The device's; the first of `take`.
    pub fn each(
        &mut self,
        weights: Weights,
        dataset: &Dataset,
        look: Look,
        take: &mut dyn FnMut(usize, Result<Scored>) -> Result<()>,
    ) -> Result<()> {
        let total = dataset.len();
        let (predictor, classes) = (&mut self.predictor, self.classes);
        let decode = |i| dataset.decode(i);
        prefetch::ordered(total, self.workers, decode, |i, decoded| {
            let decoded = match decoded {
                Ok(decoded) => decoded,
                Err(fault) => return take(i, Err(fault)),
            };
            let Some(labels) = decoded.label else {
                let problem = "has no mask to score against";
                let mend = "list only images with masks, or use infer";
                return take(i, Err(Error::input(dataset.id(i), problem, mend)));
            };
            let (width, height) = (decoded.width, decoded.height);
            let image = Rgb::new(width, height, decoded.rgb)?;
            let found = match look {
                Look::Counts => predictor
                    .confusion(weights, &image, &labels)
                    .map(|confusion| (confusion, None)),
                Look::Maps => predictor.maps(weights, &image).map(|maps| {
                    let prediction = maps.argmax;
                    let confusion = count(&labels, &prediction, classes, predictor.ignore());
                    (confusion, Some(prediction))
                }),
            };
            let (confusion, prediction) = match found {
                Ok(found) => found,
                Err(error) => {
                    let sample = dataset.samples().get(i);
                    let name = sample.map_or(dataset.id(i), |s| s.image.display().to_string());
                    let error = predictor.explained(error, weights, &image).of_image(name);
                    return match error {
                        Error::NotFinite { .. } => take(i, Err(error)),
                        other => Err(other),
                    };
                }
            };
            let scored = Scored {
                width,
                height,
                confusion,
                labels,
                prediction,
            };
            take(i, Ok(scored))
        })
    }

    /// The predictor behind it, for pictures of single images.
    pub fn predictor(&mut self) -> &mut Predictor {
        &mut self.predictor
    }
}

/// How closely images are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Their confusion matrices alone, which the device counts.
    Counts,
    /// Their class maps, too. A centre crop has none of the border: the whole image is scored.
    Maps,
}

/// What was found on an image.
#[derive(Clone, Debug)]
pub struct Scored {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Row = truth, `classes²` entries.
    pub confusion: Vec<u32>,
    /// The truth.
    pub labels: Vec<u8>,
    /// The most probable classes, with [`Look::Maps`].
    pub prediction: Option<Vec<u8>>,
}

/// The confusion matrix of two maps.
fn count(truth: &[u8], prediction: &[u8], classes: usize, ignore: u8) -> Vec<u32> {
    let mut matrix = vec![0; classes * classes];
    for (&t, &p) in truth.iter().zip(prediction) {
        let (t, p) = (usize::from(t), usize::from(p));
        if t != usize::from(ignore) && t < classes && p < classes {
            matrix[t * classes + p] += 1;
        }
    }
    matrix
}
