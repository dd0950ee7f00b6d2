//! The table of cases, read off the graphs that a recipe runs.
//!
//! A case is an operation at given shapes, strides and element types. Calls that do the same work
//! are one case; how often each program makes it is counted beside it. So the table covers a
//! step exactly, and the sum of time × count is the step's time, operation by operation.

use serde::Serialize;

use super::names;
use super::recipes::Recipe;
use crate::Result;
use crate::config::Config;
use crate::device::op::MOMENT_PIXELS;
use crate::device::{ArenaId, Cost, DType, Device, Op, Shape, View, elements};
use crate::eval::inference_graph;
use crate::graph::Graph;
use crate::graph::plan::Plan;
use crate::method::state::param_set;
use crate::train::session::Blueprint;

/// One operand of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Operand {
    /// Shape: NHWC for maps, K·R·S·C for weights, `[1, 1, 1, n]` for vectors.
    pub shape: Shape,
    /// Elements between the starts of consecutive pixels; more than the channels in a slice.
    pub ld: usize,
    /// Element type.
    pub dtype: DType,
}

impl Operand {
    fn of(view: &View) -> Self {
        Self {
            shape: view.shape,
            ld: view.ld,
            dtype: view.dtype,
        }
    }

    /// A view of it at a byte offset of an arena.
    pub fn view(&self, arena: ArenaId, offset: usize) -> View {
        View {
            arena,
            offset,
            shape: self.shape,
            ld: self.ld,
            dtype: self.dtype,
        }
    }

    /// Bytes from its first element to one past its last, gaps included.
    pub fn span_bytes(&self) -> usize {
        self.view(ArenaId(0), 0).span_bytes()
    }
}

/// How often a program makes the call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Use {
    /// `U2PL step`, `warm-up step`, `inference` (one image) or `evaluation` (one window, one
    /// image: what comes after the network).
    pub program: &'static str,
    /// Calls.
    pub count: usize,
}

/// An operation with the description of its operands.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Case {
    /// Unique in its table; a function of everything below but `layer` and `uses`.
    pub name: String,
    /// [`Op::name`].
    pub kind: &'static str,
    /// The operation and its attributes; random streams are 0, weights of losses 1.
    pub op: Op,
    /// Inputs, in the operation's order.
    pub ins: Vec<Operand>,
    /// Outputs, in the operation's order.
    pub outs: Vec<Operand>,
    /// Bit `i` set: output `i` is added to.
    pub accumulate: u32,
    /// (output, input) pairs that share memory.
    pub in_place: Vec<(usize, usize)>,
    /// The first layer or loss that makes the call.
    pub layer: String,
    /// Who makes it how often.
    pub uses: Vec<Use>,
    /// `[measured, real]` images, where the case was made smaller than the step's.
    pub reduced: Option<[usize; 2]>,
}

impl Case {
    /// FLOPs and least bytes of one call.
    pub fn cost(&self) -> Cost {
        let views = |operands: &[Operand]| -> Vec<View> {
            operands.iter().map(|o| o.view(ArenaId(0), 0)).collect()
        };
        self.op.cost(&views(&self.ins), &views(&self.outs))
    }

    /// Calls that `program` makes.
    pub fn count(&self, program: &str) -> usize {
        let uses = self.uses.iter().find(|u| u.program == program);
        uses.map_or(0, |u| u.count)
    }

    /// Bytes of memory that one copy of its operands takes.
    pub fn bytes(&self) -> usize {
        let shared = |i: &usize| !self.in_place.iter().any(|(o, _)| o == i);
        let ins = self.ins.iter().map(Operand::span_bytes).sum::<usize>();
        let outs = (0..self.outs.len()).filter(shared);
        ins + outs.map(|i| self.outs[i].span_bytes()).sum::<usize>()
    }

