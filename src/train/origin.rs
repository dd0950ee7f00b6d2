//! What a run was started with, and whether it may go on with what it is given now.
//!
//! A checkpoint remembers the configuration, what its lists named and the precision. Going on, the run
//! must be the same one: keys that no number depends on may change freely, a few that a run may be
//! steered by change with a warning, and everything else is refused with what differs. Lists are
//! compared by what they name, so a data set may move and lists may be renamed, and the files by their
//! sizes and samples of their bytes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::Config;
use crate::config::schema::Data;
use crate::counted::counted;
use crate::data::{Dataset, Part, Sample};
use crate::{Error, Result};

/// Keys that no number of a run depends on. What the paths name is compared by [`Listed`].
const FREE: [&str; 14] = [
    "data.root",
    "data.labeled",
    "data.unlabeled",
    "data.val",
    "data.image_dir",
    "data.mask_dir",
    "data.workers",
    "data.cache_mib",
    "data.class_names",
    "data.max_bad_unlabeled",
    "train.log_every",
    "train.val_every",
    "train.tensorboard",
    "train.on_divergence",
];

/// Keys by which a run may be steered while it is under way, as errors of training advise.
const STEERED: [&str; 3] = ["train.epochs", "train.lr", "train.head_lr_mult"];

/// What a list named: how many images, and digests of their names, sizes and contents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Images.
    pub images: usize,
    /// Digest of the names in the list's order, below `data.root`.
    pub order: String,
    /// Digest of the names in alphabetical order.
    pub names: String,
    /// Digest of the sizes of their files, bytes.
    pub sizes: String,
    /// Six hexadecimal digits for each image, in alphabetical order: of the size of its files and of
    /// samples of their bytes. `None`: an older engine did not look at them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contents: Option<String>,
    /// Its images and masks in that order, a line each, as far as they are at hand.
    #[serde(skip)]
    files: Vec<String>,
}

/// Bytes of a file that are looked at at its start, in its middle and at its end.
const SAMPLE: u64 = 4096;

/// Digits of [`Listed::contents`] for an image: enough to count those that changed.
const DIGITS: usize = 6;

/// What a run was started with, besides its configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// By key of the configuration; none of synthetic shapes.
    pub lists: BTreeMap<String, Listed>,
    /// Iterations of an epoch.
    pub epoch_iters: usize,
    /// Arithmetic (`fp32`, `tf32`, `bf16`).
    pub precision: String,
    /// Kind of device (`cpu`, `cuda`, `simt`).
    pub device: String,
}

/// What differs between a run and its continuation, as far as it is no error.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changed {
    /// Key of the configuration, its value at the start, its value now.
    pub keys: Vec<(String, Value, Value)>,
    /// Lists that name something else, a sentence each.
    pub lists: Vec<String>,
}

impl Changed {
    /// Says what a run goes on with that it was not started with.
    pub fn warn(&self, was: &Config, now: &Config, epoch_iters: usize) {
        for list in &self.lists {
            tracing::warn!("{list}; epochs keep their {epoch_iters} iterations");
        }
        for (key, was, is) in &self.keys {
            match STEERED.contains(&key.as_str()) {
                true => tracing::warn!("{key} was {was} and is {is} from here on"),
                false => tracing::info!("{key} was {was} and is {is}"),
            }
        }
        if was.train.epochs != now.train.epochs {
            let [was, is] = [was, now].map(|c| c.train.epochs * epoch_iters);
            tracing::warn!(
                "the schedules of the learning rate and of α now end at iteration {is}, not {was}: both \
                 go on from where a run of that length would be"
            );
        }
    }

    /// For the run's metrics; `fault` is what was wrong with the newest checkpoint. Nothing where
    /// nothing is to be said.
    pub fn to_json(&self, fault: Option<&str>) -> Option<Value> {
        if self.keys.is_empty() && self.lists.is_empty() && fault.is_none() {
            return None;
        }
        let keys = self.keys.iter();
        let keys: serde_json::Map<String, Value> = keys
            .map(|(key, was, is)| (key.clone(), json!([was, is])))
            .collect();
        Some(json!({ "changed": keys, "data": self.lists, "damaged": fault }))
    }
}

