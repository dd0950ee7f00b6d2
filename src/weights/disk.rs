//! A file read by position.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// An open file of known length. Threads take turns.
#[derive(Debug)]
pub(super) struct Disk {
    file: Mutex<File>,
    len: u64,
}

impl Disk {
    /// Opens the file at `path`.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        // To open a pipe would wait for somebody to write to it.
        let found = std::fs::metadata(path)?;
        if !found.is_file() {
            let kind = if found.is_dir() {
                "a folder"
            } else {
                "no file"
            };
            return Err(io::Error::other(format!("it is {kind}")));
        }
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        Ok(Self {
            file: Mutex::new(file),
            len,
        })
    }

    /// Bytes of the file.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Fills `out` from position `at`.
    pub(super) fn read(&self, at: u64, out: &mut [u8]) -> io::Result<()> {
        // A panic elsewhere leaves a file position behind, which is set anew here.
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(out)
    }

    /// `len` bytes from position `at`, or fewer where the file ends.
    pub(super) fn up_to(&self, at: u64, len: u64) -> io::Result<Vec<u8>> {
        let len = len.min(self.len.saturating_sub(at));
        let mut bytes = vec![0; len as usize];
        self.read(at, &mut bytes)?;
        Ok(bytes)
    }
}
