//! Do the numbers of a configuration make sense, alone and together?

use super::schema::{
    Algorithm, Config, DataKind, Encoder, LabelEncoding, Mode, NegativePixels, Shapes, TeacherBn,
};
use crate::{Error, Result};

/// Channels, and taps of a dilated convolution apart.
const MOST_CHANNELS: usize = 16_384;
/// Images a batch.
const MOST_BATCH: usize = 16_384;
/// Synthetic images, draws of the contrastive loss, epochs: a million.
const MOST: usize = 1_000_000;
/// Entries of the memory bank, iterations of an epoch: a thousand of those.
const MOST_ENTRIES: usize = 1_000_000_000;
/// Values of the largest map of a batch; a thousand maps of so many are still a number of bytes.
const MOST_VALUES: u128 = 1 << 46;

/// Collects one line per problem.
#[derive(Default)]
struct Problems(Vec<Error>);

impl Problems {
    /// Records `problem` with key `key` unless `ok`.
    fn need(&mut self, ok: bool, key: &str, problem: impl Into<String>, mend: impl Into<String>) {
        if !ok {
            self.0.push(Error::input(key, problem, mend));
        }
    }

    fn at_least_one(&mut self, key: &str, value: usize) {
        self.need(value >= 1, key, "is 0", "give at least 1");
    }

    /// `value ≤ most`, beyond which a count is a slip and sizes made of it no longer fit a number.
    fn at_most(&mut self, key: &str, value: usize, most: usize) {
        self.need(
            value <= most,
            key,
            format!("{value} is out of range"),
            format!("give at most {most}"),
        );
    }

    fn count(&mut self, key: &str, value: usize, most: usize) {
        self.at_least_one(key, value);
        self.at_most(key, value, most);
    }

    /// `low ≤ value ≤ high`; NaN fails.
    fn within(&mut self, key: &str, value: f32, low: f32, high: f32) {
        self.need(
            value >= low && value <= high,
            key,
            format!("{value} is out of range"),
            format!("give a number from {low} to {high}"),
        );
    }

    /// Finite and above zero.
    fn positive(&mut self, key: &str, value: f32) {
        self.need(
            value.is_finite() && value > 0.0,
            key,
            format!("{value} is not a positive number"),
            "give a number above 0",
        );
    }

    /// Finite and not below zero.
    fn not_negative(&mut self, key: &str, value: f32) {
        self.need(
            value.is_finite() && value >= 0.0,
            key,
            format!("{value} is below 0 or not a number"),
            "give 0 or more",
        );
    }
}

impl Config {
    /// Checks every range and every pair of settings that must agree.
    ///
    /// # Errors
    /// One [`Error::Input`] per problem, all together.
    pub fn validate(&self) -> Result<()> {
        let mut p = Problems::default();
        data(self, &mut p);
        sources(self, &mut p);
        augment(self, &mut p);
        model(self, &mut p);
        train(self, &mut p);
        batch(self, &mut p);
        method(self, &mut p);
        eval(self, &mut p);
        Error::collect(p.0)
    }

    /// Checks what evaluation and inference need of a configuration: everything but where
    /// training images come from and how they are learnt from.
    ///
    /// # Errors
    /// As [`Config::validate`].
    pub fn validate_for_use(&self) -> Result<()> {
        let mut p = Problems::default();
        data(self, &mut p);
        augment(self, &mut p);
        model(self, &mut p);
        eval(self, &mut p);
        Error::collect(p.0)
    }
}

