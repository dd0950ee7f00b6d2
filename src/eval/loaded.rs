//! Weights on a device, for use without training.

use std::sync::Arc;

use super::network::Weights;
use crate::device::{DType, Device, View, bf16_bytes, elements};
use crate::graph::exec::Arena;
use crate::graph::params::{Kind, Layout, ParamSet, Spec};
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
        for spec in layout.specs() {
            let flat = match spec.kind {
                Kind::Weight => weights,
                Kind::Buffer => buffers,
            };
            loaded.write(
                &**device,
                spec,
                &flat[spec.offset..][..elements(spec.shape)],
            )?;
        }
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
            loaded.write(&**device, spec, values)
        })?;
        Ok(loaded)
    }

    /// Room for the values of `layout`. Where maps are bf16, convolutions read weights in bf16: those
    /// are kept and no others, which halves what a network takes.
    fn zeroed(device: &Arc<dyn Device>, layout: &Layout) -> Result<Self> {
        let mut state = State::new();
        let flat = |n| [1, 1, 1, n];
        let mut set = ParamSet {
            weights: 0,
            buffers: state.add("buffers", flat(layout.buffers_len()), DType::F32),
            copy: None,
            vectors: None,
            trainable: false,
        };
        if device.map_dtype() == DType::BF16 {
            let copy = state.add("copy", flat(layout.weights_len()), DType::BF16);
            let vectors = state.add("vectors", flat(layout.vectors_len()), DType::F32);
            (set.copy, set.vectors) = (Some(copy), Some(vectors));
            // Beyond the arena: an operation that still asked for them would be refused.
            set.weights = state.bytes().next_multiple_of(64);
        } else {
            set.weights = state.add("weights", flat(layout.weights_len()), DType::F32);
        }
        let arena = Arena::new(device.clone(), state.bytes())?;
        Ok(Self { arena, set })
    }

    /// Fills `spec`.
    fn write(&self, device: &dyn Device, spec: &Spec, values: &[f32]) -> Result<()> {
        let place = |start: usize, first: usize, dtype: DType| {
            let shape = [1, 1, 1, values.len()];
            View::dense(self.arena.id(), start + first * dtype.bytes(), shape, dtype)
        };
        let bytes = bytemuck::cast_slice(values);
        let set = &self.set;
        match (spec.kind, set.copy, set.vectors.zip(spec.vector)) {
            (Kind::Buffer, ..) => device.write(&place(set.buffers, spec.offset, DType::F32), bytes),
            (Kind::Weight, _, Some((vectors, first))) => {
                device.write(&place(vectors, first, DType::F32), bytes)
            }
            (Kind::Weight, Some(copy), None) => {
                let half = place(copy, spec.offset, DType::BF16);
                device.write(&half, &bf16_bytes(bytes))
            }
            (Kind::Weight, None, None) => {
                device.write(&place(set.weights, spec.offset, DType::F32), bytes)
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
