//! The start-up check: every list, every file, every size, before the first step.
//!
//! A run that dies at 3 a.m. on image 4 711 helps nobody. The headers of images are read and the
//! masks that count, on all cores; every problem is collected and reported together.
//!
//! Unlabelled images are many, and few of them are missed: those that cannot be used are skipped, as
//! far as `data.max_bad_unlabeled` allows, and their masks serve diagnostics alone.

use std::path::{Path, PathBuf};

use rayon::prelude::*;

use super::absent::Held;
use super::dataset::{Dataset, Part, Sample, present, same_size};
use super::list::{Twice, repeated, shared};
use super::mask::{mask_size, read_mask};
use super::scale::scaled;
use crate::config::schema::{Config, DataKind};
use crate::counted::counted;
use crate::data::decode::{Header, image_header};
use crate::{Error, Result};

/// Problems printed before "and N more".
const SHOWN: usize = 20;

/// What the check found: datasets ready to decode, and the sizes that buffers must hold.
#[derive(Debug)]
pub struct Check {
    /// Labelled training images.
    pub labeled: Dataset,
    /// Unlabelled training images; `None` when supervised training names no list.
    pub unlabeled: Option<Dataset>,
    /// Validation images.
    pub val: Dataset,
    /// The sizes of the training images.
    pub train_sizes: Sizes,
    /// The sizes of the validation images.
    pub val_sizes: Sizes,
    /// What the labelled masks hold.
    pub labeled_held: Held,
    /// What the validation masks hold.
    pub val_held: Held,
    /// Positions of the unlabelled images that cannot be used.
    pub unusable: Vec<usize>,
}

/// Extremes over a set of images, after `data.image_scale`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Largest height.
    pub height: usize,
    /// Largest width.
    pub width: usize,
    /// Most pixels in one image: the staging capacity.
    pub pixels: usize,
}

impl Sizes {
    fn add(&mut self, (width, height): (usize, usize)) {
        self.height = self.height.max(height);
        self.width = self.width.max(width);
        self.pixels = self.pixels.max(width * height);
    }

    fn join(&mut self, other: Sizes) {
        self.height = self.height.max(other.height);
        self.width = self.width.max(other.width);
        self.pixels = self.pixels.max(other.pixels);
    }
}

