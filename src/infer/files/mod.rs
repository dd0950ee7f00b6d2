//! Image files of any size to masks, pictures and scores on disk.
//!
//! Comes in: images, and a network that segments them. Goes out, under the output folder, one file
//! per image and kind, `NAME` being that of [`Input`]:
//!
//! | folder | file | contents |
//! |---|---|---|
//! | `masks/` | `NAME.png` | palette PNG whose indices are the classes |
//! | `color/` | `NAME.png` | the classes' colours |
//! | `overlay/` | `NAME.png` | the colours half over the image |
//! | `entropy/` | `NAME.png` | grey: 0 certain, 255 all classes alike |
//! | `logits/` | `NAME.safetensors` | the scores behind the mask, `[height, width, classes]` |
//!
//! ```text
//!  decode (threads, ahead) ──► network (the caller, in batches) ──► draw, encode, write (threads)
//! ```
//!
//! A damaged image is reported and the others are still done.

mod behind;
mod draw;
mod outcome;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

pub use self::outcome::{Outcome, Summary, Took, Written};

use self::behind::Behind;
use self::draw::{Draw, Job, Seen};
use super::{Image, Input, Samples, Segmentation, Segmenter};
use crate::config::schema::Exif;
use crate::data::{Decoded, decode_image};
use crate::eval::{Rgb, prefetch};
use crate::files::check_empty;
use crate::{Error, Result};

/// What to write, where, and how many at a time.
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
    /// Pixels whose class is less probable than this get [`Segmenter::void`] instead.
    pub min_confidence: Option<f32>,
    /// Images of one size, one after another, that go through the network together.
    pub batch: usize,
    /// Threads that decode, and as many that write; 0 is one per core, at most 8.
    pub threads: usize,
    /// Whether images are turned by their EXIF orientation.
    pub exif: Exif,
}

/// Kinds of files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Masks,
    Color,
    Overlay,
    Entropy,
    Logits,
}

impl Kind {
    const ALL: [Self; 5] = [
        Self::Masks,
        Self::Color,
        Self::Overlay,
        Self::Entropy,
        Self::Logits,
    ];

    fn folder(self) -> &'static str {
        match self {
            Kind::Masks => "masks",
            Kind::Color => "color",
            Kind::Overlay => "overlay",
            Kind::Entropy => "entropy",
            Kind::Logits => "logits",
        }
    }

    fn wanted(self, options: &Options) -> bool {
        match self {
            Kind::Masks | Kind::Color => true,
            Kind::Overlay => options.overlay,
            Kind::Entropy => options.entropy,
            Kind::Logits => options.logits,
        }
    }
}

/// Folders of any kind of files under `out`.
pub fn folders(out: &Path) -> Vec<PathBuf> {
    Kind::ALL.iter().map(|k| out.join(k.folder())).collect()
}

/// Makes the output folder and its parts, for the results of `images`.
///
/// # Errors
/// [`Error::Input`] when it holds something and `force` is not set; [`Error::Io`].
pub fn prepare(options: &Options, images: &[Input]) -> Result<()> {
    let out = &options.out;
    check_empty(out, options.force)?;
    let parts: BTreeSet<&Path> = images.iter().filter_map(|i| i.name.parent()).collect();
    for kind in Kind::ALL.into_iter().filter(|k| k.wanted(options)) {
        let folder = out.join(kind.folder());
        // Of no images there are no parts.
        for part in parts.iter().copied().chain([Path::new("")]) {
            let folder = folder.join(part);
            fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, "make the folder", e))?;
        }
    }
    Ok(())
}

/// Segments `images` and writes the results; `each` is told what became of every image, in order.
///
/// # Errors
/// The device's, and those of writing. What is wrong with one image is not an error here.
pub fn run(
    segmenter: &Segmenter,
    images: &[Input],
    options: &Options,
    each: &mut dyn FnMut(Outcome),
) -> Result<()> {
    let draw = Draw::new(options, segmenter);
    let work = |job: Job| draw.one(job);
    let threads = prefetch::workers(options.threads);
    std::thread::scope(|scope| {
        let mut line = Line {
            segmenter,
            scores: options.logits,
            batch: options.batch.max(1),
            waiting: Vec::new(),
            behind: Behind::start(scope, threads, &work),
            each,
        };
        let decode = |i: usize| {
            let start = Instant::now();
            (decode_image(&images[i].path, options.exif), start.elapsed())
        };
        prefetch::ordered(images.len(), threads, decode, |i, (decoded, took)| {
            line.add(&images[i], decoded, took)
        })?;
        line.flush()?;
        line.report(true)
    })
}

/// An image before the network, or what is wrong with it.
struct Waiting<'a> {
    input: &'a Input,
    decoded: Result<Rgb>,
    took: Duration,
}

