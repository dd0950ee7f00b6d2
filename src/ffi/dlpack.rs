//! Tensors of other programs by DLPack: comes in as a host's tensor, goes out as one that the host
//! frees. Nothing is copied either way.
//!
//! The structs are DLPack's C structs, version 0.8 ([`DLManagedTensor`]) and 1
//! ([`DLManagedTensorVersioned`]); names and fields are its own. [`borrow`] looks at a host's tensor
//! and does not own it: the host calls its deleter, after the work that uses it. [`export`] hands out
//! memory of the engine's with a deleter of its own.
//!
//! DLPack says nothing of streams here: a tensor that comes in must be ready in the order of the
//! device's stream, and one that goes out is. On a device with a stream of its own, wait
//! ([`Device::wait`]) before the host reads.

use std::ffi::c_void;
use std::sync::Arc;

use crate::device::{DType, Device, Memory, Tensor, View};
use crate::error::{Error, Result};
use crate::graph::exec::Arena;

/// The version that [`export_versioned`] writes, and whose major part [`borrow_versioned`] reads.
pub const VERSION: DLPackVersion = DLPackVersion { major: 1, minor: 0 };

/// Device types.
pub mod device_type {
    /// Host memory.
    pub const CPU: i32 = 1;
    /// Memory of a CUDA device.
    pub const CUDA: i32 = 2;
    /// Pinned host memory.
    pub const CUDA_HOST: i32 = 3;
    /// CUDA's managed memory.
    pub const CUDA_MANAGED: i32 = 13;
}

/// Codes of [`DLDataType`].
pub mod type_code {
    /// Signed integer.
    pub const INT: u8 = 0;
    /// Unsigned integer.
    pub const UINT: u8 = 1;
    /// IEEE float.
    pub const FLOAT: u8 = 2;
    /// bfloat.
    pub const BFLOAT: u8 = 4;
}

/// Bit of [`DLManagedTensorVersioned::flags`]: not to be written to.
pub const FLAG_READ_ONLY: u64 = 1;

/// Where a tensor is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DLDevice {
    /// One of [`device_type`].
    pub device_type: i32,
    /// Which of its kind.
    pub device_id: i32,
}

/// Type of an element.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DLDataType {
    /// One of [`type_code`].
    pub code: u8,
    /// Bits of a lane.
    pub bits: u8,
    /// Lanes of an element.
    pub lanes: u16,
}

/// A tensor without an owner.
#[repr(C)]
#[derive(Debug)]
pub struct DLTensor {
    /// Its memory.
    pub data: *mut c_void,
    /// Where the memory is.
    pub device: DLDevice,
    /// Dimensions.
    pub ndim: i32,
    /// Type.
    pub dtype: DLDataType,
    /// `ndim` sizes.
    pub shape: *mut i64,
    /// `ndim` strides in elements; null: row-major without gaps.
    pub strides: *mut i64,
    /// First element, bytes from `data`.
    pub byte_offset: u64,
}

/// A tensor and how to free it, version 0.8.
#[repr(C)]
#[derive(Debug)]
pub struct DLManagedTensor {
    /// The tensor.
    pub dl_tensor: DLTensor,
    /// The deleter's.
    pub manager_ctx: *mut c_void,
    /// Frees the tensor and this struct.
    pub deleter: Option<unsafe extern "C" fn(*mut DLManagedTensor)>,
}

/// Version of a [`DLManagedTensorVersioned`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DLPackVersion {
    /// Layouts of another major version are other layouts.
    pub major: u32,
    /// Minor.
    pub minor: u32,
}

/// A tensor and how to free it, version 1.
#[repr(C)]
#[derive(Debug)]
pub struct DLManagedTensorVersioned {
    /// Version of this struct.
    pub version: DLPackVersion,
    /// The deleter's.
    pub manager_ctx: *mut c_void,
    /// Frees the tensor and this struct.
    pub deleter: Option<unsafe extern "C" fn(*mut DLManagedTensorVersioned)>,
    /// [`FLAG_READ_ONLY`] and others.
    pub flags: u64,
    /// The tensor.
    pub dl_tensor: DLTensor,
}

/// What a tensor's dimensions are, which DLPack does not tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dims {
    /// `[H, W, C]` or `[N, H, W, C]`.
    ChannelsLast,
    /// `[C, H, W]` or `[N, C, H, W]`, as PyTorch has them, whatever the strides.
    ChannelsFirst,
    /// `[H, W]` or `[N, H, W]`: one value a pixel.
    Map,
}

