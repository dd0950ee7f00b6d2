//! Paths of a configuration that start at its own folder.

use std::path::{Component, Path, PathBuf};

/// `path` as seen from `folder`, without the detours `a/..` where `a` is no symbolic link.
pub(super) fn resolve(folder: &Path, path: &str) -> PathBuf {
    let mut out = PathBuf::new();
    for part in folder.join(path).components() {
        let detour =
            matches!(out.components().next_back(), Some(Component::Normal(_))) && !out.is_symlink();
        match part {
            Component::CurDir => {}
            Component::ParentDir if detour => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    if out.as_os_str().is_empty() {
        out.push(".");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detours_are_cut_short() {
        let at = |folder: &str, path: &str| resolve(Path::new(folder), path);
        let deep = "experiments/pascal/1464/ours";
        assert_eq!(
            at(deep, "../../../../data/VOC2012"),
            Path::new("data/VOC2012")
        );
        assert_eq!(at(deep, "../../../../../x"), Path::new("../x"));
        assert_eq!(at("", "../../data"), Path::new("../../data"));
        assert_eq!(at("a", "./b/./c.txt"), Path::new("a/b/c.txt"));
        assert_eq!(at("a", ".."), Path::new("."));
        assert_eq!(at("/a/b", "../c"), Path::new("/a/c"));
        assert_eq!(at("a", "/data"), Path::new("/data"));
    }

    #[cfg(unix)]
    #[test]
    fn the_folder_above_a_link_is_that_of_its_target() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("far/away")).unwrap();
        let link = dir.path().join("near");
        std::os::unix::fs::symlink(dir.path().join("far/away"), &link).unwrap();
        assert_eq!(resolve(&link, "../x"), link.join("../x"));
    }
}
