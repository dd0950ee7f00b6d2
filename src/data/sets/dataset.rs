//! One type for every source of images: files in three layouts, or synthetic shapes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::mask::{MaskRules, read_mask};
use super::scale::{rescale, scaled};
use super::{list, shapes};
use crate::config::schema::{Config, DataKind, Exif};
use crate::data::decode::{
    Decoded, Header, check_sides, decode_image, fault, image_header, no_file,
};
use crate::{Error, Result};

/// The three lists of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Training images with masks.
    Labeled,
    /// Training images whose masks, if there are any, serve diagnostics alone.
    Unlabeled,
    /// Validation images with masks.
    Val,
}

impl Part {
    /// The configuration key of its list.
    pub fn key(self) -> &'static str {
        match self {
            Part::Labeled => "data.labeled",
            Part::Unlabeled => "data.unlabeled",
            Part::Val => "data.val",
        }
    }
}

/// One image on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Name without folder and extension, for output files and tables.
    pub id: String,
    /// The image file.
    pub image: PathBuf,
    /// The mask file; `None` for an unlabelled image without one.
    pub mask: Option<PathBuf>,
    /// The `list:line` that names it.
    pub at: String,
}

#[derive(Clone, Debug)]
enum Source {
    Files(Vec<Sample>),
    Shapes(shapes::Shapes),
}

/// A list of images that can be decoded one by one, from any thread.
#[derive(Clone, Debug)]
pub struct Dataset {
    source: Source,
    rules: MaskRules,
    image_scale: f32,
    exif: Exif,
    min_side: usize,
    /// Of unlabelled images: those whose masks turned out unusable. `None` where a mask counts.
    unusable_masks: Option<Arc<Mutex<BTreeSet<usize>>>>,
}

impl Dataset {
    /// The images of `part`. Reads the list; images and masks are looked at by
    /// [`check`](super::check()) and [`Dataset::decode`].
    ///
    /// # Errors
    /// A missing, unreadable or empty list.
    pub fn open(config: &Config, part: Part) -> Result<Dataset> {
        let data = &config.data;
        if data.kind == DataKind::Shapes {
            let shapes = shapes::Shapes::new(config, part);
            return Ok(Self::with(config, part, Source::Shapes(shapes)));
        }
        let path = match part {
            Part::Labeled => &data.labeled,
            Part::Unlabeled => &data.unlabeled,
            Part::Val => &data.val,
        };
        Self::from_list(config, part, path)
    }

    /// The images of the list at `path`, treated as `part` is; for lists outside the configuration.
    /// Unlabelled images may be given as a folder instead: every image in and below it.
    ///
    /// # Errors
    /// As [`Dataset::open`].
    pub fn from_list(config: &Config, part: Part, path: &Path) -> Result<Dataset> {
        if path.as_os_str().is_empty() {
            return Err(Error::input(
                part.key(),
                "is not set",
                "give the list of images",
            ));
        }
        if let (Part::Unlabeled, Some(folder)) = (part, list::folder(&config.data, path)) {
            let samples = list::images_of(&config.data, &folder)?;
            return Ok(Self::with(config, part, Source::Files(samples)));
        }
        let mut samples = list::read(&config.data, part.key(), path)?;
        if part == Part::Unlabeled {
            for sample in &mut samples {
                // What is there and no file is told of, and not taken for an image without a mask.
                let there = |mask: &PathBuf| mask.symlink_metadata().is_ok();
                sample.mask = sample.mask.take().filter(there);
            }
        }
        Ok(Self::with(config, part, Source::Files(samples)))
    }

    fn with(config: &Config, part: Part, source: Source) -> Dataset {
        let data = &config.data;
        // A random resize by the smallest factor must leave a pixel.
        let shrunk = (1.0 / config.augment.scale[0].max(1e-3)).ceil() as usize;
        Dataset {
            source,
            rules: MaskRules::new(data),
            image_scale: data.image_scale,
            exif: data.exif,
            min_side: if part == Part::Val { 2 } else { shrunk.max(2) },
            unusable_masks: (part == Part::Unlabeled).then(Arc::default),
        }
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        match &self.source {
            Source::Files(samples) => samples.len(),
            Source::Shapes(shapes) => shapes.len(),
        }
    }

    /// No images at all?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Name of image `i`, for output files and tables.
    pub fn id(&self, i: usize) -> String {
        match &self.source {
            Source::Files(samples) => samples.get(i).map_or(String::new(), |s| s.id.clone()),
            Source::Shapes(shapes) => shapes.id(i),
        }
    }

    /// The files behind the dataset; empty for synthetic shapes.
    pub fn samples(&self) -> &[Sample] {
        match &self.source {
            Source::Files(samples) => samples,
            Source::Shapes(_) => &[],
        }
    }

    /// How mask values become labels.
    pub fn rules(&self) -> &MaskRules {
        &self.rules
    }

    /// The factor applied to every image right after decoding.
    pub(super) fn image_scale(&self) -> f32 {
        self.image_scale
    }

    /// Whether images are turned by their EXIF orientation.
    pub(super) fn exif(&self) -> Exif {
        self.exif
    }

    /// Whether the images count without their masks.
    pub(crate) fn is_unlabeled(&self) -> bool {
        self.unusable_masks.is_some()
    }

    /// Takes the mask from image `i`.
    pub(super) fn drop_mask(&mut self, i: usize) {
        if let Source::Files(samples) = &mut self.source
            && let Some(sample) = samples.get_mut(i)
        {
            sample.mask = None;
        }
    }

