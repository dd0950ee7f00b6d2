//! A run that takes a second, and what it leaves.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// Keys of a network and a run that take a second, on synthetic shapes.
const TINY: &str = "\
data: {kind: shapes, classes: 6, shapes: {labeled: 3, unlabeled: 5, val: 2, size: 33}}
augment: {crop: [33, 33]}
model: {encoder: resnet18, width: 8, output_stride: 16, multi_grid: false, \
aspp_dilations: [1, 2, 3], head_width: 8, rep_width: 8}
train: {batch_labeled: 2, batch_unlabeled: 2, epochs: 4, epoch_iters: 3, warmup_epochs: 1, \
lr: 0.01, log_every: 1}
method: {bank_background: 64, bank_size: 64, anchors: 8, negatives: 4}
";

/// `train` in the folder `dir`, into its folder `run`.
pub fn command(dir: &Path, run: &str, more: &[&str]) -> Command {
    fs::write(dir.join("tiny.yaml"), TINY).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_u2pl-engine"));
    command.current_dir(dir).env_remove("RUST_LOG");
    command.args(["train", "--config", "tiny.yaml", "--out", run]);
    command.args(more);
    command
}

pub fn output(mut command: Command) -> (i32, String) {
    let Output { status, stderr, .. } = command.output().unwrap();
    (
        status.code().unwrap_or(-1),
        String::from_utf8(stderr).unwrap(),
    )
}

/// Trains; what it said on stderr.
pub fn train(dir: &Path, run: &str, more: &[&str]) -> String {
    let (code, stderr) = output(command(dir, run, more));
    assert_eq!(code, 0, "{more:?}: {stderr}");
    stderr
}

/// The one error line of what must fail with status 2.
pub fn refused(dir: &Path, run: &str, more: &[&str]) -> String {
    let (code, stderr) = output(command(dir, run, more));
    assert_eq!(code, 2, "{more:?}: {stderr}");
    let errors: Vec<&str> = stderr
        .lines()
        .filter(|l| l.starts_with("error: "))
        .collect();
    assert_eq!(errors.len(), 1, "{more:?}: {stderr}");
    errors[0].to_string()
}

/// Iterations done by a checkpoint of the folder `run`; `None`: it is not there or damaged.
pub fn iteration(run: &Path, name: &str) -> Option<usize> {
    let path = run.join(format!("checkpoints/{name}.safetensors"));
    let file = u2pl_engine::weights::Reader::open(&path).ok()?;
    file.verify().ok()?;
    file.require_meta("iteration").ok()?.parse().ok()
}

pub fn last(run: &Path) -> Vec<u8> {
    fs::read(run.join("checkpoints/last.safetensors")).unwrap()
}
