//! Scores that are no finite numbers: counted, named, and never a class.

use std::fs;
use std::sync::Arc;

use super::place::{CONFIG, Place, assert_says, with};
use super::runs::{command, iteration, output, refused, train};
use u2pl_engine::Error;
use u2pl_engine::config::Config;
use u2pl_engine::device::cpu::CpuDevice;
use u2pl_engine::infer::{Image, Options, Samples, Segmenter};
use u2pl_engine::model;
use u2pl_engine::weights::Writer;

/// Weights of the small network after `change(name, values)`.
fn weights(place: &Place, file: &str, change: &dyn Fn(&str, &mut [f32])) {
    let cfg = Config::parse("test", CONFIG, &[]).unwrap();
    let layout = model::layout(&cfg.model, cfg.data.classes).unwrap();
    let (mut weights, mut buffers) = model::init(&layout, 1);
    for spec in layout.specs() {
        let flat = match spec.kind {
            u2pl_engine::graph::params::Kind::Weight => &mut weights,
            u2pl_engine::graph::params::Kind::Buffer => &mut buffers,
        };
        let n: usize = spec.shape.iter().product();
        change(&spec.name, &mut flat[spec.offset..spec.offset + n]);
    }
    let mut writer = Writer::new();
    writer.params("", &layout, &weights, &buffers).unwrap();
    writer.meta("config", CONFIG);
    writer.save(&place.path(file)).unwrap();
}

/// Ways in which finite weights give scores that are none, and where that begins.
const EXPLODED: [(&str, f32, &str); 4] = [
    ("decoder.classifier.8.weight", 3e38, "decoder.classifier.8"),
    ("encoder.layer3.0.conv1.weight", 1e38, "encoder.layer3.0"),
    ("encoder.layer4.0.bn1.weight", 3e38, "encoder.layer4.0"),
    ("encoder.bn1.weight", f32::MAX, "encoder."),
];

/// Large before the last layer, so that its own weights can take the scores beyond f32.
fn explode(tensor: &str, value: f32) -> impl Fn(&str, &mut [f32]) {
    move |name, values| {
        if name == tensor {
            values.fill(value);
        } else if name == "decoder.classifier.5.weight" {
            values.fill(1e6);
        }
    }
}

#[test]
fn exploded_weights_fail_by_the_image_and_the_layer() {
    let place = Place::new();
    for (tensor, value, layer) in EXPLODED {
        weights(&place, "bad.safetensors", &explode(tensor, value));
        let bad = ["--weights", "bad.safetensors", "--set", "data.root=."];
        for looks in [
            &[][..],
            &["--flip"],
            &["--scales", "0.5,1"],
            &[
                "--set",
                "eval.protocol=sliding",
                "--set",
                "eval.crop=[33, 33]",
            ],
        ] {
            let eval = [
                &["eval"][..],
                &bad,
                &["--list", "val.txt", "--trace-nan"],
                looks,
            ]
            .concat();
            let masks = with(&eval, &["--masks", "o", "--csv", "o.csv"]);
            for args in [&eval, &masks] {
                let (code, _, stderr) = place.run(args);
                assert_eq!(code, 2, "{tensor}: {stderr}");
                for image in ["images/0.png", "images/1.png", "images/2.png"] {
                    let line = stderr.lines().find(|l| l.contains(image)).unwrap();
                    assert_says(line, &["not finite numbers", layer]);
                }
                assert_says(&stderr, &["3 of 3 images could not be scored"]);
            }
            assert!(!place.path("o/0.png").exists());
            let _ = fs::remove_dir_all(place.path("o"));
            let infer = [
                &["infer"][..],
                &bad,
                &["--input", "images", "--out", "i", "--trace-nan"],
                looks,
            ]
            .concat();
            let (code, _, stderr) = place.run(&infer);
            assert_eq!(code, 2, "{tensor}: {stderr}");
            for image in ["images/0.png", "images/1.png", "images/2.png"] {
                let line = stderr.lines().find(|l| l.contains(image)).unwrap();
                assert_says(line, &["pixels have scores that are not finite", layer]);
            }
            assert!(!place.path("i/masks/0.png").exists());
            let _ = fs::remove_dir_all(place.path("i"));
        }
    }
}

#[test]
fn what_can_be_told_at_once_is_refused_at_load() {
    let place = Place::new();
    for (tensor, value) in [
        ("decoder.classifier.1.running_var", -1.0),
        ("encoder.bn1.running_var", -1e-20),
        ("encoder.layer1.0.conv1.weight", f32::NAN),
        ("encoder.layer4.1.bn2.running_mean", f32::INFINITY),
    ] {
        weights(&place, "bad.safetensors", &|name, values| {
            if name == tensor {
                values[values.len() / 2] = value;
            }
        });
        let image = [
            "--weights",
            "bad.safetensors",
            "--input",
            "images",
            "--out",
            "o",
        ];
        let line = place.mistake(&with(&["infer"], &image));
        assert_says(&line, &["bad.safetensors", tensor]);
        let line = place.mistake(&[
            "eval",
            "--weights",
            "bad.safetensors",
            "--set",
            "data.root=.",
            "--list",
            "val.txt",
        ]);
        assert_says(&line, &["bad.safetensors", tensor]);
    }
    // The same without faults works, and variances may be 0.
    weights(&place, "good.safetensors", &|name, values| {
        if name.ends_with("running_var") {
            values[0] = 0.0;
        }
    });
    place.succeed(&[
        "infer",
        "--weights",
        "good.safetensors",
        "--input",
        "images",
        "--out",
        "o",
    ]);
}

