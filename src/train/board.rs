//! What a run shows on TensorBoard: which number stands under which tag.

use std::path::Path;

use super::events::{EventLog, Histogram, Payload};
use super::sheet::{Sheet, png};
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

    /// The pictures of a validation, a column each.
    pub(super) fn sheet(&mut self, done: usize, sheet: &Sheet) -> Result<()> {
        let Some(log) = &mut self.log else {
            return Ok(());
        };
        let mut values = Vec::new();
        for (i, column) in sheet.columns().iter().enumerate() {
            let picture = sheet.only(&[column.kind]).picture();
            let image = Payload::Image {
                width: picture.width(),
                height: picture.height(),
                png: png(&picture)?,
            };
            // TensorBoard sorts: the numbers keep the sheet's order.
            values.push((format!("samples/{} {}", i + 1, column.title), image));
        }
        log.write(done, &values)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::method::diagnostics::{Losses, U2pl};

    #[test]
    fn every_number_of_a_step_has_its_tag() {
        let report = Report {
            loss: Losses {
                sup: 1.0,
                contrast: Some(2.0),
                ..Losses::default()
            },
            u2pl: Some(U2pl {
                gamma: f32::NAN,
                kept: 0.5,
                bank: vec![7, 8],
                pseudo_iou: Some(vec![None, Some(0.25)]),
                ..U2pl::default()
            }),
        };
        let classes = ["sky".to_string(), "car".to_string()];
        let values = step_values(&classes, 0.125, &report);
        let value = |tag: &str| {
            let found = values.iter().find(|(t, _)| t == tag);
            found.map(|(_, payload)| match payload {
                Payload::Scalar(x) => *x,
                other => panic!("{other:?}"),
            })
        };
        for (tag, x) in [
            ("train/lr", Some(0.125)),
            ("loss/sup", Some(1.0)),
            ("loss/contrast", Some(2.0)),
            ("loss/unsup", None),
            ("u2pl/kept", Some(0.5)),
            ("u2pl/gamma", None),
            ("u2pl_bank/car", Some(8.0)),
            ("u2pl_pseudo_iou/sky", None),
            ("u2pl_pseudo_iou/car", Some(0.25)),
        ] {
            assert_eq!(value(tag), x, "{tag}");
        }
        let alone = Report::default();
        assert_eq!(step_values(&classes, 0.125, &alone).len(), 2);
    }

    #[test]
    fn a_board_that_is_off_writes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut cfg = Config::default();
        cfg.train.tensorboard = false;
        let mut board = Board::open(dir.path(), &cfg, 0).unwrap();
        assert!(!board.is_on());
        board.step(10, 0.5, &Report::default()).unwrap();
        board.validated(10, 0.5, &[Some(0.5)]).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
