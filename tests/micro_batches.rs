//! A step of several micro-batches: the weights move by the mean of their gradients, as one batch
//! moves them where batch norm sees the same statistics, and a run goes on as if never stopped.
#![cfg(feature = "cli")]

use std::path::Path;
use std::sync::Arc;

use u2pl_engine::config::Config;
use u2pl_engine::contact::Check;
use u2pl_engine::device::cpu::CpuDevice;
use u2pl_engine::device::philox::{Rng, to_unit};
use u2pl_engine::graph::params::Kind;
use u2pl_engine::train::session::{HostImages, Session};
use u2pl_engine::train::{self, Options, Silent};

const TINY: &str = include_str!("../configs/tiny.yaml");

/// Side of the images, and classes.
const SIDE: usize = 33;
const CLASSES: usize = 6;

/// Without anything drawn at random, and without contrast, whose draws depend on the batch. α = 0
/// leaves out the most uncertain pixel alone, in however many copies it comes.
const FIXED: [&str; 6] = [
    "model.dropout=0",
    "augment.mix=none",
    "method.contrast_weight=0",
    "method.alpha0=0",
    "train.warmup_epochs=0",
    "train.lr=0.05",
];

fn config(more: &[String]) -> Config {
    let sets: Vec<String> = FIXED.iter().map(ToString::to_string).collect();
    let cfg = Config::parse("test", TINY, &[&sets[..], more].concat()).unwrap();
    cfg.validate().unwrap();
    cfg
}

/// A session of `micro` micro-batches of `batch` + `batch` images.
fn session(micro: usize, batch: usize, more: &[&str]) -> (Session, HostImages) {
    let mut sets = vec![
        format!("train.micro_batches={micro}"),
        format!("train.batch_labeled={batch}"),
        format!("train.batch_unlabeled={batch}"),
    ];
    sets.extend(more.iter().map(ToString::to_string));
    let device = Arc::new(CpuDevice::new(2).unwrap());
    Session::on_inputs(&config(&sets), device, 4).unwrap()
}

/// Image `i`, normalised, and its label in patches.
fn image(i: usize) -> (Vec<f32>, Vec<u8>) {
    let rng = Rng::seeded(7, 1, i as u32);
    let values = (0..SIDE * SIDE * 3).map(|k| to_unit(rng.block(k as u64)[0]) * 2.0 - 1.0);
    let patch = |k: usize| (k % SIDE) / 11 + (k / SIDE) / 17 * 3 + i;
    let label = (0..SIDE * SIDE).map(|k| (patch(k) % CLASSES) as u8);
    (values.collect(), label.collect())
}

/// Gives U2PL step 0 the labelled and unlabelled images of these numbers.
fn give(session: &Session, images: &HostImages, numbers: &[usize]) {
    let at = images.u2pl.unwrap();
    let (x, truth) = at.unlabeled.unwrap();
    let of = |from: usize| -> (Vec<f32>, Vec<u8>) {
        let pairs: Vec<_> = numbers.iter().map(|i| image(from + i)).collect();
        (
            pairs.iter().flat_map(|(v, _)| v.clone()).collect(),
            pairs.iter().flat_map(|(_, l)| l.clone()).collect(),
        )
    };
    let (mut labeled, labels) = of(0);
    let (unlabeled, truths) = of(100);
    labeled.extend(&unlabeled);
    session.fill(0, at.all, &labeled).unwrap();
    session.fill(0, at.labels, &labels).unwrap();
    session.fill(0, x, &unlabeled).unwrap();
    session.fill(0, truth, &truths).unwrap();
}

/// A flat vector of the session's; what lies between parameters is nobody's, and 0 here.
fn read(s: &Session, entry: &str) -> Vec<f32> {
    let flat: Vec<f32> = s.read(entry).unwrap();
    let mut own = vec![0.0; flat.len()];
    let specs = s.params().specs().iter();
    for spec in specs.filter(|spec| spec.kind == Kind::Weight) {
        let range = spec.offset..spec.offset + spec.shape.iter().product::<usize>();
        own[range.clone()].copy_from_slice(&flat[range]);
    }
    own
}

