//! The engine against PyTorch and ONNX Runtime, side by side in one run.
//!
//! Every side is a process of its own, so that its peak memory is its own: this binary again for
//! the engine, a script of `benches/peers` (embedded, [`scripts`]) for a peer. All of them are
//! started, then take turns (A B C A B C …), so that whatever else loads the machine loads each
//! alike. [`side`] is the conversation, [`work`] what is measured, [`engine`] the engine's side
//! ([`inference`] that of whole images), [`turns`] the taking of turns, [`report`] the tables,
//! [`summary`] the table of all cases.

pub mod engine;
pub mod inference;
pub mod report;
pub mod scripts;
pub mod side;
pub mod summary;
#[cfg(test)]
mod tests;
pub mod turns;
pub mod work;
