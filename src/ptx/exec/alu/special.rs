//! Registers that the hardware sets.

use crate::ptx::exec::Common;
use crate::ptx::exec::warp::{Row, Warp};
use crate::ptx::program::resolve::Special;

/// Multiprocessors of an H100 (SXM).
const MULTIPROCESSORS: u32 = 132;

/// Its value in each lane.
pub fn special(w: &Warp, common: &Common<'_>, what: Special) -> Row {
    let launch = common.launch;
    let [x, y, _] = launch.block;
    let thread = |lane: u32| 32 * w.index + lane;
    let mut out: Row = [0; 32];
    for (lane, out) in (0u32..).zip(out.iter_mut()) {
        *out = match what {
            Special::Tid(0) => thread(lane) % x,
            Special::Tid(1) => thread(lane) / x % y,
            Special::Tid(_) => thread(lane) / x / y,
            Special::Ntid(axis) => launch.block[usize::from(axis)],
            Special::Ctaid(axis) => common.at[usize::from(axis)],
            Special::Nctaid(axis) => launch.grid[usize::from(axis)],
            Special::Laneid => lane,
            Special::Warpid => w.index,
            Special::Nwarpid => (x * y * launch.block[2]).div_ceil(32),
            Special::LanemaskEq => 1 << lane,
            Special::LanemaskLt => (1 << lane) - 1,
            Special::LanemaskLe => (1 << lane) | ((1 << lane) - 1),
            Special::LanemaskGt => !((1 << lane) | ((1 << lane) - 1)),
            Special::LanemaskGe => !((1 << lane) - 1),
            Special::Zero => 0,
            Special::One => 1,
            Special::DynamicShared => launch.dynamic_shared_bytes,
            Special::TotalShared => common.shared.end(),
            Special::Clock => common.clock_now as u32,
            Special::Smid => common.block % MULTIPROCESSORS,
            Special::Nsmid => MULTIPROCESSORS,
        };
    }
    out
}
