//! A CUDA GPU as a [`Driver`], through the driver interface that cudarc loads at run time: the
//! program starts on a machine without one, and says what is missing only when it is asked for.
//!
//! One stream carries all work in order (`staging` says how uploads overlap with it and why that
//! is safe). Kernels come out of the fatbins that `build.rs` embedded; every one is looked up and
//! checked when the device is opened (`open`). Failures are worded in `diagnose`. Context and stream
//! are ours, or a host program's ([`GpuDevice::on_stream`](super::GpuDevice::on_stream)).
//!
//! A kernel's failure shows up at some later call, and the context is dead from then on: every call
//! after it gives the same error again. `U2PL_CUDA_SYNC=1` waits after every launch, so that the
//! error names the one that failed; nothing is recorded then.

mod context;
mod describe;
mod diagnose;
mod embedded;
mod identity;
mod launches;
mod lent;
mod open;
mod staging;

/// The versions whose types are taken.
pub use cudarc;
#[cfg(feature = "cust-interop")]
pub use cust;
pub use describe::{Description, describe};
pub use embedded::{Resource, image_for, images, resources, toolkit, warnings};
pub use open::DeviceInfo;

use std::collections::{BTreeSet, HashMap};
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard};
use std::thread::ThreadId;

use cudarc::driver::{DriverError, result, sys};

use super::driver::{Driver, GraphId, Limits, Pending, Ptr, Ticket};
use super::kernels::KernelInfo;
use crate::device::Memory;
use crate::error::{Error, Result};
use context::Current;
use launches::{Launches, RECORDED};
use open::{Handle, Opened, number, text};
use staging::{Event, Pinned, Readback, Stream, Uploads};

/// Alignment of every allocation; CUDA promises it.
const ALIGN: u64 = 256;
/// Pinned memory through which downloads pass, bytes.
const DOWNLOAD_BYTES: usize = 4 << 20;

/// A CUDA device with all kernels loaded.
pub struct CudaDriver {
    // Dropped in this order: what lives in the context, then the context inside `opened`.
    state: Mutex<State>,
    download: Mutex<Pinned>,
    compute: Stream,
    /// Where recordings are captured: launches on `compute` go on meanwhile, a host's too, and the
    /// default stream cannot be captured at all.
    capture: Stream,
    wait_each: bool,
    opened: Opened,
}

struct State {
    uploads: Uploads,
    allocations: BTreeSet<u64>,
    graphs: HashMap<u32, Graph>,
    next_graph: u32,
    readbacks: HashMap<u64, Readback>,
    spare: Vec<Readback>,
    next_ticket: u64,
    recording: Option<Recording>,
    launches: Launches,
    /// The first failure after which nothing works, as it was told.
    failed: Option<String>,
}

/// [`State`] under its lock, in the context.
struct Ready<'a> {
    state: MutexGuard<'a, State>,
    _current: Current,
}

impl Deref for Ready<'_> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.state
    }
}

impl DerefMut for Ready<'_> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.state
    }
}

struct Graph {
    exec: Handle<sys::CUgraphExec_st>,
    launches: u64,
}

struct Recording {
    thread: ThreadId,
    launches: u64,
    /// Freed by somebody meanwhile: must wait for the end.
    to_free: Vec<Ptr>,
}

impl CudaDriver {
    /// Opens device `index` and loads every kernel.
    ///
    /// # Errors
    /// [`Error::Device`], one line: a binary without kernels, no driver, an old one, no such device,
    /// an architecture the binary has no kernels for, no memory.
    pub fn new(index: usize) -> Result<Self> {
        Self::on(open::open(index)?, None)
    }

    /// The rest of a device, whose context is current; all work on `stream`, or on one of our own.
    fn on(mut opened: Opened, stream: Option<Handle<sys::CUstream_st>>) -> Result<Self> {
        let failed = |e: DriverError| {
            let problem = format!("the device cannot be prepared: {}", text(e));
            opened.speaker.error(problem)
        };
        let compute = match stream {
            Some(raw) => Stream::borrowed(raw),
            None => Stream::new().map_err(failed)?,
        };
        let capture = Stream::new().map_err(failed)?;
        let download = Pinned::new(DOWNLOAD_BYTES).map_err(failed)?;
        let uploads = Uploads::new().map_err(failed)?;
        opened.current = None;
        let wait_each = std::env::var("U2PL_CUDA_SYNC").is_ok_and(|v| !v.is_empty() && v != "0");
        Ok(Self {
            state: Mutex::new(State {
                uploads,
                allocations: BTreeSet::new(),
                graphs: HashMap::new(),
                next_graph: 0,
                readbacks: HashMap::new(),
                spare: Vec::new(),
                next_ticket: 0,
                recording: None,
                launches: Launches::default(),
                failed: None,
            }),
            download: Mutex::new(download),
            compute,
            capture,
            wait_each,
            opened,
        })
    }

