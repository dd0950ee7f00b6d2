//! Which pixels teach the representation, class by class: method §1 (paper) and §4 rows 1–3, 5,
//! 6 (released). Masks are bits, a pixel's classes in a few words.

use rayon::prelude::*;

use super::super::super::op::{NegativePixels, Partition, Variant};
use super::super::super::{Call, View};
use super::super::entropy::dense_map;
use super::super::memory::Ctx;
use super::super::mismatch;
use super::super::vmath::{self, PAD, padded};
use crate::error::{Error, Result};

/// PyTorch's nearest sampling positions from `input` to `output` places: ⌊i · (input / output)⌋
/// with the quotient and the product in f32.
fn nearest(input: usize, output: usize) -> Vec<usize> {
    let scale = input as f32 / output as f32;
    (0..output)
        .map(|i| ((i as f32 * scale) as usize).min(input.saturating_sub(1)))
        .collect()
}

/// One tensor's labels (and, for unlabelled images, entropies) at feature resolution.
struct Maps<'a> {
    label: &'a [u8],
    entropy: Option<&'a [f32]>,
    images: usize,
    height: usize,
    width: usize,
}

impl Maps<'_> {
    fn index(&self, image: usize, y: usize, x: usize) -> usize {
        (image * self.height + y) * self.width + x
    }
}

/// What a pixel's masks depend on besides its logits.
struct Pixel {
    /// Labelled or unlabelled image.
    labeled: bool,
    /// Its label or pseudo-label, `None` when ignored.
    class: Option<usize>,
    /// Entropy of an unlabelled pixel.
    entropy: f32,
}

/// Everything that is the same for all pixels.
struct Masks<'a> {
    a: &'a Partition,
    labeled: Maps<'a>,
    unlabeled: Maps<'a>,
    gamma: f32,
    low: f32,
    high: f32,
    ys: Vec<usize>,
    xs: Vec<usize>,
}

pub(in super::super) fn partition(cx: &Ctx, call: &Call, a: &Partition) -> Result<()> {
    let logits = &call.ins[0];
    let words = a.classes.div_ceil(32);
    let [batch, h, w, classes] = logits.shape;
    for out in &call.outs {
        if out.shape != [batch, h, w, words] || !out.is_dense() {
            return Err(mismatch("partition", "dense masks [B, h, w, Wd]", out));
        }
    }
    if classes != a.classes || logits.elements() == 0 || call.outs.len() != 3 {
        return Err(mismatch("partition", "logits of all classes", logits));
    }
    let masks = Masks::new(cx, call, a)?;
    if masks.labeled.images + masks.unlabeled.images != batch {
        return Err(mismatch("partition", "logits of every image", logits));
    }
    let values = cx.f32(logits)?;
    let row = w * words;
    let anchors = cx.u32_mut(&call.outs[0])?.par_chunks_mut(row);
    let positives = cx.u32_mut(&call.outs[1])?.par_chunks_mut(row);
    let negatives = cx.u32_mut(&call.outs[2])?.par_chunks_mut(row);
    anchors
        .zip(positives)
        .zip(negatives)
        .enumerate()
        .for_each_init(
            || (vec![PAD; padded(classes)], vec![0.0; padded(classes)]),
            |(x, e), (row, ((anchors, positives), negatives))| {
                anchors.fill(0);
                positives.fill(0);
                negatives.fill(0);
                for column in 0..w {
                    let pixel = row * w + column;
                    x[..classes].copy_from_slice(&values[pixel * logits.ld..][..classes]);
                    let bits = column * words..(column + 1) * words;
                    masks.pixel(row / h, row % h, column, x, e, |mask, class| {
                        let target = match mask {
                            Mask::Anchor => &mut anchors[bits.clone()],
                            Mask::Positive => &mut positives[bits.clone()],
                            Mask::Negative => &mut negatives[bits.clone()],
                        };
                        target[class / 32] |= 1 << (class % 32);
                    });
                }
            },
        );
    Ok(())
}

/// The three outputs.
enum Mask {
    Anchor,
    Positive,
    Negative,
}

