//! The command line: what each mistake is answered with, and what a run leaves on disk.
#![cfg(feature = "cli")]

#[path = "support/place.rs"]
mod place;

use std::fs;
use std::path::Path;

use place::{CONFIG, EVAL, Place, assert_says, names, with};
use serde_json::Value;
use u2pl_engine::weights::{Reader, Writer};

#[test]
fn unknown_flags_and_missing_arguments_are_usage_errors() {
    let place = Place::new();
    assert_says(
        &place.mistake(&with(&EVAL, &["--protcol", "whole"])),
        &["--protcol", "unexpected"],
    );
    assert_says(
        &place.mistake(&with(&EVAL, &["--protocol", "half"])),
        &["half", "--protocol"],
    );
    assert_says(
        &place.mistake(&["infer", "--input", "images"]),
        &["required"],
    );
    assert_says(
        &place.mistake(&["split", "--labeled", "1", "--out", "x"]),
        &["required"],
    );
}

#[test]
fn devices_and_precisions_of_other_builds_are_named() {
    let place = Place::new();
    if !cfg!(feature = "simt") {
        assert_says(
            &place.mistake(&["plan", "--device", "simt"]),
            &["simt", "no simt device", "--features simt"],
        );
    }
    if !cfg!(feature = "cuda") {
        assert_says(
            &place.mistake(&["plan", "--device", "cuda:1"]),
            &["cuda:1", "no cuda device", "default features"],
        );
    }
    assert_says(
        &place.mistake(&["plan", "--device", "cuda:first"]),
        &["cuda:first", "not a GPU's number", "cuda:0"],
    );
    assert_says(
        &place.mistake(&["plan", "--device", "tpu"]),
        &[
            "tpu",
            "no such device",
            "cpu, cuda, cuda:N, ptx, ptx:sm_80 or simt",
        ],
    );
    assert_says(
        &place.mistake(&["plan", "--precision", "tf32"]),
        &["tf32", "fp32 and bf16", "use --precision fp32 or bf16"],
    );
    assert_says(
        &place.mistake(&["plan", "--precision", "fp8"]),
        &["fp8", "fp32, tf32, bf16"],
    );
}

#[test]
fn weights_that_are_missing_broken_or_of_another_network() {
    let place = Place::new();
    let eval = |weights: &str, more: &[&str]| {
        let base = ["eval", "--config", "run.yaml", "--weights", weights];
        place.mistake(&with(&base, more))
    };
    assert_says(
        &eval("none.safetensors", &[]),
        &["none.safetensors", "cannot"],
    );
    fs::write(place.path("text"), "these are no weights").unwrap();
    assert_says(&eval("text", &[]), &["text", "neither a safetensors file"]);
    let whole = fs::read(place.path("w.safetensors")).unwrap();
    fs::write(place.path("half"), &whole[..whole.len() / 2]).unwrap();
    assert_says(&eval("half", &[]), &["half", "truncated"]);
    let list = format!("data.val={}", place.path("val.txt").display());
    let root = format!("data.root={}", place.dir.path().display());
    let other = ["--set", &root, "--set", &list, "--set", "data.classes=5"];
    assert_says(
        &eval("w.safetensors", &other),
        &["another architecture", "decoder.classifier.8.weight"],
    );
}

#[test]
fn weights_of_a_run_that_diverged() {
    let place = Place::new();
    let good = Reader::open(&place.path("w.safetensors")).unwrap();
    let tensors: Vec<(String, Vec<usize>, Vec<f32>)> = good
        .names()
        .into_iter()
        .map(|name| {
            let mut values = good.floats(&name).unwrap();
            if name == "encoder.bn1.running_var" {
                values[3] = f32::NAN;
            }
            (name.clone(), good.shape(&name).unwrap().to_vec(), values)
        })
        .collect();
    let mut writer = Writer::new();
    for (name, shape, values) in &tensors {
        writer.tensor(name, shape, values).unwrap();
    }
    writer.save(&place.path("nan.safetensors")).unwrap();
    let nan = ["--config", "run.yaml", "--weights", "nan.safetensors"];
    let infer = ["infer", "--input", "images", "--out", "o"];
    for command in [&infer[..], &["export", "--out", "o.onnx"]] {
        let text = place.mistake(&with(command, &nan));
        assert_says(&text, &["nan.safetensors: ", "holds NaN"]);
    }
}

