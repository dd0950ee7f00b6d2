//! From the authors' keys to ours.
//!
//! One function a section. Values that our engine has no way to honour are refused by name; what
//! their code takes for granted (`times = 10` on VOC, the sizes of the bank) becomes explicit.

use std::path::Path;

use serde_json::{Value, json};

use super::keys::{Entry, Values};
use super::paths::resolve;
use super::{Authors, AuthorsOptions};
use crate::Error;
use crate::config::load::Given;
use crate::config::names::class_names;
use crate::config::schema::{DataKind, Mode};

/// Training images of VOC 2012 (augmented) and of Cityscapes: written into their loaders.
const VOC_IMAGES: u64 = 10_582;
const CITYSCAPES_IMAGES: u64 = 2_975;

/// What is being translated, and what became of it.
struct Mapper<'a> {
    from: &'a Values,
    folder: &'a Path,
    mode: Mode,
    world_size: u64,
    voc: bool,
    semi: bool,
    given: Vec<Given>,
    authors: Authors,
    errors: &'a mut Vec<Error>,
}

/// The values of our keys, and what has none.
pub(super) fn map(
    from: &Values,
    folder: &Path,
    options: AuthorsOptions,
    errors: &mut Vec<Error>,
) -> (Vec<Given>, Authors) {
    let mut m = Mapper {
        from,
        folder,
        mode: options.semantics.unwrap_or(Mode::Released),
        world_size: options.world_size.unwrap_or(1).max(1) as u64,
        voc: false,
        semi: false,
        given: Vec::new(),
        authors: Authors::default(),
        errors,
    };
    if m.dataset_type() {
        m.data();
        m.batches();
        m.augment();
        m.eval();
        m.trainer();
        m.method();
        m.criterion();
        m.net();
        m.saver();
        m.notes(options);
    }
    (m.given, m.authors)
}

