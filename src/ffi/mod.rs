//! The engine inside programs that are not written in Rust.

#[cfg(feature = "capi")]
pub mod capi;
pub mod dlpack;
