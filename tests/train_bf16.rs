//! Training and inference in bf16 on the CPU device, beside f32.
#![cfg(feature = "cli")]

use std::path::Path;
use std::sync::Arc;

use u2pl_engine::config::Config;
use u2pl_engine::contact::Check;
use u2pl_engine::device::Device;
use u2pl_engine::device::cpu::CpuDevice;
use u2pl_engine::device::gpu::MathMode;
use u2pl_engine::eval::{LoadedWeights, Predictor, Rgb};
use u2pl_engine::method::diagnostics::Report;
use u2pl_engine::model;
use u2pl_engine::train::{self, Observer, Options};

/// The losses of every step.
#[derive(Default)]
struct Log(Vec<[f32; 3]>);

impl Observer for Log {
    fn step(&mut self, _done: usize, _lr: f32, report: Option<&Report>) {
        let loss = &report.expect("every step is logged").loss;
        let (unsup, contrast) = (loss.unsup, loss.contrast);
        self.0
            .push([loss.sup, unsup.unwrap_or(0.0), contrast.unwrap_or(0.0)]);
    }
}

fn recipe(sets: &[&str]) -> Config {
    let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/tiny.yaml");
    Config::load(Some(&recipe), &sets).expect("recipe")
}

fn device(threads: usize, math: MathMode) -> Arc<dyn Device> {
    Arc::new(CpuDevice::with_precision(threads, math).expect("cpu"))
}

fn run(
    out: &Path,
    device: Arc<dyn Device>,
    sets: &[&str],
    resume: bool,
    max_iters: Option<usize>,
) -> Vec<[f32; 3]> {
    let options = Options {
        device,
        out: out.to_path_buf(),
        init: None,
        resume,
        new_data: false,
        max_iters,
        profile: false,
        check: Check::default(),
    };
    let mut log = Log::default();
    train::run(recipe(sets), &options, &mut log).expect("run");
    log.0
}

/// Every loss of twenty steps within 15 % of f32's (of 0.1 where it is smaller): a step's
/// roundings of 2^-9 each grow with the steps.
#[test]
fn bf16_follows_f32_roughly() {
    let dir = tempfile::tempdir().expect("folder");
    let sets = ["train.lr=0.001"];
    let [want, got] = [MathMode::Fp32, MathMode::Bf16].map(|math| {
        let out = dir.path().join(math.name());
        run(&out, device(2, math), &sets, false, None)
    });
    assert_eq!((want.len(), got.len()), (20, 20));
    for (i, (want, got)) in want.iter().zip(&got).enumerate() {
        println!("{:2}  {want:?}  {got:?}", i + 1);
        for (want, got) in want.iter().zip(got) {
            let off = (want - got).abs() / want.abs().max(0.1);
            assert!(off <= 0.15, "step {}: {got} is not {want}", i + 1);
        }
    }
    assert_ne!(want, got, "bf16 rounds");
}

/// The bf16 copies of the weights come back with the weights, and threads do not matter.
#[test]
fn a_resumed_run_on_other_threads_goes_on_bit_for_bit() {
    let dir = tempfile::tempdir().expect("folder");
    let (straight, paused) = (dir.path().join("a"), dir.path().join("b"));
    let sets = ["train.epochs=2", "train.val_every=2"];
    run(&straight, device(1, MathMode::Bf16), &sets, false, None);
    run(&paused, device(3, MathMode::Bf16), &sets, false, Some(6));
    run(&paused, device(2, MathMode::Bf16), &sets, true, None);
    let last = |out: &Path| std::fs::read(out.join("checkpoints/last.safetensors")).expect("last");
    assert!(last(&straight) == last(&paused), "the checkpoints differ");
}

/// Scores within 5 % of the largest.
#[test]
fn a_prediction_follows_f32() {
    let cfg = recipe(&[]);
    let layout = model::layout(&cfg.model, cfg.data.classes).expect("layout");
    let (weights, buffers) = model::init(&layout, 5);
    let pixels = (0..3 * 40 * 37).map(|i| (i * 7919 % 256) as u8).collect();
    let image = Rgb::new(40, 37, pixels).expect("image");
    let [want, got] = [MathMode::Fp32, MathMode::Bf16].map(|math| {
        let device = device(2, math);
        let loaded = LoadedWeights::new(&device, &layout, &weights, &buffers).expect("weights");
        let mut predictor = Predictor::new(device, &cfg, layout.clone());
        let scores = predictor.scores(loaded.weights(), &image).expect("scores");
        scores.values
    });
    assert_eq!(want.len(), got.len());
    let scale = want.iter().fold(0f32, |m, v| m.max(v.abs()));
    assert!(scale > 0.0);
    for (want, got) in want.iter().zip(&got) {
        assert!((want - got).abs() <= 0.05 * scale, "{got} is not {want}");
    }
    assert_ne!(want, got, "bf16 rounds");
}
