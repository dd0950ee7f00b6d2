//! What the tests of the C interface share: an open handle, images and room for maps as C has them,
//! and what a call must have said.
#![allow(dead_code)] // each test binary uses a part

use std::ffi::{CStr, CString};
use std::path::Path;
use std::process::Command;
use std::ptr::null_mut;
use std::sync::Arc;

use super::small::{self, CLASSES, config, noise};
use tempfile::TempDir;
use u2pl_engine::device::cpu::CpuDevice;
use u2pl_engine::ffi::capi::u2pl_status::U2PL_OK as OK;
use u2pl_engine::ffi::capi::*;
use u2pl_engine::infer::{Image, Options, Samples, Segmentation, Segmenter};

pub const HEIGHT: usize = 40;
pub const WIDTH: usize = 56;

/// What this thread was told last.
pub fn told() -> String {
    // SAFETY: never null, and valid until the next call.
    let text = unsafe { CStr::from_ptr(u2pl_last_error()) };
    text.to_str().expect("UTF-8").to_string()
}

#[track_caller]
pub fn fine(status: u2pl_status) {
    assert_eq!(status, OK, "{}", told());
}

/// The call failed as `wanted`, in one line with all of `words`.
#[track_caller]
pub fn refused(found: u2pl_status, wanted: u2pl_status, words: &[&str]) {
    let told = told();
    assert_eq!(found, wanted, "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
    for word in words {
        assert!(told.contains(word), "no `{word}` in: {told}");
    }
}

pub fn defaults() -> u2pl_options {
    let mut options = std::mem::MaybeUninit::uninit();
    // SAFETY: it can be written, and is whole after U2PL_OK.
    unsafe {
        fine(u2pl_options_init(options.as_mut_ptr()));
        options.assume_init()
    }
}

pub fn try_open(path: &Path, options: &u2pl_options) -> (u2pl_status, *mut u2pl_segmenter) {
    let path = CString::new(path.to_str().expect("UTF-8")).expect("no zero");
    let mut handle = std::ptr::dangling_mut::<u2pl_segmenter>();
    // SAFETY: all three are there.
    let status = unsafe { u2pl_open(path.as_ptr(), options, &mut handle) };
    (status, handle)
}

/// A run folder and a handle of its weights.
pub struct Opened {
    pub run: TempDir,
    pub handle: *mut u2pl_segmenter,
}

// SAFETY: a handle may be used from any thread.
unsafe impl Sync for Opened {}

impl Opened {
    pub fn with(change: impl FnOnce(&mut u2pl_options)) -> Self {
        let run = tempfile::tempdir().expect("a folder");
        small::run_folder(run.path(), &config());
        let mut options = defaults();
        options.threads = 2;
        change(&mut options);
        let (status, handle) = try_open(run.path(), &options);
        fine(status);
        Self { run, handle }
    }

    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn segmenter(&self, options: Options) -> Segmenter {
        let device = Arc::new(CpuDevice::new(2).expect("threads"));
        Segmenter::open(self.run.path(), device, options).expect("weights")
    }

    /// The handle still does what it did.
    #[track_caller]
    pub fn works(&self) {
        let pixels = noise(HEIGHT, WIDTH, 1);
        let mut room = Room::new(HEIGHT * WIDTH);
        fine(self.segment(&[packed(&pixels)], &[room.maps()]));
        assert!(room.entropy.iter().all(|e| e.is_finite()));
    }

    pub fn segment(&self, images: &[u2pl_image], maps: &[u2pl_maps]) -> u2pl_status {
        assert_eq!(images.len(), maps.len());
        // SAFETY: as many of both; tests of wrong sizes know that they are found before any use.
        unsafe { u2pl_segment(self.handle, images.as_ptr(), images.len(), maps.as_ptr()) }
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        u2pl_close(self.handle);
    }
}

/// Bytes of RGB, [`HEIGHT`] × [`WIDTH`].
pub fn packed(pixels: &[u8]) -> u2pl_image {
    u2pl_image {
        struct_size: size_of::<u2pl_image>(),
        data: pixels.as_ptr().cast(),
        sample_count: pixels.len(),
        sample_type: U2PL_U8,
        channels: U2PL_RGB,
        height: HEIGHT,
        width: WIDTH,
        row_stride: 0,
        pixel_stride: 0,
        channel_stride: 0,
    }
}

/// Where maps go.
pub struct Room {
    pub classes: Vec<u8>,
    pub confidence: Vec<f32>,
    pub entropy: Vec<f32>,
    pub probabilities: Vec<f32>,
}

impl Room {
    pub fn new(pixels: usize) -> Self {
        Self {
            classes: vec![99; pixels],
            confidence: vec![f32::NAN; pixels],
            entropy: vec![f32::NAN; pixels],
            probabilities: vec![f32::NAN; CLASSES * pixels],
        }
    }

    pub fn maps(&mut self) -> u2pl_maps {
        u2pl_maps {
            struct_size: size_of::<u2pl_maps>(),
            pixels: self.classes.len(),
            classes: self.classes.as_mut_ptr(),
            confidence: self.confidence.as_mut_ptr(),
            entropy: self.entropy.as_mut_ptr(),
            probabilities: null_mut(),
        }
    }

    #[track_caller]
    pub fn holds(&self, found: &Segmentation) {
        assert_eq!(self.classes, found.classes);
        assert_eq!(self.confidence, found.confidence);
        assert_eq!(self.entropy, found.entropy);
    }
}

pub fn rgb(pixels: &[u8]) -> Image<'_> {
    Image::rgb(Samples::U8(pixels), HEIGHT, WIDTH).expect("an image")
}

const UNDER_VALGRIND: &str = "U2PL_TEST_UNDER_VALGRIND";

/// Whether [`under_valgrind`] runs this.
pub fn is_under_valgrind() -> bool {
    std::env::var_os(UNDER_VALGRIND).is_some()
}

/// Runs this test binary again, all but the test `but`, in valgrind: no access to memory that is not
/// the program's, and nothing lost.
pub fn under_valgrind(but: &str) {
    if Command::new("valgrind").arg("--version").output().is_err() {
        println!("valgrind is not installed (apt-get install valgrind): not run");
        return;
    }
    let output = Command::new("valgrind")
        .args(["--error-exitcode=9", "--leak-check=full", "-q"])
        .args([
            "--errors-for-leak-kinds=definite",
            "--show-leak-kinds=definite",
        ])
        .arg(std::env::current_exe().unwrap())
        .args(["--skip", but, "--test-threads", "1"])
        .env(UNDER_VALGRIND, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("test result: ok."), "{text}");
}
