//! Checkpoints of other people's scripts: tensors among objects of all kinds, networks under all kinds
//! of prefixes. `tests/golden/make_foreign.py` wrote the files.
#![cfg(feature = "cli")]

#[path = "support/place.rs"]
mod place;

use std::fs;
use std::path::{Path, PathBuf};

use place::{CONFIG, Place, assert_says};
use u2pl_engine::config::Config;
use u2pl_engine::model;
use u2pl_engine::weights::{Prefer, Reader, Writer, convert, read_params};

const FILES: [&str; 3] = ["zip", "protocol5", "stream"];

fn golden(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/pth_foreign");
    folder.join(format!("{name}.pth"))
}

#[test]
fn objects_beside_the_tensors_are_left_out_by_name() {
    for name in FILES {
        let file = Reader::open(&golden(name)).unwrap();
        let tensors = [
            ("list.1", 2),
            ("state_dict.conv.weight", 6),
            ("state_dict.conv.bias", 3),
            ("ema.shadow.conv.weight", 6),
        ];
        assert_eq!(
            file.names(),
            tensors.map(|(name, _)| name.to_string()),
            "{name}"
        );
        for (tensor, n) in tensors {
            let expected: Vec<f32> = (0..n).map(|i| i as f32).collect();
            assert_eq!(file.floats(tensor).unwrap(), expected, "{name}: {tensor}");
        }
        let skipped = file.skipped().unwrap();
        assert_says(
            &skipped,
            &[
                "args (argparse.Namespace)",
                "date (datetime.datetime)",
                " more",
            ],
        );
        assert_eq!(skipped.lines().count(), 1);
    }
}

#[test]
fn what_is_kept_survives_the_way_to_safetensors_and_back() {
    let dir = tempfile::tempdir().unwrap();
    for name in FILES {
        let [there, back] =
            ["t.safetensors", "b.pth"].map(|f| dir.path().join(name.to_owned() + f));
        let converted = convert(&golden(name), &there).unwrap();
        assert_eq!(converted.tensors, 4);
        assert!(converted.skipped.is_some());
        convert(&there, &back).unwrap();
        let (file, again) = (
            Reader::open(&golden(name)).unwrap(),
            Reader::open(&back).unwrap(),
        );
        assert_eq!(again.names(), file.names());
        assert_eq!(again.skipped(), None);
    }
}

/// Writes the small network under each prefix, the n-th with weights of seed n.
fn under(path: &Path, prefixes: &[&str]) -> Vec<Vec<f32>> {
    let cfg = Config::parse("test", CONFIG, &[]).unwrap();
    let layout = model::layout(&cfg.model, cfg.data.classes).unwrap();
    let networks: Vec<_> = (1..)
        .zip(prefixes)
        .map(|(seed, _)| model::init(&layout, seed))
        .collect();
    let mut writer = Writer::new();
    for (prefix, (weights, buffers)) in prefixes.iter().zip(&networks) {
        writer.params(prefix, &layout, weights, buffers).unwrap();
    }
    writer.save(path).unwrap();
    networks.into_iter().map(|(weights, _)| weights).collect()
}

#[test]
fn a_network_is_found_under_whatever_is_in_front() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.safetensors");
    let cfg = Config::parse("test", CONFIG, &[]).unwrap();
    let layout = model::layout(&cfg.model, cfg.data.classes).unwrap();
    for prefix in [
        "",
        "module.",
        "_orig_mod.",
        "model.",
        "net.",
        "backbone.",
        "state_dict.",
        "ema.",
        "model_ema.",
        "ema_model.",
        "state_dict.model.",
        "state_dict.model._orig_mod.",
        "model.module.",
        "network.seg.",
        "teacher.",
        "averaged_model.module.",
        "state_dict_ema.",
    ] {
        let weights = under(&path, &[prefix]).remove(0);
        let file = Reader::open(&path).unwrap();
        for prefer in [Prefer::Teacher, Prefer::Student] {
            let (found, _) = read_params(&file, &layout, prefer).unwrap();
            assert!(found == weights, "{prefix}");
        }
    }
    // Of two the averaged one is the teacher, whichever comes first.
    for (trained, averaged) in [
        ("student.", "teacher."),
        ("model.", "model_ema."),
        ("state_dict.", "state_dict_ema."),
        ("model_state.module.", "teacher_state.module."),
        ("state_dict.net.", "state_dict.ema_model.module."),
        ("_orig_mod.", "ema.shadow."),
    ] {
        for swap in [false, true] {
            let order = if swap {
                [averaged, trained]
            } else {
                [trained, averaged]
            };
            let mut weights = under(&path, &order);
            if swap {
                weights.swap(0, 1);
            }
            let file = Reader::open(&path).unwrap();
            let read = |prefer| read_params(&file, &layout, prefer).unwrap().0;
            assert!(read(Prefer::Student) == weights[0], "{order:?}");
            assert!(read(Prefer::Teacher) == weights[1], "{order:?}");
        }
    }
    // What an optimiser keeps under the same names is no network.
    under(&path, &["velocity."]);
    let error = read_params(&Reader::open(&path).unwrap(), &layout, Prefer::Teacher).unwrap_err();
    assert_says(&error.to_string(), &["has no tensor of this network"]);
}

#[test]
fn what_was_taken_is_said() {
    let place = Place::new();
    under(&place.path("w.safetensors"), &["model.", "model_ema."]);
    let infer = [
        "infer",
        "--weights",
        "w.safetensors",
        "--config",
        "run.yaml",
        "--input",
        "images",
    ];
    let (code, _, said) = place.run(&[&infer[..], &["--out", "o"]].concat());
    assert_eq!(code, 0, "{said}");
    assert_says(&said, &["tensors are the network, those under model_ema."]);
    let (code, _, said) = place.run(&[&infer[..], &["--out", "p", "--model", "student"]].concat());
    assert_eq!(code, 0, "{said}");
    assert_says(&said, &["those under model."]);
    fs::copy(golden("zip"), place.path("other.pth")).unwrap();
    let (code, _, said) = place.run(&["convert", "other.pth", "other.safetensors"]);
    assert_eq!(code, 0, "{said}");
    assert_says(&said, &["left out: args (argparse.Namespace)"]);
}
