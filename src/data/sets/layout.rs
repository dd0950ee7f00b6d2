//! Dataset layouts: from a list's line to the paths of an image and its mask, and back.

use std::path::{Component, Path, PathBuf};

use super::dataset::Sample;
use crate::config::schema::{Data, DataKind, LabelEncoding};
use crate::folders::{IMAGE_EXTENSIONS, PAIR_TAILS};

const CITY_IMAGE_TAIL: &str = "_leftImg8bit";

/// Where a layout keeps its files.
pub(super) struct Layout<'a> {
    data: &'a Data,
    /// Folder of images.
    pub(super) images: PathBuf,
    /// Folder of masks.
    pub(super) masks: PathBuf,
}

impl<'a> Layout<'a> {
    /// The folders of `data`, the layout's own where none is given.
    pub(super) fn new(data: &'a Data) -> Self {
        let or = |given: &Path, own: &str| match given.as_os_str().is_empty() {
            true => plain(data.root.join(own)),
            false => plain(data.root.join(given)),
        };
        let (images, masks) = match data.kind {
            DataKind::Cityscapes => ("leftImg8bit", "gtFine"),
            DataKind::Folder => ("images", "masks"),
            DataKind::Voc | DataKind::Shapes => {
                let augmented = data.root.join("SegmentationClassAug").is_dir();
                let masks = if augmented {
                    "SegmentationClassAug"
                } else {
                    "SegmentationClass"
                };
                ("JPEGImages", masks)
            }
        };
        Self {
            data,
            images: or(&data.image_dir, images),
            masks: or(&data.mask_dir, masks),
        }
    }

    /// The sample that a list line names, whether or not its files exist.
    pub(super) fn sample(&self, line: &str, at: String) -> Sample {
        let (image, mask) = match self.two_columns(line) {
            Some((image, mask)) => (self.under_root(image), self.under_root(mask)),
            None if self.data.kind == DataKind::Cityscapes => self.cityscapes(line),
            None => self.by_stem(line),
        };
        let stem = image.file_stem().unwrap_or_default().to_string_lossy();
        let id = match self.data.kind {
            DataKind::Cityscapes => stem.trim_end_matches(CITY_IMAGE_TAIL).to_string(),
            _ => stem.into_owned(),
        };
        Sample {
            id,
            image,
            mask: Some(mask),
            at,
        }
    }

    /// The list line of the image at `relative`, a path below the folder of images.
    pub(super) fn line(&self, relative: &Path) -> String {
        let name = relative.to_string_lossy().replace('\\', "/");
        if self.data.kind == DataKind::Cityscapes {
            return format!("leftImg8bit/{name}");
        }
        // A stem where it leads back to this file: not with FILE.JPG, nor with a second extension.
        let stem = relative.with_extension("");
        let stem = stem.to_string_lossy().replace('\\', "/");
        match self.by_stem(&stem).0 == self.images.join(relative) {
            true => stem,
            false => name,
        }
    }

    /// `IMAGE MASK` lines: the second word is a PNG, and the line is not one name with a space.
    fn two_columns<'l>(&self, line: &'l str) -> Option<(&'l str, &'l str)> {
        let (image, mask) = line.split_once(char::is_whitespace)?;
        let mask = mask.trim();
        let two = mask.ends_with(".png") && !mask.contains(char::is_whitespace);
        (two && !self.images.join(line).exists()).then_some((image, mask))
    }

    /// Lists written for a root in front often start their paths with a slash.
    fn under_root(&self, path: &str) -> PathBuf {
        plain(self.data.root.join(path.trim_start_matches('/')))
    }

    fn cityscapes(&self, line: &str) -> (PathBuf, PathBuf) {
        let tail = match self.data.encoding {
            LabelEncoding::TrainId => "_gtFine_labelTrainIds.png",
            LabelEncoding::CityscapesLabelId => "_gtFine_labelIds.png",
        };
        let inner = line
            .trim_start_matches('/')
            .trim_start_matches("leftImg8bit/");
        let stem = inner
            .trim_end_matches(".png")
            .trim_end_matches(CITY_IMAGE_TAIL);
        (
            plain(self.images.join(inner)),
            plain(self.masks.join(format!("{stem}{tail}"))),
        )
    }

    /// A stem or file name under the image folder, the mask of the same stem under the other; in one
    /// folder for both, and where there is no such mask, that of the stem and a usual ending.
    fn by_stem(&self, line: &str) -> (PathBuf, PathBuf) {
        let name = plain(line.trim_start_matches('/').into());
        let name = name.to_string_lossy();
        let name = name.trim_start_matches("./");
        let extension = Path::new(name).extension().and_then(|e| e.to_str());
        let known =
            extension.is_some_and(|e| IMAGE_EXTENSIONS.contains(&e.to_ascii_lowercase().as_str()));
        let stem = match extension {
            Some(e) if known => &name[..name.len() - e.len() - 1],
            _ => name,
        };
        let image = if known {
            self.images.join(name)
        } else {
            let candidate = |e: &str| self.images.join(format!("{stem}.{e}"));
            let found = IMAGE_EXTENSIONS
                .iter()
                .map(|e| candidate(e))
                .find(|p| p.exists());
            found.unwrap_or_else(|| candidate(usual_extension(&candidate(""))))
        };
        (image, self.mask_of(stem))
    }

    fn mask_of(&self, stem: &str) -> PathBuf {
        let own = |tail: &str| self.masks.join(format!("{stem}{tail}.png"));
        let one_folder = self.images == self.masks;
        let plain = (!one_folder).then(|| own(""));
        if let Some(plain) = plain.as_ref().filter(|mask| mask.exists()) {
            return plain.clone();
        }
        let beside = PAIR_TAILS
            .iter()
            .map(|tail| own(tail))
            .find(|mask| mask.exists());
        beside.or(plain).unwrap_or_else(|| own(PAIR_TAILS[0]))
    }
}

/// The path without parts that say "here" and slashes that say nothing; a `.` in front stays.
fn plain(path: PathBuf) -> PathBuf {
    path.components().collect()
}

/// What the images in the folder of `missing` end with: so is a missing one's likely name.
fn usual_extension(missing: &Path) -> &'static str {
    let entries = missing.parent().map(std::fs::read_dir);
    let mut entries = entries.into_iter().flatten().flatten().flatten();
    let known = |entry: std::fs::DirEntry| {
        let path = entry.path();
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        let mut all = IMAGE_EXTENSIONS.into_iter();
        all.find(|known| *known == extension)
    };
    entries.find_map(known).unwrap_or("jpg")
}

/// Path of what is written for `image` below an output folder, without extension: that of the image
/// below the folder of images, or else below the root. What follows a dot within the name stays.
pub fn result_name(data: &Data, image: &Path) -> PathBuf {
    let layout = Layout::new(data);
    let below = [layout.images.as_path(), data.root.as_path()]
        .into_iter()
        .find_map(|folder| image.strip_prefix(folder).ok())
        .unwrap_or(image);
    // Nothing is written outside of the output folder.
    let inside = |c: &Component| matches!(c, Component::Normal(_));
    let below: PathBuf = below.components().filter(inside).collect();
    below.with_file_name(below.file_stem().unwrap_or_default())
}
