//! `bench` and `plan --floor`: what they print, what they refuse, when they fail. Nothing here
//! depends on a time.
#![cfg(feature = "cli")]

use std::fs;
use std::path::Path;

use assert_cmd::Command;
use serde_json::{Value, json};

fn run_in(dir: &Path, args: &[&str]) -> (i32, String, String) {
    let output = Command::cargo_bin("u2pl-engine")
        .unwrap()
        .args(args)
        .current_dir(dir)
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

fn run(args: &[&str]) -> (i32, String, String) {
    run_in(Path::new("."), args)
}

/// Asserts exit code 2 and one line on stderr with these words.
fn refused(args: &[&str], words: &[&str]) {
    let (code, out, err) = run(args);
    assert_eq!((code, out.as_str()), (2, ""), "{args:?}: {err}");
    let lines: Vec<&str> = err.lines().collect();
    assert_eq!(lines.len(), 1, "{err}");
    for word in words {
        assert!(err.contains(word), "{err} lacks {word}");
    }
}

#[test]
fn the_list_names_every_case_and_runs_none() {
    let (code, out, _) = run(&["bench", "--recipe", "tiny", "--list"]);
    assert_eq!(code, 0);
    for word in [
        "conv_wgrad 3x3",
        "info_nce_backward",
        "add_scores",
        "U2PL step",
    ] {
        assert!(out.contains(word), "{out} lacks {word}");
    }
    let (code, out, _) = run(&["bench", "conv", "@9 n4 add", "--recipe", "tiny", "--list"]);
    assert_eq!(code, 0);
    let names: Vec<&str> = out.lines().skip(1).collect();
    assert!(
        names
            .iter()
            .all(|n| n.starts_with("conv ") || n.contains("@9 n4 add"))
    );
    assert!(names.iter().any(|n| n.starts_with("conv_dgrad")));
}

#[test]
fn json_holds_the_cases_and_compares_with_itself() {
    let dir = tempfile::tempdir().unwrap();
    let base = [
        "bench",
        "conv",
        "sgd_ema",
        "--recipe",
        "tiny",
        "--time",
        "0",
        "--threads",
        "1",
    ];
    let (code, out, err) = run_in(dir.path(), &[&base[..], &["--json", "a.json"]].concat());
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("U2PL step: time x calls"), "{out}");
    let read = || -> Value {
        serde_json::from_str(&fs::read_to_string(dir.path().join("a.json")).unwrap()).unwrap()
    };
    let mut report = read();
    let cases = report["cases"].as_array().unwrap();
    assert!(
        cases
            .iter()
            .all(|c| c["ms"]["median"].as_f64().unwrap() > 0.0)
    );
    assert!(cases.iter().any(|c| c["kind"] == "sgd_ema"));
    assert_eq!(report["run"]["device"], "cpu");

    // Ten thousand seconds before, and none at all: whatever the time now.
    for (ms, limit, expected) in [(1e7, "1", 0), (1e-9, "10", 1)] {
        for case in report["cases"].as_array_mut().unwrap() {
            case["ms"]["median"] = json!(ms);
        }
        fs::write(dir.path().join("b.json"), report.to_string()).unwrap();
        let more = ["--compare", "b.json", "--fail-above", limit];
        let (code, out, err) = run_in(dir.path(), &[&base[..], &more].concat());
        assert_eq!(code, expected, "{err}");
        assert!(out.contains("geometric mean of"), "{out}");
        assert_eq!(
            err.contains("times as long as before"),
            expected == 1,
            "{err}"
        );
    }
    report["run"]["device"] = json!("cuda:0");
    fs::write(dir.path().join("b.json"), report.to_string()).unwrap();
    let (code, _, err) = run_in(dir.path(), &[&base[..], &["--compare", "b.json"]].concat());
    assert_eq!(code, 0);
    assert!(
        err.contains("warning: the earlier run is of another device"),
        "{err}"
    );
}

