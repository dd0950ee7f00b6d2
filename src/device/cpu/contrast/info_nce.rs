//! The contrastive loss L_c (method §1; §4 rows 4 and 13 in variant `Released`) and its gradient.

use rayon::prelude::*;

use super::super::super::op::{InfoNce, Variant};
use super::super::super::philox::Rng;
use super::super::super::{Call, View};
use super::super::memory::Ctx;
use super::super::mismatch;
use super::super::vmath;
use super::bank::inverse_norm;
use super::{Lists, all_counts, rings};
use crate::error::{Error, Result};

/// One term of the sum over classes.
struct Term {
    /// Keys the draws, and names the class of anchors and prototype.
    position: usize,
    /// First slot, capacity, next write slot and entries held of the ring of negatives.
    ring: (usize, usize, usize, usize),
}

/// The operands of the loss.
struct Problem<'a> {
    a: &'a InfoNce,
    rep: &'a [f32],
    rep_ld: usize,
    depth: usize,
    anchors: Lists<'a>,
    prototype: &'a [f32],
    prototype_ld: usize,
    bank: &'a [f32],
    bank_ld: usize,
    inv_norm: &'a [f32],
    anchor_rng: Rng,
    negative_rng: Rng,
    terms: Vec<Term>,
    /// What the sum over classes is divided by; 0 when there is no loss.
    divisor: usize,
}

/// One anchor's similarities and what its gradient needs.
struct Anchor<'a> {
    pixel: usize,
    z: &'a [f32],
    inv_norm: f32,
    /// Of the positive, then of the negatives: (vector, 1/norm, cosine similarity).
    keys: Vec<(&'a [f32], f32, f32)>,
    /// −log softmax of the positive.
    loss: f64,
    /// Softmax over the keys.
    probabilities: Vec<f64>,
}

impl<'a> Problem<'a> {
    fn new(cx: &'a Ctx, op: &str, call: &Call, a: &'a InfoNce) -> Result<Self> {
        let [
            rep,
            list,
            anchor_counts,
            positive_counts,
            prototype,
            bank,
            inv_norm,
            cursor,
            rng,
            ..,
        ] = call.ins.as_slice()
        else {
            return Err(Error::internal(format!("{op}: expected nine inputs")));
        };
        let anchors = Lists::new(cx, op, list, anchor_counts, rep.pixels())?;
        let classes = anchors.classes;
        let [_, _, slots, depth] = bank.shape;
        if depth != rep.channels() || prototype.shape != [1, 1, classes, depth] {
            return Err(mismatch(
                op,
                "prototypes and a bank as wide as the pixels",
                bank,
            ));
        }
        if inv_norm.shape != [1, 1, 1, slots] || a.capacities.len() != classes {
            return Err(mismatch(op, "a norm per slot", inv_norm));
        }
        let positives = all_counts(cx, op, positive_counts, classes)?;
        let rings = rings(op, &a.capacities, slots)?;
        let held = ring_states(cx, op, cursor, &rings)?;
        let (terms, divisor) = terms(a.variant, &anchors, positives, &held);
        let state = cx.rng_state(rng)?;
        Ok(Self {
            a,
            rep: cx.f32(rep)?,
            rep_ld: rep.ld,
            depth,
            anchors,
            prototype: cx.f32(prototype)?,
            prototype_ld: prototype.ld,
            bank: cx.f32(bank)?,
            bank_ld: bank.ld,
            inv_norm: cx.f32(inv_norm)?,
            anchor_rng: Rng::new(state, a.stream),
            negative_rng: Rng::new(state, a.stream.wrapping_add(1)),
            terms,
            divisor,
        })
    }

    /// Anchor `m` of a term with its keys.
    fn anchor(&self, term: &Term, m: usize) -> Anchor<'_> {
        let list = self.anchors.of(term.position);
        let draw = (term.position * self.a.anchors + m) as u64;
        let pixel = list[self.anchor_rng.below(draw, list.len() as u32) as usize] as usize;
        let z = &self.rep[pixel * self.rep_ld..][..self.depth];
        let inv_norm = inverse_norm(z);
        let similarity = |key: &[f32], inv: f32| vmath::dot(z, key) * inv_norm * inv;
        let positive = &self.prototype[term.position * self.prototype_ld..][..self.depth];
        let inv = inverse_norm(positive);
        let mut keys = vec![(positive, inv, similarity(positive, inv))];
        let (start, capacity, next, held) = term.ring;
        for n in 0..self.a.negatives {
            let index = draw * self.a.negatives as u64 + n as u64;
            let entry = self.negative_rng.below(index, held as u32) as usize;
            let slot = start + (next + capacity - held + entry) % capacity;
            let key = &self.bank[slot * self.bank_ld..][..self.depth];
            let inv = self.inv_norm[slot];
            keys.push((key, inv, similarity(key, inv)));
        }
        let (loss, probabilities) = softmax_loss(&keys, f64::from(self.a.temperature));
        Anchor {
            pixel,
            z,
            inv_norm,
            keys,
            loss,
            probabilities,
        }
    }

    /// Factor of one anchor's loss in the mean over anchors and classes.
    fn scale(&self) -> f64 {
        match self.divisor * self.a.anchors {
            0 => 0.0,
            n => 1.0 / n as f64,
        }
    }
}

/// Next write slot and entries held of each ring: (start, capacity, next, held).
fn ring_states(
    cx: &Ctx,
    op: &str,
    cursor: &View,
    rings: &[(usize, usize)],
) -> Result<Vec<(usize, usize, usize, usize)>> {
    if cursor.shape != [1, 1, 2, rings.len()] || !cursor.is_dense() {
        return Err(mismatch(op, "a dense cursor [1, 1, 2, C]", cursor));
    }
    let (next, held) = cx.u32(cursor)?.split_at(rings.len());
    Ok(rings
        .iter()
        .zip(next.iter().zip(held))
        .map(|(&(start, capacity), (&next, &held))| {
            (
                start,
                capacity,
                next as usize,
                (held as usize).min(capacity),
            )
        })
        .collect())
}

