//! `u2pl-engine report`: a page that shows a run, or sets several side by side.

use std::path::PathBuf;

use super::common::emit;
use crate::report::Report;

/// Makes one HTML page of run folders: curves, IoU per class, samples, configuration; of several
/// runs a comparison.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Run folders, or folders that hold some
    #[arg(value_name = "RUN_DIR", required = true)]
    runs: Vec<PathBuf>,
    /// The page. Default: report.html, in the folder where there is one, else in the working folder
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Validations of each run whose pictures are shown. Default: 4 of a single run, 1 of several
    #[arg(long, value_name = "N")]
    pictures: Option<usize>,
}

/// Runs the subcommand.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let mut report = Report::read(&args.runs)?;
    let page = PathBuf::from("report.html");
    let out = match (&args.out, &args.runs[..]) {
        (Some(out), _) => out.clone(),
        (None, [run]) => run.join(page),
        (None, _) => page,
    };
    report.write(&out, args.pictures)?;
    for problem in report.problems() {
        tracing::warn!("{problem}");
    }
    emit(&format!("{}\n", out.display()))
}