/// What lies between decoding and writing.
struct Line<'a, 'b> {
    segmenter: &'a Segmenter,
    scores: bool,
    batch: usize,
    /// The next batch: images of one size, and damaged ones between them.
    waiting: Vec<Waiting<'a>>,
    behind: Behind<Job<'a>, Result<Outcome>>,
    each: &'b mut dyn FnMut(Outcome),
}

impl<'a> Line<'a, '_> {
    /// Takes the next image; the network runs when the batch is full.
    fn add(&mut self, input: &'a Input, decoded: Result<Decoded>, took: Duration) -> Result<()> {
        let decoded = match decoded {
            Ok(d) => Ok(Rgb::new(d.width, d.height, d.rgb)?),
            Err(fault) => Err(fault),
        };
        let size = |w: &Waiting| w.decoded.as_ref().ok().map(|d| [d.height, d.width]);
        let next = Waiting {
            input,
            decoded,
            took,
        };
        let sizes = (self.waiting.iter().find_map(size), size(&next));
        if let (Some(before), Some(own)) = sizes
            && before != own
        {
            self.flush()?;
        }
        self.waiting.push(next);
        let whole = self.waiting.iter().filter_map(size).count();
        // Damaged images that no image precedes wait for nothing.
        match whole == 0 || whole >= self.batch {
            true => self.flush(),
            false => Ok(()),
        }
    }

    /// Runs the network on the images that wait and hands them on, in order.
    fn flush(&mut self) -> Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        let images: Vec<&Rgb> = waiting
            .iter()
            .filter_map(|w| w.decoded.as_ref().ok())
            .collect();
        let mut found = segment(self.segmenter, &images)?.into_iter();
        for Waiting {
            input,
            decoded,
            took,
        } in waiting
        {
            let seen = match decoded {
                Ok(image) => {
                    let (maps, network) = found
                        .next()
                        .ok_or_else(|| Error::internal("an image without a map"))?;
                    let took = Took {
                        decode: took,
                        network,
                        ..Took::default()
                    };
                    self.seen(input, image, maps, took)?
                }
                Err(fault) => Err(fault),
            };
            self.behind.give((input, seen))?;
        }
        self.report(false)
    }

    /// An image with its maps and what else is wanted of the network, or what is wrong with it.
    fn seen(
        &self,
        input: &Input,
        image: Rgb,
        maps: Result<Segmentation>,
        took: Took,
    ) -> Result<Result<Seen>> {
        let scores = |image| match self.scores {
            true => self.segmenter.scores(&view(image)?).map(Some),
            false => Ok(None),
        };
        match maps.and_then(|maps| Ok((maps, scores(&image)?))) {
            Ok((maps, scores)) => Ok(Ok(Seen {
                image,
                maps,
                scores,
                took,
            })),
            Err(e) if is_fault(&e) => Ok(Err(located(e, &input.path))),
            Err(e) => Err(e),
        }
    }

    /// Tells what became of images whose files are written; `all` waits for the last.
    fn report(&mut self, all: bool) -> Result<()> {
        while let Some(outcome) = self.behind.take(all)? {
            (self.each)(outcome?);
        }
        Ok(())
    }
}

/// The maps of images of one size, or what is wrong with each, and the time it took them.
fn segment(
    segmenter: &Segmenter,
    images: &[&Rgb],
) -> Result<Vec<(Result<Segmentation>, Duration)>> {
    if images.is_empty() {
        return Ok(Vec::new());
    }
    let views = images.iter().map(|i| view(i)).collect::<Result<Vec<_>>>()?;
    let start = Instant::now();
    match segmenter.segment_batch(&views) {
        Ok(maps) => {
            let took = start.elapsed();
            Ok(maps.into_iter().map(|m| (Ok(m), took)).collect())
        }
        Err(e) if is_fault(&e) && images.len() > 1 => {
            // One by one they may fit, or fail by themselves.
            let mut all = Vec::new();
            for image in images {
                all.append(&mut segment(segmenter, &[image])?);
            }
            Ok(all)
        }
        Err(e) if is_fault(&e) => Ok(vec![(Err(e), start.elapsed())]),
        Err(e) => Err(e),
    }
}

fn view(image: &Rgb) -> Result<Image<'_>> {
    Image::rgb(Samples::U8(&image.pixels), image.height, image.width)
}

/// Whether the image is at fault, not the device or the program.
fn is_fault(error: &Error) -> bool {
    matches!(
        error,
        Error::Input { .. } | Error::Memory { .. } | Error::NotFinite { .. }
    )
}

/// The fault of the image at `path`.
fn located(fault: Error, path: &Path) -> Error {
    let place = |at: String| format!("{}: {at}", path.display());
    match fault {
        Error::Input { at, problem, mend } => Error::Input {
            at: place(at),
            problem,
            mend,
        },
        Error::Memory { at, problem, mend } => Error::Memory {
            at: place(at),
            problem,
            mend,
        },
        other => other.of_image(path.display().to_string()),
    }
}
