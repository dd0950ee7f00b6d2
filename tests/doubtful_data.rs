//! Data that are not quite right, on the command line: what is said, what is written, what is left
//! out, and with which exit code.
#![cfg(feature = "cli")]

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

const TINY: &str = "\
data: {kind: folder, root: d, labeled: l.txt, unlabeled: u.txt, val: v.txt, classes: 3}
augment: {crop: [33, 33]}
model: {encoder: resnet18, width: 8, output_stride: 16, multi_grid: false, \
aspp_dilations: [1, 2, 3], head_width: 8, rep_width: 8}
train: {batch_labeled: 2, batch_unlabeled: 2, epochs: 2, epoch_iters: 3, warmup_epochs: 1, \
lr: 0.01, log_every: 1}
method: {bank_background: 64, bank_size: 64, anchors: 8, negatives: 4}
";

struct Place(TempDir);

struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    fn all(&self) -> String {
        format!("{}{}", self.out, self.err)
    }

    #[track_caller]
    fn says(&self, parts: &[&str]) -> &Self {
        for part in parts {
            assert!(
                self.all().contains(part),
                "`{part}` is not in: {}",
                self.all()
            );
        }
        self
    }

    #[track_caller]
    fn exits(&self, code: i32) -> &Self {
        assert_eq!(self.code, code, "{}", self.all());
        self
    }
}

impl Place {
    /// Three labelled images, two unlabelled, two for validation, all of three classes.
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        place.write("tiny.yaml", TINY);
        for (list, names) in [
            ("l", &["l0", "l1", "l2"][..]),
            ("u", &["u0", "u1"]),
            ("v", &["v0", "v1"]),
        ] {
            for (i, name) in names.iter().enumerate() {
                place.image(&format!("d/images/{name}.png"), i as u32);
                if list != "u" {
                    place.mask(&format!("d/masks/{name}.png"), &[0, 1, 2]);
                }
            }
            place.write(&format!("d/{list}.txt"), names.join("\n"));
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path(name), bytes).unwrap();
    }

    fn image(&self, name: &str, seed: u32) {
        let color = |x: u32, y: u32| image::Rgb([(x * 5) as u8, (y * 6) as u8, (seed * 40) as u8]);
        let picture = image::RgbImage::from_fn(40, 36, color);
        picture.save(self.path(name)).unwrap();
    }

    /// Cuts a file to `keep` of its bytes.
    fn cut(&self, name: &str, keep: f64) {
        let bytes = fs::read(self.path(name)).unwrap();
        self.write(name, &bytes[..(bytes.len() as f64 * keep) as usize]);
    }

    fn mask(&self, name: &str, values: &[u8]) {
        let value = |x: u32, y: u32| image::Luma([values[(x / 6 + y / 6) as usize % values.len()]]);
        image::GrayImage::from_fn(40, 36, value)
            .save(self.path(name))
            .unwrap();
    }

    fn run(&self, args: &str) -> Ran {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin("u2pl-engine"));
        command.args(args.split(' '));
        self.ran(command)
    }

    fn ran(&self, mut command: Command) -> Ran {
        let command = command.current_dir(self.0.path()).env_remove("RUST_LOG");
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ran {
            code: output.status.code().unwrap_or(-1),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }
}

#[test]
fn the_check_decodes_images_unless_it_is_to_be_fast() {
    for (name, keep) in [("images/l1", 0.7), ("images/u0", 0.9), ("images/v1", 0.5)] {
        let place = Place::new();
        let file = format!("{name}.png");
        place.cut(&format!("d/{file}"), keep);
        let whole = place.run("dataset check --config tiny.yaml");
        whole
            .exits(0)
            .says(&[&file, "truncated or damaged", "check: 7/7"]);
        place.run("dataset check d").exits(0).says(&[&file]);
        let fast = place.run("dataset check --config tiny.yaml --fast");
        fast.exits(0).says(&["suspicious   nothing"]);
    }
}

