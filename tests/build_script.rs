//! The unit tests of the build script's parts, which cargo itself never runs.
#![cfg(feature = "cuda")]
#![allow(dead_code)]

#[path = "../build/nvcc.rs"]
mod nvcc;
#[path = "../build/resources.rs"]
mod resources;

/// As in `build.rs`.
struct Sources {
    units: Vec<std::path::PathBuf>,
    headers: Vec<std::path::PathBuf>,
}
