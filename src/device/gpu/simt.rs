//! The SIMT runtime as a [`Driver`]: the kernels, compiled by the host's C++ compiler and run
//! thread by thread on the CPU (`kernels/simt`). For testing kernels where there is no GPU.

use std::ffi::{CStr, CString, c_char, c_void};
use std::sync::Arc;

pub use super::driver::Launches;
use super::driver::{Driver, Limits, Ptr, TEST_MULTIPROCESSORS};
use super::kernels::{ALL, KernelInfo};
use crate::device::Memory;
use crate::error::{Error, Result};

#[repr(C)]
struct Registered {
    name: *const c_char,
    args_bytes: u32,
    threads: u32,
    entry: *const c_void,
}

#[repr(C)]
struct Launch {
    kernel: *const Registered,
    grid: [u32; 3],
    dynamic_shared_bytes: u32,
    args: *const c_void,
    seed: u64,
    schedule: u32,
    host_threads: u32,
    message: *mut c_char,
    message_bytes: u64,
}

unsafe extern "C" {
    fn simt_find_kernel(name: *const c_char) -> *const Registered;
    fn simt_launch(launch: *const Launch) -> i32;
    fn simt_alloc(bytes: u64) -> *mut c_void;
    fn simt_free(ptr: *mut c_void);
}

/// Order in which the runtime lets the warps of a block run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// Warp after warp, as far as each can go: the fastest.
    Sequential = 0,
    /// Uniformly random.
    Uniform = 1,
    /// Random priorities per warp with rare changes (PCT, Burckhardt et al. 2010): finds races.
    Pct = 2,
}

impl Schedule {
    /// `sequential`, `uniform` or `pct`.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "sequential" => Some(Self::Sequential),
            "uniform" => Some(Self::Uniform),
            "pct" => Some(Self::Pct),
            _ => None,
        }
    }
}

/// How a [`SimtDriver`] runs.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Seed of the schedule.
    pub seed: u64,
    /// Kind of schedule.
    pub schedule: Schedule,
    /// Host threads that run blocks; 0 = every core.
    pub threads: usize,
    /// Dynamic shared memory that a block may ask for, bytes: an H100's, or less for the ways that
    /// kernels take on smaller GPUs.
    pub shared_bytes: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 0,
            schedule: Schedule::Sequential,
            threads: 0,
            shared_bytes: 227 << 10,
        }
    }
}

/// A kernel of the runtime's table, with the arguments and threads that Rust expects.
fn find(info: &KernelInfo) -> Result<*const Registered> {
    let name = CString::new(info.name).map_err(|_| Error::internal("kernel name"))?;
    // SAFETY: a valid C string; the runtime returns null or a pointer to a static.
    let found = unsafe { simt_find_kernel(name.as_ptr()).as_ref() };
    match found {
        Some(k) if k.args_bytes as usize == info.args_bytes && k.threads == info.threads => Ok(k),
        Some(_) => Err(Error::internal(format!(
            "kernel {}: other arguments",
            info.name
        ))),
        None => Err(Error::internal(format!("kernel {} is missing", info.name))),
    }
}

/// The SIMT runtime.
pub struct SimtDriver {
    options: Options,
    launches: Arc<Launches>,
    kernels: std::collections::HashMap<&'static str, usize>,
}

impl SimtDriver {
    /// Checks that every kernel of the table is there with the arguments that Rust expects.
    ///
    /// # Errors
    /// [`Error::Internal`] naming the first that is not.
    pub fn new(options: Options) -> Result<Self> {
        let mut kernels = std::collections::HashMap::new();
        for info in ALL {
            kernels.insert(info.name, find(info)? as usize);
        }
        Ok(Self {
            options,
            launches: Arc::new(Launches::none()),
            kernels,
        })
    }

    /// The count of launches, which goes on when the driver is handed away.
    pub fn launches(&self) -> Arc<Launches> {
        self.launches.clone()
    }

    fn host_threads(&self) -> u32 {
        match self.options.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from) as u32,
            n => n as u32,
        }
    }
}

impl Driver for SimtDriver {
    fn name(&self) -> String {
        "simt".into()
    }

    fn memory(&self) -> Memory {
        Memory::Host
    }

    /// Kernels run in this process: whatever it can reach.
    fn check_borrowed(&self, _address: Ptr) -> Result<()> {
        Ok(())
    }

    fn limits(&self) -> Limits {
        Limits {
            multiprocessors: 4,
            planned_multiprocessors: TEST_MULTIPROCESSORS,
            shared_bytes: self.options.shared_bytes,
        }
    }

    fn alloc(&self, bytes: usize) -> Result<Ptr> {
        // SAFETY: no preconditions; null means no memory.
        let ptr = unsafe { simt_alloc(bytes as u64) };
        if ptr.is_null() {
            return Err(Error::Device {
                device: "simt".into(),
                problem: format!("cannot allocate {bytes} bytes"),
            });
        }
        Ok(Ptr(ptr as u64))
    }

    fn free(&self, ptr: Ptr) {
        // SAFETY: `ptr` came from `alloc` and is freed once.
        unsafe { simt_free(ptr.0 as *mut c_void) }
    }

    fn upload(&self, to: Ptr, bytes: &[u8]) -> Result<()> {
        // SAFETY: the caller checked that the range lies in an allocation; launches are
        // synchronous, so nobody else writes.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.0 as *mut u8, bytes.len()) };
        Ok(())
    }

    fn download(&self, from: Ptr, bytes: &mut [u8]) -> Result<()> {
        // SAFETY: as in `upload`.
        unsafe {
            std::ptr::copy_nonoverlapping(from.0 as *const u8, bytes.as_mut_ptr(), bytes.len());
        }
        Ok(())
    }

    fn launch(
        &self,
        kernel: &KernelInfo,
        grid: [u32; 3],
        shared_bytes: u32,
        args: &[u8],
    ) -> Result<()> {
        // Those of kernels/simt/tests are in no table.
        let registered = match self.kernels.get(kernel.name) {
            Some(registered) => *registered as *const Registered,
            None => find(kernel)?,
        };
        // The kernel reads its struct in place: give it an aligned copy.
        let mut aligned = vec![0u64; args.len().div_ceil(8)];
        bytemuck::cast_slice_mut(&mut aligned)[..args.len()].copy_from_slice(args);
        let mut message = [0u8; 1024];
        let launch = Launch {
            kernel: registered,
            grid,
            dynamic_shared_bytes: shared_bytes,
            args: aligned.as_ptr().cast(),
            seed: self.options.seed,
            schedule: self.options.schedule as u32,
            host_threads: self.host_threads(),
            message: message.as_mut_ptr().cast(),
            message_bytes: message.len() as u64,
        };
        // SAFETY: every pointer is valid for the call; the kernel was registered with this
        // argument size.
        if unsafe { simt_launch(&launch) } == 0 {
            self.launches.count(kernel.name);
            return Ok(());
        }
        let text = CStr::from_bytes_until_nul(&message).unwrap_or_default();
        Err(Error::Device {
            device: "simt".into(),
            problem: text.to_string_lossy().into_owned(),
        })
    }
}
