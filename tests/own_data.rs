//! Data of one's own: lists from any editor, folders without masks, remapped labels, `split` and
//! `dataset check`.
#![cfg(feature = "cli")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use assert_cmd::Command;
use serde_json::Value;
use tempfile::TempDir;
use u2pl_engine::config::Config;
use u2pl_engine::data::discover::discover;
use u2pl_engine::data::list::{lines, repeated, shared};
use u2pl_engine::data::split::{make_balanced_split, write_lists};
use u2pl_engine::data::{Dataset, Part, check};

/// A folder `images/` + `masks/` of 12 × 8 pixels.
struct Place(TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    /// Image `id` and, of these values by turns, its mask.
    fn pair(&self, id: &str, values: &[u8]) {
        self.image(&format!("images/{id}.png"));
        self.mask(&format!("masks/{id}.png"), values);
    }

    fn image(&self, name: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        image::RgbImage::from_fn(12, 8, |x, y| image::Rgb([x as u8, y as u8, 9]))
            .save(path)
            .unwrap();
    }

    fn mask(&self, name: &str, values: &[u8]) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let value = |x: u32, y: u32| values[(y * 12 + x) as usize % values.len()];
        image::GrayImage::from_fn(12, 8, |x, y| image::Luma([value(x, y)]))
            .save(path)
            .unwrap();
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn config(&self, more: &[&str]) -> Config {
        let mut sets = vec![
            "data.kind=folder".to_string(),
            format!("data.root={}", self.0.path().display()),
            "data.labeled=labeled.txt".into(),
            "data.unlabeled=unlabeled.txt".into(),
            "data.val=val.txt".into(),
            "data.classes=3".into(),
        ];
        sets.extend(more.iter().map(ToString::to_string));
        Config::load(None, &sets).unwrap()
    }

    fn run(&self, args: &[&str]) -> (i32, String, String) {
        let output = Command::cargo_bin("u2pl-engine")
            .unwrap()
            .args(args)
            .current_dir(self.0.path())
            .env_remove("RUST_LOG")
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let code = output.status.code().unwrap();
        (code, text(output.stdout), text(output.stderr))
    }

    fn succeed(&self, args: &[&str]) -> String {
        let (code, stdout, stderr) = self.run(args);
        assert_eq!(code, 0, "{args:?}: {stderr}");
        stdout
    }

    fn named(&self, list: &str) -> Vec<String> {
        let lines = lines(&self.path(list)).unwrap();
        lines.into_iter().map(|(_, line)| line).collect()
    }
}

fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
}

#[test]
fn lists_from_any_editor_name_the_same_images() {
    let place = Place::new();
    let wide = |text: &str, bytes: fn(u16) -> [u8; 2]| -> Vec<u8> {
        text.encode_utf16().flat_map(bytes).collect()
    };
    let text = "# drawn by hand\r\n\r\n  a\r\nb \r\n\n";
    let variants: [Vec<u8>; 6] = [
        b"a\nb".to_vec(),
        b"#\ra\rb\r".to_vec(),
        text.into(),
        [b"\xEF\xBB\xBF", text.as_bytes()].concat(),
        wide(&format!("\u{feff}{text}"), u16::to_le_bytes),
        wide(&format!("\u{feff}{text}"), u16::to_be_bytes),
    ];
    for (i, bytes) in variants.iter().enumerate() {
        place.write("list.txt", bytes);
        assert_eq!(place.named("list.txt"), ["a", "b"], "variant {i}");
    }
    // Numbers are those of the file.
    let path = place.write("list.txt", text);
    assert_eq!(lines(&path).unwrap()[0], (3, "a".to_string()));

    for (bytes, part) in [
        (&b""[..], "the list is empty"),
        (b"# nothing\n \n", "the list is empty"),
        (b"\xE9t\xE9", "save it as UTF-8"),
        (&[b'x'; 10_000], "a line of 10000 bytes"),
    ] {
        let path = place.write("list.txt", bytes);
        let error = lines(&path).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert_says(&error.to_string(), &["list.txt:", part]);
    }
}