impl Listed {
    fn of(data: &Data, part: Part, samples: &[Sample]) -> Self {
        let below = |path: &Path| {
            let below = path.strip_prefix(&data.root).unwrap_or(path);
            below.to_string_lossy().replace('\\', "/")
        };
        let look = |sample: &Sample| {
            let mut name = below(&sample.image);
            let mut content = Digest::new();
            let mut size = add_file(&mut content, &sample.image);
            // Masks of unlabelled images serve diagnostics alone.
            if let (Some(mask), true) = (&sample.mask, part != Part::Unlabeled) {
                name = format!("{name}\n{}", below(mask));
                let of_mask = add_file(&mut content, mask);
                size = size.wrapping_mul(31).wrapping_add(of_mask);
            }
            (name, size, content.0)
        };
        let mut named: Vec<(String, u64, u64)> = samples.par_iter().map(look).collect();
        let mut order = Digest::new();
        for (name, ..) in &named {
            order.add(name.as_bytes());
        }
        named.sort_unstable();
        let (mut names, mut sizes) = (Digest::new(), Digest::new());
        let mut contents = String::with_capacity(DIGITS * named.len());
        for (name, size, content) in &named {
            names.add(name.as_bytes());
            sizes.add(&size.to_le_bytes());
            let short = content ^ content >> 24 ^ content >> 48;
            contents += &format!("{:06x}", short & 0xFF_FFFF);
        }
        Self {
            images: samples.len(),
            order: order.text(),
            names: names.text(),
            sizes: sizes.text(),
            contents: Some(contents),
            files: named.into_iter().map(|(name, ..)| name).collect(),
        }
    }

    /// How many images' files have changed that are not among the `free`, and the first of them; `None`
    /// where that is not known.
    fn changed(&self, now: &Self, free: &[PathBuf]) -> Option<(usize, String)> {
        let [was, is] = [self, now].map(|l| l.contents.as_deref().map(str::as_bytes));
        let pairs = was?.chunks(DIGITS).zip(is?.chunks(DIGITS));
        let is_free = |name: &str| name.lines().any(|l| free.iter().any(|f| f.ends_with(l)));
        let other = pairs.zip(&now.files).filter(|((was, is), _)| was != is);
        let mut other = other.map(|(_, name)| name).filter(|name| !is_free(name));
        let first = other.next()?.lines().next().unwrap_or_default();
        Some((1 + other.count(), first.into()))
    }

    /// How `now` differs, as the end of a sentence that begins with the list's key. The files `free` may.
    fn difference(&self, now: &Self, free: &[PathBuf]) -> Option<String> {
        if self.images != now.images {
            let images = counted(now.images, "image", "images");
            return Some(format!("names {images}, not {}", self.images));
        }
        if self.names != now.names {
            return Some("names other images".into());
        }
        let changed = self.changed(now, free);
        let which = changed.as_ref().map_or(String::new(), |(n, first)| {
            let of = counted(self.images, "image", "images");
            format!(" (those of {n} of {of}, the first {first})")
        });
        let known = self.contents.is_some() && now.contents.is_some();
        if self.sizes != now.sizes && (changed.is_some() || !known) {
            return Some(format!("names files that have changed in size{which}"));
        }
        if changed.is_some() {
            return Some(format!("names files that have changed{which}"));
        }
        (self.order != now.order).then(|| "has its images in another order".into())
    }
}

impl Origin {
    /// What a run on these lists starts with.
    pub fn new(
        cfg: &Config,
        lists: &[(Part, &Dataset)],
        epoch_iters: usize,
        device: &dyn crate::device::Device,
    ) -> Self {
        let files = lists.iter().filter(|(_, set)| !set.samples().is_empty());
        let lists = files.map(|(part, set)| {
            let listed = Listed::of(&cfg.data, *part, set.samples());
            (part.key().to_string(), listed)
        });
        let name = device.name();
        Self {
            lists: lists.collect(),
            epoch_iters,
            precision: device.precision().to_string(),
            device: name.split(':').next().unwrap_or_default().to_string(),
        }
    }

    /// How lists differ, a sentence each. The files `free` may: the run could not use them, and said so.
    /// Warns where an older engine did not look at the files.
    pub fn other_lists(&self, now: &Self, free: &[PathBuf]) -> Vec<String> {
        if self.lists.values().any(|list| list.contents.is_none()) {
            tracing::warn!(
                "an older engine wrote the checkpoint: whether files changed that kept their names and \
                 sizes is not known"
            );
        }
        let both = self
            .lists
            .iter()
            .filter_map(|(key, was)| Some((key, was, now.lists.get(key)?)));
        let found =
            both.filter_map(|(key, was, is)| Some(format!("{key} {}", was.difference(is, free)?)));
        found.collect()
    }

    /// Refuses another precision; warns of another device.
    ///
    /// # Errors
    /// [`Error::Input`] naming the option.
    pub fn check_arithmetic(&self, now: &Self, weights: &Path) -> Result<()> {
        if self.precision != now.precision {
            return Err(Error::input(
                "--precision",
                format!(
                    "the run was started in {}, not {}",
                    self.precision, now.precision
                ),
                format!("give --precision {}, or {}", self.precision, anew(weights)),
            ));
        }
        if self.device != now.device {
            tracing::warn!(
                "the run was started on {}: on {} it goes on with other roundings, not bit for bit",
                self.device,
                now.device
            );
        }
        Ok(())
    }
}

