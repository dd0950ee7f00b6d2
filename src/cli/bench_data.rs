//! `u2pl-engine bench data`: whether images come as fast as steps take them.

use std::path::{Path, PathBuf};

use serde_json::json;

use super::common::{ConfigArgs, Progress, check_json, emit, emit_json};
use super::device::DeviceArgs;
use crate::bench::pipeline::{Outcome, Pipeline};
use crate::bench::report::number;
use crate::bench::{Recipe, Timer, table};
use crate::machine::{cpu_model, utc_now};
use crate::{Error, Result};

/// Decodes, stages and augments training images: images a second for each number of decoding
/// threads, and the wait of a step that takes its images at a given rate.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Numbers of decoding threads to try. Default: 1, 2, 4, 8 up to the cores, and the cores
    #[arg(long, value_name = "N,N", value_delimiter = ',')]
    decoders: Vec<usize>,
    /// Steps of each try
    #[arg(long, value_name = "N", default_value_t = 50)]
    steps: usize,
    /// Images a step
    #[arg(long, value_name = "N", default_value_t = 8)]
    batch: usize,
    /// Images a second that the simulated step takes
    #[arg(long, value_name = "IMAGES", default_value_t = 160.0)]
    rate: f64,
    /// Write the result as JSON here; - prints it instead of the table
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Runs the subcommand.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    check_json(args.json.as_deref())?;
    args.check()?;
    let device = args.device.open()?;
    let pipeline = match &args.config.config {
        Some(_) => {
            let cfg = args.config.load()?;
            cfg.validate()?;
            Pipeline::of_config(&cfg, args.batch)?
        }
        None => Pipeline::made(args.batch)?,
    };
    let counts = args.counts();
    let progress = Progress::new("bench data", counts.len());
    let mut outcomes = Vec::new();
    for (i, &threads) in counts.iter().enumerate() {
        outcomes.push(pipeline.run(&device, threads, args.steps, args.rate)?);
        progress.at(i + 1);
    }
    drop(progress);
    let augment_ms = args.augment_ms(&device)?;
    if let Some(path) = &args.json {
        let value = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "date": utc_now(),
            "device": device.name(),
            "cpu": cpu_model(),
            "source": pipeline.source,
            "batch": args.batch,
            "rate": args.rate,
            "steps": args.steps,
            "augment_ms": augment_ms,
            "decoders": outcomes,
        });
        emit_json(path, &value)?;
    }
    if args.json.as_deref() != Some(Path::new("-")) {
        emit(&args.text(&pipeline, &outcomes, augment_ms))?;
    }
    Ok(())
}

impl Args {
    fn check(&self) -> Result<()> {
        if !self.rate.is_finite() || self.rate <= 0.0 {
            return Err(Error::input(
                format!("--rate {}", self.rate),
                "not a number of images a second",
                "use 160",
            ));
        }
        for (name, n) in [("--steps", self.steps), ("--batch", self.batch)]
            .into_iter()
            .chain(self.decoders.iter().map(|&n| ("--decoders", n)))
        {
            if !(1..=4096).contains(&n) {
                return Err(Error::input(
                    format!("{name} {n}"),
                    "out of range",
                    "use 1 to 4096",
                ));
            }
        }
        Ok(())
    }

    fn counts(&self) -> Vec<usize> {
        if !self.decoders.is_empty() {
            return self.decoders.clone();
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut counts: Vec<usize> = [1, 2, 4, 8].into_iter().filter(|&n| n < cores).collect();
        counts.push(cores);
        counts
    }

    /// Milliseconds that the device augments the images of a step of the recipe.
    fn augment_ms(&self, device: &std::sync::Arc<dyn crate::device::Device>) -> Result<f64> {
        let recipe = match &self.config.config {
            Some(path) => Recipe::of_config(path.display().to_string(), self.config.load()?),
            None => Recipe::named("voc", &[])?,
        };
        let mut timer = Timer::new(device.clone(), if self.steps > 1 { 0.3 } else { 0.0 });
        let mut total = 0.0f64;
        for case in table(&recipe, &**device)? {
            let images = case.ins.first().map_or(1, |o| o.shape[0]);
            let calls = case.count("U2PL step").max(case.count("warm-up step"));
            if case.kind == "augment" && calls > 0 {
                let ms = timer.measure(&case)?.ms.median;
                // Of the images of this benchmark's step, whatever the recipe's batch.
                total = total.max(ms / images as f64 * self.batch as f64);
            }
        }
        Ok(total)
    }

    fn text(&self, pipeline: &Pipeline, outcomes: &[Outcome], augment_ms: f64) -> String {
        let step_ms = 1e3 * self.batch as f64 / self.rate;
        let mut text = format!(
            "{}; {}\na step takes {} images every {step_ms:.1} ms ({} images/s); decoded images are not kept\n\n",
            pipeline.source,
            cpu_model(),
            self.batch,
            self.rate
        );
        text += &format!(
            "{:>8} {:>12} {:>9} {:>9} {:>9} {:>11} {:>9} {:>9} {:>9}\n",
            "decoders",
            "sustained /s",
            "wait ms",
            "p90",
            "longest",
            "% of steps",
            "pack ms",
            "upload",
            "taken /s"
        );
        for o in outcomes {
            text += &format!(
                "{:>8} {:>12.1} {:>9} {:>9} {:>9} {:>11.2} {:>9} {:>9} {:>9.1}\n",
                o.threads,
                o.sustained,
                number(o.wait_ms.median),
                number(o.wait_ms.p90),
                number(o.longest_wait_ms),
                100.0 * o.wait_share,
                number(o.pack_ms.median),
                number(o.upload_ms.median),
                o.achieved,
            );
        }
        text + &format!(
            "\naugmentation on the device: {} ms for the {} images of a step\n",
            number(augment_ms),
            self.batch
        )
    }
}
