//! The PTX machine judged by code that another compiler made: `ptx_jobs/NAME/`, by Triton 3.6
//! (`ptx_jobs/make_jobs.py`), under eight schedules each. Then mistakes planted in that code: each
//! must be reported or come out wrong. `--nocapture` prints the tables.

use std::path::{Path, PathBuf};

use u2pl_engine::ptx::job::{Failure, Job};
use u2pl_engine::ptx::{Arch, MmaModel, Options, Schedule};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ptx_jobs")
}

fn load(name: &str) -> Job {
    Job::load(&folder().join(name).join("job.json")).unwrap_or_else(|e| panic!("{e}"))
}

fn names() -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.path().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .filter(|name| name.starts_with("sm"))
        .collect();
    names.sort();
    names
}

/// Eight schedules, with the tensor cores of the chip.
fn schedules(job: &Job) -> impl Iterator<Item = Options> {
    let arch = job.module().target();
    let mma = if arch == Arch::Sm80 {
        MmaModel::Ampere
    } else {
        MmaModel::Hopper
    };
    let kinds = [
        (Schedule::Sequential, 0),
        (Schedule::Uniform, 1),
        (Schedule::Uniform, 2),
        (Schedule::Uniform, 3),
        (Schedule::Pct, 4),
        (Schedule::Pct, 5),
        (Schedule::Pct, 6),
        (Schedule::Pct, 7),
    ];
    kinds.into_iter().map(move |(schedule, seed)| Options {
        arch,
        schedule,
        seed,
        mma,
        ..Options::default()
    })
}