#[test]
fn embedders_get_an_error_and_go_on() {
    let place = Place::new();
    let (tensor, value, layer) = EXPLODED[1];
    weights(&place, "bad.safetensors", &explode(tensor, value));
    weights(&place, "good.safetensors", &|_, _| {});
    for (scales, flip) in [
        (vec![1.0], false),
        (vec![1.0], true),
        (vec![0.5, 1.0], false),
    ] {
        let options = Options {
            scales,
            flip,
            trace_nan: true,
            ..Options::default()
        };
        let device: Arc<CpuDevice> = Arc::new(CpuDevice::new(1).unwrap());
        let open =
            |name| Segmenter::open(&place.path(name), device.clone(), options.clone()).unwrap();
        let segmenter = open("bad.safetensors");
        let pixels: Vec<u8> = (0..3 * 40 * 44).map(|i| (i * 7 % 251) as u8).collect();
        let image = Image::rgb(Samples::U8(&pixels), 40, 44).unwrap();
        for _ in 0..2 {
            match segmenter.segment(&image) {
                Err(Error::NotFinite {
                    pixels,
                    of,
                    layer: first,
                    ..
                }) => {
                    assert!(pixels > 0 && of == 40 * 44);
                    assert_says(&first, &[layer]);
                }
                other => panic!("{other:?}"),
            }
            let scores = segmenter.scores(&image);
            assert!(matches!(scores, Err(Error::NotFinite { .. })), "{scores:?}");
            let shares = segmenter.probabilities(&image);
            assert!(matches!(shares, Err(Error::NotFinite { .. })), "{shares:?}");
        }
        // A picture with such a sample.
        let mut samples: Vec<f32> = pixels.iter().map(|&p| f32::from(p) / 255.0).collect();
        samples[500] = f32::NAN;
        let image = Image::rgb(Samples::F32(&samples), 40, 44).unwrap();
        let found = open("good.safetensors").segment(&image);
        assert!(matches!(found, Err(Error::NotFinite { .. })), "{found:?}");
    }
}

const DIVERGING: [&str; 2] = ["--set", "train.lr=1e30"];

#[test]
fn a_run_that_diverges_stops_and_keeps_its_last_good_checkpoint() {
    for log_every in ["1", "2", "100"] {
        let dir = tempfile::tempdir().unwrap();
        let (dir, run) = (dir.path(), dir.path().join("run"));
        train(dir, "run", &["--max-iters", "3"]);
        let log = format!("train.log_every={log_every}");
        let line = refused(
            dir,
            "run",
            &[&["--resume", "--set", &log], &DIVERGING[..]].concat(),
        );
        assert_says(
            &line,
            &["no longer a finite number at iteration", "rollback"],
        );
        assert_eq!(iteration(&run, "last"), Some(3));
        let metrics = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        assert!(metrics.contains("\"diverged\":"), "{metrics}");
    }
}

#[test]
fn a_run_may_go_back_once_with_a_lower_rate() {
    for log_every in ["1", "2", "100"] {
        let dir = tempfile::tempdir().unwrap();
        let (dir, run) = (dir.path(), dir.path().join("run"));
        let log = format!("train.log_every={log_every}");
        let back = ["--set", "train.on_divergence=rollback", "--set", &log];
        // A tenth of a rate far beyond all bounds diverges again.
        let (code, said) = output(command(dir, "run", &[&back[..], &DIVERGING].concat()));
        assert_eq!(code, 2, "{said}");
        assert_says(
            &said,
            &[
                "back to iteration 0",
                "error: ",
                "no longer a finite number",
            ],
        );
        assert_eq!(iteration(&run, "last"), Some(0));
        // What is resumed does not go back a second time.
        let (code, said) = output(command(
            dir,
            "run",
            &[&back[..], &DIVERGING, &["--resume"]].concat(),
        ));
        assert_eq!(code, 2, "{said}");
        assert!(!said.contains("back to"), "{said}");
        // A sound rate that is chosen then counts in full, and the run ends.
        let rate = ["--set", "train.lr=0.05", "--resume"];
        train(dir, "run", &[&back[..], &rate].concat());
        let metrics = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        assert!(metrics.contains("\"rolled_back\":"), "{metrics}");
        let lr = metrics
            .lines()
            .filter_map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["lr"].as_f64());
        let most = lr.fold(0.0, f64::max);
        assert!((most - 0.05).abs() < 1e-6 || log_every != "1", "{metrics}");
        assert!(most <= 0.05 * 1.000_001, "{metrics}");
        assert_eq!(iteration(&run, "last"), Some(12));
    }
}
