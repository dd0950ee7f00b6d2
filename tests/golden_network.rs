//! Whole networks against PyTorch in double precision (`tests/golden/make_network.py`). Weights
//! and images follow a formula, so only outputs are stored.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use u2pl_engine::config::schema::{Decoder, Encoder, Model, Stem};
use u2pl_engine::device::cpu::CpuDevice;
use u2pl_engine::device::philox::{Rng, to_unit};
use u2pl_engine::device::{DType, Device, elements};
use u2pl_engine::graph::exec::{Arena, Program, read_view};
use u2pl_engine::graph::params::{Init, Kind, Layout, ParamSet, Spec};
use u2pl_engine::graph::state::State;
use u2pl_engine::graph::{Graph, TensorId};
use u2pl_engine::model::{self, Ctx, Want};
use u2pl_engine::weights::Reader;

/// The buffer that every case stores after its training pass.
const WATCHED: &str = "encoder.layer4.1.bn2.running_var";

fn crc32(name: &str) -> u32 {
    !name.bytes().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |c, _| {
            (c >> 1) ^ if c & 1 == 1 { 0xEDB8_8320 } else { 0 }
        })
    })
}

/// `2u − 1` per element, keyed by the name.
fn uniform(name: &str, count: usize) -> Vec<f32> {
    let rng = Rng::seeded(u64::from(crc32(name)), 0, 0);
    let blocks = (0..count.div_ceil(4) as u64).flat_map(|i| rng.block(i));
    let mut values: Vec<f32> = blocks.map(|w| to_unit(w) * 2.0 - 1.0).collect();
    values.truncate(count);
    values
}

/// `[N, C, P]` to `[N, P, C]`.
fn channels_last(values: &[f32], channels: usize, pixels: usize) -> Vec<f32> {
    let mut out = vec![0.0; values.len()];
    let size = channels * pixels;
    for (from, to) in values.chunks_exact(size).zip(out.chunks_exact_mut(size)) {
        for (i, &v) in from.iter().enumerate() {
            to[(i % pixels) * channels + i / pixels] = v;
        }
    }
    out
}

/// A parameter or buffer by formula, in this engine's order.
fn formula(spec: &Spec, gain: f64) -> Vec<f32> {
    let u = uniform(&spec.name, elements(spec.shape));
    let [_, r, s, c] = spec.shape;
    let map = |f: &dyn Fn(f32) -> f32| u.iter().map(|&v| f(v)).collect::<Vec<f32>>();
    if spec.name.ends_with(".weight") && !matches!(spec.init, Init::Constant(_)) {
        let scale = (gain * (3.0 / (c * r * s) as f64).sqrt()) as f32;
        return channels_last(&map(&|v| v * scale), c, r * s);
    }
    if spec.name.ends_with(".bn3.weight") {
        return map(&|v| 0.25 * (1.0 + 0.5 * v));
    }
    if spec.name.ends_with("running_var") || spec.name.ends_with("weight") {
        return map(&|v| 1.0 + 0.5 * v);
    }
    map(&|v| 0.1 * v)
}

/// The images of a case `[N, C, H, W]`: noise, noise of 8 × 8 cells, and an offset per channel.
fn images(case: &str, shape: &[usize]) -> Vec<f32> {
    let [n, c, h, w] = shape.try_into().expect("four sizes");
    let (rows, columns) = (h.div_ceil(8), w.div_ceil(8));
    let fine = uniform(&format!("{case}/input"), n * c * h * w);
    let cells = uniform(&format!("{case}/input/cells"), n * c * rows * columns);
    let offset = uniform(&format!("{case}/input/offset"), n * c);
    let value = |(i, &u): (usize, &f32)| {
        let (x, y, plane) = (i % w, i / w % h, i / (w * h));
        let cell = cells[(plane * rows + y / 8) * columns + x / 8];
        3f32.sqrt() * (u + 0.8 * cell + offset[plane])
    };
    fine.iter().enumerate().map(value).collect()
}

fn fill(layout: &Layout, kind: Kind, len: usize, gain: f64) -> Vec<f32> {
    let mut flat = vec![0.0; len];
    for spec in layout.specs().iter().filter(|s| s.kind == kind) {
        let end = spec.offset + elements(spec.shape);
        flat[spec.offset..end].copy_from_slice(&formula(spec, gain));
    }
    flat
}

fn number(value: &Value, key: &str) -> usize {
    value[key].as_u64().expect(key) as usize
}

fn numbers(value: &Value) -> Vec<usize> {
    let list = value.as_array().expect("a list").iter();
    list.map(|v| v.as_u64().expect("a size") as usize).collect()
}

fn config(value: &Value) -> Model {
    Model {
        encoder: match number(value, "depth") {
            18 => Encoder::Resnet18,
            34 => Encoder::Resnet34,
            50 => Encoder::Resnet50,
            101 => Encoder::Resnet101,
            other => panic!("depth {other}"),
        },
        stem: match value["stem"].as_str() {
            Some("deep") => Stem::Deep,
            Some("7x7") => Stem::Conv7,
            other => panic!("stem {other:?}"),
        },
        decoder: match value["decoder"].as_str() {
            Some("deeplabv3") => Decoder::Deeplabv3,
            Some("deeplabv3plus") => Decoder::Deeplabv3plus,
            other => panic!("decoder {other:?}"),
        },
        width: number(value, "width"),
        output_stride: number(value, "output_stride"),
        multi_grid: value["multi_grid"].as_bool().expect("multi_grid"),
        aspp_dilations: numbers(&value["aspp_dilations"]),
        head_width: number(value, "head_width"),
        rep_width: number(value, "rep_width"),
        dropout: 0.0,
        aux: value["aux"].as_bool().expect("aux"),
        ..Model::default()
    }
}

