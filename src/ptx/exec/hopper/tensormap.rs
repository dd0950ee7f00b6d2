//! Tensor maps that a kernel makes in shared memory and publishes to global memory.

use std::sync::atomic::Ordering::Relaxed;

use super::super::access::{addresses, allocation, lanes, shared_wrong};
use super::super::warp::Warp;
use super::super::{Common, Stop};
use super::shared_at;
use crate::ptx::program::op::{Addr, R};
use crate::ptx::tensor::map::{self, BYTES, Field};

/// Words of a tensor map.
const WORDS: usize = BYTES / 4;

/// What `tensormap.replace` replaces.
pub struct Replacement {
    pub at: Addr,
    pub global: bool,
    pub field: Field,
    pub dimension: u32,
    pub value: R,
    pub wide: bool,
}

/// `tensormap.replace`.
pub fn replace(
    w: &mut Warp,
    common: &mut Common<'_>,
    active: u32,
    of: &Replacement,
) -> Result<(), Stop> {
    for lane in lanes(active) {
        let i = lane as usize;
        let value = match of.wide {
            true => w.w(common.entry, of.value)[i],
            false => u64::from(w.r(common.entry, of.value)[i]),
        };
        let change = |words: &[u32; WORDS]| -> Result<[u32; WORDS], Stop> {
            let mut bytes = [0; BYTES];
            for (place, word) in bytes.as_chunks_mut().0.iter_mut().zip(words) {
                *place = word.to_le_bytes();
            }
            map::replace(&mut bytes, of.field, of.dimension as usize, value)
                .map_err(|e| Stop::lane(lane, e.to_string()))?;
            let words = bytes.as_chunks().0;
            Ok(std::array::from_fn(|k| u32::from_le_bytes(words[k])))
        };
        if of.global {
            let address = addresses(w, common, of.at)[i];
            let what = "tensormap.replace at";
            let (found, offset) = allocation(w, common, lane, what, address, BYTES as u32)?;
            let old = std::array::from_fn(|k| found.word(offset / 4 + k).load(Relaxed));
            for (k, word) in change(&old)?.into_iter().enumerate() {
                found.word(offset / 4 + k).store(word, Relaxed);
            }
            for part in (0..BYTES).step_by(32) {
                found.mark(offset + part, 32);
            }
            continue;
        }
        let what = "tensormap.replace at";
        let place = shared_at(w, common, lane, what, of.at, BYTES as u32, 64)?;
        let first = place as usize / 4;
        let old: [u32; WORDS] = std::array::from_fn(|k| common.shared.word(first + k));
        let new = change(&old)?;
        let who = common.who(w, lane);
        for k in (0..WORDS).filter(|k| old[*k] != new[*k]) {
            let at = place + 4 * k as u32;
            common
                .shared
                .write(at, 4, who, &common.clocks)
                .map_err(|wrong| Stop::lane(lane, shared_wrong(common, what, at, wrong)))?;
            *common.shared.word_mut(first + k) = new[k];
        }
    }
    Ok(())
}

/// `tensormap.cp_fenceproxy`: the lanes of a warp copy together.
pub fn publish(
    w: &mut Warp,
    common: &mut Common<'_>,
    active: u32,
    to: Addr,
    from: Addr,
) -> Result<(), Stop> {
    let lane = active.trailing_zeros();
    let what = "tensormap.cp_fenceproxy of";
    let place = shared_at(w, common, lane, what, from, BYTES as u32, 64)?;
    let address = addresses(w, common, to)[lane as usize];
    let (found, offset) = allocation(w, common, lane, what, address, BYTES as u32)?;
    let who = common.who(w, lane);
    for k in 0..WORDS {
        let at = place + 4 * k as u32;
        common
            .shared
            .read(at, 4, who, &common.clocks)
            .map_err(|wrong| Stop::lane(lane, shared_wrong(common, what, at, wrong)))?;
        let word = common.shared.word(at as usize / 4);
        found.word(offset / 4 + k).store(word, Relaxed);
    }
    for part in (0..BYTES).step_by(32) {
        found.mark(offset + part, 32);
    }
    Ok(())
}
