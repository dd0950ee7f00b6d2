//! A whole dataset to [`Metrics`].

use std::sync::Arc;

use super::Metrics;
use super::network::Weights;
use super::predictor::Predictor;
use super::prefetch;
use super::windows::Rgb;
use crate::config::Config;
use crate::data::Dataset;
use crate::device::{ArenaId, DType, Device, bf16_bytes};
use crate::graph::exec::Arena;
use crate::graph::params::{Layout, ParamSet};
use crate::graph::state::State;
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

/// A network's values alone on a device, for evaluation and inference without training.
pub struct LoadedWeights {
    arena: Arena,
    set: ParamSet,
}

impl LoadedWeights {
    /// Copies flat weights and buffers of `layout` to the device.
    ///
    /// # Errors
    /// The device's; [`Error::Internal`] when the vectors are not of the layout's lengths.
    pub fn new(
        device: &Arc<dyn Device>,
        layout: &Layout,
        weights: &[f32],
        buffers: &[f32],
    ) -> Result<Self> {
        let mut state = State::new();
        let vector = |n| [1, 1, 1, n];
        state.add("weights", vector(layout.weights_len()), DType::F32);
        state.add("buffers", vector(layout.buffers_len()), DType::F32);
        let half = device.map_dtype() == DType::BF16;
        if half {
            state.add("copy", vector(layout.weights_len()), DType::BF16);
        }
        let arena = Arena::new(device.clone(), state.bytes())?;
        for (name, values) in [("weights", weights), ("buffers", buffers)] {
            let view = state.view(name, arena.id())?;
            device.write(&view, bytemuck::cast_slice(values))?;
        }
        let copy = match half {
            true => {
                let view = state.view("copy", arena.id())?;
                device.write(&view, &bf16_bytes(bytemuck::cast_slice(weights)))?;
                Some(view.offset)
            }
            false => None,
        };
        let set = ParamSet {
            weights: state.entry("weights")?.offset,
            buffers: state.entry("buffers")?.offset,
            copy,
            trainable: false,
        };
        Ok(Self { arena, set })
    }

    /// Bytes of device memory.
    pub fn bytes(&self) -> usize {
        self.arena.bytes()
    }

    /// Where they are.
    pub fn weights(&self) -> Weights {
        Weights {
            arena: self.arena.id(),
            set: self.set,
        }
    }
}
