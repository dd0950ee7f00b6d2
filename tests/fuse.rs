//! Fusion: the same bits in f32, no larger plan, and nothing fused that something else reads.
#![cfg(feature = "cli")]

use std::path::Path;
use std::sync::Arc;

use u2pl_engine::config::Config;
use u2pl_engine::contact::Check;
use u2pl_engine::device::cpu::CpuDevice;
use u2pl_engine::device::op::Window;
use u2pl_engine::device::{ArenaId, Call, DType, Device, Op, View};
use u2pl_engine::error::Result;
use u2pl_engine::graph::exec::Program;
use u2pl_engine::graph::ops::{BnMode, BnParams};
use u2pl_engine::graph::plan::Plan;
use u2pl_engine::graph::{Graph, TensorId};
use u2pl_engine::train::session::Blueprint;
use u2pl_engine::train::{self, Options, Silent};

/// A device that fuses `what`, and is another in all else.
struct Fusing<D> {
    device: D,
    what: fn(&Op) -> bool,
}

impl<D: Device> Device for Fusing<D> {
    fn name(&self) -> String {
        self.device.name()
    }
    fn alloc(&self, bytes: usize) -> Result<ArenaId> {
        self.device.alloc(bytes)
    }
    fn free_bytes(&self) -> Option<usize> {
        self.device.free_bytes()
    }
    fn resident_bytes(&self, arena: ArenaId) -> Option<usize> {
        self.device.resident_bytes(arena)
    }
    fn free(&self, arena: ArenaId) {
        self.device.free(arena);
    }
    fn write(&self, view: &View, bytes: &[u8]) -> Result<()> {
        self.device.write(view, bytes)
    }
    fn read(&self, view: &View, bytes: &mut [u8]) -> Result<()> {
        self.device.read(view, bytes)
    }
    fn fuses(&self, op: &Op) -> bool {
        (self.what)(op)
    }
    fn workspace_bytes(&self, op: &Op, ins: &[View], outs: &[View]) -> usize {
        self.device.workspace_bytes(op, ins, outs)
    }
    fn run(&self, call: &Call) -> Result<()> {
        self.device.run(call)
    }
}

fn cpu(what: fn(&Op) -> bool) -> Fusing<CpuDevice> {
    let device = CpuDevice::new(2).expect("cpu");
    Fusing { device, what }
}

fn nothing(_: &Op) -> bool {
    false
}

fn everything(_: &Op) -> bool {
    true
}

fn inference(op: &Op) -> bool {
    matches!(op, Op::ConvBatchNormEval(_))
}

const TINY: &str = "\
data: {kind: shapes, classes: 6, shapes: {labeled: 3, unlabeled: 5, val: 2, size: 33}}
augment: {crop: [33, 33]}
model: {encoder: resnet18, width: 8, output_stride: 16, multi_grid: false, \
aspp_dilations: [1, 2, 3], head_width: 8, rep_width: 8}
train: {batch_labeled: 2, batch_unlabeled: 2, epochs: 2, epoch_iters: 3, warmup_epochs: 1, \
lr: 0.01, log_every: 1}
method: {bank_background: 64, bank_size: 64, anchors: 8, negatives: 4}
";

fn config(sets: &[&str]) -> Config {
    let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
    Config::parse("test", TINY, &sets).expect("config")
}

/// The last checkpoint of a run and the mIoUs and losses on the way.
fn train(cfg: &Config, device: Arc<dyn Device>, out: &Path) -> (Vec<u8>, String) {
    let options = Options {
        device,
        out: out.to_path_buf(),
        init: None,
        resume: false,
        new_data: false,
        max_iters: None,
        profile: false,
        check: Check::default(),
    };
    train::run(cfg.clone(), &options, &mut Silent).expect("run");
    let text = std::fs::read_to_string(out.join("metrics.jsonl")).expect("metrics");
    let lines: Vec<&str> = text
        .lines()
        .filter(|l| !l.contains("\"seconds\"") && !l.contains("\"machine\""))
        .collect();
    let checkpoint = std::fs::read(out.join("checkpoints/last.safetensors")).expect("checkpoint");
    (checkpoint, lines.join("\n"))
}

#[test]
fn a_run_whose_inference_is_fused_has_the_bits_of_one_without() {
    let dir = tempfile::tempdir().expect("folder");
    for (i, sets) in [
        &[][..],
        &[
            "model.decoder=deeplabv3",
            "model.encoder=resnet50",
            "model.stem=7x7",
        ],
    ]
    .into_iter()
    .enumerate()
    {
        let cfg = config(sets);
        let apart = train(
            &cfg,
            Arc::new(cpu(nothing)),
            &dir.path().join(format!("apart{i}")),
        );
        let fused = train(
            &cfg,
            Arc::new(cpu(inference)),
            &dir.path().join(format!("fused{i}")),
        );
        assert_eq!(apart.1, fused.1, "{sets:?}");
        assert!(apart.0 == fused.0, "{sets:?}: the checkpoints differ");
    }
}

#[cfg(any(feature = "ptx", feature = "simt"))]
#[path = "support/proof.rs"]
mod proof;

