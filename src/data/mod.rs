//! Data: from images on disk (or made on the fly) to batches of decoded pixels.
//!
//! In: the `data` section of a [`Config`](crate::config::Config), split lists, JPEG and PNG files.
//! Out: batches of packed RGB bytes and class-index maps, in an order that depends on the seed
//! alone. Augmentation is the device's work; nothing here resizes at random, flips or crops.
//!
//! What inference needs of it stands here: one image ([`decode`]), another size ([`resize`]),
//! colours ([`palette`]). Datasets, lists and loading ahead are training's, in `sets`.

pub mod decode;
mod exif;
mod guard;
mod jpeg;
pub mod palette;
pub mod resize;
#[cfg(feature = "cli")]
mod sets;

pub use decode::{Decoded, decode_image};
#[cfg(feature = "cli")]
pub(crate) use guard::guarded;
#[doc(hidden)]
pub use guard::inject;
#[cfg(feature = "cli")]
pub use sets::*;
