//! `u2pl-engine config convert`: a configuration in our own keys.

use std::path::PathBuf;

use super::common::{AuthorsArgs, emit};
use crate::Result;
use crate::config::{Authors, Config};
use crate::files::write_atomic;

/// Works on configurations.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Convert(ConvertArgs),
}

/// Prints a configuration, the authors' or our own, with every key spelled out in our keys. Loaded,
/// the result is the same configuration. Relative paths in it start at the working folder.
#[derive(Debug, clap::Args)]
struct ConvertArgs {
    /// Configuration file (YAML)
    #[arg(value_name = "IN")]
    input: PathBuf,
    /// Write here instead of to stdout
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Only the keys that differ from the defaults
    #[arg(long)]
    brief: bool,
    /// Override one key (ours); may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    authors: AuthorsArgs,
}

/// Runs the subcommand.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let Command::Convert(args) = &args.command;
    let options = args.authors.options();
    let (config, authors) = Config::read(Some(&args.input), &args.set, options)?;
    let text = text(args, &config, authors.as_ref())?;
    match &args.out {
        Some(path) => Ok(write_atomic(path, text.as_bytes())?),
        None => emit(&text),
    }
}

/// What has no key goes before the keys, as comments.
fn text(args: &ConvertArgs, config: &Config, authors: Option<&Authors>) -> Result<String> {
    let yaml = match args.brief {
        true => config.to_brief_yaml()?,
        false => config.to_yaml()?,
    };
    let mut text = String::new();
    if let Some(authors) = authors {
        for line in authors.notes.iter().chain(&authors.warnings) {
            text += &format!("# {line}\n");
        }
        if let Some(path) = &authors.pretrain {
            text += &format!("# saver.pretrain: give --init {}\n", path.display());
        }
        if let Some(encoder) = &authors.backbone {
            text += &format!("# ImageNet weights of {encoder}: give --init FILE\n");
        }
    }
    Ok(text + yaml.trim_end() + "\n")
}
