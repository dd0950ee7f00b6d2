//! Which files to score.
//!
//! Comes in: what the user named, each an image, a folder, a pattern with wildcards
//! (`'frames/*.jpg'`) or numbered frames (`frames/frame_%05d.png`). Goes out: the images in natural
//! order, and for each the path that its results get below an output folder.

mod frames;
mod natural;
mod pattern;

use std::collections::HashMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use self::frames::Frames;
use self::natural::Key;
use crate::counted::counted;
use crate::folders::{Below, first_of, is_image_name, is_mask_beside};
use crate::{Error, Result};

/// What makes a path a pattern.
const WILDCARDS: [char; 3] = ['*', '?', '['];

/// An image to score.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// Where it is.
    pub path: PathBuf,
    /// Path of its results below an output folder, without extension: that of the image below the
    /// folder that was named, or below the part of a pattern that has no wildcards.
    pub name: PathBuf,
}

/// Images to score, and what lay beside them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inputs {
    /// Images: inputs in the order they were named, each in natural order (2 before 10).
    pub images: Vec<Input>,
    /// Files and folders that are no images.
    pub skipped: Vec<PathBuf>,
    /// Images that were named once more, by the same name or another: each is in `images` once.
    pub again: Vec<PathBuf>,
    /// A line for each pattern of frames with numbers that are missing.
    pub gaps: Vec<String>,
    /// Lines on what was left out of folders: hidden and system entries, links that lead in a circle
    /// or nowhere.
    pub notes: Vec<String>,
}

/// How inputs are looked for.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// Look into the folders of a folder, too, and behind links to folders, into each once.
    pub recursive: bool,
    /// First number of frames; 0 without.
    pub start: Option<u64>,
    /// Folders within folders not to look into: where results are written.
    pub leave_out: Vec<PathBuf>,
}

/// The images that `inputs` mean. What exists under its very name is no pattern.
///
/// # Errors
/// [`Error::Io`] when something cannot be read; [`Error::Input`] when an input has no image, when
/// the results of two of them would be the same files, or for a number of frames without frames.
pub fn find(inputs: &[PathBuf], search: &Search) -> Result<Inputs> {
    let mut found = Inputs::default();
    let mut numbered = false;
    for input in inputs {
        match fs::metadata(input) {
            Ok(meta) if meta.is_dir() => found.folder(input, search)?,
            // Its contents decide, not its name.
            Ok(_) => found.add(vec![input.clone()], input.parent())?,
            Err(e) => {
                if input.to_string_lossy().contains(WILDCARDS) {
                    found.matching(input)?;
                } else if let Some(frames) = Frames::parse(input) {
                    numbered = true;
                    found.frames(input, &frames, search.start.unwrap_or(0))?;
                } else if input.is_symlink() {
                    return Err(Error::input(
                        input.display().to_string(),
                        "is a link that leads nowhere",
                        "name an image, a folder or a pattern",
                    ));
                } else {
                    return Err(Error::io(input, "read the input", e));
                }
            }
        }
    }
    if search.start.is_some() && !numbered {
        return Err(Error::input(
            "--start",
            "is the number of a frame, and no input is a pattern of frames",
            "leave it out, or give an input such as frames/frame_%05d.png",
        ));
    }
    found.distinct()
}

impl Inputs {
    /// Adds images whose results are named by their paths below `base`.
    fn add(&mut self, images: Vec<PathBuf>, base: Option<&Path>) -> Result<()> {
        let base = plain(base.unwrap_or(Path::new("")));
        for path in images {
            let below = plain(&path);
            let below = below.strip_prefix(&base).map_err(|_| {
                Error::internal(format!("{} in {}", path.display(), base.display()))
            })?;
            let name = below.with_file_name(path.file_stem().unwrap_or_default());
            self.images.push(Input { path, name });
        }
        Ok(())
    }

    fn folder(&mut self, folder: &Path, search: &Search) -> Result<()> {
        let below = Below::of(folder, search.recursive, &search.leave_out)?;
        self.notes.extend(
            below
                .notes()
                .iter()
                .map(|note| format!("{}: {note}", folder.display())),
        );
        let taken = |path: &PathBuf| is_image(path) && !is_mask_beside(path);
        let (mut images, mut skipped): (Vec<PathBuf>, Vec<PathBuf>) =
            below.files.into_iter().partition(taken);
        skipped.extend(below.folders);
        if images.is_empty() {
            let mend = match search.recursive {
                true => "give an image, or a folder with images in it",
                false => {
                    "give an image or a folder of images (folders in it are searched with \
                          --recursive)"
                }
            };
            return Err(Error::input(
                folder.display().to_string(),
                "the folder has no .jpg, .jpeg or .png images",
                mend,
            ));
        }
        images.sort_by_cached_key(|p| Key::new(p));
        skipped.sort();
        self.skipped.append(&mut skipped);
        self.add(images, Some(folder))
    }

