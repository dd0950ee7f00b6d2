//! Training: the loop over the planned step.
//!
//! Comes in: a configuration and a device. Goes out: a run folder with the resolved
//! configuration, metrics, checkpoints and pictures, and a [`Summary`]. [`session`] holds the
//! device side, [`run_dir`] the folder, [`origin`] what a run was started with, [`checkpoint`] what it
//! needs to go on bit for bit, `recover` how it does, [`samples`] the pictures,
//! [`events`] the file that TensorBoard reads, [`demo`] the comparison that `train` without a
//! configuration runs.

mod board;
pub mod checkpoint;
pub mod demo;
pub mod events;
pub mod origin;
mod recover;
pub mod run_dir;
pub mod samples;
pub mod session;
pub mod sheet;
mod watch;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use crate::config::Config;
use crate::config::schema::{Algorithm, Mode};
use crate::contact::{self, Check};
use crate::data::check::most_unusable;
use crate::data::{Batch, Dataset, Loader, LoaderSettings, Part, Skipped, check, pack};
use crate::device::Device;
use crate::eval::{Evaluator, Metrics, Weights};
use crate::files::write_atomic;
use crate::machine;
use crate::method::diagnostics::{Queued, Report};
use crate::method::schedule;
use crate::method::state::param_set;
use crate::{Error, Result};
use board::Board;
use checkpoint::Progress;
use origin::Origin;
use recover::{Resumed, diverged, slower};
use run_dir::RunDir;
use session::{Blueprint, Session, Staged};
use sheet::Sheet;
use watch::ContrastWatch;

/// How to run.
pub struct Options {
    /// Where the step runs.
    pub device: Arc<dyn Device>,
    /// Run folder.
    pub out: PathBuf,
    /// Initial weights (`.pth` or safetensors): a whole network or an encoder.
    pub init: Option<PathBuf>,
    /// Go on from `checkpoints/last.safetensors` of the run folder.
    pub resume: bool,
    /// Go on although lists name other images than before.
    pub new_data: bool,
    /// Stop after this many iterations in all.
    pub max_iters: Option<usize>,
    /// Time every operation of the last step into `profile.json` of the run folder.
    pub profile: bool,
    /// How the device's kernels are checked before they are used first.
    pub check: Check,
}

/// Name under `samples/` of the picture that a run ends (or pauses) with.
pub const FINAL_PICTURE: &str = "final";

/// What a finished run leaves.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Run folder.
    pub out: PathBuf,
    /// Iterations done in all.
    pub iterations: usize,
    /// Those of the whole schedule: more where the run was told to pause.
    pub planned_iterations: usize,
    /// The iteration from which unlabelled images are used; `None` where the run uses none.
    pub unlabeled_from: Option<usize>,
    /// Seconds of this call.
    pub seconds: f64,
    /// Best validation mIoU, 0–1; 0 when there was none.
    pub best_miou: f64,
    /// Student's mIoU at the end, 0–1; `None` when no validation pixel is labelled.
    pub student_miou: Option<f64>,
    /// EMA teacher's mIoU at the end, likewise.
    pub teacher_miou: Option<f64>,
    /// Bytes that the plan gave the step: state and activations.
    pub planned_bytes: usize,
    /// Bytes of them that the run touched, where the device can tell.
    pub measured_bytes: Option<usize>,
}

/// Told what happens, as it happens.
pub trait Observer {
    /// A run of `total` iterations begins (or goes on) at `start`.
    fn begin(&mut self, _cfg: &Config, _start: usize, _total: usize) {}
    /// `done` iterations are done; `report` on logged ones.
    fn step(&mut self, _done: usize, _lr: f32, _report: Option<&Report>) {}
    /// A validation of `who` ended; `best` is the best mIoU so far, 0–1, this one included where it
    /// is one that counts.
    fn validated(&mut self, _epoch: usize, _who: &str, _metrics: &Metrics, _best: f64) {}
    /// The run ended.
    fn end(&mut self, _summary: &Summary) {}
    /// Asked after every step: whether to stop here, with a checkpoint and [`Error::Stopped`].
    fn stops(&self) -> bool {
        false
    }
}

