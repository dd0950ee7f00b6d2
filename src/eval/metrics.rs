//! What a confusion matrix says.

use serde_json::{Value, json};

use crate::method::diagnostics;
use crate::{Error, Result};

/// A confusion matrix over a set of images and the numbers read off it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    classes: usize,
    /// Row = truth, column = prediction, in pixels; ignored pixels do not count.
    confusion: Vec<u64>,
}

impl Metrics {
    /// No pixels yet.
    pub fn new(classes: usize) -> Self {
        Self {
            classes,
            confusion: vec![0; classes * classes],
        }
    }

    /// Adds the matrix of an image (row = truth).
    ///
    /// # Errors
    /// [`Error::Internal`] when it is of another number of classes.
    pub fn add(&mut self, matrix: &[u32]) -> Result<()> {
        if matrix.len() != self.confusion.len() {
            return Err(Error::internal(format!(
                "a confusion matrix of {} entries for {} classes",
                matrix.len(),
                self.classes
            )));
        }
        for (sum, &n) in self.confusion.iter_mut().zip(matrix) {
            *sum += u64::from(n);
        }
        Ok(())
    }

    /// Number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The matrix, row = truth.
    pub fn confusion(&self) -> &[u64] {
        &self.confusion
    }

    /// Pixels counted.
    pub fn pixels(&self) -> u64 {
        self.confusion.iter().sum()
    }

    /// Intersection over union per class; `None` for a class in neither truth nor prediction.
    pub fn iou(&self) -> Vec<Option<f64>> {
        diagnostics::iou(&self.confusion, self.classes)
    }

    /// Mean of [`Metrics::iou`] over the classes that occur in truth or prediction; `None` when
    /// no pixel counted.
    pub fn miou(&self) -> Option<f64> {
        let present: Vec<f64> = self.iou().into_iter().flatten().collect();
        (!present.is_empty()).then(|| present.iter().sum::<f64>() / present.len() as f64)
    }

    /// The classes that no pixel of the truth is of and that were predicted, with their pixels. In
    /// [`Metrics::miou`] each counts with an IoU of 0.
    pub fn untrue(&self) -> Vec<(usize, u64)> {
        let n = self.classes;
        let row = |c: usize| self.confusion[c * n..(c + 1) * n].iter().sum::<u64>();
        let column = |c: usize| self.confusion.iter().skip(c).step_by(n).sum::<u64>();
        let predicted = (0..n).filter(|&c| row(c) == 0).map(|c| (c, column(c)));
        predicted.filter(|&(_, pixels)| pixels > 0).collect()
    }

    /// As [`Metrics::miou`], over the classes of the truth alone.
    pub fn miou_of_truth(&self) -> Option<f64> {
        let untrue = self.untrue();
        let iou = self.iou().into_iter().enumerate();
        let own = iou.filter(|(c, _)| untrue.iter().all(|(other, _)| other != c));
        let own: Vec<f64> = own.filter_map(|(_, iou)| iou).collect();
        (!own.is_empty()).then(|| own.iter().sum::<f64>() / own.len() as f64)
    }

    /// Share of counted pixels whose class is right; `None` when no pixel counted.
    pub fn pixel_accuracy(&self) -> Option<f64> {
        diagnostics::accuracy(&self.confusion, self.classes)
    }

    /// Mean over the classes of the truth of the share of their pixels that is right; `None` when no
    /// pixel counted.
    pub fn class_accuracy(&self) -> Option<f64> {
        let rows = self.confusion.chunks(self.classes.max(1)).enumerate();
        let shares = rows.filter_map(|(c, row)| {
            let truth: u64 = row.iter().sum();
            (truth > 0).then(|| row[c] as f64 / truth as f64)
        });
        let shares: Vec<f64> = shares.collect();
        (!shares.is_empty()).then(|| shares.iter().sum::<f64>() / shares.len() as f64)
    }

    /// Mean of [`Metrics::iou`] weighted by the pixels of the truth; `None` when no pixel counted.
    pub fn frequency_weighted_iou(&self) -> Option<f64> {
        let pixels = self.pixels();
        let rows = self.confusion.chunks(self.classes.max(1));
        let sum: f64 = rows
            .zip(self.iou())
            .map(|(row, iou)| row.iter().sum::<u64>() as f64 * iou.unwrap_or(0.0))
            .sum();
        (pixels > 0).then(|| sum / pixels as f64)
    }

    /// `{"miou", "pixel_accuracy", "class_accuracy", "frequency_weighted_iou", "iou": [..],
    /// "pixels", "confusion": [[..]]}`; shares in 0–1,
    /// absent classes null.
    pub fn to_json(&self) -> Value {
        let rows: Vec<&[u64]> = self.confusion.chunks(self.classes.max(1)).collect();
        json!({
            "miou": self.miou(),
            "pixel_accuracy": self.pixel_accuracy(),
            "class_accuracy": self.class_accuracy(),
            "frequency_weighted_iou": self.frequency_weighted_iou(),
            "iou": self.iou(),
            "pixels": self.pixels(),
            "confusion": rows,
        })
    }

