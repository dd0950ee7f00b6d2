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
        // The report comes whole, and then what training would stop at.
        let whole = place.run("dataset check --config tiny.yaml");
        whole.exits(2).says(&[
            &file,
            "truncated or damaged",
            "check: 7/7",
            "error: tiny.yaml: training would stop: 1",
        ]);
        place.run("train --config tiny.yaml --out run").exits(2);
        let json = place.run("dataset check --config tiny.yaml --json -");
        let found: Value = serde_json::from_str(&json.exits(2).out).unwrap();
        assert_eq!(found["suspicious"].as_array().unwrap().len(), 1);
        place.run("dataset check d").exits(0).says(&[&file]);
        let fast = place.run("dataset check --config tiny.yaml --fast");
        fast.exits(0).says(&[
            "suspicious   nothing",
            "--fast: 7 images were not decoded: damage behind the headers goes unseen",
        ]);
    }
}

#[test]
fn the_check_ends_as_training_would() {
    type Change = fn(&Place);
    let cases: [(&str, Change, &str, i32, &[&str]); 8] = [
        (
            "few enough",
            |p| p.write("d/images/u1.png", b""),
            "data.max_bad_unlabeled=0.5",
            0,
            &[
                "d/images/u1.png: is empty",
                "1 of 2 unlabelled images cannot be used, 1 is allowed",
            ],
        ),
        (
            "too many",
            |p| p.write("d/images/u1.png", b""),
            "data.max_bad_unlabeled=0.4",
            2,
            &["1 of 2 unlabelled images cannot be used, 0 are allowed"],
        ),
        (
            "an empty mask",
            |p| p.write("d/masks/v0.png", b""),
            "data.classes=3",
            2,
            &["d/masks/v0.png: is empty"],
        ),
        (
            "a missing mask",
            |p| fs::remove_file(p.path("d/masks/l2.png")).unwrap(),
            "data.classes=3",
            2,
            &["l.txt:3: the mask d/masks/l2.png does not exist"],
        ),
        (
            "a label too many",
            |p| p.mask("d/masks/l0.png", &[0, 9]),
            "data.classes=3",
            2,
            &["d/masks/l0.png"],
        ),
        (
            "an image too small",
            |p| {
                let small = image::GrayImage::new(3, 3);
                small.save(p.path("d/masks/l0.png")).unwrap();
                image::RgbImage::new(3, 3)
                    .save(p.path("d/images/l0.png"))
                    .unwrap();
            },
            "augment.scale=[0.2, 1.0]",
            2,
            &["d/images/l0.png: the image is 3 × 3, too small"],
        ),
        (
            "nothing but void",
            |p| p.mask("d/masks/l0.png", &[255]),
            "data.classes=3",
            0,
            &["l0.png"],
        ),
        (
            "a mask that does not count",
            |p| p.write("d/masks/u0.png", b"GIF"),
            "data.classes=3",
            0,
            &["d/masks/u0.png"],
        ),
    ];
    for (what, change, set, code, says) in cases {
        let place = Place::new();
        change(&place);
        for command in ["dataset check", "train --out run --max-iters 1"] {
            let mut run = Command::new(assert_cmd::cargo::cargo_bin("u2pl-engine"));
            run.args(command.split(' '));
            run.args(["--config", "tiny.yaml", "--set", set]);
            let ran = place.ran(run);
            assert_eq!(ran.code, code, "{what}, {command}: {}", ran.all());
            // Training counts in other words, and does not mind a mask of void.
            if command == "dataset check" {
                ran.says(says);
            } else if what != "nothing but void" {
                ran.says(&says[..1]);
            }
        }
    }
}

