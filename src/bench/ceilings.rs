//! What the machine can do at most, measured in the same run as the cases.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::measure::{Timer, plain_case};
use crate::device::cpu::peak::{Arithmetic, peak};
use crate::device::op::Window;
use crate::device::{Cost, DType, Device, Op};
use crate::{Error, Result};

/// Bytes read and written a second, multiply-adds a second, and where the numbers are from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ceilings {
    /// Bytes a second, read and written, of a large copy or average.
    pub copy: f64,
    /// FLOP a second of a matrix product.
    pub matmul: f64,
    /// What gave `copy`.
    pub copy_from: String,
    /// What gave `matmul`.
    pub matmul_from: String,
}

impl Ceilings {
    /// One H200: a copy of 4.3 TB/s, a bf16 matrix product of 790 TFLOP/s (`docs/kernels.md`).
    pub fn h200() -> Self {
        let from = "measured once on one H200".to_string();
        Self {
            copy: 4.3e12,
            matmul: 7.9e14,
            copy_from: from.clone(),
            matmul_from: from + ", bf16",
        }
    }

    /// Milliseconds that work of `cost` takes at least.
    pub fn floor_ms(&self, cost: Cost) -> f64 {
        1e3 * (cost.bytes / self.copy).max(cost.flops / self.matmul)
    }

    /// Whether arithmetic, not memory, sets the floor.
    pub fn is_compute_bound(&self, cost: Cost) -> bool {
        cost.flops / self.matmul > cost.bytes / self.copy
    }

    /// Overrides: `copy=GB/s`, `matmul=TFLOP/s`, or both with a comma between.
    ///
    /// # Errors
    /// [`Error::Input`] for anything else.
    pub fn overridden(mut self, text: &str) -> Result<Self> {
        let wrong = |problem: &str| {
            Error::input(
                format!("--ceilings {text}"),
                problem,
                "use copy=GB/s,matmul=TFLOP/s, say copy=4300,matmul=790",
            )
        };
        for part in text.split(',') {
            let (key, value) = part.split_once('=').ok_or_else(|| wrong("no `=`"))?;
            let value: f64 = value.trim().parse().map_err(|_| wrong("not a number"))?;
            if !value.is_finite() || value <= 0.0 {
                return Err(wrong("a ceiling is above 0"));
            }
            match key.trim() {
                "copy" => (self.copy, self.copy_from) = (1e9 * value, "--ceilings".into()),
                "matmul" => (self.matmul, self.matmul_from) = (1e12 * value, "--ceilings".into()),
                other => return Err(wrong(&format!("no ceiling `{other}`"))),
            }
        }
        Ok(self)
    }

    /// Measures both on the timer's device, with `threads` threads where it is the CPU. `None` on
    /// the ptx and simt devices, whose speed says nothing.
    ///
    /// # Errors
    /// The device's.
    pub fn measured(device: &Arc<dyn Device>, threads: usize) -> Result<Option<Self>> {
        let name = device.name();
        if name == "ptx" || name == "simt" {
            return Ok(None);
        }
        let mut timer = Timer::new(device.clone(), 0.3);
        let on_cpu = name == "cpu";
        let (copy, copy_from) = bandwidth(&mut timer, if on_cpu { 1 << 17 } else { 1 << 20 })?;
        let (matmul, matmul_from) = match on_cpu {
            true => cpu_peak(device.map_dtype(), threads),
            false => product(&mut timer, device.map_dtype())?,
        };
        Ok(Some(Self {
            copy,
            matmul,
            copy_from,
            matmul_from,
        }))
    }
}

/// Bytes a second of a copy of as many pixels of 1 KiB, or of an average (two reads for a write)
/// where that moves more: a processor that must first read the lines that it overwrites copies at
/// less than its memory's rate.
fn bandwidth(timer: &mut Timer, pixels: usize) -> Result<(f64, String)> {
    let shape = [1, pixels / 256, 256, 256];
    let one = [1, 1, 1, 1];
    let cases = [
        plain_case("copy", Op::Copy, &[shape], &[shape], DType::F32),
        plain_case("lerp", Op::Lerp, &[shape, one], &[shape], DType::F32),
    ];
    let mut best = (0.0, String::new());
    for case in cases {
        let rate = case.cost().bytes / (1e-3 * timer.measure(&case)?.ms.p10);
        if rate > best.0 {
            let mib = pixels / 1024;
            best = (rate, format!("the device's own {} of {mib} MiB", case.name));
        }
    }
    Ok(best)
}

/// Multiply-adds in registers.
fn cpu_peak(map: DType, threads: usize) -> (f64, String) {
    let bf16 = match map {
        DType::BF16 => peak(Arithmetic::Bf16, threads, 0.3),
        _ => None,
    };
    let found = bf16.or_else(|| peak(Arithmetic::F32, threads, 0.3));
    let (rate, what) = found.unwrap_or((0.0, "nothing"));
    (rate, format!("{what} in registers on {threads} threads"))
}

/// The engine's own convolution at its easiest shape: no ceiling, but what is at hand.
fn product(timer: &mut Timer, dtype: DType) -> Result<(f64, String)> {
    let (pixels, channels) = ([1, 128, 128], 4096);
    let map = [pixels[0], pixels[1], pixels[2], channels];
    let window = Window {
        stride: 1,
        padding: 0,
        dilation: 1,
    };
    let ins = [map, [channels, 1, 1, channels]];
    let case = plain_case("product", Op::Conv(window), &ins, &[map], dtype);
    let measured = timer.measure(&case)?;
    let rate = case.cost().flops / (1e-3 * measured.ms.p10);
    let from = "our own 1x1 convolution 4096-4096, no independent ceiling".into();
    Ok((rate, from))
}
