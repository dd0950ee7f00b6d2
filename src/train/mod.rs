//! Training: the loop over the planned step.
//!
//! Comes in: a configuration and a device. Goes out: a run folder with the resolved
//! configuration, metrics, checkpoints and pictures, and a [`Summary`]. [`session`] holds the
//! device side, [`run_dir`] the folder, [`checkpoint`] what a run needs to go on bit for bit,
//! [`samples`] the pictures, [`events`] the file that TensorBoard reads, [`demo`] the comparison
//! that `train` without a configuration runs.

mod board;
pub mod checkpoint;
pub mod demo;
pub mod events;
pub mod run_dir;
pub mod samples;
pub mod session;
pub mod sheet;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use crate::config::Config;
use crate::config::schema::{Algorithm, Mode};
use crate::contact::{self, Check};
use crate::data::{Dataset, Loader, LoaderSettings, check, pack};
use crate::device::Device;
use crate::eval::{Evaluator, Metrics, Weights};
use crate::files::write_atomic;
use crate::machine;
use crate::method::diagnostics::{Queued, Report};
use crate::method::schedule;
use crate::{Error, Result};
use board::Board;
use checkpoint::Progress;
use run_dir::RunDir;
use session::{Session, Staged};
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
    /// Seconds of this call.
    pub seconds: f64,
    /// Best validation mIoU, 0–1.
    pub best_miou: f64,
    /// Student's mIoU at the end, 0–1.
    pub student_miou: f64,
    /// EMA teacher's mIoU at the end, 0–1.
    pub teacher_miou: f64,
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
    /// A validation ended.
    fn validated(&mut self, _epoch: usize, _who: &str, _metrics: &Metrics) {}
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
}

/// Images of one list: where they come from, and the host's buffers of a batch, made once.
struct Source {
    loader: Loader,
    staged: Staged,
}

