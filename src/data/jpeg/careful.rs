//! JPEGs that the fast decoder cannot be trusted with, by another one.

use jpeg_decoder::{ColorTransform, Decoder, PixelFormat};

use super::damaged;
use super::walk::{Colors, Walk};

/// Decodes to (width, height, packed RGB).
pub(super) fn decode(bytes: &[u8], walk: &Walk) -> Result<(usize, usize, Vec<u8>), String> {
    if walk.misses_blocks() {
        return Err(
            "the JPEG has a scan of its own for a component of unusual sampling, which is not read"
                .into(),
        );
    }
    let mut decoder = Decoder::new(bytes);
    // What there is memory for has been looked at.
    decoder.set_max_decoding_buffer_size(usize::MAX);
    decoder.set_color_transform(match walk.colors() {
        Colors::Gray => ColorTransform::Grayscale,
        Colors::Rgb => ColorTransform::RGB,
        Colors::YCbCr => ColorTransform::YCbCr,
        Colors::Cmyk => ColorTransform::CMYK,
        Colors::Ycck => ColorTransform::YCCK,
    });
    let pixels = decoder.decode().map_err(|e| damaged(&e.to_string()))?;
    let format = decoder.info().ok_or("the JPEG has no size")?.pixel_format;
    let (width, height) = (walk.frame.width, walk.frame.height);
    let rgb: Vec<u8> = match format {
        PixelFormat::RGB24 => pixels,
        PixelFormat::L8 => pixels.iter().flat_map(|&v| [v; 3]).collect(),
        // Inks come inverted here; programs store them inverted, so that light is their product.
        PixelFormat::CMYK32 => pixels
            .chunks_exact(4)
            .flat_map(|inks| [0, 1, 2].map(|i| light(255 - inks[i], 255 - inks[3])))
            .collect(),
        PixelFormat::L16 => return Err("the JPEG does not convert to RGB".into()),
    };
    if rgb.len() != 3 * width * height {
        return Err("the JPEG does not convert to RGB".into());
    }
    Ok((width, height, rgb))
}

/// What a share of ink and one of black let through, of 255.
fn light(ink: u8, black: u8) -> u8 {
    let product = u32::from(ink) * u32::from(black);
    ((product + 127) / 255) as u8
}
