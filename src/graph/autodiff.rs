//! Reverse-mode differentiation: appends explicit backward nodes to a graph.
//!
//! A gradient has the shape of its tensor. The gradient of a slice is the same slice of the
//! gradient of its root, so a concatenation's backward is free too. The first contribution to a
//! region overwrites, later ones accumulate; a region that nobody wrote is zero-filled only if
//! somebody reads it.

use std::collections::HashMap;

use super::{Graph, Node, Storage, TensorId};
use crate::device::{DType, Op, Shape};
use crate::error::{Error, Result};

/// A loss term: the `stats` output of its node and its weight in the sum.
#[derive(Clone, Copy, Debug)]
pub struct LossTerm {
    /// First output of a `CrossEntropy` or `InfoNce` node.
    pub stats: TensorId,
    /// Weight in the total loss.
    pub weight: f32,
}

/// A window on a root tensor: pixel range × channel range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rect {
    p0: usize,
    p1: usize,
    c0: usize,
    c1: usize,
}

impl Rect {
    fn overlap(&self, o: &Rect) -> bool {
        self.p0 < o.p1 && o.p0 < self.p1 && self.c0 < o.c1 && o.c0 < self.c1
    }

    fn contains(&self, o: &Rect) -> bool {
        self.p0 <= o.p0 && o.p1 <= self.p1 && self.c0 <= o.c0 && o.c1 <= self.c1
    }
}

/// The gradient of one root tensor while the backward pass is being written.
struct Gradient {
    tensor: TensorId,
    written: Vec<Rect>,
}

struct Backward<'g> {
    graph: &'g mut Graph,
    /// Per root tensor: does a gradient have to reach it?
    needed: Vec<bool>,
    gradients: HashMap<TensorId, Gradient>,
    /// Flat gradient of all parameters.
    flat: TensorId,
}

/// Appends the backward pass of `losses` and returns the flat gradient `[1,1,1,weights_len]`,
/// laid out as the flat parameter vector. Parameters that no loss reaches get zero gradients.
/// `parameters` lists (flat offset, shape) of every parameter.
///
/// # Errors
/// [`Error::Internal`] when an operation on the path has no derivative.
pub fn backward(
    graph: &mut Graph,
    losses: &[LossTerm],
    weights_len: usize,
    parameters: &[(usize, Shape)],
) -> Result<TensorId> {
    let flat = graph.transient("gradients", [1, 1, 1, weights_len], DType::F32);
    let needed = needed_roots(graph);
    let forward = graph.nodes().len();
    let mut b = Backward {
        graph,
        needed,
        gradients: HashMap::new(),
        flat,
    };
    b.gradients.insert(
        flat,
        Gradient {
            tensor: flat,
            written: Vec::new(),
        },
    );
    for i in (0..forward).rev() {
        let node = b.graph.nodes[i].clone();
        b.node(&node, losses)?;
    }
    for &(offset, shape) in parameters {
        let slice = b.graph.flat_slice(flat, offset, shape)?;
        b.read_flat(slice)?;
    }
    Ok(flat)
}

/// Marks the roots that lie between a parameter and a loss: outputs of nodes with an input that
/// is a parameter or is itself needed.
fn needed_roots(graph: &Graph) -> Vec<bool> {
    let mut needed = vec![false; graph.tensors.len()];
    for node in graph.nodes() {
        let carries = node.ins.iter().enumerate().any(|(i, &t)| {
            let (root, ..) = graph.root(t);
            differentiable_input(&node.op, i)
                && (graph.tensor(t).param.is_some() || needed[root.index()])
        });
        if carries && let Some(&out) = node.outs.first() {
            let (root, ..) = graph.root(out);
            needed[root.index()] = true;
        }
    }
    needed
}

/// Whether a gradient can flow into input `i` of `op`. All others (labels, masks, random state,
/// bank, prototypes) are constants of the step.
fn differentiable_input(op: &Op, i: usize) -> bool {
    match op {
        Op::Conv(_) => i <= 2,
        Op::BatchNorm { .. } => i <= 3,
        Op::Relu
        | Op::MaxPool { .. }
        | Op::GlobalAvgPool
        | Op::Resize
        | Op::Dropout2d { .. }
        | Op::CrossEntropy { .. }
        | Op::InfoNce(_) => i == 0,
        _ => false,
    }
}

