//! The kernels as host code: every unit, and the runtime that executes them, in one static
//! library.

use std::path::Path;

use crate::Sources;

/// The runtime's own files, in `kernels/simt`.
const RUNTIME: [&str; 5] = [
    "fault.cpp",
    "matrix.cpp",
    "memory.cpp",
    "runtime.cpp",
    "schedule.cpp",
];

/// Kernels of the runtime's own tests, in `kernels/simt/tests`; in no fatbin.
const TESTS: [&str; 2] = ["planted.cu", "unit.cu"];

/// Compiles and links.
pub fn build(root: &Path, sources: &Sources) -> Result<(), String> {
    let kernels = root.join("kernels");
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        .flag("-g1")
        .flag("-pthread")
        .flag("-fno-strict-aliasing")
        // nvcc runs with -fmad=false: a*b+c rounds twice.
        .flag("-ffp-contract=off")
        // A misaligned access traps, and kernels/simt/fault.cpp reports it.
        .flag("-fsanitize=alignment")
        .define("U2PL_SIMT", None)
        .include(&kernels)
        .warnings(false);
    // GCC's name of the option, then clang's.
    build.flag_if_supported("-fsanitize-undefined-trap-on-error");
    build.flag_if_supported("-fsanitize-trap=alignment");
    // Registers hold anything at first; the zeroes of a fresh stack would hide a missing start.
    build.flag_if_supported("-ftrivial-auto-var-init=pattern");
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("fma") && std::is_x86_feature_detected!("avx2") {
        // fmaf as one instruction instead of a call. Results stay the same.
        build.flag("-mfma").flag("-mavx2");
    }
    build.flag("-xc++");
    build.files(&sources.units);
    build.files(RUNTIME.map(|file| kernels.join("simt").join(file)));
    build.files(TESTS.map(|file| kernels.join("simt/tests").join(file)));
    build.link_lib_modifier("+whole-archive");
    build.try_compile("u2pl_simt").map_err(|e| e.to_string())
}
