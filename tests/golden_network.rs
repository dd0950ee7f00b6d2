//! Whole networks against PyTorch in double precision (`tests/golden/make_network.py`). Weights
//! and images follow a formula, so only outputs are stored.

mod support;

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use support::formula::{channels_last, config, fill, number, numbers, uniform};
use u2pl_engine::device::cpu::CpuDevice;
use u2pl_engine::device::{DType, Device, elements};
use u2pl_engine::graph::exec::{Arena, Program, read_view};
use u2pl_engine::graph::params::{Kind, ParamSet};
use u2pl_engine::graph::state::State;
use u2pl_engine::graph::{Graph, TensorId};
use u2pl_engine::model::{self, Ctx, Want};
use u2pl_engine::weights::Reader;

/// The buffer that every case stores after its training pass.
const WATCHED: &str = "encoder.layer4.1.bn2.running_var";

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

/// Runs the network of `case` once, its heads apart or begun as one; its outputs by the names of
/// the file.
fn run(case: &Value, train: bool, apart: bool) -> Vec<(String, Vec<f32>)> {
    let cfg = config(&case["config"]);
    let classes = number(&case["config"], "classes");
    let gain = case["gain"].as_f64().expect("gain");
    let mut layout = model::layout(&cfg, classes).expect("layout");
    let mut state = State::new();
    let (w, b) = (layout.weights_len(), layout.buffers_len());
    let set = ParamSet {
        copy: None,
        weights: state.add("weights", [1, 1, 1, w], DType::F32),
        buffers: state.add("buffers", [1, 1, 1, b], DType::F32),
        vectors: None,
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
        apart,
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
    // The fixture's own bound, and never above the one that the project has set itself.
    let atol = about["atol"].as_f64().expect("atol").min(1e-4);
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
            // Begun as one, the heads may be computed another way than apart: other roundings.
            for apart in [false, true] {
                for (name, values) in &run(case, train, apart) {
                    check(case, &golden, name, values);
                }
            }
        }
        let stored = case["outputs"].as_object().expect("outputs").len();
        let heads = if case["config"]["aux"] == true { 3 } else { 2 };
        assert_eq!(stored, 2 * heads + 1, "every stored output is compared");
    }
}
