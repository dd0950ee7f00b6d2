//! A thread's local memory. Words of the lanes lie side by side, as registers do.

use super::{Words, lanes, misaligned, replace};
use crate::ptx::exec::Stop;
use crate::ptx::exec::warp::{ALL, Warp, Wide};
use crate::ptx::memory::LOCAL_START;

/// Index of the first word of a lane's access, checked.
fn index(w: &Warp, lane: u32, what: &str, address: u64, bytes: u32) -> Result<usize, Stop> {
    let have = 4 * w.local.len() as u64;
    let offset = address.wrapping_sub(u64::from(LOCAL_START));
    if offset >= have || u64::from(bytes) > have - offset {
        return Err(Stop::lane(
            lane,
            format!(
                "{what} local address {address:#x}, out of bounds: byte {} of {have}",
                offset as i64
            ),
        ));
    }
    if !address.is_multiple_of(u64::from(bytes)) {
        return Err(misaligned(
            lane,
            &format!("{what} local address"),
            address,
            bytes,
        ));
    }
    Ok(offset as usize / 4)
}

/// Whether all lanes access whole words at one address, as they mostly do.
fn uniform(active: u32, addresses: &Wide, total: u32) -> bool {
    active == ALL && total >= 4 && addresses.iter().all(|address| *address == addresses[0])
}

/// A warp's load.
pub fn load_local(
    w: &Warp,
    active: u32,
    addresses: &Wide,
    total: u32,
    words: &mut Words,
) -> Result<(), Stop> {
    let count = total.div_ceil(4) as usize;
    if uniform(active, addresses, total) {
        let at = index(w, 0, "read of", addresses[0], total)?;
        words[..count].copy_from_slice(&w.local[at..at + count]);
        return Ok(());
    }
    for lane in lanes(active) {
        let i = lane as usize;
        let at = index(w, lane, "read of", addresses[i], total)?;
        for (word, row) in words.iter_mut().enumerate().take(count) {
            row[i] = w.local[at + word][i] >> (8 * (addresses[i] % 4));
        }
    }
    Ok(())
}

/// A warp's store.
pub fn store_local(
    w: &mut Warp,
    active: u32,
    addresses: &Wide,
    total: u32,
    words: &Words,
) -> Result<(), Stop> {
    let count = total.div_ceil(4) as usize;
    if uniform(active, addresses, total) {
        let at = index(w, 0, "write to", addresses[0], total)?;
        w.local[at..at + count].copy_from_slice(&words[..count]);
        return Ok(());
    }
    for lane in lanes(active) {
        let i = lane as usize;
        let at = index(w, lane, "write to", addresses[i], total)?;
        for (word, row) in words.iter().enumerate().take(count) {
            let place = &mut w.local[at + word][i];
            *place = match total {
                1 | 2 => replace(*place, row[i], total, 8 * (addresses[i] as u32 % 4)),
                _ => row[i],
            };
        }
    }
    Ok(())
}
