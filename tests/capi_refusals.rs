//! The C interface, called wrongly: a status and a message for everything that can be wrong with an
//! argument, after which every handle works as before.

use std::ffi::{CString, c_char};
use std::path::Path;
use std::ptr::{null, null_mut};

#[path = "support/small.rs"]
mod small;
#[path = "support/capi.rs"]
mod support;

use small::{config, noise};
use support::*;
use u2pl_engine::config::schema::Encoder;
use u2pl_engine::ffi::capi::u2pl_status::{
    U2PL_ERROR_HANDLE as HANDLE, U2PL_ERROR_INPUT as INPUT, U2PL_ERROR_IO as IO,
    U2PL_ERROR_MEMORY as MEMORY, U2PL_OK as OK,
};
use u2pl_engine::ffi::capi::*;
use u2pl_engine::infer::MOST_IMAGES;

/// The address one byte after `value`'s.
fn odd<T>(value: *const T) -> *const T {
    value.cast::<u8>().wrapping_add(1).cast()
}

/// Every function that takes a handle, with `handle`.
fn calls(handle: *mut u2pl_segmenter) -> Vec<u2pl_status> {
    let (mut number, mut palette) = (0, [0u8; 768]);
    let pixels = noise(HEIGHT, WIDTH, 1);
    let mut room = Room::new(HEIGHT * WIDTH);
    // SAFETY: handles are looked up, not followed; the places are large enough.
    unsafe {
        vec![
            u2pl_segment(handle, &packed(&pixels), 1, &room.maps()),
            u2pl_classes(handle, &mut number),
            u2pl_weights_bytes(handle, &mut number),
            u2pl_palette(handle, palette.as_mut_ptr()),
            u2pl_memory_required(handle, 1, HEIGHT, WIDTH, U2PL_U8, &mut number),
            u2pl_warm_up(handle, 1, 1, HEIGHT, WIDTH, U2PL_U8),
        ]
    }
}

#[test]
fn handles_that_are_none_are_found_out() {
    let opened = Opened::new();
    let other = Opened::new();
    fine(u2pl_close(other.handle));
    let on_the_stack = 0u64;
    let wild = [
        null_mut(),
        other.handle,
        (&raw const on_the_stack) as *mut u2pl_segmenter,
        (opened.handle as usize + 1) as *mut u2pl_segmenter,
        usize::MAX as *mut u2pl_segmenter,
    ];
    for handle in wild {
        assert_eq!(calls(handle), [HANDLE; 6]);
        refused(
            u2pl_warm_up(handle, 1, 1, 8, 8, U2PL_U8),
            HANDLE,
            &["u2pl_open"],
        );
    }
    for handle in &wild[1..] {
        refused(u2pl_close(*handle), HANDLE, &["u2pl_close"]);
    }
    fine(u2pl_close(null_mut()));
    assert_eq!(calls(opened.handle), [OK; 6]);
}

#[test]
fn weights_that_are_none_or_of_another_network() {
    let opened = Opened::new();
    let run = opened.run.path();
    let refuse = |path: &Path, options: &u2pl_options, status, words: &[&str]| {
        let (found, handle) = try_open(path, options);
        refused(found, status, words);
        assert!(handle.is_null());
    };
    let plain = defaults();
    refuse(&run.join("none"), &plain, IO, &["none"]);
    refuse(&run.join("checkpoints"), &plain, INPUT, &["run folder"]);
    refuse(&run.join("config.yaml"), &plain, INPUT, &["config.yaml"]);

    let mut other = config();
    other.model.encoder = Encoder::Resnet34;
    let path = run.join("other.yaml");
    std::fs::write(&path, other.to_yaml().unwrap()).unwrap();
    let path = CString::new(path.to_str().unwrap()).unwrap();
    let options = u2pl_options {
        config: path.as_ptr(),
        ..plain
    };
    refuse(run, &options, INPUT, &["another architecture"]);
    opened.works();
}

