//! First contact with planted kernels: the PTX machine runs this build's PTX with bugs edited into it,
//! and a network on it gives what it should, or nothing.
#![cfg(all(feature = "cli", feature = "ptx"))]

use std::path::Path;
use std::sync::{Arc, Mutex};

#[path = "support/place.rs"]
mod place;
#[path = "support/small.rs"]
mod small;

use place::{EVAL, INFER, Place, assert_says, with};
use small::{config, network, noise};
use u2pl_engine::contact::{self, Check, Said};
use u2pl_engine::device::cpu::CpuDevice;
use u2pl_engine::device::gpu::ptx::{Edited, text};
use u2pl_engine::device::gpu::{GpuDevice, MathMode};
use u2pl_engine::device::{Device, Met};
use u2pl_engine::infer::{Image, Options, Samples, Segmenter};
use u2pl_engine::ptx::Arch;
use u2pl_engine::selftest::{self, cases};

const ARCH: Arch = Arch::Sm90a;

/// A bug: what to do to each line of a kernel.
type Bug = fn(&str) -> String;

/// Two registers of a tensor core's first operand change places.
fn swapped(line: &str) -> String {
    let parts: Vec<&str> = line.split("}, {").collect();
    let [to, a, rest @ ..] = &parts[..] else {
        return line.into();
    };
    let registers: Vec<&str> = a.split(',').collect();
    match registers[..] {
        [x, y, z, w] if line.contains("mma.sync") => {
            let a = [y, x, z, w].join(",");
            [&[*to, &a], rest].concat().join("}, {")
        }
        _ => line.into(),
    }
}

/// Comparisons of floats are turned around.
fn turned(line: &str) -> String {
    line.replace("setp.lt.f32", "setp.gt.f32")
}

/// Results go a megabyte too far.
fn beyond(line: &str) -> String {
    match line.contains("st.global") && !line.contains('+') {
        true => line.replacen(']', "+1048576]", 1),
        false => line.into(),
    }
}

fn healthy(line: &str) -> String {
    line.into()
}

/// `unit` with `bug` in these kernels.
fn planted(unit: &str, kernels: &[&str], bug: Bug) -> Edited {
    let whole = text(unit, ARCH).expect("built with nvcc");
    let mut text = whole.to_string();
    for kernel in kernels {
        let start = text.find(&format!(".entry {kernel}(")).expect(kernel);
        let end = start + text[start..].find("\n}\n").expect("its end");
        let body: Vec<String> = text[start..end].lines().map(bug).collect();
        let body = body.join("\n");
        assert_ne!(body, text[start..end], "{kernel} is as it was");
        text.replace_range(start..end, &body);
    }
    // An edit of its own even where nothing is wrong.
    text.push_str("\n// edited\n");
    Edited {
        unit: unit.into(),
        name: format!("{unit}.ptx"),
        text,
    }
}

fn device(units: &[Edited], math: MathMode) -> Arc<dyn Device> {
    let options = u2pl_engine::ptx::Options {
        arch: ARCH,
        ..u2pl_engine::ptx::Options::default()
    };
    Arc::new(GpuDevice::ptx_edited(options, units, math).unwrap())
}

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<Said>>>);

impl Log {
    fn check(&self, folder: &Path) -> Check {
        let log = self.0.clone();
        Check {
            on: true,
            folder: Some(folder.into()),
            tell: Arc::new(move |said| log.lock().unwrap().push(said.clone())),
        }
    }

    fn warnings(&self) -> Vec<String> {
        let all = self.0.lock().unwrap();
        let line = |said: &Said| match said {
            Said::Warning(line) => Some(line.clone()),
            Said::Progress { .. } => None,
        };
        all.iter().filter_map(line).collect()
    }

    fn checked(&self) -> usize {
        let all = self.0.lock().unwrap();
        let counts = |said: &&Said| matches!(said, Said::Progress { .. });
        all.iter().filter(counts).count().saturating_sub(1)
    }
}

fn bf16(op: &'static str) -> Met {
    Met { op, half: true }
}

/// A device with the bugs that has met `ops`; its warnings.
fn after_contact(units: &[Edited], ops: &[Met]) -> (Arc<dyn Device>, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let device = device(units, MathMode::Bf16);
    let log = Log::default();
    contact::introduce(&*device, &log.check(dir.path()));
    device.meet(ops).unwrap();
    (device, log.warnings())
}

/// How many bf16 cases of `op` fail on `device`.
fn failures(device: &dyn Device, op: &str) -> usize {
    let cpu = CpuDevice::new(0).unwrap();
    let of = |c: &selftest::Case| c.family == op && c.math == MathMode::Bf16;
    let cases = cases::all(1).into_iter().filter(of);
    let failed = cases.filter(|c| !selftest::run(device, &cpu, c).passed());
    failed.count()
}

