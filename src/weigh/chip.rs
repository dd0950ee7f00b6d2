//! Chips: what each can do in a second, and where the figures are from.
//!
//! Rates of a multiprocessor are a clock's; clocks are the ones that the makers' peak figures are
//! computed at (a chip under load may run slower). NVIDIA A100 and H100 Tensor Core GPU Architecture
//! whitepapers ("A100", "H100" below), H200 datasheet, CUDA C++ Programming Guide 13.0, "Arithmetic
//! Instructions" ("guide").

use crate::error::{Error, Result};
use crate::ptx::Arch;

/// A chip's rates.
#[derive(Clone, Debug, PartialEq)]
pub struct Chip {
    /// As `--chip` takes it.
    pub name: &'static str,
    /// As a reader knows it.
    pub title: &'static str,
    /// What it executes.
    pub arch: Arch,
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Clocks a second.
    pub clock: f64,
    /// Warp instructions that a multiprocessor issues a clock: one each of four schedulers (A100, H100).
    pub issue: f64,
    /// 32-bit integer additions, comparisons, logic, lanes a clock (guide: 64 on 8.0 and 9.0).
    pub integer: f64,
    /// 32-bit float additions and products, integer products (guide: 64 on 8.0, 128 on 9.0; integer
    /// products 64 on both, of which the float pipe makes them here).
    pub float: f64,
    /// 64-bit floats (guide: 32 on 8.0, 64 on 9.0).
    pub double: f64,
    /// Reciprocals, exponentials, conversions between floats and integers, bit counts (guide: 16).
    pub special: f64,
    /// Products of 16-bit floats by `mma.sync`, a clock.
    pub mma_half: f64,
    /// The same by `wgmma`; 0 where there is none.
    pub wgmma_half: f64,
    /// Wavefronts of shared memory a clock: 32 banks of 4 bytes (guide).
    pub wavefronts: f64,
    /// Bytes that a multiprocessor takes from the L2 cache a clock (A100: 64).
    pub port: f64,
    /// Bytes that the L2 cache gives a second.
    pub l2: f64,
    /// Bytes that memory moves a second.
    pub dram: f64,
}

/// H100 SXM5 at 1830 MHz: 132 multiprocessors give 989.4 TFLOP/s of bf16, 2048 products a clock each (H100).
/// `mma.sync` reaches 62 to 64 % of that (Luo et al., arXiv 2501.12084, table of mma and wgmma): 1300 a
/// clock. L2: no figure of the maker's; that of an A100, 5120 bytes a clock. Memory 3.35 TB/s (H100),
/// nine tenths of it counted, as an H200 was seen to copy.
const H100: Chip = Chip {
    name: "h100",
    title: "H100 SXM5",
    arch: Arch::Sm90a,
    multiprocessors: 132,
    clock: 1.83e9,
    issue: 4.0,
    integer: 64.0,
    float: 128.0,
    double: 64.0,
    special: 16.0,
    mma_half: 1300.0,
    wgmma_half: 2048.0,
    wavefronts: 1.0,
    port: 64.0,
    l2: 5120.0 * 1.83e9,
    dram: 0.9 * 3.35e12,
};

const CHIPS: &[Chip] = &[
    // The H100's chip with 4.8 TB/s (H200 datasheet), of which one was seen to copy 4.3
    // (`bench::Ceilings::h200`).
    Chip {
        name: "h200",
        title: "H200",
        dram: 4.3e12,
        ..H100
    },
    H100,
    // 312 TFLOP/s of bf16 at 1410 MHz, 1024 products a clock of each of 108 multiprocessors; L2 5120
    // bytes a clock; 2.039 TB/s with 80 GB (A100), nine tenths of it counted.
    Chip {
        name: "a100",
        title: "A100 SXM4, 80 GB",
        arch: Arch::Sm80,
        multiprocessors: 108,
        clock: 1.41e9,
        issue: 4.0,
        integer: 64.0,
        float: 64.0,
        double: 32.0,
        special: 16.0,
        mma_half: 1024.0,
        wgmma_half: 0.0,
        wavefronts: 1.0,
        port: 64.0,
        l2: 5120.0 * 1.41e9,
        dram: 0.9 * 2.039e12,
    },
];

impl Chip {
    /// The chip of this name.
    ///
    /// # Errors
    /// [`Error::Input`] for one that is not in the table.
    pub fn named(name: &str) -> Result<&'static Chip> {
        CHIPS.iter().find(|c| c.name == name).ok_or_else(|| {
            let names: Vec<&str> = CHIPS.iter().map(|c| c.name).collect();
            Error::input(
                format!("--chip {name}"),
                "no such chip in the table",
                format!("use one of {}", names.join(", ")),
            )
        })
    }

    /// The first chip of the table that executes `arch`.
    pub fn of_arch(arch: Arch) -> &'static Chip {
        CHIPS.iter().find(|c| c.arch == arch).unwrap_or(&CHIPS[0])
    }
}