/// An observer that stays silent.
pub struct Silent;

impl Observer for Silent {}

/// Trains as `cfg` says.
///
/// # Errors
/// [`Error::Input`] for anything wrong with configuration, data or folders, found before the
/// first step; the device's and the disk's later; [`Error::Stopped`] when `observer` asks for it.
pub fn run(cfg: Config, options: &Options, observer: &mut dyn Observer) -> Result<Summary> {
    cfg.validate()?;
    let mut trainer = Trainer::new(cfg, options)?;
    trainer.train(options, observer)
}

/// Images of an epoch at most: their order is drawn at its start.
const MOST_OF_AN_EPOCH: usize = 1 << 28;

/// Refuses an epoch whose order of images takes gigabytes.
fn check_epoch(cfg: &Config, iters: usize) -> Result<()> {
    let t = &cfg.train;
    let batch = t.batch_labeled.max(t.batch_unlabeled) * t.micro_batches;
    if iters.saturating_mul(batch) <= MOST_OF_AN_EPOCH {
        return Ok(());
    }
    Err(Error::input(
        "train.epoch_iters",
        format!("{iters} iterations of {batch} images are too many for one epoch"),
        format!(
            "give at most {}, and more train.epochs",
            MOST_OF_AN_EPOCH / batch
        ),
    ))
}

/// A line of `metrics.jsonl` about a step.
#[derive(serde::Serialize)]
struct StepLine<'a> {
    iter: usize,
    epoch: usize,
    lr: f32,
    #[serde(flatten)]
    report: &'a Report,
    /// Unlabelled images that cannot be used, as far as they were met.
    #[serde(skip_serializing_if = "Option::is_none")]
    unusable: Option<usize>,
}

/// Images of one list: where they come from, and the host's buffers of a batch, made once.
struct Source {
    loader: Loader,
    staged: Staged,
}

