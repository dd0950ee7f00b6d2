//! The kernels inside this binary: what `build.rs` compiled, and which of it a GPU can run.

use std::sync::OnceLock;

use crate::device::check;

/// What one kernel takes on one architecture, by ptxas.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Resource {
    /// Kernel.
    pub kernel: &'static str,
    /// `sm_80`.
    pub arch: &'static str,
    /// Registers of a thread.
    pub registers: u32,
    /// Static shared memory of a block, bytes.
    pub shared_bytes: u32,
    /// Stack of a thread in local memory, bytes.
    pub stack_bytes: u32,
    /// Registers written to local memory for want of more, bytes.
    pub spill_store_bytes: u32,
    /// And read back, bytes.
    pub spill_load_bytes: u32,
}

mod table {
    use super::Resource;
    include!(concat!(env!("OUT_DIR"), "/fatbins.rs"));
}

/// Version of the nvcc that compiled the kernels; `None`: there was none, and there are no kernels.
pub fn toolkit() -> Option<&'static str> {
    table::TOOLKIT
}

/// What each fatbin holds: `sm_80`, `sm_90a` (machine code), `compute_80` (PTX).
pub fn images() -> &'static [&'static str] {
    table::IMAGES
}

/// ptxas's account of every kernel, by kernel and architecture.
pub fn resources() -> &'static [Resource] {
    table::RESOURCES
}

/// What nvcc and ptxas warned of, performance included.
pub fn warnings() -> &'static [&'static str] {
    table::WARNINGS
}

/// Unit and fatbin.
pub(super) fn units() -> &'static [(&'static str, &'static [u8])] {
    table::UNITS
}

/// A digest of all fatbins, taken once.
pub(super) fn digest() -> &'static str {
    static DIGEST: OnceLock<String> = OnceLock::new();
    DIGEST.get_or_init(|| check::digest(units().iter().map(|(_, fatbin)| *fatbin)))
}

/// The image that a GPU of compute capability `arch` (90 = 9.0) runs, by CUDA's rules: machine code
/// of the same major and no later minor version; one with `a` on exactly its own GPU, with `f` on
/// its family; else PTX of no later version, compiled by the driver.
pub fn image_for(arch: u32, images: &[&'static str]) -> Option<&'static str> {
    let fits = |image: &str, prefix: &str| -> Option<u32> {
        let name = image.strip_prefix(prefix)?;
        let number: u32 = name.trim_end_matches(['a', 'f']).parse().ok()?;
        let fits = match name.chars().last() {
            Some('a') => number == arch,
            Some('f') => number / 10 == arch / 10 && number <= arch,
            _ if prefix == "sm_" => number / 10 == arch / 10 && number <= arch,
            _ => number <= arch,
        };
        fits.then_some(number)
    };
    let best = |prefix: &str| {
        let candidates = images.iter().copied();
        candidates
            .filter_map(|i| Some((fits(i, prefix)?, i.len(), i)))
            .max()
            .map(|(_, _, image)| image)
    };
    best("sm_").or_else(|| best("compute_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_gets_the_image_that_cuda_would_choose() {
        let images = &["sm_80", "sm_90a", "compute_80"];
        for (arch, image) in [
            (75, None),
            (80, Some("sm_80")),
            (86, Some("sm_80")),
            (89, Some("sm_80")),
            (90, Some("sm_90a")),
            (100, Some("compute_80")),
            (120, Some("compute_80")),
        ] {
            assert_eq!(image_for(arch, images), image, "{arch}");
        }
        assert_eq!(image_for(100, &["sm_90a"]), None);
        assert_eq!(image_for(90, &["sm_90", "sm_90a"]), Some("sm_90a"));
        assert_eq!(image_for(103, &["sm_100f"]), Some("sm_100f"));
        assert_eq!(image_for(103, &["sm_100a"]), None);
        assert_eq!(image_for(90, &[]), None);
    }

    #[test]
    fn every_kernel_of_the_table_was_compiled() {
        if toolkit().is_none() {
            println!("built without nvcc: nothing to check");
            return;
        }
        for kernel in super::super::super::kernels::ALL {
            assert!(
                resources().iter().any(|r| r.kernel == kernel.name),
                "{} is in no fatbin",
                kernel.name
            );
        }
    }
}