#[test]
fn options_that_make_no_sense() {
    let opened = Opened::new();
    let refuse = |change: &dyn Fn(&mut u2pl_options), words: &[&str]| {
        let mut options = defaults();
        change(&mut options);
        let (found, handle) = try_open(opened.run.path(), &options);
        refused(found, INPUT, words);
        assert!(handle.is_null());
    };
    let zero = [0f32];
    refuse(&|o| o.struct_size -= 8, &["struct_size"]);
    refuse(&|o| o.struct_size = usize::MAX, &["struct_size"]);
    refuse(&|o| o.device = c"tpu".as_ptr(), &["tpu", "cuda:N"]);
    refuse(&|o| o.device = c"cuda:-1".as_ptr(), &["cuda:-1"]);
    refuse(
        &|o| o.device = c"\xff".as_ptr(),
        &["options.device", "UTF-8"],
    );
    refuse(&|o| o.precision = c"fp8".as_ptr(), &["fp8", "bf16"]);
    refuse(&|o| o.precision = c"tf32".as_ptr(), &["tf32"]);
    refuse(&|o| o.threads = usize::MAX, &["threads"]);
    refuse(&|o| o.scale_count = 1, &["options.scales", "null"]);
    refuse(&|o| o.scales = zero.as_ptr(), &["scales"]);
    refuse(
        &|o| (o.scales, o.scale_count) = (zero.as_ptr(), 1),
        &["scales"],
    );
    refuse(
        &|o| (o.scales, o.scale_count) = (zero.as_ptr(), 1 << 40),
        &["scale_count"],
    );
    refuse(
        &|o| (o.scales, o.scale_count) = (odd(zero.as_ptr()), 1),
        &["options.scales"],
    );
    refuse(&|o| o.tile = 3, &["tile"]);
    refuse(
        &|o| (o.tile, o.tile_overlap) = (usize::MAX, usize::MAX),
        &["tile"],
    );
    refuse(&|o| o.tile_overlap = 16, &["tile_overlap"]);
    refuse(&|o| o.callers = 0, &["callers"]);
    refuse(&|o| o.shapes = 0, &["shapes"]);
    let mut nowhere = defaults();
    nowhere.config = c"/nowhere.yaml".as_ptr();
    let (found, handle) = try_open(opened.run.path(), &nowhere);
    refused(found, IO, &["nowhere.yaml"]);
    assert!(handle.is_null());

    let (options, mut handle) = (defaults(), null_mut());
    let path = CString::new(opened.run.path().to_str().unwrap()).unwrap();
    let path: *const c_char = path.as_ptr();
    // SAFETY: what is null or at an odd address is refused before it is used.
    unsafe {
        refused(u2pl_open(null(), &options, &mut handle), INPUT, &["path"]);
        refused(u2pl_open(path, &options, null_mut()), INPUT, &["out"]);
        refused(
            u2pl_open(path, &options, odd(&handle).cast_mut()),
            INPUT,
            &["out"],
        );
        refused(
            u2pl_open(path, odd(&options), &mut handle),
            INPUT,
            &["options"],
        );
        refused(u2pl_options_init(null_mut()), INPUT, &["options"]);
        assert!(handle.is_null());
        fine(u2pl_open(path, null(), &mut handle));
        fine(u2pl_close(handle));
    }
    opened.works();
}

#[test]
fn images_that_are_none() {
    let opened = Opened::new();
    let pixels = noise(HEIGHT, WIDTH, 1);
    let floats = vec![0.5f32; pixels.len() + 1];
    let mut room = Room::new(HEIGHT * WIDTH);
    let maps = room.maps();
    let refuse = |change: &dyn Fn(&mut u2pl_image), words: &[&str]| {
        let mut image = packed(&pixels);
        change(&mut image);
        refused(opened.segment(&[image], &[maps]), INPUT, words);
        // The second of a batch is looked at like the first.
        let both = [packed(&pixels), image];
        refused(opened.segment(&both, &[maps; 2]), INPUT, words);
    };
    refuse(&|i| i.struct_size = 0, &["struct_size"]);
    refuse(&|i| i.data = null(), &["image.data", "null"]);
    refuse(&|i| i.sample_type = 2, &["sample_type", "U2PL_F32"]);
    refuse(
        &|i| (i.sample_type, i.data) = (U2PL_F32, odd(floats.as_ptr()).cast()),
        &["image.data", "multiple of 4"],
    );
    // Channels that do not exist, and more than the buffer has.
    refuse(&|i| i.channels = 5, &["image.channels", "U2PL_GRAY"]);
    refuse(&|i| i.channels = U2PL_RGBA, &["8960 samples", "6720"]);
    refuse(&|i| i.sample_count -= 1, &["6720 samples", "6719"]);
    refuse(&|i| i.sample_count = usize::MAX, &["sample_count"]);
    // Sizes of nothing, and sizes past all numbers.
    refuse(&|i| i.height = 0, &["56 × 0"]);
    refuse(&|i| i.width = 0, &["0 × 40"]);
    refuse(&|i| i.width = 1, &["2 × 2"]);
    refuse(&|i| i.height = usize::MAX, &["overflow"]);
    refuse(&|i| (i.height, i.width) = (1 << 33, 1 << 33), &["overflow"]);
    refuse(
        &|i| (i.row_stride, i.channel_stride) = (usize::MAX / 2, 1),
        &["overflow"],
    );
    refuse(
        &|i| (i.row_stride, i.pixel_stride) = (3 * WIDTH + 1, 3),
        &["strides"],
    );
    assert!(
        room.classes.iter().all(|&c| c == 99),
        "something was written"
    );
    opened.works();
}

