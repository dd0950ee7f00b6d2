//! Layout of the state arena: everything that survives a step.

use std::collections::BTreeMap;

use super::{Graph, TensorId};
use crate::device::{ArenaId, DType, Shape, View, elements};
use crate::error::{Error, Result};

/// Alignment of every entry, bytes.
pub const ALIGN: usize = 256;

/// One named entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Byte offset.
    pub offset: usize,
    /// Shape.
    pub shape: Shape,
    /// Element type.
    pub dtype: DType,
}

/// Named entries in one arena, in order of addition.
#[derive(Clone, Debug, Default)]
pub struct State {
    entries: BTreeMap<String, Entry>,
    bytes: usize,
}

impl State {
    /// An empty layout.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an entry; its byte offset.
    pub fn add(&mut self, name: &str, shape: Shape, dtype: DType) -> usize {
        let offset = self.bytes;
        self.bytes += (elements(shape) * dtype.bytes()).next_multiple_of(ALIGN);
        self.entries.insert(
            name.to_string(),
            Entry {
                offset,
                shape,
                dtype,
            },
        );
        offset
    }

    /// Total size.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether there is an entry `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// The entry `name`.
    ///
    /// # Errors
    /// [`Error::Internal`] when there is none.
    pub fn entry(&self, name: &str) -> Result<Entry> {
        self.entries
            .get(name)
            .copied()
            .ok_or_else(|| Error::internal(format!("no state entry {name}")))
    }

    /// The entry as a device view.
    ///
    /// # Errors
    /// [`Error::Internal`] when there is none.
    pub fn view(&self, name: &str, arena: ArenaId) -> Result<View> {
        let e = self.entry(name)?;
        Ok(View::dense(arena, e.offset, e.shape, e.dtype))
    }

    /// The entry as a tensor of `graph`.
    ///
    /// # Errors
    /// [`Error::Internal`] when there is none.
    pub fn tensor(&self, graph: &mut Graph, name: &str) -> Result<TensorId> {
        let e = self.entry(name)?;
        Ok(graph.at_state(name, e.offset, e.shape, e.dtype))
    }

    /// Names and entries in name order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries
            .iter()
            .map(|(name, entry)| (name.as_str(), entry))
    }
}
