//! Two runs of the benchmark, case by case.

use std::path::Path;

use super::report::{Report, Row, number};
use crate::{Error, Result};

/// A case of both runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair {
    /// Name of the case.
    pub name: String,
    /// Median milliseconds of the earlier run, scaled to the images of the later.
    pub before: f64,
    /// Median milliseconds now.
    pub now: f64,
}

impl Pair {
    /// Time now over time before: above 1 is slower.
    pub fn ratio(&self) -> f64 {
        self.now / self.before.max(1e-12)
    }
}

/// What two runs have in common.
#[derive(Clone, Debug, PartialEq)]
pub struct Comparison {
    /// Cases of both, in the order of the later run.
    pub pairs: Vec<Pair>,
    /// Cases that only one of them has.
    pub unmatched: usize,
    /// What makes the ratios doubtful, a line each.
    pub warnings: Vec<String>,
}

/// Reads what `--json` wrote.
///
/// # Errors
/// [`Error::Io`] for an unreadable file, [`Error::Input`] for one that is no such result.
pub fn read(path: &Path) -> Result<Report> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, "read the result", e))?;
    serde_json::from_str(&text).map_err(|e| {
        Error::input(
            path.display().to_string(),
            format!("not a result of `bench`: {e}"),
            "write one with `u2pl-engine bench --json FILE`",
        )
    })
}

impl Comparison {
    /// Of an earlier run with this one.
    pub fn new(before: &Report, now: &Report) -> Self {
        let pair = |row: &Row| {
            let old = before.cases.iter().find(|c| c.name == row.name)?;
            let images = |r: &Row| r.reduced.map(|[n, _]| n);
            let scale = match (images(old), images(row)) {
                (a, b) if a == b => 1.0,
                _ => row.flops.max(row.bytes) / old.flops.max(old.bytes).max(1.0),
            };
            Some(Pair {
                name: row.name.clone(),
                before: scale * old.ms.median,
                now: row.ms.median,
            })
        };
        let pairs: Vec<Pair> = now.cases.iter().filter_map(pair).collect();
        let both = pairs.len();
        Self {
            unmatched: before.cases.len() + now.cases.len() - 2 * both,
            pairs,
            warnings: warnings(before, now),
        }
    }

    /// Geometric mean of the ratios; `None` without a common case.
    pub fn mean(&self) -> Option<f64> {
        let logs: f64 = self.pairs.iter().map(|p| p.ratio().max(1e-12).ln()).sum();
        (!self.pairs.is_empty()).then(|| (logs / self.pairs.len() as f64).exp())
    }

    /// Cases slower than `above` times before, worst first.
    pub fn slower_than(&self, above: f64) -> Vec<&Pair> {
        let mut slower: Vec<&Pair> = self.pairs.iter().filter(|p| p.ratio() > above).collect();
        slower.sort_by(|a, b| b.ratio().total_cmp(&a.ratio()));
        slower
    }

    /// A table, the slowest change first, and the mean.
    pub fn text(&self) -> String {
        let mut pairs: Vec<&Pair> = self.pairs.iter().collect();
        pairs.sort_by(|a, b| b.ratio().total_cmp(&a.ratio()));
        let mut text = format!(
            "\n{:<58} {:>10} {:>10} {:>7}\n",
            "case", "before ms", "now ms", "ratio"
        );
        for p in pairs {
            text += &format!(
                "{:<58} {:>10} {:>10} {:>7.3}\n",
                p.name,
                number(p.before),
                number(p.now),
                p.ratio()
            );
        }
        if self.unmatched > 0 {
            text += &format!("{} cases are in one of the two alone\n", self.unmatched);
        }
        text + &match self.mean() {
            Some(mean) => format!(
                "geometric mean of {} ratios (now / before): {mean:.3}\n",
                self.pairs.len()
            ),
            None => "no case in common\n".into(),
        }
    }
}

fn warnings(before: &Report, now: &Report) -> Vec<String> {
    let (a, b) = (&before.run, &now.run);
    let fields = [
        ("device", a.device.clone(), b.device.clone()),
        ("processor", a.cpu.clone(), b.cpu.clone()),
        ("precision", a.precision.clone(), b.precision.clone()),
        ("build", a.build.clone(), b.build.clone()),
        (
            "number of threads",
            a.threads.to_string(),
            b.threads.to_string(),
        ),
    ];
    let differ = fields.into_iter().filter(|(_, a, b)| a != b);
    differ
        .map(|(what, a, b)| format!("the earlier run is of another {what}: {a}, not {b}"))
        .collect()
}
