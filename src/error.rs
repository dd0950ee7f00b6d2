//! The one error type of the library.
//!
//! A user reads an error as a single line on stderr, so every variant carries what the reader
//! needs to act: the file, line, key or value at fault, what is wrong, and the mend. The command
//! line turns [`Error::exit_code`] into the process status: 2 for bad usage or input, 1 for a
//! failure that is not the user's, 130 for a run that was interrupted.

use std::path::{Path, PathBuf};

/// Shorthand for results of this library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong, as a value.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Input that the user can mend: a file, a list line, a config key, an argument.
    #[error("{at}: {problem}; {mend}")]
    Input {
        /// File, `file:line`, config key or argument at fault.
        at: String,
        /// What is wrong with it.
        problem: String,
        /// What to do about it.
        mend: String,
    },
    /// Several independent input problems, found in one check and reported together.
    #[error("{}", join_lines(.0))]
    Inputs(Vec<Error>),
    /// An operating-system error on a path.
    #[error("{}: cannot {doing}: {source}", path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// What was being done, as a verb phrase ("read the list").
        doing: &'static str,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A device refused or failed an operation.
    #[error("device {device}: {problem}")]
    Device {
        /// Device name (`cpu`, `cuda:0`, `simt`).
        device: String,
        /// What failed.
        problem: String,
    },
    /// As many calls run on a shared object as it serves at once.
    #[error(
        "{calls} calls are running, as many as there are callers; wait for one to end, or open it with more callers"
    )]
    Busy {
        /// How many.
        calls: usize,
    },
    /// More memory is needed than there is.
    #[error("{at}: {problem}; {mend}")]
    Memory {
        /// What needs it.
        at: String,
        /// How much, and how much there is.
        problem: String,
        /// What to do about it.
        mend: String,
    },
    /// A run was asked to stop, and left a checkpoint to go on from.
    #[error("{}: stopped at iteration {iteration}; --resume goes on from there", out.display())]
    Stopped {
        /// The run folder.
        out: PathBuf,
        /// Iterations done.
        iteration: usize,
    },
    /// A run that could not go on, and left a checkpoint of what it had done.
    #[error(
        "{cause}; {iteration} iterations are saved, and --resume goes on from there ({})",
        out.display()
    )]
    Saved {
        /// Why.
        cause: Box<Error>,
        /// The run folder.
        out: PathBuf,
        /// Iterations done.
        iteration: usize,
    },
    /// A run whose losses or weights are no longer numbers.
    #[error(
        "train.lr: {what} is no longer a finite number at iteration {iteration}; the checkpoints stay as \
         they were: lower train.lr (or train.head_lr_mult), also with --resume, or set \
         train.on_divergence=rollback"
    )]
    Diverged {
        /// The loss or the tensor.
        what: String,
        /// Iterations done.
        iteration: usize,
    },
    /// Scores of an image that are no finite numbers: nothing can be said of those pixels.
    #[error("{at}: {pixels} of {of} pixels have scores that are not finite numbers; {layer}")]
    NotFinite {
        /// The image.
        at: String,
        /// Pixels without an answer, of its own or of the scores' coarser grid.
        pixels: usize,
        /// All pixels of that grid.
        of: usize,
        /// The first layer with such values, or how to find it.
        layer: String,
    },
    /// A process that a benchmark measures failed.
    #[error("{side}: {problem}")]
    Side {
        /// Which side of the comparison.
        side: String,
        /// What it said last.
        problem: String,
    },
    /// A broken invariant of the engine itself: a bug, never the user's input.
    #[error("internal error (please report): {0}")]
    Internal(String),
}

fn join_lines(errors: &[Error]) -> String {
    let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

impl Error {
    /// An [`Error::Input`] from its three parts.
    pub fn input(
        at: impl Into<String>,
        problem: impl Into<String>,
        mend: impl Into<String>,
    ) -> Self {
        Self::Input {
            at: at.into(),
            problem: problem.into(),
            mend: mend.into(),
        }
    }

    /// An [`Error::Io`] for `path`.
    pub fn io(path: impl AsRef<Path>, doing: &'static str, source: std::io::Error) -> Self {
        Self::Io {
            path: path.as_ref().to_path_buf(),
            doing,
            source,
        }
    }

    /// [`Error::Stopped`] or [`Error::Saved`] of a run that is resumed by the folder `out` around its
    /// own; any other error as it is.
    pub fn of_run(self, run: &Path) -> Self {
        match self {
            Error::Stopped { iteration, .. } => Error::Stopped {
                out: run.to_path_buf(),
                iteration,
            },
            Error::Saved {
                cause, iteration, ..
            } => Error::Saved {
                cause,
                out: run.to_path_buf(),
                iteration,
            },
            other => other,
        }
    }

    /// [`Error::NotFinite`] of the image `name`; any other error as it is.
    #[must_use]
    pub fn of_image(self, name: String) -> Self {
        match self {
            Error::NotFinite {
                pixels, of, layer, ..
            } => Error::NotFinite {
                at: name,
                pixels,
                of,
                layer,
            },
            other => other,
        }
    }

    /// An [`Error::Internal`].
    pub fn internal(problem: impl Into<String>) -> Self {
        Self::Internal(problem.into())
    }

    /// One error out of many: `Ok` when there are none.
    pub fn collect(mut errors: Vec<Error>) -> Result<()> {
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.remove(0)),
            _ => Err(Error::Inputs(errors)),
        }
    }

    /// Process exit status: 2 for what the user can mend, 1 otherwise.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Input { .. }
            | Error::Inputs(_)
            | Error::Io { .. }
            | Error::Busy { .. }
            | Error::Diverged { .. }
            | Error::NotFinite { .. }
            | Error::Memory { .. } => 2,
            Error::Device { .. } | Error::Side { .. } | Error::Internal(_) => 1,
            Error::Saved { cause, .. } => cause.exit_code(),
            // As shells have it for a program that an interrupt ended.
            Error::Stopped { .. } => 130,
        }
    }
}
