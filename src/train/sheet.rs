//! Sheets of pictures: one PNG with a row per image and a column per kind of picture, which says
//! in a text chunk what it shows, so that a reader can take it apart again.

use std::io::Cursor;
use std::path::Path;

use image::{ImageBuffer, Rgb as Pixel, RgbImage, imageops};
use png::{BitDepth, ColorType};
use serde::{Deserialize, Serialize};

use crate::data::guarded;
use crate::{Error, Result};

/// Pixels between the tiles.
const GAP: u32 = 4;

/// Bytes of pixels that no picture of ours comes near to; a damaged size does.
const LARGEST: usize = 1 << 29;

/// Keyword of the text chunk.
const KEYWORD: &str = "u2pl-engine sheet";

/// What a column shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The image itself.
    Image,
    /// Its mask.
    Truth,
    /// The student's classes.
    Student,
    /// The EMA teacher's classes.
    Teacher,
    /// Entropy of the teacher: black is certain, white as doubtful as can be.
    Entropy,
    /// The teacher's classes where they would count as labels, void elsewhere.
    PseudoLabel,
    /// The image with the negatives of a class marked.
    Negatives,
}

/// A column of a sheet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// What it shows.
    pub kind: Kind,
    /// The same in words.
    pub title: String,
}

/// The text chunk.
#[derive(Serialize, Deserialize)]
struct Contents {
    gap: u32,
    columns: Vec<Column>,
    /// Width and height of the tiles of each row.
    rows: Vec<[u32; 2]>,
}

/// Rows of tiles.
#[derive(Clone, Debug, PartialEq)]
pub struct Sheet {
    columns: Vec<Column>,
    rows: Vec<Vec<RgbImage>>,
}

impl Sheet {
    /// A sheet without rows.
    pub fn new(columns: Vec<Column>) -> Self {
        Self {
            columns,
            rows: Vec::new(),
        }
    }

    /// Its columns.
    pub fn columns(&self) -> &[Column] {
        &self.columns
    }

    /// Its rows, a tile for each column.
    pub fn rows(&self) -> &[Vec<RgbImage>] {
        &self.rows
    }

    /// Adds a row of tiles of one size, one for each column.
    ///
    /// # Errors
    /// [`Error::Internal`] when they are others.
    pub fn push(&mut self, row: Vec<RgbImage>) -> Result<()> {
        let alike = row
            .windows(2)
            .all(|w| w[0].dimensions() == w[1].dimensions());
        if row.len() != self.columns.len() || !alike {
            return Err(Error::internal("tiles that do not fit their sheet"));
        }
        self.rows.push(row);
        Ok(())
    }

    /// The columns of these kinds, in this order, as far as they are there.
    pub fn only(&self, kinds: &[Kind]) -> Self {
        let at = |&kind: &Kind| self.columns.iter().position(|c| c.kind == kind);
        let places: Vec<usize> = kinds.iter().filter_map(at).collect();
        let row = |row: &Vec<RgbImage>| places.iter().map(|&i| row[i].clone()).collect();
        Self {
            columns: places.iter().map(|&i| self.columns[i].clone()).collect(),
            rows: self.rows.iter().map(row).collect(),
        }
    }

    /// All of it as one picture.
    pub fn picture(&self) -> RgbImage {
        let rows: Vec<RgbImage> = self.rows.iter().map(|row| beside(row)).collect();
        below(&rows)
    }

    /// The PNG file: [`Sheet::picture`] and what it shows.
    ///
    /// # Errors
    /// [`Error::Internal`] when the encoder fails.
    pub fn to_png(&self) -> Result<Vec<u8>> {
        let size = |row: &Vec<RgbImage>| row.first().map_or([0, 0], |t| t.dimensions().into());
        let contents = Contents {
            gap: GAP,
            columns: self.columns.clone(),
            rows: self.rows.iter().map(size).collect(),
        };
        let text = serde_json::to_string(&contents)
            .map_err(|e| Error::internal(format!("contents of a sheet: {e}")))?;
        encode(&self.picture(), Some(&text))
    }

    /// The sheet of a PNG file, `None` where it is another picture.
    ///
    /// # Errors
    /// [`Error::Input`] that calls the file `name` when it is damaged.
    pub fn from_png(name: &str, bytes: &[u8]) -> Result<Option<Self>> {
        guarded(Path::new(name), || Self::parse(name, bytes))
    }

