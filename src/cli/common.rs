//! Arguments that several subcommands share, and how they print.

use std::io::{ErrorKind, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};

pub(super) use super::device::{CheckArgs, DeviceArgs};
use crate::config::schema::Mode;
use crate::config::{Authors, AuthorsOptions, Config};
use crate::device::Device;
use crate::eval::LoadedWeights;
use crate::files::{check_place, write_atomic};
use crate::graph::params::Layout;
use crate::weights::{Prefer, Reader, explained, taken};
use crate::{Error, Result, infer};

/// Which configuration.
#[derive(Debug, clap::Args)]
pub(super) struct ConfigArgs {
    /// Configuration file (YAML); what it leaves out has its default
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Override one key; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    pub(super) set: Vec<String>,
    #[command(flatten)]
    authors: AuthorsArgs,
}

impl ConfigArgs {
    /// The defaults, the file, the overrides.
    pub(super) fn load(&self) -> Result<Config> {
        self.read().map(|(config, _)| config)
    }

    /// As [`ConfigArgs::load`], with what a file in the authors' format says besides.
    pub(super) fn read(&self) -> Result<(Config, Option<Authors>)> {
        let read = Config::read(self.config.as_deref(), &self.set, self.authors.options())?;
        if let Some(authors) = &read.1 {
            authors.log();
        }
        Ok(read)
    }
}

/// What a configuration in the authors' format leaves open.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct AuthorsArgs {
    /// A configuration in the authors' format: whether the step follows the paper or, as there, the
    /// released code
    #[arg(long, value_enum)]
    semantics: Option<Semantics>,
    /// A configuration in the authors' format: GPUs of the recipe, whose batch_size is per GPU
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    world_size: Option<u16>,
}

/// Mode of the step.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Semantics {
    /// The paper's.
    Paper,
    /// That of the authors' code.
    Released,
}

impl AuthorsArgs {
    pub(super) fn options(&self) -> AuthorsOptions {
        AuthorsOptions {
            semantics: self.semantics.map(|s| match s {
                Semantics::Paper => Mode::Paper,
                Semantics::Released => Mode::Released,
            }),
            world_size: self.world_size.map(usize::from),
        }
    }
}

/// Which network of a checkpoint.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Network {
    /// The averaged network, the one U2PL is judged by.
    Teacher,
    /// The network that SGD trains.
    Student,
}

/// Trained weights and the configuration they belong to.
#[derive(Debug, clap::Args)]
pub(super) struct WeightsArgs {
    /// Weights or checkpoint (.pth or .safetensors), or a run folder
    #[arg(long, value_name = "FILE|DIR")]
    weights: PathBuf,
    /// Which network of a checkpoint that holds both
    #[arg(long, value_enum, default_value = "teacher")]
    model: Network,
    /// Configuration file. Default: the run folder's config.yaml, then the one in the checkpoint
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Override one key; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    authors: AuthorsArgs,
}

impl WeightsArgs {
    /// Where the weights are.
    pub(super) fn path(&self) -> &Path {
        &self.weights
    }

    /// Opens the file and finds its configuration, `sets` overriding it last.
    pub(super) fn open(&self, sets: Vec<String>) -> Result<(Reader, Config)> {
        self.open_at(&self.weights, Vec::new(), sets)
    }

    /// As [`WeightsArgs::open`] for other weights; `first` gives way to what `--set` says.
    pub(super) fn open_at(
        &self,
        path: &Path,
        first: Vec<String>,
        sets: Vec<String>,
    ) -> Result<(Reader, Config)> {
        let sets = [first, self.set.clone(), sets].concat();
        let (file, config, authors) =
            infer::config_with(path, self.config.as_deref(), &sets, self.authors.options())?;
        if let Some(authors) = authors {
            authors.log();
        }
        if let Some(skipped) = file.skipped() {
            tracing::warn!("{skipped}");
        }
        Ok((file, config))
    }

    /// Copies the chosen network to the device.
    pub(super) fn load(
        &self,
        file: &Reader,
        layout: &Layout,
        device: &Arc<dyn Device>,
    ) -> Result<LoadedWeights> {
        if file.meta("config").is_none()
            && let Some(taken) = taken(file, layout, self.prefer())
        {
            // Somebody else's file: which of its networks this is, is a guess.
            tracing::info!("{taken}");
        }
        let read = LoadedWeights::read(device, layout, file, self.prefer());
        explained(read, file, layout, self.prefer())
    }

    /// Which network.
    pub(super) fn prefer(&self) -> Prefer {
        match self.model {
            Network::Teacher => Prefer::Teacher,
            Network::Student => Prefer::Student,
        }
    }
}

/// Prints a line to stdout as far as it can be printed: what a command does goes on without a
/// reader.
pub(super) fn say(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// As [`say`], to stderr.
pub(super) fn tell(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Prints to stdout; a reader that went away is no error.
pub(super) fn emit(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() != ErrorKind::BrokenPipe => {
            Err(Error::io("standard output", "write to it", e).into())
        }
        _ => Ok(()),
    }
}

/// Writes JSON to a file, or to stdout for `-`.
pub(super) fn emit_json(path: &Path, value: &serde_json::Value) -> anyhow::Result<()> {
    let text = format!("{value:#}\n");
    if path == Path::new("-") {
        return emit(&text);
    }
    Ok(write_atomic(path, text.as_bytes())?)
}

/// Refuses, before anything is measured, a file for [`emit_json`] that could not be written.
pub(super) fn check_json(path: Option<&Path>) -> Result<()> {
    path.map_or(Ok(()), |path| check_place(path, None))
}

/// Progress through a known number of items: a bar on a terminal, now and then a line elsewhere.
pub(super) struct Progress {
    bar: Option<ProgressBar>,
    what: &'static str,
    total: usize,
    /// Items between lines: ten lines in all.
    every: usize,
}

impl Progress {
    pub(super) fn new(what: &'static str, total: usize) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(total as u64).with_prefix(what);
            let template = "{prefix} [{bar:32}] {pos}/{len} {elapsed}<{eta}";
            match ProgressStyle::with_template(template) {
                Ok(style) => bar.with_style(style.progress_chars("=> ")),
                Err(_) => bar,
            }
        });
        Self {
            bar,
            what,
            total,
            every: total.div_ceil(10).max(1),
        }
    }

    /// `done` items are done.
    pub(super) fn at(&self, done: usize) {
        match &self.bar {
            Some(bar) => bar.set_position(done as u64),
            None if done.is_multiple_of(self.every) || done == self.total => {
                tell(&format!("{}: {done}/{}", self.what, self.total));
            }
            None => {}
        }
    }

    /// A line for stderr that does not tear the bar.
    pub(super) fn note(&self, text: &str) {
        self.suspend(|| tell(text));
    }

    /// Does `print` without the bar on the screen.
    pub(super) fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
