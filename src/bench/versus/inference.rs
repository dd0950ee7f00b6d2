//! The engine's side of inference: the [`Segmenter`] that other programs call, on whole u8 images,
//! from the host's memory to maps in it.
//!
//! Making the side loads weights from a file; the first call plans the network for the images' size
//! and takes its memory, as in a product.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::engine::{MIB, Memory, convolution_flops, host_ms, noise};
use super::side::Served;
use super::work::InferWork;
use crate::device::{ArenaId, Device, View};
use crate::eval::{SampleKind, inference_graph};
use crate::graph::params::{Layout, ParamSet};
use crate::infer::{Image, InputShape, Options, Samples, Segmentation, Segmenter};
use crate::weights::{TEACHER, Writer};
use crate::{Result, model};

/// Bytes of a pixel in the caller's memory: its colours, then class, confidence and entropy.
const HOST_BYTES: usize = 3 + 1 + 4 + 4;

/// A loaded network and the images that it segments again and again.
pub(super) struct Inference {
    segmenter: Segmenter,
    shape: InputShape,
    pixels: Vec<u8>,
    memory: Memory,
    parameters: usize,
    conv_flops: f64,
}

/// Writes an untrained network of `work` to a file.
///
/// # Errors
/// [`crate::Error::Io`] when it cannot be written.
pub fn save_untrained(work: &InferWork, path: &Path) -> Result<()> {
    let cfg = work.config();
    let layout = model::layout(&cfg.model, work.classes)?;
    let (weights, buffers) = model::init(&layout, 0);
    let mut writer = Writer::new();
    writer.params(TEACHER, &layout, &weights, &buffers)?;
    writer.meta("config", cfg.to_yaml()?);
    writer.save(path)
}

impl Inference {
    /// Loads the file of [`save_untrained`].
    ///
    /// # Errors
    /// As [`Segmenter::open`]; [`crate::Error::Input`] when the images are too small for the
    /// network.
    pub(super) fn new(
        work: &InferWork,
        weights: &Path,
        device: Arc<dyn Device>,
        mut memory: Memory,
    ) -> Result<Self> {
        let [height, width] = work.size;
        let mut layout = model::layout(&work.config().model, work.classes)?;
        let one = flops_of_one(work, &mut layout)?;
        let parameters = layout.parameter_count();
        let segmenter = Segmenter::open(weights, device, Options::default())?;
        memory.loaded();
        Ok(Self {
            segmenter,
            shape: InputShape {
                images: work.batch,
                height,
                width,
                samples: SampleKind::Byte,
            },
            pixels: noise(3 * work.batch * height * width),
            memory,
            parameters,
            conv_flops: work.batch as f64 * one,
        })
    }

    /// Numbers that training learns.
    pub(super) fn parameters(&self) -> usize {
        self.parameters
    }

    /// One call: the maps of all images.
    fn maps(&self) -> Result<Vec<Segmentation>> {
        let (height, width) = (self.shape.height, self.shape.width);
        let each = self.pixels.chunks(3 * height * width);
        let images = each.map(|pixels| Image::rgb(Samples::U8(pixels), height, width));
        let images = images.collect::<Result<Vec<_>>>()?;
        self.segmenter.segment_batch(&images)
    }
}

/// FLOPs of the convolutions of one image.
fn flops_of_one(work: &InferWork, layout: &mut Layout) -> Result<f64> {
    // Where values are makes no difference.
    let nowhere = ParamSet {
        weights: 0,
        buffers: 0,
        copy: None,
        vectors: None,
        trainable: false,
    };
    let graph = inference_graph(&work.config(), layout, nowhere, work.size)?;
    let views = |tensors: &[_]| -> Vec<View> {
        let view = |&t: &_| {
            let tensor = graph.tensor(t);
            View::dense(ArenaId(0), 0, tensor.shape, tensor.dtype)
        };
        tensors.iter().map(view).collect()
    };
    let calls = graph.nodes().iter().map(|node| {
        let cost = node.op.cost(&views(&node.ins), &views(&node.outs));
        (node.op.name(), cost.flops)
    });
    Ok(convolution_flops(calls))
}

impl Served for Inference {
    fn run(&mut self, count: usize) -> Result<f64> {
        let device = &**self.segmenter.device();
        host_ms(device, count, &mut || self.maps().map(drop))
    }

    fn check(&mut self) -> Result<Value> {
        let maps = self.maps()?;
        let entropies = || maps.iter().flat_map(|m| &m.entropy);
        let mean = entropies().map(|&e| f64::from(e)).sum::<f64>() / entropies().count() as f64;
        Ok(json!({"conv_flops": self.conv_flops, "entropy_mean": mean}))
    }

    fn last(&mut self) -> Result<Value> {
        let device = &**self.segmenter.device();
        let weights = self.segmenter.weights_bytes();
        // From a plan of its own: nothing that calls left behind is in it.
        let call = self.segmenter.memory_required(self.shape)?;
        let mut last = self.memory.last(device, weights + call);
        let mib = |bytes: usize| json!(bytes as f64 / MIB);
        last["weights_mib"] = mib(weights);
        last["call_mib"] = mib(call);
        last["held_mib"] = mib(self.segmenter.held_bytes()?);
        // On a GPU they are not in the memory that is measured.
        last["host_mib"] = mib(match device.name().starts_with("cuda") {
            true => 0,
            false => HOST_BYTES / 3 * self.pixels.len(),
        });
        Ok(last)
    }
}
