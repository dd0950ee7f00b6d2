//! Errors as codes, and the last message of each thread.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::{Error, Result};

/// What became of a call.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum u2pl_status {
    /// Done.
    U2PL_OK = 0,
    /// An argument, a file or an image that the caller can mend.
    U2PL_ERROR_INPUT = 1,
    /// A handle that was closed, or never was one.
    U2PL_ERROR_HANDLE = 2,
    /// The operating system refused a file.
    U2PL_ERROR_IO = 3,
    /// As many calls run on the segmenter as it has callers.
    U2PL_ERROR_BUSY = 4,
    /// More memory is needed than there is: tiles need less.
    U2PL_ERROR_MEMORY = 5,
    /// The device failed.
    U2PL_ERROR_DEVICE = 6,
    /// A bug of the engine.
    U2PL_ERROR_INTERNAL = 7,
    /// The network gives the image scores that are no finite numbers: its weights diverged, or the
    /// image holds such numbers. Nothing was written.
    U2PL_ERROR_NOT_FINITE = 8,
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::new(CString::default());
}

/// What was wrong with this thread's last call that failed, one line of UTF-8 (several when several
/// things were wrong); empty when none did. Valid until the thread's next call.
#[unsafe(no_mangle)]
pub extern "C" fn u2pl_last_error() -> *const c_char {
    // A thread that is ending has lost its message.
    LAST.try_with(|last| last.borrow().as_ptr())
        .unwrap_or(c"".as_ptr())
}

/// What a call of the interface fails with.
pub(super) enum Failure {
    /// The library's own.
    Engine(Error),
    /// A handle that is none.
    Handle,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Failure::Engine(error)
    }
}

impl Failure {
    fn status(&self) -> u2pl_status {
        match self {
            Failure::Handle => u2pl_status::U2PL_ERROR_HANDLE,
            Failure::Engine(error) => of(error),
        }
    }

    fn message(&self) -> String {
        match self {
            Failure::Engine(error) => error.to_string(),
            Failure::Handle => "handle: not a segmenter, or one that was closed; \
                                pass what u2pl_open gave, before u2pl_close"
                .into(),
        }
    }
}

/// The status that stands for an error of the engine.
fn of(error: &Error) -> u2pl_status {
    match error {
        Error::Input { .. } | Error::Inputs(_) => u2pl_status::U2PL_ERROR_INPUT,
        Error::Io { .. } => u2pl_status::U2PL_ERROR_IO,
        Error::Busy { .. } => u2pl_status::U2PL_ERROR_BUSY,
        Error::Memory { .. } => u2pl_status::U2PL_ERROR_MEMORY,
        Error::Device { .. } => u2pl_status::U2PL_ERROR_DEVICE,
        Error::Saved { cause, .. } => of(cause),
        Error::NotFinite { .. } => u2pl_status::U2PL_ERROR_NOT_FINITE,
        Error::Side { .. }
        | Error::Stopped { .. }
        | Error::Diverged { .. }
        | Error::Internal(_) => u2pl_status::U2PL_ERROR_INTERNAL,
    }
}

/// Runs the body of a function of the interface: its status, its message kept for the thread, and
/// no panic past it.
pub(super) fn guard(body: impl FnOnce() -> Result<(), Failure>) -> u2pl_status {
    let (status, message) = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return u2pl_status::U2PL_OK,
        Ok(Err(failure)) => (failure.status(), failure.message()),
        Err(panic) => {
            let error = Error::internal(format!("a panic: {}", said(&*panic)));
            (u2pl_status::U2PL_ERROR_INTERNAL, error.to_string())
        }
    };
    let text = CString::new(message.replace('\0', " ")).unwrap_or_default();
    let _ = LAST.try_with(|last| *last.borrow_mut() = text);
    status
}

/// The text of a panic.
fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without a text")
}

/// Refuses a pointer through which no `T` can be reached.
pub(super) fn pointer<T>(at: &str, to: *const T, mend: &str) -> Result<(), Failure> {
    if to.is_null() {
        return Err(input(at, "is null", mend));
    }
    if !to.is_aligned() {
        let problem = format!(
            "is not a multiple of {}, as its type needs",
            align_of::<T>()
        );
        return Err(input(at, problem, mend));
    }
    Ok(())
}

/// An [`Error::Input`] of the interface.
pub(super) fn input(at: &str, problem: impl Into<String>, mend: &str) -> Failure {
    Failure::Engine(Error::input(at, problem, mend))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ffi::CStr;

    #[test]
    fn a_panic_becomes_a_status_and_a_message() {
        let told = |body: fn() -> Result<(), Failure>| {
            assert_eq!(guard(body), u2pl_status::U2PL_ERROR_INTERNAL);
            // SAFETY: never null, and valid until the next call.
            let text = unsafe { CStr::from_ptr(u2pl_last_error()) };
            text.to_str().unwrap().to_string()
        };
        let text = told(|| panic!("of {} parts", 2));
        assert_eq!(text, "internal error (please report): a panic: of 2 parts");
        assert!(told(|| panic!("plain")).ends_with("plain"));
        assert!(told(|| std::panic::panic_any(7)).ends_with("without a text"));
        // C strings end at a zero: none inside.
        let text = told(|| Err(Error::internal("one\0two").into()));
        assert!(text.ends_with("one two"));
    }
}