    fn matching(&mut self, pattern: &Path) -> Result<()> {
        let wrong = |problem: String, mend: &str| {
            Err(Error::input(pattern.display().to_string(), problem, mend))
        };
        if pattern.to_str().is_none() {
            return wrong("is no UTF-8".into(), "name the folder instead");
        }
        let paths = match pattern::expand(pattern) {
            Ok(paths) => paths,
            Err(pattern::Fault::Io(e)) => return Err(e),
            Err(pattern::Fault::Pattern(e)) => {
                return wrong(e, "`*`, `?`, `[a-z]` and `**` are understood");
            }
        };
        let (mut images, mut masks) = (Vec::new(), Vec::new());
        let (mut others, mut broken) = (Vec::new(), Vec::new());
        for path in paths {
            match (is_image(&path), is_mask_beside(&path)) {
                (true, false) => images.push(path),
                (true, true) => masks.push(path),
                _ if path.is_symlink() && !path.exists() => broken.push(path),
                _ => others.push(path),
            }
        }
        // Masks beside images are none, unless nothing else is asked for.
        match images.is_empty() {
            true => images = masks,
            false => others.append(&mut masks),
        }
        let broken = first_of(
            &broken,
            "link that leads nowhere",
            "links that lead nowhere",
        );
        let base = fixed(pattern);
        if images.is_empty() {
            let place = match base.as_os_str().is_empty() {
                true => "the current folder".into(),
                false => format!("the folder {}", base.display()),
            };
            let problem = match others.len() {
                _ if !base.as_os_str().is_empty() && !base.is_dir() => {
                    format!("{place} does not exist")
                }
                0 => match &broken {
                    Some(links) => format!("matches no image but {links}"),
                    None => format!("nothing in {place} matches the pattern"),
                },
                n => {
                    let files = counted(n, "file", "files");
                    format!("matches {files}, but no .jpg, .jpeg or .png image")
                }
            };
            return wrong(problem, "check the pattern and where it starts");
        }
        let note = |links| format!("{}: left out {links}", pattern.display());
        self.notes.extend(broken.map(note));
        images.sort_by_cached_key(|p| Key::new(p));
        self.skipped.append(&mut others);
        self.add(images, Some(&base))
    }

    fn frames(&mut self, pattern: &Path, frames: &Frames, start: u64) -> Result<()> {
        let found = frames.find(start)?;
        if let Some((missing, first)) = found.missing {
            let all = missing.saturating_add(found.paths.len() as u64);
            let verb = if missing == 1 { "is" } else { "are" };
            self.gaps.push(format!(
                "{}: {missing} of {all} frames {verb} missing, number {first} is the first",
                pattern.display()
            ));
        }
        self.add(found.paths, Some(frames.folder()))
    }

    /// Drops images that were named twice; refuses two with the same results.
    fn distinct(mut self) -> Result<Self> {
        let mut seen: HashMap<PathBuf, PathBuf> = HashMap::new();
        let mut kept = Vec::new();
        for image in self.images {
            let Some(other) = seen.get(&image.name) else {
                seen.insert(image.name.clone(), image.path.clone());
                kept.push(image);
                continue;
            };
            let same = other == &image.path
                || fs::canonicalize(other).ok() == fs::canonicalize(&image.path).ok();
            if !same {
                return Err(Error::input(
                    image.path.display().to_string(),
                    format!("its results would overwrite those of {}", other.display()),
                    "rename one of them, or give them to two runs",
                ));
            }
            self.again.push(image.path);
        }
        self.images = kept;
        Ok(self)
    }
}

fn is_image(path: &Path) -> bool {
    is_image_name(path) && path.is_file()
}

/// The path without what says "here".
fn plain(path: &Path) -> PathBuf {
    let parts = path.components().filter(|c| *c != Component::CurDir);
    parts.collect()
}

