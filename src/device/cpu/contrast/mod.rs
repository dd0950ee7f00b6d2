//! The contrastive half of U2PL: which pixels are anchors, positives and negatives
//! ([`partition`]), the memory bank and prototypes ([`bank`]), the loss ([`info_nce`]).

mod bank;
mod info_nce;
mod partition;
#[cfg(test)]
mod tests;

pub(super) use bank::{bank_push, prototype};
pub(super) use info_nce::{info_nce, info_nce_backward};
pub(super) use partition::{compact, partition};

use super::super::View;
use super::memory::Ctx;
use super::mismatch;
use crate::error::{Error, Result};

/// The output of [`compact`]: per class, the ascending list of its pixels.
#[derive(Clone, Copy)]
struct Lists<'a> {
    list: &'a [u32],
    ld: usize,
    counts: &'a [u32],
    classes: usize,
}

impl<'a> Lists<'a> {
    /// Lists over at most `pixels` pixels; a list or count that cannot be right is an error here,
    /// so that the operations may index by them.
    fn new(cx: &'a Ctx, op: &str, list: &View, counts: &View, pixels: usize) -> Result<Self> {
        let classes = list.shape[2];
        let lists = Self {
            list: cx.u32(list)?,
            ld: list.ld,
            counts: all_counts(cx, op, counts, classes)?,
            classes,
        };
        let fits = |&count: &u32| count as usize <= list.channels();
        if !lists.counts.iter().all(fits) {
            return Err(mismatch(op, "counts within the list", counts));
        }
        let inside = |class| {
            lists
                .of(class)
                .last()
                .is_none_or(|&p| (p as usize) < pixels)
        };
        if !(0..classes).all(inside) {
            return Err(mismatch(op, "pixels of the representation", list));
        }
        Ok(lists)
    }

    /// Pixels of a class, ascending.
    fn of(&self, class: usize) -> &'a [u32] {
        &self.list[class * self.ld..][..self.counts[class] as usize]
    }
}

/// Row 0 of a `u32 [1, 1, 2, C]` of counts.
fn all_counts<'a>(cx: &'a Ctx, op: &str, counts: &View, classes: usize) -> Result<&'a [u32]> {
    if counts.shape != [1, 1, 2, classes] {
        return Err(mismatch(op, "counts [1, 1, 2, C]", counts));
    }
    Ok(&cx.u32(counts)?[..classes])
}

/// The rings of the bank in a flat array of slots: first slot and capacity of each class.
fn rings(op: &str, capacities: &[u32], slots: usize) -> Result<Vec<(usize, usize)>> {
    let mut start = 0;
    let rings = capacities
        .iter()
        .map(|&capacity| {
            let ring = (start, capacity as usize);
            start += capacity as usize;
            ring
        })
        .collect();
    if start == slots {
        Ok(rings)
    } else {
        Err(Error::internal(format!(
            "{op}: capacities sum to {start}, the bank has {slots} slots"
        )))
    }
}
