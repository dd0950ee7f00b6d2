//! Every operation of the CPU device against independent PyTorch references (`tests/golden`).

mod support;

use support::golden::{conforms, same_bits, test_families};
use u2pl_engine::device::cpu::CpuDevice;

/// The reference, in both layouts, and the same bits on any number of threads.
fn agrees(family: &str) {
    let one = CpuDevice::new(1).expect("cpu");
    let three = CpuDevice::new(3).expect("cpu");
    conforms(&three, family);
    same_bits(&one, &three, family);
}

test_families!(agrees);
