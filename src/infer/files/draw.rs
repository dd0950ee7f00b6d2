//! One image's maps to its files.

use std::path::{Path, PathBuf};
use std::time::Instant;

use super::outcome::{Outcome, Took, Written};
use super::{Kind, Options};
use crate::Result;
use crate::eval::{Rgb, Scores};
use crate::files::write_atomic;
use crate::infer::{Input, Segmentation, Segmenter, render};
use crate::weights::Writer;

/// An image and what the network said about it.
pub(super) struct Seen {
    pub(super) image: Rgb,
    pub(super) maps: Segmentation,
    pub(super) scores: Option<Scores>,
    pub(super) took: Took,
}

/// An image that is done but for its files, or what is wrong with it.
pub(super) type Job<'a> = (&'a Input, Result<Seen>);

/// Draws, encodes and writes. Any number of threads may share one.
pub(super) struct Draw<'a> {
    pub(super) options: &'a Options,
    pub(super) palette: &'a [[u8; 3]],
    pub(super) classes: usize,
    /// Index of pixels without a class.
    pub(super) void: u8,
}

impl<'a> Draw<'a> {
    pub(super) fn new(options: &'a Options, segmenter: &'a Segmenter) -> Self {
        Self {
            options,
            palette: segmenter.palette(),
            classes: segmenter.classes(),
            void: segmenter.void(),
        }
    }

    /// Writes the files of one image. What is wrong with the image is no error here.
    pub(super) fn one(&self, (input, seen): Job) -> Result<Outcome> {
        let path = input.path.clone();
        let result = match seen {
            Ok(seen) => Ok(self.files(&input.name, seen)?),
            Err(fault) => Err(fault),
        };
        Ok(Outcome { path, result })
    }

    fn files(&self, name: &Path, seen: Seen) -> Result<Written> {
        let start = Instant::now();
        let (image, mut maps) = (seen.image, seen.maps);
        if let Some(confidence) = self.options.min_confidence {
            maps.void_below(confidence, self.void);
        }
        let (width, height) = (image.width, image.height);
        let mut files = Vec::new();
        let mut put = |kind: Kind, png: Vec<u8>| {
            let path = self.place(kind, name);
            write_atomic(&path, &png)?;
            files.push((kind.folder(), path));
            Ok(())
        };
        let mask = render::indexed(&maps.classes, width, height, self.palette)?;
        put(Kind::Masks, mask)?;
        let color = render::color(&maps.classes, self.palette);
        put(Kind::Color, render::rgb(&color, width, height)?)?;
        if self.options.overlay {
            let over = render::overlay(&image.pixels, &color);
            put(Kind::Overlay, render::rgb(&over, width, height)?)?;
        }
        if self.options.entropy {
            let grey = render::entropy(&maps.entropy, self.classes);
            put(Kind::Entropy, render::grey(&grey, width, height)?)?;
        }
        if let Some(scores) = seen.scores {
            let path = self.place(Kind::Logits, name);
            save_scores(&path, &scores, &image)?;
            files.push((Kind::Logits.folder(), path));
        }
        let mut counts = [0u64; 256];
        for &class in &maps.classes {
            counts[usize::from(class)] += 1;
        }
        let at = Instant::now();
        Ok(Written {
            width,
            height,
            files,
            pixels: counts[..self.classes].to_vec(),
            void: counts[usize::from(self.void)],
            confidence: mean(&maps.confidence),
            entropy: mean(&maps.entropy),
            took: Took {
                write: at - start,
                ..seen.took
            },
            at,
        })
    }

    fn place(&self, kind: Kind, name: &Path) -> PathBuf {
        // Appended: what follows a dot in the name stays.
        let mut path = self
            .options
            .out
            .join(kind.folder())
            .join(name)
            .into_os_string();
        path.push(match kind {
            Kind::Logits => ".safetensors",
            _ => ".png",
        });
        path.into()
    }
}

fn mean(values: &[f32]) -> f64 {
    let sum: f64 = values.iter().map(|&v| f64::from(v)).sum();
    sum / values.len().max(1) as f64
}

fn save_scores(path: &Path, scores: &Scores, image: &Rgb) -> Result<()> {
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