#[test]
fn what_lists_name_twice_is_found() {
    let place = Place::new();
    for id in ["a", "b", "c"] {
        place.pair(id, &[0, 1, 2]);
    }
    place.write("labeled.txt", "a\nb\n# a\na.png\n");
    place.write("unlabeled.txt", "c\n");
    place.write("val.txt", "b\n");
    let cfg = place.config(&["augment.scale=[1.0, 1.0]"]);
    let of = |part| Dataset::open(&cfg, part).unwrap().samples().to_vec();
    let (labeled, unlabeled, val) = (of(Part::Labeled), of(Part::Unlabeled), of(Part::Val));
    let twice = repeated(&labeled);
    assert_eq!(twice.len(), 1);
    assert!(twice[0].at[0].ends_with("labeled.txt:1") && twice[0].at[1].ends_with("labeled.txt:4"));
    assert_eq!(shared(&labeled, &unlabeled), []);
    let both = shared(&labeled, &val);
    assert!(both[0].at[0].ends_with("labeled.txt:2") && both[0].at[1].ends_with("val.txt:1"));
    // Doubtful, not wrong.
    check(&cfg).unwrap();

    let config = cfg.to_yaml().unwrap();
    place.write("run.yaml", config);
    let said = place.succeed(&["dataset", "check", "--config", "run.yaml"]);
    assert_says(
        &said,
        &[
            "3 labelled, 1 unlabelled, 1 validation",
            "1 image is named more than once in the labelled list",
            "1 image is in both the labelled and validation lists",
        ],
    );
}

#[test]
fn a_folder_of_images_is_an_unlabelled_list() {
    let place = Place::new();
    place.pair("a", &[0, 1, 2]);
    for name in ["more/z.png", "more/deep/y.PNG", "more/notes.txt"] {
        match name.ends_with("txt") {
            true => drop(place.write(name, "x")),
            false => {
                place.image("more/z.png");
                fs::create_dir_all(place.path("more/deep")).unwrap();
                fs::copy(place.path("more/z.png"), place.path(name)).unwrap_or(0);
            }
        }
    }
    place.write("labeled.txt", "a\n");
    place.write("val.txt", "a\n");
    let cfg = place.config(&["data.unlabeled=more", "augment.scale=[1.0, 1.0]"]);
    let found = check(&cfg).unwrap();
    let unlabeled = found.unlabeled.unwrap();
    assert_eq!(
        (unlabeled.id(0), unlabeled.id(1)),
        ("deep_y".into(), "z".into())
    );
    assert_eq!(unlabeled.decode(1).unwrap().label, None);

    // Labels cannot come from nowhere.
    let cfg = place.config(&["data.labeled=more"]);
    let error = Dataset::open(&cfg, Part::Labeled).unwrap_err().to_string();
    assert_says(&error, &["more", "is a folder", "data.labeled"]);
    fs::create_dir(place.path("empty")).unwrap();
    let cfg = place.config(&["data.unlabeled=empty"]);
    let error = Dataset::open(&cfg, Part::Unlabeled)
        .unwrap_err()
        .to_string();
    assert_says(&error, &["empty", "no .jpg"]);
}

