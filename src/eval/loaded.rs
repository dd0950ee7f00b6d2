//! Weights on a device, for use without training.

use std::sync::Arc;

use super::network::Weights;
use crate::Result;
use crate::device::{DType, Device, bf16_bytes};
use crate::graph::exec::Arena;
use crate::graph::params::{Layout, ParamSet};
use crate::graph::state::State;

/// A network's values alone on a device, for evaluation and inference without training.
pub struct LoadedWeights {
    arena: Arena,
    set: ParamSet,
}

impl LoadedWeights {
    /// Copies flat weights and buffers of `layout` to the device.
    ///
    /// # Errors
    /// The device's; [`crate::Error::Internal`] when the vectors are not of the layout's lengths.
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
