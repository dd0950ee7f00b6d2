//! Parameters and buffers of a network: names, shapes, initial values, and their place in flat
//! vectors that the optimiser and the EMA walk in one launch.

use std::collections::HashMap;

use super::lower::Twin;
use super::{Graph, TensorId};
use crate::device::{DType, Shape, elements};
use crate::error::{Error, Result};

/// Elements to which every parameter's offset is aligned (64 bytes).
const ALIGN: usize = 16;

/// Trained by SGD, or moved by batch norm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Trainable.
    Weight,
    /// Running statistic.
    Buffer,
}

/// Initial value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Init {
    /// Normal, variance 2 / (K·R·S): PyTorch's `kaiming_normal_(mode="fan_out")`.
    KaimingNormalFanOut,
    /// Uniform ±1/√fan_in: what PyTorch's `Conv2d` starts with (weights and biases).
    UniformFanIn {
        /// C·R·S of the convolution.
        fan_in: usize,
    },
    /// A constant.
    Constant(f32),
}

/// One parameter or buffer.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    /// Name as in the authors' state dict, without `module.`.
    pub name: String,
    /// Shape; convolution weights are K·R·S·C.
    pub shape: Shape,
    /// Weight or buffer.
    pub kind: Kind,
    /// Initial value.
    pub init: Init,
    /// First element in the flat vector of its kind.
    pub offset: usize,
    /// First element in the flat vector of the weights that are no convolution's (biases, γ, β), if
    /// this is one: for sets that keep those of convolutions in bf16 alone.
    pub vector: Option<usize>,
}

/// All parameters of a network. Filled by running the model's builder once; later runs look up.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    specs: Vec<Spec>,
    index: HashMap<String, usize>,
    weights: usize,
    vectors: usize,
    buffers: usize,
    frozen: bool,
}

impl Layout {
    /// An empty layout that accepts declarations.
    pub fn new() -> Self {
        Self::default()
    }

    /// Refuses further declarations: an unknown name is then a bug.
    pub fn freeze(&mut self) {
        self.frozen = true;
    }

    /// Every parameter and buffer in declaration order.
    pub fn specs(&self) -> &[Spec] {
        &self.specs
    }

    /// The one named `name`.
    pub fn get(&self, name: &str) -> Option<&Spec> {
        self.index.get(name).map(|&i| &self.specs[i])
    }

    /// Length of the flat vector of weights, alignment gaps included.
    pub fn weights_len(&self) -> usize {
        self.weights
    }

    /// Length of the flat vector of the weights that are no convolution's, alignment gaps included.
    pub fn vectors_len(&self) -> usize {
        self.vectors
    }

    /// Length of the flat vector of buffers, alignment gaps included.
    pub fn buffers_len(&self) -> usize {
        self.buffers
    }

    /// Trainable elements, gaps excluded.
    pub fn parameter_count(&self) -> usize {
        let weights = self.specs.iter().filter(|s| s.kind == Kind::Weight);
        weights.map(|s| elements(s.shape)).sum()
    }

    /// The spec of `name`, declared on first sight.
    ///
    /// # Errors
    /// [`Error::Internal`] when the layout is frozen and lacks it, or has it in another shape.
    pub fn declare(&mut self, name: &str, shape: Shape, kind: Kind, init: Init) -> Result<&Spec> {
        if let Some(&i) = self.index.get(name) {
            let spec = &self.specs[i];
            if spec.shape != shape {
                return Err(Error::internal(format!(
                    "{name}: declared as {:?}, asked for as {shape:?}",
                    spec.shape
                )));
            }
            return Ok(spec);
        }
        if self.frozen {
            return Err(Error::internal(format!(
                "parameter {name} was never declared"
            )));
        }
        let end = match kind {
            Kind::Weight => &mut self.weights,
            Kind::Buffer => &mut self.buffers,
        };
        let offset = *end;
        let len = elements(shape).next_multiple_of(ALIGN);
        *end += len;
        let mut spec = Spec {
            name: name.to_string(),
            shape,
            kind,
            init,
            offset,
            vector: None,
        };
        if kind == Kind::Weight && !spec.is_kernel() {
            spec.vector = Some(self.vectors);
            self.vectors += len;
        }
        self.index.insert(name.to_string(), self.specs.len());
        self.specs.push(spec);
        Ok(&self.specs[self.specs.len() - 1])
    }
}

impl Spec {
    /// Whether this is a convolution's kernel, not a vector that happens to be as wide.
    pub(crate) fn is_kernel(&self) -> bool {
        self.name.ends_with(".weight") && !matches!(self.init, Init::Constant(_))
    }

    /// `self` and `next` as one parameter of twice as many filters (or channels), where `next`
    /// lies right behind `self` and is shaped alike; under the name of `self`.
    pub fn joined(&self, next: &Spec) -> Option<Spec> {
        let alike = self.shape == next.shape && self.kind == next.kind;
        let [k, r, s, c] = self.shape;
        let shape = match k * r * s {
            1 => [1, 1, 1, 2 * c],
            _ => [2 * k, r, s, c],
        };
        let len = elements(self.shape);
        let vectors = self.vector.zip(next.vector);
        let adjacent = self.offset + len == next.offset
            && vectors.is_none_or(|(first, second)| first + len == second);
        (alike && adjacent).then(|| Spec {
            shape,
            ..self.clone()
        })
    }
}

/// One copy of the values of a [`Layout`] in the state arena: the student's or the teacher's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParamSet {
    /// Byte offset of the flat weights.
    pub weights: usize,
    /// Byte offset of the flat buffers.
    pub buffers: usize,
    /// Byte offset of the bf16 copy of the flat weights, where convolutions read one.
    pub copy: Option<usize>,
    /// Byte offset of the f32 vectors ([`Spec::vector`]) of a set that has the weights of
    /// convolutions in `copy` alone. `weights` is where nothing is then, and only what `copy` is
    /// counted from.
    pub vectors: Option<usize>,
    /// Whether gradients flow to the weights.
    pub trainable: bool,
}

impl ParamSet {
    /// The weights and their bf16 copy, for [`Graph::lower_to_bf16`].
    pub fn twin(&self, layout: &Layout) -> Option<Twin> {
        self.copy.map(|copy| Twin {
            weights: self.weights,
            copy,
            len: layout.weights_len(),
        })
    }

    /// The tensor of `spec` in this set.
    pub fn tensor(&self, graph: &mut Graph, spec: &Spec) -> TensorId {
        match spec.kind {
            Kind::Weight if self.trainable => graph.parameter(
                spec.name.as_str(),
                self.weights + 4 * spec.offset,
                spec.shape,
                spec.offset,
            ),
            Kind::Weight => {
                let offset = match (self.vectors, spec.vector) {
                    (Some(vectors), Some(first)) => vectors + 4 * first,
                    _ => self.weights + 4 * spec.offset,
                };
                graph.at_state(spec.name.as_str(), offset, spec.shape, DType::F32)
            }
            Kind::Buffer => graph.at_state(
                spec.name.as_str(),
                self.buffers + 4 * spec.offset,
                spec.shape,
                DType::F32,
            ),
        }
    }
}