const SIZE: [usize; 2] = [40, 48];

/// The small network's scores of an image.
fn scored(device: Arc<dyn Device>, check: Check) -> Vec<f32> {
    let options = Options {
        check,
        ..Options::default()
    };
    let segmenter = Segmenter::new(network(&config(), device), options).unwrap();
    let pixels = noise(SIZE[0], SIZE[1], 3);
    let image = Image::rgb(Samples::U8(&pixels), SIZE[0], SIZE[1]).unwrap();
    segmenter.scores(&image).unwrap().values
}

/// The largest difference, as a share of how far the scores of `want` are apart: a network drawn at
/// random is in doubt everywhere, so its probabilities hide what its scores show.
fn furthest(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let (least, most) = want.iter().fold((f32::MAX, f32::MIN), |(least, most), &v| {
        (least.min(v), most.max(v))
    });
    let apart = got.iter().zip(want).map(|(a, b)| (a - b).abs());
    let worst = apart.fold(
        0.0,
        |worst: f32, d| if d > worst || d.is_nan() { d } else { worst },
    );
    worst / (most - least)
}

fn reference() -> Vec<f32> {
    let cpu = CpuDevice::with_precision(0, MathMode::Bf16).unwrap();
    scored(Arc::new(cpu), Check::default())
}

/// Scores of two bf16 devices that are right differ by this share at most: the healthy machine is
/// 0.0005 from the CPU, the planted bug 0.085.
const NEAR: f32 = 0.01;

#[test]
fn wrong_large_tiles_give_way_to_small_ones() {
    let units = [planted("conv", &["conv_forward_bf16_large"], swapped)];
    let (device, warnings) = after_contact(&units, &[bf16("conv")]);
    let [line] = &warnings[..] else {
        panic!("{warnings:?}")
    };
    let start = "kernel conv_forward_bf16_large is wrong on ptx:sm_90a (";
    assert!(line.starts_with(start), "{line}");
    assert_says(
        line,
        &[
            "of conv in bf16 failed",
            "; conv runs in tiles of 64 instead",
        ],
    );
    assert_eq!(failures(&*device, "conv"), 0);
    assert!(failures(&*self::device(&units, MathMode::Bf16), "conv") > 0);
}

#[test]
fn wrong_vector_copies_give_way_to_scalar_ones() {
    let kernels = ["conv_dgrad_bf16_large", "conv_dgrad_bf16_small"];
    let units = [planted("conv", &kernels, swapped)];
    let (device, warnings) = after_contact(&units, &[bf16("conv_dgrad")]);
    assert_eq!(warnings.len(), 1);
    assert_says(
        &warnings[0],
        &[
            "kernels conv_dgrad_bf16_large, conv_dgrad_bf16_small are wrong",
            "conv_dgrad runs in tiles of 64 with scalar copies instead",
        ],
    );
    assert_eq!(failures(&*device, "conv_dgrad"), 0);
}

#[test]
fn what_no_kernel_can_do_the_cpu_does() {
    let conv = ["large", "small", "any"].map(|v| format!("conv_wgrad_bf16_{v}"));
    let conv: Vec<&str> = conv.iter().map(String::as_str).collect();
    let units = [
        planted("conv_wgrad", &conv, swapped),
        planted("elementwise", &["relu_bf16"], turned),
        planted("norm", &["batch_norm_apply_bf16"], beyond),
    ];
    let ops = ["batch_norm", "conv_wgrad", "relu"].map(bf16);
    let (device, warnings) = after_contact(&units, &ops);
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    let [norm, conv, relu] = [&warnings[0], &warnings[1], &warnings[2]];
    assert_says(
        norm,
        &[
            "kernel batch_norm_apply_bf16 is wrong on ptx:sm_90a",
            "batch_norm runs on the CPU",
        ],
    );
    assert_says(conv, &["conv_wgrad_bf16_any", "conv_wgrad runs on the CPU"]);
    assert_says(
        relu,
        &["kernel relu_bf16 is wrong", "relu runs on the CPU instead"],
    );
    for met in ops {
        assert_eq!(failures(&*device, met.op), 0, "{met:?}");
    }
}