/// Opens the datasets of `config` and checks all of their files.
///
/// Images in two of the lists, or twice in one, are legal but doubtful: a warning each. So are
/// classes that no mask holds, and what is left out of the unlabelled images.
///
/// # Errors
/// Everything wrong with lists and files, together; at most 20 lines are spelled out.
pub fn check(config: &Config) -> Result<Check> {
    let mut errors = Vec::new();
    let mut keep = |opened: Result<Dataset>| match opened {
        Ok(dataset) => {
            let (found, problems) = inspect(&dataset);
            errors.extend(problems);
            Some((dataset, found))
        }
        Err(e) => {
            errors.push(e);
            None
        }
    };
    let labeled = keep(Dataset::open(config, Part::Labeled));
    let unlabeled = match wants_unlabeled(config) {
        true => keep(open_unlabeled(config)),
        false => None,
    };
    let val = keep(Dataset::open(config, Part::Val));
    let all = [&labeled, &unlabeled, &val];
    for (dataset, _) in all.into_iter().flatten() {
        let twice = repeated(dataset.samples());
        warn(doubtful("named more than once in a list", &twice));
    }
    for (name, a, b) in [
        ("labelled and unlabelled", &labeled, &unlabeled),
        ("labelled and validation", &labeled, &val),
        ("unlabelled and validation", &unlabeled, &val),
    ] {
        if let (Some((a, _)), Some((b, _))) = (a, b) {
            let both = shared(a.samples(), b.samples());
            warn(doubtful(&format!("in both the {name} lists"), &both));
        }
    }
    let turned = all.into_iter().flatten().flat_map(|(_, f)| &f.turned);
    // As it should be: masks that do not fit are errors of their own.
    if let Some(line) = turned_line(&turned.cloned().collect::<Vec<_>>()) {
        tracing::info!("{line}");
    }
    let unlabeled = unlabeled.map(|(mut dataset, found)| {
        let most = most_unusable(config, dataset.len());
        if found.unusable.len() > most {
            let all = dataset.len();
            let count = found.unusable.len();
            errors.extend(found.unusable.into_iter().map(|(_, e)| e));
            errors.push(Error::input(
                "data.max_bad_unlabeled",
                unusable_line(count, all, most),
                "fix them, take them out of the list, or raise it",
            ));
            return (dataset, found.sizes, Vec::new());
        }
        for (_, e) in found.unusable.iter().take(SHOWN) {
            tracing::warn!("{e}; the unlabelled image is skipped");
        }
        if let more @ 1.. = found.unusable.len().saturating_sub(SHOWN) {
            let more = counted(
                more,
                "more unlabelled image is",
                "more unlabelled images are",
            );
            tracing::warn!("{more} skipped");
        }
        if let Some((_, first)) = found.unusable_masks.first() {
            let masks = counted(
                found.unusable_masks.len(),
                "mask of an unlabelled image cannot be used and is",
                "masks of unlabelled images cannot be used and are",
            );
            tracing::warn!("{masks} left out of the diagnostics, the first: {first}");
        }
        for (i, _) in &found.unusable_masks {
            dataset.drop_mask(*i);
        }
        let unusable = found.unusable.iter().map(|(i, _)| *i).collect();
        (dataset, found.sizes, unusable)
    });
    Error::collect(cap(errors))?;
    let (Some((labeled, of_labeled)), Some((val, of_val))) = (labeled, val) else {
        return Err(Error::internal("a dataset failed to open without an error"));
    };
    warn(of_labeled.held.line("labelled", &config.data));
    warn(of_val.held.line("validation", &config.data));
    let mut train_sizes = of_labeled.sizes;
    let (unlabeled, unusable) = match unlabeled {
        Some((dataset, sizes, unusable)) => {
            train_sizes.join(sizes);
            (Some(dataset), unusable)
        }
        None => (None, Vec::new()),
    };
    Ok(Check {
        labeled,
        unlabeled,
        val,
        train_sizes,
        val_sizes: of_val.sizes,
        labeled_held: of_labeled.held,
        val_held: of_val.held,
        unusable,
    })
}

/// How many of `all` unlabelled images may be unusable: at least one is left.
pub fn most_unusable(config: &Config, all: usize) -> usize {
    // A share such as 0.7 is a little less in single precision.
    let share = f64::from(config.data.max_bad_unlabeled) + 1e-6;
    let most = (share * all as f64).floor() as usize;
    most.min(all.saturating_sub(1))
}

/// How many of `all` unlabelled images cannot be used, and how many may be so.
pub(crate) fn unusable_line(count: usize, all: usize, most: usize) -> String {
    let of = counted(all, "unlabelled image", "unlabelled images");
    let allowed = counted(most, "is allowed", "are allowed");
    format!("{count} of {of} cannot be used, {allowed}")
}

/// A line on images that are not as they are stored.
pub(crate) fn turned_line(turned: &[PathBuf]) -> Option<String> {
    let first = turned.first()?;
    let images = counted(
        turned.len(),
        "image is turned as its EXIF orientation says",
        "images are turned as their EXIF orientation says",
    );
    Some(format!(
        "{images}, the first {}: masks must be drawn on what is seen (data.exif: ignore takes the \
         stored pixels)",
        first.display()
    ))
}

fn warn(line: Option<String>) {
    if let Some(line) = line {
        tracing::warn!("{line}");
    }
}

/// Supervised training takes an unlabelled list when there is one: it sets the epoch's length.
fn wants_unlabeled(config: &Config) -> bool {
    let listed = match config.data.kind {
        DataKind::Shapes => config.data.shapes.unlabeled > 0,
        _ => !config.data.unlabeled.as_os_str().is_empty(),
    };
    listed || config.train.algorithm.uses_unlabeled()
}

fn open_unlabeled(config: &Config) -> Result<Dataset> {
    let mend = "list some, or set train.algorithm: supervised";
    let dataset = Dataset::open(config, Part::Unlabeled).map_err(|e| match e {
        Error::Input { at, problem, .. } if config.train.algorithm.uses_unlabeled() => {
            let problem = format!("{problem}, and U2PL learns from unlabelled images");
            Error::input(at, problem, mend)
        }
        other => other,
    })?;
    if dataset.is_empty() && config.train.algorithm.uses_unlabeled() {
        let problem = "no unlabelled images, and U2PL learns from them";
        return Err(Error::input("data.shapes.unlabeled", problem, mend));
    }
    Ok(dataset)
}

