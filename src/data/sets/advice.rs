//! From what a dataset folder holds to the configuration that trains on it.

use std::path::{Path, PathBuf};

use super::discover::{Found, lists_of};
use super::survey::Survey;
use crate::config::Config;
use crate::config::names::class_names;
use crate::config::schema::{DataKind, LabelEncoding};

/// Smallest crop that is proposed, pixels.
const LEAST_CROP: usize = 33;

/// The configuration to use, and what was assumed.
#[derive(Clone, Debug)]
pub struct Advice {
    /// Everything but what the run itself decides.
    pub config: Config,
    /// One line each on what was assumed or looks odd.
    pub notes: Vec<String>,
    /// Lists that the configuration names and that do not exist yet.
    pub missing_lists: Vec<PathBuf>,
}

/// What fits `found`, whose masks hold what `survey` says. `classes` is the number of classes where
/// it is known.
pub fn advise(found: &Found, survey: &Survey, classes: Option<usize>, ignore: u8) -> Advice {
    let mut advice = Advice {
        config: Config {
            data: found.data.clone(),
            ..Config::default()
        },
        notes: Vec::new(),
        missing_lists: Vec::new(),
    };
    advice.config.data.ignore_index = ignore;
    advice.classes(&survey.values(), classes);
    let data = &mut advice.config.data;
    let names = class_names(data.kind, data.classes);
    data.class_names = names.iter().map(ToString::to_string).collect();
    if data.kind == DataKind::Cityscapes {
        advice.config.train.head_lr_mult = 1.0;
    }
    advice.crop(survey);
    advice.lists(found);
    advice
}

impl Advice {
    fn classes(&mut self, values: &[u8], given: Option<usize>) {
        let data = &mut self.config.data;
        let ignore = data.ignore_index;
        let own: Vec<u8> = values.iter().copied().filter(|v| *v != ignore).collect();
        let highest = own.last().map_or(0, |v| usize::from(*v) + 1);
        if data.encoding == LabelEncoding::CityscapesLabelId {
            data.classes = 19;
            return;
        }
        data.classes = match (given, data.kind) {
            (Some(n), _) => n,
            (None, DataKind::Voc) if highest <= 21 => 21,
            (None, DataKind::Cityscapes) if highest <= 19 => 19,
            _ => highest.max(2),
        };
        if given.is_some() || own.is_empty() {
            return;
        }
        // Black and white: 255 is the other class, not what is to be ignored.
        let binary = own == [0] && values.contains(&255) && ignore == 255;
        // Classes that count from 1, or grey levels chosen to be told apart by eye.
        let sparse = own.len() * 2 <= highest || own[0] != 0;
        if binary || (sparse && data.kind == DataKind::Folder) {
            let from = if binary { values } else { &own };
            data.remap = from
                .iter()
                .copied()
                .zip(0..)
                .filter(|(a, b)| a != b)
                .collect();
            data.classes = from.len().max(2);
            let pairs: Vec<String> = from
                .iter()
                .zip(0..)
                .map(|(a, b): (_, u8)| format!("{a} → {b}"))
                .collect();
            self.notes.push(format!(
                "the values {} are taken for {} classes ({}); map what means void to {ignore}",
                listed(from),
                data.classes,
                pairs.join(", ")
            ));
        } else {
            let absent: Vec<u8> = (0..data.classes.min(255) as u8)
                .filter(|v| !own.contains(v))
                .collect();
            if !absent.is_empty() {
                self.notes
                    .push(format!("no mask holds class {}", listed(&absent)));
            }
        }
    }

    fn crop(&mut self, survey: &Survey) {
        let Some([_, (width, height), _]) = survey.extremes() else {
            return;
        };
        let [own, _] = self.config.augment.crop;
        let side = width.min(height);
        if side < own {
            // One more than a multiple of the output stride, as 513 is.
            let crop = ((side.saturating_sub(1)) / 8 * 8 + 1).max(LEAST_CROP);
            self.config.augment.crop = [crop, crop];
            self.notes.push(format!(
                "the crop fits the middle image, {width} × {height}"
            ));
        }
    }

    fn lists(&mut self, found: &Found) {
        let data = &mut self.config.data;
        let lists = lists_of(&data.root);
        let named = |name: &str| {
            let is = |path: &&PathBuf| path.file_name().is_some_and(|n| n == name);
            lists.iter().find(is).cloned()
        };
        let mut of = |name: &str| {
            let made = data.root.join("splits").join(name);
            named(name).unwrap_or_else(|| {
                self.missing_lists.push(made.clone());
                made
            })
        };
        let (labeled, unlabeled, val) = (of("labeled.txt"), of("unlabeled.txt"), of("val.txt"));
        data.labeled = labeled;
        data.unlabeled = unlabeled;
        data.val = val;
        if found.labeled.is_empty() {
            // Images alone: the unlabelled part of another dataset.
            data.unlabeled = relative_images(found);
            self.missing_lists.clear();
        }
    }
}

fn relative_images(found: &Found) -> PathBuf {
    match found.data.image_dir == Path::new(".") {
        true => found.data.root.clone(),
        false => found.images.clone(),
    }
}

fn listed(values: &[u8]) -> String {
    let texts: Vec<String> = values.iter().map(ToString::to_string).collect();
    texts.join(", ")
}
