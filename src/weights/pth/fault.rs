//! Why a file is refused, before the file's name is put in front.
//!
//! Everything under this module says where in the file and what is wrong, in one line; only the
//! top knows the path. Names out of the file are shown cut and escaped: they may hold anything.

use std::fmt::Display;
use std::io;
use std::path::Path;

use crate::error::Error;

/// Characters of a name that a message shows.
const SHOWN: usize = 80;

/// Mend where the file holds more than tensors.
pub(super) const TENSORS_ALONE: &str =
    "load it with PyTorch and save its tensors alone: torch.save(model.state_dict(), FILE)";
/// Mend where the file is damaged.
pub(super) const AGAIN: &str = "the file is damaged: write or download it again";

/// A refusal.
#[derive(Debug)]
pub(super) enum Fault {
    /// What the file holds is refused.
    Bad {
        /// Where in the file and what is wrong.
        problem: String,
        /// What to do about it.
        mend: &'static str,
    },
    /// The operating system did not let it be read.
    Io(io::Error),
}

/// Results with a refusal.
pub(super) type Outcome<T> = Result<T, Fault>;

impl Fault {
    /// The file is damaged: `problem` at `place`.
    pub(super) fn damaged(place: impl Display, problem: impl Display) -> Self {
        Fault::Bad {
            problem: format!("{place}: {problem}"),
            mend: AGAIN,
        }
    }

    /// The file holds what this reader does not take: `problem` at `place`.
    pub(super) fn foreign(place: impl Display, problem: impl Display) -> Self {
        Fault::Bad {
            problem: format!("{place}: {problem}"),
            mend: TENSORS_ALONE,
        }
    }

    /// The error for the user, of the file at `path`.
    pub(super) fn of(self, path: &Path) -> Error {
        match self {
            Fault::Bad { problem, mend } => Error::input(path.display().to_string(), problem, mend),
            Fault::Io(e) => Error::io(path, "read the weights", e),
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            // Every length is checked before it is read; what is left is a file that shrinks.
            io::ErrorKind::UnexpectedEof => Fault::damaged("its end", "comes too early"),
            _ => Fault::Io(error),
        }
    }
}

/// A name out of the file, as a message may show it: one line, no control characters, not long.
pub(in crate::weights) fn shown(name: &str) -> String {
    let mut text: String = name
        .chars()
        .take(SHOWN)
        .flat_map(char::escape_debug)
        .collect();
    if name.chars().nth(SHOWN).is_some() {
        text.push('…');
    }
    text
}
