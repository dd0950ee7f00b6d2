//! Fusion: puts one operation in the place of a convolution and the batch norm behind it.
//!
//! ```text
//!  inference   conv → batch_norm_eval (+ residual, + ReLU)    conv_batch_norm_eval
//!  training    conv → batch_norm (+ residual, + ReLU)         conv_moments → batch_norm_merge
//! ```
//!
//! In inference the convolution's own result is never stored: nothing else may read it. In
//! training the backward pass wants it, and what is saved is reading it for its statistics.
//!
//! The pass works on a finished graph, after autodiff and after the lowering to bf16, and asks the
//! device which fused operations it gains from. In f32 a fused inference has the bits of the
//! unfused one. No plan grows: a convolution only moves to its batch norm's place where what it
//! reads is no larger than what it wrote.

use std::collections::{BTreeSet, HashMap};

use super::{Graph, Node, Storage, TensorId};
use crate::device::op::{ConvNorm, MOMENT_PIXELS};
use crate::device::{DType, Device, Met, Op, elements};
use crate::error::Result;

/// Who touches a root tensor.
#[derive(Clone, Copy, Debug, Default)]
struct Uses {
    reads: usize,
    writes: usize,
    /// Last node that reads or writes it.
    last: usize,
}

impl Graph {
    /// Puts those fused operations in place that `gains` says yes to, [`crate::device::Device::fuses`]
    /// for one. Fusing twice changes nothing.
    pub fn fuse(&mut self, gains: impl Fn(&Op) -> bool) {
        let uses = self.uses();
        let mut convs: HashMap<TensorId, usize> = HashMap::new();
        let mut gone = vec![false; self.nodes.len()];
        for i in 0..self.nodes.len() {
            let node = &self.nodes[i];
            match node.op {
                Op::Conv(_) if self.is_own(node.outs[0], &uses) => {
                    convs.insert(node.outs[0], i);
                }
                Op::BatchNormEval { .. } => {
                    let conv = convs.get(&node.ins[0]).copied();
                    let fused = conv.and_then(|conv| self.norm(conv, i, &uses));
                    if let (Some(conv), Some(fused)) = (conv, fused)
                        && gains(&fused.op)
                    {
                        self.nodes[i] = fused;
                        gone[conv] = true;
                    }
                }
                Op::BatchNorm { .. } => {
                    if let Some(&conv) = convs.get(&node.ins[0]) {
                        self.moments(conv, i, &gains);
                    }
                }
                _ => {}
            }
        }
        let mut gone = gone.into_iter();
        self.nodes.retain(|_| !gone.next().unwrap_or(false));
    }

    /// Fuses what `device` gains from and introduces what is left to it, so that its kernels may be
    /// checked before anything is planned. A fused operation whose kernels fail there is taken apart
    /// again.
    ///
    /// # Errors
    /// As [`Device::meet`].
    pub fn suit(&mut self, device: &dyn Device) -> Result<()> {
        device.meet(&self.met_on(device))?;
        self.fuse(|op| device.fuses(op));
        device.meet(&self.met())
    }

    /// What [`Graph::suit`] introduces first.
    pub fn met_on(&self, device: &dyn Device) -> Vec<Met> {
        let mut fused = self.clone();
        fused.fuse(|op| device.fuses(op));
        fused.met()
    }

    /// Its operations, each once, and those that fill its memory and carry what lies elsewhere into it.
    pub fn met(&self) -> Vec<Met> {
        let dtype = |&t: &TensorId| self.tensor(t).dtype;
        let met = |n: &Node| Met::new(n.op.name(), n.ins.iter().chain(&n.outs).map(dtype));
        let around = ["fill", "copy"].map(|op| Met { op, half: false });
        let all: BTreeSet<Met> = self.nodes.iter().map(met).chain(around).collect();
        all.into_iter().collect()
    }

    fn uses(&self) -> Vec<Uses> {
        let mut uses = vec![Uses::default(); self.tensors.len()];
        for (i, node) in self.nodes.iter().enumerate() {
            for &t in &node.ins {
                let of = &mut uses[self.root(t).0.index()];
                (of.reads, of.last) = (of.reads + 1, i);
            }
            for &t in &node.outs {
                let of = &mut uses[self.root(t).0.index()];
                (of.writes, of.last) = (of.writes + 1, i);
            }
        }
        uses
    }