/// Of a network: the fused convolution and everything else that multiplies are wrong, and pooling
/// writes where it should not.
#[test]
fn a_network_on_wrong_kernels_says_what_the_cpu_says() {
    let names = |pass: &str| ["large", "small", "any"].map(|v| format!("conv_{pass}_bf16_{v}"));
    let [norm, forward] = ["norm", "forward"].map(names);
    let fused = || {
        let names: Vec<&str> = norm.iter().map(String::as_str).collect();
        [planted("conv", &names, swapped)]
    };
    let all = || {
        let names: Vec<&str> = norm.iter().chain(&forward).map(String::as_str).collect();
        [
            planted("conv", &names, swapped),
            planted("pool", &["max_pool_bf16"], beyond),
        ]
    };
    let want = reference();
    let off = Check {
        on: false,
        ..Check::default()
    };
    let unchecked = furthest(&scored(device(&fused(), MathMode::Bf16), off), &want);
    assert!(
        unchecked.is_nan() || unchecked >= NEAR,
        "the bug shows: {unchecked}"
    );

    let dir = tempfile::tempdir().unwrap();
    for (units, parts) in [
        (
            fused().to_vec(),
            &["conv_batch_norm_eval runs as conv and batch_norm_eval apart instead"][..],
        ),
        (
            all().to_vec(),
            &[
                "conv runs on the CPU instead",
                "conv_batch_norm_eval runs as conv and batch_norm_eval apart instead",
                "max_pool runs on the CPU instead",
            ],
        ),
    ] {
        for start in 0..2 {
            let log = Log::default();
            let device = device(&units, MathMode::Bf16);
            let got = scored(device, log.check(dir.path()));
            let apart = furthest(&got, &want);
            assert!(apart < NEAR, "{parts:?}, start {start}: {apart}");
            let warnings = log.warnings();
            assert_eq!(warnings.len(), parts.len(), "{warnings:?}");
            for part in parts {
                assert!(
                    warnings.iter().any(|w| w.contains(part)),
                    "{part}: {warnings:?}"
                );
            }
            assert_eq!(log.checked() == 0, start == 1, "{warnings:?}");
        }
    }
}

#[test]
fn a_healthy_device_is_checked_once_and_another_build_again() {
    let dir = tempfile::tempdir().unwrap();
    let start = |units: &[Edited]| {
        let log = Log::default();
        let got = scored(device(units, MathMode::Bf16), log.check(dir.path()));
        assert_eq!(log.warnings(), [""; 0]);
        (got, log.checked())
    };
    let build = [planted("pool", &[], healthy)];
    let (first, checked) = start(&build);
    assert!(checked > 100, "{checked}");
    assert!(furthest(&first, &reference()) < NEAR);
    let (second, none) = start(&build);
    assert_eq!(none, 0);
    assert_eq!(first, second, "the check changes no bit");
    let other = [planted("resize", &[], healthy)];
    assert_eq!(start(&other).1, checked);
}

/// The build's own PTX is what the tests run: no identity, no check.
#[test]
fn the_machine_itself_is_not_checked() {
    let dir = tempfile::tempdir().unwrap();
    let options = u2pl_engine::ptx::Options::default();
    let device = GpuDevice::ptx(options, MathMode::Bf16).unwrap();
    let log = Log::default();
    contact::introduce(&device, &log.check(dir.path()));
    device.meet(&[bf16("relu")]).unwrap();
    assert!(log.0.lock().unwrap().is_empty());
}

