//! The CPU device: every operation in f32, on all the cores it is given; maps may be bf16.
//!
//! It is the oracle that every other device is compared with, so it is clear before it is clever;
//! only convolution and batch norm are tuned. Reductions run in an order that depends on the
//! shapes alone, never on the thread count: the same seed gives the same bits on any number of
//! threads.

mod augment;
mod contrast;
mod conv;
mod element;
mod elementwise;
mod entropy;
mod loss;
mod memory;
mod metrics;
mod mix;
mod moments;
mod norm;
pub mod peak;
mod pool;
mod resize;
#[cfg(test)]
mod rig;
mod rows;
mod simd;
#[cfg(test)]
mod testing;
mod upsample;
mod vmath;

use std::sync::Mutex;

use super::gpu::MathMode;
use super::{ArenaId, Call, DType, Device, Op, View};
use crate::error::{Error, Result};
use memory::{Arenas, Ctx};

/// The CPU as a [`Device`], with a thread pool of its own.
pub struct CpuDevice {
    arenas: Mutex<Arenas>,
    pool: rayon::ThreadPool,
    threads: usize,
    /// Type of activations.
    map: DType,
}

impl CpuDevice {
    /// A device for f32 on `threads` threads; 0 takes every core the process may use.
    ///
    /// The environment variable `U2PL_CPU_ISA` picks the instructions of the convolutions: `amx`,
    /// `avx512bf16`, `avx512`, `avx2` or `portable`; unset, the best that the processor has.
    ///
    /// # Errors
    /// [`Error::Device`] when the threads cannot be started, [`Error::Input`] when the variable
    /// names instructions that the processor lacks.
    pub fn new(threads: usize) -> Result<Self> {
        conv::instructions()?;
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            n => n,
        };
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|i| format!("cpu-device-{i}"))
            .build()
            .map_err(|e| Error::Device {
                device: "cpu".into(),
                problem: e.to_string(),
            })?;
        Ok(Self {
            arenas: Mutex::new(Arenas::default()),
            pool,
            threads,
            map: DType::F32,
        })
    }

    /// As [`CpuDevice::new`], for one precision: activations are bf16 in `Bf16`.
    ///
    /// # Errors
    /// As [`CpuDevice::new`]; [`Error::Device`] for tf32, which is an arithmetic of GPUs.
    pub fn with_precision(threads: usize, precision: MathMode) -> Result<Self> {
        let map = match precision {
            MathMode::Fp32 => DType::F32,
            MathMode::Bf16 => DType::BF16,
            MathMode::Tf32 => {
                return Err(Error::Device {
                    device: "cpu".into(),
                    problem: "tf32 is an arithmetic of GPUs".into(),
                });
            }
        };
        let mut device = Self::new(threads)?;
        device.map = map;
        Ok(device)
    }

    /// Names of the instructions that convolutions of f32 and of bf16 use.
    ///
    /// # Errors
    /// As [`CpuDevice::new`].
    pub fn instructions() -> Result<[&'static str; 2]> {
        conv::instructions()
    }

    /// Threads in use.
    pub fn threads(&self) -> usize {
        self.threads
    }

    fn context(&self) -> Result<Ctx> {
        let arenas = self
            .arenas
            .lock()
            .map_err(|_| Error::internal("poisoned arena table"))?;
        Ok(arenas.context())
    }
}

/// [`Device::fuses`] of a CPU device with maps of type `map`. In bf16 batch norm by running statistics
/// moves into the convolution, whose sums are at hand in f32: that saves rounding the map and widening
/// it again. In f32 a convolution that finishes its rows panel by panel was measured no faster than
/// batch norm's own pass over whole rows. Moments are taken of a finished map, as batch norm itself
/// does.
pub fn fuses(map: DType) -> fn(&Op) -> bool {
    match map {
        DType::BF16 => |op| matches!(op, Op::ConvBatchNormEval(_)),
        _ => |_| false,
    }
}

impl Device for CpuDevice {
    fn name(&self) -> String {
        "cpu".into()
    }

    fn map_dtype(&self) -> DType {
        self.map
    }

    fn alloc(&self, bytes: usize) -> Result<ArenaId> {
        let mut arenas = self
            .arenas
            .lock()
            .map_err(|_| Error::internal("poisoned arena table"))?;
        arenas.alloc(bytes)
    }

    fn free_bytes(&self) -> Option<usize> {
        crate::host::available_bytes()
    }

    fn resident_bytes(&self, arena: ArenaId) -> Option<usize> {
        self.arenas.lock().ok()?.resident_bytes(arena)
    }

    fn free(&self, arena: ArenaId) {
        if let Ok(mut arenas) = self.arenas.lock() {
            arenas.free(arena);
        }
    }

    unsafe fn adopt(&self, address: u64, bytes: usize) -> Result<View> {
        let mut arenas = self
            .arenas
            .lock()
            .map_err(|_| Error::internal("poisoned arena table"))?;
        arenas.adopt(address, bytes)
    }

    fn address(&self, view: &View) -> Result<u64> {
        self.context()?.address(view)
    }

    fn write(&self, view: &View, bytes: &[u8]) -> Result<()> {
        self.context()?.write(view, bytes)
    }

    fn read(&self, view: &View, bytes: &mut [u8]) -> Result<()> {
        self.context()?.read(view, bytes)
    }

