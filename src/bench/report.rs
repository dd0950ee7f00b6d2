//! What a run of the benchmark found: as a table, as sums, as JSON.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::cases::{Case, Use};
use super::ceilings::Ceilings;
use super::measure::{Measured, Spread};
use crate::device::Cost;

/// The machine and how it was asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// Version of the engine.
    pub version: String,
    /// `release` or `debug`.
    pub build: String,
    /// UTC, `2026-01-31T12:00:00Z`.
    pub date: String,
    /// Device name.
    pub device: String,
    /// `fp32`, `tf32` or `bf16`.
    pub precision: String,
    /// Threads of the CPU device, 0 elsewhere.
    pub threads: usize,
    /// Model name of the processor, where the system tells it.
    pub cpu: String,
    /// Recipe whose cases these are.
    pub recipe: String,
    /// Seconds asked for a case.
    pub seconds: f64,
    /// Cache that no run profits from, bytes.
    pub cache_bytes: usize,
}

/// One measured case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Name of the case.
    pub name: String,
    /// Operation.
    pub kind: String,
    /// First layer that makes the call.
    pub layer: String,
    /// Program → calls.
    pub uses: BTreeMap<String, usize>,
    /// `[measured, real]` images, where they differ.
    pub reduced: Option<[usize; 2]>,
    /// FLOPs of one call, as measured.
    pub flops: f64,
    /// Least bytes of one call, as measured.
    pub bytes: f64,
    /// Milliseconds a call.
    pub ms: Spread,
    /// Samples, and runs in each.
    pub samples: usize,
    /// Runs in each sample.
    pub runs: usize,
    /// How the cache was kept out.
    pub cache: String,
    /// Share of the roofline, 0–1; `null` without ceilings.
    pub share: Option<f64>,
}

impl Row {
    /// Of a case as measured.
    pub fn new(case: &Case, measured: &Measured, ceilings: Option<&Ceilings>) -> Self {
        let cost = case.cost();
        let share = |c: &Ceilings| c.floor_ms(cost) / measured.ms.median.max(1e-9);
        let calls = |u: &Use| (u.program.to_string(), u.count);
        Self {
            name: case.name.clone(),
            kind: case.kind.into(),
            layer: case.layer.clone(),
            uses: case.uses.iter().map(calls).collect(),
            reduced: case.reduced,
            flops: cost.flops,
            bytes: cost.bytes,
            ms: measured.ms,
            samples: measured.samples,
            runs: measured.runs,
            cache: measured.cache.clone(),
            share: ceilings.map(share),
        }
    }

    fn cost(&self) -> Cost {
        Cost {
            flops: self.flops,
            bytes: self.bytes,
        }
    }

    /// Factor from the measured images to the real ones.
    fn scale(&self) -> f64 {
        self.reduced.map_or(1.0, |[n, of]| of as f64 / n as f64)
    }

    /// One line under [`header`].
    pub fn line(&self, ceilings: Option<&Ceilings>) -> String {
        let per_second = |amount: f64| amount / (1e-3 * self.ms.median.max(1e-9)) / 1e9;
        let bound = ceilings.map_or("", |c| match c.is_compute_bound(self.cost()) {
            true => "flops",
            false => "bytes",
        });
        let share = self
            .share
            .map_or("-".into(), |s| format!("{:.0} %", 100.0 * s));
        let mut notes = vec![self.cache.clone()];
        if let Some([n, of]) = self.reduced {
            notes.push(format!("{n} of {of} images"));
        }
        format!(
            "{:<58} {:>5} {:>10} {:>21} {:>9.2} {:>9.3} {:>8.1} {:>9.1} {share:>6} {bound:<5} {}",
            self.name,
            self.uses.values().next().copied().unwrap_or(0),
            number(self.ms.median),
            format!("{}-{}", number(self.ms.p10), number(self.ms.p90)),
            self.bytes / 1e6,
            self.flops / 1e9,
            per_second(self.bytes),
            per_second(self.flops),
            notes.join(", ")
        )
    }
}

/// Heads the lines of [`Row::line`].
pub fn header() -> String {
    format!(
        "{:<58} {:>5} {:>10} {:>21} {:>9} {:>9} {:>8} {:>9} {:>6} {:<5} {}",
        "case",
        "calls",
        "ms",
        "p10-p90",
        "MB",
        "GFLOP",
        "GB/s",
        "GFLOP/s",
        "share",
        "of",
        "operands"
    )
}

/// Milliseconds with three or four significant digits.
pub fn number(ms: f64) -> String {
    match ms {
        0.0..0.01 => format!("{ms:.5}"),
        0.01..1.0 => format!("{ms:.4}"),
        1.0..100.0 => format!("{ms:.2}"),
        _ => format!("{ms:.1}"),
    }
}

