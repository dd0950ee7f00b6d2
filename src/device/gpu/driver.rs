//! The seam below the launchers: memory, launches, streams. Implementations: a CUDA GPU through the
//! driver API, the PTX machine that executes what nvcc compiled, and the SIMT runtime that runs the
//! same sources on the host.

#[cfg(any(feature = "simt", feature = "ptx"))]
use std::sync::atomic::{AtomicU64, Ordering};

use crate::device::Memory;
use crate::error::{Error, Result};

#[cfg(any(feature = "simt", feature = "ptx"))]
use super::kernels::ALL;
use super::kernels::KernelInfo;

/// An address in device memory (in host memory on the SIMT runtime, in the machine's own on the PTX
/// machine).
#[repr(transparent)]
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    bytemuck::Pod,
    bytemuck::Zeroable,
)]
pub struct Ptr(pub u64);

impl Ptr {
    /// No memory; what a kernel gets for an operand that the call does not have.
    pub const NULL: Ptr = Ptr(0);

    /// `bytes` further on.
    pub fn byte_add(self, bytes: usize) -> Ptr {
        Ptr(self.0 + bytes as u64)
    }
}

/// What a launcher may have to know of the hardware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Streaming multiprocessors: blocks that can run at once are a small multiple.
    pub multiprocessors: u32,
    /// Multiprocessors that work is cut up for where the cut decides the order of a sum: the same
    /// on every GPU, so that results do not depend on the one at hand.
    pub planned_multiprocessors: u32,
    /// Dynamic shared memory that a block may ask for, bytes.
    pub shared_bytes: u32,
}

/// [`Limits::planned_multiprocessors`] of a GPU: an H100's or H200's.
#[cfg_attr(
    not(any(feature = "cuda", feature = "ptx")),
    allow(dead_code, reason = "no such driver here")
)]
pub(super) const PLANNED_MULTIPROCESSORS: u32 = 132;

/// [`Limits::planned_multiprocessors`] of a device under test: few enough that small shapes reach
/// every way of cutting work up.
pub(crate) const TEST_MULTIPROCESSORS: u32 = 4;

/// A recorded sequence of launches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GraphId(pub u32);

/// A copy to the host that [`Driver::download_later`] queued and [`Driver::collect`] takes. One that
/// is dropped instead keeps its staging memory until the driver goes.
#[derive(Debug)]
pub struct Ticket(pub(super) Pending);

impl Ticket {
    /// The bytes of a copy that was made at once.
    fn copied(self, bytes: &mut [u8]) -> Result<()> {
        match self.0 {
            Pending::Copied(copy) if copy.len() == bytes.len() => {
                bytes.copy_from_slice(&copy);
                Ok(())
            }
            Pending::Copied(copy) => Err(Error::internal(format!(
                "collecting {} bytes of a copy of {}",
                bytes.len(),
                copy.len()
            ))),
            Pending::Slot(_) => Err(Error::internal("a ticket of another driver")),
        }
    }
}

/// How often each kernel was launched: what a test suite has covered.
#[cfg(any(feature = "simt", feature = "ptx"))]
#[derive(Debug)]
pub struct Launches(Vec<AtomicU64>);

#[cfg(any(feature = "simt", feature = "ptx"))]
impl Launches {
    /// None of any.
    pub(super) fn none() -> Self {
        Self(ALL.iter().map(|_| AtomicU64::new(0)).collect())
    }

    /// One more of a kernel; kernels of tests are in no table, and not counted.
    pub(super) fn count(&self, name: &str) {
        if let Some(i) = ALL.iter().position(|info| info.name == name) {
            self.0[i].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Launches so far, in the order of [`ALL`].
    pub fn counts(&self) -> Vec<u64> {
        let counts = self.0.iter();
        counts.map(|n| n.load(Ordering::Relaxed)).collect()
    }
}

/// Where a queued copy's bytes will be.
#[derive(Debug)]
pub(super) enum Pending {
    /// Already here: the driver runs everything at once.
    Copied(Vec<u8>),
    /// In a staging slot of the driver.
    #[cfg_attr(
        not(feature = "cuda"),
        allow(dead_code, reason = "no such driver here")
    )]
    Slot(u64),
}

