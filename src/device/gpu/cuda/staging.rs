//! Pinned host memory between the program and the device: a ring for uploads, slots for what is
//! read back later.
//!
//! # Why the order is right
//!
//! All kernels run on one stream, `compute`. Every write to a buffer of the caller's is also queued
//! on `compute`, so it comes after the kernels queued before it and before those queued after: as if
//! the upload had happened at its place in the program.
//!
//! - A small upload is one copy on `compute`, from pinned memory to its destination.
//! - A large one would hold `compute` for the time of a PCIe transfer. It goes in two hops: the
//!   stream `copy` brings it from pinned memory into a bounce buffer on the device, which nobody
//!   else touches, while `compute` works on; `compute` waits for the event after that copy, and
//!   moves the bytes to their destination at memory speed.
//!
//! A range of the ring (the same range in pinned memory and in the bounce buffer) is used again
//! only when the host has seen the event behind the *last* hop, which is on `compute`: by then both
//! hops are over, so neither stream still reads what is overwritten. Ranges are handed out in the
//! order of the ring and their events follow on one stream, so the oldest is always first to be
//! free.

use std::collections::VecDeque;

use cudarc::driver::sys::CUevent_flags;
use cudarc::driver::{DriverError, result, sys};

use super::open::Handle;

/// Bytes of the ring at first: more than the images of a small training step.
const RING_BYTES: u64 = 32 << 20;
/// Bytes it may grow to: the images of 16 + 16 Cityscapes frames.
const MOST_RING_BYTES: u64 = 320 << 20;
/// Larger uploads are cut into pieces of this size, which follow each other through both hops.
const PIECE_BYTES: usize = 4 << 20;
/// Up to this size the second hop costs more than it hides.
const SMALL_BYTES: usize = 64 << 10;
/// Ranges in flight: a bound on events, not on bytes.
const MAX_IN_FLIGHT: usize = 256;
/// Ranges start at multiples of this.
const ALIGN: u64 = 256;

/// A stream; destroyed when dropped, where it is ours.
pub(super) struct Stream {
    raw: Handle<sys::CUstream_st>,
    borrowed: bool,
}

impl Stream {
    /// One that does not wait for the default stream.
    pub fn new() -> Result<Self, DriverError> {
        let kind = result::stream::StreamKind::NonBlocking;
        let raw = result::stream::create(kind).map(Handle)?;
        Ok(Self {
            raw,
            borrowed: false,
        })
    }

    /// A host's, live as long as this.
    pub fn borrowed(raw: Handle<sys::CUstream_st>) -> Self {
        Self {
            raw,
            borrowed: true,
        }
    }

    pub fn raw(&self) -> sys::CUstream {
        self.raw.0
    }

    pub fn synchronize(&self) -> Result<(), DriverError> {
        // SAFETY: a live stream.
        unsafe { result::stream::synchronize(self.raw()) }
    }

    /// Everything queued from now on waits for `event`.
    fn wait(&self, event: &Event) -> Result<(), DriverError> {
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        // SAFETY: a live stream and a live event.
        unsafe { result::stream::wait_event(self.raw(), event.raw(), flags) }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.borrowed {
            return;
        }
        // SAFETY: made once, destroyed once; a failure leaves nothing to do.
        let _ = unsafe { result::stream::destroy(self.raw()) };
    }
}

/// An event, destroyed when dropped.
pub(super) struct Event(Handle<sys::CUevent_st>);

impl Event {
    /// One that only orders.
    pub fn new() -> Result<Self, DriverError> {
        Self::with(CUevent_flags::CU_EVENT_DISABLE_TIMING)
    }

    /// One that also keeps the time.
    pub fn timing() -> Result<Self, DriverError> {
        Self::with(CUevent_flags::CU_EVENT_DEFAULT)
    }

    fn with(flags: CUevent_flags) -> Result<Self, DriverError> {
        result::event::create(flags).map(|e| Self(Handle(e)))
    }

    fn raw(&self) -> sys::CUevent {
        self.0.0
    }

    /// Comes after what is queued on `stream` so far.
    pub fn record(&self, stream: &Stream) -> Result<(), DriverError> {
        // SAFETY: a live event and a live stream of the same context.
        unsafe { result::event::record(self.raw(), stream.raw()) }
    }

    /// Waits until the device is there.
    pub fn synchronize(&self) -> Result<(), DriverError> {
        // SAFETY: a live event.
        unsafe { result::event::synchronize(self.raw()) }
    }

