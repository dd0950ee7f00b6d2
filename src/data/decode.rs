//! Image files to packed RGB bytes.
//!
//! Accepted: JPEG (colour and grey) and 8-bit PNG without alpha (RGB, grey, palette). The rest is
//! refused with what to do: silently dropping alpha or half of 16 bits would train on other pixels
//! than the user sees. For the same reason images are turned as their EXIF orientation says (in a
//! JPEG's APP1 segment or a PNG's eXIf chunk), unless [`Exif::Ignore`] asks for the stored pixels.

use std::fs::File;
use std::io::{BufReader, Cursor, Read, Seek, SeekFrom};
use std::path::Path;

use png::{BitDepth, ColorType, Transformations};

use super::guard::{guarded, read};
use super::{exif, jpeg};
use crate::config::schema::Exif;
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

/// Reads an image at its own size, turned as it is seen, without a label.
///
/// # Errors
/// [`Error::Io`] when unreadable; [`Error::Input`] naming the file when it is neither JPEG nor
/// PNG, truncated, damaged, of a kind that is not read, 16-bit or with alpha, or has a side below
/// 2 pixels; and when the decoder panics on it.
pub fn decode_image(path: &Path, exif: Exif) -> Result<Decoded> {
    file_size(path)?;
    guarded(path, || {
        let bytes = read(path, "read the image")?;
        decode_bytes(path, &bytes, exif)
    })
}

fn decode_bytes(path: &Path, bytes: &[u8], exif: Exif) -> Result<Decoded> {
    if bytes.is_empty() {
        return Err(empty(path));
    }
    let (orientation, (width, height, rgb)) = if bytes.starts_with(&jpeg::MAGIC) {
        let head = jpeg::head(&mut Cursor::new(bytes)).map_err(|p| unread(path, p))?;
        let (width, height) = head.size;
        let pixels = width as u64 * height as u64;
        check_claim(path, (width, height), pixels, bytes.len() as u64)?;
        check_memory(path, (width, height), jpeg::BYTES * width * height)?;
        (
            head.orientation,
            jpeg::decode(bytes).map_err(|p| unread(path, p))?,
        )
    } else if bytes.starts_with(&PNG_MAGIC) {
        let orientation = png_orientation(&mut Cursor::new(bytes));
        (orientation, png_rgb(path, bytes)?)
    } else {
        return Err(not_an_image(path));
    };
    check_sides(path, width, height, 2)?;
    let ((width, height), rgb) = match exif {
        Exif::Apply => exif::turn((width, height), rgb, orientation),
        Exif::Ignore => ((width, height), rgb),
    };
    Ok(Decoded {
        width,
        height,
        rgb,
        label: None,
    })
}

/// What the header of an image file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// (width, height) as [`decode_image`] gives it.
    pub size: (usize, usize),
    /// The EXIF orientation that it is turned by: 1 (upright) to 8.
    pub orientation: u8,
    /// The EXIF orientation in the file, whether or not it is turned by it.
    pub given: u8,
}

/// What the file's header says; refuses what [`decode_image`] would refuse by header.
///
/// # Errors
/// As [`decode_image`], short of damage in the pixel data.
pub fn image_header(path: &Path, exif: Exif) -> Result<Header> {
    let bytes = file_size(path)?;
    guarded(path, || {
        let file = File::open(path).map_err(|e| Error::io(path, "open the image", e))?;
        header_of(path, BufReader::new(file), bytes, exif)
    })
}

fn header_of(path: &Path, mut reader: BufReader<File>, bytes: u64, exif: Exif) -> Result<Header> {
    let rewind = |reader: &mut BufReader<File>| {
        let back = reader.seek(SeekFrom::Start(0));
        back.map_err(|e| Error::io(path, "read the image", e))
    };
    if bytes == 0 {
        return Err(empty(path));
    }
    let mut magic = [0; 4];
    let read = reader.read_exact(&mut magic);
    rewind(&mut reader)?;
    let (size, orientation) = if read.is_ok() && magic.starts_with(&jpeg::MAGIC) {
        let head = jpeg::head(&mut reader).map_err(|problem| unread(path, problem))?;
        let (width, height) = head.size;
        check_claim(path, head.size, width as u64 * height as u64, bytes)?;
        (head.size, head.orientation)
    } else if magic == PNG_MAGIC {
        let orientation = png_orientation(&mut reader);
        rewind(&mut reader)?;
        let png = png::Decoder::new(reader)
            .read_info()
            .map_err(|e| png_fault(path, &e))?;
        accept_png(path, png.info())?;
        check_png(path, png.info(), bytes)?;
        let size = (png.info().width as usize, png.info().height as usize);
        (size, orientation)
    } else {
        return Err(not_an_image(path));
    };
    let given = orientation;
    let orientation = match exif {
        Exif::Apply => given,
        Exif::Ignore => 1,
    };
    Ok(Header {
        size: exif::seen_size(size, orientation),
        orientation,
        given,
    })
}

/// The orientation in the eXIf chunk of the PNG that `reader` starts at; 1 without one.
fn png_orientation(reader: &mut (impl Read + Seek)) -> u8 {
    /// Bytes of a chunk that are looked at.
    const MOST: usize = 1 << 16;
    let mut orientation = || -> Option<u8> {
        reader.seek(SeekFrom::Start(8)).ok()?;
        loop {
            let mut head = [0; 8];
            reader.read_exact(&mut head).ok()?;
            let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
            match &head[4..] {
                b"eXIf" => {
                    let mut block = vec![0; (length as usize).min(MOST)];
                    reader.read_exact(&mut block).ok()?;
                    return exif::of_tiff(&block);
                }
                b"IEND" => return None,
                _ => reader.seek(SeekFrom::Current(i64::from(length) + 4)).ok()?,
            };
        }
    };
    orientation().unwrap_or(1)
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
/// [`Error::Io`] when there is none, [`Error::Input`] when it is a folder, a pipe, a device or a link
/// that leads nowhere.
pub(super) fn file_size(path: &Path) -> Result<u64> {
    match std::fs::metadata(path) {
        Ok(found) if found.is_file() => Ok(found.len()),
        Err(e) if !path.is_symlink() => Err(Error::io(path, "open it", e)),
        _ => Err(fault(
            path,
            no_file(path).unwrap_or("is not a file"),
            "name a file",
        )),
    }
}

/// Why `path` is no file, as the end of a sentence that begins with it; `None` for a file.
pub(crate) fn no_file(path: &Path) -> Option<&'static str> {
    match std::fs::metadata(path) {
        Ok(found) if found.is_file() => None,
        Ok(found) if found.is_dir() => Some("is a folder, not a file"),
        Ok(_) => Some("is a pipe or a device, not a file"),
        Err(_) if path.is_symlink() => Some("is a link that leads nowhere"),
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            Some("lies in a folder that may not be looked into")
        }
        Err(_) => Some("does not exist"),
    }
}

/// A file without a byte.
pub(super) fn empty(path: &Path) -> Error {
    fault(path, "is empty", RESTORE)
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

/// A fault in a JPEG's header: of a kind that is not read, or damaged.
fn unread(path: &Path, problem: String) -> Error {
    let mend = match problem.ends_with("not read") {
        true => CONVERT,
        false => RESTORE,
    };
    fault(path, problem, mend)
}

fn not_an_image(path: &Path) -> Error {
    fault(path, "is neither a JPEG nor a PNG", CONVERT)
}
