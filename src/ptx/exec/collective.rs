//! What the lanes of a warp do together: shuffles, votes, matches, reductions.

use super::access::{absence, lanes};
use super::warp::{Row, Warp, Wide};
use super::{Common, Stop};
use crate::ptx::program::op::{I32, P, R, Shuffle, Vote};

/// Checks the mask of each active lane: it names the lane itself and only lanes that are here with
/// the same mask.
fn masks(w: &Warp, common: &Common<'_>, active: u32, mask: R) -> Result<Row, Stop> {
    let row = *w.r(common.entry, mask);
    for lane in lanes(active) {
        let named = row[lane as usize];
        if named >> lane & 1 == 0 {
            return Err(Stop::lane(
                lane,
                format!("the mask {named:#010x} does not name the calling lane"),
            ));
        }
        if named & !active != 0 {
            let missing = (named & !active).trailing_zeros();
            return Err(Stop::lane(
                lane,
                format!(
                    "the mask {named:#010x} names lane {missing}, which {}",
                    absence(w, missing)
                ),
            ));
        }
        if let Some(other) = lanes(named).find(|other| row[*other as usize] != named) {
            return Err(Stop::lane(
                lane,
                format!(
                    "lanes wait with masks that differ: {named:#010x}, and lane {other} with {:#010x}",
                    row[other as usize]
                ),
            ));
        }
    }
    Ok(row)
}

/// `shfl.sync`.
#[allow(clippy::too_many_arguments)]
pub fn shuffle(
    w: &mut Warp,
    common: &Common<'_>,
    active: u32,
    mode: Shuffle,
    d: R,
    p: u32,
    a: R,
    b: R,
    c: R,
    mask: R,
) -> Result<(), Stop> {
    let e = common.entry;
    let named = masks(w, common, active, mask)?;
    let (a, b, c) = (*w.r(e, a), *w.r(e, b), *w.r(e, c));
    let mut out: Row = [0; 32];
    let mut valid = 0;
    for lane in lanes(active) {
        let i = lane as usize;
        let (step, clamp, segment) = (b[i] & 31, c[i] & 31, c[i] >> 8 & 31);
        let low = lane & segment;
        let high = low | clamp & !segment;
        let source = match mode {
            Shuffle::Up => i64::from(lane) - i64::from(step),
            Shuffle::Down => i64::from(lane + step),
            Shuffle::Bfly => i64::from(lane ^ step),
            Shuffle::Idx => i64::from(low | step & !segment),
        };
        let inside = match mode {
            Shuffle::Up => source >= i64::from(high),
            _ => source <= i64::from(high),
        };
        let source = if inside { source as u32 & 31 } else { lane };
        if named[i] >> source & 1 == 0 {
            return Err(Stop::lane(
                lane,
                format!(
                    "a shuffle from lane {source}, which the mask {:#010x} does not name",
                    named[i]
                ),
            ));
        }
        out[i] = a[source as usize];
        valid |= u32::from(inside) << lane;
    }
    w.put(d, &out, active);
    w.put_pred(p, valid, active);
    Ok(())
}

/// `vote.sync`.
pub fn vote(
    w: &mut Warp,
    common: &Common<'_>,
    active: u32,
    kind: Vote,
    d: u32,
    p: P,
    mask: R,
) -> Result<(), Stop> {
    let named = masks(w, common, active, mask)?;
    let bits = w.p(p);
    let ballot = named.map(|named| bits & named);
    if kind == Vote::Ballot {
        w.put(d, &ballot, active);
        return Ok(());
    }
    let mut out = 0;
    for lane in lanes(active) {
        let (all, some) = (named[lane as usize], ballot[lane as usize]);
        let yes = match kind {
            Vote::All => some == all,
            Vote::Any => some != 0,
            _ => some == all || some == 0,
        };
        out |= u32::from(yes) << lane;
    }
    w.put_pred(d, out, active);
    Ok(())
}

/// `match.sync`.
#[allow(clippy::too_many_arguments)]
pub fn matching(
    w: &mut Warp,
    common: &Common<'_>,
    active: u32,
    all: bool,
    wide: bool,
    d: R,
    p: u32,
    a: R,
    mask: R,
) -> Result<(), Stop> {
    let named = masks(w, common, active, mask)?;
    let values: Wide = match wide {
        true => *w.w(common.entry, a),
        false => w.r(common.entry, a).map(u64::from),
    };
    let mut out: Row = [0; 32];
    let mut every = 0;
    for lane in lanes(active) {
        let i = lane as usize;
        let same = lanes(named[i])
            .filter(|other| values[*other as usize] == values[i])
            .fold(0, |bits, other| bits | 1 << other);
        let whole = same == named[i];
        every |= u32::from(whole) << lane;
        out[i] = if all && !whole { 0 } else { same };
    }
    w.put(d, &out, active);
    w.put_pred(p, every, active);
    Ok(())
}

/// `redux.sync`.
pub fn redux(
    w: &mut Warp,
    common: &Common<'_>,
    active: u32,
    f: I32,
    d: R,
    a: R,
    mask: R,
) -> Result<(), Stop> {
    let named = masks(w, common, active, mask)?;
    let values = *w.r(common.entry, a);
    let mut out: Row = [0; 32];
    for lane in lanes(active) {
        let i = lane as usize;
        let mut each = lanes(named[i]).map(|other| values[other as usize]);
        let first = each.next().unwrap_or(0);
        out[i] = each.fold(first, |sum, x| super::bits::two(f, sum, x));
    }
    w.put(d, &out, active);
    Ok(())
}

/// `bar.warp.sync`: the accesses of the lanes that it names before it happen before those after it.
pub fn warp_sync(w: &Warp, common: &mut Common<'_>, active: u32, mask: R) -> Result<(), Stop> {
    let masks = masks(w, common, active, mask)?;
    let index = w.index as usize;
    let mut left = active;
    while left != 0 {
        let mask = masks[left.trailing_zeros() as usize];
        // Lanes that have exited access nothing any more.
        match mask & w.alive == w.alive {
            true => common.clocks.meet(index),
            false => common.clocks.meet_some(index, mask),
        }
        left &= !mask;
    }
    Ok(())
}