    /// What device this is.
    pub fn info(&self) -> &DeviceInfo {
        &self.opened.info
    }

    fn lock(&self) -> Result<MutexGuard<'_, State>> {
        self.state
            .lock()
            .map_err(|_| Error::internal("poisoned CUDA driver"))
    }

    /// The state, ready for calls to the driver: the device still works and this thread speaks to it.
    fn ready(&self) -> Result<Ready<'_>> {
        let mut state = self.lock()?;
        if let Some(problem) = &state.failed {
            return Err(self.opened.speaker.error(problem));
        }
        let entered = self.opened.context.enter();
        let current = entered.map_err(|e| self.failure(&mut state, e, "entering the context"))?;
        Ok(Ready {
            state,
            _current: current,
        })
    }

    /// Waits without the lock, so that other threads may go on queueing.
    fn within(&self, wait: impl FnOnce() -> Result<(), DriverError>) -> Result<(), DriverError> {
        let _current = self.opened.context.enter()?;
        wait()
    }

    /// As [`Self::ready`], for a call that cannot be part of a recording.
    fn outside_recording(&self, doing: &str) -> Result<Ready<'_>> {
        let state = self.ready()?;
        match state.recording {
            Some(_) => Err(Error::internal(format!(
                "{doing} while a step is recorded: only launches can be"
            ))),
            None => Ok(state),
        }
    }

    /// The error for `e`, met while `doing`; remembers it when the context is dead.
    fn failure(&self, state: &mut State, e: DriverError, doing: &str) -> Error {
        if !diagnose::is_sticky(number(e)) {
            return self
                .opened
                .speaker
                .error(format!("{doing} failed: {}", text(e)));
        }
        let suspects = state.launches.suspects();
        let problem = diagnose::kernel_failed(&text(e), doing, suspects);
        let problem = state.failed.get_or_insert(problem);
        self.opened.speaker.error(problem)
    }

    /// Takes the lock again after a wait that gave `waited`: launches up to `launches` are over.
    fn waited(&self, waited: Result<(), DriverError>, launches: u64, doing: &str) -> Result<()> {
        let mut state = self.lock()?;
        match waited {
            Ok(()) => {
                state.launches.seen(launches);
                Ok(())
            }
            Err(e) => Err(self.failure(&mut state, e, doing)),
        }
    }

    fn memory(&self) -> (Option<usize>, usize) {
        match result::mem_get_info() {
            Ok((free, total)) => (Some(free), total),
            Err(_) => (None, self.opened.info.memory_bytes),
        }
    }

    /// One piece of a download, through the pinned buffer.
    fn piece(&self, pinned: &mut Pinned, from: u64, bytes: &mut [u8]) -> Result<()> {
        let launches = {
            let mut state = self.outside_recording("a download")?;
            let queued = pinned.fetch(from, bytes.len(), &self.compute);
            queued.map_err(|e| self.failure(&mut state, e, "a download"))?;
            state.launches.count
        };
        let over = self.within(|| self.compute.synchronize());
        self.waited(over, launches, "a download")?;
        pinned.read(bytes);
        Ok(())
    }

    /// Ends the capture and makes what it caught ready to run.
    fn finish(&self, worked: Result<()>) -> Result<GraphId> {
        let mut state = self.ready()?;
        let recording = state.recording.take();
        // SAFETY: a live stream, capturing since `record`.
        let caught = unsafe { result::stream::end_capture(self.capture.raw()) };
        let recording = recording.ok_or_else(|| Error::internal("no recording to finish"))?;
        for ptr in &recording.to_free {
            self.release(&mut state, *ptr);
        }
        let graph = match (worked, caught) {
            // The work's own error tells more than the capture's that follows from it.
            (Err(e), Ok(graph)) => {
                destroy(graph);
                return Err(e);
            }
            (Err(e), Err(_)) => return Err(e),
            (Ok(()), Err(e)) => return Err(self.failure(&mut state, e, "recording a step")),
            (Ok(()), Ok(graph)) => graph,
        };
        // SAFETY: a graph that was just captured.
        let made = unsafe { result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0)) };
        destroy(graph);
        let exec = made.map_err(|e| self.failure(&mut state, e, "preparing a recorded step"))?;
        let id = state.next_graph;
        state.next_graph += 1;
        state.graphs.insert(
            id,
            Graph {
                exec: Handle(exec),
                launches: recording.launches,
            },
        );
        // SAFETY: as above. Saves the first replay the set-up.
        let loaded = unsafe { result::graph::upload(exec, self.compute.raw()) };
        loaded.map_err(|e| self.failure(&mut state, e, "preparing a recorded step"))?;
        Ok(GraphId(id))
    }

    fn release(&self, state: &mut State, ptr: Ptr) {
        if state.allocations.remove(&ptr.0) {
            // SAFETY: ours, and freed once; the driver waits for work that uses it. A failure means
            // that the context is dead, which the next call will say.
            let _ = unsafe { result::free_sync(ptr.0) };
        }
    }
}

