//! `u2pl-engine bench step` and `bench infer`: the engine against PyTorch and ONNX Runtime.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::bench::recipe_of;
use super::common::{check_json, emit, emit_json, tell};
use super::device::{Kind, Place, precision};
use crate::bench::versus::scripts::{Folder, Python};
use crate::bench::versus::side::{self, Side};
use crate::bench::versus::turns::{Measured, Turns};
use crate::bench::versus::work::{self, InferWork, StepWork, Work};
use crate::bench::versus::{engine, inference, report, summary};
use crate::config::schema::Encoder;
use crate::device::gpu::MathMode;
use crate::{Error, Result};

/// Whole programs instead of single operations.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Times a U2PL training step, the engine's and PyTorch's in turn
    Step(StepArgs),
    /// Times inference on whole images, the engine's, PyTorch's and ONNX Runtime's in turn
    Infer(InferArgs),
    /// Serves the engine's side on stdin and stdout
    #[command(hide = true)]
    Serve(ServeArgs),
}

/// What both comparisons take.
#[derive(Debug, clap::Args)]
struct Common {
    /// A Python with PyTorch, and onnxruntime for its row of `infer`; without --peer only the
    /// engine is measured
    #[arg(long, value_name = "PYTHON")]
    peer: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
    /// Arithmetic of both sides: fp32, tf32 or bf16; several, separated by commas, one after
    /// another. Default: fp32 on the cpu, bf16 on a GPU
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = precision)]
    precision: Vec<MathMode>,
    /// Timed turns of each side
    #[arg(long, value_name = "N", default_value_t = 5)]
    repeats: usize,
    /// Write every number as JSON here
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Encoder of every case, instead of its own
    #[arg(long, value_name = "NAME", value_parser = encoder)]
    encoder: Option<Encoder>,
    /// Images of every case, instead of its own: labelled ones and as many unlabelled in a step
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    batch: Option<u16>,
    /// Classes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(2..=254))]
    classes: Option<u16>,
}

/// Arguments of `bench step`.
#[derive(Debug, clap::Args)]
pub(super) struct StepArgs {
    /// Measure this one only: train129, train257 (ResNet-50, 2 + 2 images) or voc (ResNet-101,
    /// 513², 4 + 4); may be given several times. Default: the first two on the cpu, voc on a GPU
    #[arg(long, value_name = "NAME")]
    case: Vec<String>,
    /// Side of the crop of every case, instead of its own
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u16).range(33..))]
    crop: Option<u16>,
    #[command(flatten)]
    common: Common,
}

/// Arguments of `bench infer`.
#[derive(Debug, clap::Args)]
pub(super) struct InferArgs {
    /// Measure this one only: infer, infer8 (ResNet-50, 1 or 8 images of 360 × 480), voc, voc8
    /// (ResNet-101, 513²), and with the other encoder infer-r101, infer8-r101, voc-r50, voc8-r50;
    /// may be given several times; `all` is every one. Default: the first two on the cpu, voc and
    /// voc8 on a GPU
    #[arg(long, value_name = "NAME")]
    case: Vec<String>,
    /// Height and width of every case's images, instead of its own
    #[arg(long, value_names = ["HEIGHT", "WIDTH"], num_args = 2,
          value_parser = clap::value_parser!(u16).range(33..))]
    size: Vec<u16>,
    #[command(flatten)]
    common: Common,
}

/// Arguments of the engine's side.
#[derive(Debug, clap::Args)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    place: Place,
    #[arg(long, value_parser = precision)]
    precision: MathMode,
    /// A step's or inference's description; without it, the recipe's operations
    #[arg(long)]
    work: Option<String>,
    /// Weights of inference
    #[arg(long)]
    weights: Option<PathBuf>,
    #[arg(long)]
    recipe: Option<String>,
    #[arg(long)]
    config: Option<PathBuf>,
    #[arg(long)]
    set: Vec<String>,
}

fn encoder(name: &str) -> std::result::Result<Encoder, String> {
    match name {
        "resnet50" => Ok(Encoder::Resnet50),
        "resnet101" => Ok(Encoder::Resnet101),
        _ => Err("not one of resnet50, resnet101".into()),
    }
}

/// Runs the subcommand.
pub(super) fn run(command: &Command) -> anyhow::Result<()> {
    match command {
        Command::Step(args) => step(args),
        Command::Infer(args) => infer(args),
        Command::Serve(args) => serve(args),
    }
}

fn serve(args: &ServeArgs) -> anyhow::Result<()> {
    let made = || {
        let device = args.place.open(args.precision)?;
        match &args.work {
            Some(text) => {
                let work = serde_json::from_str(text);
                let work = work.map_err(|e| Error::internal(format!("--work: {e}")))?;
                engine::serve_work(&work, args.weights.as_deref(), device)
            }
            None => {
                let config = args.config.as_deref();
                let recipe = recipe_of(args.recipe.as_deref(), config, &args.set, "small")?;
                engine::serve_operations(&recipe, device)
            }
        }
    };
    let (stdin, stdout) = (std::io::stdin().lock(), std::io::stdout().lock());
    Ok(side::serve(made(), stdin, stdout)?)
}

