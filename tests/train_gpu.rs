//! Whole training runs on the GPU kernels, executed on the CPU, beside the CPU device.
#![cfg(all(feature = "cli", any(feature = "ptx", feature = "simt")))]

#[path = "support/proof.rs"]
mod proof;

use std::path::Path;
use std::sync::Arc;

use u2pl_engine::config::Config;
use u2pl_engine::contact::Check;
use u2pl_engine::device::Device;
use u2pl_engine::device::cpu::CpuDevice;
use u2pl_engine::device::gpu::{GpuDevice, MathMode};
use u2pl_engine::eval::{LoadedWeights, Metrics, Predictor, Rgb};
use u2pl_engine::method::diagnostics::Report;
use u2pl_engine::model;
use u2pl_engine::train::{self, Observer, Options};

/// Every report and validation of a run.
#[derive(Default)]
struct Log {
    steps: Vec<Report>,
    mious: Vec<f64>,
}

impl Observer for Log {
    fn step(&mut self, _done: usize, _lr: f32, report: Option<&Report>) {
        self.steps
            .push(report.expect("every step is logged").clone());
    }

    fn validated(&mut self, _epoch: usize, _who: &str, metrics: &Metrics, _best: f64) {
        self.mious.push(metrics.miou().unwrap_or(0.0));
    }
}

fn recipe(sets: &[&str]) -> Config {
    let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/tiny.yaml");
    Config::load(Some(&recipe), &sets).expect("recipe")
}

fn run(device: Arc<dyn Device>, sets: &[&str]) -> Log {
    let dir = tempfile::tempdir().expect("folder");
    run_in(dir.path(), device, sets, false, None)
}

fn run_in(
    out: &Path,
    device: Arc<dyn Device>,
    sets: &[&str],
    resume: bool,
    max_iters: Option<usize>,
) -> Log {
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
    log
}

fn cpu() -> Arc<dyn Device> {
    Arc::new(CpuDevice::new(2).expect("cpu"))
}

fn gpu(math: MathMode) -> Arc<dyn Device> {
    Arc::new(proof::device(math))
}

fn losses(report: &Report) -> [f32; 3] {
    let l = &report.loss;
    [l.sup, l.unsup.unwrap_or(0.0), l.contrast.unwrap_or(0.0)]
}

/// Both runs, loss by loss, within `tolerance` relative to the larger of the loss and 0.1.
fn follows(math: MathMode, sets: &[&str], tolerance: f32) {
    let (want, got) = (run(cpu(), sets), run(gpu(math), sets));
    assert_eq!(want.steps.len(), 20);
    assert_eq!(got.steps.len(), 20);
    println!(
        "{math:?} {sets:?}: iteration, then sup, unsup, contrast on the cpu and on the kernels"
    );
    let mut worst = 0f32;
    for (i, (w, g)) in want.steps.iter().zip(&got.steps).enumerate() {
        let (w, g) = (losses(w), losses(g));
        println!("{:2}  {w:?}  {g:?}", i + 1);
        for (w, g) in w.into_iter().zip(g) {
            worst = worst.max((w - g).abs() / w.abs().max(0.1));
        }
    }
    println!("worst relative difference {worst:.2e}");
    assert!(worst <= tolerance, "{worst} over {tolerance}");
    assert_eq!(want.mious.len(), got.mious.len());
}

#[test]
fn fp32_follows_the_cpu_for_twenty_steps() {
    follows(MathMode::Fp32, &[], 2e-3);
}

#[test]
fn fp32_follows_the_cpu_in_mode_released_with_every_head() {
    // At the recipe's rate the losses fall so fast that rounding alone parts two runs by step 12.
    let sets = [
        "train.lr=0.001",
        "method.mode=released",
        "model.aux=true",
        "train.loss=ohem",
        "augment.mix=classmix",
    ];
    follows(MathMode::Fp32, &sets, 2e-3);
}

#[test]
fn tf32_follows_the_cpu_roughly() {
    follows(MathMode::Tf32, &["train.lr=0.001"], 0.05);
}

#[test]
fn bf16_follows_the_cpu_roughly() {
    follows(MathMode::Bf16, &["train.lr=0.001"], 0.15);
}

/// The same seed gives the same bits, whatever the order in which blocks and warps run.
#[test]
fn a_run_does_not_depend_on_the_schedule() {
    // An A100, whose blocks have less shared memory and other launches.
    let hostile = proof::a100(proof::Schedule::Pct, 7, 2);
    let device = GpuDevice::new(Box::new(hostile), MathMode::Bf16);
    let sets = ["train.epochs=2", "train.val_every=2"];
    let (a, b) = (
        run(gpu(MathMode::Bf16), &sets),
        run(Arc::new(device), &sets),
    );
    assert_eq!(a.mious, b.mious);
    for (a, b) in a.steps.iter().zip(&b.steps) {
        assert_eq!(losses(a).map(f32::to_bits), losses(b).map(f32::to_bits));
    }
}

/// The bf16 copies of the weights come back with the weights.
#[test]
fn a_resumed_bf16_run_goes_on_bit_for_bit() {
    let dir = tempfile::tempdir().expect("folder");
    let (straight, paused) = (dir.path().join("a"), dir.path().join("b"));
    let sets = ["train.epochs=2", "train.val_every=2"];
    let go = |out: &Path, resume, max_iters| {
        run_in(out, gpu(MathMode::Bf16), &sets, resume, max_iters);
    };
    go(&straight, false, None);
    go(&paused, false, Some(6));
    go(&paused, true, None);
    let last = |out: &Path| std::fs::read(out.join("checkpoints/last.safetensors")).expect("last");
    assert!(last(&straight) == last(&paused), "the checkpoints differ");
}

/// Inference from loaded weights, in every precision.
#[test]
fn a_prediction_follows_the_cpu() {
    let cfg = recipe(&[]);
    let layout = model::layout(&cfg.model, cfg.data.classes).expect("layout");
    let (weights, buffers) = model::init(&layout, 5);
    let pixels = (0..3 * 40 * 37).map(|i| (i * 7919 % 256) as u8).collect();
    let image = Rgb::new(40, 37, pixels).expect("image");
    let predict = |device: Arc<dyn Device>| {
        let loaded = LoadedWeights::new(&device, &layout, &weights, &buffers).expect("weights");
        let mut predictor = Predictor::new(device, &cfg, layout.clone());
        let scores = predictor.scores(loaded.weights(), &image).expect("scores");
        scores.values
    };
    let want = predict(cpu());
    let scale = want.iter().fold(0f32, |m, v| m.max(v.abs()));
    assert!(scale > 0.0);
    for (math, tolerance) in [
        (MathMode::Fp32, 1e-5),
        (MathMode::Tf32, 5e-3),
        (MathMode::Bf16, 5e-2),
    ] {
        let got = predict(gpu(math));
        assert_eq!(got.len(), want.len());
        let worst = want
            .iter()
            .zip(&got)
            .fold(0f32, |m, (w, g)| m.max((w - g).abs()));
        println!("{math:?}: {:.1e} of the largest logit", worst / scale);
        assert!(worst <= tolerance * scale, "{math:?}: {worst} of {scale}");
    }
}
