//! Global memory and the options of a run, behind one handle.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::exec::Launch;
use super::memory::blocks::{BlockTimes, LAUNCHES};
use super::memory::global::{Allocation, Allocations};
use super::program::globals::GlobalVariable;
use super::{Counters, Fault, Module, Options, Problem, launch};

/// Most blocks of a launch that runs all of them.
const MOST_BLOCKS: u32 = 1 << 27;

/// A chip with its memory.
pub struct Machine {
    options: Options,
    memory: RwLock<Allocations>,
    launches: AtomicU64,
    /// The variables of each module that was launched.
    variables: Mutex<HashMap<u64, Vec<Arc<Allocation>>>>,
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Machine {
    /// A machine with empty memory.
    pub fn new(options: Options) -> Machine {
        Machine {
            options,
            memory: RwLock::new(Allocations::default()),
            launches: AtomicU64::new(0),
            variables: Mutex::new(HashMap::new()),
        }
    }

    /// How it runs.
    pub fn options(&self) -> Options {
        self.options
    }

    /// Changes how it runs from the next launch on.
    pub fn set_options(&mut self, options: Options) {
        self.options = options;
    }

    /// `bytes` of global memory at an address that is a multiple of `align` (a power of two; at
    /// least 16), with red zones on both sides. Addresses are not used again.
    pub fn alloc(&self, bytes: u64, align: u64) -> Result<u64, Problem> {
        self.memory
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .alloc(bytes, align)
    }

    /// As [`Machine::alloc`], of zeros that count as written. Takes memory only where something else
    /// is written later.
    pub fn alloc_zeroed(&self, bytes: u64, align: u64) -> Result<u64, Problem> {
        self.memory
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .alloc_zeroed(bytes, align)
    }

    /// Gives an allocation back.
    pub fn free(&self, address: u64) -> Result<(), Problem> {
        self.memory
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .free(address)
    }

    /// Writes bytes, which count as initialised from then on.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), Problem> {
        self.memory
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .write(address, bytes)
    }

    /// Reads bytes, written or not.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), Problem> {
        self.memory
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .read(address, bytes)
    }

    /// Writes `bytes` times the same byte.
    pub fn fill(&self, address: u64, bytes: u64, byte: u8) -> Result<(), Problem> {
        self.memory
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .fill(address, bytes, byte)
    }

    /// Runs every block of a grid. `params` is the entry's parameter block
    /// ([`super::Param::offset`]).
    pub fn launch(
        &self,
        module: &Module,
        entry: &str,
        grid: [u32; 3],
        block: [u32; 3],
        dynamic_shared_bytes: u32,
        params: &[u8],
    ) -> Result<Counters, Fault> {
        self.run(
            module,
            entry,
            grid,
            block,
            dynamic_shared_bytes,
            params,
            None,
        )
    }

    /// Runs some blocks of a grid, to weigh it; counters are of these blocks.
    #[allow(clippy::too_many_arguments)]
    pub fn launch_blocks(
        &self,
        module: &Module,
        entry: &str,
        grid: [u32; 3],
        block: [u32; 3],
        dynamic_shared_bytes: u32,
        params: &[u8],
        blocks: &[[u32; 3]],
    ) -> Result<Counters, Fault> {
        self.run(
            module,
            entry,
            grid,
            block,
            dynamic_shared_bytes,
            params,
            Some(blocks),
        )
    }

    #[allow(clippy::too_many_arguments)]
    fn run(
        &self,
        module: &Module,
        name: &str,
        grid: [u32; 3],
        block: [u32; 3],
        dynamic_shared_bytes: u32,
        params: &[u8],
        blocks: Option<&[[u32; 3]]>,
    ) -> Result<Counters, Fault> {
        let refused = |what: String| Fault {
            kernel: name.to_string(),
            block: None,
            thread: None,
            at: String::new(),
            what,
            refused: true,
        };
        let entry = module
            .entry(name)
            .ok_or_else(|| refused(format!("{} has no such entry", module.name())))?;
        let words = launch::refuse(
            module,
            entry,
            &self.options,
            grid,
            block,
            dynamic_shared_bytes,
            params.len(),
        );
        if let Some(words) = words {
            return Err(refused(words));
        }
        let numbers: Vec<u32> = match blocks {
            None => match grid.iter().product() {
                0..=MOST_BLOCKS => (0..grid.iter().product()).collect(),
                blocks => {
                    let words = format!("a grid of {blocks} blocks: at most {MOST_BLOCKS} are run");
                    return Err(refused(words));
                }
            },
            Some(list) => {
                let number = |at: &[u32; 3]| {
                    let inside = at.iter().zip(grid).all(|(a, n)| *a < n);
                    inside.then(|| (at[2] * grid[1] + at[1]) * grid[0] + at[0])
                };
                let found: Option<Vec<u32>> = list.iter().map(number).collect();
                found.ok_or_else(|| refused("a block outside the grid".into()))?
            }
        };
        // A launch sees memory as it is now: allocations are shared, their list is not.
        let mut memory = self
            .memory
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        memory.add(&self.variables(module));
        let mut number = self.launches.fetch_add(1, Relaxed) + 1;
        if number.is_multiple_of(LAUNCHES) {
            memory.forget();
            number = self.launches.fetch_add(1, Relaxed) + 1;
        }
        let times = BlockTimes::new(number);
        let launch = Launch {
            module,
            entry,
            options: self.options,
            memory: &memory,
            times: &times,
            grid,
            block,
            dynamic_shared_bytes,
            params,
        };
        launch::run(&launch, numbers)
    }

    /// A module's own variables, which stay from launch to launch.
    fn variables(&self, module: &Module) -> Vec<Arc<Allocation>> {
        if module.globals.variables.is_empty() {
            return Vec::new();
        }
        let mut known = self
            .variables
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let own = known.entry(module.id).or_insert_with(|| {
            let made = |v: &GlobalVariable| Allocations::variable(v.address, &v.bytes);
            module.globals.variables.iter().map(made).collect()
        });
        own.clone()
    }
}