    /// Whether `t` is a whole transient tensor that one node alone writes.
    fn is_own(&self, t: TensorId, uses: &[Uses]) -> bool {
        let tensor = self.tensor(t);
        tensor.storage == Storage::Transient && !tensor.input && uses[t.index()].writes == 1
    }

    /// The node that does the work of convolution `conv` and batch norm `at`, in the latter's
    /// place; `None` where they must stay apart.
    fn norm(&self, conv: usize, at: usize, uses: &[Uses]) -> Option<Node> {
        let (conv_node, node) = (&self.nodes[conv], &self.nodes[at]);
        let (Op::Conv(window), Op::BatchNormEval { eps, relu }) = (&conv_node.op, &node.op) else {
            return None;
        };
        let (between, y) = (conv_node.outs[0], node.outs[0]);
        let alone = uses[between.index()].reads == 1 && !self.tensor(between).keep;
        if !alone || !self.may_move(conv, at, uses) {
            return None;
        }
        let root = |t: TensorId| self.root(t).0;
        // A convolution must not write where it still reads.
        let reads = conv_node.ins.iter().chain(&node.ins[1..]);
        if reads.into_iter().any(|&t| root(t) == root(y)) {
            return None;
        }
        let mut ins = conv_node.ins[..2].to_vec();
        ins.extend(&node.ins[1..5]);
        ins.extend(conv_node.ins.get(2));
        ins.extend(node.ins.get(5));
        let op = Op::ConvBatchNormEval(ConvNorm {
            window: *window,
            bias: conv_node.ins.len() > 2,
            eps: *eps,
            relu: *relu,
        });
        Some(Node {
            op,
            ins,
            outs: vec![y],
            accumulate: 0,
            name: conv_node.name.clone(),
        })
    }

    /// Whether convolution `conv` may run at `at` instead: nothing in between writes what it
    /// reads, and no more memory is held for it than its result took.
    fn may_move(&self, conv: usize, at: usize, uses: &[Uses]) -> bool {
        let node = &self.nodes[conv];
        let root = |t: TensorId| self.root(t).0;
        let mut written = self.nodes[conv + 1..at].iter().flat_map(|n| &n.outs);
        let disturbed = written.any(|&out| {
            let out = root(out);
            // Entries of the state may overlap: any write to it counts.
            matches!(self.tensor(out).storage, Storage::State { .. })
                || node.ins.iter().any(|&t| root(t) == out)
        });
        let bytes = |t: TensorId| elements(self.shape(t)) * self.tensor(t).dtype.bytes();
        let x = root(node.ins[0]);
        let no_larger = bytes(x) <= bytes(node.outs[0]) || uses[x.index()].last >= at;
        !disturbed && (conv + 1 == at || no_larger)
    }

    /// Has convolution `conv` take the statistics of batch norm `at`.
    fn moments(&mut self, conv: usize, at: usize, gains: &impl Fn(&Op) -> bool) {
        let (
            Op::Conv(window),
            Op::BatchNorm {
                eps,
                momentum,
                relu,
            },
        ) = (&self.nodes[conv].op, &self.nodes[at].op)
        else {
            return;
        };
        let (with_moments, merge) = (
            Op::ConvMoments(*window),
            Op::BatchNormMerge {
                eps: *eps,
                momentum: *momentum,
                relu: *relu,
            },
        );
        if !gains(&with_moments) {
            return;
        }
        let [n, h, w, channels] = self.shape(self.nodes[conv].outs[0]);
        let shape = [1, 1, (n * h * w).div_ceil(MOMENT_PIXELS), 2 * channels];
        let name = format!("{}.moments", self.nodes[conv].name);
        let moments = self.transient(name, shape, DType::F32);
        let conv = &mut self.nodes[conv];
        (conv.op, conv.outs) = (with_moments, vec![conv.outs[0], moments]);
        let norm = &mut self.nodes[at];
        norm.op = merge;
        norm.ins.insert(3, moments);
    }
}
