//! Images as a host has them: bytes or floats, rows and channels in any order, with gaps.

use crate::eval::{Rgb, Sample};
use crate::{Error, Result};

/// Values of an image.
#[derive(Clone, Copy, Debug)]
pub enum Samples<'a> {
    /// 0 to 255.
    U8(&'a [u8]),
    /// 0 to 1, the byte over 255.
    F32(&'a [f32]),
}

impl Samples<'_> {
    fn len(&self) -> usize {
        match self {
            Samples::U8(s) => s.len(),
            Samples::F32(s) => s.len(),
        }
    }
}

/// What the channels of a pixel are. A fourth one is not read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Channels {
    /// Red, green, blue.
    #[default]
    Rgb,
    /// Blue, green, red, as OpenCV has them.
    Bgr,
    /// Red, green, blue and one more.
    Rgba,
    /// Blue, green, red and one more.
    Bgra,
    /// Grey: all three alike.
    Gray,
}

impl Channels {
    /// Channels of a pixel.
    pub fn count(self) -> usize {
        match self {
            Channels::Gray => 1,
            Channels::Rgb | Channels::Bgr => 3,
            Channels::Rgba | Channels::Bgra => 4,
        }
    }

    /// Where red, green and blue are.
    pub(super) fn places(self) -> [usize; 3] {
        match self {
            Channels::Gray => [0; 3],
            Channels::Rgb | Channels::Rgba => [0, 1, 2],
            Channels::Bgr | Channels::Bgra => [2, 1, 0],
        }
    }
}

/// Samples from a pixel's to the one a row, a pixel or a channel further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strides {
    /// To the next row.
    pub row: usize,
    /// To the next column.
    pub pixel: usize,
    /// To the next channel.
    pub channel: usize,
}

/// An image in the caller's memory.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    samples: Samples<'a>,
    height: usize,
    width: usize,
    channels: Channels,
    strides: Strides,
}

impl<'a> Image<'a> {
    /// Rows from the top, pixels of RGB, no gaps.
    ///
    /// # Errors
    /// As [`Image::strided`].
    pub fn rgb(samples: Samples<'a>, height: usize, width: usize) -> Result<Self> {
        Self::packed(samples, height, width, Channels::Rgb)
    }

    /// Rows from the top, pixels of `channels`, no gaps.
    ///
    /// # Errors
    /// As [`Image::strided`].
    pub fn packed(
        samples: Samples<'a>,
        height: usize,
        width: usize,
        channels: Channels,
    ) -> Result<Self> {
        let pixel = channels.count();
        let strides = Strides {
            row: pixel.saturating_mul(width),
            pixel,
            channel: 1,
        };
        Self::strided(samples, height, width, channels, strides)
    }

    /// One plane after another, as PyTorch has images.
    ///
    /// # Errors
    /// As [`Image::strided`].
    pub fn planar(
        samples: Samples<'a>,
        height: usize,
        width: usize,
        channels: Channels,
    ) -> Result<Self> {
        let strides = Strides {
            row: width,
            pixel: 1,
            channel: height.saturating_mul(width),
        };
        Self::strided(samples, height, width, channels, strides)
    }

    /// Any order, with any gaps.
    ///
    /// # Errors
    /// [`Error::Input`] when a side is below 2 pixels or `samples` ends before the last pixel.
    pub fn strided(
        samples: Samples<'a>,
        height: usize,
        width: usize,
        channels: Channels,
        strides: Strides,
    ) -> Result<Self> {
        if height < 2 || width < 2 {
            return Err(Error::input(
                "image",
                format!("{width} × {height} pixels"),
                "give at least 2 × 2",
            ));
        }
        let last = |n: usize, stride: usize| (n - 1).checked_mul(stride);
        let end = last(height, strides.row)
            .zip(last(width, strides.pixel))
            .and_then(|(row, pixel)| row.checked_add(pixel))
            .zip(last(channels.count(), strides.channel))
            .and_then(|(at, channel)| at.checked_add(channel)?.checked_add(1));
        // What is made of it must have a size, too.
        let whole = height
            .checked_mul(width)
            .and_then(|n| n.checked_mul(3 * size_of::<f32>()));
        match end.zip(whole) {
            Some((end, _)) if end <= samples.len() => Ok(Self {
                samples,
                height,
                width,
                channels,
                strides,
            }),
            Some((end, _)) => Err(Error::input(
                "image",
                format!(
                    "{width} × {height} pixels take {end} samples with these strides, {} are there",
                    samples.len()
                ),
                "give the buffer's own width, height, channels and strides (in samples)",
            )),
            None => Err(Error::input(
                "image",
                format!("{width} × {height} pixels with these strides overflow"),
                "give the buffer's own width, height and strides (in samples)",
            )),
        }
    }

