//! The memory plan: an offset in one arena for every transient tensor.
//!
//! A tensor is alive from the node that first writes it to the last that reads it; tensors whose
//! lives do not meet may share memory. Placement is greedy: largest first, each at the lowest
//! offset that is free for its whole life. An operation that works in place lends its dying
//! input's memory to its output.

use std::collections::HashMap;

use super::{Graph, Storage, TensorId};
use crate::device::{ArenaId, DType, Device, View, elements};

/// Alignment of every block, bytes.
const ALIGN: usize = 256;

/// Offsets of the transient arena and what they cost.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Byte offset per root tensor.
    offsets: HashMap<TensorId, usize>,
    /// Byte offset and size of each node's workspace, where it has one.
    workspaces: Vec<Option<(usize, usize)>>,
    /// Arena size: the planned peak.
    pub bytes: usize,
    /// Sum over all tensors without sharing, for comparison.
    pub unshared_bytes: usize,
}

/// A piece of memory with a lifetime in node indices (inclusive).
struct Block {
    bytes: usize,
    start: usize,
    end: usize,
    owner: Owner,
}

enum Owner {
    Tensors(Vec<TensorId>),
    Workspace(usize),
}

#[derive(Clone, Copy)]
struct Life {
    start: usize,
    end: usize,
}

/// First write and last use of every transient root.
fn lifetimes(graph: &Graph) -> HashMap<TensorId, Life> {
    let mut lives: HashMap<TensorId, Life> = HashMap::new();
    for (i, node) in graph.nodes().iter().enumerate() {
        for &t in node.ins.iter().chain(&node.outs) {
            let (root, ..) = graph.root(t);
            if matches!(graph.tensor(root).storage, Storage::Transient) {
                lives.entry(root).or_insert(Life { start: i, end: i }).end = i;
            }
        }
    }
    // The host writes an input whether or not anything reads it: it needs memory of its own.
    for (i, tensor) in graph.tensors.iter().enumerate().filter(|(_, t)| t.input) {
        if matches!(tensor.storage, Storage::Transient) {
            lives
                .entry(TensorId(i as u32))
                .or_insert(Life { start: 0, end: 0 });
        }
    }
    let last = graph.nodes().len();
    for (&t, life) in &mut lives {
        if graph.tensor(t).input {
            life.start = 0;
        }
        if graph.tensor(t).keep {
            life.end = last;
        }
    }
    lives
}

/// Joins outputs to the inputs whose memory they take over; the group of each root.
fn share_in_place(graph: &Graph, lives: &HashMap<TensorId, Life>) -> HashMap<TensorId, TensorId> {
    let mut group: HashMap<TensorId, TensorId> = HashMap::new();
    let whole =
        |t: TensorId| !graph.is_slice(t) && matches!(graph.tensor(t).storage, Storage::Transient);
    for (i, node) in graph.nodes().iter().enumerate() {
        let mut taken: Vec<TensorId> = Vec::new();
        for &(o, j) in node.op.in_place() {
            let (Some(&out), Some(&input)) = (node.outs.get(o), node.ins.get(j)) else {
                continue;
            };
            let fits = whole(out)
                && whole(input)
                && out != input
                && node.accumulate >> o & 1 == 0
                && lives[&out].start == i
                && lives[&input].end == i
                && !graph.tensor(input).keep
                && graph.shape(out) == graph.shape(input)
                && graph.tensor(out).dtype == graph.tensor(input).dtype
                && !group.contains_key(&out)
                && !taken.contains(&input)
                && node
                    .ins
                    .iter()
                    .filter(|&&t| graph.root(t).0 == input)
                    .count()
                    == 1;
            if fits {
                taken.push(input);
                let head = group.get(&input).copied().unwrap_or(input);
                group.insert(out, head);
            }
        }
    }
    group
}

