//! What is remembered of a device: a file for each identity in the user's cache folder.
//!
//! Written whole and renamed into place, so that several programs that start at once read an old
//! verdict or a new one, and at worst check twice.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde::{Deserialize, Serialize};

use crate::device::check::digest;
use crate::files::write_atomic;

/// One operation in one precision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Steps down from the fastest kernels.
    pub steps: usize,
    /// Whether it passed there; `false`: the device died one step above, and this one is to be tried.
    pub passed: bool,
    /// Why there are steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warning: Option<String>,
}

/// A whole file.
#[derive(Serialize, Deserialize)]
struct File {
    identity: String,
    checked: BTreeMap<String, Entry>,
}

/// The file of one identity.
pub(super) struct Memory<'a> {
    /// `None`: there is no such folder.
    path: Option<PathBuf>,
    identity: &'a str,
}

impl<'a> Memory<'a> {
    /// In `folder`, or in the user's.
    pub(super) fn new(folder: Option<PathBuf>, identity: &'a str) -> Self {
        let folder = folder.or_else(|| user_folder(|name| std::env::var_os(name)));
        let name = format!("contact-{}.json", digest([identity.as_bytes()]));
        Self {
            path: folder.map(|f| f.join(name)),
            identity,
        }
    }

    /// What messages call it.
    pub(super) fn file(&self) -> String {
        let path = self.path.as_deref().unwrap_or(Path::new(""));
        path.display().to_string()
    }

    /// What it says; nothing where there is no file.
    ///
    /// # Errors
    /// A line that names the file, when it cannot be read or is damaged.
    pub(super) fn read(&self) -> Result<BTreeMap<String, Entry>, String> {
        let Some(path) = &self.path else {
            return Ok(BTreeMap::new());
        };
        let bytes = match std::fs::read(path) {
            // Where there can be no file, adding to it says so.
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                return Ok(BTreeMap::new());
            }
            read => read.map_err(|e| format!("{}: cannot be read ({e})", path.display()))?,
        };
        match serde_json::from_slice::<File>(&bytes) {
            Ok(file) if file.identity == self.identity => Ok(file.checked),
            Ok(_) => Err(format!("{}: is about another device", path.display())),
            Err(e) => Err(format!("{}: is damaged ({e})", path.display())),
        }
    }

    /// Adds what was found to what the file says by now. A damaged file is replaced.
    ///
    /// # Errors
    /// A line that names the file or folder and what is wrong with it.
    pub(super) fn add(&self, found: BTreeMap<String, Entry>) -> Result<(), String> {
        static WRITING: Mutex<()> = Mutex::new(());
        if found.is_empty() {
            return Ok(());
        }
        let Some(path) = &self.path else {
            return Err(format!(
                "no cache folder to remember the kernels' verdict in; set {FOLDER_VARIABLE}"
            ));
        };
        // Two devices of one process would write the same unfinished file.
        let _one_at_a_time = WRITING.lock();
        let mut checked = self.read().unwrap_or_default();
        checked.extend(found);
        let file = File {
            identity: self.identity.into(),
            checked,
        };
        let text = serde_json::to_string_pretty(&file).map_err(|e| e.to_string())?;
        let cannot = |e: String| format!("the kernels' verdict cannot be remembered: {e}");
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|e| {
                cannot(format!("{}: cannot make the folder: {e}", folder.display()))
            })?;
        }
        write_atomic(path, text.as_bytes()).map_err(|e| cannot(e.to_string()))
    }
}

/// What to set where no cache folder is found.
const FOLDER_VARIABLE: &str = if cfg!(windows) {
    "LOCALAPPDATA"
} else if cfg!(target_os = "macos") {
    "HOME"
} else {
    "XDG_CACHE_HOME or HOME"
};

/// `u2pl-engine` in the user's cache folder; as the XDG specification says, a relative path counts as
/// none.
fn user_folder(variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let absolute = |name: &str| {
        let path = variable(name).map(PathBuf::from);
        path.filter(|p| p.is_absolute())
    };
    let folder = if cfg!(windows) {
        absolute("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        absolute("HOME").map(|home| home.join("Library/Caches"))
    } else {
        absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")))
    };
    folder.map(|f| f.join("u2pl-engine"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(steps: usize) -> BTreeMap<String, Entry> {
        let entry = Entry {
            steps,
            passed: true,
            warning: (steps > 0).then(|| "slow".into()),
        };
        BTreeMap::from([(format!("op{steps}"), entry)])
    }

    #[test]
    fn verdicts_add_up_and_are_those_of_their_device() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("not/yet");
        let memory = Memory::new(Some(folder.clone()), "a");
        assert_eq!(memory.read(), Ok(BTreeMap::new()));
        memory.add(entry(0)).unwrap();
        memory.add(entry(2)).unwrap();
        let both: BTreeMap<_, _> = entry(0).into_iter().chain(entry(2)).collect();
        assert_eq!(Memory::new(Some(folder.clone()), "a").read(), Ok(both));
        let other = Memory::new(Some(folder.clone()), "b");
        assert_eq!(other.read(), Ok(BTreeMap::new()));
        // A file in the wrong place.
        std::fs::copy(memory.file(), other.file()).unwrap();
        assert!(other.read().unwrap_err().contains("another device"));
    }

    #[test]
    fn a_damaged_file_is_named_and_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let memory = Memory::new(Some(dir.path().into()), "a");
        std::fs::write(memory.file(), "{").unwrap();
        let problem = memory.read().unwrap_err();
        assert!(
            problem.starts_with(&memory.file()) && problem.contains("damaged"),
            "{problem}"
        );
        memory.add(entry(1)).unwrap();
        assert_eq!(memory.read(), Ok(entry(1)));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_folder_is_the_one_that_the_user_chose() {
        let folder = |set: &[(&str, &str)]| {
            user_folder(|name| {
                let found = set.iter().find(|(n, _)| *n == name);
                found.map(|(_, value)| value.into())
            })
        };
        let found = |path: &str| Some(PathBuf::from(path));
        let home = ("HOME", "/h");
        assert_eq!(folder(&[home]), found("/h/.cache/u2pl-engine"));
        assert_eq!(
            folder(&[home, ("XDG_CACHE_HOME", "/c")]),
            found("/c/u2pl-engine")
        );
        assert_eq!(
            folder(&[home, ("XDG_CACHE_HOME", "c")]),
            found("/h/.cache/u2pl-engine")
        );
        assert_eq!(folder(&[]), None);
    }
}
