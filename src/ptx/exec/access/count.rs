//! What accesses cost: wavefronts and sectors.

use super::{allocation, lanes};
use crate::ptx::exec::Common;
use crate::ptx::exec::warp::{Warp, Wide};

/// Wavefronts of a shared access: as often as its busiest bank has distinct words. Accesses of 8
/// and 16 bytes go in halves and quarters of the warp.
pub fn count_banks(common: &mut Common<'_>, active: u32, addresses: &Wide, bytes: u32) {
    let parts = (bytes / 4).clamp(1, 4);
    let group = 32 / parts;
    let mut all = 0u32;
    for part in 0..parts {
        // Most accesses meet no conflict: a word for each bank, or the same for several lanes.
        let mut of_bank = [u32::MAX; 32];
        let (mut words, mut conflict) = (0u32, false);
        for lane in lanes(active).filter(|lane| lane / group == part) {
            let first = addresses[lane as usize] as u32 / 4;
            for word in first..first + bytes.div_ceil(4) {
                let place = &mut of_bank[word as usize % 32];
                conflict |= *place != u32::MAX && *place != word;
                words += u32::from(*place == u32::MAX);
                *place = word;
            }
        }
        if !conflict {
            common.counters.shared_wavefronts += u64::from(words > 0);
            all += words;
            continue;
        }
        let mut found: [u32; 128] = [u32::MAX; 128];
        let mut count = 0;
        for lane in lanes(active).filter(|lane| lane / group == part) {
            let first = addresses[lane as usize] as u32 / 4;
            for word in first..first + bytes.div_ceil(4) {
                if count < 128 {
                    found[count] = word;
                    count += 1;
                }
            }
        }
        let found = &mut found[..count];
        found.sort_unstable();
        let mut banks = [0u64; 32];
        let mut distinct = 0;
        for (i, word) in found.iter().enumerate() {
            if i == 0 || found[i - 1] != *word {
                banks[*word as usize % 32] += 1;
                distinct += 1;
            }
        }
        common.counters.shared_wavefronts += banks.iter().copied().max().unwrap_or(0);
        all += distinct;
    }
    common.counters.shared_wavefronts_least +=
        u64::from(all.div_ceil(32)).max(u64::from(active != 0));
}

/// Sectors of a global access, and those of 32 bytes that would do for as many distinct bytes.
pub fn count_sectors(
    w: &mut Warp,
    common: &mut Common<'_>,
    active: u32,
    addresses: &Wide,
    bytes: u32,
    write: bool,
) {
    let mut sectors = [u64::MAX; 32];
    let mut starts = [u64::MAX; 32];
    let mut count = 0;
    for lane in lanes(active) {
        sectors[count] = addresses[lane as usize] / 32;
        starts[count] = addresses[lane as usize];
        count += 1;
    }
    let distinct = |list: &mut [u64]| {
        list.sort_unstable();
        list.iter()
            .enumerate()
            .filter(|(i, x)| *i == 0 || list[i - 1] != **x)
            .count() as u64
    };
    common.counters.global_sectors += distinct(&mut sectors[..count]);
    common.counters.global_sectors_least +=
        (distinct(&mut starts[..count]) * u64::from(bytes)).div_ceil(32);
    for i in 0..count {
        if i > 0 && sectors[i] == sectors[i - 1] {
            continue;
        }
        let Ok((found, offset)) =
            allocation(w, common, 0, "", starts[i] & !(u64::from(bytes) - 1), 1)
        else {
            continue;
        };
        let _ = offset;
        let sector = (sectors[i] * 32).saturating_sub(found.start & !31) / 32;
        let index = w.allocation;
        common.touched.mark(index, found, sector as usize, write);
    }
}
