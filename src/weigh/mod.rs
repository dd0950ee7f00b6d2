//! Weighing: what the kernels of a step execute and move, counted by the PTX machine, and the least time
//! that a chip can take for it. Every time here is a prediction.
//!
//! Comes in: a recipe ([`crate::bench::Recipe`]), an architecture. The recipe's own graph says which
//! operations run at which shapes; each distinct one is launched as a step would launch it, on a machine
//! that executes a sample of the blocks ([`crate::device::gpu::ptx::weigh`]). What comes out are counts
//! ([`Launch`]), their sums by kernel and by layer ([`Weighing`]), and times on a [`Chip`].
//!
//! It stands on `bench`, for the cases, and on the devices; nothing stands on it but the command line.
//! `crate::ptx` knows nothing of it: it counts, whatever the counts are for.

mod chip;
mod cost;
mod launch;
mod report;
mod step;
mod table;

pub use chip::Chip;
pub use launch::{Launch, Loop, RESOURCES, Resource};
pub use report::{json, text};
pub use step::{Call, Options, Weighing};
pub use table::{Row, read_table, rows, write_table};
