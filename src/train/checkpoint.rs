//! Checkpoints: everything that a run needs to go on bit for bit, in one safetensors file.
//!
//! `last` holds both networks, the optimiser's velocity, the memory bank, and as metadata the
//! iteration, the best mIoU, the resolved configuration and what the run was started with
//! ([`origin`](super::origin)). Random draws and the order of images are functions of (seed,
//! iteration), so there is no other state. `previous` is the `last` before: at every moment one of the
//! two is whole. `best` holds the networks alone.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::origin::Origin;
use super::run_dir::checkpoint_path;
use crate::config::Config;
use crate::device::elements;
use crate::graph::params::{Kind, Layout, Spec};
use crate::train::session::Session;
use crate::weights::{
    Prefer, Reader, STUDENT, TEACHER, Writer, check_init, explained, init_params, read_flat, table,
    taken, weights_of,
};
use crate::{Error, Result, model};

/// Where a run stands.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Progress {
    /// Iterations done.
    pub iteration: usize,
    /// Best validation mIoU so far, 0–1.
    pub best_miou: f64,
    /// How often the run went back to an earlier state because it diverged.
    pub rollbacks: u32,
    /// Whether a validation is due at this iteration and not done: it failed, or something before it.
    pub unvalidated: bool,
}

const ITERATION: &str = "iteration";
const BEST: &str = "best_miou";
const CONFIG: &str = "config";
const ORIGIN: &str = "origin";
const ROLLBACKS: &str = "rollbacks";
const UNVALIDATED: &str = "unvalidated";

/// Names of the generations of a run's whole state, newest first.
const GENERATIONS: [&str; 2] = ["last", "previous"];
const VELOCITY: &str = "velocity.";
const RING: [&str; 3] = ["bank", "bank.inv_norm", "bank.cursor"];

struct Networks {
    student: (Vec<f32>, Vec<f32>),
    teacher: (Vec<f32>, Vec<f32>),
}

impl Networks {
    fn read(session: &Session) -> Result<Self> {
        let read = |who: &str| -> Result<(Vec<f32>, Vec<f32>)> {
            Ok((
                session.read(&format!("{who}.weights"))?,
                session.read(&format!("{who}.buffers"))?,
            ))
        };
        Ok(Self {
            student: read("student")?,
            teacher: read("teacher")?,
        })
    }

    fn check(&self, params: &Layout, progress: Progress) -> Result<()> {
        [&self.student, &self.teacher]
            .into_iter()
            .try_for_each(|(weights, buffers)| {
                check_finite(params, Kind::Weight, weights, progress)?;
                check_finite(params, Kind::Buffer, buffers, progress)
            })
    }

    fn add<'a>(&'a self, writer: &mut Writer<'a>, session: &Session) -> Result<()> {
        writer.params(STUDENT, session.params(), &self.student.0, &self.student.1)?;
        writer.params(TEACHER, session.params(), &self.teacher.0, &self.teacher.1)?;
        Ok(())
    }
}

/// Refuses to replace a checkpoint by one that nothing can be done with. What lies between the
/// tensors of `flat` is nobody's.
fn check_finite(params: &Layout, kind: Kind, flat: &[f32], progress: Progress) -> Result<()> {
    let finite = |spec: &Spec| {
        let values = flat.get(spec.offset..spec.offset + elements(spec.shape));
        values.is_some_and(|values| values.iter().all(|v| v.is_finite()))
    };
    let mut specs = params.specs().iter().filter(|s| s.kind == kind);
    let Some(spec) = specs.find(|s| !finite(s)) else {
        return Ok(());
    };
    Err(Error::Diverged {
        what: spec.name.clone(),
        iteration: progress.iteration,
    })
}

