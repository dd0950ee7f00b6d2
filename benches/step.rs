//! Training step and inference against PyTorch (`benches/README.md`).
//!
//! `cargo bench --bench step -- [--peer PYTHON] [--repeats N] [--threads N] [--case NAME]
//! [--json FILE]`
//!
//! Every side of a case is a process of its own, so that its peak memory is its own: this binary
//! again for the engine, a script of `benches/peers` for PyTorch. All of them are started, then
//! take steps in turn (A B C A B C …), so that whatever else loads the machine loads each alike.

#[path = "step/engine.rs"]
mod engine;
#[path = "step/protocol.rs"]
mod protocol;
#[path = "step/report.rs"]
mod report;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde_json::json;

use protocol::Side;
use report::Measured;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Case {
    /// U2PL training step, crop 129 × 129, 2 + 2 images.
    Train129,
    /// The same, crop 257 × 257.
    Train257,
    /// One 360 × 480 image.
    Infer,
}

impl Case {
    const ALL: [Case; 3] = [Case::Train129, Case::Train257, Case::Infer];

    fn name(self) -> &'static str {
        match self {
            Case::Train129 => "train129",
            Case::Train257 => "train257",
            Case::Infer => "infer",
        }
    }

    /// Script and its arguments, one list per variant of the peer.
    fn peer(self) -> (&'static str, Vec<Vec<&'static str>>) {
        let formats = ["nchw", "nhwc"];
        let train = |crop| {
            formats
                .map(|f| vec!["--crop", crop, "--format", f])
                .to_vec()
        };
        match self {
            Case::Train129 => ("train_step.py", train("129")),
            Case::Train257 => ("train_step.py", train("257")),
            Case::Infer => (
                "infer.py",
                formats
                    .iter()
                    .flat_map(|&f| [vec!["--format", f], vec!["--format", f, "--fold"]])
                    .collect(),
            ),
        }
    }
}

#[derive(Debug, Parser)]
struct Args {
    /// Python with PyTorch; without it only the engine is measured
    #[arg(long, value_name = "PYTHON")]
    peer: Option<PathBuf>,
    /// Timed steps of each side, after one that is not timed
    #[arg(long, default_value_t = 5)]
    repeats: usize,
    /// Threads of each side; 0 = one per core
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Measure these only
    #[arg(long, value_name = "NAME")]
    case: Vec<Case>,
    /// Write every number as JSON here
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Serve this case's engine side on stdin and stdout
    #[arg(long, hide = true)]
    engine: Option<Case>,
    /// Passed by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(case) = args.engine {
        return engine::serve(case, args.threads);
    }
    if !args.bench {
        // `cargo test --all-targets` runs bench binaries too; minutes of timing are no test.
        println!("measures only under `cargo bench --bench step`");
        return Ok(());
    }
    ensure!(args.repeats > 0, "--repeats must be at least 1");
    let threads = match args.threads {
        0 => std::thread::available_parallelism()?.get(),
        n => n,
    };
    let cases = match args.case.as_slice() {
        [] => Case::ALL.as_slice(),
        some => some,
    };
    println!("{} threads, {} timed steps a side", threads, args.repeats);
    let mut all = Vec::new();
    for &case in cases {
        let measured = measure(case, args.peer.as_deref(), threads, args.repeats)?;
        print!("{}", report::text(case.name(), &measured));
        all.push(json!({"case": case.name(), "sides": report::json(&measured)}));
        if let Some(path) = &args.json {
            // After every case: a run that is cut short keeps what it has.
            let text = serde_json::to_string_pretty(&json!({"threads": threads, "cases": all}))?;
            std::fs::write(path, text + "\n")
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    if args.peer.is_none() {
        println!("For PyTorch's column: pip install torch==2.11.0, then --peer PYTHON");
    }
    Ok(())
}

/// Runs every side of `case`, the engine first.
fn measure(
    case: Case,
    peer: Option<&Path>,
    threads: usize,
    repeats: usize,
) -> Result<Vec<Measured>> {
    let threads = threads.to_string();
    let mut sides = vec![Side::start(
        "engine".into(),
        &std::env::current_exe()?,
        &["--engine", case.name(), "--threads", &threads],
    )?];
    if let Some(python) = peer {
        let (script, variants) = case.peer();
        let script = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("benches/peers")
            .join(script);
        let script = script.to_string_lossy();
        for variant in variants {
            let flags = variant.iter().filter(|f| !f.starts_with("--format"));
            let name = flags
                .map(|f| f.trim_start_matches("--"))
                .collect::<Vec<_>>();
            let name = format!("PyTorch {}", name.join(" ").replace("crop ", ""));
            let mut args = vec![&*script, "--threads", &threads];
            args.extend(variant);
            sides.push(Side::start(name, python, &args)?);
        }
    }
    for round in 0..=repeats {
        for side in &mut sides {
            let ms = side.step()?;
            eprintln!("{} round {round}: {}: {ms:.1} ms", case.name(), side.name());
        }
    }
    // The first step is a warm-up: pages, plans, thread pools.
    sides.into_iter().map(|side| side.finish(1)).collect()
}
