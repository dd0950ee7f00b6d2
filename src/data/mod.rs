//! Data: from images on disk (or made on the fly) to batches of decoded pixels.
//!
//! In: the `data` section of a [`Config`](crate::config::Config), split lists, JPEG and PNG files.
//! Out: [`Batch`]es of packed RGB bytes and class-index maps, in an order that depends on the seed
//! alone. Augmentation is the device's work; nothing here resizes at random, flips or crops.
//!
//! Follow one image: [`check`] has found every file before training starts, [`Dataset`] names the
//! sample, [`Loader`] decides when it comes and decodes it on a worker thread ([`decode`],
//! [`mask`]), [`pack`] lays it out for the device.

pub mod advice;
mod batch;
pub mod check;
mod dataset;
pub mod decode;
pub mod discover;
mod jpeg;
mod layout;
pub mod list;
mod loader;
pub mod mask;
pub mod names;
pub mod palette;
pub mod shapes;
pub mod split;
pub mod survey;

pub use batch::{Batch, pack};
pub use check::{Check, check};
pub use dataset::{Dataset, Part, Sample};
pub use decode::{Decoded, decode_image};
pub use loader::{Loader, LoaderSettings, epoch_order};
