//! Shared memory: bounds, alignment, words and what is wrong with an access.

use super::{Words, count_banks, lanes, misaligned, replace};
use crate::ptx::exec::warp::{Warp, Wide};
use crate::ptx::exec::{Common, Stop};
use crate::ptx::memory::shared::Wrong;

/// Words about what is wrong with an access to shared memory.
pub fn shared_wrong(common: &Common<'_>, what: &str, address: u32, wrong: Wrong) -> String {
    let line = |pc: u32| match common.entry.code.get(pc as usize) {
        Some(inst) => common.launch.module.at(inst),
        None => "?".into(),
    };
    match wrong {
        Wrong::Unwritten => format!("{what} shared address {address:#x}, which nobody wrote"),
        Wrong::Nothing => format!(
            "{what} shared address {address:#x}, out of bounds: {}",
            near(common, address)
        ),
        Wrong::InFlight { pc } => format!(
            "{what} shared address {address:#x} while a copy to it, issued at {}, has not been waited for",
            line(pc)
        ),
        Wrong::Unfenced { thread, pc } => {
            let who =
                thread.map_or_else(|| "a warp".to_string(), |thread| format!("thread {thread}"));
            let words = "with no fence.proxy.async in between";
            format!(
                "{what} shared address {address:#x}, which {who} wrote at {}, {words}",
                line(pc)
            )
        }
        Wrong::Race {
            wrote,
            thread,
            warp,
            pc,
        } => {
            let did = if wrote { "write" } else { "read" };
            let who = match thread {
                Some(thread) => format!("thread {thread}"),
                None if warp < 32 => format!("warp {warp}"),
                None => crate::ptx::exec::hopper::agent(warp),
            };
            format!(
                "data race: {what} shared address {address:#x}, not ordered with the {did} by {who} at {}",
                line(pc)
            )
        }
    }
}

/// The array that a shared address is next to.
fn near(common: &Common<'_>, address: u32) -> String {
    let layout = &common.entry.shared;
    let dynamic = (
        "dynamic shared memory".to_string(),
        layout.dynamic_start,
        common.launch.dynamic_shared_bytes,
    );
    let all = layout.arrays.iter().chain(std::iter::once(&dynamic));
    let mut before = all.filter(|(_, start, _)| *start <= address);
    match before.next_back() {
        Some((name, start, bytes)) => {
            format!("byte {} of {name}, which has {bytes}", address - start)
        }
        None => "before all shared memory".into(),
    }
}

/// The address of a shared access, checked for bounds and alignment.
#[inline(always)]
pub fn shared_address(
    common: &Common<'_>,
    lane: u32,
    what: &str,
    address: u64,
    bytes: u32,
) -> Result<u32, Stop> {
    let at = address as u32;
    if address > u64::from(u32::MAX) || !common.shared.holds(at, bytes) {
        return Err(Stop::lane(
            lane,
            format!(
                "{what} shared address {address:#x}, out of bounds: {}",
                near(common, at)
            ),
        ));
    }
    if !at.is_multiple_of(bytes) {
        return Err(misaligned(
            lane,
            &format!("{what} shared address"),
            address,
            bytes,
        ));
    }
    Ok(at)
}

/// A warp's load.
pub fn load_shared(
    w: &Warp,
    common: &mut Common<'_>,
    active: u32,
    addresses: &Wide,
    total: u32,
    words: &mut Words,
) -> Result<(), Stop> {
    if common.counting {
        count_banks(common, active, addresses, total);
    }
    for lane in lanes(active) {
        let at = shared_address(common, lane, "read of", addresses[lane as usize], total)?;
        let who = common.who(w, lane);
        let count = total.div_ceil(4);
        for word in 0..count {
            let address = at + 4 * word;
            common
                .shared
                .read(address, total.min(4), who, &common.clocks)
                .map_err(|wrong| {
                    Stop::lane(lane, shared_wrong(common, "read of", address, wrong))
                })?;
            let value = common.shared.word(address as usize / 4);
            words[word as usize][lane as usize] = value >> (8 * (address % 4));
        }
    }
    Ok(())
}

/// A warp's store.
pub fn store_shared(
    w: &Warp,
    common: &mut Common<'_>,
    active: u32,
    addresses: &Wide,
    total: u32,
    words: &Words,
) -> Result<(), Stop> {
    if common.counting {
        count_banks(common, active, addresses, total);
    }
    for lane in lanes(active) {
        let at = shared_address(common, lane, "write to", addresses[lane as usize], total)?;
        let who = common.who(w, lane);
        for word in 0..total.div_ceil(4) {
            let address = at + 4 * word;
            let value = words[word as usize][lane as usize];
            let old = common.shared.word(address as usize / 4);
            let new = match total {
                1 | 2 => replace(old, value, total, 8 * (address % 4)),
                _ => value,
            };
            if let Err(wrong) = common
                .shared
                .write(address, total.min(4), who, &common.clocks)
            {
                // Threads that write the same value by the same store: no matter who wins.
                let same = matches!(wrong, Wrong::Race { wrote: true, pc, .. } if pc == w.pc);
                if !same || old != new {
                    return Err(Stop::lane(
                        lane,
                        shared_wrong(common, "write to", address, wrong),
                    ));
                }
            }
            *common.shared.word_mut(address as usize / 4) = new;
        }
    }
    Ok(())
}
