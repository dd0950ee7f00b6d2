//! U2PL itself: schedules, and the training step composed from fused operations.
//!
//! [`schedule`] turns (iteration, epoch) into the handful of scalars that a step reads;
//! [`state`] lays out what survives a step; [`step`] writes a step as a graph; [`diagnostics`]
//! reads back what it did. Nothing here knows which device runs it.

mod contrast;
pub mod diagnostics;
pub mod schedule;
pub mod state;
pub mod step;
