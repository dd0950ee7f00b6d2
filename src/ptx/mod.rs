//! The PTX machine: what nvcc compiled, executed on the CPU, warp by warp.
//!
//! A kernel's PTX comes in as text and is parsed once into a flat program ([`Module`]). A
//! [`Machine`] holds global memory that knows what was written, and runs an entry: 32 lanes in lock
//! step, divergence by immediate post-dominators, the warps of a block interleaved by a seeded
//! schedule. What comes out are the bytes in memory, [`Counters`], or a [`Fault`] that names kernel,
//! block, thread and source line. It knows nothing of the engine's devices.
//!
//! An instruction or a modifier that the machine does not know is a [`Problem`] at load, never a
//! guess. Follow one instruction: `parse` reads it, `program` decodes it, `flow` finds where
//! diverged lanes meet again, `exec` executes it on `memory`, `launch` spreads blocks over threads.

mod counters;
mod exec;
mod flow;
pub mod job;
mod launch;
mod machine;
mod memory;
mod options;
mod parse;
mod problem;
mod program;
mod schedule;
pub mod tensor;

pub use counters::{CLASSES, Class, Counters, Region};
pub use machine::Machine;
pub use options::{Arch, Checks, Counting, Options, Schedule};
pub use problem::{Fault, Problem};
pub use program::{Entry, Listing, Module, Param};
pub use tensor::Accumulation as MmaModel;