/// A host's tensor as a tensor of `device`'s, `[N, H, W, C]` with the host's strides; `what` names it
/// in errors.
///
/// # Errors
/// [`Error::Input`] naming what does not fit: memory of another device, a type other than u8, u32,
/// f32 or bf16, dimensions that are no image's, strides that go backwards; those of
/// [`Tensor::new`].
///
/// # Safety
/// `tensor` is null or points to a tensor as DLPack defines it, whose memory is there as
/// [`Tensor::new`] asks.
pub unsafe fn borrow(
    device: &Arc<dyn Device>,
    what: &str,
    tensor: *const DLManagedTensor,
    dims: Dims,
) -> Result<Tensor> {
    // SAFETY: the caller's promise.
    let Some(managed) = (unsafe { tensor.as_ref() }) else {
        return Err(wrong(what, "a null tensor", "give a DLManagedTensor"));
    };
    // SAFETY: the caller's promise.
    unsafe { borrow_plain(device, what, &managed.dl_tensor, dims) }
}

/// As [`borrow`], of a version 1 tensor.
///
/// # Errors
/// As [`borrow`]; [`Error::Input`] for another major version.
///
/// # Safety
/// As [`borrow`].
pub unsafe fn borrow_versioned(
    device: &Arc<dyn Device>,
    what: &str,
    tensor: *const DLManagedTensorVersioned,
    dims: Dims,
) -> Result<Tensor> {
    if tensor.is_null() {
        return Err(wrong(
            what,
            "a null tensor",
            "give a DLManagedTensorVersioned",
        ));
    }
    // SAFETY: not null, so the caller's promise; the version is there in every version.
    let version = unsafe { (&raw const (*tensor).version).read() };
    if version.major != VERSION.major {
        let problem = format!("a tensor of DLPack {}.{}", version.major, version.minor);
        return Err(wrong(what, problem, "ask for version 1"));
    }
    // SAFETY: a tensor of version 1.
    let managed = unsafe { &*tensor };
    // SAFETY: the caller's promise.
    let tensor = unsafe { borrow_plain(device, what, &managed.dl_tensor, dims) }?;
    Ok(match managed.flags & FLAG_READ_ONLY {
        0 => tensor,
        _ => tensor.read_only(),
    })
}

/// # Safety
/// As [`borrow`].
unsafe fn borrow_plain(
    device: &Arc<dyn Device>,
    what: &str,
    tensor: &DLTensor,
    dims: Dims,
) -> Result<Tensor> {
    here(device.memory(), what, tensor.device)?;
    let dtype = dtype(what, tensor.dtype)?;
    // SAFETY: `ndim` sizes and, where there are any, strides: DLPack's own rule.
    let (sizes, strides) = unsafe {
        let dimensions = usize::try_from(tensor.ndim).unwrap_or(0);
        if dimensions == 0 || tensor.shape.is_null() {
            return Err(wrong(what, "a tensor without dimensions", "give an image"));
        }
        let sizes = std::slice::from_raw_parts(tensor.shape, dimensions);
        let strides = match tensor.strides.is_null() {
            true => None,
            false => Some(std::slice::from_raw_parts(tensor.strides, dimensions)),
        };
        (sizes, strides)
    };
    let axes = Axes::new(what, sizes, strides)?;
    let (shape, strides) = axes.nhwc(what, dims)?;
    let address = (tensor.data as u64).checked_add(tensor.byte_offset);
    let address = address.filter(|_| !tensor.data.is_null());
    let address = address.ok_or_else(|| wrong(what, "a tensor without memory", "give an image"))?;
    // SAFETY: the caller's promise.
    unsafe { Tensor::new(device, what, address, dtype, shape, strides) }
}

/// Fails unless memory at `place` is the device's.
fn here(memory: Memory, what: &str, place: DLDevice) -> Result<()> {
    use device_type::{CPU, CUDA, CUDA_HOST, CUDA_MANAGED};
    let same = match (memory, place.device_type) {
        (Memory::Host, CPU | CUDA_HOST) => true,
        (Memory::Cuda(index), CUDA | CUDA_MANAGED) => usize::try_from(place.device_id) == Ok(index),
        _ => false,
    };
    if same {
        return Ok(());
    }
    let of = match place.device_type {
        CPU => "in host memory".into(),
        CUDA_HOST => "in pinned host memory".into(),
        CUDA | CUDA_MANAGED => format!("on cuda:{}", place.device_id),
        other => format!("on a device of DLPack type {other}"),
    };
    let own = match memory {
        Memory::Host => "host memory".into(),
        Memory::Cuda(index) => format!("cuda:{index}"),
        Memory::Machine => "memory of its own".into(),
    };
    Err(wrong(
        what,
        format!("a tensor {of}, and this device works in {own}"),
        format!("move it to {own}"),
    ))
}