/// Memory and launches on one device. All work is on one stream, in order; only `download`,
/// `collect`, `time_each` and `synchronize` wait for it. What is provided is for a driver that runs
/// everything at once, on the host.
pub trait Driver: Send + Sync {
    /// Short name (`cuda:0`, `ptx`, `simt`).
    fn name(&self) -> String;

    /// Where its memory is.
    fn memory(&self) -> Memory;

    /// The hardware as people call it, and what else a verdict on the kernels depends on: which piece
    /// of it, the driver, the kernels themselves. `None`: nothing to check.
    fn identity(&self) -> Option<(String, String)> {
        None
    }

    /// The hardware's limits.
    fn limits(&self) -> Limits;

    /// Whether kernels can reach memory at `address` that somebody else allocated, as far as the
    /// driver can tell. Nothing is queued or waited for.
    ///
    /// # Errors
    /// [`crate::Error::Device`] saying what the memory is instead.
    fn check_borrowed(&self, address: Ptr) -> Result<()>;

    /// Zeroed memory, aligned to at least 256 bytes.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when it is not there, with what is free.
    fn alloc(&self, bytes: usize) -> Result<Ptr>;

    /// Releases what `alloc` gave, after the work that uses it.
    fn free(&self, ptr: Ptr);

    /// Bytes that can still be allocated, where known.
    fn free_bytes(&self) -> Option<usize> {
        None
    }

    /// Copies host bytes to the device, in stream order. `bytes` may be reused at once.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the device fails.
    fn upload(&self, to: Ptr, bytes: &[u8]) -> Result<()>;

    /// Makes room for `bytes` of uploads between two steps, so that the host need not wait for
    /// the device; a hint, never a limit.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the device fails.
    fn expect_uploads(&self, _bytes: usize) -> Result<()> {
        Ok(())
    }

    /// Copies device bytes to the host; waits for all work before it.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the device fails, now or in the work before.
    fn download(&self, from: Ptr, bytes: &mut [u8]) -> Result<()>;

    /// Queues a copy of device bytes to the host, in stream order, and returns at once.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the device fails.
    fn download_later(&self, from: Ptr, bytes: usize) -> Result<Ticket> {
        let mut copy = vec![0; bytes];
        self.download(from, &mut copy)?;
        Ok(Ticket(Pending::Copied(copy)))
    }

    /// Takes what `download_later` queued. Waits for that copy and the work before it, not for
    /// what was queued after it. `bytes` is as long as the copy.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the device failed in the work before.
    fn collect(&self, ticket: Ticket, bytes: &mut [u8]) -> Result<()> {
        ticket.copied(bytes)
    }

    /// Queues one launch. `grid` has no zero; `args` is the kernel's argument struct.
    ///
    /// # Errors
    /// [`crate::Error::Device`] naming the kernel.
    fn launch(
        &self,
        kernel: &KernelInfo,
        grid: [u32; 3],
        shared_bytes: u32,
        args: &[u8],
    ) -> Result<()>;

    /// Waits for all work.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when some of it failed.
    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    /// Records the launches that `work` makes instead of running them; `None` where the driver
    /// cannot record (then nothing was run and `work` was not called).
    ///
    /// # Errors
    /// That of `work`, or [`crate::Error::Device`] when recording fails.
    fn record(&self, _work: &mut dyn FnMut() -> Result<()>) -> Result<Option<GraphId>> {
        Ok(None)
    }

    /// Queues a recorded sequence.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the device fails.
    fn replay(&self, _graph: GraphId) -> Result<()> {
        Err(Error::internal(format!("{} records nothing", self.name())))
    }

    /// Drops a recorded sequence.
    fn forget(&self, _graph: GraphId) {}

    /// Milliseconds that the device spends on what each of `work(0)`, …, `work(count - 1)` queues;
    /// waits once, after the last. The host's clock where the host is the device.
    ///
    /// # Errors
    /// The first of `work`, or [`crate::Error::Device`] when the device fails.
    fn time_each(
        &self,
        count: usize,
        work: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Vec<f32>> {
        let one = |i| {
            let start = std::time::Instant::now();
            work(i)?;
            Ok(start.elapsed().as_secs_f32() * 1e3)
        };
        (0..count).map(one).collect()
    }
}
