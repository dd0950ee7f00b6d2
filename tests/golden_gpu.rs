//! The golden vectors of `tests/golden` on the GPU kernels under a hostile schedule.
#![cfg(any(feature = "ptx", feature = "simt"))]

#[path = "support/proof.rs"]
mod proof;
mod support;

use proof::Schedule;
use support::golden::{conforms, test_families};
use u2pl_engine::device::gpu::{GpuDevice, MathMode};

fn device() -> GpuDevice {
    let driver = proof::driver(Schedule::Pct, 1, 2);
    GpuDevice::new(Box::new(driver), MathMode::Fp32)
}

/// The reference, in both layouts.
fn agrees(family: &str) {
    conforms(&device(), family);
}

test_families!(agrees);
