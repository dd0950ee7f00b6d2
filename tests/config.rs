//! Configuration files: what loads, and what each mistake is answered with.

use std::fs;
use std::path::{Path, PathBuf};

use u2pl_engine::config::Config;
use u2pl_engine::config::schema::{Algorithm, Encoder, Mix};

fn recipes() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

/// Loads `text` as a file and returns the error's text, with the folder cut off.
fn mistake(text: &str, sets: &[&str]) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("run.yaml");
    std::fs::write(&path, text).unwrap();
    let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
    let error = Config::load(Some(&path), &sets).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    error
        .to_string()
        .replace(&format!("{}/", dir.path().display()), "")
}

fn with(sets: &[&str]) -> Config {
    let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
    Config::load(None, &sets).unwrap()
}

#[test]
fn every_recipe_loads_and_validates() {
    let files = recipes();
    assert_eq!(files.len(), 17);
    for file in files {
        let config = Config::load(Some(&file), &[]).unwrap();
        config
            .validate()
            .unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    }
}

#[test]
fn the_paper_s_numbers() {
    let load = |name: &str| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("configs")
            .join(name);
        Config::load(Some(&path), &[]).unwrap()
    };
    let voc = load("voc_classic_732.yaml");
    assert_eq!(voc.augment.crop, [513, 513]);
    assert_eq!((voc.train.epochs, voc.train.warmup_epochs), (80, 1));
    assert_eq!((voc.train.lr, voc.train.weight_decay), (0.001, 1e-4));
    assert_eq!(
        voc.data.labeled,
        Path::new("data/splits/pascal/732/labeled.txt")
    );
    let city = load("cityscapes_372.yaml");
    assert_eq!(city.augment.crop, [769, 769]);
    assert_eq!((city.train.epochs, city.train.warmup_epochs), (200, 0));
    assert_eq!((city.train.lr, city.train.weight_decay), (0.01, 5e-4));
    assert!(city.model.aux);
}

#[test]
fn saved_and_read_back_equal() {
    let dir = tempfile::tempdir().unwrap();
    for (i, file) in recipes().iter().enumerate() {
        let config = Config::load(Some(file), &["train.seed=12345678901234".into()]).unwrap();
        let path = dir.path().join(format!("{i}.yaml"));
        std::fs::write(&path, config.to_yaml().unwrap()).unwrap();
        assert_eq!(Config::load(Some(&path), &[]).unwrap(), config);
    }
}

#[test]
fn overrides_come_last_and_are_yaml() {
    let config = with(&[
        "augment.crop=[65, 97]",
        "model.encoder=resnet34",
        "train.lr=1",
        "method.low_rank=2",
        "method.low_rank=null",
        "data.root=2012",
        "augment.mix=none",
        "data.shapes={size: 64, val: 3}",
        "train.algorithm=supervised",
    ]);
    assert_eq!(config.augment.crop, [65, 97]);
    assert_eq!(config.augment.mix, Mix::None);
    assert_eq!(config.model.encoder, Encoder::Resnet34);
    assert_eq!(config.train.lr, 1.0);
    assert_eq!(config.train.algorithm, Algorithm::Supervised);
    assert_eq!(config.method.low_rank, None);
    assert_eq!(config.data.root, Path::new("2012"));
    assert_eq!((config.data.shapes.size, config.data.shapes.val), (64, 3));
    let demo = Config::demo(&["train.epochs=2".into()]).unwrap();
    assert_eq!(demo.train.epochs, 2);
}

#[test]
fn unknown_keys_name_the_line_and_the_nearest_key() {
    assert_eq!(
        mistake("# a comment\ntrain:\n  epochs: 3\n  epoch: 4\n", &[]),
        "run.yaml:4: unknown key `train.epoch`; did you mean `train.epochs`?"
    );
    assert_eq!(
        mistake("modle:\n  width: 3\n", &[]),
        "run.yaml:1: unknown key `modle`; did you mean `model`?"
    );
    // A key of another section is found by its name.
    assert_eq!(
        mistake("train:\n  crop: [5, 5]\n", &[]),
        "run.yaml:2: unknown key `train.crop`; did you mean `augment.crop`?"
    );
    assert_eq!(
        mistake("", &["train.momentun=0.9"]),
        "--set train.momentun=0.9: unknown key `train.momentun`; did you mean `train.momentum`?"
    );
    assert!(mistake("", &["train.lr"]).contains("write --set section.key=value"));
}

