//! First contact with a device that can be wrong in every way, and the cases behind it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::*;
use crate::device::{ArenaId, Call, Op, View};

/// How a planted operation is wrong above a level.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    /// Its first element is.
    Number,
    /// It fails, and so does everything after it.
    Death,
}

#[derive(Clone, Copy)]
struct Plant {
    op: &'static str,
    /// Levels 0 to `below` are wrong.
    below: usize,
    fault: Fault,
}

/// The CPU with kernels on three levels.
struct Toy {
    cpu: CpuDevice,
    key: &'static str,
    plants: Vec<Plant>,
    levels: Arc<Mutex<HashMap<Met, usize>>>,
    launched: Mutex<BTreeSet<&'static str>>,
    dead: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
    guard: OnceLock<Box<dyn Guard>>,
}

const KERNELS: [&str; 3] = ["quick", "slow", "slowest"];
const HOW: [&str; 2] = ["slowly", "in the slowest way"];

impl Toy {
    fn new(key: &'static str, plants: &[Plant]) -> Self {
        Self {
            cpu: CpuDevice::new(1).unwrap(),
            key,
            plants: plants.to_vec(),
            levels: Arc::default(),
            launched: Mutex::default(),
            dead: Arc::default(),
            calls: Arc::default(),
            guard: OnceLock::new(),
        }
    }

    fn level(&self, met: Met) -> usize {
        let levels = self.levels.lock().unwrap();
        levels.get(&met).copied().unwrap_or_default()
    }

    fn works(&self) -> Result<()> {
        match self.dead.load(Ordering::Relaxed) {
            true => Err(self.error("an illegal access was met")),
            false => Ok(()),
        }
    }

    fn error(&self, problem: &str) -> Error {
        Error::Device {
            device: self.name(),
            problem: problem.into(),
        }
    }
}

impl Device for Toy {
    fn name(&self) -> String {
        "toy".into()
    }
    fn alloc(&self, bytes: usize) -> Result<ArenaId> {
        self.works()?;
        self.cpu.alloc(bytes)
    }
    fn free_bytes(&self) -> Option<usize> {
        None
    }
    fn resident_bytes(&self, _: ArenaId) -> Option<usize> {
        None
    }
    fn free(&self, arena: ArenaId) {
        self.cpu.free(arena);
    }
    fn write(&self, view: &View, bytes: &[u8]) -> Result<()> {
        self.works()?;
        self.cpu.write(view, bytes)
    }
    fn read(&self, view: &View, bytes: &mut [u8]) -> Result<()> {
        self.works()?;
        self.cpu.read(view, bytes)
    }
    fn checkable(&self) -> Option<&dyn Checkable> {
        Some(self)
    }
    fn meet(&self, ops: &[Met]) -> Result<()> {
        self.guard.get().map_or(Ok(()), |g| g.meet(self, ops))
    }
    fn workspace_bytes(&self, op: &Op, ins: &[View], outs: &[View]) -> usize {
        self.cpu.workspace_bytes(op, ins, outs)
    }
    fn run(&self, call: &Call) -> Result<()> {
        self.works()?;
        self.calls.fetch_add(1, Ordering::Relaxed);
        let met = Met::of(&call.op, &call.ins, &call.outs);
        let level = self.level(met);
        self.launched.lock().unwrap().insert(KERNELS[level]);
        self.cpu.run(call)?;
        let planted = |p: &&Plant| p.op == met.op && level < p.below;
        match self.plants.iter().find(planted).map(|p| p.fault) {
            None => Ok(()),
            Some(Fault::Death) => {
                self.dead.store(true, Ordering::Relaxed);
                self.works()
            }
            Some(Fault::Number) => {
                let out = call.outs[0];
                let first = View::dense(out.arena, out.offset, [1; 4], out.dtype);
                self.cpu.write(&first, &vec![0x3F; out.dtype.bytes()])
            }
        }
    }
}

impl Checkable for Toy {
    fn identity(&self) -> Option<Identity> {
        Some(Identity {
            name: "Toy 1".into(),
            key: self.key.into(),
            precision: MathMode::Fp32,
        })
    }
    fn rehearsal(&self) -> Box<dyn Device> {
        let levels = self.levels.lock().unwrap().clone();
        Box::new(Self {
            levels: Arc::new(Mutex::new(levels)),
            dead: self.dead.clone(),
            calls: self.calls.clone(),
            ..Self::new(self.key, &self.plants)
        })
    }
    fn degrade(&self, met: Met) -> Result<Option<&'static str>> {
        let mut levels = self.levels.lock().unwrap();
        let level = levels.entry(met).or_default();
        let how = HOW.get(*level).copied();
        *level += usize::from(how.is_some());
        Ok(how)
    }
    fn launched(&self) -> Vec<&'static str> {
        std::mem::take(&mut *self.launched.lock().unwrap())
            .into_iter()
            .collect()
    }
    fn set_guard(&self, guard: Box<dyn Guard>) -> bool {
        self.guard.set(guard).is_ok()
    }
}

