//! DLPack in and out: a host's tensors as images and maps, ours as a host's. Devices of the host have
//! their memory in common with it, so both directions run.

#[path = "support/small.rs"]
mod small;

use std::sync::Arc;

use small::{config, network, noise};
use u2pl_engine::device::cpu::CpuDevice;
use u2pl_engine::device::{Device, Tensor};
use u2pl_engine::ffi::dlpack::{self, device_type, type_code};
use u2pl_engine::ffi::dlpack::{
    DLDataType, DLDevice, DLManagedTensor, DLManagedTensorVersioned, DLPackVersion, DLTensor, Dims,
};
use u2pl_engine::infer::{Channels, Image, MapTensors, Options, Samples, Segmentation, Segmenter};

const H: usize = 33;
const W: usize = 41;

#[cfg(not(feature = "simt"))]
fn devices() -> Vec<Arc<dyn Device>> {
    vec![Arc::new(CpuDevice::new(2).unwrap())]
}

#[cfg(feature = "simt")]
fn devices() -> Vec<Arc<dyn Device>> {
    use u2pl_engine::device::gpu::{GpuDevice, MathMode, simt};
    let simt = GpuDevice::simt(simt::Options::default(), MathMode::Fp32).unwrap();
    vec![Arc::new(CpuDevice::new(2).unwrap()), Arc::new(simt)]
}

fn segmenter(device: &Arc<dyn Device>) -> Segmenter {
    Segmenter::new(network(&config(), device.clone()), Options::default()).unwrap()
}

const U8: (u8, u8) = (type_code::UINT, 8);
const F32: (u8, u8) = (type_code::FLOAT, 32);

/// A tensor as a host would hand it out. What it points to is its own.
struct Given {
    managed: DLManagedTensor,
    shape: Vec<i64>,
    strides: Option<Vec<i64>>,
}

impl Given {
    fn new<T>(values: &mut [T], (code, bits): (u8, u8), shape: &[i64]) -> Self {
        let dl_tensor = DLTensor {
            data: values.as_mut_ptr().cast(),
            device: DLDevice {
                device_type: device_type::CPU,
                device_id: 0,
            },
            ndim: 0,
            dtype: DLDataType {
                code,
                bits,
                lanes: 1,
            },
            shape: std::ptr::null_mut(),
            strides: std::ptr::null_mut(),
            byte_offset: 0,
        };
        Self {
            managed: DLManagedTensor {
                dl_tensor,
                manager_ctx: std::ptr::null_mut(),
                deleter: None,
            },
            shape: shape.to_vec(),
            strides: None,
        }
    }

    fn strides(mut self, strides: &[i64]) -> Self {
        self.strides = Some(strides.to_vec());
        self
    }

    fn tensor(&mut self) -> &mut DLTensor {
        let tensor = &mut self.managed.dl_tensor;
        tensor.ndim = self.shape.len() as i32;
        tensor.shape = self.shape.as_mut_ptr();
        if let Some(strides) = &mut self.strides {
            tensor.strides = strides.as_mut_ptr();
        }
        tensor
    }

    fn borrow(&mut self, device: &Arc<dyn Device>, dims: Dims) -> u2pl_engine::Result<Tensor> {
        self.tensor();
        // SAFETY: a whole tensor; what it points to outlives it in every test.
        unsafe { dlpack::borrow(device, "image", &self.managed, dims) }
    }

    fn refused(&mut self, device: &Arc<dyn Device>, dims: Dims) -> String {
        let error = self.borrow(device, dims).err().unwrap();
        assert_eq!(error.exit_code(), 2);
        error.to_string()
    }
}

fn on_the_host(served: &Segmenter, pixels: &[u8]) -> Segmentation {
    let image = Image::rgb(Samples::U8(pixels), H, W).unwrap();
    served.segment(&image).unwrap()
}