impl Mapper<'_> {
    // Reading.

    fn get(&self, key: &str) -> Option<&Entry> {
        self.from.get(key)
    }

    fn number(&self, key: &str, default: f64) -> f64 {
        let value = self.get(key).and_then(|e| e.value.as_f64());
        value.unwrap_or(default)
    }

    fn switch(&self, key: &str, default: bool) -> bool {
        let value = self.get(key).and_then(|e| e.value.as_bool());
        value.unwrap_or(default)
    }

    fn text(&self, key: &str) -> Option<String> {
        self.get(key)?.value.as_str().map(str::to_string)
    }

    fn train_count(&self, key: &str) -> Option<u64> {
        self.from.of_part("train", key)?.value.as_u64()
    }

    /// Processes whose images go through the networks as one batch.
    fn together(&self) -> u64 {
        match self.mode {
            Mode::Paper => self.world_size,
            Mode::Released => 1,
        }
    }

    // Writing.

    /// `file:line (their key)`.
    fn at(&self, entry: &Entry) -> String {
        format!("{} ({})", self.from.at(entry.line), entry.key)
    }

    fn set(&mut self, key: &str, value: Value) {
        let at = self.from.origin.clone();
        self.set_at(at, key, value);
    }

    fn set_at(&mut self, at: String, key: &str, value: Value) {
        let key = key.to_string();
        self.given.push(Given { at, key, value });
    }

    /// Our `to` is their `from` as it stands; whether it was there.
    fn copy(&mut self, from: &str, to: &str) -> bool {
        let Some(entry) = self.from.get(from) else {
            return false;
        };
        self.set_at(self.at(entry), to, entry.value.clone());
        true
    }

    fn copy_or(&mut self, from: &str, to: &str, default: Value) {
        if !self.copy(from, to) {
            self.set(to, default);
        }
    }

    /// As [`Mapper::copy`]; their code fails without it.
    fn require(&mut self, from: &str, to: &str, example: &str) {
        if !self.copy(from, to) {
            self.missing(from, example);
        }
    }

    fn missing(&mut self, key: &str, example: &str) {
        let name = key.rsplit('.').next().unwrap_or(key);
        self.errors.push(Error::input(
            self.from.origin.clone(),
            format!("`{key}` is missing"),
            format!("add it, such as `{name}: {example}`"),
        ));
    }

    /// Refuses the value of `key`, at the line where it stands.
    fn refuse(&mut self, key: &str, problem: &str, mend: &str) {
        let entry = self.from.get(key).or_else(|| {
            let rest = key.strip_prefix("dataset.")?;
            self.from.of_part("train", rest)
        });
        let (at, name) = match entry {
            Some(entry) => (self.from.at(entry.line), entry.key.as_str()),
            None => (self.from.origin.clone(), key),
        };
        self.errors
            .push(Error::input(at, format!("`{name}` {problem}"), mend));
    }

    // Sections.

    fn dataset_type(&mut self) -> bool {
        let Some(name) = self.text("dataset.type") else {
            self.missing("dataset.type", "pascal_semi");
            return false;
        };
        (self.voc, self.semi) = match name.as_str() {
            "pascal" => (true, false),
            "pascal_semi" => (true, true),
            "cityscapes" => (false, false),
            "cityscapes_semi" => (false, true),
            _ => {
                self.refuse(
                    "dataset.type",
                    &format!("is {name}, which is not of the authors' branch main"),
                    "write pascal, pascal_semi, cityscapes or cityscapes_semi",
                );
                return false;
            }
        };
        true
    }

    fn data(&mut self) {
        let kind = if self.voc { "voc" } else { "cityscapes" };
        self.set("data.kind", json!(kind));
        // Their loader takes the stored pixels.
        self.set("data.exif", json!("ignore"));
        let root = self.path("train", "data_root");
        if let (Some((_, train)), Some((at, val))) = (&root, self.path("val", "data_root"))
            && *train != val
        {
            self.errors.push(Error::input(
                at,
                format!("the validation images lie under {val}, the training images under {train}"),
                "put both under one data_root",
            ));
        }
        self.put_path("data.root", root, "data_root", "../../../../data/VOC2012");
        let list = self.path("train", "data_list");
        if let (true, Some((at, list))) = (self.semi, &list) {
            match list.contains("labeled.txt") {
                true => {
                    // The name their loader makes, by replacing every occurrence.
                    let unlabeled = list.replace("labeled.txt", "unlabeled.txt");
                    self.set_at(at.clone(), "data.unlabeled", json!(unlabeled));
                }
                false => self.authors.warnings.push(format!(
                    "{at}: the list is not called labeled.txt, from which the list of unlabelled \
                     images takes its name; give it with --set data.unlabeled=FILE"
                )),
            }
        }
        self.put_path("data.labeled", list, "data_list", "labeled.txt");
        let val = self.path("val", "data_list");
        self.put_path("data.val", val, "data_list", "val.txt");

        self.require("net.num_classes", "data.classes", "21");
        let kind = if self.voc {
            DataKind::Voc
        } else {
            DataKind::Cityscapes
        };
        let classes = self.number("net.num_classes", 0.0) as usize;
        let names = class_names(kind, classes);
        if !names.is_empty() {
            self.set("data.class_names", json!(names));
        }
        for (from, to) in [
            ("ignore_label", "data.ignore_index"),
            ("mean", "data.mean"),
            ("std", "data.std"),
        ] {
            if let Some(entry) = self.from.of_part("train", from) {
                self.set_at(self.at(entry), to, entry.value.clone());
            }
        }
        if let Some(workers) = self.train_count("workers") {
            self.set("data.workers", json!(workers * self.world_size));
        }
    }

    /// A path of `dataset.{part}` seen from the file's folder, and where it stands.
    fn path(&self, part: &str, key: &str) -> Option<(String, String)> {
        let entry = self.from.of_part(part, key)?;
        let path = resolve(self.folder, entry.value.as_str()?);
        Some((self.at(entry), path.to_string_lossy().into_owned()))
    }

    fn put_path(&mut self, to: &str, path: Option<(String, String)>, key: &str, example: &str) {
        match path {
            Some((at, path)) => self.set_at(at, to, json!(path)),
            None => {
                let part = if to == "data.val" { "val" } else { "train" };
                self.missing(&format!("dataset.{part}.{key}"), example);
            }
        }
    }

    /// The images of a step, and the length of an epoch. Released: each process is a micro-batch
    /// with thresholds and losses of its own, as there. Paper: one batch, over which all is defined.
    fn batches(&mut self) {
        let each = self.train_count("batch_size").unwrap_or(1);
        let batch = each * self.together();
        self.set(
            "train.micro_batches",
            json!(self.world_size / self.together()),
        );
        self.set("train.batch_labeled", json!(batch));
        if self.semi {
            self.set("train.batch_unlabeled", json!(batch));
        }
        self.set("method.world_size", json!(self.world_size));
        let images = if self.voc {
            VOC_IMAGES
        } else {
            CITYSCAPES_IMAGES
        };
        let n_sup = self.train_count("n_sup");
        if let Some(n) = n_sup.filter(|n| self.semi && *n >= images) {
            self.refuse(
                "dataset.n_sup",
                &format!("is {n}: an epoch of {images} − {n} images is empty"),
                "write the number of labelled images",
            );
        }
        // Their samplers give each process ⌈n / processes⌉ images.
        let share = |n: u64| n.div_ceil(self.world_size);
        let iters = match (n_sup, self.semi, self.voc) {
            (Some(n), true, _) => share(images.saturating_sub(n)) / each.max(1),
            (Some(n), false, false) => share(n).div_ceil(each.max(1)),
            // The list's own length; VOC's supervised loader does not read n_sup.
            _ => return,
        };
        self.set("train.epoch_iters", json!(iters.max(1)));
    }

    fn augment(&mut self) {
        match self.from.of_part("train", "crop.size") {
            Some(entry) => {
                let size = pair(&entry.value);
                self.set_at(self.at(entry), "augment.crop", size);
            }
            None => self.missing("dataset.train.crop.size", "[513, 513]"),
        }
        let random = self.from.of_part("train", "crop.type");
        if random.is_some_and(|e| e.value != json!("rand")) {
            self.refuse(
                "dataset.crop.type",
                "is not rand",
                "write rand: training crops lie at random",
            );
        }
        let flip = self.train_switch("flip");
        self.set("augment.flip", json!(if flip { 0.5 } else { 0.0 }));
        match self.from.of_part("train", "rand_resize") {
            Some(entry) => self.set_at(self.at(entry), "augment.scale", entry.value.clone()),
            None => self.set("augment.scale", json!([1.0, 1.0])),
        }
        if self.train_switch("GaussianBlur") {
            self.refuse(
                "dataset.GaussianBlur",
                "is not in this engine",
                "write False",
            );
        }
        for key in [
            "rand_rotation",
            "resize",
            "cutout.n_holes",
            "cutmix.n_holes",
        ] {
            if self.from.of_part("train", key).is_some() {
                self.refuse(
                    &format!("dataset.{key}"),
                    "is not in this engine",
                    "leave it out",
                );
            }
        }
        if !self.semi {
            return;
        }
        let mix = self.text("trainer.unsupervised.apply_aug");
        self.set("augment.mix", json!(mix.as_deref().unwrap_or("none")));
        self.set("augment.mix_prob", json!(0.5));
    }

    fn train_switch(&self, key: &str) -> bool {
        let entry = self.from.of_part("train", key);
        entry.and_then(|e| e.value.as_bool()).unwrap_or(false)
    }

    /// Released: what their training loop validates with. Paper: what their `eval.py` does.
    fn eval(&mut self) {
        self.scored_as_they_are();
        let crop = self.from.of_part("val", "crop.size");
        let size = crop.map(|entry| (self.at(entry), pair(&entry.value)));
        let protocol = match (self.mode, self.voc, size.is_some()) {
            (Mode::Released, _, true) => "center-crop",
            (Mode::Released, _, false) | (Mode::Paper, true, _) => "whole",
            (Mode::Paper, false, _) => "sliding",
        };
        self.set("eval.protocol", json!(protocol));
        // Their scores of windows and scales are logits.
        self.set("eval.average", json!("logits"));
        if let Some((at, size)) = size {
            self.set_at(at, "eval.crop", size);
        }
    }

    /// Their loader changes validation images as it does training images, where `dataset.val` says so.
    fn scored_as_they_are(&mut self) {
        for name in [
            "resize",
            "rand_resize",
            "rand_rotation",
            "flip",
            "GaussianBlur",
        ] {
            let key = format!("dataset.val.{name}");
            if self.get(&key).is_some_and(|e| e.value != json!(false)) {
                self.refuse(
                    &key,
                    "changes the images that are scored, which is not in this engine",
                    "leave it out",
                );
            }
        }
        let kind = self.text("dataset.val.crop.type");
        if kind.is_some_and(|kind| kind != "center") {
            self.refuse(
                "dataset.val.crop.type",
                "is not center",
                "write center: a random part of each image has a random score",
            );
        }
    }

    fn trainer(&mut self) {
        let algorithm = if self.semi { "u2pl" } else { "supervised" };
        self.set("train.algorithm", json!(algorithm));
        self.require("trainer.epochs", "train.epochs", "80");
        if self.semi {
            self.copy_or("trainer.sup_only_epoch", "train.warmup_epochs", json!(1));
        }
        // Their supervised script validates whatever eval_on says.
        let validates = !self.semi || self.switch("trainer.eval_on", true);
        let epochs = self.number("trainer.epochs", 1.0) as u64;
        let every = if validates { 1 } else { epochs.max(1) };
        self.set("train.val_every", json!(every));

        let sgd = self.text("trainer.optimizer.type");
        if sgd.as_deref().is_some_and(|name| name != "SGD") {
            self.refuse(
                "trainer.optimizer.type",
                "is not SGD, the engine's only optimiser",
                "write SGD",
            );
        }
        let of = "trainer.optimizer.kwargs";
        self.require(&format!("{of}.lr"), "train.lr", "0.001");
        self.copy_or(&format!("{of}.momentum"), "train.momentum", json!(0.0));
        self.copy_or(
            &format!("{of}.weight_decay"),
            "train.weight_decay",
            json!(0.0),
        );
        if self.switch(&format!("{of}.nesterov"), false) {
            self.refuse(
                &format!("{of}.nesterov"),
                "is not in this engine",
                "leave it out",
            );
        }
        if self.number(&format!("{of}.dampening"), 0.0) != 0.0 {
            self.refuse(
                &format!("{of}.dampening"),
                "is not in this engine",
                "leave it out",
            );
        }
        self.set(
            "train.head_lr_mult",
            json!(if self.voc { 10.0 } else { 1.0 }),
        );

        let mode = self.text("trainer.lr_scheduler.mode");
        if mode.as_deref().is_some_and(|name| name != "poly") {
            self.refuse(
                "trainer.lr_scheduler.mode",
                "is not poly, the engine's only schedule",
                "write poly",
            );
        }
        let power = self.number("trainer.lr_scheduler.kwargs.power", 0.0);
        // Their code takes 0 for unset.
        let power = if power == 0.0 { 0.9 } else { power };
        self.set("train.poly_power", json!(power));
    }

    fn method(&mut self) {
        let mode = match self.mode {
            Mode::Paper => "paper",
            Mode::Released => "released",
        };
        self.set("method.mode", json!(mode));
        self.copy_or("net.ema_decay", "method.ema", json!(0.99));
        if !self.semi {
            return;
        }
        if !self.from.has_section("trainer.unsupervised") {
            self.missing("trainer.unsupervised.drop_percent", "80");
        }
        let unreliable = 100.0 - self.number("trainer.unsupervised.drop_percent", 100.0);
        self.set("method.alpha0", json!(unreliable));
        self.copy("trainer.unsupervised.loss_weight", "method.unsup_weight");
        if !self.from.has_section("trainer.contrastive") {
            self.set("method.contrast_weight", json!(0.0));
            return;
        }
        self.contrast(unreliable);
    }

    fn contrast(&mut self, unreliable: f64) {
        let of = |key: &str| format!("trainer.contrastive.{key}");
        self.copy(&of("loss_weight"), "method.contrast_weight");
        for (from, to, example) in [
            ("current_class_threshold", "method.delta_p", "0.3"),
            ("low_rank", "method.low_rank", "3"),
            ("high_rank", "method.high_rank", "20"),
            ("num_queries", "method.anchors", "256"),
            ("num_negatives", "method.negatives", "50"),
            ("temperature", "method.temperature", "0.5"),
        ] {
            self.require(&of(from), to, example);
        }
        if self.number(&of("low_entropy_threshold"), unreliable) != unreliable {
            self.refuse(
                &of("low_entropy_threshold"),
                &format!(
                    "is not 100 − drop_percent = {unreliable}: the engine has one α₀ for both"
                ),
                &format!("write {unreliable}"),
            );
        }
        if self.number(&of("current_class_negative_threshold"), 1.0) < 1.0 {
            self.refuse(
                &of("current_class_negative_threshold"),
                "keeps negatives below a probability, which is not in this engine",
                "write 1, which keeps all",
            );
        }
        if !self.switch(&of("negative_high_entropy"), true) {
            match self.mode {
                Mode::Paper => self.set("method.negative_pixels", json!("all")),
                Mode::Released => self.refuse(
                    &of("negative_high_entropy"),
                    "is False, which semantics released lacks here",
                    "write True, or give --semantics paper",
                ),
            }
        }
        for key in ["binary", "anchor_ema"] {
            if self.switch(&of(key), false) {
                self.refuse(
                    &of(key),
                    "is not in this engine",
                    "write False, or leave it out",
                );
            }
        }
    }

    fn criterion(&mut self) {
        let ohem = self.text("criterion.type").as_deref() == Some("ohem");
        self.set("train.loss", json!(if ohem { "ohem" } else { "ce" }));
        if ohem {
            self.copy_or("criterion.kwargs.thresh", "train.ohem_thresh", json!(0.7));
            // Each process keeps so many of its own pixels.
            let kept = self.number("criterion.kwargs.min_kept", 100_000.0) as u64;
            self.set("train.ohem_min_kept", json!(kept * self.together()));
        }
        if self.switch("criterion.kwargs.use_weight", false) {
            self.refuse(
                "criterion.kwargs.use_weight",
                "weighs classes, which is not in this engine",
                "write False",
            );
        }
    }

    fn net(&mut self) {
        self.encoder();
        let name = self.text("net.decoder.type").unwrap_or_default();
        let plus = match name.rsplit('.').next() {
            Some("dec_deeplabv3_plus") => true,
            Some("dec_deeplabv3") => false,
            _ => {
                self.refuse(
                    "net.decoder.type",
                    "is not a decoder of this engine",
                    "write u2pl.models.decoder.dec_deeplabv3_plus or u2pl.models.decoder.dec_deeplabv3",
                );
                return;
            }
        };
        let decoder = if plus { "deeplabv3plus" } else { "deeplabv3" };
        self.set("model.decoder", json!(decoder));
        if plus && !self.switch("net.encoder.kwargs.fpn", false) {
            self.refuse(
                "net.encoder.kwargs.fpn",
                "must be True for dec_deeplabv3_plus, which reads layer1",
                "write True",
            );
        }
        self.copy_or(
            "net.decoder.kwargs.dilations",
            "model.aspp_dilations",
            json!([12, 24, 36]),
        );
        if self.number("net.decoder.kwargs.inner_planes", 256.0) != 256.0 {
            self.refuse(
                "net.decoder.kwargs.inner_planes",
                "narrows ASPP alone, which is not in this engine",
                "write 256",
            );
        }
        self.set("model.dropout", json!(0.1));
    }

    fn encoder(&mut self) {
        let name = self.text("net.encoder.type").unwrap_or_default();
        let name = name.rsplit('.').next().unwrap_or_default().to_string();
        let deep = ["resnet50", "resnet101", "resnet152"].contains(&name.as_str());
        if !deep && !["resnet18", "resnet34"].contains(&name.as_str()) {
            self.refuse(
                "net.encoder.type",
                "is not an encoder of this engine",
                "write u2pl.models.resnet.resnet101, or 18, 34, 50, 152",
            );
            return;
        }
        self.set("model.encoder", json!(name));
        self.set("model.stem", json!("deep"));
        let of = |key: &str| format!("net.encoder.kwargs.{key}");
        self.copy_or(&of("multi_grid"), "model.multi_grid", json!(false));
        self.copy_or(
            &of("zero_init_residual"),
            "model.zero_init_residual",
            json!(false),
        );
        let dilated = self.get(&of("replace_stride_with_dilation"));
        let dilated: Vec<bool> = dilated
            .and_then(|e| e.value.as_array())
            .map_or(vec![false; 3], |l| {
                l.iter().map(|v| v == &json!(true)).collect()
            });
        match dilated[..] {
            [false, false, false] => self.set("model.output_stride", json!(32)),
            [false, false, true] => self.set("model.output_stride", json!(16)),
            [false, true, true] => self.set("model.output_stride", json!(8)),
            _ => self.refuse(
                &of("replace_stride_with_dilation"),
                "is not an output stride of 8, 16 or 32",
                "write [False, True, True], [False, False, True] or [False, False, False]",
            ),
        }
        for (key, own) in [("groups", 1.0), ("width_per_group", 64.0)] {
            if self.number(&of(key), own) != own {
                self.refuse(&of(key), "is not in this engine", &format!("write {own}"));
            }
        }
        if self.switch(&of("pretrained"), deep) {
            self.authors.backbone = Some(name);
        }
        let aux = self.from.has_section("net.aux_loss");
        self.set("model.aux", json!(aux));
        if aux {
            self.require("net.aux_loss.loss_weight", "model.aux_weight", "0.4");
            let planes = if deep { 1024.0 } else { 256.0 };
            if self.number("net.aux_loss.aux_plane", planes) != planes {
                self.refuse(
                    "net.aux_loss.aux_plane",
                    "is not the width of layer3",
                    &format!("write {planes}"),
                );
            }
        }
    }

    fn saver(&mut self) {
        if let Some(path) = self.text("saver.pretrain") {
            self.authors.pretrain = Some(resolve(self.folder, &path));
        }
        if self.switch("saver.auto_resume", false) {
            self.warn("saver.auto_resume: give --out RUN --resume to go on with a run");
        }
    }

    fn warn(&mut self, text: &str) {
        let line = format!("{}: {text}", self.from.origin);
        self.authors.warnings.push(line);
    }

    fn notes(&mut self, options: AuthorsOptions) {
        let mode = match self.mode {
            Mode::Paper => "paper",
            Mode::Released => "released",
        };
        let other = match options.semantics {
            None => "; --semantics paper for the paper's step",
            Some(_) => "",
        };
        let each = self.train_count("batch_size").unwrap_or(1);
        let processes = match options.world_size {
            Some(n) if self.together() > 1 => {
                format!("batch_size {each} in each of {n} processes, as one batch")
            }
            Some(n) => format!("batch_size {each} in each of {n} processes, one after the other"),
            None => {
                format!("batch_size {each} in one process (--world-size N for the batch of N GPUs)")
            }
        };
        let line = format!("the authors' format, semantics {mode}{other}; {processes}");
        self.authors
            .notes
            .push(format!("{}: {line}", self.from.origin));
        let mut unread = self.from.unread.clone();
        if self.voc && !self.semi && self.train_count("n_sup").is_some() {
            unread.push("dataset.n_sup (with type pascal)".into());
        }
        if !unread.is_empty() {
            self.warn(&format!(
                "without effect in the authors' code, and here: {}",
                unread.join(", ")
            ));
        }
    }
}

/// One number is a square.
fn pair(value: &Value) -> Value {
    match value {
        Value::Array(_) => value.clone(),
        side => json!([side, side]),
    }
}
