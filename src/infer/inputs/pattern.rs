//! Paths that a pattern with wildcards matches.
//!
//! As a shell has it: `*` stands for no slash, hidden files are not meant unless the pattern says so,
//! `**` is any number of folders, behind links too, each folder once: links may lead in a circle. Names
//! that are no UTF-8 match by what of them is.

use std::fs;
use std::path::{Component, Path, PathBuf};

use glob::Pattern;

use super::WILDCARDS;
use crate::Error;
use crate::folders::{Below, is_hidden};

/// Why a pattern has no paths.
pub(super) enum Fault {
    /// It is none.
    Pattern(String),
    /// A folder cannot be read.
    Io(Error),
}

/// The paths that `pattern` matches, in no order.
pub(super) fn expand(pattern: &Path) -> Result<Vec<PathBuf>, Fault> {
    // Whatever is wrong with it is said before anything is searched.
    let parts = pattern.components().map(Part::new);
    let parts = parts.collect::<Result<Vec<Part<'_>>, Fault>>()?;
    let mut found = vec![PathBuf::new()];
    for part in &parts {
        let mut next = Vec::new();
        for path in found {
            part.below(path, &mut next)?;
        }
        found = next;
    }
    Ok(found)
}

/// A component of a pattern.
enum Part<'a> {
    /// A name without wildcards, or the root.
    Plain(Component<'a>),
    Wild {
        name: Pattern,
        hidden: bool,
    },
    /// `**`.
    Folders,
}

impl<'a> Part<'a> {
    fn new(part: Component<'a>) -> Result<Self, Fault> {
        let text = part.as_os_str().to_string_lossy();
        if text == "**" {
            return Ok(Part::Folders);
        }
        if !text.contains(WILDCARDS) {
            return Ok(Part::Plain(part));
        }
        Ok(Part::Wild {
            name: Pattern::new(&text).map_err(|e| Fault::Pattern(e.to_string()))?,
            hidden: text.starts_with('.'),
        })
    }

    /// What it matches in `folder`.
    fn below(&self, folder: PathBuf, found: &mut Vec<PathBuf>) -> Result<(), Fault> {
        match self {
            Part::Plain(name) => {
                let path = folder.join(name);
                if path.symlink_metadata().is_ok() {
                    found.push(path);
                }
            }
            Part::Wild { name, hidden } => {
                for entry in entries(&folder)? {
                    let own = entry.file_name();
                    let own = own.to_string_lossy();
                    if (*hidden || !is_hidden(Path::new(&*own))) && name.matches(&own) {
                        found.push(folder.join(entry.file_name()));
                    }
                }
            }
            Part::Folders => {
                let (here, plain) = match folder.as_os_str().is_empty() {
                    true => (Path::new("."), true),
                    false => (folder.as_path(), false),
                };
                if here.is_dir() {
                    let below = Below::of(here, true, &[]).map_err(Fault::Io)?;
                    found.extend(below.searched.into_iter().map(
                        |path| match path.strip_prefix(here) {
                            Ok(name) if plain => name.to_path_buf(),
                            _ => path,
                        },
                    ));
                }
            }
        }
        Ok(())
    }
}

/// What lies in `folder`; nothing when it is no folder.
fn entries(folder: &Path) -> Result<Vec<fs::DirEntry>, Fault> {
    let here = match folder.as_os_str().is_empty() {
        true => Path::new("."),
        false => folder,
    };
    if !here.is_dir() {
        return Ok(Vec::new());
    }
    let listed = fs::read_dir(here).and_then(Iterator::collect);
    listed.map_err(|e| Fault::Io(Error::io(here, "list the images", e)))
}

#[cfg(all(test, unix))]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn circles_of_links_and_names_that_are_no_text() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("below");
        fs::create_dir(&below).unwrap();
        for link in ["one", "two"] {
            symlink("..", below.join(link)).unwrap();
        }
        let odd = OsStr::from_bytes(b"na\xFFme.png");
        fs::write(below.join(odd), b"").unwrap();
        fs::write(below.join(".hidden.png"), b"").unwrap();
        let other = tempfile::tempdir().unwrap();
        fs::create_dir(other.path().join("deep")).unwrap();
        fs::write(other.path().join("deep/far.jpg"), b"").unwrap();
        symlink(other.path(), below.join("linked")).unwrap();
        let found = |pattern: &str| match expand(&dir.path().join(pattern)) {
            Ok(paths) => paths,
            Err(Fault::Pattern(e)) => panic!("{e}"),
            Err(Fault::Io(e)) => panic!("{e}"),
        };
        assert_eq!(found("**/*.png"), [below.join(odd)]);
        assert_eq!(found("**/*.jpg"), [below.join("linked/deep/far.jpg")]);
        assert_eq!(found("*/n*.png"), [below.join(odd)]);
        assert_eq!(found("below/.*.png"), [below.join(".hidden.png")]);
        // Links that are named are followed.
        let linked = below.join("one/below").join(odd);
        assert_eq!(found("below/o*/below/*e.png"), [linked]);
        assert!(found("none/*").is_empty() && found("below/*.png/x").is_empty());
    }
}
