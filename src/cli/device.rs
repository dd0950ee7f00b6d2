//! Which device operations run on, and in which precision.

use std::sync::Arc;

#[cfg(feature = "ptx")]
use crate::Error;
use crate::Result;
use crate::contact::{self, Check};
pub(super) use crate::device::Named as Kind;
use crate::device::cpu;
#[cfg(any(feature = "cuda", feature = "ptx", feature = "simt"))]
use crate::device::gpu::GpuDevice;
use crate::device::gpu::MathMode;
#[cfg(feature = "cuda")]
use crate::device::gpu::driver::TEST_MULTIPROCESSORS;
#[cfg(feature = "ptx")]
use crate::device::gpu::ptx::Edited;
#[cfg(feature = "simt")]
use crate::device::gpu::simt::{Options, Schedule};
use crate::device::{DType, Device, Op};

/// A device by name.
#[derive(Debug, clap::Args)]
pub(super) struct Place {
    /// Device: cpu, cuda, cuda:N (the N-th GPU); for testing, in builds with a feature of that name,
    /// ptx or ptx:sm_80 (the compiled kernels executed on the CPU), simt (their sources run there)
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    device: String,
    /// CPU threads (cpu, ptx, simt); 0 = every core
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) threads: usize,
    /// The ptx device with other PTX in the place of a unit's, to try a kernel: conv=FILE
    #[cfg(feature = "ptx")]
    #[arg(long, value_name = "UNIT=FILE", hide = true)]
    ptx_unit: Vec<String>,
    /// Seed of the ptx device's schedule
    #[cfg(feature = "ptx")]
    #[arg(long, value_name = "N", default_value_t = 0, hide = true)]
    ptx_seed: u64,
    /// Order in which the ptx device runs warps: sequential, uniform or pct
    #[cfg(feature = "ptx")]
    #[arg(
        long,
        value_name = "NAME",
        default_value = "sequential",
        hide = true,
        value_parser = |name: &str| crate::ptx::Schedule::from_name(name).ok_or(SCHEDULES)
    )]
    ptx_schedule: crate::ptx::Schedule,
    /// Seed of the simt device's schedule
    #[cfg(feature = "simt")]
    #[arg(long, value_name = "N", default_value_t = 0, hide = true)]
    simt_seed: u64,
    /// Order in which the simt device runs warps: sequential, uniform or pct
    #[cfg(feature = "simt")]
    #[arg(
        long,
        value_name = "NAME",
        default_value = "sequential",
        hide = true,
        value_parser = |name: &str| Schedule::from_name(name).ok_or(SCHEDULES)
    )]
    simt_schedule: Schedule,
}

/// What an order of warps may be called.
#[cfg(any(feature = "ptx", feature = "simt"))]
const SCHEDULES: &str = "not one of sequential, uniform, pct";

/// The files of `--ptx-unit`.
#[cfg(feature = "ptx")]
pub(super) fn edited(units: &[String]) -> Result<Vec<Edited>> {
    let read = |given: &String| {
        let (unit, file) = given.split_once('=').ok_or_else(|| {
            let at = format!("--ptx-unit {given}");
            Error::input(at, "is not UNIT=FILE", "give for example conv=conv.ptx")
        })?;
        let text = std::fs::read_to_string(file);
        Ok(Edited {
            unit: unit.into(),
            name: file.into(),
            text: text.map_err(|e| Error::io(file, "read the PTX", e))?,
        })
    };
    units.iter().map(read).collect()
}

impl Place {
    /// Which device was asked for.
    pub(super) fn kind(&self) -> Result<Kind> {
        Kind::parse(&self.device)
    }

    /// Threads that the devices on the CPU use; 0 on a GPU.
    pub(super) fn used_threads(&self) -> Result<usize> {
        Ok(match (self.kind()?, self.threads) {
            (Kind::Cuda(_), _) => 0,
            (_, 0) => std::thread::available_parallelism().map_or(1, usize::from),
            (_, n) => n,
        })
    }

    /// The arguments that choose the same device in another process.
    pub(super) fn arguments(&self) -> Vec<String> {
        let threads = self.threads.to_string();
        ["--device", &self.device, "--threads", &threads]
            .map(String::from)
            .to_vec()
    }

