//! What lies in a dataset folder: its layout, its images with and without masks, its lists.
//!
//! Comes in: a folder that nobody has described. Goes out: the `data` section that describes it,
//! and the samples that `split` draws from and `dataset check` looks at.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::dataset::Sample;
use super::layout::Layout;
use super::list::{has_pairs, images_below};
use crate::config::schema::{Data, DataKind, LabelEncoding};
use crate::data::decode::no_file;
use crate::folders::{Below, is_hidden, is_image_name};
use crate::{Error, Result};

/// Folder names of images and masks in the plain layout, the layout's own first.
const IMAGE_FOLDERS: [&str; 6] = ["images", "image", "imgs", "img", "JPEGImages", "rgb"];
const MASK_FOLDERS: [&str; 8] = [
    "masks",
    "mask",
    "labels",
    "label",
    "annotations",
    "gt",
    "SegmentationClass",
    "segmentation",
];
/// Where lists are looked for.
const LIST_FOLDERS: [&str; 4] = ["", "splits", "lists", "ImageSets/Segmentation"];

/// A dataset folder.
#[derive(Clone, Debug)]
pub struct Found {
    /// How to read it; classes and lists are not known yet.
    pub data: Data,
    /// Images with a mask, by list line, sorted.
    pub labeled: Vec<(String, Sample)>,
    /// Images without.
    pub unlabeled: Vec<(String, Sample)>,
    /// Masks without an image.
    pub orphans: Vec<PathBuf>,
    /// The folder of images.
    pub images: PathBuf,
    /// The folder of masks; `None` when there is none.
    pub masks: Option<PathBuf>,
    /// A line on each mask that is no file, its image being among those without.
    pub faults: Vec<String>,
}

/// Looks at `root`.
///
/// # Errors
/// [`Error::Input`] when no image is found; [`Error::Io`] when a folder cannot be read.
pub fn discover(root: &Path) -> Result<Found> {
    let data = layout_of(root)?;
    let layout = Layout::new(&data);
    let images = layout.images.clone();
    let masks = layout.masks.is_dir().then(|| layout.masks.clone());
    let mut found = Found {
        labeled: Vec::new(),
        unlabeled: Vec::new(),
        orphans: Vec::new(),
        faults: Vec::new(),
        images,
        masks,
        data: data.clone(),
    };
    let mut used = HashSet::new();
    for relative in images_below(&found.images, &layout.masks)? {
        let line = layout.line(&relative);
        let at = found.images.join(&relative).display().to_string();
        let mut sample = layout.sample(&line, at);
        if let Some(mask) = sample.mask.take_if(|mask| !mask.is_file())
            && mask.symlink_metadata().is_ok()
            && let Some(why) = no_file(&mask)
        {
            found.faults.push(format!("{}: {why}", mask.display()));
        }
        match &sample.mask {
            Some(mask) => {
                used.insert(mask.clone());
                found.labeled.push((line, sample));
            }
            None => found.unlabeled.push((line, sample)),
        }
    }
    if found.labeled.is_empty() && found.unlabeled.is_empty() {
        return Err(nothing(root));
    }
    // In one folder a mask without an image cannot be told from an image.
    if let Some(folder) = found.masks.as_ref().filter(|masks| **masks != found.images) {
        let tail = mask_tail(&data);
        let below = Below::of(folder, true, &[])?;
        for note in below.notes() {
            tracing::info!("{}: {note}", folder.display());
        }
        found.orphans = images_in(below)
            .filter(|path| path.to_string_lossy().ends_with(tail) && !used.contains(path))
            .collect();
        found.orphans.sort();
    }
    Ok(found)
}

/// The lists in and around `root`: every text file in the usual places, sorted.
pub fn lists_of(root: &Path) -> Vec<PathBuf> {
    let in_folder = |folder: &&str| std::fs::read_dir(root.join(folder)).ok();
    let mut lists: Vec<PathBuf> = LIST_FOLDERS
        .iter()
        .filter_map(in_folder)
        .flatten()
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "txt") && path.is_file())
        .filter(|path| !is_hidden(path))
        .collect();
    lists.sort();
    lists
}

fn nothing(root: &Path) -> Error {
    Error::input(
        root.display().to_string(),
        "holds no images in a known layout: JPEGImages/ + SegmentationClass/, leftImg8bit/ + \
         gtFine/, or images/ + masks/",
        "give the dataset's root, or arrange it so",
    )
}

/// The `data` section that describes `root`, by the names of its folders; classes and lists are not
/// known yet.
///
/// # Errors
/// [`Error::Input`] when it is no folder; [`Error::Io`] when one in it cannot be read.
pub fn layout_of(root: &Path) -> Result<Data> {
    if !root.is_dir() {
        return Err(Error::input(
            root.display().to_string(),
            "is not a folder",
            "give the dataset's root",
        ));
    }
    let has = |folder: &str| root.join(folder).is_dir();
    let mut data = Data {
        root: root.to_path_buf(),
        ..Data::default()
    };
    if has("leftImg8bit") {
        data.kind = DataKind::Cityscapes;
        data.encoding = city_encoding(&root.join("gtFine"))?;
        return Ok(data);
    }
    if has("JPEGImages") && (has("SegmentationClassAug") || has("SegmentationClass")) {
        data.kind = DataKind::Voc;
        return Ok(data);
    }
    data.kind = DataKind::Folder;
    let first = |names: &[&str]| names.iter().find(|n| has(n)).map(|n| n.to_string());
    // Images directly in the root are a layout too, of images without masks.
    let images = first(&IMAGE_FOLDERS).unwrap_or_else(|| ".".into());
    let masks = first(&MASK_FOLDERS);
    let masks = match masks.is_none() && has_pairs(&root.join(&images)) {
        true => images.clone(),
        false => masks.unwrap_or_else(|| "masks".into()),
    };
    if images != "images" {
        data.image_dir = images.into();
    }
    if masks != "masks" {
        data.mask_dir = masks.into();
    }
    Ok(data)
}

/// Train ids where the masks have been converted, label ids as downloaded.
fn city_encoding(masks: &Path) -> Result<LabelEncoding> {
    if !masks.is_dir() {
        return Ok(LabelEncoding::TrainId);
    }
    let has = |tail: &str, files: &[PathBuf]| {
        let ends = |path: &PathBuf| path.to_string_lossy().ends_with(tail);
        files.iter().any(ends)
    };
    let files: Vec<PathBuf> = images_in(Below::of(masks, true, &[])?).collect();
    Ok(
        match !has("_gtFine_labelTrainIds.png", &files) && has("_gtFine_labelIds.png", &files) {
            true => LabelEncoding::CityscapesLabelId,
            false => LabelEncoding::TrainId,
        },
    )
}

/// The image files among what was found, in no order.
fn images_in(below: Below) -> impl Iterator<Item = PathBuf> {
    let files = below.files.into_iter();
    files.filter(|path| is_image_name(path) && path.is_file())
}

/// How the names of masks end.
fn mask_tail(data: &Data) -> &'static str {
    match (data.kind, data.encoding) {
        (DataKind::Cityscapes, LabelEncoding::TrainId) => "_gtFine_labelTrainIds.png",
        (DataKind::Cityscapes, LabelEncoding::CityscapesLabelId) => "_gtFine_labelIds.png",
        _ => ".png",
    }
}