#[cfg(unix)]
#[test]
fn a_pipe_is_no_file_of_weights() {
    let place = Place::new();
    let pipe = place.path("pipe.pth");
    let made = std::process::Command::new("mkfifo")
        .arg(&pipe)
        .status()
        .unwrap();
    assert!(made.success());
    let text = place.mistake(&["convert", "pipe.pth", "o.safetensors"]);
    assert_says(&text, &["pipe.pth", "it is no file"]);
}

#[test]
fn weights_alone_need_a_configuration() {
    let place = Place::new();
    let text = place.mistake(&["eval", "--weights", "w.safetensors"]);
    assert_says(&text, &["w.safetensors", "--config"]);
}

#[test]
fn a_configuration_comes_from_the_checkpoint_or_its_run_folder() {
    let place = Place::new();
    let infer = |weights: &str, out: &str| {
        place.succeed(&[
            "infer",
            "--weights",
            weights,
            "--input",
            "images",
            "--out",
            out,
        ])
    };
    place.save_weights("carries.safetensors", Some(CONFIG));
    infer("carries.safetensors", "a");
    fs::create_dir_all(place.path("run/checkpoints")).unwrap();
    fs::copy(place.path("run.yaml"), place.path("run/config.yaml")).unwrap();
    let inside = "run/checkpoints/w.safetensors";
    fs::copy(place.path("w.safetensors"), place.path(inside)).unwrap();
    infer(inside, "b");
    let mask = |out: &str| fs::read(place.path(out).join("masks/0.png")).unwrap();
    assert_eq!(mask("a"), mask("b"));

    place.save_weights("bad.safetensors", Some("modell: {}"));
    let text = place.mistake(&[
        "infer",
        "--weights",
        "bad.safetensors",
        "--input",
        "images",
        "--out",
        "c",
    ]);
    assert_says(&text, &["bad.safetensors", "modell", "`model`"]);
}

#[test]
fn eval_prints_a_table_and_json() {
    let place = Place::new();
    let root = format!("data.root={}", place.dir.path().display());
    let more = ["--set", &root, "--list", "val.txt"];
    let base = with(&EVAL, &more);
    assert_says(
        &place.succeed(&base),
        &["class 2", "mIoU", "pixel accuracy"],
    );
    for protocol in ["whole", "center-crop", "sliding"] {
        let stdout = place.succeed(&with(&base, &["--protocol", protocol, "--json", "-"]));
        let json: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!(json["images"], 3);
        assert_eq!(json["protocol"], protocol);
        assert_eq!(json["iou"].as_array().unwrap().len(), 3);
        if protocol != "center-crop" {
            assert_eq!(json["pixels"], 40 * 33 + 47 * 36 + 33 * 50);
        }
    }
    place.succeed(&with(
        &base,
        &["--scales", "0.75,1", "--flip", "--json", "m.json"],
    ));
    let json: Value = serde_json::from_slice(&fs::read(place.path("m.json")).unwrap()).unwrap();
    assert!(
        json["miou"]
            .as_f64()
            .is_some_and(|m| (0.0..=1.0).contains(&m))
    );
}

#[test]
fn eval_sets_networks_and_protocols_side_by_side() {
    let place = Place::new();
    fs::copy(place.path("w.safetensors"), place.path("v.safetensors")).unwrap();
    let root = format!("data.root={}", place.dir.path().display());
    let base = with(&EVAL, &["--set", &root, "--list", "val.txt"]);
    let args = [
        "--against",
        "v.safetensors",
        "--preset",
        "voc,voc-authors,cityscapes,cityscapes-probabilities,multi-scale",
        "--json",
        "all.json",
    ];
    let table = place.succeed(&with(&base, &args));
    assert_eq!(table.lines().count(), 11, "{table}");
    assert_says(
        &table,
        &["w.safetensors, voc ", "v.safetensors, multi-scale", "+0.00"],
    );
    let json: Value = serde_json::from_slice(&fs::read(place.path("all.json")).unwrap()).unwrap();
    let results = json["results"].as_array().unwrap();
    assert_eq!(results.len(), 10);
    // The same network scores the same, and each protocol is what its options say.
    for (a, b) in results[..5].iter().zip(&results[5..]) {
        assert_eq!(
            (&a["preset"], &a["confusion"]),
            (&b["preset"], &b["confusion"])
        );
    }
    let plain = |more: &[&str]| -> Value {
        let stdout = place.succeed(&with(&base, &with(more, &["--json", "-"])));
        serde_json::from_str(&stdout).unwrap()
    };
    assert_eq!(
        plain(&["--protocol", "whole"])["confusion"],
        results[0]["confusion"]
    );
    // Padding counts as class 0 in the authors' validation.
    assert_eq!(results[1]["pixels"], 3 * 513 * 513);
    // What is said besides has the last word.
    let cropped = ["--preset", "voc-authors", "--set", "eval.crop=[65, 97]"];
    assert_eq!(plain(&cropped)["pixels"], 3 * 65 * 97);
    assert_eq!(
        plain(&["--set", "eval.crop=[769, 769]", "--protocol", "sliding"])["confusion"],
        results[2]["confusion"]
    );
    let scales = "0.5,0.75,1,1.25,1.5,1.75";
    assert_eq!(
        plain(&["--protocol", "whole", "--scales", scales, "--flip"])["confusion"],
        results[4]["confusion"]
    );
}

