//! The start-up check: every list, every file, every size, before the first step.
//!
//! A run that dies at 3 a.m. on image 4 711 helps nobody. Headers alone are read, on all cores;
//! every problem is collected and reported together.

use std::path::Path;

use rayon::prelude::*;

use super::dataset::{Dataset, Part, Sample, same_size};
use super::list::{Twice, repeated, shared};
use super::mask::mask_size;
use super::scale::scaled;
use crate::config::schema::{Config, DataKind};
use crate::data::decode::{check_sides, image_size};
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
}

/// Opens the datasets of `config` and checks all of their files.
///
/// Images in two of the lists, or twice in one, are legal but doubtful: a warning each.
///
/// # Errors
/// Everything wrong with lists and files, together; at most 20 lines are spelled out.
pub fn check(config: &Config) -> Result<Check> {
    let mut errors = Vec::new();
    let mut train_sizes = Sizes::default();
    let mut val_sizes = Sizes::default();
    let mut keep = |opened: Result<Dataset>, sizes: &mut Sizes| match opened {
        Ok(dataset) => {
            inspect(&dataset, sizes, &mut errors);
            Some(dataset)
        }
        Err(e) => {
            errors.push(e);
            None
        }
    };
    let labeled = keep(Dataset::open(config, Part::Labeled), &mut train_sizes);
    let unlabeled = match wants_unlabeled(config) {
        true => keep(open_unlabeled(config), &mut train_sizes),
        false => None,
    };
    let val = keep(Dataset::open(config, Part::Val), &mut val_sizes);
    for dataset in [&labeled, &unlabeled, &val].into_iter().flatten() {
        let twice = repeated(dataset.samples());
        warn(doubtful("named more than once in a list", &twice));
    }
    for (name, a, b) in [
        ("labelled and unlabelled", &labeled, &unlabeled),
        ("labelled and validation", &labeled, &val),
        ("unlabelled and validation", &unlabeled, &val),
    ] {
        if let (Some(a), Some(b)) = (a, b) {
            let both = shared(a.samples(), b.samples());
            warn(doubtful(&format!("in both the {name} lists"), &both));
        }
    }
    Error::collect(cap(errors))?;
    match (labeled, val) {
        (Some(labeled), Some(val)) => Ok(Check {
            labeled,
            unlabeled,
            val,
            train_sizes,
            val_sizes,
        }),
        _ => Err(Error::internal("a dataset failed to open without an error")),
    }
}

fn warn(line: Option<String>) {
    if let Some(line) = line {
        tracing::warn!("{line}");
    }
}

/// Checks the files of one dataset, for commands that use no other.
///
/// # Errors
/// As [`check`].
pub fn check_files(dataset: &Dataset) -> Result<Sizes> {
    let mut errors = Vec::new();
    let mut sizes = Sizes::default();
    inspect(dataset, &mut sizes, &mut errors);
    Error::collect(cap(errors))?;
    Ok(sizes)
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

/// Reads all headers of `dataset`, in parallel; results and errors stay in list order.
fn inspect(dataset: &Dataset, sizes: &mut Sizes, errors: &mut Vec<Error>) {
    if let Some(side) = dataset.shapes_size() {
        let side = scaled(side, dataset.image_scale());
        sizes.add((side, side));
        return;
    }
    let found: Vec<_> = dataset
        .samples()
        .par_iter()
        .map(|sample| inspect_one(dataset, sample))
        .collect();
    for (size, problems) in found {
        if let Some(size) = size {
            sizes.add(size);
        }
        errors.extend(problems);
    }
}

/// Size after scaling, if the image has one, and everything wrong with the sample.
fn inspect_one(dataset: &Dataset, sample: &Sample) -> (Option<(usize, usize)>, Vec<Error>) {
    let mut problems = Vec::new();
    let image = match exists(sample, &sample.image, "image") {
        Ok(()) => image_size(&sample.image).map_err(|e| problems.push(e)).ok(),
        Err(e) => {
            problems.push(e);
            None
        }
    };
    if let Some(mask) = &sample.mask {
        let size = exists(sample, mask, "mask").and_then(|()| mask_size(mask));
        match (size, image) {
            (Ok(size), Some(image)) => problems.extend(same_size(mask, size, image).err()),
            (Ok(_), None) => {}
            (Err(e), _) => problems.push(e),
        }
    }
    let size = image.map(|(width, height)| {
        let scale = dataset.image_scale();
        (scaled(width, scale), scaled(height, scale))
    });
    if let Some((width, height)) = size {
        problems.extend(check_sides(&sample.image, width, height, dataset.min_side()).err());
    }
    (size, problems)
}

fn exists(sample: &Sample, path: &Path, what: &str) -> Result<()> {
    if path.is_file() {
        return Ok(());
    }
    Err(Error::input(
        sample.at.clone(),
        format!("the {what} {} does not exist", path.display()),
        "correct the line, data.root, data.image_dir or data.mask_dir",
    ))
}

/// One line for images that two lists share, or that one repeats.
pub(crate) fn doubtful(what: &str, found: &[Twice]) -> Option<String> {
    let Twice { id, at: [a, b] } = found.first()?;
    let images = if found.len() == 1 {
        "image is"
    } else {
        "images are"
    };
    Some(format!(
        "{} {images} {what}, the first {id} ({a} and {b})",
        found.len()
    ))
}

/// Keeps the first [`SHOWN`] problems and a count of the rest.
fn cap(mut errors: Vec<Error>) -> Vec<Error> {
    let hidden = errors.len().saturating_sub(SHOWN);
    if hidden > 0 {
        errors.truncate(SHOWN);
        errors.push(Error::input(
            "data",
            format!("and {hidden} more problems"),
            "mend those above and run again",
        ));
    }
    errors
}