#[test]
fn wrong_types_name_the_line_the_key_and_what_is_expected() {
    assert_eq!(
        mistake("data:\n  classes: many\n", &[]),
        "run.yaml:2: `data.classes`: invalid type: string \"many\", expected a whole number \
         from 0; give a value like the default, 6"
    );
    assert_eq!(
        mistake("model:\n\n  encoder: resnet5O\n", &[]),
        "run.yaml:3: `model.encoder`: unknown variant `resnet5O`, expected one of `resnet18`, \
         `resnet34`, `resnet50`, `resnet101`, `resnet152`; did you mean `resnet50`?"
    );
    assert!(mistake("augment:\n  crop: [5]\n", &[]).starts_with("run.yaml:2: `augment.crop`: "),);
    assert!(mistake("train: 5\n", &[]).contains("`train` is a section"));
    assert!(mistake("train:\n  lr: {a: 1}\n", &[]).contains("`train.lr` is a value"));
    assert!(mistake("", &["data.ignore_index=300"]).contains("0 to 255"));
}

#[test]
fn broken_yaml_and_repeated_keys_are_one_line() {
    for text in ["train:\n  lr: [1\n", "train:\n  lr: 1\n  lr: 2\n"] {
        let message = mistake(text, &[]);
        assert!(message.starts_with("run.yaml:"), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

#[test]
fn files_that_no_editor_of_yaml_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.yaml");
    let load = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        Config::load(Some(&path), &[])
    };
    let wide: Vec<u8> = "\u{feff}train: {epochs: 7}\r\n"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    assert_eq!(load(&wide).unwrap().train.epochs, 7);
    for (bytes, says) in [
        (&b"\xE9t\xE9"[..], "is not text in UTF-8"),
        (&vec![b' '; (1 << 24) + 1], "has more than 16 MiB"),
    ] {
        let error = load(bytes).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let text = error.to_string();
        assert!(text.contains(says) && text.contains("c.yaml: "), "{text}");
    }
}

#[test]
fn all_mistakes_at_once() {
    let message = mistake("train:\n  epoch: 4\n  lr: fast\n", &["model.widht=2"]);
    assert_eq!(message.lines().count(), 3, "{message}");
}

#[test]
fn a_missing_file_is_named() {
    let error = Config::load(Some(Path::new("no/such.yaml")), &[]).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().starts_with("no/such.yaml: cannot read"));
}

