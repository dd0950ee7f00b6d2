//! `train` on the command line: the demo's files, and what each mistake is answered with before
//! anything is written.
#![cfg(feature = "cli")]

use std::fs;
use std::path::Path;

use assert_cmd::Command;
use tempfile::TempDir;
use u2pl_engine::train::events;
use u2pl_engine::train::sheet::{Kind, Sheet};

/// A network and a run that take a second.
const TINY: &[&str] = &[
    "data.shapes={labeled: 2, unlabeled: 4, val: 2, size: 33}",
    "augment.crop=[33, 33]",
    "model.width=8",
    "model.head_width=8",
    "model.rep_width=8",
    "train.batch_labeled=2",
    "train.batch_unlabeled=2",
    "train.epochs=2",
    "train.epoch_iters=2",
    "train.warmup_epochs=1",
    "train.log_every=1",
    "method.bank_background=64",
    "method.bank_size=64",
    "method.anchors=8",
    "method.negatives=4",
];

fn train(out: &Path, more: &[&str]) -> Command {
    let mut command = Command::cargo_bin("u2pl-engine").unwrap();
    command.arg("train").arg("--out").arg(out);
    for set in TINY {
        command.args(["--set", set]);
    }
    command.args(more);
    command
}

/// Runs, expects exit code 2 and a single line on stderr, and returns it.
fn refused(mut command: Command) -> String {
    let output = command.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert_eq!(stderr.trim_end().lines().count(), 1, "{stderr}");
    stderr
}

fn write_config(dir: &TempDir, extra: &str) -> String {
    let path = dir.path().join("c.yaml");
    let text = format!(
        "data: {{kind: shapes, classes: 6}}\n\
         model: {{encoder: resnet18, output_stride: 8, multi_grid: false, aspp_dilations: [1, 2, 3]}}\n{extra}"
    );
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn the_demo_leaves_two_runs_and_a_picture() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("demo");
    let output = train(&out, &[]).output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{stdout}{:?}", output.stderr);
    for line in [
        "supervised only  mIoU",
        "U2PL             mIoU",
        "run folder",
    ] {
        assert!(stdout.contains(line), "{stdout}");
    }
    assert!(image::open(out.join("predictions.png")).is_ok());
    for run in ["supervised", "u2pl"] {
        let run = out.join(run);
        for file in [
            "config.yaml",
            "checkpoints/last.safetensors",
            "samples/epoch-0002.png",
            "events.out.tfevents.u2pl-engine",
        ] {
            assert!(run.join(file).is_file(), "{file}");
        }
        let metrics = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        let lines: Vec<serde_json::Value> = metrics
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect();
        assert!(lines.iter().any(|l| l["loss"]["sup"].is_number()));
        assert!(lines.iter().any(|l| l["val"]["miou"].is_number()));
    }
    let metrics = fs::read_to_string(out.join("u2pl/metrics.jsonl")).unwrap();
    let u2pl = metrics.lines().find(|l| l.contains("\"u2pl\"")).unwrap();
    for key in [
        "kept",
        "gamma",
        "alpha",
        "lambda_u",
        "bank",
        "disagreement",
        "pseudo_accuracy",
    ] {
        assert!(u2pl.contains(&format!("\"{key}\"")), "{key} in {u2pl}");
    }
}

#[test]
fn a_demo_that_was_interrupted_goes_on_to_the_same_end() {
    let dir = tempfile::tempdir().unwrap();
    let (whole, out) = (dir.path().join("whole"), dir.path().join("demo"));
    succeed(train(&whole, &[]));
    let output = train(&out, &["--max-iters", "2"]).output().unwrap();
    assert!(output.status.success(), "{:?}", output.stderr);
    let stdout = String::from_utf8(output.stdout).unwrap();
    for line in [
        "paused at 2 of 4 iterations",
        "unlabelled images come in from iteration 2",
    ] {
        assert!(stdout.contains(line), "{line}: {stdout}");
    }
    // As if the second run had not begun; its settings come from the folder.
    fs::remove_dir_all(out.join("u2pl")).unwrap();
    let mut resume = Command::cargo_bin("u2pl-engine").unwrap();
    resume.arg("train").arg("--resume").arg("--out").arg(&out);
    let output = resume.output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{stdout}{:?}", output.stderr);
    assert!(stdout.contains("difference"), "{stdout}");
    for run in ["supervised", "u2pl"] {
        let last =
            |out: &Path| fs::read(out.join(run).join("checkpoints/last.safetensors")).unwrap();
        assert!(last(&out) == last(&whole), "{run}");
    }
}

