//! `u2pl-engine infer`: images to masks and pictures.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::{Value, json};

use super::common::{CheckArgs, DeviceArgs, Progress, WeightsArgs, emit, emit_json};
use super::looks::LookArgs;
use crate::bench::versus::side::status_mib;
use crate::config::Config;
use crate::config::schema::Protocol;
use crate::counted::counted;
use crate::files::check_place;
use crate::folders::first_of;
use crate::infer::files::{self, Outcome, Summary};
use crate::infer::{self, Inputs, Network, Search, Segmenter};
use crate::{Error, Result, model};

/// Segments images of any sizes: index masks in masks/, colours in color/.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    weights: WeightsArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    check: CheckArgs,
    #[command(flatten)]
    looks: LookArgs,
    /// Image, folder of .jpg, .jpeg and .png images, pattern ('frames/*.jpg', quoted), or numbered
    /// frames (frames/frame_%05d.png); may be several
    #[arg(long, value_name = "PATH", required = true, num_args = 1..)]
    input: Vec<PathBuf>,
    /// Look into the folders of folders, too; results keep the relative paths
    #[arg(long)]
    recursive: bool,
    /// Number of the first frame of frames/frame_%05d.png. Default: the lowest there is
    #[arg(long, value_name = "N")]
    start: Option<u64>,
    /// Output folder, made if missing
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Images of one size, one after another, that go through the network together (whole images
    /// only, not with --scales or --flip)
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// Give pixels whose class is less probable than this the void index (data.ignore_index, 255)
    #[arg(long, value_name = "P", value_parser = probability)]
    min_confidence: Option<f32>,
    /// Also write the colours over the image, to overlay/
    #[arg(long)]
    overlay: bool,
    /// Also write the entropy as a grey image, to entropy/ (255 = all classes alike)
    #[arg(long)]
    entropy: bool,
    /// Also write the scores, to logits/ (safetensors)
    #[arg(long)]
    save_logits: bool,
    /// Write what was found in each image, and the summary, as JSON here; - prints it instead of
    /// the summary
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Name the first layer with values that are no finite numbers, for images whose scores are none
    #[arg(long)]
    trace_nan: bool,
    /// Write into an output folder that is not empty
    #[arg(long)]
    force: bool,
}

fn probability(text: &str) -> std::result::Result<f32, String> {
    let value = text.parse().ok().filter(|p| (0.0..=1.0).contains(p));
    value.ok_or_else(|| "not a probability between 0 and 1".into())
}

/// Runs the subcommand.
pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let started = Instant::now();
    let inputs = args.find()?;
    let (segmenter, cfg) = args.load()?;
    let options = args.options(&cfg);
    if let Some(json) = &args.json {
        check_place(json, Some(&args.out))?;
    }
    files::prepare(&options, &inputs.images)?;

    let mut summary = Summary::new(started);
    let mut found = Vec::new();
    let progress = Progress::new("infer", inputs.images.len());
    let mut each = |outcome: Outcome| {
        if let Err(fault) = &outcome.result {
            progress.note(&format!("error: {fault}"));
        }
        summary.add(&outcome);
        if args.json.is_some() {
            found.push(outcome.to_json(segmenter.class_names()));
        }
        progress.at(summary.images());
    };
    let ran = files::run(&segmenter, &inputs.images, &options, &mut each);
    drop(progress);

    if let Some(path) = &args.json {
        let value = json!({
            "images": found,
            "summary": args.summary(&summary, &segmenter)?,
        });
        // What was found before a disk was full, say, is not lost for it.
        let written = emit_json(path, &value);
        ran?;
        written?;
    } else {
        ran?;
    }
    if args.json.as_deref() != Some(Path::new("-")) {
        emit(&args.lines(&summary, &segmenter)?)?;
    }
    if summary.failed == 0 {
        return Ok(());
    }
    let at = match &args.input[..] {
        [one] => one.display().to_string(),
        _ => "--input".into(),
    };
    let problem = format!(
        "{} of {} could not be segmented",
        summary.failed,
        counted(summary.images(), "image", "images")
    );
    Err(Error::input(at, problem, "fix or remove those named above").into())
}

