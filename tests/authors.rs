//! Configurations in the authors' format: what every key becomes, and what each mistake is answered
//! with. The files here are written for these tests, in that format.
#![cfg(feature = "cli")]

use std::fs;
use std::path::Path;

use assert_cmd::Command;
use tempfile::TempDir;
use u2pl_engine::config::schema::{
    Algorithm, Decoder, Encoder, Mix, Mode, NegativePixels, Protocol, SupLoss,
};
use u2pl_engine::config::{Authors, AuthorsOptions, Config};

/// VOC, semi-supervised.
const VOC: &str = "\
dataset:
  type: pascal_semi
  train:
    data_root: ../../VOC
    data_list: ../../splits/pascal/40/labeled.txt
    flip: True
    GaussianBlur: False
    rand_resize: [0.75, 1.5]
    crop: {type: rand, size: [65, 97]}
  val:
    data_root: ../../VOC
    data_list: ../../splits/pascal/val.txt
    crop: {type: center, size: 81}
  batch_size: 3
  n_sup: 10182   # leaves 400 images an epoch
  noise_std: 0.1
  workers: 2
  mean: [120.5, 110, 100]
  std: [60, 61, 62]
  ignore_label: 254
trainer:
  epochs: 40
  eval_on: True
  sup_only_epoch: 2
  optimizer:
    type: SGD
    kwargs: {lr: 0.002, momentum: 0.8, weight_decay: 0.0003}
  lr_scheduler: {mode: poly, kwargs: {power: 0.7}}
  unsupervised:
    TTA: False
    drop_percent: 70
    apply_aug: classmix
    loss_weight: 1.5
  contrastive:
    negative_high_entropy: True
    low_rank: 4
    high_rank: 18
    current_class_threshold: 0.25
    current_class_negative_threshold: 1
    unsupervised_entropy_ignore: 80
    low_entropy_threshold: 30
    num_negatives: 40
    num_queries: 200
    temperature: 0.4
saver:
  snapshot_dir: checkpoints
  pretrain: ''
criterion:
  type: CELoss
  kwargs: {use_weight: False}
net:
  num_classes: 21
  sync_bn: True
  ema_decay: 0.98
  encoder:
    type: u2pl.models.resnet.resnet50
    kwargs:
      multi_grid: True
      zero_init_residual: True
      fpn: True
      replace_stride_with_dilation: [False, False, True]
  decoder:
    type: u2pl.models.decoder.dec_deeplabv3_plus
    kwargs: {inner_planes: 256, dilations: [6, 12]}
";

/// Cityscapes, labels alone, auxiliary head and OHEM.
const CITY: &str = "\
dataset:
  type: cityscapes
  train:
    data_root: /data/cityscapes
    data_list: /data/splits/cityscapes/30/labeled.txt
    crop: {type: rand, size: [129, 129]}
  val:
    data_root: /data/cityscapes
    data_list: /data/splits/cityscapes/val.txt
    crop: {type: center, size: [129, 193]}
  batch_size: 4
  n_sup: 30
  ignore_label: 255
trainer:
  epochs: 7
  start_epochs: 0
  eval_on: False
  optimizer:
    type: SGD
    kwargs: {lr: 0.01}
  lr_scheduler: {mode: poly, kwargs: {}}
saver: {auto_resume: True, snapshot_dir: checkpoints, pretrain: weights/start.pth}
criterion:
  type: ohem
  threshold: 0.5
  kwargs: {thresh: 0.6, min_kept: 5000}
net:
  num_classes: 19
  sync_bn: True
  aux_loss: {aux_plane: 1024, loss_weight: 0.3}
  encoder:
    type: u2pl.models.resnet.resnet101
    kwargs: {fpn: True, replace_stride_with_dilation: [False, True, True]}
  decoder:
    type: u2pl.models.decoder.dec_deeplabv3_plus
    kwargs: {rep_head: False}
";

struct Place(TempDir);