#[test]
fn a_page_shows_the_demos_runs_and_a_picture_what_the_teacher_makes_of_an_image() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("demo");
    let sets = ["--set", "train.tensorboard=false"];
    assert!(train(&out, &sets).output().unwrap().status.success());
    assert!(!out.join("u2pl").join(events::FILE).exists());
    let sheet = |run: &str| {
        let bytes = fs::read(out.join(run).join("samples/final.png")).unwrap();
        Sheet::from_png(run, &bytes).unwrap().unwrap()
    };
    let kinds = |sheet: &Sheet| sheet.columns().iter().map(|c| c.kind).collect::<Vec<_>>();
    let (supervised, u2pl) = (sheet("supervised"), sheet("u2pl"));
    let first = [
        Kind::Image,
        Kind::Truth,
        Kind::Student,
        Kind::Teacher,
        Kind::Entropy,
    ];
    assert_eq!(kinds(&supervised), first);
    assert_eq!(kinds(&u2pl)[..5], first);
    assert_eq!(kinds(&u2pl)[5..], [Kind::PseudoLabel, Kind::Negatives]);
    assert_eq!(
        (u2pl.rows().len(), u2pl.rows()[0][0].dimensions()),
        (2, (33, 33))
    );
    assert_eq!(
        u2pl.only(&first[..2]).rows(),
        supervised.only(&first[..2]).rows()
    );

    let report = |args: &[&str]| {
        let mut command = Command::cargo_bin("u2pl-engine").unwrap();
        command.arg("report").args(args).current_dir(&dir);
        command
    };
    let output = report(&["demo"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, b"demo/report.html\n");
    let page = fs::read_to_string(out.join("report.html")).unwrap();
    for part in [
        "supervised, u2pl – comparison",
        "train.algorithm",
        "negatives of",
    ] {
        assert!(page.contains(part), "{part}");
    }
    let line = refused(report(&["nowhere"]));
    assert!(line.contains("nowhere"), "{line}");
    let line = refused(report(&["."]));
    assert!(line.contains("is no run folder"), "{line}");
}

#[test]
fn a_used_run_folder_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    fs::create_dir(&out).unwrap();
    fs::write(out.join("mine.txt"), "keep").unwrap();
    let config = write_config(&dir, "");
    for more in [&[][..], &["--config", &config]] {
        let line = refused(train(&out, more));
        assert!(line.contains("exists and is not empty"), "{line}");
        assert!(line.contains(&out.display().to_string()), "{line}");
    }
    assert_eq!(fs::read_dir(&out).unwrap().count(), 1);
}

#[test]
fn a_run_folder_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let out = dir.path().join("file/run");
    let config = write_config(&dir, "");
    let line = refused(train(&out, &["--config", &config]));
    assert!(line.contains("file/run"), "{line}");
}

#[test]
fn a_crop_larger_than_memory_is_refused_with_the_need() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let config = write_config(&dir, "");
    let line = refused(train(
        &out,
        &["--config", &config, "--set", "augment.crop=[16001, 16001]"],
    ));
    for part in ["augment.crop", "GiB", "free", "smaller crop"] {
        assert!(line.contains(part), "{line}");
    }
    assert!(!out.exists());
}

#[test]
fn resuming_needs_a_checkpoint_of_the_same_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let config = write_config(&dir, "");
    let line = refused(train(&out, &["--config", &config, "--resume"]));
    assert!(line.contains("no checkpoint to resume from"), "{line}");
    assert!(!out.exists());
    let done = train(&out, &["--config", &config, "--max-iters", "1"])
        .output()
        .unwrap();
    assert!(done.status.success());
    let line = refused(train(
        &out,
        &["--config", &config, "--resume", "--set", "train.seed=9"],
    ));
    assert!(
        line.contains("train.seed = ") && line.contains("not 9"),
        "{line}"
    );
}

fn succeed(mut command: Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{:?}", output.stderr);
}

/// Goes on in `out` and compares with a run that never stopped.
fn ends_like_an_unbroken_run(out: &Path, with: &[&str]) {
    let unbroken = out.with_file_name("unbroken");
    succeed(train(out, &[with, &["--resume"]].concat()));
    succeed(train(&unbroken, with));
    let last = |out: &Path| fs::read(out.join("checkpoints/last.safetensors")).unwrap();
    assert!(last(out) == last(&unbroken));
}