struct Trainer {
    cfg: Config,
    session: Session,
    origin: Origin,
    evaluator: Evaluator,
    dir: RunDir,
    board: Board,
    labeled: Arc<Dataset>,
    unlabeled: Option<Arc<Dataset>>,
    val: Arc<Dataset>,
    /// No pixel of the validation masks counts.
    val_is_void: bool,
    /// Positions of unlabelled images known to be unusable at the start, and how many are by now.
    unusable: Vec<usize>,
    unusable_now: usize,
    /// Those found since.
    news: Vec<Skipped>,
    epoch_iters: usize,
    cap_pixels: usize,
    progress: Progress,
    /// (iteration, network, mIoU) of the last validation.
    last_val: Option<(usize, &'static str, Option<f64>)>,
}

impl Trainer {
    fn new(cfg: Config, options: &Options) -> Result<Self> {
        let init = match &options.init {
            Some(path) if !options.resume => Some(checkpoint::open_init(path, &cfg)?),
            _ => None,
        };
        let found = check(&cfg)?;
        let cap_pixels = found.train_sizes.pixels;
        let absent = json!({
            "labeled": found.labeled_held.absent(&cfg.data),
            "val": found.val_held.absent(&cfg.data),
        });
        let labeled = Arc::new(found.labeled);
        let unlabeled = found.unlabeled.map(Arc::new);
        let mut unusable = found.unusable;
        let val_is_void = found.val_held.is_void(&cfg.data);
        let val = Arc::new(found.val);
        let saved = match options.resume {
            true => Some(checkpoint::open(&options.out)?),
            false => None,
        };
        let epoch_iters = schedule::epoch_iters(
            &cfg,
            labeled.len(),
            unlabeled.as_ref().map_or(0, |d| d.len()),
        );
        // Epochs keep their length, so the schedule goes on as planned where lists have grown.
        let was = saved.as_ref().and_then(|s| s.origin.as_ref());
        let epoch_iters = was.map_or(epoch_iters, |o| o.epoch_iters);
        check_epoch(&cfg, epoch_iters)?;
        let mut lists = vec![(Part::Labeled, &*labeled), (Part::Val, &*val)];
        lists.extend(unlabeled.as_deref().map(|d| (Part::Unlabeled, d)));
        let origin = Origin::new(&cfg, &lists, epoch_iters, &*options.device);
        let resumed = match saved {
            Some(saved) => Some(Resumed::new(
                saved,
                &cfg,
                &origin,
                &options.out,
                options.new_data,
            )?),
            None => None,
        };
        if let Some(reason) = schedule::contrast_is_idle(&cfg) {
            tracing::warn!("the contrast term has nothing to learn from: {reason}");
        }
        contact::introduce(&*options.device, &options.check);
        let device = &options.device;
        let blueprint = Blueprint::new(&cfg, cap_pixels, device.map_dtype())?;
        let mut evaluator = Evaluator::new(device.clone(), &cfg, blueprint.params.clone());
        // All at once, and what validation needs before the first step.
        let student = param_set(&blueprint.state, "student")?;
        device.meet(&[blueprint.met_on(&**device), evaluator.met(student)?].concat())?;
        let mut session = Session::assemble(&cfg, device.clone(), epoch_iters, blueprint)?;
        let (mut dir, progress) = match resumed {
            Some(Resumed { saved, changed }) => {
                let released = cfg.method.mode == Mode::Released;
                let progress = checkpoint::restore(&saved.file, &session, !released)?;
                let progress = changed.steer(progress);
                session.slow_down(slower(progress));
                if saved.fault.is_some() {
                    checkpoint::promote(&options.out)?;
                }
                if released && progress.iteration > 0 {
                    tracing::warn!(
                        "mode released resumes as the authors' code does: the learning rate stays \
                         where it was, the memory bank starts empty"
                    );
                    session.forget(progress.iteration);
                }
                let mut dir = RunDir::reopen(&options.out, progress.iteration)?;
                if !changed.keys.is_empty() {
                    dir.save_config(&cfg)?;
                }
                if let Some(line) = changed.to_json(saved.fault.as_deref()) {
                    dir.log(&json!({ "iter": progress.iteration, "resumed": line }))?;
                }
                (dir, progress)
            }
            None => {
                if let Some(init) = &init {
                    checkpoint::initialise(init, &session)?;
                }
                (RunDir::create(&options.out, &cfg)?, Progress::default())
            }
        };
        if let (true, Some(dataset)) = (options.resume, &unlabeled) {
            // What an earlier call met counts, unless it has been restored.
            let files = run_dir::skipped_files(dir.path());
            let again = |&i: &usize| {
                let named = files.contains(&dataset.samples()[i].image);
                named && !unusable.contains(&i) && dataset.decode(i).is_err()
            };
            let more: Vec<usize> = (0..dataset.samples().len()).filter(again).collect();
            unusable.extend(more);
        }
        let board = Board::open(dir.path(), &cfg, progress.iteration)?;
        if !options.resume {
            // A run that ends before its first validation goes on from here; and a disk without room
            // for a checkpoint shows before there is anything to lose.
            checkpoint::save(dir.path(), &session, &cfg, &origin, progress)?;
        }
        if !options.resume && absent != json!({"labeled": [], "val": []}) {
            dir.log(&json!({"iter": 0, "absent": absent}))?;
        }
        Ok(Self {
            cfg,
            session,
            origin,
            evaluator,
            dir,
            board,
            labeled,
            unlabeled,
            val,
            val_is_void,
            unusable_now: unusable.len(),
            news: Vec::new(),
            unusable,
            epoch_iters,
            cap_pixels,
            progress,
            last_val: None,
        })
    }

