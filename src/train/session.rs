//! A training run's device side: state, programs, one step at a time.

use std::sync::Arc;

use crate::config::schema::{Algorithm, Config};
use crate::device::{ArenaId, DType, Device, Met, Op, bf16_bytes, elements};
use crate::graph::exec::{Arena, Program, Timing, read_view};
use crate::graph::params::{Layout, ParamSet};
use crate::graph::plan::Plan;
use crate::graph::state::State;
use crate::graph::{Graph, TensorId};
use crate::method::diagnostics::{self, Queued, Report};
use crate::method::schedule::{Scalars, Schedule};
use crate::method::state as method_state;
use crate::method::step::{Images, Outputs, StepBuilder};
use crate::model;
use crate::{Error, Result};

/// The graphs of a run, before any memory exists.
pub struct Blueprint {
    /// Parameters of the network.
    pub params: Layout,
    /// The state arena's layout.
    pub state: State,
    /// The step on labels alone, when the run has one.
    pub warmup: Option<(Graph, Outputs)>,
    /// The U2PL step, when the run has one.
    pub u2pl: Option<(Graph, Outputs)>,
    /// What follows the last micro-batch of a step, when a step has several: the two above then end
    /// with their gradient.
    pub update: Option<Graph>,
}

impl Blueprint {
    /// Builds every graph of a run whose largest training image has `cap_pixels` pixels, with
    /// activations of type `map` ([`Device::map_dtype`]).
    ///
    /// # Errors
    /// [`Error::Input`] when crop, batch or network do not fit together.
    pub fn new(cfg: &Config, cap_pixels: usize, map: DType) -> Result<Self> {
        let mut params = model::layout(&cfg.model, cfg.data.classes)?;
        let state = method_state::layout(cfg, &params, cap_pixels, map);
        let u2pl = cfg.train.algorithm.uses_unlabeled();
        let warmup = if !u2pl || cfg.train.warmup_epochs > 0 {
            Some(StepBuilder::new(cfg, &mut params, &state)?.warmup()?)
        } else {
            None
        };
        let u2pl = if u2pl {
            Some(StepBuilder::new(cfg, &mut params, &state)?.u2pl()?)
        } else {
            None
        };
        let update = Self::update(cfg, &mut params, &state)?;
        Ok(Self {
            params,
            state,
            warmup,
            u2pl,
            update,
        })
    }

    fn update(cfg: &Config, params: &mut Layout, state: &State) -> Result<Option<Graph>> {
        match cfg.train.micro_batches {
            0 | 1 => Ok(None),
            _ => Ok(Some(
                StepBuilder::new(cfg, params, state)?.update_of_mean()?,
            )),
        }
    }

    /// As [`Blueprint::new`] with images that the host fills in ([`StepBuilder::on_inputs`]).
    fn on_inputs(cfg: &Config, map: DType) -> Result<(Self, HostImages)> {
        let mut params = model::layout(&cfg.model, cfg.data.classes)?;
        let state = method_state::layout(cfg, &params, 1, map);
        let (graph, out, warmup_images) =
            StepBuilder::new(cfg, &mut params, &state)?.on_inputs(false)?;
        let warmup = Some((graph, out));
        let (u2pl, u2pl_images) = match cfg.train.algorithm {
            Algorithm::Supervised => (None, None),
            _ => {
                let step = StepBuilder::new(cfg, &mut params, &state)?.on_inputs(true)?;
                (Some((step.0, step.1)), Some(step.2))
            }
        };
        let update = Self::update(cfg, &mut params, &state)?;
        let blueprint = Self {
            params,
            state,
            warmup,
            u2pl,
            update,
        };
        let images = HostImages {
            warmup: warmup_images,
            u2pl: u2pl_images,
        };
        Ok((blueprint, images))
    }

    /// As a device runs the graphs that gains from what `gains` says yes to ([`Device::fuses`]).
    pub fn fused(mut self, gains: impl Fn(&Op) -> bool) -> Self {
        self.graphs_mut().for_each(|graph| graph.fuse(&gains));
        self
    }

    /// What `device` meets in all of them ([`Graph::met_on`]).
    pub fn met_on(&self, device: &dyn Device) -> Vec<Met> {
        let steps = self.warmup.iter().chain(&self.u2pl).map(|(g, _)| g);
        let graphs = steps.chain(&self.update);
        graphs.flat_map(|graph| graph.met_on(device)).collect()
    }

    fn graphs_mut(&mut self) -> impl Iterator<Item = &mut Graph> {
        let steps = self.warmup.iter_mut().chain(&mut self.u2pl);
        steps.map(|(graph, _)| graph).chain(&mut self.update)
    }

