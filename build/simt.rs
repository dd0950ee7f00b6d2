//! The kernels as host code: every unit, and the runtime that executes them, in one static
//! library.

use std::path::Path;

use crate::Sources;

/// Compiles and links.
pub fn build(root: &Path, sources: &Sources) -> Result<(), String> {
    let kernels = root.join("kernels");
    let common = |build: &mut cc::Build| {
        build
            .cpp(true)
            .std("c++17")
            .opt_level(2)
            .debug(true)
            .flag("-g1")
            .flag("-fno-strict-aliasing")
            // nvcc contracts a*b+c into one rounding; follow it where the machine has the
            // instruction, and say so where results are compared.
            .flag_if_supported("-ffp-contract=off")
            .define("U2PL_SIMT", None)
            .include(&kernels)
            .warnings(false);
    };
    let mut units = cc::Build::new();
    common(&mut units);
    units.flag("-xc++");
    for unit in &sources.units {
        units.file(unit);
    }
    units.file(kernels.join("simt/runtime.cpp"));
    units.link_lib_modifier("+whole-archive");
    units.try_compile("u2pl_simt").map_err(|e| e.to_string())
}
