//! A decoded program.
use super::{Arch, Problem};

/// A parameter of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// Its name in the PTX.
    pub name: String,
    /// Size in bytes.
    pub bytes: u32,
    /// Alignment in bytes.
    pub align: u32,
    /// Where it lies in the parameter block.
    pub offset: u32,
}

/// A kernel.
#[derive(Debug)]
pub struct Entry {
    /// Its (mangled) name.
    pub name: String,
    /// Its parameters.
    pub params: Vec<Param>,
    /// Bytes of the parameter block.
    pub param_bytes: u32,
    /// Bytes of static shared memory.
    pub static_shared_bytes: u32,
    /// Most threads of a block (`.maxntid`) or exactly so many (`.reqntid`).
    pub max_threads: Option<u32>,
}

/// A parsed PTX file.
#[derive(Debug)]
pub struct Module {
    target: Arch,
    entries: Vec<Entry>,
}

impl Module {
    /// Parses and decodes a PTX text; `name` names it in messages.
    pub fn parse(_text: &str, _name: &str) -> Result<Module, Problem> {
        Ok(Module {
            target: Arch::Sm80,
            entries: Vec::new(),
        })
    }
    /// What it was compiled for.
    pub fn target(&self) -> Arch {
        self.target
    }
    /// Its kernels.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }
    /// The kernel of this name.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|e| e.name == name)
    }
}
