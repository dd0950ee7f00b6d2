//! Cases on a rehearsal: which operations pass, which kernels are to blame for those that do not, and
//! what is right in their place.

use std::collections::BTreeSet;

use super::{Said, Tell};
use crate::device::cpu::CpuDevice;
use crate::device::gpu::MathMode;
use crate::device::{DType, Device, Met, View};
use crate::error::{Error, Result};
use crate::selftest::{self, Case};

/// Kernels that a line names; the rest is counted.
const NAMED: usize = 3;

/// What every error ends with.
const WAYS_OUT: &str = "use --device cpu, or --no-check at your own risk";

/// A check under way.
pub(super) struct Trial<'a> {
    pub rehearsal: &'a dyn Device,
    pub oracle: &'a CpuDevice,
    /// The hardware's.
    pub name: &'a str,
    /// Of the progress line.
    pub what: String,
    pub done: usize,
    pub total: usize,
    pub tell: &'a Tell,
}

/// How an operation ended.
pub(super) enum Ended {
    /// Right, after so many steps down; the warning says why there were some.
    Passed {
        steps: usize,
        warning: Option<String>,
    },
    /// A kernel took the device down with it. The next process can begin `steps` down.
    Dead {
        steps: usize,
        warning: String,
        error: Error,
    },
}

/// What went wrong in one round of an operation's cases.
struct Failure {
    failed: usize,
    of: usize,
    /// Launched where a case failed and, where that leaves any, in none that passed.
    kernels: Vec<&'static str>,
    /// Of the first case that failed.
    message: String,
    /// The device does nothing any more.
    dead: bool,
}

impl Trial<'_> {
    /// Tries an operation on its cases, one step down after each round in which something failed.
    pub(super) fn family(&mut self, met: Met, math: MathMode, cases: &[&Case]) -> Result<Ended> {
        let op = met.op;
        let mut steps = 0;
        let mut how = "";
        let mut first = None::<Failure>;
        loop {
            let Some(failure) = self.round(op, cases)? else {
                let warning = first.map(|f| self.warning(&f, op, math, how));
                return Ok(Ended::Passed { steps, warning });
            };
            let dead = failure.dead;
            let seen = match first.take() {
                None => failure,
                Some(mut seen) => {
                    let more = failure.kernels.into_iter();
                    let new: Vec<_> = more.filter(|k| !seen.kernels.contains(k)).collect();
                    seen.kernels.extend(new);
                    seen
                }
            };
            let next = match self.rehearsal.checkable() {
                Some(checkable) => checkable.degrade(met)?,
                None => None,
            };
            let Some(next) = next else {
                let blame = self.blame(&seen, op, math);
                return Err(self.error(format!("{blame}, and nothing is left to take its place")));
            };
            (how, steps) = (next, steps + 1);
            if dead {
                let blame = self.blame(&seen, op, math);
                let problem = format!(
                    "{blame}, and it took the device down with it; start again and {op} runs {how} instead"
                );
                return Ok(Ended::Dead {
                    steps,
                    warning: self.warning(&seen, op, math, how),
                    error: self.error(problem),
                });
            }
            first = Some(seen);
            self.total += cases.len();
        }
    }

    /// Runs every case; `None` when all pass.
    ///
    /// # Errors
    /// [`Error::Device`] when a case fails before a kernel runs: that is no kernel's fault.
    fn round(&mut self, op: &str, cases: &[&Case]) -> Result<Option<Failure>> {
        let (mut innocent, mut suspects) = (BTreeSet::new(), Vec::<&'static str>::new());
        let (mut failed, mut message, mut dead) = (0, String::new(), false);
        for case in cases {
            self.progress();
            self.done += 1;
            self.launched();
            let outcome = selftest::run(self.rehearsal, self.oracle, case);
            let launched = self.launched();
            if outcome.passed() {
                innocent.extend(launched);
                continue;
            }
            // The device's name is in front of the whole line.
            let prefix = format!("device {}: ", self.rehearsal.name());
            let text = outcome.message.trim_start_matches(&prefix).to_string();
            if launched.is_empty() {
                return Err(self.error(format!("{op} cannot be checked: {text}")));
            }
            // A fault says whose it is: a kernel that ran before it is not to blame.
            let named = words(&text, &launched);
            suspects.extend(if named.is_empty() { launched } else { named });
            if failed == 0 {
                message = text;
            }
            failed += 1;
            if !alive(self.rehearsal) {
                dead = true;
                break;
            }
        }
        if failed == 0 {
            return Ok(None);
        }
        suspects.sort_unstable();
        suspects.dedup();
        let guilty: Vec<_> = (suspects.iter().copied())
            .filter(|k| !innocent.contains(k))
            .collect();
        Ok(Some(Failure {
            failed,
            of: cases.len(),
            kernels: if guilty.is_empty() { suspects } else { guilty },
            message,
            dead,
        }))
    }

    fn launched(&self) -> Vec<&'static str> {
        let checkable = self.rehearsal.checkable();
        checkable.map_or(Vec::new(), |c| c.launched())
    }

    fn progress(&self) {
        (self.tell)(&Said::Progress {
            what: self.what.clone(),
            done: self.done,
            total: self.total,
        });
    }

    /// Tells that all is done.
    pub(super) fn end(&self) {
        self.progress();
    }

    /// "kernel a is wrong on NVIDIA H200 (…)".
    fn blame(&self, failure: &Failure, op: &str, math: MathMode) -> String {
        let kernels = &failure.kernels;
        let named = kernels[..kernels.len().min(NAMED)].join(", ");
        let who = match kernels.len() {
            1 => format!("kernel {named} is"),
            n if n > NAMED => format!("kernels {named} and {} more are", n - NAMED),
            _ => format!("kernels {named} are"),
        };
        let Failure {
            failed,
            of,
            message,
            ..
        } = failure;
        format!(
            "{who} wrong on {} ({failed} of {of} checks of {op} in {} failed: {message})",
            self.name,
            math.name()
        )
    }

    fn warning(&self, failure: &Failure, op: &str, math: MathMode, how: &str) -> String {
        let blame = self.blame(failure, op, math);
        format!("{blame}; {op} runs {how} instead, which is slower")
    }

    fn error(&self, problem: String) -> Error {
        Error::Device {
            device: self.rehearsal.name(),
            problem: format!("{problem}; {WAYS_OUT}"),
        }
    }
}

/// Those of `kernels` that `text` names.
fn words(text: &str, kernels: &[&'static str]) -> Vec<&'static str> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let named: BTreeSet<&str> = text.split(|c| !is_part(c)).collect();
    let kernels = kernels.iter().copied();
    kernels.filter(|k| named.contains(k)).collect()
}

/// Whether the device still takes memory and gives back what was written there.
fn alive(device: &dyn Device) -> bool {
    const PATTERN: [u8; 64] = [0x5A; 64];
    let Ok(arena) = device.alloc(PATTERN.len()) else {
        return false;
    };
    let view = View::dense(arena, 0, [1, 1, 1, PATTERN.len()], DType::U8);
    let mut back = [0; PATTERN.len()];
    let moved = device
        .write(&view, &PATTERN)
        .and_then(|()| device.read(&view, &mut back));
    device.free(arena);
    moved.is_ok() && back == PATTERN
}
