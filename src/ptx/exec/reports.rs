//! Words about a block that cannot go on.

use super::warp::{Status, Warp};
use super::{BlockFault, Common, Stop};

/// Warps that a report lists.
const SHOWN: usize = 6;

/// The fault of a warp at its instruction.
pub fn fault(warp: &Warp, stop: Stop) -> BlockFault {
    let lanes = if warp.active != 0 {
        warp.active
    } else {
        warp.born
    };
    let lane = stop.lane.unwrap_or(lanes.trailing_zeros() & 31);
    BlockFault {
        thread: Some(32 * warp.index + lane),
        pc: Some(warp.pc),
        what: stop.what,
    }
}

/// Where warps are, one after the other.
fn places(warps: &[Warp], common: &Common<'_>) -> String {
    let alive: Vec<&Warp> = warps.iter().filter(|w| w.status != Status::Done).collect();
    let mut words: Vec<String> = alive
        .iter()
        .take(SHOWN)
        .map(|warp| {
            let line = match common.entry.code.get(warp.pc as usize) {
                Some(inst) => common.launch.module.at(inst),
                None => "?".into(),
            };
            let state = match warp.status {
                Status::Barrier(id) => {
                    let (arrived, expected) = common.barriers.progress(id);
                    format!("waits at barrier {id} ({arrived} of {expected} threads) at")
                }
                Status::Blocked => format!("{} at", super::hopper::describe(common, warp)),
                _ => "at".into(),
            };
            format!("warp {} {state} {line}", warp.index)
        })
        .collect();
    if alive.len() > SHOWN {
        words.push(format!("and {} more", alive.len() - SHOWN));
    }
    words.join("; ")
}

/// Nobody can run.
pub fn deadlock(warps: &[Warp], common: &Common<'_>) -> BlockFault {
    BlockFault {
        thread: None,
        pc: None,
        what: format!("deadlock: {}", places(warps, common)),
    }
}

/// Too many instructions.
pub fn endless(warps: &[Warp], common: &Common<'_>) -> BlockFault {
    let bound = common.launch.options.max_instructions;
    BlockFault {
        thread: None,
        pc: None,
        what: format!(
            "more than {bound} warp instructions in a block, perhaps a loop without end: {}",
            places(warps, common)
        ),
    }
}