/// What was told: warnings, and the first and last of the progress.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<Said>>>);

impl Log {
    fn check(&self, folder: &Path) -> Check {
        let log = self.0.clone();
        Check {
            on: true,
            folder: Some(folder.into()),
            tell: Arc::new(move |said| log.lock().unwrap().push(said.clone())),
        }
    }

    fn warnings(&self) -> Vec<String> {
        let all = self.0.lock().unwrap();
        let lines = all.iter().filter_map(|said| match said {
            Said::Warning(line) => Some(line.clone()),
            Said::Progress { .. } => None,
        });
        lines.collect()
    }

    fn progress(&self) -> Vec<(String, usize, usize)> {
        let all = self.0.lock().unwrap();
        let lines = all.iter().filter_map(|said| match said {
            Said::Progress { what, done, total } => Some((what.clone(), *done, *total)),
            Said::Warning(_) => None,
        });
        lines.collect()
    }
}

const RELU: Met = Met {
    op: "relu",
    half: false,
};
const RESIZE: Met = Met {
    op: "resize",
    half: true,
};

/// Opens a toy, introduces it and has it meet `ops`.
fn contact(folder: &Path, toy: &Toy, ops: &[Met]) -> (Log, Result<()>) {
    let log = Log::default();
    introduce(toy, &log.check(folder));
    let met = toy.meet(ops);
    (log, met)
}

fn relu(below: usize, fault: Fault) -> Vec<Plant> {
    vec![Plant {
        op: "relu",
        below,
        fault,
    }]
}

#[test]
fn a_healthy_device_is_checked_once() {
    let dir = tempfile::tempdir().unwrap();
    let (log, met) = contact(dir.path(), &Toy::new("a", &[]), &[RELU, RELU]);
    met.unwrap();
    let progress = log.progress();
    let (what, done, total) = progress.last().unwrap();
    assert_eq!(what, "checking the kernels on Toy 1 for the first time");
    assert!(done == total && *total > 0 && progress[0].1 == 0);
    assert_eq!(progress.len(), total + 1);
    assert_eq!(log.warnings(), [""; 0]);

    let second = Toy::new("a", &[]);
    let (log, met) = contact(dir.path(), &second, &[RELU]);
    met.unwrap();
    assert!(log.0.lock().unwrap().is_empty());
    assert_eq!(second.calls.load(Ordering::Relaxed), 0);

    // What was not met is checked alone.
    second.meet(&[RELU, RESIZE]).unwrap();
    let progress = log.progress();
    assert_eq!(progress[0].0, "checking more kernels on Toy 1");
    second.meet(&[RELU, RESIZE]).unwrap();
    assert_eq!(log.progress(), progress);

    // Another GPU, driver or build.
    let (log, met) = contact(dir.path(), &Toy::new("b", &[]), &[RELU]);
    met.unwrap();
    assert_eq!(&log.progress().last().unwrap().2, total);
}

#[test]
fn a_wrong_kernel_is_named_replaced_and_remembered() {
    let dir = tempfile::tempdir().unwrap();
    for (below, how, kernels) in [
        (1, "slowly", "kernel quick is"),
        (2, "in the slowest way", "kernels quick, slow are"),
    ] {
        let folder = dir.path().join(how);
        let toy = Toy::new("a", &relu(below, Fault::Number));
        let (log, met) = contact(&folder, &toy, &[RELU, RESIZE]);
        met.unwrap();
        let warnings = log.warnings();
        let [line] = &warnings[..] else {
            panic!("{warnings:?}")
        };
        let start = format!("{kernels} wrong on Toy 1 (");
        let end = format!("relu runs {how} instead, which is slower");
        assert!(line.starts_with(&start) && line.ends_with(&end), "{line}");
        assert!(
            line.contains("checks of relu in fp32 failed: 1 of "),
            "{line}"
        );
        assert!(!line.contains('\n'));
        assert_eq!((toy.level(RELU), toy.level(RESIZE)), (below, 0));
        let (_, done, total) = log.progress().pop().unwrap();
        assert_eq!(done, total);

        let again = Toy::new("a", &relu(below, Fault::Number));
        let (log, met) = contact(&folder, &again, &[RELU, RESIZE]);
        met.unwrap();
        let warnings = log.warnings();
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].starts_with(line) && warnings[0].contains("remove it to check again"));
        assert!(log.progress().is_empty());
        assert_eq!(again.level(RELU), below);
    }
}

#[test]
fn nothing_left_is_an_error_that_says_the_ways_out() {
    let dir = tempfile::tempdir().unwrap();
    let toy = Toy::new("a", &relu(3, Fault::Number));
    let (log, met) = contact(dir.path(), &toy, &[RELU]);
    let problem = met.unwrap_err().to_string();
    for part in [
        "device toy: kernels quick, slow, slowest are wrong on Toy 1",
        "nothing is left",
        "--device cpu",
        "--no-check",
    ] {
        assert!(problem.contains(part), "{problem}");
    }
    assert_eq!(problem.lines().count(), 1);
    assert_eq!(log.warnings(), [""; 0]);
    // Nothing was remembered that would let it pass the next time.
    let (_, met) = contact(dir.path(), &Toy::new("a", &relu(3, Fault::Number)), &[RELU]);
    assert!(met.is_err());
}

