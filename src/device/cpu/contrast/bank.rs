//! The memory bank (a ring per class) and the prototypes.

use rayon::prelude::*;

use super::super::super::Call;
use super::super::memory::Ctx;
use super::super::mismatch;
use super::super::vmath;
use super::{Lists, rings};
use crate::error::Result;

/// Norms below this count as this, as in PyTorch's cosine similarity.
pub(super) const MIN_NORM: f32 = 1e-8;

/// Pixels whose representations one task sums. Fixed, so that sums do not depend on the threads.
const CHUNK: usize = 256;

pub(in super::super) fn bank_push(cx: &Ctx, call: &Call, capacities: &[u32]) -> Result<()> {
    let (rep, bank) = (&call.ins[0], &call.outs[0]);
    let lists = Lists::new(cx, "bank_push", &call.ins[1], &call.ins[2], rep.pixels())?;
    let classes = lists.classes;
    let [_, _, slots, depth] = bank.shape;
    if depth != rep.channels() || capacities.len() != classes {
        return Err(mismatch("bank_push", "entries as wide as the pixels", bank));
    }
    if call.outs[1].shape != [1, 1, 1, slots] || call.outs[2].shape != [1, 1, 2, classes] {
        return Err(mismatch("bank_push", "a norm per slot", &call.outs[1]));
    }
    let representations = cx.f32(rep)?;
    let (entries, norms) = (cx.f32_mut(&call.outs[0])?, cx.f32_mut(&call.outs[1])?);
    let cursor = cx.u32_mut(&call.outs[2])?;
    for (class, (start, capacity)) in rings("bank_push", capacities, slots)?
        .into_iter()
        .enumerate()
    {
        let pixels = lists.of(class);
        let kept = pixels.len().min(capacity);
        if kept == 0 {
            continue;
        }
        // What a longer list overwrites within itself is never written.
        let pixels = &pixels[pixels.len() - kept..];
        let next = cursor[class] as usize % capacity;
        let held = (cursor[classes + class] as usize).min(capacity);
        for (i, &pixel) in pixels.iter().enumerate() {
            let z = &representations[pixel as usize * rep.ld..][..depth];
            let slot = start + (next + i) % capacity;
            entries[slot * bank.ld..][..depth].copy_from_slice(z);
            norms[slot] = inverse_norm(z);
        }
        cursor[class] = ((next + kept) % capacity) as u32;
        cursor[classes + class] = (held + kept).min(capacity) as u32;
    }
    Ok(())
}

/// 1 / max(‖z‖, 1e-8).
pub(super) fn inverse_norm(z: &[f32]) -> f32 {
    1.0 / vmath::dot(z, z).sqrt().max(MIN_NORM)
}

pub(in super::super) fn prototype(cx: &Ctx, call: &Call) -> Result<()> {
    let (rep, out) = (&call.ins[0], &call.outs[0]);
    let lists = Lists::new(cx, "prototype", &call.ins[1], &call.ins[2], rep.pixels())?;
    let depth = rep.channels();
    if out.shape != [1, 1, lists.classes, depth] {
        return Err(mismatch("prototype", "[1, 1, C, D]", out));
    }
    let representations = cx.f32(rep)?;
    let means = cx.f32_mut(out)?;
    means
        .par_chunks_mut(out.ld.max(1))
        .enumerate()
        .for_each(|(class, mean)| {
            let pixels = lists.of(class);
            let parts: Vec<Vec<f64>> = pixels
                .par_chunks(CHUNK)
                .map(|pixels| sum(representations, rep.ld, depth, pixels))
                .collect();
            let count = pixels.len().max(1) as f64;
            for (d, mean) in mean[..depth].iter_mut().enumerate() {
                let total: f64 = parts.iter().map(|part| part[d]).sum();
                *mean = (total / count) as f32;
            }
        });
    Ok(())
}

/// Sum of some pixels' representations.
fn sum(representations: &[f32], ld: usize, depth: usize, pixels: &[u32]) -> Vec<f64> {
    let mut sums = vec![0.0; depth];
    for &pixel in pixels {
        let z = &representations[pixel as usize * ld..][..depth];
        sums.iter_mut()
            .zip(z)
            .for_each(|(s, &z)| *s += f64::from(z));
    }
    sums
}
