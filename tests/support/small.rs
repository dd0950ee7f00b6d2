//! A network small enough to run in milliseconds, weights of it on disk, and images that do not look
//! all alike.
#![allow(dead_code)] // each test binary uses a part

use std::path::{Path, PathBuf};
use std::sync::Arc;

use u2pl_engine::config::Config;
use u2pl_engine::config::schema::Encoder;
use u2pl_engine::device::Device;
use u2pl_engine::device::philox::Rng;
use u2pl_engine::eval::LoadedWeights;
use u2pl_engine::infer::Network;
use u2pl_engine::model;
use u2pl_engine::weights::Writer;

pub const CLASSES: usize = 4;

pub fn config() -> Config {
    let mut cfg = Config::default();
    cfg.data.classes = CLASSES;
    cfg.model.encoder = Encoder::Resnet18;
    cfg.model.width = 8;
    cfg.model.output_stride = 8;
    cfg.model.multi_grid = false;
    cfg.model.aspp_dilations = vec![1, 2, 3];
    cfg.model.head_width = 8;
    cfg.model.rep_width = 8;
    cfg
}

/// Makes `run` a run folder with a teacher of `cfg`, drawn at random; the file of its weights.
pub fn run_folder(run: &Path, cfg: &Config) -> PathBuf {
    let layout = model::layout(&cfg.model, cfg.data.classes).unwrap();
    let (weights, buffers) = model::init(&layout, 5);
    let mut file = Writer::new();
    file.params("teacher.", &layout, &weights, &buffers)
        .unwrap();
    let checkpoints = run.join("checkpoints");
    std::fs::create_dir(&checkpoints).unwrap();
    std::fs::write(run.join("config.yaml"), cfg.to_yaml().unwrap()).unwrap();
    let path = checkpoints.join("last.safetensors");
    file.save(&path).unwrap();
    path
}

/// A network of `cfg` on `device`, drawn at random.
pub fn network(cfg: &Config, device: Arc<dyn Device>) -> Network {
    let layout = model::layout(&cfg.model, cfg.data.classes).unwrap();
    let (weights, buffers) = model::init(&layout, 5);
    let weights = LoadedWeights::new(&device, &layout, &weights, &buffers).unwrap();
    Network {
        device,
        cfg: cfg.clone(),
        layout,
        weights,
    }
}

/// Packed RGB in blocks of 8 pixels, so that classes come in regions.
pub fn noise(height: usize, width: usize, seed: u64) -> Vec<u8> {
    let rng = Rng::seeded(seed, 0, 0);
    let sample = |i: usize| {
        let (y, x, c) = (i / 3 / width / 8, i / 3 % width / 8, i % 3);
        rng.below((1000 * y + 10 * x + c) as u64, 256) as u8
    };
    (0..3 * width * height).map(sample).collect()
}
