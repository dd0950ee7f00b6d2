//! `u2pl-engine plan`: memory and work of a training step, before any run. Allocates nothing.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;

use serde_json::{Value, json};

use super::common::{ConfigArgs, DeviceArgs, emit, emit_json};
use crate::config::Config;
use crate::config::schema::DataKind;
use crate::device::{ArenaId, Cost, Device, View, elements};
use crate::graph::plan::Plan;
use crate::graph::state::State;
use crate::graph::{Graph, Node, Storage};
use crate::train::session::Blueprint;

/// Prints memory and FLOPs of a training step per operation and layer, and its peak memory.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Write the numbers as JSON here; - prints them instead of the tables
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs the subcommand.
pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let device = args.device.open()?;
    let cfg = match args.config.config {
        Some(_) => args.config.load()?,
        None => Config::demo(&args.config.set)?,
    };
    cfg.validate()?;
    let staged = staged_pixels(&cfg);
    let mut blueprint = Blueprint::new(&cfg, staged, device.map_dtype())?;
    for (graph, _) in [&mut blueprint.warmup, &mut blueprint.u2pl]
        .into_iter()
        .flatten()
    {
        graph.fuse(&*device);
    }
    let graphs = [
        ("warm-up step", &blueprint.warmup),
        ("U2PL step", &blueprint.u2pl),
    ];
    let steps: Vec<StepPlan> = graphs
        .iter()
        .filter_map(|(name, graph)| graph.as_ref().map(|(g, _)| (name, g)))
        .map(|(name, graph)| StepPlan::new(name, graph, &*device))
        .collect();
    let memory = Memory::new(&blueprint, &steps, staged);

    if let Some(path) = &args.json {
        let steps: Vec<Value> = steps.iter().map(StepPlan::json).collect();
        emit_json(path, &json!({"memory": memory.json(), "steps": steps}))?;
        if path.as_os_str() == "-" {
            return Ok(());
        }
    }
    let mut text = String::new();
    for step in &steps {
        text += &step.text();
    }
    emit(&(text + &memory.text()))
}

/// Pixels of the largest image that staging is planned for: that of the known datasets, else the
/// crop. A run looks at its images; a plan must not need them.
fn staged_pixels(cfg: &Config) -> usize {
    let [h, w] = match cfg.data.kind {
        DataKind::Shapes => [cfg.data.shapes.size; 2],
        DataKind::Voc => [500, 500],
        DataKind::Cityscapes => [1024, 2048],
        DataKind::Folder => cfg.augment.crop,
    };
    let side = |n: usize| (n as f32 * cfg.data.image_scale).ceil() as usize;
    side(h) * side(w)
}

/// Work and tensors of a group of calls.
#[derive(Clone, Copy, Debug, Default)]
struct Group {
    calls: usize,
    cost: Cost,
    /// Bytes of the transient tensors that it writes first.
    tensors: usize,
}

impl Group {
    fn add(&mut self, cost: Cost, tensors: usize) {
        self.calls += 1;
        self.cost.flops += cost.flops;
        self.cost.bytes += cost.bytes;
        self.tensors += tensors;
    }

    fn json(&self) -> Value {
        json!({
            "calls": self.calls,
            "flops": self.cost.flops,
            "least_bytes": self.cost.bytes,
            "tensor_bytes": self.tensors,
        })
    }
}

/// One program's plan.
struct StepPlan {
    name: &'static str,
    total: Group,
    by_op: Vec<(String, Group)>,
    by_layer: Vec<(String, Group)>,
    arena_bytes: usize,
    unshared_bytes: usize,
}

impl StepPlan {
    fn new(name: &'static str, graph: &Graph, device: &dyn Device) -> Self {
        let plan = Plan::new(graph, device);
        let (mut by_op, mut by_layer) = (BTreeMap::new(), BTreeMap::new());
        let mut total = Group::default();
        let mut written = HashSet::new();
        for node in graph.nodes() {
            let view = |t: &_| plan.view(graph, *t, ArenaId(0), ArenaId(1));
            let ins: Vec<View> = node.ins.iter().map(view).collect();
            let outs: Vec<View> = node.outs.iter().map(view).collect();
            let cost = node.op.cost(&ins, &outs);
            let mut tensors = 0;
            for &t in &node.outs {
                let (root, ..) = graph.root(t);
                let tensor = graph.tensor(root);
                if tensor.storage == Storage::Transient && written.insert(root) {
                    tensors += elements(tensor.shape) * tensor.dtype.bytes();
                }
            }
            total.add(cost, tensors);
            let groups: [(&mut BTreeMap<String, Group>, String); 2] = [
                (&mut by_op, node.op.name().to_string()),
                (&mut by_layer, layer_of(node)),
            ];
            for (groups, key) in groups {
                groups.entry(key).or_default().add(cost, tensors);
            }
        }
        Self {
            name,
            total,
            by_op: sorted(by_op),
            by_layer: sorted(by_layer),
            arena_bytes: plan.bytes,
            unshared_bytes: plan.unshared_bytes,
        }
    }

