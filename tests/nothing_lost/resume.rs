//! Going on: with the same data and arithmetic, or not without a word.

use std::fs;
use std::path::Path;

use super::place::Place;
use super::runs::{iteration, last, refused, train};

/// A folder of pictures with masks: `a0` … and lists of them.
fn data(dir: &Path, root: &str, n: usize) {
    let place = Place::new();
    for i in 0..n {
        for kind in ["images", "masks"] {
            fs::create_dir_all(dir.join(root).join(kind)).unwrap();
            let from = place.path(&format!("{kind}/{}.png", i % 3));
            // Behind the end, where no decoder looks.
            let bytes = [fs::read(from).unwrap(), b"tail".to_vec()].concat();
            fs::write(dir.join(format!("{root}/{kind}/a{i}.png")), bytes).unwrap();
        }
    }
}

fn list(dir: &Path, name: &str, images: &[usize]) {
    let lines: Vec<String> = images.iter().map(|i| format!("a{i}")).collect();
    fs::write(dir.join(name), lines.join("\n")).unwrap();
}

const FILES: [&str; 14] = [
    "--set",
    "data.kind=folder",
    "--set",
    "data.root=d",
    "--set",
    "data.labeled=l.txt",
    "--set",
    "data.unlabeled=u.txt",
    "--set",
    "data.val=v.txt",
    "--set",
    "data.classes=3",
    "--set",
    "train.epoch_iters=0",
];

fn files<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&FILES[..], more].concat()
}

/// Changes a byte that no decoder looks at.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(path, bytes).unwrap();
}

/// A run of two iterations on files, in `dir/run`.
fn started(dir: &Path) {
    let _ = fs::remove_dir_all(dir.join("run"));
    let _ = fs::remove_dir_all(dir.join("d"));
    data(dir, "d", 9);
    list(dir, "l.txt", &[0, 1, 2, 3]);
    list(dir, "u.txt", &[4, 5, 6, 7]);
    list(dir, "v.txt", &[8]);
    train(dir, "run", &files(&["--max-iters", "3"]));
}

#[test]
fn other_data_are_refused_with_what_differs_or_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    type Change = fn(&Path);
    let changes: [(Change, &str); 8] = [
        (
            |d| list(d, "u.txt", &[4, 5, 6, 7, 3, 2]),
            "data.unlabeled names 6 images, not 4",
        ),
        (
            |d| list(d, "l.txt", &[0, 1, 2, 7]),
            "data.labeled names other images",
        ),
        (
            |d| list(d, "l.txt", &[1, 0, 2, 3]),
            "data.labeled has its images in another order",
        ),
        (|d| list(d, "v.txt", &[7]), "data.val names other images"),
        (
            |d| {
                image::RgbImage::new(40, 33)
                    .save(d.join("d/images/a0.png"))
                    .unwrap()
            },
            "data.labeled names files that have changed in size",
        ),
        (
            |d| {
                image::GrayImage::new(33, 50)
                    .save(d.join("d/masks/a8.png"))
                    .unwrap()
            },
            "data.val names files that have changed in size (those of 1 of 1 image, the first images/a8.png)",
        ),
        (
            |d| {
                flip(&d.join("d/images/a1.png"));
                flip(&d.join("d/masks/a3.png"));
            },
            "data.labeled names files that have changed (those of 2 of 4 images, the first images/a1.png)",
        ),
        (
            |d| flip(&d.join("d/images/a6.png")),
            "data.unlabeled names files that have changed (those of 1 of 4 images, the first images/a6.png)",
        ),
    ];
    for (i, (change, says)) in changes.into_iter().enumerate() {
        started(dir);
        change(dir);
        let line = refused(dir, "run", &files(&["--resume"]));
        assert!(line.contains(says), "{i}: {line}");
        assert!(line.contains("--resume-with-new-data"), "{line}");
        let said = train(dir, "run", &files(&["--resume-with-new-data"]));
        assert!(
            said.contains(says) && said.contains("2 iterations"),
            "{said}"
        );
        let metrics = fs::read_to_string(dir.join("run/metrics.jsonl")).unwrap();
        assert!(
            metrics.contains("\"resumed\":{") && metrics.contains(says),
            "{metrics}"
        );
        assert_eq!(iteration(&dir.join("run"), "last"), Some(8));
    }
}

