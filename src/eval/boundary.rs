//! Boundary IoU (Cheng et al., CVPR 2021): IoU of the pixels that lie near the border of a class, so
//! that thin parts and edges count as much as insides.

/// Share of the image's diagonal that counts as near.
const NEAR: f64 = 0.02;

/// Pixels near the borders of each class, added up over images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Boundary {
    /// Per class: in the border of both truth and prediction.
    both: Vec<u64>,
    /// Per class: in the border of either.
    either: Vec<u64>,
}

impl Boundary {
    /// No pixels yet.
    pub fn new(classes: usize) -> Self {
        Self {
            both: vec![0; classes],
            either: vec![0; classes],
        }
    }

    /// Adds an image of `width` columns. A pixel of a class lies in its border when one of another
    /// class, or the outside, is within 2 % of the diagonal (at least a pixel) along rows, columns
    /// and diagonals. Pixels whose truth is `ignore` are of no class and do not count.
    pub fn add(&mut self, truth: &[u8], prediction: &[u8], width: usize, ignore: u8) {
        let height = truth.len() / width.max(1);
        let near = (NEAR * (height as f64).hypot(width as f64))
            .round()
            .max(1.0) as u32;
        for class in 0..self.both.len() {
            let [t, p] = [truth, prediction].map(|map| {
                let of_class = |i: usize| usize::from(map[i]) == class && truth[i] != ignore;
                border(of_class, height, width, near)
            });
            for (&t, &p) in t.iter().zip(&p) {
                self.both[class] += u64::from(t && p);
                self.either[class] += u64::from(t || p);
            }
        }
    }

    /// Adds what another counted.
    pub fn merge(&mut self, other: &Self) {
        let add = |sum: &mut Vec<u64>, more: &[u64]| {
            sum.iter_mut().zip(more).for_each(|(a, b)| *a += b);
        };
        add(&mut self.both, &other.both);
        add(&mut self.either, &other.either);
    }

    /// Boundary IoU per class; `None` for a class without a border.
    pub fn iou(&self) -> Vec<Option<f64>> {
        let share =
            |(&both, &either): (&u64, &u64)| (either > 0).then(|| both as f64 / either as f64);
        self.both.iter().zip(&self.either).map(share).collect()
    }

    /// Mean of [`Boundary::iou`] over the classes that have a border.
    pub fn mean(&self) -> Option<f64> {
        let present: Vec<f64> = self.iou().into_iter().flatten().collect();
        (!present.is_empty()).then(|| present.iter().sum::<f64>() / present.len() as f64)
    }
}

/// The pixels of a set within `near` king's moves of one that is not in it, or of the outside.
fn border(inside: impl Fn(usize) -> bool, height: usize, width: usize, near: u32) -> Vec<bool> {
    // Distance by two sweeps: from above and the left, then from below and the right.
    let mut distance: Vec<u32> = (0..height * width)
        .map(|i| if inside(i) { u32::MAX } else { 0 })
        .collect();
    let at = |d: &[u32], y: isize, x: isize| -> u32 {
        let within = (0..height as isize).contains(&y) && (0..width as isize).contains(&x);
        match within {
            true => d[y as usize * width + x as usize],
            false => 0,
        }
    };
    let mut sweep = |order: &mut dyn Iterator<Item = usize>, sign: isize| {
        for i in order {
            if distance[i] == 0 {
                continue;
            }
            let (y, x) = ((i / width) as isize, (i % width) as isize);
            let steps = [(-1, -1), (-1, 0), (-1, 1), (0, -1)];
            let nearest = steps.map(|(dy, dx)| at(&distance, y + sign * dy, x + sign * dx));
            let nearest = nearest.into_iter().min().unwrap_or(0);
            distance[i] = distance[i].min(nearest.saturating_add(1));
        }
    };
    sweep(&mut (0..height * width), 1);
    sweep(&mut (0..height * width).rev(), -1);
    distance.iter().map(|&d| d > 0 && d <= near).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::philox::Rng;

    /// The border from its definition, pixel by pixel.
    fn plain(map: &[bool], height: usize, width: usize, near: isize) -> Vec<bool> {
        let (h, w) = (height as isize, width as isize);
        let out =
            |y: isize, x: isize| y < 0 || x < 0 || y >= h || x >= w || !map[(y * w + x) as usize];
        (0..h * w)
            .map(|i| {
                let (y, x) = (i / w, i % w);
                map[i as usize]
                    && (y - near..=y + near).any(|v| (x - near..=x + near).any(|u| out(v, u)))
            })
            .collect()
    }

    #[test]
    fn borders_follow_the_definition() {
        for (seed, height, width, near) in
            [(1, 9, 13, 1), (2, 20, 7, 2), (3, 1, 5, 3), (4, 17, 17, 3)]
        {
            let rng = Rng::seeded(seed, 0, 0);
            let map: Vec<bool> = (0..(height * width) as u64)
                .map(|i| rng.below(i, 12) > 0)
                .collect();
            let found = border(|i| map[i], height, width, near);
            assert_eq!(found, plain(&map, height, width, near as isize));
        }
    }

    #[test]
    fn a_shifted_square_loses_its_edges_and_ignored_pixels_do_not_count() {
        let (height, width) = (40, 40);
        let square = |left: usize| -> Vec<u8> {
            (0..height * width)
                .map(|i| {
                    u8::from(
                        (10..30).contains(&(i / width)) && (left..left + 20).contains(&(i % width)),
                    )
                })
                .collect()
        };
        let mut same = Boundary::new(2);
        same.add(&square(10), &square(10), width, 255);
        assert_eq!(same.iou(), [Some(1.0), Some(1.0)]);
        assert_eq!(same.mean(), Some(1.0));
        let mut shifted = Boundary::new(3);
        shifted.add(&square(10), &square(12), width, 255);
        // Near is one pixel: 76 pixels each, of which two rows of 18 are shared.
        assert_eq!(shifted.iou()[1], Some(36.0 / (2.0 * 76.0 - 36.0)));
        assert_eq!(shifted.iou()[2], None);
        let mut void = Boundary::new(2);
        void.add(&vec![255; height * width], &square(10), width, 255);
        assert_eq!(void.mean(), None);
        let mut twice = same.clone();
        twice.merge(&same);
        assert_eq!(twice.iou(), same.iou());
    }
}
