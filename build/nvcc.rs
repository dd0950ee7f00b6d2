//! nvcc: where it is, and what it makes of `kernels/*.cu`.
//!
//! Every unit becomes one fatbin of its own, and all of them go into the crate as the table
//! `fatbins.rs`; with feature `ptx` the PTX that the fatbins were made of goes in beside them, as
//! `ptx.rs`, for the machine that executes it. One module per unit and not one for all: a fatbin is the output of one compiler
//! call, so a single one would need either relocatable device code with nvlink (slower kernels, no
//! inlining across the seam to gain) or one translation unit for everything (any edit recompiles
//! all). Units share no device symbols, so nothing is lost but a few module loads at start.
//!
//! A unit is compiled again only when its text, a header that it includes, the flags or nvcc itself
//! changed: objects are kept under a hash of all these, where every profile and feature set of the
//! target directory finds them, and copied into `OUT_DIR`.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::Sources;
use crate::resources::{self, Resource};

/// What the kernels are compiled for when `U2PL_CUDA_ARCHS` does not say otherwise.
const DEFAULT_ARCHS: &str = "80,90a";
/// The kernels use cp.async and bf16 mma.
const MIN_ARCH: u32 = 80;
/// `-fmad=false`: a product and a sum round twice unless the source says `fmaf`, here as on the
/// host that runs the same source.
const FLAGS: &[&str] = &["-std=c++17", "-O3", "-fmad=false", "-lineinfo"];
/// Lines of nvcc's output that an error shows.
const SHOWN_LINES: usize = 20;
/// Versions of a unit that are kept for a change of branch and back.
const KEPT_VERSIONS: usize = 3;
/// A unit takes a few hundred megabytes to compile: two at a time, whatever the machine.
const MAX_JOBS: usize = 2;

/// Kernels of tests, in `kernels/simt/tests`: no fatbin holds them, the tests read their PTX.
const TESTS: [&str; 3] = ["planted", "unit", "conflict"];

/// Everything that changes what this file does. Not `PATH`: a new shell would rebuild the crate.
const VARIABLES: &[&str] = &[
    "NVCC",
    "CUDA_HOME",
    "CUDA_PATH",
    "U2PL_CUDA_ARCHS",
    "U2PL_REQUIRE_NVCC",
    "NVCC_CCBIN",
    "NVCC_PREPEND_FLAGS",
    "NVCC_APPEND_FLAGS",
];

/// What goes into the crate.
#[derive(Default)]
struct Built {
    toolkit: String,
    archs: Vec<String>,
    units: Vec<(String, PathBuf)>,
    /// Unit, architecture (`sm_90a`) and text of what ptxas was given.
    ptx: Vec<(String, String, PathBuf)>,
    resources: Vec<Resource>,
    warnings: Vec<String>,
}

/// Compiles every unit and writes `fatbins.rs`, or an empty one when there is no nvcc.
pub fn build(root: &Path, out: &Path, sources: &Sources) -> Result<(), String> {
    for name in VARIABLES {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let built = match find(root)? {
        Some(nvcc) => {
            println!("cargo::rerun-if-changed={}", nvcc.display());
            compile_all(&nvcc, root, out, sources)?
        }
        None if variable("U2PL_REQUIRE_NVCC").is_some_and(|v| v != "0") => {
            return Err(
                "no nvcc, and U2PL_REQUIRE_NVCC is set; run scripts/install-nvcc.sh, or \
                 set NVCC or CUDA_HOME"
                    .into(),
            );
        }
        None => {
            println!(
                "cargo::warning=no nvcc: building without CUDA kernels (--device cuda will not \
                 run); scripts/install-nvcc.sh fetches one, or set NVCC or CUDA_HOME"
            );
            // What includes them still compiles, and says what is missing when it is run.
            for name in TESTS {
                let path = out.join(format!("{name}.ptx"));
                std::fs::write(&path, "").map_err(|e| format!("{}: {e}", path.display()))?;
            }
            Built::default()
        }
    };
    for line in &built.warnings {
        println!("cargo::warning=nvcc: {line}");
    }
    let table = out.join("fatbins.rs");
    std::fs::write(&table, rust(&built)).map_err(|e| format!("{}: {e}", table.display()))?;
    let table = out.join("ptx.rs");
    std::fs::write(&table, ptx_table(&built)).map_err(|e| format!("{}: {e}", table.display()))
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|v| !v.trim().is_empty())
}

