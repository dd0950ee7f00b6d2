//! How images are looked at: the options that `eval` and `infer` share.

use crate::eval::Tiling;

/// Scales, mirrored images, tiles.
#[derive(Debug, clap::Args)]
pub(super) struct LookArgs {
    /// Image scales whose probabilities are averaged, such as 0.75,1,1.25
    #[arg(long, value_name = "S,..", value_delimiter = ',')]
    scales: Vec<f32>,
    /// Average with the mirrored image
    #[arg(long)]
    flip: bool,
    /// Cut images with a longer side than SIZE pixels up, neighbours overlapping by OVERLAP at least
    /// (default: a quarter), so that memory does not grow with them
    #[arg(long, value_name = "SIZE[:OVERLAP]", value_parser = tiling)]
    pub(super) tile: Option<Tiling>,
}

impl LookArgs {
    /// As overrides of the configuration, so that they are checked alike.
    pub(super) fn sets(&self) -> Vec<String> {
        let mut sets = Vec::new();
        if !self.scales.is_empty() {
            sets.push(format!("eval.scales={:?}", self.scales));
        }
        if self.flip {
            sets.push("eval.flip=true".into());
        }
        sets
    }
}

fn tiling(text: &str) -> Result<Tiling, String> {
    let pixels = |text: &str| text.parse().ok().filter(|n| (1..=1 << 24).contains(n));
    let (size, overlap) = match text.split_once(':') {
        None => (pixels(text).map(Tiling::new), None),
        Some((size, overlap)) => (pixels(size).map(Tiling::new), Some(overlap.parse())),
    };
    match (size, overlap) {
        (Some(tiling), None) => Ok(tiling),
        (Some(tiling), Some(Ok(overlap))) => Ok(Tiling { overlap, ..tiling }),
        _ => Err("not SIZE or SIZE:OVERLAP in pixels, such as 513 or 513:128".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_have_a_size_and_perhaps_an_overlap() {
        let tiles = |size, overlap| Ok(Tiling { size, overlap });
        assert_eq!(tiling("512"), tiles(512, 128));
        assert_eq!(tiling("512:0"), tiles(512, 0));
        for no in [
            "",
            "0",
            "-3",
            "512:",
            ":3",
            "512:a",
            "1:2:3",
            "99999999999999999999",
        ] {
            assert!(tiling(no).is_err(), "{no}");
        }
    }
}
