//! First contact: before a GPU's kernels are used for the first time, they show that they compute what
//! the CPU does.
//!
//! No test that was run elsewhere says anything of the GPU, the driver and the compiler's output that
//! meet on a user's machine. So whoever opens a device for use introduces it here ([`introduce`]); from
//! then on the device asks, each time a program is about to be planned, about the operations in it
//! ([`Device::meet`]). Those that have not passed before run the conformance suite's cases
//! ([`crate::selftest`]) of their kind and precision, on a rehearsal of the device that plans for a
//! small GPU, so that small shapes reach every kernel. What fails is run the next slower way, and
//! tried again:
//!
//! ```text
//!  conv*            large tiles → tiles of 64 → scalar copies → the CPU (fused ones: their parts)
//!  everything else  its kernels → the CPU
//! ```
//!
//! One warning says which kernel, what was seen and what replaces it. The verdict is remembered in
//! the user's cache folder (`memory`) under the device's [`Identity`]: another GPU, driver, kernel or
//! version is checked again, a remembered replacement is made and said at each start. Where nothing is
//! right, or a kernel took the device down with it, there is an error, not a result.
//!
//! Arrows: train, eval, infer → contact → selftest → device. A device without kernels of its own (the
//! CPU), and one that runs what the tests ran (`ptx`, `simt`), has no identity: nothing is checked.

mod memory;
#[cfg(test)]
mod tests;
mod trial;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{IsTerminal, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use crate::device::cpu::CpuDevice;
use crate::device::gpu::MathMode;
use crate::device::{Checkable, Device, Guard, Identity, Met};
use crate::error::{Error, Result};
use crate::selftest::{Case, cases};
use memory::{Entry, Memory};
use trial::{Ended, Trial};

/// Seed of the cases' data.
const SEED: u64 = 1;

/// Something for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// How far a check is; told before each case and once at its end, when `done` is `total`, which
    /// grows when a replacement is tried.
    Progress {
        /// What is being done, such as "checking the kernels on NVIDIA H200 for the first time".
        what: String,
        /// Cases that were run.
        done: usize,
        /// Of how many.
        total: usize,
    },
    /// A line that should not be missed.
    Warning(String),
}

/// Where [`Said`] goes.
pub type Tell = Arc<dyn Fn(&Said) + Send + Sync>;

/// Whether and how a device's kernels are checked before they are used first.
#[derive(Clone)]
pub struct Check {
    /// Whether.
    pub on: bool,
    /// Folder that remembers verdicts; `None`: `u2pl-engine` in the user's cache folder.
    pub folder: Option<PathBuf>,
    /// Who is told. The default writes to standard error.
    pub tell: Tell,
}

