//! Pictures of what a run's networks see: a sheet with a row for each of a few validation images.
//!
//! Columns: the image, its truth, both networks' classes, the teacher's entropy; and where the
//! step learns from unlabelled images, what it would make of these: the pseudo-labels that would
//! count, and the pixels that would be negatives of a class. γ is the quantile over the images
//! shown, as a step's is over its batch.

use std::path::Path;

use image::{Rgb as Pixel, RgbImage, imageops};

use super::sheet::{self, Column, Kind, Sheet};
use crate::config::Config;
use crate::config::schema::{Algorithm, Mode};
use crate::data::palette::{Palette, palette};
use crate::data::{Dataset, Decoded};
use crate::device::op::NegativePixels;
use crate::eval::{Predictor, Rgb, Weights};
use crate::files::write_atomic;
use crate::infer::render;
use crate::method::schedule::{contrast_weight, rank_bounds};
use crate::{Error, Result};

/// Images shown.
const ROWS: usize = 4;
/// Longest side of a tile, pixels; larger images are shown smaller.
const LONGEST: usize = 512;
/// Colour of negatives.
const MARK: [u8; 3] = [255, 0, 200];

/// Both networks of a run.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    /// The student.
    pub student: Weights,
    /// The EMA teacher.
    pub teacher: Weights,
}

/// An image and what the networks say of it, as large as its tiles.
struct Seen {
    width: usize,
    height: usize,
    image: RgbImage,
    truth: Option<Vec<u8>>,
    student: Vec<u8>,
    teacher: Vec<u8>,
    /// Of the teacher, nats.
    entropy: Vec<f32>,
    /// Of the teacher's class.
    confidence: Vec<f32>,
    /// `[pixels, classes]` of the teacher, as the network's own grid has them, where negatives are
    /// shown.
    scores: Vec<f32>,
}

/// Makes the sheet of the validation images. `alpha` is the percentage of unreliable pixels of a
/// step that learns from unlabelled images, `None` where steps do not.
///
/// # Errors
/// Those of decoding and of the device.
pub fn sheet(
    predictor: &mut Predictor,
    networks: Pair,
    val: &Dataset,
    cfg: &Config,
    alpha: Option<f32>,
) -> Result<Sheet> {
    let negatives = alpha.is_some() && shows_negatives(cfg);
    let count = val.len().min(ROWS);
    // Spread over the list: neighbours are often frames of one video.
    let seen = (0..count)
        .map(|k| {
            see(
                predictor,
                networks,
                val.decode(k * val.len() / count)?,
                negatives,
            )
        })
        .collect::<Result<Vec<Seen>>>()?;
    let has_truth = seen.iter().all(|s| s.truth.is_some());
    let class = rarest(&seen, cfg.data.classes);
    let gamma = percentile(&seen, 100.0 - alpha.unwrap_or(0.0));

    let mut columns = Vec::new();
    let mut column = |kind, title: &str| {
        let title = title.to_string();
        columns.push(Column { kind, title });
    };
    column(Kind::Image, "image");
    if has_truth {
        column(Kind::Truth, "truth");
    }
    column(Kind::Student, "student");
    column(Kind::Teacher, "teacher");
    column(Kind::Entropy, "entropy of the teacher");
    if alpha.is_some() {
        column(Kind::PseudoLabel, "pseudo-labels");
    }
    if negatives {
        column(
            Kind::Negatives,
            &format!("negatives of {}, pink", cfg.data.class_name(class)),
        );
    }
    let kinds: Vec<Kind> = columns.iter().map(|c| c.kind).collect();
    let mut sheet = Sheet::new(columns);
    let colors = palette(cfg);
    for s in &seen {
        let row = kinds
            .iter()
            .map(|kind| s.tile(*kind, cfg, &colors, gamma, class));
        sheet.push(row.collect())?;
    }
    Ok(sheet)
}

/// Whether a step's negatives can be told from one pass over an image: those of mode `released`
/// come of the difference between two.
fn shows_negatives(cfg: &Config) -> bool {
    cfg.train.algorithm == Algorithm::U2pl
        && contrast_weight(cfg) != 0.0
        && cfg.method.mode == Mode::Paper
        && cfg.method.negative_pixels != NegativePixels::Labeled
}

