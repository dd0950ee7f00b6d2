//! Weights on a device, for use without training.

use std::sync::Arc;

use super::network::Weights;
use crate::device::{DType, Device, View, bf16_bytes};
use crate::graph::exec::Arena;
use crate::graph::params::{Kind, Layout, ParamSet};
use crate::graph::state::State;
use crate::weights::{Prefer, Reader, each_param};
use crate::{Error, Result};

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
        let lengths = [weights.len(), buffers.len()];
        if lengths != [layout.weights_len(), layout.buffers_len()] {
            return Err(Error::internal(format!(
                "{lengths:?} values for a layout of another size"
            )));
        }
        let loaded = Self::zeroed(device, layout)?;
        loaded.write(&**device, Kind::Weight, 0, weights)?;
        loaded.write(&**device, Kind::Buffer, 0, buffers)?;
        Ok(loaded)
    }

    /// Copies a network from `file` to the device, tensor by tensor: the host never holds it whole.
    ///
    /// # Errors
    /// As [`each_param`]; the device's.
    pub fn read(
        device: &Arc<dyn Device>,
        layout: &Layout,
        file: &Reader,
        prefer: Prefer,
    ) -> Result<Self> {
        let loaded = Self::zeroed(device, layout)?;
        each_param(file, layout, prefer, &mut |spec, values| {
            loaded.write(&**device, spec.kind, spec.offset, values)
        })?;
        Ok(loaded)
    }

    /// Room for the values of `layout`.
    fn zeroed(device: &Arc<dyn Device>, layout: &Layout) -> Result<Self> {
        let mut state = State::new();
        let vector = |n| [1, 1, 1, n];
        state.add("weights", vector(layout.weights_len()), DType::F32);
        state.add("buffers", vector(layout.buffers_len()), DType::F32);
        let half = device.map_dtype() == DType::BF16;
        if half {
            state.add("copy", vector(layout.weights_len()), DType::BF16);
        }
        let arena = Arena::new(device.clone(), state.bytes())?;
        let copy = match half {
            true => Some(state.entry("copy")?.offset),
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

    /// Fills the flat vector of `kind` from element `first` on, and the copies in bf16 of weights.
    fn write(&self, device: &dyn Device, kind: Kind, first: usize, values: &[f32]) -> Result<()> {
        let place = |start: usize, dtype: DType| {
            let shape = [1, 1, 1, values.len()];
            View::dense(self.arena.id(), start + first * dtype.bytes(), shape, dtype)
        };
        let bytes = bytemuck::cast_slice(values);
        match kind {
            Kind::Buffer => device.write(&place(self.set.buffers, DType::F32), bytes),
            Kind::Weight => {
                device.write(&place(self.set.weights, DType::F32), bytes)?;
                match self.set.copy {
                    Some(copy) => device.write(&place(copy, DType::BF16), &bf16_bytes(bytes)),
                    None => Ok(()),
                }
            }
        }
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
