//! Shared by the integration tests: tensors on a device, and golden fixtures.
//!
//! Everything runs on any `&dyn Device`, so one suite serves every device.
#![allow(dead_code)] // each test binary uses a part

pub mod arena;
pub mod difference;
pub mod formula;
pub mod golden;
pub mod ops;
