//! `u2pl-engine plan`: memory and work of a training step, before any run. Allocates nothing.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::common::{ConfigArgs, DeviceArgs, check_json, emit, emit_json};
use crate::bench::floor::{Profile, StepFloor, layer_of};
use crate::bench::{Ceilings, Recipe, compare};
use crate::config::Config;
use crate::device::{ArenaId, Cost, DType, Device, View, elements};
use crate::graph::plan::Plan;
use crate::graph::state::State;
use crate::graph::{Graph, Storage};
use crate::train::session::Blueprint;
use crate::{Error, Result};

/// Prints memory and FLOPs of a training step per operation and layer, and its peak memory; with
/// --floor the least time that each can take.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// A built-in recipe at the batch of one GPU instead: voc, cityscapes, small or tiny
    #[arg(long, value_name = "NAME", conflicts_with = "config")]
    recipe: Option<String>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print the floors: for each operation and layer its bytes, its FLOPs and the least time they
    /// take. Opens no device
    #[arg(long)]
    floor: bool,
    /// Ceilings of --floor: copy=GB/s,matmul=TFLOP/s, or a file that `bench --json` wrote.
    /// Default: those of one H200, copy=4300,matmul=790 (bf16)
    #[arg(long, value_name = "LIST|FILE", requires = "floor")]
    ceilings: Option<String>,
    /// The profile.json of `train --profile` of this recipe: adds the measured time to --floor
    #[arg(long, value_name = "FILE", requires = "floor")]
    measured: Option<PathBuf>,
    /// Write the numbers as JSON here; - prints them instead of the tables
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs the subcommand.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    check_json(args.json.as_deref())?;
    let recipe = args.recipe()?;
    if args.floor {
        return floors(args, &recipe);
    }
    let device = args.device.open()?;
    let staged = recipe.staged_pixels;
    let blueprint = Blueprint::new(&recipe.cfg, staged, device.map_dtype())?;
    let blueprint = blueprint.fused(|op| device.fuses(op));
    let steps: Vec<StepPlan> = graphs(&blueprint)
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

/// The steps that a run has.
fn graphs(blueprint: &Blueprint) -> impl Iterator<Item = (&'static str, &Graph)> {
    let warmup = blueprint.warmup.iter().map(|(g, _)| ("warm-up step", g));
    let u2pl = blueprint.u2pl.iter().map(|(g, _)| ("U2PL step", g));
    // Of several micro-batches the steps above are one each, and this comes after the last.
    let update = blueprint.update.iter().map(|g| ("update", g));
    warmup.chain(u2pl).chain(update)
}

impl Args {
    fn recipe(&self) -> Result<Recipe> {
        let sets = &self.config.set;
        let (name, cfg) = match (&self.recipe, &self.config.config) {
            (Some(name), _) => return Recipe::named(name, sets),
            (None, Some(path)) => (path.display().to_string(), self.config.load()?),
            (None, None) => ("demo".into(), Config::demo(sets)?),
        };
        cfg.validate()?;
        Ok(Recipe::of_config(name, cfg))
    }

    fn ceilings(&self) -> Result<Ceilings> {
        match &self.ceilings {
            None => Ok(Ceilings::h200()),
            Some(text) if text.contains('=') => Ceilings::h200().overridden(text),
            Some(file) => {
                let report = compare::read(Path::new(file))?;
                report.ceilings.ok_or_else(|| {
                    Error::input(file, "holds no ceilings", "measure them: bench with --time")
                })
            }
        }
    }
}

/// Prints the floors of every step.
fn floors(args: &Args, recipe: &Recipe) -> anyhow::Result<()> {
    let ceilings = args.ceilings()?;
    let map = args.device.map_dtype();
    let blueprint = Blueprint::new(&recipe.cfg, recipe.staged_pixels, map)?;
    let blueprint = blueprint.fused(args.device.gains()?);
    let profile = args.measured.as_deref().map(Profile::read).transpose()?;
    if let (Some(path), Some(profile)) = (&args.measured, &profile)
        && !graphs(&blueprint).any(|(_, graph)| profile.is_of(graph))
    {
        return Err(Error::input(
            path.display().to_string(),
            format!("a profile of other calls than those of {}", recipe.name),
            "give the configuration and the precision that the profiled run had",
        )
        .into());
    }
    let steps: Vec<StepFloor> = graphs(&blueprint)
        .map(|(name, graph)| StepFloor::new(name, graph, &ceilings, profile.as_ref()))
        .collect();
    if let Some(path) = &args.json {
        let steps: Vec<Value> = steps.iter().map(StepFloor::json).collect();
        emit_json(path, &json!({"ceilings": ceilings, "steps": steps}))?;
        if path.as_os_str() == "-" {
            return Ok(());
        }
    }
    let mut text = format!(
        "{}, maps of {}\ncopy {:.1} GB/s: {}\nmatrix product {:.3} TFLOP/s: {}\n\n",
        recipe.name,
        if map == DType::BF16 { "bf16" } else { "f32" },
        ceilings.copy / 1e9,
        ceilings.copy_from,
        ceilings.matmul / 1e12,
        ceilings.matmul_from
    );
    for step in &steps {
        text += &step.text(&ceilings);
    }
    emit(&text)
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
                (&mut by_layer, layer_of(&node.name)),
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