#[cfg(any(feature = "ptx", feature = "simt"))]
#[test]
fn a_fused_run_on_the_kernels_has_the_bits_of_one_without() {
    use u2pl_engine::device::gpu::MathMode;
    let dir = tempfile::tempdir().expect("folder");
    let cfg = config(&["train.epoch_iters=1", "data.shapes.val=1"]);
    let run = |what, name| {
        let device = proof::device(MathMode::Fp32);
        train(
            &cfg,
            Arc::new(Fusing { device, what }),
            &dir.path().join(name),
        )
    };
    let (apart, fused) = (
        run(nothing as fn(&Op) -> bool, "apart"),
        run(inference, "fused"),
    );
    assert_eq!(apart.1, fused.1);
    assert!(apart.0 == fused.0, "the checkpoints differ");
}

/// Recipes with every decoder, kind of block and stem, and bf16.
fn step_graphs() -> Vec<(String, Graph)> {
    let mut all = Vec::new();
    for sets in [
        &[][..],
        &["model.encoder=resnet50", "model.width=16", "model.stem=7x7"],
        &["model.decoder=deeplabv3", "model.aux=true"],
        &["method.mode=released"],
        &["train.algorithm=supervised", "train.warmup_epochs=0"],
    ] {
        for map in [DType::F32, DType::BF16] {
            let blueprint = Blueprint::new(&config(sets), 33 * 33, map).expect("blueprint");
            for (graph, _) in [blueprint.warmup, blueprint.u2pl].into_iter().flatten() {
                all.push((format!("{sets:?} {map:?}"), graph));
            }
        }
    }
    all
}

#[test]
fn plans_do_not_grow() {
    let device = cpu(everything);
    for (name, graph) in step_graphs() {
        let before = Plan::new(&graph, &device).bytes;
        for what in [everything, inference] {
            let mut fused = graph.clone();
            fused.fuse(what);
            let after = Plan::new(&fused, &device).bytes;
            assert!(after <= before, "{name}: {after} bytes, {before} before");
        }
    }
}

#[test]
fn every_batch_norm_behind_a_convolution_is_fused_once() {
    for (name, mut graph) in step_graphs() {
        let count = |g: &Graph, op: &str| g.nodes().iter().filter(|n| n.op.name() == op).count();
        let (eval, train) = (
            count(&graph, "batch_norm_eval"),
            count(&graph, "batch_norm"),
        );
        graph.fuse(everything);
        assert_eq!(count(&graph, "conv_batch_norm_eval"), eval, "{name}");
        assert_eq!(count(&graph, "batch_norm_eval"), 0, "{name}");
        assert_eq!(count(&graph, "conv_moments"), train, "{name}");
        assert_eq!(count(&graph, "batch_norm_merge"), train, "{name}");
        let nodes = format!("{:?}", graph.nodes());
        graph.fuse(everything);
        assert_eq!(nodes, format!("{:?}", graph.nodes()), "{name}: fused twice");
    }
}

/// x → conv → batch norm, on an image of 5 × 6.
struct Chain {
    graph: Graph,
    x: TensorId,
    z: TensorId,
    y: TensorId,
    norm: BnParams,
}

const WINDOW: Window = Window {
    stride: 1,
    padding: 1,
    dilation: 1,
};

impl Chain {
    /// `between` adds what comes between convolution and batch norm.
    fn new(between: impl Fn(&mut Graph, TensorId, TensorId)) -> Self {
        let mut graph = Graph::new();
        let x = graph.input("x", [2, 5, 6, 8], DType::F32);
        let w = graph.input("w", [12, 3, 3, 8], DType::F32);
        let mut vector = |name: &str| graph.input(name, [1, 1, 1, 12], DType::F32);
        let norm = BnParams {
            gamma: vector("gamma"),
            beta: vector("beta"),
            running_mean: vector("mean"),
            running_var: vector("var"),
        };
        let z = graph.conv("conv", x, w, None, WINDOW).expect("conv");
        between(&mut graph, x, z);
        let mode = BnMode {
            train: false,
            eps: 1e-5,
            momentum: 0.1,
            relu: true,
        };
        let y = graph
            .batch_norm("bn", z, norm, None, mode, None)
            .expect("bn");
        graph.keep(y);
        Self {
            graph,
            x,
            z,
            y,
            norm,
        }
    }

    fn names(mut self) -> Vec<&'static str> {
        self.graph.fuse(everything);
        self.graph.nodes().iter().map(|n| n.op.name()).collect()
    }
}

#[test]
fn a_convolution_that_someone_else_reads_stays() {
    let fused = Chain::new(|_, _, _| ()).names();
    assert_eq!(fused, ["conv_batch_norm_eval"]);

    let mut kept = Chain::new(|_, _, _| ());
    kept.graph.keep(kept.z);
    assert_eq!(kept.names(), ["conv", "batch_norm_eval"]);

    let read = Chain::new(|g, _, z| {
        let y = g.relu("relu", z);
        g.keep(y);
    });
    assert_eq!(read.names(), ["conv", "relu", "batch_norm_eval"]);

    let mut read_later = Chain::new(|_, _, _| ());
    let part = read_later
        .graph
        .channel_slice(read_later.z, 0, 4)
        .expect("slice");
    read_later.graph.relu("relu", part);
    assert_eq!(read_later.names(), ["conv", "batch_norm_eval", "relu"]);
}

