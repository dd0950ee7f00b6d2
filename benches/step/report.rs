//! What was measured, as a table and as JSON.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

/// One side of a case.
pub(crate) struct Measured {
    name: String,
    times_ms: Vec<f64>,
    cpu_times_ms: Vec<f64>,
    peak_mib: f64,
    base_mib: f64,
    /// The engine's profile and plan.
    extra: Value,
}

impl Measured {
    /// From a side's last line, without its first `skip` steps.
    pub(crate) fn new(
        name: String,
        last: &Value,
        cpu_times_ms: &[f64],
        skip: usize,
    ) -> Result<Self> {
        let number = |key: &str| {
            let value = last[key].as_f64();
            value.with_context(|| format!("{name} did not report {key}"))
        };
        let times = last["times_ms"].as_array().context("no times_ms")?;
        let times: Vec<f64> = times.iter().skip(skip).filter_map(Value::as_f64).collect();
        ensure!(!times.is_empty(), "{name} measured nothing");
        Ok(Self {
            times_ms: times,
            cpu_times_ms: cpu_times_ms.iter().skip(skip).copied().collect(),
            peak_mib: number("peak_mib")?,
            base_mib: number("base_mib")?,
            extra: last["extra"].clone(),
            name,
        })
    }

    fn median_ms(&self) -> f64 {
        median(self.times_ms.clone())
    }

    /// Memory that the work itself took: the peak less what the process held before.
    fn work_mib(&self) -> f64 {
        self.peak_mib - self.base_mib
    }

    /// As [`Measured::times_engine`] in CPU time, which a busy machine stretches less.
    fn cpu_times_engine(&self, engine: &Self) -> f64 {
        let pairs = self.cpu_times_ms.iter().zip(&engine.cpu_times_ms);
        median(pairs.map(|(a, b)| a / b).collect())
    }

    /// Median over the rounds of this side's time over the engine's in the same round: load that
    /// comes and goes hits both.
    fn times_engine(&self, engine: &Self) -> f64 {
        let pairs = self.times_ms.iter().zip(&engine.times_ms);
        median(pairs.map(|(a, b)| a / b).collect())
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    (values[(n - 1) / 2] + values[n / 2]) / 2.0
}

/// The table of a case; the engine's side comes first.
pub(crate) fn text(case: &str, sides: &[Measured]) -> String {
    let Some(engine) = sides.first() else {
        return String::new();
    };
    let mut text = format!(
        "\n{case:<24} {:>10} {:>19} {:>9} {:>10} {:>9} {:>9} {:>9} {:>9}\n",
        "median ms", "min – max", "× engine", "CPU ms", "× engine", "MiB", "× engine", "RSS MiB"
    );
    for side in sides {
        let fold = |f: fn(f64, f64) -> f64| side.times_ms.iter().copied().reduce(f);
        let (low, high) = (fold(f64::min), fold(f64::max));
        text += &format!(
            "{:<24} {:>10.1} {:>19} {:>9.2} {:>10.0} {:>9.2} {:>9.0} {:>9.2} {:>9.0}\n",
            side.name,
            side.median_ms(),
            format!("{:.1} – {:.1}", low.unwrap_or(0.0), high.unwrap_or(0.0)),
            side.times_engine(engine),
            median(side.cpu_times_ms.clone()),
            side.cpu_times_engine(engine),
            side.work_mib(),
            side.work_mib() / engine.work_mib(),
            side.peak_mib,
        );
    }
    let peers = &sides[1..];
    let fastest = peers.iter().map(|p| p.times_engine(engine));
    let smallest = peers.iter().map(|p| p.work_mib() / engine.work_mib());
    if let (Some(time), Some(memory)) = (fastest.reduce(f64::min), smallest.reduce(f64::min)) {
        text += &format!("PyTorch's best / engine: time {time:.2}, memory {memory:.2}\n");
    }
    text + &profile(&engine.extra)
}

fn profile(extra: &Value) -> String {
    let Some(rows) = extra["profile"].as_array() else {
        return String::new();
    };
    let mut text = String::new();
    let number = |v: &Value| v.as_f64().unwrap_or(0.0);
    text += &format!(
        "plan: state {:.0} MiB, activations and workspaces {:.0} MiB; contrast over {} classes\n",
        number(&extra["state_mib"]),
        number(&extra["transient_mib"]),
        extra["contrast_classes"]
    );
    let total: f64 = rows.iter().map(|r| number(&r["ms"])).sum();
    text += &format!(
        "  {:<26} {:>6} {:>10} {:>6} {:>8}\n",
        "operation", "calls", "ms", "%", "GFLOP/s"
    );
    for row in rows {
        let (ms, flops) = (number(&row["ms"]), number(&row["flops"]));
        text += &format!(
            "  {:<26} {:>6} {ms:>10.1} {:>6.1} {:>8.1}\n",
            row["op"].as_str().unwrap_or_default(),
            row["calls"],
            100.0 * ms / total,
            flops / ms / 1e6
        );
    }
    text
}

/// Every number of a case.
pub(crate) fn json(sides: &[Measured]) -> Value {
    let side = |s: &Measured| {
        json!({
            "name": s.name,
            "times_ms": s.times_ms,
            "cpu_times_ms": s.cpu_times_ms,
            "median_ms": s.median_ms(),
            "peak_rss_mib": s.peak_mib,
            "base_rss_mib": s.base_mib,
            "work_mib": s.work_mib(),
            "extra": s.extra,
        })
    };
    sides.iter().map(side).collect()
}
