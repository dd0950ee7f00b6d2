//! The C interface in device memory: images and maps at a program's addresses, and DLPack tensors in
//! and out. On the `cpu` and `simt` devices the addresses are this process's, so the whole path runs;
//! a stream of a program's is run by `cuda_driver`.

use std::ffi::{CStr, CString, c_void};
use std::ptr::{null, null_mut};

#[path = "support/small.rs"]
mod small;
#[path = "support/capi.rs"]
mod support;

use small::noise;
use support::*;
use u2pl_engine::ffi::capi::u2pl_status::{
    U2PL_ERROR_DEVICE as DEVICE, U2PL_ERROR_HANDLE as HANDLE, U2PL_ERROR_INPUT as INPUT,
};
use u2pl_engine::ffi::capi::*;
use u2pl_engine::ffi::dlpack::{
    DLDataType, DLDevice, DLManagedTensor, DLTensor, device_type, type_code,
};

const PIXELS: usize = HEIGHT * WIDTH;

/// The devices whose memory is this process's.
fn devices() -> Vec<&'static CStr> {
    let mut names = vec![c"cpu"];
    // Valgrind takes a kernel's threads, which switch stacks, for wild accesses.
    if cfg!(feature = "simt") && !is_under_valgrind() {
        names.push(c"simt");
    }
    names
}

fn opened(device: &CStr) -> Opened {
    Opened::with(|o| o.device = device.as_ptr())
}

/// What [`u2pl_segment`] says of `images`, one after another.
fn expected(opened: &Opened, images: &[Vec<u8>]) -> Room {
    let mut all = Room::new(0);
    let mut rooms: Vec<Room> = images.iter().map(|_| Room::new(PIXELS)).collect();
    let given: Vec<u2pl_image> = images.iter().map(|p| packed(p)).collect();
    let maps: Vec<u2pl_maps> = rooms.iter_mut().map(Room::maps).collect();
    fine(opened.segment(&given, &maps));
    for room in rooms {
        all.classes.extend(room.classes);
        all.confidence.extend(room.confidence);
        all.entropy.extend(room.entropy);
    }
    all
}

fn device_image(pixels: &[u8], images: usize) -> u2pl_device_image {
    u2pl_device_image {
        struct_size: size_of::<u2pl_device_image>(),
        data: pixels.as_ptr() as u64,
        sample_type: U2PL_U8,
        channels: U2PL_RGB,
        images,
        height: HEIGHT,
        width: WIDTH,
        image_stride: 0,
        row_stride: 0,
        pixel_stride: 0,
        channel_stride: 0,
    }
}

fn device_maps(room: &mut Room) -> u2pl_device_maps {
    u2pl_device_maps {
        struct_size: size_of::<u2pl_device_maps>(),
        classes: room.classes.as_mut_ptr() as u64,
        confidence: room.confidence.as_mut_ptr() as u64,
        entropy: room.entropy.as_mut_ptr() as u64,
    }
}

fn segment(
    handle: *const u2pl_segmenter,
    image: &u2pl_device_image,
    maps: &u2pl_device_maps,
) -> u2pl_status {
    // SAFETY: memory of this process as large as it says, or refused before it is used.
    unsafe { u2pl_segment_device(handle, image, maps) }
}

fn same(found: &Room, expected: &Room) {
    assert_eq!(found.classes, expected.classes);
    assert_eq!(found.confidence, expected.confidence);
    assert_eq!(found.entropy, expected.entropy);
}

#[test]
fn maps_in_device_memory_are_those_of_the_host() {
    for device in devices() {
        let opened = opened(device);
        let images: Vec<Vec<u8>> = (0..2).map(|seed| noise(HEIGHT, WIDTH, seed)).collect();
        let expected = expected(&opened, &images);
        let all = images.concat();
        let mut room = Room::new(2 * PIXELS);
        let maps = device_maps(&mut room);
        fine(segment(opened.handle, &device_image(&all, 2), &maps));
        fine(u2pl_wait(opened.handle));
        same(&room, &expected);

        // Planes, and of the maps only one.
        let planes: Vec<u8> = (images.iter())
            .flat_map(|p| (0..3).flat_map(|c| p.iter().skip(c).step_by(3)))
            .copied()
            .collect();
        let image = u2pl_device_image {
            image_stride: 3 * PIXELS,
            row_stride: WIDTH,
            pixel_stride: 1,
            channel_stride: PIXELS,
            ..device_image(&planes, 2)
        };
        let mut room = Room::new(2 * PIXELS);
        let maps = u2pl_device_maps {
            classes: 0,
            confidence: 0,
            ..device_maps(&mut room)
        };
        fine(segment(opened.handle, &image, &maps));
        assert_eq!(room.entropy, expected.entropy);
        assert!(room.classes.iter().all(|&c| c == 99));
    }
}