#[test]
fn a_run_that_ended_before_its_first_validation_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let config = write_config(&dir, "");
    let with = ["--config", &config];
    // It diverges at once: what is saved is from before, and what a kill left beside it goes away.
    let diverging = ["--set", "train.lr=1e30", "--set", "train.log_every=100"];
    let line = refused(train(&out, &[&with[..], &diverging].concat()));
    assert!(
        line.contains("is no longer a finite number at iteration 2; the checkpoints stay"),
        "{line}"
    );
    let last = out.join("checkpoints/last.safetensors");
    let iteration = |path: &Path| {
        let file = u2pl_engine::weights::Reader::open(path).unwrap();
        file.require_meta("iteration").unwrap().to_string()
    };
    assert_eq!(iteration(&last), "0");
    assert!(!out.join("checkpoints/best.safetensors").exists());

    let out = dir.path().join("other");
    let done = train(&out, &[&with[..], &["--max-iters", "0"]].concat());
    succeed(done);
    ends_like_an_unbroken_run(&out, &with);
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_leaves_a_checkpoint_and_goes_on_bit_for_bit() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;

    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let config = write_config(&dir, "");
    let with = ["--config", &config, "--set", "train.epoch_iters=100"];
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_u2pl-engine"));
    command.args(train(&out, &with).get_args());
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // One step is done: 199 are left, among them an epoch's end.
    lines.find(|line| line.as_ref().unwrap().contains(" 1/200 "));
    // Twice: a terminal and a launcher each hand the key on.
    let id = child.id().to_string();
    for signal in ["-INT", "-HUP"] {
        let killed = std::process::Command::new("kill")
            .args([signal, &id])
            .status();
        assert!(killed.unwrap().success());
    }
    lines.for_each(drop);
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("stopping after this step"), "{stderr}");
    let line = stderr.lines().last().unwrap();
    assert!(line.contains("run: stopped at iteration"), "{line}");
    assert!(line.contains("--resume goes on"), "{line}");

    ends_like_an_unbroken_run(&out, &with);
}

#[test]
fn a_run_goes_on_when_nobody_reads_what_it_says() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("demo");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_u2pl-engine"));
    command.arg("train").arg("--out").arg(&out);
    for set in TINY {
        command.args(["--set", set]);
    }
    let pipe = std::process::Stdio::piped;
    let mut child = command.stdout(pipe()).stderr(pipe()).spawn().unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    assert!(child.wait().unwrap().success());
    assert!(out.join("predictions.png").is_file());
}

#[test]
fn an_epoch_that_takes_gigabytes_to_draw_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let config = write_config(&dir, "");
    let long = ["--config", &config, "--set", "train.epoch_iters=1000000000"];
    let line = refused(train(&out, &long));
    assert!(
        line.contains("train.epoch_iters: 1000000000 iterations of 2 images"),
        "{line}"
    );
    assert!(!out.exists());
}

#[test]
fn initial_weights_of_another_architecture_name_what_differs() {
    let dir = tempfile::tempdir().unwrap();
    let config = write_config(&dir, "");
    let first = dir.path().join("a");
    assert!(
        train(&first, &["--config", &config, "--max-iters", "1"])
            .output()
            .unwrap()
            .status
            .success()
    );
    let weights = first
        .join("checkpoints/last.safetensors")
        .display()
        .to_string();
    let out = dir.path().join("b");
    let args = ["--config", &config, "--init", &weights];
    let output = train(&out, &[&args[..], &["--set", "model.width=16"]].concat());
    let output = { output }.output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    // A table of all that differs, and the error in one line.
    let errors: Vec<&str> = stderr
        .lines()
        .filter(|l| l.starts_with("error: "))
        .collect();
    assert_eq!(errors.len(), 1, "{stderr}");
    assert!(errors[0].contains("encoder.conv1.0.weight"), "{stderr}");
    assert!(!out.exists());
}

#[test]
fn keys_and_devices_that_do_not_exist_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let line = refused(train(&out, &["--set", "train.lrr=1"]));
    assert!(
        line.contains("train.lrr") && line.contains("train.lr`"),
        "{line}"
    );
    let line = refused(train(&out, &["--device", "tpu"]));
    assert!(line.contains("--device tpu"), "{line}");
    let line = refused(train(&out, &["--resume"]));
    assert!(line.contains("config.yaml"), "{line}");
    assert!(!out.exists());
}

#[test]
fn a_profile_lists_every_operation_of_the_last_step() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("run");
    let config = write_config(&dir, "");
    let done = train(
        &out,
        &["--config", &config, "--max-iters", "2", "--profile"],
    )
    .output()
    .unwrap();
    assert!(done.status.success());
    let text = std::fs::read_to_string(out.join("profile.json")).unwrap();
    let profile: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(profile["iter"], 2);
    let calls = profile["calls"].as_array().unwrap();
    let operations = profile["operations"].as_array().unwrap();
    let counted: u64 = operations
        .iter()
        .map(|o| o["calls"].as_u64().unwrap())
        .sum();
    assert_eq!(counted, calls.len() as u64);
    for op in ["conv", "conv_wgrad", "batch_norm_backward", "sgd_ema"] {
        assert!(operations.iter().any(|o| o["op"] == op), "no {op}");
    }
    assert!(
        calls
            .iter()
            .all(|c| c["layer"].is_string() && c["ms"].is_f64())
    );
}