#[test]
fn validation_reports_each_problem_with_its_key() {
    let demo = Config::demo(&[]).unwrap();
    let cases: &[(&str, &str)] = &[
        ("data.classes=1", "data.classes: "),
        (
            "data.ignore_index=3",
            "data.ignore_index: 3 is also one of the 6 classes",
        ),
        (
            "data.class_names=[a]",
            "data.class_names: 1 names for 6 classes",
        ),
        ("data.image_scale=0", "data.image_scale: "),
        ("data.std=[1, 0, 1]", "data.std: "),
        ("data.shapes.size=2", "data.shapes.size: "),
        ("data.shapes.unlabeled=0", "train.algorithm: supervised"),
        ("augment.crop=[0, 5]", "augment.crop: "),
        ("augment.scale=[1.5, 2]", "augment.scale: "),
        ("augment.flip=1.5", "augment.flip: "),
        ("augment.mix_prob=-0.1", "augment.mix_prob: "),
        (
            "model.output_stride=4",
            "model.output_stride: 4 is not possible; give 8, 16 or 32",
        ),
        ("model.multi_grid=true", "set model.multi_grid: false"),
        ("model.width=0", "model.width: "),
        ("model.aspp_dilations=[]", "model.aspp_dilations: "),
        ("model.dropout=1", "model.dropout: "),
        ("train.epochs=0", "train.epochs: "),
        ("train.batch_labeled=0", "train.batch_labeled: "),
        ("train.batch_labeled=1", "no variance"),
        ("train.batch_unlabeled=0", "train.batch_unlabeled: "),
        ("train.warmup_epochs=99", "train.warmup_epochs: "),
        ("train.lr=0", "train.lr: "),
        ("method.alpha0=101", "method.alpha0: "),
        ("method.ema=1.1", "method.ema: "),
        ("method.low_rank=6", "method.low_rank: "),
        ("method={low_rank: 3, high_rank: 3}", "method.high_rank: "),
        ("method.temperature=0", "method.temperature: "),
        ("method.bank_size=0", "method.bank_size: "),
        ("eval.scales=[]", "eval.scales: "),
        ("eval.crop=[0, 1]", "eval.crop: "),
        // Counts of which sizes are made that no number holds, or that no memory does.
        ("data.workers=18446744073709551615", "data.workers: "),
        (
            "data.shapes.labeled=18446744073709551615",
            "data.shapes.labeled: ",
        ),
        ("data.shapes.val=18446744073709551615", "data.shapes.val: "),
        ("model.width=4611686018427387904", "model.width: "),
        (
            "model.aspp_dilations=[18446744073709551615]",
            "model.aspp_dilations: ",
        ),
        (
            "train.epochs=18446744073709551615",
            "train.epochs: 18446744073709551615 is out of range",
        ),
        (
            "train.epoch_iters=18446744073709551615",
            "train.epoch_iters: ",
        ),
        (
            "train.batch_labeled=18446744073709551615",
            "train.batch_labeled: ",
        ),
        (
            "train.micro_batches=18446744073709551615",
            "train.micro_batches: ",
        ),
        ("method.anchors=18446744073709551615", "method.anchors: "),
        ("method.bank_size=4294967296", "method.bank_size: "),
    ];
    demo.validate().unwrap();
    for (set, expected) in cases {
        let error = Config::demo(&[set.to_string()])
            .unwrap()
            .validate()
            .unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let text = error.to_string();
        assert!(text.contains(expected), "{set}: {text}");
    }
    let huge = [
        "augment.crop=[16384, 16384]",
        "train.batch_labeled=16384",
        "model.width=1024",
    ];
    let text = with(&huge).validate().unwrap_err().to_string();
    assert!(text.contains("more than any machine holds"), "{text}");
    let several = Config::demo(&["train.lr=0".into(), "method.ema=2".into()]).unwrap();
    assert_eq!(
        several.validate().unwrap_err().to_string().lines().count(),
        2
    );
}

#[test]
fn datasets_on_disk_need_their_paths() {
    let config = with(&["data.kind=voc", "data.classes=21"]);
    let text = config.validate().unwrap_err().to_string();
    for key in ["data.root", "data.labeled", "data.unlabeled", "data.val"] {
        assert!(text.contains(&format!("{key}: is not set")), "{text}");
    }
    // Supervised training asks for no unlabelled list.
    let config = with(&[
        "data.kind=voc",
        "data.classes=21",
        "train.algorithm=supervised",
    ]);
    assert!(
        !config
            .validate()
            .unwrap_err()
            .to_string()
            .contains("data.unlabeled")
    );
}

/// `scripts/gpu-check.sh` carries the recipe, for machines that have nothing but the script.
#[test]
fn the_gpu_check_s_recipe_is_the_camvid_one() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = fs::read_to_string(root.join("scripts/gpu-check.sh")).unwrap();
    let after = script.split("<<'YAML'\n").nth(1).unwrap();
    let recipe = after.split("\nYAML\n").next().unwrap();
    let root_of_both = ["data.root=camvid".to_string()];
    let carried = Config::parse("gpu-check.sh", recipe, &root_of_both).unwrap();
    let ours = Config::load(Some(&root.join("configs/camvid_cpu.yaml")), &root_of_both).unwrap();
    assert_eq!(carried, ours);
}
