//! The `u2pl-engine` binary: see `cli`.
fn main() {}