/// The cases of those names, or `all`; `usual` ones where there are none.
fn named<T: Clone>(
    known: Vec<T>,
    name: impl Fn(&T) -> &str,
    wanted: &[String],
    usual: std::ops::Range<usize>,
) -> Result<Vec<T>> {
    if wanted.is_empty() {
        return Ok(known[usual].to_vec());
    }
    if wanted.iter().any(|w| w == "all") {
        return Ok(known);
    }
    let names: Vec<&str> = known.iter().map(&name).collect();
    let find = |wanted: &String| {
        let found = known.iter().find(|k| name(k) == wanted).cloned();
        found.ok_or_else(|| {
            Error::input(
                format!("--case {wanted}"),
                "no such case",
                format!("use one of {}, or all", names.join(", ")),
            )
        })
    };
    wanted.iter().map(find).collect()
}

fn step(args: &StepArgs) -> anyhow::Result<()> {
    check_json(args.common.json.as_deref())?;
    let usual = if args.common.cuda()? { 2..3 } else { 0..2 };
    let known = StepWork::known();
    let mut cases = named(known, |w| w.name.as_str(), &args.case, usual)?;
    for case in &mut cases {
        let before = case.clone();
        let sizes = (&mut case.encoder, &mut case.batch, &mut case.classes);
        let encoder = args.common.fit(sizes);
        case.crop = args.crop.map_or(case.crop, usize::from);
        if *case != before {
            let b = case.batch;
            case.name = format!("{encoder} {}² {b}+{b} c{}", case.crop, case.classes);
        }
    }
    args.common.compare(cases.into_iter().map(Work::Step))
}

fn infer(args: &InferArgs) -> anyhow::Result<()> {
    check_json(args.common.json.as_deref())?;
    let usual = if args.common.cuda()? { 2..4 } else { 0..2 };
    let known = InferWork::known();
    let mut cases = named(known, |w| w.name.as_str(), &args.case, usual)?;
    for case in &mut cases {
        let before = case.clone();
        let sizes = (&mut case.encoder, &mut case.batch, &mut case.classes);
        let encoder = args.common.fit(sizes);
        if let [h, w] = args.size[..] {
            case.size = [usize::from(h), usize::from(w)];
        }
        if *case != before {
            let [h, w] = case.size;
            case.name = format!("{encoder} {h}x{w} b{} c{}", case.batch, case.classes);
        }
    }
    // What sets two cases apart may be what was put in its place.
    let mut names = HashSet::new();
    cases.retain(|case| names.insert(case.name.clone()));
    args.common.compare(cases.into_iter().map(Work::Infer))
}

/// Refuses a number of turns that measures nothing.
pub(super) fn check_repeats(repeats: usize) -> Result<()> {
    match repeats {
        0 => Err(Error::input(
            "--repeats 0",
            "measures nothing",
            "use 1 or more",
        )),
        _ => Ok(()),
    }
}

/// Starts the engine's side in a process of its own.
pub(super) fn start_engine(
    place: &Place,
    precision: &str,
    what: &[String],
    log: PathBuf,
) -> Result<Side> {
    let own = std::env::current_exe().map_err(|e| Error::io("/proc/self/exe", "find", e))?;
    let mut args: Vec<String> = ["bench", "serve"].map(String::from).to_vec();
    args.extend(place.arguments());
    args.extend(["--precision".into(), precision.into()]);
    args.extend_from_slice(what);
    Side::start("engine", &own, &args, log)
}

pub(super) fn peer_place(place: &Place, precision: &str) -> Result<work::Place> {
    let cuda = match place.kind()? {
        Kind::Cpu => false,
        // PyTorch has one device of that kind per process; CUDA_VISIBLE_DEVICES chooses which.
        Kind::Cuda(0) => true,
        Kind::Cuda(_) => {
            return Err(Error::input(
                "--device",
                "engine and PyTorch must run on the same GPU",
                "use --device cuda, and CUDA_VISIBLE_DEVICES to choose the GPU",
            ));
        }
        Kind::Ptx(_) | Kind::Simt => {
            return Err(Error::input(
                "--device",
                "its times say nothing of a GPU",
                "use --device cpu or cuda",
            ));
        }
    };
    Ok(work::Place {
        cuda,
        precision: precision.into(),
        threads: place.used_threads()?,
    })
}

pub(super) fn turns(place: &work::Place, repeats: usize) -> Turns {
    Turns {
        rounds: repeats,
        warmup: if place.cuda { 3 } else { 1 },
        pause: Duration::from_millis(if place.cuda { 0 } else { 300 }),
        span_ms: if place.cuda { 500.0 } else { 100.0 },
        most: 50,
    }
}