#[test]
fn what_no_number_depends_on_may_change() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    started(dir);
    train(dir, "whole", &FILES);
    // The data set moves, lists are renamed, and everything that is only shown changes.
    fs::rename(dir.join("d"), dir.join("moved")).unwrap();
    for name in ["l", "u", "v"] {
        fs::rename(
            dir.join(format!("{name}.txt")),
            dir.join(format!("{name}2.txt")),
        )
        .unwrap();
    }
    let changed = [
        "data.root=moved",
        "data.labeled=l2.txt",
        "data.unlabeled=u2.txt",
        "data.val=v2.txt",
        "data.workers=1",
        "data.cache_mib=0",
        "train.log_every=2",
        "train.val_every=3",
        "train.tensorboard=false",
        "data.class_names=[p, q, r]",
    ];
    let sets: Vec<&str> = changed.iter().flat_map(|c| ["--set", *c]).collect();
    train(dir, "run", &files(&[&sets[..], &["--resume"]].concat()));
    // All but the configuration inside is the same.
    let tensors = |run: &str| {
        let bytes = last(&dir.join(run));
        let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        bytes[8 + header..].to_vec()
    };
    assert!(tensors("run") == tensors("whole"));
    let saved = fs::read_to_string(dir.join("run/config.yaml")).unwrap();
    assert!(
        saved.contains("moved") && saved.contains("val_every: 3"),
        "{saved}"
    );
}

#[test]
fn what_steers_a_run_is_said_and_the_rest_refused() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    train(dir, "run", &[]);
    assert_eq!(iteration(&dir.join("run"), "last"), Some(12));
    for (set, says) in [
        ("train.seed=5", "train.seed = 0, not 5"),
        ("train.batch_labeled=3", "train.batch_labeled = 2, not 3"),
        ("augment.flip=0.25", "augment.flip = 0.5, not 0.25"),
        ("train.epochs=3", "may grow but not fall to 3"),
    ] {
        let line = refused(dir, "run", &["--resume", "--set", set]);
        assert!(line.contains(says) && line.contains("--init"), "{line}");
    }
    let line = refused(dir, "run", &["--resume", "--precision", "bf16"]);
    assert!(
        line.contains("--precision") && line.contains("fp32"),
        "{line}"
    );
    // A finished run goes on when it is given more epochs.
    let more = [
        "--resume",
        "--set",
        "train.epochs=6",
        "--set",
        "train.lr=0.005",
    ];
    let said = train(dir, "run", &more);
    for part in [
        "train.epochs was 4 and is 6",
        "train.lr was",
        "end at iteration 18, not 12",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(iteration(&dir.join("run"), "last"), Some(18));
    let metrics = fs::read_to_string(dir.join("run/metrics.jsonl")).unwrap();
    assert_eq!(metrics.matches("\"end\":").count(), 1);
    assert!(metrics.contains("\"train.epochs\":[4,6]"), "{metrics}");
}

#[test]
fn the_fix_that_an_error_names_can_be_followed() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    train(dir, "run", &["--max-iters", "3"]);
    let line = refused(dir, "run", &["--resume", "--set", "train.lr=1e30"]);
    assert!(
        line.contains("no longer a finite number") && line.contains("lower train.lr"),
        "{line}"
    );
    assert_eq!(iteration(&dir.join("run"), "last"), Some(3));
    train(dir, "run", &["--resume", "--set", "train.lr=0.01"]);
    assert_eq!(iteration(&dir.join("run"), "last"), Some(12));
    // And that of a key that must stay.
    let weights = "run/checkpoints/last.safetensors";
    train(
        dir,
        "other",
        &[
            "--init",
            weights,
            "--set",
            "train.seed=5",
            "--max-iters",
            "1",
        ],
    );
}

