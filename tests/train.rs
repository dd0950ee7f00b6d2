//! Training as a whole: pausing, threads, memory, and folders of images from list to mIoU.
#![cfg(feature = "cli")]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use u2pl_engine::config::Config;
use u2pl_engine::contact::Check;
use u2pl_engine::device::Device;
use u2pl_engine::device::cpu::CpuDevice;
use u2pl_engine::eval::{Evaluator, LoadedWeights};
use u2pl_engine::train::events::message::step;
use u2pl_engine::train::events::record::{self, Next};
use u2pl_engine::train::session::{Blueprint, Session, Staged};
use u2pl_engine::train::{self, Options, Silent, Summary, events};
use u2pl_engine::{data, model};

/// A network and a run that take a second.
const TINY: &str = "\
data: {kind: shapes, classes: 6, shapes: {labeled: 3, unlabeled: 5, val: 2, size: 33}}
augment: {crop: [33, 33]}
model: {encoder: resnet18, width: 8, output_stride: 16, multi_grid: false, \
aspp_dilations: [1, 2, 3], head_width: 8, rep_width: 8}
train: {batch_labeled: 2, batch_unlabeled: 2, epochs: 3, epoch_iters: 4, warmup_epochs: 1, \
lr: 0.01, log_every: 2}
method: {bank_background: 64, bank_size: 64, anchors: 8, negatives: 4}
";

fn config(sets: &[&str]) -> Config {
    let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
    Config::parse("test", TINY, &sets).unwrap()
}

fn run(
    cfg: &Config,
    out: &Path,
    threads: usize,
    resume: bool,
    max_iters: Option<usize>,
) -> Summary {
    let options = Options {
        device: Arc::new(CpuDevice::new(threads).unwrap()),
        out: out.to_path_buf(),
        init: None,
        resume,
        new_data: false,
        max_iters,
        profile: false,
        check: Check::default(),
    };
    train::run(cfg.clone(), &options, &mut Silent).unwrap()
}

/// The last checkpoint's bytes and the metrics without seconds and machines.
fn trace(out: &Path) -> (Vec<u8>, String) {
    let metrics = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let lines: Vec<&str> = metrics
        .lines()
        .filter(|l| !l.contains("\"seconds\"") && !l.contains("\"machine\""))
        .collect();
    (
        fs::read(out.join("checkpoints/last.safetensors")).unwrap(),
        lines.join("\n"),
    )
}

/// Step of every TensorBoard event, and everything in it but its time.
fn events(out: &Path) -> Vec<(u64, Vec<u8>)> {
    let mut file = fs::File::open(out.join(events::FILE)).unwrap();
    let mut found = Vec::new();
    loop {
        match record::next(&mut file).unwrap() {
            // The time is the first field: a key and eight bytes.
            Next::Record(event) => found.push((step(&event).unwrap(), event[9..].to_vec())),
            Next::End => return found,
            Next::Damaged => panic!("damaged after {} events", found.len()),
        }
    }
}

#[test]
fn going_on_after_a_pause_equals_never_having_stopped() {
    let dir = tempfile::tempdir().unwrap();
    let cfg = config(&[]);
    let (straight, paused) = (dir.path().join("a"), dir.path().join("b"));
    run(&cfg, &straight, 1, false, None);
    // In the warm-up, within an epoch, then within a U2PL epoch.
    run(&cfg, &paused, 2, false, Some(3));
    run(&cfg, &paused, 1, true, Some(7));
    run(&cfg, &paused, 2, true, None);
    let (a, b) = (trace(&straight), trace(&paused));
    assert_eq!(a.1, b.1);
    assert!(a.0 == b.0, "the checkpoints differ");
    let (a, b) = (events(&straight), events(&paused));
    assert_eq!(a.iter().map(|e| e.0).max(), Some(12));
    assert_eq!(a, b);
    let best = |out: &Path| fs::read(out.join("checkpoints/best.safetensors")).unwrap();
    assert!(
        best(&straight) == best(&paused),
        "the best checkpoints differ"
    );
}

/// Method §4 row 12.
#[test]
fn released_resumes_with_a_frozen_learning_rate_and_an_empty_bank() {
    let dir = tempfile::tempdir().unwrap();
    let cfg = config(&[
        "method.mode=released",
        "train.log_every=1",
        "data.classes=6",
    ]);
    let out = dir.path().join("run");
    run(&cfg, &out, 2, false, Some(8));
    run(&cfg, &out, 2, true, None);
    let metrics = fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let steps: Vec<serde_json::Value> = metrics
        .lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .filter(|l: &serde_json::Value| l["loss"].is_object())
        .collect();
    let lr = |i: usize| steps[i]["lr"].as_f64().unwrap();
    assert_eq!(steps.len(), 12);
    assert!(lr(7) < lr(6));
    assert!((8..12).all(|i| lr(i) == lr(7)));
}