/// What stands in the place of an unlabelled image's mask and is none.
#[cfg(unix)]
#[test]
fn no_file_in_the_place_of_a_mask_is_told_of() {
    use std::os::unix::fs::symlink;
    type Make = fn(&Place);
    let kinds: [(Make, &str); 3] = [
        (
            |p| symlink("nowhere", p.path("d/masks/u1.png")).unwrap(),
            "is a link that leads nowhere",
        ),
        (
            |p| fs::create_dir(p.path("d/masks/u1.png")).unwrap(),
            "is a folder, not a file",
        ),
        (
            |p| {
                let mut pipe = Command::new("mkfifo");
                assert!(
                    pipe.arg(p.path("d/masks/u1.png"))
                        .status()
                        .unwrap()
                        .success()
                );
            },
            "is a pipe or a device, not a file",
        ),
    ];
    for (make, says) in kinds {
        let place = Place::new();
        make(&place);
        let check = place.run("dataset check --config tiny.yaml");
        check.exits(0).says(&["d/masks/u1.png", says, "check: 7/7"]);
        let check = place.run("dataset check d");
        check.exits(0).says(&[
            &format!("suspicious   d/masks/u1.png: {says}"),
            "5 with a mask, 2 without",
        ]);
        let split = place.run("split --data d --labeled 2 --out s");
        split.exits(0).says(&["1 mask is no file", says]);
        let train = place.run("train --config tiny.yaml --out run --max-iters 1");
        train.exits(0).says(&[
            "1 mask of an unlabelled image cannot be used",
            "u1.png",
            says,
        ]);
        assert!(!train.all().contains("does not exist"), "{}", train.all());
        // In the place of a mask that counts it is an error of the same words.
        fs::rename(place.path("d/masks/u1.png"), place.path("d/masks/x.png")).unwrap();
        fs::remove_file(place.path("d/masks/l0.png")).unwrap();
        fs::rename(place.path("d/masks/x.png"), place.path("d/masks/l0.png")).unwrap();
        let train = place.run("train --config tiny.yaml --out run2");
        train
            .exits(2)
            .says(&["l.txt:1: the mask d/masks/l0.png", says]);
    }
}

#[test]
fn what_is_named_twice_is_scored_once_and_said_so() {
    let place = Place::new();
    place
        .run("train --config tiny.yaml --out run --max-iters 1")
        .exits(0);
    let eval = "eval --weights run --config run/config.yaml --json - --csv lines.csv";
    let once = place.run(eval);
    let pixels = |ran: &Ran| -> u64 {
        let found: Value = serde_json::from_str(&ran.out).unwrap();
        assert_eq!(found["images"], 2);
        found["pixels"].as_u64().unwrap()
    };
    assert!(!once.exits(0).all().contains("named more than once"));
    place.write(
        "d/v.txt",
        "v0\nv1\n./v0\nv0.png\nimages/../images/v1.png masks/v1.png\n",
    );
    let twice = place.run(&format!("{eval} --masks o"));
    twice
        .exits(0)
        .says(&["2 images are named more than once, and scored once, the first v0"]);
    assert_eq!(pixels(&twice), pixels(&once));
    let csv = fs::read_to_string(place.path("lines.csv")).unwrap();
    assert_eq!(csv.lines().count(), 3, "{csv}");
    assert_eq!(fs::read_dir(place.path("o")).unwrap().count(), 2);
    let train = place.run("train --config tiny.yaml --out other --max-iters 1");
    train.exits(0).says(&["named more than once in a list"]);
    let input = "d/images/v0.png d/images/v1.png d/images/../images/v0.png";
    let ran = place.run(&format!("infer --weights run --out p --input {input}"));
    ran.exits(0)
        .says(&["1 repeated name of an image left out", "2 of 2 images"]);
}

#[test]
fn eval_says_what_its_numbers_are_of() {
    let place = Place::new();
    place
        .run("train --config tiny.yaml --out run --max-iters 1")
        .exits(0);
    let eval = "eval --weights run --config run/config.yaml";
    // The truth is of one class in turn: whatever else is predicted counts with 0.
    for class in [0u8, 1, 2] {
        for name in ["v0", "v1"] {
            place.mask(&format!("d/masks/{name}.png"), &[class]);
        }
        let ran = place.run(&format!("{eval} --json -"));
        let found: Value = serde_json::from_str(&ran.exits(0).out).unwrap();
        let predicted = |c: u8| found["confusion"][class as usize][c as usize] != 0;
        let others: Vec<u8> = (0..3).filter(|&c| c != class && predicted(c)).collect();
        assert_eq!(found["predicted_without_truth"], serde_json::json!(others));
        for c in (0..3).filter(|&c| c != class) {
            let iou = &found["iou"][c as usize];
            match predicted(c) {
                true => assert_eq!(iou, 0.0),
                false => assert!(iou.is_null(), "{iou}"),
            }
        }
        let said = ran.all().matches("counts in the mIoU").count();
        assert_eq!(said, usize::from(!others.is_empty()), "{}", ran.all());
    }
    // An image without a mask: which line, and what to do.
    fs::remove_file(place.path("d/masks/v1.png")).unwrap();
    let ran = place.run(&format!("{eval} --list d/v.txt"));
    ran.exits(2).says(&[
        "v.txt:2: the mask d/masks/v1.png does not exist",
        "give the image a mask, take it out of the list",
        "1 of 2 images could not be scored",
    ]);
}

