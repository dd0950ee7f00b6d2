//! Sides take turns; what each round took.

use std::time::Duration;

use serde_json::{Value, json};

use super::side::Side;

/// How turns are taken.
#[derive(Clone, Copy, Debug)]
pub struct Turns {
    /// Rounds that count.
    pub rounds: usize,
    /// Rounds before them: pages, plans, thread pools, the peer's compiler and its choice of
    /// algorithms.
    pub warmup: usize,
    /// Between turns, so that the last side's spinning threads are asleep before the next begins.
    pub pause: Duration,
    /// A turn takes at least about this long, milliseconds: short calls are repeated.
    pub span_ms: f64,
    /// Calls in one turn at most.
    pub most: usize,
}

/// What a side's rounds took.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Times {
    /// Milliseconds of the very first call, before any that counts: whatever a side does not do
    /// until it must, plans, memory, packing, compiling, is in it.
    pub first_ms: Option<f64>,
    /// Milliseconds of one call, each round.
    pub ms: Vec<f64>,
    /// CPU milliseconds of one call, all threads, each round; empty where the system does not tell.
    pub cpu_ms: Vec<f64>,
}

/// One side of a comparison.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Name in tables.
    pub name: String,
    /// Whether it is the engine.
    pub engine: bool,
    /// Precision that was asked for.
    pub precision: String,
    /// Times, or why there are none.
    pub outcome: Result<Times, String>,
    /// What it said when ready, at the check and at the end.
    pub said: Value,
}

impl Measured {
    /// A side that never ran.
    pub fn missing(name: &str, engine: bool, precision: &str, reason: String) -> Self {
        Self {
            name: name.into(),
            engine,
            precision: precision.into(),
            outcome: Err(reason),
            said: Value::Null,
        }
    }

    /// Median of the rounds, milliseconds.
    pub fn median_ms(&self) -> Option<f64> {
        median(self.outcome.as_ref().ok()?.ms.clone())
    }

    /// The first call over the median of the warm ones.
    pub fn first_times(&self) -> Option<f64> {
        let first = self.outcome.as_ref().ok()?.first_ms?;
        Some(first / self.median_ms().filter(|ms| *ms > 0.0)?)
    }

    /// Median over the rounds of this side's time over that of `engine` in the same round: load
    /// that comes and goes hits both.
    pub fn times(&self, engine: &Self) -> Option<f64> {
        ratio(
            &self.outcome.as_ref().ok()?.ms,
            &engine.outcome.as_ref().ok()?.ms,
        )
    }

    /// As [`Measured::times`] in CPU time, which a busy machine stretches less.
    pub fn cpu_times(&self, engine: &Self) -> Option<f64> {
        let (own, other) = (self.outcome.as_ref().ok()?, engine.outcome.as_ref().ok()?);
        // Ticks are coarse: all rounds together.
        let sum = |times: &Times| times.cpu_ms.iter().sum::<f64>();
        let both = sum(own) > 0.0 && sum(other) > 0.0;
        (both && own.cpu_ms.len() == other.cpu_ms.len()).then(|| sum(own) / sum(other))
    }

    /// Memory that the work itself took, MiB: on a GPU the tensors', else the process's peak less
    /// what it held before the network was made.
    pub fn work_mib(&self) -> Option<f64> {
        let last = &self.said["last"];
        match last["device_mib"].as_f64() {
            Some(mib) => Some(mib),
            None => Some(last["peak_mib"].as_f64()? - last["base_mib"].as_f64()?),
        }
    }

    /// This side's memory over that of `engine`.
    pub fn memory_times(&self, engine: &Self) -> Option<f64> {
        Some(self.work_mib()? / engine.work_mib().filter(|mib| *mib > 0.0)?)
    }

    /// Every number.
    pub fn json(&self) -> Value {
        let mut value = json!({
            "name": self.name,
            "engine": self.engine,
            "precision": self.precision,
            "said": self.said,
        });
        match &self.outcome {
            Ok(times) => {
                value["first_ms"] = json!(times.first_ms);
                value["ms"] = json!(times.ms);
                value["cpu_ms"] = json!(times.cpu_ms);
                value["median_ms"] = json!(self.median_ms());
                value["work_mib"] = json!(self.work_mib());
            }
            Err(reason) => value["unavailable"] = json!(reason),
        }
        value
    }
}

fn ratio(own: &[f64], other: &[f64]) -> Option<f64> {
    let pairs = own.iter().zip(other);
    median(
        pairs
            .filter(|(_, b)| **b > 0.0)
            .map(|(a, b)| a / b)
            .collect(),
    )
}

/// The middle value, or the mean of the two in the middle.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    (n > 0).then(|| (values[(n - 1) / 2] + values[n / 2]) / 2.0)
}

impl Turns {
    /// Every side's rounds, the sides taking turns. A side that fails is left out of the rounds
    /// after; `progress` hears of each turn (round, side, milliseconds).
    pub fn take(
        &self,
        sides: &mut [&mut Side],
        progress: &mut dyn FnMut(usize, &str, f64),
    ) -> Vec<Result<Times, String>> {
        let mut counts = vec![1; sides.len()];
        let mut all: Vec<Result<Times, String>> = vec![Ok(Times::default()); sides.len()];
        for round in 0..self.warmup + self.rounds {
            for (i, side) in sides.iter_mut().enumerate() {
                let Ok(times) = &mut all[i] else { continue };
                std::thread::sleep(self.pause);
                let before = side.cpu_ms();
                match side.run(counts[i]) {
                    Ok(ms) if round < self.warmup => {
                        times.first_ms.get_or_insert(ms);
                        let wanted = (self.span_ms / ms.max(1e-4)).ceil() as usize;
                        counts[i] = wanted.clamp(1, self.most);
                    }
                    Ok(ms) => {
                        times.ms.push(ms);
                        if let (Some(before), Some(after)) = (before, side.cpu_ms()) {
                            times.cpu_ms.push((after - before) / counts[i] as f64);
                        }
                        progress(round - self.warmup + 1, side.name(), ms);
                    }
                    Err(e) => all[i] = Err(e.to_string()),
                }
            }
        }
        all
    }
}
