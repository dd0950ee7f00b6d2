//! Where on an image a network looks: crops, sliding windows, mirrored and resized copies.
//! Host side and exact in whole pixels; padding and normalising are the device's.

use crate::data::resize::{Channel, triangle};
use crate::{Error, Result};

/// A rectangle of an image, pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rect {
    /// Top row.
    pub y: usize,
    /// Left column.
    pub x: usize,
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

/// What pixels of an image on the host are made of.
pub trait Sample: Channel + bytemuck::Pod + PartialEq + Send + Sync {
    /// How a network takes them.
    const KIND: SampleKind;
}

/// The types of [`Sample`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SampleKind {
    /// Bytes, 0 to 255.
    Byte,
    /// f32, 0 to 1 (the byte over 255).
    Float,
}

impl Sample for u8 {
    const KIND: SampleKind = SampleKind::Byte;
}

impl Sample for f32 {
    const KIND: SampleKind = SampleKind::Float;
}

/// An RGB image on the host, rows from the top, 3 samples a pixel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rgb<T = u8> {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// `3 · width · height` samples.
    pub pixels: Vec<T>,
}

impl<T: Sample> Rgb<T> {
    /// The image of `pixels`.
    ///
    /// # Errors
    /// [`Error::Internal`] when there are not `3 · width · height` of them, or none.
    pub fn new(width: usize, height: usize, pixels: Vec<T>) -> Result<Self> {
        if pixels.len() != 3 * width * height || pixels.is_empty() {
            return Err(Error::internal(format!(
                "{} samples for an image of {width}×{height}",
                pixels.len()
            )));
        }
        Ok(Self {
            width,
            height,
            pixels,
        })
    }

    /// Mirrored left–right.
    pub fn mirrored(&self) -> Self {
        let mut pixels = Vec::with_capacity(self.pixels.len());
        for row in self.pixels.chunks_exact(3 * self.width) {
            for pixel in row.chunks_exact(3).rev() {
                pixels.extend_from_slice(pixel);
            }
        }
        Self { pixels, ..*self }
    }

    /// Resized by `factor` (triangle filter), to at least one pixel.
    ///
    /// # Errors
    /// [`Error::Internal`] when the pixels do not fit the size.
    pub fn scaled(&self, factor: f32) -> Result<Self> {
        let side = |n: usize| ((n as f32 * factor).round() as usize).max(1);
        self.resized(side(self.height), side(self.width))
    }

    /// Resized to `height` × `width` (triangle filter).
    ///
    /// # Errors
    /// [`Error::Internal`] when the pixels do not fit the size.
    pub fn resized(&self, height: usize, width: usize) -> Result<Self> {
        let (from, to) = ([self.height, self.width], [height, width]);
        Self::new(width, height, triangle(&self.pixels, from, to)?)
    }

    /// Its last row and column repeated up to `height` × `width`.
    pub fn extended(&self, height: usize, width: usize) -> Self {
        let mut pixels = Vec::with_capacity(3 * width * height);
        for y in 0..height {
            let row = &self.pixels[3 * self.width * y.min(self.height - 1)..][..3 * self.width];
            pixels.extend_from_slice(&row[..3 * width.min(self.width)]);
            for _ in self.width..width {
                pixels.extend_from_slice(&row[3 * (self.width - 1)..]);
            }
        }
        Self {
            width,
            height,
            pixels,
        }
    }

    /// All of it.
    pub fn rect(&self) -> Rect {
        Rect {
            y: 0,
            x: 0,
            height: self.height,
            width: self.width,
        }
    }
}

/// The elements of `rect` in a map of `width` columns with `channels` elements a pixel.
pub fn cut<T: Copy>(map: &[T], width: usize, channels: usize, rect: Rect) -> Vec<T> {
    let mut out = Vec::with_capacity(rect.height * rect.width * channels);
    for y in rect.y..rect.y + rect.height {
        let start = (y * width + rect.x) * channels;
        out.extend_from_slice(&map[start..start + rect.width * channels]);
    }
    out
}

/// The middle of an image: at most `crop` (height, width), the odd pixel going to the right and
/// bottom, as the authors' centre crop does.
pub fn center(height: usize, width: usize, crop: [usize; 2]) -> Rect {
    let (h, w) = (height.min(crop[0]), width.min(crop[1]));
    Rect {
        y: (height - h) / 2,
        x: (width - w) / 2,
        height: h,
        width: w,
    }
}