    fn parse(name: &str, bytes: &[u8]) -> Result<Option<Self>> {
        let damaged = |e: png::DecodingError| {
            Error::input(name, format!("is no whole PNG: {e}"), "leave it out")
        };
        let mut reader = png::Decoder::new(Cursor::new(bytes))
            .read_info()
            .map_err(damaged)?;
        let size = reader
            .output_buffer_size()
            .filter(|&bytes| bytes <= LARGEST);
        let Some(size) = size else {
            return Err(Error::input(name, "is too large a picture", "leave it out"));
        };
        let mut pixels = vec![0; size];
        let frame = reader.next_frame(&mut pixels).map_err(damaged)?;
        pixels.truncate(frame.buffer_size());
        if (frame.color_type, frame.bit_depth) != (ColorType::Rgb, BitDepth::Eight) {
            return Ok(None);
        }
        let chunks = &reader.info().utf8_text;
        let text = chunks
            .iter()
            .find(|chunk| chunk.keyword == KEYWORD)
            .and_then(|chunk| chunk.get_text().ok());
        let contents: Option<Contents> = text.and_then(|t| serde_json::from_str(&t).ok());
        let picture = ImageBuffer::from_raw(frame.width, frame.height, pixels);
        Ok(contents.zip(picture).and_then(|(c, p)| cut(&c, &p)))
    }
}

/// The tiles of a picture; `None` where they are not on it.
fn cut(contents: &Contents, picture: &RgbImage) -> Option<Sheet> {
    let mut sheet = Sheet::new(contents.columns.clone());
    let (width, height) = picture.dimensions();
    let mut y = 0u32;
    for &[w, h] in &contents.rows {
        let mut row = Vec::with_capacity(contents.columns.len());
        let mut x = 0u32;
        for _ in &contents.columns {
            if w == 0 || h == 0 || x.checked_add(w)? > width || y.checked_add(h)? > height {
                return None;
            }
            row.push(imageops::crop_imm(picture, x, y, w, h).to_image());
            x = (x + w).checked_add(contents.gap)?;
        }
        sheet.rows.push(row);
        y = (y + h).checked_add(contents.gap)?;
    }
    Some(sheet)
}

/// A picture as a PNG file.
///
/// # Errors
/// [`Error::Internal`] when the encoder fails.
pub fn png(picture: &RgbImage) -> Result<Vec<u8>> {
    encode(picture, None)
}

fn encode(picture: &RgbImage, text: Option<&str>) -> Result<Vec<u8>> {
    let failed = |e: png::EncodingError| Error::internal(format!("encoding a PNG: {e}"));
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, picture.width(), picture.height());
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    if let Some(text) = text {
        encoder
            .add_itxt_chunk(KEYWORD.into(), text.into())
            .map_err(failed)?;
    }
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(picture).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(bytes)
}

/// Pictures from left to right, on white.
pub fn beside(tiles: &[RgbImage]) -> RgbImage {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn tile(width: u32, height: u32, color: u8) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| Pixel([color, x as u8, y as u8]))
    }

    fn sheet() -> Sheet {
        let column = |kind, title: &str| Column {
            kind,
            title: title.into(),
        };
        let mut sheet = Sheet::new(vec![
            column(Kind::Image, "image"),
            column(Kind::Negatives, "negatives of Straße"),
        ]);
        sheet.push(vec![tile(5, 3, 1), tile(5, 3, 2)]).unwrap();
        sheet.push(vec![tile(2, 7, 3), tile(2, 7, 4)]).unwrap();
        sheet
    }

    #[test]
    fn a_sheet_comes_back_from_its_png() {
        let sheet = sheet();
        let bytes = sheet.to_png().unwrap();
        assert_eq!(Sheet::from_png("s", &bytes).unwrap(), Some(sheet.clone()));
        let picture = image::load_from_memory(&bytes).unwrap().to_rgb8();
        assert_eq!(picture.dimensions(), (14, 14));
        assert_eq!(*picture.get_pixel(9, 0), Pixel([2, 0, 0]));
        let one = sheet.only(&[Kind::Truth, Kind::Negatives]);
        assert_eq!(one.columns().len(), 1);
        assert_eq!(one.rows()[1], [tile(2, 7, 4)]);
    }

    #[test]
    fn other_pictures_are_no_sheets_and_damaged_ones_are_named() {
        let plain = png(&tile(4, 4, 9)).unwrap();
        assert_eq!(Sheet::from_png("p", &plain).unwrap(), None);
        let bytes = sheet().to_png().unwrap();
        let error = Sheet::from_png("final.png", &bytes[..bytes.len() / 2]).unwrap_err();
        assert!(error.to_string().starts_with("final.png: "), "{error}");
        // Contents that promise more than the picture has.
        let lie = r#"{"gap":4,"columns":[{"kind":"image","title":"i"}],"rows":[[4294967295,9]]}"#;
        let bytes = encode(&tile(4, 4, 9), Some(lie)).unwrap();
        assert_eq!(Sheet::from_png("p", &bytes).unwrap(), None);
        assert!(sheet().push(vec![tile(5, 3, 1), tile(5, 4, 2)]).is_err());
        // A size that no run writes.
        let mut huge = Vec::new();
        let encoder = png::Encoder::new(&mut huge, 1 << 15, 1 << 15);
        let mut writer = encoder.write_header().unwrap();
        writer.write_chunk(png::chunk::IDAT, &[]).unwrap();
        drop(writer);
        let error = Sheet::from_png("huge.png", &huge).unwrap_err();
        assert!(error.to_string().contains("too large"), "{error}");
    }
}