#[test]
fn masks_of_0_and_another_value_get_the_line_to_paste() {
    for (ignore, value, classes, hint) in [
        (254, 255, 2, "`remap: {255: 1}`"),
        (9, 255, 5, "`classes: 2` and `remap: {255: 1}`"),
        (255, 128, 2, "`remap: {128: 1}`"),
    ] {
        let place = Place::new();
        for name in ["l0", "l1", "l2", "v0", "v1"] {
            place.mask(&format!("d/masks/{name}.png"), &[0, value]);
        }
        let sets = format!("--set data.classes={classes} --set data.ignore_index={ignore}");
        let says = format!("if {value} is the second class, add to data: {hint}");
        for command in ["dataset check", "train --out run"] {
            let ran = place.run(&format!("{command} --config tiny.yaml {sets}"));
            ran.exits(2).says(&[&says]);
        }
        let remap = format!("--set data.classes=2 --set data.remap={{\"{value}\":1}}");
        let ran = place.run(&format!(
            "train --out good --max-iters 1 --config tiny.yaml {sets} {remap}"
        ));
        ran.exits(0);
    }
    // Three values are no second class.
    let place = Place::new();
    place.mask("d/masks/l0.png", &[0, 128, 255]);
    let ran = place.run("train --config tiny.yaml --set data.classes=2 --out run");
    assert!(
        !ran.exits(2).all().contains("second class"),
        "{}",
        ran.all()
    );
}

#[test]
fn lists_in_two_folders_are_named() {
    let place = Place::new();
    for folder in ["lists", "splits"] {
        for (name, lines) in [("labeled", "l0\nl1"), ("val", "v0")] {
            place.write(&format!("d/{folder}/{name}.txt"), lines);
        }
    }
    place.write("d/splits/unlabeled.txt", "u0\n");
    let check = place.run("dataset check d");
    check.exits(0).says(&[
        "2 labelled, 1 unlabelled, 1 validation",
        "lists lie in more than one folder: d/lists/labeled.txt, d/splits/unlabeled.txt, \
         d/lists/val.txt taken, d/splits/labeled.txt, d/splits/val.txt not",
        "no mask      u0, u1",
    ]);
    fs::remove_dir_all(place.path("d/lists")).unwrap();
    let check = place.run("dataset check d");
    assert!(!check.exits(0).all().contains("more than one folder"));
}

#[cfg(unix)]
#[test]
fn a_link_upwards_makes_no_images_of_masks() {
    use std::os::unix::fs::symlink;
    let place = Place::new();
    symlink("..", place.path("d/images/loop")).unwrap();
    symlink("../..", place.path("d/images/top")).unwrap();
    let says = "2 links left out that lead to folders above, the first";
    let told = |ran: &Ran| {
        ran.exits(0).says(&[says]);
        assert_eq!(ran.all().matches(says).count(), 1, "{}", ran.all());
    };
    let check = place.run("dataset check d");
    told(&check);
    check.says(&["5 with a mask, 2 without", "no mask      u0, u1"]);
    let split = place.run("split --data d --labeled 2 --draw class-balanced --out s");
    told(&split);
    split.says(&["2 labelled", "5 unlabelled"]);
    let train = "train --config tiny.yaml --set data.unlabeled=images --out run --max-iters 1";
    told(&place.run(train));
    let ran = place.run("infer --weights run --input d/images --recursive --out o");
    told(&ran);
    ran.says(&["7 of 7 images"]);
    // Masks within what is taken for unlabelled images are none either.
    let ran = place.run("train --config tiny.yaml --set data.unlabeled=d --out r2 --max-iters 1");
    ran.exits(0)
        .says(&["1 folder of masks or results left out"]);
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
        "2 links left out to folders that had been looked into",
        "1 link left out that leads nowhere",
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
            "1 image is turned as its EXIF orientation says",
            name,
            "data.exif: ignore",
        ];
        place
            .run("dataset check --config tiny.yaml")
            .exits(0)
            .says(&says);
        let train = format!("train --config tiny.yaml --out {run}");
        let trained = place.run(&train);
        trained.exits(if ok { 0 } else { 2 }).says(&says);
        // Nothing is wrong with it.
        let warns = |l: &str| l.contains("WARN") && l.contains("EXIF");
        assert!(!trained.err.lines().any(warns), "{}", trained.err);
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
        .exits(2)
        .says(&says);
    place
        .run("train --config tiny.yaml --out good --set data.exif=ignore")
        .exits(0);
    // And one drawn on what is seen, where the stored pixels are taken.
    place.mask("d/masks/l1.png", &[0, 1, 2]);
    let says = [
        "l1.png: the mask is 40 × 36 (width × height), as its image is seen",
        "36 × 40",
        "EXIF orientation 6",
        "set data.exif: apply",
    ];
    for command in ["train --out no", "dataset check"] {
        place
            .run(&format!(
                "{command} --config tiny.yaml --set data.exif=ignore"
            ))
            .exits(2)
            .says(&says);
    }
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
