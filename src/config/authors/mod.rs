//! The configurations of the authors' PyTorch code, read as they are.
//!
//! Comes in: the YAML tree of a file with the sections `dataset`, `trainer`, `net`, `criterion` and
//! `saver`. Goes out: the values of our own keys that say the same, and [`Authors`], what has no
//! key of ours. [`keys`] knows every key and its type, [`map`] what each means here; a key that
//! cannot be honoured is refused, never dropped. `docs/coming-from-the-authors-code.md` is the
//! table of both.

mod keys;
mod map;
mod paths;

use std::path::{Path, PathBuf};

use super::load::Given;
use super::schema::Mode;
use super::tree::Node;
use crate::Error;

/// What a file in the authors' format leaves open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuthorsOptions {
    /// Which text the step follows; `None` = `released`, what the file means to its own code.
    pub semantics: Option<Mode>,
    /// GPUs of the recipe, for batch sizes that are per process; `None` = 1.
    pub world_size: Option<usize>,
}

impl AuthorsOptions {
    /// Nothing chosen?
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What a file in the authors' format says besides the keys of [`Config`](super::Config).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Authors {
    /// One line each on how it was read.
    pub notes: Vec<String>,
    /// One line each on what is without effect or cannot be had from the file.
    pub warnings: Vec<String>,
    /// `saver.pretrain`: the checkpoint that training starts from.
    pub pretrain: Option<PathBuf>,
    /// The encoder whose ImageNet weights the authors' code starts from, such as `resnet101`.
    pub backbone: Option<String>,
}

#[cfg(feature = "cli")]
impl Authors {
    /// Writes notes and warnings to the log, each once a process however often the file is read.
    pub fn log(&self) {
        use std::collections::BTreeSet;
        use std::sync::{Mutex, PoisonError};
        static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
        let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
        for note in self.notes.iter().filter(|n| said.insert(n.to_string())) {
            tracing::info!("{note}");
        }
        for warning in self.warnings.iter().filter(|w| said.insert(w.to_string())) {
            tracing::warn!("{warning}");
        }
    }
}

/// Whether `node` is in the authors' format: it has one of their sections and none of ours.
pub(super) fn recognise(node: &Node, ours: &[&str]) -> bool {
    let Node::Map(entries) = node else {
        return false;
    };
    let has = |names: &[&str]| {
        entries
            .iter()
            .any(|(key, ..)| names.contains(&key.as_str()))
    };
    has(&keys::SECTIONS) && !has(ours)
}

/// Reads `node`, the tree of the file `origin` (a path for messages; its folder is where relative
/// paths start). Problems go to `errors`.
pub(super) fn read(
    origin: &str,
    node: &Node,
    options: AuthorsOptions,
    errors: &mut Vec<Error>,
) -> (Vec<Given>, Authors) {
    let values = keys::Values::read(origin, node, errors);
    // Without the keys that are wrong, what they decide would be reported as missing.
    if !errors.is_empty() {
        return (Vec::new(), Authors::default());
    }
    let folder = Path::new(origin).parent().unwrap_or(Path::new(""));
    map::map(&values, folder, options, errors)
}
