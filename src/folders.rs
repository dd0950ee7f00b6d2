//! The files of a folder that people mean: what systems put beside them is left out, links to folders
//! are followed, and masks that lie beside their images are told from images.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::counted::counted;
use crate::{Error, Result};

/// Extensions of images, the likeliest first.
pub(crate) const IMAGE_EXTENSIONS: [&str; 3] = ["jpg", "png", "jpeg"];

/// How the names of masks end that lie in the folder of their images: `x.jpg`, `x_mask.png`.
pub(crate) const PAIR_TAILS: [&str; 6] = ["_mask", "_label", "_labels", "_gt", "_seg", "-mask"];

/// Names that systems, servers and galleries give to what is theirs.
const SYSTEM: [&str; 9] = [
    "__MACOSX",
    "@eaDir",
    "@Recycle",
    "#recycle",
    "$RECYCLE.BIN",
    "System Volume Information",
    "lost+found",
    "Thumbs.db",
    "desktop.ini",
];

/// Whether an entry of this name is the system's: it begins with a dot (`._x.png`,
/// `.ipynb_checkpoints`, `.Trash-1000`) or is one of a few others.
pub(crate) fn is_hidden(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with('.') || SYSTEM.iter().any(|own| name.eq_ignore_ascii_case(own))
}

/// Whether the name is that of an image.
pub(crate) fn is_image_name(path: &Path) -> bool {
    let extension = path.extension().map(|e| e.to_ascii_lowercase());
    extension.is_some_and(|e| IMAGE_EXTENSIONS.iter().any(|known| e == *known))
}

