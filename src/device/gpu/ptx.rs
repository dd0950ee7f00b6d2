//! The PTX machine as a [`Driver`]: what nvcc compiled, executed warp by warp on the CPU
//! ([`crate::ptx`]). For testing and weighing kernels where there is no GPU.

pub mod weigh;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};

pub use super::driver::Launches;
use super::driver::{Driver, Limits, PLANNED_MULTIPROCESSORS, Ptr, TEST_MULTIPROCESSORS};
use super::kernels::{ALL, KernelInfo};
use crate::device::{Memory, check};
use crate::error::{Error, Result};
use crate::ptx::{Arch, Machine, Module, Options};

mod table {
    include!(concat!(env!("OUT_DIR"), "/ptx.rs"));
}

/// Alignment of allocations, bytes; as CUDA's.
const ALIGN: u64 = 256;

/// Version of the nvcc that made the kernels, `13.0.88`; nothing in a build without them.
pub fn toolkit() -> &'static str {
    table::TOOLKIT
}

/// Modules by unit.
type Modules = HashMap<&'static str, Arc<Module>>;

/// PTX in the place of a unit's own.
#[derive(Clone, Debug)]
pub struct Edited {
    /// The unit: `conv` of `kernels/conv.cu`.
    pub unit: String,
    /// What messages call the text: its file.
    pub name: String,
    /// The text.
    pub text: String,
}

/// The PTX that nvcc made of a unit for one architecture, where this build has it.
pub fn text(unit: &str, arch: Arch) -> Option<&'static str> {
    let mut units = table::UNITS.iter();
    let found = units.find(|(name, of, _)| *name == unit && *of == arch.name());
    found.map(|(_, _, text)| *text)
}

/// The modules of one architecture, parsed once in a process.
fn modules(arch: Arch) -> Result<Arc<Modules>> {
    static PARSED: OnceLock<Mutex<HashMap<Arch, Arc<Modules>>>> = OnceLock::new();
    let parsed = PARSED.get_or_init(Mutex::default).lock();
    let mut parsed = parsed.map_err(|_| Error::internal("poisoned table of PTX modules"))?;
    if let Some(modules) = parsed.get(&arch) {
        return Ok(modules.clone());
    }
    let mut modules = Modules::new();
    for (unit, _, text) in table::UNITS.iter().filter(|(_, of, _)| *of == arch.name()) {
        let module = Module::parse(text, &format!("{unit}.{arch}.ptx"));
        let module = module.map_err(|p| problem(p.to_string()))?;
        modules.insert(unit, Arc::new(module));
    }
    if modules.is_empty() {
        return Err(Error::input(
            format!("--device ptx:{arch}"),
            "this build has no kernels for it",
            "build with nvcc (scripts/install-nvcc.sh) and with U2PL_CUDA_ARCHS naming it, or \
             unset for sm_80 and sm_90a",
        ));
    }
    let modules = Arc::new(modules);
    parsed.insert(arch, modules.clone());
    Ok(modules)
}

fn problem(text: String) -> Error {
    Error::Device {
        device: "ptx".into(),
        problem: text,
    }
}

/// The PTX machine.
pub struct PtxDriver {
    machine: Machine,
    modules: Arc<Modules>,
    /// A digest of what is not the build's own PTX, where something is not.
    edited: Option<String>,
    launches: Arc<Launches>,
    /// Where launches are weighed, not computed.
    log: Option<Arc<weigh::Log>>,
    /// Multiprocessors that it has, and that work is cut up for.
    multiprocessors: [u32; 2],
}

impl PtxDriver {
    /// Checks that every kernel of the table is there with the arguments that Rust expects.
    ///
    /// # Errors
    /// [`Error::Input`] where this build has no kernels for the architecture; [`Error::Device`]
    /// naming what the machine cannot read; [`Error::Internal`] naming a kernel that differs.
    pub fn new(options: Options) -> Result<Self> {
        Self::of(options, modules(options.arch)?, None)
    }

    /// The machine with other PTX in the place of some units': a kernel under the hand, or a planted
    /// bug. Such a device has an identity, as a GPU has, so it is checked before it is used.
    ///
    /// # Errors
    /// As [`PtxDriver::new`]; [`Error::Input`] for a unit that there is none of, for PTX that cannot
    /// be read, and for kernels that are missing or take other arguments.
    pub fn edited(options: Options, units: &[Edited]) -> Result<Self> {
        let mut modules = Modules::clone(&*modules(options.arch)?);
        for edit in units {
            let known = modules.keys().find(|unit| **unit == edit.unit).copied();
            let unit = known.ok_or_else(|| {
                let mut names: Vec<_> = modules.keys().copied().collect();
                names.sort_unstable();
                let problem = format!("no unit is called `{}`", edit.unit);
                Error::input(
                    &edit.name,
                    problem,
                    format!("name one of {}", names.join(", ")),
                )
            })?;
            let module = Module::parse(&edit.text, &edit.name).map_err(|p| {
                Error::input(
                    &edit.name,
                    p.to_string(),
                    "give PTX that the machine can read",
                )
            })?;
            for info in ALL.iter().filter(|info| info.unit == unit) {
                let bytes = module.entry(info.name).map(|e| e.param_bytes as usize);
                if bytes != Some(info.args_bytes) {
                    return Err(Error::input(
                        &edit.name,
                        format!("kernel {} is missing or takes other arguments", info.name),
                        "edit the PTX of this very build",
                    ));
                }
            }
            modules.insert(unit, Arc::new(module));
        }
        let parts = units
            .iter()
            .flat_map(|e| [e.unit.as_bytes(), e.text.as_bytes()]);
        Self::of(options, Arc::new(modules), Some(check::digest(parts)))
    }

