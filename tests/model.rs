//! Networks as graphs: names, sizes, shapes, gradients for every parameter, and memory plans in
//! which no two live tensors meet. Nothing runs here; `golden_network.rs` checks the numbers.

use std::collections::{BTreeMap, HashSet};

use u2pl_engine::Result;
use u2pl_engine::config::schema::{Decoder, Encoder, Model, Stem};
use u2pl_engine::device::cpu::CpuDevice;
use u2pl_engine::device::op::CeNorm;
use u2pl_engine::device::{ArenaId, DType, Op, Shape, View};
use u2pl_engine::graph::autodiff::{LossTerm, backward};
use u2pl_engine::graph::params::{Kind, Layout, ParamSet};
use u2pl_engine::graph::plan::Plan;
use u2pl_engine::graph::{Graph, Storage, TensorId};
use u2pl_engine::model::{self, Ctx, Outputs, Want};

const STATE: ArenaId = ArenaId(0);
const TRANSIENT: ArenaId = ArenaId(1);
const EVERYTHING: Want = Want {
    rep: true,
    aux: true,
    apart: false,
};

/// A network of width 8 that keeps the geometry of the full one.
fn narrow(encoder: Encoder) -> Model {
    Model {
        encoder,
        width: 8,
        head_width: 16,
        rep_width: 12,
        aux: true,
        multi_grid: encoder != Encoder::Resnet18,
        ..Model::default()
    }
}

fn build(
    graph: &mut Graph,
    layout: &mut Layout,
    cfg: &Model,
    images: [usize; 3],
    train: bool,
    want: Want,
) -> Result<Outputs> {
    let [n, h, w] = images;
    let x = graph.input("x", [n, h, w, 3], DType::F32);
    let rng = graph.input("rng", [1, 1, 1, 4], DType::U32);
    let mut ctx = Ctx {
        graph,
        layout,
        set: ParamSet {
            copy: None,
            weights: 0,
            buffers: 1 << 40,
            vectors: None,
            trainable: true,
        },
        train,
        rng,
        stream: 0,
    };
    model::network(&mut ctx, cfg, 5, x, want)
}

/// A cross-entropy of 33 × 33 labels on `logits`, which only need channels.
fn loss(graph: &mut Graph, logits: TensorId) -> LossTerm {
    let images = graph.shape(logits)[0];
    let label = graph.input("label", [images, 33, 33, 1], DType::U8);
    let stats = graph.vector("stats", 4);
    let op = Op::CrossEntropy {
        ignore: 255,
        norm: CeNorm::Valid,
    };
    graph.push("loss", op, vec![logits, label], vec![stats]);
    LossTerm { stats, weight: 1.0 }
}

fn differentiate(graph: &mut Graph, layout: &Layout, terms: &[TensorId]) {
    let losses: Vec<LossTerm> = terms.iter().map(|&t| loss(graph, t)).collect();
    let weights = layout.specs().iter().filter(|s| s.kind == Kind::Weight);
    let parameters: Vec<(usize, Shape)> = weights.map(|s| (s.offset, s.shape)).collect();
    let flat = backward(graph, &losses, layout.weights_len(), &parameters).unwrap();
    graph.keep(flat);
}

/// Output shape of the node named `name`.
fn shape_of(graph: &Graph, name: &str) -> Shape {
    let node = graph.nodes().iter().find(|n| n.name == name);
    graph.shape(node.unwrap_or_else(|| panic!("no node {name}")).outs[0])
}

fn bytes(view: &View) -> (usize, usize) {
    (view.offset, view.offset + view.span_bytes())
}

fn meet(a: (usize, usize), b: (usize, usize)) -> bool {
    a.0 < b.1 && b.0 < a.1
}

