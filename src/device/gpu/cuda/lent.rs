//! A device in somebody else's program: on its context, its stream and its memory.

use std::ffi::c_void;
use std::sync::Arc;

use cudarc::driver::{CudaStream, DevicePtr, DevicePtrMut, SyncOnDrop};

use super::{CudaDriver, open};
use crate::device::gpu::{GpuDevice, MathMode};
use crate::device::{Borrowed, Device};
use crate::error::Result;

impl CudaDriver {
    /// The driver of [`GpuDevice::on_stream`].
    ///
    /// # Errors
    /// As [`GpuDevice::on_stream`].
    ///
    /// # Safety
    /// As [`GpuDevice::on_stream`].
    pub unsafe fn on_stream(context: *mut c_void, stream: *mut c_void) -> Result<Self> {
        // SAFETY: the caller's promise.
        let (opened, stream) = unsafe { open::open_lent(context, stream, None) }?;
        Self::on(opened, Some(stream))
    }

    /// The driver of [`GpuDevice::on_cudarc`].
    ///
    /// # Errors
    /// As [`GpuDevice::on_stream`].
    pub fn on_cudarc(stream: &Arc<CudaStream>) -> Result<Self> {
        let context = stream.context().cu_ctx().cast();
        let raw = stream.cu_stream().cast();
        // SAFETY: cudarc's own handles, which the stream that is given along keeps alive.
        let (opened, raw) = unsafe { open::open_lent(context, raw, Some(stream.clone())) }?;
        Self::on(opened, Some(raw))
    }
}

impl GpuDevice {
    /// A device that works in a host program's `context` (a `CUcontext`) and queues on its `stream`
    /// (a `CUstream` of that context).
    ///
    /// What the host lends, it keeps: the device destroys neither, frees no memory that it did not
    /// allocate, and leaves each thread the context that was current. Kernels, scratch memory and
    /// staging are its own, made in the host's context and gone when it is dropped, which waits for
    /// the stream. Work is queued in order and not waited for, except where a call says so (reading
    /// to the host, timing, allocating, dropping).
    ///
    /// A null stream is the legacy default stream. CUDA cannot capture that one, so recordings are
    /// captured on a stream of the device's own, as on every device, and replayed on the host's. The
    /// per-thread default stream is refused, because it is another stream on every thread. The host
    /// must not be capturing its stream itself while it calls.
    ///
    /// # Errors
    /// As [`CudaDriver::new`]; [`crate::Error::Device`] for no context, a stream of another one,
    /// or the per-thread default stream.
    ///
    /// # Safety
    /// Both are live when this is called, and until the device is dropped.
    pub unsafe fn on_stream(
        context: *mut c_void,
        stream: *mut c_void,
        math: MathMode,
    ) -> Result<Self> {
        // SAFETY: the caller's promise.
        let driver = unsafe { CudaDriver::on_stream(context, stream) }?;
        Ok(Self::new(Box::new(driver), math))
    }

    /// As [`GpuDevice::on_stream`], on a cudarc stream and its context, which live as long as the
    /// device: it holds them.
    ///
    /// # Errors
    /// As [`GpuDevice::on_stream`].
    pub fn on_cudarc(stream: &Arc<CudaStream>, math: MathMode) -> Result<Self> {
        Ok(Self::new(Box::new(CudaDriver::on_cudarc(stream)?), math))
    }

    /// As [`GpuDevice::on_stream`], on a `cust` context and stream.
    ///
    /// # Errors
    /// As [`GpuDevice::on_stream`].
    ///
    /// # Safety
    /// Both outlive the device.
    #[cfg(feature = "cust-interop")]
    pub unsafe fn on_cust(
        context: &impl cust::context::ContextHandle,
        stream: &cust::stream::Stream,
        math: MathMode,
    ) -> Result<Self> {
        let (context, stream) = (context.get_inner().cast(), stream.as_inner().cast());
        // SAFETY: live handles, and the caller's promise.
        unsafe { Self::on_stream(context, stream, math) }
    }
}

impl Borrowed {
    /// A cudarc slice or view to read from. `stream` is the device's; the guard tells cudarc of the
    /// read when it is dropped, so drop it after the calls that read: then cudarc frees the memory
    /// in the order of its streams.
    ///
    /// # Errors
    /// As [`Borrowed::new`].
    ///
    /// # Safety
    /// As [`Borrowed::new`].
    pub unsafe fn cudarc<'a, T>(
        device: Arc<dyn Device>,
        memory: &'a impl DevicePtr<T>,
        stream: &'a CudaStream,
    ) -> Result<(Self, SyncOnDrop<'a>)> {
        let bytes = memory.num_bytes();
        let (address, used) = memory.device_ptr(stream);
        // SAFETY: the caller's promise.
        Ok((unsafe { Self::new(device, address, bytes) }?, used))
    }

    /// As [`Borrowed::cudarc`], to write to.
    ///
    /// # Errors
    /// As [`Borrowed::new`].
    ///
    /// # Safety
    /// As [`Borrowed::new`].
    pub unsafe fn cudarc_mut<'a, T>(
        device: Arc<dyn Device>,
        memory: &'a mut impl DevicePtrMut<T>,
        stream: &'a CudaStream,
    ) -> Result<(Self, SyncOnDrop<'a>)> {
        let bytes = memory.num_bytes();
        let (address, used) = memory.device_ptr_mut(stream);
        // SAFETY: the caller's promise.
        Ok((unsafe { Self::new(device, address, bytes) }?, used))
    }

    /// A `cust` buffer or slice.
    ///
    /// # Errors
    /// As [`Borrowed::new`].
    ///
    /// # Safety
    /// As [`Borrowed::new`].
    #[cfg(feature = "cust-interop")]
    pub unsafe fn cust<T: cust::memory::DeviceCopy>(
        device: Arc<dyn Device>,
        memory: &cust::memory::DeviceSlice<T>,
    ) -> Result<Self> {
        let bytes = memory.len() * size_of::<T>();
        let address = memory.as_device_ptr().as_raw();
        // SAFETY: the caller's promise.
        unsafe { Self::new(device, address, bytes) }
    }
}
