//! Image files to packed RGB bytes.
//!
//! Accepted: JPEG (colour and grey) and 8-bit PNG without alpha (RGB, grey, palette). The rest is
//! refused with the mend: silently dropping alpha or half of 16 bits would train on other pixels
//! than the user sees. EXIF orientation is ignored, as masks are drawn on the stored pixels.

use std::fs::File;
use std::io::{BufReader, Cursor, Read, Seek, SeekFrom};
use std::path::Path;

use png::{BitDepth, ColorType, Transformations};

use super::jpeg;
use crate::host::available_bytes;
use crate::{Error, Result};

/// One decoded image with its label map, if it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Row-major packed RGB, `3 · width · height` bytes.
    pub rgb: Vec<u8>,
    /// Class index or `ignore_index` of each pixel, `width · height` bytes.
    pub label: Option<Vec<u8>>,
}

impl Decoded {
    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.rgb.len() + self.label.as_ref().map_or(0, Vec::len)
    }
}

const PNG_MAGIC: [u8; 4] = *b"\x89PNG";
/// Raw bytes that one byte of a file can stand for at most: deflate takes two bits for 258. JPEG has
/// a bit for 64 pixels at least.
const MOST_OF_A_BYTE: u64 = 1032;
/// What is asked for at once without a look at how much memory there is.
const SMALL: usize = 1 << 26;
const CONVERT: &str = "convert it to an 8-bit RGB PNG or a JPEG";
const RESTORE: &str = "restore or replace the file";

/// Reads an image at its own size, without a label.
///
/// # Errors
/// [`Error::Io`] when unreadable; [`Error::Input`] naming the file when it is neither JPEG nor
/// PNG, truncated, damaged, 16-bit or with alpha, or has a side below 2 pixels.
pub fn decode_image(path: &Path) -> Result<Decoded> {
    file_size(path)?;
    let bytes = std::fs::read(path).map_err(|e| Error::io(path, "read the image", e))?;
    let (width, height, rgb) = if bytes.starts_with(&jpeg::MAGIC) {
        let fault = |problem| fault(path, problem, RESTORE);
        let (width, height) = jpeg::size(&mut Cursor::new(&bytes)).map_err(fault)?;
        let pixels = width as u64 * height as u64;
        check_claim(path, (width, height), pixels, bytes.len() as u64)?;
        check_memory(path, (width, height), jpeg::BYTES * width * height)?;
        jpeg::decode(&bytes).map_err(fault)?
    } else if bytes.starts_with(&PNG_MAGIC) {
        png_rgb(path, &bytes)?
    } else {
        return Err(not_an_image(path));
    };
    check_sides(path, width, height, 2)?;
    Ok(Decoded {
        width,
        height,
        rgb,
        label: None,
    })
}

/// (width, height) from the file's header; refuses what [`decode_image`] would refuse by header.
///
/// # Errors
/// As [`decode_image`], short of damage in the pixel data.
pub fn image_size(path: &Path) -> Result<(usize, usize)> {
    let bytes = file_size(path)?;
    let file = File::open(path).map_err(|e| Error::io(path, "open the image", e))?;
    let mut reader = BufReader::new(file);
    let mut magic = [0; 4];
    let read = reader.read_exact(&mut magic);
    reader
        .seek(SeekFrom::Start(0))
        .map_err(|e| Error::io(path, "read the image", e))?;
    if read.is_ok() && magic.starts_with(&jpeg::MAGIC) {
        let size = jpeg::size(&mut reader).map_err(|problem| fault(path, problem, RESTORE))?;
        check_claim(path, size, size.0 as u64 * size.1 as u64, bytes)?;
        Ok(size)
    } else if magic == PNG_MAGIC {
        let png = png::Decoder::new(reader)
            .read_info()
            .map_err(|e| png_fault(path, &e))?;
        accept_png(path, png.info())?;
        check_png(path, png.info(), bytes)?;
        Ok((png.info().width as usize, png.info().height as usize))
    } else {
        Err(not_an_image(path))
    }
}

/// Refuses an image with a side below `least` pixels: a random resize to half size would leave
/// nothing of one pixel, and interpolation between aligned corners needs two.
///
/// # Errors
/// [`Error::Input`] naming the file and the size.
pub(super) fn check_sides(path: &Path, width: usize, height: usize, least: usize) -> Result<()> {
    if width.min(height) >= least {
        return Ok(());
    }
    Err(fault(
        path,
        format!("the image is {width} × {height}, too small to resize and crop"),
        &format!("leave it out, or use images of at least {least} × {least}"),
    ))
}