#[test]
fn a_hosts_tensors_are_read_and_written_where_they_are() {
    let (h, w) = (H as i64, W as i64);
    for device in devices() {
        let served = segmenter(&device);
        let mut pixels = noise(H, W, 6);
        let expected = on_the_host(&served, &pixels);
        let floats: Vec<f32> = pixels.iter().map(|&b| f32::from(b) / 255.0).collect();
        let image = Image::rgb(Samples::F32(&floats), H, W).unwrap();
        let of_floats = served.segment(&image).unwrap();

        let mut packed = Given::new(&mut pixels, U8, &[h, w, 3]);
        // As PyTorch has channels_last: the dimensions of planes, the strides of pixels.
        let mut batch = floats.clone();
        let mut last = Given::new(&mut batch, F32, &[1, 3, h, w]).strides(&[9, 1, 3 * w, 3]);
        // Planes, behind an offset.
        let mut planes = vec![0f32; 5 + floats.len()];
        for (i, v) in floats.iter().enumerate() {
            planes[5 + i % 3 * H * W + i / 3] = *v;
        }
        let mut first = Given::new(&mut planes, F32, &[3, h, w]);
        first.managed.dl_tensor.byte_offset = 20;
        let cases = [
            (&mut packed, Dims::ChannelsLast, &expected),
            (&mut last, Dims::ChannelsFirst, &of_floats),
            (&mut first, Dims::ChannelsFirst, &of_floats),
        ];
        for (given, dims, expected) in cases {
            let mut classes = vec![77u8; H * W];
            let mut entropy = vec![-1f32; H * W];
            let image = given.borrow(&device, dims).unwrap();
            let mut into = Given::new(&mut classes, U8, &[h, w]);
            let class_map = into.borrow(&device, Dims::Map).unwrap();
            let mut into = Given::new(&mut entropy, F32, &[1, h, w]);
            let entropy_map = into.borrow(&device, Dims::Map).unwrap();
            let maps = MapTensors {
                classes: Some(&class_map),
                entropy: Some(&entropy_map),
                confidence: None,
            };
            served.segment_device(&image, Channels::Rgb, &maps).unwrap();
            assert_eq!(classes, expected.classes);
            assert_eq!(entropy, expected.entropy);
        }
    }
}

#[test]
fn a_tensor_that_does_not_fit_is_refused_by_name() {
    let device = &devices()[0];
    let mut values = vec![0u32; 3 * 16 * 16];
    let shape = [16, 16, 3];
    let last = Dims::ChannelsLast;
    let mut refused = |change: &dyn Fn(Given) -> Given, dims, parts: &[&str]| {
        let mut given = change(Given::new(&mut values, U8, &shape));
        let line = given.refused(device, dims);
        for part in parts.iter().chain(&["image: "]) {
            assert!(line.contains(part), "{part} in: {line}");
        }
        println!("{line}");
    };
    let with = |edit: fn(&mut DLTensor)| {
        move |mut given: Given| {
            edit(&mut given.managed.dl_tensor);
            given
        }
    };
    let gpu = with(|t| t.device.device_type = device_type::CUDA);
    refused(&gpu, last, &["on cuda:0", "host memory"]);
    let metal = with(|t| t.device.device_type = 8);
    refused(&metal, last, &["DLPack type 8"]);
    let signed = with(|t| t.dtype.code = type_code::INT);
    refused(&signed, last, &["int8", "float32"]);
    refused(&with(|t| t.dtype.bits = 64), last, &["uint64"]);
    refused(&with(|t| t.dtype.lanes = 4), last, &["uint8 in 4 lanes"]);
    refused(
        &with(|t| t.data = std::ptr::null_mut()),
        last,
        &["without memory"],
    );
    refused(
        &with(|t| t.byte_offset = u64::MAX),
        last,
        &["without memory"],
    );
    let misaligned = with(|t| (t.dtype, t.byte_offset) = (float(), 2));
    refused(&misaligned, last, &["align it to 4"]);
    refused(
        &|g| g.strides(&[-48, 3, 1]),
        last,
        &["[-48, 3, 1]", "positive"],
    );
    refused(&|g| g.strides(&[0, 3, 1]), last, &["[0, 3, 1]", "positive"]);
    refused(&|g| g.strides(&[i64::MAX, 3, 1]), last, &["no tensor"]);
    let shaped = |shape: &'static [i64]| {
        move |mut given: Given| {
            given.shape = shape.to_vec();
            given
        }
    };
    refused(&shaped(&[]), last, &["without dimensions"]);
    refused(
        &shaped(&[48]),
        last,
        &["[48]", "give [H, W, C] or [N, H, W, C]"],
    );
    refused(
        &shaped(&[2, 16, 3, 1]),
        Dims::Map,
        &["[2, 16, 3, 1]", "[N, H, W]"],
    );
    refused(&shaped(&[16, 3]), Dims::ChannelsFirst, &["give [C, H, W]"]);
    refused(&shaped(&[0, 16, 3]), last, &["at least 1"]);
    refused(&shaped(&[16, -16, 3]), last, &["at least 1"]);
    refused(&shaped(&[i64::MAX, 16, 3]), last, &["smaller"]);
    // SAFETY: null is allowed.
    let null = unsafe { dlpack::borrow(device, "image", std::ptr::null(), last) };
    assert!(null.err().unwrap().to_string().contains("a null tensor"));
}

