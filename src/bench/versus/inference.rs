//! The engine's side of inference: whole u8 images from the host's memory to maps in it.
//!
//! Making the side loads the weights; the first call plans the network for the images' size and
//! takes its memory, as a product's first call does.

use std::sync::Arc;

use serde_json::{Value, json};

use super::engine::{MIB, Memory, convolution_flops, host_ms, noise};
use super::side::Served;
use super::work::InferWork;
use crate::device::Device;
use crate::eval::{Batched, LoadedWeights};
use crate::graph::params::Layout;
use crate::model;
use crate::{Error, Result};

/// Bytes of a pixel in the host's memory: its colours, then entropy, class and confidence.
const HOST_BYTES: usize = 3 + 4 + 1 + 4;

/// Loaded weights, and the network once there was a call.
pub(super) struct Inference {
    net: Option<Batched>,
    work: InferWork,
    layout: Layout,
    pixels: Vec<u8>,
    device: Arc<dyn Device>,
    memory: Memory,
    // After the network that uses them.
    weights: LoadedWeights,
}

impl Inference {
    /// Loads untrained weights.
    ///
    /// # Errors
    /// The device's.
    pub(super) fn new(
        work: &InferWork,
        device: Arc<dyn Device>,
        mut memory: Memory,
    ) -> Result<Self> {
        let layout = model::layout(&work.config().model, work.classes)?;
        let (values, buffers) = model::init(&layout, 0);
        let weights = LoadedWeights::new(&device, &layout, &values, &buffers)?;
        drop((values, buffers));
        memory.loaded();
        Ok(Self {
            net: None,
            work: work.clone(),
            layout,
            pixels: noise(3 * work.batch * work.size[0] * work.size[1]),
            device,
            memory,
            weights,
        })
    }

    /// Numbers that training learns.
    pub(super) fn parameters(&self) -> usize {
        self.layout.parameter_count()
    }

    /// The network, planned if this is the first call.
    fn net(&mut self) -> Result<&Batched> {
        if self.net.is_none() {
            let (w, device) = (&self.work, self.device.clone());
            let (layout, weights) = (self.layout.clone(), self.weights.weights());
            let net = Batched::new(device, &w.config(), layout, weights, w.batch, w.size)?;
            self.net = Some(net);
        }
        let none = || Error::internal("a network that was made and is not there");
        self.net.as_ref().ok_or_else(none)
    }

    /// One call: the maps of all images.
    fn maps(&mut self) -> Result<(Vec<f32>, Vec<u8>, Vec<f32>)> {
        let pixels = std::mem::take(&mut self.pixels);
        let maps = self.net().and_then(|net| net.maps(&pixels));
        self.pixels = pixels;
        maps
    }
}

impl Served for Inference {
    fn run(&mut self, count: usize) -> Result<f64> {
        let device = self.device.clone();
        host_ms(&*device, count, &mut || self.maps().map(drop))
    }

    fn check(&mut self) -> Result<Value> {
        let (entropy, ..) = self.maps()?;
        let mean = entropy.iter().map(|&e| f64::from(e)).sum::<f64>() / entropy.len() as f64;
        let steps = self.net()?.program().steps().iter();
        let flops = convolution_flops(steps.map(|s| (s.call.op.name(), s.cost.flops)));
        Ok(json!({"conv_flops": flops, "entropy_mean": mean}))
    }

    fn last(&mut self) -> Result<Value> {
        let call_bytes = self.net()?.program().planned_bytes();
        let weight_bytes = self.weights.bytes();
        let mut last = self.memory.last(&*self.device, weight_bytes + call_bytes);
        last["weights_mib"] = json!(weight_bytes as f64 / MIB);
        last["call_mib"] = json!(call_bytes as f64 / MIB);
        // On a GPU they are not in the memory that is measured.
        let host = match self.device.name().starts_with("cuda") {
            true => 0,
            false => HOST_BYTES / 3 * self.pixels.len(),
        };
        last["host_mib"] = json!(host as f64 / MIB);
        Ok(last)
    }
}