#[test]
fn eval_writes_a_line_and_a_mask_for_each_image() {
    let place = Place::new();
    let root = format!("data.root={}", place.dir.path().display());
    let base = with(&EVAL, &["--set", &root, "--list", "val.txt"]);
    let args = [
        "--csv",
        "i.csv",
        "--masks",
        "out",
        "--boundary",
        "--json",
        "b.json",
    ];
    let table = place.succeed(&with(&base, &args));
    assert_says(&table, &["frequency-weighted IoU", "boundary mIoU"]);
    let csv = fs::read_to_string(place.path("i.csv")).unwrap();
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines.len(), 4);
    assert_eq!(
        lines[0],
        "image,pixels,pixel_accuracy,miou,class 0,class 1,class 2"
    );
    assert!(lines[1].starts_with("0,1320,"), "{csv}");
    assert_eq!(names(&place.path("out")), ["0.png", "1.png", "2.png"]);

    // The masks are what was scored.
    let json: Value = serde_json::from_slice(&fs::read(place.path("b.json")).unwrap()).unwrap();
    let mut counted = vec![vec![0u64; 3]; 3];
    for i in 0..3 {
        let truth = image::open(place.path(&format!("masks/{i}.png")))
            .unwrap()
            .to_luma8();
        let file = fs::File::open(place.path(&format!("out/{i}.png"))).unwrap();
        let mut reader = png::Decoder::new(std::io::BufReader::new(file))
            .read_info()
            .unwrap();
        let mut indices = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut indices).unwrap();
        for (t, p) in truth.as_raw().iter().zip(&indices) {
            counted[usize::from(*t)][usize::from(*p)] += 1;
        }
    }
    assert_eq!(json["confusion"], serde_json::json!(counted));
    let boundary = json["boundary_miou"].as_f64().unwrap();
    assert!((0.0..=1.0).contains(&boundary), "{boundary}");

    let mistake = |more: &[&str]| place.mistake(&with(&base, more));
    let crop = ["--boundary", "--protocol", "center-crop"];
    assert_says(&mistake(&crop), &["--boundary", "centre crop"]);
    assert_says(
        &mistake(&["--masks", "m", "--label-ids"]),
        &["--label-ids", "19"],
    );
    let two = ["--csv", "c.csv", "--against", "w.safetensors"];
    assert_says(&mistake(&two), &["--csv", "one network"]);
    assert!(!place.path("c.csv").exists() && !place.path("m").exists());
}

