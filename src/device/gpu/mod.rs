//! The GPU devices: one set of launchers over a [`Driver`].
//!
//! A launcher turns one [`Call`] into kernel launches: it checks the operands, works out the grid
//! and fills argument structs. Launchers know nothing of CUDA's API, so the SIMT runtime tests
//! every line of them without a GPU.
#![cfg_attr(
    not(any(feature = "cuda", feature = "ptx", feature = "simt")),
    allow(dead_code, reason = "without a driver nothing launches")
)]

mod augment;
mod contrast;
mod conv;
#[cfg(feature = "cuda")]
pub mod cuda;
pub mod driver;
mod elementwise;
mod entropy;
pub mod kernels;
mod launcher;
mod levels;
mod loss;
mod metrics;
mod mix;
mod norm;
mod optimizer;
mod planes;
mod pool;
#[cfg(feature = "ptx")]
pub mod ptx;
mod resize;
mod select;
#[cfg(feature = "simt")]
pub mod simt;
mod stand_in;
mod upsample;

#[cfg(feature = "cli")]
pub(crate) use conv::partial_bytes as conv_partial_bytes;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use super::cpu::CpuDevice;
use super::{
    ArenaId, Call, Checkable, DType, Device, Guard, Identity, Memory, Met, Op, Readback, Recording,
    View, borrowed,
};
use crate::error::{Error, Result};
use driver::{Driver, GraphId, Ptr, TEST_MULTIPROCESSORS};
use launcher::{Launcher, TICKETS};
use levels::{Level, Levels};

/// Arithmetic of convolutions and type of activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MathMode {
    /// Exact fp32.
    #[default]
    Fp32,
    /// fp32 maps, multiplied on tf32 tensor cores with fp32 accumulation.
    Tf32,
    /// bf16 maps, multiplied on bf16 tensor cores with fp32 accumulation. A convolution of fp32
    /// maps is exact.
    Bf16,
}

impl MathMode {
    /// All of them.
    pub const ALL: [MathMode; 3] = [MathMode::Fp32, MathMode::Tf32, MathMode::Bf16];

    /// The name that `--precision` takes.
    pub fn name(self) -> &'static str {
        match self {
            MathMode::Fp32 => "fp32",
            MathMode::Tf32 => "tf32",
            MathMode::Bf16 => "bf16",
        }
    }
}

/// A GPU, or what stands in for one, as a [`Device`].
pub struct GpuDevice {
    driver: Arc<dyn Driver>,
    math: MathMode,
    planned_multiprocessors: u32,
    arenas: Mutex<Arenas>,
    constants: Mutex<HashMap<Vec<u8>, Ptr>>,
    levels: Levels,
    guard: OnceLock<Box<dyn Guard>>,
    /// What takes the place of kernels, once it had to.
    stand_in: Mutex<Option<Arc<CpuDevice>>>,
}

#[derive(Default)]
struct Arenas {
    next: u32,
    live: HashMap<ArenaId, Arena>,
}

struct Arena {
    base: Ptr,
    bytes: usize,
    /// Whether the driver allocated it: only then is it freed.
    owned: bool,
}

impl Arenas {
    fn add(&mut self, arena: Arena) -> ArenaId {
        let id = ArenaId(self.next);
        self.next += 1;
        self.live.insert(id, arena);
        id
    }
}

impl GpuDevice {
    /// A device over `driver`.
    pub fn new(driver: Box<dyn Driver>, math: MathMode) -> Self {
        let planned = driver.limits().planned_multiprocessors;
        Self::over(Arc::from(driver), math, planned, Levels::default())
    }

    fn over(
        driver: Arc<dyn Driver>,
        math: MathMode,
        planned_multiprocessors: u32,
        levels: Levels,
    ) -> Self {
        Self {
            driver,
            math,
            planned_multiprocessors,
            arenas: Mutex::default(),
            constants: Mutex::default(),
            levels,
            guard: OnceLock::new(),
            stand_in: Mutex::default(),
        }
    }

    /// CUDA device `index`.
    ///
    /// # Errors
    /// [`Error::Device`], one line: no driver, no such device, kernels missing from this build...
    #[cfg(feature = "cuda")]
    pub fn cuda(index: usize, math: MathMode) -> Result<Self> {
        Ok(Self::new(Box::new(cuda::CudaDriver::new(index)?), math))
    }

    /// The PTX machine: the compiled kernels, executed on the host.
    ///
    /// # Errors
    /// As [`ptx::PtxDriver::new`].
    #[cfg(feature = "ptx")]
    pub fn ptx(options: crate::ptx::Options, math: MathMode) -> Result<Self> {
        Ok(Self::new(Box::new(ptx::PtxDriver::new(options)?), math))
    }

