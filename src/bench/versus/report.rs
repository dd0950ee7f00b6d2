//! What was measured, as tables.

use serde_json::Value;

use super::turns::{Measured, median};
use super::work::PYTORCH;

pub(super) fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or("–".into(), |v| format!("{v:.digits$}"))
}

/// The engine of the same precision as `side`.
fn engine_of<'a>(side: &Measured, sides: &'a [Measured]) -> Option<&'a Measured> {
    sides
        .iter()
        .find(|e| e.engine && e.precision == side.precision)
}

/// A training step's or inference's table: every side of one case, each precision after another.
pub fn case(name: &str, sides: &[Measured]) -> String {
    let mut text = format!(
        "\n{name:<30} {:>9} {:>18} {:>8} {:>9} {:>8} {:>8} {:>8} {:>8}\n",
        "median ms", "min – max", "× engine", "CPU ms", "× engine", "MiB", "× engine", "first ×"
    );
    for side in sides {
        let label = format!("{} {}", side.name, side.precision);
        let times = match &side.outcome {
            Ok(times) => times,
            Err(reason) => {
                text += &format!("{label:<30} not available: {reason}\n");
                continue;
            }
        };
        let low = times.ms.iter().copied().reduce(f64::min).unwrap_or(0.0);
        let high = times.ms.iter().copied().reduce(f64::max).unwrap_or(0.0);
        let digits = if high < 100.0 { 2 } else { 1 };
        let engine = engine_of(side, sides);
        let memory = engine.and_then(|e| side.memory_times(e));
        text += &format!(
            "{label:<30} {:>9} {:>18} {:>8} {:>9} {:>8} {:>8} {:>8} {:>8}\n",
            number(side.median_ms(), digits),
            format!("{low:.digits$} – {high:.digits$}"),
            number(engine.and_then(|e| side.times(e)), 2),
            number(median(times.cpu_ms.clone()), 0),
            number(engine.and_then(|e| side.cpu_times(e)), 2),
            number(side.work_mib(), 0),
            number(memory, 2),
            number(side.first_times(), 2),
        );
    }
    for engine in sides.iter().filter(|s| s.engine && s.outcome.is_ok()) {
        text += &verdicts(engine, sides);
    }
    text + &faster(sides)
}

/// The peers that ran in the engine's precision.
pub(super) fn peers<'a>(
    engine: &'a Measured,
    sides: &'a [Measured],
) -> impl Iterator<Item = &'a Measured> {
    sides
        .iter()
        .filter(|s| !s.engine && s.precision == engine.precision && s.outcome.is_ok())
}

/// The peer of the lowest ratio.
pub(super) fn best<'a>(
    peers: impl Iterator<Item = &'a Measured>,
    ratio: impl Fn(&Measured) -> Option<f64>,
) -> Option<(&'a Measured, f64)> {
    let ratios = peers.filter_map(|p| Some((p, ratio(p)?)));
    ratios.min_by(|(_, a), (_, b)| a.total_cmp(b))
}

/// The best peers, what both sides agree on, the engine's memory and profile.
fn verdicts(engine: &Measured, sides: &[Measured]) -> String {
    let mut text = String::new();
    let lowest = |ratio: &dyn Fn(&Measured) -> Option<f64>| {
        best(peers(engine, sides), ratio)
            .map_or("–".into(), |(peer, r)| format!("{r:.2} ({})", peer.name))
    };
    if peers(engine, sides).next().is_some() {
        text += &format!(
            "{}: best peer / engine: time {}, CPU time {}, memory {}\n",
            engine.precision,
            lowest(&|p| p.times(engine)),
            lowest(&|p| p.cpu_times(engine)),
            lowest(&|p| p.memory_times(engine)),
        );
    }
    for peer in peers(engine, sides) {
        text += &disagreements(engine, peer);
    }
    text + &planned(engine) + &profile(&engine.said["last"])
}

/// Memory that the engine planned for, against what it took.
fn planned(engine: &Measured) -> String {
    let last = &engine.said["last"];
    let mib = |key: &str| last[key].as_f64();
    let (Some(weights), Some(call), Some(host)) =
        (mib("weights_mib"), mib("call_mib"), mib("host_mib"))
    else {
        return String::new();
    };
    format!(
        "{}: memory planned {:.1} MiB (weights {weights:.1}, a call {call:.1}, images and maps \
         {host:.1}), measured {} MiB\n",
        engine.precision,
        weights + call + host,
        number(mib("measured_mib"), 1),
    )
}

/// The engine's time in fp32 over that in each other precision.
fn faster(sides: &[Measured]) -> String {
    let engines = || sides.iter().filter(|s| s.engine);
    let exact = engines().find(|e| e.precision == "fp32");
    let Some(exact) = exact.and_then(Measured::median_ms) else {
        return String::new();
    };
    let others = engines().filter(|e| e.precision != "fp32");
    let line = |e: &Measured| {
        let times = exact / e.median_ms().filter(|ms| *ms > 0.0)?;
        Some(format!(
            "engine: {} {times:.2} × as fast as fp32\n",
            e.precision
        ))
    };
    others.filter_map(line).collect()
}

