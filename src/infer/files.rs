//! Image files of any size to masks, pictures and scores on disk.
//!
//! Comes in: an image or a folder of them, weights, and a configuration. Goes out, under the
//! output folder, one file per image and kind:
//!
//! | folder | file | contents |
//! |---|---|---|
//! | `masks/` | `STEM.png` | palette PNG whose indices are the classes |
//! | `color/` | `STEM.png` | the classes' colours |
//! | `overlay/` | `STEM.png` | the colours half over the image |
//! | `entropy/` | `STEM.png` | grey: 0 certain, 255 all classes alike |
//! | `logits/` | `STEM.safetensors` | the scores behind the mask, `[height, width, classes]` |
//!
//! A damaged image is reported and the others are still done.

use std::fs;
use std::path::{Path, PathBuf};

use super::render;
use crate::config::Config;
use crate::data::decode_image;
use crate::data::palette::{Palette, palette};
use crate::eval::{Predictor, Rgb, Weights, prefetch};
use crate::files::write_atomic;
use crate::weights::Writer;
use crate::{Error, Result};

/// What to write, and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// Output folder.
    pub out: PathBuf,
    /// Write into a folder that holds something already.
    pub force: bool,
    /// Also `overlay/`.
    pub overlay: bool,
    /// Also `entropy/`.
    pub entropy: bool,
    /// Also `logits/`.
    pub logits: bool,
}

/// Makes the output folder and its parts.
///
/// # Errors
/// [`Error::Input`] when it holds something and `force` is not set; [`Error::Io`].
pub fn prepare(options: &Options) -> Result<()> {
    let out = &options.out;
    if out.exists() && !options.force {
        let mut entries = fs::read_dir(out).map_err(|e| Error::io(out, "use it for output", e))?;
        if entries.next().is_some() {
            return Err(Error::input(
                out.display().to_string(),
                "the output folder exists and is not empty",
                "choose another --out, or overwrite with --force",
            ));
        }
    }
    for folder in folders(options) {
        let folder = out.join(folder);
        fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, "make the folder", e))?;
    }
    Ok(())
}

fn folders(options: &Options) -> impl Iterator<Item = &'static str> {
    [
        ("masks", true),
        ("color", true),
        ("overlay", options.overlay),
        ("entropy", options.entropy),
        ("logits", options.logits),
    ]
    .into_iter()
    .filter_map(|(name, wanted)| wanted.then_some(name))
}

/// Scores `images` and writes the results; `progress` is told after each image of the images
/// done, and of what was wrong with it. Returns how many failed.
///
/// # Errors
/// The device's, and those of writing. What is wrong with one image is not an error here.
pub fn run(
    predictor: &mut Predictor,
    weights: Weights,
    cfg: &Config,
    images: &[PathBuf],
    options: &Options,
    progress: &mut dyn FnMut(usize, Option<&Error>),
) -> Result<usize> {
    let mut work = Work {
        predictor,
        weights,
        options,
        palette: palette(cfg),
        classes: cfg.data.classes,
    };
    let mut failed = 0;
    let workers = prefetch::workers(cfg.data.workers);
    let decode = |i: usize| decode_image(&images[i]);
    prefetch::ordered(images.len(), workers, decode, |i, decoded| {
        let fault = match decoded {
            Ok(d) => work.one(&images[i], &Rgb::new(d.width, d.height, d.rgb)?)?,
            Err(e) => Some(e),
        };
        failed += usize::from(fault.is_some());
        progress(i + 1, fault.as_ref());
        Ok(())
    })?;
    Ok(failed)
}

struct Work<'a> {
    predictor: &'a mut Predictor,
    weights: Weights,
    options: &'a Options,
    palette: Palette,
    classes: usize,
}

impl Work<'_> {
    /// Scores one image and writes its files; what is wrong with the image comes back as a value.
    fn one(&mut self, path: &Path, image: &Rgb) -> Result<Option<Error>> {
        let maps = match self.predictor.maps(self.weights, image) {
            Ok(maps) => maps,
            Err(Error::Input { at, problem, mend }) => {
                let at = format!("{}: {at}", path.display());
                return Ok(Some(Error::Input { at, problem, mend }));
            }
            Err(e) => return Err(e),
        };
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        let file = |folder: &str| self.options.out.join(folder).join(format!("{stem}.png"));
        let (width, height) = (image.width, image.height);
        let mask = render::indexed(&maps.argmax, width, height, &self.palette)?;
        write_atomic(&file("masks"), &mask)?;
        let color = render::color(&maps.argmax, &self.palette);
        write_atomic(&file("color"), &render::rgb(&color, width, height)?)?;
        if self.options.overlay {
            let over = render::overlay(&image.pixels, &color);
            write_atomic(&file("overlay"), &render::rgb(&over, width, height)?)?;
        }
        if self.options.entropy {
            let grey = render::entropy(&maps.entropy, self.classes);
            write_atomic(&file("entropy"), &render::grey(&grey, width, height)?)?;
        }
        if self.options.logits {
            let path = self.options.out.join("logits");
            self.save_scores(&path.join(format!("{stem}.safetensors")), image)?;
        }
        Ok(None)
    }

    fn save_scores(&mut self, path: &Path, image: &Rgb) -> Result<()> {
        let scores = self.predictor.scores(self.weights, image)?;
        let name = match scores.probabilities {
            true => "probabilities",
            false => "logits",
        };
        let mut writer = Writer::new();
        writer.tensor(name, &scores.shape, &scores.values)?;
        writer.meta("image_height", image.height.to_string());
        writer.meta("image_width", image.width.to_string());
        writer.save(path)
    }
}
