//! Networks in formats of other programs.

pub mod onnx;
