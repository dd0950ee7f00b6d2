//! Strong augmentation within a batch: cutmix, classmix, cutout.

use rayon::prelude::*;

use super::super::op::MixKind;
use super::super::philox::{Rng, to_below};
use super::super::{Call, View};
use super::memory::Ctx;
use super::rows::{ins, outs, pixel, want_shape};
use crate::error::Result;

/// Which pixels of an image stay its own.
enum Mask {
    /// All of them.
    All,
    /// All but a box `[y0, y1) × [x0, x1)`.
    Outside { y: [usize; 2], x: [usize; 2] },
    /// Those of these labels.
    Classes(Box<[bool; 256]>),
}

impl Mask {
    fn keeps(&self, y: usize, x: usize, label: u8) -> bool {
        match self {
            Mask::All => true,
            Mask::Outside { y: ys, x: xs } => {
                !(ys[0]..ys[1]).contains(&y) || !(xs[0]..xs[1]).contains(&x)
            }
            Mask::Classes(classes) => classes[usize::from(label)],
        }
    }
}

/// A box of half the area: width uniform on `⌊W/2⌋ + 1 ..= W − 1`, height `HW/2/width` rounded
/// half to even, position uniform. A width below 3 leaves no choice: the box is `W` wide.
fn draw_box(rng: &Rng, image: usize, h: usize, w: usize) -> Mask {
    let words = rng.block(1 + image as u64);
    let least = (w / 2 + 1).min(w);
    let widths = w.saturating_sub(least).max(1);
    let width = least + to_below(words[0], widths as u32) as usize;
    let (whole, rest) = (h * w / (2 * width), h * w % (2 * width));
    let up = rest > width || (rest == width && whole % 2 == 1);
    let height = whole + usize::from(up);
    let y = to_below(words[1], (h - height + 1) as u32) as usize;
    let x = to_below(words[2], (w - width + 1) as u32) as usize;
    Mask::Outside {
        y: [y, y + height],
        x: [x, x + width],
    }
}

/// The ⌊n/2⌋ of the image's n classes with the smallest keys, ties to the lower class.
fn draw_classes(rng: &Rng, image: usize, labels: &[u8], ignore: u8) -> Mask {
    let mut present = [false; 256];
    for &label in labels {
        present[usize::from(label)] = true;
    }
    present[usize::from(ignore)] = false;
    let mut keyed: Vec<(u32, usize)> = (0..256)
        .filter(|&class| present[class])
        .map(|class| (rng.block(((1 + image) * 256 + class) as u64)[0], class))
        .collect();
    keyed.sort_unstable();
    let mut chosen = Box::new([false; 256]);
    for &(_, class) in &keyed[..keyed.len() / 2] {
        chosen[class] = true;
    }
    Mask::Classes(chosen)
}

