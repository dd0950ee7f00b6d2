//! A whole dataset to [`Metrics`].

use std::sync::Arc;

use super::Metrics;
use super::network::Weights;
use super::predictor::Predictor;
use super::prefetch;
use super::windows::Rgb;
use crate::config::Config;
use crate::data::Dataset;
use crate::device::{ArenaId, Device};
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

    /// Scores every image of `dataset` with the weights `set` of the state arena. Images are
    /// decoded ahead on threads; `progress` gets (done, total) after each.
    ///
    /// # Errors
    /// A damaged file's or an unlabelled image's, naming it; the device's.
    pub fn evaluate(
        &mut self,
        arena: ArenaId,
        set: ParamSet,
        dataset: &Dataset,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Metrics> {
        let weights = Weights { arena, set };
        let total = dataset.len();
        let mut metrics = Metrics::new(self.classes);
        let predictor = &mut self.predictor;
        let decode = |i| dataset.decode(i);
        prefetch::ordered(total, self.workers, decode, |i, decoded| {
            let decoded = decoded?;
            let labels = decoded.label.ok_or_else(|| {
                Error::input(
                    dataset.id(i),
                    "has no mask to score against",
                    "list only images with masks, or use infer",
                )
            })?;
            let image = Rgb::new(decoded.width, decoded.height, decoded.rgb)?;
            metrics.add(&predictor.confusion(weights, &image, &labels)?)?;
            progress(i + 1, total);
            Ok(())
        })?;
        Ok(metrics)
    }

    /// The predictor behind it, for pictures of single images.
    pub fn predictor(&mut self) -> &mut Predictor {
        &mut self.predictor
    }
}