    fn source(
        &self,
        dataset: &Arc<Dataset>,
        batch: usize,
        stream: u32,
        from: usize,
    ) -> Result<Source> {
        let settings = LoaderSettings {
            batch,
            seed: self.cfg.train.seed,
            stream,
            workers: self.cfg.data.workers,
            epoch_len: self.epoch_iters * self.session.micro_batches(),
            cache_mib: self.cfg.data.cache_mib,
        };
        let at = self.session.schedule().position(from);
        let mut loader = Loader::new(dataset.clone(), settings)?;
        loader.limit_pixels(self.cap_pixels);
        if dataset.is_unlabeled() {
            let most = most_unusable(&self.cfg, dataset.len());
            loader.skip(most, &self.unusable);
        }
        loader.seek(at.epoch, at.iter * self.session.micro_batches())?;
        Ok(Source {
            loader,
            staged: Staged::new(batch, self.cap_pixels),
        })
    }

    /// The batches of the next step's micro-batches: all of them before the first is used, so that
    /// a file that fails leaves a whole number of steps behind.
    fn fetch(&mut self, source: &mut Source) -> Result<VecDeque<Batch>> {
        let batches = (0..self.session.micro_batches()).map(|_| source.loader.next());
        let batches = batches.collect::<Result<VecDeque<Batch>>>();
        self.news.extend(source.loader.take_skipped());
        batches
    }

    /// Writes which images the step that was done last had to do without.
    fn tell_skipped(&mut self) -> Result<()> {
        for skipped in std::mem::take(&mut self.news) {
            self.dir.log(&json!({
                "iter": self.progress.iteration,
                "skipped": {
                    "image": skipped.id,
                    "file": skipped.file,
                    "problem": skipped.problem,
                    "images": skipped.images,
                },
            }))?;
            self.unusable_now = skipped.images;
        }
        Ok(())
    }

    /// What a run ends with that cannot write its metrics: the checkpoint may lie elsewhere, or be
    /// written over an older one.
    fn unless_saved(&mut self, cause: Error) -> Error {
        match cause {
            Error::Io { .. } => self.give_up(cause),
            other => other,
        }
    }

    /// Puts `batch` into the staging of `which`.
    fn stage(&self, which: &str, source: &mut Source, batch: Option<Batch>) -> Result<()> {
        let batch = batch.ok_or_else(|| Error::internal("a step without its batch"))?;
        let staged = &mut source.staged;
        pack(
            &batch,
            self.cap_pixels,
            self.cfg.data.ignore_index,
            &mut staged.images,
            &mut staged.labels,
            &mut staged.sizes,
        )?;
        self.session.stage(which, staged)
    }

    /// What a run that cannot go on ends with: its steps are saved first. A file of the data that is at
    /// fault is named in the metrics: it may be another one when the run goes on.
    fn give_up(&mut self, cause: Error) -> Error {
        let iteration = self.progress.iteration;
        let at = match &cause {
            Error::Input { at, .. } => Some(at.clone()),
            Error::Io { path, .. } if !path.starts_with(self.dir.path()) => {
                Some(path.display().to_string())
            }
            _ => None,
        };
        if let Some(at) = at
            && let Err(unlogged) = self.dir.log(&json!({"iter": iteration, "failed": at}))
        {
            tracing::warn!("{unlogged}");
        }
        match self.save() {
            Ok(()) => Error::Saved {
                cause: Box::new(cause),
                out: self.dir.path().to_path_buf(),
                iteration,
            },
            Err(e) if e.to_string() == cause.to_string() => cause,
            // Both are to be known; the first is why.
            Err(e) => Error::Inputs(vec![cause, e]),
        }
    }

