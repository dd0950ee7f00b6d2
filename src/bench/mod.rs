//! Measuring: how long each operation takes on a device, and how far that is from what the
//! machine could do.
//!
//! Comes in: a recipe ([`Recipe`]) and a device. The recipe's own graphs say which operations run,
//! at which shapes and how often ([`table`]); [`Prepared`] gives a case memory and data on the
//! device. The same table serves `u2pl-engine bench`, criterion (`cargo bench --bench ops`) and
//! the comparison with PyTorch.

mod cases;
mod ceilings;
pub mod compare;
mod data;
pub mod floor;
mod measure;
mod names;
pub mod pipeline;
mod prepared;
mod recipes;
pub mod report;
#[cfg(test)]
mod tests;
pub mod versus;

pub use cases::{Case, Operand, Use, table};
#[cfg(feature = "ptx")]
pub(crate) use cases::{collect, programs};
pub use ceilings::Ceilings;
#[cfg(feature = "ptx")]
pub(crate) use data::values;
pub use measure::{Measured, Spread, Timer, check_seconds};
#[cfg(feature = "ptx")]
pub(crate) use names::number_repeats;
pub use prepared::{Prepared, copies_to_exceed};
pub use recipes::Recipe;