    /// Milliseconds from `self` to `end`, both reached.
    pub fn elapsed_ms(&self, end: &Event) -> Result<f32, DriverError> {
        // SAFETY: live events, both recorded on one stream.
        unsafe { result::event::elapsed(self.raw(), end.raw()) }
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made once, destroyed once; a failure leaves nothing to do.
        let _ = unsafe { result::event::destroy(self.raw()) };
    }
}

/// Page-locked host memory, freed when dropped.
pub(super) struct Pinned {
    data: Handle<u8>,
    bytes: usize,
}

impl Pinned {
    pub fn new(bytes: usize) -> Result<Self, DriverError> {
        // SAFETY: `u8` has no invalid value; the memory is cleared before anyone sees it.
        let data = unsafe { result::malloc_host(bytes, 0) }?.cast::<u8>();
        // SAFETY: just allocated with this size.
        unsafe { data.write_bytes(0, bytes) };
        let data = Handle(data);
        Ok(Self { data, bytes })
    }

    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Queues a copy of the first `bytes` from the device.
    pub fn fetch(&mut self, from: u64, bytes: usize, on: &Stream) -> Result<(), DriverError> {
        let bytes = bytes.min(self.bytes);
        // SAFETY: this much memory is ours; the caller waits before reading or freeing it.
        unsafe {
            let into = std::slice::from_raw_parts_mut(self.data.0, bytes);
            result::memcpy_dtoh_async(into, from, on.raw())
        }
    }

    /// The first `into.len()` bytes, after the copy is over.
    pub fn read(&self, into: &mut [u8]) {
        let bytes = into.len().min(self.bytes);
        // SAFETY: this much memory is ours, and no copy into it is under way.
        unsafe { std::ptr::copy_nonoverlapping(self.data.0, into.as_mut_ptr(), bytes) };
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: allocated once, freed once; a failure leaves nothing to do.
        let _ = unsafe { result::free_host(self.data.0.cast()) };
    }
}

/// Device memory of this module's own, freed when dropped.
struct Bounce(u64);

impl Drop for Bounce {
    fn drop(&mut self) {
        // SAFETY: allocated once, freed once; a failure leaves nothing to do.
        let _ = unsafe { result::free_sync(self.0) };
    }
}

struct Range {
    /// Where it starts, counted over all laps.
    start: u64,
    /// Behind its last hop.
    over: Event,
}

/// Where the next range lies: positions count bytes over all laps of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    start: u64,
    end: u64,
}

/// The place of `bytes` in a ring of `size` whose next free position is `head`: in one piece, so it
/// may have to skip the rest of a lap.
fn place(head: u64, bytes: u64, size: u64) -> Place {
    let mut start = head.next_multiple_of(ALIGN);
    if start % size + bytes > size {
        start = start.next_multiple_of(size);
    }
    Place {
        start,
        end: start + bytes,
    }
}

/// The memory behind the ring: as much on the host as on the device.
struct Ring {
    pinned: Pinned,
    bounce: Bounce,
}

impl Ring {
    fn new(bytes: u64) -> Result<Self, DriverError> {
        Ok(Self {
            pinned: Pinned::new(bytes as usize)?,
            // SAFETY: read only after it was written.
            bounce: Bounce(unsafe { result::malloc_sync(bytes as usize) }?),
        })
    }

    fn bytes(&self) -> u64 {
        self.pinned.len() as u64
    }
}

/// The ring of uploads.
pub(super) struct Uploads {
    copy: Stream,
    ring: Ring,
    head: u64,
    in_flight: VecDeque<Range>,
    spare: Vec<Event>,
    /// Orders `compute` after `copy`; a wait keeps the moment it was made at, so one will do.
    arrived: Event,
}

impl Uploads {
    pub fn new() -> Result<Self, DriverError> {
        Ok(Self {
            copy: Stream::new()?,
            ring: Ring::new(RING_BYTES)?,
            head: 0,
            in_flight: VecDeque::new(),
            spare: Vec::new(),
            arrived: Event::new()?,
        })
    }

    /// Makes the ring hold `bytes`, if that is within reason; waits for what is in the old one.
    pub fn grow(&mut self, bytes: u64) -> Result<(), DriverError> {
        let bytes = bytes.min(MOST_RING_BYTES).next_multiple_of(ALIGN);
        if bytes <= self.ring.bytes() {
            return Ok(());
        }
        while let Some(oldest) = self.in_flight.pop_front() {
            oldest.over.synchronize()?;
            self.spare.push(oldest.over);
        }
        self.ring = Ring::new(bytes)?;
        self.head = 0;
        Ok(())
    }

