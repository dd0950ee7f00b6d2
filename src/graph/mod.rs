//! The graph: what a step computes, before any memory exists.
//!
//! `model` and `method` add nodes through the builder (this file and [`ops`]); [`autodiff`]
//! appends explicit backward nodes; [`fuse`] joins what a device can do in one; [`plan`] gives every tensor an offset in one arena from its
//! lifetime; [`exec`] runs the resulting list of calls on a device. Shapes are fixed, so all of
//! this happens once, and a training step is a plain walk over a list.
//!
//! ```text
//!  nodes      conv ── bn ── conv ── … ── loss ── … ── dgrad ── wgrad ── sgd
//!  tensor a   ├─────────────────────────────────────────────┤
//!  tensor b         ├────────┤                                  offsets: b and c share memory,
//!  tensor c                          ├──────────┤               a lives beside both
//! ```
//!
//! Tensors live in one of two arenas: **state** (parameters, buffers, memory bank, staging;
//! survives between steps, laid out by [`state::State`]) and **transient** (activations and
//! gradients, planned). A [`Storage::Slice`] is a window on another tensor: a batch range or a
//! channel range, so concatenation and splitting cost nothing.

pub mod autodiff;
pub mod exec;
pub mod fuse;
pub mod lower;
pub mod ops;
pub mod params;
pub mod plan;
pub mod state;

use crate::device::{DType, Op, Shape, elements};
use crate::error::{Error, Result};

/// A tensor of one graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorId(u32);

impl TensorId {
    fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where a tensor's elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Planned by liveness in the transient arena.
    Transient,
    /// At a byte offset of the state arena.
    State {
        /// Byte offset.
        offset: usize,
    },
    /// A window on a [`Storage::Transient`] or [`Storage::State`] tensor.
    Slice {
        /// The tensor that owns the memory.
        root: TensorId,
        /// First element within the root.
        offset: usize,
        /// Elements between the starts of consecutive pixels.
        ld: usize,
    },
}

/// A tensor's description.
#[derive(Clone, Debug)]
pub struct Tensor {
    /// For messages, plans and profiles.
    pub name: String,
    /// Shape, NHWC.
    pub shape: Shape,
    /// Element type.
    pub dtype: DType,
    /// Location.
    pub storage: Storage,
    /// Element offset in the flat parameter vector, for trainable parameters.
    pub param: Option<usize>,
    /// Written by the host before the run, so alive from the start.
    pub input: bool,
    /// Read by the host after the run, so alive to the end.
    pub keep: bool,
}

/// One operation on tensors.
#[derive(Clone, Debug)]
pub struct Node {
    /// What.
    pub op: Op,
    /// Inputs, in the operation's order.
    pub ins: Vec<TensorId>,
    /// Outputs, in the operation's order.
    pub outs: Vec<TensorId>,
    /// Bit per output: add instead of overwrite.
    pub accumulate: u32,
    /// Layer or loss it belongs to, for plans and profiles.
    pub name: String,
}

