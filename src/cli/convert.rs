//! `u2pl-engine convert`: weights from PyTorch's format to safetensors and back.

use std::path::PathBuf;

use super::common::emit;
use crate::Error;
use crate::weights::convert;

/// Converts weights: .pth to .safetensors or back, by the ending of OUT; every tensor keeps its
/// bits. A checkpoint of `train` becomes a .pth file that the authors' scripts load. Nothing in a
/// .pth file is ever run.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Weights to read, .pth or .safetensors
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// File to write, ending in .pth or .safetensors
    #[arg(value_name = "OUT")]
    output: PathBuf,
    /// Overwrite the file
    #[arg(long)]
    force: bool,
}

/// Runs the subcommand.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let out = &args.output;
    if out.exists() && !args.force {
        let (problem, mend) = ("exists", "choose another OUT, or overwrite with --force");
        return Err(Error::input(out.display().to_string(), problem, mend).into());
    }
    let converted = convert(&args.input, out)?;
    if let Some(skipped) = &converted.skipped {
        tracing::warn!("{skipped}");
    }
    if !converted.dropped.is_empty() {
        let keys = converted.dropped.join(", ");
        tracing::warn!("metadata that a .pth file has no place for: {keys}");
    }
    let mib = converted.bytes as f64 / (1u64 << 20) as f64;
    let (path, tensors) = (out.display(), converted.tensors);
    emit(&format!(
        "{path} written: {tensors} tensors, {mib:.1} MiB\n"
    ))
}