    /// The PTX machine with other PTX in the place of some units'.
    ///
    /// # Errors
    /// As [`ptx::PtxDriver::edited`].
    #[cfg(feature = "ptx")]
    pub fn ptx_edited(
        options: crate::ptx::Options,
        units: &[ptx::Edited],
        math: MathMode,
    ) -> Result<Self> {
        let driver = ptx::PtxDriver::edited(options, units)?;
        Ok(Self::new(Box::new(driver), math))
    }

    /// The SIMT runtime: the kernels on the host.
    ///
    /// # Errors
    /// As [`simt::SimtDriver::new`].
    #[cfg(feature = "simt")]
    pub fn simt(options: simt::Options, math: MathMode) -> Result<Self> {
        Ok(Self::new(Box::new(simt::SimtDriver::new(options)?), math))
    }

    /// The same device, whose work is cut up for a machine of another size: small enough, and small
    /// shapes reach every way of cutting. Changes the last bits of convolutions.
    #[must_use]
    pub fn planned_for(mut self, multiprocessors: u32) -> Self {
        self.planned_multiprocessors = multiprocessors.max(1);
        self
    }

    /// Multiprocessors that work is cut up for where the cut decides the order of a sum.
    fn planned_multiprocessors(&self) -> usize {
        self.planned_multiprocessors as usize
    }

    /// How an operation on these runs.
    fn level(&self, op: &Op, ins: &[View], outs: &[View]) -> Level {
        self.levels.of(|| Met::of(op, ins, outs))
    }

    /// How a call runs.
    fn level_of(&self, call: &Call) -> Level {
        self.level(&call.op, &call.ins, &call.outs)
    }

    /// The CPU in the place of kernels.
    fn stand_in(&self) -> Result<Arc<CpuDevice>> {
        let mut cpu = self
            .stand_in
            .lock()
            .map_err(|_| Error::internal("poisoned stand-in"))?;
        if let Some(cpu) = &*cpu {
            return Ok(cpu.clone());
        }
        let made = Arc::new(CpuDevice::new(0)?);
        Ok(cpu.insert(made).clone())
    }

    /// The driver.
    pub fn driver(&self) -> &dyn Driver {
        &*self.driver
    }

    fn arenas(&self) -> Result<std::sync::MutexGuard<'_, Arenas>> {
        self.arenas
            .lock()
            .map_err(|_| Error::internal("poisoned arena table"))
    }

    /// The address of a view, after checking that all of it lies in its arena.
    fn address(&self, view: &View) -> Result<Ptr> {
        let arenas = self.arenas()?;
        let arena = arenas
            .live
            .get(&view.arena)
            .ok_or_else(|| Error::internal("a view of a freed arena"))?;
        if view.offset + view.span_bytes() > arena.bytes {
            return Err(Error::internal(format!(
                "view of {} bytes at {} in an arena of {}",
                view.span_bytes(),
                view.offset,
                arena.bytes
            )));
        }
        Ok(arena.base.byte_add(view.offset))
    }

    fn dense(&self, view: &View, bytes: usize) -> Result<Ptr> {
        if !view.is_dense() || view.span_bytes() != bytes {
            return Err(Error::internal(format!(
                "host copy of {bytes} bytes to or from a view of {:?}, ld {}",
                view.shape, view.ld
            )));
        }
        self.address(view)
    }
}

impl Device for GpuDevice {
    fn name(&self) -> String {
        self.driver.name()
    }

    fn memory(&self) -> Memory {
        self.driver.memory()
    }

    fn alloc(&self, bytes: usize) -> Result<ArenaId> {
        // An empty arena still needs an address of its own.
        let base = self.driver.alloc(bytes.max(1))?;
        Ok(self.arenas()?.add(Arena {
            base,
            bytes,
            owned: true,
        }))
    }

    fn free_bytes(&self) -> Option<usize> {
        self.driver.free_bytes()
    }

    fn resident_bytes(&self, arena: ArenaId) -> Option<usize> {
        self.arenas()
            .ok()?
            .live
            .get(&arena)
            .map(|arena| arena.bytes)
    }

    fn free(&self, arena: ArenaId) {
        if let Ok(mut arenas) = self.arenas()
            && let Some(arena) = arenas.live.remove(&arena)
            && arena.owned
        {
            self.driver.free(arena.base);
        }
    }

    unsafe fn adopt(&self, address: u64, bytes: usize) -> Result<View> {
        let (base, offset) = borrowed::base(address, bytes)?;
        self.driver.check_borrowed(Ptr(address))?;
        let arena = self.arenas()?.add(Arena {
            base: Ptr(base),
            bytes: offset + bytes,
            owned: false,
        });
        Ok(View::dense(arena, offset, [1, 1, 1, bytes], DType::U8))
    }

