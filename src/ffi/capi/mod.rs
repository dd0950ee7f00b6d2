//! The C interface: a [`crate::infer::Segmenter`] behind a handle.
//!
//! `include/u2pl_engine.h` is made from these files by cbindgen (`tests/header.rs` compares). What
//! every function promises: it returns a [`u2pl_status`], and after anything but `U2PL_OK` this
//! thread's [`u2pl_last_error`] says in one line what was wrong and what to do; no panic crosses the
//! boundary; an error leaves every handle usable.
//!
//! A handle is a number in the shape of a pointer: it is looked up, never followed. So a handle that
//! was closed, or never was one, is an error and nothing worse, and closing one while other threads
//! use it is safe: their calls end first.

mod error;
mod handle;
mod image;
mod on_device;
mod options;
mod segment;
mod tensor;

pub use error::{u2pl_last_error, u2pl_status};
pub use handle::{u2pl_close, u2pl_open, u2pl_segmenter, u2pl_version};
pub use image::{
    U2PL_BGR, U2PL_BGRA, U2PL_F32, U2PL_GRAY, U2PL_RGB, U2PL_RGBA, U2PL_U8, u2pl_image,
};
pub use on_device::{
    u2pl_device_image, u2pl_device_maps, u2pl_open_on_stream, u2pl_segment_device, u2pl_wait,
};
pub use options::{u2pl_options, u2pl_options_init};
pub use segment::{
    u2pl_classes, u2pl_maps, u2pl_memory_required, u2pl_palette, u2pl_segment, u2pl_warm_up,
    u2pl_weights_bytes,
};
pub use tensor::u2pl_segment_dlpack;
