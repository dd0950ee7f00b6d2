//! Split lists: which images keep their labels.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::device::philox::Rng;
use crate::{Error, Result};

/// Random stream of the draw.
const STREAM: u32 = 0x5F11_7000;

/// The images of a dataset folder, as list lines, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Images with a mask.
    pub with_mask: Vec<String>,
    /// Images without.
    pub without_mask: Vec<String>,
}

/// Lists a dataset root: `JPEGImages/` + `SegmentationClass(Aug)/` (VOC) or `images/` + `masks/`.
///
/// # Errors
/// [`Error::Input`] when the root has neither layout or no image; [`Error::Io`] when unreadable.
pub fn list_images(root: &Path) -> Result<Listing> {
    let layouts = [
        ("JPEGImages", "SegmentationClassAug"),
        ("JPEGImages", "SegmentationClass"),
        ("images", "masks"),
    ];
    let found = layouts
        .iter()
        .find(|(images, masks)| root.join(images).is_dir() && root.join(masks).is_dir());
    let Some((images, masks)) = found else {
        return Err(Error::input(
            root.display().to_string(),
            "holds neither JPEGImages/ + SegmentationClass/ nor images/ + masks/",
            "give the dataset's root, or a list of its training images",
        ));
    };
    let mut listing = Listing::default();
    for file in files(&root.join(images))? {
        let (Some(stem), Some(extension)) = (file.file_stem(), file.extension()) else {
            continue;
        };
        let extension = extension.to_string_lossy().to_ascii_lowercase();
        if !["jpg", "jpeg", "png"].contains(&extension.as_str()) {
            continue;
        }
        let stem = stem.to_string_lossy().into_owned();
        match root.join(masks).join(format!("{stem}.png")).is_file() {
            true => listing.with_mask.push(stem),
            false => listing.without_mask.push(stem),
        }
    }
    if listing.with_mask.is_empty() {
        return Err(Error::input(
            root.display().to_string(),
            format!("no image of {images}/ has a mask in {masks}/"),
            "add masks: some images must be labelled",
        ));
    }
    listing.with_mask.sort_unstable();
    listing.without_mask.sort_unstable();
    Ok(listing)
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let failed = |e| Error::io(folder, "list the images", e);
    fs::read_dir(folder)
        .map_err(failed)?
        .map(|entry| entry.map(|e| e.path()).map_err(failed))
        .collect()
}

/// The lines of an existing list, blank ones left out.
///
/// # Errors
/// [`Error::Io`] when unreadable, [`Error::Input`] when empty.
pub fn read_list(path: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(path).map_err(|e| Error::io(path, "read the list", e))?;
    let lines: Vec<String> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty())
        .map(str::to_string)
        .collect();
    if lines.is_empty() {
        return Err(Error::input(
            path.display().to_string(),
            "the list is empty",
            "list one image per line",
        ));
    }
    Ok(lines)
}

/// Draws `n_labeled` of `ids`; both results keep the order of `ids`. Larger draws of one seed
/// contain the smaller ones.
///
/// # Errors
/// [`Error::Input`] when `n_labeled` is 0 or more than there are.
pub fn make_split(
    ids: &[String],
    n_labeled: usize,
    seed: u64,
) -> Result<(Vec<String>, Vec<String>)> {
    if n_labeled == 0 || n_labeled > ids.len() {
        return Err(Error::input(
            format!("--labeled {n_labeled}"),
            format!("{} images with a label exist", ids.len()),
            format!("give 1 to {}", ids.len()),
        ));
    }
    let rng = Rng::seeded(seed, STREAM, 0);
    let mut order: Vec<usize> = (0..ids.len()).collect();
    for i in 0..n_labeled {
        let rest = (ids.len() - i) as u32;
        order.swap(i, i + rng.below(i as u64, rest) as usize);
    }
    let mut chosen = vec![false; ids.len()];
    for &i in &order[..n_labeled] {
        chosen[i] = true;
    }
    let pick = |wanted: bool| -> Vec<String> {
        let pairs = ids.iter().zip(&chosen);
        pairs
            .filter(|(_, c)| **c == wanted)
            .map(|(id, _)| id.clone())
            .collect()
    };
    Ok((pick(true), pick(false)))
}

/// Writes `labeled.txt` and `unlabeled.txt` into `folder` (made if missing), each whole or not at
/// all. Returns their paths.
///
/// # Errors
/// [`Error::Input`] when one of them exists; [`Error::Io`] when the folder cannot be written.
pub fn write_split(
    folder: &Path,
    labeled: &[String],
    unlabeled: &[String],
) -> Result<[PathBuf; 2]> {
    let paths = [folder.join("labeled.txt"), folder.join("unlabeled.txt")];
    if let Some(path) = paths.iter().find(|path| path.exists()) {
        return Err(Error::input(
            path.display().to_string(),
            "exists already",
            "choose another --out, or remove it",
        ));
    }
    fs::create_dir_all(folder).map_err(|e| Error::io(folder, "make the folder", e))?;
    for (path, lines) in paths.iter().zip([labeled, unlabeled]) {
        write_list(path, lines)?;
    }
    Ok(paths)
}

fn write_list(path: &Path, lines: &[String]) -> Result<()> {
    let temporary = path.with_extension("txt.partial");
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    let written = fs::File::create(&temporary).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written
        .and_then(|()| fs::rename(&temporary, path))
        .map_err(|e| {
            // Nothing half-written stays behind; the first error is the one to report.
            let _ = fs::remove_file(&temporary);
            Error::io(path, "write the list", e)
        })
}
