//! Devices: where operations run.
//!
//! Comes in: a [`Call`], one fused operation ([`Op`]) with the [`View`]s of memory it reads and
//! writes. Goes out: the bytes of the output views. A device knows nothing of U2PL's schedules,
//! of graphs or of files; everything above it is written once and runs on every device.
//!
//! Memory is a few large arenas. The graph's planner decides offsets; a device only allocates,
//! copies and computes. Layout is NHWC for maps and K·R·S·C for convolution weights.

mod borrowed;
pub mod check;
pub mod cpu;
pub mod gpu;
mod named;
pub mod op;
pub mod philox;
mod strided;

pub use borrowed::{Borrowed, Tensor};
pub use check::{Checkable, Guard, Identity, Met};
pub use named::Named;
#[cfg(all(feature = "ptx", feature = "cli"))]
pub(crate) use named::ptx_options;
pub use op::{Cost, Op};
pub use strided::Strided;

use std::time::{Duration, Instant};

use crate::error::Result;

/// Element type of a view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
pub enum DType {
    /// 32-bit IEEE float.
    F32,
    /// bfloat16: activations and weight copies where the precision is bf16.
    BF16,
    /// Byte: labels, raw images.
    U8,
    /// 32-bit unsigned: counts, indices, bit masks, random state.
    U32,
}

impl DType {
    /// Size of one element.
    pub const fn bytes(self) -> usize {
        match self {
            DType::F32 | DType::U32 => 4,
            DType::BF16 => 2,
            DType::U8 => 1,
        }
    }
}

/// f32 bytes rounded to bf16 bytes, nearest even.
pub fn bf16_bytes(f32_bytes: &[u8]) -> Vec<u8> {
    let values = f32_bytes.chunks_exact(4);
    values
        .flat_map(|v| {
            half::bf16::from_f32(f32::from_ne_bytes([v[0], v[1], v[2], v[3]])).to_ne_bytes()
        })
        .collect()
}

/// Rank-4 shape: `[N, H, W, C]` for maps, `[K, R, S, C]` for convolution weights,
/// `[1, 1, 1, n]` for vectors.
pub type Shape = [usize; 4];

/// Number of elements of a shape.
pub const fn elements(shape: Shape) -> usize {
    shape[0] * shape[1] * shape[2] * shape[3]
}

/// Alignment of every arena, bytes; offsets in it tell how a view is aligned.
pub const ALIGN: usize = 256;

/// Where a device's addresses lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// To the host's memory.
    Host,
    /// To the memory of the CUDA device of this number.
    Cuda(usize),
    /// To the memory of the PTX machine, which nothing else can reach.
    Machine,
}

/// Handle of one allocation on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ArenaId(pub u32);

/// A typed window on an arena.
///
/// Pixel `i` (row-major over N, H, W) starts at element `i * ld`; its `C` channels are adjacent.
/// `ld > C` is how a tensor occupies a channel slice of a wider one (concat without a copy).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// The allocation.
    pub arena: ArenaId,
    /// Byte offset of the first element; a multiple of the element size.
    pub offset: usize,
    /// Shape in elements.
    pub shape: Shape,
    /// Elements between the starts of consecutive pixels; `>= shape[3]`.
    pub ld: usize,
    /// Element type.
    pub dtype: DType,
}

impl View {
    /// A dense view (`ld == C`).
    pub const fn dense(arena: ArenaId, offset: usize, shape: Shape, dtype: DType) -> Self {
        Self {
            arena,
            offset,
            shape,
            ld: shape[3],
            dtype,
        }
    }

    /// Pixels: N·H·W.
    pub const fn pixels(&self) -> usize {
        self.shape[0] * self.shape[1] * self.shape[2]
    }

    /// Channels (last dimension).
    pub const fn channels(&self) -> usize {
        self.shape[3]
    }

    /// Elements, not counting the gaps of a strided view.
    pub const fn elements(&self) -> usize {
        elements(self.shape)
    }

    /// True when there are no gaps between pixels.
    pub const fn is_dense(&self) -> bool {
        self.ld == self.shape[3]
    }