    /// Unlabelled images whose masks were found unusable while decoding: they go without.
    pub fn unusable_masks(&self) -> usize {
        let found = self.unusable_masks.as_ref();
        found.map_or(0, |f| {
            f.lock().unwrap_or_else(PoisonError::into_inner).len()
        })
    }

    /// Side of the synthetic images; `None` for files.
    pub(super) fn shapes_size(&self) -> Option<usize> {
        match &self.source {
            Source::Files(_) => None,
            Source::Shapes(shapes) => Some(shapes.size()),
        }
    }

    /// Image `i` with its label map, at the size `data.image_scale` gives.
    ///
    /// # Errors
    /// Those of [`decode_image`] and [`read_mask`], and a mask of another size than its image, all
    /// naming the file. Of an unlabelled image the mask serves diagnostics alone: one with a fault
    /// is left out, the first with a warning.
    pub fn decode(&self, i: usize) -> Result<Decoded> {
        let samples = match &self.source {
            Source::Shapes(shapes) => return rescale(shapes.render(i), self.image_scale),
            Source::Files(samples) => samples,
        };
        let sample = samples
            .get(i)
            .ok_or_else(|| Error::internal(format!("image {i} of {}", samples.len())))?;
        present(sample, &sample.image, "image")?;
        let mut decoded = decode_image(&sample.image, self.exif)?;
        if let Some(mask) = &sample.mask {
            let size = (decoded.width, decoded.height);
            match (self.label(sample, mask, size), &self.unusable_masks) {
                (Ok(label), _) => decoded.label = Some(label),
                (Err(e), None) => return Err(e),
                (Err(e), Some(found)) => {
                    let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                    if found.insert(i) && found.len() == 1 {
                        tracing::warn!(
                            "{e}; it belongs to an unlabelled image: left out of the diagnostics, and \
                             so is every other that cannot be used"
                        );
                    }
                }
            }
        }
        let decoded = rescale(decoded, self.image_scale)?;
        check_sides(&sample.image, decoded.width, decoded.height, self.min_side)?;
        Ok(decoded)
    }

    /// The label map of a sample whose image is of `size`, (width, height).
    fn label(&self, sample: &Sample, mask: &Path, size: (usize, usize)) -> Result<Vec<u8>> {
        present(sample, mask, "mask")?;
        let (width, height, label) = read_mask(mask, &self.rules)?;
        if (width, height) != size {
            let plain = Header {
                size,
                orientation: 1,
                given: 1,
            };
            let header = image_header(&sample.image, self.exif);
            same_size(mask, (width, height), header.unwrap_or(plain))?;
        }
        Ok(label)
    }

    /// (width, height) of an image after `data.image_scale`, where that is large enough.
    ///
    /// # Errors
    /// [`Error::Input`] naming the file when it is too small to train on or to score.
    pub(crate) fn scaled_size(
        &self,
        image: &Path,
        (width, height): (usize, usize),
    ) -> Result<(usize, usize)> {
        let [width, height] = [width, height].map(|side| scaled(side, self.image_scale));
        check_sides(image, width, height, self.min_side)?;
        Ok((width, height))
    }

    /// Keeps the images that `keep` says, by position.
    pub(crate) fn retain(&mut self, keep: &[bool]) {
        if let Source::Files(samples) = &mut self.source {
            let mut keep = keep.iter();
            samples.retain(|_| keep.next().copied().unwrap_or(true));
        }
    }
}

/// Refuses a file of `sample` that is not there, or is none.
///
/// # Errors
/// [`Error::Input`] naming the line of the list.
pub(crate) fn present(sample: &Sample, path: &Path, what: &str) -> Result<()> {
    let Some(why) = no_file(path) else {
        return Ok(());
    };
    let fix = match what {
        "mask" => {
            "give the image a mask, take it out of the list, or correct data.root or data.mask_dir"
        }
        _ => "correct the line, data.root or data.image_dir",
    };
    Err(Error::input(
        sample.at.clone(),
        format!("the {what} {} {why}", path.display()),
        fix,
    ))
}

/// Mask and image must cover the same pixels; sizes are (width, height).
pub(super) fn same_size(mask: &Path, of_mask: (usize, usize), image: Header) -> Result<()> {
    let Header {
        size: image,
        orientation,
        given,
    } = image;
    if of_mask == image {
        return Ok(());
    }
    let on_its_side = of_mask == (image.1, image.0);
    if orientation >= 5 && on_its_side {
        return Err(fault(
            mask,
            format!(
                "the mask is {} × {} (width × height), as its image is stored; its EXIF orientation \
                 {orientation} turns that to {} × {}",
                of_mask.0, of_mask.1, image.0, image.1
            ),
            "turn the mask, or set data.exif: ignore if masks are drawn on the stored pixels",
        ));
    }
    if given >= 5 && on_its_side {
        return Err(fault(
            mask,
            format!(
                "the mask is {} × {} (width × height), as its image is seen; data.exif: ignore takes \
                 the stored {} × {}, without its EXIF orientation {given}",
                of_mask.0, of_mask.1, image.0, image.1
            ),
            "set data.exif: apply, or turn the mask",
        ));
    }
    Err(fault(
        mask,
        format!(
            "the mask is {} × {}, its image {} × {} (width × height)",
            of_mask.0, of_mask.1, image.0, image.1
        ),
        "make them the same size",
    ))
}
