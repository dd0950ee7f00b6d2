//! Devices by name.

use std::sync::Arc;

use super::Device;
use super::cpu::CpuDevice;
#[cfg(any(feature = "cuda", feature = "ptx", feature = "simt"))]
use super::gpu::GpuDevice;
use super::gpu::MathMode;
#[cfg(feature = "simt")]
use super::gpu::simt;
use crate::error::{Error, Result};

/// CPU threads at most: more would fill the process with stacks before the system refuses.
const MOST_THREADS: usize = 4096;

/// A kind of device, and which of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// The CPU.
    Cpu,
    /// A GPU by index.
    Cuda(usize),
    /// The compiled kernels, executed on the CPU as a GPU of this compute capability (80 or 90) would.
    Ptx(u32),
    /// The GPU's kernels on the CPU.
    Simt,
}

impl Named {
    /// `cpu`, `cuda`, `cuda:N`, `ptx` (as `ptx:sm_90a`), `ptx:sm_80` or `simt`.
    ///
    /// # Errors
    /// [`Error::Input`] for any other name.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "cpu" => Ok(Named::Cpu),
            "cuda" => Ok(Named::Cuda(0)),
            "ptx" | "ptx:sm_90a" => Ok(Named::Ptx(90)),
            "ptx:sm_80" => Ok(Named::Ptx(80)),
            "simt" => Ok(Named::Simt),
            other => match other.strip_prefix("cuda:") {
                Some(index) => index.parse().map(Named::Cuda).map_err(|_| {
                    let problem = format!("`{index}` is not a GPU's number");
                    wrong(name, &problem, "use cuda:0 for the first")
                }),
                None => Err(wrong(
                    name,
                    "no such device",
                    "use cpu, cuda, cuda:N, ptx, ptx:sm_80 or simt",
                )),
            },
        }
    }

    /// Opens the device for one precision; `threads` is for devices on the CPU, 0 is every core.
    ///
    /// # Errors
    /// [`Error::Input`] when this build lacks the device or the device the precision;
    /// [`Error::Device`] when it cannot be opened.
    pub fn open(self, threads: usize, precision: MathMode) -> Result<Arc<dyn Device>> {
        if threads > MOST_THREADS {
            return Err(Error::input(
                "threads",
                format!("{threads} are more than any machine has cores"),
                format!("use at most {MOST_THREADS}, or 0 for every core"),
            ));
        }
        match self {
            Named::Cpu if precision == MathMode::Tf32 => Err(Error::input(
                "--precision tf32",
                "tf32 is an arithmetic of GPUs, the cpu device has fp32 and bf16",
                "use --precision fp32 or bf16, or --device cuda",
            )),
            Named::Cpu => Ok(Arc::new(CpuDevice::with_precision(threads, precision)?)),
            Named::Cuda(index) => cuda(index, precision),
            Named::Ptx(capability) => ptx(capability, threads, precision),
            Named::Simt => simt(threads, precision),
        }
    }
}

fn wrong(name: &str, problem: &str, mend: &str) -> Error {
    Error::input(format!("--device {name}"), problem, mend)
}

#[cfg(feature = "cuda")]
fn cuda(index: usize, precision: MathMode) -> Result<Arc<dyn Device>> {
    Ok(Arc::new(GpuDevice::cuda(index, precision)?))
}

#[cfg(not(feature = "cuda"))]
fn cuda(index: usize, _: MathMode) -> Result<Arc<dyn Device>> {
    Err(wrong(
        &format!("cuda:{index}"),
        "this build has no cuda device",
        "build with the default features, or use --device cpu",
    ))
}

#[cfg(feature = "ptx")]
fn ptx(capability: u32, threads: usize, precision: MathMode) -> Result<Arc<dyn Device>> {
    let options = ptx_options(capability, threads);
    Ok(Arc::new(GpuDevice::ptx(options, precision)?))
}

/// How the machine runs as a GPU of compute capability 80 or 90, when nothing else is said.
#[cfg(feature = "ptx")]
pub(crate) fn ptx_options(capability: u32, threads: usize) -> crate::ptx::Options {
    use crate::ptx::{Arch, Options};
    Options {
        arch: match capability {
            80 => Arch::Sm80,
            _ => Arch::Sm90a,
        },
        threads,
        ..Options::default()
    }
}

#[cfg(not(feature = "ptx"))]
fn ptx(_: u32, _: usize, _: MathMode) -> Result<Arc<dyn Device>> {
    Err(wrong(
        "ptx",
        "this build has no ptx device",
        "build with `cargo build --release --features ptx`, or use --device cpu",
    ))
}

#[cfg(feature = "simt")]
fn simt(threads: usize, precision: MathMode) -> Result<Arc<dyn Device>> {
    let options = simt::Options {
        threads,
        ..simt::Options::default()
    };
    Ok(Arc::new(GpuDevice::simt(options, precision)?))
}

#[cfg(not(feature = "simt"))]
fn simt(_: usize, _: MathMode) -> Result<Arc<dyn Device>> {
    Err(wrong(
        "simt",
        "this build has no simt device",
        "build with `cargo build --release --features simt`, or use --device cpu",
    ))
}