/// Bytes of the file at `path`. To open a pipe would wait for somebody to write to it.
///
/// # Errors
/// [`Error::Io`] when there is none, [`Error::Input`] when it is a folder, a pipe or a device.
pub(super) fn file_size(path: &Path) -> Result<u64> {
    let found = std::fs::metadata(path).map_err(|e| Error::io(path, "open it", e))?;
    match found.is_file() {
        true => Ok(found.len()),
        false => Err(fault(path, "is not a file", "name a file")),
    }
}

/// Refuses a (width, height) whose `raw` bytes no file of `bytes` bytes can hold, before there is
/// memory for what a damaged header claims.
fn check_claim(path: &Path, (width, height): (usize, usize), raw: u64, bytes: u64) -> Result<()> {
    if raw / MOST_OF_A_BYTE <= bytes {
        return Ok(());
    }
    Err(fault(
        path,
        format!("says that it is {width} × {height}, more than its {bytes} bytes can hold"),
        RESTORE,
    ))
}

/// [`check_claim`] of a PNG.
pub(super) fn check_png(path: &Path, info: &png::Info<'_>, bytes: u64) -> Result<()> {
    let bits = u64::from(info.bits_per_pixel() as u32) * u64::from(info.width);
    let raw = bits.div_ceil(8).saturating_mul(info.height.into());
    check_claim(
        path,
        (info.width as usize, info.height as usize),
        raw,
        bytes,
    )
}

/// Refuses a (width, height) for which `need` bytes are not there.
pub(super) fn check_memory(
    path: &Path,
    (width, height): (usize, usize),
    need: usize,
) -> Result<()> {
    if need <= SMALL {
        return Ok(());
    }
    let there = available_bytes();
    // What the process may have can be less than what the machine has.
    let granted = Vec::<u8>::new().try_reserve_exact(need).is_ok();
    if granted && there.is_none_or(|there| need <= there) {
        return Ok(());
    }
    let gib = |bytes: usize| bytes as f64 / (1u64 << 30) as f64;
    let there = there.filter(|there| *there < need);
    let there = there.map_or("which are not".into(), |b| format!("{:.1} are", gib(b)));
    Err(Error::Memory {
        at: path.display().to_string(),
        problem: format!(
            "{width} × {height} pixels need {:.1} GiB, {there} free",
            gib(need)
        ),
        mend: "make it smaller, or cut it up".into(),
    })
}

/// Decodes a PNG to packed RGB.
fn png_rgb(path: &Path, bytes: &[u8]) -> Result<(usize, usize, Vec<u8>)> {
    let mut decoder = png::Decoder::new(Cursor::new(bytes));
    decoder.set_transformations(Transformations::EXPAND);
    let mut reader = decoder.read_info().map_err(|e| png_fault(path, &e))?;
    let info = reader.info();
    accept_png(path, info)?;
    check_png(path, info, bytes.len() as u64)?;
    let sides = (info.width as usize, info.height as usize);
    let size = reader
        .output_buffer_size()
        .ok_or_else(|| fault(path, "the PNG is too large", RESTORE))?;
    // Grey becomes colour beside it.
    let rgb = sides.0.saturating_mul(sides.1).saturating_mul(3);
    check_memory(path, sides, size.saturating_add(rgb))?;
    let mut pixels = vec![0; size];
    let frame = reader
        .next_frame(&mut pixels)
        .map_err(|e| png_fault(path, &e))?;
    pixels.truncate(frame.buffer_size());
    let rgb = match frame.color_type {
        ColorType::Rgb => pixels,
        ColorType::Grayscale => pixels.iter().flat_map(|&v| [v; 3]).collect(),
        other => {
            return Err(fault(
                path,
                format!("the PNG decodes to {other:?}"),
                CONVERT,
            ));
        }
    };
    Ok((frame.width as usize, frame.height as usize, rgb))
}

/// Refuses 16-bit and alpha PNGs, transparent palette entries included.
fn accept_png(path: &Path, info: &png::Info<'_>) -> Result<()> {
    if info.bit_depth == BitDepth::Sixteen {
        return Err(fault(path, "the image is a 16-bit PNG", CONVERT));
    }
    let alpha = matches!(info.color_type, ColorType::Rgba | ColorType::GrayscaleAlpha);
    if alpha || info.trns.is_some() {
        return Err(fault(path, "the image has an alpha channel", CONVERT));
    }
    Ok(())
}

/// An [`Error::Input`] about the file at `path`.
pub(super) fn fault(path: &Path, problem: impl Into<String>, mend: &str) -> Error {
    Error::input(path.display().to_string(), problem, mend)
}

/// A decoder's complaint about the PNG at `path`.
pub(super) fn png_fault(path: &Path, e: &png::DecodingError) -> Error {
    let problem = format!(
        "the PNG is truncated or damaged ({})",
        jpeg::one_line(&e.to_string())
    );
    fault(path, problem, RESTORE)
}

fn not_an_image(path: &Path) -> Error {
    fault(path, "is neither a JPEG nor a PNG", CONVERT)
}
