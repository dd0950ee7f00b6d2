//! JPEG files: what the header says, strict decoding, and truncation.
//!
//! Decoders fill what a cut-off file lacks with grey and say nothing. Training on grey halves of
//! images is worse than an error, so the scan must decode in strict mode and the file must reach
//! its end-of-image marker.
//!
//! Two decoders share the work. The fast one gives wrong pixels for some kinds of files (see
//! [`walk`]), of which the markers tell beforehand; those go to the careful one.

mod careful;
mod walk;

use std::io::{Read, Seek, SeekFrom};

use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use self::walk::{Frame, Walk};
use super::exif;

/// Every JPEG starts with this (start of image).
pub(super) const MAGIC: [u8; 2] = [0xFF, 0xD8];

/// Bytes that a pixel takes while it is decoded: colours, and of progressive files coefficients.
pub(super) const BYTES: usize = 9;

/// Sides are two bytes in the format.
const MAX_SIDE: usize = u16::MAX as usize;

const EOI: u8 = 0xD9;
const SOS: u8 = 0xDA;
const DRI: u8 = 0xDD;
const APP0: u8 = 0xE0;
const APP1: u8 = 0xE1;
const APP14: u8 = 0xEE;
const TRUNCATED: &str = "the JPEG is truncated";

/// Whether `marker` begins a frame: all of C0 to CF but DHT (C4), JPG (C8) and DAC (CC).
fn is_frame(marker: u8) -> bool {
    matches!(marker, 0xC0..=0xCF) && !matches!(marker, 0xC4 | 0xC8 | 0xCC)
}

/// What stands before the pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// (width, height) as stored.
    pub(super) size: (usize, usize),
    /// EXIF orientation, 1 to 8.
    pub(super) orientation: u8,
}

/// The header of the JPEG that `reader` starts at; reads up to the frame header. Bytes that belong
/// to no segment are passed over, as libjpeg does.
pub(super) fn head(reader: &mut (impl Read + Seek)) -> Result<Head, String> {
    let cut = |_| TRUNCATED.to_string();
    let mut start = [0; 2];
    reader.read_exact(&mut start).map_err(cut)?;
    let mut orientation = None;
    loop {
        let mut byte = [0];
        // To the next FF that neither another FF (fill) nor 00 follows.
        while byte[0] != 0xFF {
            reader.read_exact(&mut byte).map_err(cut)?;
        }
        while byte[0] == 0xFF {
            reader.read_exact(&mut byte).map_err(cut)?;
        }
        let marker = byte[0];
        match marker {
            0x00 | 0x01 | 0xD0..=0xD8 => continue,
            SOS | EOI => return Err("the JPEG has no frame header".into()),
            _ => {}
        }
        let mut length = [0; 2];
        reader.read_exact(&mut length).map_err(cut)?;
        let rest = usize::from(u16::from_be_bytes(length))
            .checked_sub(2)
            .ok_or("the JPEG is damaged (a segment of no length)")?;
        let wanted = marker == APP1 && orientation.is_none();
        if !is_frame(marker) && !wanted {
            reader.seek(SeekFrom::Current(rest as i64)).map_err(cut)?;
            continue;
        }
        let mut segment = vec![0; rest];
        reader.read_exact(&mut segment).map_err(cut)?;
        if wanted {
            orientation = exif::of_app1(&segment);
            continue;
        }
        let frame = Frame::parse(marker, &segment)?;
        frame.accept()?;
        return Ok(Head {
            size: (frame.width, frame.height),
            orientation: orientation.unwrap_or(1),
        });
    }
}

/// Decodes to (width, height, packed RGB), as stored.
pub(super) fn decode(bytes: &[u8]) -> Result<(usize, usize, Vec<u8>), String> {
    let walk = Walk::of(bytes)?.ok_or(TRUNCATED)?;
    walk.frame.accept()?;
    if !walk.suits_fast() {
        return careful::decode(bytes, &walk);
    }
    let guarded;
    let bytes = match walk.is_one_plain_scan() {
        true => {
            guarded = [&bytes[..walk.end], &GUARD].concat();
            guarded.as_slice()
        }
        false => bytes,
    };
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(MAX_SIDE)
        .set_max_height(MAX_SIDE)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    let rgb = decoder.decode().map_err(|e| damaged(&format!("{e:?}")))?;
    let (width, height) = decoder.dimensions().ok_or("the JPEG has no size")?;
    if rgb.len() != 3 * width * height {
        return Err("the JPEG does not convert to RGB".into());
    }
    Ok((width, height, rgb))
}

fn damaged(why: &str) -> String {
    format!("the JPEG is damaged ({})", one_line(why))
}

/// Takes the place of the end marker of a single baseline scan. The decoder fills a scan that
/// ends early with zeros, even in strict mode; here it meets a marker that no scan may hold. A
/// whole scan is read at most eight bytes past its end, so never as far as that marker.
const GUARD: [u8; 20] = {
    let mut guard = [0; 20];
    guard[16] = 0xFF;
    guard[17] = 0x02;
    guard[18] = 0xFF;
    guard[19] = EOI;
    guard
};

/// A library's message on one line.
pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
