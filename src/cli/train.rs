//! `u2pl-engine train`: a run from a configuration, or the demo.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};

use super::common::{CheckArgs, ConfigArgs, DeviceArgs, say};
use super::interrupt::stop_signal;
use crate::config::{Authors, Config};
use crate::eval::Metrics;
use crate::method::diagnostics::Report;
use crate::train::{self, Observer, Options, Summary, demo};
use crate::{Error, Result};

/// Trains a network. Without --config: the demo, supervised-only against U2PL on synthetic shapes.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    check: CheckArgs,
    /// Run folder to create (or, with --resume, to go on in). Default: the first free runs/NAME-N
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Start from these weights (.pth or .safetensors): a whole network or an encoder
    #[arg(long, value_name = "FILE|DIR", conflicts_with_all = ["resume", "resume_with_new_data"])]
    init: Option<PathBuf>,
    /// Start from random weights where a configuration in the authors' format means ImageNet's
    #[arg(long, conflicts_with_all = ["init", "resume", "resume_with_new_data"])]
    from_scratch: bool,
    /// Go on where the run in --out stopped; its own config.yaml is used unless --config is given
    #[arg(long, requires = "out")]
    resume: bool,
    /// As --resume, although the lists name other images than the run was started with
    #[arg(long, requires = "out")]
    resume_with_new_data: bool,
    /// Stop after this many iterations in all
    #[arg(long, value_name = "N")]
    max_iters: Option<usize>,
    /// Time every operation of the last step, by the device's clock, into profile.json of the run
    #[arg(long)]
    profile: bool,
}

/// Runs the subcommand.
///
/// # Errors
/// Those of [`train::run`].
pub fn run(mut args: Args) -> Result<()> {
    args.resume |= args.resume_with_new_data;
    let mut demo = args.config.config.is_none();
    if let (true, true, Some(out)) = (args.resume, demo, &args.out) {
        let config = demo::config_path(out);
        demo = config.is_file();
        args.config.config = Some(match demo {
            true => config,
            false => run_config(out)?,
        });
    }
    let (mut cfg, authors) = args.config.read()?;
    if args.config.config.is_none() {
        cfg = Config::demo(&args.config.set)?;
    }
    cfg.validate()?;
    if let (Some(authors), false) = (authors, args.resume) {
        args.init = args.start(&authors)?;
    }
    let out = match &args.out {
        Some(out) => out.clone(),
        None => free_run_dir(&args.config)?,
    };
    let options = Options {
        device: args.device.open()?,
        out,
        init: args.init,
        resume: args.resume,
        new_data: args.resume_with_new_data,
        max_iters: args.max_iters,
        profile: args.profile,
        check: args.check.check(),
    };
    let mut display = Display::new(stop_signal());
    let ran = match demo {
        true => demo::compare(&cfg, &options, &mut display).map(Some),
        false => train::run(cfg, &options, &mut display).map(|_| None),
    };
    display.clear();
    if let Some(both) = ran? {
        display.compared(&both);
    }
    Ok(())
}

impl Args {
    /// The weights that a run of a file in the authors' format starts from. Theirs stops without
    /// the ImageNet weights of its encoder; a run that silently does without would end far below.
    fn start(&self, authors: &Authors) -> Result<Option<PathBuf>> {
        let init = self.init.clone().or_else(|| authors.pretrain.clone());
        match &authors.backbone {
            Some(encoder) if init.is_none() && !self.from_scratch => Err(Error::input(
                "--init",
                format!(
                    "the authors' code starts from ImageNet weights of {encoder}, and none are given"
                ),
                format!("give --init {encoder}.pth, or --from-scratch"),
            )),
            _ => Ok(init),
        }
    }
}

/// `config.yaml` of the run folder `out`.
fn run_config(out: &Path) -> Result<PathBuf> {
    let config = out.join("config.yaml");
    if config.is_file() {
        return Ok(config);
    }
    Err(Error::input(
        out.display().to_string(),
        "holds no run to go on with: there is no config.yaml",
        "give the --out of an interrupted run, or start anew without --resume",
    ))
}

/// The first `runs/NAME-N` that does not exist; of `ours/config.yaml` the folder is the name.
fn free_run_dir(config: &ConfigArgs) -> Result<PathBuf> {
    let path = config.config.as_deref();
    let stem = path.and_then(Path::file_stem);
    let folder = path.and_then(Path::parent).and_then(Path::file_name);
    let stem = match folder {
        Some(folder) if stem.is_some_and(|s| s == "config") => Some(folder),
        _ => stem,
    };
    let name = stem.map_or("demo".into(), |s| s.to_string_lossy().into_owned());
    (1..10_000)
        .map(|n| Path::new("runs").join(format!("{name}-{n}")))
        .find(|dir| !dir.exists())
        .ok_or_else(|| Error::input("runs/", "holds 9999 runs of this name", "give --out"))
}

/// Progress on a terminal as a bar, elsewhere as plain lines.
struct Display {
    bar: Option<ProgressBar>,
    title: &'static str,
    clock: Instant,
    start: usize,
    total: usize,
    stop: Arc<AtomicBool>,
}

