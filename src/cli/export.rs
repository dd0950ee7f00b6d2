//! `u2pl-engine export`: a network for other runtimes.

use std::path::PathBuf;

use super::common::{WeightsArgs, emit};
use crate::export::onnx;
use crate::files::write_atomic;
use crate::weights::{explained, read_params};
use crate::{Error, model};

/// Writes a trained network as ONNX: image [batch, 3, height, width], RGB from 0 to 1, to logits of
/// the same size; batch, height and width are free. The graph resizes by data.image_scale and normalises
/// as infer does; what else is left to the caller is said, and written into the file's metadata.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    weights: WeightsArgs,
    /// File to write
    #[arg(long, value_name = "FILE.onnx")]
    out: PathBuf,
    /// Overwrite the file
    #[arg(long)]
    force: bool,
}

/// Runs the subcommand.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let out = &args.out;
    if out.exists() && !args.force {
        let (problem, mend) = ("exists", "choose another --out, or overwrite with --force");
        return Err(Error::input(out.display().to_string(), problem, mend).into());
    }
    let (file, cfg) = args.weights.open(Vec::new())?;
    let layout = model::layout(&cfg.model, cfg.data.classes)?;
    let prefer = args.weights.prefer();
    let read = read_params(&file, &layout, prefer);
    let (weights, buffers) = explained(read, &file, &layout, prefer)?;
    let bytes = onnx::encode(&cfg, &layout, &weights, &buffers)?;
    write_atomic(out, &bytes)?;
    let mib = bytes.len() as f64 / (1u64 << 20) as f64;
    let inside = onnx::inside(&cfg);
    let mut text = format!(
        "{} written, {mib:.1} MiB: the picture goes in as it is, {inside}\n",
        out.display()
    );
    let left = onnx::left_to_caller(&cfg);
    if !left.is_empty() {
        text += &format!("left to the caller: {}\n", left.join("; "));
    }
    emit(&text)
}