#[test]
fn version_1_is_read_and_its_promise_to_be_left_alone_kept() {
    let device = &devices()[0];
    let served = segmenter(device);
    let mut pixels = noise(H, W, 8);
    let expected = on_the_host(&served, &pixels);
    let versioned = |given: &mut Given, major, flags| {
        given.tensor();
        DLManagedTensorVersioned {
            version: DLPackVersion { major, minor: 3 },
            manager_ctx: std::ptr::null_mut(),
            deleter: None,
            flags,
            // SAFETY: plain fields, which are not used twice at a time.
            dl_tensor: unsafe { std::ptr::read(&raw const given.managed.dl_tensor) },
        }
    };
    let borrow = |tensor: &DLManagedTensorVersioned, dims| {
        // SAFETY: whole tensors, or refused.
        unsafe { dlpack::borrow_versioned(device, "tensor", tensor, dims) }
    };
    let (h, w) = (H as i64, W as i64);
    let mut given = Given::new(&mut pixels, U8, &[h, w, 3]);
    let tensor = versioned(&mut given, 1, dlpack::FLAG_READ_ONLY);
    let image = borrow(&tensor, Dims::ChannelsLast).unwrap();
    assert!(image.is_read_only());
    let mut classes = vec![77u8; H * W];
    let mut into = Given::new(&mut classes, U8, &[h, w]);
    for (flags, part) in [
        (dlpack::FLAG_READ_ONLY, Some("must not be written to")),
        (2, None),
    ] {
        let map = borrow(&versioned(&mut into, 1, flags), Dims::Map).unwrap();
        let maps = MapTensors {
            classes: Some(&map),
            ..MapTensors::default()
        };
        let found = served.segment_device(&image, Channels::Rgb, &maps);
        match part {
            None => found.unwrap(),
            Some(part) => assert!(found.unwrap_err().to_string().contains(part)),
        }
    }
    assert_eq!(classes, expected.classes);
    let line = borrow(&versioned(&mut into, 2, 0), Dims::Map)
        .err()
        .unwrap();
    assert!(line.to_string().contains("DLPack 2.3"), "{line}");
}

