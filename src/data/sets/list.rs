//! Split lists: text files with an image a line.
//!
//! Whatever wrote them is accepted: Windows line ends, byte-order marks, UTF-16 (what `>` writes in
//! PowerShell), blank lines, and lines that begin with `#`, where `split` says how it drew.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::dataset::Sample;
use super::layout::Layout;
use crate::config::schema::Data;
use crate::files::text_of;
use crate::folders::{Below, is_image_name, is_mask_beside};
use crate::{Error, Result};

/// Bytes of a line at most: two paths as long as systems take them.
const LONGEST: usize = 8192;

/// The lines of the list at `path` that name something, with their numbers.
///
/// # Errors
/// [`Error::Io`] when unreadable; [`Error::Input`] when it is no text, or names nothing.
pub fn lines(path: &Path) -> Result<Vec<(usize, String)>> {
    let bytes = fs::read(path).map_err(|e| Error::io(path, "read the list", e))?;
    let text = text_of(&bytes).ok_or_else(|| {
        Error::input(
            path.display().to_string(),
            "the list is not text in UTF-8",
            "save it as UTF-8, one image per line",
        )
    })?;
    // A carriage return alone ends a line, too, but not before a line feed.
    let text = text.replace("\r\n", "\n");
    let lines: Vec<(usize, String)> = text
        .split(['\n', '\r'])
        .enumerate()
        .map(|(i, line)| (i + 1, line.trim().to_string()))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .collect();
    if let Some((number, line)) = lines.iter().find(|(_, line)| line.len() > LONGEST) {
        return Err(Error::input(
            format!("{}:{number}", path.display()),
            format!("a line of {} bytes is no name of an image", line.len()),
            "list one image per line",
        ));
    }
    if lines.is_empty() {
        return Err(Error::input(
            path.display().to_string(),
            "the list is empty",
            "list one image per line",
        ));
    }
    Ok(lines)
}

/// Reads the list at `path`, looked up in the working folder and then under the dataset's root.
///
/// # Errors
/// [`Error::Input`] or [`Error::Io`] naming `key` or the file when it is missing, unreadable or
/// names nothing.
pub fn read(data: &Data, key: &str, path: &Path) -> Result<Vec<Sample>> {
    let under_root = data.root.join(path);
    let path = if path.exists() { path } else { &under_root };
    if path.is_dir() {
        return Err(Error::input(
            path.display().to_string(),
            "is a folder, and these images need masks",
            format!("list the images in a file for {key}; `u2pl-engine split` writes one"),
        ));
    }
    if !path.is_file() {
        return Err(Error::input(
            path.display().to_string(),
            "the list does not exist",
            format!("correct {key}, or write lists with `u2pl-engine split`"),
        ));
    }
    let layout = Layout::new(data);
    let at = |number: usize| format!("{}:{number}", path.display());
    let lines = lines(path)?.into_iter();
    Ok(lines
        .map(|(number, line)| layout.sample(&line, at(number)))
        .collect())
}

/// The samples that `lines` name, whether or not their files exist.
pub fn samples(data: &Data, lines: &[String]) -> Vec<Sample> {
    let layout = Layout::new(data);
    lines
        .iter()
        .map(|line| layout.sample(line, line.clone()))
        .collect()
}

/// The folder that `path` means instead of a list: itself, or that of the name under the root.
pub(super) fn folder(data: &Data, path: &Path) -> Option<PathBuf> {
    let under_root = data.root.join(path);
    [path.to_path_buf(), under_root]
        .into_iter()
        .find(|p| p.exists())
        .filter(|p| p.is_dir())
}

/// Every image in `folder` and below it, without masks.
///
/// # Errors
/// [`Error::Io`] when unreadable; [`Error::Input`] when there is none.
pub(super) fn images_of(folder: &Path) -> Result<Vec<Sample>> {
    let found = images_below(folder)?;
    if found.is_empty() {
        return Err(Error::input(
            folder.display().to_string(),
            "the folder has no .jpg, .jpeg or .png images",
            "give a list, or a folder of images",
        ));
    }
    let sample = |relative: &PathBuf| Sample {
        id: relative
            .with_extension("")
            .to_string_lossy()
            .replace(['/', '\\'], "_"),
        image: folder.join(relative),
        mask: None,
        at: folder.display().to_string(),
    };
    Ok(found.iter().map(sample).collect())
}

/// Paths of the images in `folder`, below it and behind links in it, relative to it, sorted. Masks
/// beside their images are none, and neither is what systems leave.
///
/// # Errors
/// [`Error::Io`] when a folder cannot be read.
pub(super) fn images_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let below = Below::of(folder, true, &[])?;
    for note in below.notes() {
        tracing::info!("{}: {note}", folder.display());
    }
    let files = below.files.iter().filter(|path| is_image_name(path));
    let (masks, images): (Vec<&PathBuf>, Vec<&PathBuf>) = files
        .filter(|path| path.is_file())
        .partition(|path| is_mask_beside(path));
    if let Some(first) = masks.first() {
        tracing::info!(
            "{}: {} masks beside their images, the first {}",
            folder.display(),
            masks.len(),
            first.display()
        );
    }
    let relative = |path: &PathBuf| path.strip_prefix(folder).map(Path::to_path_buf).ok();
    let mut found: Vec<PathBuf> = images.into_iter().filter_map(relative).collect();
    found.sort();
    Ok(found)
}

/// Whether masks lie beside the images of `folder`.
pub(super) fn has_pairs(folder: &Path) -> bool {
    Below::of(folder, true, &[]).is_ok_and(|below| below.files.iter().any(|p| is_mask_beside(p)))
}

/// An image that is named twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Twice {
    /// Its name.
    pub id: String,
    /// The two places, `list:line`.
    pub at: [String; 2],
}

/// The images that `samples` names more than once, each of its repetitions.
pub fn repeated(samples: &[Sample]) -> Vec<Twice> {
    let mut seen: HashMap<&Path, &Sample> = HashMap::new();
    let mut found = Vec::new();
    for sample in samples {
        match seen.get(sample.image.as_path()) {
            Some(first) => found.push(twice(first, sample)),
            None => {
                seen.insert(&sample.image, sample);
            }
        }
    }
    found
}

/// The images that both lists name.
pub fn shared(a: &[Sample], b: &[Sample]) -> Vec<Twice> {
    let seen: HashMap<&Path, &Sample> = a.iter().map(|s| (s.image.as_path(), s)).collect();
    let both = |s: &Sample| seen.get(s.image.as_path()).map(|first| twice(first, s));
    b.iter().filter_map(both).collect()
}

fn twice(first: &Sample, second: &Sample) -> Twice {
    Twice {
        id: second.id.clone(),
        at: [first.at.clone(), second.at.clone()],
    }
}