    fn of(options: Options, modules: Arc<Modules>, edited: Option<String>) -> Result<Self> {
        for info in ALL {
            let entry = modules.get(info.unit).and_then(|m| m.entry(info.name));
            let entry =
                entry.ok_or_else(|| Error::internal(format!("kernel {} is missing", info.name)))?;
            if entry.param_bytes as usize != info.args_bytes {
                return Err(Error::internal(format!(
                    "kernel {}: other arguments",
                    info.name
                )));
            }
        }
        Ok(Self {
            machine: Machine::new(options),
            modules,
            edited,
            launches: Arc::new(Launches::none()),
            log: None,
            multiprocessors: [4, TEST_MULTIPROCESSORS],
        })
    }

    /// A machine of this many multiprocessors that weighs its launches, work cut up as for a GPU: see
    /// [`weigh`]. Memory is zeros that take none until they are written. `units` as in
    /// [`PtxDriver::edited`].
    ///
    /// # Errors
    /// As [`PtxDriver::edited`].
    pub fn weighing(
        options: Options,
        multiprocessors: u32,
        units: &[Edited],
    ) -> Result<(Self, Arc<weigh::Log>)> {
        let log = Arc::new(weigh::Log::default());
        let driver = Self {
            log: Some(log.clone()),
            multiprocessors: [multiprocessors, PLANNED_MULTIPROCESSORS],
            ..Self::edited(options, units)?
        };
        Ok((driver, log))
    }

    /// The count of launches, which goes on when the driver is handed away.
    pub fn launches(&self) -> Arc<Launches> {
        self.launches.clone()
    }
}

impl Driver for PtxDriver {
    fn name(&self) -> String {
        "ptx".into()
    }

    fn memory(&self) -> Memory {
        Memory::Machine
    }

    fn identity(&self) -> Option<(String, String)> {
        // The build's own PTX is what its tests run: nothing that one machine has and another lacks.
        let edited = self.edited.as_ref()?;
        let arch = self.machine.options().arch;
        Some((format!("ptx:{arch}"), format!("edited PTX {edited}")))
    }

    fn check_borrowed(&self, address: Ptr) -> Result<()> {
        Err(problem(format!(
            "memory at {:#x} is not the machine's own, and it can reach no other",
            address.0
        )))
    }

    fn limits(&self) -> Limits {
        Limits {
            multiprocessors: self.multiprocessors[0],
            planned_multiprocessors: self.multiprocessors[1],
            shared_bytes: self.machine.options().arch.shared_bytes(),
        }
    }

    fn alloc(&self, bytes: usize) -> Result<Ptr> {
        let bytes = bytes as u64;
        let at = self.machine.alloc_zeroed(bytes, ALIGN);
        Ok(Ptr(at.map_err(|p| problem(p.to_string()))?))
    }

    fn free(&self, ptr: Ptr) {
        // It came from `alloc` and is freed once: there is nothing to report.
        let _ = self.machine.free(ptr.0);
    }

    fn upload(&self, to: Ptr, bytes: &[u8]) -> Result<()> {
        let written = self.machine.write(to.0, bytes);
        written.map_err(|p| problem(p.to_string()))
    }

    fn download(&self, from: Ptr, bytes: &mut [u8]) -> Result<()> {
        let read = self.machine.read(from.0, bytes);
        read.map_err(|p| problem(p.to_string()))
    }

    fn launch(
        &self,
        kernel: &KernelInfo,
        grid: [u32; 3],
        shared_bytes: u32,
        args: &[u8],
    ) -> Result<()> {
        let module = self.modules.get(kernel.unit);
        let module = module.ok_or_else(|| Error::internal(format!("no unit {}", kernel.unit)))?;
        let block = [kernel.threads, 1, 1];
        let machine = &self.machine;
        if let Some(log) = &self.log {
            let mut run = |first: u64, count: u64| {
                let blocks = weigh::blocks(grid, first, count);
                let ran = machine.launch_blocks(
                    module,
                    kernel.name,
                    grid,
                    block,
                    shared_bytes,
                    args,
                    &blocks,
                );
                ran.map_err(|fault| problem(fault.to_string()))
            };
            let entry = module.entry(kernel.name);
            let entry = entry.ok_or_else(|| Error::internal(format!("no {}", kernel.name)))?;
            return log.weigh(kernel, entry.listing(), grid, shared_bytes, args, &mut run);
        }
        let ran = machine.launch(module, kernel.name, grid, block, shared_bytes, args);
        ran.map_err(|fault| problem(fault.to_string()))?;
        self.launches.count(kernel.name);
        Ok(())
    }
}