/// Fails when two tensors that are alive at the same node share memory, unless that node's
/// operation documents working in place on the one that dies there.
fn assert_disjoint(graph: &Graph, plan: &Plan) {
    let mut lives: BTreeMap<TensorId, (usize, usize)> = BTreeMap::new();
    for (i, node) in graph.nodes().iter().enumerate() {
        for &t in node.ins.iter().chain(&node.outs) {
            let root = graph.root(t).0;
            if graph.tensor(root).storage == Storage::Transient {
                let start = if graph.tensor(root).input { 0 } else { i };
                lives.entry(root).or_insert((start, i)).1 = i;
            }
        }
    }
    let end = graph.nodes().len();
    let place = |t: TensorId| bytes(&plan.view(graph, t, STATE, TRANSIENT));
    let tensors: Vec<_> = lives
        .iter()
        .map(|(&t, &(start, last))| {
            let last = if graph.tensor(t).keep { end } else { last };
            (t, start, last, place(t))
        })
        .collect();
    for (k, a) in tensors.iter().enumerate() {
        assert!(
            a.3.1 <= plan.bytes,
            "{} ends outside",
            graph.tensor(a.0).name
        );
        for b in &tensors[k + 1..] {
            if a.1 > b.2 || b.1 > a.2 || !meet(a.3, b.3) {
                continue;
            }
            let (dying, born) = if a.2 == b.1 { (a, b) } else { (b, a) };
            assert!(
                dying.2 == born.1 && in_place(graph, born.1, dying.0, born.0),
                "{} and {} share memory while both live",
                graph.tensor(a.0).name,
                graph.tensor(b.0).name
            );
        }
    }
    for i in 0..end {
        let Some(scratch) = plan.workspace(i, TRANSIENT) else {
            continue;
        };
        let alive = tensors.iter().filter(|t| t.1 <= i && i <= t.2);
        for t in alive {
            let name = &graph.tensor(t.0).name;
            assert!(
                !meet(t.3, bytes(&scratch)),
                "{name} in the workspace of {i}"
            );
        }
    }
}

fn in_place(graph: &Graph, node: usize, input: TensorId, output: TensorId) -> bool {
    let node = &graph.nodes()[node];
    node.op
        .in_place()
        .iter()
        .any(|&(o, i)| node.outs.get(o) == Some(&output) && node.ins.get(i) == Some(&input))
}

#[test]
fn parameters_are_those_of_the_released_networks() {
    let norms = |layout: &Layout| {
        let specs = layout.specs().iter();
        specs.filter(|s| s.name.ends_with(".running_mean")).count()
    };
    let voc = model::layout(&Model::default(), 21).unwrap();
    // The authors' state dict also counts the batches each batch norm has seen.
    assert_eq!(voc.specs().len() + norms(&voc), 711);
    assert_eq!(voc.parameter_count(), 64_459_989);
    let aux = Model {
        aux: true,
        ..Model::default()
    };
    let cityscapes = model::layout(&aux, 19).unwrap();
    assert_eq!(cityscapes.specs().len() + norms(&cityscapes), 720);
    assert_eq!(cityscapes.parameter_count(), 66_824_422);
}

#[test]
fn names_and_shapes_are_those_of_the_released_state_dict() {
    let cfg = Model {
        aux: true,
        ..Model::default()
    };
    let layout = model::layout(&cfg, 19).unwrap();
    let shape = |name: &str| layout.get(name).map(|s| s.shape);
    for (name, expected) in [
        ("encoder.conv1.0.weight", [64, 3, 3, 3]),
        ("encoder.conv1.4.running_var", [1, 1, 1, 64]),
        ("encoder.conv1.6.weight", [128, 3, 3, 64]),
        ("encoder.bn1.running_mean", [1, 1, 1, 128]),
        ("encoder.layer1.0.downsample.0.weight", [256, 1, 1, 128]),
        ("encoder.layer1.0.downsample.1.bias", [1, 1, 1, 256]),
        ("encoder.layer3.22.conv2.weight", [256, 3, 3, 256]),
        ("encoder.layer4.2.bn3.weight", [1, 1, 1, 2048]),
        ("decoder.aspp.conv1.1.weight", [256, 1, 1, 2048]),
        ("decoder.aspp.conv1.2.weight", [1, 1, 1, 256]),
        ("decoder.aspp.conv2.0.weight", [256, 1, 1, 2048]),
        ("decoder.aspp.conv5.0.weight", [256, 3, 3, 2048]),
        ("decoder.aspp.conv5.1.bias", [1, 1, 1, 256]),
        ("decoder.low_conv.0.bias", [1, 1, 1, 256]),
        ("decoder.head.0.weight", [256, 3, 3, 1280]),
        ("decoder.classifier.0.weight", [256, 3, 3, 512]),
        ("decoder.classifier.8.weight", [19, 1, 1, 256]),
        ("decoder.representation.5.weight", [1, 1, 1, 256]),
        ("decoder.representation.8.bias", [1, 1, 1, 256]),
        ("auxor.aux.0.weight", [256, 3, 3, 1024]),
        ("auxor.aux.4.bias", [1, 1, 1, 19]),
    ] {
        assert_eq!(shape(name), Some(expected), "{name}");
    }
    for absent in [
        "encoder.layer1.1.downsample.0.weight",
        "encoder.conv1.0.bias",
        "decoder.aspp.conv2.0.bias",
        "decoder.aspp.conv6.0.weight",
        "decoder.head.0.bias",
    ] {
        assert_eq!(shape(absent), None, "{absent}");
    }
    let v3 = Model {
        decoder: Decoder::Deeplabv3,
        stem: Stem::Conv7,
        ..Model::default()
    };
    let layout = model::layout(&v3, 21).unwrap();
    assert_eq!(
        layout.get("encoder.conv1.weight").map(|s| s.shape),
        Some([64, 7, 7, 3])
    );
    assert!(layout.get("decoder.head.4.bias").is_some());
    assert!(layout.get("decoder.low_conv.0.weight").is_none());
}

