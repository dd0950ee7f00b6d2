//! Gates on what nvcc made of the kernels: no register spills, no warnings, and for every kernel
//! and architecture no more registers, shared memory or stack than `kernels/resources.tsv` says.
//!
//! `U2PL_UPDATE_RESOURCES=1 cargo test --test resources` rewrites the table; the difference
//! belongs in the commit that caused it.
#![cfg(feature = "cuda")]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use u2pl_engine::device::gpu::cuda::{self, Resource};
use u2pl_engine::device::gpu::kernels::ALL;

/// The architectures that the table is about.
const ARCHS: [&str; 2] = ["sm_80", "sm_90a"];
const COLUMNS: [&str; 5] = [
    "registers",
    "shared_bytes",
    "stack_bytes",
    "spill_store_bytes",
    "spill_load_bytes",
];
const MEND: &str = "U2PL_UPDATE_RESOURCES=1 cargo test --test resources rewrites the table";

/// What a kernel takes on an architecture.
type Row = [u32; COLUMNS.len()];

fn path() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/resources.tsv")
}

/// `13.0` of `13.0.88`: registers are a matter of the compiler's version.
fn release(toolkit: &str) -> String {
    toolkit.split('.').take(2).collect::<Vec<_>>().join(".")
}

fn measured() -> BTreeMap<(String, String), Row> {
    let rows = cuda::resources().iter();
    rows.map(|r: &Resource| {
        let key = (r.kernel.to_string(), r.arch.to_string());
        let row = [
            r.registers,
            r.shared_bytes,
            r.stack_bytes,
            r.spill_store_bytes,
            r.spill_load_bytes,
        ];
        (key, row)
    })
    .collect()
}

fn write(toolkit: &str) {
    let mut text = format!(
        "# ptxas -v, nvcc {}\nkernel\tarch\t{}\n",
        release(toolkit),
        COLUMNS.join("\t")
    );
    for ((kernel, arch), row) in measured() {
        let _ = writeln!(
            text,
            "{kernel}\t{arch}\t{}",
            row.map(|n| n.to_string()).join("\t")
        );
    }
    std::fs::write(path(), text).expect("kernels/resources.tsv");
}

/// The table's nvcc release and rows.
fn recorded() -> (String, BTreeMap<(String, String), Row>) {
    let text = std::fs::read_to_string(path()).unwrap_or_default();
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    let release = first.rsplit(' ').next().unwrap_or_default().to_string();
    let rows = lines.skip(1).filter(|l| !l.is_empty()).map(|line| {
        let fields: Vec<&str> = line.split('\t').collect();
        let [kernel, arch, rest @ ..] = &fields[..] else {
            panic!("kernels/resources.tsv: cannot read `{line}`; {MEND}");
        };
        let numbers: Vec<u32> = rest.iter().filter_map(|f| f.parse().ok()).collect();
        let row = Row::try_from(numbers)
            .unwrap_or_else(|_| panic!("kernels/resources.tsv: cannot read `{line}`; {MEND}"));
        ((kernel.to_string(), arch.to_string()), row)
    });
    (release, rows.collect())
}

fn toolkit() -> Option<&'static str> {
    let toolkit = cuda::toolkit();
    if toolkit.is_none() {
        println!("built without nvcc (scripts/install-nvcc.sh): nothing to check");
    }
    toolkit
}

#[test]
fn no_kernel_spills_registers() {
    let Some(_) = toolkit() else { return };
    let spills: Vec<String> = cuda::resources()
        .iter()
        .filter(|r| r.spill_store_bytes + r.spill_load_bytes > 0)
        .map(|r| {
            format!(
                "{} on {}: {} bytes stored, {} loaded",
                r.kernel, r.arch, r.spill_store_bytes, r.spill_load_bytes
            )
        })
        .collect();
    assert!(spills.is_empty(), "spills:\n{}", spills.join("\n"));
}

#[test]
fn nvcc_and_ptxas_warn_of_nothing() {
    let Some(_) = toolkit() else { return };
    assert!(cuda::warnings().is_empty(), "{:#?}", cuda::warnings());
}

#[test]
fn every_kernel_was_compiled_for_every_architecture() {
    let Some(_) = toolkit() else { return };
    let measured = measured();
    for image in cuda::images().iter().filter(|i| i.starts_with("sm_")) {
        for kernel in ALL {
            let key = (kernel.name.to_string(), image.to_string());
            assert!(measured.contains_key(&key), "{} for {image}", kernel.name);
        }
    }
    for (kernel, _) in measured.keys() {
        assert!(
            ALL.iter().any(|k| k.name == kernel),
            "kernel {kernel} is not declared with KERNEL(...) at the start of a line"
        );
    }
}

#[test]
fn no_kernel_takes_more_than_its_row_of_the_table() {
    let Some(toolkit) = toolkit() else { return };
    if ARCHS.iter().any(|a| !cuda::images().contains(a)) {
        println!(
            "built for {:?}, not {ARCHS:?}: nothing to check",
            cuda::images()
        );
        return;
    }
    if std::env::var_os("U2PL_UPDATE_RESOURCES").is_some_and(|v| v != "0") {
        return write(toolkit);
    }
    let (release_of_table, recorded) = recorded();
    if release_of_table != release(toolkit) {
        println!("the table is of nvcc {release_of_table}, this build of {toolkit}: not compared");
        return;
    }
    let mut problems = Vec::new();
    let measured = measured();
    for (key, now) in &measured {
        let (kernel, arch) = key;
        let Some(then) = recorded.get(key) else {
            problems.push(format!("{kernel} on {arch}: not in the table"));
            continue;
        };
        for ((now, then), what) in now.iter().zip(then).zip(COLUMNS) {
            if now > then {
                problems.push(format!("{kernel} on {arch}: {what} {now}, table {then}"));
            }
        }
    }
    for (kernel, arch) in recorded.keys() {
        if !measured.contains_key(&(kernel.clone(), arch.clone())) {
            problems.push(format!(
                "{kernel} on {arch}: in the table, but not compiled"
            ));
        }
    }
    assert!(
        problems.is_empty(),
        "kernels/resources.tsv:\n{}\n{MEND}",
        problems.join("\n")
    );
}
