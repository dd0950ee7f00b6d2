//! What goes wrong: bad input ([`Problem`]) and a kernel that does wrong ([`Fault`]).

use std::fmt;

/// Input that the machine refuses before anything runs: one line that names the place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem(String);

impl Problem {
    /// A problem in these words.
    pub fn new(words: impl Into<String>) -> Problem {
        Problem(words.into())
    }

    /// A problem at a line of a PTX text.
    pub fn at(file: &str, line: u32, words: impl fmt::Display) -> Problem {
        Problem(format!("{file}:{line}: {words}"))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Problem {}

/// Where a kernel went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The entry's name.
    pub kernel: String,
    /// The block, or `None` when the launch itself was refused.
    pub block: Option<[u32; 3]>,
    /// Thread of the block (x fastest), or `None` when the fault is the block's.
    pub thread: Option<u32>,
    /// Source line as `file:line`, from the PTX's `.loc`, or the PTX's own line without one.
    pub at: String,
    /// What happened, in one line.
    pub what: String,
    /// The input was wrong rather than the kernel: exit code 2, not 1.
    pub refused: bool,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kernel {}", self.kernel)?;
        if let Some([x, y, z]) = self.block {
            write!(f, ", block ({x},{y},{z})")?;
        }
        if let Some(thread) = self.thread {
            let (warp, lane) = (thread / 32, thread % 32);
            write!(f, ", thread {thread} (warp {warp}, lane {lane})")?;
        }
        if !self.at.is_empty() {
            write!(f, ", {}", self.at)?;
        }
        write!(f, ": {}", self.what)
    }
}

impl std::error::Error for Fault {}
