//! Files of weights: where a run folder has its own, and writing them whole or not at all.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::files::{Target, beside, target};

/// `path` itself, or of a run folder its best weights, or else its last.
///
/// # Errors
/// [`Error::Input`] for a folder without either.
pub fn weights_of(path: &Path) -> Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_path_buf());
    }
    let names = ["best.safetensors", "last.safetensors"];
    let mut found = names.iter().map(|n| path.join("checkpoints").join(n));
    found.find(|p| p.is_file()).ok_or_else(|| {
        Error::input(
            path.display().to_string(),
            "is a folder without checkpoints/best.safetensors or last.safetensors",
            "give a run folder of `train`, or a file of weights",
        )
    })
}

/// Lets `write` fill a temporary file in the folder of `path`, synchronises it and renames it over
/// `path`, so that a reader or a crash sees the old file or the new one. A link stays one, and what is
/// no file is written to. The file that was there stays as `previous`, if one is given.
///
/// # Errors
/// [`Error::Io`] when the folder cannot be written, those of `write`; the temporary file is removed.
pub(super) fn replace(
    path: &Path,
    previous: Option<&Path>,
    write: impl FnOnce(&File) -> Result<()>,
) -> Result<()> {
    let io = |e| Error::io(path, "write the weights", e);
    let Target::File(target) = target(path) else {
        let stream = fs::OpenOptions::new().write(true).open(path);
        return write(&stream.map_err(io)?);
    };
    let temp = beside(&target);
    let written = File::create(&temp)
        .map_err(io)
        .and_then(|file| {
            write(&file)?;
            file.sync_all().map_err(io)
        })
        .and_then(|()| previous.map_or(Ok(()), |previous| keep(&target, previous)))
        .and_then(|()| {
            fs::rename(&temp, &target).map_err(|e| Error::io(path, "replace the weights", e))
        });
    if written.is_err() {
        // The first error is the one to report; there may be nothing to remove.
        let _ = fs::remove_file(&temp);
    }
    written.map(|()| sync_folder(&target))
}

/// Gives the file at `path`, if there is one, a second name, in place of what had it. Where files have
/// one name only, it is moved there: for a moment then nothing is at `path`.
fn keep(path: &Path, previous: &Path) -> Result<()> {
    let io = |e| Error::io(previous, "keep the weights before", e);
    if !path.exists() {
        return Ok(());
    }
    let temp = beside(previous);
    // What a killed process of the same number left.
    let _ = fs::remove_file(&temp);
    match fs::hard_link(path, &temp) {
        Ok(()) => fs::rename(&temp, previous).map_err(io),
        Err(_) => fs::rename(path, previous).map_err(io),
    }
}

/// Makes a rename durable where folders can be synchronised; elsewhere the system does so later.
fn sync_folder(path: &Path) {
    let folder = match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    };
    if let Ok(folder) = File::open(folder) {
        let _ = folder.sync_all();
    }
}