    fn train(&mut self, options: &Options, observer: &mut dyn Observer) -> Result<Summary> {
        let clock = Instant::now();
        while let Err(error) = self.steps(options, observer) {
            self.roll_back(error)?;
        }
        let done = self.progress.iteration;
        let summary = match self.finish(clock, observer).map_err(|e| diverged(e, done)) {
            Ok(summary) => summary,
            Err(e @ Error::Diverged { .. }) => return Err(e),
            Err(e) => return Err(self.give_up(e)),
        };
        observer.end(&summary);
        Ok(summary)
    }

    /// Every step that is left, with validations and checkpoints.
    fn steps(&mut self, options: &Options, observer: &mut dyn Observer) -> Result<()> {
        let total = self.session.schedule().total();
        let end = options.max_iters.map_or(total, |n| n.min(total));
        let start = self.progress.iteration;
        let warmup = self.session.schedule().warmup();
        let (bl, bu) = (self.cfg.train.batch_labeled, self.cfg.train.batch_unlabeled);
        let mut labeled = self.source(&self.labeled, bl, 16, start)?;
        let mut unlabeled = match &self.unlabeled {
            Some(d) if end > warmup => Some(self.source(d, bu, 17, start.max(warmup))?),
            _ => None,
        };
        let mut watch = ContrastWatch::new(&self.cfg);
        let mut queued = None;
        self.dir.log(&json!({
            "iter": start,
            "machine": machine::describe(&**self.session.device()),
        }))?;
        observer.begin(&self.cfg, start, end);
        self.validate_again(observer)?;

        for iteration in start..end {
            let micro_batches = self.session.micro_batches();
            let fetched = self.fetch(&mut labeled);
            let mut of_labeled = fetched.map_err(|e| self.give_up(e))?;
            let mut of_unlabeled = VecDeque::new();
            if let Some(source) = unlabeled.as_mut().filter(|_| iteration >= warmup) {
                let fetched = self.fetch(source);
                of_unlabeled = fetched.map_err(|e| self.give_up(e))?;
            }
            let mut profile = None;
            for micro in 0..micro_batches {
                self.stage("labeled", &mut labeled, of_labeled.pop_front())?;
                if let Some(source) = unlabeled.as_mut().filter(|_| iteration >= warmup) {
                    self.stage("unlabeled", source, of_unlabeled.pop_front())?;
                }
                if options.profile && iteration + 1 == end && micro + 1 == micro_batches {
                    profile = Some(self.session.micro_step_timed(iteration, micro)?);
                } else {
                    self.session.micro_step(iteration, micro)?;
                }
            }
            let epoch = iteration / self.epoch_iters;
            let epoch_ends = (iteration + 1) % self.epoch_iters == 0;
            let due = epoch_ends && (epoch + 1).is_multiple_of(self.cfg.train.val_every.max(1));
            let due = due || iteration + 1 == total;
            self.progress.iteration = iteration + 1;
            self.progress.unvalidated = due;
            // The device has its next step: now there is time to wait for the last one's numbers.
            let told = self.log(queued.take(), &mut watch, observer);
            let told = told.and_then(|()| self.tell_skipped());
            let told = told.and_then(|()| match &profile {
                Some(timings) => self.dir.profile(iteration + 1, timings),
                None => Ok(()),
            });
            told.map_err(|e| self.unless_saved(e))?;
            if self.is_logged(iteration + 1) {
                queued = Some((iteration, self.session.queue_report(iteration)?));
            } else {
                observer.step(iteration + 1, self.session.scalars(iteration).lr, None);
            }
            if due {
                let told = self.log(queued.take(), &mut watch, observer);
                told.map_err(|e| self.unless_saved(e))?;
                let validated = self.validate(epoch, iteration < warmup, observer);
                let validated = validated.map_err(|e| diverged(e, iteration + 1));
                // An epoch is not lost for a validation that finds no memory, say; but a good
                // checkpoint is for a network without answers.
                match validated {
                    Ok(()) => self.save()?,
                    Err(e @ Error::Diverged { .. }) => return Err(e),
                    Err(e) => return Err(self.give_up(e)),
                }
            }
            if iteration + 1 < end && observer.stops() {
                let told = self.log(queued.take(), &mut watch, observer);
                told.map_err(|e| self.unless_saved(e))?;
                self.save()?;
                return Err(Error::Stopped {
                    out: options.out.clone(),
                    iteration: iteration + 1,
                });
            }
        }
        let told = self.log(queued.take(), &mut watch, observer);
        told.map_err(|e| self.unless_saved(e))?;
        if self.progress.iteration < total {
            // A pause leaves nothing but its checkpoint: going on equals never having stopped.
            self.save()?;
        }
        Ok(())
    }

