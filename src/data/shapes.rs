//! The synthetic dataset of the demo: textured shapes on textured backgrounds.

/// Background and five shapes.
pub const CLASSES: usize = 6;
