//! The CUDA device against a libcuda without a GPU (`support/fake_cuda.c`): every failure is one
//! typed line, and memory, order, launches and recordings are what the launchers ask for. With
//! feature `simt` the kernels really run, on the host, behind the fake.
//!
//! cudarc loads the library once a process, so each case is a process of its own: this test binary
//! again, running [`child`] with the fake first in the library path.
#![cfg(all(feature = "cli", feature = "cuda", target_os = "linux"))]

#[cfg(all(feature = "simt", feature = "capi"))]
#[path = "cuda_driver/capi.rs"]
mod capi;
#[path = "cuda_driver/lent.rs"]
mod lent;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use lent::{close, opened};
use u2pl_engine::device::gpu::cuda::{self, CudaDriver};
use u2pl_engine::device::gpu::driver::{Driver, Ptr};
use u2pl_engine::device::gpu::kernels::{ALL, KernelInfo};
#[cfg(feature = "simt")]
use u2pl_engine::device::gpu::{GpuDevice, MathMode};
use u2pl_engine::error::Error;

/// The fake, its variant without `cuGraphLaunch`, and the table of kernels.
struct Fake {
    dir: tempfile::TempDir,
}

impl Fake {
    fn get() -> &'static Fake {
        static FAKE: OnceLock<Fake> = OnceLock::new();
        FAKE.get_or_init(|| {
            let dir = tempfile::tempdir().expect("a directory");
            compile(&dir.path().join("whole"), &[]);
            compile(&dir.path().join("old"), &["-DWITHOUT_GRAPH_LAUNCH"]);
            let fake = Fake { dir };
            fake.table("kernels", |k| Some(k.args_bytes));
            fake
        })
    }

    /// Writes what the fake says of the kernels; `bytes` may leave some out or lie.
    fn table(&self, name: &str, bytes: impl Fn(&KernelInfo) -> Option<usize>) -> PathBuf {
        let lines: Vec<String> = ALL
            .iter()
            .filter_map(|k| Some(format!("{} {} {}\n", k.name, k.threads, bytes(k)?)))
            .collect();
        let path = self.dir.path().join(name);
        std::fs::write(&path, lines.concat()).expect("the table");
        path
    }
}

fn compile(dir: &Path, flags: &[&str]) {
    std::fs::create_dir(dir).expect("a directory");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/fake_cuda.c");
    let status = Command::new("cc")
        .args(["-O1", "-shared", "-fPIC", "-pthread"])
        .args(flags)
        .arg("-o")
        .arg(dir.join("libcuda.so"))
        .arg(source)
        .status()
        .expect("cc");
    assert!(status.success());
}

/// What [`child`] printed for `case`.
fn run(case: &str, library: &str, settings: &[(&str, &str)]) -> String {
    let fake = Fake::get();
    let output = Command::new(std::env::current_exe().expect("this test"))
        .args(["child", "--exact", "--ignored", "--nocapture"])
        .env_remove("CUDA_VISIBLE_DEVICES")
        .env_remove("U2PL_CUDA_SYNC")
        .env("FAKE_CASE", case)
        .env("FAKE_CUDA_KERNELS", fake.dir.path().join("kernels"))
        .env("LD_LIBRARY_PATH", fake.dir.path().join(library))
        // Where first contact remembers the fake: not the developer's own folder.
        .env("XDG_CACHE_HOME", fake.dir.path().join("cache"))
        .envs(settings.iter().copied())
        .output()
        .expect("a child");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{case} {settings:?}: {text}\n{errors}"
    );
    assert!(text.contains("1 passed"), "{case}: {text}");
    text
}

fn has_kernels() -> bool {
    if cuda::toolkit().is_none() {
        println!("built without nvcc (scripts/install-nvcc.sh): nothing to open");
        return false;
    }
    true
}

/// The one line that opening `device` gave.
fn refusal(library: &str, settings: &[(&str, &str)]) -> String {
    let text = run("open", library, settings);
    let mut lines = text.lines().filter_map(|l| l.split_once("REFUSED "));
    let (_, line) = lines.next().unwrap_or_else(|| panic!("opened: {text}"));
    line.to_string()
}

