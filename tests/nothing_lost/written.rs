//! Files of results: each under a name of its own, or nothing is written at all.

use std::fs;
use std::path::Path;

use super::place::{EVAL, INFER, Place, assert_says, names, with};

/// All files below a folder, sorted.
fn files(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => open.push(path),
                false => found.push(path.strip_prefix(folder).unwrap().display().to_string()),
            }
        }
    }
    found.sort();
    found
}

/// Copies of image 0 and its mask under other names, and a list of them.
fn copies(place: &Place, images: &[&str], list: &str) {
    for image in images {
        let stem = image.rsplit_once('.').unwrap().0;
        for (from, to) in [
            ("images/0.png", format!("images/{image}")),
            ("masks/0.png", format!("masks/{stem}.png")),
        ] {
            let to = place.path(&to);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(place.path(from), to).unwrap();
        }
    }
    fs::write(place.path(list), images.join("\n")).unwrap();
}

#[test]
fn eval_names_results_as_infer_does() {
    let place = Place::new();
    let images = [
        "v.2.png",
        "v.10.png",
        "left/1.png",
        "right/1.png",
        "right/x y.z/1.png",
    ];
    copies(&place, &images, "list.txt");
    for image in ["0", "1", "2"] {
        fs::remove_file(place.path(&format!("images/{image}.png"))).unwrap();
    }
    let base = with(&EVAL, &["--set", "data.root=.", "--list", "list.txt"]);
    place.succeed(&with(&base, &["--masks", "out", "--csv", "out.csv"]));
    place.succeed(&with(
        &INFER,
        &["--input", "images", "--recursive", "--out", "seen"],
    ));
    assert_eq!(files(&place.path("out")).len(), images.len());
    assert_eq!(files(&place.path("out")), files(&place.path("seen/masks")));
    let csv = fs::read_to_string(place.path("out.csv")).unwrap();
    let mut named: Vec<&str> = csv
        .lines()
        .skip(1)
        .map(|l| l.split(',').next().unwrap())
        .collect();
    named.sort_unstable();
    assert_eq!(named, ["left/1", "right/1", "right/x y.z/1", "v.10", "v.2"]);
}

#[test]
fn what_would_be_overwritten_is_refused_before_anything_is_written() {
    let place = Place::new();
    copies(&place, &["a.png", "b/../c.png"], "list.txt");
    fs::copy(place.path("images/0.png"), place.path("images/a.jpg")).unwrap();
    let base = with(&EVAL, &["--set", "data.root=."]);
    for (list, more, says) in [
        // One name, two endings.
        (
            "a.jpg\na.png\n",
            &["--masks", "o"][..],
            "would overwrite those of",
        ),
        (
            "a.jpg\na.png\n",
            &["--csv", "o.csv"],
            "would overwrite those of",
        ),
        ("a.png\n", &["--masks", "masks"], "not empty"),
        ("a.png\n", &["--csv", "o", "--json", "o"], "the same file"),
        (
            "a.png\n",
            &["--csv", "none/o.csv"],
            "its folder does not exist",
        ),
        (
            "a.png\n",
            &["--json", "none/o.json"],
            "its folder does not exist",
        ),
        ("a.png\n", &["--json", "images"], "is a folder"),
    ] {
        fs::write(place.path("l.txt"), list).unwrap();
        let before = fs::read(place.path("masks/a.png")).unwrap();
        let line = place.mistake(&[&base[..], &["--list", "l.txt"], more].concat());
        assert_says(&line, &[says]);
        assert!(!place.path("o").exists() && !place.path("o.csv").exists());
        assert_eq!(fs::read(place.path("masks/a.png")).unwrap(), before);
    }
    // The same image twice is one image; and what is wanted can be overwritten.
    fs::write(place.path("l.txt"), "a.png\na.png\n./a.png\n").unwrap();
    for force in [&[][..], &["--force"]] {
        let more = [&["--list", "l.txt", "--masks", "o"], force].concat();
        place.succeed(&with(&base, &more));
        assert_eq!(names(&place.path("o")), ["a.png"]);
    }
    // Nothing leaves the output folder.
    fs::write(place.path("l.txt"), "images/../images/a.png masks/a.png\n").unwrap();
    place.succeed(&with(&base, &["--list", "l.txt", "--masks", "p/q"]));
    assert_eq!(files(&place.path("p")), ["q/images/a.png"]);
}

#[test]
fn an_image_that_fails_does_not_cost_what_was_found_before() {
    let place = Place::new();
    fs::write(place.path("images/1.png"), b"no picture").unwrap();
    let base = with(&EVAL, &["--set", "data.root=.", "--list", "val.txt"]);
    let (code, _, said) = place.run(&with(&base, &["--csv", "o.csv", "--masks", "o"]));
    assert_eq!(code, 2, "{said}");
    assert_says(
        &said,
        &["images/1.png", "1 of 3 images could not be scored"],
    );
    let csv = fs::read_to_string(place.path("o.csv")).unwrap();
    assert!(csv.lines().nth(1).unwrap().starts_with("0,1320,"), "{csv}");
    assert_eq!(names(&place.path("o")), ["0.png", "2.png"]);
}

/// A file larger than `ulimit -f` allows is as good as a full disk: the write fails half-way.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_what_was_there() {
    let place = Place::new();
    let base = [env!("CARGO_BIN_EXE_u2pl-engine")];
    let run = |args: &[&str]| {
        let shell = "ulimit -f 8; trap '' XFSZ; exec \"$@\"";
        let output = std::process::Command::new("sh")
            .args(["-c", shell, "sh"])
            .args(base)
            .args(args)
            .current_dir(place.dir.path())
            .output()
            .unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let big = image::RgbImage::from_fn(300, 200, |x, y| {
        image::Rgb([
            (x * y % 251) as u8,
            (x * 7 + y * y) as u8,
            (y * 31 % 253) as u8,
        ])
    });
    big.save(place.path("images/0.png")).unwrap();
    fs::write(place.path("old.onnx"), "old").unwrap();
    fs::write(place.path("old.pth"), "old").unwrap();
    fs::write(place.path("old.safetensors"), "old").unwrap();
    let weights = ["--weights", "w.safetensors", "--config", "run.yaml"];
    for (args, kept) in [
        (
            [&["export"][..], &weights, &["--out", "old.onnx", "--force"]].concat(),
            "old.onnx",
        ),
        (
            vec!["convert", "w.safetensors", "old.pth", "--force"],
            "old.pth",
        ),
        (
            vec!["convert", "w.safetensors", "old.safetensors", "--force"],
            "old.safetensors",
        ),
    ] {
        let (code, stderr) = run(&args);
        assert_eq!(code, Some(2), "{args:?}: {stderr}");
        assert_says(&stderr, &["error: ", kept]);
        assert_eq!(fs::read_to_string(place.path(kept)).unwrap(), "old");
    }
    let (code, stderr) = run(&[
        &["infer"][..],
        &weights,
        &["--input", "images/0.png", "--out", "o", "--overlay"],
    ]
    .concat());
    assert_eq!(code, Some(2), "{stderr}");
    assert_says(&stderr, &["error: o/", "0.png: cannot write"]);
    let left: Vec<String> = files(place.dir.path())
        .into_iter()
        .filter(|f| f.contains(".part"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}
