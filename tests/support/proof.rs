//! The device that proves the kernels without a GPU: the PTX machine where the build has it, else
//! the SIMT runtime.
#![allow(dead_code)] // each test takes what it needs

use u2pl_engine::device::gpu::{GpuDevice, MathMode};

#[cfg(feature = "ptx")]
pub use u2pl_engine::device::gpu::ptx::{Launches, PtxDriver as Driver};
#[cfg(not(feature = "ptx"))]
pub use u2pl_engine::device::gpu::simt::{Launches, Schedule, SimtDriver as Driver};
#[cfg(feature = "ptx")]
pub use u2pl_engine::ptx::Schedule;

/// Its name on the command line.
pub const NAME: &str = if cfg!(feature = "ptx") { "ptx" } else { "simt" };

/// A driver that runs warps in this order.
pub fn driver(schedule: Schedule, seed: u64, threads: usize) -> Driver {
    #[cfg(feature = "ptx")]
    let options = u2pl_engine::ptx::Options {
        schedule,
        seed,
        threads,
        ..u2pl_engine::ptx::Options::default()
    };
    #[cfg(not(feature = "ptx"))]
    let options = u2pl_engine::device::gpu::simt::Options {
        seed,
        schedule,
        threads,
    };
    Driver::new(options).expect(NAME)
}

/// The device as the command line opens it.
pub fn device(math: MathMode) -> GpuDevice {
    GpuDevice::new(Box::new(driver(Schedule::Sequential, 0, 0)), math)
}