#[test]
fn what_is_missing_is_said_in_one_line() {
    if !has_kernels() {
        return;
    }
    let fake = Fake::get();
    let fewer = fake.table("fewer", |k| (k.name != ALL[0].name).then_some(k.args_bytes));
    let larger = fake.table("larger", |k| Some(k.args_bytes + 8));
    let (fewer, larger) = (fewer.to_string_lossy(), larger.to_string_lossy());
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [&'a str]);
    let cases: &[Case] = &[
        (
            "whole",
            &[("FAKE_CUDA_VERSION", "11080")],
            &["too old", "11.8", "12.0"],
        ),
        ("whole", &[("FAKE_CUDA_INIT", "100")], &["no CUDA device"]),
        ("whole", &[("FAKE_CUDA_DEVICES", "0")], &["no CUDA device"]),
        (
            "whole",
            &[("FAKE_CUDA_INIT", "100"), ("CUDA_VISIBLE_DEVICES", "7")],
            &["CUDA_VISIBLE_DEVICES", "`7`"],
        ),
        ("whole", &[("FAKE_CUDA_INIT", "803")], &["versions"]),
        (
            "whole",
            &[("FAKE_INDEX", "2"), ("FAKE_CUDA_DEVICES", "2")],
            &["cuda:2", "cuda:0 to cuda:1"],
        ),
        ("whole", &[("FAKE_INDEX", "99999999999")], &["one, cuda:0"]),
        (
            "whole",
            &[("FAKE_CUDA_ARCH", "75")],
            &["Fake 0", "7.5", "8.0"],
        ),
        (
            "whole",
            &[("FAKE_CUDA_LOAD", "222")],
            &["refuses the sm_90a kernels", "update the driver"],
        ),
        (
            "whole",
            &[("FAKE_CUDA_MEMORY", "1000")],
            &["cannot be prepared"],
        ),
        (
            "whole",
            &[("FAKE_CUDA_KERNELS", &*fewer)],
            &["kernel", ALL[0].name],
        ),
        (
            "whole",
            &[("FAKE_CUDA_KERNELS", &*larger)],
            &["other arguments"],
        ),
        ("old", &[], &["cuGraphLaunch"]),
    ];
    for (library, settings, parts) in cases {
        let line = refusal(library, settings);
        assert!(line.starts_with("device cuda:"), "{line}");
        assert!(line.ends_with("exit code 1"), "{line}");
        for part in *parts {
            assert!(line.contains(part), "{part} in: {line}");
        }
        println!("{line}");
    }
}

/// The driver of the major version before loads none of the kernels. Known before it is asked to:
/// loading them would fail otherwise.
#[test]
fn a_driver_older_than_the_kernels_is_named_with_what_they_need() {
    let toolkit = cuda::toolkit().unwrap_or("0");
    if !has_kernels() || toolkit.starts_with("12.") {
        return; // older than 12.0 is too old for the interface: above
    }
    let older = ("FAKE_CUDA_VERSION", "12080");
    let line = refusal("whole", &[older, ("FAKE_CUDA_LOAD", "999")]);
    let major = toolkit.split('.').next().unwrap_or_default();
    for part in [
        "CUDA 12.8",
        &format!("CUDA {major}.0"),
        toolkit,
        "update the driver",
    ] {
        assert!(line.contains(part), "{part} in: {line}");
    }
    println!("{line}");
    let info = engine(&["info"], &[older]);
    let text = String::from_utf8_lossy(&info.stdout);
    for part in ["Fake 0", "CUDA 12.8", "update the driver"] {
        assert!(text.contains(part), "{part} in: {text}");
    }
}

/// Where there may or may not be a driver: never a panic.
#[test]
fn a_device_that_cannot_be_is_an_error_here_too() {
    let Err(error) = CudaDriver::new(9_999) else {
        panic!("opened cuda:9999");
    };
    assert!(matches!(error, Error::Device { .. }), "{error:?}");
    assert_eq!(error.exit_code(), 1);
    let line = error.to_string();
    assert!(
        !line.contains('\n') && line.starts_with("device cuda:9999: "),
        "{line}"
    );
    let described = cuda::describe();
    assert_eq!(described.kernels, ALL.len());
    println!("{line}\n{described:?}");
}

/// The program itself, with the fake first in the library path.
fn engine(arguments: &[&str], settings: &[(&str, &str)]) -> std::process::Output {
    Command::new(env!("CARGO_BIN_EXE_u2pl-engine"))
        .args(arguments)
        .env_remove("CUDA_VISIBLE_DEVICES")
        .env("LD_LIBRARY_PATH", Fake::get().dir.path().join("whole"))
        .envs(settings.iter().copied())
        .output()
        .expect("the program")
}

#[test]
fn the_program_says_what_it_sees_and_fails_with_one_line() {
    if !has_kernels() {
        return;
    }
    let two = [("FAKE_CUDA_DEVICES", "2"), ("FAKE_CUDA_ARCH", "86")];
    let info = engine(&["info"], &two);
    let text = String::from_utf8_lossy(&info.stdout);
    for part in ["13.0", "Fake 0", "Fake 1", "8.6", "sm_80"] {
        assert!(text.contains(part), "{part} in: {text}");
    }
    let failed = engine(
        &["selftest", "--device", "cuda", "--op", "fill"],
        &[("FAKE_CUDA_DEVICES", "0")],
    );
    assert_eq!(failed.status.code(), Some(1));
    let line = String::from_utf8_lossy(&failed.stderr);
    assert_eq!(line.trim_end().lines().count(), 1, "{line}");
    assert!(line.contains("no CUDA device"), "{line}");
}

#[test]
fn memory_and_order_hold_however_late_the_device_is() {
    if !has_kernels() {
        return;
    }
    for order in ["lazy", "eager", "1", "2"] {
        run("memory", "whole", &[("FAKE_CUDA_ORDER", order)]);
    }
}

/// What a host lends works as what the device makes for itself, and is the host's afterwards: the
/// fake aborts when its context or stream is destroyed, or a call is made outside it.
#[test]
fn a_device_on_a_hosts_stream_works_alike_and_ends_nothing_of_the_hosts() {
    if !has_kernels() {
        return;
    }
    for order in ["lazy", "eager", "1"] {
        let order = ("FAKE_CUDA_ORDER", order);
        run("memory", "whole", &[order, ("FAKE_LENT", "stream")]);
        run("memory", "whole", &[order, ("FAKE_LENT", "default")]);
        run("launches", "whole", &[order, ("FAKE_LENT", "stream")]);
        run("launches", "whole", &[order, ("FAKE_LENT", "default")]);
    }
    let fault = ("FAKE_CUDA_FAULT_AT", "3");
    run("fault", "whole", &[fault, ("FAKE_LENT", "stream")]);
    run("cudarc", "whole", &[]);
}

/// The whole way of an image in a host's memory, on its stream: nothing is waited for, nothing
/// passes through the host, and a warm program is one launch.
#[test]
#[cfg(feature = "simt")]
fn images_in_a_hosts_memory_are_segmented_on_its_stream_without_a_wait() {
    if !has_kernels() {
        return;
    }
    for lent in ["stream", "default"] {
        run("segment", "whole", &[("FAKE_LENT", lent)]);
    }
    if cfg!(feature = "capi") {
        run("segment by C", "whole", &[]);
    }
}

#[test]
fn a_loan_that_cannot_be_used_is_refused() {
    if has_kernels() {
        run("bad loans", "whole", &[("FAKE_CUDA_DEVICES", "2")]);
    }
}

#[test]
fn launches_arrive_as_they_were_made_also_when_recorded() {
    if !has_kernels() {
        return;
    }
    for order in ["lazy", "eager", "1", "2"] {
        run("launches", "whole", &[("FAKE_CUDA_ORDER", order)]);
    }
}

#[test]
fn running_out_of_memory_says_how_much_there_is() {
    if has_kernels() {
        run(
            "out of memory",
            "whole",
            &[("FAKE_CUDA_MEMORY", "100000000")],
        );
    }
}

#[test]
fn a_dead_context_names_the_kernel_and_keeps_saying_so() {
    if has_kernels() {
        let fault = ("FAKE_CUDA_FAULT_AT", "3");
        run("fault", "whole", &[fault]);
        run("fault", "whole", &[fault, ("FAKE_CUDA_ORDER", "eager")]);
        run("fault", "whole", &[fault, ("U2PL_CUDA_SYNC", "1")]);
    }
}

/// The conformance suite with CUDA's driver between the launchers and the kernels.
#[test]
#[cfg(feature = "simt")]
fn the_conformance_cases_agree_through_this_driver() {
    if !has_kernels() {
        return;
    }
    let text = run("conformance", "whole", &[]);
    let line = text.lines().find(|l| l.contains("cases agree"));
    println!("{}", line.unwrap_or_default());
}

/// A whole training run: planned arena, recorded step, staged uploads, losses read back later.
#[test]
#[cfg(feature = "simt")]
fn a_training_run_gives_the_bits_of_the_simt_device() {
    if !has_kernels() {
        return;
    }
    let text = run("training", "whole", &[("FAKE_CUDA_ORDER", "lazy")]);
    let line = text.lines().find(|l| l.contains("steps equal"));
    println!("{}", line.unwrap_or_default());
}

/// What a verdict on the kernels holds for: this GPU, this driver, these kernels.
#[test]
fn an_identity_is_that_of_one_gpu_and_one_driver() {
    if !has_kernels() {
        return;
    }
    let of = |settings: &[(&str, &str)]| {
        let text = run("identity", "whole", settings);
        let line = text.lines().find(|l| l.contains("IDENTITY "));
        line.unwrap_or_else(|| panic!("{text}")).to_string()
    };
    let one = of(&[]);
    for part in [
        "Fake 0",
        "pci 0000:00:00",
        "driver ",
        "image sm_90a",
        "kernels ",
    ] {
        assert!(one.contains(part), "{part}: {one}");
    }
    assert_eq!(of(&[]), one);
    let two = [("FAKE_CUDA_DEVICES", "2"), ("FAKE_INDEX", "1")];
    for other in [
        &two[..],
        &[("FAKE_CUDA_VERSION", "13020")],
        &[("FAKE_CUDA_ARCH", "80")],
    ] {
        assert_ne!(of(other), one, "{other:?}");
    }
}

/// One case in a process of its own.
#[test]
#[ignore = "run by the other tests, with the fake library"]
fn child() {
    let case = std::env::var("FAKE_CASE").unwrap_or_default();
    match case.as_str() {
        "open" => {
            let index = std::env::var("FAKE_INDEX").map_or(0, |i| i.parse().expect("a number"));
            match CudaDriver::new(index) {
                Ok(driver) => println!("OPENED {:?}", driver.info()),
                Err(e) => println!("REFUSED {e}, exit code {}", e.exit_code()),
            }
        }
        "identity" => {
            let index = std::env::var("FAKE_INDEX").map_or(0, |i| i.parse().expect("a number"));
            let driver = CudaDriver::new(index).expect("a device");
            println!("IDENTITY {:?}", driver.identity());
        }
        "memory" => memory(),
        "launches" => launches(),
        "out of memory" => out_of_memory(),
        "fault" => fault(),
        "cudarc" => lent::cudarc_stream(),
        "bad loans" => lent::bad_loans(),
        #[cfg(feature = "simt")]
        "segment" => lent::segment(),
        #[cfg(all(feature = "simt", feature = "capi"))]
        "segment by C" => capi::segment(),
        #[cfg(feature = "simt")]
        "conformance" => conformance(),
        #[cfg(feature = "simt")]
        "training" => training(),
        _ => {}
    }
}

/// The fake's own function `name`.
fn fake<F: Copy>(name: &str) -> F {
    // SAFETY: the fake is loaded, and the callers give the signature of its source.
    unsafe {
        *cudarc::driver::sys::culib()
            .get::<F>(name.as_bytes())
            .expect(name)
    }
}

/// Memory, streams and contexts of the fake that are still there.
fn leaks() -> u64 {
    let count: unsafe extern "C" fn() -> u64 = fake("fake_cuda_leaks");
    // SAFETY: as declared.
    unsafe { count() }
}

fn pattern(seed: usize, bytes: usize) -> Vec<u8> {
    let bytes = 0..bytes;
    bytes.map(|i| (i * 7 + i / 251 + seed * 31) as u8).collect()
}

fn read(driver: &CudaDriver, from: Ptr, bytes: usize) -> Vec<u8> {
    let mut into = vec![0xee; bytes];
    driver.download(from, &mut into).expect("a download");
    into
}

fn memory() {
    let (driver, host) = opened();
    // Zeroed and aligned.
    let small = driver.alloc(1000).expect("memory");
    assert!(small.0.is_multiple_of(256));
    assert_eq!(read(&driver, small, 1000), vec![0; 1000]);
    // Every size, from host memory that is overwritten at once; more than the ring holds.
    let sizes = [0, 1, 4, 1000, 65_536, 65_537, 1 << 20, 5 << 20, 9_000_001];
    let big = driver.alloc(48 << 20).expect("memory");
    for round in 0..4 {
        let mut at = 0;
        let mut written = Vec::new();
        for size in sizes {
            let mut bytes = pattern(round + size, size);
            driver.upload(big.byte_add(at), &bytes).expect("an upload");
            bytes.fill(0x55);
            written.push((at, size));
            at += size.next_multiple_of(64);
        }
        for (at, size) in written {
            let got = read(&driver, big.byte_add(at), size);
            assert!(got == pattern(round + size, size), "{size} bytes at {at}");
        }
    }
    // A larger ring, while uploads are under way in the old one; more than it holds again.
    let mut mark = pattern(1, 3 << 20);
    driver.upload(big, &mark).expect("an upload");
    driver.expect_uploads(40 << 20).expect("a larger ring");
    driver.expect_uploads(1 << 20).expect("no smaller one");
    let whole = pattern(2, 45 << 20);
    driver
        .upload(big.byte_add(3 << 20), &whole)
        .expect("an upload");
    mark.extend(whole);
    assert!(
        read(&driver, big, 48 << 20) == mark,
        "across a change of ring"
    );
    // Many small ones and large ones to the same place, read back in between: each reader sees
    // the upload before it.
    let mut tickets = Vec::new();
    for i in 0..1500 {
        let size = if i % 50 == 0 { 3 << 20 } else { 40 };
        driver.upload(big, &pattern(i, size)).expect("an upload");
        if i % 25 == 0 {
            let ticket = driver.download_later(big, 40).expect("a download");
            tickets.push((i, ticket));
        }
    }
    // In another order than they were queued.
    for (i, ticket) in tickets.into_iter().rev() {
        let mut got = [0; 40];
        driver.collect(ticket, &mut got).expect("the copy");
        assert_eq!(got.to_vec(), pattern(i, 40), "upload {i}");
    }
    let whole = pattern(9, 33 << 20);
    driver.upload(big, &whole).expect("an upload");
    assert!(read(&driver, big, whole.len()) == whole);
    // A ticket asked for with another size is an error, and so is nothing else after it.
    let ticket = driver.download_later(big, 16).expect("a download");
    assert!(driver.collect(ticket, &mut [0; 8]).is_err());
    driver.free(small);
    close((driver, host));
}

type Launcher = unsafe extern "C" fn(
    *const std::ffi::c_char,
    *const u32,
    u32,
    *const u8,
    usize,
) -> std::ffi::c_int;

fn set_launcher(launcher: Launcher) {
    let set: unsafe extern "C" fn(Launcher) = fake("fake_cuda_set_launcher");
    // SAFETY: as declared; the launcher lives as long as the process.
    unsafe { set(launcher) }
}

/// Name, grid, shared memory and arguments of a launch.
type Launched = (String, [u32; 3], u32, Vec<u8>);
static LAUNCHED: std::sync::Mutex<Vec<Launched>> = std::sync::Mutex::new(Vec::new());

unsafe extern "C" fn note(
    name: *const std::ffi::c_char,
    grid: *const u32,
    shared: u32,
    args: *const u8,
    bytes: usize,
) -> std::ffi::c_int {
    // SAFETY: the fake gives a C string, three numbers and `bytes` bytes.
    let launch = unsafe {
        (
            std::ffi::CStr::from_ptr(name)
                .to_string_lossy()
                .into_owned(),
            *grid.cast::<[u32; 3]>(),
            shared,
            std::slice::from_raw_parts(args, bytes).to_vec(),
        )
    };
    LAUNCHED.lock().expect("the list").push(launch);
    0
}

/// A launch of kernel `i` with arguments and a grid made of `seed`.
fn launch(driver: &CudaDriver, seed: usize) -> Launched {
    let kernel = &ALL[seed % ALL.len()];
    let args = pattern(seed, kernel.args_bytes);
    let grid = [seed as u32 + 1, 2, 3];
    let shared = (seed as u32 % 4) * 50_000;
    driver
        .launch(kernel, grid, shared, &args)
        .expect("a launch");
    (kernel.name.to_string(), grid, shared, args)
}

fn launches() {
    let (driver, host) = opened();
    set_launcher(note);
    let mut expected: Vec<Launched> = (0..40).map(|i| launch(&driver, i)).collect();
    // A recording runs nothing by itself.
    let mut recorded = Vec::new();
    let graph = driver
        .record(&mut || {
            recorded.extend((40..60).map(|i| launch(&driver, i)));
            // Neither of these can be recorded, and neither spoils the recording.
            assert!(driver.upload(Ptr(0), &[1]).is_err());
            assert!(driver.alloc(16).is_err());
            assert!(driver.download(Ptr(0), &mut [0]).is_err());
            assert!(driver.synchronize().is_err());
            assert!(driver.record(&mut || Ok(())).is_err());
            Ok(())
        })
        .expect("a recording")
        .expect("a recording");
    for i in 60..63 {
        driver.replay(graph).expect("a replay");
        expected.extend(recorded.iter().cloned());
        expected.push(launch(&driver, i));
    }
    let failed = driver.record(&mut || {
        launch(&driver, 1);
        Err(Error::internal("the work's own"))
    });
    assert!(failed.is_err_and(|e| e.to_string().contains("the work's own")));
    let ms = driver.time_each(3, &mut |piece| {
        let seeds = [70..80, 80..80, 80..85].into_iter().nth(piece);
        expected.extend(seeds.into_iter().flatten().map(|i| launch(&driver, i)));
        Ok(())
    });
    // The fake's clock counts operations: the launches of each piece and the event behind it.
    assert_eq!(ms.expect("times"), [11.0, 1.0, 6.0]);
    driver.synchronize().expect("all work");
    assert!(*LAUNCHED.lock().expect("the list") == expected, "launches");
    driver.forget(graph);
    assert!(driver.replay(graph).is_err());
    // Wrong sizes never reach the driver.
    let kernel = &ALL[0];
    let args = vec![0; kernel.args_bytes];
    assert!(driver.launch(kernel, [1; 3], 0, &args[1..]).is_err());
    assert!(driver.launch(kernel, [1; 3], 1 << 20, &args).is_err());
    close((driver, host));
}

fn out_of_memory() {
    let driver = CudaDriver::new(0).expect("a device");
    let free = driver.free_bytes().expect("known");
    let Err(error) = driver.alloc(1 << 30) else {
        panic!("allocated");
    };
    let line = error.to_string();
    assert!(
        line.contains("1.00 GiB needed") && line.contains("MiB free"),
        "{line}"
    );
    // It still works.
    assert!(driver.alloc(free / 2).is_ok());
    println!("{line}");
}

fn fault() {
    let (driver, host) = opened();
    let memory = driver.alloc(64).expect("memory");
    let kernel = &ALL[0];
    let args = vec![0; kernel.args_bytes];
    let mut first = None;
    for _ in 0..5 {
        first = first.or(driver.launch(kernel, [1; 3], 0, &args).err());
    }
    first = first.or(driver.download(memory, &mut [0; 4]).err());
    let line = first.expect("a failure").to_string();
    assert!(line.contains("illegal memory access"), "{line}");
    assert!(line.contains(kernel.name), "{line}");
    if std::env::var_os("U2PL_CUDA_SYNC").is_some() {
        assert!(line.contains("(launch 3)"), "{line}");
    } else {
        assert!(line.contains("U2PL_CUDA_SYNC=1"), "{line}");
    }
    println!("{line}");
    for again in [
        driver.alloc(8).err(),
        driver.upload(memory, &[1]).err(),
        driver.synchronize().err(),
        driver.launch(kernel, [1; 3], 0, &args).err(),
        driver.download_later(memory, 4).err(),
    ] {
        assert_eq!(again.expect("a failure").to_string(), line);
    }
    driver.free(memory);
    drop(driver);
    if let Some(host) = host {
        host.is_undisturbed();
    }
}

#[cfg(feature = "simt")]
mod on_the_host {
    use super::*;
    use u2pl_engine::device::gpu::simt::{Options, SimtDriver};

    static HOST: OnceLock<SimtDriver> = OnceLock::new();

    /// Runs a launch of the fake on the SIMT runtime.
    pub unsafe extern "C" fn execute(
        name: *const std::ffi::c_char,
        grid: *const u32,
        shared: u32,
        args: *const u8,
        bytes: usize,
    ) -> std::ffi::c_int {
        let host = HOST.get_or_init(|| SimtDriver::new(Options::default()).expect("simt"));
        // SAFETY: the fake gives a C string, three numbers and `bytes` bytes.
        let (name, grid, args) = unsafe {
            (
                std::ffi::CStr::from_ptr(name).to_string_lossy(),
                *grid.cast::<[u32; 3]>(),
                std::slice::from_raw_parts(args, bytes),
            )
        };
        let kernel = ALL.iter().find(|k| k.name == name);
        let ran = kernel.map(|k| host.launch(k, grid, shared, args));
        match ran {
            Some(Ok(())) => 0,
            other => {
                eprintln!("{name}: {other:?}");
                1
            }
        }
    }
}

/// One case of every operation, shape family and precision.
#[cfg(feature = "simt")]
fn conformance() {
    use u2pl_engine::device::cpu::CpuDevice;
    use u2pl_engine::selftest::{self, cases};
    let cpu = CpuDevice::new(1).expect("cpu");
    let mut seen = std::collections::HashMap::new();
    let devices: std::collections::HashMap<MathMode, GpuDevice> = MathMode::ALL
        .into_iter()
        .map(|math| (math, GpuDevice::cuda(0, math).expect("a device")))
        .collect();
    set_launcher(on_the_host::execute);
    let (mut good, mut left) = (0, 0);
    for case in cases::all(3) {
        let count: &mut usize = seen.entry((case.family, case.math)).or_default();
        *count += 1;
        if *count > 2 {
            continue;
        }
        let outcome = selftest::run(&devices[&case.math], &cpu, &case);
        if outcome.message.contains("has no launcher") {
            left += 1;
            continue;
        }
        assert!(outcome.passed(), "{}: {}", case.name, outcome.message);
        good += 1;
    }
    println!("{good} cases agree, {left} have no kernel");
}

/// The reports of a short run of the tiny recipe.
#[cfg(feature = "simt")]
fn train(device: GpuDevice) -> Vec<String> {
    use u2pl_engine::config::Config;
    use u2pl_engine::method::diagnostics::Report;
    use u2pl_engine::train::{self, Observer, Options};

    #[derive(Default)]
    struct Log(Vec<String>);
    impl Observer for Log {
        fn step(&mut self, _done: usize, _lr: f32, report: Option<&Report>) {
            self.0.push(format!("{report:?}"));
        }
    }
    let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/tiny.yaml");
    let cfg = Config::load(Some(&recipe), &[]).expect("recipe");
    let dir = tempfile::tempdir().expect("folder");
    let options = Options {
        device: std::sync::Arc::new(device),
        out: dir.path().join("run"),
        init: None,
        resume: false,
        new_data: false,
        max_iters: Some(5),
        profile: false,
        check: u2pl_engine::contact::Check::default(),
    };
    let mut log = Log::default();
    train::run(cfg, &options, &mut log).expect("run");
    log.0
}

#[cfg(feature = "simt")]
fn training() {
    use u2pl_engine::device::gpu::simt::Options;
    let device = GpuDevice::cuda(0, MathMode::Bf16).expect("a device");
    set_launcher(on_the_host::execute);
    let got = train(device);
    let want = train(GpuDevice::simt(Options::default(), MathMode::Bf16).expect("simt"));
    assert_eq!(got, want);
    assert_eq!(got.len(), 5);
    let count: unsafe extern "C" fn() -> u64 = fake("fake_cuda_launches");
    // SAFETY: as declared.
    let launches = unsafe { count() };
    println!("{} steps equal, {launches} launches", got.len());
    assert_eq!(leaks(), 0, "leaks");
}
