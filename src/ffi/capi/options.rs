//! How a segmenter is opened.

use std::ffi::c_char;

use super::error::{Failure, guard, input, pointer, u2pl_status};
use super::handle::text;
use crate::device::Named;
use crate::device::gpu::MathMode;
use crate::eval::Tiling;
use crate::infer::Options;
use crate::weights::Prefer;

/// How `u2pl_open` opens a segmenter. Fill it with `u2pl_options_init`, then change what should be
/// otherwise; a NULL string is its default.
#[allow(non_camel_case_types)]
#[repr(C)]
#[derive(Clone, Copy)]
pub struct u2pl_options {
    /// Size of this structure, which is its version: `u2pl_options_init` sets it.
    pub struct_size: usize,
    /// `cpu` (default), `cuda`, `cuda:N`, or `simt` where the library has it.
    pub device: *const c_char,
    /// `fp32` (default), `bf16`, or on a GPU `tf32`.
    pub precision: *const c_char,
    /// Threads of the CPU device; 0: one for each core.
    pub threads: usize,
    /// Not 0: the student instead of the teacher of a checkpoint that holds both.
    pub student: u32,
    /// Not 0: look at the mirrored image, too.
    pub flip: u32,
    /// Configuration (YAML); NULL: the one saved with the weights.
    pub config: *const c_char,
    /// Factors of the sizes at which an image is looked at; NULL: 1 alone.
    pub scales: *const f32,
    /// How many.
    pub scale_count: usize,
    /// Longest side of a tile that larger images are cut into, pixels; 0: never cut.
    pub tile: usize,
    /// Least overlap of tiles, pixels; 0: a quarter of a tile.
    pub tile_overlap: usize,
    /// Calls that may run at once.
    pub callers: usize,
    /// Sizes of images that each caller keeps programs for.
    pub shapes: usize,
    /// Not 0: use a GPU's kernels without checking them against the CPU first, which otherwise takes
    /// seconds once for each GPU, driver and version of this library. What such a check says goes to
    /// standard error.
    pub no_check: u32,
}

/// Fills `options` with the defaults: the teacher, on the CPU in fp32, every image once and whole.
///
/// # Safety
/// `options` can be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn u2pl_options_init(options: *mut u2pl_options) -> u2pl_status {
    guard(|| {
        pointer("options", options, "pass the structure to fill")?;
        let default = Options::default();
        let filled = u2pl_options {
            struct_size: size_of::<u2pl_options>(),
            device: std::ptr::null(),
            precision: std::ptr::null(),
            threads: 0,
            student: 0,
            flip: 0,
            config: std::ptr::null(),
            scales: std::ptr::null(),
            scale_count: 0,
            tile: 0,
            tile_overlap: 0,
            callers: default.callers,
            shapes: default.shapes,
            no_check: 0,
        };
        // SAFETY: the caller's.
        unsafe { options.write(filled) };
        Ok(())
    })
}

/// What the caller chose.
pub(super) struct Chosen {
    /// Where one was named.
    pub device: Option<Named>,
    pub precision: MathMode,
    pub threads: usize,
    pub options: Options,
}

/// Checks a structure of the caller's, which begins with its size, before more of it is read.
///
/// # Safety
/// `given` is null or points to a structure of `T`'s kind, of this version or another.
pub(super) unsafe fn version<T>(at: &str, given: *const T) -> Result<(), Failure> {
    pointer(at, given, "pass the structure's address")?;
    // SAFETY: the caller's, and aligned.
    let found = unsafe { given.cast::<usize>().read() };
    let own = size_of::<T>();
    match found == own {
        true => Ok(()),
        false => Err(input(
            at,
            format!("struct_size is {found}, this library's structure has {own} bytes"),
            "set struct_size to sizeof of the structure and use the header of this library",
        )),
    }
}

/// # Safety
/// As of `u2pl_open`.
pub(super) unsafe fn read(options: *const u2pl_options) -> Result<Chosen, Failure> {
    let mut chosen = Chosen {
        device: None,
        precision: MathMode::Fp32,
        threads: 0,
        options: Options::default(),
    };
    if options.is_null() {
        return Ok(chosen);
    }
    // SAFETY: the caller's.
    unsafe { version("options", options) }?;
    // SAFETY: the caller's, and of this library's size.
    let given = unsafe { options.read() };
    if !given.device.is_null() {
        // SAFETY: the caller's.
        chosen.device = Some(Named::parse(unsafe {
            text("options.device", given.device)
        }?)?);
    }
    if !given.precision.is_null() {
        // SAFETY: the caller's.
        let name = unsafe { text("options.precision", given.precision) }?;
        let known = MathMode::ALL.into_iter().find(|m| m.name() == name);
        chosen.precision = known.ok_or_else(|| {
            let problem = format!("`{name}` is no precision");
            input("options.precision", problem, "use fp32, tf32 or bf16")
        })?;
    }
    chosen.threads = given.threads;
    let options = &mut chosen.options;
    if given.student != 0 {
        options.network = Prefer::Student;
    }
    options.flip = given.flip != 0;
    options.check.on = given.no_check == 0;
    if !given.config.is_null() {
        // SAFETY: the caller's.
        options.config = Some(unsafe { text("options.config", given.config) }?.into());
    }
    if !given.scales.is_null() || given.scale_count > 0 {
        pointer("options.scales", given.scales, "pass the first scale")?;
        if given.scale_count > 64 {
            let problem = format!("{} scales", given.scale_count);
            return Err(input("options.scale_count", problem, "give at most 64"));
        }
        // SAFETY: the caller's: that many floats.
        let scales = unsafe { std::slice::from_raw_parts(given.scales, given.scale_count) };
        options.scales = scales.to_vec();
    }
    if given.tile == 0 && given.tile_overlap > 0 {
        let problem = format!("{} pixels without tiles", given.tile_overlap);
        return Err(input("options.tile_overlap", problem, "set tile, too"));
    }
    if given.tile > 0 {
        let mut tiling = Tiling::new(given.tile);
        if given.tile_overlap > 0 {
            tiling.overlap = given.tile_overlap;
        }
        options.tiling = Some(tiling);
    }
    (options.callers, options.shapes) = (given.callers, given.shapes);
    Ok(chosen)
}
