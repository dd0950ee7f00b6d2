//! Images and masks that are damaged or mean harm: pixels or an error of one line that names the file,
//! never a panic of our own, never a header that tells of another size than the pixels have.
//!
//! `U2PL_IMAGE_FUZZ_RUNS=1000000 cargo test --release --test hostile_images` runs the mutator that
//! often; `U2PL_IMAGE_FUZZ_SEED` changes what it does. A failure leaves its file behind.
#![cfg(feature = "cli")]

#[path = "support/jpeg.rs"]
mod jpeg;

use std::fs;
use std::path::{Path, PathBuf};

use jpeg::{Jpeg, adobe, exif, picture, tiff, ycc_planes};
use png::{BitDepth, ColorType};
use u2pl_engine::Error;
use u2pl_engine::config::schema::{Data, Exif};
use u2pl_engine::data::decode::image_header;
use u2pl_engine::data::decode_image;
use u2pl_engine::data::mask::{MaskRules, mask_size, read_indices, read_mask};
use u2pl_engine::device::philox::Rng;

struct Random(Rng, u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.1 += 1;
        self.0.below(self.1, n.max(1) as u32) as usize
    }

    /// Damages `bytes` in one place; `other` lends pieces.
    fn damage(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        // What follows the first bytes is what is to be reached.
        let at = 4 + self.below(bytes.len().saturating_sub(4));
        let room = bytes.len().saturating_sub(at);
        if room == 0 {
            return bytes.extend(&other[..other.len().min(16)]);
        }
        match self.below(9) {
            0 | 1 => bytes[at] ^= 1 << self.below(8),
            2 => bytes[at] = self.below(256) as u8,
            // A marker.
            3 => {
                let markers = b"\xC0\xC1\xC2\xC4\xD0\xD7\xD8\xD9\xDA\xDB\xDD\xE0\xE1\xEE\xFF\x00";
                bytes[at] = 0xFF;
                let marker = markers[self.below(markers.len())];
                bytes.insert(at + 1, marker);
            }
            // A number, at the edges of what its type holds.
            4 | 5 => {
                let numbers = [
                    0u32,
                    1,
                    2,
                    7,
                    127,
                    128,
                    255,
                    0xFFFF,
                    1 << 24,
                    1 << 31,
                    u32::MAX,
                ];
                let number = numbers[self.below(numbers.len())].to_be_bytes();
                let length = [1, 2, 4][self.below(3)].min(room);
                bytes[at..at + length].copy_from_slice(&number[4 - length..]);
            }
            6 => {
                let length = self.below(room.min(64));
                bytes.drain(at..at + length);
            }
            7 => {
                let length = self.below(room.min(64));
                let copy = bytes[at..at + length].to_vec();
                bytes.splice(at..at, copy);
            }
            _ => {
                let from = self.below(other.len());
                let length = self.below((other.len() - from).min(64));
                bytes.splice(at..at, other[from..from + length].iter().copied());
            }
        }
    }
}

/// Makes the checksums of a PNG's chunks right again, so that damage is behind them.
fn seal(bytes: &mut [u8]) {
    let mut at = 8;
    while let Some(head) = bytes.get(at..at + 8) {
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let end = at.saturating_add(8).saturating_add(length);
        let Some(body) = bytes.get(at + 4..end) else {
            return;
        };
        let sum = crc32fast::hash(body).to_be_bytes();
        let Some(slot) = bytes.get_mut(end..end + 4) else {
            return;
        };
        slot.copy_from_slice(&sum);
        at = end + 4;
    }
}

fn png(color: ColorType, depth: BitDepth, block: Option<&[u8]>) -> Vec<u8> {
    let (width, height) = (23usize, 11usize);
    let samples = match color {
        ColorType::Rgb => 3,
        _ => 1,
    };
    let line = (width * samples * depth as usize).div_ceil(8);
    let pixels: Vec<u8> = (0..line * height).map(|i| (i * 7 % 251) as u8).collect();
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width as u32, height as u32);
    encoder.set_color(color);
    encoder.set_depth(depth);
    if color == ColorType::Indexed {
        encoder.set_palette(
            (0..3 << depth as usize)
                .map(|i| i as u8)
                .collect::<Vec<u8>>(),
        );
    }
    let mut writer = encoder.write_header().unwrap();
    if let Some(block) = block {
        writer
            .write_chunk(png::chunk::ChunkType(*b"eXIf"), block)
            .unwrap();
    }
    writer.write_image_data(&pixels).unwrap();
    writer.finish().unwrap();
    bytes
}