/// Whether `path` is the mask of an image beside it: `x_mask.png` beside `x.jpg`.
pub(crate) fn is_mask_beside(path: &Path) -> bool {
    if path
        .extension()
        .is_none_or(|e| !e.eq_ignore_ascii_case("png"))
    {
        return false;
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let own = PAIR_TAILS.iter().filter_map(|tail| stem.strip_suffix(tail));
    own.filter(|image| !image.is_empty()).any(|image| {
        let there = |e: &&str| path.with_file_name(format!("{image}.{e}")).is_file();
        let upper = |e: &&str| there(&&*e.to_ascii_uppercase());
        IMAGE_EXTENSIONS.iter().any(|e| there(e) || upper(e))
    })
}

/// What lies in a folder and below it.
#[derive(Debug, Default)]
pub(crate) struct Below {
    /// Files, and links to files.
    pub(crate) files: Vec<PathBuf>,
    /// Folders that were looked into, by the names that led there.
    pub(crate) searched: Vec<PathBuf>,
    /// Folders that were not.
    pub(crate) folders: Vec<PathBuf>,
    /// Entries of the system's.
    pub(crate) hidden: Vec<PathBuf>,
    /// Links to folders that had been looked into: circles, and second names.
    pub(crate) again: Vec<PathBuf>,
    /// Links to folders above the one they lie in or the one that is listed: what else is there is
    /// not meant, masks for one.
    pub(crate) above: Vec<PathBuf>,
    /// Folders that were to be left out, and links to them.
    pub(crate) left_out: Vec<PathBuf>,
    /// Links that lead nowhere.
    pub(crate) broken: Vec<PathBuf>,
}

impl Below {
    /// Lists `folder`, and with `deep` the folders in it and behind links but those of `leave_out`.
    /// Every folder is looked into once, by its own name rather than by a link's; links upwards are not
    /// followed.
    ///
    /// # Errors
    /// [`Error::Io`] when a folder cannot be read.
    pub(crate) fn of(folder: &Path, deep: bool, leave_out: &[PathBuf]) -> Result<Below> {
        let mut below = Below::default();
        // Compared as the system knows them; what does not exist is not met either.
        let real = |path: &Path| fs::canonicalize(path).ok();
        let apart: HashSet<PathBuf> = leave_out.iter().filter_map(|p| real(p)).collect();
        let root = real(folder);
        let mut seen: HashSet<PathBuf> = HashSet::new();
        let mut open = vec![folder.to_path_buf()];
        let mut links: Vec<PathBuf> = Vec::new();
        loop {
            // Links wait until everything with a name of its own has been seen, and come by name.
            let (at, is_link) = match open.pop() {
                Some(at) => (at, false),
                None => {
                    links.sort_by(|a, b| b.cmp(a));
                    match links.pop() {
                        Some(at) => (at, true),
                        None => return Ok(below),
                    }
                }
            };
            if let Some(path) = real(&at) {
                if apart.contains(&path) {
                    below.left_out.push(at);
                    continue;
                }
                let from = at.parent().filter(|_| is_link).and_then(real);
                let from = from.iter().chain(root.iter().filter(|_| is_link));
                let is_above = from.into_iter().any(|folder| folder.starts_with(&path));
                if is_above && !seen.contains(&path) {
                    below.above.push(at);
                    continue;
                }
                if !seen.insert(path) {
                    if is_link {
                        below.again.push(at);
                    }
                    continue;
                }
            }
            below.list(&at, deep, &mut open, &mut links)?;
            below.searched.push(at);
        }
    }

    fn list(
        &mut self,
        folder: &Path,
        deep: bool,
        open: &mut Vec<PathBuf>,
        links: &mut Vec<PathBuf>,
    ) -> Result<()> {
        let failed = |e| Error::io(folder, "list the images", e);
        for entry in fs::read_dir(folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let path = entry.path();
            let is_link = entry.file_type().map_err(failed)?.is_symlink();
            if is_hidden(&path) {
                self.hidden.push(path);
            } else if path.is_dir() {
                match (deep, is_link) {
                    (false, _) => self.folders.push(path),
                    (true, false) => open.push(path),
                    (true, true) => links.push(path),
                }
            } else if is_link && !path.exists() {
                self.broken.push(path);
            } else {
                self.files.push(path);
            }
        }
        Ok(())
    }

    /// Lines on what was left out and why, each with a count and the first of its kind.
    pub(crate) fn notes(&self) -> Vec<String> {
        let kinds = [
            (
                &self.hidden,
                "hidden or system entry left out",
                "hidden or system entries left out",
            ),
            (
                &self.again,
                "link left out to a folder that had been looked into",
                "links left out to folders that had been looked into",
            ),
            (
                &self.above,
                "link left out that leads to a folder above",
                "links left out that lead to folders above",
            ),
            (
                &self.left_out,
                "folder of masks or results left out",
                "folders of masks or results left out",
            ),
            (
                &self.broken,
                "link left out that leads nowhere",
                "links left out that lead nowhere",
            ),
        ];
        let note = |(paths, one, many): (&Vec<PathBuf>, &str, &str)| first_of(paths, one, many);
        kinds.into_iter().filter_map(note).collect()
    }
}

/// How many `paths` there are, and the first of them by name; `None` without any.
pub(crate) fn first_of(paths: &[PathBuf], one: &str, many: &str) -> Option<String> {
    let first = paths.iter().min()?;
    let count = counted(paths.len(), one, many);
    Some(format!("{count}, the first {}", first.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for file in files {
            let path = dir.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, b"").unwrap();
        }
        dir
    }

    fn names(dir: &tempfile::TempDir, paths: &[PathBuf]) -> Vec<String> {
        let relative = |p: &PathBuf| p.strip_prefix(dir.path()).unwrap().display().to_string();
        let mut names: Vec<String> = paths.iter().map(relative).collect();
        names.sort();
        names
    }

    #[test]
    fn names_that_systems_leave_are_hidden() {
        for name in [
            "._x.png",
            "a/.ipynb_checkpoints",
            ".Trash-1000",
            "b/__MACOSX",
            "c/@eaDir",
            "Thumbs.db",
            "THUMBS.DB",
            "Desktop.ini",
            ".DS_Store",
            "lost+found",
        ] {
            assert!(is_hidden(Path::new(name)), "{name}");
        }
        for name in ["x.png", "a.b/x._y.jpg", ".cache/x.png", "thumbs.png"] {
            assert!(!is_hidden(Path::new(name)), "{name}");
        }
    }

    #[test]
    fn hidden_folders_are_not_looked_into() {
        let dir = place(&[
            "a.png",
            "b/c.png",
            "._a.png",
            ".Trash-1/files/d.png",
            "b/@eaDir/c.png/SYNO.jpg",
            "__MACOSX/._a.png",
        ]);
        let below = Below::of(dir.path(), true, &[]).unwrap();
        assert_eq!(names(&dir, &below.files), ["a.png", "b/c.png"]);
        assert_eq!(below.hidden.len(), 4);
        assert!(
            below.notes()[0].starts_with("4 hidden"),
            "{:?}",
            below.notes()
        );
        let flat = Below::of(dir.path(), false, &[]).unwrap();
        assert_eq!(names(&dir, &flat.files), ["a.png"]);
        assert_eq!(names(&dir, &flat.folders), ["b"]);
        let without = Below::of(dir.path(), true, &[dir.path().join("b")]).unwrap();
        assert_eq!(names(&dir, &without.files), ["a.png"]);
        assert_eq!(names(&dir, &without.left_out), ["b"]);
    }

    #[cfg(unix)]
    #[test]
    fn links_to_folders_are_followed_once_and_circles_end() {
        use std::os::unix::fs::symlink;
        let dir = place(&["in/a.png", "in/sub/b.png", "out/c.png", "out/deep/d.png"]);
        let root = dir.path();
        symlink(root.join("out"), root.join("in/linked")).unwrap();
        symlink(root.join("in"), root.join("in/sub/up")).unwrap();
        symlink("..", root.join("out/deep/back")).unwrap();
        symlink(root.join("in/sub"), root.join("in/aaa")).unwrap();
        symlink("nowhere.png", root.join("in/z.png")).unwrap();
        symlink("a.png", root.join("in/y.png")).unwrap();
        let below = Below::of(&root.join("in"), true, &[]).unwrap();
        assert_eq!(
            names(&dir, &below.files),
            [
                "in/a.png",
                "in/linked/c.png",
                "in/linked/deep/d.png",
                "in/sub/b.png",
                "in/y.png"
            ]
        );
        assert_eq!(
            names(&dir, &below.again),
            ["in/aaa", "in/linked/deep/back", "in/sub/up"]
        );
        assert_eq!(names(&dir, &below.broken), ["in/z.png"]);
    }

    #[cfg(unix)]
    #[test]
    fn links_upwards_are_not_followed() {
        use std::os::unix::fs::symlink;
        let dir = place(&[
            "d/images/a.png",
            "d/images/deep/b.png",
            "d/masks/a.png",
            "far/c.png",
            "far/in/d.png",
        ]);
        let root = dir.path();
        // To the data set, from two depths and by a path of its own; above it; and out of what another
        // link led to, where the folder above holds more.
        symlink("..", root.join("d/images/loop")).unwrap();
        symlink("../..", root.join("d/images/deep/loop")).unwrap();
        symlink(root.join("d"), root.join("d/images/whole")).unwrap();
        symlink(root, root.join("d/images/top")).unwrap();
        symlink("../../far/in", root.join("d/images/linked")).unwrap();
        symlink("..", root.join("far/in/up")).unwrap();
        symlink(root.join("d"), root.join("far/in/back")).unwrap();
        let below = Below::of(&root.join("d/images"), true, &[]).unwrap();
        assert_eq!(
            names(&dir, &below.files),
            [
                "d/images/a.png",
                "d/images/deep/b.png",
                "d/images/linked/d.png"
            ]
        );
        assert_eq!(
            names(&dir, &below.above),
            [
                "d/images/deep/loop",
                "d/images/linked/back",
                "d/images/linked/up",
                "d/images/loop",
                "d/images/top",
                "d/images/whole"
            ]
        );
        let notes = below.notes();
        assert_eq!(notes.len(), 1);
        assert!(
            notes[0].starts_with("6 links left out that lead to folders above, the first"),
            "{notes:?}"
        );
        // A folder that is reached by a link is listed like any other.
        symlink("d/images", root.join("pictures")).unwrap();
        let linked = Below::of(&root.join("pictures"), true, &[]).unwrap();
        assert_eq!((linked.files.len(), linked.above.len()), (3, 6));
    }

    #[test]
    fn masks_are_told_from_the_images_beside_them() {
        let dir = place(&[
            "x.jpg",
            "x_mask.png",
            "y.PNG",
            "y_label.png",
            "z.jpeg",
            "z-mask.png",
            "w_mask.png",
            "v.jpg",
            "v_mask.jpg",
            "_mask.png",
            "u.png",
            "u_other.png",
        ]);
        let is_mask = |name: &&&str| is_mask_beside(&dir.path().join(name));
        let all = [
            "x.jpg",
            "x_mask.png",
            "y.PNG",
            "y_label.png",
            "z-mask.png",
            "w_mask.png",
            "v_mask.jpg",
            "_mask.png",
            "u.png",
            "u_other.png",
        ];
        let masks: Vec<&&str> = all.iter().filter(is_mask).collect();
        assert_eq!(masks, [&"x_mask.png", &"y_label.png", &"z-mask.png"]);
    }
}
