//! `u2pl-engine bench`: time of every operation, and its share of what the machine can do.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::bench_data;
use super::common::{DeviceArgs, Progress, check_json, emit, emit_json, tell};
use super::device::Kind;
use super::versus;
use super::versus_operations::Operations;
use crate::bench::compare::{self, Comparison};
use crate::bench::report::{Report, Row, Run, header};
use crate::bench::{Case, Ceilings, Recipe, Timer, check_seconds, table};
use crate::config::Config;
use crate::device::Device;
use crate::machine::{cpu_model, utc_now};
use crate::{Error, Result};

/// Times operations at the shapes of a recipe's training step, inference and evaluation, with
/// operands out of the cache, and sets each against what the machine can do at most.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Args {
    #[command(subcommand)]
    other: Option<Sub>,
    /// Only these cases: an operation (`conv`), or part of a name (`3x3 d2`). Default: all
    #[arg(value_name = "OP")]
    ops: Vec<String>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Whose shapes: voc, cityscapes, small or tiny. Default: small on the cpu, voc on a GPU, tiny
    /// on simt
    #[arg(long, value_name = "NAME")]
    recipe: Option<String>,
    /// Shapes of this configuration instead
    #[arg(long, value_name = "FILE", conflicts_with = "recipe")]
    config: Option<PathBuf>,
    /// Override one key of the recipe; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// List the cases and run nothing
    #[arg(long)]
    list: bool,
    /// Seconds for each case; 0 runs each once
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 0.5,
        allow_negative_numbers = true
    )]
    time: f64,
    /// Ceilings to use instead of measured ones: copy=GB/s,matmul=TFLOP/s, or one of them
    #[arg(long, value_name = "LIST")]
    ceilings: Option<String>,
    /// Write the result as JSON here; - prints it instead of the tables
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Set the times against those of an earlier --json
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
    /// Fail when a case takes more than this many times as long as in --compare
    #[arg(long, value_name = "RATIO", requires = "compare")]
    fail_above: Option<f64>,
    /// Measure PyTorch at the same operations, in turn with the engine, and print the ratios: a
    /// Python that has it
    #[arg(long, value_name = "PYTHON", conflicts_with_all = ["compare", "ceilings", "time"])]
    peer: Option<PathBuf>,
    /// Timed turns of each side
    #[arg(long, value_name = "N", default_value_t = 5, requires = "peer")]
    repeats: usize,
}

/// What else can be measured.
#[derive(Debug, clap::Subcommand)]
enum Sub {
    Data(bench_data::Args),
    #[command(flatten)]
    Versus(versus::Command),
}

/// Runs the subcommand.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    match &args.other {
        Some(Sub::Data(args)) => return bench_data::run(args),
        Some(Sub::Versus(command)) => return versus::run(command),
        None => {}
    }
    check_json(args.json.as_deref())?;
    check_seconds(args.time)?;
    let limit = args.fail_above.map(check_ratio).transpose()?;
    // Before minutes of measuring.
    let before = args.compare.as_deref().map(compare::read).transpose()?;
    let device = args.device.open()?;
    let recipe = args.recipe()?;
    let cases = chosen(table(&recipe, &*device)?, &args.ops)?;
    if args.list {
        return emit(&list(&cases));
    }
    if let Some(python) = &args.peer {
        let timer = Timer::new(device.clone(), 0.0);
        let fitted = cases.iter().filter_map(|c| timer.fitted(c));
        let plan = Operations {
            recipe: args.recipe_arguments()?,
            cases: fitted.collect(),
            device: args.device.place(),
            precision: args.device.precision(),
            repeats: args.repeats,
            json: args.json.as_deref(),
        };
        return plan.run(python);
    }
    let report = measure(args, &recipe, &cases, device)?;
    let quiet = args.json.as_deref() == Some(Path::new("-"));
    if let Some(path) = &args.json {
        emit_json(path, &serde_json::to_value(&report)?)?;
    }
    if !quiet {
        emit(&report.sums())?;
    }
    let Some(before) = before else { return Ok(()) };
    let comparison = Comparison::new(&before, &report);
    for warning in &comparison.warnings {
        tell(&format!("warning: {warning}"));
    }
    if !quiet {
        emit(&comparison.text())?;
    }
    verdict(&comparison, limit)
}

/// Fails when something became slower than allowed.
fn verdict(comparison: &Comparison, limit: Option<f64>) -> anyhow::Result<()> {
    let Some(limit) = limit else { return Ok(()) };
    let slower = comparison.slower_than(limit);
    let Some(worst) = slower.first() else {
        return Ok(());
    };
    anyhow::bail!(
        "{} of {} cases take more than {limit} times as long as before: {} ({:.2}){}",
        slower.len(),
        comparison.pairs.len(),
        worst.name,
        worst.ratio(),
        if slower.len() > 1 { " and others" } else { "" }
    )
}

fn check_ratio(ratio: f64) -> Result<f64> {
    match ratio.is_finite() && ratio > 0.0 {
        true => Ok(ratio),
        false => Err(Error::input(
            format!("--fail-above {ratio}"),
            "not a ratio above 0",
            "use 1.1 to allow a tenth more time",
        )),
    }
}

