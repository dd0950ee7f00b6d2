//! The golden vectors of `tests/golden` on the GPU kernels, run by the SIMT runtime under a
//! hostile schedule.
#![cfg(feature = "simt")]

mod support;

use support::golden::conforms;
use u2pl_engine::device::gpu::simt::{Options, Schedule, SimtDriver};
use u2pl_engine::device::gpu::{GpuDevice, MathMode};

fn device() -> GpuDevice {
    let options = Options {
        seed: 1,
        schedule: Schedule::Pct,
        threads: 2,
    };
    GpuDevice::new(
        Box::new(SimtDriver::new(options).expect("simt")),
        MathMode::Fp32,
    )
}

/// One test per fixture file: the reference, in both layouts.
macro_rules! families {
    ($($name:ident),+ $(,)?) => {$(
        #[test]
        fn $name() {
            conforms(&device(), stringify!($name));
        }
    )+};
}

families!(
    conv,
    norm,
    pool_resize,
    elementwise,
    pseudo_label,
    loss,
    optimizer,
    evaluation,
    partition,
    contrast,
    augment,
    mix,
);