#[test]
fn eval_names_the_list_mask_or_key_at_fault() {
    let place = Place::new();
    let root = format!("data.root={}", place.dir.path().display());
    let eval = |more: &[&str]| place.mistake(&with(&with(&EVAL, &["--set", &root]), more));
    assert_says(&eval(&[]), &["data.val"]);
    assert_says(&eval(&["--list", "none.txt"]), &["none.txt"]);
    assert_says(
        &eval(&["--list", "val.txt", "--scales", "0"]),
        &["eval.scales"],
    );
    assert_says(
        &eval(&["--list", "val.txt", "--protocol", "center-crop", "--flip"]),
        &["eval.protocol"],
    );
    let mask = image::GrayImage::from_pixel(47, 36, image::Luma([7]));
    mask.save(place.path("masks/1.png")).unwrap();
    // The others are scored: a line for the mask, one for what is missing in the numbers.
    let set = ["--set", &root, "--list", "val.txt"];
    let (code, stdout, stderr) = place.run(&with(&EVAL, &set));
    assert_eq!(code, 2, "{stderr}");
    let errors = stderr.lines().filter(|l| l.starts_with("error: "));
    let errors: Vec<&str> = errors.collect();
    assert_eq!(errors.len(), 2, "{stderr}");
    assert_says(errors[0], &["1.png", "7"]);
    assert_says(errors[1], &["1 of 3 images could not be scored"]);
    assert_says(&stdout, &["mIoU"]);
    let shapes = ["--set", "data.kind=shapes", "--list", "val.txt"];
    assert_says(&eval(&shapes), &["--list", "synthetic"]);
}

#[test]
fn split_draws_lists_once() {
    let place = Place::new();
    let split = |labeled: &str, out: &str| {
        place.run(&["split", "--data", ".", "--labeled", labeled, "--out", out])
    };
    let (code, _, stderr) = split("4", "s");
    assert_eq!(code, 2);
    assert_says(&stderr, &["error: --labeled 4", "3 images"]);
    assert!(!place.path("s").exists());

    assert_eq!(split("2", "s").0, 0);
    let read = |name: &str| fs::read_to_string(place.path("s").join(name)).unwrap();
    let named = |text: String| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(str::to_string).collect()
    };
    let mut lines = named(read("labeled.txt") + &read("unlabeled.txt"));
    assert_eq!(named(read("labeled.txt")).len(), 2);
    lines.sort();
    assert_eq!(lines, ["0", "1", "2"]);

    let (code, _, stderr) = split("1", "s");
    assert_eq!(code, 2);
    assert_says(&stderr, &["labeled.txt", "exists already"]);
    assert_eq!(named(read("labeled.txt")).len(), 2);

    assert_says(
        &place.mistake(&["split", "--data", "images", "--labeled", "1", "--out", "t"]),
        &["images", "none of 3 images has a mask"],
    );
    assert_says(
        &place.mistake(&["split", "--list", "no.txt", "--labeled", "1", "--out", "t"]),
        &["no.txt"],
    );
}

#[test]
fn plan_gives_the_peak_without_running() {
    let place = Place::new();
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/voc_classic_732.yaml");
    let recipe = recipe.display().to_string();
    let stdout = place.succeed(&["plan", "--config", &recipe]);
    assert_says(
        &stdout,
        &[
            "U2PL step",
            "conv_wgrad",
            "encoder.layer4",
            "memory bank",
            "peak",
        ],
    );
    // Method §2: 64.460 M parameters for VOC.
    assert_says(&stdout, &["64.460 M"]);

    let json: Value =
        serde_json::from_str(&place.succeed(&["plan", "--config", &recipe, "--json", "-"]))
            .unwrap();
    let memory = &json["memory"];
    let bytes = |key: &str| memory[key].as_u64().unwrap();
    assert_eq!(
        bytes("peak_bytes"),
        bytes("state_bytes") + bytes("arena_bytes")
    );
    for step in json["steps"].as_array().unwrap() {
        let sum = |groups: &str| -> f64 {
            let groups = step[groups].as_object().unwrap().values();
            groups.map(|g| g["flops"].as_f64().unwrap()).sum()
        };
        let total = step["total"]["flops"].as_f64().unwrap();
        for groups in ["operations", "layers"] {
            assert!((sum(groups) / total - 1.0).abs() < 1e-9, "{groups}");
        }
    }
    assert_says(
        &place.mistake(&["plan", "--set", "model.widht=3"]),
        &["model.widht", "`model.width`"],
    );
}

#[test]
fn info_tells_the_build() {
    let place = Place::new();
    let json: Value = serde_json::from_str(&place.succeed(&["info", "--json"])).unwrap();
    assert_eq!(json["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(json["devices"]["cpu"], true);
    assert_eq!(json["devices"]["simt"], cfg!(feature = "simt"));
    if cfg!(feature = "cuda") {
        let found = json["cuda"]["devices"].as_array().unwrap();
        assert!(json["devices"]["cuda"] == false || !found.is_empty());
    }
    assert_says(
        &place.succeed(&["info"]),
        &["threads", "device cpu", "device cuda", "device simt"],
    );
}
