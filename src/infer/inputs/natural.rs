//! The order in which people number files: frame_2 before frame_10.

use std::path::{Path, PathBuf};

/// A run of digits, or of anything else, in a file's name.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Piece {
    /// Its digits without leading zeros, how many first: any length compares as a number.
    Number(usize, Vec<u8>),
    Text(Vec<u8>),
}

/// What orders a path: its components' pieces, then the path itself.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key(Vec<Vec<Piece>>, PathBuf);

impl Key {
    pub(super) fn new(path: &Path) -> Self {
        let component = |c: std::path::Component| pieces(c.as_os_str().as_encoded_bytes());
        Self(path.components().map(component).collect(), path.into())
    }
}

fn pieces(name: &[u8]) -> Vec<Piece> {
    let runs = name.chunk_by(|a, b| a.is_ascii_digit() == b.is_ascii_digit());
    runs.map(|run| {
        if !run[0].is_ascii_digit() {
            return Piece::Text(run.to_vec());
        }
        let digits: Vec<u8> = run.iter().copied().skip_while(|&d| d == b'0').collect();
        Piece::Number(digits.len(), digits)
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_count_folders_hold_together_and_equal_numbers_keep_an_order() {
        let sorted = [
            "a/frame_2.png",
            "a/frame_02.png",
            "a/frame_10.png",
            "a/frame_99999999999999999999.png",
            "a/frame_100000000000000000000.png",
            "a-b/frame_1.png",
            "cam2/9.png",
            "cam10/1.png",
        ];
        let mut shuffled: Vec<PathBuf> = sorted.iter().rev().map(PathBuf::from).collect();
        shuffled.sort_by_cached_key(|p| Key::new(p));
        let found: Vec<&str> = shuffled.iter().map(|p| p.to_str().unwrap()).collect();
        assert_eq!(found[2..], sorted[2..]);
        // Of one number: some order, always the same.
        assert_eq!(found[..2], ["a/frame_02.png", "a/frame_2.png"]);
    }
}