fn data(config: &Config, p: &mut Problems) {
    let d = &config.data;
    p.need(
        (2..=255).contains(&d.classes),
        "data.classes",
        format!("{} classes", d.classes),
        "give 2 to 255",
    );
    p.need(
        usize::from(d.ignore_index) >= d.classes,
        "data.ignore_index",
        format!(
            "{} is also one of the {} classes 0..={}",
            d.ignore_index,
            d.classes,
            d.classes.saturating_sub(1)
        ),
        "give a value that no class uses, such as 255",
    );
    p.need(
        d.class_names.is_empty() || d.class_names.len() == d.classes,
        "data.class_names",
        format!("{} names for {} classes", d.class_names.len(), d.classes),
        "name every class or none",
    );
    p.need(
        d.encoding != LabelEncoding::CityscapesLabelId || d.classes == 19,
        "data.encoding",
        format!(
            "cityscapes-label-id maps to 19 classes, data.classes is {}",
            d.classes
        ),
        "set data.classes: 19",
    );
    p.need(
        d.encoding == LabelEncoding::TrainId || d.remap.is_empty(),
        "data.remap",
        "stands beside data.encoding, which maps the values already",
        "leave one of them out",
    );
    let target = |to: u8| usize::from(to) < d.classes || to == d.ignore_index;
    if let Some((from, to)) = d.remap.iter().find(|(_, to)| !target(**to)) {
        p.need(
            false,
            "data.remap",
            format!("{from}: {to} leads to neither a class nor data.ignore_index"),
            format!(
                "give 0 to {} or {}",
                d.classes.saturating_sub(1),
                d.ignore_index
            ),
        );
    }
    p.need(
        d.image_scale.is_finite() && d.image_scale > 0.0 && d.image_scale <= 8.0,
        "data.image_scale",
        format!("{} is out of range", d.image_scale),
        "give a factor above 0 and at most 8",
    );
    p.within("data.max_bad_unlabeled", d.max_bad_unlabeled, 0.0, 1.0);
    p.at_most("data.workers", d.workers, 1024);
    for c in 0..3 {
        p.need(
            d.mean[c].is_finite(),
            "data.mean",
            format!("{} is not a number", d.mean[c]),
            "give three numbers, RGB 0–255",
        );
        p.positive("data.std", d.std[c]);
    }
}

/// Where the images of a run come from.
fn sources(config: &Config, p: &mut Problems) {
    let d = &config.data;
    if d.kind == DataKind::Shapes {
        shapes(config, p);
        return;
    }
    let set = |path: &std::path::Path| !path.as_os_str().is_empty();
    p.need(
        set(&d.root),
        "data.root",
        "is not set",
        "give the dataset's folder",
    );
    p.need(
        set(&d.labeled),
        "data.labeled",
        "is not set",
        "give the list of labelled images (`u2pl-engine split` writes one)",
    );
    p.need(
        set(&d.unlabeled) || !config.train.algorithm.uses_unlabeled(),
        "data.unlabeled",
        "is not set, and U2PL learns from unlabelled images",
        "give their list, or set train.algorithm: supervised",
    );
    p.need(
        set(&d.val),
        "data.val",
        "is not set",
        "give the list of validation images",
    );
}

fn shapes(config: &Config, p: &mut Problems) {
    let s = &config.data.shapes;
    let kinds = Shapes::CLASSES;
    p.need(
        config.data.classes == kinds,
        "data.classes",
        format!(
            "the synthetic shapes have {kinds} classes, not {}",
            config.data.classes
        ),
        format!("set data.classes: {kinds}"),
    );
    p.count("data.shapes.labeled", s.labeled, MOST);
    p.at_most("data.shapes.unlabeled", s.unlabeled, MOST);
    p.need(
        s.unlabeled >= 1 || !config.train.algorithm.uses_unlabeled(),
        "data.shapes.unlabeled",
        "is 0, and U2PL learns from unlabelled images",
        "give at least 1, or set train.algorithm: supervised",
    );
    p.count("data.shapes.val", s.val, MOST);
    p.need(
        (16..=4096).contains(&s.size),
        "data.shapes.size",
        format!("{} pixels is out of range", s.size),
        "give 16 to 4096",
    );
}

fn augment(config: &Config, p: &mut Problems) {
    let a = &config.augment;
    crop("augment.crop", a.crop, p);
    let [low, high] = a.scale;
    // Half of the draws lie in (low, 1), half in (1, high).
    p.need(
        low > 0.0 && low <= 1.0 && high >= 1.0 && high.is_finite(),
        "augment.scale",
        format!("[{low}, {high}] is not a range around 1"),
        "give [low, high] with 0 < low ≤ 1 ≤ high, such as [0.5, 2.0]",
    );
    p.within("augment.flip", a.flip, 0.0, 1.0);
    p.within("augment.mix_prob", a.mix_prob, 0.0, 1.0);
}