/// Runs the network of `case` once; its outputs by the names of the file.
fn run(case: &Value, train: bool) -> Vec<(String, Vec<f32>)> {
    let cfg = config(&case["config"]);
    let classes = number(&case["config"], "classes");
    let gain = case["gain"].as_f64().expect("gain");
    let mut layout = model::layout(&cfg, classes).expect("layout");
    let mut state = State::new();
    let (w, b) = (layout.weights_len(), layout.buffers_len());
    let set = ParamSet {
        weights: state.add("weights", [1, 1, 1, w], DType::F32),
        buffers: state.add("buffers", [1, 1, 1, b], DType::F32),
        trainable: false,
    };
    state.add("rng", [1, 1, 1, 4], DType::U32);
    let device: Arc<dyn Device> = Arc::new(CpuDevice::new(2).expect("device"));
    let arena = Arena::new(device.clone(), state.bytes()).expect("state");
    for (entry, values) in [
        ("weights", fill(&layout, Kind::Weight, w, gain)),
        ("buffers", fill(&layout, Kind::Buffer, b, gain)),
    ] {
        let view = state.view(entry, arena.id()).expect("view");
        device
            .write(&view, bytemuck::cast_slice(&values))
            .expect("write");
    }

    let mut graph = Graph::new();
    let input = numbers(&case["input"]);
    let x = graph.input("x", [input[0], input[2], input[3], input[1]], DType::F32);
    let rng = state.tensor(&mut graph, "rng").expect("rng");
    let mut ctx = Ctx {
        graph: &mut graph,
        layout: &mut layout,
        set,
        train,
        rng,
        stream: 0,
    };
    let want = Want {
        rep: true,
        aux: cfg.aux,
    };
    let out = model::network(&mut ctx, &cfg, classes, x, want).expect("network");
    let heads: Vec<(&str, TensorId)> = [
        Some(("logits", out.logits)),
        out.rep.map(|t| ("rep", t)),
        out.aux.map(|t| ("aux", t)),
    ]
    .into_iter()
    .flatten()
    .collect();
    for &(_, t) in &heads {
        graph.keep(t);
    }
    let program = Program::new(graph, device.clone(), arena.id()).expect("program");
    let image = images(case["name"].as_str().expect("name"), &input);
    let image = channels_last(&image, input[1], input[2] * input[3]);
    program.write(x, &image).expect("write the image");
    program.run().expect("run");

    let mode = if train { "train" } else { "eval" };
    let mut outputs: Vec<(String, Vec<f32>)> = heads
        .into_iter()
        .map(|(head, t)| (format!("{mode}_{head}"), program.read(t).expect("read")))
        .collect();
    if train {
        let view = state.view("buffers", arena.id()).expect("view");
        let buffers: Vec<f32> = read_view(&*device, &view).expect("read");
        let spec = layout.get(WATCHED).expect(WATCHED);
        let values = &buffers[spec.offset..spec.offset + elements(spec.shape)];
        outputs.push(("running_var".into(), values.to_vec()));
    }
    outputs
}

fn check(case: &Value, golden: &Reader, name: &str, values: &[f32]) {
    let title = format!("{}/{name}", case["name"].as_str().expect("name"));
    let about = &case["outputs"][name];
    let shape = numbers(&about["shape"]);
    assert_eq!(values.len(), shape.iter().product::<usize>(), "{title}");
    let atol = about["atol"].as_f64().expect("atol");
    let expected = golden.tensor::<f32>(&title).expect("golden");
    let ours: Vec<f32> = values
        .iter()
        .copied()
        .step_by(number(about, "every"))
        .collect();
    assert_eq!(ours.len(), expected.len(), "{title}");
    let worst = ours
        .iter()
        .zip(&expected)
        .map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs())
        .fold(0.0, |worst: f64, e| {
            if e.is_nan() {
                f64::INFINITY
            } else {
                worst.max(e)
            }
        });
    println!("{title}: off by {worst:.2e}, allowed {atol:.2e}");
    assert!(
        worst <= atol,
        "{title}: off by {worst:.2e}, allowed {atol:.2e}"
    );
}

#[test]
fn networks_agree_with_pytorch() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let golden = Reader::open(&root.join("tests/golden/network.safetensors")).expect("golden");
    let table = golden.require_meta("cases").expect("cases");
    let cases: Vec<Value> = serde_json::from_str(table).expect("the table of cases");
    assert!(!cases.is_empty());
    for case in &cases {
        for train in [false, true] {
            let outputs = run(case, train);
            for (name, values) in &outputs {
                check(case, &golden, name, values);
            }
        }
        let stored = case["outputs"].as_object().expect("outputs").len();
        let heads = if case["config"]["aux"] == true { 3 } else { 2 };
        assert_eq!(stored, 2 * heads + 1, "every stored output is compared");
    }
}
