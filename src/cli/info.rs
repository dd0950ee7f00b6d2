//! `u2pl-engine info`: what this build is and what this machine has.

use serde_json::json;

use super::common::emit;
use crate::device::Device;
use crate::device::cpu::CpuDevice;
use crate::device::gpu::MathMode;

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
    let [fp32, bf16] = CpuDevice::instructions()?;
    if args.json {
        let value = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "build": profile,
            "target": target,
            "cpu_features": features,
            "cpu_convolutions": {"fp32": fp32, "bf16": bf16},
            "threads": device.threads(),
            "free_memory_bytes": free,
            "devices": {"cpu": true, "cuda": cuda::usable(), "ptx": cfg!(feature = "ptx"), "simt": cfg!(feature = "simt")},
            "cuda": cuda::json(),
            "precisions": {
                "cpu": ["fp32", "bf16"],
                "cuda": MathMode::ALL.map(MathMode::name),
                "ptx": MathMode::ALL.map(MathMode::name),
                "simt": MathMode::ALL.map(MathMode::name),
            },
        });
        return emit(&format!("{:#}\n", value));
    }
    let memory = free.map_or("unknown".into(), gib);
    let features = match features.is_empty() {
        true => "none of those looked for".into(),
        false => features.join(" "),
    };
    let ptx = match cfg!(feature = "ptx") {
        true => "yes, fp32 tf32 bf16: the compiled kernels executed on the CPU, for testing",
        false => "not in this build (feature ptx)",
    };
    let simt = match cfg!(feature = "simt") {
        true => "yes, fp32 tf32 bf16: the GPU's kernels on the CPU, for testing",
        false => "not in this build (feature simt)",
    };
    emit(&format!(
        "u2pl-engine   {}\n\
         build         {profile}, {target}\n\
         cpu features  {features}\n\
         threads       {}\n\
         free memory   {memory}\n\
         device cpu    yes, fp32 bf16; convolutions by {fp32}, of bf16 by {bf16}\n\
         {}\
         device ptx    {ptx}\n\
         device simt   {simt}\n",
        env!("CARGO_PKG_VERSION"),
        device.threads(),
        cuda::text(),
    ))
}

fn gib(bytes: usize) -> String {
    format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64)
}

/// The CUDA side: the kernels in this binary, the driver and the GPUs of this machine.
#[cfg(feature = "cuda")]
mod cuda {
    use serde_json::Value;

    use crate::device::gpu::cuda::{Description, describe};

    pub(super) fn usable() -> bool {
        let found = describe();
        found.unusable.is_none() && found.devices.iter().any(|d| d.image.is_some())
    }

    pub(super) fn json() -> Value {
        serde_json::to_value(describe()).unwrap_or(Value::Null)
    }

    pub(super) fn text() -> String {
        let Description {
            toolkit,
            images,
            kernels,
            driver,
            devices,
            unusable,
        } = describe();
        let kernels = match toolkit {
            Some(nvcc) => format!("{kernels} by nvcc {nvcc}: {}", images.join(" ")),
            None => "none: built without nvcc".into(),
        };
        let driver = driver.map_or("none found".into(), |version| format!("CUDA {version}"));
        let mut text = format!("cuda kernels  {kernels}\ncuda driver   {driver}\n");
        for d in &devices {
            let runs = match d.image {
                Some(image) => format!("runs {image}"),
                None => "none of the kernels runs on it".into(),
            };
            text += &format!(
                "device cuda:{} {}, compute capability {}.{}, {}, {} multiprocessors; {runs}\n",
                d.index,
                d.name,
                d.arch / 10,
                d.arch % 10,
                super::gib(d.memory_bytes),
                d.multiprocessors,
            );
        }
        match unusable {
            Some(problem) => {
                let why = problem.trim_start_matches("device cuda:0: ");
                text + &format!("device cuda   no: {why}\n")
            }
            None if devices.is_empty() => text + "device cuda   no: no GPU\n",
            None => text,
        }
    }
}

/// A build without the CUDA device.
#[cfg(not(feature = "cuda"))]
mod cuda {
    pub(super) fn usable() -> bool {
        false
    }

    pub(super) fn json() -> serde_json::Value {
        serde_json::Value::Null
    }

    pub(super) fn text() -> String {
        "device cuda   not in this build (feature cuda)\n".into()
    }
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