fn crop(key: &str, crop: [usize; 2], p: &mut Problems) {
    p.need(
        crop.iter().all(|side| (1..=16_384).contains(side)),
        key,
        format!("{} × {} pixels is out of range", crop[0], crop[1]),
        "give [height, width], each 1 to 16384",
    );
}

fn model(config: &Config, p: &mut Problems) {
    let m = &config.model;
    p.need(
        [8, 16, 32].contains(&m.output_stride),
        "model.output_stride",
        format!("{} is not possible", m.output_stride),
        "give 8, 16 or 32",
    );
    p.need(
        !(m.multi_grid && m.encoder == Encoder::Resnet18),
        "model.multi_grid",
        "needs three blocks in layer4, resnet18 has two",
        "set model.multi_grid: false",
    );
    for (key, width) in [
        ("model.width", m.width),
        ("model.head_width", m.head_width),
        ("model.rep_width", m.rep_width),
    ] {
        p.count(key, width, MOST_CHANNELS);
    }
    p.need(
        (1..=64).contains(&m.aspp_dilations.len())
            && m.aspp_dilations
                .iter()
                .all(|d| (1..=MOST_CHANNELS).contains(d)),
        "model.aspp_dilations",
        format!("{:?} is not a list of dilations", m.aspp_dilations),
        "give one or more numbers from 1, such as [12, 24, 36]",
    );
    p.need(
        (0.0..1.0).contains(&m.dropout),
        "model.dropout",
        format!("{} is out of range", m.dropout),
        "give a probability from 0 to below 1",
    );
    p.not_negative("model.aux_weight", m.aux_weight);
    p.need(
        m.bn_momentum > 0.0 && m.bn_momentum <= 1.0,
        "model.bn_momentum",
        format!("{} is out of range", m.bn_momentum),
        "give a weight above 0 and at most 1",
    );
}

fn train(config: &Config, p: &mut Problems) {
    let t = &config.train;
    let u2pl = t.algorithm.uses_unlabeled();
    p.count("train.epochs", t.epochs, MOST);
    p.at_most("train.epoch_iters", t.epoch_iters, MOST_ENTRIES);
    p.count("train.batch_labeled", t.batch_labeled, MOST_BATCH);
    p.count("train.micro_batches", t.micro_batches, MOST_BATCH);
    if u2pl {
        p.count("train.batch_unlabeled", t.batch_unlabeled, MOST_BATCH);
        p.need(
            t.warmup_epochs < t.epochs || t.epochs == 0,
            "train.warmup_epochs",
            format!(
                "{} of {} epochs leave none for the unlabelled images",
                t.warmup_epochs, t.epochs
            ),
            "give fewer than train.epochs, or set train.algorithm: supervised",
        );
    }
    // The student sees labelled images alone while supervised, both streams in one batch after.
    let smallest = match u2pl && t.warmup_epochs == 0 {
        true => t.batch_labeled.saturating_add(t.batch_unlabeled),
        false => t.batch_labeled,
    };
    p.need(
        smallest != 1,
        "train.batch_labeled",
        "a batch of 1 leaves the batch norm after ASPP's global pooling (a 1×1 map) no variance",
        "give at least 2",
    );
    p.positive("train.lr", t.lr);
    p.positive("train.head_lr_mult", t.head_lr_mult);
    p.need(
        (0.0..1.0).contains(&t.momentum),
        "train.momentum",
        format!("{} is out of range", t.momentum),
        "give 0 to below 1",
    );
    p.not_negative("train.weight_decay", t.weight_decay);
    p.not_negative("train.poly_power", t.poly_power);
    p.within("train.ohem_thresh", t.ohem_thresh, 0.0, 1.0);
    p.at_least_one("train.log_every", t.log_every);
    p.at_least_one("train.val_every", t.val_every);
}

