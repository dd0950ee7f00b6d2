//! What the images and masks of a dataset hold, pixel by pixel.
//!
//! Comes in: samples and, where it is known, how their values are to be read. Goes out: sizes,
//! how often every value occurs, and the samples that would fail or teach nothing.

use std::path::PathBuf;

use rayon::prelude::*;

use super::dataset::{Sample, present, same_size};
use super::mask::{MaskRules, read_indices};
use crate::Result;
use crate::config::schema::Exif;
use crate::counted::counted;
use crate::data::decode::{Header, decode_image, image_header};

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Images looked at.
    pub images: usize,
    /// Masks among them that could be read.
    pub masks: usize,
    /// (width, height) of every readable image, sorted by area.
    pub sizes: Vec<(usize, usize)>,
    /// (width, height) of each sample's image; `None` for one that cannot be read.
    pub size_of: Vec<Option<(usize, usize)>>,
    /// Pixels of each stored value.
    pub pixels: Vec<u64>,
    /// Masks that hold each stored value.
    pub holders: Vec<usize>,
    /// What is wrong with samples, in their order.
    pub suspicious: Vec<Suspicion>,
    /// The images that their EXIF orientation turns, in their order.
    pub turned: Vec<PathBuf>,
    /// The stored values of each sample's mask, a bit each; `None` without a readable mask.
    pub held: Vec<Option<[u64; 4]>>,
}

/// Something wrong with a sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspicion {
    /// Position of the sample.
    pub sample: usize,
    /// What it means.
    pub kind: Suspect,
    /// A line for people, naming the file.
    pub line: String,
}

/// What a [`Suspicion`] means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suspect {
    /// The image cannot be used.
    Image,
    /// The mask cannot be used.
    Mask,
    /// Nothing is learnt from the mask.
    Void,
}

/// How samples are looked at.
#[derive(Clone, Copy)]
pub struct Surveyor<'a> {
    /// Which values are classes; without them only masks of nothing but `ignore` are suspicious for
    /// what they hold.
    pub rules: Option<&'a MaskRules>,
    /// Value of pixels that count for nothing.
    pub ignore: u8,
    /// Whether images are turned by their EXIF orientation.
    pub exif: Exif,
    /// Look at the headers of images alone, not at their pixels.
    pub fast: bool,
    /// Told after each sample, from any thread.
    pub seen: &'a (dyn Fn() + Sync),
}

/// One sample.
#[derive(Default)]
struct Look {
    header: Option<Header>,
    counts: Option<Box<[u64; 256]>>,
    problems: Vec<(Suspect, String)>,
}

impl Survey {
    /// Looks at every sample on all cores, decoding its image and mask unless `with` is fast.
    pub fn of(samples: &[&Sample], with: Surveyor) -> Survey {
        let looks: Vec<Look> = samples
            .par_iter()
            .map(|sample| {
                let look = look(sample, with);
                (with.seen)();
                look
            })
            .collect();
        let mut survey = Survey {
            images: samples.len(),
            pixels: vec![0; 256],
            holders: vec![0; 256],
            ..Survey::default()
        };
        for (i, (look, sample)) in looks.into_iter().zip(samples).enumerate() {
            survey.size_of.push(look.header.map(|h| h.size));
            let problems = look.problems.into_iter();
            survey
                .suspicious
                .extend(problems.map(|(kind, line)| Suspicion {
                    sample: i,
                    kind,
                    line,
                }));
            if look.header.is_some_and(|h| h.orientation > 1) {
                survey.turned.push(sample.image.clone());
            }
            let mut held = look.counts.as_ref().map(|_| [0; 4]);
            if let Some(counts) = look.counts {
                survey.masks += 1;
                for (value, &n) in counts.iter().enumerate() {
                    survey.pixels[value] += n;
                    survey.holders[value] += usize::from(n > 0);
                    if let Some(held) = held.as_mut().filter(|_| n > 0) {
                        held[value / 64] |= 1 << (value % 64);
                    }
                }
            }
            survey.held.push(held);
        }
        survey.sizes = survey.size_of.iter().copied().flatten().collect();
        survey.sizes.sort_by_key(|&(w, h)| (w * h, w));
        survey
    }

