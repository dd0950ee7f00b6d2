//! Anchors and negatives, lists, the memory bank, prototypes, the contrastive loss.

use std::ops::Range;

use crate::device::{DType, Op};
use crate::selftest::{Case, Data, Defined, Operand, Tolerance};

/// The entries of `Compact`'s lists (output 0) below the counts (output 1, row 0).
fn listed(case: &Case, outs: &[Vec<u8>]) -> Vec<Range<usize>> {
    let pixels = case.outs[0].shape[3];
    let counts: Vec<u32> = bytemuck::pod_collect_to_vec(&outs[1]);
    let classes = case.outs[1].shape[3];
    let filled = counts[..classes].iter().enumerate();
    filled
        .map(|(class, &n)| class * pixels..class * pixels + n as usize)
        .collect()
}

pub(super) fn cases(seed: u64) -> Vec<Case> {
    let mut d = Data::new(seed, "contrast");
    let (pixels, classes, words) = (2 * 5 * 7, 37, 2);
    let bits = d.words(pixels * words);
    let list = Operand::undefined([1, 1, classes, pixels], DType::U32);
    vec![
        Case::new("two words per pixel", Op::Compact { labeled_pixels: 35 })
            .input(Operand::u32([2, 5, 7, words], &bits))
            .output_with(list.defined(Defined::By(listed)), Tolerance::Exact)
            .output([1, 1, 2, classes], DType::U32, Tolerance::Exact),
    ]
}