#[test]
fn a_convolution_does_not_move_past_a_change_of_what_it_reads() {
    let changed = Chain::new(|g, x, _| {
        let part = g.channel_slice(x, 2, 3).expect("slice");
        g.push("fill", Op::Fill { value: 1.0 }, vec![], vec![part]);
    });
    assert_eq!(changed.names(), ["conv", "fill", "batch_norm_eval"]);

    let state = Chain::new(|g, _, _| {
        let weights = g.at_state("weights", 0, [1, 1, 1, 4], DType::F32);
        g.push("fill", Op::Fill { value: 1.0 }, vec![], vec![weights]);
    });
    assert_eq!(state.names(), ["conv", "fill", "batch_norm_eval"]);

    let other = Chain::new(|g, x, _| {
        let y = g.relu("relu", x);
        g.keep(y);
    });
    assert_eq!(other.names(), ["relu", "conv_batch_norm_eval"]);
}

#[test]
fn a_residual_is_added_before_the_relu() {
    let mut chain = Chain::new(|_, _, _| ());
    let residual = chain.graph.input("residual", [2, 5, 6, 12], DType::F32);
    let mode = BnMode {
        train: false,
        eps: 1e-5,
        momentum: 0.1,
        relu: true,
    };
    let w = chain.graph.input("v", [12, 3, 3, 8], DType::F32);
    let bias = chain.graph.input("bias", [1, 1, 1, 12], DType::F32);
    let z = (chain.graph.conv("conv2", chain.x, w, Some(bias), WINDOW)).expect("conv");
    let into = chain.graph.transient("wide", [2, 5, 6, 20], DType::F32);
    let part = chain.graph.channel_slice(into, 5, 12).expect("slice");
    (chain.graph)
        .batch_norm("bn2", z, chain.norm, Some(residual), mode, Some(part))
        .expect("bn");
    chain.graph.keep(into);
    let run = |what| {
        let device: Arc<dyn Device> = Arc::new(cpu(what));
        let state = device.alloc(256).expect("state");
        let program = Program::new(chain.graph.clone(), device, state).expect("program");
        let fused = program
            .steps()
            .iter()
            .filter(|s| inference(&s.call.op))
            .count();
        let ins = [chain.x, w, bias, residual];
        let norm = chain.norm;
        let vectors = [norm.gamma, norm.beta, norm.running_mean, norm.running_var];
        let first = program.steps()[0].call.ins[1];
        let weights = chain.graph.nodes()[0].ins[1];
        assert_eq!(first, program.view(weights));
        for (i, t) in ins.into_iter().chain(vectors).chain([weights]).enumerate() {
            let n = chain.graph.shape(t).iter().product::<usize>();
            let value = |j: usize| ((j * 37 + i * 11) % 64) as f32 / 32.0 + 0.01;
            let sign = |j: usize| {
                if t != norm.running_var && j.is_multiple_of(3) {
                    -1.0
                } else {
                    1.0
                }
            };
            let values: Vec<f32> = (0..n).map(|j| value(j) * sign(j)).collect();
            program.write(t, &values).expect("write");
        }
        program.run().expect("run");
        let y: Vec<f32> = program.read(chain.y).expect("read");
        let wide: Vec<f32> = program.read(into).expect("read");
        let written = wide.chunks(20).flat_map(|pixel| pixel[5..17].to_vec());
        (
            fused,
            y.into_iter()
                .chain(written)
                .map(f32::to_bits)
                .collect::<Vec<u32>>(),
        )
    };
    let (apart, fused) = (run(nothing as fn(&Op) -> bool), run(everything));
    assert_eq!((apart.0, fused.0), (0, 2));
    assert_eq!(apart.1, fused.1);
    // Neither all cut off by the ReLU nor none.
    let zeros = fused.1.iter().filter(|&&bits| bits == 0).count();
    assert!(zeros > 50 && zeros < fused.1.len() - 50, "{zeros}");
}

/// The conformance cases in bf16, on the CPU device's own bf16 paths.
#[test]
fn fused_operations_of_the_cpu_agree_in_bf16() {
    use u2pl_engine::device::gpu::MathMode;
    use u2pl_engine::selftest::{self, cases};
    let device = CpuDevice::new(2).expect("cpu");
    let fused = ["conv_batch_norm_eval", "conv_moments", "batch_norm_merge"];
    let mut seen = 0;
    for case in cases::all(1) {
        if case.math == MathMode::Bf16 && fused.contains(&case.family) {
            let outcome = selftest::run(&device, &device, &case);
            let name = format!("{} {} ({})", case.family, case.name, case.shapes());
            assert!(outcome.passed(), "{name}: {}", outcome.message);
            seen += 1;
        }
    }
    assert!(seen > 50);
}
