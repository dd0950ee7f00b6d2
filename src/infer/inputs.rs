//! Which files to score.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// Extensions taken for images.
const IMAGES: [&str; 3] = ["jpg", "jpeg", "png"];

/// Images to score, and what lay beside them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inputs {
    /// Images, sorted by path.
    pub images: Vec<PathBuf>,
    /// Files and folders that are no images, sorted.
    pub skipped: Vec<PathBuf>,
}

/// The image at `path`, or every image directly in the folder `path`.
///
/// # Errors
/// [`Error::Io`] when it cannot be read; [`Error::Input`] when there is no image, or when two of
/// them would be written to the same output files.
pub fn find(path: &Path) -> Result<Inputs> {
    let meta = fs::metadata(path).map_err(|e| Error::io(path, "read the input", e))?;
    if !meta.is_dir() {
        // Its contents decide, not its name.
        return Ok(Inputs {
            images: vec![path.to_path_buf()],
            skipped: Vec::new(),
        });
    }
    let failed = |e| Error::io(path, "list the images", e);
    let mut inputs = Inputs::default();
    for entry in fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?.path();
        match is_image(&entry) {
            true => inputs.images.push(entry),
            false => inputs.skipped.push(entry),
        }
    }
    if inputs.images.is_empty() {
        return Err(Error::input(
            path.display().to_string(),
            "the folder has no .jpg, .jpeg or .png images",
            "give an image or a folder of images (subfolders are not searched)",
        ));
    }
    inputs.images.sort();
    inputs.skipped.sort();
    unique_stems(&inputs.images)?;
    Ok(inputs)
}

fn is_image(path: &Path) -> bool {
    let extension = path.extension().map(|e| e.to_ascii_lowercase());
    extension.is_some_and(|e| IMAGES.iter().any(|known| e == *known)) && path.is_file()
}

fn unique_stems(images: &[PathBuf]) -> Result<()> {
    let mut seen: HashMap<_, &Path> = HashMap::new();
    for image in images {
        if let Some(other) = seen.insert(image.file_stem(), image) {
            return Err(Error::input(
                image.display().to_string(),
                format!("its results would overwrite those of {}", other.display()),
                "rename one of them",
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_sorted_and_the_rest_is_named() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.PNG", "a.jpg", "notes.txt", "c.jpeg"] {
            fs::write(dir.path().join(name), b"").unwrap();
        }
        fs::create_dir(dir.path().join("d.png")).unwrap();
        let found = find(dir.path()).unwrap();
        let names = |paths: &[PathBuf]| -> Vec<String> {
            let name = |p: &PathBuf| p.file_name().unwrap().to_string_lossy().into_owned();
            paths.iter().map(name).collect()
        };
        assert_eq!(names(&found.images), ["a.jpg", "b.PNG", "c.jpeg"]);
        assert_eq!(names(&found.skipped), ["d.png", "notes.txt"]);
    }

    #[test]
    fn nothing_to_do_and_clashing_names_are_errors() {
        let dir = tempfile::tempdir().unwrap();
        let error = find(dir.path()).unwrap_err().to_string();
        assert!(error.contains("no .jpg"), "{error}");
        for name in ["a.png", "a.jpg"] {
            fs::write(dir.path().join(name), b"").unwrap();
        }
        let error = find(dir.path()).unwrap_err().to_string();
        assert!(error.contains("overwrite"), "{error}");
        assert!(find(&dir.path().join("none")).is_err());
    }
}
