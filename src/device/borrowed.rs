//! Memory of a host program's as the devices see it: comes in as an address, goes out as views.
//!
//! A host that has its pixels on a GPU, or wants its class maps there, lends the memory for the
//! length of some calls. The device neither copies nor frees it.

use std::sync::Arc;

use super::{DType, Device, Shape, Strided, View};
use crate::error::{Error, Result};

/// Memory that somebody else owns, usable by one device until this is dropped.
pub struct Borrowed {
    device: Arc<dyn Device>,
    bytes: View,
}

impl Borrowed {
    /// Lends `bytes` bytes at `address` to `device`.
    ///
    /// Work is queued and not waited for: on a CUDA device the memory must outlive not only this
    /// value but the work, so free it in the order of the stream, or after the stream has passed
    /// an event behind the call. On devices of the host the work is over when the call returns.
    ///
    /// # Errors
    /// As [`Device::adopt`].
    ///
    /// # Safety
    /// As [`Device::adopt`].
    pub unsafe fn new(device: Arc<dyn Device>, address: u64, bytes: usize) -> Result<Self> {
        // SAFETY: the caller's promise is the one that is asked for.
        let bytes = unsafe { device.adopt(address, bytes) }?;
        Ok(Self { device, bytes })
    }

    /// How many bytes were lent.
    pub fn size_bytes(&self) -> usize {
        self.bytes.elements()
    }

    /// Whether it was lent to this very device.
    pub fn is_of(&self, device: &Arc<dyn Device>) -> bool {
        std::ptr::addr_eq(Arc::as_ptr(&self.device), Arc::as_ptr(device))
    }

    /// All of it, as bytes.
    pub fn bytes(&self) -> View {
        self.bytes
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        self.device.free(self.bytes.arena);
    }
}

/// An image, a map or a batch of them in somebody else's memory.
pub struct Tensor {
    memory: Borrowed,
    strided: Strided,
    read_only: bool,
}

impl Tensor {
    /// The elements of a `shape` (`[N, H, W, C]`) with `strides`, in elements, from the start of
    /// `memory` on; `what` names it in errors.
    ///
    /// # Errors
    /// [`Error::Input`] for empty shapes, strides that overflow or lead out of the memory, and an
    /// address that is no multiple of the element's size.
    pub fn over(
        memory: Borrowed,
        what: &str,
        dtype: DType,
        shape: Shape,
        strides: [usize; 4],
    ) -> Result<Self> {
        let bytes = span_bytes(what, dtype, shape, strides)?;
        if bytes > memory.size_bytes() {
            let problem = format!(
                "{dtype:?} {shape:?} with strides {strides:?} takes {bytes} bytes, and {} were lent",
                memory.size_bytes()
            );
            return Err(Error::input(what, problem, "lend all of it"));
        }
        let View { arena, offset, .. } = memory.bytes();
        if !offset.is_multiple_of(dtype.bytes()) {
            let problem = format!("its address is none of {dtype:?}");
            let mend = format!("align it to {} bytes", dtype.bytes());
            return Err(Error::input(what, problem, mend));
        }
        let strided = Strided {
            arena,
            offset,
            dtype,
            shape,
            strides,
        };
        Ok(Self {
            memory,
            strided,
            read_only: false,
        })
    }

    /// As [`Tensor::over`], of memory from `address` on that is lent for it. What [`Borrowed::new`]
    /// says of the memory's life holds here.
    ///
    /// # Errors
    /// As [`Tensor::over`] and [`Borrowed::new`].
    ///
    /// # Safety
    /// As [`Borrowed::new`].
    pub unsafe fn new(
        device: &Arc<dyn Device>,
        what: &str,
        address: u64,
        dtype: DType,
        shape: Shape,
        strides: [usize; 4],
    ) -> Result<Self> {
        let bytes = span_bytes(what, dtype, shape, strides)?;
        // SAFETY: the caller's promise.
        let memory = unsafe { Borrowed::new(device.clone(), address, bytes) }?;
        Self::over(memory, what, dtype, shape, strides)
    }

    /// The same, not to be written to.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Whether it must not be written to.
    pub fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// The memory.
    pub fn memory(&self) -> &Borrowed {
        &self.memory
    }

    /// Its place in the memory.
    pub fn strided(&self) -> Strided {
        self.strided
    }
}

fn span_bytes(what: &str, dtype: DType, shape: Shape, strides: [usize; 4]) -> Result<usize> {
    let bytes = Strided::span(shape, strides).and_then(|n| n.checked_mul(dtype.bytes()));
    bytes.filter(|&n| n <= isize::MAX as usize).ok_or_else(|| {
        let problem = format!("{shape:?} with strides {strides:?} is no tensor");
        Error::input(what, problem, "give its own shape and strides")
    })
}

/// Where an arena over `bytes` bytes at `address` starts, and the offset of `address` in it.
///
/// # Errors
/// [`Error::Input`] for a null address, no bytes, or an end past the last address.
pub(super) fn base(address: u64, bytes: usize) -> Result<(u64, usize)> {
    if address == 0 || bytes == 0 || address.checked_add(bytes as u64).is_none() {
        return Err(Error::input(
            "borrowed memory",
            format!("{bytes} bytes at {address:#x} are no memory"),
            "give the address and the size of an allocation",
        ));
    }
    let offset = address % super::ALIGN as u64;
    Ok((address - offset, offset as usize))
}
