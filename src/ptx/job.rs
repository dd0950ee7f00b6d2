//! Jobs: a kernel, its arguments as files, and what must come out.
//!
//! `job.json` says which entry of which PTX file runs on what (paths are relative to its folder):
//!
//! ```json
//! {"ptx": "kernel.ptx", "entry": "mm", "grid": [2, 2, 1], "block": [128, 1, 1],
//!  "dynamic_shared_bytes": 98328,
//!  "args": [{"buffer": "a.bin"},
//!           {"buffer": "c.bin", "expect": "expected_c.bin", "dtype": "f32", "atol": 1e-3, "rtol": 1e-6},
//!           {"tensor_map": {"dtype": "bf16", "buffer": "a.bin", "dims": [192, 256],
//!                           "strides_bytes": [384], "box": [64, 128], "swizzle": 128}},
//!           {"u32": 5}, {"u64": 5}, {"f32": 0.5}, {"scratch": 256}]}
//! ```
//!
//! Arguments stand in the order of the entry's parameters. A buffer is the 64-bit address of a
//! file's bytes; the same file named twice is the same memory. A scratch is an address of that many
//! bytes that nobody wrote. A tensor map may also have `element_strides`, `fill` (`zero` or `nan`),
//! `expect` with `atol` and `rtol` as a buffer has, and `im2col` (`lower`, `upper`, `channels`,
//! `pixels`) in the place of `box`.

mod compare;
mod read;

use std::path::PathBuf;

pub use compare::{Dtype, Verdict};

use super::tensor::map::TensorMap;
use super::{Counters, Fault, Machine, Module, Options, Problem};

/// A job that has been read and checked.
#[derive(Debug)]
pub struct Job {
    ptx_path: PathBuf,
    ptx: String,
    module: Module,
    entry: String,
    grid: [u32; 3],
    block: [u32; 3],
    dynamic_shared_bytes: u32,
    buffers: Vec<Buffer>,
    args: Vec<Arg>,
}

/// A file's bytes in global memory, and what they must be afterwards.
#[derive(Clone, Debug)]
struct Buffer {
    name: String,
    bytes: Vec<u8>,
    expect: Option<Expect>,
}

#[derive(Clone, Debug)]
struct Expect {
    bytes: Vec<u8>,
    dtype: Dtype,
    atol: f64,
    rtol: f64,
}

#[derive(Clone, Debug)]
enum Arg {
    /// Index into the buffers.
    Buffer(usize),
    /// A map whose address is relative to a buffer, and that buffer.
    Map(Box<TensorMap>, usize),
    /// Bytes that nobody wrote.
    Scratch(u64),
    /// A number's little-endian bytes.
    Value(Vec<u8>),
}

impl Arg {
    fn bytes(&self) -> u32 {
        match self {
            Arg::Buffer(_) | Arg::Scratch(_) => 8,
            Arg::Map(..) => super::tensor::map::BYTES as u32,
            Arg::Value(bytes) => bytes.len() as u32,
        }
    }
}

/// Why a job gave no verdicts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The job is wrong: exit code 2.
    Bad(Problem),
    /// The kernel is wrong: exit code 1.
    Fault(Box<Fault>),
}

impl Failure {
    /// 2 for a bad job, 1 for a kernel's fault.
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::Bad(_) => 2,
            Failure::Fault(_) => 1,
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Bad(problem) => problem.fmt(f),
            Failure::Fault(fault) => fault.fmt(f),
        }
    }
}

impl std::error::Error for Failure {}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Failure::Bad(problem)
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        if fault.refused {
            Failure::Bad(Problem::new(fault.to_string()))
        } else {
            Failure::Fault(Box::new(fault))
        }
    }
}

/// What came of a job.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// One per `expect`.
    pub verdicts: Vec<Verdict>,
    /// The bytes that each verdict is of.
    pub results: Vec<Vec<u8>>,
    /// What the launch cost.
    pub counters: Counters,
}

impl Outcome {
    /// Whether every `expect` is met.
    pub fn is_met(&self) -> bool {
        self.verdicts.iter().all(Verdict::is_met)
    }
}

impl Job {
    /// The decoded PTX.
    pub fn module(&self) -> &Module {
        &self.module
    }

    /// The entry's name.
    pub fn entry(&self) -> &str {
        &self.entry
    }