fn add_progress(
    writer: &mut Writer<'_>,
    cfg: &Config,
    origin: &Origin,
    progress: Progress,
) -> Result<()> {
    if progress.rollbacks > 0 {
        writer.meta(ROLLBACKS, progress.rollbacks.to_string());
    }
    if progress.unvalidated {
        writer.meta(UNVALIDATED, "true");
    }
    let origin = serde_json::to_string(origin);
    let origin = origin.map_err(|e| Error::internal(format!("an origin as JSON: {e}")))?;
    writer.meta(ORIGIN, origin);
    writer.meta(ITERATION, progress.iteration.to_string());
    // Bits, not digits: a resumed run must compare with the very same number.
    writer.meta(BEST, progress.best_miou.to_bits().to_string());
    writer.meta(CONFIG, cfg.to_yaml()?);
    Ok(())
}

/// Writes student and teacher, for evaluation and use.
///
/// # Errors
/// [`Error::Io`] when the disk refuses, [`Error::Diverged`] when a weight is no number; the previous file
/// stays.
pub fn save_networks(
    path: &Path,
    session: &Session,
    cfg: &Config,
    origin: &Origin,
    progress: Progress,
) -> Result<()> {
    let networks = Networks::read(session)?;
    networks.check(session.params(), progress)?;
    let mut writer = Writer::new();
    networks.add(&mut writer, session)?;
    add_progress(&mut writer, cfg, origin, progress)?;
    writer.save(path)
}

/// Writes everything that [`restore`] needs to `last` of the run folder `dir`; the `last` before becomes
/// `previous`. Where the disk has no room for three, `previous` makes way.
///
/// # Errors
/// [`Error::Io`] when the disk refuses, [`Error::Diverged`] when a weight is no number; what was there
/// stays.
pub fn save(
    dir: &Path,
    session: &Session,
    cfg: &Config,
    origin: &Origin,
    progress: Progress,
) -> Result<()> {
    let networks = Networks::read(session)?;
    networks.check(session.params(), progress)?;
    let velocity: Vec<f32> = session.read("velocity")?;
    check_finite(session.params(), Kind::Weight, &velocity, progress)?;
    let ring = Ring::read(session)?;
    let mut writer = Writer::new();
    networks.add(&mut writer, session)?;
    writer.flat(VELOCITY, session.params(), Kind::Weight, &velocity)?;
    if let Some(ring) = &ring {
        ring.add(&mut writer)?;
    }
    add_progress(&mut writer, cfg, origin, progress)?;
    let [last, previous] = generations(dir);
    match writer.save_keeping(&last, &previous) {
        Err(Error::Io { source, .. }) if is_full(source.kind()) && previous.exists() => {
            tracing::warn!(
                "{}: {source}; {} makes way for the new checkpoint",
                last.display(),
                previous.display()
            );
            std::fs::remove_file(&previous)
                .map_err(|e| Error::io(&previous, "make room for a checkpoint", e))?;
            writer.save(&last)
        }
        saved => saved,
    }
}

/// Whether the disk, or the user's part of it, has no room left.
fn is_full(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}

/// `last` and `previous` of the run folder `dir`.
fn generations(dir: &Path) -> [PathBuf; 2] {
    GENERATIONS.map(|name| checkpoint_path(dir, name))
}

/// The memory bank's tensors.
struct Ring {
    bank: (Vec<f32>, [usize; 2]),
    inv_norm: Vec<f32>,
    cursor: Vec<u32>,
}

impl Ring {
    fn read(session: &Session) -> Result<Option<Self>> {
        if !session.state().contains(RING[0]) {
            return Ok(None);
        }
        let [_, _, rows, width] = session.state().entry(RING[0])?.shape;
        Ok(Some(Self {
            bank: (session.read(RING[0])?, [rows, width]),
            inv_norm: session.read(RING[1])?,
            cursor: session.read(RING[2])?,
        }))
    }

    fn add<'a>(&'a self, writer: &mut Writer<'a>) -> Result<()> {
        writer.tensor(RING[0], &self.bank.1, &self.bank.0)?;
        writer.tensor(RING[1], &[self.inv_norm.len()], &self.inv_norm)?;
        writer.tensor(RING[2], &[2, self.cursor.len() / 2], &self.cursor)?;
        Ok(())
    }
}