    /// Rows.
    pub fn height(&self) -> usize {
        self.height
    }

    /// Columns.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Its values.
    pub fn samples(&self) -> Samples<'a> {
        self.samples
    }

    /// A packed RGB copy of `samples`, which are this image's.
    pub(super) fn packed_rgb<T: Sample>(&self, samples: &[T]) -> Result<Rgb<T>> {
        let Strides {
            row,
            pixel,
            channel,
        } = self.strides;
        let mut pixels = Vec::with_capacity(3 * self.height * self.width);
        let packed = (self.channels, pixel, channel) == (Channels::Rgb, 3, 1);
        let places = self.channels.places().map(|c| c * channel);
        for y in 0..self.height {
            let line = &samples[y * row..];
            if packed {
                pixels.extend_from_slice(&line[..3 * self.width]);
                continue;
            }
            for x in 0..self.width {
                pixels.extend(places.map(|c| line[x * pixel + c]));
            }
        }
        Rgb::new(self.width, self.height, pixels)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(image: &Image) -> Vec<u8> {
        match image.samples() {
            Samples::U8(s) => image.packed_rgb(s).unwrap().pixels,
            Samples::F32(_) => unreachable!(),
        }
    }

    #[test]
    fn every_order_of_the_same_pixels_is_the_same_image() {
        let (height, width) = (3, 4);
        let value = |y: usize, x: usize, c: usize| (50 * y + 10 * x + c) as u8;
        let all = |f: &dyn Fn(usize, usize) -> Vec<u8>| -> Vec<u8> {
            (0..height * width)
                .flat_map(|i| f(i / width, i % width))
                .collect()
        };
        let rgb = all(&|y, x| (0..3).map(|c| value(y, x, c)).collect());
        let bgra = all(&|y, x| [2, 1, 0, 9].map(|c| value(y, x, c)).to_vec());
        let planes: Vec<u8> = (0..3)
            .flat_map(|c| (0..height * width).map(move |i| value(i / width, i % width, c)))
            .collect();
        // A window of a wider, taller picture, two rows down and one column in.
        let wide = 7;
        let mut picture = vec![255u8; 3 * wide * (height + 2)];
        for y in 0..height {
            let at = 3 * ((y + 2) * wide + 1);
            picture[at..at + 3 * width].copy_from_slice(&rgb[3 * width * y..][..3 * width]);
        }
        let window = Strides {
            row: 3 * wide,
            pixel: 3,
            channel: 1,
        };
        let u8s = Samples::U8;
        let images = [
            Image::packed(u8s(&bgra), height, width, Channels::Bgra),
            Image::planar(u8s(&planes), height, width, Channels::Rgb),
            Image::strided(
                u8s(&picture[3 * (2 * wide + 1)..]),
                height,
                width,
                Channels::Rgb,
                window,
            ),
            Image::rgb(u8s(&rgb), height, width),
        ];
        for image in images {
            assert_eq!(bytes(&image.unwrap()), rgb);
        }
        let grey: Vec<u8> = (0..6).collect();
        let image = Image::packed(u8s(&grey), 2, 3, Channels::Gray).unwrap();
        assert_eq!(bytes(&image)[..6], [0, 0, 0, 1, 1, 1]);
    }

    #[test]
    fn buffers_too_short_and_sizes_too_large_are_refused() {
        let few = [0u8; 47];
        let image = |h, w, channels| Image::packed(Samples::U8(&few), h, w, channels);
        assert!(image(4, 4, Channels::Gray).is_ok());
        let short = image(4, 4, Channels::Rgb).unwrap_err();
        assert!(short.to_string().contains("48 samples"), "{short}");
        for (h, w) in [
            (0, 4),
            (4, 0),
            (1, 4),
            (usize::MAX, 2),
            (usize::MAX, usize::MAX),
        ] {
            assert_eq!(image(h, w, Channels::Rgb).unwrap_err().exit_code(), 2);
        }
        let strides = Strides {
            row: usize::MAX / 2,
            pixel: 3,
            channel: 1,
        };
        let error = Image::strided(Samples::U8(&few), 4, 4, Channels::Rgb, strides).unwrap_err();
        assert!(error.to_string().contains("overflow"), "{error}");
    }
}
