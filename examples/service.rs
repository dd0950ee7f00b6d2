//! A service in miniature: one network, several workers, pictures from a folder, overlays out, and
//! how long requests took.
//!
//! ```sh
//! cargo run --release --example service -- WEIGHTS PICTURES OUT [WORKERS [DEVICE [PRECISION]]]
//! ```
//!
//! WEIGHTS is a file of weights or a run folder of `train`, PICTURES a folder of .jpg and .png,
//! DEVICE `cpu` (default), `cuda` or `cuda:N`, PRECISION `fp32` (default), `tf32` or `bf16`. OUT gets
//! one PNG for each picture: half picture, half the colours of its classes. A request here is what a
//! service would do for one that came with decoded pixels: segmenting alone is timed.

use std::collections::BTreeSet;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use u2pl_engine::device::Named;
use u2pl_engine::device::gpu::MathMode;
use u2pl_engine::infer::{Image, InputShape, Options, Samples, Segmenter};

/// Sizes of pictures that are made ready before the first request; others are at their first.
const READY: usize = 8;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    run(&args)
}

/// Does what `args` say; the test suite calls it, too.
pub fn run(args: &[String]) -> Result<(), Box<dyn Error>> {
    let given = |i: usize, default: &'static str| args.get(i).map_or(default, String::as_str);
    if !(3..=6).contains(&args.len()) {
        return Err("usage: service WEIGHTS PICTURES OUT [WORKERS [DEVICE [PRECISION]]]".into());
    }
    let out = PathBuf::from(&args[2]);
    let workers: usize = given(3, "2").parse()?;
    let device = Named::parse(given(4, "cpu"))?;
    let precision = given(5, "fp32");
    let precision = MathMode::ALL.into_iter().find(|m| m.name() == precision);
    let precision = precision.ok_or("the precision is none of fp32, tf32, bf16")?;

    let start = Instant::now();
    let options = Options {
        callers: workers,
        shapes: READY,
        ..Options::default()
    };
    let segmenter = Segmenter::open(Path::new(&args[0]), device.open(0, precision)?, options)?;
    let opened = start.elapsed();

    let pictures = pictures(Path::new(&args[1]))?;
    let sizes: BTreeSet<(u32, u32)> = pictures
        .iter()
        .filter_map(|p| image::image_dimensions(p).ok())
        .collect();
    for &(width, height) in sizes.iter().take(READY) {
        let shape = InputShape::bytes(height as usize, width as usize);
        segmenter.warm_up(workers, shape)?;
    }
    println!(
        "{} classes on {}: opened in {:.0} ms, {} sizes made ready in {:.0} ms; {:.1} MiB of weights, {:.1} MiB held",
        segmenter.classes(),
        segmenter.device().name(),
        ms(opened),
        sizes.len().min(READY),
        ms(start.elapsed() - opened),
        mib(segmenter.weights_bytes()),
        mib(segmenter.held_bytes()?),
    );

    std::fs::create_dir_all(&out)?;
    let next = AtomicUsize::new(0);
    let times = Mutex::new(Vec::new());
    let serving = Instant::now();
    let failed = std::thread::scope(|scope| {
        let worker = || {
            let mut failed = 0;
            while let Some(path) = pictures.get(next.fetch_add(1, Ordering::Relaxed)) {
                match serve(&segmenter, path, &out) {
                    Ok(took) => times.lock().expect("no worker panics").push(took),
                    Err(problem) => {
                        eprintln!("{}: {problem}", path.display());
                        failed += 1;
                    }
                }
            }
            failed
        };
        let all: Vec<_> = (0..workers).map(|_| scope.spawn(worker)).collect();
        let failed = all.into_iter().map(|w| w.join().expect("no worker panics"));
        failed.sum::<usize>()
    });
    let took = serving.elapsed();

    let mut times = times.into_inner()?;
    times.sort_unstable();
    if !times.is_empty() {
        let at = |percent| ms(percentile(&times, percent));
        println!(
            "{} pictures by {workers} workers in {:.2} s, files included; latency p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms",
            times.len(),
            took.as_secs_f64(),
            at(50),
            at(90),
            at(99),
        );
    }
    match failed {
        0 => Ok(()),
        n => Err(format!("{n} of {} pictures failed", pictures.len()).into()),
    }
}

/// The .jpg and .png files in a folder, sorted.
fn pictures(folder: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let entries = std::fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))?;
    let found = entries.map(|entry| Ok(entry?.path()));
    let mut found = found.collect::<std::io::Result<Vec<PathBuf>>>()?;
    found.retain(|path| {
        let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
        ["jpg", "jpeg", "png"].iter().any(|e| extension == *e)
    });
    found.sort();
    Ok(found)
}

/// Answers one request, and says how long the network took.
fn serve(segmenter: &Segmenter, path: &Path, out: &Path) -> Result<Duration, Box<dyn Error>> {
    let mut picture = image::open(path)?.to_rgb8();
    let (height, width) = (picture.height() as usize, picture.width() as usize);
    let start = Instant::now();
    let found = segmenter.segment(&Image::rgb(Samples::U8(picture.as_raw()), height, width)?)?;
    let took = start.elapsed();
    for (pixel, &class) in picture.pixels_mut().zip(&found.classes) {
        let color = segmenter.palette()[usize::from(class)];
        for (sample, c) in pixel.0.iter_mut().zip(color) {
            *sample = sample.midpoint(c);
        }
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    picture.save(out.join(format!("{stem}.png")))?;
    Ok(took)
}

/// The time that `percent` of the sorted `times` do not exceed.
fn percentile(times: &[Duration], percent: usize) -> Duration {
    times[(percent * times.len()).div_ceil(100).max(1) - 1]
}

fn ms(time: Duration) -> f64 {
    1e3 * time.as_secs_f64()
}

fn mib(bytes: usize) -> f64 {
    bytes as f64 / (1 << 20) as f64
}
