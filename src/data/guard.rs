//! Reading and decoding files of unknown origin: a decoder's panic is a fault of its file.
//!
//! Decoders are other people's code on other people's bytes. One that panics must cost its file,
//! not the run: [`guarded`] turns the panic into an error and keeps its message off the terminal.

use std::cell::Cell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::path::Path;
use std::sync::{Once, OnceLock};

use super::decode::fault;
use crate::{Error, Result};

thread_local! {
    /// Whether panics of this thread are caught and told by [`guarded`].
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
}

/// Installs, once, a panic hook that leaves panics within [`guarded`] to it; all others go to the
/// hook that was there before.
fn silence() {
    static ONCE: Once = Once::new();
    // A hook cannot be changed while the thread panics.
    if std::thread::panicking() {
        return;
    }
    ONCE.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |info| {
            if !CAUGHT.try_with(Cell::get).unwrap_or(false) {
                before(info);
            }
        }));
    });
}

/// What `decode` makes of the file at `path`; its panic is an [`Error::Input`] naming the file.
pub(crate) fn guarded<T>(path: &Path, decode: impl FnOnce() -> Result<T>) -> Result<T> {
    silence();
    let outer = CAUGHT.replace(true);
    let caught = catch_unwind(AssertUnwindSafe(decode));
    CAUGHT.set(outer);
    caught.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(ToString::to_string);
        let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
        let why = text.unwrap_or_else(|| "no reason given".into());
        let why = super::jpeg::one_line(&why);
        Err(fault(
            path,
            format!("the decoder failed on it ({why})"),
            "save it anew as PNG, or replace it",
        ))
    })
}

/// Told of every image and mask that is read: may change its bytes, fail or panic in its place.
type Injected = dyn Fn(&Path, Vec<u8>) -> io::Result<Vec<u8>> + Send + Sync;

static INJECTED: OnceLock<Box<Injected>> = OnceLock::new();

/// Puts faults into what is read: for tests of what happens then, once in a process.
#[doc(hidden)]
pub fn inject(faults: Box<Injected>) {
    // The first one stays.
    let _ = INJECTED.set(faults);
}

/// The bytes of the file at `path`.
///
/// # Errors
/// [`Error::Io`] when it cannot be read, `doing` what.
pub(crate) fn read(path: &Path, doing: &'static str) -> Result<Vec<u8>> {
    let bytes = std::fs::read(path).and_then(|bytes| match INJECTED.get() {
        Some(faults) => faults(path, bytes),
        None => Ok(bytes),
    });
    bytes.map_err(|e| Error::io(path, doing, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_of_its_file_and_nests() {
        let path = Path::new("a/b.jpg");
        type Panics = fn() -> Result<i32>;
        let cases: [(Panics, &str); 3] = [
            (|| panic!("index 7"), "index 7"),
            (|| panic!("of {} lines\n two", 2), "of 2 lines two"),
            (|| std::panic::panic_any(7), "no reason"),
        ];
        for (panic, says) in cases {
            let error = guarded(path, || {
                let inner = guarded(path, || Ok(1));
                assert_eq!(inner.unwrap(), 1);
                panic()
            });
            let error = error.unwrap_err();
            assert_eq!(error.exit_code(), 2);
            let text = error.to_string();
            assert!(text.contains(says) && text.contains("b.jpg"), "{text}");
            assert_eq!(text.lines().count(), 1);
        }
        assert_eq!(guarded(path, || Ok(3)).unwrap(), 3);
    }
}
