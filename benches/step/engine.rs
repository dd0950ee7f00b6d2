//! The engine's side: the training session and the predictor that the binary itself uses.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use serde_json::{Value, json};
use u2pl_engine::config::Config;
use u2pl_engine::config::schema::Encoder;
use u2pl_engine::device::Device;
use u2pl_engine::device::cpu::CpuDevice;
use u2pl_engine::eval::{LoadedWeights, Predictor, Rgb};
use u2pl_engine::graph::exec::Timing;
use u2pl_engine::model;
use u2pl_engine::train::session::{Session, Staged};

use crate::Case;
use crate::protocol::{self, status_mib};

const CLASSES: usize = 21;
/// Entries of each class's ring: the recipe's 30 000 would be 650 MiB of state on both sides.
const BANK: usize = 3000;
/// Side of a tile of equal labels, pixels.
const TILE: usize = 16;
const EPOCH_ITERS: usize = 1000;

/// Serves `case` until stdin ends.
pub(crate) fn serve(case: Case, threads: usize) -> Result<()> {
    match case {
        Case::Train129 => train(129, threads),
        Case::Train257 => train(257, threads),
        Case::Infer => infer(360, 480, threads),
    }
}

fn config(crop: usize) -> Config {
    let mut cfg = Config::default();
    cfg.data.classes = CLASSES;
    cfg.augment.crop = [crop; 2];
    cfg.model.encoder = Encoder::Resnet50;
    cfg.train.batch_labeled = 2;
    cfg.train.batch_unlabeled = 2;
    cfg.train.warmup_epochs = 0;
    cfg.method.bank_background = BANK;
    cfg.method.bank_size = BANK;
    // An untrained network is sure of nothing: at 0.3 the contrast term would have no anchors.
    cfg.method.delta_p = 0.0;
    cfg
}

/// Bytes without a pattern: Knuth's multiplicative hash of the index.
fn noise(count: usize) -> Vec<u8> {
    let hash = |i: usize| (i as u32).wrapping_mul(2_654_435_761) >> 24;
    (0..count).map(|i| hash(i) as u8).collect()
}

fn staged(batch: usize, side: usize) -> Staged {
    let label = |i: usize| {
        let (y, x) = (i / side % side / TILE, i % side / TILE);
        ((y * 7 + x * 5 + i / (side * side)) % CLASSES) as u8
    };
    Staged {
        images: noise(batch * 3 * side * side),
        labels: (0..batch * side * side).map(label).collect(),
        sizes: vec![side as u32; 2 * batch],
    }
}

fn train(crop: usize, threads: usize) -> Result<()> {
    let base_mib = status_mib("VmRSS")?;
    let cfg = config(crop);
    let device: Arc<dyn Device> = Arc::new(CpuDevice::new(threads)?);
    let session = Session::new(&cfg, device, EPOCH_ITERS, crop * crop)?;
    for which in ["labeled", "unlabeled"] {
        session.stage(which, &staged(2, crop))?;
    }
    let mut iteration = 0;
    let step = || {
        let clock = Instant::now();
        session.step(iteration)?;
        iteration += 1;
        Ok(1e3 * clock.elapsed().as_secs_f64())
    };
    protocol::serve(base_mib, step, || {
        let timings = session.step_timed(1)?;
        let (state, transient) = session.bytes();
        let report = session.report(1)?;
        Ok(json!({
            "profile": profile(&timings),
            "state_mib": state as f64 / MIB,
            "transient_mib": transient as f64 / MIB,
            "contrast_classes": report.u2pl.map(|u| u.contrast_classes),
        }))
    })
}

fn infer(height: usize, width: usize, threads: usize) -> Result<()> {
    let base_mib = status_mib("VmRSS")?;
    let cfg = config(513);
    let device: Arc<dyn Device> = Arc::new(CpuDevice::new(threads)?);
    let layout = model::layout(&cfg.model, CLASSES)?;
    let (weights, buffers) = model::init(&layout, 0);
    let loaded = LoadedWeights::new(&device, &layout, &weights, &buffers)?;
    drop((weights, buffers));
    let mut predictor = Predictor::new(device, &cfg, layout);
    let image = Rgb {
        width,
        height,
        pixels: noise(3 * width * height),
    };
    let step = || {
        let clock = Instant::now();
        predictor.maps(loaded.weights(), &image)?;
        Ok(1e3 * clock.elapsed().as_secs_f64())
    };
    protocol::serve(base_mib, step, || Ok(Value::Null))
}

const MIB: f64 = (1u64 << 20) as f64;

/// Time, work and calls by operation, most time first.
fn profile(timings: &[Timing]) -> Value {
    let mut by_op: BTreeMap<&str, (f64, f64, usize)> = BTreeMap::new();
    for t in timings {
        let row = by_op.entry(t.op).or_default();
        row.0 += 1e3 * t.time.as_secs_f64();
        row.1 += t.cost.flops;
        row.2 += 1;
    }
    let mut rows: Vec<_> = by_op.into_iter().collect();
    rows.sort_by(|(_, a), (_, b)| b.0.total_cmp(&a.0));
    rows.into_iter()
        .map(|(op, (ms, flops, calls))| json!({"op": op, "ms": ms, "flops": flops, "calls": calls}))
        .collect()
}
