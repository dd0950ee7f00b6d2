//! A folder with a small network, images and masks, and the program run in it.
#![allow(dead_code)] // each test binary uses a part

use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use tempfile::TempDir;
use u2pl_engine::config::Config;
use u2pl_engine::model;
use u2pl_engine::weights::{TEACHER, Writer};

/// A small network for three classes of plain files.
pub const CONFIG: &str = "\
data: {kind: folder, classes: 3}
augment: {crop: [33, 33]}
model: {encoder: resnet18, width: 8, output_stride: 16, multi_grid: false, \
aspp_dilations: [1, 2, 3], head_width: 8, rep_width: 8}
";

/// A folder with a configuration, weights of its network, and images with masks.
pub struct Place {
    pub dir: TempDir,
}

impl Place {
    pub fn new() -> Self {
        let place = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        fs::write(place.path("run.yaml"), CONFIG).unwrap();
        for folder in ["images", "masks"] {
            fs::create_dir(place.path(folder)).unwrap();
        }
        let mut list = String::new();
        for (i, (width, height)) in [(40, 33), (47, 36), (33, 50)].into_iter().enumerate() {
            let image = image::RgbImage::from_fn(width, height, |x, y| {
                image::Rgb([(x * 5) as u8, (y * 7) as u8, (60 * i) as u8])
            });
            image.save(place.path(&format!("images/{i}.png"))).unwrap();
            let mask =
                image::GrayImage::from_fn(width, height, |x, _| image::Luma([(x % 3) as u8]));
            mask.save(place.path(&format!("masks/{i}.png"))).unwrap();
            list += &format!("{i}\n");
        }
        fs::write(place.path("val.txt"), list).unwrap();
        place.save_weights("w.safetensors", None);
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Random weights of the network; with `config`, as a checkpoint that carries it.
    pub fn save_weights(&self, name: &str, config: Option<&str>) {
        let cfg = Config::parse("test", CONFIG, &[]).unwrap();
        let layout = model::layout(&cfg.model, cfg.data.classes).unwrap();
        let (weights, buffers) = model::init(&layout, 1);
        let mut writer = Writer::new();
        let prefix = if config.is_some() { TEACHER } else { "" };
        writer.params(prefix, &layout, &weights, &buffers).unwrap();
        if let Some(config) = config {
            writer.meta("config", config);
        }
        writer.save(&self.path(name)).unwrap();
    }

    /// Runs the program in this folder: exit status, stdout, stderr.
    pub fn run(&self, args: &[&str]) -> (i32, String, String) {
        let output = Command::cargo_bin("u2pl-engine")
            .unwrap()
            .args(args)
            .current_dir(self.dir.path())
            .env_remove("RUST_LOG")
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (
            output.status.code().unwrap(),
            text(output.stdout),
            text(output.stderr),
        )
    }

    /// Runs what must fail with status 2; its one error line.
    pub fn mistake(&self, args: &[&str]) -> String {
        let (code, _, stderr) = self.run(args);
        assert_eq!(code, 2, "{args:?}: {stderr}");
        let errors: Vec<&str> = stderr
            .lines()
            .filter(|l| l.starts_with("error: "))
            .collect();
        assert_eq!(errors.len(), 1, "{args:?}: {stderr}");
        errors[0].to_string()
    }

    pub fn succeed(&self, args: &[&str]) -> String {
        let (code, stdout, stderr) = self.run(args);
        assert_eq!(code, 0, "{args:?}: {stderr}");
        stdout
    }
}

pub fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

pub fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

pub const INFER: [&str; 5] = [
    "infer",
    "--weights",
    "w.safetensors",
    "--config",
    "run.yaml",
];
pub const EVAL: [&str; 5] = ["eval", "--weights", "w.safetensors", "--config", "run.yaml"];

pub fn with<'a>(base: &[&'a str], more: &[&'a str]) -> Vec<&'a str> {
    [base, more].concat()
}