/// What differs between the configuration that a run was started with and the one it is to go on with.
///
/// # Errors
/// [`Error::Input`] naming every key that must stay; `weights` is the run's checkpoint.
pub fn compare(was: &Config, now: &Config, weights: &Path) -> Result<Vec<(String, Value, Value)>> {
    // By way of text: 0.01 stays 0.01 when it becomes a wider number.
    let tree = |c: &Config| {
        let value = serde_json::to_string(c).and_then(|text| serde_json::from_str(&text));
        value.map_err(|e| Error::internal(format!("a configuration: {e}")))
    };
    let mut found = Vec::new();
    differences("", &tree(was)?, &tree(now)?, &mut found);
    let free = |key: &str| FREE.contains(&key);
    let steered = |key: &str| STEERED.contains(&key);
    let fixed = found.iter().filter(|(key, ..)| !free(key) && !steered(key));
    let mut wrong: Vec<String> = fixed
        .map(|(key, was, is)| format!("{key} = {was}, not {is}"))
        .collect();
    if now.train.epochs < was.train.epochs {
        let (was, is) = (was.train.epochs, now.train.epochs);
        wrong.push(format!(
            "train.epochs = {was}, and may grow but not fall to {is}"
        ));
    }
    if wrong.is_empty() {
        return Ok(found);
    }
    Err(Error::input(
        weights.display().to_string(),
        format!("the run was started with {}", wrong.join(", ")),
        format!("leave that as it was, or {}", anew(weights)),
    ))
}

/// How to go on from the weights alone.
fn anew(weights: &Path) -> String {
    format!(
        "start a new run from its weights: --init {} and another --out",
        weights.display()
    )
}

fn differences(prefix: &str, was: &Value, now: &Value, out: &mut Vec<(String, Value, Value)>) {
    match (was, now) {
        (Value::Object(a), Value::Object(b)) if !a.is_empty() || !b.is_empty() => {
            let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
            keys.sort();
            keys.dedup();
            for key in keys {
                let path = match prefix {
                    "" => key.clone(),
                    _ => format!("{prefix}.{key}"),
                };
                let value = |map: &serde_json::Map<String, Value>| {
                    map.get(key).cloned().unwrap_or(Value::Null)
                };
                differences(&path, &value(a), &value(b), out);
            }
        }
        _ if was == now => {}
        _ => out.push((prefix.to_string(), was.clone(), now.clone())),
    }
}

/// Adds the size of the file at `path` and, of its bytes, the first, the middle and the last
/// [`SAMPLE`]; data sets are too large to be read. Returns the size, 0 where there is no file.
fn add_file(digest: &mut Digest, path: &Path) -> u64 {
    // To open a pipe would wait for somebody to write to it.
    let size = match std::fs::metadata(path) {
        Ok(found) if found.is_file() => found.len(),
        _ => 0,
    };
    digest.add(&size.to_le_bytes());
    if size == 0 {
        return 0;
    }
    let starts = match size {
        ..=SAMPLE => vec![0],
        _ => vec![0, (size - SAMPLE) / 2, size - SAMPLE],
    };
    let mut bytes = Vec::with_capacity(SAMPLE as usize);
    let read = File::open(path).and_then(|mut file| {
        for start in starts {
            bytes.clear();
            file.seek(SeekFrom::Start(start))?;
            (&file).take(SAMPLE).read_to_end(&mut bytes)?;
            digest.add(&bytes);
        }
        Ok(())
    });
    if read.is_err() {
        // One that cannot be read now is another than one that can; loading it will say why.
        digest.add(b"unread");
    }
    size
}

/// FNV-1a of texts, each with its end: the same on every machine and in every version.
struct Digest(u64);

