//! The fake's host program, and devices on what it lends.

use std::ffi::c_void;

use u2pl_engine::device::gpu::cuda::CudaDriver;
use u2pl_engine::device::gpu::driver::{Driver, Ptr};

#[cfg(feature = "simt")]
use super::set_launcher;
use super::{fake, leaks, read};

/// The context and the stream of the fake's host, and the context that it is at work in.
#[derive(Clone, Copy)]
pub struct Host {
    pub context: *mut c_void,
    pub stream: *mut c_void,
    at_work_in: *mut c_void,
}

impl Host {
    pub fn new() -> Self {
        let none = std::ptr::null_mut();
        let (mut context, mut stream, mut at_work_in) = (none, none, none);
        type Lend = unsafe extern "C" fn(*mut *mut c_void, *mut *mut c_void, *mut *mut c_void);
        let lend: Lend = fake("fake_host_lend");
        // SAFETY: as declared.
        unsafe { lend(&mut context, &mut stream, &mut at_work_in) };
        Self {
            context,
            stream,
            at_work_in,
        }
    }

    /// Memory of the host's on device `index`.
    pub fn memory(bytes: usize, index: i32) -> u64 {
        let allocate: unsafe extern "C" fn(usize, i32) -> u64 = fake("fake_host_memory");
        // SAFETY: as declared.
        unsafe { allocate(bytes, index) }
    }

    /// Waits for its stream.
    #[cfg(feature = "simt")]
    fn synchronize(self) {
        let synchronize: unsafe extern "C" fn(*mut c_void) = fake("fake_host_synchronize");
        // SAFETY: as declared.
        unsafe { synchronize(self.stream) };
    }

    /// Fails unless the thread is where the host left it.
    pub fn is_undisturbed(self) {
        let current: unsafe extern "C" fn() -> *mut c_void = fake("fake_cuda_current");
        // SAFETY: as declared.
        assert_eq!(unsafe { current() }, self.at_work_in, "the current context");
    }

    pub fn device(self) -> CudaDriver {
        // SAFETY: the fake's own, which live as long as the process.
        let opened = unsafe { CudaDriver::on_stream(self.context, self.stream) };
        self.is_undisturbed();
        opened.expect("a device")
    }
}

/// A device under test: with all of its own, or on what the host lends (`FAKE_LENT`).
pub fn opened() -> (CudaDriver, Option<Host>) {
    let lent = std::env::var("FAKE_LENT");
    let Ok(lent) = lent.as_deref() else {
        return (CudaDriver::new(0).expect("a device"), None);
    };
    let mut host = Host::new();
    if lent == "default" {
        host.stream = std::ptr::null_mut();
    }
    (host.device(), Some(host))
}

/// Ends a device; nothing is left of it, and all of the host's is.
pub fn close((driver, host): (CudaDriver, Option<Host>)) {
    if let Some(host) = host {
        host.is_undisturbed();
    }
    drop(driver);
    assert_eq!(leaks(), 0, "leaks");
    if let Some(host) = host {
        host.is_undisturbed();
    }
}

/// A device keeps the cudarc stream that it works on, and ends it no sooner than its last owner.
pub fn cudarc_stream() {
    let context = cudarc::driver::CudaContext::new(0).expect("a context");
    let stream = context.new_stream().expect("a stream");
    let driver = CudaDriver::on_cudarc(&stream).expect("a device");
    drop((context, stream));
    let memory = driver.alloc(64).expect("memory");
    driver.upload(memory, &[7; 64]).expect("an upload");
    assert_eq!(read(&driver, memory, 64), [7; 64]);
    close((driver, None));
}

pub fn bad_loans() {
    let host = Host::new();
    let refused = |context: *mut c_void, stream: *mut c_void, part: &str| {
        // SAFETY: the fake's own, or handles that are refused by their value.
        let Err(error) = (unsafe { CudaDriver::on_stream(context, stream) }) else {
            panic!("opened: {part}");
        };
        let line = error.to_string();
        assert!(line.contains(part) && !line.contains('\n'), "{line}");
        println!("{line}");
        host.is_undisturbed();
    };
    refused(std::ptr::null_mut(), host.stream, "none of a device here");
    refused(8 as *mut c_void, host.stream, "cannot be used");
    refused(host.at_work_in, host.stream, "another context");
    refused(host.context, 2 as *mut c_void, "per-thread");
    let driver = host.device();
    let check = |address: u64| driver.check_borrowed(Ptr(address));
    check(Host::memory(100, 0)).expect("memory of this device");
    for (address, part) in [
        (Host::memory(100, 1), "memory of cuda:1"),
        (&raw const host as u64, "no memory that CUDA knows"),
    ] {
        let line = check(address).expect_err("refused").to_string();
        assert!(line.contains(part), "{line}");
        println!("{line}");
    }
    driver.alloc(64).expect("it still works");
    close((driver, Some(host)));
}