    /// Elements from the first to one past the last, gaps included.
    pub const fn span(&self) -> usize {
        if self.elements() == 0 {
            0
        } else {
            (self.pixels() - 1) * self.ld + self.shape[3]
        }
    }

    /// Bytes from the first element to one past the last.
    pub const fn span_bytes(&self) -> usize {
        self.span() * self.dtype.bytes()
    }
}

/// Bytes on their way to the host: what [`Device::read_later`] gives and [`Device::collect`] takes.
#[derive(Debug, Default)]
pub struct Readback {
    /// Views that were read at once, in order.
    ready: Vec<Vec<u8>>,
    /// Copies that the device queued, with their sizes.
    queued: Vec<(gpu::driver::Ticket, usize)>,
}

/// A list of calls that a device has recorded to run again at the cost of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Recording(u32);

/// One operation with its operands.
#[derive(Clone, Debug)]
pub struct Call {
    /// The operation and its attributes.
    pub op: Op,
    /// Inputs, in the order that [`Op`]'s documentation gives.
    pub ins: Vec<View>,
    /// Outputs, in the order that [`Op`]'s documentation gives.
    pub outs: Vec<View>,
    /// Bit `i` set: add to `outs[i]` instead of overwriting it. Only for the outputs that
    /// [`Op::can_accumulate`] names.
    pub accumulate: u32,
    /// Scratch of at least [`Device::workspace_bytes`], contents undefined before and after.
    pub workspace: Option<View>,
}

impl Call {
    /// Whether output `i` is added to.
    pub fn accumulates(&self, i: usize) -> bool {
        self.accumulate >> i & 1 == 1
    }
}

/// The operation set on one piece of hardware.
///
/// Object-safe; a call costs microseconds, the work milliseconds.
pub trait Device: Send + Sync {
    /// Short name (`cpu`, `cuda:0`, `ptx`, `simt`).
    fn name(&self) -> String;

    /// Type of activations: bf16 where the device computes in bf16, else f32.
    fn map_dtype(&self) -> DType {
        DType::F32
    }

