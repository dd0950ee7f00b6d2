//! The engine's side: the training session that the binary itself uses, and the operations of the
//! table of cases. Inference is [`super::inference`]'s.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};

use super::inference::Inference;
use super::side::{Served, status_mib};
use super::work::{StepWork, TILE, Work};
use crate::bench::{Case, Prepared, Recipe, copies_to_exceed, table};
use crate::device::{Call, Device};
use crate::graph::exec::Timing;
use crate::train::session::{Session, Staged};
use crate::{Error, Result};

const EPOCH_ITERS: usize = 1000;
pub(super) const MIB: f64 = (1u64 << 20) as f64;
/// Caches that operands are kept out of, bytes: no smaller than an H200's or most CPUs'.
const CACHE_BYTES: usize = 64 << 20;
/// Copies of a case's operands at most.
const MOST_COPIES: usize = 64;

/// Makes the side that serves `work` on `device`, and what it says when it is ready. `weights`: a
/// file of [`super::inference::save_untrained`], for inference.
///
/// # Errors
/// [`Error::Input`] when the work does not fit the device's memory; the device's.
pub fn serve_work(
    work: &Work,
    weights: Option<&Path>,
    device: Arc<dyn Device>,
) -> Result<(Box<dyn Served>, Value)> {
    let memory = Memory::now(&device);
    let (side, parameters): (Box<dyn Served>, usize) = match work {
        Work::Step(w) => {
            let side = TrainingStep::new(w, device.clone(), memory)?;
            let parameters = side.session.params().parameter_count();
            (Box::new(side), parameters)
        }
        Work::Infer(w) => {
            let none = || Error::internal("inference without weights");
            let weights = weights.ok_or_else(none)?;
            let side = Inference::new(w, weights, device.clone(), memory)?;
            let parameters = side.parameters();
            (Box::new(side), parameters)
        }
    };
    let mut ready = about(&*device);
    ready["parameters"] = json!(parameters);
    Ok((side, ready))
}

/// Makes the side that serves the cases of a recipe one by one.
///
/// # Errors
/// As [`table`].
pub fn serve_operations(
    recipe: &Recipe,
    device: Arc<dyn Device>,
) -> Result<(Box<dyn Served>, Value)> {
    let cases = table(recipe, &*device)?;
    let ready = about(&*device);
    let memory = Memory::now(&device);
    let side = Operations {
        device,
        cases,
        memory,
        current: None,
    };
    Ok((Box::new(side), ready))
}

fn about(device: &dyn Device) -> Value {
    json!({"engine": env!("CARGO_PKG_VERSION"), "device": device.name()})
}

/// What was in use before the work began.
pub(super) struct Memory {
    base_mib: f64,
    free_bytes: Option<usize>,
    /// The peak until loading was done, where the system has begun another one since.
    loading_mib: Option<f64>,
}

impl Memory {
    fn now(device: &Arc<dyn Device>) -> Self {
        Self {
            base_mib: status_mib("VmRSS"),
            free_bytes: device.free_bytes(),
            loading_mib: None,
        }
    }

    /// What is needed only to load is freed: from here on the peak is that of calls.
    pub(super) fn loaded(&mut self) {
        let peak = status_mib("VmHWM");
        // 5: the highest resident size begins again at today's (proc(5)).
        let forgotten = std::fs::write("/proc/self/clear_refs", "5");
        self.loading_mib = forgotten.is_ok().then_some(peak);
    }

    /// Last words about memory. Planned and measured bytes of a GPU, where the process has its
    /// memory to itself, are the arenas' and what the driver counts as gone. `measured_mib` is what
    /// the work took at most after [`Memory::loaded`].
    pub(super) fn last(&self, device: &dyn Device, planned_bytes: usize) -> Value {
        let now = status_mib("VmHWM");
        let peak = self.loading_mib.map_or(now, |loading| loading.max(now));
        let mut last = json!({"peak_mib": peak, "base_mib": self.base_mib});
        last["measured_mib"] = json!(self.loading_mib.map(|_| now - self.base_mib));
        if device.name().starts_with("cuda") {
            last["device_mib"] = json!(planned_bytes as f64 / MIB);
            if let (Some(before), Some(now)) = (self.free_bytes, device.free_bytes()) {
                let gone = before.saturating_sub(now) as f64 / MIB;
                last["device_reserved_mib"] = json!(gone);
                last["measured_mib"] = json!(gone);
            }
        }
        last
    }
}

/// Milliseconds of each of `count` calls in a row, by the host's clock, to the end of the work.
pub(super) fn host_ms(
    device: &dyn Device,
    count: usize,
    call: &mut dyn FnMut() -> Result<()>,
) -> Result<f64> {
    let clock = Instant::now();
    for _ in 0..count {
        call()?;
    }
    // Waits for what is queued.
    device.time(&mut || Ok(()))?;
    Ok(1e3 * clock.elapsed().as_secs_f64() / count.max(1) as f64)
}

/// Bytes without a pattern: Knuth's multiplicative hash of the index.
pub(super) fn noise(count: usize) -> Vec<u8> {
    let hash = |i: usize| (i as u32).wrapping_mul(2_654_435_761) >> 24;
    (0..count).map(|i| hash(i) as u8).collect()
}

struct TrainingStep {
    session: Session,
    iteration: usize,
    memory: Memory,
}