    fn json(&self) -> Value {
        let table = |groups: &[(String, Group)]| -> Value {
            let rows = groups.iter().map(|(name, g)| (name.clone(), g.json()));
            Value::Object(rows.collect())
        };
        json!({
            "name": self.name,
            "total": self.total.json(),
            "operations": table(&self.by_op),
            "layers": table(&self.by_layer),
            "arena_bytes": self.arena_bytes,
            "unshared_bytes": self.unshared_bytes,
        })
    }

    fn text(&self) -> String {
        let mut text = format!("{}\n", self.name);
        for (what, groups) in [("operation", &self.by_op), ("layer", &self.by_layer)] {
            text += &format!(
                "  {what:<26} {:>6} {:>11} {:>6} {:>12} {:>12}\n",
                "calls", "GFLOP", "%", "least MiB", "tensors MiB"
            );
            for (name, group) in groups {
                text += &self.row(name, group);
            }
            text += &self.row("total", &self.total);
            text.push('\n');
        }
        text
    }

    fn row(&self, name: &str, g: &Group) -> String {
        let share = 100.0 * g.cost.flops / self.total.cost.flops.max(1.0);
        format!(
            "  {name:<26} {:>6} {:>11.3} {share:>6.2} {:>12.1} {:>12.1}\n",
            g.calls,
            g.cost.flops / 1e9,
            g.cost.bytes / MIB,
            g.tensors as f64 / MIB
        )
    }
}

const MIB: f64 = (1u64 << 20) as f64;

/// Most work first.
fn sorted(groups: BTreeMap<String, Group>) -> Vec<(String, Group)> {
    let mut groups: Vec<_> = groups.into_iter().collect();
    groups.sort_by(|(_, a), (_, b)| b.cost.flops.total_cmp(&a.cost.flops));
    groups
}

/// Stage or head that a node belongs to: `encoder.layer3`, `decoder.aspp`, or its own name.
fn layer_of(node: &Node) -> String {
    let mut parts = node.name.split('.');
    match (parts.next(), parts.next()) {
        (Some(net @ ("encoder" | "decoder" | "auxor")), Some(part)) => {
            // The stem's convolutions and batch norms are one thing to the reader.
            let stem = net == "encoder" && !part.starts_with("layer");
            format!("{net}.{}", if stem { "stem" } else { part })
        }
        _ => node.name.clone(),
    }
}

/// Where the bytes of a run are.
struct Memory {
    /// (what, bytes).
    state: Vec<(&'static str, usize)>,
    steps: Vec<(&'static str, usize, usize)>,
    state_bytes: usize,
    arena_bytes: usize,
    staged_pixels: usize,
    parameters: usize,
}

impl Memory {
    fn new(blueprint: &Blueprint, steps: &[StepPlan], staged_pixels: usize) -> Self {
        Self {
            state: state_parts(&blueprint.state),
            steps: steps
                .iter()
                .map(|s| (s.name, s.arena_bytes, s.unshared_bytes))
                .collect(),
            state_bytes: blueprint.state.bytes(),
            arena_bytes: steps.iter().map(|s| s.arena_bytes).max().unwrap_or(0),
            staged_pixels,
            parameters: blueprint.params.parameter_count(),
        }
    }

    fn peak(&self) -> usize {
        self.state_bytes + self.arena_bytes
    }

    fn json(&self) -> Value {
        let parts = self.state.iter().map(|(n, b)| ((*n).into(), json!(b)));
        json!({
            "parameters": self.parameters,
            "state": Value::Object(parts.collect()),
            "state_bytes": self.state_bytes,
            "arena_bytes": self.arena_bytes,
            "peak_bytes": self.peak(),
            "staged_image_pixels": self.staged_pixels,
        })
    }

    fn text(&self) -> String {
        let line = |name: &str, bytes: usize, note: &str| {
            let text = format!("  {name:<26} {:>12.1} MiB  {note}", bytes as f64 / MIB);
            text.trim_end().to_string() + "\n"
        };
        let mut text = String::from("memory\n");
        let parameters = format!(
            "{:.3} M trainable in one network",
            self.parameters as f64 / 1e6
        );
        let staging = format!("images of up to {} pixels", self.staged_pixels);
        for (name, bytes) in &self.state {
            let note = match *name {
                "networks and optimiser" => parameters.as_str(),
                "staging" => staging.as_str(),
                _ => "",
            };
            text += &line(name, *bytes, note);
        }
        for (name, bytes, unshared) in &self.steps {
            let note = format!(
                "activations and gradients; {:.1} MiB without sharing",
                *unshared as f64 / MIB
            );
            text += &line(name, *bytes, &note);
        }
        text + &line("peak", self.peak(), "state + the larger step")
    }
}

/// The state arena's entries by what they are for.
fn state_parts(state: &State) -> Vec<(&'static str, usize)> {
    let mut parts = vec![
        ("networks and optimiser", 0),
        ("memory bank", 0),
        ("staging", 0),
    ];
    for (name, entry) in state.iter() {
        let part = match name.split('.').next().unwrap_or_default() {
            "bank" => 1,
            "labeled" | "unlabeled" => 2,
            _ => 0,
        };
        parts[part].1 += elements(entry.shape) * entry.dtype.bytes();
    }
    parts
}