    /// Arithmetic of products, by the name that `--precision` has for it.
    fn precision(&self) -> &'static str {
        match self.map_dtype() {
            DType::BF16 => "bf16",
            _ => "fp32",
        }
    }

    /// Where its memory is.
    fn memory(&self) -> Memory {
        Memory::Host
    }

    /// Allocates a zeroed arena, aligned to at least [`ALIGN`] bytes.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the memory is not there, with the need and what is free.
    fn alloc(&self, bytes: usize) -> Result<ArenaId>;

    /// Bytes that an allocation may still take, where the device can tell.
    fn free_bytes(&self) -> Option<usize>;

    /// Bytes of an arena that are really in memory, where the device can tell: what a run has
    /// touched of it so far.
    fn resident_bytes(&self, arena: ArenaId) -> Option<usize>;

    /// Releases an arena. Views of it must not be used again.
    fn free(&self, arena: ArenaId);

    /// An arena over memory that the device does not own: the `bytes` bytes at `address`, as a dense
    /// byte view. Typed views of it have its arena and count their offsets from its offset, which
    /// is the distance of `address` from the last multiple of [`ALIGN`]. Nothing is copied or
    /// queued; [`Device::free`] forgets the arena and leaves the memory alone. [`Borrowed`] does
    /// that when it is dropped.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the device cannot reach the memory, as far as it can tell;
    /// [`crate::Error::Input`] for no memory at all.
    ///
    /// # Safety
    /// Until all work that was queued on views of the arena is over, the memory stays allocated,
    /// and whoever else uses it does so before or after that work, never beside it.
    unsafe fn adopt(&self, address: u64, bytes: usize) -> Result<View> {
        Err(crate::Error::Device {
            device: self.name(),
            problem: format!("it cannot use the {bytes} bytes at {address:#x} of somebody else"),
        })
    }

    /// The address of a view's first element, in [`Device::memory`].
    ///
    /// # Errors
    /// [`crate::Error::Internal`] when the view is in no arena of this device.
    fn address(&self, view: &View) -> Result<u64> {
        Err(crate::Error::internal(format!("{view:?} has no address")))
    }

    /// Waits for all queued work.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when some of it failed.
    fn wait(&self) -> Result<()> {
        Ok(())
    }

    /// Copies host bytes into a dense view; `bytes.len()` must be its size.
    ///
    /// # Errors
    /// [`crate::Error::Internal`] on a size mismatch.
    fn write(&self, view: &View, bytes: &[u8]) -> Result<()>;

    /// Copies a dense view to host bytes; waits for the work that produces it.
    ///
    /// # Errors
    /// [`crate::Error::Internal`] on a size mismatch.
    fn read(&self, view: &View, bytes: &mut [u8]) -> Result<()>;

    /// Tells that about `bytes` will be written between two steps; a device that stages them may
    /// make room, so that [`Device::write`] need not wait.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the device fails.
    fn expect_uploads(&self, _bytes: usize) -> Result<()> {
        Ok(())
    }

    /// Copies dense views to the host without waiting: what they hold now, whatever runs next.
    ///
    /// # Errors
    /// As [`Device::read`].
    fn read_later(&self, views: &[View]) -> Result<Readback> {
        let mut readback = Readback::default();
        for view in views {
            let mut bytes = vec![0; view.span_bytes()];
            self.read(view, &mut bytes)?;
            readback.ready.push(bytes);
        }
        Ok(readback)
    }

    /// The bytes of [`Device::read_later`], one vector a view; waits for that copy, not for what
    /// was queued after it.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the work before the copy failed.
    fn collect(&self, readback: Readback) -> Result<Vec<Vec<u8>>> {
        Ok(readback.ready)
    }

    /// Records calls to be run again by [`Device::replay`], without running them. Every call must
    /// have run once before. `None` where the device has nothing to gain from it.
    ///
    /// # Errors
    /// As [`Device::run`].
    fn record(&self, calls: &[&Call]) -> Result<Option<Recording>> {
        let _ = calls;
        Ok(None)
    }

    /// Runs a recording.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the hardware fails.
    fn replay(&self, recording: Recording) -> Result<()> {
        Err(crate::Error::internal(format!(
            "{recording:?} was never made"
        )))
    }

    /// Drops a recording.
    fn forget(&self, _recording: Recording) {}

    /// Time that the device spends on what each of `work(0)`, …, `work(count - 1)` queues, by its
    /// own clock; waits once, after the last.
    ///
    /// # Errors
    /// The first of `work`; [`crate::Error::Device`] when the hardware fails.
    fn time_each(
        &self,
        count: usize,
        work: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Vec<Duration>> {
        let one = |i| {
            let start = Instant::now();
            work(i)?;
            Ok(start.elapsed())
        };
        (0..count).map(one).collect()
    }

    /// Time that the device spends on what `work` queues; waits for it.
    ///
    /// # Errors
    /// As [`Device::time_each`].
    fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Duration> {
        let times = self.time_each(1, &mut |_| work())?;
        Ok(times.into_iter().sum())
    }

    /// Whether the device gains from `op`, a fused operation that [`crate::graph::fuse`] may put in
    /// the place of two.
    fn fuses(&self, _op: &Op) -> bool {
        true
    }

    /// The device as one whose kernels can be checked and replaced; `None`: it has none of its own.
    fn checkable(&self) -> Option<&dyn Checkable> {
        None
    }

    /// Tells that these operations are about to be planned and run, so that whoever guards the
    /// device may check its kernels first. Told again, it costs a look.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the device cannot run one of them right.
    fn meet(&self, _ops: &[Met]) -> Result<()> {
        Ok(())
    }

    /// Scratch bytes that a call of this operation needs, known before any run.
    fn workspace_bytes(&self, op: &Op, ins: &[View], outs: &[View]) -> usize;

    /// Runs one operation.
    ///
    /// # Errors
    /// [`crate::Error::Internal`] when the operands do not fit the operation,
    /// [`crate::Error::Device`] when the hardware fails.
    fn run(&self, call: &Call) -> Result<()>;
}
