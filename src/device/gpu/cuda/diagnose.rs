//! What a CUDA failure is called, in one line with its mend. Pure functions: they are tested where
//! there is no GPU.

use super::embedded;
use crate::error::Error;

/// The oldest driver whose interface this program uses (CUDA 12.0).
pub(super) const MIN_DRIVER: i32 = 12_000;

/// CUresult values that are told apart here.
pub(super) mod code {
    pub const OUT_OF_MEMORY: u32 = 2;
    pub const STUB_LIBRARY: u32 = 34;
    pub const NO_DEVICE: u32 = 100;
    pub const INVALID_DEVICE: u32 = 101;
    pub const INVALID_IMAGE: u32 = 200;
    pub const NO_BINARY_FOR_GPU: u32 = 209;
    pub const INVALID_PTX: u32 = 218;
    pub const JIT_COMPILER_NOT_FOUND: u32 = 221;
    pub const UNSUPPORTED_PTX_VERSION: u32 = 222;
    pub const SYSTEM_NOT_READY: u32 = 802;
    pub const SYSTEM_DRIVER_MISMATCH: u32 = 803;
    pub const COMPAT_NOT_SUPPORTED: u32 = 804;
}

/// Who speaks: the device and the versions that an error carries.
#[derive(Clone, Debug, Default)]
pub(super) struct Speaker {
    /// `cuda:0`.
    pub device: String,
    /// CUDA version of the driver, 12040 = 12.4, once known.
    pub driver: Option<i32>,
}

impl Speaker {
    pub fn new(index: usize) -> Self {
        Self {
            device: format!("cuda:{index}"),
            driver: None,
        }
    }

    /// The error: `problem`, then the versions.
    pub fn error(&self, problem: impl std::fmt::Display) -> Error {
        let driver = self
            .driver
            .map(|v| format!("driver for CUDA {}", version(v)));
        let toolkit = embedded::toolkit().map(|t| format!("kernels built by nvcc {t}"));
        let versions: Vec<String> = driver.into_iter().chain(toolkit).collect();
        let problem = match versions.is_empty() {
            true => problem.to_string(),
            false => format!("{problem} ({})", versions.join(", ")),
        };
        Error::Device {
            device: self.device.clone(),
            problem,
        }
    }
}

/// `12.4` of 12040.
pub(super) fn version(v: i32) -> String {
    format!("{}.{}", v / 1000, v % 1000 / 10)
}

pub(super) fn gib(bytes: usize) -> String {
    match bytes {
        b if b >= 1 << 30 => format!("{:.2} GiB", b as f64 / (1u64 << 30) as f64),
        b if b >= 1 << 20 => format!("{:.1} MiB", b as f64 / (1u64 << 20) as f64),
        b => format!("{b} bytes"),
    }
}

pub(super) fn no_kernels() -> String {
    "this binary was built without CUDA kernels, as there was no nvcc; run scripts/install-nvcc.sh \
     (or set CUDA_HOME) and build again, or use --device cpu"
        .into()
}

pub(super) fn no_library() -> String {
    "no NVIDIA driver: its library libcuda.so.1 cannot be loaded; install the driver, or use \
     --device cpu"
        .into()
}

pub(super) fn old_driver(found: i32) -> String {
    format!(
        "the NVIDIA driver is too old: it is for CUDA {}, and {} or newer is needed; update the \
         driver",
        version(found),
        version(MIN_DRIVER)
    )
}

/// The driver that kernels made by nvcc `toolkit` (`13.0.88`) need, as the CUDA version that it
/// reports: the toolkit's own where it has to compile PTX, any of the same major version for machine
/// code (NVIDIA's "CUDA Compatibility", minor version compatibility).
fn needed_driver(toolkit: &str, image: &str) -> i32 {
    let mut parts = toolkit.split('.').map(|p| p.parse::<i32>().unwrap_or(0));
    let (major, minor) = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    match image.starts_with("compute_") {
        true => major * 1000 + minor * 10,
        false => major * 1000,
    }
}

