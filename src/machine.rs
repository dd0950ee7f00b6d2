//! The machine that a run or a benchmark ran on, and when.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::device::{DType, Device};

/// What `device` runs on: engine, device, processor, system and the time now, as a JSON object.
pub fn describe(device: &dyn Device) -> Value {
    let mut found = json!({
        "time": utc_now(),
        "engine": env!("CARGO_PKG_VERSION"),
        "build": if cfg!(debug_assertions) { "debug" } else { "release" },
        "device": device.name(),
        "activations": match device.map_dtype() {
            DType::BF16 => "bf16",
            _ => "fp32",
        },
        "cpu": cpu_model(),
        "cores": std::thread::available_parallelism().map_or(1, usize::from),
        "system": format!("{} {}", std::env::consts::ARCH, std::env::consts::OS),
    });
    if let Some(name) = gpu_name(&device.name()) {
        found["gpu"] = name.into();
    }
    found
}

/// Name of the GPU behind a device's name, where it is one.
#[cfg(feature = "cuda")]
fn gpu_name(device: &str) -> Option<String> {
    let index = device.strip_prefix("cuda:")?.parse::<usize>().ok()?;
    let found = crate::device::gpu::cuda::describe();
    let gpu = found.devices.into_iter().find(|d| d.index == index);
    gpu.map(|d| d.name)
}

/// A build without the CUDA device.
#[cfg(not(feature = "cuda"))]
fn gpu_name(_device: &str) -> Option<String> {
    None
}

/// The time now, UTC, to the second.
pub fn utc_now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    utc(since.map_or(0, |d| d.as_secs()))
}

/// Seconds since 1970 as a date (H. Hinnant's `civil_from_days`).
fn utc(seconds: u64) -> String {
    let (days, second) = (seconds / 86_400 + 719_468, seconds % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    // Years here begin in March.
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (h, m, s) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}Z")
}

/// The processor's name, where the system tells it.
pub fn cpu_model() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = info.lines().find(|l| l.starts_with("model name"));
    let name = line.and_then(|l| l.split_once(':'));
    name.map_or_else(|| std::env::consts::ARCH.into(), |(_, n)| n.trim().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(utc(1_798_761_599), "2026-12-31T23:59:59Z");
    }
}
