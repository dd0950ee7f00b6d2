//! Which GPU and which driver a verdict on the kernels is about.

use cudarc::driver::sys::CUdevice_attribute as A;
use cudarc::driver::{DriverError, result};

use super::open::has;

/// What the kernel module says of itself, on Linux. The driver's interface tells its CUDA version
/// alone, which many releases share.
const RELEASE: &str = "/proc/driver/nvidia/version";

/// Device `index` among all of its kind: its UUID, or its place on the bus where the driver has none.
pub(super) fn which(index: usize) -> String {
    let device = result::device::get(index as i32);
    if has("cuDeviceGetUuid")
        && let Ok(uuid) = device.and_then(result::device::get_uuid)
    {
        let hex: Vec<String> = uuid
            .bytes
            .iter()
            .map(|b| format!("{:02x}", *b as u8))
            .collect();
        return format!("uuid {}", hex.concat());
    }
    let place = |device| -> Result<String, DriverError> {
        let attribute = |a| {
            // SAFETY: a device that the driver just gave.
            unsafe { result::device::get_attribute(device, a) }
        };
        let domain = attribute(A::CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID)?;
        let bus = attribute(A::CU_DEVICE_ATTRIBUTE_PCI_BUS_ID)?;
        let slot = attribute(A::CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID)?;
        Ok(format!("pci {domain:04x}:{bus:02x}:{slot:02x}"))
    };
    // A device that cannot even be asked has a number.
    device
        .and_then(place)
        .unwrap_or_else(|_| format!("number {index}"))
}

/// The driver: its CUDA version and, where the system tells, its release.
pub(super) fn driver(version: Option<i32>) -> String {
    let release = std::fs::read_to_string(RELEASE).unwrap_or_default();
    let release = release.lines().next().unwrap_or_default().trim();
    format!("driver {} {release}", version.unwrap_or_default())
        .trim_end()
        .into()
}