    /// The PTX text.
    pub fn ptx(&self) -> &str {
        &self.ptx
    }

    /// The same job on another text: how tests plant mistakes.
    ///
    /// # Errors
    /// As for [`Job::load`], of the new text.
    pub fn with_ptx(&self, ptx: String) -> Result<Job, Problem> {
        let name = self.ptx_path.display().to_string();
        let job = Job {
            module: Module::parse_entry(&ptx, &name, &self.entry)?,
            ptx,
            ptx_path: self.ptx_path.clone(),
            entry: self.entry.clone(),
            buffers: self.buffers.clone(),
            args: self.args.clone(),
            ..*self
        };
        job.check_arguments()?;
        Ok(job)
    }

    /// Runs the job on a machine of its own.
    ///
    /// # Errors
    /// [`Failure::Fault`] where the kernel does wrong, [`Failure::Bad`] where the launch is refused.
    pub fn run(&self, options: Options) -> Result<Outcome, Failure> {
        let machine = Machine::new(options);
        let mut addresses = Vec::with_capacity(self.buffers.len());
        for buffer in &self.buffers {
            let address = machine.alloc(buffer.bytes.len() as u64, 256)?;
            machine.write(address, &buffer.bytes)?;
            addresses.push(address);
        }
        let entry = self
            .module
            .entry(&self.entry)
            .ok_or_else(|| self.no_entry())?;
        let mut params = vec![0; entry.param_bytes as usize];
        for (param, arg) in entry.params.iter().zip(&self.args) {
            let bytes = match arg {
                Arg::Buffer(buffer) => addresses[*buffer].to_le_bytes().to_vec(),
                Arg::Scratch(bytes) => machine.alloc(*bytes, 256)?.to_le_bytes().to_vec(),
                Arg::Value(bytes) => bytes.clone(),
                Arg::Map(map, buffer) => {
                    let address = addresses[*buffer] + map.address;
                    TensorMap { address, ..**map }.to_bytes().to_vec()
                }
            };
            params[param.offset as usize..][..bytes.len()].copy_from_slice(&bytes);
        }
        let (grid, block) = (self.grid, self.block);
        let shared = self.dynamic_shared_bytes;
        let counters = machine.launch(&self.module, &self.entry, grid, block, shared, &params)?;
        let (mut verdicts, mut results) = (Vec::new(), Vec::new());
        for (buffer, &address) in self.buffers.iter().zip(&addresses) {
            if let Some(expect) = &buffer.expect {
                let mut got = vec![0; buffer.bytes.len()];
                machine.read(address, &mut got)?;
                let Expect {
                    bytes,
                    dtype,
                    atol,
                    rtol,
                } = expect;
                verdicts.push(Verdict::of(&buffer.name, *dtype, &got, bytes, *atol, *rtol));
                results.push(got);
            }
        }
        Ok(Outcome {
            verdicts,
            results,
            counters,
        })
    }

    fn no_entry(&self) -> Problem {
        let known = self.module.kernels();
        let (path, entry) = (self.ptx_path.display(), &self.entry);
        Problem::new(format!(
            "{path}: no entry `{entry}`; it has {}",
            known.join(", ")
        ))
    }

    /// Do the arguments fit the entry's parameters?
    fn check_arguments(&self) -> Result<(), Problem> {
        let entry = self
            .module
            .entry(&self.entry)
            .ok_or_else(|| self.no_entry())?;
        let (have, want) = (self.args.len(), entry.params.len());
        if have != want {
            return Err(Problem::new(format!(
                "args: {have} where `{}` has {want} parameters",
                self.entry
            )));
        }
        for (i, (arg, param)) in self.args.iter().zip(&entry.params).enumerate() {
            if arg.bytes() != param.bytes {
                return Err(Problem::new(format!(
                    "args[{i}]: {} bytes where the parameter `{}` has {}",
                    arg.bytes(),
                    param.name,
                    param.bytes
                )));
            }
            if matches!(arg, Arg::Map(..)) && param.offset % 64 != 0 {
                return Err(Problem::new(format!(
                    "args[{i}]: a tensor map must be aligned to 64; the parameter `{}` is at {}",
                    param.name, param.offset
                )));
            }
        }
        Ok(())
    }
}
