//! What `u2pl-engine info` says of CUDA: this binary's kernels, and this machine's devices.

use super::diagnose::{Speaker, version};
use super::embedded;
use super::open::{self, DeviceInfo};
use crate::device::gpu::kernels::ALL;

/// The CUDA side of this binary and this machine.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Description {
    /// Version of the nvcc that made the kernels; `None`: built without.
    pub toolkit: Option<&'static str>,
    /// What the fatbins hold.
    pub images: &'static [&'static str],
    /// Kernels in the table.
    pub kernels: usize,
    /// CUDA version of the driver, where there is one.
    pub driver: Option<String>,
    /// The devices.
    pub devices: Vec<DeviceInfo>,
    /// Why `--device cuda` cannot work here, when it cannot.
    pub unusable: Option<String>,
}

/// Looks, without opening a device.
pub fn describe() -> Description {
    let mut speaker = Speaker::new(0);
    let (devices, problem) = match open::driver(&mut speaker) {
        Ok(count) => {
            let devices: Vec<DeviceInfo> = (0..count)
                .filter_map(|i| open::device_info(i).ok())
                .collect();
            let mut images = devices.iter().filter_map(|d| d.image);
            let problem = images.find_map(|image| open::loadable(&speaker, image).err());
            (devices, problem.map(|e| e.to_string()))
        }
        Err(e) => (Vec::new(), Some(e.to_string())),
    };
    let no_kernels = embedded::toolkit().is_none();
    Description {
        toolkit: embedded::toolkit(),
        images: embedded::images(),
        kernels: ALL.len(),
        driver: speaker.driver.map(version),
        devices,
        unusable: match no_kernels {
            true => Some(speaker.error(super::diagnose::no_kernels()).to_string()),
            false => problem,
        },
    }
}