/// Overlapping windows of `crop` (height, width) over an image, in the order they are scored.
///
/// The image is padded to at least the crop, half on each side and the odd pixel on the right and
/// bottom; windows step by ⌈2/3·crop⌉ and the last of a row or column is moved back inside
/// (the authors' `scale_crop_process`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sliding {
    /// Height and width of the padded image.
    pub padded: [usize; 2],
    /// The image within the padded one.
    pub image: Rect,
    /// Per window: its place in the padded image, and the part of the image it shows.
    pub windows: Vec<(Rect, Rect)>,
}

impl Sliding {
    /// The windows over an image of `height` × `width`.
    pub fn new(height: usize, width: usize, crop: [usize; 2]) -> Self {
        let padded = [height.max(crop[0]), width.max(crop[1])];
        let image = Rect {
            y: (padded[0] - height) / 2,
            x: (padded[1] - width) / 2,
            height,
            width,
        };
        let mut windows = Vec::new();
        for y in starts(padded[0], crop[0]) {
            for x in starts(padded[1], crop[1]) {
                let place = Rect {
                    y,
                    x,
                    height: crop[0],
                    width: crop[1],
                };
                // Along a padded axis there is one window, and it shows the whole image.
                let shown = Rect {
                    y,
                    x,
                    height: height.min(crop[0]),
                    width: width.min(crop[1]),
                };
                windows.push((place, shown));
            }
        }
        Self {
            padded,
            image,
            windows,
        }
    }
}

/// First pixels of the windows along one axis.
fn starts(size: usize, crop: usize) -> Vec<usize> {
    let stride = (2 * crop).div_ceil(3);
    let steps = (size - crop).div_ceil(stride.max(1));
    (0..=steps).map(|i| (i * stride).min(size - crop)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_of_cityscapes() {
        // 1024 × 2048 in windows of 769: stride 513, the last moved back to end at the border.
        assert_eq!(starts(1024, 769), [0, 255]);
        assert_eq!(starts(2048, 769), [0, 513, 1026, 1279]);
        assert_eq!(starts(769, 769), [0]);
        assert_eq!(starts(1, 1), [0]);
        assert_eq!(starts(3, 1), [0, 1, 2]);
        assert_eq!(Sliding::new(1024, 2048, [769, 769]).windows.len(), 8);
    }

    #[test]
    fn windows_cover_every_pixel_and_stay_inside() {
        for (h, w, crop) in [(10, 31, [7, 9]), (5, 20, [8, 6]), (4, 3, [9, 8])] {
            let s = Sliding::new(h, w, crop);
            let mut seen = vec![0u32; h * w];
            for (place, shown) in &s.windows {
                assert!(place.y + place.height <= s.padded[0]);
                assert!(place.x + place.width <= s.padded[1]);
                for y in shown.y..shown.y + shown.height {
                    for x in shown.x..shown.x + shown.width {
                        seen[y * w + x] += 1;
                    }
                }
            }
            assert!(seen.iter().all(|&n| n > 0), "{h}×{w} {crop:?}");
        }
    }

    #[test]
    fn small_images_are_padded_with_the_odd_pixel_last() {
        let s = Sliding::new(4, 9, [7, 9]);
        assert_eq!(s.padded, [7, 9]);
        assert_eq!((s.image.y, s.image.x), (1, 0));
        assert_eq!(s.windows.len(), 1);
        let c = center(8, 5, [5, 9]);
        assert_eq!((c.y, c.x, c.height, c.width), (1, 0, 5, 5));
    }

    #[test]
    fn mirroring_twice_is_nothing_and_cutting_takes_the_rectangle() {
        let image = Rgb::new(3, 2, (0..18u8).collect()).unwrap();
        assert_eq!(image.mirrored().pixels[..3], [6, 7, 8]);
        assert_eq!(image.mirrored().mirrored(), image);
        let rect = Rect {
            y: 1,
            x: 1,
            height: 1,
            width: 2,
        };
        assert_eq!(cut(&image.pixels, 3, 3, rect), [12, 13, 14, 15, 16, 17]);
        assert_eq!(image.scaled(1.0).unwrap(), image);
        let half = Rgb::new(4, 2, vec![9u8; 24]).unwrap().scaled(0.5).unwrap();
        assert_eq!((half.width, half.height), (2, 1));
        assert!(half.pixels.iter().all(|&p| p == 9));
        let more = Rgb::new(2, 1, vec![1u8, 2, 3, 4, 5, 6])
            .unwrap()
            .extended(2, 3);
        assert_eq!(more.pixels[..9], [1, 2, 3, 4, 5, 6, 4, 5, 6]);
        assert_eq!(more.pixels[9..], more.pixels[..9]);
    }
}
