//! Turns `kernels/*.cu` into what the crate embeds:
//!
//! - `kernels.rs`: a Rust struct for every argument struct, every constant that launchers share and a
//!   typed constant for every kernel, read from the sources themselves, so that a launch that does not fit its kernel does not
//!   compile;
//! - feature `cuda`: fatbins, when nvcc is found (`U2PL_REQUIRE_NVCC=1` insists on it);
//! - feature `ptx`: the PTX that they were made of;
//! - feature `simt`: the same sources compiled by the host's C++ compiler.

#[path = "build/nvcc.rs"]
mod nvcc;
#[path = "build/resources.rs"]
mod resources;
#[cfg(feature = "simt")]
#[path = "build/simt.rs"]
mod simt;
#[path = "build/table.rs"]
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let root = PathBuf::from(env("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env("OUT_DIR")?);
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=build");
    println!("cargo::rerun-if-changed=kernels");
    let sources = Sources::find(&root.join("kernels"))?;
    let table = table::Table::read(&sources)?;
    let rust = out.join("kernels.rs");
    std::fs::write(&rust, table.rust()).map_err(|e| format!("{}: {e}", rust.display()))?;
    let has = |feature: &str| std::env::var_os(format!("CARGO_FEATURE_{feature}")).is_some();
    if has("CUDA") || has("PTX") {
        nvcc::build(&root, &out, &sources)?;
    }
    #[cfg(feature = "simt")]
    simt::build(&root, &sources)?;
    Ok(())
}

/// The kernel sources, in name order.
struct Sources {
    /// `kernels/*.cu`: one translation unit each.
    units: Vec<PathBuf>,
    /// `kernels/include/**/*.cuh`.
    headers: Vec<PathBuf>,
}

impl Sources {
    fn find(kernels: &Path) -> Result<Self, String> {
        let mut units = Vec::new();
        let mut headers = Vec::new();
        files(kernels, "cu", false, &mut units)?;
        files(&kernels.join("include"), "cuh", true, &mut headers)?;
        units.sort();
        headers.sort();
        Ok(Self { units, headers })
    }
}

fn files(dir: &Path, ext: &str, deep: bool, into: &mut Vec<PathBuf>) -> Result<(), String> {
    let entries = std::fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    for entry in entries {
        let path = entry.map_err(|e| format!("{}: {e}", dir.display()))?.path();
        if deep && path.is_dir() {
            files(&path, ext, deep, into)?;
        } else if path.extension().is_some_and(|e| e == ext) {
            into.push(path);
        }
    }
    Ok(())
}

fn env(name: &str) -> Result<String, String> {
    std::env::var(name).map_err(|_| format!("{name} is not set: run this through cargo"))
}
