//! Data: from images on disk (or made on the fly) to batches of decoded pixels.

pub mod shapes;