    /// Opens the device for one precision.
    pub(super) fn open(&self, precision: MathMode) -> Result<Arc<dyn Device>> {
        let kind = self.kind()?;
        #[cfg(feature = "ptx")]
        if let (Some(unit), false) = (self.ptx_unit.first(), matches!(kind, Kind::Ptx(_))) {
            let problem = format!("is for --device ptx, not {}", self.device);
            let at = format!("--ptx-unit {unit}");
            return Err(Error::input(
                at,
                problem,
                "add --device ptx, or leave it out",
            ));
        }
        match kind {
            #[cfg(feature = "ptx")]
            Kind::Ptx(capability) => {
                let options = crate::ptx::Options {
                    seed: self.ptx_seed,
                    schedule: self.ptx_schedule,
                    ..crate::device::ptx_options(capability, self.threads)
                };
                let gpu = match self.ptx_unit.is_empty() {
                    true => GpuDevice::ptx(options, precision)?,
                    false => GpuDevice::ptx_edited(options, &edited(&self.ptx_unit)?, precision)?,
                };
                Ok(Arc::new(gpu))
            }
            #[cfg(feature = "simt")]
            Kind::Simt => {
                let options = Options {
                    seed: self.simt_seed,
                    schedule: self.simt_schedule,
                    threads: self.threads,
                    ..Options::default()
                };
                Ok(Arc::new(GpuDevice::simt(options, precision)?))
            }
            kind => kind.open(self.threads, precision),
        }
    }

    /// As [`Place::open`]; a GPU cuts its work up as a small one would, so that the small shapes of
    /// tests reach every way of cutting.
    pub(super) fn open_for_tests(&self, precision: MathMode) -> Result<Arc<dyn Device>> {
        match self.kind()? {
            #[cfg(feature = "cuda")]
            Kind::Cuda(index) => {
                let gpu = GpuDevice::cuda(index, precision)?;
                Ok(Arc::new(gpu.planned_for(TEST_MULTIPROCESSORS)))
            }
            _ => self.open(precision),
        }
    }
}

/// Reads a precision by name.
pub(super) fn precision(name: &str) -> std::result::Result<MathMode, String> {
    let known = MathMode::ALL.into_iter().find(|m| m.name() == name);
    known.ok_or_else(|| "not one of fp32, tf32, bf16".into())
}

/// Where operations run, and how they compute.
#[derive(Debug, clap::Args)]
pub(super) struct DeviceArgs {
    #[command(flatten)]
    place: Place,
    /// Arithmetic: fp32, bf16, or on a GPU tf32
    #[arg(long, value_name = "PRECISION", default_value = "fp32", value_parser = precision)]
    precision: MathMode,
    /// Short for --precision bf16
    #[arg(long, conflicts_with = "precision")]
    half: bool,
}

/// Whether a GPU's kernels are checked first.
#[derive(Debug, clap::Args)]
pub(super) struct CheckArgs {
    /// Use a GPU's kernels without checking them against the CPU, which otherwise happens once for each
    /// GPU, driver and version of this program
    #[arg(long)]
    no_check: bool,
}

impl CheckArgs {
    /// As the library takes it; warnings go to the log.
    pub(super) fn check(&self) -> Check {
        Check {
            on: !self.no_check,
            tell: contact::to_stderr(|line| tracing::warn!("{line}")),
            ..Check::default()
        }
    }
}

impl DeviceArgs {
    /// Opens the device.
    pub(super) fn open(&self) -> Result<Arc<dyn Device>> {
        self.place.open(self.math())
    }

    /// The arithmetic.
    fn math(&self) -> MathMode {
        match self.half {
            true => MathMode::Bf16,
            false => self.precision,
        }
    }

    /// Which device was asked for.
    pub(super) fn kind(&self) -> Result<Kind> {
        self.place.kind()
    }

    /// Threads that the devices on the CPU use; 0 on a GPU.
    pub(super) fn threads(&self) -> Result<usize> {
        self.place.used_threads()
    }

    /// The device without its precision.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// Name of the arithmetic.
    pub(super) fn precision(&self) -> &'static str {
        self.math().name()
    }

    /// What the device would fuse; opens none.
    pub(super) fn gains(&self) -> Result<fn(&Op) -> bool> {
        Ok(match self.kind()? {
            Kind::Cpu => cpu::fuses(self.map_dtype()),
            Kind::Cuda(_) | Kind::Ptx(_) | Kind::Simt => |_| true,
        })
    }

    /// Type of the maps that the device would have; opens none.
    pub(super) fn map_dtype(&self) -> DType {
        match self.math() {
            MathMode::Bf16 => DType::BF16,
            MathMode::Fp32 | MathMode::Tf32 => DType::F32,
        }
    }
}