/// Sound files that take every way through the decoders.
fn seeds() -> Vec<Vec<u8>> {
    let (width, height) = (33, 20);
    let planes = ycc_planes(&picture(width, height));
    let jpeg = |sampling: &[(usize, usize)], change: &dyn Fn(&mut Jpeg)| {
        let mut own = Jpeg::new(width, height, sampling);
        change(&mut own);
        let more = vec![planes[0].clone(); sampling.len().saturating_sub(3)];
        let planes = [&planes[..sampling.len().min(3)], &more].concat();
        own.encode(&planes)
    };
    let apart = |own: &mut Jpeg| own.scans = vec![vec![0], vec![1], vec![2]];
    let colors = [(2, 2), (1, 1), (1, 1)];
    vec![
        jpeg(&colors, &|_| {}),
        jpeg(&colors, &apart),
        jpeg(&colors, &|own| own.restart = 2),
        jpeg(&colors, &|own| own.progressive = true),
        jpeg(&[(1, 1), (2, 1), (1, 1)], &|own| own.progressive = true),
        jpeg(&[(1, 1), (2, 1), (1, 2)], &apart),
        jpeg(&[(1, 1); 3], &|own| own.markers = exif(6, true)),
        jpeg(&[(1, 1); 3], &|own| own.markers = exif(8, false)),
        jpeg(&[(2, 1)], &|_| {}),
        jpeg(&[(1, 1); 4], &|own| own.markers = adobe(2)),
        jpeg(&[(1, 1); 4], &|own| own.stray = b"xyz".to_vec()),
        png(ColorType::Rgb, BitDepth::Eight, None),
        png(ColorType::Rgb, BitDepth::Eight, Some(&tiff(5, true))),
        png(ColorType::Grayscale, BitDepth::Eight, Some(&tiff(3, false))),
        png(ColorType::Grayscale, BitDepth::Two, None),
        png(ColorType::Indexed, BitDepth::One, None),
        png(ColorType::Indexed, BitDepth::Four, None),
        png(ColorType::Indexed, BitDepth::Eight, None),
    ]
}

/// What became of the files.
#[derive(Debug, Default)]
struct Counts {
    decoded: u64,
    refused: u64,
    /// Refused because a library panicked on them.
    panics: u64,
    masks: u64,
}

fn one_line(e: &Error, path: &Path) -> String {
    let text = e.to_string();
    let name = path.file_name().unwrap().to_string_lossy();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(text.contains(&*name), "{text}");
    assert_eq!(e.exit_code(), 2, "{text}");
    text
}

/// Reads the file at `path` in every way there is.
fn look(path: &Path, rules: &MaskRules, counts: &mut Counts) {
    for how in [Exif::Apply, Exif::Ignore] {
        let header = image_header(path, how);
        match decode_image(path, how) {
            Ok(image) => {
                let size = (image.width, image.height);
                assert_eq!(header.unwrap().size, size);
                assert_eq!(image.rgb.len(), 3 * size.0 * size.1);
                counts.decoded += 1;
            }
            Err(e) => {
                let text = one_line(&e, path);
                counts.panics += u64::from(text.contains("decoder failed"));
                counts.refused += 1;
                header.map_or_else(|e| drop(one_line(&e, path)), drop);
            }
        }
    }
    match read_indices(path) {
        Ok((width, height, values)) => {
            assert_eq!(mask_size(path).unwrap(), (width, height));
            assert_eq!(values.len(), width * height);
            counts.masks += 1;
        }
        Err(e) => drop(one_line(&e, path)),
    }
    if let Ok((width, height, labels)) = read_mask(path, rules) {
        assert_eq!(labels.len(), width * height);
        assert!(labels.iter().all(|&l| l < 21 || l == 255));
    }
}

fn setting(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.map_or(default, |t| {
        t.parse().unwrap_or_else(|_| panic!("{name} is no number"))
    })
}

fn kept(run: u64, bytes: &[u8]) -> PathBuf {
    let path = std::env::temp_dir().join(format!("image-fuzz-{run}"));
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn mutated_images_and_masks_are_pixels_or_errors() {
    let runs = setting("U2PL_IMAGE_FUZZ_RUNS", 4000);
    let rng = Rng::seeded(setting("U2PL_IMAGE_FUZZ_SEED", 1), 0, 0);
    let mut random = Random(rng, 0);
    let rules = MaskRules::new(&Data {
        classes: 21,
        ..Data::default()
    });
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.jpg");
    let seeds = seeds();
    let mut counts = Counts::default();
    // They are sound before they are damaged.
    for seed in &seeds {
        fs::write(&path, seed).unwrap();
        decode_image(&path, Exif::Apply).unwrap();
    }
    for run in 0..runs {
        let mut bytes = seeds[random.below(seeds.len())].clone();
        let other = &seeds[random.below(seeds.len())];
        for _ in 0..1 + random.below(4) {
            random.damage(&mut bytes, other);
        }
        if random.below(4) > 0 {
            seal(&mut bytes);
        }
        fs::write(&path, &bytes).unwrap();
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            look(&path, &rules, &mut counts);
        }));
        if ran.is_err() {
            panic!("run {run}: see {}", kept(run, &bytes).display());
        }
    }
    println!("{runs} files: {counts:?}");
    assert!(
        counts.decoded > runs / 4 && counts.refused > runs / 4 && counts.masks > 0,
        "{counts:?}"
    );
}