#[test]
fn remapped_values_become_labels() {
    let place = Place::new();
    place.pair("a", &[0, 100, 200, 7]);
    for list in ["labeled.txt", "unlabeled.txt", "val.txt"] {
        place.write(list, "a\n");
    }
    let cfg = place.config(&["data.remap={100: 1, 200: 2, 7: 255}"]);
    cfg.validate().unwrap();
    let label = Dataset::open(&cfg, Part::Val)
        .unwrap()
        .decode(0)
        .unwrap()
        .label
        .unwrap();
    assert_eq!(label[..5], [0, 1, 2, 255, 0]);

    let cfg = place.config(&["data.remap={100: 1, 200: 2}"]);
    let error = Dataset::open(&cfg, Part::Val)
        .unwrap()
        .decode(0)
        .unwrap_err();
    assert_says(
        &error.to_string(),
        &["masks/a.png", "class index 7", "column 3", "data.remap"],
    );

    // It survives being written and read.
    let text = cfg.to_yaml().unwrap();
    assert_eq!(Config::parse("written", &text, &[]).unwrap(), cfg);
    let text = cfg.to_brief_yaml().unwrap();
    assert_eq!(Config::parse("written", &text, &[]).unwrap(), cfg);
    assert_says(&text, &["\"100\": 1"]);

    let wrong = |text: &str| {
        let loaded = Config::parse("run.yaml", text, &[]);
        let checked = loaded.and_then(|cfg| cfg.validate_for_use());
        checked.unwrap_err().to_string()
    };
    assert_says(
        &wrong("data:\n  remap: 5\n"),
        &["run.yaml:2", "`data.remap` is a map"],
    );
    assert_says(
        &wrong("data:\n  remap: {x: 1}\n"),
        &["run.yaml:2", "data.remap"],
    );
    assert_says(
        &wrong("data:\n  remap: {300: 1}\n"),
        &["run.yaml:2", "data.remap"],
    );
    assert_says(
        &wrong("data: {classes: 3, remap: {9: 3}}\n"),
        &["data.remap", "9: 3"],
    );
    let both = "data: {classes: 19, encoding: cityscapes-label-id, remap: {9: 3}}\n";
    assert_says(&wrong(both), &["data.remap", "data.encoding"]);
}

/// Twelve images with class 0 alone, two with class 1, one with class 2.
fn lopsided() -> Place {
    let place = Place::new();
    for i in 0..12 {
        place.pair(&format!("common{i:02}"), &[0]);
    }
    place.pair("rare0", &[0, 1]);
    place.pair("rare1", &[1]);
    place.pair("rarest", &[0, 2]);
    place.image("images/bare.png");
    place
}

#[test]
fn balanced_draws_hold_the_rare_classes_and_grow() {
    let ids: Vec<String> = (0..10).map(|i| i.to_string()).collect();
    let classes: Vec<Vec<u8>> = (0..10)
        .map(|i| match i {
            7 => vec![0, 1],
            3 => vec![2],
            9 => Vec::new(),
            _ => vec![0],
        })
        .collect();
    for seed in 0..20 {
        let draw = |n| make_balanced_split(&ids, &classes, n, seed).unwrap();
        let (three, rest) = draw(3);
        assert!(three.contains(&"7".to_string()) && three.contains(&"3".to_string()));
        assert_eq!((three.len(), rest.len()), (3, 7));
        assert_eq!(draw(3), (three.clone(), rest));
        let (five, _) = draw(5);
        assert!(three.iter().all(|id| five.contains(id)));
        // What holds no class comes last.
        assert!(!draw(9).0.contains(&"9".to_string()));
    }
    assert!(make_balanced_split(&ids, &classes, 0, 1).is_err());
    assert!(make_balanced_split(&ids, &classes, 11, 1).is_err());
}

#[test]
fn lists_are_written_all_or_none() {
    let place = Place::new();
    let folder = place.path("lists");
    let ids = ["a".to_string()];
    // The second has no folder to lie in.
    let lists = [("labeled.txt", &ids[..]), ("none/unlabeled.txt", &ids[..])];
    assert_eq!(write_lists(&folder, &lists, "").unwrap_err().exit_code(), 2);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
}