/// nvcc, in the documented order. A variable that points nowhere is an error, not a reason to take
/// another one.
fn find(root: &Path) -> Result<Option<PathBuf>, String> {
    let binary = if cfg!(windows) { "nvcc.exe" } else { "nvcc" };
    if let Some(path) = variable("NVCC") {
        let path = PathBuf::from(path);
        return match path.is_file() {
            true => Ok(Some(path)),
            false => Err(format!("NVCC={}: no such file", path.display())),
        };
    }
    for name in ["CUDA_HOME", "CUDA_PATH"] {
        if let Some(home) = variable(name) {
            let path = Path::new(&home).join("bin").join(binary);
            return match path.is_file() {
                true => Ok(Some(path)),
                false => Err(format!(
                    "{name}={home}: no bin/{binary} in it; unset it to look elsewhere"
                )),
            };
        }
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let candidates = std::env::split_paths(&path)
        .map(|dir| dir.join(binary))
        .chain([
            PathBuf::from("/usr/local/cuda/bin").join(binary),
            root.join(".cuda/bin").join(binary),
        ]);
    Ok(candidates.into_iter().find(|p| p.is_file()))
}

/// Output of a short nvcc call.
fn ask(nvcc: &Path, argument: &str) -> Result<String, String> {
    let output = Command::new(nvcc)
        .arg(argument)
        .output()
        .map_err(|e| format!("cannot run {}: {e}", nvcc.display()))?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(format!(
            "{} {argument} failed: {}",
            nvcc.display(),
            first_lines(&String::from_utf8_lossy(&output.stderr), 3)
        )),
    }
}

/// `13.0.88` of "Cuda compilation tools, release 13.0, V13.0.88".
fn version(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once(", V")?;
    rest.split_whitespace().next()
}

/// The architectures to compile for, as nvcc names them: `80`, `90a`.
fn archs(list: &str, known: &str) -> Result<Vec<String>, String> {
    let known: BTreeSet<u32> = known
        .lines()
        .filter_map(|l| l.trim().strip_prefix("sm_")?.parse().ok())
        .filter(|arch| *arch >= MIN_ARCH)
        .collect();
    let wrong = |entry: &str, problem: &str| {
        format!(
            "U2PL_CUDA_ARCHS={list}: `{entry}` {problem}; give compute capabilities of {MIN_ARCH} and up \
             separated by commas, such as {DEFAULT_ARCHS}; this nvcc knows {known:?}, each also with an `a`"
        )
    };
    let mut archs = Vec::new();
    for entry in list.split(',').map(str::trim) {
        let digits = entry.strip_suffix(['a', 'f']).unwrap_or(entry);
        let number: u32 = digits
            .parse()
            .map_err(|_| wrong(entry, "is not an architecture"))?;
        if number < MIN_ARCH {
            return Err(wrong(entry, "is too old for these kernels"));
        }
        if !known.contains(&number) {
            return Err(wrong(entry, "is unknown to nvcc"));
        }
        if archs.iter().any(|a| a == entry) {
            return Err(wrong(entry, "comes twice"));
        }
        archs.push(entry.to_string());
    }
    Ok(archs)
}

/// PTX for later GPUs: of the oldest architecture that is not tied to one GPU.
fn ptx_arch(archs: &[String]) -> Option<u32> {
    archs.iter().filter_map(|a| a.parse().ok()).min()
}

fn compile_all(nvcc: &Path, root: &Path, out: &Path, sources: &Sources) -> Result<Built, String> {
    let about = ask(nvcc, "--version")?;
    let toolkit = version(&about)
        .ok_or_else(|| format!("{}: cannot read its version", nvcc.display()))?
        .to_string();
    let list = variable("U2PL_CUDA_ARCHS").unwrap_or(DEFAULT_ARCHS.into());
    let archs = archs(&list, &ask(nvcc, "--list-gpu-code")?)?;
    let mut flags: Vec<String> = FLAGS.iter().map(ToString::to_string).collect();
    let mut images = Vec::new();
    for arch in &archs {
        flags.push(format!("-gencode=arch=compute_{arch},code=sm_{arch}"));
        images.push(format!("sm_{arch}"));
    }
    if let Some(arch) = ptx_arch(&archs) {
        flags.push(format!("-gencode=arch=compute_{arch},code=compute_{arch}"));
        images.push(format!("compute_{arch}"));
    }
    flags.extend(["-fatbin", "-Xptxas", "-v"].map(String::from));
    // Where nvcc is does not change what it makes; what it is told does.
    let told = VARIABLES.iter().filter(|n| n.starts_with("NVCC_"));
    let told: Vec<Option<String>> = told.map(|n| variable(n)).collect();
    let compiler = Compiler {
        nvcc,
        kernels: root.join("kernels"),
        // <target>/<profile>/build/<package>/out, by today's cargo.
        kept: out.ancestors().nth(4).unwrap_or(out).join("nvcc-objects"),
        salt: format!("{about}{flags:?}{told:?}"),
        archs,
        root,
        flags,
    };
    let objects = compiler.units(&sources.units)?;
    if std::env::var_os("CARGO_FEATURE_PTX").is_some() {
        for name in TESTS {
            compiler.test(name, out)?;
        }
    }
    let mut built = Built {
        toolkit,
        archs: images,
        ..Built::default()
    };
    for (unit, object) in sources.units.iter().zip(objects) {
        let name = stem(unit);
        let log = read(&object.with_extension("log"))?;
        built.resources.extend(resources::parse(&log));
        let warnings = resources::warnings(&log);
        built
            .warnings
            .extend(warnings.map(|w| format!("{name}: {w}")));
        let embedded = out.join(format!("{name}.fatbin"));
        std::fs::copy(&object, &embedded).map_err(|e| format!("{}: {e}", embedded.display()))?;
        for arch in &compiler.archs {
            let embedded = out.join(format!("{name}.{arch}.ptx"));
            std::fs::copy(ptx_beside(&object, arch), &embedded)
                .map_err(|e| format!("{}: {e}", embedded.display()))?;
            built
                .ptx
                .push((name.clone(), format!("sm_{arch}"), embedded));
        }
        built.units.push((name, embedded));
    }
    built.resources.sort();
    Ok(built)
}