    /// Planned bytes: (state arena, transient arena).
    pub fn planned_bytes(&self, device: &dyn Device) -> (usize, usize) {
        let steps = self.warmup.iter().chain(&self.u2pl).map(|(g, _)| g);
        let plans = steps.chain(&self.update).map(|graph| {
            let mut graph = graph.clone();
            graph.fuse(|op| device.fuses(op));
            Plan::new(&graph, device)
        });
        (
            self.state.bytes(),
            plans.map(|p| p.bytes).max().unwrap_or(0),
        )
    }
}

/// Tensors that the host fills in a session made by [`Session::on_inputs`].
#[derive(Clone, Copy, Debug)]
pub struct HostImages {
    /// Of steps on labels alone.
    pub warmup: Images,
    /// Of U2PL steps, where the run has them.
    pub u2pl: Option<Images>,
}

/// Memory, programs and schedule of a run.
pub struct Session {
    device: Arc<dyn Device>,
    params: Layout,
    state: State,
    arena: Arena,
    transient: Arena,
    warmup: Option<(Program, Outputs)>,
    u2pl: Option<(Program, Outputs)>,
    update: Option<Program>,
    micro_batches: usize,
    schedule: Schedule,
    seed: u64,
    /// Factor on the learning rate; 1 unless the run went back after it had diverged.
    lr_factor: f32,
    forgotten: Option<Forgotten>,
}

/// What mode `released` loses at a resume (method §4 row 12).
#[derive(Clone, Copy)]
struct Forgotten {
    /// The learning rate stays at that of the last step before the interruption.
    lr: f32,
    /// The random state starts anew at this iteration.
    iteration: usize,
}

/// Host-side batch in the staging layout of `Op::Augment`.
pub struct Staged {
    /// `[B, 3·cap]`.
    pub images: Vec<u8>,
    /// `[B, cap]`.
    pub labels: Vec<u8>,
    /// `[B, 2]` height, width.
    pub sizes: Vec<u32>,
}

impl Staged {
    /// Buffers for `batch` images of at most `cap_pixels` pixels, to be filled again and again.
    pub fn new(batch: usize, cap_pixels: usize) -> Self {
        Self {
            images: vec![0; batch * 3 * cap_pixels],
            labels: vec![0; batch * cap_pixels],
            sizes: vec![0; batch * 2],
        }
    }
}

impl Session {
    /// Allocates everything a run needs and fills in initial weights: the student's from `seed`,
    /// the teacher's its own, as two networks built one after the other would have.
    ///
    /// # Errors
    /// [`Error::Input`] when the planned memory is not there, before anything is allocated.
    pub fn new(
        cfg: &Config,
        device: Arc<dyn Device>,
        epoch_iters: usize,
        cap_pixels: usize,
    ) -> Result<Self> {
        let blueprint = Blueprint::new(cfg, cap_pixels, device.map_dtype())?;
        Self::assemble(cfg, device, epoch_iters, blueprint)
    }

    /// As [`Session::new`] on normalised images that the host fills in before each step
    /// ([`Session::fill`]) instead of staged ones: no augmentation, for exact comparison with
    /// other code.
    ///
    /// # Errors
    /// As [`Session::new`].
    pub fn on_inputs(
        cfg: &Config,
        device: Arc<dyn Device>,
        epoch_iters: usize,
    ) -> Result<(Self, HostImages)> {
        let (blueprint, images) = Blueprint::on_inputs(cfg, device.map_dtype())?;
        Ok((Self::assemble(cfg, device, epoch_iters, blueprint)?, images))
    }

    /// As [`Session::new`], of graphs that were built already.
    pub(super) fn assemble(
        cfg: &Config,
        device: Arc<dyn Device>,
        epoch_iters: usize,
        mut blueprint: Blueprint,
    ) -> Result<Self> {
        blueprint.graphs_mut().try_for_each(|g| g.suit(&*device))?;
        check_memory(&blueprint, &*device)?;
        let Blueprint {
            params,
            state,
            warmup,
            u2pl,
            update,
        } = blueprint;
        let arena = Arena::new(device.clone(), state.bytes())?;
        let mut graphs = Vec::new();
        let mut outputs = Vec::new();
        let has_warmup = warmup.is_some();
        for (graph, out) in warmup.into_iter().chain(u2pl) {
            graphs.push(graph);
            outputs.push(out);
        }
        graphs.extend(update);
        let (transient, mut programs) = Program::sharing(graphs, &device, arena.id())?;
        let update = match programs.len() > outputs.len() {
            true => programs.pop(),
            false => None,
        };
        let mut steps = programs.into_iter().zip(outputs);
        let warmup = if has_warmup { steps.next() } else { None };
        let u2pl = steps.next();
        let schedule = Schedule::new(cfg, epoch_iters);
        let session = Self {
            device,
            params,
            state,
            arena,
            transient,
            warmup,
            u2pl,
            update,
            micro_batches: cfg.train.micro_batches.max(1),
            schedule,
            seed: cfg.train.seed,
            lr_factor: 1.0,
            forgotten: None,
        };
        session.initialise()?;
        session.expect_uploads()?;
        Ok(session)
    }

