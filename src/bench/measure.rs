//! Timing one case by the device's own clock.
//!
//! A sample is a number of runs in a row, timed together; a case has several samples. No run finds
//! its operands in the cache: they are rotated among copies that together exceed it twice over,
//! or, where that would take too many, another buffer of that size is overwritten before each run,
//! outside the timed part.

use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::cases::{Case, Operand};
use super::prepared::{Prepared, bytes_on, copies_to_exceed};
use crate::device::{Call, DType, Device, Op, View};
use crate::graph::exec::Arena;
use crate::{Error, Result};

/// Copies at most.
const MOST_COPIES: usize = 256;
/// Samples at least, however long one takes.
const FEWEST_SAMPLES: usize = 3;
/// Samples at most.
const MOST_SAMPLES: usize = 51;
/// Runs in one sample at most; on a GPU that many calls are recorded.
const MOST_RUNS: usize = 512;
/// A case of more work than this has fewer images on a CPU: the time is then seconds, not minutes.
const CPU_FLOPS: f64 = 5e10;
/// Last-level cache of a GPU, where nothing says it: that of an H200, rounded up.
const GPU_CACHE_BYTES: usize = 64 << 20;
/// Last-level cache of a CPU, where nothing says it.
const CPU_CACHE_BYTES: usize = 32 << 20;

/// Median and spread over the samples, per run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Half of the samples are shorter.
    pub median: f64,
    /// A tenth of them is shorter.
    pub p10: f64,
    /// Nine tenths of them are.
    pub p90: f64,
}

impl Spread {
    /// Of some numbers; all 0 where there are none.
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |q: f64| {
            let x = q * values.len().saturating_sub(1) as f64;
            let (low, f) = (x.floor() as usize, x.fract());
            let value = |i: usize| values.get(i).or(values.last()).copied().unwrap_or(0.0);
            value(low) + f * (value(low + 1) - value(low))
        };
        Self {
            median: at(0.5),
            p10: at(0.1),
            p90: at(0.9),
        }
    }
}

/// What was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Milliseconds of one run.
    pub ms: Spread,
    /// Samples taken.
    pub samples: usize,
    /// Runs in each.
    pub runs: usize,
    /// How the operands were kept out of the cache: `rotated N`, `flushed`, or `none` on a device
    /// that has none of its own.
    pub cache: String,
}

/// How to time.
pub struct Timer {
    device: Arc<dyn Device>,
    seconds: f64,
    cache_bytes: usize,
    /// Overwritten to flush the cache; made when first needed.
    flush: Option<(Arena, Call)>,
}

impl Timer {
    /// About `seconds` a case; 0 takes one sample of one run.
    pub fn new(device: Arc<dyn Device>, seconds: f64) -> Self {
        let cache_bytes = match device.name().as_str() {
            "cpu" => cpu_cache_bytes().unwrap_or(CPU_CACHE_BYTES),
            // The kernels run on the host, thousands of times slower than its memory.
            "ptx" | "simt" => 0,
            _ => GPU_CACHE_BYTES,
        };
        Self {
            device,
            seconds,
            cache_bytes,
            flush: None,
        }
    }

    /// Bytes of the cache that runs must not profit from.
    pub fn cache_bytes(&self) -> usize {
        self.cache_bytes
    }

    /// The case as it can be measured here: with fewer images where memory or a CPU's time is
    /// short; `None` where even one image does not fit.
    pub fn fitted(&self, case: &Case) -> Option<Case> {
        let room = self.device.free_bytes().map(|b| b / 10 * 8);
        let on_cpu = self.device.name() == "cpu";
        let fits = |case: &Case| {
            let memory = room.is_none_or(|room| bytes_on(case, &*self.device) <= room);
            memory && (!on_cpu || case.cost().flops <= CPU_FLOPS)
        };
        let images = case.ins.first().map_or(1, |o| o.shape[0]);
        let mut fitted = case.clone();
        let mut count = images;
        while !fits(&fitted) {
            count /= 2;
            match case.on_images(count) {
                Some(less) => fitted = less,
                // Slow is still an answer; too large is not.
                None => {
                    let memory = room.is_none_or(|r| bytes_on(&fitted, &*self.device) <= r);
                    return memory.then_some(fitted);
                }
            }
        }
        Some(fitted)
    }

    /// Copies of the operands that keep them out of the cache; 1 where that would take too many.
    pub fn copies(&self, case: &Case) -> usize {
        let bytes = bytes_on(case, &*self.device);
        let wanted = copies_to_exceed(bytes, self.cache_bytes, usize::MAX);
        let room = self.device.free_bytes().map_or(usize::MAX, |b| b / 2);
        match self.cache_bytes > 0 && wanted <= MOST_COPIES && wanted.saturating_mul(bytes) <= room
        {
            true => wanted,
            false => 1,
        }
    }

    /// Times `case`.
    ///
    /// # Errors
    /// The device's.
    pub fn measure(&mut self, case: &Case) -> Result<Measured> {
        let copies = self.copies(case);
        let rotated =
            self.cache_bytes == 0 || copies * bytes_on(case, &*self.device) > 2 * self.cache_bytes;
        let mut prepared = Prepared::new(case, &self.device, copies)?;
        let cache = match (self.cache_bytes, rotated) {
            (0, _) => "none".into(),
            (_, true) => format!("rotated {copies}"),
            (_, false) => "flushed".into(),
        };
        let (times, runs) = match rotated {
            true => self.in_a_row(&mut prepared)?,
            false => (self.flushed(&mut prepared)?, 1),
        };
        Ok(Measured {
            samples: times.len(),
            ms: Spread::of(times),
            runs,
            cache,
        })
    }

