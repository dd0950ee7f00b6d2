//! What a step did, read back from its small output tensors.

use serde::Serialize;

use crate::device::{ArenaId, Device, Readback, View};
use crate::graph::TensorId;
use crate::graph::exec::Program;
use crate::graph::state::State;
use crate::method::schedule::Scalars;
use crate::method::step::Outputs;
use crate::{Error, Result};

/// Loss terms of a step, before their weights.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Losses {
    /// L_s, main head.
    pub sup: f32,
    /// Auxiliary head.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aux: Option<f32>,
    /// λ_u · L_u.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unsup: Option<f32>,
    /// L_c.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contrast: Option<f32>,
}

/// A count per class.
pub type PerClass = Vec<u32>;

/// U2PL's inner state at one step.
#[derive(Clone, Debug, Default, Serialize)]
pub struct U2pl {
    /// Share of unlabelled pixels with a reliable pseudo-label.
    pub kept: f32,
    /// γ_t, nats.
    pub gamma: f32,
    /// α_t, percent.
    pub alpha: f32,
    /// λ_u = all/kept.
    pub lambda_u: f32,
    /// Anchor candidates on labelled pixels.
    pub anchors_labeled: PerClass,
    /// Anchor candidates on unlabelled pixels.
    pub anchors_unlabeled: PerClass,
    /// Negatives from labelled pixels.
    pub negatives_labeled: PerClass,
    /// Negatives from unlabelled pixels.
    pub negatives_unlabeled: PerClass,
    /// Classes that took part in the contrastive loss.
    pub contrast_classes: u32,
    /// Entries in the memory bank.
    pub bank: PerClass,
    /// Share of pixels on which the teacher's two passes disagree.
    pub disagreement: f64,
    /// Accuracy of kept pseudo-labels, where a ground truth exists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pseudo_accuracy: Option<f64>,
    /// IoU of kept pseudo-labels per class over kept pixels, where a ground truth exists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pseudo_iou: Option<Vec<Option<f64>>>,
}

/// One step's report.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Losses.
    pub loss: Losses,
    /// Present in U2PL steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub u2pl: Option<U2pl>,
}

impl Report {
    /// Whether every loss is a finite number.
    pub fn is_finite(&self) -> bool {
        let l = &self.loss;
        [Some(l.sup), l.aux, l.unsup, l.contrast]
            .into_iter()
            .flatten()
            .all(f32::is_finite)
    }
}

/// IoU per class from a confusion matrix (row = truth); `None` where a class is absent from both.
pub fn iou(matrix: &[u64], classes: usize) -> Vec<Option<f64>> {
    (0..classes)
        .map(|c| {
            let hit = matrix[c * classes + c];
            let truth: u64 = matrix[c * classes..(c + 1) * classes].iter().sum();
            let predicted: u64 = (0..classes).map(|r| matrix[r * classes + c]).sum();
            let union = truth + predicted - hit;
            (union > 0).then(|| hit as f64 / union as f64)
        })
        .collect()
}

/// Share of the matrix on its diagonal; `None` when it is empty.
pub fn accuracy(matrix: &[u64], classes: usize) -> Option<f64> {
    let total: u64 = matrix.iter().sum();
    let hit: u64 = (0..classes).map(|c| matrix[c * classes + c]).sum();
    (total > 0).then(|| hit as f64 / total as f64)
}

/// The small tensors of a step on their way to the host.
#[derive(Debug)]
pub struct Queued {
    readback: Readback,
    /// Which of the tensors, in [`Values`]' order, are among them.
    present: [bool; TENSORS],
    scalars: Scalars,
}

/// Tensors that a report is made of.
const TENSORS: usize = 10;

/// Their contents.
#[derive(Default)]
struct Values {
    sup: Vec<f32>,
    aux: Option<Vec<f32>>,
    unsup: Option<Vec<f32>>,
    contrast: Option<Vec<f32>>,
    thresholds: Option<Vec<f32>>,
    anchors: Option<Vec<u32>>,
    negatives: Option<Vec<u32>>,
    cursor: Option<Vec<u32>>,
    disagreement: Option<Vec<u32>>,
    pseudo: Option<Vec<u32>>,
}