    fn fuses(&self, op: &Op) -> bool {
        fuses(self.map)(op)
    }

    fn workspace_bytes(&self, op: &Op, ins: &[View], outs: &[View]) -> usize {
        match op {
            Op::Conv(w) | Op::ConvMoments(w) => {
                conv::forward_workspace(*w, ins, outs, self.threads)
            }
            Op::ConvBatchNormEval(n) => conv::forward_workspace(n.window, ins, outs, self.threads),
            Op::ConvDgrad(w) => conv::dgrad_workspace(*w, ins, outs, self.threads),
            Op::ConvWgrad(w) => conv::wgrad_workspace(*w, ins, outs, self.threads),
            _ => 0,
        }
    }

    fn run(&self, call: &Call) -> Result<()> {
        let cx = self.context()?;
        self.pool.install(|| match &call.op {
            Op::Fill { value } => elementwise::fill(&cx, call, *value),
            Op::Copy => elementwise::copy(&cx, call),
            Op::Lerp => elementwise::lerp(&cx, call),
            Op::Relu => elementwise::relu(&cx, call),
            Op::ReluBackward => elementwise::relu_backward(&cx, call),
            Op::Dropout2d { p, stream } => elementwise::dropout2d(&cx, call, *p, *stream),
            Op::SgdEma { momentum, groups } => elementwise::sgd_ema(&cx, call, *momentum, groups),
            Op::Augment(a) => augment::augment(&cx, call, a),
            Op::Mix {
                kind,
                prob,
                ignore,
                stream,
            } => mix::mix(&cx, call, *kind, *prob, *ignore, *stream),
            Op::Conv(w) => conv::forward(&cx, call, *w),
            Op::ConvBatchNormEval(n) => conv::forward_norm(&cx, call, *n),
            Op::ConvMoments(w) => conv::forward_moments(&cx, call, *w),
            Op::ConvDgrad(w) => conv::dgrad(&cx, call, *w),
            Op::ConvWgrad(w) => conv::wgrad(&cx, call, *w),
            Op::BatchNorm {
                eps,
                momentum,
                relu,
            } => norm::train(&cx, call, *eps, *momentum, *relu),
            Op::BatchNormMerge {
                eps,
                momentum,
                relu,
            } => norm::merge(&cx, call, *eps, *momentum, *relu),
            Op::BatchNormEval { eps, relu } => norm::eval(&cx, call, *eps, *relu),
            Op::BatchNormBackward { relu } => norm::backward(&cx, call, *relu),
            Op::MaxPool { size, window } => pool::max_pool(&cx, call, *size, *window),
            Op::MaxPoolBackward { size, window } => {
                pool::max_pool_backward(&cx, call, *size, *window)
            }
            Op::GlobalAvgPool => pool::global_avg_pool(&cx, call),
            Op::GlobalAvgPoolBackward => pool::global_avg_pool_backward(&cx, call),
            Op::Resize => resize::resize(&cx, call),
            Op::ResizeBackward => resize::resize_backward(&cx, call),
            Op::SoftmaxEntropy { log_eps } => entropy::softmax_entropy(&cx, call, *log_eps),
            Op::Percentile { ignore } => entropy::percentile(&cx, call, *ignore),
            Op::KeepReliable { ignore } => entropy::keep_reliable(&cx, call, *ignore),
            Op::AddScores { flip, softmax } => entropy::add_scores(&cx, call, *flip, *softmax),
            Op::FinishScores { softmax } => entropy::finish_scores(&cx, call, *softmax),
            Op::CrossEntropy { ignore, norm } => loss::cross_entropy(&cx, call, *ignore, *norm),
            Op::CrossEntropyBackward { ignore, weight } => {
                loss::cross_entropy_backward(&cx, call, *ignore, *weight)
            }
            Op::TargetProbability { ignore } => loss::target_probability(&cx, call, *ignore),
            Op::OhemThreshold {
                ignore,
                thresh,
                min_kept,
            } => loss::ohem_threshold(&cx, call, *ignore, *thresh, *min_kept),
            Op::Partition(p) => contrast::partition(&cx, call, p),
            Op::Compact { labeled_pixels } => contrast::compact(&cx, call, *labeled_pixels),
            Op::BankPush { capacities } => contrast::bank_push(&cx, call, capacities),
            Op::Prototype => contrast::prototype(&cx, call),
            Op::InfoNce(a) => contrast::info_nce(&cx, call, a),
            Op::InfoNceBackward(a, weight) => contrast::info_nce_backward(&cx, call, a, *weight),
            Op::Confusion { ignore } => metrics::confusion(&cx, call, *ignore),
            Op::LabelConfusion { ignore } => metrics::label_confusion(&cx, call, *ignore),
        })
    }
}

/// An [`Error::Internal`] naming the operation, what it expected and what it got.
fn mismatch(op: &str, expected: &str, got: &View) -> Error {
    Error::internal(format!(
        "{op}: expected {expected}, got {:?} {:?}",
        got.dtype, got.shape
    ))
}

/// Fails unless `view` is of `dtype`.
fn want(op: &str, view: &View, dtype: DType) -> Result<()> {
    if view.dtype == dtype {
        Ok(())
    } else {
        Err(mismatch(op, &format!("{dtype:?}"), view))
    }
}