/// A batch that no machine can hold, as far as a glance tells: the plan says it to the byte.
fn batch(config: &Config, p: &mut Problems) {
    let (t, m, [height, width]) = (&config.train, &config.model, config.augment.crop);
    // The last stage of bottlenecks is 32 times as wide as layer1's blocks; ASPP's branches lie
    // side by side.
    let branches = (m.aspp_dilations.len() as u128 + 2) * m.head_width as u128;
    let channels = branches.max(32 * m.width as u128).max(m.rep_width as u128);
    let images = t.batch_labeled as u128 + t.batch_unlabeled as u128;
    let pixels = (height as u128).saturating_mul(width as u128);
    let values = images.saturating_mul(pixels).saturating_mul(channels);
    p.need(
        values <= MOST_VALUES,
        "augment.crop",
        format!("{height} × {width} pixels of {images} images in {channels} channels are more than any machine holds"),
        "use a smaller crop, batch or network",
    );
}

fn method(config: &Config, p: &mut Problems) {
    let m = &config.method;
    p.within("method.ema", m.ema, 0.0, 1.0);
    p.within("method.alpha0", m.alpha0, 0.0, 100.0);
    p.within("method.threshold", m.threshold, 0.0, 1.0);
    p.not_negative("method.unsup_weight", m.unsup_weight);
    let algorithm = config.train.algorithm;
    let baseline = algorithm.uses_unlabeled() && algorithm != Algorithm::U2pl;
    p.need(
        !baseline || (m.mode == Mode::Paper && m.teacher_bn == TeacherBn::Ema),
        "train.algorithm",
        format!(
            "{} has no second teacher pass for mode released or teacher_bn: batch to move",
            algorithm.name()
        ),
        "set method.mode: paper and method.teacher_bn: ema",
    );
    p.need(
        m.mode == Mode::Paper || m.negative_pixels == NegativePixels::Unreliable,
        "method.negative_pixels",
        "the released code has unreliable ones alone",
        "leave it out, or set method.mode: paper",
    );
    if let Some(weight) = m.contrast_weight {
        p.not_negative("method.contrast_weight", weight);
    }
    p.count("method.world_size", m.world_size, MOST);
    p.within("method.delta_p", m.delta_p, 0.0, 1.0);
    ranks(config, p);
    p.count("method.anchors", m.anchors, MOST);
    p.count("method.negatives", m.negatives, MOST);
    p.positive("method.temperature", m.temperature);
    p.count("method.bank_background", m.bank_background, MOST_ENTRIES);
    p.count("method.bank_size", m.bank_size, MOST_ENTRIES);
}

/// `1 ≤ r_l < r_h`; bounds beyond C are harmless (the last ranks are then simply included).
fn ranks(config: &Config, p: &mut Problems) {
    let m = &config.method;
    if let Some(low) = m.low_rank {
        p.need(
            low >= 1 && (low as usize) < config.data.classes,
            "method.low_rank",
            format!("{low} with {} classes", config.data.classes),
            "give 1 to data.classes − 1, or null to derive it",
        );
    }
    if let (Some(low), Some(high)) = (m.low_rank, m.high_rank) {
        p.need(
            low < high,
            "method.high_rank",
            format!("{high} is not above method.low_rank, {low}"),
            "give a larger number, or null to derive it",
        );
    }
    p.need(
        m.high_rank != Some(0),
        "method.high_rank",
        "is 0",
        "give at least 1, or null to derive it",
    );
}

fn eval(config: &Config, p: &mut Problems) {
    let e = &config.eval;
    if let Some(size) = e.crop {
        crop("eval.crop", size, p);
    }
    p.need(
        !e.scales.is_empty()
            && e.scales
                .iter()
                .all(|s| s.is_finite() && (0.1..=8.0).contains(s)),
        "eval.scales",
        format!("{:?} is not a list of image scales", e.scales),
        "give one or more factors from 0.1 to 8, such as [1.0]",
    );
}
