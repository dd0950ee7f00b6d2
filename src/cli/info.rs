//! `u2pl-engine info`: what this build is and what this machine has.

use serde_json::json;

use super::common::emit;
use crate::device::Device;
use crate::device::cpu::CpuDevice;

/// Prints version, build, CPU features, memory and devices.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs the subcommand.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let device = CpuDevice::new(0)?;
    let profile = if cfg!(debug_assertions) {
        "debug"
    } else {
        "release"
    };
    let target = format!("{} {}", std::env::consts::ARCH, std::env::consts::OS);
    let features = cpu_features();
    let free = device.free_bytes();
    if args.json {
        let value = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "build": profile,
            "target": target,
            "cpu_features": features,
            "threads": device.threads(),
            "free_memory_bytes": free,
            "devices": {"cpu": true, "cuda": false, "simt": false},
            "precisions": ["fp32"],
        });
        return emit(&format!("{:#}\n", value));
    }
    let memory = free.map_or("unknown".into(), |bytes| {
        format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64)
    });
    let features = match features.is_empty() {
        true => "none of those looked for".into(),
        false => features.join(" "),
    };
    emit(&format!(
        "u2pl-engine   {}\n\
         build         {profile}, {target}\n\
         cpu features  {features}\n\
         threads       {}\n\
         free memory   {memory}\n\
         device cpu    yes, fp32\n\
         device cuda   not in this build\n\
         device simt   not in this build\n",
        env!("CARGO_PKG_VERSION"),
        device.threads(),
    ))
}

/// The instruction sets that matter here, of the running machine.
#[cfg(target_arch = "x86_64")]
fn cpu_features() -> Vec<&'static str> {
    let features = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
    ];
    let present = features.into_iter().filter(|(_, has)| *has);
    present.map(|(name, _)| name).collect()
}

/// The instruction sets that matter here, of the running machine.
#[cfg(not(target_arch = "x86_64"))]
fn cpu_features() -> Vec<&'static str> {
    Vec::new()
}
