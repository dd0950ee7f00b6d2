//! Pictures of predictions: a row per validation image, with the image, its ground truth and the
//! prediction side by side.

use std::path::Path;

use image::{ImageBuffer, ImageFormat, Rgb as Pixel, RgbImage, imageops};

use crate::config::Config;
use crate::data::{Dataset, Decoded, palette::palette};
use crate::eval::{Predictor, Rgb, Weights};
use crate::files::write_atomic;
use crate::{Error, Result};

/// Images shown.
const ROWS: usize = 4;
/// Pixels between the tiles.
const GAP: u32 = 4;

/// Writes a picture of the first validation images.
///
/// # Errors
/// Those of decoding, of the device and of the disk.
pub fn write(
    path: &Path,
    predictor: &mut Predictor,
    weights: Weights,
    val: &Dataset,
    cfg: &Config,
) -> Result<()> {
    let colors = palette(cfg);
    let paint = |labels: &[u8], width: usize, height: usize| {
        tile(width, height, |i| colors[usize::from(labels[i])])
    };
    let mut rows = Vec::new();
    // Spread over the list: neighbours are often frames of one video.
    let count = val.len().min(ROWS);
    for k in 0..count {
        let Decoded {
            width,
            height,
            rgb,
            label,
        } = val.decode(k * val.len() / count)?;
        let image = Rgb {
            width,
            height,
            pixels: rgb,
        };
        let maps = predictor.maps(weights, &image)?;
        let mut row = vec![tile(width, height, |i| {
            [
                image.pixels[3 * i],
                image.pixels[3 * i + 1],
                image.pixels[3 * i + 2],
            ]
        })];
        row.extend(label.map(|label| paint(&label, width, height)));
        row.push(paint(&maps.argmax, width, height));
        rows.push(beside(&row));
    }
    save(&below(&rows), path)
}

/// Joins pictures side by side into one.
///
/// # Errors
/// [`Error::Input`] when one cannot be read, [`Error::Io`] when the result cannot be written.
pub fn join(pictures: &[&Path], path: &Path) -> Result<()> {
    let mut tiles = Vec::with_capacity(pictures.len());
    for picture in pictures {
        let image = image::open(picture)
            .map_err(|e| Error::input(picture.display().to_string(), e.to_string(), "run again"))?;
        tiles.push(image.to_rgb8());
    }
    save(&beside(&tiles), path)
}

fn tile(width: usize, height: usize, color: impl Fn(usize) -> [u8; 3]) -> RgbImage {
    ImageBuffer::from_fn(width as u32, height as u32, |x, y| {
        Pixel(color(y as usize * width + x as usize))
    })
}

fn beside(tiles: &[RgbImage]) -> RgbImage {
    let width: u32 = tiles.iter().map(|t| t.width() + GAP).sum();
    let height = tiles.iter().map(RgbImage::height).max().unwrap_or(1);
    let mut canvas =
        RgbImage::from_pixel(width.saturating_sub(GAP).max(1), height, Pixel([255; 3]));
    let mut x = 0;
    for t in tiles {
        imageops::replace(&mut canvas, t, x, 0);
        x += i64::from(t.width() + GAP);
    }
    canvas
}

fn below(tiles: &[RgbImage]) -> RgbImage {
    let height: u32 = tiles.iter().map(|t| t.height() + GAP).sum();
    let width = tiles.iter().map(RgbImage::width).max().unwrap_or(1);
    let mut canvas =
        RgbImage::from_pixel(width, height.saturating_sub(GAP).max(1), Pixel([255; 3]));
    let mut y = 0;
    for t in tiles {
        imageops::replace(&mut canvas, t, 0, y);
        y += i64::from(t.height() + GAP);
    }
    canvas
}

fn save(picture: &RgbImage, path: &Path) -> Result<()> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture
        .write_to(&mut bytes, ImageFormat::Png)
        .map_err(|e| Error::internal(format!("picture as PNG: {e}")))?;
    write_atomic(path, bytes.get_ref())
}