struct Trainer {
    cfg: Config,
    session: Session,
    evaluator: Evaluator,
    dir: RunDir,
    board: Board,
    labeled: Arc<Dataset>,
    unlabeled: Option<Arc<Dataset>>,
    val: Arc<Dataset>,
    epoch_iters: usize,
    cap_pixels: usize,
    progress: Progress,
    /// (iteration, network, mIoU) of the last validation.
    last_val: Option<(usize, &'static str, f64)>,
}

impl Trainer {
    fn new(cfg: Config, options: &Options) -> Result<Self> {
        let init = match &options.init {
            Some(path) if !options.resume => Some(checkpoint::open_init(path, &cfg)?),
            _ => None,
        };
        let found = check(&cfg)?;
        let cap_pixels = found.train_sizes.pixels;
        let labeled = Arc::new(found.labeled);
        let unlabeled = found.unlabeled.map(Arc::new);
        let val = Arc::new(found.val);
        let epoch_iters = schedule::epoch_iters(
            &cfg,
            labeled.len(),
            unlabeled.as_ref().map_or(0, |d| d.len()),
        );

        check_epoch(&cfg, epoch_iters)?;

        let resume_from = run_dir::checkpoint_path(&options.out, "last");
        let resumed = if options.resume {
            Some(checkpoint::open(&resume_from, &cfg)?)
        } else {
            None
        };
        if let Some(reason) = schedule::contrast_is_idle(&cfg) {
            tracing::warn!("the contrast term has nothing to learn from: {reason}");
        }
        contact::introduce(&*options.device, &options.check);
        let mut session = Session::new(&cfg, options.device.clone(), epoch_iters, cap_pixels)?;
        let mut evaluator = Evaluator::new(options.device.clone(), &cfg, session.params().clone());
        // Before the first step, not at the first validation.
        evaluator.meet(session.param_set("student")?)?;
        let (dir, progress) = match resumed {
            Some(file) => {
                let released = cfg.method.mode == Mode::Released;
                let progress = checkpoint::restore(&file, &session, !released)?;
                if released && progress.iteration > 0 {
                    tracing::warn!(
                        "mode released resumes as the authors' code does: the learning rate stays \
                         where it was, the memory bank starts empty"
                    );
                    session.forget(progress.iteration);
                }
                (RunDir::reopen(&options.out, progress.iteration)?, progress)
            }
            None => {
                if let Some(init) = &init {
                    checkpoint::initialise(init, &session)?;
                }
                (RunDir::create(&options.out, &cfg)?, Progress::default())
            }
        };
        let board = Board::open(dir.path(), &cfg, progress.iteration)?;
        if !options.resume {
            // A run that ends before its first validation goes on from here; and a disk without room
            // for a checkpoint shows before there is anything to lose.
            checkpoint::save(&dir.checkpoint("last"), &session, &cfg, progress)?;
        }
        Ok(Self {
            cfg,
            session,
            evaluator,
            dir,
            board,
            labeled,
            unlabeled,
            val,
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
        loader.seek(at.epoch, at.iter * self.session.micro_batches())?;
        Ok(Source {
            loader,
            staged: Staged::new(batch, self.cap_pixels),
        })
    }

    /// Puts the next batch of `source` into the staging of `which`.
    fn stage(&self, which: &str, source: &mut Source) -> Result<()> {
        let next = source.loader.next()?;
        let staged = &mut source.staged;
        pack(
            &next,
            self.cap_pixels,
            self.cfg.data.ignore_index,
            &mut staged.images,
            &mut staged.labels,
            &mut staged.sizes,
        )?;
        self.session.stage(which, staged)
    }

    fn train(&mut self, options: &Options, observer: &mut dyn Observer) -> Result<Summary> {
        let clock = Instant::now();
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

        for iteration in start..end {
            let micro_batches = self.session.micro_batches();
            for micro in 0..micro_batches {
                self.stage("labeled", &mut labeled)?;
                if let Some(source) = unlabeled.as_mut().filter(|_| iteration >= warmup) {
                    self.stage("unlabeled", source)?;
                }
                if options.profile && iteration + 1 == end && micro + 1 == micro_batches {
                    let timings = self.session.micro_step_timed(iteration, micro)?;
                    self.dir.profile(iteration + 1, &timings)?;
                } else {
                    self.session.micro_step(iteration, micro)?;
                }
            }
            self.progress.iteration = iteration + 1;
            // The device has its next step: now there is time to wait for the last one's numbers.
            self.log(queued.take(), &mut watch, observer)?;
            if self.is_logged(iteration + 1) {
                queued = Some((iteration, self.session.queue_report(iteration)?));
            } else {
                observer.step(iteration + 1, self.session.scalars(iteration).lr, None);
            }
            let epoch = iteration / self.epoch_iters;
            let epoch_ends = (iteration + 1) % self.epoch_iters == 0;
            let due = epoch_ends && (epoch + 1).is_multiple_of(self.cfg.train.val_every.max(1));
            if due || iteration + 1 == total {
                self.log(queued.take(), &mut watch, observer)?;
                let validated = self.validate(epoch, iteration < warmup, observer);
                // An epoch is not lost for a validation that finds no memory, say.
                let saved = self.save();
                validated.and(saved)?;
            }
            if iteration + 1 < end && observer.stops() {
                self.log(queued.take(), &mut watch, observer)?;
                self.save()?;
                return Err(Error::Stopped {
                    out: options.out.clone(),
                    iteration: iteration + 1,
                });
            }
        }
        self.log(queued.take(), &mut watch, observer)?;
        if self.progress.iteration < total {
            // A pause leaves nothing but its checkpoint: going on equals never having stopped.
            self.save()?;
        }
        let summary = self.finish(clock, observer)?;
        observer.end(&summary);
        Ok(summary)
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
            return Err(Error::input(
                "train.lr",
                format!("the loss is no longer a number at iteration {done}"),
                "lower train.lr (or train.head_lr_mult)",
            ));
        }
        watch.see(&report);
        let lr = self.session.scalars(iteration).lr;
        self.dir.log(&StepLine {
            iter: done,
            epoch: iteration / self.epoch_iters,
            lr,
            report: &report,
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

    fn validate(&mut self, epoch: usize, warmup: bool, observer: &mut dyn Observer) -> Result<()> {
        let who = self.judged(warmup);
        let metrics = self.evaluate(who)?;
        let miou = metrics.miou().unwrap_or(0.0);
        self.dir.log(&json!({
            "iter": self.progress.iteration,
            "epoch": epoch,
            "val": {"model": who, "miou": miou, "iou": metrics.iou()},
        }))?;
        let done = self.progress.iteration;
        self.board.validated(done, miou, &metrics.iou())?;
        observer.validated(epoch, who, &metrics);
        let sheet = self.picture(warmup, &format!("epoch-{:04}", epoch + 1))?;
        self.board.sheet(done, &sheet)?;
        if self.board.is_on() {
            let weights = self.session.read("student.weights")?;
            self.board.weights(done, self.session.params(), &weights)?;
        }
        self.last_val = Some((self.progress.iteration, who, miou));
        if miou > self.progress.best_miou {
            self.progress.best_miou = miou;
            let best = self.dir.checkpoint("best");
            checkpoint::save_networks(&best, &self.session, &self.cfg, self.progress)?;
        }
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
        let path = self.dir.checkpoint("last");
        checkpoint::save(&path, &self.session, &self.cfg, self.progress)
    }

    /// mIoU of both networks; a validation of this very state is not repeated.
    fn finish(&mut self, clock: Instant, observer: &mut dyn Observer) -> Result<Summary> {
        let iterations = self.progress.iteration;
        let epoch = iterations.saturating_sub(1) / self.epoch_iters;
        let mut miou = [0.0; 2];
        for (slot, who) in miou.iter_mut().zip(["student", "teacher"]) {
            *slot = match self.last_val {
                Some((at, judged, miou)) if at == iterations && judged == who => miou,
                _ => {
                    let metrics = self.evaluate(who)?;
                    observer.validated(epoch, who, &metrics);
                    metrics.miou().unwrap_or(0.0)
                }
            };
        }
        let warmup = iterations == 0 || self.session.schedule().is_warmup(iterations - 1);
        self.picture(warmup, FINAL_PICTURE)?;
        let (state, transient) = self.session.bytes();
        let summary = Summary {
            out: self.dir.path().to_path_buf(),
            iterations,
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