impl Place {
    /// A folder with `text` as `experiments/run/config.yaml`.
    fn new(text: &str) -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        let folder = place.0.path().join("experiments/run");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("config.yaml"), text).unwrap();
        place
    }

    fn read(
        &self,
        sets: &[&str],
        options: AuthorsOptions,
    ) -> u2pl_engine::Result<(Config, Authors)> {
        let path = self.0.path().join("experiments/run/config.yaml");
        let sets: Vec<String> = sets.iter().map(ToString::to_string).collect();
        let (config, authors) = Config::read(Some(&path), &sets, options)?;
        Ok((config, authors.expect("the authors' format")))
    }

    fn load(&self, options: AuthorsOptions) -> (Config, Authors) {
        let (config, authors) = self.read(&[], options).unwrap();
        config.validate().unwrap();
        (config, authors)
    }

    /// The error's text with the folder cut off.
    fn mistake(&self) -> String {
        let error = self.read(&[], AuthorsOptions::default()).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        let folder = format!("{}/experiments/run/", self.0.path().display());
        error.to_string().replace(&folder, "")
    }

    fn run(&self, args: &[&str]) -> (i32, String, String) {
        let mut command = Command::cargo_bin("u2pl-engine").unwrap();
        command
            .args(args)
            .current_dir(self.0.path())
            .env_remove("RUST_LOG");
        let output = command.output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        let code = output.status.code().unwrap();
        (code, text(output.stdout), text(output.stderr))
    }
}

fn options(semantics: Mode, world_size: usize) -> AuthorsOptions {
    AuthorsOptions {
        semantics: Some(semantics),
        world_size: Some(world_size),
    }
}

#[test]
fn every_key_of_a_voc_experiment_arrives() {
    let place = Place::new(VOC);
    let (c, authors) = place.load(AuthorsOptions::default());
    let under = |path: &str| place.0.path().join(path);
    assert_eq!(c.data.root, under("VOC"));
    assert_eq!(c.data.labeled, under("splits/pascal/40/labeled.txt"));
    assert_eq!(c.data.unlabeled, under("splits/pascal/40/unlabeled.txt"));
    assert_eq!(c.data.val, under("splits/pascal/val.txt"));
    assert_eq!((c.data.classes, c.data.ignore_index), (21, 254));
    assert_eq!(c.data.class_names[20], "tvmonitor");
    assert_eq!(
        (c.data.mean, c.data.std),
        ([120.5, 110.0, 100.0], [60.0, 61.0, 62.0])
    );
    assert_eq!(c.data.workers, 2);

    assert_eq!(c.augment.crop, [65, 97]);
    assert_eq!((c.augment.scale, c.augment.flip), ([0.75, 1.5], 0.5));
    assert_eq!((c.augment.mix, c.augment.mix_prob), (Mix::Classmix, 0.5));

    assert_eq!(
        (c.model.encoder, c.model.output_stride),
        (Encoder::Resnet50, 16)
    );
    assert_eq!(
        (c.model.decoder, c.model.aux),
        (Decoder::Deeplabv3plus, false)
    );
    assert!(c.model.multi_grid && c.model.zero_init_residual);
    assert_eq!(c.model.aspp_dilations, [6, 12]);

    let t = &c.train;
    assert_eq!(t.algorithm, Algorithm::U2pl);
    assert_eq!((t.epochs, t.warmup_epochs, t.val_every), (40, 2, 1));
    assert_eq!(
        (t.batch_labeled, t.batch_unlabeled, t.epoch_iters),
        (3, 3, 133)
    );
    assert_eq!((t.lr, t.head_lr_mult, t.momentum), (0.002, 10.0, 0.8));
    assert_eq!(
        (t.weight_decay, t.poly_power, t.loss),
        (3e-4, 0.7, SupLoss::Ce)
    );

    let m = &c.method;
    assert_eq!((m.mode, m.ema, m.alpha0), (Mode::Released, 0.98, 30.0));
    assert_eq!((m.unsup_weight, m.contrast_weight), (1.5, None));
    assert_eq!(
        (m.delta_p, m.low_rank, m.high_rank),
        (0.25, Some(4), Some(18))
    );
    assert_eq!((m.anchors, m.negatives, m.temperature), (200, 40, 0.4));
    assert_eq!((m.bank_background, m.bank_size), (50_000, 30_000));
    assert_eq!(
        (c.eval.protocol, c.eval.crop),
        (Protocol::CenterCrop, Some([81, 81]))
    );

    assert_eq!(authors.backbone.as_deref(), Some("resnet50"));
    assert_eq!(authors.pretrain, None);
    assert_eq!((authors.notes.len(), authors.warnings.len()), (1, 1));
    assert!(
        authors.notes[0].contains("semantics released"),
        "{:?}",
        authors.notes
    );
    let unread = &authors.warnings[0];
    for key in [
        "dataset.noise_std",
        "trainer.unsupervised.TTA",
        "unsupervised_entropy_ignore",
    ] {
        assert!(unread.contains(key), "{unread}");
    }
}