impl Common {
    /// Puts what was asked for in the place of a case's own; the name of its encoder.
    fn fit(&self, (encoder, batch, classes): (&mut Encoder, &mut usize, &mut usize)) -> String {
        *encoder = self.encoder.unwrap_or(*encoder);
        *batch = self.batch.map_or(*batch, usize::from);
        *classes = self.classes.map_or(*classes, usize::from);
        format!("{encoder:?}").to_lowercase()
    }

    fn cuda(&self) -> Result<bool> {
        Ok(matches!(self.place.kind()?, Kind::Cuda(_)))
    }

    fn precisions(&self) -> Result<Vec<&'static str>> {
        let given: Vec<_> = self.precision.iter().map(|p| p.name()).collect();
        Ok(match (given.is_empty(), self.cuda()?) {
            (false, _) => given,
            (true, true) => vec![MathMode::Bf16.name()],
            (true, false) => vec![MathMode::Fp32.name()],
        })
    }

    /// Measures every case and prints its table.
    fn compare(&self, cases: impl Iterator<Item = Work>) -> anyhow::Result<()> {
        check_repeats(self.repeats)?;
        let python = self.peer.as_deref().map(Python::new).transpose()?;
        let folder = Folder::new()?;
        let threads = self.place.used_threads()?;
        let (mut all, mut tables) = (Vec::new(), Vec::new());
        for work in cases {
            let mut sides = Vec::new();
            for precision in self.precisions()? {
                sides.extend(self.measure(&work, precision, python.as_ref(), &folder)?);
            }
            emit(&report::case(work.name(), &sides))?;
            let json: Vec<Value> = sides.iter().map(Measured::json).collect();
            all.push(json!({"case": work.name(), "work": work, "sides": json}));
            if let Some(path) = &self.json {
                // After every case: a run that is cut short keeps what it has.
                let whole = json!({"threads": threads, "repeats": self.repeats, "cases": all});
                emit_json(path, &whole)?;
            }
            tables.push((work.name().to_string(), sides));
        }
        emit(&summary::summary(&tables))?;
        if python.is_none() {
            tell("for PyTorch's rows: pip install torch==2.11.0, then --peer PYTHON");
        }
        Ok(())
    }

    /// Every side of `work` in one precision, the engine first.
    fn measure(
        &self,
        work: &Work,
        precision: &str,
        python: Option<&Python>,
        folder: &Folder,
    ) -> anyhow::Result<Vec<Measured>> {
        let place = peer_place(&self.place, precision)?;
        let mut what = vec!["--work".into(), serde_json::to_string(work)?];
        if let Work::Infer(work) = work {
            let weights = folder.file("weights.safetensors");
            inference::save_untrained(work, &weights)?;
            what.extend(["--weights".into(), weights.display().to_string()]);
        }
        let mut started = vec![(
            "engine".to_string(),
            start_engine(&self.place, precision, &what, folder.file("engine.log")),
        )];
        if let Some(python) = python {
            for (i, variant) in work.variants(&place)?.into_iter().enumerate() {
                let side = python.start(folder, &variant, &format!("peer{i}.log"));
                if let Err(e @ Error::Input { .. }) = side {
                    return Err(e.into());
                }
                started.push((variant.name, side));
            }
        }
        let turns = turns(&place, self.repeats);
        Ok(take_turns(started, &turns, precision, work.name()))
    }
}

/// Runs what started; what each side measured, in the order given, the engine first.
fn take_turns(
    started: Vec<(String, Result<Side>)>,
    turns: &Turns,
    precision: &str,
    what: &str,
) -> Vec<Measured> {
    let mut sides: Vec<(Measured, Option<Side>)> = started
        .into_iter()
        .enumerate()
        .map(|(i, (name, side))| match side {
            Ok(side) => {
                let blank = Measured::missing(&name, i == 0, precision, String::new());
                (blank, Some(side))
            }
            Err(e) => {
                let reason = match e {
                    // Its row says which side it is.
                    Error::Side { problem, .. } => problem,
                    other => other.to_string(),
                };
                (Measured::missing(&name, i == 0, precision, reason), None)
            }
        })
        .collect();
    let mut running: Vec<&mut Side> = sides.iter_mut().filter_map(|(_, s)| s.as_mut()).collect();
    let mut times = turns
        .take(&mut running, &mut |round, side, ms| {
            tell(&format!(
                "{what} {precision} round {round}: {side}: {ms:.2} ms"
            ));
        })
        .into_iter();
    for (measured, side) in &mut sides {
        let Some(mut side) = side.take() else {
            continue;
        };
        measured.outcome = times.next().unwrap_or_else(|| Err("never ran".into()));
        if measured.outcome.is_err() {
            continue;
        }
        let checked = side.ask(&json!({"check": true}));
        measured.said = json!({"ready": side.ready()});
        match checked.and_then(|checked| Ok((checked, side.finish()?))) {
            Ok((checked, last)) => {
                measured.said["checked"] = checked["checked"].clone();
                measured.said["last"] = last;
            }
            Err(e) => tell(&format!("warning: {e}")),
        }
    }
    sides.into_iter().map(|(measured, _)| measured).collect()
}