/// A checkpoint to go on from.
pub struct Saved {
    /// The file.
    pub file: Reader,
    /// The configuration that it was written under.
    pub cfg: Config,
    /// What the run was started with; `None`: an older engine wrote it.
    pub origin: Option<Origin>,
    /// What is wrong with the newest one, if this is the one before.
    pub fault: Option<String>,
}

/// Opens the newest checkpoint of the run folder `dir` that is whole. A damaged `last` is named, and
/// `previous` taken instead.
///
/// # Errors
/// [`Error::Input`] when there is none, or none is whole.
pub fn open(dir: &Path) -> Result<Saved> {
    let [last, previous] = generations(dir);
    if !last.exists() && !previous.exists() {
        return Err(Error::input(
            last.display().to_string(),
            "there is no checkpoint to resume from",
            "point --out at the folder of an interrupted run, or start anew without --resume",
        ));
    }
    let fault = match whole(&last) {
        Ok(file) => return saved(file, None),
        Err(fault) => fault,
    };
    let file = match whole(&previous) {
        Ok(file) => file,
        Err(other) => return Err(none_whole(dir, fault, &previous, other)),
    };
    let saved = saved(file, Some(fault.to_string()))?;
    let iteration = number(&saved.file, ITERATION)?;
    tracing::warn!("{fault}");
    tracing::warn!(
        "{}: taken instead, iteration {iteration}",
        previous.display()
    );
    Ok(saved)
}

/// What a run without a whole checkpoint is told: what is wrong with both, and what is left.
fn none_whole(dir: &Path, fault: Error, previous: &Path, other: Error) -> Error {
    let best = checkpoint_path(dir, "best");
    let told = |fault: Error| match fault {
        Error::Input { problem, .. } => problem,
        Error::Io { doing, source, .. } => format!("cannot {doing} ({source})"),
        other => other.to_string(),
    };
    let [last, _] = generations(dir);
    Error::input(
        last.display().to_string(),
        format!(
            "{}, and {} is no help: {}",
            told(fault),
            previous.display(),
            told(other)
        ),
        match whole(&best) {
            Ok(_) => format!(
                "bring back a copy of one, or start a new run from the best weights, which are whole: \
                 --init {}",
                best.display()
            ),
            Err(_) => "bring back a copy of one, or start anew without --resume".into(),
        },
    )
}

/// Gives `previous` of the run folder `dir` the place of a damaged `last`, which is set aside as
/// `last.damaged`: else the next checkpoint would keep the damaged one and drop the whole one.
///
/// # Errors
/// [`Error::Io`].
pub fn promote(dir: &Path) -> Result<()> {
    let [last, previous] = generations(dir);
    if last.exists() {
        std::fs::rename(&last, last.with_extension("damaged"))
            .map_err(|e| Error::io(&last, "set the damaged checkpoint aside", e))?;
    }
    std::fs::rename(&previous, &last)
        .map_err(|e| Error::io(&previous, "take it for the damaged one", e))
}

/// Opens a file of weights and compares every byte of it with its digests.
fn whole(path: &Path) -> Result<Reader> {
    let file = Reader::open(path)?;
    file.verify()?;
    Ok(file)
}

fn saved(file: Reader, fault: Option<String>) -> Result<Saved> {
    let at = file.path().display().to_string();
    let text = file.require_meta(CONFIG)?;
    let cfg = Config::parse(&format!("{at} (metadata)"), text, &[])?;
    let origin = match file.meta(ORIGIN).map(serde_json::from_str) {
        None => None,
        Some(Ok(found)) => Some(found),
        Some(Err(e)) => {
            return Err(Error::input(
                at,
                format!("metadata {ORIGIN} does not say what the run was started with ({e})"),
                "the file is damaged: use another checkpoint",
            ));
        }
    };
    Ok(Saved {
        file,
        cfg,
        origin,
        fault,
    })
}

