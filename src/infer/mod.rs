//! Inference: images to class maps, in someone else's program ([`Segmenter`]) or on disk
//! (`files`, what `u2pl-engine infer` does, with feature `cli`).
//!
//! Comes in: weights or a run folder, a device, and images of any size. Goes out: for every pixel
//! its class, how probable that is, and the entropy of all classes, the method's own measure of
//! doubt. Only what that takes is kept: the teacher by default, no optimiser, no representation
//! head.

#[cfg(feature = "image")]
mod convert;
#[cfg(feature = "cli")]
pub mod files;
mod image;
#[cfg(feature = "cli")]
mod inputs;
mod load;
#[cfg(feature = "cli")]
pub(crate) mod render;
mod segmenter;

pub use self::image::{Channels, Image, Samples, Strides};
#[cfg(feature = "cli")]
pub use inputs::{Input, Inputs, Search, find};
pub use load::{Network, config_of, config_with, open};
pub use segmenter::{
    DeviceMaps, InputShape, MOST_IMAGES, MapTensors, Options, Segmentation, Segmenter,
};

use crate::config::Config;

/// The configuration by which images from outside the dataset are scored.
///
/// Datasets are resized by `data.image_scale` right after decoding, masks too. Here the mask is
/// wanted at the image's own size, so the factor moves into the scales of the protocol.
pub fn adapt(cfg: &Config) -> Config {
    let mut cfg = cfg.clone();
    for scale in &mut cfg.eval.scales {
        *scale *= cfg.data.image_scale;
    }
    cfg.data.image_scale = 1.0;
    cfg
}