    /// The stored values that occur, ascending.
    pub fn values(&self) -> Vec<u8> {
        let occurs = |v: &u8| self.pixels.get(usize::from(*v)).is_some_and(|&n| n > 0);
        (0..=255).filter(occurs).collect()
    }

    /// Smallest, middle and largest image by area.
    pub fn extremes(&self) -> Option<[(usize, usize); 3]> {
        let middle = *self.sizes.get(self.sizes.len() / 2)?;
        Some([*self.sizes.first()?, middle, *self.sizes.last()?])
    }
}

/// What the header says of an image whose pixels decode, too.
fn image(sample: &Sample, with: Surveyor) -> Result<Header> {
    present(sample, &sample.image, "image")?;
    let header = image_header(&sample.image, with.exif)?;
    if !with.fast {
        decode_image(&sample.image, with.exif)?;
    }
    Ok(header)
}

fn look(sample: &Sample, with: Surveyor) -> Look {
    let mut look = Look::default();
    match image(sample, with) {
        Ok(header) => look.header = Some(header),
        Err(e) => look.problems.push((Suspect::Image, e.to_string())),
    }
    let Some(mask) = &sample.mask else {
        return look;
    };
    let read = present(sample, mask, "mask").and_then(|()| read_indices(mask));
    let (width, height, values) = match read {
        Ok(read) => read,
        Err(e) => {
            look.problems.push((Suspect::Mask, e.to_string()));
            return look;
        }
    };
    if let Some(e) = look
        .header
        .and_then(|header| same_size(mask, (width, height), header).err())
    {
        look.problems.push((Suspect::Mask, e.to_string()));
    }
    let mut counts = Box::new([0u64; 256]);
    for value in values {
        counts[usize::from(value)] += 1;
    }
    look.problems.extend(
        strange(&counts, with.rules, with.ignore)
            .map(|(kind, text)| (kind, format!("{}: {text}", mask.display()))),
    );
    look.counts = Some(counts);
    look
}

/// What is wrong with a mask of these values.
fn strange(
    counts: &[u64; 256],
    rules: Option<&MaskRules>,
    ignore: u8,
) -> Option<(Suspect, String)> {
    let label = |value: u8| match rules {
        Some(rules) => rules.label(value),
        None => Some(value),
    };
    let held = || (0..=255u8).filter(|v| counts[usize::from(*v)] > 0);
    let unknown: Vec<String> = held()
        .filter(|v| label(*v).is_none())
        .map(|v| v.to_string())
        .collect();
    if !unknown.is_empty() {
        let pixels: u64 = held()
            .filter(|v| label(*v).is_none())
            .map(|v| counts[usize::from(v)])
            .sum();
        let pixels = counted(pixels as usize, "pixel is", "pixels are");
        let values = match unknown.len() {
            1 => "value",
            _ => "values",
        };
        let text = format!("{pixels} of no class ({values} {})", unknown.join(", "));
        return Some((Suspect::Mask, text));
    }
    let void = held().all(|v| label(v) == Some(ignore));
    void.then(|| {
        let text = format!("every pixel is ignored (label {ignore})");
        (Suspect::Void, text)
    })
}

/// The classes in the masks of `samples`: for each its labels but `ignore`, ascending.
///
/// # Errors
/// That of the first mask that cannot be read.
pub fn classes_held(samples: &[&Sample], rules: &MaskRules, ignore: u8) -> Result<Vec<Vec<u8>>> {
    let held = |sample: &&Sample| {
        let Some(mask) = sample.mask.as_deref() else {
            return Ok(Vec::new());
        };
        let (_, _, values) = read_indices(mask)?;
        let mut seen = [false; 256];
        for value in values {
            if let Some(label) = rules.label(value) {
                seen[usize::from(label)] = true;
            }
        }
        let held = (0..=255u8).filter(|v| seen[usize::from(*v)] && *v != ignore);
        Ok(held.collect())
    };
    samples.par_iter().map(held).collect()
}
