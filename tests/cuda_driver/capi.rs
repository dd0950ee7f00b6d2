//! The C interface on what the fake's host lends.

use std::ffi::{CStr, CString};
use std::ptr::null_mut;

use u2pl_engine::ffi::capi::*;

use super::lent::{Host, counts, small};
use super::{leaks, set_launcher};

const H: usize = 33;
const W: usize = 40;

#[track_caller]
fn fine(status: u2pl_status) {
    // SAFETY: never null, and valid until the next call.
    let told = unsafe { CStr::from_ptr(u2pl_last_error()) };
    assert_eq!(status, u2pl_status::U2PL_OK, "{told:?}");
}

/// Images in the host's memory are segmented on its stream: nothing waits, nothing passes through the
/// host, and closing the handle leaves what was lent as it was.
pub fn segment() {
    let host = Host::new();
    set_launcher(super::on_the_host::execute);
    let run = tempfile::tempdir().expect("a folder");
    small::run_folder(run.path(), &small::config());
    let path = CString::new(run.path().to_str().expect("UTF-8")).expect("no zero");
    let mut handle = null_mut();
    let options = std::ptr::null();
    let (context, stream) = (host.context, host.stream);
    // SAFETY: the fake's own, which live as long as the process.
    fine(unsafe { u2pl_open_on_stream(path.as_ptr(), options, context, stream, &mut handle) });
    host.is_undisturbed();
    fine(u2pl_warm_up(handle, 1, 1, H, W, 0));

    let pixels = small::noise(H, W, 1);
    let image = u2pl_image {
        struct_size: size_of::<u2pl_image>(),
        data: pixels.as_ptr().cast(),
        sample_count: pixels.len(),
        sample_type: U2PL_U8,
        channels: U2PL_RGB,
        height: H,
        width: W,
        row_stride: 0,
        pixel_stride: 0,
        channel_stride: 0,
    };
    let mut expected = vec![0u8; H * W];
    let maps = u2pl_maps {
        struct_size: size_of::<u2pl_maps>(),
        pixels: H * W,
        classes: expected.as_mut_ptr(),
        confidence: null_mut(),
        entropy: null_mut(),
        probabilities: null_mut(),
    };
    // SAFETY: one of both.
    fine(unsafe { u2pl_segment(handle, &image, 1, &maps) });

    let (data, classes) = (Host::memory(pixels.len(), 0), Host::memory(H * W, 0));
    // SAFETY: the fake's device memory is the host's.
    unsafe { std::ptr::copy_nonoverlapping(pixels.as_ptr(), data as *mut u8, pixels.len()) };
    let image = u2pl_device_image {
        struct_size: size_of::<u2pl_device_image>(),
        data,
        sample_type: U2PL_U8,
        channels: U2PL_RGB,
        images: 1,
        height: H,
        width: W,
        image_stride: 0,
        row_stride: 0,
        pixel_stride: 0,
        channel_stride: 0,
    };
    let maps = u2pl_device_maps {
        struct_size: size_of::<u2pl_device_maps>(),
        classes,
        confidence: 0,
        entropy: 0,
    };
    let [waits, transfers, replays] = counts();
    // SAFETY: memory of the fake's host, which is never freed.
    fine(unsafe { u2pl_segment_device(handle, &image, &maps) });
    assert_eq!(counts(), [waits, transfers, replays + 1]);
    host.is_undisturbed();
    // SAFETY: memory of the fake's host of this size.
    let found = unsafe { std::slice::from_raw_parts(classes as *const u8, H * W) };
    assert!(found.iter().all(|&c| c == 0xcd), "waited");
    fine(u2pl_wait(handle));
    assert_eq!(found, expected);
    fine(u2pl_close(handle));
    assert_eq!(leaks(), 0, "leaks");
    host.is_undisturbed();
}