#[test]
fn the_encoder_is_one_run_of_the_flat_weights() {
    let cfg = narrow(Encoder::Resnet50);
    let layout = model::layout(&cfg, 5).unwrap();
    let split = model::encoder_len(&layout).unwrap();
    for spec in layout.specs().iter().filter(|s| s.kind == Kind::Weight) {
        assert_eq!(spec.name.starts_with("encoder."), spec.offset < split);
    }
    let groups = model::groups(&layout, 10.0, 1e-4).unwrap();
    assert_eq!(groups.len(), 2);
    assert_eq!((groups[0].start, groups[0].len), (0, split));
    assert_eq!(groups[1].start + groups[1].len, layout.weights_len());
    assert_eq!((groups[0].lr_mult, groups[1].lr_mult), (1.0, 10.0));
}

#[test]
fn stages_of_the_papers_crop_have_the_papers_sizes() {
    for (stride, sides) in [
        (8, [129, 65, 65, 65]),
        (16, [129, 65, 33, 33]),
        (32, [129, 65, 33, 17]),
    ] {
        let cfg = Model {
            output_stride: stride,
            ..narrow(Encoder::Resnet50)
        };
        let mut graph = Graph::new();
        let mut layout = model::layout(&cfg, 5).unwrap();
        let image = [1, 513, 513];
        let out = build(&mut graph, &mut layout, &cfg, image, false, EVERYTHING).unwrap();
        for (stage, side) in sides.into_iter().enumerate() {
            let name = format!("encoder.layer{}.2.bn3", stage + 1);
            assert_eq!(shape_of(&graph, &name), [1, side, side, 32 << stage]);
        }
        assert_eq!(shape_of(&graph, "encoder.conv1.6"), [1, 257, 257, 16]);
        assert_eq!(graph.shape(out.logits), [1, 129, 129, 5]);
        assert_eq!(graph.shape(out.rep.unwrap()), [1, 129, 129, 12]);
        let side = sides[2];
        assert_eq!(graph.shape(out.aux.unwrap()), [1, side, side, 5]);
    }
}

#[test]
fn even_images_pool_up_behind_a_deep_stem_and_down_behind_a_7x7() {
    for (stem, side) in [(Stem::Deep, 17), (Stem::Conv7, 16)] {
        let cfg = Model {
            stem,
            ..narrow(Encoder::Resnet34)
        };
        let (mut graph, mut layout) = (Graph::new(), Layout::new());
        build(
            &mut graph,
            &mut layout,
            &cfg,
            [1, 64, 64],
            false,
            EVERYTHING,
        )
        .unwrap();
        assert_eq!(shape_of(&graph, "encoder.maxpool")[1], side, "{stem:?}");
    }
}