impl Default for Check {
    fn default() -> Self {
        let warn = |line: &str| {
            // Nobody is left to tell where standard error is closed.
            let _ = writeln!(std::io::stderr(), "u2pl-engine: warning: {line}");
        };
        Self {
            on: true,
            folder: None,
            tell: to_stderr(warn),
        }
    }
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check")
            .field("on", &self.on)
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

/// Progress on standard error: one line, which counts on a terminal and is written once, at the start,
/// elsewhere. Warnings go to `warn`.
pub fn to_stderr(warn: impl Fn(&str) + Send + Sync + 'static) -> Tell {
    let counts = std::io::stderr().is_terminal();
    Arc::new(move |said| match said {
        Said::Warning(line) => warn(line),
        Said::Progress { what, done, total } => {
            let mut out = std::io::stderr().lock();
            // As above.
            let _ = match (counts, done) {
                (true, done) if done == total => writeln!(out, "\r{what}: {done} of {total}"),
                (true, _) => write!(out, "\r{what}: {done} of {total}"),
                (false, 0) => writeln!(out, "{what}: {total} checks, a few seconds"),
                (false, _) => Ok(()),
            };
        }
    })
}

/// Has `device` ask about its kernels before they run, as `check` says. The first call on a device
/// decides; a device without an identity is left alone.
pub fn introduce(device: &dyn Device, check: &Check) {
    let Some(checkable) = device.checkable() else {
        return;
    };
    let Some(identity) = checkable.identity() else {
        return;
    };
    let name = identity.name.clone();
    let guardian = Guardian {
        check: check.clone(),
        identity,
        state: Mutex::default(),
    };
    if checkable.set_guard(Box::new(guardian)) && !check.on {
        (check.tell)(&Said::Warning(format!(
            "the kernels on {name} are not checked, as asked: nothing would say that one is wrong"
        )));
    }
}

/// The one [`Guard`].
struct Guardian {
    check: Check,
    identity: Identity,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    passed: BTreeSet<Met>,
    /// What could not be read or written was said.
    complained: bool,
}

impl Guard for Guardian {
    fn meet(&self, device: &dyn Checkable, ops: &[Met]) -> Result<()> {
        if !self.check.on {
            return Ok(());
        }
        let state = self.state.lock();
        let mut state = state.map_err(|_| Error::internal("poisoned first contact"))?;
        let mut new: BTreeSet<Met> = ops.iter().copied().collect();
        new.retain(|met| !state.passed.contains(met));
        if new.is_empty() {
            return Ok(());
        }
        let memory = Memory::new(self.check.folder.clone(), &self.identity.key);
        let remembered = memory.read().unwrap_or_else(|problem| {
            self.complain(
                &mut state,
                &format!("{problem}; the kernels are checked again"),
            );
            BTreeMap::new()
        });
        let first = remembered.is_empty();
        let mut open = Vec::new();
        for met in new {
            let entry = remembered.get(&self.key(met)).cloned().unwrap_or_default();
            take(device, met, entry.steps)?;
            if let Some(line) = &entry.warning {
                let from = memory.file();
                self.warn(format!(
                    "{line} (remembered in {from}; remove it to check again)"
                ));
            }
            match entry.passed {
                true => drop(state.passed.insert(met)),
                false => open.push((met, entry)),
            }
        }
        if open.is_empty() {
            return Ok(());
        }
        let mut found = BTreeMap::new();
        let tried = self.check_all(&mut state, device, open, first, &mut found);
        // What was found before an error holds, too.
        if let Err(problem) = memory.add(found) {
            let line = format!("{problem}; until that is fixed they are checked at each start");
            self.complain(&mut state, &line);
        }
        tried
    }
}

/// Takes `device` that many steps down.
fn take(device: &dyn Checkable, met: Met, steps: usize) -> Result<()> {
    for _ in 0..steps {
        device.degrade(met)?;
    }
    Ok(())
}

impl Guardian {
    fn warn(&self, line: String) {
        (self.check.tell)(&Said::Warning(line));
    }

    fn complain(&self, state: &mut State, line: &str) {
        if !std::mem::replace(&mut state.complained, true) {
            self.warn(line.into());
        }
    }

    /// Which cases an operation is tried on.
    fn math(&self, met: Met) -> MathMode {
        match (met.half, self.identity.precision) {
            (true, _) => MathMode::Bf16,
            (false, MathMode::Tf32) if met.op.starts_with("conv") => MathMode::Tf32,
            (false, _) => MathMode::Fp32,
        }
    }

    fn key(&self, met: Met) -> String {
        format!("{} {}", met.op, self.math(met).name())
    }

    /// Tries every operation of `open`, from what is remembered of it, and keeps what was found in
    /// `found`.
    fn check_all(
        &self,
        state: &mut State,
        device: &dyn Checkable,
        open: Vec<(Met, Entry)>,
        first: bool,
        found: &mut BTreeMap<String, Entry>,
    ) -> Result<()> {
        let all = cases::all(SEED);
        let of = |met: Met| -> Vec<&Case> {
            let fits = |c: &&Case| c.family == met.op && c.math == self.math(met);
            all.iter().filter(fits).collect()
        };
        let rehearsal = device.rehearsal();
        let oracle = CpuDevice::new(0)?;
        let name = &self.identity.name;
        let mut trial = Trial {
            rehearsal: &*rehearsal,
            oracle: &oracle,
            name,
            what: match first {
                true => format!("checking the kernels on {name} for the first time"),
                false => format!("checking more kernels on {name}"),
            },
            done: 0,
            total: open.iter().map(|(met, _)| of(*met).len()).sum(),
            tell: &self.check.tell,
        };
        for (met, before) in open {
            let ended = trial.family(met, self.math(met), &of(met))?;
            let (steps, warning, error) = match ended {
                Ended::Passed { steps, warning } => (steps, warning, None),
                Ended::Dead {
                    steps,
                    warning,
                    error,
                } => (steps, Some(warning), Some(error)),
            };
            let entry = Entry {
                // The rehearsal began where the device was.
                steps: before.steps + steps,
                passed: error.is_none(),
                warning: warning.clone().or(before.warning),
            };
            found.insert(self.key(met), entry);
            if let Some(error) = error {
                return Err(error);
            }
            take(device, met, steps)?;
            if let Some(line) = warning {
                self.warn(line);
            }
            state.passed.insert(met);
        }
        trial.end();
        Ok(())
    }
}