    /// The case on at most `images` images, where that is a matter of its maps' first dimension:
    /// convolutions and what works map by map.
    pub fn on_images(&self, images: usize) -> Option<Case> {
        let maps: fn(usize, bool) -> bool = match self.op {
            Op::Conv(_) | Op::ConvDgrad(_) => |i, input| !input || i == 0,
            Op::ConvMoments(_) => |i, _| i == 0,
            Op::ConvBatchNormEval(_) => |i, input| !input || i == 0 || i > 5,
            Op::ConvWgrad(_) => |_, input| input,
            Op::BatchNorm { .. } | Op::BatchNormEval { .. } | Op::BatchNormBackward { .. } => {
                |_, _| true
            }
            Op::Relu | Op::ReluBackward | Op::Resize | Op::ResizeBackward => |_, _| true,
            _ => return None,
        };
        let from = self.ins.first()?.shape[0];
        if images == 0 || from <= images {
            return None;
        }
        let mut case = self.clone();
        for (i, operand) in case.ins.iter_mut().enumerate() {
            // A vector of batch norm has one "image".
            if maps(i, true) && operand.shape[0] == from {
                operand.shape[0] = images;
            }
        }
        for (i, operand) in case.outs.iter_mut().enumerate() {
            if maps(i, false) && operand.shape[0] == from {
                operand.shape[0] = images;
            }
        }
        if let Op::ConvMoments(_) = case.op {
            let [n, h, w, _] = case.outs[0].shape;
            case.outs[1].shape[2] = (n * h * w).div_ceil(MOMENT_PIXELS);
        }
        case.reduced = Some([images, from]);
        Some(case)
    }
}

/// Every case of a recipe on a device: the U2PL step (the step on labels where there is no other),
/// inference and evaluation. In order of first use.
///
/// # Errors
/// [`crate::Error::Input`] when crop, batch and network do not fit together.
pub fn table(recipe: &Recipe, device: &dyn Device) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for (program, graph) in programs(recipe, device)? {
        collect(program, &graph, device, &mut cases);
    }
    names::number_repeats(&mut cases);
    Ok(cases)
}

/// The graphs that a recipe runs on a device, fused, by name.
///
/// # Errors
/// As [`table`].
pub(crate) fn programs(recipe: &Recipe, device: &dyn Device) -> Result<Vec<(&'static str, Graph)>> {
    let cfg = &recipe.cfg;
    let map = device.map_dtype();
    let blueprint = Blueprint::new(cfg, recipe.staged_pixels, map)?;
    let blueprint = blueprint.fused(|op| device.fuses(op));
    let teacher = param_set(&blueprint.state, "teacher")?;
    let mut params = blueprint.params;
    let mut inference = inference_graph(cfg, &mut params, teacher, recipe.inference_size())?;
    inference.fuse(|op| device.fuses(op));
    let step = match (blueprint.u2pl, blueprint.warmup) {
        (Some((graph, _)), _) => Some(("U2PL step", graph)),
        (None, warmup) => warmup.map(|(graph, _)| ("warm-up step", graph)),
    };
    let evaluation = evaluation(cfg, &inference, recipe.image);
    let others = [("inference", inference), ("evaluation", evaluation)];
    Ok(step.into_iter().chain(others).collect())
}

