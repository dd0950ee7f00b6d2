//! Split lists: text files with an image a line.
//!
//! Whatever wrote them is accepted: Windows line ends, byte-order marks, UTF-16 (what `>` writes in
//! PowerShell), blank lines, and lines that begin with `#`, where `split` says how it drew.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs;
use std::hash::Hash;
use std::path::{Path, PathBuf};

use super::dataset::{Dataset, Sample};
use super::layout::Layout;
use crate::config::schema::Data;
use crate::counted::counted;
use crate::data::decode::no_file;
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
    let path = &place(data, path);
    if path.is_dir() {
        return Err(Error::input(
            path.display().to_string(),
            "is a folder, and these images need masks",
            format!("list the images in a file for {key}; `u2pl-engine split` writes one"),
        ));
    }
    if let Some(why) = no_file(path) {
        return Err(Error::input(
            path.display().to_string(),
            format!("the list {why}"),
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

/// Where the list at `path` is: in the working folder, or else under the dataset's root.
fn place(data: &Data, path: &Path) -> PathBuf {
    match path.symlink_metadata().is_ok() {
        true => path.to_path_buf(),
        false => data.root.join(path),
    }
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

/// Every image in `folder` and below it, without masks; a folder of masks in it is left out.
///
/// # Errors
/// [`Error::Io`] when unreadable; [`Error::Input`] when there is none.
pub(super) fn images_of(data: &Data, folder: &Path) -> Result<Vec<Sample>> {
    let masks = Layout::new(data).masks;
    let found = images_below(folder, &masks)?;
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
/// beside their images are none, and neither are those of the folder `masks` within it, nor what systems
/// leave.
///
/// # Errors
/// [`Error::Io`] when a folder cannot be read.
pub(super) fn images_below(folder: &Path, masks: &Path) -> Result<Vec<PathBuf>> {
    let real = |path: &Path| fs::canonicalize(path).ok();
    let apart = (real(masks) != real(folder)).then(|| masks.to_path_buf());
    let below = Below::of(folder, true, apart.as_slice())?;
    for note in below.notes() {
        tracing::info!("{}: {note}", folder.display());
    }
    let files = below.files.iter().filter(|path| is_image_name(path));
    let (masks, images): (Vec<&PathBuf>, Vec<&PathBuf>) = files
        .filter(|path| path.is_file())
        .partition(|path| is_mask_beside(path));
    if let Some(first) = masks.first() {
        tracing::info!(
            "{}: {}, the first {}",
            folder.display(),
            counted(
                masks.len(),
                "mask beside its image",
                "masks beside their images"
            ),
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

/// The images that `samples` names more than once, each with its first two places.
pub fn repeated(samples: &[Sample]) -> Vec<Twice> {
    let mut seen = Seen::default();
    let mut found = Vec::new();
    for sample in samples {
        seen.add(sample.image.as_path(), sample, &mut found);
    }
    found
}

/// What was named before, by what tells it from others, and whether it was named again.
struct Seen<'a, K>(HashMap<K, (&'a Sample, bool)>);

impl<K> Default for Seen<'_, K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<'a, K: Hash + Eq> Seen<'a, K> {
    /// Whether `key` is new; `found` takes what is named a second time.
    fn add(&mut self, key: K, sample: &'a Sample, found: &mut Vec<Twice>) -> bool {
        match self.0.entry(key) {
            Entry::Vacant(place) => {
                place.insert((sample, false));
                true
            }
            Entry::Occupied(mut before) => {
                let (first, again) = before.get_mut();
                if !std::mem::replace(again, true) {
                    found.push(twice(first, sample));
                }
                false
            }
        }
    }
}

/// Drops from `dataset` what it names again, image and mask; returns each with its first two places.
pub(crate) fn take_once(dataset: &mut Dataset) -> Vec<Twice> {
    let mut seen = Seen::default();
    let mut found = Vec::new();
    let mut keep = Vec::with_capacity(dataset.samples().len());
    for sample in dataset.samples() {
        // By way of links and `..`, too, where that is known; another name is another result.
        let name = sample.image.file_name().unwrap_or_default();
        let folder = sample.image.parent().map(fs::canonicalize);
        let image = match folder {
            Some(Ok(folder)) => folder.join(name),
            _ => sample.image.clone(),
        };
        keep.push(seen.add((image, sample.mask.as_deref()), sample, &mut found));
    }
    drop(seen);
    dataset.retain(&keep);
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
