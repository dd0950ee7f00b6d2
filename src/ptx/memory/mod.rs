//! Memory that knows what was written, by whom, and what is still on its way.

pub(super) mod blocks;
pub(super) mod clocks;
pub(super) mod global;
pub(super) mod shared;

/// Where a block's shared memory lies in the generic address space.
pub const SHARED_WINDOW: u64 = 0x7F00_0000_0000;
/// Where the parameters lie in it.
pub const PARAM_WINDOW: u64 = 0x7E00_0000_0000;
/// Bytes of such a window.
pub const WINDOW_BYTES: u64 = 1 << 24;
