//! The conformance suite over the CPU and the kernels: every kernel on every case, then under eight hostile
//! schedules, bit by bit.
#![cfg(all(feature = "cli", any(feature = "ptx", feature = "simt")))]

#[path = "support/proof.rs"]
mod proof;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Write;
use std::sync::Arc;
use std::time::Instant;

use proof::{Launches, Schedule};
use u2pl_engine::device::cpu::CpuDevice;
use u2pl_engine::device::gpu::kernels::ALL;
use u2pl_engine::device::gpu::{GpuDevice, MathMode};
use u2pl_engine::selftest::{self, Case, Expected, cases};

const SEED: u64 = 1;
/// Schedules that a kernel's result must not depend on.
const SCHEDULES: u64 = 8;

/// A device per precision, and what they launched.
struct Devices {
    by_math: HashMap<MathMode, GpuDevice>,
    launches: Vec<Arc<Launches>>,
}

impl Devices {
    fn new(schedule: Schedule, seed: u64) -> Self {
        let mut launches = Vec::new();
        let mut open = |math| {
            // An H200 and an A100 in turn: both lengths of the convolutions' pipelines, one result.
            let card = [proof::driver, proof::a100][(seed % 2) as usize];
            let driver = card(schedule, seed, 0);
            launches.push(driver.launches());
            (math, GpuDevice::new(Box::new(driver), math))
        };
        let by_math = MathMode::ALL.into_iter().map(&mut open).collect();
        Self { by_math, launches }
    }

    fn of(&self, case: &Case) -> &GpuDevice {
        &self.by_math[&case.math]
    }

    /// Launches so far by kernel.
    fn counts(&self) -> Vec<u64> {
        let mut sums = vec![0; ALL.len()];
        for launches in &self.launches {
            for (sum, n) in sums.iter_mut().zip(launches.counts()) {
                *sum += n;
            }
        }
        sums
    }
}

fn name(case: &Case) -> String {
    let (family, math) = (case.family, case.math.name());
    format!("{family} {math}, {} ({})", case.name, case.shapes())
}

/// To the terminal even where the harness keeps output of passing tests to itself.
fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

#[test]
fn every_kernel_agrees_with_the_cpu_under_every_schedule() {
    let suite = cases::all(SEED);
    let mut failures = Vec::new();
    let passed = first_pass(&suite, &mut failures);
    report(&suite, &failures);
    schedules(&passed, &mut failures);
    assert!(
        failures.is_empty(),
        "{} failures:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

/// Every case once, against the CPU; those that passed, with what is expected of them.
fn first_pass<'a>(suite: &'a [Case], failures: &mut Vec<String>) -> Vec<(&'a Case, Expected)> {
    let cpu = CpuDevice::new(0).expect("cpu");
    let devices = Devices::new(Schedule::Sequential, 0);
    let mut passed = Vec::new();
    for case in suite {
        let expected = match selftest::expected(&cpu, case) {
            Ok(expected) => expected,
            Err(problem) => {
                failures.push(format!("{} on the cpu: {problem}", name(case)));
                continue;
            }
        };
        let outcome = selftest::check(devices.of(case), case, &expected);
        if outcome.passed() {
            passed.push((case, expected));
        } else {
            failures.push(format!("{}: {}", name(case), outcome.message));
        }
    }
    for operation in cases::OPERATIONS {
        if !suite.iter().any(|case| case.family == *operation) {
            failures.push(format!("operation {operation} has no case"));
        }
    }
    passed
}

fn report(suite: &[Case], failures: &[String]) {
    let mut table = BTreeMap::<&str, [usize; 3]>::new();
    let mut distinct = BTreeSet::new();
    for case in suite {
        table.entry(case.family).or_default()[case.math as usize] += 1;
        distinct.insert((case.family, case.math.name(), case.shapes()));
    }
    say(&format!("{:<24} fp32 tf32 bf16", "cases"));
    for (operation, [fp32, tf32, bf16]) in &table {
        say(&format!("{operation:<24} {fp32:>4} {tf32:>4} {bf16:>4}"));
    }
    say(&format!(
        "{} cases, {} of them (operation, precision, shape) apart; {} failures",
        suite.len(),
        distinct.len(),
        failures.len()
    ));
}

/// Every case under every schedule: the same bits, and no kernel left out.
fn schedules(passed: &[(&Case, Expected)], failures: &mut Vec<String>) {
    let clock = Instant::now();
    let mut first: Vec<Option<Vec<Vec<u8>>>> = vec![None; passed.len()];
    for seed in 0..SCHEDULES {
        let devices = Devices::new(Schedule::Pct, seed);
        for ((case, expected), first) in passed.iter().zip(&mut first) {
            match (selftest::bits(devices.of(case), case), &first) {
                (Err(problem), _) => {
                    failures.push(format!("{}, schedule {seed}: {problem}", name(case)));
                }
                (Ok(bits), None) => *first = Some(bits),
                (Ok(bits), Some(other)) if selftest::same_bits(case, expected, &bits, other) => {}
                (Ok(_), Some(_)) => failures.push(format!(
                    "{}: schedule {seed} gives other bits than the first",
                    name(case)
                )),
            }
        }
        for (info, n) in ALL.iter().zip(devices.counts()) {
            if n == 0 {
                let kernel = info.name;
                failures.push(format!("kernel {kernel} did not run under schedule {seed}"));
            }
        }
    }
    say(&format!(
        "{} cases under {SCHEDULES} schedules each, {} kernels: {:.0} s",
        passed.len(),
        ALL.len(),
        clock.elapsed().as_secs_f64()
    ));
}