#[test]
fn training_graphs_reach_every_parameter_and_plans_keep_live_tensors_apart() {
    let device = CpuDevice::new(1).unwrap();
    for encoder in [
        Encoder::Resnet18,
        Encoder::Resnet34,
        Encoder::Resnet50,
        Encoder::Resnet101,
    ] {
        for decoder in [Decoder::Deeplabv3, Decoder::Deeplabv3plus] {
            let cfg = Model {
                decoder,
                ..narrow(encoder)
            };
            let mut graph = Graph::new();
            let mut layout = model::layout(&cfg, 5).unwrap();
            let image = [2, 65, 49];
            let out = build(&mut graph, &mut layout, &cfg, image, true, EVERYTHING).unwrap();
            let heads = [out.logits, out.rep.unwrap(), out.aux.unwrap()];
            let grid = match decoder {
                Decoder::Deeplabv3 => [9, 7],
                Decoder::Deeplabv3plus => [17, 13],
            };
            assert_eq!(graph.shape(out.logits), [2, grid[0], grid[1], 5]);
            differentiate(&mut graph, &layout, &heads);
            let filled = |n: &&u2pl_engine::graph::Node| matches!(n.op, Op::Fill { .. });
            assert_eq!(graph.nodes().iter().filter(filled).count(), 0);
            let plan = Plan::new(&graph, &device);
            assert_disjoint(&graph, &plan);
            assert!(plan.bytes < plan.unshared_bytes);
        }
    }
}

#[test]
fn heads_that_no_loss_reaches_get_zero_gradients() {
    let cfg = narrow(Encoder::Resnet18);
    let mut graph = Graph::new();
    let mut layout = model::layout(&cfg, 5).unwrap();
    let want = Want::default();
    let out = build(&mut graph, &mut layout, &cfg, [2, 33, 33], true, want).unwrap();
    assert!(out.rep.is_none() && out.aux.is_none());
    let names = || graph.nodes().iter().map(|n| n.name.as_str());
    assert!(!names().any(|n| n.starts_with("decoder.representation") || n.starts_with("auxor")));
    differentiate(&mut graph, &layout, &[out.logits]);
    let filled = graph
        .nodes()
        .iter()
        .filter(|n| matches!(n.op, Op::Fill { .. }));
    let unused = layout.specs().iter().filter(|s| {
        let head = s.name.starts_with("decoder.representation") || s.name.starts_with("auxor");
        head && s.kind == Kind::Weight
    });
    assert_eq!(filled.count(), unused.count());
}

/// Widths that are multiples of the layout's alignment put the heads' parameters side by side.
#[test]
fn both_heads_begin_as_one_convolution() {
    for (width, apart, joined) in [(16, false, true), (16, true, false), (8, false, false)] {
        let cfg = Model {
            head_width: width,
            ..narrow(Encoder::Resnet18)
        };
        let (mut graph, mut layout) = (Graph::new(), model::layout(&cfg, 5).unwrap());
        let want = Want {
            apart,
            ..EVERYTHING
        };
        let out = build(&mut graph, &mut layout, &cfg, [2, 33, 33], true, want).unwrap();
        differentiate(&mut graph, &layout, &[out.logits, out.rep.unwrap()]);
        let of = |name: &str, op: &str| {
            let mut nodes = graph.nodes().iter();
            nodes.find(|n| n.name == name && n.op.name() == op).cloned()
        };
        assert_eq!(of("decoder.heads", "conv").is_some(), joined);
        assert_eq!(of("decoder.representation.0", "conv").is_some(), !joined);
        if !joined {
            continue;
        }
        assert_eq!(shape_of(&graph, "decoder.heads")[3], 2 * width);
        // One gradient each, of twice the channels, not two that add up.
        for op in ["conv_dgrad", "conv_wgrad", "batch_norm_backward"] {
            let node = of("decoder.heads", op).unwrap();
            assert_eq!(node.accumulate, 0, "{op}");
        }
        let weights = of("decoder.heads", "conv").unwrap().ins[1];
        let first = layout.get("decoder.classifier.0.weight").unwrap();
        let second = layout.get("decoder.representation.0.weight").unwrap();
        assert_eq!(graph.tensor(weights).param, Some(first.offset));
        assert_eq!(graph.shape(weights)[1..], first.shape[1..]);
        let [k, r, s, c] = first.shape;
        assert_eq!(second.offset, first.offset + k * r * s * c);
    }
}