impl Backward<'_> {
    /// The window that `t` is of its root.
    fn rect(&self, t: TensorId) -> Rect {
        let (root, offset, ld) = self.graph.root(t);
        let root_shape = self.graph.shape(root);
        let [n, h, w, c] = self.graph.shape(t);
        if root_shape[0] * root_shape[1] * root_shape[2] == 1 && root_shape[3] >= n * h * w * c {
            // A flat vector: any shape is a run of its elements.
            return Rect {
                p0: 0,
                p1: 1,
                c0: offset,
                c1: offset + n * h * w * c,
            };
        }
        let (p0, c0) = (offset / ld, offset % ld);
        Rect {
            p0,
            p1: p0 + n * h * w,
            c0,
            c1: c0 + c,
        }
    }

    fn needs(&self, t: TensorId) -> bool {
        let (root, ..) = self.graph.root(t);
        self.graph.tensor(t).param.is_some() || self.needed[root.index()]
    }

    /// The same window of the gradient's root.
    fn window(&mut self, of: TensorId, grad_root: TensorId) -> TensorId {
        let (root, offset, ld) = self.graph.root(of);
        if root == of {
            return grad_root;
        }
        let shape = self.graph.shape(of);
        let name = format!("d {}", self.graph.tensor(of).name);
        self.graph.slice(grad_root, offset, ld, shape, name)
    }

    /// Where to put a contribution to the gradient of `t`, and whether to accumulate.
    fn target(&mut self, t: TensorId) -> Result<(TensorId, bool)> {
        let (key, rect, window) = match self.graph.tensor(t).param {
            Some(offset) => {
                let slice = self
                    .graph
                    .flat_slice(self.flat, offset, self.graph.shape(t))?;
                (self.flat, self.rect(slice), slice)
            }
            None => {
                let (root, ..) = self.graph.root(t);
                let grad = match self.gradients.get(&root) {
                    Some(g) => g.tensor,
                    None => {
                        let name = format!("d {}", self.graph.tensor(root).name);
                        let shape = self.graph.shape(root);
                        let tensor = self.graph.transient(name, shape, DType::F32);
                        self.gradients.insert(
                            root,
                            Gradient {
                                tensor,
                                written: Vec::new(),
                            },
                        );
                        tensor
                    }
                };
                let rect = self.rect(t);
                (root, rect, self.window(t, grad))
            }
        };
        let Some(gradient) = self.gradients.get_mut(&key) else {
            return Err(Error::internal("gradient table lost an entry"));
        };
        if gradient.written.iter().any(|w| w.contains(&rect)) {
            return Ok((window, true));
        }
        if gradient.written.iter().any(|w| w.overlap(&rect)) {
            return Err(Error::internal(format!(
                "gradient of {} arrives in overlapping parts",
                self.graph.tensor(t).name
            )));
        }
        gradient.written.push(rect);
        Ok((window, false))
    }

    /// The gradient of `t`, zero-filled where nobody wrote; `None` when nobody wrote at all.
    fn source(&mut self, t: TensorId) -> Result<Option<TensorId>> {
        let (root, ..) = self.graph.root(t);
        let Some(gradient) = self.gradients.get(&root) else {
            return Ok(None);
        };
        let (tensor, rect) = (gradient.tensor, self.rect(t));
        let parts: Vec<Rect> = gradient
            .written
            .iter()
            .copied()
            .filter(|w| w.overlap(&rect))
            .collect();
        if parts.is_empty() {
            return Ok(None);
        }
        if !parts.iter().any(|p| p.contains(&rect)) {
            self.fill_gaps(root, tensor, rect, parts)?;
        }
        Ok(Some(self.window(t, tensor)))
    }

    /// Zero-fills what `parts` leave of `rect`; gaps must run along one axis.
    fn fill_gaps(
        &mut self,
        root: TensorId,
        tensor: TensorId,
        rect: Rect,
        mut parts: Vec<Rect>,
    ) -> Result<()> {
        let by_pixel = parts.iter().all(|p| p.c0 <= rect.c0 && p.c1 >= rect.c1);
        let by_channel = parts.iter().all(|p| p.p0 <= rect.p0 && p.p1 >= rect.p1);
        let range = |r: &Rect| if by_pixel { (r.p0, r.p1) } else { (r.c0, r.c1) };
        if !by_pixel && !by_channel {
            return Err(Error::internal("gradient gaps along two axes"));
        }
        parts.sort_by_key(range);
        let (mut at, end) = range(&rect);
        let mut gaps = Vec::new();
        for part in &parts {
            let (start, stop) = range(part);
            if start > at {
                gaps.push((at, start));
            }
            at = at.max(stop);
        }
        if at < end {
            gaps.push((at, end));
        }
        let ld = self.graph.shape(root)[3];
        for (a, z) in gaps {
            let r = if by_pixel {
                Rect {
                    p0: a,
                    p1: z,
                    ..rect
                }
            } else {
                Rect {
                    c0: a,
                    c1: z,
                    ..rect
                }
            };
            let shape = [1, 1, r.p1 - r.p0, r.c1 - r.c0];
            let name = format!("{} gap", self.graph.tensor(tensor).name);
            let gap = self.graph.slice(tensor, r.p0 * ld + r.c0, ld, shape, name);
            self.graph
                .push("backward", Op::Fill { value: 0.0 }, vec![], vec![gap]);
            if let Some(g) = self.gradients.get_mut(&root) {
                g.written.push(r);
            }
        }
        Ok(())
    }

    /// Zero-fills a parameter's gradient that no loss reached.
    fn read_flat(&mut self, slice: TensorId) -> Result<()> {
        let rect = self.rect(slice);
        let flat = self.flat;
        let Some(gradient) = self.gradients.get_mut(&flat) else {
            return Err(Error::internal("no flat gradient"));
        };
        if !gradient.written.iter().any(|w| w.contains(&rect)) {
            gradient.written.push(rect);
            self.graph
                .push("backward", Op::Fill { value: 0.0 }, vec![], vec![slice]);
        }
        Ok(())
    }

    /// Emits `op` with the outputs' gradient targets; inputs that need none are left out by the caller.
    fn emit(&mut self, name: &str, op: Op, ins: Vec<TensorId>, of: &[TensorId]) -> Result<()> {
        let mut outs = Vec::with_capacity(of.len());
        let mut accumulate = 0;
        for (i, &t) in of.iter().enumerate() {
            let (out, add) = self.target(t)?;
            accumulate |= u32::from(add) << i;
            outs.push(out);
        }
        self.graph
            .push_accumulating(name, op, ins, outs, accumulate);
        Ok(())
    }

    fn node(&mut self, node: &Node, losses: &[LossTerm]) -> Result<()> {
        let Some(&out) = node.outs.first() else {
            return Ok(());
        };
        if let Some(term) = losses.iter().find(|l| l.stats == out) {
            return self.loss(node, term.weight);
        }
        if !self.needs(out) {
            return Ok(());
        }
        let Some(dy) = self.source(out)? else {
            return Ok(());
        };
        let name = node.name.as_str();
        let x = node.ins[0];
        match &node.op {
            Op::Conv(window) => {
                // The weight gradient first: dgrad may be the last reader of dy.
                let weights = &node.ins[1..];
                if weights.iter().all(|&w| self.needs(w)) {
                    self.emit(name, Op::ConvWgrad(*window), vec![x, dy], weights)?;
                }
                if self.needs(x) {
                    self.emit(name, Op::ConvDgrad(*window), vec![dy, node.ins[1]], &[x])?;
                }
                Ok(())
            }
            Op::BatchNorm { relu, .. } => {
                let ins = vec![dy, x, out, node.ins[1], node.outs[1], node.outs[2]];
                self.emit(name, Op::BatchNormBackward { relu: *relu }, ins, &node.ins)
            }
            Op::Relu => self.emit(name, Op::ReluBackward, vec![dy, out], &[x]),
            Op::MaxPool { size, window } => {
                let op = Op::MaxPoolBackward {
                    size: *size,
                    window: *window,
                };
                self.emit(name, op, vec![dy, node.outs[1]], &[x])
            }
            Op::GlobalAvgPool => self.emit(name, Op::GlobalAvgPoolBackward, vec![dy], &[x]),
            Op::Resize => self.emit(name, Op::ResizeBackward, vec![dy], &[x]),
            Op::Dropout2d { .. } => self.emit(name, node.op.clone(), vec![dy, node.ins[1]], &[x]),
            other => Err(Error::internal(format!(
                "{} has no derivative",
                other.name()
            ))),
        }
    }

    fn loss(&mut self, node: &Node, weight: f32) -> Result<()> {
        let mut ins = node.ins.clone();
        let op = match &node.op {
            Op::CrossEntropy { ignore, .. } => {
                ins.insert(2, node.outs[0]);
                Op::CrossEntropyBackward {
                    ignore: *ignore,
                    weight,
                }
            }
            Op::InfoNce(a) => {
                ins.push(node.outs[0]);
                Op::InfoNceBackward(a.clone(), weight)
            }
            other => return Err(Error::internal(format!("{} is not a loss", other.name()))),
        };
        if self.needs(node.ins[0]) {
            self.emit(&node.name, op, ins, &[node.ins[0]])?;
        }
        Ok(())
    }
}

impl Graph {
    /// Whether `t` is a window on another tensor.
    pub fn is_slice(&self, t: TensorId) -> bool {
        matches!(self.tensor(t).storage, Storage::Slice { .. })
    }
}