#[test]
fn what_cannot_be_segmented_there_is_refused() {
    let opened = Opened::new();
    let pixels = noise(HEIGHT, WIDTH, 1);
    let floats = [0.5f32; 4];
    let mut room = Room::new(PIXELS);
    let maps = device_maps(&mut room);
    let refuse = |change: &dyn Fn(&mut u2pl_device_image), words: &[&str]| {
        let mut image = device_image(&pixels, 1);
        change(&mut image);
        refused(segment(opened.handle, &image, &maps), INPUT, words);
    };
    refuse(&|i| i.struct_size = 0, &["struct_size"]);
    refuse(&|i| i.data = 0, &["0x0"]);
    refuse(&|i| i.channels = 9, &["image.channels"]);
    refuse(&|i| i.sample_type = 9, &["image.sample_type"]);
    refuse(&|i| i.images = 0, &["image"]);
    refuse(&|i| i.height = 0, &["image"]);
    refuse(&|i| i.width = 1, &["1 × 40"]);
    refuse(&|i| i.height = usize::MAX, &["image"]);
    refuse(&|i| i.images = 1 << 40, &["image"]);
    refuse(&|i| i.row_stride = usize::MAX, &["image"]);
    refuse(
        &|i| (i.sample_type, i.data) = (U2PL_F32, floats.as_ptr() as u64 + 1),
        &["image", "align"],
    );
    let image = device_image(&pixels, 1);
    for (change, word) in [
        (
            u2pl_device_maps {
                struct_size: 8,
                ..maps
            },
            "struct_size",
        ),
        (
            u2pl_device_maps {
                entropy: maps.entropy + 1,
                ..maps
            },
            "entropy",
        ),
    ] {
        refused(segment(opened.handle, &image, &change), INPUT, &[word]);
    }
    // SAFETY: null is refused.
    unsafe {
        refused(
            u2pl_segment_device(opened.handle, null(), &maps),
            INPUT,
            &["image"],
        );
        refused(
            u2pl_segment_device(opened.handle, &image, null()),
            INPUT,
            &["maps"],
        );
    }
    assert!(room.classes.iter().all(|&c| c == 99));
    opened.works();

    // What resizes or mirrors works on the host alone.
    let mirrored = Opened::with(|o| o.flip = 1);
    refused(segment(mirrored.handle, &image, &maps), INPUT, &["flip"]);
    mirrored.works();

    let closed = opened.handle;
    fine(u2pl_close(closed));
    refused(segment(closed, &image, &maps), HANDLE, &["handle"]);
    refused(u2pl_wait(closed), HANDLE, &["handle"]);
}

/// A DLPack tensor of a program's; its pixels, shape and strides live as long as it.
struct Held {
    tensor: DLManagedTensor,
    _shape: Vec<i64>,
    _pixels: Vec<u8>,
}

impl Held {
    fn new(mut pixels: Vec<u8>, mut shape: Vec<i64>) -> Self {
        let dl_tensor = DLTensor {
            data: pixels.as_mut_ptr().cast(),
            device: DLDevice {
                device_type: device_type::CPU,
                device_id: 0,
            },
            ndim: shape.len() as i32,
            dtype: DLDataType {
                code: type_code::UINT,
                bits: 8,
                lanes: 1,
            },
            shape: shape.as_mut_ptr(),
            strides: null_mut(),
            byte_offset: 0,
        };
        Self {
            tensor: DLManagedTensor {
                dl_tensor,
                manager_ctx: null_mut(),
                deleter: None,
            },
            _shape: shape,
            _pixels: pixels,
        }
    }

    fn segment(&self, handle: *const u2pl_segmenter, first: u32, outs: &mut Outs) -> u2pl_status {
        let image = (&raw const self.tensor).cast();
        let [classes, confidence, entropy] = outs.0.each_mut().map(|out| &raw mut *out);
        // SAFETY: a tensor of this process, and places that can be written.
        unsafe { u2pl_segment_dlpack(handle, image, U2PL_RGB, first, classes, confidence, entropy) }
    }
}

/// Tensors of the engine's.
struct Outs([*mut c_void; 3]);

impl Outs {
    fn new() -> Self {
        Self([std::ptr::dangling_mut(); 3])
    }