fn dtype(what: &str, dtype: DLDataType) -> Result<DType> {
    use type_code::{BFLOAT, FLOAT, INT, UINT};
    match (dtype.code, dtype.bits, dtype.lanes) {
        (UINT, 8, 1) => Ok(DType::U8),
        (UINT, 32, 1) => Ok(DType::U32),
        (FLOAT, 32, 1) => Ok(DType::F32),
        (BFLOAT, 16, 1) => Ok(DType::BF16),
        (code, bits, lanes) => {
            let name = match code {
                INT => "int",
                UINT => "uint",
                FLOAT => "float",
                BFLOAT => "bfloat",
                _ => "an unknown type of ",
            };
            let lanes = match lanes {
                1 => String::new(),
                n => format!(" in {n} lanes"),
            };
            Err(wrong(
                what,
                format!("elements of {name}{bits}{lanes}"),
                "convert it to uint8 or float32",
            ))
        }
    }
}

/// DLPack's type of a [`DType`].
fn data_type(dtype: DType) -> DLDataType {
    let code = match dtype {
        DType::F32 => type_code::FLOAT,
        DType::BF16 => type_code::BFLOAT,
        DType::U8 | DType::U32 => type_code::UINT,
    };
    DLDataType {
        code,
        bits: 8 * dtype.bytes() as u8,
        lanes: 1,
    }
}

/// Sizes and strides, one pair a dimension.
struct Axes(Vec<(usize, usize)>);

impl Axes {
    fn new(what: &str, sizes: &[i64], strides: Option<&[i64]>) -> Result<Self> {
        let shape = || match strides {
            Some(strides) => format!("{sizes:?} with strides {strides:?}"),
            None => format!("{sizes:?}"),
        };
        let mut packed = 1usize;
        let mut axes = Vec::new();
        for (i, &size) in sizes.iter().enumerate().rev() {
            let size = usize::try_from(size).ok().filter(|&n| n > 0);
            let size = size.ok_or_else(|| wrong(what, shape(), "give sizes of at least 1"))?;
            let stride = match strides {
                None => Some(packed),
                // Of a single element a stride says nothing.
                Some(_) if size == 1 => Some(packed),
                Some(strides) => usize::try_from(strides[i]).ok().filter(|&n| n > 0),
            };
            let mend = "copy it, so that strides are positive";
            let stride = stride.ok_or_else(|| wrong(what, shape(), mend))?;
            let next = packed.checked_mul(size);
            packed = next.ok_or_else(|| wrong(what, shape(), "give a smaller tensor"))?;
            axes.push((size, stride));
        }
        axes.reverse();
        Ok(Self(axes))
    }

    /// As `[N, H, W, C]`.
    fn nhwc(&self, what: &str, dims: Dims) -> Result<([usize; 4], [usize; 4])> {
        let one = (1, 1);
        let axes = match (&self.0[..], dims) {
            (&[h, w], Dims::Map) => [one, h, w, one],
            (&[n, h, w], Dims::Map) => [n, h, w, one],
            (&[h, w, c], Dims::ChannelsLast) => [one, h, w, c],
            (&[n, h, w, c], Dims::ChannelsLast) => [n, h, w, c],
            (&[c, h, w], Dims::ChannelsFirst) => [one, h, w, c],
            (&[n, c, h, w], Dims::ChannelsFirst) => [n, h, w, c],
            (other, _) => {
                let shape: Vec<usize> = other.iter().map(|a| a.0).collect();
                let wanted = match dims {
                    Dims::Map => "[H, W] or [N, H, W]",
                    Dims::ChannelsLast => "[H, W, C] or [N, H, W, C]",
                    Dims::ChannelsFirst => "[C, H, W] or [N, C, H, W]",
                };
                let problem = format!("a shape of {shape:?}");
                return Err(wrong(what, problem, format!("give {wanted}")));
            }
        };
        Ok((axes.map(|a| a.0), axes.map(|a| a.1)))
    }
}

fn wrong(what: &str, problem: impl Into<String>, mend: impl Into<String>) -> Error {
    Error::input(what, problem, mend)
}

