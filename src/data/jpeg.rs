//! JPEG files: the size from the header alone, strict decoding, and truncation.
//!
//! Decoders fill what a cut-off file lacks with grey and say nothing. Training on grey halves of
//! images is worse than an error, so the scan must decode in strict mode and the file must reach
//! its end-of-image marker.

use std::io::{Read, Seek, SeekFrom};

use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

/// Every JPEG starts with this (start of image).
pub(super) const MAGIC: [u8; 2] = [0xFF, 0xD8];

/// Bytes that a pixel takes while it is decoded: colours, and of progressive files coefficients.
pub(super) const BYTES: usize = 9;

/// Sides are two bytes in the format.
const MAX_SIDE: usize = u16::MAX as usize;

const EOI: u8 = 0xD9;
const SOS: u8 = 0xDA;
const DRI: u8 = 0xDD;
const TRUNCATED: &str = "the JPEG is truncated";

/// (width, height) of the JPEG that `reader` starts at; reads up to the frame header.
pub(super) fn size(reader: &mut (impl Read + Seek)) -> Result<(usize, usize), String> {
    let cut = |_| TRUNCATED.to_string();
    let mut start = [0; 2];
    reader.read_exact(&mut start).map_err(cut)?;
    loop {
        let mut marker = [0; 2];
        reader.read_exact(&mut marker).map_err(cut)?;
        while marker[1] == 0xFF {
            reader.read_exact(&mut marker[1..]).map_err(cut)?;
        }
        if marker[0] != 0xFF || marker[1] == SOS || marker[1] == EOI {
            return Err("the JPEG has no frame header".into());
        }
        let mut length = [0; 2];
        reader.read_exact(&mut length).map_err(cut)?;
        // All start-of-frame markers but DHT (C4), JPG (C8) and DAC (CC).
        if matches!(marker[1], 0xC0..=0xCF) && !matches!(marker[1], 0xC4 | 0xC8 | 0xCC) {
            let mut frame = [0; 5];
            reader.read_exact(&mut frame).map_err(cut)?;
            let side = |i: usize| usize::from(u16::from_be_bytes([frame[i], frame[i + 1]]));
            return Ok((side(3), side(1)));
        }
        let rest = i64::from(u16::from_be_bytes(length)) - 2;
        reader.seek(SeekFrom::Current(rest)).map_err(cut)?;
    }
}

/// Decodes to (width, height, packed RGB).
pub(super) fn decode(bytes: &[u8]) -> Result<(usize, usize, Vec<u8>), String> {
    let Some(end) = find_end(bytes) else {
        return Err(TRUNCATED.into());
    };
    let guarded;
    let bytes = match end.one_plain_scan {
        true => {
            guarded = [&bytes[..end.at], &GUARD].concat();
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
    let rgb = decoder
        .decode()
        .map_err(|e| format!("the JPEG is damaged ({})", one_line(&format!("{e:?}"))))?;
    let (width, height) = decoder.dimensions().ok_or("the JPEG has no size")?;
    if rgb.len() != 3 * width * height {
        return Err("the JPEG does not convert to RGB".into());
    }
    Ok((width, height, rgb))
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

/// Where the marker structure of a JPEG ends.
struct End {
    /// Position of the end-of-image marker.
    at: usize,
    /// Baseline or extended sequential, one scan, no restart intervals.
    one_plain_scan: bool,
}

/// Follows the markers to the end of the image; `None` when the file stops before it.
fn find_end(bytes: &[u8]) -> Option<End> {
    let mut at = MAGIC.len();
    let mut sequential = false;
    let mut scans = 0;
    let mut restarts = false;
    loop {
        let found = next_marker(bytes, at)?;
        match bytes[found + 1] {
            EOI => {
                return Some(End {
                    at: found,
                    one_plain_scan: sequential && scans == 1 && !restarts,
                });
            }
            // Markers without a segment.
            0x01 | 0xD0..=0xD7 => {
                at = found + 2;
                continue;
            }
            0xC0 | 0xC1 => sequential = true,
            SOS => scans += 1,
            DRI => restarts = true,
            _ => {}
        }
        let length = bytes.get(found + 2..found + 4)?;
        at = found + 2 + usize::from(u16::from_be_bytes([length[0], length[1]]));
    }
}

/// Position of the next marker at or after `from`: past entropy-coded bytes, in which FF is
/// followed by 00, and past fill bytes, FF before FF.
fn next_marker(bytes: &[u8], from: usize) -> Option<usize> {
    let tail = bytes.get(from..)?;
    let found = tail
        .windows(2)
        .position(|pair| pair[0] == 0xFF && pair[1] != 0x00 && pair[1] != 0xFF)?;
    Some(from + found)
}

/// A library's message on one line.
pub(super) fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
