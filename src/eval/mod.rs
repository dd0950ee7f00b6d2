//! Evaluation: from weights and images to class maps and mIoU.
//!
//! Comes in: weights in a state arena, decoded images of any size, and the protocol of
//! `cfg.eval`. Goes out: `Metrics` of a dataset (`Evaluator`, with feature `cli`) or [`Maps`] of
//! one image ([`Predictor`], which `infer` shares). Nothing here trains or writes files.
//!
//! ```text
//!  image ── whole ──────────── network ── confusion / maps        (one program)
//!        ├─ scales, flips, windows ── network ── score map ── confusion / maps
//!        └─ tiles ── network, twice ── logits of the whole image ── maps
//! ```

#[cfg(feature = "cli")]
mod boundary;
#[cfg(feature = "cli")]
mod evaluator;
mod finite;
mod loaded;
#[cfg(feature = "cli")]
mod metrics;
mod network;
mod predictor;
pub mod prefetch;
mod scores;
mod tiled;
mod tiles;
mod windows;

#[cfg(test)]
mod tests;

#[cfg(feature = "cli")]
pub use boundary::Boundary;
#[cfg(feature = "cli")]
pub use evaluator::{Evaluator, Look, Scored};
pub use loaded::LoadedWeights;
#[cfg(feature = "cli")]
pub use metrics::Metrics;
pub use network::{MapPlaces, Weights, inference_graph};
pub use predictor::{Maps, Predictor, Scores};
pub use tiles::Tiling;
pub use windows::{Rect, Rgb, Sample, SampleKind, Sliding};
