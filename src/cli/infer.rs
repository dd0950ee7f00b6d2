//! `u2pl-engine infer`: images to masks and pictures.

use std::path::PathBuf;

use super::common::{DeviceArgs, Progress, WeightsArgs, emit};
use crate::eval::Predictor;
use crate::infer::{self, files};
use crate::{Error, model};

/// Segments an image or a folder of images of any sizes: index masks in masks/, colours in color/.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    weights: WeightsArgs,
    #[command(flatten)]
    device: DeviceArgs,
    /// Image, or folder of .jpg, .jpeg and .png images
    #[arg(long, value_name = "FILE|DIR")]
    input: PathBuf,
    /// Output folder, made if missing
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Also write the colours over the image, to overlay/
    #[arg(long)]
    overlay: bool,
    /// Also write the entropy as a grey image, to entropy/ (255 = all classes alike)
    #[arg(long)]
    entropy: bool,
    /// Also write the scores, to logits/ (safetensors)
    #[arg(long)]
    save_logits: bool,
    /// Write into an output folder that is not empty
    #[arg(long)]
    force: bool,
}

/// Runs the subcommand.
pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let device = args.device.open()?;
    let (file, cfg) = args.weights.open(Vec::new())?;
    let inputs = infer::find(&args.input)?;
    if let Some(first) = inputs.skipped.first() {
        let n = inputs.skipped.len();
        tracing::info!("not images, skipped: {} ({n} in all)", first.display());
    }
    let layout = model::layout(&cfg.model, cfg.data.classes)?;
    let weights = args.weights.load(&file, &layout, &device)?;
    drop(file);
    let options = files::Options {
        out: args.out,
        force: args.force,
        overlay: args.overlay,
        entropy: args.entropy,
        logits: args.save_logits,
    };
    files::prepare(&options)?;

    let cfg = infer::adapt(&cfg);
    let mut predictor = Predictor::new(device, &cfg, layout);
    let images = &inputs.images;
    let progress = Progress::new("infer", images.len());
    let mut tell = |done: usize, fault: Option<&Error>| {
        if let Some(fault) = fault {
            progress.note(&format!("error: {fault}"));
        }
        progress.at(done);
    };
    let at = weights.weights();
    let failed = files::run(&mut predictor, at, &cfg, images, &options, &mut tell)?;
    drop(progress);

    let (done, out) = (images.len() - failed, options.out.display());
    emit(&format!(
        "{done} of {} images segmented into {out}\n",
        images.len()
    ))?;
    if failed > 0 {
        return Err(Error::input(
            args.input.display().to_string(),
            format!("{failed} of {} images could not be segmented", images.len()),
            "mend or remove those named above",
        )
        .into());
    }
    Ok(())
}