#[test]
fn inference_works_in_place() {
    let device = CpuDevice::new(1).unwrap();
    let cfg = narrow(Encoder::Resnet50);
    let mut graph = Graph::new();
    let mut layout = model::layout(&cfg, 5).unwrap();
    let out = build(
        &mut graph,
        &mut layout,
        &cfg,
        [1, 65, 65],
        false,
        Want::default(),
    )
    .unwrap();
    graph.keep(out.logits);
    let plan = Plan::new(&graph, &device);
    assert_disjoint(&graph, &plan);
    // The last convolution of a block and its batch norm with residual and ReLU.
    let place = |name: &str| {
        let node = graph.nodes().iter().find(|n| n.name == name).unwrap();
        plan.view(&graph, node.outs[0], STATE, TRANSIENT).offset
    };
    assert_eq!(
        place("encoder.layer2.1.bn1"),
        place("encoder.layer2.1.conv1")
    );
    assert!(
        !graph
            .nodes()
            .iter()
            .any(|n| matches!(n.op, Op::Dropout2d { .. }))
    );
}

#[test]
fn every_dropout_draws_from_a_stream_of_its_own() {
    let cfg = narrow(Encoder::Resnet18);
    let (mut graph, mut layout) = (Graph::new(), Layout::new());
    build(&mut graph, &mut layout, &cfg, [2, 33, 33], true, EVERYTHING).unwrap();
    let streams: Vec<u32> = graph
        .nodes()
        .iter()
        .filter_map(|n| match n.op {
            Op::Dropout2d { stream, .. } => Some(stream),
            _ => None,
        })
        .collect();
    // head, classifier × 2, representation × 2, auxiliary.
    assert_eq!(streams.len(), 6);
    assert_eq!(streams.iter().collect::<HashSet<_>>().len(), 6);
}

#[test]
fn the_last_norm_of_a_block_starts_at_zero_when_asked() {
    for (zero, expected) in [(true, 0.0), (false, 1.0)] {
        let cfg = Model {
            zero_init_residual: zero,
            ..narrow(Encoder::Resnet50)
        };
        let layout = model::layout(&cfg, 5).unwrap();
        let (weights, buffers) = model::init(&layout, 3);
        let weight = |name: &str| weights[layout.get(name).unwrap().offset];
        assert_eq!(weight("encoder.layer3.1.bn3.weight"), expected);
        assert_eq!(weight("encoder.layer3.1.bn2.weight"), 1.0);
        assert_eq!(weight("decoder.head.1.bias"), 0.0);
        let buffer = |name: &str| buffers[layout.get(name).unwrap().offset];
        assert_eq!(buffer("encoder.layer3.1.bn3.running_mean"), 0.0);
        assert_eq!(buffer("encoder.layer3.1.bn3.running_var"), 1.0);
    }
}

#[test]
fn a_single_training_image_has_no_variance_behind_the_global_pool() {
    let cfg = narrow(Encoder::Resnet18);
    let (mut graph, mut layout) = (Graph::new(), Layout::new());
    let image = [1, 65, 65];
    let error = build(&mut graph, &mut layout, &cfg, image, true, EVERYTHING).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("train.batch_labeled"), "{error}");
}

#[test]
fn a_one_pixel_image_passes_through() {
    let cfg = narrow(Encoder::Resnet18);
    let (mut graph, mut layout) = (Graph::new(), Layout::new());
    let out = build(&mut graph, &mut layout, &cfg, [1, 1, 1], false, EVERYTHING).unwrap();
    assert_eq!(graph.shape(out.logits), [1, 1, 1, 5]);
}

#[test]
fn a_frozen_layout_of_another_network_is_refused() {
    let mut layout = model::layout(&narrow(Encoder::Resnet18), 5).unwrap();
    let cfg = narrow(Encoder::Resnet34);
    let mut graph = Graph::new();
    let image = [2, 33, 33];
    let error = build(&mut graph, &mut layout, &cfg, image, true, EVERYTHING).unwrap_err();
    assert_eq!(error.exit_code(), 1);
}
