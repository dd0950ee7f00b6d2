//! From a device index, or from a context that a host program lends, to a context with every kernel
//! loaded and checked, or one line that says what is missing.

use std::collections::HashMap;
use std::ffi::{CString, c_void};

use cudarc::driver::sys::{CUdevice_attribute, CUfunction_attribute};
use cudarc::driver::{DriverError, result, sys};

use super::context::{Context, Current, Lent, Owner};
use super::diagnose::{self, Speaker};
use super::embedded;
use crate::device::gpu::driver::{Limits, PLANNED_MULTIPROCESSORS};
use crate::device::gpu::kernels::{ALL, KernelInfo};
use crate::error::Result;

/// The driver's functions that this device calls. cudarc panics at the first call of one that the
/// library lacks, so all are looked for before.
const SYMBOLS: &[&str] = &[
    "cuCtxGetDevice",
    "cuCtxPopCurrent_v2",
    "cuCtxPushCurrent_v2",
    "cuDeviceGet",
    "cuDeviceGetAttribute",
    "cuDeviceGetCount",
    "cuDeviceGetName",
    "cuDevicePrimaryCtxRelease_v2",
    "cuDevicePrimaryCtxRetain",
    "cuDeviceTotalMem_v2",
    "cuDriverGetVersion",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventElapsedTime",
    "cuEventRecord",
    "cuEventSynchronize",
    "cuFuncGetAttribute",
    "cuFuncSetAttribute",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuGraphInstantiateWithFlags",
    "cuGraphLaunch",
    "cuGraphUpload",
    "cuInit",
    "cuLaunchKernel",
    "cuMemAlloc_v2",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuMemGetInfo_v2",
    "cuMemHostAlloc",
    "cuMemcpyDtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyHtoDAsync_v2",
    "cuMemsetD8Async",
    "cuModuleGetFunction",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuPointerGetAttribute",
    "cuStreamBeginCapture_v2",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamEndCapture",
    "cuStreamGetCtx",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
];

/// A driver object. The driver's interface may be called from any thread; what is not thread-safe
/// (graphs) is used under the lock of [`super::CudaDriver`].
#[derive(Debug)]
pub(super) struct Handle<T>(pub *mut T);

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Handle<T> {}

// SAFETY: an opaque number to this program; see the type.
unsafe impl<T> Send for Handle<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Handle<T> {}

/// The number of a driver error.
pub(super) fn number(error: DriverError) -> u32 {
    error.0 as u32
}

/// "an illegal memory access was encountered (CUDA_ERROR_ILLEGAL_ADDRESS)".
pub(super) fn text(error: DriverError) -> String {
    let name = error
        .error_name()
        .map(|n| n.to_string_lossy().into_owned())
        .unwrap_or_else(|_| format!("error {}", number(error)));
    match error.error_string() {
        Ok(text) => format!("{} ({name})", text.to_string_lossy()),
        Err(_) => name,
    }
}

fn visible() -> Option<String> {
    std::env::var("CUDA_VISIBLE_DEVICES").ok()
}

/// A driver that is there, new enough and started: its CUDA version and number of devices.
pub(super) fn driver(speaker: &mut Speaker) -> Result<usize> {
    // SAFETY: loads the library by its well-known names and lets it go.
    if !unsafe { sys::is_culib_present() } {
        return Err(speaker.error(diagnose::no_library()));
    }
    let mut version = 0;
    if !has("cuDriverGetVersion") {
        return Err(speaker.error(diagnose::missing_symbol("cuDriverGetVersion")));
    }
    // SAFETY: the library and this function are there; it needs no initialisation.
    let asked = unsafe { sys::cuDriverGetVersion(&mut version) }.result();
    if asked.is_ok() {
        speaker.driver = Some(version);
        if version < diagnose::MIN_DRIVER {
            return Err(speaker.error(diagnose::old_driver(version)));
        }
    }
    if let Some(missing) = SYMBOLS.iter().find(|s| !has(s)) {
        return Err(speaker.error(diagnose::missing_symbol(missing)));
    }
    let failed = |speaker: &Speaker, e: DriverError| {
        speaker.error(diagnose::init_failed(
            number(e),
            &text(e),
            visible().as_deref(),
        ))
    };
    asked.map_err(|e| failed(speaker, e))?;
    result::init().map_err(|e| failed(speaker, e))?;
    let count = result::device::get_count().map_err(|e| failed(speaker, e))?;
    match usize::try_from(count) {
        Ok(count) if count > 0 => Ok(count),
        _ => Err(speaker.error(diagnose::no_device(visible().as_deref()))),
    }
}

