//! `u2pl-engine selftest`: whether a device computes what the CPU does.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};

use super::common::{Progress, check_json, emit, emit_json};
use super::device::{Kind, Place};
use crate::device::cpu::CpuDevice;
use crate::device::{Device, philox};
use crate::selftest::{self, Case, Math, Outcome, Tolerance, cases};
use crate::{Error, Result};

/// Runs every operation on the device and on the CPU and compares. The cpu device itself is
/// compared with itself on one thread: bit by bit in fp32, in bf16 with the f32 results.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    place: Place,
    /// Only this operation; may be given several times
    #[arg(long, value_name = "NAME")]
    op: Vec<String>,
    /// Seed of the data
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Write the result as JSON here; - prints it instead of the table
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Failures that the text output lists; the JSON has all.
const LISTED: usize = 40;

/// Runs the subcommand.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    check_json(args.json.as_deref())?;
    let kind = args.place.kind()?;
    let mut cases = chosen(args)?;
    if kind == Kind::Cpu {
        cases.retain(|case| case.math != Math::Tf32);
        for case in cases.iter_mut().filter(|case| case.math == Math::Fp32) {
            case.tolerance.fill(Tolerance::Exact);
        }
    }
    let pair = Pair::open(args, kind)?;
    let mut report = Report::new(args, &pair);
    let progress = Progress::new("selftest", cases.len());
    for (i, case) in cases.iter().enumerate() {
        report.add(case, pair.run(&args.place, case)?);
        progress.at(i + 1);
    }
    drop(progress);
    if kind == Kind::Cpu && args.op.is_empty() {
        report.philox();
    }
    if let Some(path) = &args.json {
        emit_json(path, &report.json())?;
    }
    if args
        .json
        .as_ref()
        .is_none_or(|path| path.as_os_str() != "-")
    {
        emit(&report.text())?;
    }
    report.verdict()
}

/// The cases of the operations that were asked for.
fn chosen(args: &Args) -> Result<Vec<Case>> {
    if let Some(unknown) = args
        .op
        .iter()
        .find(|op| !cases::OPERATIONS.contains(&op.as_str()))
    {
        let near = cases::OPERATIONS.iter().max_by(|a, b| {
            strsim::jaro_winkler(a, unknown).total_cmp(&strsim::jaro_winkler(b, unknown))
        });
        return Err(Error::input(
            format!("--op {unknown}"),
            "no such operation",
            format!("did you mean `{}`?", near.unwrap_or(&"conv")),
        ));
    }
    let wanted = |case: &Case| args.op.is_empty() || args.op.iter().any(|op| op == case.family);
    Ok(cases::all(args.seed).into_iter().filter(wanted).collect())
}

/// The device under test, in each precision, and the one that it is compared with.
struct Pair {
    oracle: CpuDevice,
    devices: HashMap<Math, Arc<dyn Device>>,
    name: String,
    against: String,
}

impl Pair {
    fn open(args: &Args, kind: Kind) -> Result<Self> {
        let mut devices = HashMap::<Math, Arc<dyn Device>>::new();
        if kind == Kind::Cpu {
            let threads = match args.place.threads {
                0 => std::thread::available_parallelism().map_or(2, |n| n.get().max(2)),
                n => n,
            };
            for math in [Math::Fp32, Math::Bf16] {
                devices.insert(math, Arc::new(CpuDevice::with_precision(threads, math)?));
            }
            return Ok(Self {
                oracle: CpuDevice::new(1)?,
                devices,
                name: format!("cpu, {threads} threads"),
                against: "cpu, 1 thread".into(),
            });
        }
        for math in Math::ALL {
            devices.insert(math, args.place.open_for_tests(math)?);
        }
        Ok(Self {
            oracle: CpuDevice::new(0)?,
            name: devices[&Math::Fp32].name(),
            devices,
            against: "cpu".into(),
        })
    }

    fn run(&self, place: &Place, case: &Case) -> Result<Outcome> {
        match self.devices.get(&case.math) {
            Some(device) => Ok(selftest::run(&**device, &self.oracle, case)),
            // Says which precision the device does not have.
            None => place.open(case.math).map(|_| Outcome::failed("no device")),
        }
    }
}

/// One line of the table.
struct Row {
    operation: &'static str,
    precision: &'static str,
    cases: usize,
    failed: usize,
    worst: Outcome,
}

/// What was found.
struct Report {
    device: String,
    against: String,
    seed: u64,
    cases: usize,
    rows: Vec<Row>,
    failures: Vec<Failure>,
}

struct Failure {
    operation: &'static str,
    precision: &'static str,
    case: String,
    shapes: String,
    message: String,
}

impl Report {
    fn new(args: &Args, pair: &Pair) -> Self {
        Self {
            device: pair.name.clone(),
            against: pair.against.clone(),
            seed: args.seed,
            cases: 0,
            rows: Vec::new(),
            failures: Vec::new(),
        }
    }

    fn add(&mut self, case: &Case, outcome: Outcome) {
        self.record(
            (case.family, case.math.name()),
            &case.name,
            case.shapes(),
            outcome,
        );
    }