struct Compiler<'a> {
    nvcc: &'a Path,
    kernels: PathBuf,
    kept: PathBuf,
    /// Everything but the sources that decides what comes out.
    salt: String,
    archs: Vec<String>,
    root: &'a Path,
    flags: Vec<String>,
}

/// Where the PTX of an object for one architecture is kept.
fn ptx_beside(object: &Path, arch: &str) -> PathBuf {
    object.with_extension(format!("{arch}.ptx"))
}

impl Compiler<'_> {
    /// The objects of `units`, in that order; older ones that were kept are deleted.
    fn units(&self, units: &[PathBuf]) -> Result<Vec<PathBuf>, String> {
        std::fs::create_dir_all(&self.kept).map_err(|e| format!("{}: {e}", self.kept.display()))?;
        let jobs = variable("NUM_JOBS").and_then(|n| n.parse().ok());
        let jobs = jobs.unwrap_or(1).clamp(1, MAX_JOBS);
        let next = AtomicUsize::new(0);
        let results = Mutex::new(vec![None; units.len()]);
        std::thread::scope(|scope| {
            for _ in 0..jobs {
                scope.spawn(|| {
                    while let Some((i, unit)) = {
                        let i = next.fetch_add(1, Ordering::Relaxed);
                        units.get(i).map(|u| (i, u))
                    } {
                        let result = self.unit(unit);
                        if result.is_err() {
                            next.store(units.len(), Ordering::Relaxed);
                        }
                        if let Ok(mut results) = results.lock() {
                            results[i] = Some(result);
                        }
                    }
                });
            }
        });
        let results = results.into_inner().map_err(|e| e.to_string())?;
        let objects: Vec<PathBuf> = results.into_iter().flatten().collect::<Result<_, _>>()?;
        self.sweep(&objects);
        Ok(objects)
    }

    fn unit(&self, unit: &Path) -> Result<PathBuf, String> {
        let name = stem(unit);
        let mut seen = BTreeSet::new();
        let mut text = String::new();
        self.gather(unit, &mut seen, &mut text)?;
        let key = hash(&[&self.salt, &text]);
        let object = self.kept.join(format!("{name}-{key:016x}.fatbin"));
        let log = object.with_extension("log");
        let texts = || self.archs.iter().map(|arch| ptx_beside(&object, arch));
        if object.is_file() && log.is_file() && texts().all(|text| text.is_file()) {
            return Ok(object);
        }
        let part = object.with_extension("part");
        let steps = object.with_extension("steps");
        std::fs::create_dir_all(&steps).map_err(|e| format!("{}: {e}", steps.display()))?;
        let output = Command::new(self.nvcc)
            .args(&self.flags)
            .arg("--keep")
            .arg("--keep-dir")
            .arg(&steps)
            .arg("-I")
            .arg(&self.kernels)
            .arg("-o")
            .arg(&part)
            .arg(unit)
            .output()
            .map_err(|e| format!("cannot run {}: {e}", self.nvcc.display()))?;
        let said =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        let kept = match output.status.success() {
            true => self.keep_ptx(&name, &steps, &object),
            false => Err(failure(&name, &said)),
        };
        // Preprocessed sources and the like: megabytes that nothing reads.
        let _ = std::fs::remove_dir_all(&steps);
        kept?;
        std::fs::write(&log, said.as_bytes()).map_err(|e| format!("{}: {e}", log.display()))?;
        std::fs::rename(&part, &object).map_err(|e| format!("{}: {e}", object.display()))?;
        Ok(object)
    }

    /// Compiles a unit of tests to `{name}.ptx` in `out`. To PTX alone: some of its kernels are wrong
    /// on purpose, and ptxas would see it.
    fn test(&self, name: &str, out: &Path) -> Result<(), String> {
        let into = out.join(format!("{name}.ptx"));
        let unit = self.kernels.join("simt/tests").join(format!("{name}.cu"));
        let mut nvcc = Command::new(self.nvcc);
        nvcc.args(FLAGS).args(["-ptx", "-arch=compute_90a", "-I"]);
        nvcc.arg(&self.kernels).arg("-o").arg(&into).arg(&unit);
        let output = nvcc.output();
        let output = output.map_err(|e| format!("cannot run {}: {e}", self.nvcc.display()))?;
        if !output.status.success() {
            return Err(failure(name, &String::from_utf8_lossy(&output.stderr)));
        }
        let text = self.relative(&read(&into)?);
        std::fs::write(&into, text).map_err(|e| format!("{}: {e}", into.display()))
    }

    /// A PTX text with names of sources as they are in the project.
    fn relative(&self, text: &str) -> String {
        text.replace(&format!("\"{}/", self.root.display()), "\"")
    }

    /// Puts the PTX among nvcc's intermediate files beside `object`, with names of sources as they
    /// are in the project: a fault names one, and the same text comes out wherever the project lies.
    fn keep_ptx(&self, name: &str, steps: &Path, object: &Path) -> Result<(), String> {
        for arch in &self.archs {
            let text = read(&steps.join(format!("{name}.compute_{arch}.ptx")))?;
            let into = ptx_beside(object, arch);
            std::fs::write(&into, self.relative(&text))
                .map_err(|e| format!("{}: {e}", into.display()))?;
        }
        Ok(())
    }

    /// A source and the headers of this project that it includes, each once. The host runtime's
    /// are left out: nvcc does not see them.
    fn gather(
        &self,
        path: &Path,
        seen: &mut BTreeSet<PathBuf>,
        text: &mut String,
    ) -> Result<(), String> {
        if !seen.insert(path.to_path_buf()) {
            return Ok(());
        }
        let source = read(path)?;
        let included = source.lines().filter_map(|line| {
            let rest = line.trim_start().strip_prefix('#')?.trim_start();
            rest.strip_prefix("include")?
                .trim()
                .strip_prefix('"')?
                .split('"')
                .next()
        });
        for name in included.filter(|name| !name.starts_with("simt/")) {
            let beside = path.with_file_name(name);
            let header = if beside.is_file() {
                beside
            } else {
                self.kernels.join(name)
            };
            if header.is_file() {
                self.gather(&header, seen, text)?;
            }
        }
        let _ = write!(text, "\n// {}\n{source}", path.display());
        Ok(())
    }

    /// Deletes what was kept longest, beyond a few versions of every unit.
    fn sweep(&self, used: &[PathBuf]) {
        let entries = std::fs::read_dir(&self.kept)
            .into_iter()
            .flatten()
            .flatten();
        let mut old: Vec<_> = entries
            .map(|e| e.path())
            .filter(|p| p.extension().is_some_and(|e| e == "fatbin") && !used.contains(p))
            .filter_map(|p| Some((p.metadata().ok()?.modified().ok()?, p)))
            .collect();
        old.sort();
        let surplus = old.len().saturating_sub(KEPT_VERSIONS * used.len());
        for (_, object) in old.drain(..surplus) {
            // Only disk space is at stake.
            let _ = std::fs::remove_file(object.with_extension("log"));
            for arch in &self.archs {
                let _ = std::fs::remove_file(ptx_beside(&object, arch));
            }
            let _ = std::fs::remove_file(&object);
        }
    }
}

