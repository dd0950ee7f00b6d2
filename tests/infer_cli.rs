//! `infer` on the command line: which images it finds, what it leaves on disk, what it says.
#![cfg(feature = "cli")]

#[path = "support/place.rs"]
mod place;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use place::{CONFIG, EVAL, INFER, Place, assert_says, names, with};
use serde_json::Value;
use u2pl_engine::config::Config;
use u2pl_engine::device::Device;
use u2pl_engine::device::cpu::CpuDevice;
use u2pl_engine::eval::{LoadedWeights, Predictor, Rgb};
use u2pl_engine::model;
use u2pl_engine::weights::Reader;

/// Class indices of a mask, and its width and height.
fn mask(path: &Path) -> (Vec<u8>, u32, u32) {
    let file = fs::File::open(path).unwrap();
    let mut reader = png::Decoder::new(std::io::BufReader::new(file))
        .read_info()
        .unwrap();
    assert_eq!(reader.info().color_type, png::ColorType::Indexed);
    let (width, height) = reader.info().size();
    let mut classes = vec![0; reader.output_buffer_size().unwrap()];
    reader.next_frame(&mut classes).unwrap();
    (classes, width, height)
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// A picture with something everywhere.
fn picture(width: u32, height: u32, seed: u32) -> image::RgbImage {
    image::RgbImage::from_fn(width, height, |x, y| {
        let block = (x / 8) * 31 + (y / 8) * 17 + seed * 7;
        image::Rgb([block * 13, block * 29, block * 53].map(|v| v as u8))
    })
}

/// Half a JPEG.
fn break_jpeg(path: &Path) {
    picture(64, 64, 9).save(path).unwrap();
    let whole = fs::read(path).unwrap();
    fs::write(path, &whole[..whole.len() / 2]).unwrap();
}

#[test]
fn infer_writes_every_kind_at_the_image_size() {
    let place = Place::new();
    let more = [
        "--input",
        "images",
        "--out",
        "out",
        "--overlay",
        "--entropy",
        "--save-logits",
    ];
    let stdout = place.succeed(&with(&INFER, &more));
    assert_says(&stdout, &["3 of 3 images"]);
    let kinds = ["color", "entropy", "logits", "masks", "overlay"];
    assert_eq!(names(&place.path("out")), kinds);
    for kind in kinds {
        let extension = if kind == "logits" {
            "safetensors"
        } else {
            "png"
        };
        let expected: Vec<String> = (0..3).map(|i| format!("{i}.{extension}")).collect();
        assert_eq!(names(&place.path("out").join(kind)), expected, "{kind}");
        if kind != "logits" {
            let size = image::image_dimensions(place.path("out").join(kind).join("1.png"));
            assert_eq!(size.unwrap(), (47, 36), "{kind}");
        }
    }
    let (classes, width, height) = mask(&place.path("out/masks/2.png"));
    assert_eq!((width, height), (33, 50));
    assert!(classes.iter().all(|&c| c < 3));
}

#[test]
fn infer_reports_a_damaged_image_and_does_the_others() {
    let place = Place::new();
    break_jpeg(&place.path("images/broken.jpg"));
    fs::write(place.path("images/notes.txt"), "no image").unwrap();

    let (code, stdout, stderr) = place.run(&with(&INFER, &["--input", "images", "--out", "out"]));
    assert_eq!(code, 2);
    assert_says(&stderr, &["broken.jpg", "notes.txt", "1 of 4 images"]);
    assert_says(&stdout, &["3 of 4 images"]);
    assert_eq!(names(&place.path("out/masks")), ["0.png", "1.png", "2.png"]);
    assert_eq!(names(&place.path("out/color")), ["0.png", "1.png", "2.png"]);
}

#[test]
fn infer_inputs_and_outputs_are_checked_first() {
    let place = Place::new();
    fs::create_dir(place.path("empty")).unwrap();
    let infer =
        |input: &str, out: &str| place.mistake(&with(&INFER, &["--input", input, "--out", out]));
    assert_says(&infer("empty", "out"), &["empty", "no .jpg, .jpeg or .png"]);
    assert_says(&infer("none", "out"), &["none", "cannot read the input"]);
    assert!(!place.path("out").exists());
    assert_says(
        &infer("images", "masks"),
        &["masks", "not empty", "--force"],
    );
    assert_eq!(names(&place.path("masks")).len(), 3);
    assert_says(&infer("images", "run.yaml"), &["run.yaml", "cannot"]);
    fs::copy(place.path("images/0.png"), place.path("images/0.jpg")).unwrap();
    assert_says(&infer("images", "out"), &["0.png", "0.jpg", "rename"]);
}

#[test]
fn force_overwrites() {
    let place = Place::new();
    let args = with(&INFER, &["--input", "images/0.png", "--out", "out"]);
    place.succeed(&args);
    let first = fs::read(place.path("out/masks/0.png")).unwrap();
    assert_says(&place.mistake(&args), &["out", "not empty", "--force"]);
    place.succeed(&with(&args, &["--force"]));
    assert_eq!(fs::read(place.path("out/masks/0.png")).unwrap(), first);
    assert_eq!(names(&place.path("out/masks")), ["0.png"]);
}

#[test]
fn masks_and_scores_are_the_predictors_bit_for_bit() {
    let place = Place::new();
    let device: Arc<dyn Device> = Arc::new(CpuDevice::new(0).unwrap());
    let pictures: Vec<Rgb> = (0..3)
        .map(|i| {
            let decoded = image::open(place.path(&format!("images/{i}.png"))).unwrap();
            let decoded = decoded.to_rgb8();
            let (width, height) = decoded.dimensions();
            Rgb::new(width as usize, height as usize, decoded.into_raw()).unwrap()
        })
        .collect();
    for (i, (options, sets)) in [
        (&[][..], &[][..]),
        (
            &["--scales", "0.75,1", "--flip"],
            &["eval.scales=[0.75, 1.0]", "eval.flip=true"],
        ),
        (
            &["--set", "eval.protocol=sliding"],
            &["eval.protocol=sliding"],
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let out = format!("out{i}");
        let more = ["--input", "images", "--out", &out, "--save-logits"];
        place.succeed(&with(&with(&INFER, &more), options));

        let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
        let cfg = Config::parse("test", CONFIG, &sets).unwrap();
        let layout = model::layout(&cfg.model, cfg.data.classes).unwrap();
        let (weights, buffers) = model::init(&layout, 1);
        let loaded = LoadedWeights::new(&device, &layout, &weights, &buffers).unwrap();
        let mut predictor = Predictor::new(device.clone(), &cfg, layout);
        for (k, picture) in pictures.iter().enumerate() {
            let maps = predictor.maps(loaded.weights(), picture).unwrap();
            let file = place.path(&format!("{out}/masks/{k}.png"));
            assert_eq!(mask(&file).0, maps.argmax, "{options:?} {k}");
            let scores = predictor.scores(loaded.weights(), picture).unwrap();
            let file = place.path(&format!("{out}/logits/{k}.safetensors"));
            let file = Reader::open(&file).unwrap();
            let name = match scores.probabilities {
                true => "probabilities",
                false => "logits",
            };
            assert_eq!(file.floats(name).unwrap(), scores.values, "{options:?} {k}");
        }
    }
}

#[test]
fn inputs_may_be_patterns_frames_and_folders_of_folders() {
    let place = Place::new();
    for folder in ["cams/left", "cams/right"] {
        fs::create_dir_all(place.path(folder)).unwrap();
        for n in [2, 10, 9] {
            let file = format!("{folder}/frame_{n:02}.png");
            picture(40, 33, n).save(place.path(&file)).unwrap();
        }
    }
    let infer = |inputs: &[&str], out: &str| -> Vec<String> {
        let more = ["--out", out, "--json", "found.json", "--force"];
        let args = with(&with(&INFER, &more), &with(&["--input"], inputs));
        place.succeed(&args);
        let found = json(&place.path("found.json"));
        let images = found["images"].as_array().unwrap();
        let file = |i: &Value| i["files"]["masks"].as_str().unwrap().to_string();
        images.iter().map(file).collect()
    };
    assert_eq!(
        infer(&["images/[01].png", "cams/left/*_?0.png"], "a"),
        ["a/masks/0.png", "a/masks/1.png", "a/masks/frame_10.png"]
    );
    assert_eq!(
        infer(&["cams/*/frame_02.png"], "b"),
        ["b/masks/left/frame_02.png", "b/masks/right/frame_02.png"]
    );
    assert_eq!(
        infer(&["cams/left/frame_%02d.png", "--start", "9"], "c"),
        ["c/masks/frame_09.png", "c/masks/frame_10.png"]
    );
    let tree = [
        "cams/masks/left/frame_02.png",
        "cams/masks/left/frame_09.png",
        "cams/masks/left/frame_10.png",
        "cams/masks/right/frame_02.png",
        "cams/masks/right/frame_09.png",
        "cams/masks/right/frame_10.png",
    ];
    // Twice: the results of the first time are no images of the second.
    for _ in 0..2 {
        assert_eq!(infer(&["cams", "--recursive"], "cams"), tree);
    }
    for path in tree {
        assert!(place.path(path).is_file(), "{path}");
    }

    // A gap is told, and is no mistake.
    let gap = ["--input", "cams/left/frame_%02d.png", "--out", "d"];
    let (code, _, stderr) = place.run(&with(&INFER, &gap));
    assert_eq!(code, 0);
    assert_says(&stderr, &["frame_%02d.png", "6 of 9 frames", "number 3"]);
}

#[test]
fn inputs_that_mean_nothing_say_what_was_looked_for() {
    let place = Place::new();
    let infer = |inputs: &[&str]| {
        let text = place.mistake(&with(&with(&INFER, &["--out", "out", "--input"]), inputs));
        assert!(!place.path("out").exists());
        text
    };
    assert_says(
        &infer(&["images/*.jpg"]),
        &["images/*.jpg", "nothing in the folder images"],
    );
    assert_says(
        &infer(&["frames/*.jpg"]),
        &["frames/*.jpg", "frames does not exist"],
    );
    assert_says(
        &infer(&["images/frame_%05d.png"]),
        &["images/frame_00000.png", "nor a later one"],
    );
    assert_says(
        &infer(&["images/%d.png", "--start", "3"]),
        &["images/3.png", "0 to 2", "--start"],
    );
    assert_says(&infer(&["images", "--start", "3"]), &["--start", "frames"]);
    fs::create_dir_all(place.path("nest/inner")).unwrap();
    fs::copy(place.path("images/0.png"), place.path("nest/inner/0.png")).unwrap();
    assert_says(&infer(&["nest"]), &["nest", "--recursive"]);
    assert_says(
        &infer(&["images", "nest/inner"]),
        &["nest/inner/0.png", "images/0.png", "rename"],
    );
}

#[test]
fn a_batch_gives_the_classes_of_its_images_whatever_lies_between_them() {
    let place = Place::new();
    fs::create_dir(place.path("mixed")).unwrap();
    let sizes = [(40, 33), (40, 33), (40, 33), (47, 36), (40, 33), (40, 33)];
    for (i, (width, height)) in sizes.into_iter().enumerate() {
        let file = place.path(&format!("mixed/{i}.png"));
        picture(width, height, i as u32).save(file).unwrap();
    }
    break_jpeg(&place.path("mixed/0b.jpg"));
    fs::write(place.path("mixed/6.png"), "no image").unwrap();
    let infer = |batch: &str, out: &str| {
        let more = ["--input", "mixed", "--out", out, "--batch", batch];
        let file = format!("{out}.json");
        let (code, stdout, stderr) =
            place.run(&with(&with(&INFER, &more), &["--entropy", "--json", &file]));
        assert_eq!(code, 2, "{stderr}");
        let errors = stderr.lines().filter(|l| l.starts_with("error: "));
        assert_eq!(errors.count(), 3, "{stderr}");
        assert_says(&stderr, &["mixed/0b.jpg", "mixed/6.png", "2 of 8 images"]);
        assert_says(&stdout, &["6 of 8 images", "images/s"]);
        json(&place.path(&file))
    };
    let alone = infer("1", "alone");
    for batch in ["2", "3", "9"] {
        let out = format!("by{batch}");
        let found = infer(batch, &out);
        assert_eq!(found["summary"]["batch"].to_string(), batch);
        let images = |v: &Value| v["images"].as_array().unwrap().clone();
        let (alone, found) = (images(&alone), images(&found));
        assert_eq!(found.len(), alone.len());
        for (a, b) in alone.iter().zip(&found) {
            let own = ["path", "error", "classes", "width", "height"];
            assert!(own.iter().all(|k| a[k] == b[k]), "{a} {b}");
        }
        for i in 0..sizes.len() {
            let file = |out: &str| place.path(&format!("{out}/masks/{i}.png"));
            assert_eq!(mask(&file(&out)), mask(&file("alone")), "{batch} {i}");
        }
    }
    assert_says(
        &place.mistake(&with(
            &INFER,
            &["--input", "mixed", "--out", "o", "--batch", "0"],
        )),
        &["--batch"],
    );
}

#[test]
fn tiles_of_large_images_are_like_the_whole() {
    let place = Place::new();
    picture(150, 120, 3).save(place.path("large.png")).unwrap();
    let infer = |out: &str, more: &[&str]| {
        let base = ["--input", "large.png", "--out", out, "--set"];
        let base = with(&INFER, &with(&base, &["model.output_stride=8"]));
        with(&base, more).iter().map(ToString::to_string).collect()
    };
    let run = |out: &str, more: &[&str]| {
        let args: Vec<String> = infer(out, more);
        place.succeed(&args.iter().map(String::as_str).collect::<Vec<_>>());
        mask(&place.path(&format!("{out}/masks/large.png")))
    };
    let whole = run("whole", &[]);
    assert_eq!((whole.1, whole.2), (150, 120));
    let agree = |found: &(Vec<u8>, u32, u32)| {
        assert_eq!((found.1, found.2), (150, 120));
        let same = found.0.iter().zip(&whole.0).filter(|(a, b)| a == b).count();
        same as f64 / whole.0.len() as f64
    };
    assert!(agree(&run("tiles", &["--tile", "97:32"])) > 0.95);
    // Tiles that hold the image are the whole image; they take the place of windows.
    for (out, more) in [
        ("one", &["--tile", "513"][..]),
        (
            "windows",
            &["--tile", "513", "--set", "eval.protocol=sliding"],
        ),
    ] {
        assert_eq!(run(out, more), whole);
    }
    let mistake = |tile: &str| {
        let args: Vec<String> = infer("o", &["--tile", tile]);
        place.mistake(&args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    assert_says(&mistake("20"), &["tile", "too few", "at least 33"]);
    assert_says(&mistake("97:64"), &["overlap", "at most 32"]);
    assert_says(&mistake("97:a"), &["--tile", "SIZE:OVERLAP"]);
}

#[test]
fn pixels_below_the_least_confidence_are_void() {
    let place = Place::new();
    let infer = |out: &str, more: &[&str]| -> Value {
        let base = ["--input", "images/1.png", "--out", out, "--json", "-"];
        let base = with(&with(&INFER, &base), &["--overlay"]);
        serde_json::from_str(&place.succeed(&with(&base, more))).unwrap()
    };
    let file = |out: &str, kind: &str| place.path(&format!("{out}/{kind}/1.png"));
    let plain = infer("plain", &[]);
    let confidence = plain["images"][0]["confidence"].as_f64().unwrap();
    infer("none", &["--min-confidence", "0"]);
    for kind in ["masks", "color", "overlay"] {
        let bytes = |out| fs::read(file(out, kind)).unwrap();
        assert_eq!(bytes("none"), bytes("plain"), "{kind}");
    }

    let some = infer("some", &["--min-confidence", &confidence.to_string()]);
    let share = some["images"][0]["void"].as_f64().unwrap();
    assert!(share > 0.0 && share < 1.0, "{share}");
    assert_eq!(some["images"][0]["confidence"], confidence);
    let shares = some["images"][0]["classes"].as_array().unwrap();
    let sum: f64 = shares.iter().map(|c| c["share"].as_f64().unwrap()).sum();
    assert!((sum + share - 1.0).abs() < 1e-9, "{some}");
    let (classes, width, height) = mask(&file("some", "masks"));
    let void = classes.iter().filter(|&&c| c == 255).count();
    assert_eq!(void as f64 / f64::from(width * height), share);
    let before = mask(&file("plain", "masks")).0;
    let color = image::open(file("some", "color")).unwrap().to_rgb8();
    let over = image::open(file("some", "overlay")).unwrap().to_rgb8();
    let under = image::open(place.path("images/1.png")).unwrap().to_rgb8();
    for (i, (&class, was)) in classes.iter().zip(before).enumerate() {
        assert!(class == 255 || class == was);
        if class == 255 {
            // The colour of void in PASCAL VOC.
            let at = (i as u32 % width, i as u32 / width);
            assert_eq!(color[at].0, [224, 224, 192]);
            let half = |c: usize| u16::midpoint(color[at].0[c].into(), under[at].0[c].into());
            assert_eq!(over[at].0.map(u16::from), [0, 1, 2].map(half));
        }
    }
    let args = ["--input", "images", "--out", "o", "--min-confidence", "1.5"];
    assert_says(
        &place.mistake(&with(&INFER, &args)),
        &["--min-confidence", "between 0 and 1"],
    );
}

#[test]
fn json_holds_what_was_found_and_the_summary() {
    let place = Place::new();
    let names = "data.class_names=[sky, road, car]";
    let more = ["--input", "images", "--out", "out", "--set", names];
    let kinds = ["--overlay", "--entropy", "--save-logits"];
    let base = with(&with(&INFER, &more), &kinds);
    let stdout = place.succeed(&with(&base, &["--json", "out/found.json"]));
    assert_says(
        &stdout,
        &[
            "images/s",
            "megapixels/s",
            "first result",
            "p99",
            "network",
            "MiB",
            "cpu",
            "fp32",
        ],
    );
    let found = json(&place.path("out/found.json"));
    let images = found["images"].as_array().unwrap();
    assert_eq!(images.len(), 3);
    for (i, image) in images.iter().enumerate() {
        assert_eq!(image["path"], format!("images/{i}.png"));
        let (classes, width, height) = mask(&place.path(&format!("out/masks/{i}.png")));
        assert_eq!(image["width"], width);
        assert_eq!(image["height"], height);
        assert_eq!(image["void"], 0.0);
        for kind in ["masks", "color", "overlay", "entropy", "logits"] {
            let file = image["files"][kind].as_str().unwrap();
            assert!(place.path(file).is_file(), "{file}");
        }
        for share in image["classes"].as_array().unwrap() {
            let class = share["class"].as_u64().unwrap();
            assert_eq!(share["name"], ["sky", "road", "car"][class as usize]);
            let count = classes.iter().filter(|&&c| u64::from(c) == class).count();
            let expected = count as f64 / f64::from(width * height);
            assert!(count > 0 && (share["share"].as_f64().unwrap() - expected).abs() < 1e-12);
        }
        let number = |key: &str| image[key].as_f64().unwrap();
        assert!((1.0 / 3.0..=1.0).contains(&number("confidence")));
        assert!((0.0..=3f64.ln() + 1e-6).contains(&number("entropy")));
        let parts = number("decode_ms") + number("network_ms") + number("write_ms");
        assert!((number("ms") - parts).abs() < 1e-6 * parts, "{image}");
    }
    let summary = &found["summary"];
    assert_eq!(
        (&summary["images"], &summary["failed"]),
        (&3.into(), &0.into())
    );
    assert_eq!(
        (&summary["device"], &summary["precision"]),
        (&"cpu".into(), &"fp32".into())
    );
    for key in [
        "seconds",
        "load_seconds",
        "first_result_seconds",
        "images_per_second",
        "megapixels_per_second",
        "threads",
        "weights_bytes",
        "network_bytes",
    ] {
        assert!(
            summary[key].as_f64().is_some_and(|v| v > 0.0),
            "{key}: {summary}"
        );
    }
    for key in ["network_ms", "image_ms"] {
        let at = ["p50", "p90", "p99", "max"].map(|p| summary[key][p].as_f64().unwrap());
        assert!(at.is_sorted() && at[0] > 0.0, "{summary}");
    }

    let base = with(&base, &["--force"]);
    let printed = place.succeed(&with(&base, &["--json", "-"]));
    let printed: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(printed["images"][2]["classes"], images[2]["classes"]);
    let args = with(&base, &["--json", "none/found.json"]);
    assert_says(
        &place.mistake(&args),
        &["none/found.json", "does not exist"],
    );
}

#[test]
fn half_is_bf16() {
    let place = Place::new();
    let args = ["--input", "images", "--out", "half", "--half"];
    assert_says(&place.succeed(&with(&INFER, &args)), &["bf16"]);
    let args = ["--input", "images", "--out", "bf16", "--precision", "bf16"];
    place.succeed(&with(&INFER, &args));
    for i in 0..3 {
        let file = |out: &str| fs::read(place.path(&format!("{out}/masks/{i}.png"))).unwrap();
        assert_eq!(file("half"), file("bf16"));
    }
    let text = place.mistake(&with(&INFER, &with(&args, &["--half"])));
    assert_says(&text, &["--half", "--precision"]);
}

#[test]
fn eval_takes_tiles_and_half_too() {
    let place = Place::new();
    let root = format!("data.root={}", place.dir.path().display());
    let stride = "model.output_stride=8";
    let base = with(
        &EVAL,
        &["--set", &root, "--set", stride, "--list", "val.txt"],
    );
    let base = with(&base, &["--json", "-"]);
    let eval = |more: &[&str]| -> Value {
        serde_json::from_str(&place.succeed(&with(&base, more))).unwrap()
    };
    let whole = eval(&["--protocol", "whole"]);
    let tiles = |tile| eval(&["--protocol", "whole", "--tile", tile]);
    assert_eq!(tiles("513")["confusion"], whole["confusion"]);
    // Every image is longer than that.
    assert_eq!(tiles("33:8")["pixels"], whole["pixels"]);
    assert!(eval(&["--half"])["miou"].is_number());
    let args = with(&base, &["--protocol", "sliding", "--tile", "513"]);
    assert_says(&place.mistake(&args), &["--tile", "--protocol whole"]);
}