/// What a driver for CUDA `found` lacks to load `image`, made by nvcc `toolkit`; `None`: nothing.
pub(super) fn too_old_for(found: i32, toolkit: &str, image: &str) -> Option<String> {
    let needed = needed_driver(toolkit, image);
    if found >= needed {
        return None;
    }
    let release = match needed {
        12_000 => " (525.60 or newer)",
        13_000 => " (580.65 or newer)",
        _ => "",
    };
    let nvcc: Vec<&str> = toolkit.split('.').take(2).collect();
    let instead = match found / 1000 < needed / 1000 {
        true => format!("with the nvcc of CUDA {}", version(found)),
        false => "with this GPU in U2PL_CUDA_ARCHS".into(),
    };
    Some(format!(
        "the NVIDIA driver is for CUDA {}, and the {image} kernels that nvcc {} made need one for CUDA \
         {}{release}; update the driver, or build {instead}",
        version(found),
        nvcc.join("."),
        version(needed),
    ))
}

pub(super) fn missing_symbol(symbol: &str) -> String {
    format!("the driver's library has no {symbol}: it is no driver for CUDA 12.0 or newer")
}

/// `visible` is CUDA_VISIBLE_DEVICES.
pub(super) fn no_device(visible: Option<&str>) -> String {
    match visible {
        Some(list) => {
            format!("no CUDA device: CUDA_VISIBLE_DEVICES is set to `{list}`, which leaves none")
        }
        None => "no CUDA device in this machine; use --device cpu".into(),
    }
}

pub(super) fn no_such_device(index: usize, count: usize) -> String {
    match count {
        1 => format!("there is no device {index}: this machine has one, cuda:0"),
        n => format!(
            "there is no device {index}: this machine has {n}, cuda:0 to cuda:{}",
            n - 1
        ),
    }
}

pub(super) fn no_context() -> String {
    "the context that was given is none of a device here; give a live CUcontext, such as what \
     cuCtxGetCurrent gives"
        .into()
}

pub(super) fn per_thread_stream() -> String {
    "the per-thread default stream is another one on every thread; give a stream of its own, or \
     the legacy default stream"
        .into()
}

pub(super) fn other_context() -> String {
    "the stream belongs to another context than the one that was given; give a stream of that \
     context"
        .into()
}

pub(super) fn bad_loan(text: &str) -> String {
    format!("the context or stream that was given cannot be used: {text}")
}

pub(super) fn unknown_memory(address: u64, text: &str) -> String {
    format!(
        "{address:#x} is no memory that CUDA knows ({text}); give memory of the device, not of the \
         host"
    )
}

pub(super) fn foreign_memory(address: u64, index: i32) -> String {
    format!("{address:#x} is memory of cuda:{index}; copy it to this device first")
}

/// cuInit failed with `code`.
pub(super) fn init_failed(code: u32, text: &str, visible: Option<&str>) -> String {
    match code {
        code::NO_DEVICE | code::INVALID_DEVICE => no_device(visible),
        code::STUB_LIBRARY => {
            "the libcuda that was found is the toolkit's stub, not the driver's; \
                               take its directory out of LD_LIBRARY_PATH"
                .into()
        }
        code::SYSTEM_NOT_READY => format!(
            "the system is not ready ({text}); on a machine with NVSwitch start nvidia-fabricmanager"
        ),
        code::SYSTEM_DRIVER_MISMATCH => format!(
            "the driver's library and its kernel module are of different versions ({text}); reboot, \
             or match them"
        ),
        code::COMPAT_NOT_SUPPORTED => format!(
            "a cuda-compat library does not suit this GPU or driver ({text}); take its directory \
             out of LD_LIBRARY_PATH, or update the driver"
        ),
        _ => format!("the driver does not start: {text}"),
    }
}

