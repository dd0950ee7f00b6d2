//! `cp.async`: copies to shared memory that a thread starts, commits in groups and waits for.

use super::access::{self, lanes, shared_address, shared_wrong};
use super::warp::{Copy, Row, Warp};
use super::{Common, Stop};
use crate::ptx::program::op::{Addr, P, R};

/// Starts a copy of each lane. The bytes are there at once; that they are in flight is on the words.
#[allow(clippy::too_many_arguments)]
pub fn copy(
    w: &mut Warp,
    common: &mut Common<'_>,
    active: u32,
    bytes: u32,
    to: Addr,
    from: Addr,
    source_bytes: Option<R>,
    ignore: Option<P>,
) -> Result<(), Stop> {
    let to = access::addresses(w, common, to);
    let from = access::addresses(w, common, from);
    let mut take: Row = match source_bytes {
        Some(row) => *w.r(common.entry, row),
        None => [bytes; 32],
    };
    if let Some(p) = ignore {
        let ignored = w.p(p);
        for lane in lanes(ignored) {
            take[lane as usize] = 0;
        }
    }
    if common.counting {
        access::count_banks(common, active, &to, bytes);
        let read = lanes(active)
            .filter(|lane| take[*lane as usize] != 0)
            .fold(0, |mask, lane| mask | 1 << lane);
        access::count_sectors(w, common, read, &from, bytes, false);
    }
    let mut target: Row = [0; 32];
    for lane in lanes(active) {
        let i = lane as usize;
        let at = shared_address(common, lane, "cp.async to", to[i], bytes)?;
        target[i] = at;
        if take[i] > bytes {
            return Err(Stop::lane(
                lane,
                format!("cp.async of {bytes} bytes with a source of {}", take[i]),
            ));
        }
        if !from[i].is_multiple_of(u64::from(bytes)) {
            return Err(Stop::lane(
                lane,
                format!(
                    "cp.async from {:#x}, misaligned: not a multiple of {bytes}",
                    from[i]
                ),
            ));
        }
        let words = source(w, common, lane, from[i], take[i])?;
        let who = common.who(w, lane);
        common
            .shared
            .depart(at, bytes, who, &common.clocks)
            .map_err(|wrong| Stop::lane(lane, shared_wrong(common, "cp.async to", at, wrong)))?;
        for (word, value) in words.iter().enumerate().take(bytes as usize / 4) {
            *common.shared.word_mut(at as usize / 4 + word) = *value;
        }
    }
    w.copies.push_back(Copy {
        mask: active,
        bytes,
        pc: w.pc,
        to: target,
        group: w.committed,
    });
    Ok(())
}

/// The first `take` bytes (at most 16) of a lane's source, zeros behind them.
fn source(
    w: &mut Warp,
    common: &mut Common<'_>,
    lane: u32,
    from: u64,
    take: u32,
) -> Result<[u32; 4], Stop> {
    let mut out = [0; 4];
    if take == 0 {
        return Ok(out);
    }
    let (found, offset) = access::allocation(w, common, lane, "cp.async from", from, take)?;
    access::check_read(w, common, lane, "cp.async from", found, offset, take, false)?;
    for (word, out) in out.iter_mut().enumerate().take(take.div_ceil(4) as usize) {
        let bytes = (take - 4 * word as u32).min(4);
        let value = found
            .word(offset / 4 + word)
            .load(std::sync::atomic::Ordering::Relaxed);
        *out = value & (u32::MAX >> (32 - 8 * bytes));
    }
    Ok(out)
}

/// What each lane has started since its last commit becomes a group.
pub fn commit(w: &mut Warp, active: u32) {
    for lane in lanes(active) {
        w.committed[lane as usize] += 1;
    }
}

/// Waits until at most `left` groups of each lane are in flight, or with `None` nothing is.
pub fn wait(w: &mut Warp, common: &mut Common<'_>, active: u32, left: Option<u32>) {
    let pc = w.pc;
    for k in 0..w.copies.len() {
        let copy = &w.copies[k];
        let mut landed = 0;
        for lane in lanes(copy.mask & active) {
            let i = lane as usize;
            let done = match left {
                Some(left) => {
                    u64::from(copy.group[i]) + u64::from(left) < u64::from(w.committed[i])
                }
                None => true,
            };
            landed |= u32::from(done) << lane;
        }
        let (to, bytes, issued) = (copy.to, copy.bytes, copy.pc);
        for lane in lanes(landed) {
            let mut who = common.who(w, lane);
            who.pc = issued;
            common.shared.land_for(to[lane as usize], bytes, who);
        }
        w.copies[k].mask &= !landed;
    }
    debug_assert_eq!(pc, w.pc);
    w.copies.retain(|copy| copy.mask != 0);
}

/// A lane may not exit with copies that it has not waited for.
pub fn check_exit(w: &Warp, common: &Common<'_>, active: u32) -> Result<(), Stop> {
    let Some(copy) = w.copies.iter().find(|copy| copy.mask & active != 0) else {
        return Ok(());
    };
    let lane = (copy.mask & active).trailing_zeros();
    let line = common
        .launch
        .module
        .at(&common.entry.code[copy.pc as usize]);
    let did = match copy.group[lane as usize] < w.committed[lane as usize] {
        true => "not waited for",
        false => "not committed",
    };
    Err(Stop::lane(
        lane,
        format!("the thread exits with a cp.async {did}, issued at {line}"),
    ))
}
