//! Memory that knows what was written, by whom, and what is still on its way.

pub(super) mod blocks;
pub(super) mod clocks;
pub(super) mod global;
pub(super) mod shared;

/// Where a block's shared memory lies in the generic address space.
pub const SHARED_WINDOW: u64 = 0x7F00_0000_0000;
/// Where the parameters lie in it.
pub const PARAM_WINDOW: u64 = 0x7E00_0000_0000;
/// Where a thread's local memory lies in it.
pub const LOCAL_WINDOW: u64 = 0x7D00_0000_0000;
/// Where functions have their addresses.
pub const FUNCTION_WINDOW: u64 = 0x7C00_0000_0000;
/// Where a module's own variables start.
pub const MODULE_START: u64 = 0x6000_0000_0000;
/// Where local memory starts in its window: behind every offset of a kernel's parameter, so that
/// a parameter of a function, which lives in local memory, is told from one of the kernel.
pub const LOCAL_START: u32 = 1 << 20;
/// Bytes of such a window.
pub const WINDOW_BYTES: u64 = 1 << 24;