    /// Two steps' images: the next step's are staged while this one's are on their way.
    fn expect_uploads(&self) -> Result<()> {
        let staged =
            |(name, _): &(&str, _)| name.starts_with("labeled.") || name.starts_with("unlabeled.");
        let entries = self.state.iter().filter(staged);
        let bytes: usize = entries
            .map(|(_, e)| elements(e.shape) * e.dtype.bytes())
            .sum();
        self.device.expect_uploads(2 * bytes)
    }

    fn initialise(&self) -> Result<()> {
        for (who, seed) in [("student", self.seed), ("teacher", self.seed ^ 0x7EAC_4E12)] {
            let (weights, buffers) = model::init(&self.params, seed);
            self.write(&format!("{who}.weights"), &weights)?;
            self.write(&format!("{who}.buffers"), &buffers)?;
        }
        Ok(())
    }

    /// The schedule.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// Parameters of the network.
    pub fn params(&self) -> &Layout {
        &self.params
    }

    /// The state's layout.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// The state's arena.
    pub fn arena(&self) -> ArenaId {
        self.arena.id()
    }

    /// The device.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// Bytes allocated: (state, transient).
    pub fn bytes(&self) -> (usize, usize) {
        (self.arena.bytes(), self.transient.bytes())
    }

    /// Bytes of both arenas that the run has touched, where the device can tell.
    pub fn resident_bytes(&self) -> Option<usize> {
        let arenas = [&self.arena, &self.transient];
        arenas
            .iter()
            .map(|a| self.device.resident_bytes(a.id()))
            .sum()
    }

    /// The student's or the teacher's parameters.
    ///
    /// # Errors
    /// [`Error::Internal`] for another name.
    pub fn param_set(&self, who: &str) -> Result<ParamSet> {
        method_state::param_set(&self.state, who)
    }

    /// Fills a state entry from the host, and its bf16 copy where it has one.
    ///
    /// # Errors
    /// [`Error::Internal`] when there is none or the size differs.
    pub fn write<T: bytemuck::NoUninit>(&self, entry: &str, values: &[T]) -> Result<()> {
        let view = self.state.view(entry, self.arena.id())?;
        let bytes = bytemuck::cast_slice(values);
        self.device.write(&view, bytes)?;
        let copy = method_state::copy_name(entry);
        if self.state.contains(&copy) {
            let view = self.state.view(&copy, self.arena.id())?;
            self.device.write(&view, &bf16_bytes(bytes))?;
        }
        Ok(())
    }

    /// Reads a state entry to the host.
    ///
    /// # Errors
    /// [`Error::Internal`] when there is none.
    pub fn read<T: bytemuck::AnyBitPattern + bytemuck::NoUninit>(
        &self,
        entry: &str,
    ) -> Result<Vec<T>> {
        read_view(&*self.device, &self.state.view(entry, self.arena.id())?)
    }

    /// Puts a batch into the staging of `which` (`labeled` or `unlabeled`).
    ///
    /// # Errors
    /// [`Error::Internal`] when the sizes differ.
    pub fn stage(&self, which: &str, batch: &Staged) -> Result<()> {
        self.write(&format!("{which}.images"), &batch.images)?;
        self.write(&format!("{which}.labels"), &batch.labels)?;
        self.write(&format!("{which}.sizes"), &batch.sizes)
    }

    /// Fills a tensor of [`HostImages`] for the step of `iteration`.
    ///
    /// # Errors
    /// [`Error::Internal`] on a size mismatch.
    pub fn fill<T: bytemuck::NoUninit>(
        &self,
        iteration: usize,
        tensor: TensorId,
        values: &[T],
    ) -> Result<()> {
        self.program(iteration)?.0.write(tensor, values)
    }

    fn program(&self, iteration: usize) -> Result<&(Program, Outputs)> {
        let step = if self.schedule.is_warmup(iteration) {
            &self.warmup
        } else {
            &self.u2pl
        };
        step.as_ref()
            .ok_or_else(|| Error::internal("no program for this iteration"))
    }

    /// Goes on at `iteration` as the released code does after a resume: the learning rate frozen,
    /// the random state anew (method §4 row 12). The memory bank, which its checkpoints lack, is
    /// the caller's to leave empty.
    pub fn forget(&mut self, iteration: usize) {
        let lr = self.schedule.scalars(iteration.saturating_sub(1)).lr;
        self.forgotten = Some(Forgotten { lr, iteration });
    }

    /// Multiplies the schedule's learning rate by `factor` from here on.
    pub fn slow_down(&mut self, factor: f32) {
        self.lr_factor = factor;
    }