#[test]
fn split_writes_lists_that_say_how_they_came_to_be() {
    let place = lopsided();
    let args = [
        "split",
        "--data",
        ".",
        "--labeled",
        "3",
        "--val",
        "2",
        "--seed",
        "5",
        "--draw",
        "class-balanced",
        "--out",
    ];
    let said = place.succeed(&[&args[..], &["s"]].concat());
    assert_says(&said, &["3 labelled", "11 unlabelled", "2 validation"]);
    let text = fs::read_to_string(place.path("s/labeled.txt")).unwrap();
    assert_says(
        &text,
        &[
            "# u2pl-engine ",
            "15 images with a label, 1 without a mask, 2 set apart",
            "3 of 13 drawn as labelled: class-balanced, seed 5",
        ],
    );
    let all: Vec<String> = ["s/labeled.txt", "s/unlabeled.txt", "s/val.txt"]
        .iter()
        .flat_map(|list| place.named(list))
        .collect();
    let unique: BTreeSet<&String> = all.iter().collect();
    assert_eq!((all.len(), unique.len()), (16, 16));
    assert!(place.named("s/unlabeled.txt").contains(&"bare".to_string()));

    // The same command writes the same bytes; --plain writes ids alone.
    place.succeed(&[&args[..], &["again"]].concat());
    for list in ["labeled.txt", "unlabeled.txt", "val.txt"] {
        let read = |folder: &str| fs::read(place.path(folder).join(list)).unwrap();
        assert_eq!(read("s"), read("again"));
    }
    place.succeed(&[&args[..], &["plain", "--plain"]].concat());
    let plain = fs::read_to_string(place.path("plain/labeled.txt")).unwrap();
    assert_eq!(
        plain.lines().collect::<Vec<_>>(),
        place.named("s/labeled.txt")
    );

    // From a list, with the masks of the folder.
    place.write(
        "train.txt",
        "\u{feff}rare0\r\nrarest\r\ncommon00\r\ncommon01\r\n",
    );
    let from_list = [
        "split",
        "--list",
        "train.txt",
        "--labeled",
        "2",
        "--draw",
        "class-balanced",
    ];
    place.succeed(&[&from_list[..], &["--data", ".", "--out", "t"]].concat());
    let mut drawn = place.named("t/labeled.txt");
    drawn.sort();
    assert_eq!(drawn, ["rare0", "rarest"]);

    let refused = |more: &[&str], parts: &[&str]| {
        let (code, _, stderr) = place.run(&[&["split", "--out", "x"], more].concat());
        assert_eq!(code, 2);
        assert_says(&stderr, parts);
        assert!(!place.path("x").exists());
    };
    refused(
        &[&from_list[1..]].concat(),
        &["--draw class-balanced", "--data DIR"],
    );
    refused(
        &["--data", ".", "--labeled", "9", "--val", "7"],
        &["--val 7", "15 images"],
    );
    place.write("train.txt", "a\nb\na\n");
    refused(
        &["--list", "train.txt", "--labeled", "1"],
        &["train.txt", "names a twice"],
    );
    // A mask that cannot be read holds nobody knows what.
    fs::write(place.path("masks/rare0.png"), b"none").unwrap();
    refused(
        &["--data", ".", "--labeled", "3", "--draw", "class-balanced"],
        &["masks/rare0.png"],
    );
}

/// The configuration that `dataset check` prints, read as a file.
fn advised(said: &str) -> Config {
    let (_, yaml) = said.split_once("The configuration to use:\n").unwrap();
    Config::parse("advice", yaml, &[]).unwrap()
}

#[test]
fn a_folder_is_described_and_its_configuration_loads() {
    let place = lopsided();
    place.mask("masks/lost.png", &[0]);
    place.mask("masks/common00.png", &[255]);
    let small = image::GrayImage::new(5, 8);
    small.save(place.path("masks/common01.png")).unwrap();
    image::RgbImage::new(12, 8)
        .save(place.path("masks/common02.png"))
        .unwrap();
    let said = place.succeed(&["dataset", "check", "."]);
    assert_says(
        &said,
        &[
            "folder: images in ./images, masks in ./masks",
            "15 with a mask, 1 without, 1 mask without an image (first ./masks/lost.png)",
            "12 × 8 (width × height)",
            "class 2",
            "ignored",
            "masks/common00.png: every pixel is ignored",
            "masks/common01.png: the mask is 5 × 8, its image 12 × 8",
            "masks/common02.png: the mask holds RGB colours",
            "u2pl-engine split --data . --labeled",
        ],
    );
    let cfg = advised(&said);
    assert_eq!((cfg.data.classes, cfg.data.remap.len()), (3, 0));
    assert_eq!(cfg.augment.crop, [33, 33]);
    cfg.validate().unwrap();

    // Told the number of classes, it judges the values.
    let said = place.succeed(&["dataset", "check", ".", "--classes", "2"]);
    assert_says(&said, &["rarest.png: 48 pixels are of no class (value 2)"]);

    // The lists it asks for make the configuration complete.
    for name in ["common00", "common01", "common02"] {
        place.mask(&format!("masks/{name}.png"), &[0]);
    }
    let said = place.succeed(&["dataset", "check", "."]);
    let command = said
        .lines()
        .find(|l| l.starts_with("u2pl-engine split"))
        .unwrap();
    let args: Vec<&str> = command.split(' ').skip(1).collect();
    place.succeed(&args);
    let said = place.succeed(&["dataset", "check", "."]);
    assert!(!said.contains("u2pl-engine split"), "{said}");
    assert_says(&said, &["nothing", "3 validation"]);
    place.write("run.yaml", said.split_once("use:\n").unwrap().1);
    let json = place.succeed(&["dataset", "check", "--config", "run.yaml", "--json", "-"]);
    let value: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(value["suspicious"], serde_json::json!([]));
    assert_eq!(value["lists"]["validation"], 3);
}