/// A list of operations over tensors, in execution order.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    tensors: Vec<Tensor>,
    nodes: Vec<Node>,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Self {
        Self::default()
    }

    /// The description of `t`.
    pub fn tensor(&self, t: TensorId) -> &Tensor {
        &self.tensors[t.index()]
    }

    /// The shape of `t`.
    pub fn shape(&self, t: TensorId) -> Shape {
        self.tensor(t).shape
    }

    /// All nodes, in execution order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    fn push_tensor(&mut self, tensor: Tensor) -> TensorId {
        self.tensors.push(tensor);
        TensorId((self.tensors.len() - 1) as u32)
    }

    /// A tensor of the transient arena.
    pub fn transient(&mut self, name: impl Into<String>, shape: Shape, dtype: DType) -> TensorId {
        self.push_tensor(Tensor {
            name: name.into(),
            shape,
            dtype,
            storage: Storage::Transient,
            param: None,
            input: false,
            keep: false,
        })
    }

    /// A transient tensor that the host fills before each run.
    pub fn input(&mut self, name: impl Into<String>, shape: Shape, dtype: DType) -> TensorId {
        let t = self.transient(name, shape, dtype);
        self.tensors[t.index()].input = true;
        t
    }

    /// A tensor at `offset` bytes of the state arena.
    pub fn at_state(
        &mut self,
        name: impl Into<String>,
        offset: usize,
        shape: Shape,
        dtype: DType,
    ) -> TensorId {
        self.push_tensor(Tensor {
            name: name.into(),
            shape,
            dtype,
            storage: Storage::State { offset },
            param: None,
            input: false,
            keep: false,
        })
    }

    /// A trainable parameter: a state tensor that is element `param` of the flat vector.
    pub fn parameter(
        &mut self,
        name: impl Into<String>,
        offset: usize,
        shape: Shape,
        param: usize,
    ) -> TensorId {
        let t = self.at_state(name, offset, shape, DType::F32);
        self.tensors[t.index()].param = Some(param);
        t
    }

    /// Keeps `t` readable by the host after the run.
    pub fn keep(&mut self, t: TensorId) {
        let (root, ..) = self.root(t);
        self.tensors[root.index()].keep = true;
    }

    /// The owner of `t`'s memory, the element offset in it, and the distance between pixels.
    pub fn root(&self, t: TensorId) -> (TensorId, usize, usize) {
        match self.tensor(t).storage {
            Storage::Slice { root, offset, ld } => (root, offset, ld),
            _ => (t, 0, self.shape(t)[3]),
        }
    }

    fn slice(
        &mut self,
        t: TensorId,
        extra: usize,
        ld: usize,
        shape: Shape,
        name: String,
    ) -> TensorId {
        let (root, offset, _) = self.root(t);
        let dtype = self.tensor(t).dtype;
        self.push_tensor(Tensor {
            name,
            shape,
            dtype,
            storage: Storage::Slice {
                root,
                offset: offset + extra,
                ld,
            },
            param: None,
            input: false,
            keep: false,
        })
    }

    /// Images `start .. start + count` of `t`, without a copy.
    ///
    /// # Errors
    /// [`Error::Internal`] when the range is outside the batch.
    pub fn batch_slice(&mut self, t: TensorId, start: usize, count: usize) -> Result<TensorId> {
        let [n, h, w, c] = self.shape(t);
        if start + count > n || count == 0 {
            return Err(Error::internal(format!(
                "batch slice {start}+{count} of {n}"
            )));
        }
        let (_, _, ld) = self.root(t);
        let name = format!("{}[{start}..{}]", self.tensor(t).name, start + count);
        Ok(self.slice(t, start * h * w * ld, ld, [count, h, w, c], name))
    }

    /// Channels `start .. start + count` of `t`, without a copy.
    ///
    /// # Errors
    /// [`Error::Internal`] when the range is outside the channels.
    pub fn channel_slice(&mut self, t: TensorId, start: usize, count: usize) -> Result<TensorId> {
        let [n, h, w, c] = self.shape(t);
        if start + count > c || count == 0 {
            return Err(Error::internal(format!(
                "channel slice {start}+{count} of {c}"
            )));
        }
        let (_, _, ld) = self.root(t);
        let name = format!("{}[..,{start}..{}]", self.tensor(t).name, start + count);
        Ok(self.slice(t, start, ld, [n, h, w, count], name))
    }

    /// `count` elements from `start` of a flat vector `[1,1,1,n]`, seen as a dense `shape`.
    ///
    /// # Errors
    /// [`Error::Internal`] when `t` is not flat or too short.
    pub fn flat_slice(&mut self, t: TensorId, start: usize, shape: Shape) -> Result<TensorId> {
        let [n, h, w, c] = self.shape(t);
        if n * h * w != 1 || start + elements(shape) > c {
            return Err(Error::internal(format!(
                "flat slice {start} {shape:?} of {c}"
            )));
        }
        let name = format!("{}[{start}..]", self.tensor(t).name);
        Ok(self.slice(t, start, shape[3], shape, name))
    }

    /// Appends a node.
    pub fn push(&mut self, name: &str, op: Op, ins: Vec<TensorId>, outs: Vec<TensorId>) {
        self.push_accumulating(name, op, ins, outs, 0);
    }

    /// Appends a node, some of whose outputs are added to.
    pub fn push_accumulating(
        &mut self,
        name: &str,
        op: Op,
        ins: Vec<TensorId>,
        outs: Vec<TensorId>,
        accumulate: u32,
    ) {
        self.nodes.push(Node {
            op,
            ins,
            outs,
            accumulate,
            name: name.to_string(),
        });
    }
}