    /// The scalars of `iteration`.
    pub fn scalars(&self, iteration: usize) -> Scalars {
        let mut scalars = self.schedule.scalars(iteration);
        if let Some(forgotten) = self.forgotten {
            scalars.lr = forgotten.lr;
        }
        scalars.lr *= self.lr_factor;
        scalars
    }

    /// Micro-batches a step.
    pub fn micro_batches(&self) -> usize {
        self.micro_batches
    }

    fn prepare(&self, iteration: usize, micro: usize) -> Result<()> {
        let scalars = self.scalars(iteration);
        let step = iteration - self.forgotten.map_or(0, |f| f.iteration);
        // Every micro-batch draws numbers of its own.
        let step = step * self.micro_batches + micro;
        let rng = [self.seed as u32, (self.seed >> 32) as u32, step as u32, 0];
        self.write("rng", &rng)?;
        self.write("scalars", &scalars.to_device(micro))
    }

    /// Runs the step of `iteration` on the staged images.
    ///
    /// # Errors
    /// The device's; [`Error::Internal`] when a step has several micro-batches.
    pub fn step(&self, iteration: usize) -> Result<()> {
        match self.micro_batches {
            1 => self.micro_step(iteration, 0),
            n => Err(Error::internal(format!(
                "a step at once of {n} micro-batches"
            ))),
        }
    }

    /// Runs micro-batch `micro` of the step of `iteration` on the staged images; after the last one
    /// the weights move.
    ///
    /// # Errors
    /// The device's.
    pub fn micro_step(&self, iteration: usize, micro: usize) -> Result<()> {
        self.prepare(iteration, micro)?;
        self.program(iteration)?.0.run()?;
        self.end_step(micro)
    }

    /// The update, after the last of several micro-batches.
    fn end_step(&self, micro: usize) -> Result<()> {
        match &self.update {
            Some(update) if micro + 1 == self.micro_batches => update.run(),
            _ => Ok(()),
        }
    }

    /// As [`Session::micro_step`], timing each call of the micro-batch.
    ///
    /// # Errors
    /// The device's.
    pub fn micro_step_timed(&self, iteration: usize, micro: usize) -> Result<Vec<Timing>> {
        self.prepare(iteration, micro)?;
        let timings = self.program(iteration)?.0.run_timed()?;
        self.end_step(micro)?;
        Ok(timings)
    }

    /// As [`Session::step`], timing each call.
    ///
    /// # Errors
    /// As [`Session::step`].
    pub fn step_timed(&self, iteration: usize) -> Result<Vec<Timing>> {
        match self.micro_batches {
            1 => self.micro_step_timed(iteration, 0),
            n => Err(Error::internal(format!(
                "a step at once of {n} micro-batches"
            ))),
        }
    }

    /// What the step of `iteration`, the last one run, did; of several micro-batches the last.
    ///
    /// # Errors
    /// The device's.
    pub fn report(&self, iteration: usize) -> Result<Report> {
        self.queue_report(iteration)?.report(&*self.device)
    }

    /// As [`Session::report`], without waiting for the step: the next one may be queued before
    /// the report is taken.
    ///
    /// # Errors
    /// The device's.
    pub fn queue_report(&self, iteration: usize) -> Result<Queued> {
        let (program, out) = self.program(iteration)?;
        let scalars = self.scalars(iteration);
        diagnostics::queue(
            &*self.device,
            program,
            out,
            &self.state,
            self.arena.id(),
            scalars,
        )
    }
}

/// Refuses a plan that the machine cannot hold, before anything is allocated.
fn check_memory(blueprint: &Blueprint, device: &dyn Device) -> Result<()> {
    let (state, transient) = blueprint.planned_bytes(device);
    let need = state + transient;
    match device.free_bytes() {
        Some(free) if need > free && device.name() != "cpu" => Err(Error::Device {
            device: device.name(),
            problem: format!(
                "out of memory: a step needs {:.1} GiB (state {:.1}, activations {:.1}), {:.1} \
                 GiB are free; use a smaller crop, batch or memory bank, or --precision bf16",
                gib(need),
                gib(state),
                gib(transient),
                gib(free)
            ),
        }),
        Some(free) if need > free => Err(Error::input(
            "augment.crop",
            format!(
                "a step needs {:.1} GiB (state {:.1}, activations {:.1}), {:.1} GiB are free",
                gib(need),
                gib(state),
                gib(transient),
                gib(free)
            ),
            "use a smaller crop, batch (train.batch_labeled, train.batch_unlabeled; several train.micro_batches make a larger one), network or memory bank (method.bank_size)",
        )),
        _ => Ok(()),
    }
}

fn gib(bytes: usize) -> f64 {
    bytes as f64 / (1u64 << 30) as f64
}