fn assert_close(what: &str, a: &[f32], b: &[f32], tolerance: f32) {
    assert_eq!(a.len(), b.len());
    let scale = a.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let worst = a
        .iter()
        .zip(b)
        .fold(0.0f32, |m, (x, y)| m.max((x - y).abs()));
    assert!(
        worst <= tolerance * scale,
        "{what}: off by {worst} of {scale}"
    );
}

#[test]
fn the_same_images_four_times_move_the_weights_as_one_batch_of_all() {
    let (parts, images) = session(4, 2, &[]);
    for micro in 0..4 {
        give(&parts, &images, &[0, 1]);
        parts.micro_step(0, micro).unwrap();
    }
    let (whole, images) = session(1, 8, &[]);
    give(&whole, &images, &[0, 1, 0, 1, 0, 1, 0, 1]);
    whole.step(0).unwrap();
    let (start, _) = session(1, 8, &[]);
    for entry in ["student.weights", "teacher.weights", "velocity"] {
        let read = |s: &Session| read(s, entry);
        assert_close(entry, &read(&whole), &read(&parts), 2e-5);
        assert!(read(&start) != read(&parts), "{entry} did not move");
    }
    let (a, b) = (whole.report(0).unwrap(), parts.report(0).unwrap());
    assert!((a.loss.sup - b.loss.sup).abs() < 1e-5);
    assert!(a.loss.unsup.is_some_and(|u| u > 0.0));
}

#[test]
fn the_weights_move_by_the_mean_gradient() {
    let sets = [[0, 1], [2, 3], [4, 5]];
    let alone: Vec<Vec<f32>> = sets
        .iter()
        .map(|numbers| {
            let (s, images) = session(3, 2, &[]);
            give(&s, &images, numbers);
            s.micro_step(0, 0).unwrap();
            read(&s, "gradients")
        })
        .collect();
    let mean: Vec<f32> = (0..alone[0].len())
        .map(|i| alone.iter().map(|g| g[i]).sum::<f32>() / 3.0)
        .collect();
    let (s, images) = session(3, 2, &[]);
    let before = read(&s, "student.weights");
    for (micro, numbers) in sets.iter().enumerate() {
        assert_eq!(read(&s, "student.weights"), before);
        give(&s, &images, numbers);
        s.micro_step(0, micro).unwrap();
    }
    assert_close("gradients", &mean, &read(&s, "gradients"), 1e-5);
    assert!(read(&s, "student.weights") != before);
    // At once is for steps of one.
    assert!(s.step(1).is_err());
}

fn trace(out: &Path) -> (Vec<u8>, String) {
    let metrics = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let lines: Vec<&str> = metrics
        .lines()
        .filter(|l| !l.contains("seconds") && !l.contains("\"machine\""))
        .collect();
    (
        std::fs::read(out.join("checkpoints/last.safetensors")).unwrap(),
        lines.join("\n"),
    )
}

#[test]
fn a_run_of_micro_batches_goes_on_where_it_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let sets = [
        "train.micro_batches=2",
        "train.epochs=3",
        "train.epoch_iters=2",
    ];
    let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
    let cfg = Config::parse("test", TINY, &sets).unwrap();
    let run = |out: &Path, resume: bool, max_iters: Option<usize>| {
        let options = Options {
            device: Arc::new(CpuDevice::new(2).unwrap()),
            out: out.to_path_buf(),
            init: None,
            resume,
            new_data: false,
            max_iters,
            profile: false,
            check: Check::default(),
        };
        train::run(cfg.clone(), &options, &mut Silent).unwrap();
    };
    let (straight, paused) = (dir.path().join("a"), dir.path().join("b"));
    run(&straight, false, None);
    run(&paused, false, Some(3));
    run(&paused, true, None);
    let (a, b) = (trace(&straight), trace(&paused));
    assert_eq!(a.1, b.1);
    assert!(a.0 == b.0, "the checkpoints differ");
}

#[test]
fn an_epoch_counts_the_images_of_all_micro_batches() {
    use u2pl_engine::method::schedule::epoch_iters;
    let mut cfg = Config::default();
    (cfg.train.batch_labeled, cfg.train.batch_unlabeled) = (2, 2);
    cfg.train.micro_batches = 4;
    assert_eq!(epoch_iters(&cfg, 10, 80), 10);
    assert!(
        Config::parse("t", "train: {micro_batches: 0}", &[])
            .unwrap()
            .validate()
            .is_err()
    );
}