pub(super) fn has(symbol: &str) -> bool {
    // SAFETY: called only where the library is present; the symbol is looked up, not used.
    unsafe { sys::culib().get::<*const ()>(symbol.as_bytes()).is_ok() }
}

/// What a device is.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct DeviceInfo {
    /// As in `cuda:INDEX`.
    pub index: usize,
    /// As its maker calls it.
    pub name: String,
    /// Compute capability, 90 = 9.0.
    pub arch: u32,
    /// Memory, bytes.
    pub memory_bytes: usize,
    /// Streaming multiprocessors.
    pub multiprocessors: u32,
    /// Dynamic shared memory that a block may ask for, bytes.
    pub shared_bytes: u32,
    /// The image of this binary that it runs.
    pub image: Option<&'static str>,
}

/// Asks about device `index`, which exists.
pub(super) fn device_info(index: usize) -> Result<DeviceInfo, DriverError> {
    use CUdevice_attribute as A;
    let device = result::device::get(index as i32)?;
    let attribute = |a: CUdevice_attribute| {
        // SAFETY: a device that the driver just gave.
        unsafe { result::device::get_attribute(device, a) }.map(|v| v.max(0) as u32)
    };
    let arch = attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)? * 10
        + attribute(A::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    Ok(DeviceInfo {
        index,
        name: result::device::get_name(device)?,
        arch,
        // SAFETY: as above.
        memory_bytes: unsafe { result::device::total_mem(device) }?,
        multiprocessors: attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        shared_bytes: attribute(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        image: embedded::image_for(arch, embedded::images()),
    })
}

/// A kernel ready to launch.
#[derive(Clone, Copy)]
pub(super) struct Function {
    pub handle: Handle<sys::CUfunc_st>,
    /// Dynamic shared memory that it may ask for, bytes.
    pub dynamic_bytes: u32,
}

/// An open device.
pub(super) struct Opened {
    pub speaker: Speaker,
    pub info: DeviceInfo,
    pub functions: HashMap<&'static str, Function>,
    // Fields drop in this order: modules go while the context they live in is current and live.
    _modules: Modules,
    /// Of the thread that opens or drops the device, only meanwhile.
    pub current: Option<Current>,
    pub context: Context,
}

impl Opened {
    pub fn limits(&self) -> Limits {
        Limits {
            multiprocessors: self.info.multiprocessors,
            planned_multiprocessors: PLANNED_MULTIPROCESSORS,
            shared_bytes: self.info.shared_bytes,
        }
    }
}

/// Loaded modules; unloaded when dropped.
#[derive(Default)]
struct Modules(Vec<Handle<sys::CUmod_st>>);

impl Drop for Modules {
    fn drop(&mut self) {
        for module in &self.0 {
            // SAFETY: loaded once, unloaded once. A failure leaves nothing to do.
            let _ = unsafe { result::module::unload(module.0) };
        }
    }
}

/// Opens device `index`.
pub(super) fn open(index: usize) -> Result<Opened> {
    let mut speaker = Speaker::new(index);
    let count = started(&mut speaker)?;
    if index >= count {
        return Err(speaker.error(diagnose::no_such_device(index, count)));
    }
    let failed =
        |e: DriverError| speaker.error(format!("the device cannot be opened: {}", text(e)));
    let context = result::device::get(index as i32)
        .and_then(Context::primary)
        .map_err(failed)?;
    with_kernels(speaker, index, context)
}

/// Opens the device of a host's context; the stream is the host's too.
///
/// # Safety
/// As [`Lent::new`].
pub(super) unsafe fn open_lent(
    context: *mut c_void,
    stream: *mut c_void,
    owner: Option<Owner>,
) -> Result<(Opened, Handle<sys::CUstream_st>)> {
    let mut speaker = Speaker {
        device: "cuda".into(),
        driver: None,
    };
    let count = started(&mut speaker)?;
    // SAFETY: the caller's promise.
    let lent = unsafe { Lent::new(&mut speaker, count, context, stream, owner) }?;
    let opened = with_kernels(speaker, lent.index, lent.context)?;
    Ok((opened, lent.stream))
}

/// The number of devices, where there are kernels to run and a driver to run them.
fn started(speaker: &mut Speaker) -> Result<usize> {
    match embedded::toolkit() {
        Some(_) => driver(speaker),
        None => Err(speaker.error(diagnose::no_kernels())),
    }
}

/// Fails unless the driver is new enough for `image` of this binary.
pub(super) fn loadable(speaker: &Speaker, image: &str) -> Result<()> {
    let problem = match (speaker.driver, embedded::toolkit()) {
        (Some(found), Some(toolkit)) => diagnose::too_old_for(found, toolkit, image),
        _ => None,
    };
    problem.map_or(Ok(()), |problem| Err(speaker.error(problem)))
}

/// Loads all kernels into `context`, which is current from then on (see [`Opened::current`]).
fn with_kernels(speaker: Speaker, index: usize, context: Context) -> Result<Opened> {
    let failed =
        |e: DriverError| speaker.error(format!("the device cannot be opened: {}", text(e)));
    let info = device_info(index).map_err(failed)?;
    let Some(image) = info.image else {
        let problem = diagnose::no_image(&info.name, info.arch, embedded::images());
        return Err(speaker.error(problem));
    };
    loadable(&speaker, image)?;
    let current = context.enter().map_err(failed)?;
    let mut modules = Modules::default();
    let mut functions = HashMap::new();
    for (unit, fatbin) in embedded::units() {
        let module = load(fatbin)
            .map_err(|e| speaker.error(diagnose::load_failed(number(e), &text(e), unit, image)))?;
        modules.0.push(module);
        for kernel in ALL.iter().filter(|k| k.unit == *unit) {
            let function = function(module, kernel, info.shared_bytes)
                .map_err(|problem| speaker.error(format!("kernel {}: {problem}", kernel.name)))?;
            functions.insert(kernel.name, function);
        }
    }
    if let Some(k) = ALL.iter().find(|k| !functions.contains_key(k.name)) {
        return Err(speaker.error(format!("kernel {}: in no module", k.name)));
    }
    Ok(Opened {
        speaker,
        info,
        functions,
        _modules: modules,
        current: Some(current),
        context,
    })
}

fn load(fatbin: &[u8]) -> Result<Handle<sys::CUmod_st>, DriverError> {
    // Fatbins hold 8-byte fields, and embedded bytes lie anywhere.
    let mut aligned = vec![0u64; fatbin.len().div_ceil(8)];
    bytemuck::cast_slice_mut(&mut aligned)[..fatbin.len()].copy_from_slice(fatbin);
    // SAFETY: a whole fatbin, which the driver copies.
    unsafe { result::module::load_data(aligned.as_ptr().cast()) }.map(Handle)
}

type ParamInfo =
    unsafe extern "C" fn(sys::CUfunction, usize, *mut usize, *mut usize) -> core::ffi::c_int;

/// Looks a kernel up and checks that it is what the table says.
fn function(
    module: Handle<sys::CUmod_st>,
    kernel: &KernelInfo,
    shared_bytes: u32,
) -> Result<Function, String> {
    use CUfunction_attribute as A;
    let name = CString::new(kernel.name).map_err(|e| e.to_string())?;
    // SAFETY: a loaded module.
    let function = unsafe { result::module::get_function(module.0, name) }.map_err(text)?;
    let attribute = |a: CUfunction_attribute| {
        // SAFETY: a function of a loaded module.
        unsafe { result::function::get_function_attribute(function, a) }.map_err(text)
    };
    let threads = attribute(A::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK)?;
    if threads < kernel.threads as i32 {
        return Err(format!(
            "may run {threads} threads a block, not {}",
            kernel.threads
        ));
    }
    // The driver says so since CUDA 12.4 only.
    // SAFETY: the signature of the function of this name.
    if let Ok(ask) = unsafe { sys::culib().get::<ParamInfo>(b"cuFuncGetParamInfo") } {
        let (mut offset, mut size) = (0, 0);
        // SAFETY: a function of a loaded module; the pointers are valid for the call.
        let first = unsafe { ask(function, 0, &mut offset, &mut size) };
        let (mut o, mut s) = (0, 0);
        // SAFETY: as above.
        let second = unsafe { ask(function, 1, &mut o, &mut s) };
        let other = first == 0 && (offset, size) != (0, kernel.args_bytes);
        if other || second == 0 {
            return Err(format!(
                "takes other arguments than one struct of {} bytes",
                kernel.args_bytes
            ));
        }
    }
    let fixed = attribute(A::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES)?;
    let dynamic = (shared_bytes as i32 - fixed).max(0);
    // SAFETY: as above. It only permits; what a block gets is said at its launch.
    unsafe {
        result::function::set_function_attribute(
            function,
            A::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
            dynamic,
        )
    }
    .map_err(text)?;
    if kernel.unit.starts_with("conv") {
        // Two blocks of 98 KiB fit a multiprocessor only where all of its memory that may be shared
        // is. A hint, which the driver may not take.
        // SAFETY: as above.
        unsafe {
            result::function::set_function_attribute(
                function,
                A::CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT,
                100,
            )
        }
        .map_err(text)?;
    }
    Ok(Function {
        handle: Handle(function),
        dynamic_bytes: dynamic as u32,
    })
}
