//! What a step did, read back from its small output tensors.

use serde::Serialize;

use crate::device::ArenaId;
use crate::device::Device;
use crate::graph::TensorId;
use crate::graph::exec::{Program, read_view};
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

/// Reads what the step left behind.
///
/// # Errors
/// The device's.
pub fn read(
    device: &dyn Device,
    program: &Program,
    out: &Outputs,
    state: &State,
    arena: ArenaId,
    scalars: Scalars,
) -> Result<Report> {
    let stats = |t: Option<TensorId>| t.map(|t| program.read::<f32>(t)).transpose();
    let sup = stats(out.sup)?.ok_or_else(|| Error::internal("a step without a supervised loss"))?;
    let unsup = stats(out.unsup)?;
    let contrast = stats(out.contrast)?;
    let loss = Losses {
        sup: sup[0],
        aux: stats(out.aux)?.map(|s| s[0]),
        unsup: unsup.as_ref().map(|s| s[0]),
        contrast: contrast.as_ref().map(|s| s[0]),
    };
    let Some(unsup) = unsup else {
        return Ok(Report { loss, u2pl: None });
    };

    let mut u2pl = U2pl {
        kept: unsup[2] / unsup[3].max(1.0),
        gamma: stats(out.thresholds)?.map_or(f32::NAN, |t| t[0]),
        alpha: scalars.alpha,
        contrast_classes: contrast.map_or(0, |s| s[2] as u32),
        lambda_u: if unsup[2] > 0.0 {
            unsup[3] / unsup[2]
        } else {
            0.0
        },
        ..U2pl::default()
    };
    if let Some(t) = out.anchors {
        (u2pl.anchors_labeled, u2pl.anchors_unlabeled) = split(&program.read::<u32>(t)?);
    }
    if let Some(t) = out.negatives {
        (u2pl.negatives_labeled, u2pl.negatives_unlabeled) = split(&program.read::<u32>(t)?);
    }
    if state.contains("bank.cursor") {
        let cursor = read_view::<u32>(device, &state.view("bank.cursor", arena)?)?;
        u2pl.bank = cursor[cursor.len() / 2..].to_vec();
    }
    let matrix = |t: Option<TensorId>| -> Result<Vec<u64>> {
        let Some(t) = t else { return Ok(Vec::new()) };
        Ok(program.read::<u32>(t)?.into_iter().map(u64::from).collect())
    };
    let classes = |m: &[u64]| m.len().isqrt();
    let agree = matrix(out.disagreement)?;
    u2pl.disagreement = accuracy(&agree, classes(&agree)).map_or(0.0, |a| 1.0 - a);
    let pseudo = matrix(out.pseudo)?;
    u2pl.pseudo_accuracy = accuracy(&pseudo, classes(&pseudo));
    u2pl.pseudo_iou = u2pl.pseudo_accuracy.map(|_| iou(&pseudo, classes(&pseudo)));
    Ok(Report {
        loss,
        u2pl: Some(u2pl),
    })
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
