//! `u2pl-engine weigh`: what the kernels of a step execute and move, and a prediction of its time.

use std::path::PathBuf;

use super::common::{emit, emit_json};
use super::device::{edited, precision};
use crate::bench::{Case, Recipe};
use crate::device::gpu::MathMode;
use crate::device::gpu::ptx::toolkit;
use crate::files::write_atomic;
use crate::ptx::Arch;
use crate::weigh::{self, Chip, Options, Weighing};

/// Weighs a training step: counts what its kernels execute and move, by executing a sample of their
/// compiled blocks, and predicts the least time that a chip takes for it. Needs no GPU.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A built-in recipe at the batch of one GPU: voc, cityscapes, small or tiny
    #[arg(long, value_name = "NAME", default_value = "voc")]
    recipe: String,
    /// Override one key; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Kernels to weigh: sm_80 or sm_90a. Default: those of the chip, else sm_90a
    #[arg(long, value_name = "ARCH", value_parser = arch)]
    arch: Option<Arch>,
    /// Chip whose times are predicted: h200, h100 or a100. Default: h200 for sm_90a, a100 for sm_80
    #[arg(long, value_name = "CHIP")]
    chip: Option<String>,
    /// Arithmetic: fp32, tf32 or bf16
    #[arg(long, value_name = "PRECISION", default_value = "bf16", value_parser = precision)]
    precision: MathMode,
    /// Only operations whose name contains this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Print every operation with its kernels too
    #[arg(long)]
    layers: bool,
    /// Write the numbers as JSON here; - prints them instead of the tables
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the table of counts that a test compares (kernels/counters.tsv), of both architectures
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["arch", "chip", "precision", "only", "json", "layers", "recipe", "set", "ptx_unit"]
    )]
    write: Option<PathBuf>,
    /// Other PTX in the place of a unit's, to weigh a kernel under the hand: conv=FILE
    #[arg(long, value_name = "UNIT=FILE")]
    ptx_unit: Vec<String>,
    /// CPU threads; 0 = every core
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
}

fn arch(name: &str) -> std::result::Result<Arch, String> {
    match name {
        "sm_80" => Ok(Arch::Sm80),
        "sm_90a" => Ok(Arch::Sm90a),
        _ => Err("not one of sm_80, sm_90a".into()),
    }
}

/// Runs the subcommand.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    if let Some(path) = &args.write {
        let mut rows = Vec::new();
        for arch in [Arch::Sm80, Arch::Sm90a] {
            rows.extend(weigh::rows(&args.weigh(arch, Chip::of_arch(arch))?));
        }
        let release: Vec<&str> = toolkit().split('.').take(2).collect();
        let text = weigh::write_table(&rows, &release.join("."));
        return Ok(write_atomic(path, text.as_bytes())?);
    }
    let named = args.chip.as_deref().map(Chip::named).transpose()?;
    let arch = args.arch.or(named.map(|c| c.arch)).unwrap_or(Arch::Sm90a);
    let chip = named.unwrap_or_else(|| Chip::of_arch(arch));
    if chip.arch < arch {
        return Err(crate::Error::input(
            format!("--chip {} --arch {arch}", chip.name),
            format!("a {} does not execute {arch}", chip.title),
            format!("use --arch {}", chip.arch),
        )
        .into());
    }
    let weighing = args.weigh(arch, chip)?;
    if weighing.calls.is_empty() {
        let only = args.only.clone().unwrap_or_default();
        return Err(crate::Error::input(
            format!("--only {only}"),
            "no operation's name contains it",
            "see the names with --layers",
        )
        .into());
    }
    if let Some(path) = &args.json {
        emit_json(path, &weigh::json(&weighing, chip))?;
        if path.as_os_str() == "-" {
            return Ok(());
        }
    }
    emit(&weigh::text(&weighing, chip, args.layers))
}

impl Args {
    fn weigh(&self, arch: Arch, chip: &Chip) -> crate::Result<Weighing> {
        let recipe = Recipe::named(&self.recipe, &self.set)?;
        let wanted = |case: &Case| self.only.as_deref().is_none_or(|t| case.name.contains(t));
        let units = edited(&self.ptx_unit)?;
        let options = Options {
            arch,
            math: self.precision,
            multiprocessors: chip.multiprocessors,
            threads: self.threads,
            only: &wanted,
            units: &units,
        };
        Weighing::new(&recipe, &options)
    }
}
