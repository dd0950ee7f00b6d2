//! U2PL ("Semi-Supervised Semantic Segmentation Using Unreliable Pseudo-Labels", Wang et al.,
//! CVPR 2022) as one engine: data, network, method, training and inference over a small set of
//! fused operations that a [`device::Device`] executes.
//!
//! Follow one image: `data` decodes it, `device` augments it, `graph` runs the planned step that
//! `model` and `method` composed, `train` loops, `weights` saves, `eval` and `infer` use the
//! result. Arrows point one way: cli → train/eval/infer → method, model → graph → device.
#![deny(missing_docs)]
#![deny(unsafe_op_in_unsafe_fn)]

pub mod bench;
pub mod cli;
pub mod config;
pub mod data;
pub mod device;
pub mod error;
pub mod eval;
pub mod export;
pub mod ffi;
pub mod files;
pub mod graph;
pub mod infer;
pub mod machine;
pub mod method;
pub mod model;
pub mod report;
pub mod selftest;
pub mod train;
pub mod weights;

pub use error::{Error, Result};
