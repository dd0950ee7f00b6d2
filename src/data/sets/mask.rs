//! Mask files to class indices.
//!
//! A palette PNG stores an index per pixel and a colour per index; the index is the class. The
//! `png` crate is used without expansion, so that 1-, 2-, 4- and 8-bit palette and grey masks all
//! give their stored values.

use std::fs::File;
use std::io::BufReader;
use std::path::Path;

use png::{BitDepth, ColorType, Transformations};

use crate::config::schema::LabelEncoding;
use crate::data::decode::{fault, png_fault};
use crate::{Error, Result};

/// How mask values become labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaskRules {
    /// Number of classes C.
    pub classes: usize,
    /// Label of pixels that count for nothing.
    pub ignore_index: u8,
    /// Meaning of the stored values.
    pub encoding: LabelEncoding,
}

const CONVERT: &str =
    "save it as an 8-bit palette or grey PNG whose pixel values are class indices";

/// Train id of each Cityscapes label id 0–33; 255 = void. From the dataset's published label table.
const CITYSCAPES_TRAIN_IDS: [u8; 34] = [
    255, 255, 255, 255, 255, 255, 255, 0, 1, 255, 255, 2, 3, 4, 255, 255, 255, 5, 255, 6, 7, 8, 9,
    10, 11, 12, 13, 14, 15, 255, 255, 16, 17, 18,
];

/// Cityscapes label ids of train ids, as its benchmark server wants them; void (0) for the rest.
pub fn cityscapes_label_ids(train_ids: &mut [u8]) {
    for id in train_ids {
        let label = CITYSCAPES_TRAIN_IDS
            .iter()
            .position(|t| t == id && *id != 255);
        *id = label.unwrap_or(0) as u8;
    }
}

/// Reads the mask at `path`: (width, height, label per pixel).
///
/// # Errors
/// [`Error::Io`] when unreadable; [`Error::Input`] naming the file when it is not a palette or
/// grey PNG of at most 8 bits, is damaged, or holds a value that is neither a class nor
/// `ignore_index` (with the first such pixel).
pub fn read_mask(path: &Path, rules: &MaskRules) -> Result<(usize, usize, Vec<u8>)> {
    let (width, height, mut label) = read_indices(path)?;
    if rules.encoding == LabelEncoding::CityscapesLabelId {
        for value in &mut label {
            // Licence plates are −1, stored as 255; anything else outside the table is void too.
            let train_id = CITYSCAPES_TRAIN_IDS.get(usize::from(*value));
            *value = match train_id {
                Some(&id) if id != 255 => id,
                _ => rules.ignore_index,
            };
        }
    }
    let bad = label
        .iter()
        .position(|&v| usize::from(v) >= rules.classes && v != rules.ignore_index);
    match bad {
        None => Ok((width, height, label)),
        Some(at) => Err(fault(
            path,
            format!(
                "class index {} at column {}, row {} is neither in 0..={} nor the ignore index {}",
                label[at],
                at % width,
                at / width,
                rules.classes - 1,
                rules.ignore_index
            ),
            "correct the mask, data.classes, data.ignore_index or data.encoding",
        )),
    }
}

/// (width, height) from the header; refuses the PNG types that [`read_mask`] refuses.
///
/// # Errors
/// As [`read_mask`], short of what only the pixel data can show.
pub fn mask_size(path: &Path) -> Result<(usize, usize)> {
    let reader = open(path)?;
    let info = reader.info();
    Ok((info.width as usize, info.height as usize))
}

fn open(path: &Path) -> Result<png::Reader<BufReader<File>>> {
    let file = File::open(path).map_err(|e| Error::io(path, "open the mask", e))?;
    let mut decoder = png::Decoder::new(BufReader::new(file));
    decoder.set_transformations(Transformations::IDENTITY);
    let reader = match decoder.read_info() {
        Ok(reader) => reader,
        Err(e) if not_png(path) => {
            tracing::debug!("{}: {e}", path.display());
            return Err(fault(path, "the mask is not a PNG", CONVERT));
        }
        Err(e) => return Err(png_fault(path, &e)),
    };
    let info = reader.info();
    if info.bit_depth == BitDepth::Sixteen {
        return Err(fault(path, "the mask is a 16-bit PNG", CONVERT));
    }
    let kind = match info.color_type {
        ColorType::Indexed | ColorType::Grayscale => return Ok(reader),
        ColorType::Rgb => "holds RGB colours",
        ColorType::Rgba | ColorType::GrayscaleAlpha => "has an alpha channel",
    };
    Err(fault(path, format!("the mask {kind}"), CONVERT))
}

fn not_png(path: &Path) -> bool {
    use std::io::Read;
    let mut magic = [0; 4];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut magic));
    read.is_err() || magic != *b"\x89PNG"
}

/// The stored value of every pixel.
fn read_indices(path: &Path) -> Result<(usize, usize, Vec<u8>)> {
    let mut reader = open(path)?;
    let size = reader
        .output_buffer_size()
        .ok_or_else(|| fault(path, "the mask is too large", CONVERT))?;
    let mut packed = vec![0; size];
    let frame = reader
        .next_frame(&mut packed)
        .map_err(|e| png_fault(path, &e))?;
    let (width, height) = (frame.width as usize, frame.height as usize);
    let bits = match frame.bit_depth {
        BitDepth::One => 1,
        BitDepth::Two => 2,
        BitDepth::Four => 4,
        BitDepth::Eight | BitDepth::Sixteen => {
            packed.truncate(width * height);
            return Ok((width, height, packed));
        }
    };
    Ok((
        width,
        height,
        unpack(&packed, frame.line_size, width, height, bits),
    ))
}

/// Values of `bits` bits each, most significant first, rows padded to `line` bytes.
fn unpack(packed: &[u8], line: usize, width: usize, height: usize, bits: usize) -> Vec<u8> {
    let per_byte = 8 / bits;
    let mask = (1u16 << bits) as u8 - 1;
    let mut out = Vec::with_capacity(width * height);
    for row in packed.chunks_exact(line).take(height) {
        for x in 0..width {
            let shift = 8 - bits * (x % per_byte + 1);
            out.push((row[x / per_byte] >> shift) & mask);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unpacks_most_significant_bits_first() {
        assert_eq!(
            unpack(&[0b1010_0000, 0b0100_0000], 1, 3, 2, 1),
            [1, 0, 1, 0, 1, 0]
        );
        assert_eq!(unpack(&[0b0001_1011], 1, 4, 1, 2), [0, 1, 2, 3]);
        assert_eq!(unpack(&[0x5F, 0xA0], 2, 3, 1, 4), [5, 15, 10]);
    }

    #[test]
    fn cityscapes_ids_cover_nineteen_classes_once() {
        let mut ids: Vec<u8> = CITYSCAPES_TRAIN_IDS
            .iter()
            .copied()
            .filter(|&id| id != 255)
            .collect();
        ids.sort_unstable();
        assert_eq!(ids, (0..19).collect::<Vec<u8>>());
        // Road, car and bicycle, by the published table.
        assert_eq!(
            [7, 26, 33].map(|id: usize| CITYSCAPES_TRAIN_IDS[id]),
            [0, 13, 18]
        );
    }
}