fn see(
    predictor: &mut Predictor,
    networks: Pair,
    decoded: Decoded,
    negatives: bool,
) -> Result<Seen> {
    let image = Rgb::new(decoded.width, decoded.height, decoded.rgb)?;
    let student = predictor.maps(networks.student, &image)?;
    let teacher = predictor.maps(networks.teacher, &image)?;
    let (w, h) = (image.width, image.height);
    let longest = w.max(h);
    let shrink = |n: usize| match longest > LONGEST {
        true => (n * LONGEST / longest).max(1),
        false => n,
    };
    let (width, height) = (shrink(w), shrink(h));
    let places: Vec<usize> = (0..height)
        .flat_map(|y| (0..width).map(move |x| (y * h / height) * w + x * w / width))
        .collect();
    let bytes = |map: &[u8]| places.iter().map(|&i| map[i]).collect::<Vec<u8>>();
    let floats = |map: &[f32]| places.iter().map(|&i| map[i]).collect::<Vec<f32>>();
    let mut scores = Vec::new();
    if negatives {
        let found = predictor.scores(networks.teacher, &image)?;
        let [rows, columns, classes] = found.shape;
        for i in &places {
            let at = (i / w * rows / h) * columns + i % w * columns / w;
            scores.extend(&found.values[at * classes..(at + 1) * classes]);
        }
    }
    let whole = RgbImage::from_raw(w as u32, h as u32, image.pixels)
        .ok_or_else(|| Error::internal("an image of another size than it says"))?;
    Ok(Seen {
        width,
        height,
        image: match longest > LONGEST {
            true => imageops::thumbnail(&whole, width as u32, height as u32),
            false => whole,
        },
        truth: decoded.label.map(|label| bytes(&label)),
        student: bytes(&student.argmax),
        teacher: bytes(&teacher.argmax),
        entropy: floats(&teacher.entropy),
        confidence: floats(&teacher.confidence),
        scores,
    })
}

impl Seen {
    fn tile(
        &self,
        kind: Kind,
        cfg: &Config,
        colors: &Palette,
        gamma: f32,
        class: usize,
    ) -> RgbImage {
        let paint = |labels: &[u8]| self.paint(|i| colors[usize::from(labels[i])]);
        match kind {
            Kind::Image => self.image.clone(),
            Kind::Truth => paint(self.truth.as_deref().unwrap_or(&self.teacher)),
            Kind::Student => paint(&self.student),
            Kind::Teacher => paint(&self.teacher),
            Kind::Entropy => {
                let grey = render::entropy(&self.entropy, cfg.data.classes);
                self.paint(|i| [grey[i]; 3])
            }
            Kind::PseudoLabel => paint(&self.pseudo_labels(cfg, gamma)),
            Kind::Negatives => {
                let marked = self.negatives(cfg, gamma, class);
                let image = self.image.as_raw();
                self.paint(|i| match marked[i] {
                    true => MARK,
                    // Dimmed towards white, so that the marks stand out.
                    false => [0, 1, 2].map(|k| 128 + image[3 * i + k] / 2),
                })
            }
        }
    }

    fn paint(&self, color: impl Fn(usize) -> [u8; 3]) -> RgbImage {
        RgbImage::from_fn(self.width as u32, self.height as u32, |x, y| {
            Pixel(color(y as usize * self.width + x as usize))
        })
    }

    /// The teacher's classes where they count as labels, ignore elsewhere.
    fn pseudo_labels(&self, cfg: &Config, gamma: f32) -> Vec<u8> {
        let counts = |i: usize| match cfg.train.algorithm {
            Algorithm::MeanTeacher => true,
            Algorithm::FixedThreshold => self.confidence[i] > cfg.method.threshold,
            _ => self.entropy[i] < gamma,
        };
        let label = |(i, &class): (usize, &u8)| match counts(i) {
            true => class,
            false => cfg.data.ignore_index,
        };
        self.teacher.iter().enumerate().map(label).collect()
    }

    /// The pixels that an unlabelled image would add to the negatives of `class`.
    fn negatives(&self, cfg: &Config, gamma: f32, class: usize) -> Vec<bool> {
        let (low, high) = rank_bounds(cfg);
        let pixels = self.scores.chunks_exact(cfg.data.classes);
        let marks = pixels.zip(&self.entropy).map(|(p, &entropy)| {
            let counts = match cfg.method.negative_pixels {
                NegativePixels::Unreliable => entropy > gamma,
                NegativePixels::Reliable => entropy <= gamma,
                NegativePixels::All => true,
                NegativePixels::Labeled => false,
            };
            let above = p
                .iter()
                .enumerate()
                .filter(|&(c, &q)| q > p[class] || (q == p[class] && c < class));
            counts && (low..high).contains(&(above.count() as u32))
        });
        marks.collect()
    }
}

