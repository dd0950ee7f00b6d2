//! Maps as PNG bytes.

use png::{BitDepth, ColorType, Encoder};

use crate::{Error, Result};

/// A palette PNG: the indices are the classes, the palette their colours.
pub(crate) fn indexed(
    classes: &[u8],
    width: usize,
    height: usize,
    palette: &[[u8; 3]],
) -> Result<Vec<u8>> {
    encode(ColorType::Indexed, classes, width, height, Some(palette))
}

/// An RGB PNG.
pub(crate) fn rgb(pixels: &[u8], width: usize, height: usize) -> Result<Vec<u8>> {
    encode(ColorType::Rgb, pixels, width, height, None)
}

/// An 8-bit grey PNG.
pub(crate) fn grey(pixels: &[u8], width: usize, height: usize) -> Result<Vec<u8>> {
    encode(ColorType::Grayscale, pixels, width, height, None)
}

fn encode(
    color: ColorType,
    pixels: &[u8],
    width: usize,
    height: usize,
    palette: Option<&[[u8; 3]]>,
) -> Result<Vec<u8>> {
    let failed = |e: png::EncodingError| Error::internal(format!("encoding a PNG: {e}"));
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, width as u32, height as u32);
    encoder.set_color(color);
    encoder.set_depth(BitDepth::Eight);
    if let Some(palette) = palette {
        encoder.set_palette(palette.concat());
    }
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(pixels).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(bytes)
}

/// Packed RGB of a class map.
pub(crate) fn color(classes: &[u8], palette: &[[u8; 3]]) -> Vec<u8> {
    let colors = classes
        .iter()
        .map(|&c| palette.get(usize::from(c)).copied().unwrap_or_default());
    colors.flatten().collect()
}

/// Half image, half colours; both packed RGB.
pub(crate) fn overlay(image: &[u8], color: &[u8]) -> Vec<u8> {
    let half = |(&a, &b): (&u8, &u8)| u16::midpoint(u16::from(a), u16::from(b)) as u8;
    image.iter().zip(color).map(half).collect()
}

/// Entropy in nats as grey: 0 is certain, 255 the most that `classes` allow, ln C.
pub(crate) fn entropy(values: &[f32], classes: usize) -> Vec<u8> {
    let most = (classes.max(2) as f32).ln();
    let grey = |&h: &f32| (255.0 * (h / most).clamp(0.0, 1.0)).round() as u8;
    values.iter().map(grey).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::palette::{Palette, voc_color};

    #[test]
    fn an_indexed_png_holds_classes_and_colors() {
        let palette: Palette = (0..=255).map(voc_color).collect();
        let classes = [0u8, 1, 2, 1, 0, 20];
        let bytes = indexed(&classes, 3, 2, &palette).unwrap();
        let mut reader = png::Decoder::new(std::io::Cursor::new(&bytes))
            .read_info()
            .unwrap();
        assert_eq!(reader.info().color_type, ColorType::Indexed);
        assert_eq!(reader.info().palette.as_ref().unwrap()[3..6], [128, 0, 0]);
        let mut raw = vec![0; reader.output_buffer_size().unwrap()];
        reader.next_frame(&mut raw).unwrap();
        assert_eq!(raw, classes);
        assert_eq!(color(&[1, 0], &palette), [128, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn entropy_spans_black_to_white_and_overlays_are_means() {
        assert_eq!(entropy(&[0.0, 4f32.ln(), f32::NAN], 4), [0, 255, 0]);
        assert_eq!(overlay(&[0, 255, 10], &[100, 255, 20]), [50, 255, 15]);
    }
}