impl TrainingStep {
    fn new(work: &StepWork, device: Arc<dyn Device>, memory: Memory) -> Result<Self> {
        let side = work.crop;
        let session = Session::new(&work.config(), device, EPOCH_ITERS, side * side)?;
        for which in ["labeled", "unlabeled"] {
            session.stage(which, &staged(work))?;
        }
        Ok(Self {
            session,
            iteration: 0,
            memory,
        })
    }

    /// Convolutions' FLOPs and time by operation of one more step.
    fn timed(&mut self) -> Result<Vec<Timing>> {
        let timings = self.session.step_timed(self.iteration)?;
        self.iteration += 1;
        Ok(timings)
    }
}

fn staged(work: &StepWork) -> Staged {
    let (side, batch) = (work.crop, work.batch);
    let label = |i: usize| {
        let (y, x) = (i / side % side / TILE, i % side / TILE);
        ((y * 7 + x * 5 + i / (side * side)) % work.classes) as u8
    };
    Staged {
        images: noise(batch * 3 * side * side),
        labels: (0..batch * side * side).map(label).collect(),
        sizes: vec![side as u32; 2 * batch],
    }
}

impl Served for TrainingStep {
    fn run(&mut self, count: usize) -> Result<f64> {
        let (session, iteration) = (&self.session, &mut self.iteration);
        host_ms(&**session.device(), count, &mut || {
            session.step(*iteration)?;
            *iteration += 1;
            Ok(())
        })
    }

    fn check(&mut self) -> Result<Value> {
        let flops: f64 = convolution_flops(self.timed()?.iter().map(|t| (t.op, t.cost.flops)));
        let report = self.session.report(self.iteration - 1)?;
        let loss = &report.loss;
        let contrast = 0.1 * loss.contrast.unwrap_or(0.0);
        Ok(json!({
            "conv_flops": flops,
            "loss": loss.sup + loss.unsup.unwrap_or(0.0) + contrast,
            "contrast_classes": report.u2pl.map(|u| u.contrast_classes),
        }))
    }

    fn last(&mut self) -> Result<Value> {
        let (state, transient) = self.session.bytes();
        let device = self.session.device().clone();
        // Before anything that only the report needs.
        let mut last = self.memory.last(&*device, state + transient);
        last["profile"] = profile(&self.timed()?);
        last["state_mib"] = json!(state as f64 / MIB);
        last["transient_mib"] = json!(transient as f64 / MIB);
        Ok(last)
    }
}

pub(super) fn convolution_flops<'a>(calls: impl Iterator<Item = (&'a str, f64)>) -> f64 {
    let convolutions = calls.filter(|(op, _)| op.starts_with("conv"));
    convolutions.map(|(_, flops)| flops).sum()
}

/// Time, work and calls by operation, most time first.
fn profile(timings: &[Timing]) -> Value {
    let mut by_op: BTreeMap<&str, (f64, f64, usize)> = BTreeMap::new();
    for t in timings {
        let row = by_op.entry(t.op).or_default();
        row.0 += 1e3 * t.time.as_secs_f64();
        row.1 += t.cost.flops;
        row.2 += 1;
    }
    let mut rows: Vec<_> = by_op.into_iter().collect();
    rows.sort_by(|(_, a), (_, b)| b.0.total_cmp(&a.0));
    rows.into_iter()
        .map(|(op, (ms, flops, calls))| json!({"op": op, "ms": ms, "flops": flops, "calls": calls}))
        .collect()
}

struct Operations {
    device: Arc<dyn Device>,
    cases: Vec<Case>,
    memory: Memory,
    current: Option<Prepared>,
}

impl Served for Operations {
    fn case(&mut self, request: &Value) -> Result<Value> {
        // Its memory first.
        self.current = None;
        let name = request["case"]["name"].as_str().unwrap_or_default();
        let Some(case) = self.cases.iter().find(|c| c.name == name) else {
            return Err(Error::internal(format!("no case `{name}` in this table")));
        };
        let images = request["case"]["reduced"][0].as_u64();
        let reduced = images.and_then(|n| case.on_images(n as usize));
        let case = reduced.as_ref().unwrap_or(case);
        let copies = copies_to_exceed(case.bytes(), CACHE_BYTES, MOST_COPIES);
        match Prepared::new(case, &self.device, copies) {
            Ok(prepared) => self.current = Some(prepared),
            Err(e @ Error::Device { .. }) => return Ok(json!({"unavailable": e.to_string()})),
            Err(e) => return Err(e),
        }
        let cost = case.cost();
        Ok(json!({"ready": {"copies": copies, "flops": cost.flops, "bytes": cost.bytes}}))
    }

    fn run(&mut self, count: usize) -> Result<f64> {
        let device = &*self.device;
        let Some(prepared) = &self.current else {
            return Err(Error::internal("run before a case"));
        };
        let calls: Vec<&Call> = prepared.calls().iter().cycle().take(count).collect();
        // One launch for all of them, as in a training step.
        let recording = device.record(&calls)?;
        let time = match recording {
            Some(recording) => {
                let time = device.time(&mut || device.replay(recording));
                device.forget(recording);
                time?
            }
            None => device.time(&mut || calls.iter().try_for_each(|c| device.run(c)))?,
        };
        Ok(1e3 * time.as_secs_f64() / count.max(1) as f64)
    }

    fn last(&mut self) -> Result<Value> {
        Ok(self.memory.last(&*self.device, 0))
    }
}