/// The class of the fewest pixels of truth among those that have any: the one that needs the
/// unlabelled images most.
fn rarest(seen: &[Seen], classes: usize) -> usize {
    let mut counts = vec![0usize; 256];
    for label in seen.iter().filter_map(|s| s.truth.as_ref()).flatten() {
        counts[usize::from(*label)] += 1;
    }
    let present = (0..classes.min(256)).filter(|&c| counts[c] > 0);
    present.min_by_key(|&c| counts[c]).unwrap_or(0)
}

/// The `q`-th percentile of all entropies, linear between two of them.
fn percentile(seen: &[Seen], q: f32) -> f32 {
    let mut all: Vec<f32> = seen
        .iter()
        .flat_map(|s| s.entropy.iter().copied())
        .collect();
    all.sort_unstable_by(f32::total_cmp);
    let Some(last) = all.len().checked_sub(1) else {
        return 0.0;
    };
    let at = f64::from(q) / 100.0 * last as f64;
    let below = (at as usize).min(last);
    let (a, b) = (all[below], all[(below + 1).min(last)]);
    a + (b - a) * (at - below as f64) as f32
}

/// Writes what two sheets have of these kinds side by side into one picture.
///
/// # Errors
/// [`Error::Input`] when one cannot be read, [`Error::Io`] when the result cannot be written.
pub fn join(sheets: &[(&Path, &[Kind])], path: &Path) -> Result<()> {
    let mut pictures = Vec::with_capacity(sheets.len());
    for (file, kinds) in sheets {
        let bytes = std::fs::read(file).map_err(|e| Error::io(file, "read the picture", e))?;
        let name = file.display().to_string();
        let sheet = Sheet::from_png(&name, &bytes)?
            .ok_or_else(|| Error::internal(format!("{name} is no sheet")))?;
        pictures.push(sheet.only(kinds).picture());
    }
    write_atomic(path, &sheet::png(&sheet::beside(&pictures))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four pixels of three classes: sure, fairly sure, unsure, most unsure.
    fn seen() -> Seen {
        Seen {
            width: 2,
            height: 2,
            image: RgbImage::from_pixel(2, 2, Pixel([10, 20, 30])),
            truth: Some(vec![0, 0, 2, 255]),
            student: vec![0, 0, 0, 0],
            teacher: vec![0, 1, 2, 1],
            entropy: vec![0.1, 0.2, 0.6, 1.0],
            confidence: vec![0.97, 0.9, 0.5, 0.4],
            scores: [
                [0.97, 0.02, 0.01],
                [0.05, 0.9, 0.05],
                [0.3, 0.2, 0.5],
                [0.3, 0.4, 0.3],
            ]
            .concat(),
        }
    }

    fn config(set: &str) -> Config {
        Config::parse("test", "data: {kind: shapes, classes: 3}", &[set.into()]).unwrap()
    }

    #[test]
    fn pseudo_labels_count_as_the_algorithm_says() {
        let s = seen();
        for (algorithm, labels) in [
            ("u2pl", [0, 1, 255, 255]),
            ("mean-teacher", [0, 1, 2, 1]),
            ("fixed-threshold", [0, 255, 255, 255]),
        ] {
            let cfg = config(&format!("train.algorithm={algorithm}"));
            assert_eq!(s.pseudo_labels(&cfg, 0.6), labels, "{algorithm}");
        }
    }

    #[test]
    fn negatives_are_doubtful_pixels_that_rank_the_class_low() {
        // Three classes: ranks 1 and 2.
        let cfg = config("train.algorithm=u2pl");
        let marks = |class| seen().negatives(&cfg, 0.5, class);
        assert_eq!(marks(0), [false, false, true, true]);
        assert_eq!(marks(1), [false, false, true, false]);
        assert_eq!(marks(2), [false, false, false, true]);
        let cfg = config("method.negative_pixels=reliable");
        let marks = |class| seen().negatives(&cfg, 0.5, class);
        assert_eq!(marks(0), [false, true, false, false]);
    }

    #[test]
    fn the_threshold_is_a_quantile_and_the_class_a_rare_one() {
        let s = [seen(), seen()];
        assert_eq!(percentile(&s, 0.0), 0.1);
        assert_eq!(percentile(&s, 100.0), 1.0);
        // Position 3.5 of 0.1 0.1 0.2 0.2 0.6 0.6 1 1.
        assert!((percentile(&s, 50.0) - 0.4).abs() < 1e-6);
        assert_eq!(percentile(&[], 50.0), 0.0);
        assert_eq!(rarest(&s, 3), 2);
        assert_eq!(rarest(&[], 3), 0);
    }
}