/// The program: one line, the second start silent, `--no-check` said.
#[test]
fn the_program_says_one_line() {
    let place = Place::new();
    let run = |what: &[&str], more: &[&str]| {
        let args = with(what, &["--device", "ptx", "--precision", "bf16"]);
        let output = assert_cmd::Command::cargo_bin("u2pl-engine")
            .unwrap()
            .args(with(&args, more))
            .current_dir(place.dir.path())
            .env("XDG_CACHE_HOME", place.path("cache"))
            .env_remove("RUST_LOG")
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        let about = |l: &&str| l.contains("kernel") && !l.contains("weights");
        let lines: Vec<String> = text.lines().filter(about).map(String::from).collect();
        (output.status.code().unwrap(), lines, text)
    };
    let write = |name: &str, edit: Edited| std::fs::write(place.path(name), edit.text).unwrap();
    write("same.ptx", planted("conv", &[], healthy));
    let norm = [
        "conv_norm_bf16_large",
        "conv_norm_bf16_small",
        "conv_norm_bf16_any",
    ];
    write("wrong.ptx", planted("conv", &norm, swapped));
    let infer = |out: &str, unit: &str, more: &[&str]| {
        let base = with(
            &INFER,
            &[
                "--input",
                "images/0.png",
                "--force",
                "--out",
                out,
                "--ptx-unit",
                unit,
            ],
        );
        run(&base, more)
    };
    let first = "checking the kernels on ptx:sm_90a for the first time: ";
    let (code, lines, text) = infer("a", "conv=same.ptx", &[]);
    assert_eq!((code, lines.len()), (0, 1), "{text}");
    assert!(lines[0].starts_with(first), "{text}");
    let (code, lines, text) = infer("a", "conv=same.ptx", &[]);
    assert_eq!((code, lines.len()), (0, 0), "{text}");
    // eval uses more than infer, and no more than that is checked.
    let list = [
        "--set",
        "data.val=val.txt",
        "--list",
        "val.txt",
        "--ptx-unit",
        "conv=same.ptx",
    ];
    let (code, lines, text) = run(&with(&EVAL, &list), &[]);
    assert_eq!((code, lines.len()), (0, 1), "{text}");
    assert!(
        lines[0].starts_with("checking more kernels on ptx:sm_90a: "),
        "{text}"
    );

    // A third line where the parts that replace it were not met before.
    let (code, lines, text) = infer("b", "conv=wrong.ptx", &[]);
    assert_eq!((code, lines.len()), (0, 3), "{text}");
    assert_says(
        &lines[1],
        &["WARN", "conv_norm_bf16_", "apart instead, which is slower"],
    );
    // The parts that take its place were not met before.
    assert!(
        lines[2].starts_with("checking more kernels on ptx:sm_90a: "),
        "{text}"
    );
    let (code, lines, text) = infer("b", "conv=wrong.ptx", &[]);
    assert_eq!((code, lines.len()), (0, 1), "{text}");
    assert_says(
        &lines[0],
        &["WARN", "remembered in", "cache/u2pl-engine/contact-"],
    );
    let (code, lines, text) = infer("c", "conv=wrong.ptx", &["--no-check"]);
    assert_eq!((code, lines.len()), (0, 1), "{text}");
    assert_says(&lines[0], &["WARN", "are not checked"]);
    for (unit, parts) in [
        ("conv", &["--ptx-unit conv", "UNIT=FILE"][..]),
        ("conv=no.ptx", &["no.ptx"]),
        ("convv=same.ptx", &["same.ptx", "no unit is called `convv`"]),
        ("pool=same.ptx", &["same.ptx", "kernel max_pool"]),
        ("conv=run.yaml", &["run.yaml"]),
    ] {
        let (code, _, text) = infer("d", unit, &[]);
        assert_eq!(code, 2, "{text}");
        assert_eq!(
            text.lines().filter(|l| l.starts_with("error: ")).count(),
            1,
            "{text}"
        );
        assert_says(&text, parts);
    }
    let cpu = with(
        &INFER,
        &[
            "--input",
            "images",
            "--out",
            "e",
            "--ptx-unit",
            "conv=same.ptx",
        ],
    );
    assert_says(&place.mistake(&cpu), &["--ptx-unit", "not cpu"]);
}

/// Training meets the step's kernels before the first step, and its loss is that of right ones.
#[test]
fn a_run_of_training_is_checked_before_its_first_step() {
    let place = Place::new();
    let names = [
        "conv_moments_bf16_large",
        "conv_moments_bf16_small",
        "conv_moments_bf16_any",
    ];
    let write = |name: &str, edit: Edited| std::fs::write(place.path(name), edit.text).unwrap();
    write("wrong.ptx", planted("conv", &names, swapped));
    let run = |out: &str, more: &[&str]| {
        let recipe = concat!(env!("CARGO_MANIFEST_DIR"), "/configs/tiny.yaml");
        let args = [
            "train",
            "--config",
            recipe,
            "--device",
            "ptx",
            "--precision",
            "bf16",
        ];
        let args = with(&args, &["--max-iters", "1", "--out", out]);
        let output = assert_cmd::Command::cargo_bin("u2pl-engine")
            .unwrap()
            .args(with(&args, more))
            .current_dir(place.dir.path())
            .env("XDG_CACHE_HOME", place.path("cache"))
            .env_remove("RUST_LOG")
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{text}");
        let metrics = std::fs::read_to_string(place.path(out).join("metrics.jsonl")).unwrap();
        let lines = metrics.lines().map(|l| serde_json::from_str(l).unwrap());
        let mut steps = lines.filter(|l: &serde_json::Value| l["loss"]["sup"].is_number());
        let line = steps.next().unwrap();
        (line["loss"]["sup"].as_f64().unwrap(), text)
    };
    let wrong = ["--ptx-unit", "conv=wrong.ptx"];
    write("same.ptx", planted("conv", &[], healthy));
    let (right, text) = run("right", &["--ptx-unit", "conv=same.ptx"]);
    assert_eq!(
        text.matches("checking").count(),
        1,
        "once for every step and validation: {text}"
    );
    let (checked, text) = run("checked", &wrong);
    let (unchecked, _) = run("unchecked", &with(&wrong, &["--no-check"]));
    assert_says(
        &text,
        &[
            "for the first time",
            "conv_moments runs as conv and batch_norm apart instead",
        ],
    );
    assert_eq!(text.matches("WARN").count(), 1, "{text}");
    // Moments of the rounded map either way, summed in another order.
    assert!((checked - right).abs() < 1e-3, "{right} {checked}");
    let apart = (unchecked - right).abs();
    assert!(apart.is_nan() || apart >= 1e-3, "{right} {unchecked}");
}