/// The recipe of `--recipe`, `--config` and `--set`, or the usual one of a kind of device.
pub(super) fn recipe_of(
    name: Option<&str>,
    config: Option<&Path>,
    set: &[String],
    usual: &str,
) -> Result<Recipe> {
    if let Some(path) = config {
        let cfg = Config::load(Some(path), set)?;
        cfg.validate_for_use()?;
        return Ok(Recipe::of_config(path.display().to_string(), cfg));
    }
    Recipe::named(name.unwrap_or(usual), set)
}

impl Args {
    fn recipe(&self) -> Result<Recipe> {
        let usual = match self.device.kind()? {
            Kind::Cpu => "small",
            Kind::Cuda(_) => "voc",
            Kind::Ptx(_) | Kind::Simt => "tiny",
        };
        recipe_of(
            self.recipe.as_deref(),
            self.config.as_deref(),
            &self.set,
            usual,
        )
    }

    /// The arguments that choose the same recipe in another process.
    fn recipe_arguments(&self) -> Result<Vec<String>> {
        let mut arguments = match &self.config {
            Some(path) => vec!["--config".into(), path.display().to_string()],
            None => vec!["--recipe".into(), self.recipe()?.name],
        };
        for set in &self.set {
            arguments.extend(["--set".into(), set.clone()]);
        }
        Ok(arguments)
    }

    fn ceilings(&self, device: &Arc<dyn Device>, threads: usize) -> Result<Option<Ceilings>> {
        match &self.ceilings {
            // Both given: nothing to measure. One given: the other is.
            Some(text) => {
                let base = Ceilings::h200().overridden(text)?;
                if base.copy_from == base.matmul_from {
                    return Ok(Some(base));
                }
                let measured = Ceilings::measured(device, threads)?;
                measured.unwrap_or(base).overridden(text).map(Some)
            }
            None => Ceilings::measured(device, threads),
        }
    }
}

/// The cases that a word of `words` names: the operation itself, else any part of the name.
fn chosen(cases: Vec<Case>, words: &[String]) -> Result<Vec<Case>> {
    let is_kind = |word: &str| cases.iter().any(|c| c.kind == word);
    let matches = |case: &Case, word: &String| match is_kind(word) {
        true => case.kind == word,
        false => case.name.contains(word.as_str()),
    };
    if let Some(unknown) = words.iter().find(|w| !cases.iter().any(|c| matches(c, w))) {
        let near = |c: &&Case| (1e6 * strsim::jaro_winkler(c.kind, unknown)) as u64;
        let near = cases.iter().max_by_key(near).map_or("conv", |c| c.kind);
        return Err(Error::input(
            format!("bench {unknown}"),
            "no case of this recipe has such an operation or name",
            format!("did you mean `{near}`? --list shows all"),
        ));
    }
    let wanted = |c: &Case| words.is_empty() || words.iter().any(|w| matches(c, w));
    let keep: Vec<bool> = cases.iter().map(wanted).collect();
    let picked = cases.into_iter().zip(keep);
    Ok(picked.filter_map(|(c, keep)| keep.then_some(c)).collect())
}

fn list(cases: &[Case]) -> String {
    let mut text = format!(
        "{:<58} {:>11} {:>11}  {:<30} {}\n",
        "case", "MB", "GFLOP", "first layer", "calls"
    );
    for case in cases {
        let cost = case.cost();
        let uses: Vec<String> = case
            .uses
            .iter()
            .map(|u| format!("{} {}", u.count, u.program))
            .collect();
        text += &format!(
            "{:<58} {:>11.3} {:>11.4}  {:<30} {}\n",
            case.name,
            cost.bytes / 1e6,
            cost.flops / 1e9,
            case.layer,
            uses.join(", ")
        );
    }
    text
}

/// Measures ceilings and cases, printing each as it comes.
fn measure(
    args: &Args,
    recipe: &Recipe,
    cases: &[Case],
    device: Arc<dyn Device>,
) -> anyhow::Result<Report> {
    let quiet = args.json.as_deref() == Some(Path::new("-"));
    let threads = args.device.threads()?;
    let ceilings = match args.time == 0.0 && args.ceilings.is_none() {
        // A single run of each case is no measurement; neither need the ceilings be.
        true => None,
        false => args.ceilings(&device, threads.max(1))?,
    };
    let mut timer = Timer::new(device.clone(), args.time);
    let mut report = Report {
        run: Run {
            version: env!("CARGO_PKG_VERSION").into(),
            build: if cfg!(debug_assertions) {
                "debug"
            } else {
                "release"
            }
            .into(),
            date: utc_now(),
            device: device.name(),
            precision: args.device.precision().into(),
            threads,
            cpu: cpu_model(),
            recipe: recipe.name.clone(),
            seconds: args.time,
            cache_bytes: timer.cache_bytes(),
        },
        ceilings,
        cases: Vec::new(),
    };
    if !quiet {
        emit(&format!("{}\n{}\n", report.preamble(), header()))?;
    }
    let progress = Progress::new("bench", cases.len());
    for (i, case) in cases.iter().enumerate() {
        match timer.fitted(case) {
            Some(case) => {
                let measured = timer.measure(&case)?;
                let row = Row::new(&case, &measured, report.ceilings.as_ref());
                if !quiet {
                    progress
                        .suspend(|| emit(&format!("{}\n", row.line(report.ceilings.as_ref()))))?;
                }
                report.cases.push(row);
            }
            None => progress.note(&format!(
                "left out: {}: {:.1} GiB do not fit the memory that is free",
                case.name,
                case.bytes() as f64 / (1u64 << 30) as f64
            )),
        }
        progress.at(i + 1);
    }
    Ok(report)
}