impl<'a> Masks<'a> {
    fn new(cx: &'a Ctx, call: &Call, a: &'a Partition) -> Result<Self> {
        let [_, h, w, _] = call.ins[0].shape;
        let [label_l, label_u, entropy_u] = [&call.ins[1], &call.ins[2], &call.ins[3]];
        dense_map("partition", label_l, label_l)?;
        dense_map("partition", label_u, label_u)?;
        dense_map("partition", entropy_u, label_u)?;
        let [_, height, width, _] = label_l.shape;
        if label_u.shape[1..3] != [height, width] || height == 0 || width == 0 {
            return Err(mismatch("partition", "label maps of one size", label_u));
        }
        let &[gamma, low, high] = cx.f32(&call.ins[4])? else {
            return Err(mismatch("partition", "thresholds f32[3]", &call.ins[4]));
        };
        let maps = |label: &View, entropy| -> Result<Maps<'a>> {
            Ok(Maps {
                label: cx.u8(label)?,
                entropy,
                images: label.shape[0],
                height,
                width,
            })
        };
        Ok(Self {
            a,
            labeled: maps(label_l, None)?,
            unlabeled: maps(label_u, Some(cx.f32(entropy_u)?))?,
            gamma,
            low,
            high,
            ys: nearest(height, h),
            xs: nearest(width, w),
        })
    }

    /// Marks the masks of one feature pixel whose padded logits are `x`.
    fn pixel(
        &self,
        image: usize,
        y: usize,
        x_pos: usize,
        x: &[f32],
        e: &mut [f32],
        mut mark: impl FnMut(Mask, usize),
    ) {
        let (y, x_pos) = (self.ys[y], self.xs[x_pos]);
        let labeled = image < self.labeled.images;
        let (maps, image) = match labeled {
            true => (&self.labeled, image),
            false => (&self.unlabeled, image - self.labeled.images),
        };
        let at = maps.index(image, y, x_pos);
        let pixel = Pixel {
            labeled,
            class: self.class(maps.label[at]),
            entropy: maps.entropy.map_or(0.0, |entropy| entropy[at]),
        };
        let s = vmath::softmax(x, e);
        let p = |class: usize| e[class] / s.sum();
        match self.a.variant {
            Variant::Paper => self.paper(&pixel, x, p, mark),
            Variant::Released if image == 0 && pixel.class.is_some() => {
                // Row 1: image 0 carries the classes of every image of its tensor here.
                let mut done = [false; 256];
                for other in 0..maps.images {
                    let label = maps.label[maps.index(other, y, x_pos)];
                    let class = self.class(label).unwrap_or(0);
                    if !std::mem::replace(&mut done[class], true) {
                        self.released(&pixel, class, x, &p, &mut mark);
                    }
                }
            }
            Variant::Released => {}
        }
    }

    /// The class that a label names.
    fn class(&self, label: u8) -> Option<usize> {
        let class = usize::from(label);
        (label != self.a.ignore && class < self.a.classes).then_some(class)
    }

    fn paper(
        &self,
        pixel: &Pixel,
        x: &[f32],
        p: impl Fn(usize) -> f32,
        mut mark: impl FnMut(Mask, usize),
    ) {
        let Some(own) = pixel.class else {
            return;
        };
        if (pixel.labeled || pixel.entropy < self.gamma) && p(own) > self.a.delta_p {
            mark(Mask::Anchor, own);
            mark(Mask::Positive, own);
        }
        // As tests for what counts, so that NaN does not.
        let counts = match self.a.unlabeled {
            NegativePixels::Unreliable => pixel.entropy > self.gamma,
            NegativePixels::Reliable => pixel.entropy <= self.gamma,
            NegativePixels::All => true,
            NegativePixels::Labeled => false,
        };
        if !pixel.labeled && !counts {
            return;
        }
        for class in 0..self.a.classes {
            let rank = rank(x, self.a.classes, class);
            let negative = match pixel.labeled {
                true => class != own && rank < self.a.low_rank,
                false => self.negative_rank(rank),
            };
            if negative {
                mark(Mask::Negative, class);
            }
        }
    }

    /// Marks `class`, one of the one-hots of a pixel of image 0.
    fn released(
        &self,
        pixel: &Pixel,
        class: usize,
        x: &[f32],
        p: &impl Fn(usize) -> f32,
        mark: &mut impl FnMut(Mask, usize),
    ) {
        if pixel.labeled || pixel.entropy <= self.low {
            mark(Mask::Positive, class);
            if p(class) > self.a.delta_p {
                mark(Mask::Anchor, class);
            }
        }
        let high = !pixel.labeled && pixel.entropy >= self.high;
        if high && self.negative_rank(rank(x, self.a.classes, class)) {
            mark(Mask::Negative, class);
        }
    }

    /// r_l ≤ O(c) < r_h.
    fn negative_rank(&self, rank: u32) -> bool {
        (self.a.low_rank..self.a.high_rank).contains(&rank)
    }
}

/// O(c): how many classes are more likely, lower classes first among equals.
fn rank(x: &[f32], classes: usize, class: usize) -> u32 {
    let own = x[class];
    let before = x[..class].iter().filter(|&&v| v >= own).count();
    let after = x[class + 1..classes].iter().filter(|&&v| v > own).count();
    (before + after) as u32
}

pub(in super::super) fn compact(cx: &Ctx, call: &Call, labeled_pixels: usize) -> Result<()> {
    let (bits, list, counts) = (&call.ins[0], &call.outs[0], &call.outs[1]);
    let [_, _, classes, capacity] = list.shape;
    let pixels = bits.pixels();
    if capacity < pixels || bits.channels() * 32 < classes {
        return Err(mismatch(
            "compact",
            "a list for every pixel and class",
            list,
        ));
    }
    if counts.shape != [1, 1, 2, classes] || !counts.is_dense() || classes == 0 {
        return Err(mismatch("compact", "dense counts [1, 1, 2, C]", counts));
    }
    if u32::try_from(pixels).is_err() {
        return Err(Error::internal("compact: more pixels than a u32 counts"));
    }
    let words = cx.u32(bits)?;
    let (all, labeled) = cx.u32_mut(counts)?.split_at_mut(classes);
    cx.u32_mut(list)?
        .par_chunks_mut(list.ld.max(1))
        .zip(all)
        .zip(labeled)
        .enumerate()
        .for_each(|(class, ((list, all), labeled))| {
            let (word, bit) = (class / 32, class % 32);
            let mut count = 0;
            *labeled = 0;
            for pixel in 0..pixels {
                if words[pixel * bits.ld + word] >> bit & 1 == 1 {
                    list[count] = pixel as u32;
                    count += 1;
                    *labeled += u32::from(pixel < labeled_pixels);
                }
            }
            *all = count as u32;
        });
    Ok(())
}
