//! Colours of classes, for pictures and palette PNGs.

use crate::config::schema::{Config, DataKind};

/// RGB per index.
pub type Palette = Vec<[u8; 3]>;

/// Colours of the 19 Cityscapes train ids, as published with the dataset.
const CITYSCAPES: [[u8; 3]; 19] = [
    [128, 64, 128],
    [244, 35, 232],
    [70, 70, 70],
    [102, 102, 156],
    [190, 153, 153],
    [153, 153, 153],
    [250, 170, 30],
    [220, 220, 0],
    [107, 142, 35],
    [152, 251, 152],
    [70, 130, 180],
    [220, 20, 60],
    [255, 0, 0],
    [0, 0, 142],
    [0, 0, 70],
    [0, 60, 100],
    [0, 80, 100],
    [0, 0, 230],
    [119, 11, 32],
];

/// The PASCAL VOC colour of `index`: its bits, three at a time, fill R, G and B from the top.
pub fn voc_color(index: u8) -> [u8; 3] {
    let mut color = [0; 3];
    for (channel, value) in color.iter_mut().enumerate() {
        for level in 0..3 {
            let bit = 3 * level + channel;
            if bit < 8 {
                *value |= ((index >> bit) & 1) << (7 - level);
            }
        }
    }
    color
}

/// 256 colours for a configuration: Cityscapes' own for its 19 classes with black after, VOC's
/// otherwise. Index 255 keeps VOC's (224, 224, 192) there, the usual colour of void.
pub fn palette(config: &Config) -> Palette {
    let mut colors: Palette = (0..=255).map(voc_color).collect();
    if config.data.kind == DataKind::Cityscapes && config.data.classes == CITYSCAPES.len() {
        colors.fill([0; 3]);
        colors[..CITYSCAPES.len()].copy_from_slice(&CITYSCAPES);
    }
    colors
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_and_last_voc_colors() {
        // Background, aeroplane, bicycle, dog, tv monitor and void, as in the devkit.
        let expected = [
            (0, [0, 0, 0]),
            (1, [128, 0, 0]),
            (2, [0, 128, 0]),
            (12, [64, 0, 128]),
            (20, [0, 64, 128]),
            (255, [224, 224, 192]),
        ];
        for (index, color) in expected {
            assert_eq!(voc_color(index), color);
        }
        let mut all: Vec<_> = (0..=255).map(voc_color).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 256);
    }
}