#[test]
fn a_copy_of_the_data_goes_on_and_a_checkpoint_that_says_nothing_of_bytes_too() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    started(dir);
    // The same files elsewhere, newly written.
    data(dir, "copy", 9);
    fs::remove_dir_all(dir.join("d")).unwrap();
    let moved = files(&["--set", "data.root=copy", "--resume"]);
    let said = train(dir, "run", &[&moved[..], &["--max-iters", "4"]].concat());
    assert!(!said.contains("changed"), "{said}");
    // As an older engine wrote it.
    let path = dir.join("run/checkpoints/last.safetensors");
    let bytes = fs::read(&path).unwrap();
    let size = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + size]).unwrap();
    let meta = header["__metadata__"].as_object_mut().unwrap();
    let mut origins = 0;
    for value in meta.values_mut() {
        let text = value.as_str().unwrap().to_string();
        let Ok(mut origin) = serde_json::from_str::<serde_json::Value>(&text) else {
            continue;
        };
        let Some(lists) = origin.get_mut("lists").and_then(|l| l.as_object_mut()) else {
            continue;
        };
        for list in lists.values_mut() {
            assert!(list.as_object_mut().unwrap().remove("contents").is_some());
        }
        *value = origin.to_string().into();
        origins += 1;
    }
    assert_eq!(origins, 1);
    meta.retain(|key, _| !key.starts_with("u2pl."));
    let mut text = header.to_string();
    while !text.len().is_multiple_of(8) {
        text.push(' ');
    }
    let mut old = (text.len() as u64).to_le_bytes().to_vec();
    old.extend(text.as_bytes());
    old.extend(&bytes[8 + size..]);
    fs::write(&path, old).unwrap();
    flip(&dir.join("copy/images/a1.png"));
    let said = train(dir, "run", &moved);
    let says = "whether files changed that kept their names and sizes is not known";
    assert_eq!(said.matches(says).count(), 1, "{said}");
}

/// Whatever an error or a warning asks for is taken as it was asked for: a file that was damaged when the
/// run began or stopped, or that vanished, may be another one when it goes on.
#[test]
fn files_that_a_run_could_not_use_may_be_mended() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let path = |name: &str| dir.join("d/images").join(name);
    let half = |name: &str| {
        let bytes = fs::read(path(name)).unwrap();
        fs::write(path(name), &bytes[..bytes.len() / 2]).unwrap();
        bytes
    };
    started(dir);
    fs::remove_dir_all(dir.join("run")).unwrap();
    let whole = half("a8.png");
    let line = refused(dir, "run", &files(&[]));
    for part in ["a8.png", "--resume goes on from there"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    let resume = files(&["--resume", "--max-iters", "4"]);
    // Another file that changes at the same time is not what was asked for.
    let other = half("a0.png");
    let line = refused(dir, "run", &resume);
    assert!(
        line.contains("data.labeled names files that have changed"),
        "{line}"
    );
    fs::write(path("a0.png"), other).unwrap();
    fs::write(path("a8.png"), whole).unwrap();
    train(dir, "run", &resume);

    // An unlabelled one that is gone is skipped, and skipped again.
    started(dir);
    fs::remove_dir_all(dir.join("run")).unwrap();
    half("a5.png");
    let most = ["--set", "data.max_bad_unlabeled=0.5"];
    train(
        dir,
        "run",
        &files(&[&most[..], &["--max-iters", "6"]].concat()),
    );
    fs::remove_file(path("a5.png")).unwrap();
    let said = train(dir, "run", &files(&[&most[..], &["--resume"]].concat()));
    assert!(said.contains("a5.png"), "{said}");
}