#[test]
fn a_kernel_that_kills_the_device_is_left_out_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let start = || {
        let toy = Toy::new("a", &relu(1, Fault::Death));
        let (log, met) = contact(dir.path(), &toy, &[RELU]);
        (log, met, toy.level(RELU))
    };
    let (_, met, _) = start();
    let problem = met.unwrap_err().to_string();
    for part in [
        "kernel quick is wrong",
        "illegal access",
        "start again and relu runs slowly",
        "--device cpu",
    ] {
        assert!(problem.contains(part), "{problem}");
    }
    let (log, met, level) = start();
    met.unwrap();
    assert_eq!((level, log.warnings().len()), (1, 1));
    assert!(!log.progress().is_empty());
    let (log, met, level) = start();
    met.unwrap();
    assert_eq!((level, log.warnings().len()), (1, 1));
    assert!(log.progress().is_empty());
}

#[test]
fn a_device_that_is_not_to_be_checked_says_so_once() {
    let dir = tempfile::tempdir().unwrap();
    let toy = Toy::new("a", &relu(3, Fault::Number));
    let log = Log::default();
    let check = Check {
        on: false,
        ..log.check(dir.path())
    };
    introduce(&toy, &check);
    introduce(&toy, &check);
    toy.meet(&[RELU]).unwrap();
    assert_eq!(toy.calls.load(Ordering::Relaxed), 0);
    let warnings = log.warnings();
    assert_eq!(warnings.len(), 1);
    assert!(
        warnings[0].contains("on Toy 1 are not checked"),
        "{}",
        warnings[0]
    );
}

#[test]
fn a_folder_that_cannot_be_written_is_said_once_and_costs_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let folder = file.join("cache");
    for _ in 0..2 {
        let toy = Toy::new("a", &[]);
        let (log, met) = contact(&folder, &toy, &[RELU]);
        met.unwrap();
        toy.meet(&[RESIZE]).unwrap();
        let warnings = log.warnings();
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains(file.to_str().unwrap()), "{warnings:?}");
    }
}

#[test]
fn a_damaged_file_is_said_once_and_checked_again() {
    let dir = tempfile::tempdir().unwrap();
    contact(dir.path(), &Toy::new("a", &[]), &[RELU]).1.unwrap();
    let file = std::fs::read_dir(dir.path())
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    let (log, met) = contact(dir.path(), &Toy::new("a", &[]), &[RELU]);
    met.unwrap();
    assert_eq!(log.warnings().len(), 1);
    assert!(
        log.warnings()[0].contains("is damaged"),
        "{:?}",
        log.warnings()
    );
    assert_eq!(std::fs::read(&file).unwrap(), whole);
}

#[test]
fn starts_at_once_leave_a_whole_file() {
    let dir = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for i in 0..6 {
            let ops = if i % 2 == 0 { [RELU] } else { [RESIZE] };
            let folder = dir.path();
            scope.spawn(move || {
                let toy = Toy::new("a", &relu(1, Fault::Number));
                contact(folder, &toy, &ops).1.unwrap();
            });
        }
    });
    let toy = Toy::new("a", &relu(1, Fault::Number));
    let (log, met) = contact(dir.path(), &toy, &[RELU, RESIZE]);
    met.unwrap();
    assert!(log.progress().is_empty(), "both verdicts are there");
    assert_eq!((log.warnings().len(), toy.level(RELU)), (1, 1));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

/// Whatever the recipes' steps and their evaluation use, there are cases of.
#[cfg(feature = "cli")]
#[test]
fn there_are_cases_for_every_operation_of_the_recipes() {
    use crate::config::Config;
    use crate::device::DType;
    use crate::train::session::Blueprint;

    let cases = cases::all(SEED);
    let mut seen = BTreeSet::new();
    let configs = concat!(env!("CARGO_MANIFEST_DIR"), "/configs");
    for entry in std::fs::read_dir(configs).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "yaml") {
            continue;
        }
        let cfg = Config::load(Some(&path), &[]).unwrap();
        for map in [DType::F32, DType::BF16] {
            let blueprint = Blueprint::new(&cfg, 1 << 16, map).unwrap().fused(|_| true);
            let steps = blueprint.warmup.iter().chain(&blueprint.u2pl);
            let graphs = steps.map(|(graph, _)| graph).chain(&blueprint.update);
            seen.extend(graphs.flat_map(|graph| graph.met()));
        }
    }
    assert!(seen.len() > 40, "{seen:?}");
    for met in seen {
        let math = match met.half {
            true => MathMode::Bf16,
            false => MathMode::Fp32,
        };
        let of = cases
            .iter()
            .filter(|c| c.family == met.op && c.math == math);
        assert!(of.count() > 0, "{met:?}");
    }
}