impl Plan {
    /// Plans `graph` for `device`.
    pub fn new(graph: &Graph, device: &dyn Device) -> Self {
        let lives = lifetimes(graph);
        let group = share_in_place(graph, &lives);
        let mut members: HashMap<TensorId, Vec<TensorId>> = HashMap::new();
        let mut order: Vec<TensorId> = lives.keys().copied().collect();
        order.sort();
        for &t in &order {
            members
                .entry(group.get(&t).copied().unwrap_or(t))
                .or_default()
                .push(t);
        }
        let size = |t: TensorId| {
            (elements(graph.shape(t)) * graph.tensor(t).dtype.bytes()).next_multiple_of(ALIGN)
        };
        let unshared_bytes = order.iter().map(|&t| size(t)).sum();
        let mut blocks: Vec<Block> = order
            .iter()
            .filter_map(|t| members.remove(t).map(|m| (*t, m)))
            .map(|(head, tensors)| Block {
                bytes: size(head),
                start: tensors.iter().map(|t| lives[t].start).min().unwrap_or(0),
                end: tensors.iter().map(|t| lives[t].end).max().unwrap_or(0),
                owner: Owner::Tensors(tensors),
            })
            .collect();
        blocks.extend(workspace_blocks(graph, device));
        let mut plan = Plan {
            offsets: HashMap::new(),
            workspaces: vec![None; graph.nodes().len()],
            bytes: 0,
            unshared_bytes,
        };
        plan.place(blocks);
        plan
    }

    fn place(&mut self, mut blocks: Vec<Block>) {
        // Stable sort: equal sizes keep the graph's order, so a plan is a function of the graph.
        blocks.sort_by_key(|b| std::cmp::Reverse(b.bytes));
        let mut placed: Vec<(usize, usize, usize, usize)> = Vec::new(); // offset, end, start, stop
        for block in &blocks {
            let mut busy: Vec<(usize, usize)> = placed
                .iter()
                .filter(|p| p.2 <= block.end && block.start <= p.3)
                .map(|p| (p.0, p.1))
                .collect();
            busy.sort_unstable();
            let mut offset = 0;
            for (start, end) in busy {
                if start >= offset + block.bytes {
                    break;
                }
                offset = offset.max(end);
            }
            placed.push((offset, offset + block.bytes, block.start, block.end));
            self.bytes = self.bytes.max(offset + block.bytes);
            match &block.owner {
                Owner::Tensors(tensors) => {
                    self.offsets.extend(tensors.iter().map(|&t| (t, offset)));
                }
                Owner::Workspace(node) => self.workspaces[*node] = Some((offset, block.bytes)),
            }
        }
    }

    /// The view of `t`: transient tensors in `arena`, state tensors in `state`.
    pub fn view(&self, graph: &Graph, t: TensorId, state: ArenaId, arena: ArenaId) -> View {
        let (root, offset, ld) = graph.root(t);
        let tensor = graph.tensor(t);
        let (arena, base) = match graph.tensor(root).storage {
            Storage::State { offset } => (state, offset),
            _ => (arena, self.offsets.get(&root).copied().unwrap_or(0)),
        };
        let offset = base + offset * tensor.dtype.bytes();
        View {
            arena,
            offset,
            shape: tensor.shape,
            ld,
            dtype: tensor.dtype,
        }
    }

    /// The workspace of node `i`.
    pub fn workspace(&self, i: usize, arena: ArenaId) -> Option<View> {
        self.workspaces[i]
            .map(|(offset, bytes)| View::dense(arena, offset, [1, 1, 1, bytes / 4], DType::F32))
    }
}

fn workspace_blocks(graph: &Graph, device: &dyn Device) -> Vec<Block> {
    // Offsets do not matter to the question, shapes do.
    let view = |t: &TensorId| {
        let (_, _, ld) = graph.root(*t);
        let tensor = graph.tensor(*t);
        View {
            arena: ArenaId(0),
            offset: 0,
            shape: tensor.shape,
            ld,
            dtype: tensor.dtype,
        }
    };
    let mut blocks = Vec::new();
    for (i, node) in graph.nodes().iter().enumerate() {
        let ins: Vec<View> = node.ins.iter().map(view).collect();
        let outs: Vec<View> = node.outs.iter().map(view).collect();
        let bytes = device
            .workspace_bytes(&node.op, &ins, &outs)
            .next_multiple_of(ALIGN);
        if bytes > 0 {
            blocks.push(Block {
                bytes,
                start: i,
                end: i,
                owner: Owner::Workspace(i),
            });
        }
    }
    blocks
}