#[test]
fn eval_scores_the_others_and_fails_by_name() {
    let place = Place::new();
    place.run("train --config tiny.yaml --out run").exits(0);
    let pixels = 40 * 36;
    for (i, (file, bytes)) in [
        ("d/images/v1.png", None),
        ("d/masks/v1.png", None),
        ("d/masks/v1.png", Some(&b"GIF89a"[..])),
        ("d/images/v1.png", Some(b"")),
    ]
    .into_iter()
    .enumerate()
    {
        let good = fs::read(place.path(file)).unwrap();
        match bytes {
            Some(bytes) => place.write(file, bytes),
            None => place.cut(file, 0.6),
        }
        let ran = place.run("eval --weights run --json - --csv lines.csv --config run/config.yaml");
        ran.exits(2)
            .says(&[file, "1 of 2 images could not be scored"]);
        let found: Value = serde_json::from_str(&ran.out).unwrap();
        assert_eq!(found["failed"], 1, "case {i}");
        assert_eq!(found["pixels"], pixels, "case {i}");
        let csv = fs::read_to_string(place.path("lines.csv")).unwrap();
        assert_eq!(csv.lines().count(), 2, "{csv}");
        place.write(file, good);
    }
    place
        .run("eval --weights run --config run/config.yaml")
        .exits(0);
}

#[test]
fn absent_classes_are_named_by_train_the_check_and_the_report() {
    let all = ["l0", "l1", "l2", "v0", "v1"];
    // What, which masks hold which values, a setting, and what is said.
    type Case<'a> = (&'a str, &'a [&'a str], &'a [u8], &'a str, &'a [&'a str]);
    let cases: [Case; 5] = [
        (
            "black and white",
            &all,
            &[0, 255],
            "data.classes=2",
            &[
                "no labelled mask holds class 1 of 2",
                "no validation mask holds class 1",
                "remap: {255: 1}",
            ],
        ),
        (
            "one too many",
            &[],
            &[],
            "data.classes=4",
            &["no labelled mask holds class 3 of 4"],
        ),
        (
            "unused 0",
            &all,
            &[1, 2],
            "data.classes=3",
            &["no labelled mask holds class 0 of 3"],
        ),
        (
            "nothing but void",
            &["l0", "l1", "l2"],
            &[255],
            "data.classes=3",
            &["no labelled mask holds any class"],
        ),
        (
            "validation alone",
            &["v0", "v1"],
            &[0, 1],
            "data.class_names=[sky, road, car]",
            &["no validation mask holds class 2 (car) of 3"],
        ),
    ];
    for (what, masks, values, set, says) in cases {
        let place = Place::new();
        for mask in masks {
            place.mask(&format!("d/masks/{mask}.png"), values);
        }
        let mut args: Vec<String> = "dataset check --config tiny.yaml --set"
            .split(' ')
            .map(String::from)
            .collect();
        args.push(set.into());
        let mut check = Command::new(assert_cmd::cargo::cargo_bin("u2pl-engine"));
        check.args(&args);
        let checked = place.ran(check);
        checked.exits(0).says(says);
        let mut train = Command::new(assert_cmd::cargo::cargo_bin("u2pl-engine"));
        train.args([
            "train",
            "--config",
            "tiny.yaml",
            "--out",
            "run",
            "--set",
            set,
        ]);
        let trained = place.ran(train);
        trained.exits(0).says(says);
        let count = trained.all().matches(says[0]).count();
        assert_eq!(count, 1, "{what}: {}", trained.all());
        let report = place.run("report run --out page.html");
        let page = fs::read_to_string(place.path("page.html")).unwrap();
        assert!(page.contains("mask holds"), "{what}: {}", report.all());
    }
    let place = Place::new();
    let trained = place.run("train --config tiny.yaml --out run");
    assert!(
        !trained.exits(0).all().contains("mask holds"),
        "{}",
        trained.all()
    );
}

#[test]
fn pairs_in_one_folder_are_a_dataset() {
    for (image, mask) in [
        ("jpg", "_mask"),
        ("png", "_label"),
        ("png", "-mask"),
        ("jpeg", "_gt"),
    ] {
        let place = Place::new();
        for i in 0..6 {
            place.image(&format!("p/x{i}.{image}"), i);
            place.mask(&format!("p/x{i}{mask}.png"), &[0, 1, 2]);
        }
        place.image("p/alone.png", 9);
        place.image("p/._x0.png", 9);
        place.run("dataset check p").exits(0).says(&[
            "6 with a mask, 1 without",
            "mask_dir",
            "suspicious   nothing",
            "1 hidden",
        ]);
        place
            .run("split --data p --labeled 3 --val 2 --out s")
            .exits(0);
        let args = "--set data.root=p --set data.image_dir=. --set data.mask_dir=. \
                    --set data.labeled=s/labeled.txt --set data.unlabeled=p --set data.val=s/val.txt";
        place
            .run(&format!("train --config tiny.yaml {args} --out run"))
            .exits(0);
        let ran = place.run("infer --weights run --input p --out o");
        ran.exits(0).says(&["7 of 7 images"]);
    }
}

