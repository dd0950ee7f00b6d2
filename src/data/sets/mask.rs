//! Mask files to class indices.
//!
//! A palette PNG stores an index per pixel and a colour per index; the index is the class. The
//! `png` crate is used without expansion, so that 1-, 2-, 4- and 8-bit palette and grey masks all
//! give their stored values.

use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Seek};
use std::path::Path;

use png::{BitDepth, ColorType, Transformations};

use crate::config::schema::{Data, LabelEncoding};
use crate::data::decode::{check_memory, check_png, empty, fault, file_size, png_fault};
use crate::data::guard::{guarded, read};
use crate::{Error, Result};

/// How mask values become labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaskRules {
    classes: usize,
    ignore_index: u8,
    /// The label of every stored value, right or wrong.
    labels: [u8; 256],
}

impl MaskRules {
    /// The rules that a configuration's `classes`, `ignore_index`, `encoding` and `remap` say.
    pub fn new(data: &Data) -> MaskRules {
        let ignore_index = data.ignore_index;
        let mut labels = std::array::from_fn(|value| value as u8);
        if data.encoding == LabelEncoding::CityscapesLabelId {
            // Licence plates are −1, stored as 255; anything else outside the table is void too.
            labels = std::array::from_fn(|value| match CITYSCAPES_TRAIN_IDS.get(value) {
                Some(&id) if id != 255 => id,
                _ => ignore_index,
            });
        }
        for (&from, &to) in &data.remap {
            labels[usize::from(from)] = to;
        }
        MaskRules {
            classes: data.classes,
            ignore_index,
            labels,
        }
    }

    /// The label of the stored `value`, `None` when it is neither a class nor ignored.
    pub fn label(&self, value: u8) -> Option<u8> {
        let label = self.labels[usize::from(value)];
        (usize::from(label) < self.classes || label == self.ignore_index).then_some(label)
    }

    /// What to do about masks whose only `values` are 0 and one that is no class, as drawing programs
    /// save two classes; `None` for others.
    pub fn second_class(&self, values: impl Iterator<Item = u8>) -> Option<String> {
        let mut other = None;
        for value in values.filter(|v| *v != 0) {
            if *other.get_or_insert(value) != value {
                return None;
            }
        }
        let other = other.filter(|v| self.label(*v).is_none())?;
        let two = self.classes == 2;
        (two || other == 255).then(|| paste(other, two))
    }
}

/// The configuration of masks whose second class is stored as `value`; `two`: there are two classes
/// already.
pub(super) fn paste(value: u8, two: bool) -> String {
    let classes = if two { "" } else { "`classes: 2` and " };
    format!("if {value} is the second class, add to data: {classes}`remap: {{{value}: 1}}`")
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
    let bad = label.iter().position(|&v| rules.label(v).is_none());
    if bad.is_none() {
        for value in &mut label {
            *value = rules.labels[usize::from(*value)];
        }
    }
    match bad {
        None => Ok((width, height, label)),
        Some(at) => {
            let hint = rules.second_class(label.iter().copied());
            Err(fault(
                path,
                format!(
                    "class index {} at column {}, row {} is neither in 0..={} nor the ignore index {}",
                    label[at],
                    at % width,
                    at / width,
                    rules.classes - 1,
                    rules.ignore_index
                ),
                hint.as_deref().unwrap_or(
                    "correct the mask, data.classes, data.ignore_index, data.encoding or data.remap",
                ),
            ))
        }
    }
}

/// (width, height) from the header; refuses the PNG types that [`read_mask`] refuses.
///
/// # Errors
/// As [`read_mask`], short of what only the pixel data can show.
pub fn mask_size(path: &Path) -> Result<(usize, usize)> {
    let bytes = file_size(path)?;
    guarded(path, || {
        let file = File::open(path).map_err(|e| Error::io(path, "open the mask", e))?;
        let reader = open(path, BufReader::new(file), bytes)?;
        let info = reader.info();
        Ok((info.width as usize, info.height as usize))
    })
}

/// The PNG in `source`, a file of `bytes` bytes.
fn open<R: BufRead + Seek>(path: &Path, mut source: R, bytes: u64) -> Result<png::Reader<R>> {
    let start = source.fill_buf();
    let start = start.map_err(|e| Error::io(path, "read the mask", e))?;
    if start.is_empty() {
        return Err(empty(path));
    }
    if !start.starts_with(b"\x89PNG") {
        return Err(fault(path, "the mask is not a PNG", CONVERT));
    }
    let mut decoder = png::Decoder::new(source);
    decoder.set_transformations(Transformations::IDENTITY);
    let reader = decoder.read_info().map_err(|e| png_fault(path, &e))?;
    let info = reader.info();
    if info.bit_depth == BitDepth::Sixteen {
        return Err(fault(path, "the mask is a 16-bit PNG", CONVERT));
    }
    let kind = match info.color_type {
        ColorType::Indexed | ColorType::Grayscale => {
            check_png(path, info, bytes)?;
            return Ok(reader);
        }
        ColorType::Rgb => "holds RGB colours",
        ColorType::Rgba | ColorType::GrayscaleAlpha => "has an alpha channel",
    };
    Err(fault(path, format!("the mask {kind}"), CONVERT))
}

/// (width, height, stored value of every pixel), whatever the values mean.
///
/// # Errors
/// As [`read_mask`], short of values that are no class.
pub fn read_indices(path: &Path) -> Result<(usize, usize, Vec<u8>)> {
    file_size(path)?;
    guarded(path, || {
        let bytes = read(path, "read the mask")?;
        indices_of(path, &bytes)
    })
}

fn indices_of(path: &Path, bytes: &[u8]) -> Result<(usize, usize, Vec<u8>)> {
    let mut reader = open(path, Cursor::new(bytes), bytes.len() as u64)?;
    let size = reader
        .output_buffer_size()
        .ok_or_else(|| fault(path, "the mask is too large", CONVERT))?;
    let sides = (reader.info().width as usize, reader.info().height as usize);
    let unpacked = sides.0.saturating_mul(sides.1);
    check_memory(path, sides, size.saturating_add(unpacked))?;
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