    fn address(&self, view: &View) -> Result<u64> {
        Ok(GpuDevice::address(self, view)?.0)
    }

    fn wait(&self) -> Result<()> {
        self.driver.synchronize()
    }

    fn write(&self, view: &View, bytes: &[u8]) -> Result<()> {
        let ptr = self.dense(view, bytes.len())?;
        self.driver.upload(ptr, bytes)
    }

    fn read(&self, view: &View, bytes: &mut [u8]) -> Result<()> {
        let ptr = self.dense(view, bytes.len())?;
        self.driver.download(ptr, bytes)
    }

    fn map_dtype(&self) -> DType {
        match self.math {
            MathMode::Bf16 => DType::BF16,
            MathMode::Fp32 | MathMode::Tf32 => DType::F32,
        }
    }

    fn precision(&self) -> &'static str {
        self.math.name()
    }

    fn expect_uploads(&self, bytes: usize) -> Result<()> {
        self.driver.expect_uploads(bytes)
    }

    fn read_later(&self, views: &[View]) -> Result<Readback> {
        let mut readback = Readback::default();
        for view in views {
            let bytes = view.span_bytes();
            let ptr = self.dense(view, bytes)?;
            readback
                .queued
                .push((self.driver.download_later(ptr, bytes)?, bytes));
        }
        Ok(readback)
    }

    fn collect(&self, readback: Readback) -> Result<Vec<Vec<u8>>> {
        let mut all = readback.ready;
        for (ticket, size) in readback.queued {
            let mut bytes = vec![0; size];
            self.driver.collect(ticket, &mut bytes)?;
            all.push(bytes);
        }
        Ok(all)
    }

    fn record(&self, calls: &[&Call]) -> Result<Option<Recording>> {
        // A recording has launches alone.
        if calls.iter().any(|call| self.level_of(call) == Level::Cpu) {
            return Ok(None);
        }
        let mut run = || calls.iter().try_for_each(|call| self.run(call));
        let graph = self.driver.record(&mut run)?;
        Ok(graph.map(|g| Recording(g.0)))
    }

    fn replay(&self, recording: Recording) -> Result<()> {
        self.driver.replay(GraphId(recording.0))
    }

    fn forget(&self, recording: Recording) {
        self.driver.forget(GraphId(recording.0));
    }

    fn time_each(
        &self,
        count: usize,
        work: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Vec<Duration>> {
        let times = self.driver.time_each(count, work)?;
        let duration = |ms: f32| Duration::from_secs_f64(f64::from(ms.max(0.0)) / 1e3);
        Ok(times.into_iter().map(duration).collect())
    }

    fn checkable(&self) -> Option<&dyn Checkable> {
        Some(self)
    }

    fn meet(&self, ops: &[Met]) -> Result<()> {
        match self.guard.get() {
            Some(guard) => guard.meet(self, ops),
            None => Ok(()),
        }
    }

    /// What failed its check is not fused into: the parts have kernels of their own.
    fn fuses(&self, op: &Op) -> bool {
        let stands = |op: &'static str| {
            let level = |half| self.levels.of(|| Met { op, half });
            [false, true].map(level).iter().all(|&l| l != Level::Cpu)
        };
        match op {
            Op::ConvMoments(_) => stands("conv_moments") && stands("batch_norm_merge"),
            _ => stands(op.name()),
        }
    }

    fn workspace_bytes(&self, op: &Op, ins: &[View], outs: &[View]) -> usize {
        // The CPU's own scratch is the host's.
        if self.level(op, ins, outs) == Level::Cpu {
            return 0;
        }
        match op {
            Op::Conv(_)
            | Op::ConvBatchNormEval(_)
            | Op::ConvMoments(_)
            | Op::ConvDgrad(_)
            | Op::ConvWgrad(_) => conv::workspace(self, op, ins, outs),
            Op::BatchNorm { .. } | Op::BatchNormMerge { .. } | Op::BatchNormBackward { .. } => {
                norm::workspace(op, ins)
            }
            Op::Mix { .. } => mix::workspace(op, ins),
            Op::Percentile { .. } => select::percentile_workspace(ins),
            Op::OhemThreshold { .. } => select::ohem_workspace(),
            Op::CrossEntropy { .. } | Op::CrossEntropyBackward { .. } => loss::workspace(op, ins),
            Op::Compact { .. } | Op::Prototype | Op::InfoNce(_) | Op::InfoNceBackward(..) => {
                contrast::workspace(op, ins, outs)
            }
            _ => 0,
        }
    }

    fn run(&self, call: &Call) -> Result<()> {
        if self.level_of(call) == Level::Cpu {
            return stand_in::run(self, &*self.stand_in()?, call);
        }
        let cx = Launcher { device: self, call };
        match &call.op {
            Op::Fill { value } => elementwise::fill(&cx, *value),
            Op::Copy => elementwise::copy(&cx),
            Op::Lerp => elementwise::lerp(&cx),
            Op::Relu => elementwise::relu(&cx),
            Op::ReluBackward => elementwise::relu_backward(&cx),
            Op::Dropout2d { p, stream } => elementwise::dropout2d(&cx, *p, *stream),
            Op::SgdEma { momentum, groups } => optimizer::sgd_ema(&cx, *momentum, groups),
            Op::Augment(a) => augment::augment(&cx, a),
            Op::Mix {
                kind,
                prob,
                ignore,
                stream,
            } => mix::mix(&cx, *kind, *prob, *ignore, *stream),
            Op::Conv(w) => conv::forward(&cx, *w),
            Op::ConvBatchNormEval(n) => conv::forward_norm(&cx, *n),
            Op::ConvMoments(w) => conv::forward_moments(&cx, *w),
            Op::ConvDgrad(w) => conv::dgrad(&cx, *w),
            Op::ConvWgrad(w) => conv::wgrad(&cx, *w),
            Op::BatchNorm {
                eps,
                momentum,
                relu,
            } => norm::train(&cx, *eps, *momentum, *relu),
            Op::BatchNormMerge {
                eps,
                momentum,
                relu,
            } => norm::merge(&cx, *eps, *momentum, *relu),
            Op::BatchNormEval { eps, relu } => norm::eval(&cx, *eps, *relu),
            Op::BatchNormBackward { relu } => norm::backward(&cx, *relu),
            Op::MaxPool { size, window } => pool::max_pool(&cx, *size, *window),
            Op::MaxPoolBackward { size, window } => pool::max_pool_backward(&cx, *size, *window),
            Op::GlobalAvgPool => pool::global_avg_pool(&cx),
            Op::GlobalAvgPoolBackward => pool::global_avg_pool_backward(&cx),
            Op::Resize => resize::resize(&cx),
            Op::ResizeBackward => resize::resize_backward(&cx),
            Op::SoftmaxEntropy { log_eps } => entropy::softmax_entropy(&cx, *log_eps),
            Op::Percentile { ignore } => select::percentile(&cx, *ignore),
            Op::KeepReliable { ignore } => entropy::keep_reliable(&cx, *ignore),
            Op::AddScores { flip, softmax } => entropy::add_scores(&cx, *flip, *softmax),
            Op::FinishScores { softmax } => entropy::finish_scores(&cx, *softmax),
            Op::CrossEntropy { ignore, norm } => loss::cross_entropy(&cx, *ignore, *norm),
            Op::CrossEntropyBackward { ignore, weight } => {
                loss::cross_entropy_backward(&cx, *ignore, *weight)
            }
            Op::TargetProbability { ignore } => loss::target_probability(&cx, *ignore),
            Op::OhemThreshold {
                ignore,
                thresh,
                min_kept,
            } => select::ohem_threshold(&cx, *ignore, *thresh, *min_kept),
            Op::Partition(p) => contrast::partition(&cx, p),
            Op::Compact { labeled_pixels } => contrast::compact(&cx, *labeled_pixels),
            Op::BankPush { capacities } => contrast::bank_push(&cx, capacities),
            Op::Prototype => contrast::prototype(&cx),
            Op::InfoNce(a) => contrast::info_nce(&cx, a),
            Op::InfoNceBackward(a, weight) => contrast::info_nce_backward(&cx, a, *weight),
            Op::Confusion { ignore } => metrics::confusion(&cx, *ignore),
            Op::LabelConfusion { ignore } => metrics::label_confusion(&cx, *ignore),
        }
    }
}

impl Checkable for GpuDevice {
    fn identity(&self) -> Option<Identity> {
        let (name, key) = self.driver.identity()?;
        Some(Identity {
            key: format!("u2pl-engine {}; {name}; {key}", env!("CARGO_PKG_VERSION")),
            name,
            precision: self.math,
        })
    }

    fn rehearsal(&self) -> Box<dyn Device> {
        let levels = self.levels.noting();
        let driver = self.driver.clone();
        Box::new(Self::over(driver, self.math, TEST_MULTIPROCESSORS, levels))
    }

    fn degrade(&self, met: Met) -> Result<Option<&'static str>> {
        self.levels.degrade(met)
    }

    fn launched(&self) -> Vec<&'static str> {
        self.levels.launched()
    }

    fn set_guard(&self, guard: Box<dyn Guard>) -> bool {
        self.guard.set(guard).is_ok()
    }
}

impl Drop for GpuDevice {
    fn drop(&mut self) {
        if let Ok(constants) = self.constants.get_mut() {
            for (_, ptr) in constants.drain() {
                self.driver.free(ptr);
            }
        }
    }
}