/// Queues the copies of what the step left behind; the next step may follow at once.
///
/// # Errors
/// The device's.
pub fn queue(
    device: &dyn Device,
    program: &Program,
    out: &Outputs,
    state: &State,
    arena: ArenaId,
    scalars: Scalars,
) -> Result<Queued> {
    let view = |t: Option<TensorId>| t.map(|t| program.view(t));
    let cursor = match state.contains("bank.cursor") && out.unsup.is_some() {
        true => Some(state.view("bank.cursor", arena)?),
        false => None,
    };
    let views: [Option<View>; TENSORS] = [
        view(out.sup),
        view(out.aux),
        view(out.unsup),
        view(out.contrast),
        view(out.thresholds),
        view(out.anchors),
        view(out.negatives),
        cursor,
        view(out.disagreement),
        view(out.pseudo),
    ];
    let wanted: Vec<View> = views.iter().copied().flatten().collect();
    Ok(Queued {
        readback: device.read_later(&wanted)?,
        present: views.map(|v| v.is_some()),
        scalars,
    })
}

impl Queued {
    /// Waits for the copies and makes the report.
    ///
    /// # Errors
    /// The device's.
    pub fn report(self, device: &dyn Device) -> Result<Report> {
        let mut bytes = device.collect(self.readback)?.into_iter();
        let mut next = self
            .present
            .map(|there| if there { bytes.next() } else { None })
            .into_iter();
        let mut floats = || {
            next.next()
                .flatten()
                .map(|b| bytemuck::pod_collect_to_vec(&b))
        };
        let mut values = Values {
            sup: floats().ok_or_else(|| Error::internal("a step without a supervised loss"))?,
            aux: floats(),
            unsup: floats(),
            contrast: floats(),
            thresholds: floats(),
            ..Values::default()
        };
        let mut words = || {
            next.next()
                .flatten()
                .map(|b| bytemuck::pod_collect_to_vec(&b))
        };
        values.anchors = words();
        values.negatives = words();
        values.cursor = words();
        values.disagreement = words();
        values.pseudo = words();
        Ok(values.report(self.scalars))
    }
}

impl Values {
    fn report(self, scalars: Scalars) -> Report {
        let loss = Losses {
            sup: self.sup[0],
            aux: self.aux.map(|s| s[0]),
            unsup: self.unsup.as_ref().map(|s| s[0]),
            contrast: self.contrast.as_ref().map(|s| s[0]),
        };
        let Some(unsup) = self.unsup else {
            return Report { loss, u2pl: None };
        };
        let mut u2pl = U2pl {
            kept: unsup[2] / unsup[3].max(1.0),
            gamma: self.thresholds.map_or(f32::NAN, |t| t[0]),
            alpha: scalars.alpha,
            contrast_classes: self.contrast.map_or(0, |s| s[2] as u32),
            lambda_u: if unsup[2] > 0.0 {
                unsup[3] / unsup[2]
            } else {
                0.0
            },
            ..U2pl::default()
        };
        if let Some(counts) = self.anchors {
            (u2pl.anchors_labeled, u2pl.anchors_unlabeled) = split(&counts);
        }
        if let Some(counts) = self.negatives {
            (u2pl.negatives_labeled, u2pl.negatives_unlabeled) = split(&counts);
        }
        if let Some(cursor) = self.cursor {
            u2pl.bank = cursor[cursor.len() / 2..].to_vec();
        }
        let matrix = |m: Option<Vec<u32>>| -> Vec<u64> {
            m.unwrap_or_default().into_iter().map(u64::from).collect()
        };
        let classes = |m: &[u64]| m.len().isqrt();
        let agree = matrix(self.disagreement);
        u2pl.disagreement = accuracy(&agree, classes(&agree)).map_or(0.0, |a| 1.0 - a);
        let pseudo = matrix(self.pseudo);
        u2pl.pseudo_accuracy = accuracy(&pseudo, classes(&pseudo));
        u2pl.pseudo_iou = u2pl.pseudo_accuracy.map(|_| iou(&pseudo, classes(&pseudo)));
        Report {
            loss,
            u2pl: Some(u2pl),
        }
    }
}

/// `[2, C]` counts (all, labelled) to (labelled, unlabelled).
fn split(counts: &[u32]) -> (PerClass, PerClass) {
    let (all, labeled) = counts.split_at(counts.len() / 2);
    let unlabeled = all.iter().zip(labeled).map(|(a, l)| a - l).collect();
    (labeled.to_vec(), unlabeled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iou_and_accuracy_of_a_small_matrix() {
        // truth 0: 3 right, 1 taken for 1; truth 1: 2 right; class 2 absent.
        let m = [3, 1, 0, 0, 2, 0, 0, 0, 0];
        assert_eq!(iou(&m, 3), [Some(0.75), Some(2.0 / 3.0), None]);
        assert_eq!(accuracy(&m, 3), Some(5.0 / 6.0));
        assert_eq!(accuracy(&[0; 4], 2), None);
    }
}