#[test]
fn every_key_of_a_cityscapes_experiment_arrives() {
    let place = Place::new(CITY);
    let (c, authors) = place.load(options(Mode::Released, 2));
    assert_eq!(c.data.root, Path::new("/data/cityscapes"));
    assert_eq!(c.data.unlabeled, Path::new(""));
    assert_eq!(c.data.class_names[18], "bicycle");
    assert_eq!((c.augment.scale, c.augment.flip), ([1.0, 1.0], 0.0));
    assert_eq!(
        (c.model.output_stride, c.model.encoder),
        (8, Encoder::Resnet101)
    );
    assert_eq!((c.model.aux, c.model.aux_weight), (true, 0.3));
    assert!(!c.model.multi_grid && !c.model.zero_init_residual);
    let t = &c.train;
    assert_eq!(t.algorithm, Algorithm::Supervised);
    // ⌈⌈30 / 2⌉ / 4⌉ iterations of 2 × 4 images.
    assert_eq!((t.batch_labeled, t.micro_batches, t.epoch_iters), (4, 2, 4));
    assert_eq!((t.epochs, t.head_lr_mult, t.poly_power), (7, 1.0, 0.9));
    assert_eq!((t.momentum, t.weight_decay), (0.0, 0.0));
    // Their supervised script does not read eval_on.
    assert_eq!(t.val_every, 1);
    assert_eq!(
        (t.loss, t.ohem_thresh, t.ohem_min_kept),
        (SupLoss::Ohem, 0.6, 5_000)
    );
    assert_eq!(c.eval.crop, Some([129, 193]));
    let start = place.0.path().join("experiments/run/weights/start.pth");
    assert_eq!(authors.pretrain, Some(start));
    let said = authors.warnings.join("\n");
    for part in [
        "auto_resume",
        "--resume",
        "criterion.threshold",
        "trainer.start_epochs",
    ] {
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn semantics_and_processes_are_the_caller_s() {
    let (c, _) = Place::new(VOC).load(options(Mode::Paper, 4));
    assert_eq!(
        (c.method.mode, c.eval.protocol),
        (Mode::Paper, Protocol::Whole)
    );
    assert_eq!((c.train.batch_labeled, c.train.batch_unlabeled), (12, 12));
    // ⌊⌈400 / 4⌉ / 3⌋.
    assert_eq!((c.train.epoch_iters, c.method.world_size), (33, 4));
    let (c, _) = Place::new(CITY).load(options(Mode::Paper, 2));
    assert_eq!(c.eval.protocol, Protocol::Sliding);
    assert_eq!((c.train.ohem_min_kept, c.train.micro_batches), (10_000, 1));

    let all = VOC.replace(
        "negative_high_entropy: True",
        "negative_high_entropy: False",
    );
    let (c, _) = Place::new(&all).load(options(Mode::Paper, 1));
    assert_eq!(c.method.negative_pixels, NegativePixels::All);
    assert!(Place::new(&all).mistake().contains("--semantics paper"));

    // Overrides are ours and come last.
    let place = Place::new(VOC);
    let sets = ["train.seed=2", "data.unlabeled=u.txt"];
    let (c, _) = place.read(&sets, AuthorsOptions::default()).unwrap();
    assert_eq!(
        (c.train.seed, c.data.unlabeled.as_path()),
        (2, Path::new("u.txt"))
    );

    let weighted = VOC.replace("temperature: 0.4", "temperature: 0.4\n    loss_weight: 0.2");
    for mode in [Mode::Paper, Mode::Released] {
        let (c, _) = Place::new(&weighted).load(options(mode, 2));
        assert_eq!(c.method.contrast_weight, Some(0.2));
    }
}

#[test]
fn what_is_off_stays_off() {
    let cut = VOC.find("  contrastive:").unwrap()..VOC.find("saver:").unwrap();
    let mut text = VOC.to_string();
    text.replace_range(cut, "  contrastive: False\n");
    let text = text
        .replace("apply_aug: classmix", "apply_aug: False")
        .replace("rand_resize: [0.75, 1.5]", "rand_resize: False")
        .replace("eval_on: True", "eval_on: off")
        .replace("flip: True", "flip: no");
    let (c, _) = Place::new(&text).load(AuthorsOptions::default());
    assert_eq!(c.method.contrast_weight, Some(0.0));
    assert_eq!(
        (c.augment.mix, c.augment.scale, c.augment.flip),
        (Mix::None, [1.0, 1.0], 0.0)
    );
    assert_eq!(c.train.val_every, 40);
    // A dataset key serves both parts unless one has its own.
    let text = VOC
        .replace("    flip: True\n", "")
        .replace("  batch_size: 3", "  flip: True\n  batch_size: 3");
    assert_eq!(
        Place::new(&text)
            .load(AuthorsOptions::default())
            .0
            .augment
            .flip,
        0.5
    );
}

/// The line of `text` on which `part` stands.
fn line_of(text: &str, part: &str) -> usize {
    1 + text.lines().position(|l| l.contains(part)).unwrap()
}

#[test]
fn mistakes_name_the_line_and_the_mend() {
    // `to` takes the place of `from`; its last line is the one at fault, unless it ends a line.
    let says = |from: &str, to: &str, parts: &[&str]| {
        assert!(VOC.contains(from), "{from}");
        let text = VOC.replacen(from, to, 1);
        let said = Place::new(&text).mistake();
        let last = to.lines().last().unwrap_or_default().trim();
        let at = match to.ends_with('\n') || last.is_empty() {
            true => "config.yaml: ".to_string(),
            false => format!("config.yaml:{}", line_of(&text, last)),
        };
        assert!(said.starts_with(&at), "`{at}` is not in: {said}");
        for part in parts {
            assert!(said.contains(part), "`{part}` is not in: {said}");
        }
        assert!(said.contains("; "), "{said}");
    };
    let key = "in the authors' format";
    says(
        "eval_on:",
        "evalon:",
        &["unknown key `trainer.evalon`", key, "`trainer.eval_on`?"],
    );
    says(
        "    flip: True",
        "    flipp: True",
        &["`dataset.train.flipp`", "`dataset.train.flip`?"],
    );
    says(
        "  epochs: 40",
        "  epochs: 40\n  temperature: 1",
        &["`trainer.contrastive.temperature`?"],
    );
    says(
        "  epochs: 40",
        "  epochs: forty",
        &["`trainer.epochs`", "\"forty\"", "a whole number"],
    );
    says(
        "  epochs: 40",
        "  epochs: 40.5",
        &["40.5", "a whole number"],
    );
    says(
        "flip: True",
        "flip: maybe",
        &["`dataset.train.flip`", "True or False"],
    );
    says(
        "mean: [120.5, 110, 100]",
        "mean: [120.5, 110]",
        &["list of three numbers"],
    );
    says(
        "GaussianBlur: False",
        "GaussianBlur: True",
        &["not in this engine", "write False"],
    );
    says(
        "type: SGD",
        "type: adam",
        &["trainer.optimizer.type", "write SGD"],
    );
    says("mode: poly", "mode: cosine", &["poly"]);
    says(
        "type: pascal_semi",
        "type: pascal_semi_cp",
        &["branch main"],
    );
    says(
        "type: rand, size",
        "type: center, size",
        &["training crops lie at random"],
    );
    says(
        "{type: center, size: 81}",
        "{type: rand, size: 81}",
        &["dataset.val.crop.type", "write center"],
    );
    for change in ["flip: yes", "resize: [97, 97]", "rand_resize: [0.5, 2.0]"] {
        says(
            "    crop: {type: center, size: 81}",
            &format!("    crop: {{type: center, size: 81}}\n    {change}"),
            &["dataset.val.", "images that are scored", "leave it out"],
        );
    }
    says(
        "resnet.resnet50",
        "resnet.resnext50",
        &["net.encoder.type", "resnet101"],
    );
    says("dec_deeplabv3_plus", "dec_pspnet", &["net.decoder.type"]);
    says(
        "[False, False, True]",
        "[True, True, True]",
        &["output stride"],
    );
    says("fpn: True", "fpn: False", &["write True"]);
    says("inner_planes: 256", "inner_planes: 128", &["write 256"]);
    says(
        "low_entropy_threshold: 30",
        "low_entropy_threshold: 20",
        &["one α₀", "write 30"],
    );
    says(
        "negative_threshold: 1",
        "negative_threshold: 0.5",
        &["write 1"],
    );
    says(
        "temperature: 0.4",
        "temperature: 0.4\n    anchor_ema: True",
        &["anchor_ema"],
    );
    says("criterion:", "criterion:\n  cons: {sample: True}", &["AEL"]);
    says("  n_sup: 10182", "  n_sup: 10582", &["is empty"]);
    says(
        "ignore_label: 254",
        "ignore_label: 300",
        &["ignore_label", "0 to 255"],
    );
    says(
        "  epochs: 40\n",
        "",
        &["`trainer.epochs` is missing", "such as `epochs: 80`"],
    );
    says(
        "    data_list: ../../splits/pascal/val.txt\n",
        "",
        &["`dataset.val.data_list` is missing"],
    );
    says(
        "dataset:\n  type: pascal_semi\n",
        "dataset:\n",
        &["`dataset.type` is missing"],
    );
    says(
        "  val:\n    data_root: ../../VOC",
        "  val:\n    data_root: ../../other",
        &["one data_root"],
    );

    let several = VOC
        .replace("epochs: 40", "epochs: x")
        .replace("flip: True", "flip: x");
    assert_eq!(Place::new(&several).mistake().lines().count(), 2);
    let named = VOC.replace("40/labeled.txt", "40/first.txt");
    let (config, authors) = Place::new(&named)
        .read(&[], AuthorsOptions::default())
        .unwrap();
    assert!(
        authors
            .warnings
            .iter()
            .any(|w| w.contains("data.unlabeled=FILE"))
    );
    assert!(
        config
            .validate()
            .unwrap_err()
            .to_string()
            .contains("data.unlabeled")
    );
}

#[test]
fn our_own_files_take_no_options_of_theirs() {
    let place = Place::new("train: {epochs: 3}\n");
    let path = "experiments/run/config.yaml";
    for (args, part) in [
        (["--semantics", "paper"], "set method.mode"),
        (["--world-size", "2"], "train.batch_labeled"),
    ] {
        let (code, _, stderr) = place.run(&[&["config", "convert", path], &args[..]].concat());
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.contains(part), "{stderr}");
    }
    // One section of ours makes a file ours.
    let (code, _, stderr) = Place::new("dataset: {type: pascal}\ntrain: {epochs: 3}\n")
        .run(&["config", "convert", path]);
    assert_eq!(code, 2);
    assert!(stderr.contains("unknown key `dataset`"), "{stderr}");
}

#[test]
fn the_converted_file_is_the_same_configuration() {
    for text in [VOC, CITY] {
        let place = Place::new(text);
        let path = "experiments/run/config.yaml";
        for extra in [
            &["--out", "native.yaml"][..],
            &["--brief", "--out", "native.yaml"],
        ] {
            let args = [
                &[
                    "config",
                    "convert",
                    path,
                    "--semantics",
                    "paper",
                    "--world-size",
                    "2",
                ],
                extra,
            ]
            .concat();
            let (code, _, stderr) = place.run(&args);
            assert_eq!(code, 0, "{stderr}");
            let native = place.0.path().join("native.yaml");
            let (config, authors) =
                Config::read(Some(&native), &[], AuthorsOptions::default()).unwrap();
            assert_eq!(authors, None);
            config.validate().unwrap();
            let expected = place.read(&[], options(Mode::Paper, 2)).unwrap().0;
            let mut rooted = config.clone();
            for path in [
                &mut rooted.data.root,
                &mut rooted.data.labeled,
                &mut rooted.data.unlabeled,
                &mut rooted.data.val,
            ] {
                if !path.as_os_str().is_empty() {
                    *path = place.0.path().join(&path);
                }
            }
            assert_eq!(rooted, expected);
        }
        let (_, shown, _) = place.run(&["config", "convert", path]);
        assert!(
            shown.starts_with("# experiments/run/config.yaml: the authors' format"),
            "{shown}"
        );
        assert!(shown.contains("# ImageNet weights of resnet"), "{shown}");
    }
}

#[test]
fn training_asks_for_the_backbone_before_it_begins() {
    let place = Place::new(VOC);
    let path = "experiments/run/config.yaml";
    let (code, _, stderr) = place.run(&["train", "--config", path, "--out", "run"]);
    assert_eq!(code, 2);
    let line = stderr.lines().find(|l| l.starts_with("error: ")).unwrap();
    for part in [
        "ImageNet weights of resnet50",
        "--init resnet50.pth",
        "--from-scratch",
    ] {
        assert!(line.contains(part), "{line}");
    }
    assert!(stderr.contains("semantics released"), "{stderr}");
    assert_eq!(stderr.matches("noise_std").count(), 1, "{stderr}");
    // With the answer given the next thing missing is the data, at its resolved place.
    let (code, _, stderr) =
        place.run(&["train", "--config", path, "--out", "run", "--from-scratch"]);
    assert_eq!(code, 2);
    assert!(stderr.contains("splits/pascal/40/labeled.txt"), "{stderr}");
    assert!(!stderr.contains(".."), "{stderr}");
    assert!(!place.0.path().join("run").exists());
}

/// Their folders, with ten images of 48 × 40, lists as Windows writes them, and a configuration of
/// the smallest network that the format has.
fn checkout() -> Place {
    let mut text = VOC.to_string();
    for (from, to) in [
        ("resnet50", "resnet18"),
        ("multi_grid: True", "multi_grid: False"),
        ("[65, 97]", "[33, 33]"),
        ("size: 81", "size: 49"),
        ("n_sup: 10182", "n_sup: 10566"),
        ("batch_size: 3", "batch_size: 2"),
        ("epochs: 40", "epochs: 2"),
        ("sup_only_epoch: 2", "sup_only_epoch: 1"),
    ] {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    let place = Place::new(&text);
    let path = |name: String| place.0.path().join(name);
    for folder in [
        "VOC/JPEGImages",
        "VOC/SegmentationClassAug",
        "splits/pascal/40",
    ] {
        fs::create_dir_all(path(folder.into())).unwrap();
    }
    for i in 0..10u32 {
        let picture = image::RgbImage::from_fn(48, 40, |x, y| {
            image::Rgb([(x * 5) as u8, (y * 6) as u8, (i * 25) as u8])
        });
        picture
            .save(path(format!("VOC/JPEGImages/{i}.jpg")))
            .unwrap();
        let class = |x: u32, y: u32| match (x / 16 + y / 20 + i) % 4 {
            3 => 254,
            k => k as u8 * 7,
        };
        let mask = image::GrayImage::from_fn(48, 40, |x, y| image::Luma([class(x, y)]));
        mask.save(path(format!("VOC/SegmentationClassAug/{i}.png")))
            .unwrap();
    }
    let list =
        |name: &str, text: &str| fs::write(path(format!("splits/pascal/{name}")), text).unwrap();
    list("40/labeled.txt", "\u{feff}0\r\n1\r\n2\r\n3\r\n");
    list("40/unlabeled.txt", "4\r\n5\r\n6\r\n7\r\n");
    list("val.txt", "8\r\n9\r\n\r\n");
    place
}

#[test]
fn a_run_of_their_files_from_start_to_end() {
    let place = checkout();
    let config = "experiments/run/config.yaml";
    let succeed = |args: &[&str]| {
        let (code, stdout, stderr) = place.run(args);
        assert_eq!(code, 0, "{args:?}: {stderr}");
        (stdout, stderr)
    };
    let said = succeed(&["dataset", "check", "--config", config]).0;
    for part in [
        "4 labelled, 4 unlabelled, 2 validation",
        "class 14, motorbike",
        "nothing",
    ] {
        assert!(said.contains(part), "{said}");
    }
    // Narrow, for time; everything else is the file's.
    let narrow = [
        "--set",
        "model.width=8",
        "--set",
        "model.head_width=8",
        "--set",
        "model.rep_width=8",
    ];
    let train = [
        "train",
        "--config",
        config,
        "--world-size",
        "2",
        "--out",
        "run",
    ];
    let (stdout, stderr) = succeed(&[&train[..], &narrow].concat());
    assert!(
        stderr.contains("2 in each of 2 processes, one after the other"),
        "{stderr}"
    );
    // 10 582 − 10 566 images: 16 / 2 processes / 2 images an epoch, two epochs.
    assert!(stdout.contains("8 iterations"), "{stdout}");
    let resolved = Config::load(Some(&place.0.path().join("run/config.yaml")), &[]).unwrap();
    assert_eq!(
        (resolved.train.micro_batches, resolved.method.mode),
        (2, Mode::Released)
    );

    // The run knows its own configuration; theirs serves as well.
    for more in [
        &["--preset", "voc-authors,voc"][..],
        &[&["--config", config], &narrow[..]].concat(),
    ] {
        let eval = [
            &["eval", "--weights", "run/checkpoints/last.safetensors"],
            more,
        ]
        .concat();
        assert!(succeed(&eval).0.contains("mIoU"));
    }
    let infer = [
        "infer",
        "--weights",
        "run",
        "--input",
        "VOC/JPEGImages",
        "--out",
        "segmented",
    ];
    assert!(succeed(&infer).0.contains("10 of 10"));
    assert!(
        succeed(&["plan", "--config", config, "--world-size", "2"])
            .0
            .contains("update")
    );
}