#[test]
fn a_step_takes_the_memory_that_was_planned() {
    let cfg = config(&[
        "augment.crop=[97, 97]",
        "model.width=16",
        "train.warmup_epochs=0",
    ]);
    let device: Arc<dyn Device> = Arc::new(CpuDevice::new(2).unwrap());
    let cap = 97 * 97;
    let (state, transient) = Blueprint::new(&cfg, cap, device.map_dtype())
        .unwrap()
        .planned_bytes(&*device);
    let session = Session::new(&cfg, device, 4, cap).unwrap();
    assert_eq!(session.bytes(), (state, transient));
    for which in ["labeled", "unlabeled"] {
        let staged = Staged {
            images: (0..2 * 3 * cap)
                .map(|i| ((i * 2_654_435_761) >> 9) as u8)
                .collect(),
            labels: (0..2 * cap).map(|i| (i / 500 % 6) as u8).collect(),
            sizes: vec![97; 4],
        };
        session.stage(which, &staged).unwrap();
    }
    session.step(0).unwrap();
    match session.resident_bytes() {
        None => println!("this system does not tell resident memory: only the sizes are compared"),
        Some(resident) => {
            let planned = state + transient;
            // Lists of pixels and rings are reserved for the worst case and filled as needed.
            assert!(
                resident <= planned.next_multiple_of(4096) + 4096,
                "{resident} of {planned}"
            );
            assert!(
                resident as f64 >= 0.97 * planned as f64,
                "{resident} of {planned}"
            );
        }
    }
}

/// Images and masks of plain folders, made from shapes of three sizes.
fn write_folder(root: &Path) {
    for sub in ["images", "masks"] {
        fs::create_dir_all(root.join(sub)).unwrap();
    }
    let mut lists = [String::new(), String::new(), String::new()];
    for i in 0..9usize {
        let (width, height) = (40 + i as u32, 36);
        let edge = 8 + 3 * i as u32;
        let inside = move |x: u32, y: u32| x > edge && y > 10;
        let picture = image::RgbImage::from_fn(width, height, |x, y| {
            let base = if inside(x, y) {
                [200, 60, 40]
            } else {
                [40, 90, 160]
            };
            image::Rgb(base.map(|v: u8| v.wrapping_add((x * y % 23) as u8)))
        });
        picture.save(root.join(format!("images/i{i}.png"))).unwrap();
        if i % 3 != 1 {
            let mask = image::GrayImage::from_fn(width, height, |x, y| {
                image::Luma([u8::from(inside(x, y))])
            });
            mask.save(root.join(format!("masks/i{i}.png"))).unwrap();
        }
        lists[i % 3] += &format!("i{i}\n");
    }
    for (name, list) in ["labeled.txt", "unlabeled.txt", "val.txt"]
        .iter()
        .zip(lists)
    {
        fs::write(root.join(name), list).unwrap();
    }
}

#[test]
fn folders_of_images_train_and_score_alike_later() {
    let dir = tempfile::tempdir().unwrap();
    write_folder(dir.path());
    let root = format!("data.root={}", dir.path().display());
    for algorithm in ["supervised", "u2pl"] {
        let algorithm_set = format!("train.algorithm={algorithm}");
        let cfg = config(&[
            "data.kind=folder",
            &root,
            "data.labeled=labeled.txt",
            "data.unlabeled=unlabeled.txt",
            "data.val=val.txt",
            "data.classes=2",
            "train.epochs=2",
            &algorithm_set,
        ]);
        let out = dir.path().join(algorithm);
        let summary = run(&cfg, &out, 2, false, None);
        for (who, miou) in [
            ("student", summary.student_miou),
            ("teacher", summary.teacher_miou),
        ] {
            assert_eq!(Some(score(&cfg, &out, who)), miou, "{algorithm} {who}");
        }
    }
}

/// mIoU of a saved network, in a fresh process's way.
fn score(cfg: &Config, out: &Path, who: &str) -> f64 {
    use u2pl_engine::weights::{Prefer, Reader, read_params};
    let device: Arc<dyn Device> = Arc::new(CpuDevice::new(2).unwrap());
    let layout = model::layout(&cfg.model, cfg.data.classes).unwrap();
    let file = Reader::open(&out.join("checkpoints/last.safetensors")).unwrap();
    let prefer = if who == "student" {
        Prefer::Student
    } else {
        Prefer::Teacher
    };
    let (weights, buffers) = read_params(&file, &layout, prefer).unwrap();
    let loaded = LoadedWeights::new(&device, &layout, &weights, &buffers).unwrap();
    let val = data::check(cfg).unwrap().val;
    let mut evaluator = Evaluator::new(device, cfg, layout);
    let at = loaded.weights();
    let metrics = evaluator
        .evaluate(at.arena, at.set, &val, &mut |_, _| {})
        .unwrap();
    metrics.miou().unwrap()
}
