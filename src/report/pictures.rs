//! The pictures of a run's validations, taken apart and made small enough for a page.

use std::io::Cursor;
use std::path::{Path, PathBuf};

use image::codecs::jpeg::JpegEncoder;
use image::{ImageFormat, RgbImage};

use super::text::{data_uri, escape};
use crate::train::sheet::{Kind, Sheet, png};
use crate::{Error, Result};

/// Tiles up to this many pixels wide or high are kept exact.
const EXACT: u32 = 128;
/// Quality of the others, of 100.
const QUALITY: u8 = 88;

/// A picture file of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// Its name without the ending.
    pub name: String,
    /// Where it is.
    path: PathBuf,
}

/// The PNG files of a folder by name, `final` last, and what could not be read.
pub fn find(folder: &Path) -> (Vec<Picture>, Vec<String>) {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Default::default(),
        Err(e) => return (Vec::new(), vec![format!("{}: {e}", folder.display())]),
    };
    let paths = entries.filter_map(|e| Some(e.ok()?.path()));
    let mut found: Vec<Picture> = paths
        .filter(|p| p.extension().is_some_and(|e| e.eq_ignore_ascii_case("png")) && p.is_file())
        .filter_map(|path| {
            let name = path.file_stem()?.to_string_lossy().into_owned();
            // Hidden files are being written.
            (!name.starts_with('.')).then_some(Picture { name, path })
        })
        .collect();
    found.sort_by_key(|p| (p.name == "final", p.name.clone()));
    // A run that is over ends with the picture of its last validation.
    if let [.., last, end] = &found[..] {
        let same = std::fs::read(&last.path)
            .ok()
            .zip(std::fs::read(&end.path).ok());
        if end.name == "final" && same.is_some_and(|(a, b)| a == b) {
            found.pop();
        }
    }
    (found, Vec::new())
}

/// `count` of `all`, evenly, the last always among them.
pub fn spread(all: &[Picture], count: usize) -> Vec<&Picture> {
    let count = count.min(all.len());
    let place = |i: usize| match count {
        1 => all.len() - 1,
        _ => i * (all.len() - 1) / (count - 1),
    };
    (0..count).map(|i| &all[place(i)]).collect()
}

impl Picture {
    /// The picture as HTML: a row of figures for each image, or the whole file where it does not
    /// say what it shows.
    ///
    /// # Errors
    /// [`Error::Input`] when it is damaged, [`Error::Io`] when it cannot be read.
    pub fn html(&self) -> Result<String> {
        let bytes =
            std::fs::read(&self.path).map_err(|e| Error::io(&self.path, "read the picture", e))?;
        let Some(sheet) = Sheet::from_png(&self.path.display().to_string(), &bytes)? else {
            let uri = data_uri("image/png", &bytes);
            return Ok(format!(
                "<figure class=\"whole\"><img src=\"{uri}\" \
                 alt=\"image, truth and prediction of validation images\">\
                 <figcaption>image, truth, prediction</figcaption></figure>"
            ));
        };
        let mut html = String::new();
        for (i, row) in sheet.rows().iter().enumerate() {
            html += "<div class=\"tiles\">";
            for (column, tile) in sheet.columns().iter().zip(row) {
                let (width, height) = tile.dimensions();
                let title = escape(&column.title);
                html += &format!(
                    "<figure><img src=\"{}\" width=\"{width}\" height=\"{height}\" \
                     alt=\"{title}, image {}\">\
                     <figcaption>{title}</figcaption></figure>",
                    embed(tile, column.kind)?,
                    i + 1
                );
            }
            html += "</div>";
        }
        Ok(html)
    }
}

/// A tile as a file in an address: what is flat exactly, large photos as JPEG where that is less.
fn embed(tile: &RgbImage, kind: Kind) -> Result<String> {
    let exact = png(tile)?;
    let photo = matches!(kind, Kind::Image | Kind::Entropy | Kind::Negatives);
    if photo && tile.width().max(tile.height()) > EXACT {
        let mut bytes = Cursor::new(Vec::new());
        let failed = |e| Error::internal(format!("encoding a {:?}: {e}", ImageFormat::Jpeg));
        JpegEncoder::new_with_quality(&mut bytes, QUALITY)
            .encode_image(tile)
            .map_err(failed)?;
        if bytes.get_ref().len() < exact.len() {
            return Ok(data_uri("image/jpeg", bytes.get_ref()));
        }
    }
    Ok(data_uri("image/png", &exact))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture(name: &str) -> Picture {
        Picture {
            name: name.into(),
            path: PathBuf::new(),
        }
    }

    #[test]
    fn a_few_of_many_with_the_last() {
        let all: Vec<Picture> = ["a", "b", "c", "d", "e"].map(picture).to_vec();
        let names = |n: usize| {
            let chosen = spread(&all, n);
            chosen.iter().map(|p| p.name.as_str()).collect::<String>()
        };
        assert_eq!(names(0), "");
        assert_eq!(names(1), "e");
        assert_eq!(names(2), "ae");
        assert_eq!(names(3), "ace");
        assert_eq!(names(9), "abcde");
        assert!(spread(&[], 3).is_empty());
    }

    #[test]
    fn the_final_picture_comes_last_and_once() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &str| std::fs::write(dir.path().join(name), bytes).unwrap();
        write("final.png", "2");
        write("epoch-0001.png", "1");
        write("epoch-0002.png", "2");
        write(".hidden.png", "3");
        write("notes.txt", "4");
        let names = || {
            let (found, problems) = find(dir.path());
            assert!(problems.is_empty());
            found.iter().map(|p| p.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(names(), ["epoch-0001", "epoch-0002"]);
        write("final.png", "5");
        assert_eq!(names(), ["epoch-0001", "epoch-0002", "final"]);
        assert!(find(&dir.path().join("none")).0.is_empty());
    }
}
