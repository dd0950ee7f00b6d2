//! bf16: turns the maps of a finished graph from f32 into bf16.
//!
//! Activations and their gradients become bf16; parameters, optimiser, batch statistics, losses,
//! representations and everything U2PL decides with stay f32. Convolutions read bf16 copies of
//! the weights, which the optimiser writes beside the f32 originals. Where an f32 map meets a
//! convolution (images, gradients of losses) a copy converts it.
//!
//! The pass works on whole tensors: a slice has the type of its root.

use std::collections::HashMap;

use super::{Graph, Node, Storage, TensorId};
use crate::device::{DType, Op};
use crate::error::{Error, Result};

/// A flat f32 vector of weights in the state arena and its bf16 copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Twin {
    /// Byte offset of the f32 vector.
    pub weights: usize,
    /// Byte offset of the bf16 copy.
    pub copy: usize,
    /// Elements.
    pub len: usize,
}

/// What an operation demands of an operand that is an f32 map now.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Stays f32.
    Float,
    /// bf16, by a conversion if need be.
    Half,
    /// The type of the call's other `Alike` operands.
    Alike,
    /// Either.
    Any,
}

/// Roles of input `i` and output `i`.
fn input_role(op: &Op, i: usize) -> Role {
    match op {
        Op::Conv(_) | Op::ConvDgrad(_) if i == 0 => Role::Half,
        Op::ConvWgrad(_) => Role::Half,
        Op::BatchNorm { .. } if i == 0 || i == 3 => Role::Alike,
        Op::BatchNormEval { .. } if i == 0 || i == 5 => Role::Alike,
        Op::BatchNormBackward { .. } if i <= 2 => Role::Alike,
        Op::Relu | Op::ReluBackward | Op::GlobalAvgPool | Op::GlobalAvgPoolBackward => Role::Alike,
        Op::Resize | Op::ResizeBackward => Role::Alike,
        Op::MaxPool { .. } | Op::MaxPoolBackward { .. } | Op::Dropout2d { .. } if i == 0 => {
            Role::Alike
        }
        Op::Copy => Role::Any,
        _ => Role::Float,
    }
}

fn output_role(op: &Op, i: usize) -> Role {
    match op {
        Op::Conv(_) | Op::ConvDgrad(_) | Op::Fill { .. } | Op::Copy => Role::Any,
        Op::BatchNorm { .. } | Op::BatchNormEval { .. } if i == 0 => Role::Alike,
        Op::BatchNormBackward { .. } if i == 0 || i == 3 => Role::Alike,
        Op::MaxPool { .. } if i == 0 => Role::Alike,
        Op::Relu
        | Op::ReluBackward
        | Op::GlobalAvgPool
        | Op::GlobalAvgPoolBackward
        | Op::Resize
        | Op::ResizeBackward
        | Op::MaxPoolBackward { .. }
        | Op::Dropout2d { .. } => Role::Alike,
        _ => Role::Float,
    }
}

/// Sets of roots that must have one type.
struct Groups {
    parent: Vec<usize>,
    float: Vec<bool>,
    /// Whether anything but `Any` ever touched the root: a map that no one computes with stays.
    map: Vec<bool>,
}

impl Groups {
    fn new(n: usize) -> Self {
        Self {
            parent: (0..n).collect(),
            float: vec![false; n],
            map: vec![false; n],
        }
    }

    fn find(&mut self, mut t: usize) -> usize {
        while self.parent[t] != t {
            self.parent[t] = self.parent[self.parent[t]];
            t = self.parent[t];
        }
        t
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.find(a), self.find(b));
        if a != b {
            self.parent[b] = a;
            self.float[a] |= self.float[b];
            self.map[a] |= self.map[b];
        }
    }

    fn mark(&mut self, t: usize, role: Role) {
        let t = self.find(t);
        match role {
            Role::Float => self.float[t] = true,
            Role::Half | Role::Alike => self.map[t] = true,
            Role::Any => {}
        }
    }
}

impl Graph {
    /// Lowers the maps to bf16. `twins` names the vectors of weights that convolutions read.
    ///
    /// # Errors
    /// [`Error::Internal`] when a convolution's weights lie in no twin, or the graph is a mix
    /// that no conversion mends.
    pub fn lower_to_bf16(&mut self, twins: &[Twin]) -> Result<()> {
        let half = self.half_roots();
        for i in 0..self.tensors.len() {
            let (root, ..) = self.root(TensorId(i as u32));
            if half[root.index()] {
                self.tensors[i].dtype = DType::BF16;
            }
        }
        let nodes = std::mem::take(&mut self.nodes);
        let mut copies: HashMap<TensorId, TensorId> = HashMap::new();
        for node in nodes {
            let node = self.lower_node(node, twins, &mut copies)?;
            for out in &node.outs {
                // A conversion made before this write would be stale after it.
                let (root, ..) = self.root(*out);
                copies.retain(|t, _| self.root(*t).0 != root);
            }
            self.nodes.push(node);
        }
        Ok(())
    }