/// The maps outlive the segmenter and everything of it; the host ends them.
#[test]
fn maps_are_handed_out_with_a_deleter_that_owns_them() {
    for device in devices() {
        let served = segmenter(&device);
        let mut pixels = noise(H, W, 9);
        let expected = on_the_host(&served, &pixels);
        let (h, w) = (H as i64, W as i64);
        let mut given = Given::new(&mut pixels, U8, &[h, w, 3]);
        let image = given.borrow(&device, Dims::ChannelsLast).unwrap();
        let maps = served.segment_to_device(&image, Channels::Rgb).unwrap();
        let memory = || maps.memory.clone();
        let classes = dlpack::export(memory(), &maps.classes, &[H, W]).unwrap();
        let entropy = dlpack::export_versioned(memory(), &maps.entropy, &[1, H, W]).unwrap();
        assert!(dlpack::export(memory(), &maps.classes, &[H]).is_err());
        let arena = Arc::downgrade(&maps.memory);
        drop((maps, image, served));

        // SAFETY: exported above, and freed below.
        unsafe {
            // It comes back in as what it is, and taking it back leaves it there.
            let back = dlpack::borrow(&device, "back", classes, Dims::Map).unwrap();
            assert_eq!(back.strided().shape, [1, H, W, 1]);
            drop(back);
            let tensor = &(*classes).dl_tensor;
            assert_eq!(sizes(tensor), (vec![h, w], vec![w, 1]));
            assert_eq!(tensor.device.device_type, device_type::CPU);
            let dtype = tensor.dtype;
            assert_eq!((dtype.code, dtype.bits, dtype.lanes), (1, 8, 1));
            let values = tensor.data.cast::<u8>().add(tensor.byte_offset as usize);
            assert_eq!(std::slice::from_raw_parts(values, H * W), expected.classes);
            ((*classes).deleter.unwrap())(classes);

            assert_eq!((*entropy).version, DLPackVersion { major: 1, minor: 0 });
            let tensor = &(*entropy).dl_tensor;
            assert_eq!(sizes(tensor), (vec![1, h, w], vec![h * w, w, 1]));
            assert_eq!(tensor.dtype, float());
            let values = tensor.data.cast::<f32>();
            assert_eq!(std::slice::from_raw_parts(values, H * W), expected.entropy);
            assert!(arena.upgrade().is_some());
            ((*entropy).deleter.unwrap())(entropy);
        }
        let left = arena.upgrade().is_some();
        assert!(!left, "the last deleter frees the memory");
    }
}

/// # Safety
/// A whole tensor.
unsafe fn sizes(tensor: &DLTensor) -> (Vec<i64>, Vec<i64>) {
    let n = tensor.ndim as usize;
    // SAFETY: the caller's promise.
    unsafe {
        (
            std::slice::from_raw_parts(tensor.shape, n).to_vec(),
            std::slice::from_raw_parts(tensor.strides, n).to_vec(),
        )
    }
}

/// The layouts are those of the C structs on a 64-bit machine.
#[test]
#[cfg(target_pointer_width = "64")]
fn structs_are_laid_out_as_dlpack_has_them() {
    use std::mem::offset_of;
    assert_eq!(size_of::<DLTensor>(), 48);
    assert_eq!(offset_of!(DLTensor, device), 8);
    assert_eq!(offset_of!(DLTensor, ndim), 16);
    assert_eq!(offset_of!(DLTensor, dtype), 20);
    assert_eq!(offset_of!(DLTensor, shape), 24);
    assert_eq!(offset_of!(DLTensor, strides), 32);
    assert_eq!(offset_of!(DLTensor, byte_offset), 40);
    assert_eq!(size_of::<DLManagedTensor>(), 64);
    assert_eq!(offset_of!(DLManagedTensor, deleter), 56);
    assert_eq!(size_of::<DLManagedTensorVersioned>(), 80);
    assert_eq!(offset_of!(DLManagedTensorVersioned, manager_ctx), 8);
    assert_eq!(offset_of!(DLManagedTensorVersioned, flags), 24);
    assert_eq!(offset_of!(DLManagedTensorVersioned, dl_tensor), 32);
}

fn float() -> DLDataType {
    DLDataType {
        code: type_code::FLOAT,
        bits: 32,
        lanes: 1,
    }
}