/// What the fake has counted: waits, copies between host and device, replays.
#[cfg(feature = "simt")]
pub fn counts() -> [u64; 3] {
    ["waits", "transfers", "replays"].map(|what| {
        let count: unsafe extern "C" fn() -> u64 = fake(&format!("fake_cuda_{what}"));
        // SAFETY: as declared.
        unsafe { count() }
    })
}

#[cfg(feature = "simt")]
#[path = "../support/small.rs"]
pub mod small;

#[cfg(feature = "simt")]
pub fn segment() {
    use std::sync::Arc;
    use u2pl_engine::device::gpu::{GpuDevice, MathMode};
    use u2pl_engine::device::{DType, Device, Strided, Tensor};
    use u2pl_engine::infer::{
        Channels, Image, InputShape, MapTensors, Options, Samples, Segmenter,
    };

    const H: usize = 33;
    const W: usize = 40;
    let (driver, host) = opened();
    let host = host.expect("a host");
    set_launcher(super::on_the_host::execute);
    let device: Arc<dyn Device> = Arc::new(GpuDevice::new(Box::new(driver), MathMode::Fp32));
    let network = small::network(&small::config(), device.clone());
    let served = Segmenter::new(network, Options::default()).expect("a segmenter");
    served.warm_up(1, InputShape::bytes(H, W)).expect("warm");
    let images: Vec<Vec<u8>> = (0..3).map(|seed| small::noise(H, W, seed)).collect();
    let expected: Vec<_> = (images.iter())
        .map(|pixels| {
            let image = Image::rgb(Samples::U8(pixels), H, W).expect("an image");
            served.segment(&image).expect("maps")
        })
        .collect();

    let lend = |address, dtype, channels| {
        let shape = [1, H, W, channels];
        // SAFETY: memory of the fake's host, which is never freed.
        unsafe {
            Tensor::new(
                &device,
                "tensor",
                address,
                dtype,
                shape,
                Strided::packed(shape),
            )
        }
    };
    let elsewhere = lend(Host::memory(3 * H * W, 1), DType::U8, 3).err();
    let line = elsewhere.expect("refused").to_string();
    assert!(line.contains("memory of cuda:1"), "{line}");

    let before = counts();
    let mut outputs = Vec::new();
    for pixels in &images {
        let image = Host::memory(pixels.len(), 0);
        // SAFETY: the fake's device memory is the host's.
        unsafe { std::ptr::copy_nonoverlapping(pixels.as_ptr(), image as *mut u8, pixels.len()) };
        let (classes, entropy) = (Host::memory(H * W, 0), Host::memory(4 * H * W, 0));
        let image = lend(image, DType::U8, 3).expect("lent");
        let class_map = lend(classes, DType::U8, 1).expect("lent");
        let entropy_map = lend(entropy, DType::F32, 1).expect("lent");
        let maps = MapTensors {
            classes: Some(&class_map),
            entropy: Some(&entropy_map),
            confidence: None,
        };
        let queued = served.segment_device(&image, Channels::Rgb, &maps);
        queued.expect("queued");
        outputs.push((classes, entropy));
        host.is_undisturbed();
    }
    let [waits, transfers, replays] = before;
    let more = images.len() as u64;
    assert_eq!(counts(), [waits, transfers, replays + more]);

    // The device has done none of it yet; the host's own wait is what brings it.
    let classes_of = |at: u64| {
        // SAFETY: memory of the fake's host of this size.
        unsafe { std::slice::from_raw_parts(at as *const u8, H * W) }
    };
    for (classes, _) in &outputs {
        assert!(classes_of(*classes).iter().all(|&c| c == 0xcd), "waited");
    }
    host.synchronize();
    for ((classes, entropy), expected) in outputs.into_iter().zip(expected) {
        assert_eq!(classes_of(classes), expected.classes);
        // SAFETY: as above.
        let entropy = unsafe { std::slice::from_raw_parts(entropy as *const f32, H * W) };
        assert_eq!(entropy, expected.entropy);
    }
    drop((served, device));
    assert_eq!(leaks(), 0, "leaks");
    host.is_undisturbed();
}