    /// Whether metrics are due after `done` iterations.
    fn is_logged(&self, done: usize) -> bool {
        done == self.session.schedule().total()
            || done.is_multiple_of(self.cfg.train.log_every.max(1))
    }

    /// Takes the report of a step and writes its line of metrics.
    fn log(
        &mut self,
        queued: Option<(usize, Queued)>,
        watch: &mut ContrastWatch,
        observer: &mut dyn Observer,
    ) -> Result<()> {
        let Some((iteration, queued)) = queued else {
            return Ok(());
        };
        let done = iteration + 1;
        let report = queued.report(&**self.session.device())?;
        if !report.is_finite() {
            return Err(Error::Diverged {
                what: "the loss".into(),
                iteration: done,
            });
        }
        watch.see(&report);
        let lr = self.session.scalars(iteration).lr;
        self.dir.log(&StepLine {
            iter: done,
            epoch: iteration / self.epoch_iters,
            lr,
            report: &report,
            unusable: Some(self.unusable_now).filter(|n| *n > 0),
        })?;
        self.board.step(done, lr, &report)?;
        observer.step(done, lr, Some(&report));
        Ok(())
    }

    fn evaluate(&mut self, who: &str) -> Result<Metrics> {
        let set = self.session.param_set(who)?;
        self.evaluator
            .evaluate(self.session.arena(), set, &self.val, &mut |_, _| {})
    }

    /// The network that a finished run would be judged by: the teacher of U2PL, the student where
    /// there is no teacher yet.
    fn judged(&self, warmup: bool) -> &'static str {
        let supervised = self.cfg.train.algorithm == Algorithm::Supervised;
        if warmup || supervised {
            "student"
        } else {
            "teacher"
        }
    }

    /// Makes up for a validation that failed after the checkpoint's last step.
    fn validate_again(&mut self, observer: &mut dyn Observer) -> Result<()> {
        if !self.progress.unvalidated {
            return Ok(());
        }
        let done = self.progress.iteration;
        let step = done.saturating_sub(1);
        let warmup = self.session.schedule().is_warmup(step);
        let validated = self.validate(step / self.epoch_iters, warmup, observer);
        validated.map_err(|e| diverged(e, done))?;
        self.save()
    }

    fn validate(&mut self, epoch: usize, warmup: bool, observer: &mut dyn Observer) -> Result<()> {
        let who = self.judged(warmup);
        let metrics = self.evaluate(who)?;
        let miou = metrics.miou();
        if self.val_is_void && self.last_val.is_none() {
            tracing::warn!(
                "no pixel of the validation images is labelled: there is no mIoU, and best.safetensors \
                 follows last.safetensors"
            );
        }
        let done = self.progress.iteration;
        if let Some(miou) = miou {
            self.board.validated(done, miou, &metrics.iou())?;
        }
        let best = self.progress.best_miou.max(miou.unwrap_or(0.0));
        observer.validated(epoch, who, &metrics, best);
        let sheet = self.picture(warmup, &format!("epoch-{:04}", epoch + 1))?;
        self.board.sheet(done, &sheet)?;
        if self.board.is_on() {
            let weights = self.session.read("student.weights")?;
            self.board.weights(done, self.session.params(), &weights)?;
        }
        let best = self.dir.checkpoint("best");
        // The first is the best so far, also at 0 %.
        let counts = |miou: f64| miou > self.progress.best_miou || !best.exists();
        if self.val_is_void || miou.is_some_and(counts) {
            let progress = Progress {
                best_miou: miou.unwrap_or(self.progress.best_miou),
                unvalidated: false,
                ..self.progress
            };
            let origin = &self.origin;
            checkpoint::save_networks(&best, &self.session, &self.cfg, origin, progress)?;
            self.progress = progress;
        }
        // Last: a validation with a line is over, and one that fails half-way is made again.
        self.dir.log(&json!({
            "iter": done,
            "epoch": epoch,
            "val": {"model": who, "miou": miou, "iou": metrics.iou()},
        }))?;
        self.last_val = Some((done, who, miou));
        self.progress.unvalidated = false;
        Ok(())
    }

