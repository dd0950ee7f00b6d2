//! Every operation by criterion, over the table of `u2pl-engine bench`:
//! `cargo bench --bench ops -- FILTER`.
//!
//! Time is the device's own: a host clock on the CPU, events on a GPU. The environment chooses what
//! is measured:
//!
//! - `U2PL_BENCH_DEVICE`: `cpu` (default) or `cuda`;
//! - `U2PL_BENCH_PRECISION`: `fp32` (default), `bf16`, and on a GPU `tf32`;
//! - `U2PL_BENCH_RECIPE`: `voc`, `cityscapes`, `small` or `tiny`. Default: small on the CPU, voc on
//!   a GPU.

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::measurement::{Measurement, ValueFormatter};
use criterion::{Criterion, Throughput};
use u2pl_engine::bench::{Prepared, Recipe, Timer, table};
use u2pl_engine::device::Device;
use u2pl_engine::device::cpu::CpuDevice;
use u2pl_engine::device::gpu::MathMode;

/// Nanoseconds of a device's clock. Benches hand them in with `iter_custom`; what criterion times
/// itself is the host's.
struct DeviceTime;

impl Measurement for DeviceTime {
    type Intermediate = Instant;
    type Value = Duration;

    fn start(&self) -> Instant {
        Instant::now()
    }

    fn end(&self, start: Instant) -> Duration {
        start.elapsed()
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        &Rates
    }
}

/// Milliseconds; GFLOP/s of elements, GB/s of bytes.
struct Rates;

impl ValueFormatter for Rates {
    fn scale_values(&self, _typical: f64, values: &mut [f64]) -> &'static str {
        values.iter_mut().for_each(|v| *v /= 1e6);
        "ms"
    }

    fn scale_throughputs(
        &self,
        _typical: f64,
        throughput: &Throughput,
        values: &mut [f64],
    ) -> &'static str {
        // An amount in a nanosecond is a thousand million of it in a second.
        let (amount, unit) = match throughput {
            Throughput::Elements(flops) => (*flops, "GFLOP/s"),
            Throughput::Bytes(n) | Throughput::BytesDecimal(n) | Throughput::Bits(n) => {
                (*n, "GB/s")
            }
            Throughput::ElementsAndBytes { elements, .. } => (*elements, "GFLOP/s"),
        };
        values.iter_mut().for_each(|v| *v = amount as f64 / *v);
        unit
    }

    fn scale_for_machines(&self, _values: &mut [f64]) -> &'static str {
        "ns"
    }
}

fn setting(name: &str, usual: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| usual.into())
}

/// The device that the environment asks for.
fn device() -> Result<Arc<dyn Device>, String> {
    let name = setting("U2PL_BENCH_DEVICE", "cpu");
    let precision = setting("U2PL_BENCH_PRECISION", "fp32");
    let math = MathMode::ALL.into_iter().find(|m| m.name() == precision);
    match (name.as_str(), math) {
        ("cpu", Some(math)) if math != MathMode::Tf32 => {
            let device = CpuDevice::with_precision(0, math).map_err(|e| e.to_string())?;
            Ok(Arc::new(device))
        }
        ("cuda", Some(math)) => cuda(math),
        _ => Err(format!(
            "U2PL_BENCH_DEVICE={name}, U2PL_BENCH_PRECISION={precision}: use cpu with fp32 or \
             bf16, or cuda with fp32, tf32 or bf16"
        )),
    }
}

#[cfg(feature = "cuda")]
fn cuda(math: MathMode) -> Result<Arc<dyn Device>, String> {
    use u2pl_engine::device::gpu::GpuDevice;
    let device = GpuDevice::cuda(0, math).map_err(|e| e.to_string())?;
    Ok(Arc::new(device))
}

#[cfg(not(feature = "cuda"))]
fn cuda(_: MathMode) -> Result<Arc<dyn Device>, String> {
    Err("U2PL_BENCH_DEVICE=cuda: this build has no cuda device".into())
}

fn benches(criterion: &mut Criterion<DeviceTime>, device: &Arc<dyn Device>) -> Result<(), String> {
    let usual = if device.name() == "cpu" {
        "small"
    } else {
        "voc"
    };
    let recipe = setting("U2PL_BENCH_RECIPE", usual);
    let recipe = Recipe::named(&recipe, &[]).map_err(|e| e.to_string())?;
    let cases = table(&recipe, &**device).map_err(|e| e.to_string())?;
    let timer = Timer::new(device.clone(), 0.0);
    for case in cases.iter().filter_map(|case| timer.fitted(case)) {
        let mut group = criterion.benchmark_group(device.name());
        let cost = case.cost();
        group.throughput(match cost.flops > 0.0 {
            true => Throughput::Elements(cost.flops as u64),
            false => Throughput::Bytes(cost.bytes as u64),
        });
        group.sample_size(10);
        // Prepared when criterion runs it: a filter leaves most cases out.
        let mut prepared = None;
        group.bench_function(&case.name, |bencher| {
            let ready = prepared.get_or_insert_with(|| {
                Prepared::new(&case, device, timer.copies(&case)).expect("memory for the case")
            });
            bencher.iter_custom(|runs| {
                device
                    .time(&mut || (0..runs).try_for_each(|_| ready.run()))
                    .expect("a valid call")
            });
        });
        group.finish();
    }
    Ok(())
}

fn main() {
    if !std::env::args().any(|arg| arg == "--bench") {
        // `cargo test --all-targets` runs bench binaries too; minutes of timing are no test.
        println!("measures only under `cargo bench --bench ops`");
        return;
    }
    let device = device().unwrap_or_else(|problem| {
        eprintln!("error: {problem}");
        std::process::exit(2);
    });
    let mut criterion = Criterion::default()
        .with_measurement(DeviceTime)
        .configure_from_args();
    if let Err(problem) = benches(&mut criterion, &device) {
        eprintln!("error: {problem}");
        std::process::exit(2);
    }
    criterion.final_summary();
}