    /// Milliseconds a run of each sample, and the runs in one.
    fn in_a_row(&self, prepared: &mut Prepared) -> Result<(Vec<f64>, usize)> {
        let device = &*self.device;
        let once = ms(device, &mut || prepared.run())?;
        if self.seconds <= 0.0 {
            return Ok((vec![once], 1));
        }
        let budget = 1e3 * self.seconds;
        let runs = (budget / 20.0 / once.max(1e-4)) as usize;
        let runs = runs.clamp(1, MOST_RUNS);
        let calls: Vec<&Call> = prepared.calls().iter().cycle().take(runs).collect();
        // One launch for all of them, as in a training step.
        let recording = device.record(&calls)?;
        let mut sample = || -> Result<f64> {
            let total = match recording {
                Some(recording) => ms(device, &mut || device.replay(recording))?,
                None => ms(device, &mut || calls.iter().try_for_each(|c| device.run(c)))?,
            };
            Ok(total / runs as f64)
        };
        let times = samples(budget, &mut sample);
        if let Some(recording) = recording {
            device.forget(recording);
        }
        Ok((times?, runs))
    }

    fn flushed(&mut self, prepared: &mut Prepared) -> Result<Vec<f64>> {
        let device = self.device.clone();
        if self.flush.is_none() {
            self.flush = Some(flush_call(&device, 2 * self.cache_bytes)?);
        }
        let flush = self.flush.as_ref().map(|(_, call)| call);
        let mut sample = || -> Result<f64> {
            flush.map_or(Ok(()), |call| device.run(call))?;
            ms(&*device, &mut || prepared.run())
        };
        match self.seconds <= 0.0 {
            true => Ok(vec![sample()?]),
            false => samples(1e3 * self.seconds, &mut sample),
        }
    }
}

/// As many samples as fit into `budget` milliseconds of wall clock, after one to warm up.
fn samples(budget: f64, sample: &mut dyn FnMut() -> Result<f64>) -> Result<Vec<f64>> {
    sample()?;
    let start = Instant::now();
    let mut times = Vec::new();
    let spent = |start: Instant| 1e3 * start.elapsed().as_secs_f64();
    while times.len() < FEWEST_SAMPLES || times.len() < MOST_SAMPLES && spent(start) < budget {
        times.push(sample()?);
    }
    Ok(times)
}

fn ms(device: &dyn Device, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
    Ok(1e3 * device.time(work)?.as_secs_f64())
}

/// A call that overwrites `bytes` of memory.
fn flush_call(device: &Arc<dyn Device>, bytes: usize) -> Result<(Arena, Call)> {
    let arena = Arena::new(device.clone(), bytes)?;
    let shape = [1, 64, bytes / (64 * 256 * 4), 256];
    let call = Call {
        op: Op::Fill { value: 1.0 },
        ins: Vec::new(),
        outs: vec![View::dense(arena.id(), 0, shape, DType::F32)],
        accumulate: 0,
        workspace: None,
    };
    Ok((arena, call))
}

/// A case of one operation on dense maps, outside any recipe.
pub(super) fn plain_case(
    name: &str,
    op: Op,
    ins: &[[usize; 4]],
    outs: &[[usize; 4]],
    dtype: DType,
) -> Case {
    let operands = |shapes: &[[usize; 4]]| -> Vec<Operand> {
        let operand = |&shape: &[usize; 4]| Operand {
            shape,
            ld: shape[3],
            dtype,
        };
        shapes.iter().map(operand).collect()
    };
    Case {
        name: name.into(),
        kind: op.name(),
        op,
        ins: operands(ins),
        outs: operands(outs),
        accumulate: 0,
        in_place: Vec::new(),
        layer: String::new(),
        uses: Vec::new(),
        reduced: None,
    }
}

/// The largest cache of the first core, by the system's description of it.
fn cpu_cache_bytes() -> Option<usize> {
    let size = |i: usize| {
        let path = format!("/sys/devices/system/cpu/cpu0/cache/index{i}/size");
        let text = std::fs::read_to_string(path).ok()?;
        let text = text.trim();
        let unit = match text.chars().last()? {
            'K' => 1 << 10,
            'M' => 1 << 20,
            _ => 1,
        };
        let number = text.trim_end_matches(['K', 'M']).parse::<usize>().ok()?;
        Some(number * unit)
    };
    (0..8).filter_map(size).max()
}

/// Refuses times that no budget can be made of.
///
/// # Errors
/// [`Error::Input`] for a negative or infinite number of seconds.
pub fn check_seconds(seconds: f64) -> Result<f64> {
    match seconds.is_finite() && (0.0..=3600.0).contains(&seconds) {
        true => Ok(seconds),
        false => Err(Error::input(
            format!("--time {seconds}"),
            "not a number of seconds a case from 0 to 3600",
            "use 0.5, or 0 for a single run of each case",
        )),
    }
}