/// What follows the network when a labelled image is scored by one window and its mirror image.
fn evaluation(cfg: &Config, inference: &Graph, [h, w]: [usize; 2]) -> Graph {
    let (classes, ignore) = (cfg.data.classes, cfg.data.ignore_index);
    let maps = inference.nodes().last();
    let low = maps.map_or([1, 1, 1, classes], |n| inference.shape(n.ins[0]));
    let size = maps.map_or([1, h, w, 1], |n| inference.shape(n.outs[0]));
    // Where windows slide, the map is at least as large as one.
    let (h, w) = (h.max(size[1]), w.max(size[2]));
    let mut g = Graph::new();
    let logits = g.transient("logits", low, DType::F32);
    let label = g.transient("label", size, DType::U8);
    let window = g.transient("window", [1, 1, 1, 4], DType::U32);
    let scores = g.transient("scores", [1, h, w, classes], DType::F32);
    let counts = g.transient("counts", [1, h, w, 1], DType::F32);
    let matrix = g.transient("confusion", [1, 1, classes, classes], DType::U32);
    g.push(
        "confusion",
        Op::Confusion { ignore },
        vec![logits, label],
        vec![matrix],
    );
    for (flip, softmax) in [(false, false), (true, true)] {
        let op = Op::AddScores { flip, softmax };
        g.push("scores", op, vec![logits, window], vec![scores, counts]);
    }
    let entropy = g.transient("entropy", [1, h, w, 1], DType::F32);
    let argmax = g.transient("argmax", [1, h, w, 1], DType::U8);
    let confidence = g.transient("confidence", [1, h, w, 1], DType::F32);
    let op = Op::FinishScores { softmax: false };
    let outs = vec![entropy, argmax, confidence];
    g.push("scores", op, vec![scores, counts], outs);
    let truth = g.transient("truth", [1, h, w, 1], DType::U8);
    let op = Op::LabelConfusion { ignore };
    g.push("confusion", op, vec![truth, argmax], vec![matrix]);
    g
}

/// The calls of `graph` added to `cases`: for each node the place of its case, `None` for one that
/// writes nothing.
pub(crate) fn collect(
    program: &'static str,
    graph: &Graph,
    device: &dyn Device,
    cases: &mut Vec<Case>,
) -> Vec<Option<usize>> {
    let plan = Plan::new(graph, device);
    let mut places = Vec::with_capacity(graph.nodes().len());
    for node in graph.nodes() {
        let view = |t: &_| plan.view(graph, *t, ArenaId(0), ArenaId(1));
        let ins: Vec<View> = node.ins.iter().map(view).collect();
        let outs: Vec<View> = node.outs.iter().map(view).collect();
        let shares = |&(o, i): &(usize, usize)| outs.get(o).is_some() && outs.get(o) == ins.get(i);
        let mut case = Case {
            name: String::new(),
            kind: node.op.name(),
            op: stripped(&node.op),
            in_place: node.op.in_place().iter().copied().filter(shares).collect(),
            ins: ins.iter().map(Operand::of).collect(),
            outs: outs.iter().map(Operand::of).collect(),
            accumulate: node.accumulate,
            layer: node.name.clone(),
            uses: vec![Use { program, count: 1 }],
            reduced: None,
        };
        if case.outs.iter().all(|o| elements(o.shape) == 0) {
            places.push(None);
            continue;
        }
        let known = cases.iter().position(|c| same_work(c, &case));
        places.push(Some(known.unwrap_or(cases.len())));
        match known.map(|i| &mut cases[i]) {
            Some(known) => match known.uses.iter_mut().find(|u| u.program == program) {
                Some(usage) => usage.count += 1,
                None => known.uses.push(Use { program, count: 1 }),
            },
            None => {
                case.name = names::of(&case);
                cases.push(case);
            }
        }
    }
    places
}

fn same_work(a: &Case, b: &Case) -> bool {
    a.op == b.op
        && a.ins == b.ins
        && a.outs == b.outs
        && a.accumulate == b.accumulate
        && a.in_place == b.in_place
}

/// The operation with random stream 0 and weight 1: they are no matter of work.
fn stripped(op: &Op) -> Op {
    let mut op = op.clone();
    match &mut op {
        Op::Augment(a) => a.stream = 0,
        Op::Mix { stream, .. } | Op::Dropout2d { stream, .. } => *stream = 0,
        Op::CrossEntropyBackward { weight, .. } => *weight = 1.0,
        Op::InfoNce(a) => a.stream = 0,
        Op::InfoNceBackward(a, weight) => (a.stream, *weight) = (0, 1.0),
        _ => {}
    }
    op
}
