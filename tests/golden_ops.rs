//! Every operation of the CPU device against independent PyTorch references (`tests/golden`).

mod support;

use support::golden::{conforms, same_bits};
use u2pl_engine::device::cpu::CpuDevice;

/// One test per fixture file: the reference, in both layouts, and the same bits on any number of
/// threads.
macro_rules! families {
    ($($name:ident),+ $(,)?) => {$(
        #[test]
        fn $name() {
            let one = CpuDevice::new(1).expect("cpu");
            let three = CpuDevice::new(3).expect("cpu");
            let family = stringify!($name);
            conforms(&three, family);
            same_bits(&one, &three, family);
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