#[test]
fn every_job_is_met_under_every_schedule() {
    let names = names();
    assert!(names.len() >= 21, "{names:?}");
    let mut wrong = Vec::new();
    for name in &names {
        let job = load(name);
        let mut worst = 0.0f64;
        for options in schedules(&job) {
            let (schedule, seed) = (options.schedule, options.seed);
            match job.run(options) {
                Ok(outcome) => {
                    for verdict in &outcome.verdicts {
                        worst = worst.max(verdict.worst);
                        if !verdict.is_met() {
                            wrong.push(format!("{name}, {schedule:?} {seed}: {verdict}"));
                        }
                    }
                }
                Err(failure) => wrong.push(format!("{name}, {schedule:?} {seed}: {failure}")),
            }
        }
        println!("{name:26} worst difference {worst:.3e}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_models_differ_in_bits_and_not_in_sense() {
    let job = load("sm90_wgmma_tf32");
    let bits = |mma| {
        let options = Options {
            arch: Arch::Sm90a,
            mma,
            ..Options::default()
        };
        let outcome = job.run(options).unwrap();
        assert!(outcome.is_met());
        outcome.results[0].clone()
    };
    let (ieee, ampere, hopper) = (
        bits(MmaModel::Ieee),
        bits(MmaModel::Ampere),
        bits(MmaModel::Hopper),
    );
    assert!(ieee != ampere && ampere != hopper && ieee != hopper);
}

/// A mistake planted in a job's PTX.
struct Planted {
    what: &'static str,
    job: &'static str,
    /// Text that is replaced, and by what; the number of the occurrence, or all.
    from: &'static str,
    to: &'static str,
    occurrence: Option<usize>,
    /// Words of the report; `None`: the numbers are wrong, or it is reported in other words.
    says: &'static str,
}

impl Planted {
    fn text(&self, ptx: &str) -> String {
        let places: Vec<usize> = ptx.match_indices(self.from).map(|(at, _)| at).collect();
        assert!(
            !places.is_empty(),
            "{}: `{}` is not in {}",
            self.what,
            self.from,
            self.job
        );
        match self.occurrence {
            None => ptx.replace(self.from, self.to),
            Some(n) => {
                let at = places[n];
                format!("{}{}{}", &ptx[..at], self.to, &ptx[at + self.from.len()..])
            }
        }
    }
}

const PLANTED: &[Planted] = &[
    Planted {
        what: "no proxy fence before a TMA store",
        job: "sm90_warp_specialised",
        from: "fence.proxy.async.shared::cta;",
        to: "",
        occurrence: Some(1),
        says: "fence.proxy.async",
    },
    Planted {
        what: "no proxy fence before a TMA store (attention)",
        job: "sm90_attention",
        from: "fence.proxy.async.shared::cta;",
        to: "",
        occurrence: None,
        says: "fence.proxy.async",
    },
    Planted {
        what: "16 bytes too few expected",
        job: "sm90_wgmma_f16",
        from: ", 16384;",
        to: ", 16368;",
        occurrence: None,
        says: "transaction count",
    },
    Planted {
        what: "16 bytes too many expected",
        job: "sm90_wgmma_f16",
        from: ", 16384;",
        to: ", 16400;",
        occurrence: None,
        says: "16 bytes",
    },
    Planted {
        what: "swizzle of 64 bytes for one of 128",
        job: "sm90_warp_specialised",
        // Bit 62 is the swizzle of 128 bytes, bit 63 that of 64.
        from: "4611686293305294848",
        to: "9223372311732682752",
        occurrence: None,
        says: "differ",
    },
    Planted {
        what: "B's descriptor 16 bytes off",
        job: "sm90_warp_specialised",
        from: "4611686293305294976",
        to: "4611686293305294977",
        occurrence: None,
        says: "",
    },
    Planted {
        what: "A's descriptor 16 bytes off",
        job: "sm90_warp_specialised",
        from: "4611686293305294850",
        to: "4611686293305294851",
        occurrence: None,
        says: "",
    },
    Planted {
        what: "accumulators used before the wait",
        job: "sm90_wgmma_f16",
        from: "wgmma.wait_group.sync.aligned 0;",
        to: "",
        occurrence: None,
        says: "before wgmma.wait_group",
    },
    Planted {
        what: "wait for all but one group, not for all",
        job: "sm90_wgmma_f16",
        from: "wgmma.wait_group.sync.aligned 0;",
        to: "wgmma.wait_group.sync.aligned 1;",
        occurrence: None,
        says: "before wgmma.wait_group",
    },
    Planted {
        what: "no wgmma.fence",
        job: "sm90_wgmma_f16",
        from: "wgmma.fence.sync.aligned;",
        to: "",
        occurrence: None,
        says: "wgmma.fence",
    },
    Planted {
        what: "no commit of the group that is waited for",
        job: "sm90_warp_specialised",
        from: "wgmma.commit_group.sync.aligned;",
        to: "",
        occurrence: None,
        says: "not ordered with the read by wgmma",
    },
    Planted {
        what: "a stage given back before wgmma has read it",
        job: "sm90_warp_specialised",
        from: "wgmma.wait_group.sync.aligned 0;",
        to: "wgmma.wait_group.sync.aligned 1;",
        occurrence: Some(0),
        says: "data race",
    },
    Planted {
        what: "the producer does not wait for the empty stage",
        job: "sm90_warp_specialised",
        from: "@!complete bra.uni waitLoop;",
        to: "",
        occurrence: Some(1),
        says: "",
    },
    Planted {
        what: "the producer waits for the wrong parity",
        job: "sm90_warp_specialised",
        from: "mov.b32 \t%r81, 1;",
        to: "mov.b32 \t%r81, 0;",
        occurrence: None,
        says: "mbarrier",
    },
    Planted {
        what: "nobody arrives on the empty barrier",
        job: "sm90_warp_specialised",
        from: "@%p9 mbarrier.arrive.shared::cta.b64 _, [%r33];",
        to: "",
        occurrence: None,
        says: "mbarrier",
    },
    Planted {
        what: "two arrivals where one is waited for",
        job: "sm90_wgmma_f16",
        from: "mbarrier.init.shared::cta.b64 [%r6], 1;",
        to: "mbarrier.init.shared::cta.b64 [%r6], 2;",
        occurrence: None,
        says: "waits for 1 arrival",
    },
    Planted {
        what: "a barrier that was never initialised",
        job: "sm90_im2col_conv",
        from: "mbarrier.init.shared::cta.b64",
        to: "mbarrier.expect_tx.shared::cta.b64",
        occurrence: None,
        says: "which nobody wrote",
    },
    Planted {
        what: "shared memory read before the phase is complete",
        job: "sm90_im2col_conv",
        from: "@!complete bra.uni waitLoop;",
        to: "",
        occurrence: None,
        says: "",
    },
    Planted {
        what: "the block ends before a TMA store has read",
        job: "sm90_boxes_128",
        from: "cp.async.bulk.wait_group.read \t0;",
        to: "",
        occurrence: None,
        says: "",
    },
    Planted {
        what: "one im2col offset wrong",
        job: "sm90_im2col_conv",
        from: "{2, 1};",
        to: "{1, 1};",
        occurrence: None,
        says: "differ",
    },
    Planted {
        what: "cp.async not waited for",
        job: "sm80_mma_tf32",
        from: "cp.async.wait_group",
        to: "// cp.async.wait_group",
        occurrence: None,
        says: "has not been waited for",
    },
    Planted {
        what: "one group of cp.async too few waited for",
        job: "sm80_mma_tf32",
        from: "cp.async.wait_group \t2;",
        to: "cp.async.wait_group \t4;",
        occurrence: None,
        says: "",
    },
    Planted {
        what: "no block barrier",
        job: "sm80_mma_tf32",
        from: "bar.sync \t0;",
        to: "",
        occurrence: None,
        says: "",
    },
];

#[test]
fn planted_mistakes_are_found() {
    let mut missed = Vec::new();
    for planted in PLANTED {
        let job = load(planted.job);
        let changed = job
            .with_ptx(planted.text(job.ptx()))
            .unwrap_or_else(|e| panic!("{}: {e}", planted.what));
        // What each schedule says; found when one of them does.
        let mut found = None;
        for options in schedules(&job) {
            let options = Options {
                max_instructions: 1 << 20,
                ..options
            };
            let words = match changed.run(options) {
                Ok(outcome) if outcome.is_met() => continue,
                Ok(outcome) => outcome
                    .verdicts
                    .iter()
                    .filter(|v| !v.is_met())
                    .map(|v| v.to_string())
                    .collect::<Vec<_>>()
                    .join("; "),
                Err(Failure::Fault(fault)) => fault.to_string(),
                Err(Failure::Bad(problem)) => panic!("{}: refused: {problem}", planted.what),
            };
            let schedule = format!("{:?} {}", options.schedule, options.seed);
            if found.is_none() || words.contains(planted.says) {
                let right = words.contains(planted.says);
                found = Some((schedule, words));
                if right {
                    break;
                }
            }
        }
        match found {
            None => missed.push(format!("{}: nothing said under any schedule", planted.what)),
            Some((schedule, words)) => {
                println!(
                    "{:48} {:22} {schedule:13} {words}",
                    planted.what, planted.job
                );
                if !words.contains(planted.says) {
                    missed.push(format!(
                        "{}: said {words}, not {}",
                        planted.what, planted.says
                    ));
                }
            }
        }
    }
    assert!(missed.is_empty(), "{}", missed.join("\n"));
}