fn destroy(graph: sys::CUgraph) {
    if !graph.is_null() {
        // SAFETY: a graph of ours, destroyed once; a failure leaves nothing to do.
        let _ = unsafe { result::graph::destroy(graph) };
    }
}

impl Driver for CudaDriver {
    fn name(&self) -> String {
        self.opened.speaker.device.clone()
    }

    fn memory(&self) -> Memory {
        Memory::Cuda(self.opened.info.index)
    }

    fn identity(&self) -> Option<(String, String)> {
        let info = &self.opened.info;
        let parts = [
            identity::which(info.index),
            identity::driver(self.opened.speaker.driver),
            format!("image {}", info.image.unwrap_or("unknown")),
            format!("kernels {}", embedded::digest()),
        ];
        Some((info.name.clone(), parts.join("; ")))
    }

    fn limits(&self) -> Limits {
        self.opened.limits()
    }

    fn check_borrowed(&self, address: Ptr) -> Result<()> {
        let _ready = self.ready()?;
        let (mut device, what) = (
            0i32,
            sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL,
        );
        // SAFETY: the attribute is an int, and any address may be asked about.
        let asked = unsafe {
            sys::cuPointerGetAttribute((&raw mut device).cast(), what, address.0).result()
        };
        let speaker = &self.opened.speaker;
        match asked {
            Err(e) => Err(speaker.error(diagnose::unknown_memory(address.0, &text(e)))),
            Ok(()) if Ok(self.opened.info.index) == usize::try_from(device) => Ok(()),
            Ok(()) => Err(speaker.error(diagnose::foreign_memory(address.0, device))),
        }
    }

    fn alloc(&self, bytes: usize) -> Result<Ptr> {
        let mut state = self.outside_recording("an allocation")?;
        // SAFETY: cleared below, before anything can read it.
        let got = unsafe { result::malloc_sync(bytes.max(1)) };
        let address = match got {
            Ok(address) => address,
            Err(e) if number(e) == diagnose::code::OUT_OF_MEMORY => {
                let (free, total) = self.memory();
                let problem = diagnose::out_of_memory(bytes, free, total);
                return Err(self.opened.speaker.error(problem));
            }
            Err(e) => return Err(self.failure(&mut state, e, "an allocation")),
        };
        state.allocations.insert(address);
        if !address.is_multiple_of(ALIGN) {
            self.release(&mut state, Ptr(address));
            return Err(Error::internal(format!("allocation at {address:#x}")));
        }
        // SAFETY: just allocated with this size.
        let cleared = unsafe { result::memset_d8_async(address, 0, bytes, self.compute.raw()) };
        cleared.map_err(|e| self.failure(&mut state, e, "clearing an allocation"))?;
        Ok(Ptr(address))
    }

    fn free(&self, ptr: Ptr) {
        let Ok(mut state) = self.lock() else { return };
        if let Some(recording) = &mut state.recording {
            recording.to_free.push(ptr);
        } else if let Ok(_current) = self.opened.context.enter() {
            self.release(&mut state, ptr);
        }
    }

    fn free_bytes(&self) -> Option<usize> {
        let _state = self.ready().ok()?;
        self.memory().0
    }

    fn upload(&self, to: Ptr, bytes: &[u8]) -> Result<()> {
        let mut state = self.outside_recording("an upload")?;
        let queued = state.uploads.upload(to.0, bytes, &self.compute);
        queued.map_err(|e| self.failure(&mut state, e, "an upload"))
    }