/// No image of the fatbin runs on compute capability `arch`.
pub(super) fn no_image(name: &str, arch: u32, images: &[&str]) -> String {
    let (major, minor) = (arch / 10, arch % 10);
    if arch < 80 {
        return format!(
            "{name} has compute capability {major}.{minor}, and the kernels need 8.0 or newer"
        );
    }
    format!(
        "{name} has compute capability {major}.{minor}, and this binary holds kernels for {}; \
         build again with U2PL_CUDA_ARCHS=80,90a,{arch}",
        images.join(", ")
    )
}

/// The driver took no kernels of `unit`: `image` is what it should have taken. It is as new as
/// [`too_old_for`] asks.
pub(super) fn load_failed(code: u32, text: &str, unit: &str, image: &str) -> String {
    match code {
        code::JIT_COMPILER_NOT_FOUND => format!(
            "the driver has no compiler for {image} ({text}); build again with this GPU in \
             U2PL_CUDA_ARCHS"
        ),
        code::INVALID_IMAGE
        | code::NO_BINARY_FOR_GPU
        | code::INVALID_PTX
        | code::UNSUPPORTED_PTX_VERSION => format!(
            "the driver refuses the {image} kernels of {unit} ({text}); update the driver, or build \
             again with this GPU in U2PL_CUDA_ARCHS"
        ),
        _ => format!("cannot load the kernels of {unit} ({image}): {text}"),
    }
}

pub(super) fn out_of_memory(need: usize, free: Option<usize>, total: usize) -> String {
    match free {
        Some(free) => format!(
            "out of memory: {} needed, {} of {} free; use a smaller batch or crop, or --precision \
             bf16",
            gib(need),
            gib(free),
            gib(total)
        ),
        None => format!("out of memory: {} needed", gib(need)),
    }
}

/// After one of these the context is dead: every later call fails the same way.
pub(super) fn is_sticky(code: u32) -> bool {
    matches!(
        code,
        214 | 220 | 226 | 700 | 702 | 709 | 710 | 714..=719 | 721 | 911 | 999
    )
}

