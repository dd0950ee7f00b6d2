//! The peer's scripts, carried in the binary: a GPU machine may have nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::side::Side;
use super::work::Variant;
use crate::{Error, Result};

/// Every file of `benches/peers`.
const FILES: &[(&str, &str)] = &[
    (
        "batches.py",
        include_str!("../../../benches/peers/batches.py"),
    ),
    (
        "common.py",
        include_str!("../../../benches/peers/common.py"),
    ),
    (
        "export_onnx.py",
        include_str!("../../../benches/peers/export_onnx.py"),
    ),
    ("infer.py", include_str!("../../../benches/peers/infer.py")),
    (
        "infer_ort.py",
        include_str!("../../../benches/peers/infer_ort.py"),
    ),
    (
        "network.py",
        include_str!("../../../benches/peers/network.py"),
    ),
    (
        "operations.py",
        include_str!("../../../benches/peers/operations.py"),
    ),
    ("ops.py", include_str!("../../../benches/peers/ops.py")),
    (
        "protocol.py",
        include_str!("../../../benches/peers/protocol.py"),
    ),
    (
        "settings.py",
        include_str!("../../../benches/peers/settings.py"),
    ),
    (
        "step_authors.py",
        include_str!("../../../benches/peers/step_authors.py"),
    ),
    (
        "step_good.py",
        include_str!("../../../benches/peers/step_good.py"),
    ),
    (
        "train_step.py",
        include_str!("../../../benches/peers/train_step.py"),
    ),
];

/// A folder of this run alone, removed on drop: the scripts, and what the sides write to stderr.
pub struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Makes it among the system's temporary files, with the scripts in it.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be written.
    pub fn new() -> Result<Self> {
        let base = std::env::temp_dir();
        let process = std::process::id();
        let free = (0..1000)
            .map(|n| base.join(format!("u2pl-engine-peers-{process}-{n}")))
            // Fails where the name is taken, so nobody else's folder is ever used.
            .find(|path| fs::create_dir(path).is_ok());
        let path = free.ok_or_else(|| {
            let full = std::io::Error::other("no folder can be made there");
            Error::io(&base, "write", full)
        })?;
        let folder = Self { path };
        for (name, text) in FILES {
            let file = folder.path.join(name);
            fs::write(&file, text).map_err(|e| Error::io(&file, "write", e))?;
        }
        Ok(folder)
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // The system clears its temporary files in the end.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// A Python that PyTorch is to be found in.
#[derive(Clone, Debug)]
pub struct Python(PathBuf);

impl Python {
    /// The interpreter at `path`, or of that name.
    ///
    /// # Errors
    /// [`Error::Input`] when there is no such program, or it is no Python.
    pub fn new(path: &Path) -> Result<Self> {
        let wrong = |problem: &str| {
            Err(Error::input(
                format!("--peer {}", path.display()),
                problem,
                "give the path of a Python that has PyTorch (python -m venv pt; pt/bin/pip install \
                 torch==2.11.0; --peer pt/bin/python)",
            ))
        };
        if path.is_dir() {
            return wrong("is a folder");
        }
        // A bare name is looked for on the PATH.
        if path.components().count() > 1 && !path.exists() {
            return wrong("no such file");
        }
        let said = Command::new(path).args(["-c", "print('python')"]).output();
        match said {
            Ok(said) if said.stdout.trim_ascii() == b"python" => Ok(Self(path.to_path_buf())),
            Ok(_) => wrong("is no Python"),
            Err(e) => wrong(&format!("cannot be started ({e})")),
        }
    }

    /// Starts a variant of the peer.
    ///
    /// # Errors
    /// [`Error::Input`] naming `--peer` when it has no PyTorch, or one that does not fit;
    /// [`Error::Side`] when the script fails otherwise.
    pub fn start(&self, folder: &Folder, variant: &Variant, log: &str) -> Result<Side> {
        let mut args = vec![folder.file(variant.script).into_os_string()];
        args.extend(variant.args.iter().map(Into::into));
        let side = Side::start(&variant.name, &self.0, &args, folder.file(log));
        side.map_err(|e| match e {
            Error::Input { problem, mend, .. } => {
                Error::input(format!("--peer {}", self.0.display()), problem, mend)
            }
            other => other,
        })
    }
}
