//! What a run shows on TensorBoard: which number stands under which tag.

use std::path::Path;

use super::events::{EventLog, Histogram, Payload};
use super::sheet::Sheet;
use crate::Result;
use crate::config::Config;
use crate::graph::params::{Kind, Layout};
use crate::method::diagnostics::Report;

/// The event file of a run, or nothing where `train.tensorboard` is off.
pub(super) struct Board {
    log: Option<EventLog>,
    classes: Vec<String>,
}

impl Board {
    /// Opens the event file in the run folder `dir`, of which `iteration` steps count.
    pub(super) fn open(dir: &Path, cfg: &Config, iteration: usize) -> Result<Self> {
        let log = match cfg.train.tensorboard {
            true => Some(EventLog::open(dir, iteration)?),
            false => None,
        };
        let classes = (0..cfg.data.classes).map(|c| cfg.data.class_name(c));
        Ok(Self {
            log,
            classes: classes.collect(),
        })
    }

    /// Whether anything is written at all.
    pub(super) fn is_on(&self) -> bool {
        self.log.is_some()
    }

    /// The numbers of a step.
    pub(super) fn step(&mut self, done: usize, lr: f32, report: &Report) -> Result<()> {
        let Some(log) = &mut self.log else {
            return Ok(());
        };
        log.write(done, &step_values(&self.classes, lr, report))
    }

    /// The scores of a validation.
    pub(super) fn validated(&mut self, done: usize, miou: f64, iou: &[Option<f64>]) -> Result<()> {
        let Some(log) = &mut self.log else {
            return Ok(());
        };
        let mut values = vec![scalar("val/miou", miou)];
        values.extend(shares(&self.classes, "val_iou", iou));
        log.write(done, &values)
    }

    /// The pictures of a validation.
    pub(super) fn sheet(&mut self, done: usize, sheet: &Sheet, png: &[u8]) -> Result<()> {
        let Some(log) = &mut self.log else {
            return Ok(());
        };
        let titles: Vec<&str> = sheet.columns().iter().map(|c| c.title.as_str()).collect();
        let (width, height) = sheet.picture().dimensions();
        let image = Payload::Image {
            width,
            height,
            png: png.to_vec(),
        };
        log.write(done, &[(format!("samples: {}", titles.join(", ")), image)])
    }

    /// The distribution of every convolution's weights.
    pub(super) fn weights(&mut self, done: usize, layout: &Layout, flat: &[f32]) -> Result<()> {
        let Some(log) = &mut self.log else {
            return Ok(());
        };
        let mut values = Vec::new();
        for spec in layout.specs().iter().filter(|s| s.kind == Kind::Weight) {
            let [k, r, s, c] = spec.shape;
            // Biases and batch norms: too many for too little.
            if k * r * s == 1 {
                continue;
            }
            let own = flat.get(spec.offset..spec.offset + k * r * s * c);
            if let Some(histogram) = own.and_then(Histogram::of) {
                values.push((
                    format!("student/{}", spec.name),
                    Payload::Histogram(histogram),
                ));
            }
        }
        log.write(done, &values)
    }
}

fn step_values(classes: &[String], lr: f32, report: &Report) -> Vec<(String, Payload)> {
    let loss = &report.loss;
    let mut values = vec![scalar("train/lr", lr), scalar("loss/sup", loss.sup)];
    for (tag, term) in [
        ("loss/aux", loss.aux),
        ("loss/unsup", loss.unsup),
        ("loss/contrast", loss.contrast),
    ] {
        values.extend(term.map(|x| scalar(tag, x)));
    }
    let Some(u) = &report.u2pl else {
        return values;
    };
    for (tag, x) in [
        ("u2pl/kept", u.kept),
        ("u2pl/alpha", u.alpha),
        ("u2pl/lambda_u", u.lambda_u),
        ("u2pl/contrast_classes", u.contrast_classes as f32),
        ("u2pl/disagreement", u.disagreement as f32),
    ] {
        values.push(scalar(tag, x));
    }
    // Algorithms without a threshold have none.
    if u.gamma.is_finite() {
        values.push(scalar("u2pl/gamma", u.gamma));
    }
    values.extend(u.pseudo_accuracy.map(|x| scalar("u2pl/pseudo_accuracy", x)));
    for (tag, counts) in [
        ("u2pl_anchors_labeled", &u.anchors_labeled),
        ("u2pl_anchors_unlabeled", &u.anchors_unlabeled),
        ("u2pl_negatives_labeled", &u.negatives_labeled),
        ("u2pl_negatives_unlabeled", &u.negatives_unlabeled),
        ("u2pl_bank", &u.bank),
    ] {
        let named = classes.iter().zip(counts);
        values.extend(named.map(|(name, &n)| scalar(format!("{tag}/{name}"), n)));
    }
    if let Some(iou) = &u.pseudo_iou {
        values.extend(shares(classes, "u2pl_pseudo_iou", iou));
    }
    values
}

/// A share per class, where there is one.
fn shares<'a>(
    classes: &'a [String],
    tag: &'a str,
    shares: &'a [Option<f64>],
) -> impl Iterator<Item = (String, Payload)> + 'a {
    let named = classes.iter().zip(shares);
    named.filter_map(move |(name, x)| Some(scalar(format!("{tag}/{name}"), (*x)?)))
}

fn scalar(tag: impl Into<String>, x: impl Number) -> (String, Payload) {
    (tag.into(), Payload::Scalar(x.to_f32()))
}

/// Numbers of any type, as an event file holds them.
trait Number {
    fn to_f32(self) -> f32;
}

impl Number for f32 {
    fn to_f32(self) -> f32 {
        self
    }
}

impl Number for f64 {
    fn to_f32(self) -> f32 {
        self as f32
    }
}

impl Number for u32 {
    fn to_f32(self) -> f32 {
        self as f32
    }
}
