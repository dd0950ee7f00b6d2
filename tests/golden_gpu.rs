//! The golden vectors of `tests/golden` on the GPU kernels, run by the SIMT runtime under a
//! hostile schedule.
#![cfg(feature = "simt")]

mod support;

use support::golden::{conforms, test_families};
use u2pl_engine::device::gpu::simt::{Options, Schedule, SimtDriver};
use u2pl_engine::device::gpu::{GpuDevice, MathMode};

fn device() -> GpuDevice {
    let options = Options {
        seed: 1,
        schedule: Schedule::Pct,
        threads: 2,
        ..Options::default()
    };
    GpuDevice::new(
        Box::new(SimtDriver::new(options).expect("simt")),
        MathMode::Fp32,
    )
}

/// The reference, in both layouts.
fn agrees(family: &str) {
    conforms(&device(), family);
}

test_families!(agrees);
