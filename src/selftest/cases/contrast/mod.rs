//! Anchors and negatives, lists, the memory bank, prototypes, the contrastive loss.

mod bank;
mod info_nce;
mod partition;

use crate::selftest::{Case, Data, Operand};

pub(super) fn cases(seed: u64) -> Vec<Case> {
    let families = [
        partition::cases,
        partition::compact_cases,
        bank::push_cases,
        bank::prototype_cases,
        info_nce::cases,
    ];
    families.iter().flat_map(|cases| cases(seed)).collect()
}

/// A pixel list per class, and their counts, as `Compact` leaves them: rubbish past the ends.
struct Lists {
    rows: Vec<Vec<u32>>,
    pixels: usize,
}

impl Lists {
    /// Class `c` lists `sizes[c]` of the pixels, ascending.
    fn new(d: &mut Data, sizes: &[usize], pixels: usize) -> Self {
        let mut row = |&n: &usize| {
            let mut row = d.permutation(pixels);
            row.truncate(n);
            row.sort_unstable();
            row
        };
        Self {
            rows: sizes.iter().map(&mut row).collect(),
            pixels,
        }
    }

    fn operands(&self) -> [Operand; 2] {
        let classes = self.rows.len();
        let mut list = vec![u32::MAX; classes * self.pixels];
        let mut counts = vec![0; 2 * classes];
        for (c, row) in self.rows.iter().enumerate() {
            list[c * self.pixels..][..row.len()].copy_from_slice(row);
            counts[c] = row.len() as u32;
        }
        [
            Operand::u32([1, 1, classes, self.pixels], &list),
            Operand::u32([1, 1, 2, classes], &counts),
        ]
    }
}