impl Display {
    fn new(stop: Arc<AtomicBool>) -> Self {
        Self {
            stop,
            bar: None,
            title: "",
            clock: Instant::now(),
            start: 0,
            total: 0,
        }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| say(text)),
            None => say(text),
        }
    }

    /// Takes the bar off the screen.
    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }

    fn compared(&self, both: &demo::Comparison) {
        // Shapes have labels.
        let percent = |s: &Summary| 100.0 * judged(s, s.out.ends_with("u2pl")).unwrap_or(0.0);
        let (sup, u2pl) = (percent(&both.supervised), percent(&both.u2pl));
        say("");
        say(&format!(
            "supervised only  mIoU {sup:5.2} %   ({:.0} s)",
            both.supervised.seconds
        ));
        say(&format!(
            "U2PL             mIoU {u2pl:5.2} %   ({:.0} s)",
            both.u2pl.seconds
        ));
        say(&format!("difference            {:+5.2} points", u2pl - sup));
        say(&format!("predictions      {}", both.picture.display()));
        let folder = both.picture.parent().unwrap_or(Path::new("."));
        say(&format!("run folder       {}", folder.display()));
    }
}

/// The mIoU of the network that the run is judged by.
fn judged(summary: &Summary, teacher: bool) -> Option<f64> {
    if teacher {
        summary.teacher_miou
    } else {
        summary.student_miou
    }
}

impl Observer for Display {
    fn begin(&mut self, cfg: &Config, start: usize, total: usize) {
        self.title = cfg.train.algorithm.name();
        (self.start, self.total, self.clock) = (start, total, Instant::now());
        if start >= total {
            self.line(&format!(
                "{}: {start} iterations are done already",
                self.title
            ));
            return;
        }
        if std::io::stdout().is_terminal() {
            let bar = ProgressBar::new(total as u64).with_position(start as u64);
            let template = "{prefix} [{bar:32}] {pos}/{len} {elapsed}<{eta} {msg}";
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_prefix(self.title);
            self.bar = Some(bar);
        } else {
            say(&format!("{}: iterations {start} to {total}", self.title));
        }
    }

    fn step(&mut self, done: usize, lr: f32, report: Option<&Report>) {
        if let Some(bar) = &self.bar {
            // The report of a step comes after the next one has begun.
            bar.set_position(bar.position().max(done as u64));
        }
        let Some(report) = report else { return };
        let text = describe(lr, report);
        match &self.bar {
            Some(bar) => bar.set_message(text),
            None => {
                let rate = (done - self.start) as f64 / self.clock.elapsed().as_secs_f64();
                say(&format!(
                    "{} {done}/{} {text} {rate:.2} it/s",
                    self.title, self.total
                ));
            }
        }
    }

    fn validated(&mut self, epoch: usize, who: &str, metrics: &Metrics, best: f64) {
        let text = match metrics.miou() {
            Some(miou) => format!("mIoU {:.2} % (best {:.2} %)", 100.0 * miou, 100.0 * best),
            None => "no mIoU".into(),
        };
        self.line(&format!(
            "{} epoch {} validation of the {who}: {text}",
            self.title,
            epoch + 1,
        ));
    }

    fn stops(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn end(&mut self, summary: &Summary) {
        self.clear();
        // A run that stopped before its first validation has kept nothing as its best.
        let best = match summary.best_miou > 0.0 {
            true => format!(", best {:.2} %", 100.0 * summary.best_miou),
            false => String::new(),
        };
        let percent =
            |miou: Option<f64>| miou.map_or("–".into(), |m| format!("{:.2} %", 100.0 * m));
        say(&format!(
            "{}: {} iterations in {:.0} s; mIoU student {}, teacher {}{best}; {}",
            self.title,
            summary.iterations,
            summary.seconds,
            percent(summary.student_miou),
            percent(summary.teacher_miou),
            summary.out.display()
        ));
        if let Some(paused) = paused(summary) {
            say(&format!("{}: {paused}", self.title));
        }
        let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
        let measured = summary
            .measured_bytes
            .map_or("unknown here".into(), |b| format!("{:.1} MiB", mib(b)));
        say(&format!(
            "{}: memory of the step: planned {:.1} MiB, measured {measured}",
            self.title,
            mib(summary.planned_bytes)
        ));
    }
}

/// What a run that ends before its schedule does leaves open.
fn paused(summary: &Summary) -> Option<String> {
    let (done, planned) = (summary.iterations, summary.planned_iterations);
    if done >= planned {
        return None;
    }
    let mut text = format!(
        "paused at {done} of {planned} iterations: checkpoints/last.safetensors holds this state, which \
         best.safetensors does not take in; --resume goes on"
    );
    if let Some(begins) = summary.unlabeled_from.filter(|begins| done <= *begins) {
        text += &format!("; unlabelled images come in from iteration {begins}");
    }
    Some(text)
}

/// One step in one line.
fn describe(lr: f32, report: &Report) -> String {
    let mut text = format!("lr {lr:.5} sup {:.3}", report.loss.sup);
    if let Some(aux) = report.loss.aux {
        text += &format!(" aux {aux:.3}");
    }
    if let Some(unsup) = report.loss.unsup {
        text += &format!(" unsup {unsup:.3}");
    }
    if let Some(contrast) = report.loss.contrast {
        text += &format!(" contrast {contrast:.3}");
    }
    if let Some(u) = &report.u2pl {
        text += &format!(" kept {:.0} % γ {:.3}", 100.0 * u.kept, u.gamma);
        if let Some(accuracy) = u.pseudo_accuracy {
            text += &format!(" pseudo {:.0} %", 100.0 * accuracy);
        }
    }
    text
}
