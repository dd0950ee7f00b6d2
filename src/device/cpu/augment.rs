//! Weak augmentation: raw images and labels to normalised crops, only the crop's pixels computed.

use rayon::prelude::*;

use super::super::op::Augment;
use super::super::philox::{Rng, to_below, to_unit};
use super::super::{Call, View};
use super::memory::Ctx;
use super::rows::{ins, outs, want_shape};
use super::want;
use crate::error::{Error, Result};

pub(super) fn augment(cx: &Ctx, call: &Call, a: &Augment) -> Result<()> {
    let ([images, labels, sizes, state], [x, label]) = (ins(call)?, outs(call)?);
    let [n, h, w, _] = x.shape;
    let cap = labels.channels();
    want_shape(call, x, [n, h, w, 3])?;
    want_shape(call, label, [n, h, w, 1])?;
    want_shape(call, images, [n, 1, 1, 3 * cap])?;
    want_shape(call, labels, [n, 1, 1, cap])?;
    want_shape(call, sizes, [n, 1, 1, 2])?;
    want(call.op.name(), sizes, super::DType::U32)?;
    let rng = Rng::new(cx.rng_state(state)?, a.stream);
    let (image_bytes, label_bytes) = (cx.u8(images)?, cx.u8(labels)?);
    let size_words = cx.u32(sizes)?;
    let sources = (0..n)
        .map(|b| {
            let size = [0, 1].map(|k| size_words[b * sizes.ld + k] as usize);
            if size[0] * size[1] == 0 || size[0].saturating_mul(size[1]) > cap {
                return Err(Error::internal(format!(
                    "augment: image {b} of {size:?} pixels in a row of {cap}"
                )));
            }
            Ok(Source {
                image: &image_bytes[b * images.ld..],
                label: &label_bytes[b * labels.ld..],
                geometry: Geometry::draw(a, &rng, b as u64, size, [h, w]),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    let lines = cx.f32_mut(x)?.par_chunks_mut((w * x.ld).max(1));
    let label_lines = cx.u8_mut(label)?.par_chunks_mut((w * label.ld).max(1));
    lines
        .zip(label_lines)
        .enumerate()
        .for_each(|(i, (x_line, label_line))| {
            sources[i / h].line(a, i % h, (x_line, x), (label_line, label));
        });
    Ok(())
}

/// What was drawn for one image, and where it puts pixels.
struct Geometry {
    /// Source height and width.
    size: [usize; 2],
    /// Height and width after the resize.
    resized: [usize; 2],
    flip: bool,
    /// Crop offset less leading padding: crop pixel i is pixel `i + shift` of the flipped image.
    shift: [isize; 2],
}

impl Geometry {
    fn draw(a: &Augment, rng: &Rng, image: u64, size: [usize; 2], crop: [usize; 2]) -> Self {
        let [coin, scale, flip, _] = rng.block(2 * image).map(to_unit);
        let offsets = rng.block(2 * image + 1);
        let (from, to) = match coin < 0.5 {
            true => (a.scale.0, 1.0),
            false => (1.0, a.scale.1),
        };
        let factor = from + (to - from) * scale;
        let resized = size.map(|s| ((s as f32 * factor) as usize).max(1));
        let shift = [0, 1].map(|axis| {
            let padding = crop[axis].saturating_sub(resized[axis]);
            let spare = resized[axis].saturating_sub(crop[axis]);
            let offset = match a.random_crop {
                true => to_below(offsets[axis], spare as u32 + 1) as usize,
                false => spare / 2,
            };
            offset as isize - (padding / 2) as isize
        });
        Self {
            size,
            resized,
            flip: flip < a.flip,
            shift,
        }
    }

    /// Position on the resized image's axis of crop pixel `i`; none in the padding.
    fn resized_at(&self, axis: usize, i: usize) -> Option<usize> {
        let at = usize::try_from(i as isize + self.shift[axis]).ok()?;
        let last = self.resized[axis] - 1;
        match at <= last {
            true if axis == 1 && self.flip => Some(last - at),
            true => Some(at),
            false => None,
        }
    }

    /// Source over resized size: the coordinate scale.
    fn scale(&self, axis: usize) -> f32 {
        self.size[axis] as f32 / self.resized[axis] as f32
    }

    /// Bilinear taps of a resized position, pixel centres at half-integers: low, high and the
    /// weight of high.
    fn bilinear(&self, axis: usize, at: usize) -> (usize, usize, f32) {
        let source = ((at as f32 + 0.5) * self.scale(axis) - 0.5).max(0.0);
        let last = self.size[axis] - 1;
        let low = (source as usize).min(last);
        let weight = (source - low as f32).clamp(0.0, 1.0);
        (low, (low + 1).min(last), weight)
    }

    /// Nearest source position of a resized one.
    fn nearest(&self, axis: usize, at: usize) -> usize {
        ((at as f32 * self.scale(axis)) as usize).min(self.size[axis] - 1)
    }
}

/// One image of the batch, its label and its draw.
struct Source<'a> {
    image: &'a [u8],
    label: &'a [u8],
    geometry: Geometry,
}

impl Source<'_> {
    /// Row `y` of the crop.
    fn line(
        &self,
        a: &Augment,
        y: usize,
        (x_line, x): (&mut [f32], &View),
        (label_line, label): (&mut [u8], &View),
    ) {
        let g = &self.geometry;
        let row = g.resized_at(0, y);
        let pixels = x_line.chunks_mut(x.ld).zip(label_line.chunks_mut(label.ld));
        for (i, (rgb, label)) in pixels.enumerate() {
            match (row, g.resized_at(1, i)) {
                (Some(ry), Some(rx)) => {
                    for (channel, v) in rgb[..3].iter_mut().enumerate() {
                        *v = (self.sample(ry, rx, channel) - a.mean[channel]) / a.std[channel];
                    }
                    label[0] = self.label[g.nearest(0, ry) * g.size[1] + g.nearest(1, rx)];
                }
                _ => {
                    rgb[..3].fill(0.0);
                    label[0] = a.pad_label;
                }
            }
        }
    }

    /// The image at a resized position: columns first, then rows.
    #[inline]
    fn sample(&self, ry: usize, rx: usize, channel: usize) -> f32 {
        let g = &self.geometry;
        let (top, bottom, fy) = g.bilinear(0, ry);
        let (left, right, fx) = g.bilinear(1, rx);
        let at = |y: usize, x: usize| f32::from(self.image[(y * g.size[1] + x) * 3 + channel]);
        let upper = (1.0 - fx) * at(top, left) + fx * at(top, right);
        let lower = (1.0 - fx) * at(bottom, left) + fx * at(bottom, right);
        (1.0 - fy) * upper + fy * lower
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Bench, close};
    use super::*;
    use crate::device::Op;

    const PLAIN: Augment = Augment {
        scale: (1.0, 1.0),
        flip: 0.0,
        random_crop: false,
        mean: [0.0; 3],
        std: [1.0; 3],
        pad_label: 255,
        stream: 3,
    };

    /// Augments images whose red is `red` and green 100, labelled by red; returns the red and
    /// green channels and the labels.
    fn run(
        a: &Augment,
        threads: usize,
        images: &[(usize, usize, Vec<u8>)],
        [h, w]: [usize; 2],
        step: u32,
    ) -> (Vec<f32>, Vec<f32>, Vec<u8>) {
        let b = Bench::new(threads);
        let n = images.len();
        let cap = 3 + images.iter().map(|i| i.0 * i.1).max().unwrap();
        let (mut raw, mut labels, mut sizes) = (Vec::new(), Vec::new(), Vec::new());
        for (h, w, red) in images {
            let mut rgb: Vec<u8> = red.iter().flat_map(|&r| [r, 100, 0]).collect();
            rgb.resize(3 * cap, 17);
            raw.extend(rgb);
            labels.extend(red);
            labels.resize(labels.len().next_multiple_of(cap), 18);
            sizes.extend([*h as u32, *w as u32]);
        }
        let raw = b.u8([n, 1, 1, 3 * cap], &raw);
        let labels = b.u8([n, 1, 1, cap], &labels);
        let sizes = b.u32([n, 1, 1, 2], &sizes);
        let rng = b.u32([1, 1, 1, 4], &[1, 2, step, 0]);
        let x = b.out([n, h, w, 3], 1);
        let label = b.u8([n, h, w, 1], &vec![9; n * h * w]);
        b.run(
            Op::Augment(a.clone()),
            &[raw, labels, sizes, rng],
            &[x, label],
        );
        let got = b.get(&x);
        let channel = |c: usize| got.iter().skip(c).step_by(3).copied().collect();
        (channel(0), channel(1), b.get_u8(&label))
    }

    fn ramp(h: usize, w: usize) -> (usize, usize, Vec<u8>) {
        (h, w, (0..h * w).map(|i| i as u8).collect())
    }

    #[test]
    fn same_size_is_only_normalised() {
        let a = Augment {
            mean: [1.0, 60.0, 0.0],
            std: [2.0, 10.0, 1.0],
            ..PLAIN
        };
        let (red, green, label) = run(&a, 1, &[ramp(2, 2)], [2, 2], 0);
        assert_eq!(red, [-0.5, 0.0, 0.5, 1.0]);
        assert_eq!(green, [4.0; 4]);
        assert_eq!(label, [0, 1, 2, 3]);
    }

    /// Padding of 3 goes 1 before and 2 after; a centre crop starts at ⌊spare/2⌋.
    #[test]
    fn pads_around_and_crops_the_centre() {
        let a = Augment {
            mean: [9.0; 3],
            ..PLAIN
        };
        let (red, _, label) = run(&a, 1, &[ramp(1, 2), ramp(1, 8)], [1, 5], 0);
        assert_eq!(
            red,
            [0.0, -9.0, -8.0, 0.0, 0.0, -8.0, -7.0, -6.0, -5.0, -4.0]
        );
        assert_eq!(label, [255, 0, 1, 255, 255, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn flips_before_padding() {
        let a = Augment { flip: 1.0, ..PLAIN };
        let (red, _, label) = run(&a, 1, &[(1, 3, vec![10, 20, 30])], [1, 4], 0);
        assert_eq!(red, [30.0, 20.0, 10.0, 0.0]);
        assert_eq!(label, [30, 20, 10, 255]);
    }

    /// ×2 and ×½ by the half-pixel rule, from PyTorch's `interpolate(size=…)`.
    #[test]
    fn resizes_as_pytorch_does() {
        let image = (1, 4, vec![0, 40, 80, 200]);
        let mut seen = [false; 2];
        for step in 0..16 {
            let a = Augment {
                scale: (0.5, 2.0),
                ..PLAIN
            };
            let rng = Rng::new([1, 2, step, 0], a.stream);
            let [coin, u, ..] = rng.block(0).map(to_unit);
            let scale = if coin < 0.5 { 0.5 + 0.5 * u } else { 1.0 + u };
            let size = ((4.0 * scale) as usize).max(1);
            seen[usize::from(coin < 0.5)] = true;
            let want: Vec<f64> = (0..size)
                .map(|o| {
                    let at = ((o as f64 + 0.5) * 4.0 / size as f64 - 0.5).clamp(0.0, 3.0);
                    let (i, f) = (at as usize, at.fract());
                    let v = |i: usize| f64::from(image.2[i.min(3)]);
                    v(i) * (1.0 - f) + v(i + 1) * f
                })
                .collect();
            let nearest: Vec<u8> = (0..size).map(|o| image.2[o * 4 / size]).collect();
            let (red, _, label) = run(&a, 1, std::slice::from_ref(&image), [1, size], step);
            close(&red, &want, 1e-5);
            assert_eq!(label, nearest);
        }
        assert_eq!(seen, [true; 2]);
    }

    #[test]
    fn random_crops_stay_inside_and_cover_every_offset() {
        let a = Augment {
            random_crop: true,
            ..PLAIN
        };
        let mut seen = [false; 4];
        for step in 0..64 {
            let (red, _, label) = run(&a, 2, &[ramp(4, 8)], [4, 5], step);
            let offset = red[0] as usize;
            seen[offset] = true;
            for (i, (&red, &label)) in red.iter().zip(&label).enumerate() {
                assert_eq!(red, (i / 5 * 8 + i % 5 + offset) as f32);
                assert_eq!(f32::from(label), red);
            }
        }
        assert_eq!(seen, [true; 4]);
    }

    #[test]
    fn threads_do_not_matter_and_bad_sizes_are_errors() {
        let a = Augment {
            scale: (0.5, 2.0),
            flip: 0.5,
            random_crop: true,
            ..PLAIN
        };
        let images = [ramp(9, 13), ramp(15, 7), ramp(3, 3)];
        assert_eq!(
            run(&a, 1, &images, [10, 9], 5),
            run(&a, 3, &images, [10, 9], 5)
        );
        let b = Bench::new(1);
        let raw = b.u8([1, 1, 1, 12], &[0; 12]);
        let labels = b.u8([1, 1, 1, 4], &[0; 4]);
        let rng = b.u32([1, 1, 1, 4], &[0; 4]);
        let outs = [b.out([1, 2, 2, 3], 0), b.u8([1, 2, 2, 1], &[0; 4])];
        for size in [[0, 2], [3, 2], [u32::MAX, u32::MAX]] {
            let sizes = b.u32([1, 1, 1, 2], &size);
            let ins = [raw, labels, sizes, rng];
            assert!(b.try_run(Op::Augment(PLAIN), &ins, &outs, 0).is_err());
        }
    }
}