/// Launches that may have failed: numbers (the first launch is 1) and names of the first and last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Suspects {
    pub first: (u64, &'static str),
    pub last: (u64, &'static str),
}

/// A failure that the device reported while `doing`, after the launches `suspects`.
pub(super) fn kernel_failed(text: &str, doing: &str, suspects: Option<Suspects>) -> String {
    match suspects {
        Some(Suspects { first, last }) if first.0 == last.0 => {
            format!("{text}, in kernel {} (launch {})", first.1, first.0)
        }
        Some(Suspects { first, last }) => format!(
            "{text}, in one of the launches {} ({}) to {} ({}), seen at {doing}; run again with \
             U2PL_CUDA_SYNC=1 to learn which",
            first.0, first.1, last.0, last.1
        ),
        None => format!("{text}, at {doing}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_named_as_cuda_names_them() {
        assert_eq!(version(12_040), "12.4");
        assert_eq!(version(13_000), "13.0");
        assert_eq!(version(11_080), "11.8");
    }

    #[test]
    fn every_diagnosis_is_one_line_and_says_what_to_do() {
        let lines = [
            (no_kernels(), "install-nvcc.sh"),
            (no_library(), "install the driver"),
            (old_driver(11_080), "11.8"),
            (old_driver(11_080), "12.0"),
            (missing_symbol("cuGraphLaunch"), "cuGraphLaunch"),
            (no_device(None), "--device cpu"),
            (no_device(Some("")), "CUDA_VISIBLE_DEVICES"),
            (no_such_device(3, 1), "cuda:0"),
            (no_such_device(3, 2), "cuda:1"),
            (no_context(), "live CUcontext"),
            (per_thread_stream(), "stream of its own"),
            (other_context(), "of that context"),
            (bad_loan("x"), "cannot be used: x"),
            (unknown_memory(16, "x"), "0x10"),
            (foreign_memory(16, 3), "cuda:3"),
            (init_failed(100, "x", None), "no CUDA device"),
            (init_failed(34, "x", None), "stub"),
            (init_failed(802, "x", None), "fabricmanager"),
            (init_failed(803, "x", None), "versions"),
            (init_failed(804, "x", None), "cuda-compat"),
            (init_failed(999, "unknown error", None), "unknown error"),
            (no_image("T4", 75, &["sm_80"]), "7.5"),
            (
                no_image("B200", 100, &["sm_90a"]),
                "U2PL_CUDA_ARCHS=80,90a,100",
            ),
            (
                load_failed(222, "x", "conv", "compute_80"),
                "update the driver",
            ),
            (load_failed(200, "broken", "conv", "sm_80"), "broken"),
            (
                load_failed(999, "unknown error", "conv", "sm_80"),
                "unknown error",
            ),
            (
                load_failed(221, "x", "conv", "compute_80"),
                "U2PL_CUDA_ARCHS",
            ),
            (out_of_memory(3 << 30, Some(1 << 30), 4 << 30), "3.00 GiB"),
            (
                out_of_memory(3 << 30, Some(1 << 30), 4 << 30),
                "1.00 GiB of 4.00 GiB",
            ),
        ];
        for (line, part) in lines {
            assert!(!line.contains('\n') && !line.contains("  "), "{line}");
            assert!(line.contains(part), "{line}");
        }
    }

    #[test]
    fn a_driver_is_as_new_as_the_kernels_need() {
        let refused: [(i32, &str, &str, &[&str]); 5] = [
            (
                12_080,
                "13.0.88",
                "sm_90a",
                &["12.8", "13.0 (580.65", "nvcc of CUDA 12.8"],
            ),
            (12_080, "13.1.2", "sm_90a", &["nvcc 13.1 ", "13.0 (580.65"]),
            (
                12_080,
                "13.1.2",
                "compute_80",
                &["12.8", "CUDA 13.1; update"],
            ),
            (
                13_000,
                "13.1.2",
                "compute_80",
                &["13.0", "13.1", "U2PL_CUDA_ARCHS"],
            ),
            (11_080, "12.4.1", "sm_80", &["11.8", "12.0 (525.60"]),
        ];
        for (found, toolkit, image, parts) in refused {
            let line = too_old_for(found, toolkit, image).unwrap_or_default();
            for part in parts {
                assert!(line.contains(part), "{part} in: {line}");
            }
            assert!(!line.contains('\n') && !line.contains("  "), "{line}");
        }
        for (found, toolkit, image) in [
            (13_000, "13.0.88", "compute_80"),
            (13_000, "13.2.1", "sm_90a"),
            (12_000, "12.8.93", "sm_80"),
            (13_010, "12.8.93", "compute_80"),
        ] {
            assert_eq!(too_old_for(found, toolkit, image), None);
        }
    }

    #[test]
    fn a_failed_kernel_is_named_as_far_as_it_is_known() {
        let one = Suspects {
            first: (7, "fill_4"),
            last: (7, "fill_4"),
        };
        let some = Suspects {
            last: (9, "relu"),
            ..one
        };
        let line = kernel_failed("an illegal address", "a download", Some(one));
        assert!(line.contains("kernel fill_4 (launch 7)"), "{line}");
        let line = kernel_failed("an illegal address", "a download", Some(some));
        assert!(
            line.contains("7 (fill_4) to 9 (relu)") && line.contains("U2PL_CUDA_SYNC"),
            "{line}"
        );
        assert!(is_sticky(700) && is_sticky(719) && !is_sticky(2) && !is_sticky(701));
    }

    #[test]
    fn an_error_carries_the_versions() {
        let speaker = Speaker {
            device: "cuda:1".into(),
            driver: Some(12_080),
        };
        let text = speaker.error("broken").to_string();
        assert!(
            text.starts_with("device cuda:1: broken (driver for CUDA 12.8"),
            "{text}"
        );
        assert_eq!(speaker.error("broken").exit_code(), 1);
    }
}