pub(super) fn mix(
    cx: &Ctx,
    call: &Call,
    kind: MixKind,
    prob: f32,
    ignore: u8,
    stream: u32,
) -> Result<()> {
    let ([x, label, extra, state], [x_out, label_out, extra_out]) = (ins(call)?, outs(call)?);
    let [n, h, w, _] = x.shape;
    want_shape(call, x, [n, h, w, 3])?;
    want_shape(call, x_out, x.shape)?;
    for labels in [label, extra, label_out, extra_out] {
        want_shape(call, labels, [n, h, w, 1])?;
    }
    let rng = Rng::new(cx.rng_state(state)?, stream);
    let (images, labels, extras) = (cx.f32(x)?, cx.u8(label)?, cx.u8(extra)?);
    let mixes = rng.uniform(0) < prob;
    let masks: Vec<Mask> = (0..n)
        .into_par_iter()
        .map(|b| match kind {
            MixKind::None => Mask::All,
            _ if !mixes => Mask::All,
            MixKind::CutMix | MixKind::CutOut => draw_box(&rng, b, h, w),
            MixKind::ClassMix => {
                let own: Vec<u8> = (b * h * w..(b + 1) * h * w)
                    .map(|p| labels[p * label.ld])
                    .collect();
                draw_classes(&rng, b, &own, ignore)
            }
        })
        .collect();
    // The pixel that output pixel p copies; none is cut out.
    let source = |b: usize, y: usize, x: usize| {
        let own = (b * h + y) * w + x;
        if masks[b].keeps(y, x, labels[own * label.ld]) {
            Some(own)
        } else if kind == MixKind::CutOut {
            None
        } else {
            Some(((b + 1) % n * h + y) * w + x)
        }
    };
    let lines = |view: &View| (w * view.ld).max(1);
    let image_lines = cx.f32_mut(x_out)?.par_chunks_mut(lines(x_out));
    let label_lines = cx.u8_mut(label_out)?.par_chunks_mut(lines(label_out));
    let extra_lines = cx.u8_mut(extra_out)?.par_chunks_mut(lines(extra_out));
    let all = image_lines.zip(label_lines).zip(extra_lines);
    all.enumerate().for_each(|(line, ((xs, ls), es))| {
        let maps = xs.chunks_mut(x_out.ld).zip(ls.chunks_mut(label_out.ld));
        let maps = maps.zip(es.chunks_mut(extra_out.ld));
        for (column, ((rgb, l), e)) in maps.enumerate() {
            match source(line / h, line % h, column) {
                Some(p) => {
                    rgb[..3].copy_from_slice(pixel(images, x, p));
                    (l[0], e[0]) = (labels[p * label.ld], extras[p * extra.ld]);
                }
                None => {
                    rgb[..3].fill(0.0);
                    (l[0], e[0]) = (ignore, ignore);
                }
            }
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Bench, noise};
    use super::*;
    use crate::device::{Op, elements};

    const SHAPE: [usize; 4] = [3, 12, 9, 3];
    const STREAM: u32 = 4;

    struct Maps {
        x: Vec<f32>,
        label: Vec<u8>,
        extra: Vec<u8>,
    }

    /// Image b has the classes 10b .. 10b + 5 (5 columns groups); extra = label + 100.
    fn batch() -> Maps {
        let [n, h, w, _] = SHAPE;
        let label: Vec<u8> = (0..n * h * w)
            .map(|p| (10 * (p / (h * w)) + p % w / 2) as u8)
            .collect();
        Maps {
            x: noise(elements(SHAPE), 1),
            extra: label.iter().map(|l| l + 100).collect(),
            label,
        }
    }

    fn run(kind: MixKind, prob: f32, step: u32, threads: usize, label: &[u8]) -> Maps {
        let b = Bench::new(threads);
        let m = batch();
        let maps = [SHAPE[0], SHAPE[1], SHAPE[2], 1];
        let x = b.f32(SHAPE, 2, &m.x);
        let (label, extra) = (b.u8(maps, label), b.u8(maps, &m.extra));
        let rng = b.u32([1, 1, 1, 4], &[3, 4, step, 0]);
        let y = b.out(SHAPE, 1);
        let blank = vec![77; elements(maps)];
        let (label_out, extra_out) = (b.u8(maps, &blank), b.u8(maps, &blank));
        let op = Op::Mix {
            kind,
            prob,
            ignore: 255,
            stream: STREAM,
        };
        b.run(op, &[x, label, extra, rng], &[y, label_out, extra_out]);
        Maps {
            x: b.get(&y),
            label: b.get_u8(&label_out),
            extra: b.get_u8(&extra_out),
        }
    }

    /// For each pixel: does it come from its own image? Checks that all three maps agree.
    fn own(got: &Maps, cut: bool) -> Vec<bool> {
        let (m, n) = (batch(), batch().label.len());
        let area = n / SHAPE[0];
        let from = |p: usize, q: usize| {
            got.x[3 * p..3 * p + 3] == m.x[3 * q..3 * q + 3]
                && (got.label[p], got.extra[p]) == (m.label[q], m.extra[q])
        };
        (0..n)
            .map(|p| {
                let next = (p + area) % n;
                let blank = got.x[3 * p..3 * p + 3] == [0.0; 3]
                    && (got.label[p], got.extra[p]) == (255, 255);
                let other = if cut { blank } else { from(p, next) };
                assert!(from(p, p) != other, "pixel {p} is neither");
                from(p, p)
            })
            .collect()
    }

    #[test]
    fn none_and_an_unlucky_coin_copy() {
        let m = batch();
        let coin = Rng::new([3, 4, 6, 0], STREAM).uniform(0);
        for (kind, prob) in [
            (MixKind::None, 1.0),
            (MixKind::CutMix, 0.0),
            (MixKind::ClassMix, coin),
        ] {
            let got = run(kind, prob, 6, 1, &m.label);
            assert_eq!(
                (got.x, got.label, got.extra),
                (m.x.clone(), m.label.clone(), m.extra.clone())
            );
        }
        assert!(own(&run(MixKind::CutMix, coin + 1e-6, 6, 1, &m.label), false).contains(&false));
    }

    /// The box is a rectangle of the documented width range and half the area.
    #[test]
    fn boxes_hold_half_the_area() {
        let [n, h, w, _] = SHAPE;
        for (kind, step) in [
            (MixKind::CutMix, 0),
            (MixKind::CutOut, 1),
            (MixKind::CutMix, 2),
        ] {
            let got = run(kind, 1.0, step, 2, &batch().label);
            let own = own(&got, kind == MixKind::CutOut);
            for image in own.chunks(h * w) {
                let hit: Vec<usize> = (0..h * w).filter(|&p| !image[p]).collect();
                let (ys, xs) = (hit.iter().map(|p| p / w), hit.iter().map(|p| p % w));
                let height = 1 + ys.clone().max().unwrap() - ys.min().unwrap();
                let width = 1 + xs.clone().max().unwrap() - xs.min().unwrap();
                assert!((w / 2 + 1..w).contains(&width));
                assert_eq!(
                    height,
                    ((h * w) as f64 / 2.0 / width as f64).round_ties_even() as usize
                );
                assert_eq!(hit.len(), height * width);
            }
            assert_eq!(own.len(), n * h * w);
        }
    }

    #[test]
    fn boxes_fit_every_size() {
        let rng = Rng::seeded(1, 2, 3);
        for (h, w, image) in
            (1..9).flat_map(|h| (1..9).flat_map(move |w| (0..9).map(move |i| (h, w, i))))
        {
            let Mask::Outside { y, x } = draw_box(&rng, image, h, w) else {
                panic!("not a box");
            };
            assert!(y[1] <= h && x[1] <= w, "{h}×{w}: {y:?} {x:?}");
            assert!(w < 3 || x[1] - x[0] < w);
        }
    }

    /// Two of the five classes of each image stay, the documented ones.
    #[test]
    fn classmix_keeps_half_of_the_classes() {
        let m = batch();
        let [n, h, w, _] = SHAPE;
        let own = own(&run(MixKind::ClassMix, 1.0, 9, 2, &m.label), false);
        let rng = Rng::new([3, 4, 9, 0], STREAM);
        for b in 0..n {
            let mut classes: Vec<u64> = (0..5).map(|c| 10 * b as u64 + c).collect();
            classes.sort_by_key(|c| rng.block((1 + b as u64) * 256 + c)[0]);
            let pixels = own.iter().zip(&m.label).skip(b * h * w).take(h * w);
            for (&own, &label) in pixels {
                assert_eq!(own, classes[..2].contains(&u64::from(label)));
            }
        }
    }

    /// One class, or only ignored pixels: ⌊n/2⌋ = 0, the next image takes all.
    #[test]
    fn classmix_of_one_class_is_the_next_image() {
        let (m, area) = (batch(), SHAPE[1] * SHAPE[2]);
        for value in [7, 255] {
            let mut label = m.label.clone();
            label[..area].fill(value);
            let got = run(MixKind::ClassMix, 1.0, 2, 1, &label);
            assert_eq!(got.label[..area], m.label[area..2 * area]);
            assert_eq!(got.x[..3 * area], m.x[3 * area..6 * area]);
        }
    }

    #[test]
    fn threads_do_not_matter() {
        for kind in [MixKind::CutMix, MixKind::ClassMix, MixKind::CutOut] {
            let [a, b] = [1, 3].map(|threads| run(kind, 1.0, 8, threads, &batch().label));
            assert_eq!((a.x, a.label, a.extra), (b.x, b.label, b.extra));
        }
    }
}
