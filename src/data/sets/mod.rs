//! Datasets: many images, with and without labels, in the order that training takes them.
//!
//! Follow one image: [`check`] has found every file before training starts, [`Dataset`] names the
//! sample, [`Loader`] decides when it comes and decodes it on a worker thread
//! ([`decode`](crate::data::decode), [`mask`]), [`pack`] lays it out for the device.

pub mod absent;
pub mod advice;
mod batch;
pub mod check;
mod dataset;
pub mod discover;
mod layout;
pub mod list;
mod loader;
pub mod mask;
mod scale;
pub mod shapes;
pub mod split;
pub mod survey;

pub use batch::{Batch, pack};
pub use check::{Check, check};
pub use dataset::{Dataset, Part, Sample};
pub use layout::result_name;
pub use loader::{Loader, LoaderSettings, Skipped, epoch_order};