/// What was found in a dataset.
#[derive(Default)]
struct Found {
    sizes: Sizes,
    held: Held,
    turned: Vec<PathBuf>,
    /// Unlabelled images that cannot be used, and why.
    unusable: Vec<(usize, Error)>,
    /// Unlabelled images whose masks cannot be used, and why.
    unusable_masks: Vec<(usize, Error)>,
}

/// Reads `dataset` in parallel; results and errors stay in list order.
fn inspect(dataset: &Dataset) -> (Found, Vec<Error>) {
    let mut all = Found::default();
    let mut errors = Vec::new();
    if let Some(side) = dataset.shapes_size() {
        let side = scaled(side, dataset.image_scale());
        all.sizes.add((side, side));
        return (all, errors);
    }
    let found: Vec<Seen> = dataset
        .samples()
        .par_iter()
        .map(|sample| inspect_one(dataset, sample))
        .collect();
    for (i, (seen, sample)) in found.into_iter().zip(dataset.samples()).enumerate() {
        match (seen.image, dataset.is_unlabeled()) {
            (Ok((header, size)), _) => {
                all.sizes.add(size);
                if header.orientation > 1 {
                    all.turned.push(sample.image.clone());
                }
            }
            (Err(e), true) => all.unusable.push((i, e)),
            (Err(e), false) => errors.push(e),
        }
        match (seen.mask, dataset.is_unlabeled()) {
            (Ok(Some(labels)), _) => all.held.join(&labels),
            (Ok(None), _) => {}
            (Err(e), true) => all.unusable_masks.push((i, e)),
            (Err(e), false) => errors.push(e),
        }
    }
    (all, errors)
}

/// What was found in a sample.
struct Seen {
    /// Its header, and its size after scaling.
    image: Result<(Header, (usize, usize))>,
    /// What its mask holds, where it counts.
    mask: Result<Option<Held>>,
}

fn inspect_one(dataset: &Dataset, sample: &Sample) -> Seen {
    let header = present(sample, &sample.image, "image")
        .and_then(|()| image_header(&sample.image, dataset.exif()));
    let known = header.as_ref().ok().copied();
    let mask = match &sample.mask {
        Some(mask) => inspect_mask(dataset, sample, mask, known),
        None => Ok(None),
    };
    let image = header.and_then(|header| {
        let size = dataset.scaled_size(&sample.image, header.size)?;
        Ok((header, size))
    });
    Seen { image, mask }
}

/// Of an unlabelled image's mask the header is read alone.
fn inspect_mask(
    dataset: &Dataset,
    sample: &Sample,
    mask: &Path,
    image: Option<Header>,
) -> Result<Option<Held>> {
    present(sample, mask, "mask")?;
    let fits = |size| match image {
        Some(image) => same_size(mask, size, image),
        None => Ok(()),
    };
    if dataset.is_unlabeled() {
        fits(mask_size(mask)?)?;
        return Ok(None);
    }
    // Its size first: a mask of something else has other values, too.
    fits(mask_size(mask)?)?;
    let (_, _, labels) = read_mask(mask, dataset.rules())?;
    let mut held = Held::default();
    held.add(labels);
    Ok(Some(held))
}

/// One line for images that two lists share, or that one repeats.
pub(crate) fn doubtful(what: &str, found: &[Twice]) -> Option<String> {
    let Twice { id, at: [a, b] } = found.first()?;
    let images = counted(found.len(), "image is", "images are");
    Some(format!("{images} {what}, the first {id} ({a} and {b})"))
}

/// Keeps the first [`SHOWN`] problems and a count of the rest.
fn cap(mut errors: Vec<Error>) -> Vec<Error> {
    let hidden = errors.len().saturating_sub(SHOWN);
    if hidden > 0 {
        errors.truncate(SHOWN);
        errors.push(Error::input(
            "data",
            format!("and {}", counted(hidden, "more problem", "more problems")),
            "fix those above and run again",
        ));
    }
    errors
}