/// Hands `view` of `memory` to a host as a tensor of `shape`, row-major. The host calls the deleter
/// when it is done; until then the memory is kept.
///
/// # Errors
/// [`Error::Internal`] when the view is not dense, not of `memory` or not as large as `shape`.
pub fn export(memory: Arc<Arena>, view: &View, shape: &[usize]) -> Result<*mut DLManagedTensor> {
    let (dl_tensor, manager_ctx) = Exported::tensor(memory, view, shape)?;
    Ok(Box::into_raw(Box::new(DLManagedTensor {
        dl_tensor,
        manager_ctx,
        deleter: Some(delete),
    })))
}

/// As [`export`], as a version 1 tensor.
///
/// # Errors
/// As [`export`].
pub fn export_versioned(
    memory: Arc<Arena>,
    view: &View,
    shape: &[usize],
) -> Result<*mut DLManagedTensorVersioned> {
    let (dl_tensor, manager_ctx) = Exported::tensor(memory, view, shape)?;
    Ok(Box::into_raw(Box::new(DLManagedTensorVersioned {
        version: VERSION,
        manager_ctx,
        deleter: Some(delete_versioned),
        flags: 0,
        dl_tensor,
    })))
}

/// What an exported tensor points to.
struct Exported {
    sizes: Vec<i64>,
    strides: Vec<i64>,
    _memory: Arc<Arena>,
}

impl Exported {
    /// A tensor, and what it points to, for [`Exported::free`].
    fn tensor(memory: Arc<Arena>, view: &View, shape: &[usize]) -> Result<(DLTensor, *mut c_void)> {
        let elements: usize = shape.iter().product();
        if !view.is_dense() || view.elements() != elements || view.arena != memory.id() {
            return Err(Error::internal(format!("{view:?} exported as {shape:?}")));
        }
        let device = memory.device();
        let address = device.address(view)?;
        let place = match device.memory() {
            Memory::Host => (device_type::CPU, 0),
            Memory::Cuda(index) => (device_type::CUDA, index as i32),
            Memory::Machine => {
                return Err(wrong(
                    "the result",
                    "it lies in the memory of the ptx device, which nothing else can reach",
                    "use the cpu or a cuda device",
                ));
            }
        };
        let inner = |i: usize| shape[i + 1..].iter().product::<usize>() as i64;
        let mut exported = Box::new(Self {
            sizes: shape.iter().map(|&n| n as i64).collect(),
            strides: (0..shape.len()).map(inner).collect(),
            _memory: memory,
        });
        let tensor = DLTensor {
            data: address as *mut c_void,
            device: DLDevice {
                device_type: place.0,
                device_id: place.1,
            },
            ndim: shape.len() as i32,
            dtype: data_type(view.dtype),
            shape: exported.sizes.as_mut_ptr(),
            strides: exported.strides.as_mut_ptr(),
            byte_offset: 0,
        };
        Ok((tensor, Box::into_raw(exported).cast()))
    }

    /// # Safety
    /// `context` came from [`Exported::tensor`] and is freed once.
    unsafe fn free(context: *mut c_void) {
        // SAFETY: the caller's promise.
        drop(unsafe { Box::from_raw(context.cast::<Self>()) });
    }
}

/// # Safety
/// `managed` is null, or came from [`export`] and is freed once.
unsafe extern "C" fn delete(managed: *mut DLManagedTensor) {
    if !managed.is_null() {
        // SAFETY: the caller's promise.
        unsafe {
            let managed = Box::from_raw(managed);
            Exported::free(managed.manager_ctx);
        }
    }
}

/// # Safety
/// `managed` is null, or came from [`export_versioned`] and is freed once.
unsafe extern "C" fn delete_versioned(managed: *mut DLManagedTensorVersioned) {
    if !managed.is_null() {
        // SAFETY: the caller's promise.
        unsafe {
            let managed = Box::from_raw(managed);
            Exported::free(managed.manager_ctx);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_of_the_same_device_is_taken_and_no_other() {
        use device_type::{CPU, CUDA, CUDA_HOST, CUDA_MANAGED};
        let (host, gpu) = (Memory::Host, Memory::Cuda(1));
        for (memory, device_type, device_id, fits) in [
            (host, CPU, 0, true),
            (host, CUDA_HOST, 0, true),
            (host, CUDA, 0, false),
            (gpu, CUDA, 1, true),
            (gpu, CUDA_MANAGED, 1, true),
            (gpu, CUDA, 0, false),
            (gpu, CUDA, -1, false),
            (gpu, CPU, 0, false),
            (gpu, CUDA_HOST, 1, false),
        ] {
            let place = DLDevice {
                device_type,
                device_id,
            };
            let found = here(memory, "image", place);
            assert_eq!(found.is_ok(), fits, "{place:?} for {memory:?}");
        }
    }
}
