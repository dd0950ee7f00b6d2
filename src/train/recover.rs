//! Going on: from a checkpoint of an earlier call, or from the last good one after the run diverged.

use std::path::Path;

use serde_json::json;

use super::Trainer;
use super::board::Board;
use super::checkpoint::{self, Progress, Saved};
use super::origin::{self, Changed, Origin};
use super::run_dir::{self, RunDir};
use crate::config::Config;
use crate::config::schema::OnDivergence;
use crate::{Error, Result};

/// Factor on the learning rate after going back from a state that diverged.
const SLOWER: f32 = 0.1;

/// Factor on the learning rate of a run that stands at `progress`.
pub(super) fn slower(progress: Progress) -> f32 {
    SLOWER.powi(progress.rollbacks as i32)
}

/// What a run goes on from, and what has changed since.
pub(super) struct Resumed {
    pub(super) saved: Saved,
    pub(super) changed: Changed,
}

impl Resumed {
    /// Compares the run in the folder `dir` with what it is to go on with, and says what differs.
    pub(super) fn new(
        saved: Saved,
        cfg: &Config,
        now: &Origin,
        dir: &Path,
        new_data: bool,
    ) -> Result<Self> {
        let path = saved.file.path();
        let mut changed = Changed {
            keys: origin::compare(&saved.cfg, cfg, path)?,
            lists: Vec::new(),
        };
        match &saved.origin {
            Some(was) => {
                was.check_arithmetic(now, path)?;
                changed.lists = was.other_lists(now, &run_dir::faulty_files(dir));
            }
            None => tracing::warn!(
                "{}: an older engine wrote it: whether the lists are still the same is not known",
                path.display()
            ),
        }
        if !changed.lists.is_empty() && !new_data {
            return Err(Error::input(
                path.display().to_string(),
                format!(
                    "the run was started on other data: {}",
                    changed.lists.join(", ")
                ),
                "give the data back as they were, or accept these with --resume-with-new-data",
            ));
        }
        changed.warn(&saved.cfg, cfg, now.epoch_iters);
        Ok(Self { saved, changed })
    }
}

impl Changed {
    /// Where a run stands that goes on with what has changed, and what that means for it.
    pub(super) fn steer(&self, mut progress: Progress) -> Progress {
        if self.lists.iter().any(|list| list.starts_with("data.val ")) && progress.best_miou > 0.0 {
            tracing::warn!(
                "best.safetensors scored {:.2} % on other validation images: the best is looked for anew",
                100.0 * progress.best_miou
            );
            progress.best_miou = 0.0;
        }
        if progress.rollbacks == 0 {
            return progress;
        }
        match self.keys.iter().any(|(key, ..)| key == "train.lr") {
            // A rate that somebody chose after the run diverged is what they want.
            true => progress.rollbacks = 0,
            false => tracing::warn!(
                "the run went back after it had diverged: it goes on with {} of train.lr; another train.lr \
                 counts in full",
                slower(progress)
            ),
        }
        progress
    }
}

/// Scores that are no numbers say that the run diverged.
pub(super) fn diverged(error: Error, iteration: usize) -> Error {
    match error {
        Error::NotFinite { at, .. } => Error::Diverged {
            what: format!("a score of {at}"),
            iteration,
        },
        other => other,
    }
}

impl Trainer {
    /// After a run diverged: back to the last good checkpoint, where that is wanted and was not done
    /// before; otherwise, and for any other `error`, that.
    pub(super) fn roll_back(&mut self, error: Error) -> Result<()> {
        let (what, iteration) = match &error {
            Error::Diverged { what, iteration } => (what.clone(), *iteration),
            _ => return Err(error),
        };
        if let Err(unlogged) = self.dir.log(&json!({"iter": iteration, "diverged": what})) {
            // A full disk, say, does not hide why the run ends.
            tracing::warn!("{unlogged}");
        }
        let again = self.progress.rollbacks > 0;
        if self.cfg.train.on_divergence == OnDivergence::Stop || again {
            return Err(error);
        }
        let saved = checkpoint::open(self.dir.path())?;
        // In mode released, too: what the bank holds is of the run that diverged.
        let mut progress = checkpoint::restore(&saved.file, &self.session, true)?;
        progress.rollbacks += 1;
        if saved.fault.is_some() {
            checkpoint::promote(self.dir.path())?;
        }
        tracing::warn!(
            "{what} is no longer a finite number at iteration {iteration}: back to iteration {}, from \
             there with {SLOWER} of the learning rate",
            progress.iteration
        );
        self.progress = progress;
        self.session.slow_down(slower(progress));
        self.dir = RunDir::reopen(self.dir.path(), progress.iteration)?;
        self.dir.log(&json!({
            "iter": progress.iteration,
            "rolled_back": {"from": iteration, "what": what, "lr_factor": SLOWER},
        }))?;
        self.board = Board::open(self.dir.path(), &self.cfg, progress.iteration)?;
        self.last_val = None;
        // A process that is killed now goes on with the lower rate, too.
        self.save()
    }
}
