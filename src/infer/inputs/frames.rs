//! Numbered frames of a video, named by a pattern such as `frames/frame_%05d.png`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// File names with a number in them, in one folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frames {
    folder: PathBuf,
    before: String,
    after: String,
    /// Digits at least; zeros fill them.
    digits: usize,
}

/// Frames that were found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Their paths, by number.
    pub(super) paths: Vec<PathBuf>,
    /// How many numbers between the first and the last have no frame, and the first of them.
    pub(super) missing: Option<(u64, u64)>,
}

impl Frames {
    /// The pattern that `path` is: one `%d` or `%0Nd` in the file's name, `%%` for a percent sign.
    pub(super) fn parse(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let (mut before, mut number) = (String::new(), None);
        let mut text = String::new();
        let mut rest = name;
        while let Some((plain, tail)) = rest.split_once('%') {
            text.push_str(plain);
            if let Some(tail) = tail.strip_prefix('%') {
                text.push('%');
                rest = tail;
                continue;
            }
            let (width, tail) = tail.split_once('d')?;
            let digits = match width {
                "" => 1,
                // As many as a number can have.
                _ => width.strip_prefix('0')?.parse().ok().filter(|n| *n <= 20)?,
            };
            if number.replace(digits).is_some() {
                return None;
            }
            before = std::mem::take(&mut text);
            rest = tail;
        }
        Some(Self {
            folder: path.parent()?.to_path_buf(),
            before,
            after: text + rest,
            digits: number?,
        })
    }

    /// The folder that they are in.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    fn name(&self, number: u64) -> String {
        let (before, after, digits) = (&self.before, &self.after, self.digits);
        format!("{before}{number:0digits$}{after}")
    }

    /// The number of a file of this name.
    fn number(&self, name: &str) -> Option<u64> {
        let middle = name.strip_prefix(&self.before)?.strip_suffix(&self.after)?;
        let number = middle.parse().ok()?;
        (self.name(number) == name).then_some(number)
    }

    /// The frames that there are from number `start` on.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder cannot be listed; [`Error::Input`] when it has no such frame.
    pub(super) fn find(&self, start: u64) -> Result<Found> {
        let here = match self.folder.as_os_str().is_empty() {
            true => Path::new("."),
            false => &self.folder,
        };
        let failed = |e| Error::io(here, "list the frames", e);
        let mut all = Vec::new();
        for entry in fs::read_dir(here).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            all.extend(name.to_str().and_then(|n| self.number(n)));
        }
        all.sort_unstable();
        let numbers = &all[all.partition_point(|&n| n < start)..];
        let [Some(&first), Some(&last)] = [numbers.first(), numbers.last()] else {
            return Err(self.none(here, &all, start));
        };
        let missing = (last - first) - (numbers.len() as u64 - 1);
        let gap = (missing > 0).then(|| numbers.iter().zip(first..).find(|&(&n, at)| n != at));
        Ok(Found {
            paths: numbers
                .iter()
                .map(|&n| self.folder.join(self.name(n)))
                .collect(),
            missing: gap.flatten().map(|(_, at)| (missing, at)),
        })
    }

    fn none(&self, here: &Path, all: &[u64], start: u64) -> Error {
        let at = self.folder.join(self.name(start)).display().to_string();
        match all {
            [first, .., last] | [first @ last] => Error::input(
                at,
                format!("the frames there are have the numbers {first} to {last}"),
                "give a smaller --start",
            ),
            [] => Error::input(
                at,
                format!(
                    "neither this frame nor a later one is in {}",
                    here.display()
                ),
                "give the pattern of the frames' names, such as frames/frame_%05d.png",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(text: &str) -> Option<Frames> {
        Frames::parse(Path::new(text))
    }

    #[test]
    fn a_pattern_has_one_number_in_the_file_name() {
        for no in [
            "a.png",
            "100%.png",
            "a_%s.png",
            "a_%5d.png",
            "%d_%d.png",
            "%02d/a.png",
            "a%%d.png",
            "a%099d.png",
            "",
        ] {
            assert_eq!(frames(no), None, "{no}");
        }
        let found = frames("x/50%%_%03d_l.png").unwrap();
        assert_eq!(found.folder(), Path::new("x"));
        assert_eq!(found.name(7), "50%_007_l.png");
        assert_eq!(found.number("50%_007_l.png"), Some(7));
        assert_eq!(found.number("50%_1234_l.png"), Some(1234));
        for no in [
            "50%_07_l.png",
            "50%_0007_l.png",
            "50%_+07_l.png",
            "50%_007.png",
        ] {
            assert_eq!(found.number(no), None, "{no}");
        }
        assert_eq!(frames("f%d.png").unwrap().number("f10.png"), Some(10));
    }

    #[test]
    fn frames_come_by_number_and_gaps_are_told() {
        let dir = tempfile::tempdir().unwrap();
        for n in [0, 2, 3, 10, 11] {
            fs::write(dir.path().join(format!("f{n}.png")), b"").unwrap();
        }
        let pattern = frames(dir.path().join("f%d.png").to_str().unwrap()).unwrap();
        let numbers = |found: &Found| -> Vec<u64> {
            let name = |p: &PathBuf| p.file_name().unwrap().to_str().unwrap().to_string();
            let numbers = found.paths.iter().map(|p| pattern.number(&name(p)));
            numbers.map(Option::unwrap).collect()
        };
        let found = pattern.find(0).unwrap();
        assert_eq!(numbers(&found), [0, 2, 3, 10, 11]);
        assert_eq!(found.missing, Some((7, 1)));
        let found = pattern.find(10).unwrap();
        assert_eq!(numbers(&found), [10, 11]);
        assert_eq!(found.missing, None);
        let error = pattern.find(12).unwrap_err().to_string();
        assert!(error.contains("0 to 11"), "{error}");
        let other = frames(dir.path().join("g%04d.png").to_str().unwrap()).unwrap();
        let error = other.find(3).unwrap_err().to_string();
        assert!(error.contains("g0003.png"), "{error}");
    }
}