    fn expect_uploads(&self, bytes: usize) -> Result<()> {
        let mut state = self.outside_recording("an allocation")?;
        match state.uploads.grow(bytes as u64) {
            // The old ring works too.
            Err(e) if number(e) == diagnose::code::OUT_OF_MEMORY => Ok(()),
            grown => grown.map_err(|e| self.failure(&mut state, e, "making room for uploads")),
        }
    }

    fn download(&self, from: Ptr, bytes: &mut [u8]) -> Result<()> {
        let mut pinned = self
            .download
            .lock()
            .map_err(|_| Error::internal("poisoned CUDA driver"))?;
        let mut from = from.0;
        let size = pinned.len();
        for piece in bytes.chunks_mut(size) {
            self.piece(&mut pinned, from, piece)?;
            from += piece.len() as u64;
        }
        Ok(())
    }

    fn download_later(&self, from: Ptr, bytes: usize) -> Result<Ticket> {
        let mut state = self.outside_recording("a download")?;
        let fits = state.spare.iter().position(|s| s.pinned.len() >= bytes);
        let mut readback = match fits {
            Some(i) => state.spare.swap_remove(i),
            None => Readback::new(bytes)
                .map_err(|e| self.failure(&mut state, e, "allocating pinned memory"))?,
        };
        readback.bytes = bytes;
        readback.launches = state.launches.count;
        let queued = match bytes {
            0 => Ok(()),
            n => readback.pinned.fetch(from.0, n, &self.compute),
        };
        queued
            .and_then(|()| readback.arrived.record(&self.compute))
            .map_err(|e| self.failure(&mut state, e, "a download"))?;
        let id = state.next_ticket;
        state.next_ticket += 1;
        state.readbacks.insert(id, readback);
        Ok(Ticket(Pending::Slot(id)))
    }

    fn collect(&self, ticket: Ticket, bytes: &mut [u8]) -> Result<()> {
        let Pending::Slot(id) = ticket.0 else {
            return Err(Error::internal("a ticket of another driver"));
        };
        let readback = self.outside_recording("a download")?.readbacks.remove(&id);
        let readback = readback.ok_or_else(|| Error::internal("a ticket of another driver"))?;
        let arrived = self.within(|| readback.arrived.synchronize());
        if arrived.is_ok() && readback.bytes == bytes.len() {
            readback.pinned.read(bytes);
        }
        let (launches, copied) = (readback.launches, readback.bytes);
        self.lock()?.spare.push(readback);
        self.waited(arrived, launches, "a download")?;
        match copied == bytes.len() {
            true => Ok(()),
            false => Err(Error::internal(format!(
                "collecting {} bytes of a copy of {copied}",
                bytes.len()
            ))),
        }
    }

    fn launch(
        &self,
        kernel: &KernelInfo,
        grid: [u32; 3],
        shared_bytes: u32,
        args: &[u8],
    ) -> Result<()> {
        let mut state = self.ready()?;
        let function = self
            .opened
            .functions
            .get(kernel.name)
            .ok_or_else(|| Error::internal(format!("kernel {} is missing", kernel.name)))?;
        if args.len() != kernel.args_bytes || shared_bytes > function.dynamic_bytes {
            return Err(Error::internal(format!(
                "kernel {}: {} bytes of arguments, not {}; {shared_bytes} bytes of shared memory, \
                 at most {}",
                kernel.name,
                args.len(),
                kernel.args_bytes,
                function.dynamic_bytes
            )));
        }
        if let Some(recording) = &mut state.recording {
            if recording.thread != std::thread::current().id() {
                return Err(Error::internal(format!(
                    "kernel {} launched from a second thread while a step is recorded",
                    kernel.name
                )));
            }
            recording.launches += 1;
        }
        let stream = match state.recording {
            Some(_) => &self.capture,
            None => &self.compute,
        };
        let [x, y, z] = grid;
        let mut params = [args.as_ptr().cast_mut().cast()];
        // SAFETY: the kernel's one parameter is a struct of just this size (checked when it was
        // loaded, and above), and the driver copies it during the call. That the addresses in it
        // are live and the work is in order is the launchers' contract.
        let queued = unsafe {
            result::launch_kernel(
                function.handle.0,
                (x, y, z),
                (kernel.threads, 1, 1),
                shared_bytes,
                stream.raw(),
                &mut params,
            )
        };
        if let Err(e) = queued {
            // An earlier kernel's failure may show up here too; then this one was not run.
            let doing = format!(
                "launching kernel {} (launch {}, grid {x} x {y} x {z}, {shared_bytes} bytes of \
                 shared memory)",
                kernel.name,
                state.launches.count + 1,
            );
            return Err(self.failure(&mut state, e, &doing));
        }
        if state.recording.is_some() {
            return Ok(());
        }
        state.launches.add(kernel.name, 1);
        if self.wait_each {
            let over = self.compute.synchronize();
            over.map_err(|e| self.failure(&mut state, e, "U2PL_CUDA_SYNC"))?;
            let count = state.launches.count;
            state.launches.seen(count);
        }
        Ok(())
    }

