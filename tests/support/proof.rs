//! The device that proves the kernels without a GPU: the PTX machine where the build has it, else
//! the SIMT runtime.
#![allow(dead_code, unused_imports)] // each test takes what it needs

use u2pl_engine::device::gpu::{GpuDevice, MathMode};

#[cfg(feature = "ptx")]
pub use u2pl_engine::device::gpu::ptx::{Launches, PtxDriver as Driver};
#[cfg(not(feature = "ptx"))]
use u2pl_engine::device::gpu::simt::Options;
#[cfg(not(feature = "ptx"))]
pub use u2pl_engine::device::gpu::simt::{Launches, Schedule, SimtDriver as Driver};
#[cfg(feature = "ptx")]
use u2pl_engine::ptx::Options;
#[cfg(feature = "ptx")]
pub use u2pl_engine::ptx::Schedule;

/// Its name on the command line.
pub const NAME: &str = if cfg!(feature = "ptx") { "ptx" } else { "simt" };

/// An H200 that runs warps in this order.
pub fn driver(schedule: Schedule, seed: u64, threads: usize) -> Driver {
    Driver::new(options(schedule, seed, threads)).expect(NAME)
}

/// An A100 that runs warps in this order.
pub fn a100(schedule: Schedule, seed: u64, threads: usize) -> Driver {
    let options = Options {
        #[cfg(feature = "ptx")]
        arch: u2pl_engine::ptx::Arch::Sm80,
        #[cfg(not(feature = "ptx"))]
        shared_bytes: 163 << 10,
        ..options(schedule, seed, threads)
    };
    Driver::new(options).expect(NAME)
}

fn options(schedule: Schedule, seed: u64, threads: usize) -> Options {
    Options {
        schedule,
        seed,
        threads,
        ..Options::default()
    }
}

/// The device as the command line opens it.
pub fn device(math: MathMode) -> GpuDevice {
    GpuDevice::new(Box::new(driver(Schedule::Sequential, 0, 0)), math)
}