impl Digest {
    fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    fn add(&mut self, bytes: &[u8]) {
        // No text holds this byte.
        for &byte in bytes.iter().chain(&[0xFF]) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn text(&self) -> String {
        format!("{:016x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(root: &Path, names: &[&str]) -> Listed {
        let sample = |name: &&str| Sample {
            id: name.to_string(),
            image: root.join(name),
            mask: None,
            at: String::new(),
        };
        let data = Data {
            root: root.to_path_buf(),
            ..Data::default()
        };
        let samples: Vec<Sample> = names.iter().map(sample).collect();
        Listed::of(&data, Part::Labeled, &samples)
    }

    #[test]
    fn lists_are_told_apart_by_what_they_name() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for root in [a.path(), b.path()] {
            for name in ["x", "y", "z"] {
                std::fs::write(root.join(name), name.repeat(3)).unwrap();
            }
        }
        let was = listed(a.path(), &["x", "y"]);
        // A data set that moved is the same one.
        assert_eq!(was.difference(&listed(b.path(), &["x", "y"]), &[]), None);
        let says = |names: &[&str]| was.difference(&listed(a.path(), names), &[]);
        assert_eq!(says(&["x", "y", "z"]).unwrap(), "names 3 images, not 2");
        assert_eq!(says(&["x", "z"]).unwrap(), "names other images");
        assert_eq!(
            says(&["y", "x"]).unwrap(),
            "has its images in another order"
        );
        std::fs::write(a.path().join("y"), "longer").unwrap();
        assert_eq!(
            says(&["x", "y"]).unwrap(),
            "names files that have changed in size (those of 1 of 2 images, the first y)"
        );
    }

    #[test]
    fn files_are_told_apart_by_samples_of_their_bytes() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let names = ["k", "l", "m"];
        let bytes = |size: usize| -> Vec<u8> { (0..size).map(|i| ((i * i) >> 3) as u8).collect() };
        let write = |root: &Path, name: &str, bytes: &[u8]| {
            std::fs::write(root.join(name), bytes).unwrap();
        };
        for size in [1usize, 100, 4096, 4097, 9000, 1 << 16] {
            for name in names {
                write(a.path(), name, &bytes(size));
                write(b.path(), name, &bytes(size));
            }
            let was = listed(a.path(), &names);
            assert_eq!(was.contents.as_ref().unwrap().len(), 3 * DIGITS);
            // A copy elsewhere is the same.
            assert_eq!(was.difference(&listed(b.path(), &names), &[]), None);
            for at in [0, size / 2, size - 1] {
                let mut other = bytes(size);
                other[at] ^= 1;
                write(b.path(), "l", &other);
                let says = was.difference(&listed(b.path(), &names), &[]).unwrap();
                assert_eq!(
                    says, "names files that have changed (those of 1 of 3 images, the first l)",
                    "{size} {at}"
                );
                write(b.path(), "m", &other);
                let says = was.difference(&listed(b.path(), &names), &[]).unwrap();
                assert!(says.contains("2 of 3 images"), "{says}");
                // What the run named as unusable may be another file now.
                let free = |names: &[&str]| {
                    let free: Vec<PathBuf> = names.iter().map(|n| a.path().join(n)).collect();
                    was.difference(&listed(b.path(), &["k", "l", "m"]), &free)
                };
                assert!(free(&["l"]).unwrap().contains("1 of 3 images, the first m"));
                assert_eq!(free(&["l", "m"]), None);
                write(b.path(), "m", &bytes(size));
            }
            // A checkpoint of an older engine says nothing of bytes.
            let mut old = was.clone();
            old.contents = None;
            assert_eq!(old.difference(&listed(b.path(), &names), &[]), None);
            let text = serde_json::to_string(&old).unwrap();
            assert!(!text.contains("contents"), "{text}");
            assert_eq!(
                serde_json::from_str::<Listed>(&text).unwrap().contents,
                None
            );
        }
    }

    #[test]
    fn ten_thousand_images_take_six_digits_each() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("folder")).unwrap();
        let names: Vec<String> = (0..10_000).map(|i| format!("none{i}")).collect();
        let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
        names[7] = "folder";
        let all = listed(dir.path(), &names);
        assert_eq!(all.contents.as_ref().unwrap().len(), 60_000);
        assert_eq!(all.difference(&listed(dir.path(), &names), &[]), None);
    }

    #[test]
    fn keys_are_free_steered_or_fixed() {
        let was = Config::default();
        let path = Path::new("last.safetensors");
        let with = |change: &dyn Fn(&mut Config)| {
            let mut now = was.clone();
            change(&mut now);
            compare(&was, &now, path)
        };
        let free = with(&|c| {
            c.data.root = "elsewhere".into();
            c.data.workers = 3;
            c.train.val_every = 7;
        });
        assert_eq!(free.unwrap().len(), 3);
        let steered = with(&|c| (c.train.epochs, c.train.lr) = (100, 0.5)).unwrap();
        assert!(
            steered
                .iter()
                .all(|(key, ..)| STEERED.contains(&key.as_str())),
            "{steered:?}"
        );
        for (change, says) in [
            (
                &(|c: &mut Config| c.train.seed = 9) as &dyn Fn(&mut Config),
                "train.seed = 0, not 9",
            ),
            (
                &|c: &mut Config| c.train.epochs = 2,
                "may grow but not fall",
            ),
            (
                &|c: &mut Config| {
                    c.data.remap.insert(7, 1);
                },
                "data.remap",
            ),
            (&|c: &mut Config| c.augment.flip = 0.25, "augment.flip"),
        ] {
            let error = with(change).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            let text = error.to_string();
            assert!(text.contains(says) && text.contains("--init"), "{text}");
        }
    }
}