/// What the two sides do not agree on: then they did not do the same work.
pub fn disagreements(engine: &Measured, peer: &Measured) -> String {
    let mut text = String::new();
    for (key, tolerance) in [
        ("parameters", 0.0),
        ("conv_flops", 0.001),
        ("entropy_mean", 0.1),
    ] {
        let of = |m: &Measured| {
            let said = &m.said;
            let value = said["ready"][key].as_f64();
            value.or_else(|| said["checked"][key].as_f64())
        };
        let (Some(a), Some(b)) = (of(engine), of(peer)) else {
            continue;
        };
        if (a - b).abs() > tolerance * a.abs() {
            text += &format!("warning: {key}: engine {a}, {} {b}\n", peer.name);
        }
    }
    text
}

fn profile(last: &Value) -> String {
    let Some(rows) = last["profile"].as_array() else {
        return String::new();
    };
    let value = |v: &Value| v.as_f64().unwrap_or(0.0);
    let mut text = format!(
        "plan: state {:.0} MiB, activations and workspaces {:.0} MiB\n",
        value(&last["state_mib"]),
        value(&last["transient_mib"]),
    );
    let total: f64 = rows.iter().map(|r| value(&r["ms"])).sum();
    text += &format!(
        "  {:<26} {:>6} {:>10} {:>6} {:>9}\n",
        "operation", "calls", "ms", "%", "GFLOP/s"
    );
    for row in rows {
        let (ms, flops) = (value(&row["ms"]), value(&row["flops"]));
        text += &format!(
            "  {:<26} {:>6} {ms:>10.2} {:>6.1} {:>9.1}\n",
            row["op"].as_str().unwrap_or_default(),
            row["calls"],
            100.0 * ms / total.max(1e-9),
            flops / ms.max(1e-9) / 1e6
        );
    }
    text
}

/// One operation, measured on every side.
pub struct Row {
    /// Name of the case.
    pub name: String,
    /// Its operation.
    pub kind: String,
    /// Calls in the recipe's step.
    pub calls: u64,
    /// FLOPs of one call.
    pub flops: f64,
    /// The engine first.
    pub sides: Vec<Measured>,
}

impl Row {
    /// The fastest peer.
    fn best(&self) -> Option<(&Measured, f64)> {
        let engine = self.sides.first()?;
        best(self.sides[1..].iter(), |p| p.times(engine))
    }

    /// The row of the table.
    pub fn line(&self) -> String {
        let Some(engine) = self.sides.first() else {
            return String::new();
        };
        let ms = engine.median_ms();
        let rate = ms.filter(|ms| *ms > 0.0).map(|ms| self.flops / ms / 1e6);
        let best = self.best();
        let note = match (&engine.outcome, best) {
            (Err(reason), _) => reason.clone(),
            (Ok(_), Some((peer, _))) => peer.name.replace(PYTORCH, "").trim().into(),
            (Ok(_), None) => {
                let reasons = self.sides.iter().filter_map(|s| s.outcome.as_ref().err());
                reasons.into_iter().next().cloned().unwrap_or_default()
            }
        };
        let line = format!(
            "{:<56} {:>5} {:>10} {:>10} {:>8} {:>8} {:>9}  {note}",
            self.name,
            self.calls,
            number(ms, 4),
            number(best.and_then(|(p, _)| p.median_ms()), 4),
            number(best.map(|(_, r)| r), 2),
            number(best.and_then(|(p, _)| p.cpu_times(engine)), 2),
            number(rate, 1),
        );
        line.trim_end().to_string() + "\n"
    }
}

/// Head of the table of operations.
pub fn operations_header() -> String {
    format!(
        "{:<56} {:>5} {:>10} {:>10} {:>8} {:>8} {:>9}  note\n",
        "case", "calls", "engine ms", "PyTorch ms", "× engine", "CPU", "GFLOP/s"
    )
}

/// By operation: time × calls in a step on both sides, over the cases that both have.
pub fn operations_sums(rows: &[Row]) -> String {
    let mut kinds: Vec<(&str, f64, f64)> = Vec::new();
    for row in rows.iter().filter(|r| r.calls > 0) {
        let (Some(engine), Some((peer, _))) = (row.sides.first(), row.best()) else {
            continue;
        };
        let (Some(own), Some(other)) = (engine.median_ms(), peer.median_ms()) else {
            continue;
        };
        let at = match kinds.iter().position(|(k, ..)| *k == row.kind) {
            Some(at) => at,
            None => {
                kinds.push((&row.kind, 0.0, 0.0));
                kinds.len() - 1
            }
        };
        kinds[at].1 += own * row.calls as f64;
        kinds[at].2 += other * row.calls as f64;
    }
    if kinds.is_empty() {
        return String::new();
    }
    let total = kinds
        .iter()
        .fold(("sum", 0.0, 0.0), |t, k| ("sum", t.1 + k.1, t.2 + k.2));
    kinds.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mut text = format!(
        "\n{:<28} {:>12} {:>12} {:>8}   time × calls in one step\n",
        "operation", "engine ms", "PyTorch ms", "× engine"
    );
    for (kind, own, other) in kinds.into_iter().chain([total]) {
        text += &format!(
            "{kind:<28} {own:>12.3} {other:>12.3} {:>8.2}\n",
            other / own.max(1e-12)
        );
    }
    text
}