    /// Writes the pictures of this moment, after a step on labels alone (`warmup`) or not.
    fn picture(&mut self, warmup: bool, name: &str) -> Result<Sheet> {
        let weights = |who: &str| -> Result<Weights> {
            Ok(Weights {
                arena: self.session.arena(),
                set: self.session.param_set(who)?,
            })
        };
        let networks = samples::Pair {
            student: weights("student")?,
            teacher: weights("teacher")?,
        };
        let last = self.progress.iteration.saturating_sub(1);
        let alpha = (!warmup).then(|| self.session.scalars(last).alpha);
        let predictor = self.evaluator.predictor();
        let sheet = samples::sheet(predictor, networks, &self.val, &self.cfg, alpha)?;
        write_atomic(&self.dir.sample(name), &sheet.to_png()?)?;
        Ok(sheet)
    }

    fn save(&self) -> Result<()> {
        let dir = self.dir.path();
        checkpoint::save(dir, &self.session, &self.cfg, &self.origin, self.progress)
    }

    /// mIoU of both networks; a validation of this very state is not repeated.
    fn finish(&mut self, clock: Instant, observer: &mut dyn Observer) -> Result<Summary> {
        let iterations = self.progress.iteration;
        let epoch = iterations.saturating_sub(1) / self.epoch_iters;
        let mut miou = [None; 2];
        for (slot, who) in miou.iter_mut().zip(["student", "teacher"]) {
            *slot = match self.last_val {
                Some((at, judged, miou)) if at == iterations && judged == who => miou,
                _ => {
                    let metrics = self.evaluate(who)?;
                    observer.validated(epoch, who, &metrics, self.progress.best_miou);
                    metrics.miou()
                }
            };
        }
        let warmup = iterations == 0 || self.session.schedule().is_warmup(iterations - 1);
        self.picture(warmup, FINAL_PICTURE)?;
        if let Some(n @ 1..) = self.unlabeled.as_ref().map(|d| d.unusable_masks()) {
            tracing::warn!("{n} masks of unlabelled images were left out of the diagnostics");
        }
        let (state, transient) = self.session.bytes();
        let summary = Summary {
            out: self.dir.path().to_path_buf(),
            iterations,
            planned_iterations: self.session.schedule().total(),
            unlabeled_from: self
                .unlabeled
                .is_some()
                .then(|| self.session.schedule().warmup()),
            seconds: clock.elapsed().as_secs_f64(),
            best_miou: self.progress.best_miou,
            student_miou: miou[0],
            teacher_miou: miou[1],
            planned_bytes: state + transient,
            measured_bytes: self.session.resident_bytes(),
        };
        if iterations == self.session.schedule().total() {
            self.dir.log(&json!({
                "iter": summary.iterations,
                "end": {
                    "seconds": summary.seconds,
                    "best_miou": summary.best_miou,
                    "student_miou": summary.student_miou,
                    "teacher_miou": summary.teacher_miou,
                },
            }))?;
        }
        Ok(summary)
    }
}