    fn values<T: Copy>(&self, i: usize, bits: u8) -> Vec<T> {
        // SAFETY: a tensor that the engine made, not deleted yet.
        let tensor = unsafe { &(*self.0[i].cast::<DLManagedTensor>()).dl_tensor };
        assert_eq!((tensor.ndim, tensor.dtype.bits), (3, bits));
        assert_eq!(tensor.device.device_type, device_type::CPU);
        // SAFETY: three sizes, and as many elements as they say.
        unsafe {
            let shape = std::slice::from_raw_parts(tensor.shape, 3);
            assert_eq!(shape[1..], [HEIGHT as i64, WIDTH as i64]);
            let count = shape.iter().product::<i64>() as usize;
            std::slice::from_raw_parts(tensor.data.cast::<T>(), count).to_vec()
        }
    }

    fn delete(self) {
        for tensor in self.0 {
            let tensor = tensor.cast::<DLManagedTensor>();
            // SAFETY: a tensor that the engine made, deleted once.
            unsafe {
                let deleter = (*tensor).deleter.expect("a deleter");
                deleter(tensor);
            }
        }
    }
}

#[test]
fn tensors_come_in_and_go_out_and_outlive_the_handle() {
    let (h, w) = (HEIGHT as i64, WIDTH as i64);
    for device in devices() {
        let opened = opened(device);
        let images: Vec<Vec<u8>> = (0..2).map(|seed| noise(HEIGHT, WIDTH, seed)).collect();
        let expected = expected(&opened, &images);
        let planes: Vec<u8> = (images.iter())
            .flat_map(|p| (0..3).flat_map(|c| p.iter().skip(c).step_by(3)))
            .copied()
            .collect();
        let mut kept = Vec::new();
        for (held, first) in [
            (Held::new(images.concat(), vec![2, h, w, 3]), 0),
            (Held::new(planes, vec![2, 3, h, w]), 1),
        ] {
            let mut outs = Outs::new();
            fine(held.segment(opened.handle, first, &mut outs));
            kept.push(outs);
        }
        fine(u2pl_close(opened.handle));
        for outs in kept {
            assert_eq!(outs.values::<u8>(0, 8), expected.classes);
            assert_eq!(outs.values::<f32>(1, 32), expected.confidence);
            assert_eq!(outs.values::<f32>(2, 32), expected.entropy);
            outs.delete();
        }
    }
}

#[test]
fn tensors_that_are_no_images_are_refused() {
    let opened = Opened::new();
    let (h, w) = (HEIGHT as i64, WIDTH as i64);
    let pixels = || noise(HEIGHT, WIDTH, 1);
    for (held, first, words) in [
        (Held::new(pixels(), vec![h, w]), 0, ["image", "[H, W, C]"]),
        (Held::new(pixels(), vec![h, w, 3]), 1, ["image", "channels"]),
        (
            Held::new(pixels(), vec![0, w, 3]),
            0,
            ["image", "at least 1"],
        ),
        (
            Held::new(pixels(), vec![h, -1, 3]),
            0,
            ["image", "at least 1"],
        ),
    ] {
        let mut outs = Outs::new();
        let status = held.segment(opened.handle, first, &mut outs);
        refused(status, INPUT, &words);
        assert!(outs.0.iter().all(|out| out.is_null()));
    }
    let mut elsewhere = Held::new(pixels(), vec![h, w, 3]);
    elsewhere.tensor.dl_tensor.device.device_type = device_type::CUDA;
    let status = elsewhere.segment(opened.handle, 0, &mut Outs::new());
    refused(status, INPUT, &["cuda:0", "host memory"]);
    let none = null_mut();
    // SAFETY: null is refused, or not wanted.
    let wrong =
        unsafe { u2pl_segment_dlpack(opened.handle, null(), U2PL_RGB, 0, none, none, none) };
    refused(wrong, INPUT, &["image", "null"]);
    opened.works();
}

#[test]
fn a_stream_that_is_none_is_refused() {
    let run = tempfile::tempdir().unwrap();
    small::run_folder(run.path(), &small::config());
    let path = CString::new(run.path().to_str().unwrap()).unwrap();
    let open = |options: &u2pl_options| {
        let mut handle = std::ptr::dangling_mut();
        // SAFETY: no context is refused before it is used.
        let status = unsafe {
            u2pl_open_on_stream(path.as_ptr(), options, null_mut(), null_mut(), &mut handle)
        };
        assert!(handle.is_null());
        status
    };
    let status = open(&u2pl_options {
        device: c"cuda".as_ptr(),
        ..defaults()
    });
    refused(status, INPUT, &["options.device", "stream"]);
    // No driver, no context, or no device in this build.
    let status = open(&defaults());
    let wanted = if cfg!(feature = "cuda") {
        DEVICE
    } else {
        INPUT
    };
    assert_eq!(status, wanted, "{}", told());
}

#[test]
fn the_same_under_valgrind() {
    under_valgrind("the_same_under_valgrind");
}