#[test]
fn rooms_too_small_and_calls_without_arguments() {
    let opened = Opened::new();
    let pixels = noise(HEIGHT, WIDTH, 1);
    let image = packed(&pixels);
    let mut room = Room::new(HEIGHT * WIDTH);
    let maps = room.maps();
    let refuse = |change: &dyn Fn(&mut u2pl_maps), words: &[&str]| {
        let mut wrong = maps;
        change(&mut wrong);
        refused(opened.segment(&[image], &[wrong]), INPUT, words);
        refused(opened.segment(&[image; 2], &[maps, wrong]), INPUT, words);
    };
    refuse(&|m| m.struct_size += 1, &["struct_size"]);
    refuse(&|m| m.pixels -= 1, &["maps.pixels", "2240"]);
    refuse(
        &|m| m.entropy = odd(m.entropy).cast_mut(),
        &["maps.entropy", "multiple of 4"],
    );

    let (handle, at) = (opened.handle, &mut 0usize as *mut usize);
    let odd_at = odd(at).cast_mut();
    let many = MOST_IMAGES + 1;
    let required = |images, height, width, samples, out| {
        // SAFETY: what is null or at an odd address is refused before it is used.
        unsafe { u2pl_memory_required(handle, images, height, width, samples, out) }
    };
    // SAFETY: as above.
    unsafe {
        refused(u2pl_segment(handle, null(), 1, &maps), INPUT, &["images"]);
        refused(u2pl_segment(handle, &image, 1, null()), INPUT, &["maps"]);
        refused(
            u2pl_segment(handle, odd(&image), 1, &maps),
            INPUT,
            &["images"],
        );
        refused(u2pl_segment(handle, &image, many, &maps), INPUT, &["count"]);
        fine(u2pl_segment(handle, null(), 0, null()));
        refused(u2pl_classes(handle, null_mut()), INPUT, &["out"]);
        refused(u2pl_classes(handle, odd_at), INPUT, &["out"]);
        refused(u2pl_weights_bytes(handle, null_mut()), INPUT, &["out"]);
        refused(u2pl_palette(handle, null_mut()), INPUT, &["out"]);
    }
    refused(required(1, 40, 40, U2PL_U8, null_mut()), INPUT, &["out"]);
    refused(required(1, 40, 40, 9, at), INPUT, &["sample_type"]);
    for (images, height, width) in [
        (0, 40, 40),
        (1, 0, 40),
        (1, 40, 1),
        (1, usize::MAX, 40),
        (usize::MAX, 40, 40),
        (1 << 16, 1 << 24, 1 << 24),
    ] {
        refused(
            required(images, height, width, U2PL_U8, at),
            INPUT,
            &["image"],
        );
        let status = u2pl_warm_up(handle, 1, images, height, width, U2PL_U8);
        refused(status, INPUT, &["image"]);
    }
    opened.works();
}

/// One grey sample seen 2³⁶ times.
#[test]
fn an_image_larger_than_memory_is_refused_and_tiles_are_offered() {
    let opened = Opened::new();
    let grey = [90u8];
    let side = 1 << 18;
    let huge = u2pl_image {
        channels: U2PL_GRAY,
        height: side,
        width: side,
        channel_stride: 1,
        ..packed(&grey)
    };
    let mut room = Room::new(1);
    // Found before anything is written.
    let maps = u2pl_maps {
        pixels: side * side,
        ..room.maps()
    };
    refused(opened.segment(&[huge], &[maps]), MEMORY, &["GiB", "tiling"]);
    let status = u2pl_warm_up(opened.handle, 1, 1, side, side, U2PL_U8);
    refused(status, MEMORY, &["GiB"]);
    opened.works();
}

#[test]
fn the_same_under_valgrind() {
    under_valgrind("the_same_under_valgrind");
}
