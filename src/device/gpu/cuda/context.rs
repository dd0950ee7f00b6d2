//! The context that a device works in: the GPU's primary one, retained here, or a host program's,
//! borrowed. It is current only while a call lasts: afterwards the thread has back what it had.

use std::any::Any;
use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::{DriverError, result, sys};

use super::diagnose::{self, Speaker};
use super::open::{Handle, text};
use crate::error::Result;

/// A context, live as long as this.
pub(super) struct Context {
    raw: Handle<sys::CUctx_st>,
    kept: Kept,
}

/// Why it is live.
enum Kept {
    /// The primary context of a device, retained by us: released when dropped.
    Primary(sys::CUdevice),
    /// A host's, which keeps it (and its stream) itself, or by what it gave us to hold. Nothing of
    /// it is ours to end.
    Borrowed(#[allow(dead_code, reason = "held, not used")] Option<Owner>),
}

/// What keeps a borrowed context and stream alive.
pub(super) type Owner = Arc<dyn Any + Send + Sync>;

impl Context {
    /// The primary context of `device`.
    pub fn primary(device: sys::CUdevice) -> Result<Self, DriverError> {
        // SAFETY: a device that the driver gave.
        let raw = unsafe { result::primary_ctx::retain(device) }?;
        Ok(Self {
            raw: Handle(raw),
            kept: Kept::Primary(device),
        })
    }

    /// Its device, and the context that `stream` belongs to: live, or the default stream.
    fn device_and_owner(
        &self,
        stream: Handle<sys::CUstream_st>,
    ) -> Result<(sys::CUdevice, sys::CUcontext), DriverError> {
        let _current = self.enter()?;
        let (mut device, mut owner) = (0, std::ptr::null_mut());
        // SAFETY: this context is current, and the pointers are valid for the calls.
        unsafe {
            sys::cuCtxGetDevice(&mut device).result()?;
            sys::cuStreamGetCtx(stream.0, &mut owner).result()?;
        }
        Ok((device, owner))
    }

    /// Makes it the calling thread's current one until the guard goes.
    pub fn enter(&self) -> Result<Current, DriverError> {
        // SAFETY: a live context.
        unsafe { sys::cuCtxPushCurrent_v2(self.raw.0) }.result()?;
        Ok(Current)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        if let Kept::Primary(device) = self.kept {
            // SAFETY: retained once, released once. A failure leaves nothing to do.
            let _ = unsafe { result::primary_ctx::release(device) };
        }
    }
}

/// The thread's current context is ours; dropped on the same thread, it is what it was.
pub(super) struct Current;

impl Drop for Current {
    fn drop(&mut self) {
        let mut popped = std::ptr::null_mut();
        // SAFETY: pushed by `enter`. A failure leaves nothing to do.
        let _ = unsafe { sys::cuCtxPopCurrent_v2(&mut popped) };
    }
}

/// What a host program lends: its context, and the stream that all work is queued on.
pub(super) struct Lent {
    pub context: Context,
    pub stream: Handle<sys::CUstream_st>,
    /// Number of its device.
    pub index: usize,
}

/// The handle that means the calling thread's default stream.
const PER_THREAD: usize = 2;

impl Lent {
    /// Checks what can be checked of `context` and `stream`. `count` devices are there.
    ///
    /// # Safety
    /// Both are live, and stay so as long as the result and what is made from it, unless `owner`
    /// keeps them.
    pub unsafe fn new(
        speaker: &mut Speaker,
        count: usize,
        context: *mut c_void,
        stream: *mut c_void,
        owner: Option<Owner>,
    ) -> Result<Self> {
        if context.is_null() {
            return Err(speaker.error(diagnose::no_context()));
        }
        if stream as usize == PER_THREAD {
            return Err(speaker.error(diagnose::per_thread_stream()));
        }
        let context = Context {
            raw: Handle(context.cast()),
            kept: Kept::Borrowed(owner),
        };
        let stream = Handle(stream.cast());
        match context.device_and_owner(stream) {
            Err(e) => Err(speaker.error(diagnose::bad_loan(&text(e)))),
            Ok((_, owner)) if owner != context.raw.0 => {
                Err(speaker.error(diagnose::other_context()))
            }
            Ok((device, _)) => {
                let same = |i: &usize| result::device::get(*i as i32) == Ok(device);
                let index = (0..count).find(same);
                let index = index.ok_or_else(|| speaker.error(diagnose::no_context()))?;
                speaker.device = format!("cuda:{index}");
                Ok(Self {
                    context,
                    stream,
                    index,
                })
            }
        }
    }
}