#[test]
fn mistakes_are_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let bad = dir.path().join("bad.json");
    fs::write(&bad, "{\"cases\": 3}").unwrap();
    let bad = bad.to_str().unwrap();
    let tiny = ["bench", "--recipe", "tiny"];
    let with = |more: &[&'static str]| [&tiny[..], more].concat();
    refused(
        &with(&["batchnorm"]),
        &["batchnorm", "did you mean `batch_norm", "--list"],
    );
    refused(
        &["bench", "--recipe", "vok"],
        &["vok", "voc, cityscapes, small, tiny"],
    );
    refused(&with(&["--time", "-1"]), &["--time -1", "seconds"]);
    refused(
        &["bench", "--compare", bad],
        &[bad, "not a result of `bench`", "--json"],
    );
    refused(
        &["bench", "--compare", "none.json"],
        &["none.json", "read the result"],
    );
    refused(
        &["bench", "--compare", bad, "--fail-above", "0"],
        &["--fail-above 0"],
    );
    refused(
        &with(&["--ceilings", "copy"]),
        &["--ceilings copy", "copy=GB/s"],
    );
    refused(&with(&["--ceilings", "disk=3"]), &["no ceiling `disk`"]);
    refused(
        &["plan", "--floor", "--ceilings", bad],
        &[bad, "not a result of `bench`"],
    );
    refused(
        &["plan", "--floor", "--measured", bad],
        &[bad, "not a profile"],
    );
    refused(&["plan", "--floor", "--recipe", "vok"], &["vok"]);
    refused(&["bench", "data", "--rate", "0"], &["--rate 0"]);
    refused(
        &["bench", "data", "--decoders", "2,0"],
        &["--decoders 0", "1 to 4096"],
    );
    refused(&["bench", "data", "--config", "none.yaml"], &["none.yaml"]);
}

#[test]
fn floors_add_up_and_take_a_profile() {
    let dir = tempfile::tempdir().unwrap();
    let floor = ["plan", "--recipe", "tiny", "--floor", "--json", "-"];
    let args = [&floor[..], &["--ceilings", "copy=10,matmul=0.1"]].concat();
    let (code, out, err) = run(&args);
    assert_eq!(code, 0, "{err}");
    let plan: Value = serde_json::from_str(&out).unwrap();
    let step = &plan["steps"][1];
    assert_eq!(step["name"], "U2PL step");
    for groups in ["operations", "layers"] {
        let sum: f64 = step[groups]
            .as_object()
            .unwrap()
            .values()
            .map(|g| g["floor_ms"].as_f64().unwrap())
            .sum();
        let total = step["total"]["floor_ms"].as_f64().unwrap();
        assert!(
            (sum - total).abs() < 1e-9 * total,
            "{groups}: {sum} of {total}"
        );
    }
    let sgd = &step["operations"]["sgd_ema"];
    let bytes = sgd["least_bytes"].as_f64().unwrap();
    assert_eq!(sgd["floor_ms"].as_f64().unwrap(), 1e3 * (bytes / 10e9));

    // One step on labels, profiled.
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/configs/tiny.yaml");
    let train = [
        "train",
        "--config",
        config,
        "--max-iters",
        "1",
        "--profile",
        "--out",
        "run",
    ];
    let (code, _, err) = run_in(dir.path(), &train);
    assert_eq!(code, 0, "{err}");
    let args = [
        "plan",
        "--config",
        config,
        "--floor",
        "--json",
        "-",
        "--measured",
    ];
    let (code, out, err) = run_in(dir.path(), &[&args[..], &["run/profile.json"]].concat());
    assert_eq!(code, 0, "{err}");
    let plan: Value = serde_json::from_str(&out).unwrap();
    let measured = |i: usize| &plan["steps"][i]["total"]["measured_ms"];
    assert!(measured(0).as_f64().unwrap() > 0.0);
    assert_eq!(*measured(1), Value::Null);

    // A profile of one call is of no step.
    let call = json!({"op": "conv", "layer": "conv1", "ms": 1.0});
    let path = dir.path().join("profile.json");
    fs::write(&path, json!({"calls": [call]}).to_string()).unwrap();
    let path = path.to_str().unwrap();
    refused(
        &["plan", "--recipe", "tiny", "--floor", "--measured", path],
        &[path, "other calls than those of tiny"],
    );
}