    fn record(
        &mut self,
        (operation, precision): (&'static str, &'static str),
        name: &str,
        shapes: String,
        outcome: Outcome,
    ) {
        self.cases += 1;
        let failed = !outcome.passed();
        if failed {
            self.failures.push(Failure {
                operation,
                precision,
                case: name.into(),
                shapes,
                message: outcome.message.clone(),
            });
        }
        let same = |row: &&mut Row| row.operation == operation && row.precision == precision;
        match self.rows.iter_mut().find(same) {
            None => self.rows.push(Row {
                operation,
                precision,
                cases: 1,
                failed: usize::from(failed),
                worst: outcome,
            }),
            Some(row) => {
                row.cases += 1;
                row.failed += usize::from(failed);
                if outcome.worse_than(&row.worst) {
                    row.worst = outcome;
                }
            }
        }
    }

    /// Philox against its authors' published vectors: the draws of every operation rest on it.
    fn philox(&mut self) {
        for (counter, key, want) in philox::KNOWN_ANSWERS {
            let got = philox::philox4x32(counter, key);
            let outcome = match got == want {
                true => Outcome::equal(),
                false => Outcome::failed(format!("{got:x?}, published: {want:x?}")),
            };
            let name = format!("counter {counter:x?} key {key:x?}");
            self.record(("philox", "integer"), &name, "u32[4]".into(), outcome);
        }
    }

    /// An error when anything failed.
    fn verdict(&self) -> anyhow::Result<()> {
        let failed = self.failures.len();
        let (cases, device) = (self.cases, &self.device);
        anyhow::ensure!(failed == 0, "{failed} of {cases} cases failed on {device}");
        Ok(())
    }

    fn text(&self) -> String {
        let mut text = format!(
            "device {}, compared with {}, seed {}\n\n\
             {:<24} {:<9} {:>5} {:>12} {:>12}  verdict\n",
            self.device,
            self.against,
            self.seed,
            "operation",
            "precision",
            "cases",
            "worst error",
            "tolerance"
        );
        for row in &self.rows {
            let verdict = match row.failed {
                0 => "pass".into(),
                n => format!("FAIL ({n})"),
            };
            text += &format!(
                "{:<24} {:<9} {:>5} {:>12} {:>12}  {verdict}\n",
                row.operation,
                row.precision,
                row.cases,
                number(row.worst.error, "0"),
                number(row.worst.tolerance, "equal"),
            );
        }
        for failure in self.failures.iter().take(LISTED) {
            text += &format!(
                "\nfailed: {} {}, {}\n  {}\n  {}\n",
                failure.operation, failure.precision, failure.case, failure.shapes, failure.message
            );
        }
        if self.failures.len() > LISTED {
            let more = self.failures.len() - LISTED;
            text += &format!("\nand {more} more: --json lists them all\n");
        }
        text += &format!("\n{} cases, {} failed\n", self.cases, self.failures.len());
        text
    }

    fn json(&self) -> Value {
        let finite = |v: f64| v.is_finite().then_some(v);
        let rows: Vec<Value> = (self.rows.iter())
            .map(|row| {
                json!({
                    "operation": row.operation,
                    "precision": row.precision,
                    "cases": row.cases,
                    "failed": row.failed,
                    "worst_error": finite(row.worst.error),
                    "tolerance": finite(row.worst.tolerance),
                    "verdict": if row.failed == 0 { "pass" } else { "fail" },
                })
            })
            .collect();
        let failures: Vec<Value> = (self.failures.iter())
            .map(|f| {
                json!({
                    "operation": f.operation,
                    "precision": f.precision,
                    "case": f.case,
                    "shapes": f.shapes,
                    "message": f.message,
                })
            })
            .collect();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "device": self.device,
            "compared_with": self.against,
            "seed": self.seed,
            "cases": self.cases,
            "failed": self.failures.len(),
            "operations": rows,
            "failures": failures,
        })
    }
}

/// A number for the table, `zero` for 0.
fn number(value: f64, zero: &str) -> String {
    if value == 0.0 {
        zero.into()
    } else if value.is_finite() {
        format!("{value:.2e}")
    } else {
        "-".into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{DType, Op};
    use crate::selftest::Operand;

    #[test]
    fn a_failure_is_listed_and_is_an_error() {
        let mut report = Report {
            device: "toy".into(),
            against: "cpu".into(),
            seed: 1,
            cases: 0,
            rows: Vec::new(),
            failures: Vec::new(),
        };
        let case = Case::new("tail", Op::Relu)
            .input(Operand::bf16([1, 2, 3, 4], &[0.0; 24]).gap(2))
            .output([1, 2, 3, 4], DType::BF16, Tolerance::Exact);
        report.add(&case, Outcome::equal());
        assert!(report.verdict().is_ok());
        report.add(&case, Outcome::failed("boom"));
        assert_eq!(
            report.verdict().unwrap_err().to_string(),
            "1 of 2 cases failed on toy"
        );
        let text = report.text();
        for part in [
            "FAIL (1)",
            "failed: relu bf16, tail",
            "bf16[1,2,3,4]+2 → bf16[1,2,3,4]",
            "boom",
            "2 cases, 1 failed",
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        let json = report.json();
        assert_eq!(json["failed"], 1);
        assert_eq!(json["operations"][0]["verdict"], "fail");
        assert_eq!(json["operations"][0]["worst_error"], Value::Null);
        assert_eq!(json["failures"][0]["message"], "boom");
    }
}