/// The part of a pattern before the first component with wildcards.
fn fixed(pattern: &Path) -> PathBuf {
    let is_fixed = |c: &Component| !c.as_os_str().to_string_lossy().contains(WILDCARDS);
    pattern.components().take_while(is_fixed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn place(files: &[&str]) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"").unwrap();
        }
        dir
    }

    fn search(dir: &TempDir, inputs: &[&str], search: &Search) -> Result<Inputs> {
        let inputs: Vec<PathBuf> = inputs.iter().map(|i| dir.path().join(i)).collect();
        find(&inputs, search)
    }

    fn names(found: &Inputs) -> Vec<&str> {
        let names = found.images.iter().map(|i| i.name.to_str());
        names.map(Option::unwrap).collect()
    }

    #[test]
    fn a_folder_gives_its_images_in_natural_order_and_the_rest_is_named() {
        let dir = place(&[
            "b.PNG",
            "a10.jpg",
            "a9.jpg",
            "notes.txt",
            "c.d.jpeg",
            "e/f.png",
            "d.png/x.txt",
        ]);
        let found = search(&dir, &["."], &Search::default()).unwrap();
        assert_eq!(names(&found), ["a9", "a10", "b", "c.d"]);
        let skipped: Vec<_> = found
            .skipped
            .iter()
            .map(|p| p.file_name().unwrap())
            .collect();
        assert_eq!(skipped, ["d.png", "e", "notes.txt"]);

        let all = Search {
            recursive: true,
            leave_out: vec![dir.path().join("d.png"), dir.path().join("none")],
            ..Search::default()
        };
        let found = search(&dir, &[""], &all).unwrap();
        assert_eq!(names(&found), ["a9", "a10", "b", "c.d", "e/f"]);
        assert_eq!(found.skipped.len(), 1);
    }

    #[test]
    fn a_pattern_names_results_below_its_fixed_part() {
        let dir = place(&[
            "cams/l/1.jpg",
            "cams/r/1.jpg",
            "cams/r/10.jpg",
            "cams/r/2.jpg",
            "cams/r/2.txt",
            "cams/r/.h.jpg",
        ]);
        let found = |pattern: &str| search(&dir, &[pattern], &Search::default()).unwrap();
        assert_eq!(names(&found("cams/r/*.jpg")), ["1", "2", "10"]);
        assert_eq!(names(&found("cams/./r/?.*")), ["1", "2"]);
        assert_eq!(names(&found("cams/*/[0-9].jpg")), ["l/1", "r/1", "r/2"]);
        assert_eq!(
            names(&found("**/*.jpg")),
            ["cams/l/1", "cams/r/1", "cams/r/2", "cams/r/10"]
        );
        let none = |pattern: &str| {
            let error = search(&dir, &[pattern], &Search::default()).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            error.to_string()
        };
        for (pattern, says) in [
            ("cams/*.jpg", "nothing in the folder"),
            ("cam/*.jpg", "does not exist"),
            ("cams/r/*.txt", "matches 1 file, but no .jpg"),
            ("cams/[a", "understood"),
        ] {
            let error = none(pattern);
            assert!(
                error.contains(says) && error.contains(pattern),
                "{pattern}: {error}"
            );
        }
    }

    #[test]
    fn masks_beside_images_match_only_a_pattern_of_their_own() {
        let dir = place(&["a.jpg", "a_mask.png", "b.png", "b_gt.png", "c_mask.png"]);
        let found = |pattern: &str| search(&dir, &[pattern], &Search::default()).unwrap();
        assert_eq!(names(&found("[a-c]*")), ["a", "b", "c_mask"]);
        assert_eq!(found("[a-c]*").skipped.len(), 2);
        assert_eq!(names(&found("a_m*")), ["a_mask"]);
    }

    #[test]
    fn what_exists_is_no_pattern() {
        let dir = place(&["a[1].png", "a1.png", "b%d.png", "b1.png"]);
        let found = search(&dir, &["a[1].png", "b%d.png"], &Search::default()).unwrap();
        assert_eq!(names(&found), ["a[1]", "b%d"]);
    }

    #[test]
    fn frames_start_where_they_are_told() {
        let dir = place(&["f_08.png", "f_09.png", "f_11.png", "f_100.png", "g_09.png"]);
        let mut from = Search::default();
        let found = search(&dir, &["f_%02d.png"], &from).unwrap();
        assert_eq!(names(&found), ["f_08", "f_09", "f_11", "f_100"]);
        assert!(found.gaps[0].contains("89 of 93"), "{:?}", found.gaps);
        assert!(found.gaps[0].contains("number 10"), "{:?}", found.gaps);
        from.start = Some(9);
        let found = search(&dir, &["g_09.png", "f_%02d.png"], &from).unwrap();
        assert_eq!(names(&found), ["g_09", "f_09", "f_11", "f_100"]);
        let error = search(&dir, &["g_09.png"], &from).unwrap_err().to_string();
        assert!(error.contains("--start"), "{error}");
    }

    #[test]
    fn nothing_to_do_and_clashing_names_are_errors() {
        let dir = place(&["x/a.png", "y/a.jpg", "y/b.png"]);
        fs::create_dir(dir.path().join("z")).unwrap();
        let search = |inputs: &[&str]| search(&dir, inputs, &Search::default());
        let error = search(&["z"]).unwrap_err().to_string();
        assert!(error.contains("no .jpg"), "{error}");
        let error = search(&["x", "y"]).unwrap_err().to_string();
        assert!(error.contains("overwrite"), "{error}");
        assert!(search(&["none"]).is_err());
        // The same image twice is one image.
        let found = search(&["y/b.png", "y/../y/*.png", "y"]).unwrap();
        assert_eq!(names(&found), ["b", "a"]);
        assert_eq!(found.again.len(), 2);
    }

    #[cfg(unix)]
    #[test]
    fn links_that_lead_nowhere_are_said_to() {
        use std::os::unix::fs::symlink;
        let dir = place(&["x/a.png", "x/b.txt"]);
        symlink("nowhere", dir.path().join("x/c.png")).unwrap();
        symlink("nowhere", dir.path().join("x/d.png")).unwrap();
        let found = search(&dir, &["x/*"], &Search::default()).unwrap();
        assert_eq!((names(&found), found.skipped.len()), (vec!["a"], 1));
        let says = "left out 2 links that lead nowhere, the first";
        assert!(found.notes[0].contains(says), "{:?}", found.notes);
        for (input, says) in [
            ("x/c*", "matches no image but 1 link that leads nowhere"),
            ("x/d.png", "is a link that leads nowhere"),
        ] {
            let error = search(&dir, &[input], &Search::default()).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}
