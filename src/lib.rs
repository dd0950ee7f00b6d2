//! U2PL ("Semi-Supervised Semantic Segmentation Using Unreliable Pseudo-Labels", Wang et al.,
//! CVPR 2022) as one engine: data, network, method, training and inference over a small set of
//! fused operations that a [`device::Device`] executes.
//!
//! Follow one image: `data` decodes it, `device` augments it, `graph` runs the planned step that
//! `model` and `method` composed, `train` loops, `weights` saves, `eval` and `infer` use the
//! result. Before a GPU is used first, `contact` has it show, by the cases of `selftest`, that it
//! computes what the CPU does. Arrows point one way: cli → train/eval/infer → method, model → graph →
//! device, and train/eval/infer → contact → selftest → device.
//!
//! # Features
//!
//! | feature | what it adds |
//! |---|---|
//! | none | inference on the CPU: [`config`], [`weights`], [`model`], [`eval`], [`infer`] and what they stand on |
//! | `cli` (default) | the binary and what only it needs: training, datasets, scoring of datasets, export, benchmarks |
//! | `cuda` (default) | the CUDA device; builds without CUDA, loads the driver at run time |
//! | `cust-interop` | CUDA devices on the context and stream of a program that uses `cust` |
//! | `ptx` | the PTX machine (module `ptx`): compiled kernels executed on the CPU, for tests and for weighing |
//! | `simt` | the CUDA kernels on the CPU, for tests; needs a C++17 compiler |
#![deny(missing_docs)]
#![deny(unsafe_op_in_unsafe_fn)]

#[cfg(feature = "cli")]
pub mod bench;
#[cfg(feature = "cli")]
pub mod cli;
pub mod config;
pub mod contact;
#[cfg(feature = "cli")]
mod counted;
pub mod data;
pub mod device;
pub mod error;
pub mod eval;
#[cfg(feature = "cli")]
pub mod export;
pub mod ffi;
pub mod files;
#[cfg(feature = "cli")]
mod folders;
pub mod graph;
mod host;
pub mod infer;
#[cfg(feature = "cli")]
pub mod machine;
#[cfg(feature = "cli")]
pub mod method;
pub mod model;
#[cfg(feature = "ptx")]
pub mod ptx;
#[cfg(feature = "cli")]
pub mod report;
pub mod selftest;
#[cfg(feature = "cli")]
pub mod train;
#[cfg(all(feature = "cli", feature = "ptx"))]
pub mod weigh;
pub mod weights;

pub use error::{Error, Result};