/// One message for a unit that did not compile, with the mend where it is known.
fn failure(name: &str, said: &str) -> String {
    let mend =
        if said.contains("unsupported GNU version") || said.contains("unsupported clang version") {
            "; the host compiler is newer than this nvcc supports: set NVCC_CCBIN to an older g++"
        } else if said.contains("Failed to preprocess host compiler properties") {
            "; nvcc needs a host C++ compiler: install g++, or set NVCC_CCBIN to one"
        } else {
            ""
        };
    let shown: Vec<&str> = said
        .lines()
        .filter(|l| !l.contains("ptxas info") && !l.trim().is_empty())
        .collect();
    format!(
        "nvcc failed on kernels/{name}.cu{mend}\n{}",
        first_lines(&shown.join("\n"), SHOWN_LINES)
    )
}

fn first_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().take(count).collect();
    lines.join("\n")
}

fn stem(path: &Path) -> String {
    path.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

/// FNV-1a, 64 bits: the same from one toolchain to the next, unlike the standard library's.
fn hash(parts: &[&str]) -> u64 {
    let mut state = 0xcbf2_9ce4_8422_2325u64;
    for byte in parts.iter().flat_map(|p| p.bytes().chain([0xff])) {
        state = (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    state
}

/// The Rust side, to be included where `Resource` is in scope.
fn rust(built: &Built) -> String {
    let mut text = String::new();
    let toolkit = match built.toolkit.is_empty() {
        true => "None".into(),
        false => format!("Some({:?})", built.toolkit),
    };
    let _ = writeln!(text, "pub(super) const TOOLKIT: Option<&str> = {toolkit};");
    let _ = writeln!(
        text,
        "pub(super) const IMAGES: &[&str] = &{:?};",
        built.archs
    );
    let _ = writeln!(
        text,
        "pub(super) const WARNINGS: &[&str] = &{:?};",
        built.warnings
    );
    text.push_str("pub(super) const UNITS: &[(&str, &[u8])] = &[\n");
    for (name, object) in &built.units {
        let _ = writeln!(
            text,
            "    ({name:?}, include_bytes!({:?})),",
            object.display().to_string()
        );
    }
    text.push_str("];\n");
    text.push_str("pub(super) const RESOURCES: &[Resource] = &[\n");
    for r in &built.resources {
        let _ = writeln!(text, "    {r:?},");
    }
    text.push_str("];\n");
    text
}

/// The PTX of every unit, to be included by what executes it.
fn ptx_table(built: &Built) -> String {
    let mut text = format!("pub(super) const TOOLKIT: &str = {:?};\n", built.toolkit);
    text.push_str("pub(super) const UNITS: &[(&str, &str, &str)] = &[\n");
    for (name, arch, path) in &built.ptx {
        let path = path.display().to_string();
        let _ = writeln!(text, "    ({name:?}, {arch:?}, include_str!({path:?})),");
    }
    text.push_str("];\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &str = "sm_75\nsm_80\nsm_90\nsm_100\n";

    #[test]
    fn architectures_are_read_or_refused_with_the_mend() {
        assert_eq!(archs("80,90a", KNOWN).unwrap(), ["80", "90a"]);
        assert_eq!(archs(" 100f , 80", KNOWN).unwrap(), ["100f", "80"]);
        for (list, problem) in [
            ("75", "too old"),
            ("80,sm_90", "not an architecture"),
            ("", "not an architecture"),
            ("87", "unknown to nvcc"),
            ("80,80", "twice"),
        ] {
            let said = archs(list, KNOWN).unwrap_err();
            assert!(
                said.contains(problem) && said.contains("such as 80,90a"),
                "{said}"
            );
        }
        let ptx = |list: &str| ptx_arch(&archs(list, KNOWN).unwrap());
        assert_eq!(ptx("90a,100,80"), Some(80));
        assert_eq!(ptx("90a"), None);
    }

    #[test]
    fn the_version_is_read_from_nvccs_words() {
        let text = "Cuda compilation tools, release 13.0, V13.0.88\nBuild cuda_13.0";
        assert_eq!(version(text), Some("13.0.88"));
        assert_eq!(version("gcc 12"), None);
    }

    #[test]
    fn a_failure_shows_nvccs_first_lines_and_the_mend() {
        let old = failure(
            "conv",
            "#error -- unsupported GNU version! gcc versions later",
        );
        assert!(
            old.contains("NVCC_CCBIN") && old.contains("kernels/conv.cu"),
            "{old}"
        );
        let none = "nvcc fatal   : Failed to preprocess host compiler properties.";
        assert!(failure("conv", none).contains("install g++"));
        let noisy = "ptxas info    : 0 bytes gmem\nconv.cu(3): error: no such name\n".repeat(30);
        let said = failure("conv", &noisy);
        assert!(
            said.lines().count() <= SHOWN_LINES + 1 && !said.contains("ptxas info"),
            "{said}"
        );
    }

    #[test]
    fn a_key_changes_with_every_part() {
        let key = hash(&["salt", "text"]);
        assert_ne!(key, hash(&["salt", "texT"]));
        assert_ne!(key, hash(&["saltt", "ext"]));
        assert_eq!(key, hash(&["salt", "text"]));
    }
}