/// Everything: what `--json` writes and `--compare` reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The machine.
    pub run: Run,
    /// Ceilings measured in the same run; `null` where there are none.
    pub ceilings: Option<Ceilings>,
    /// The cases.
    pub cases: Vec<Row>,
}

/// Time of a program's calls of one operation.
#[derive(Clone, Debug, Default, PartialEq)]
struct Sum {
    calls: usize,
    ms: f64,
    floor_ms: f64,
    flops: f64,
    bytes: f64,
}

impl Sum {
    fn add(&mut self, row: &Row, count: usize, ceilings: Option<&Ceilings>) {
        let times = count as f64 * row.scale();
        self.calls += count;
        self.ms += times * row.ms.median;
        self.floor_ms += times * ceilings.map_or(0.0, |c| c.floor_ms(row.cost()));
        self.flops += times * row.flops;
        self.bytes += times * row.bytes;
    }

    fn line(&self, name: &str, total_ms: f64, with_share: bool) -> String {
        let share = match with_share {
            true => format!("{:.0} %", 100.0 * self.floor_ms / self.ms.max(1e-9)),
            false => "-".into(),
        };
        format!(
            "  {name:<26} {:>6} {:>11} {:>6.1} {:>11.3} {:>11.1} {share:>6}\n",
            self.calls,
            number(self.ms),
            100.0 * self.ms / total_ms.max(1e-9),
            self.flops / 1e9,
            self.bytes / 1e6,
        )
    }
}

impl Report {
    /// The machine, the ceilings and the rule, in lines that head a table.
    pub fn preamble(&self) -> String {
        let run = &self.run;
        let threads = match run.threads {
            0 => String::new(),
            1 => ", 1 thread".into(),
            n => format!(", {n} threads"),
        };
        let mut text = format!(
            "u2pl-engine {} ({}), {}\n{} {}{threads}; {}; recipe {}\n",
            run.version, run.build, run.date, run.device, run.precision, run.cpu, run.recipe
        );
        text += &match &self.ceilings {
            Some(c) => format!(
                "bandwidth {:.1} GB/s: {}\nmultiply-adds {:.3} TFLOP/s: {}\n",
                c.copy / 1e9,
                c.copy_from,
                c.matmul / 1e12,
                c.matmul_from
            ),
            None => "no ceilings: this device's speed says nothing of a GPU\n".into(),
        };
        if run.cache_bytes > 0 {
            text += &format!(
                "no run finds its operands in the cache of {} MiB: rotated among copies, or flushed\n",
                run.cache_bytes >> 20
            );
        }
        text + "share: max(bytes / bandwidth, FLOPs / multiply-adds) over the median time; above 100 % where\n\
                the work is less than counted (taps in the padding, Winograd) or caches still help\n"
    }

    /// Time × calls by operation, for every program; of the cases that were measured.
    pub fn sums(&self) -> String {
        let programs: Vec<&String> = {
            let mut seen: Vec<&String> = Vec::new();
            for program in self.cases.iter().flat_map(|row| row.uses.keys()) {
                if !seen.contains(&program) {
                    seen.push(program);
                }
            }
            seen
        };
        let mut text = String::new();
        for program in programs {
            let mut kinds: BTreeMap<&str, Sum> = BTreeMap::new();
            let mut total = Sum::default();
            for row in &self.cases {
                let Some(&count) = row.uses.get(program) else {
                    continue;
                };
                let kind = kinds.entry(&row.kind).or_default();
                kind.add(row, count, self.ceilings.as_ref());
                total.add(row, count, self.ceilings.as_ref());
            }
            let mut kinds: Vec<_> = kinds.into_iter().collect();
            kinds.sort_by(|a, b| b.1.ms.total_cmp(&a.1.ms));
            text += &format!(
                "\n{program}: time x calls of the cases above\n  {:<26} {:>6} {:>11} {:>6} {:>11} {:>11} {:>6}\n",
                "operation", "calls", "ms", "%", "GFLOP", "MB", "share"
            );
            for (name, sum) in &kinds {
                text += &sum.line(name, total.ms, self.ceilings.is_some());
            }
            text += &total.line("total", total.ms, self.ceilings.is_some());
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_scaled_to_the_real_images() {
        let spread = Spread::of(vec![2.0]);
        let row = Row {
            name: "conv".into(),
            kind: "conv".into(),
            layer: String::new(),
            uses: [("step".to_string(), 3)].into(),
            reduced: Some([2, 8]),
            flops: 1e9,
            bytes: 1e6,
            ms: spread,
            samples: 1,
            runs: 1,
            cache: "flushed".into(),
            share: None,
        };
        let mut sum = Sum::default();
        sum.add(&row, 3, None);
        assert_eq!((sum.calls, sum.ms, sum.flops), (3, 24.0, 12e9));
    }
}