#[cfg(unix)]
#[test]
fn linked_folders_are_part_of_a_dataset_and_circles_end() {
    use std::os::unix::fs::symlink;
    let place = Place::new();
    for name in ["far/a/x0.png", "far/b/x1.png", "d/images/u2.png"] {
        place.image(name, 3);
    }
    let at = |name: &str| place.path(name);
    symlink(at("far"), at("d/images/more")).unwrap();
    symlink(at("d/images"), at("d/images/circle")).unwrap();
    symlink(at("far"), at("far/a/up")).unwrap();
    symlink(at("nowhere.png"), at("d/images/gone.png")).unwrap();
    // Seven images of the lists, u2, and two behind the link.
    let check = place.run("dataset check d");
    check.exits(0).says(&[
        "5 with a mask, 5 without",
        "2 links to folders left out that had been looked into",
        "1 links left out that lead nowhere",
    ]);
    let ran = place.run("train --config tiny.yaml --set data.unlabeled=images --out run");
    ran.exits(0);
    let ran = place.run("infer --weights run --input d/images --recursive --out o");
    ran.exits(0).says(&["10 of 10 images"]);
    assert!(at("o/masks/more/a/x0.png").is_file());
}

#[test]
fn a_turned_photo_is_told_of_and_its_mask_explained() {
    let place = Place::new();
    // 40 × 36 as it is seen, stored on its side.
    let block = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
    let stored = image::RgbImage::from_fn(36, 40, |x, y| image::Rgb([x as u8, y as u8, 0]));
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, 36, 40);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header().unwrap();
    writer
        .write_chunk(png::chunk::ChunkType(*b"eXIf"), block)
        .unwrap();
    writer.write_image_data(&stored).unwrap();
    writer.finish().unwrap();
    for (name, ok) in [("l1", true), ("v0", true), ("u1", true)] {
        let file = format!("d/images/{name}.png");
        let before = fs::read(place.path(&file)).unwrap();
        place.write(&file, &bytes);
        let run = format!("run-{name}");
        let says = [
            "1 images are turned as their EXIF orientation says",
            name,
            "data.exif: ignore",
        ];
        place
            .run("dataset check --config tiny.yaml")
            .exits(0)
            .says(&says);
        let train = format!("train --config tiny.yaml --out {run}");
        place.run(&train).exits(if ok { 0 } else { 2 }).says(&says);
        place.write(&file, before);
    }
    // A mask drawn on the stored pixels.
    place.write("d/images/l1.png", &bytes);
    let on_side = image::GrayImage::from_pixel(36, 40, image::Luma([1]));
    on_side.save(place.path("d/masks/l1.png")).unwrap();
    let says = ["l1.png", "EXIF orientation 6", "data.exif: ignore"];
    place
        .run("train --config tiny.yaml --out bad")
        .exits(2)
        .says(&says);
    place
        .run("dataset check --config tiny.yaml")
        .exits(0)
        .says(&says);
    place
        .run("train --config tiny.yaml --out good --set data.exif=ignore")
        .exits(0);
    // Results lie as the photo is seen.
    place
        .run("infer --weights run-l1 --input d/images/l1.png --out o")
        .exits(0);
    let mask = image::open(place.path("o/masks/l1.png")).unwrap();
    assert_eq!((mask.width(), mask.height()), (40, 36));
}

#[cfg(unix)]
#[test]
fn a_disk_that_is_full_is_told_before_there_is_anything_to_lose() {
    let place = Place::new();
    // Files may not grow past 8 KiB: what a full disk says, too.
    let mut shell = Command::new("sh");
    let binary = assert_cmd::cargo::cargo_bin("u2pl-engine");
    let line = format!(
        "trap '' XFSZ; ulimit -f 16; exec '{}' train --config tiny.yaml --out run",
        binary.display()
    );
    shell.args(["-c", &line]);
    let ran = place.ran(shell);
    ran.exits(2).says(&["last.safetensors"]);
    let left = fs::read_dir(place.path("run/checkpoints")).unwrap();
    assert_eq!(left.count(), 0);
}
