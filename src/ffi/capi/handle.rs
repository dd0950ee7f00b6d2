//! Handles: opening, looking up, closing.

use std::collections::HashMap;
use std::ffi::{CStr, c_char};
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard};

use super::error::{Failure, guard, input, pointer, u2pl_status};
use super::options::{self, Chosen, u2pl_options};
use crate::Error;
use crate::device::{Device, Named};
use crate::infer::Segmenter;

/// A loaded network. Any number of threads may use one at once.
#[allow(non_camel_case_types)]
pub struct u2pl_segmenter {
    _private: [u8; 0],
}

#[derive(Default)]
struct Handles {
    last: usize,
    open: HashMap<usize, Arc<Segmenter>>,
}

static HANDLES: LazyLock<Mutex<Handles>> = LazyLock::new(Mutex::default);

fn handles() -> Result<MutexGuard<'static, Handles>, Failure> {
    HANDLES
        .lock()
        .map_err(|_| Failure::Engine(Error::internal("poisoned table of handles")))
}

/// The segmenter of a handle.
pub(super) fn find(handle: *const u2pl_segmenter) -> Result<Arc<Segmenter>, Failure> {
    let found = handles()?.open.get(&(handle as usize)).cloned();
    found.ok_or(Failure::Handle)
}

/// A string of the caller's.
///
/// # Safety
/// `text` is null or a string that ends with a zero.
pub(super) unsafe fn text<'a>(at: &str, text: *const c_char) -> Result<&'a str, Failure> {
    if text.is_null() {
        return Err(input(at, "is null", "pass a string"));
    }
    // SAFETY: the caller's.
    let text = unsafe { CStr::from_ptr(text) };
    text.to_str()
        .map_err(|_| input(at, "is not UTF-8", "pass UTF-8"))
}

/// Loads the weights in `path`, a file or a run folder, with `options` (NULL: the defaults), and
/// sets `*out` to a handle, which the caller closes with `u2pl_close`. On failure `*out` is NULL.
///
/// # Safety
/// `path` ends with a zero; `options` is NULL or was filled by `u2pl_options_init`; `out` can be
/// written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn u2pl_open(
    path: *const c_char,
    options: *const u2pl_options,
    out: *mut *mut u2pl_segmenter,
) -> u2pl_status {
    let device = |chosen: &Chosen| {
        let name = chosen.device.unwrap_or(Named::Cpu);
        Ok(name.open(chosen.threads, chosen.precision)?)
    };
    // SAFETY: the caller's.
    unsafe { open_on(path, options, out, device) }
}

/// As [`u2pl_open`], on what `device` makes of the options.
///
/// # Safety
/// As of [`u2pl_open`].
pub(super) unsafe fn open_on(
    path: *const c_char,
    options: *const u2pl_options,
    out: *mut *mut u2pl_segmenter,
    device: impl FnOnce(&Chosen) -> Result<Arc<dyn Device>, Failure>,
) -> u2pl_status {
    guard(|| {
        pointer("out", out, "pass where the handle goes")?;
        // SAFETY: the caller's.
        unsafe { *out = std::ptr::null_mut() };
        // SAFETY: the caller's.
        let path = PathBuf::from(unsafe { text("path", path) }?);
        // SAFETY: the caller's.
        let chosen = unsafe { options::read(options) }?;
        let device = device(&chosen)?;
        let segmenter = Segmenter::open(&path, device, chosen.options)?;
        let mut handles = handles()?;
        handles.last += 1;
        // Multiples of 16 from 16 on: no NULL, and aligned as a pointer would be.
        let handle = 16 * handles.last;
        handles.open.insert(handle, Arc::new(segmenter));
        // SAFETY: the caller's.
        unsafe { *out = handle as *mut u2pl_segmenter };
        Ok(())
    })
}

/// Closes a handle. Calls of other threads that use it end first or fail with
/// `U2PL_ERROR_HANDLE`; the last of them frees the network. NULL is no error.
#[unsafe(no_mangle)]
pub extern "C" fn u2pl_close(segmenter: *mut u2pl_segmenter) -> u2pl_status {
    guard(|| {
        if segmenter.is_null() {
            return Ok(());
        }
        let closed = handles()?.open.remove(&(segmenter as usize));
        closed.map(drop).ok_or(Failure::Handle)
    })
}

/// Version of the library, `MAJOR.MINOR.PATCH`.
#[unsafe(no_mangle)]
pub extern "C" fn u2pl_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}
