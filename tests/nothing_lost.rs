//! What is on disk stays whole, what is wrong with it is said, and what is written twice is written
//! nowhere.
#![cfg(feature = "cli")]

#[path = "nothing_lost/checkpoints.rs"]
mod checkpoints;
#[path = "nothing_lost/finite.rs"]
mod finite;
#[path = "nothing_lost/night.rs"]
mod night;
#[path = "support/place.rs"]
mod place;
#[path = "nothing_lost/resume.rs"]
mod resume;
#[path = "nothing_lost/runs.rs"]
mod runs;
#[path = "nothing_lost/written.rs"]
mod written;