/// Fills a session from a checkpoint; without `ring` the memory bank stays empty.
///
/// # Errors
/// [`Error::Input`] when a tensor is missing or of another shape.
pub fn restore(file: &Reader, session: &Session, ring: bool) -> Result<Progress> {
    let params = session.params();
    for (who, prefix) in [("student", STUDENT), ("teacher", TEACHER)] {
        session.write(
            &format!("{who}.weights"),
            &read_flat(file, params, Kind::Weight, prefix)?,
        )?;
        session.write(
            &format!("{who}.buffers"),
            &read_flat(file, params, Kind::Buffer, prefix)?,
        )?;
    }
    session.write(
        "velocity",
        &read_flat(file, params, Kind::Weight, VELOCITY)?,
    )?;
    if ring && session.state().contains(RING[0]) {
        session.write(RING[0], &file.tensor::<f32>(RING[0])?)?;
        session.write(RING[1], &file.tensor::<f32>(RING[1])?)?;
        session.write(RING[2], &file.tensor::<u32>(RING[2])?)?;
    }
    Ok(Progress {
        iteration: number(file, ITERATION)? as usize,
        best_miou: f64::from_bits(number(file, BEST)?),
        rollbacks: match file.meta(ROLLBACKS) {
            Some(_) => number(file, ROLLBACKS)? as u32,
            None => 0,
        },
        unvalidated: file.meta(UNVALIDATED).is_some(),
    })
}

fn number(file: &Reader, key: &str) -> Result<u64> {
    file.require_meta(key)?.parse().map_err(|_| {
        Error::input(
            file.path().display().to_string(),
            format!("metadata {key} is not a number"),
            "the file is damaged: use another checkpoint",
        )
    })
}

/// Opens the weights that a run is to start from and says how they fit, before anything else is
/// prepared.
///
/// # Errors
/// [`Error::Input`] when there is no such file, it holds no weights, nothing in it matches or a
/// tensor other than a classifier has another shape.
pub fn open_init(path: &Path, cfg: &Config) -> Result<Reader> {
    if !path.exists() {
        return Err(Error::input(
            path.display().to_string(),
            "the weights to start from are not there",
            "give --init the path of a .pth or .safetensors file, or leave it out to start at random",
        ));
    }
    let file = Reader::open(&weights_of(path)?)?;
    let path = file.path();
    let layout = model::layout(&cfg.model, cfg.data.classes)?;
    let prefer = Prefer::Teacher;
    if let Some(skipped) = file.skipped() {
        tracing::warn!("{skipped}");
    }
    if let Some(taken) = taken(&file, &layout, prefer) {
        tracing::info!("{taken}");
    }
    let report = check_init(&file, &layout, prefer);
    let report = explained(report, &file, &layout, prefer)?;
    let (path, taken, total) = (path.display(), report.matched, report.total);
    match report.differences.is_empty() {
        true => tracing::info!("{path}: all {total} tensors taken"),
        false => {
            let rest = table(&report.differences);
            tracing::info!("{path}: {taken} of {total} tensors taken; the others:\n{rest}");
        }
    }
    for warning in &report.warnings {
        tracing::warn!("{warning}");
    }
    Ok(file)
}

/// Starts both networks from a weights file, as far as its tensors match.
///
/// # Errors
/// [`Error::Input`] when nothing matches or a tensor other than a classifier has another shape.
pub fn initialise(file: &Reader, session: &Session) -> Result<()> {
    for who in ["student", "teacher"] {
        let (weights, buffers) = (format!("{who}.weights"), format!("{who}.buffers"));
        let (mut w, mut b) = (
            session.read::<f32>(&weights)?,
            session.read::<f32>(&buffers)?,
        );
        init_params(file, session.params(), Prefer::Teacher, &mut w, &mut b)?;
        session.write(&weights, &w)?;
        session.write(&buffers, &b)?;
    }
    Ok(())
}