impl Args {
    /// The images, and a line in the log for what is not among them.
    fn find(&self) -> Result<Inputs> {
        let inputs = infer::find(
            &self.input,
            &Search {
                recursive: self.recursive,
                start: self.start,
                leave_out: files::folders(&self.out),
            },
        )?;
        if let Some(first) = inputs.skipped.first() {
            let n = inputs.skipped.len();
            tracing::info!("not images, skipped: {} ({n} in all)", first.display());
        }
        let again = first_of(
            &inputs.again,
            "repeated name of an image left out",
            "repeated names of images left out",
        );
        if let Some(line) = again {
            tracing::warn!("{line}");
        }
        for note in &inputs.notes {
            tracing::info!("{note}");
        }
        for gap in &inputs.gaps {
            tracing::warn!("{gap}");
        }
        Ok(inputs)
    }

    fn load(&self) -> Result<(Segmenter, Config)> {
        let device = self.device.open()?;
        let (file, cfg) = self.weights.open(self.looks.sets())?;
        let layout = model::layout(&cfg.model, cfg.data.classes)?;
        let weights = self.weights.load(&file, &layout, &device)?;
        // Tiles are of the whole image: they take the place of windows.
        let sliding = cfg.eval.protocol == Protocol::Sliding && self.looks.tile.is_none();
        let options = infer::Options {
            scales: cfg.eval.scales.clone(),
            flip: cfg.eval.flip,
            windows: sliding.then(|| cfg.eval.crop.unwrap_or(cfg.augment.crop)),
            tiling: self.looks.tile,
            callers: 1,
            trace_nan: self.trace_nan,
            check: self.check.check(),
            ..infer::Options::default()
        };
        let network = Network {
            device,
            cfg: cfg.clone(),
            layout,
            weights,
        };
        Ok((Segmenter::new(network, options)?, cfg))
    }

    fn options(&self, cfg: &Config) -> files::Options {
        files::Options {
            out: self.out.clone(),
            force: self.force,
            overlay: self.overlay,
            entropy: self.entropy,
            logits: self.save_logits,
            min_confidence: self.min_confidence,
            batch: self.batch.into(),
            threads: cfg.data.workers,
            exif: cfg.data.exif,
        }
    }

    /// The summary for programs, with what it was measured on.
    fn summary(&self, summary: &Summary, segmenter: &Segmenter) -> Result<Value> {
        let mut value = summary.to_json();
        if let Some(map) = value.as_object_mut() {
            map.insert("device".into(), segmenter.device().name().into());
            map.insert("threads".into(), self.device.threads()?.into());
            map.insert("precision".into(), self.device.precision().into());
            map.insert("batch".into(), self.batch.into());
            map.insert("weights_bytes".into(), segmenter.weights_bytes().into());
            map.insert("network_bytes".into(), segmenter.held_bytes()?.into());
            map.insert("peak_bytes".into(), peak_bytes().into());
        }
        Ok(value)
    }

    /// The summary for people.
    fn lines(&self, summary: &Summary, segmenter: &Segmenter) -> Result<String> {
        let mut place = vec![segmenter.device().name()];
        if let n @ 1.. = self.device.threads()? {
            place.push(format!("{n} threads"));
        }
        place.push(self.device.precision().into());
        if self.batch > 1 {
            place.push(format!("batches of {}", self.batch));
        }
        let mib = |bytes: usize| bytes as f64 / (1 << 20) as f64;
        let (weights, network) = (segmenter.weights_bytes(), segmenter.held_bytes()?);
        let mut memory = format!(
            "weights {:.1} MiB, network {:.1} MiB",
            mib(weights),
            mib(network)
        );
        if let Some(peak) = peak_bytes() {
            memory += &format!(", process at its peak {:.1} MiB", mib(peak));
        }
        Ok(format!(
            "{} of {} segmented into {}\n{}{}; {memory}\n",
            summary.done,
            counted(summary.images(), "image", "images"),
            self.out.display(),
            summary.table(),
            place.join(", "),
        ))
    }
}

/// Host memory that this process held at most, where the system tells.
fn peak_bytes() -> Option<usize> {
    let mib = status_mib("VmHWM");
    (mib > 0.0).then_some((mib * f64::from(1 << 20)) as usize)
}