#[test]
fn grey_levels_and_black_and_white_get_a_remap() {
    let values = |values: &[u8]| -> (Config, String) {
        let place = Place::new();
        place.pair("a", values);
        let said = place.succeed(&["dataset", "check", "."]);
        (advised(&said), said)
    };
    let (cfg, said) = values(&[0, 255]);
    assert_eq!(cfg.data.remap, [(255, 1)].into());
    assert_eq!(cfg.data.classes, 2);
    assert_says(&said, &["255 → 1", "notes"]);
    let (cfg, _) = values(&[0, 85, 170, 255]);
    assert_eq!(cfg.data.remap, [(85, 1), (170, 2)].into());
    assert_eq!(cfg.data.classes, 3);
    let (cfg, _) = values(&[1, 2, 3]);
    assert_eq!(cfg.data.remap, [(1, 0), (2, 1), (3, 2)].into());
    let (cfg, said) = values(&[0, 1, 3, 255]);
    assert_eq!((cfg.data.remap.len(), cfg.data.classes), (0, 4));
    assert_says(&said, &["no mask holds class 2"]);
}

#[test]
fn other_layouts_are_recognised() {
    let place = Place::new();
    let stem = "train/aachen/aachen_0_0";
    place.image(&format!("leftImg8bit/{stem}_leftImg8bit.png"));
    place.mask(&format!("gtFine/{stem}_gtFine_labelIds.png"), &[7, 26, 0]);
    place.mask(&format!("gtFine/{stem}_gtFine_instanceIds.png"), &[7]);
    place.image("leftImg8bit/train_extra/x/x_0_0_leftImg8bit.png");
    let found = discover(place.0.path()).unwrap();
    assert_eq!(
        found.labeled[0].0,
        format!("leftImg8bit/{stem}_leftImg8bit.png")
    );
    assert_eq!(
        (
            found.labeled.len(),
            found.unlabeled.len(),
            found.orphans.len()
        ),
        (1, 1, 0)
    );
    let said = place.succeed(&["dataset", "check", "."]);
    assert_says(
        &said,
        &[
            "cityscapes",
            "class 0, road",
            "class 13, car",
            "suspicious   nothing",
        ],
    );
    let cfg = advised(&said);
    assert_eq!(cfg.data.classes, 19);
    place.succeed(&["split", "--data", ".", "--labeled", "1", "--out", "s"]);
    assert_eq!(place.named("s/labeled.txt"), [found.labeled[0].0.clone()]);

    // Images alone, in any folder.
    let place = Place::new();
    place.image("deep/a.png");
    let said = place.succeed(&["dataset", "check", "."]);
    assert_says(&said, &["0 with a mask, 1 without", "data.unlabeled: ."]);
    let (code, _, stderr) = Place::new().run(&["dataset", "check", "."]);
    assert_eq!(code, 2);
    assert_says(&stderr, &["holds no images"]);
    assert!(discover(Path::new("no/such/folder")).is_err());

    // Names that a stem does not lead back to.
    let place = Place::new();
    place.pair("a", &[0]);
    fs::rename(place.path("images/a.png"), place.path("images/a.PNG")).unwrap();
    assert_eq!(discover(place.0.path()).unwrap().labeled[0].0, "a.PNG");
}
