//! Which images keep their labels: drawing, and writing the lists.

use std::fs;
use std::path::{Path, PathBuf};

use crate::counted::counted;
use crate::device::philox::Rng;
use crate::files::write_atomic;
use crate::{Error, Result};

/// Random streams of the draws.
const STREAM: u32 = 0x5F11_7000;
const STREAM_BALANCED: u32 = 0x5F11_7001;

/// Draws `n_labeled` of `ids`; both results keep the order of `ids`. Larger draws of one seed
/// contain the smaller ones.
///
/// # Errors
/// [`Error::Input`] when `n_labeled` is 0 or more than there are.
pub fn make_split(
    ids: &[String],
    n_labeled: usize,
    seed: u64,
) -> Result<(Vec<String>, Vec<String>)> {
    in_range(ids, n_labeled)?;
    let rng = Rng::seeded(seed, STREAM, 0);
    let mut order: Vec<usize> = (0..ids.len()).collect();
    for i in 0..n_labeled {
        let rest = (ids.len() - i) as u32;
        order.swap(i, i + rng.below(i as u64, rest) as usize);
    }
    Ok(apart(ids, &order[..n_labeled]))
}

/// As [`make_split`], by turns for the class that the fewest drawn images hold so far: rare classes
/// come into small draws. `classes[i]` are those of `ids[i]`.
///
/// # Errors
/// As [`make_split`].
pub fn make_balanced_split(
    ids: &[String],
    classes: &[Vec<u8>],
    n_labeled: usize,
    seed: u64,
) -> Result<(Vec<String>, Vec<String>)> {
    in_range(ids, n_labeled)?;
    let rng = Rng::seeded(seed, STREAM_BALANCED, 0);
    let mut drawn = Vec::with_capacity(n_labeled);
    let mut left: Vec<usize> = (0..ids.len()).collect();
    let mut have = [0usize; 256];
    let mut all = [0usize; 256];
    for &class in classes.iter().flatten() {
        all[usize::from(class)] += 1;
    }
    let held = |i: usize| classes.get(i).map_or(&[][..], Vec::as_slice);
    for turn in 0..n_labeled {
        let wanted = left
            .iter()
            .flat_map(|&i| held(i))
            // Of equals the rarest, then the first.
            .min_by_key(|&&class| (have[usize::from(class)], all[usize::from(class)], class));
        let fitting: Vec<usize> = match wanted {
            Some(class) => (0..left.len())
                .filter(|&at| held(left[at]).contains(class))
                .collect(),
            // Images without any class come last.
            None => (0..left.len()).collect(),
        };
        let pick = rng.below(turn as u64, fitting.len() as u32) as usize;
        let image = left.remove(fitting[pick]);
        for &class in held(image) {
            have[usize::from(class)] += 1;
        }
        drawn.push(image);
    }
    Ok(apart(ids, &drawn))
}

fn in_range(ids: &[String], n: usize) -> Result<()> {
    if (1..=ids.len()).contains(&n) {
        return Ok(());
    }
    Err(Error::input(
        format!("--labeled {n}"),
        counted(
            ids.len(),
            "image with a label exists",
            "images with a label exist",
        ),
        format!("give 1 to {}", ids.len()),
    ))
}

/// `ids` at the positions `chosen`, and the others; both in the order of `ids`.
fn apart(ids: &[String], chosen: &[usize]) -> (Vec<String>, Vec<String>) {
    let mut is_chosen = vec![false; ids.len()];
    for &i in chosen {
        is_chosen[i] = true;
    }
    let pick = |wanted: bool| -> Vec<String> {
        let pairs = ids.iter().zip(&is_chosen);
        pairs
            .filter(|(_, c)| **c == wanted)
            .map(|(id, _)| id.clone())
            .collect()
    };
    (pick(true), pick(false))
}

/// Writes each of `lists`, a file name and its lines, into `folder` (made if missing), all of them or
/// none. `header` goes before the lines, each of its lines as a comment. Returns the paths.
///
/// # Errors
/// [`Error::Input`] when one of them exists; [`Error::Io`] when the folder cannot be written.
pub fn write_lists(
    folder: &Path,
    lists: &[(&str, &[String])],
    header: &str,
) -> Result<Vec<PathBuf>> {
    let paths: Vec<PathBuf> = lists.iter().map(|(name, _)| folder.join(name)).collect();
    if let Some(path) = paths.iter().find(|path| path.exists()) {
        return Err(Error::input(
            path.display().to_string(),
            "exists already",
            "choose another --out, or remove it",
        ));
    }
    fs::create_dir_all(folder).map_err(|e| Error::io(folder, "make the folder", e))?;
    for (path, (_, lines)) in paths.iter().zip(lists) {
        let header = header.lines().map(|line| format!("# {line}\n"));
        let text: String = header
            .chain(lines.iter().map(|line| format!("{line}\n")))
            .collect();
        write_atomic(path, text.as_bytes()).inspect_err(|_| {
            // Some of the lists alone are of no use, and the next try would find them. None was there.
            for path in &paths {
                let _ = fs::remove_file(path);
            }
        })?;
    }
    Ok(paths)
}
