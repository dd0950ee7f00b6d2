//! Writing files whole or not at all, and reading text from any editor.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Ending of the files that this program writes before it gives them their names.
const UNFINISHED: &str = ".part";

/// Writes a file so that readers, and a crash, see the old contents or the new, never a part. A link
/// stays one, and what is no file (`/dev/null`, a pipe) is written to.
///
/// # Errors
/// [`Error::Io`] when the folder cannot be written; nothing is left behind.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<()> {
    let io = |e| Error::io(path, "write", e);
    let Target::File(target) = target(path) else {
        let file = fs::OpenOptions::new().write(true).open(path);
        return file.and_then(|mut f| f.write_all(bytes)).map_err(io);
    };
    let part = beside(&target);
    let written = fs::write(&part, bytes).and_then(|()| fs::rename(&part, &target));
    written.map_err(|e| {
        // The first error is the one to report; there may be nothing to remove.
        let _ = fs::remove_file(&part);
        io(e)
    })
}

/// What a path to write to means.
pub(crate) enum Target {
    /// A file, there or not: behind a link what it leads to.
    File(PathBuf),
    /// A device or a pipe: another file in its place would break what others use.
    Stream,
}

/// What writing to `path` means.
pub(crate) fn target(path: &Path) -> Target {
    match fs::metadata(path) {
        Ok(there) if !there.is_file() && !there.is_dir() => Target::Stream,
        Ok(_) if path.is_symlink() => {
            Target::File(fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf()))
        }
        _ => Target::File(path.to_path_buf()),
    }
}

/// Refuses, before anything is done, to write a file whose folder does not exist; `made` is a folder that
/// will be there.
///
/// # Errors
/// [`Error::Input`] naming the file.
pub fn check_place(file: &Path, made: Option<&Path>) -> Result<()> {
    let folder = file.parent().filter(|f| !f.as_os_str().is_empty());
    match folder {
        _ if file == Path::new("-") => Ok(()),
        Some(folder) if Some(folder) != made && !folder.is_dir() => Err(Error::input(
            file.display().to_string(),
            "its folder does not exist",
            "make the folder, or name another file",
        )),
        _ if file.is_dir() => Err(Error::input(
            file.display().to_string(),
            "is a folder",
            "name a file",
        )),
        _ => Ok(()),
    }
}

/// Refuses an output folder that holds something, unless that is wanted.
///
/// # Errors
/// [`Error::Input`] naming it; [`Error::Io`] when it cannot be looked into.
pub fn check_empty(folder: &Path, force: bool) -> Result<()> {
    if !folder.exists() || force {
        return Ok(());
    }
    let mut entries =
        fs::read_dir(folder).map_err(|e| Error::io(folder, "use it for output", e))?;
    match entries.next() {
        None => Ok(()),
        Some(_) => Err(Error::input(
            folder.display().to_string(),
            "the output folder exists and is not empty",
            "choose another folder, or overwrite with --force",
        )),
    }
}

/// Removes from `folder` what a process that was killed had not finished writing.
pub fn remove_unfinished(folder: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('.') && name.ends_with(UNFINISHED) {
            // It takes room, no more: not worth an error.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Text from any editor: UTF-8, or UTF-16 with its mark; marks are cut off. `None` when it is none.
pub fn text_of(bytes: &[u8]) -> Option<String> {
    let wide = |from: fn([u8; 2]) -> u16| {
        let units: Vec<u16> = bytes[2..]
            .chunks_exact(2)
            .map(|b| from([b[0], b[1]]))
            .collect();
        String::from_utf16(&units).ok()
    };
    match bytes {
        [0xFF, 0xFE, ..] => wide(u16::from_le_bytes),
        [0xFE, 0xFF, ..] => wide(u16::from_be_bytes),
        [0xEF, 0xBB, 0xBF, rest @ ..] => String::from_utf8(rest.to_vec()).ok(),
        _ => String::from_utf8(bytes.to_vec()).ok(),
    }
}

/// A hidden name in the folder of `path`, of this process alone.
pub(crate) fn beside(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}{UNFINISHED}", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_else_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        for text in ["one", "two"] {
            write_atomic(&path, text.as_bytes()).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let error = write_atomic(&dir.path().join("no/such/a.txt"), b"x").unwrap_err();
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn what_a_killed_process_left_is_removed_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let names = [".a.txt.7.part", ".b.7.part", "c.part", ".d", ".e.tmp"];
        for name in names {
            fs::write(dir.path().join(name), "x").unwrap();
        }
        remove_unfinished(dir.path());
        let left: Vec<bool> = names.map(|n| dir.path().join(n).exists()).to_vec();
        assert_eq!(left, [false, false, true, true, true]);
        remove_unfinished(&dir.path().join("none"));
    }

    #[cfg(unix)]
    #[test]
    fn links_stay_links_and_streams_streams() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&file, "old").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        write_atomic(&link, b"new").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert!(link.is_symlink());
        // Root may replace a device; a link keeps a fault from doing that to this machine.
        let null = dir.path().join("null");
        std::os::unix::fs::symlink("/dev/null", &null).unwrap();
        write_atomic(&null, b"gone").unwrap();
        assert!(null.is_symlink());
        assert!(matches!(target(&null), Target::Stream));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    }

    #[test]
    fn marks_and_wide_text_are_read() {
        assert_eq!(text_of(b"\xEF\xBB\xBFa\r\n").as_deref(), Some("a\r\n"));
        assert_eq!(text_of(b"\xFF\xFEa\0\n\0").as_deref(), Some("a\n"));
        assert_eq!(text_of(b"\xFE\xFF\0a\0\n").as_deref(), Some("a\n"));
        assert_eq!(text_of(b"\xFF\xFE").as_deref(), Some(""));
        assert_eq!(text_of("é".as_bytes()).as_deref(), Some("é"));
        assert_eq!(text_of(b"\x80abc"), None);
    }
}