/// The classes that take part, and the divisor of their sum.
fn terms(
    variant: Variant,
    anchors: &Lists,
    positives: &[u32],
    rings: &[(usize, usize, usize, usize)],
) -> (Vec<Term>, usize) {
    let takes_part = |&(position, class): &(usize, usize)| {
        !anchors.of(position).is_empty() && rings[class].3 > 0
    };
    let term = |(position, class)| Term {
        position,
        ring: rings[class],
    };
    match variant {
        Variant::Paper => {
            let same = (0..anchors.classes).map(|class| (class, class));
            let terms: Vec<Term> = same.filter(takes_part).map(term).collect();
            let divisor = terms.len();
            (terms, divisor)
        }
        Variant::Released => {
            // Row 4: position i among the classes that have positives stands for class i too.
            let valid: Vec<usize> = (0..positives.len()).filter(|&c| positives[c] > 0).collect();
            if valid.len() < 2 {
                return (Vec::new(), 0);
            }
            let divisor = valid.len();
            let pairs = valid.into_iter().enumerate();
            (pairs.filter(takes_part).map(term).collect(), divisor)
        }
    }
}

/// Cross-entropy of the similarities over the temperature against key 0.
fn softmax_loss(keys: &[(&[f32], f32, f32)], temperature: f64) -> (f64, Vec<f64>) {
    let logits: Vec<f64> = keys
        .iter()
        .map(|&(_, _, similarity)| f64::from(similarity) / temperature)
        .collect();
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exps: Vec<f64> = logits.iter().map(|l| (l - max).exp()).collect();
    let sum: f64 = exps.iter().sum();
    let loss = sum.ln() - (logits[0] - max);
    (loss, exps.into_iter().map(|e| e / sum).collect())
}

pub(in super::super) fn info_nce(cx: &Ctx, call: &Call, a: &InfoNce) -> Result<()> {
    let problem = Problem::new(cx, "info_nce", call, a)?;
    let [mean, scale, classes, spare] = cx.f32_mut(&call.outs[0])? else {
        return Err(mismatch("info_nce", "stats f32[4]", &call.outs[0]));
    };
    let losses: Vec<f64> = (0..problem.terms.len() * a.anchors)
        .into_par_iter()
        .map(|i| {
            problem
                .anchor(&problem.terms[i / a.anchors], i % a.anchors)
                .loss
        })
        .collect();
    *mean = (losses.iter().sum::<f64>() * problem.scale()) as f32;
    *scale = problem.scale() as f32;
    *classes = problem.divisor as f32;
    *spare = 0.0;
    Ok(())
}

pub(in super::super) fn info_nce_backward(
    cx: &Ctx,
    call: &Call,
    a: &InfoNce,
    weight: f32,
) -> Result<()> {
    let op = "info_nce_backward";
    let (rep, out) = (&call.ins[0], &call.outs[0]);
    if out.shape != rep.shape {
        return Err(mismatch(op, "the shape of the representation", out));
    }
    let problem = Problem::new(cx, op, call, a)?;
    let Some(&[_, scale, _, _]) = call.ins.get(9).map(|v| cx.f32(v)).transpose()? else {
        return Err(Error::internal(format!("{op}: expected stats f32[4] last")));
    };
    let gradient = cx.f32_mut(out)?;
    let depth = problem.depth;
    if !call.accumulates(0) {
        gradient
            .par_chunks_mut(out.ld.max(1))
            .for_each(|pixel| pixel[..depth].fill(0.0));
    }
    // A pixel may be an anchor of several draws and, in `Released`, of several classes: anchors
    // are computed in parallel, a class at a time, and added in draw order.
    for term in &problem.terms {
        let parts: Vec<(usize, Vec<f32>)> = (0..a.anchors)
            .into_par_iter()
            .map(|m| {
                let anchor = problem.anchor(term, m);
                let factor = f64::from(scale * weight) / f64::from(a.temperature);
                (anchor.pixel, anchor.gradient(factor))
            })
            .collect();
        for (pixel, part) in parts {
            let sums = &mut gradient[pixel * out.ld..][..depth];
            sums.iter_mut().zip(&part).for_each(|(s, g)| *s += g);
        }
    }
    Ok(())
}

impl Anchor<'_> {
    /// `factor ·` the gradient of −log softmax of the positive to z, times the temperature.
    ///
    /// ∂cos(z, k)/∂z = (k/‖k‖ − cos·z/‖z‖) / ‖z‖; a clamped norm is a constant.
    fn gradient(&self, factor: f64) -> Vec<f32> {
        let mut gradient = vec![0.0f32; self.z.len()];
        let mut along = 0.0;
        for (i, &(key, inv, similarity)) in self.keys.iter().enumerate() {
            let target = if i == 0 { 1.0 } else { 0.0 };
            let slope = factor * (self.probabilities[i] - target) * f64::from(self.inv_norm);
            along += slope * f64::from(similarity);
            let slope = slope as f32 * inv;
            gradient
                .iter_mut()
                .zip(key)
                .for_each(|(g, k)| *g += slope * k);
        }
        if self.inv_norm < 1.0 / super::bank::MIN_NORM {
            let along = along as f32 * self.inv_norm;
            gradient
                .iter_mut()
                .zip(self.z)
                .for_each(|(g, z)| *g -= along * z);
        }
        gradient
    }
}