    /// A table for people: IoU and pixels of truth per class, then the means. Classes without a
    /// name in `names` are `class N`.
    pub fn table(&self, names: &[String]) -> String {
        let name = |c: usize| {
            names
                .get(c)
                .cloned()
                .unwrap_or_else(|| format!("class {c}"))
        };
        let width = (0..self.classes)
            .map(|c| name(c).chars().count())
            .chain(["frequency-weighted IoU".len()])
            .max()
            .unwrap_or(0);
        let percent = |v: Option<f64>| v.map_or("–".into(), |v| format!("{:.2}", 100.0 * v));
        let mut text = format!(
            "{:width$}  {:>7}  {:>12}\n",
            "class", "IoU %", "truth pixels"
        );
        for (c, iou) in self.iou().into_iter().enumerate() {
            let truth: u64 = self.confusion[c * self.classes..(c + 1) * self.classes]
                .iter()
                .sum();
            let row = format!("{:width$}  {:>7}  {truth:>12}\n", name(c), percent(iou));
            text.push_str(&row);
        }
        for (label, value) in [
            ("mIoU", self.miou()),
            ("pixel accuracy", self.pixel_accuracy()),
            ("mean class accuracy", self.class_accuracy()),
            ("frequency-weighted IoU", self.frequency_weighted_iou()),
        ] {
            text.push_str(&format!("{label:width$}  {:>7}\n", percent(value)));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::philox::Rng;

    /// Counts pixels one by one, straight from the definition.
    fn plain_iou(truth: &[u8], prediction: &[u8], ignore: u8, class: u8) -> Option<f64> {
        let counted = || truth.iter().zip(prediction).filter(|(t, _)| **t != ignore);
        let both = counted()
            .filter(|(t, p)| **t == class && **p == class)
            .count();
        let either = counted()
            .filter(|(t, p)| **t == class || **p == class)
            .count();
        (either > 0).then(|| both as f64 / either as f64)
    }

    #[test]
    fn metrics_equal_a_plain_count() {
        const CLASSES: usize = 5;
        for round in 0..20 {
            let rng = Rng::seeded(3, 0, round);
            // Class 4 never occurs; 255 is ignored.
            let truth: Vec<u8> = (0..400)
                .map(|i| match rng.below(i, 5) {
                    4 => 255,
                    c => c as u8,
                })
                .collect();
            let prediction: Vec<u8> = (400..800).map(|i| rng.below(i, 4) as u8).collect();
            let mut matrix = vec![0u32; CLASSES * CLASSES];
            let mut right = 0;
            let mut counted = 0;
            for (&t, &p) in truth.iter().zip(&prediction) {
                if t != 255 {
                    matrix[t as usize * CLASSES + p as usize] += 1;
                    counted += 1;
                    right += usize::from(t == p);
                }
            }
            let mut metrics = Metrics::new(CLASSES);
            metrics.add(&matrix).unwrap();
            let expected: Vec<Option<f64>> = (0..CLASSES as u8)
                .map(|c| plain_iou(&truth, &prediction, 255, c))
                .collect();
            assert_eq!(metrics.iou(), expected);
            assert_eq!(metrics.iou()[4], None);
            let mean = expected.iter().flatten().sum::<f64>() / 4.0;
            assert!((metrics.miou().unwrap() - mean).abs() < 1e-12);
            assert_eq!(
                metrics.pixel_accuracy(),
                Some(right as f64 / counted as f64)
            );
        }
    }

    #[test]
    fn no_pixels_have_no_mean_and_wrong_sizes_are_refused() {
        let mut metrics = Metrics::new(3);
        assert_eq!(metrics.miou(), None);
        assert_eq!(metrics.pixel_accuracy(), None);
        assert_eq!(metrics.class_accuracy(), None);
        assert_eq!(metrics.frequency_weighted_iou(), None);
        assert!(metrics.add(&[0; 4]).is_err());
        assert_eq!(metrics.to_json()["miou"], Value::Null);
    }

    #[test]
    fn means_of_a_small_matrix() {
        let mut metrics = Metrics::new(3);
        // Truth 0: 6 right of 8; truth 1: 1 of 2; class 2 is only predicted.
        metrics.add(&[6, 1, 1, 1, 1, 0, 0, 0, 0]).unwrap();
        let [a, b] = [6.0 / 9.0, 1.0 / 3.0];
        assert_eq!(metrics.iou(), [Some(a), Some(b), Some(0.0)]);
        assert_eq!(metrics.class_accuracy(), Some((6.0 / 8.0 + 0.5) / 2.0));
        assert_eq!(metrics.miou(), Some((a + b) / 3.0));
        assert_eq!(metrics.miou_of_truth(), Some((a + b) / 2.0));
        assert_eq!(metrics.untrue(), [(2, 1)]);
        let weighted = metrics.frequency_weighted_iou().unwrap();
        assert!((weighted - (0.8 * a + 0.2 * b)).abs() < 1e-12);
    }

    #[test]
    fn the_table_names_every_class() {
        let mut metrics = Metrics::new(2);
        metrics.add(&[3, 1, 0, 2]).unwrap();
        let table = metrics.table(&["sky".into()]);
        assert!(table.contains("sky"), "{table}");
        assert!(table.contains("class 1"), "{table}");
        assert!(table.contains("75.00"), "{table}");
    }
}
