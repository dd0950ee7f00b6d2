//! Global memory and the options of a run, behind one handle.

use super::{Counters, Fault, Module, Options, Problem};

/// A chip with its memory.
#[derive(Debug)]
pub struct Machine {
    options: Options,
}

impl Machine {
    /// A machine with empty memory.
    pub fn new(options: Options) -> Machine {
        Machine { options }
    }

    /// How it runs.
    pub fn options(&self) -> Options {
        self.options
    }

    /// Changes how it runs from the next launch on.
    pub fn set_options(&mut self, options: Options) {
        self.options = options;
    }

    /// `bytes` of global memory at an address that is a multiple of `align`, with red zones on both
    /// sides. Addresses are not used again.
    pub fn alloc(&self, _bytes: u64, _align: u64) -> Result<u64, Problem> {
        Err(Problem::new("not yet"))
    }

    /// Gives an allocation back.
    pub fn free(&self, _address: u64) -> Result<(), Problem> {
        Err(Problem::new("not yet"))
    }

    /// Writes bytes, which count as initialised from then on.
    pub fn write(&self, _address: u64, _bytes: &[u8]) -> Result<(), Problem> {
        Err(Problem::new("not yet"))
    }

    /// Reads bytes, written or not.
    pub fn read(&self, _address: u64, _bytes: &mut [u8]) -> Result<(), Problem> {
        Err(Problem::new("not yet"))
    }

    /// Writes `bytes` times the same byte.
    pub fn fill(&self, _address: u64, _bytes: u64, _byte: u8) -> Result<(), Problem> {
        Err(Problem::new("not yet"))
    }

    /// Runs every block of a grid. `params` is the entry's parameter block
    /// ([`super::Param::offset`]).
    pub fn launch(
        &self,
        _module: &Module,
        _entry: &str,
        _grid: [u32; 3],
        _block: [u32; 3],
        _dynamic_shared_bytes: u32,
        _params: &[u8],
    ) -> Result<Counters, Fault> {
        Ok(Counters::default())
    }

    /// Runs some blocks of a grid, to weigh it; counters are of these blocks.
    #[allow(clippy::too_many_arguments)]
    pub fn launch_blocks(
        &self,
        _module: &Module,
        _entry: &str,
        _grid: [u32; 3],
        _block: [u32; 3],
        _dynamic_shared_bytes: u32,
        _params: &[u8],
        _blocks: &[[u32; 3]],
    ) -> Result<Counters, Fault> {
        Ok(Counters::default())
    }
}
