//! Runs a kernel from its PTX on the CPU and compares what comes out: a kernel engineer's tool.
//!
//! ```text
//! cargo run --release --features ptx --example run_ptx -- DIR/job.json
//!     [--schedule sequential|uniform|pct] [--seed N]    order of the warps (sequential, 0)
//!     [--model ieee|ampere|hopper]                      how tensor cores add (the chip's own way)
//!     [--arch sm_80|sm_90|sm_90a]                       the chip (what the PTX was compiled for)
//!     [--threads N]                                     host threads (all)
//!     [--max-instructions N]                            warp instructions of a block (2^28): the
//!                                                       bound of a loop without end
//! ```
//!
//! `u2pl_engine::ptx::job` documents `job.json`. Prints one JSON object: per `expect` the worst
//! difference, and the counters of the launch. Exit code 0 when every `expect` is met; 1 on a
//! mismatch or a fault of the kernel, with one line on stderr; 2 on a bad job, with one line.

use std::path::Path;
use std::process::ExitCode;

use serde_json::{Value, json};
use u2pl_engine::ptx::job::{Failure, Job, Outcome, Verdict};
use u2pl_engine::ptx::{Arch, Class, Counters, MmaModel, Options, Schedule};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(code) => ExitCode::from(code),
        Err(words) => {
            eprintln!("error: {words}");
            ExitCode::from(2)
        }
    }
}

struct Settings {
    path: String,
    arch: Option<Arch>,
    schedule: Schedule,
    seed: u64,
    model: Option<MmaModel>,
    threads: usize,
    max_instructions: u64,
}

const USAGE: &str = "usage: run_ptx JOB.json [--schedule sequential|uniform|pct] [--seed N] \
                     [--model ieee|ampere|hopper] [--arch sm_80|sm_90|sm_90a] [--threads N] \
                     [--max-instructions N]";

fn settings(arguments: &[String]) -> Result<Settings, String> {
    let mut settings = Settings {
        path: String::new(),
        arch: None,
        schedule: Schedule::Sequential,
        seed: 0,
        model: None,
        threads: 0,
        max_instructions: 1 << 28,
    };
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if !argument.starts_with("--") {
            if !settings.path.is_empty() {
                return Err(format!("{argument}: one job at a time; {USAGE}"));
            }
            settings.path.clone_from(argument);
            continue;
        }
        let value = rest
            .next()
            .ok_or_else(|| format!("{argument} needs a value; {USAGE}"))?;
        let unknown = || format!("{argument} {value}: not known; {USAGE}");
        match argument.as_str() {
            "--arch" => settings.arch = Some(Arch::from_name(value).ok_or_else(unknown)?),
            "--schedule" => settings.schedule = Schedule::from_name(value).ok_or_else(unknown)?,
            "--model" => settings.model = Some(MmaModel::named(value).ok_or_else(unknown)?),
            "--seed" => settings.seed = value.parse().map_err(|_| unknown())?,
            "--threads" => settings.threads = value.parse().map_err(|_| unknown())?,
            "--max-instructions" => {
                settings.max_instructions = value.parse().map_err(|_| unknown())?;
            }
            _ => return Err(unknown()),
        }
    }
    if settings.path.is_empty() {
        Err(USAGE.to_string())
    } else {
        Ok(settings)
    }
}

fn run(arguments: &[String]) -> Result<u8, String> {
    let settings = settings(arguments)?;
    let job = Job::load(Path::new(&settings.path)).map_err(|e| e.to_string())?;
    let arch = settings.arch.unwrap_or(job.module().target());
    let own = if arch == Arch::Sm80 {
        MmaModel::Ampere
    } else {
        MmaModel::Hopper
    };
    let options = Options {
        arch,
        schedule: settings.schedule,
        seed: settings.seed,
        threads: settings.threads,
        mma: settings.model.unwrap_or(own),
        max_instructions: settings.max_instructions,
        ..Options::default()
    };
    let mut object = json!({
        "entry": job.entry(),
        "arch": arch.name(),
        "schedule": format!("{:?}", options.schedule).to_lowercase(),
        "seed": options.seed,
        "model": options.mma.name(),
    });
    match job.run(options) {
        Ok(Outcome {
            verdicts,
            counters: launch,
            ..
        }) => {
            object["expects"] = verdicts.iter().map(verdict).collect();
            object["counters"] = counters(&launch);
            println!("{object}");
            let missed: Vec<String> = verdicts
                .iter()
                .filter(|v| !v.is_met())
                .map(|v| v.to_string())
                .collect();
            if missed.is_empty() {
                return Ok(0);
            }
            eprintln!("mismatch: {}", missed.join("; "));
            Ok(1)
        }
        Err(Failure::Bad(problem)) => Err(problem.to_string()),
        Err(failure) => {
            object["fault"] = Value::from(failure.to_string());
            println!("{object}");
            eprintln!("fault: {failure}");
            Ok(failure.exit_code())
        }
    }
}

fn verdict(verdict: &Verdict) -> Value {
    // JSON has no infinity.
    let worst = if verdict.worst.is_finite() {
        json!(verdict.worst)
    } else {
        json!("infinite")
    };
    json!({
        "buffer": verdict.buffer,
        "dtype": verdict.dtype.name(),
        "elements": verdict.elements,
        "worst_difference": worst,
        "worst_at": verdict.worst_at,
        "outside": verdict.outside,
        "atol": verdict.atol,
        "rtol": verdict.rtol,
        "met": verdict.is_met(),
    })
}

fn counters(counters: &Counters) -> Value {
    let classes: serde_json::Map<String, Value> = Class::ALL
        .into_iter()
        .map(|class| {
            (
                format!("{class:?}").to_lowercase(),
                counters.of(class).into(),
            )
        })
        .collect();
    json!({
        "blocks": counters.blocks,
        "warps": counters.warps,
        "instructions": counters.total(),
        "by_class": classes,
        "shared_wavefronts": counters.shared_wavefronts,
        "shared_wavefronts_least": counters.shared_wavefronts_least,
        "global_sectors": counters.global_sectors,
        "global_sectors_least": counters.global_sectors_least,
        "barriers": counters.barriers,
    })
}