#[test]
fn images_are_made_decoded_and_counted() {
    let args = [
        "bench", "data", "--steps", "1", "--batch", "2", "--rate", "1000",
    ];
    let (code, out, err) = run(&[&args[..], &["--decoders", "1,3", "--json", "-"]].concat());
    assert_eq!(code, 0, "{err}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert!(report["source"].as_str().unwrap().contains("500 x 375"));
    let decoders = report["decoders"].as_array().unwrap();
    let threads: Vec<u64> = decoders
        .iter()
        .map(|d| d["threads"].as_u64().unwrap())
        .collect();
    assert_eq!(threads, [1, 3]);
    assert!(
        decoders
            .iter()
            .all(|d| d["sustained"].as_f64().unwrap() > 0.0)
    );
    let (code, out, _) = run(&[&args[..], &["--decoders", "1"]].concat());
    assert_eq!(code, 0);
    assert!(out.contains("takes 2 images every 2.0 ms"), "{out}");
}

/// In the place of a Python with PyTorch: has that, but no ONNX Runtime.
#[cfg(unix)]
const PYTHON: &str = r#"#!/bin/sh
case "$1" in
    -c) echo python ;;
    *ort.py) echo '{"unavailable": "no onnxruntime: pip install onnxruntime"}' ;;
    *)
        echo '{"ready": {}}'
        while read -r line; do
            case $line in
                *check*) echo '{"checked": {}}' ;;
                *) echo '{"ms": 1}' ;;
            esac
        done
        echo '{"peak_mib": 2, "base_mib": 1}'
        ;;
esac
"#;

#[cfg(unix)]
#[test]
fn a_peer_that_is_not_installed_has_a_row_that_says_so() {
    use std::os::unix::fs::PermissionsExt;

    let dir = tempfile::tempdir().unwrap();
    let python = dir.path().join("python");
    fs::write(&python, PYTHON).unwrap();
    fs::set_permissions(&python, fs::Permissions::from_mode(0o755)).unwrap();
    let mut args = vec!["bench", "infer", "--peer", python.to_str().unwrap()];
    args.extend(["--size", "33", "33", "--repeats", "1", "--json", "a.json"]);
    // With the same size both are the same case.
    args.extend(["--case", "infer", "--case", "voc-r50"]);
    let (code, out, err) = run_in(dir.path(), &args);
    assert_eq!(code, 0, "{err}");
    let line = |words: &str| out.lines().find(|l| l.starts_with(words)).unwrap();
    let absent = line("ONNX Runtime fp32");
    assert!(
        absent.ends_with("not available: no onnxruntime: pip install onnxruntime"),
        "{absent}"
    );
    assert!(line("PyTorch nhwc folded fp32").contains("1.00"));
    assert!(line("fp32: memory planned").contains("measured"), "{out}");
    let report: Value =
        serde_json::from_str(&fs::read_to_string(dir.path().join("a.json")).unwrap()).unwrap();
    let cases = report["cases"].as_array().unwrap();
    assert_eq!(cases.len(), 1, "{report}");
    let engine = &cases[0]["sides"][0];
    assert!(engine["first_ms"].as_f64().unwrap() > 0.0, "{engine}");
    assert!(
        engine["said"]["last"]["call_mib"].as_f64().unwrap() > 0.0,
        "{engine}"
    );
    refused(
        &["bench", "infer", "--case", "vok"],
        &["--case vok", "voc8-r50, or all"],
    );
}

#[cfg(feature = "simt")]
#[test]
fn the_simt_device_runs_a_case() {
    let args = [
        "bench",
        "keep_reliable",
        "--device",
        "simt",
        "--time",
        "0",
        "--json",
        "-",
    ];
    let (code, out, err) = run(&args);
    assert_eq!(code, 0, "{err}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(report["run"]["device"], "simt");
    assert_eq!(report["cases"].as_array().unwrap().len(), 1);
    assert_eq!(report["ceilings"], Value::Null);
}