    /// Which root tensors become bf16.
    fn half_roots(&self) -> Vec<bool> {
        let mut groups = Groups::new(self.tensors.len());
        // The host reads and writes f32: what must be alike stays f32 with it.
        for (i, tensor) in self.tensors.iter().enumerate() {
            groups.float[i] = tensor.input || tensor.keep;
        }
        let is_map = |t: TensorId| {
            let tensor = self.tensor(t);
            tensor.dtype == DType::F32 && matches!(tensor.storage, Storage::Transient)
        };
        for node in &self.nodes {
            let ins = node.ins.iter().enumerate();
            let outs = node.outs.iter().enumerate();
            let operands = ins
                .map(|(i, &t)| (t, input_role(&node.op, i)))
                .chain(outs.map(|(i, &t)| (t, output_role(&node.op, i))));
            let mut alike: Option<usize> = None;
            for (t, role) in operands {
                let (root, ..) = self.root(t);
                if !is_map(root) {
                    continue;
                }
                groups.mark(root.index(), role);
                if role == Role::Alike {
                    let first = *alike.get_or_insert(root.index());
                    groups.join(first, root.index());
                }
            }
        }
        (0..self.tensors.len())
            .map(|i| {
                let id = TensorId(i as u32);
                let group = groups.find(i);
                is_map(id) && groups.map[group] && !groups.float[group]
            })
            .collect()
    }

    fn lower_node(
        &mut self,
        mut node: Node,
        twins: &[Twin],
        copies: &mut HashMap<TensorId, TensorId>,
    ) -> Result<Node> {
        match node.op {
            Op::Conv(_) | Op::ConvDgrad(_) => {
                node.ins[0] = self.as_bf16(node.ins[0], &node.name, copies);
                node.ins[1] = self.twin(node.ins[1], twins)?;
            }
            Op::ConvWgrad(_) => {
                for x in &mut node.ins {
                    *x = self.as_bf16(*x, &node.name, copies);
                }
            }
            Op::SgdEma { .. } => self.append_twins(&mut node, &[0, 2], twins),
            Op::Lerp => self.append_twins(&mut node, &[0], twins),
            _ => {}
        }
        Ok(node)
    }

    /// `t` itself, or a bf16 copy of it made just before its first reader.
    fn as_bf16(
        &mut self,
        t: TensorId,
        name: &str,
        copies: &mut HashMap<TensorId, TensorId>,
    ) -> TensorId {
        if self.tensor(t).dtype == DType::BF16 {
            return t;
        }
        if let Some(&copy) = copies.get(&t) {
            return copy;
        }
        let copy_name = format!("{} bf16", self.tensor(t).name);
        let copy = self.transient(copy_name, self.shape(t), DType::BF16);
        self.push(name, Op::Copy, vec![t], vec![copy]);
        copies.insert(t, copy);
        copy
    }

    /// The bf16 copy of a convolution's weights.
    fn twin(&mut self, w: TensorId, twins: &[Twin]) -> Result<TensorId> {
        let tensor = self.tensor(w);
        let (name, shape, storage) = (tensor.name.clone(), tensor.shape, tensor.storage);
        let found = match storage {
            Storage::State { offset } => twins
                .iter()
                .find(|t| (t.weights..t.weights + 4 * t.len).contains(&offset))
                .map(|t| t.copy + (offset - t.weights) / 2),
            _ => None,
        };
        let offset = found.ok_or_else(|| Error::internal(format!("{name} has no bf16 copy")))?;
        Ok(self.at_state(name, offset, shape, DType::BF16))
    }

    /// Adds the copies of those of `outs` that are whole twins.
    fn append_twins(&mut self, node: &mut Node, outs: &[usize], twins: &[Twin]) {
        for &i in outs {
            let Some(&out) = node.outs.get(i) else {
                continue;
            };
            let Storage::State { offset } = self.tensor(out).storage else {
                continue;
            };
            if let Some(twin) = twins.iter().find(|t| t.weights == offset) {
                let (name, shape) = (self.tensor(out).name.clone(), self.shape(out));
                let copy = self.at_state(name, twin.copy, shape, DType::BF16);
                node.outs.push(copy);
            }
        }
    }
}
