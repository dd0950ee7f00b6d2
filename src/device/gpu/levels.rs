//! Which way each operation runs: its kernels, slower ones, or no kernel at all.
//!
//! An operation starts with its fastest kernels. Each step down takes a kind of them away until the
//! CPU stands in. Levels only go down, and only while nothing that was planned with the faster kernels
//! still runs (`crate::contact` steps down before a program is planned).

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard};

use crate::device::Met;
use crate::error::{Error, Result};

/// What an operation may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    /// Every kernel.
    #[default]
    All,
    /// Of a convolution, tiles of 64 and 16-byte copies at most.
    Small,
    /// Of a convolution, tiles of 64 and element-wise copies.
    Any,
    /// The CPU.
    Cpu,
}

/// Convolutions: they have kernels of three kinds.
const CONVOLUTIONS: [&str; 5] = [
    "conv",
    "conv_batch_norm_eval",
    "conv_moments",
    "conv_dgrad",
    "conv_wgrad",
];

impl Level {
    /// The next way down for `op`.
    fn next(self, op: &str) -> Option<Level> {
        match self {
            Level::Cpu => None,
            Level::All if CONVOLUTIONS.contains(&op) => Some(Level::Small),
            Level::Small => Some(Level::Any),
            Level::All | Level::Any => Some(Level::Cpu),
        }
    }

    /// Completes "`op` runs …".
    fn says(self, op: &str) -> &'static str {
        match (self, op) {
            (Level::All, _) => "as planned",
            (Level::Small, _) => "in tiles of 64",
            (Level::Any, _) => "in tiles of 64 with scalar copies",
            // The graph is not fused any more (`Device::fuses`): the GPU runs both parts.
            (Level::Cpu, "conv_batch_norm_eval") => "as conv and batch_norm_eval apart",
            (Level::Cpu, "conv_moments" | "batch_norm_merge") => "as conv and batch_norm apart",
            (Level::Cpu, _) => "on the CPU",
        }
    }
}

/// The table of one device, and what a rehearsal has launched.
#[derive(Default)]
pub(super) struct Levels {
    table: Mutex<HashMap<Met, Level>>,
    launched: Option<Mutex<BTreeSet<&'static str>>>,
}

impl Levels {
    /// The same levels, for a rehearsal.
    pub(super) fn noting(&self) -> Self {
        let table = self.table.lock().map(|t| t.clone()).unwrap_or_default();
        Self {
            table: Mutex::new(table),
            launched: Some(Mutex::default()),
        }
    }

    fn table(&self) -> Result<MutexGuard<'_, HashMap<Met, Level>>> {
        self.table
            .lock()
            .map_err(|_| Error::internal("poisoned table of levels"))
    }

    /// How an operation runs; `met` is asked for where something was replaced. A panic of another
    /// thread leaves the table whole: its entries are numbers.
    pub(super) fn of(&self, met: impl FnOnce() -> Met) -> Level {
        let table = match self.table.lock() {
            Ok(table) => table,
            Err(poisoned) => poisoned.into_inner(),
        };
        match table.is_empty() {
            true => Level::All,
            false => table.get(&met()).copied().unwrap_or_default(),
        }
    }

    /// As [`crate::device::Checkable::degrade`].
    pub(super) fn degrade(&self, met: Met) -> Result<Option<&'static str>> {
        let mut table = self.table()?;
        let level = table.entry(met).or_default();
        let Some(next) = level.next(met.op) else {
            return Ok(None);
        };
        *level = next;
        Ok(Some(next.says(met.op)))
    }

    /// Notes a launch.
    pub(super) fn note(&self, kernel: &'static str) {
        if let Some(launched) = &self.launched
            && let Ok(mut launched) = launched.lock()
        {
            launched.insert(kernel);
        }
    }

    /// As [`crate::device::Checkable::launched`].
    pub(super) fn launched(&self) -> Vec<&'static str> {
        let launched = self.launched.as_ref().and_then(|l| l.lock().ok());
        launched.map_or(Vec::new(), |mut l| {
            std::mem::take(&mut *l).into_iter().collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_ends_on_the_cpu() {
        let levels = Levels::default();
        let met = |op, half| Met { op, half };
        let mut said = Vec::new();
        while let Some(text) = levels.degrade(met("conv", true)).unwrap() {
            said.push(text);
        }
        assert_eq!(
            said,
            [
                "in tiles of 64",
                "in tiles of 64 with scalar copies",
                "on the CPU"
            ]
        );
        let relu = met("relu", false);
        assert_eq!(levels.degrade(relu).unwrap(), Some("on the CPU"));
        assert_eq!(levels.degrade(relu).unwrap(), None);
        assert_eq!(levels.of(|| relu), Level::Cpu);
        assert_eq!(levels.of(|| met("resize", false)), Level::All);
        let rehearsal = levels.noting();
        assert_eq!(rehearsal.of(|| met("conv", true)), Level::Cpu);
        assert_eq!(rehearsal.of(|| met("conv", false)), Level::All);
        rehearsal.note("a");
        rehearsal.note("a");
        assert_eq!(rehearsal.launched(), ["a"]);
        assert_eq!(rehearsal.launched(), [""; 0]);
        levels.note("a");
        assert_eq!(levels.launched(), [""; 0]);
    }
}