    fn synchronize(&self) -> Result<()> {
        let launches = self.outside_recording("waiting")?.launches.count;
        let over = self.within(|| self.compute.synchronize());
        self.waited(over, launches, "waiting")
    }

    fn record(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Option<GraphId>> {
        if self.wait_each {
            return Ok(None);
        }
        {
            let mut state = self.outside_recording("another recording")?;
            // Thread-local: what other threads do with CUDA meanwhile is no part of it and breaks
            // nothing.
            let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
            // SAFETY: a live stream that is not capturing.
            let begun = unsafe { result::stream::begin_capture(self.capture.raw(), mode) };
            begun.map_err(|e| self.failure(&mut state, e, "recording a step"))?;
            state.recording = Some(Recording {
                thread: std::thread::current().id(),
                launches: 0,
                to_free: Vec::new(),
            });
        }
        let worked = work();
        self.finish(worked).map(Some)
    }

    fn replay(&self, graph: GraphId) -> Result<()> {
        let mut state = self.outside_recording("replaying a step")?;
        let Some(known) = state.graphs.get(&graph.0) else {
            return Err(Error::internal(format!("no recording {}", graph.0)));
        };
        let count = known.launches;
        // SAFETY: an instantiated graph, used under the lock only.
        let queued = unsafe { result::graph::launch(known.exec.0, self.compute.raw()) };
        queued.map_err(|e| self.failure(&mut state, e, "replaying a step"))?;
        state.launches.add(RECORDED, count);
        Ok(())
    }

    fn forget(&self, graph: GraphId) {
        let Ok(mut state) = self.lock() else { return };
        if let Some(graph) = state.graphs.remove(&graph.0)
            && let Ok(_current) = self.opened.context.enter()
        {
            // SAFETY: ours, destroyed once; the driver lets a launch under way end first.
            let _ = unsafe { result::graph::exec_destroy(graph.exec.0) };
        }
    }

    fn time_each(
        &self,
        count: usize,
        work: &mut dyn FnMut(usize) -> Result<()>,
    ) -> Result<Vec<f32>> {
        // Until the marks are gone too. That it failed, the first mark will tell.
        let _current = self.opened.context.enter();
        // A mark before the first piece of work and one behind each.
        let mark = || {
            let mut state = self.outside_recording("timing")?;
            let mark = Event::timing().and_then(|e| e.record(&self.compute).map(|()| e));
            let mark = mark.map_err(|e| self.failure(&mut state, e, "timing"))?;
            Ok((mark, state.launches.count))
        };
        let mut marks = vec![mark()?];
        for i in 0..count {
            work(i)?;
            marks.push(mark()?);
        }
        if let Some((last, launches)) = marks.last() {
            self.waited(last.synchronize(), *launches, "timing")?;
        }
        let mut state = self.ready()?;
        let between = |pair: &[(Event, u64)]| pair[0].0.elapsed_ms(&pair[1].0);
        let times: Result<Vec<f32>, _> = marks.windows(2).map(between).collect();
        times.map_err(|e| self.failure(&mut state, e, "timing"))
    }
}

impl Drop for CudaDriver {
    fn drop(&mut self) {
        // Errors here were told by the calls before, or there is nobody left to tell. The context
        // stays current until all that lives in it is gone.
        self.opened.current = self.opened.context.enter().ok();
        let _ = self.compute.synchronize();
        let Ok(state) = self.state.get_mut() else {
            return;
        };
        state.uploads.drain();
        for (_, graph) in state.graphs.drain() {
            // SAFETY: ours, destroyed once, and its work is over.
            let _ = unsafe { result::graph::exec_destroy(graph.exec.0) };
        }
        for address in std::mem::take(&mut state.allocations) {
            // SAFETY: ours, freed once, and all work is over.
            let _ = unsafe { result::free_sync(address) };
        }
    }
}
