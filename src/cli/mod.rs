//! The command line: arguments in, library calls, text out. One file per subcommand.
//!
//! Results go to stdout, everything about the run to stderr. Exit status: 0 done, 2 for what the
//! user can mend, 1 for a failure that is not the user's.

mod bench;
mod bench_data;
mod common;
mod config;
mod convert;
mod dataset;
mod device;
mod eval;
mod export;
mod infer;
mod info;
mod interrupt;
mod looks;
mod plan;
mod report;
mod selftest;
mod split;
mod train;
mod versus;
mod versus_operations;
#[cfg(feature = "ptx")]
mod weigh;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

use crate::Error;

/// Semi-supervised semantic segmentation (U2PL): training, evaluation and inference.
#[derive(Debug, Parser)]
#[command(name = "u2pl-engine", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Train(train::Args),
    Eval(eval::Args),
    Infer(Box<infer::Args>),
    Split(split::Args),
    Dataset(dataset::Args),
    Config(config::Args),
    Plan(plan::Args),
    Convert(convert::Args),
    Export(export::Args),
    Report(report::Args),
    Bench(Box<bench::Args>),
    #[cfg(feature = "ptx")]
    Weigh(weigh::Args),
    Selftest(selftest::Args),
    Info(info::Args),
}

/// Parses the process's arguments, runs the subcommand, reports its error.
pub fn main() -> ExitCode {
    start_log();
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => complain(&e),
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Train(args) => Ok(train::run(args)?),
        Command::Eval(args) => eval::run(args),
        Command::Infer(args) => infer::run(*args),
        Command::Split(args) => split::run(&args),
        Command::Dataset(args) => dataset::run(&args),
        Command::Config(args) => config::run(&args),
        Command::Plan(args) => plan::run(&args),
        Command::Convert(args) => convert::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Bench(args) => bench::run(&args),
        #[cfg(feature = "ptx")]
        Command::Weigh(args) => weigh::run(&args),
        Command::Selftest(args) => selftest::run(&args),
        Command::Info(args) => info::run(&args),
    }
}

/// One line on stderr per problem, and the exit status.
fn complain(error: &anyhow::Error) -> ExitCode {
    let own = error.downcast_ref::<Error>();
    // Ours names its source itself.
    let text = own.map_or_else(|| format!("{error:#}"), ToString::to_string);
    for line in text.lines() {
        common::tell(&format!("error: {line}"));
    }
    let code = own.map_or(1, Error::exit_code);
    ExitCode::from(code)
}

/// Log lines go to stderr; `RUST_LOG` chooses which.
fn start_log() {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new("warn,u2pl_engine=info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        // It would say so on stderr, and panic where that is closed.
        .log_internal_errors(false)
        .without_time()
        .compact()
        .init();
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        super::Cli::command().debug_assert();
    }
}