    /// Queues `bytes` to device address `to` on `compute`; they may be reused at once.
    pub fn upload(&mut self, to: u64, bytes: &[u8], compute: &Stream) -> Result<(), DriverError> {
        let mut to = to;
        for piece in bytes.chunks(PIECE_BYTES) {
            self.piece(to, piece, compute)?;
            to += piece.len() as u64;
        }
        Ok(())
    }

    fn piece(&mut self, to: u64, bytes: &[u8], compute: &Stream) -> Result<(), DriverError> {
        let place = place(self.head, bytes.len() as u64, self.ring.bytes());
        self.make_room(place)?;
        let offset = place.start % self.ring.bytes();
        // SAFETY: `place` keeps the range inside the ring, and `make_room` has waited for
        // whatever used it before.
        let staged = unsafe {
            let data = self.ring.pinned.data.0.add(offset as usize);
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), data, bytes.len());
            std::slice::from_raw_parts(data, bytes.len())
        };
        let over = match self.spare.pop() {
            Some(event) => event,
            None => Event::new()?,
        };
        if bytes.len() <= SMALL_BYTES {
            // SAFETY: the staged range stays as it is until `over`; the caller checked that the
            // destination is in an allocation.
            unsafe { result::memcpy_htod_async(to, staged, compute.raw()) }?;
        } else {
            let bounce = self.ring.bounce.0 + offset;
            // SAFETY: as above; the same range of the bounce buffer is free with it.
            unsafe { result::memcpy_htod_async(bounce, staged, self.copy.raw()) }?;
            self.arrived.record(&self.copy)?;
            compute.wait(&self.arrived)?;
            // SAFETY: as above; `compute` waits for the first hop.
            unsafe { result::memcpy_dtod_async(to, bounce, bytes.len(), compute.raw()) }?;
        }
        over.record(compute)?;
        self.in_flight.push_back(Range {
            start: place.start,
            over,
        });
        self.head = place.end;
        Ok(())
    }

    /// Waits for the ranges that lie where `place` will, oldest first.
    fn make_room(&mut self, place: Place) -> Result<(), DriverError> {
        while let Some(oldest) = self.in_flight.front() {
            let a_lap_behind = oldest.start + self.ring.bytes() < place.end;
            if !a_lap_behind && self.in_flight.len() < MAX_IN_FLIGHT {
                break;
            }
            oldest.over.synchronize()?;
            self.spare
                .extend(self.in_flight.pop_front().map(|range| range.over));
        }
        Ok(())
    }

    /// Waits for the transfers under way, before the memory goes.
    pub fn drain(&self) {
        // Whatever failed, failed before; what follows only frees.
        let _ = self.copy.synchronize();
    }
}

/// A copy to the host under way or awaited.
pub(super) struct Readback {
    pub pinned: Pinned,
    pub arrived: Event,
    pub bytes: usize,
    /// Launches that had been queued before it.
    pub launches: u64,
}

impl Readback {
    /// Room for `bytes`, in sizes that many copies can share.
    pub fn new(bytes: usize) -> Result<Self, DriverError> {
        Ok(Self {
            pinned: Pinned::new(bytes.next_power_of_two().max(256))?,
            arrived: Event::new()?,
            bytes,
            launches: 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_never_straddle_the_end_of_the_ring() {
        let size = 4096;
        let mut head = 0;
        for bytes in [1, 255, 256, 3000, 4096, 4000, 17, 900].repeat(7) {
            let place = place(head, bytes, size);
            assert!(place.start >= head && place.start.is_multiple_of(ALIGN));
            assert_eq!(place.end - place.start, bytes);
            assert!(
                place.start % size + bytes <= size,
                "{place:?} in a ring of {size}"
            );
            head = place.end;
        }
    }

    #[test]
    fn a_range_a_lap_behind_is_the_first_that_overlaps() {
        // In a ring of 1024, position 1024 + 0..512 lies on 0..512 and not on 512..1024.
        let place = place(1024, 512, 1024);
        let overlaps = |start: u64| start + 1024 < place.end;
        assert!(overlaps(0) && overlaps(256) && !overlaps(512) && !overlaps(768));
    }
}
