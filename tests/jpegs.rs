//! JPEGs that cameras do not write but programs do: the pixels that the standard says, or a refusal
//! that says why; and pictures as their EXIF orientation turns them.
#![cfg(feature = "cli")]

#[path = "support/jpeg.rs"]
mod jpeg;

use std::fs;
use std::path::PathBuf;

use jpeg::{JFIF, Jpeg, adobe, difference, exif, picture, rgb_planes, tiff, ycc_planes};
use tempfile::TempDir;
use u2pl_engine::Error;
use u2pl_engine::config::schema::Exif;
use u2pl_engine::data::decode::{Header, image_header};
use u2pl_engine::data::{Decoded, decode_image};

/// Mean differences to the picture that was encoded: quantisation and few samples of colour make up
/// to 2.5 here, a wrong decoder tens.
const NEAR: f64 = 4.0;

const SIZES: [(usize, usize); 5] = [(64, 48), (61, 45), (33, 31), (17, 9), (130, 70)];

struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn put(&self, bytes: &[u8]) -> PathBuf {
        let path = self.0.path().join("x.jpg");
        fs::write(&path, bytes).unwrap();
        path
    }

    fn decode(&self, bytes: &[u8]) -> Result<Decoded, Error> {
        decode_image(&self.put(bytes), Exif::Apply)
    }

    /// `bytes` decode to `expected`; the header agrees.
    #[track_caller]
    fn near(&self, bytes: &[u8], expected: &[u8], what: &str) {
        let decoded = self.decode(bytes).unwrap_or_else(|e| panic!("{what}: {e}"));
        let header = image_header(&self.0.path().join("x.jpg"), Exif::Apply).unwrap();
        assert_eq!(header.size, (decoded.width, decoded.height), "{what}");
        let off = difference(&decoded.rgb, expected);
        assert!(off < NEAR, "{what}: {off}");
    }

    #[track_caller]
    fn refused(&self, bytes: &[u8], says: &str) {
        let error = self.decode(bytes).map(|_| ()).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.exit_code(), 2, "{text}");
        assert!(text.contains(says) && text.contains("x.jpg"), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}

#[test]
fn every_sampling_in_every_order_of_scans() {
    let files = Files::new();
    let samplings: [(&str, [(usize, usize); 3]); 14] = [
        ("4:4:4", [(1, 1), (1, 1), (1, 1)]),
        ("4:2:2", [(2, 1), (1, 1), (1, 1)]),
        ("4:4:0", [(1, 2), (1, 1), (1, 1)]),
        ("4:2:0", [(2, 2), (1, 1), (1, 1)]),
        ("4:1:1", [(4, 1), (1, 1), (1, 1)]),
        ("4:1:0", [(4, 2), (1, 1), (1, 1)]),
        ("a third", [(3, 1), (1, 1), (1, 1)]),
        ("wide Cb", [(1, 1), (2, 1), (1, 1)]),
        ("tall Cb", [(1, 1), (1, 2), (1, 1)]),
        ("large Cr", [(1, 1), (1, 1), (2, 2)]),
        ("large colours", [(1, 1), (2, 2), (2, 2)]),
        ("crossed", [(2, 1), (1, 2), (1, 1)]),
        ("luma and wide Cb", [(2, 2), (2, 1), (1, 1)]),
        ("luma, tall Cb, wide Cr", [(2, 2), (1, 2), (2, 1)]),
    ];
    let scans: [(&str, &[&[usize]]); 6] = [
        ("one scan", &[&[0, 1, 2]]),
        ("a scan each", &[&[0], &[1], &[2]]),
        ("backwards", &[&[2], &[0], &[1]]),
        ("Y, Cb + Cr", &[&[0], &[1, 2]]),
        ("Y + Cb, Cr", &[&[0, 1], &[2]]),
        ("Cb + Cr, Y", &[&[1, 2], &[0]]),
    ];
    for (width, height) in SIZES {
        let rgb = picture(width, height);
        let planes = ycc_planes(&rgb);
        for (name, sampling) in samplings {
            for (order, scans) in scans {
                for restart in [0, 1, 3] {
                    let mut own = Jpeg::new(width, height, &sampling);
                    own.scans = scans.iter().map(|s| s.to_vec()).collect();
                    own.restart = restart;
                    let what = format!("{name}, {order}, restart {restart}, {width} × {height}");
                    files.near(&own.encode(&planes), &rgb, &what);
                }
            }
        }
    }
}

#[test]
fn progressive_files_of_every_sampling() {
    let files = Files::new();
    for (width, height) in SIZES {
        let rgb = picture(width, height);
        let planes = ycc_planes(&rgb);
        for sampling in [
            [(1, 1), (1, 1), (1, 1)],
            [(2, 1), (1, 1), (1, 1)],
            [(1, 2), (1, 1), (1, 1)],
            [(2, 2), (1, 1), (1, 1)],
            [(4, 1), (1, 1), (1, 1)],
            [(1, 1), (2, 2), (1, 1)],
            [(3, 1), (1, 1), (1, 1)],
        ] {
            for scans in [&[&[0, 1, 2][..]][..], &[&[0], &[1], &[2]], &[&[1, 2], &[0]]] {
                for restart in [0, 2] {
                    let mut own = Jpeg::new(width, height, &sampling);
                    own.scans = scans.iter().map(|s| s.to_vec()).collect();
                    own.restart = restart;
                    own.progressive = true;
                    let what = format!("{sampling:?} {scans:?}, {restart}, {width} × {height}");
                    files.near(&own.encode(&planes), &rgb, &what);
                }
            }
        }
        let mut grey = Jpeg::new(width, height, &[(1, 1)]);
        grey.progressive = true;
        let expected: Vec<u8> = planes[0].iter().flat_map(|&v| [v; 3]).collect();
        files.near(&grey.encode(&planes[..1]), &expected, "grey");
    }
}

#[test]
fn bytes_between_segments_are_passed_over() {
    let files = Files::new();
    let rgb = picture(61, 45);
    for stray in [
        &b"\0"[..],
        b"xyz",
        b"\0\0\0\0\0",
        b"\xFF\xFF",
        b"\xFF\0\x12",
        b"\x12\xFF",
    ] {
        for sampling in [[(1, 1); 3], [(2, 2), (1, 1), (1, 1)]] {
            for scans in [vec![vec![0, 1, 2]], vec![vec![0], vec![1], vec![2]]] {
                let mut own = Jpeg::new(61, 45, &sampling);
                own.stray = stray.to_vec();
                // Before a scan they would be coded bytes of the one before.
                let many = scans.len() > 1;
                own.scans = scans;
                if many && stray.contains(&0xFF) {
                    continue;
                }
                let bytes = own.encode(&ycc_planes(&rgb));
                files.near(&bytes, &rgb, &format!("{stray:?} {sampling:?}"));
            }
        }
    }
    // What follows the picture is not of it.
    let mut behind = Jpeg::new(61, 45, &[(2, 2), (1, 1), (1, 1)]).encode(&ycc_planes(&rgb));
    behind.extend(b"\0\0garbage\xFF\xD8\xFF");
    files.near(&behind, &rgb, "bytes behind the end");
}

#[test]
fn hints_about_colours_are_weighed_as_libjpeg_does() {
    let files = Files::new();
    let rgb = picture(61, 45);
    let (plain, ycc) = (rgb_planes(&rgb), ycc_planes(&rgb));
    let jfif = JFIF.to_vec();
    let rgb_ids = b"RGB".to_vec();
    let cases: [(&str, Vec<u8>, Vec<u8>, bool); 9] = [
        ("no hint", vec![], vec![1, 2, 3], false),
        ("odd ids", vec![], vec![5, 9, 77], false),
        ("ids from 0", jfif.clone(), vec![0, 1, 2], false),
        ("named RGB", vec![], rgb_ids.clone(), true),
        ("named RGB in JFIF", jfif.clone(), rgb_ids.clone(), false),
        ("Adobe RGB", adobe(0), vec![1, 2, 3], true),
        ("Adobe YCC", adobe(1), vec![1, 2, 3], false),
        ("Adobe YCC named RGB", adobe(1), rgb_ids, false),
        (
            "JFIF and Adobe RGB",
            [jfif, adobe(0)].concat(),
            vec![1, 2, 3],
            false,
        ),
    ];
    for (what, markers, ids, as_rgb) in cases {
        for apart in [false, true] {
            let mut own = Jpeg::new(61, 45, &[(1, 1); 3]);
            own.markers = markers.clone();
            own.ids = ids.clone();
            if apart {
                own.scans = vec![vec![0], vec![1], vec![2]];
            }
            let bytes = own.encode(if as_rgb { &plain } else { &ycc });
            files.near(&bytes, &rgb, what);
        }
    }
}

#[test]
fn grey_and_inks() {
    let files = Files::new();
    let rgb = picture(61, 45);
    let grey = ycc_planes(&rgb)[0].clone();
    let expected: Vec<u8> = grey.iter().flat_map(|&v| [v; 3]).collect();
    for sampling in [(1, 1), (2, 1), (2, 2)] {
        let bytes = Jpeg::new(61, 45, &[sampling]).encode(std::slice::from_ref(&grey));
        files.near(&bytes, &expected, &format!("grey {sampling:?}"));
    }
    // Stored inverted, as programs do: light is ink times black.
    let black: Vec<u8> = (0..61 * 45).map(|i| 155 + (i % 61) as u8).collect();
    let lit: Vec<u8> = rgb
        .iter()
        .enumerate()
        .map(|(i, &v)| ((u32::from(v) * u32::from(black[i / 3]) + 127) / 255) as u8)
        .collect();
    let mut inks = rgb_planes(&rgb);
    inks.push(black.clone());
    let inverted: Vec<u8> = rgb.iter().map(|v| 255 - v).collect();
    let mut ycck = ycc_planes(&inverted);
    ycck.push(black);
    for apart in [false, true] {
        for (what, markers, planes) in [
            ("inks", vec![], &inks),
            ("inks by Adobe", adobe(0), &inks),
            ("inks in JFIF", JFIF.to_vec(), &inks),
            ("YCCK", adobe(2), &ycck),
            ("YCCK by another number", adobe(1), &ycck),
        ] {
            let mut own = Jpeg::new(61, 45, &[(1, 1); 4]);
            own.markers = markers;
            if apart {
                own.scans = (0..4).map(|c| vec![c]).collect();
            }
            files.near(&own.encode(planes), &lit, what);
        }
    }
}

/// The same file with the marker of its frame, or its number of bits, changed.
fn patched(bytes: &[u8], marker: u8, bits: u8) -> Vec<u8> {
    let at = bytes.windows(2).position(|w| w == [0xFF, 0xC0]).unwrap();
    let mut out = bytes.to_vec();
    out[at + 1] = marker;
    out[at + 4] = bits;
    out
}

#[test]
fn what_is_not_read_is_refused_by_its_name() {
    let files = Files::new();
    let rgb = picture(33, 31);
    let bytes = Jpeg::new(33, 31, &[(1, 1); 3]).encode(&ycc_planes(&rgb));
    for (marker, bits, says) in [
        (0xC9, 8, "coded arithmetically"),
        (0xCA, 8, "coded arithmetically"),
        (0xC1, 12, "of 12 bits"),
        (0xC2, 12, "of 12 bits"),
        (0xC3, 8, "lossless"),
        (0xC3, 16, "lossless"),
        (0xC5, 8, "hierarchical"),
        (0xCE, 8, "hierarchical"),
    ] {
        let bytes = patched(&bytes, marker, bits);
        files.refused(&bytes, says);
        files.refused(&bytes, "convert it");
        // The header says so, too, before anything is decoded.
        let error = image_header(&files.put(&bytes), Exif::Apply).unwrap_err();
        assert!(error.to_string().contains(says), "{error}");
    }
    let two = Jpeg::new(33, 31, &[(1, 1); 2]).encode(&ycc_planes(&rgb)[..2]);
    files.refused(&two, "2 components");
    let at = bytes.windows(2).position(|w| w == [0xFF, 0xC0]).unwrap();
    let mut flat = bytes.clone();
    flat[at + 5..at + 7].fill(0);
    files.refused(&flat, "without a height");
    // Four samples of luma, two of one colour, in scans of their own: blocks would go missing.
    let mut odd = Jpeg::new(33, 31, &[(4, 1), (2, 1), (1, 1)]);
    odd.scans = vec![vec![0], vec![1], vec![2]];
    files.refused(&odd.encode(&ycc_planes(&rgb)), "unusual sampling");
}

#[test]
fn a_file_cut_anywhere_or_with_any_byte_changed_is_an_error_or_an_image() {
    let files = Files::new();
    let rgb = picture(33, 31);
    let mut decoded = 0;
    for (scans, sampling) in [
        (vec![vec![0, 1, 2]], [(2, 2), (1, 1), (1, 1)]),
        (vec![vec![0], vec![1, 2]], [(2, 2), (1, 1), (1, 1)]),
        (vec![vec![0], vec![1], vec![2]], [(1, 1), (2, 1), (1, 1)]),
    ] {
        let mut own = Jpeg::new(33, 31, &sampling);
        own.scans = scans;
        let bytes = own.encode(&ycc_planes(&rgb));
        for cut in (0..bytes.len()).step_by(7) {
            let error = files.decode(&bytes[..cut]).map(|_| ()).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{error}");
        }
        for at in (2..bytes.len()).step_by(3) {
            for byte in [0x00, 0x01, 0x7F, 0xFF] {
                let mut bad = bytes.clone();
                bad[at] = byte;
                match files.decode(&bad) {
                    Ok(image) => decoded += usize::from(image.width > 0),
                    Err(e) => assert_eq!(e.exit_code(), 2, "{e}"),
                }
            }
        }
    }
    assert!(decoded > 0);
}

/// `rgb` of (width, height) as it is to be stored for a viewer who turns it by `orientation`.
fn stored(
    rgb: &[u8],
    (width, height): (usize, usize),
    orientation: u8,
) -> ((usize, usize), Vec<u8>) {
    let (w, h) = match orientation {
        5..=8 => (height, width),
        _ => (width, height),
    };
    let mut out = Vec::new();
    for y in 0..h {
        for x in 0..w {
            // Row 0 is the visual top, right, …: the standard's table, read from the stored side.
            let (sx, sy) = match orientation {
                2 => (width - 1 - x, y),
                3 => (width - 1 - x, height - 1 - y),
                4 => (x, height - 1 - y),
                5 => (y, x),
                6 => (width - 1 - y, x),
                7 => (width - 1 - y, height - 1 - x),
                8 => (y, height - 1 - x),
                _ => (x, y),
            };
            out.extend_from_slice(&rgb[3 * (sy * width + sx)..][..3]);
        }
    }
    ((w, h), out)
}

fn png(size: (usize, usize), rgb: &[u8], block: Option<&[u8]>, behind: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, size.0 as u32, size.1 as u32);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header().unwrap();
    let kind = png::chunk::ChunkType(*b"eXIf");
    if let (Some(block), false) = (block, behind) {
        writer.write_chunk(kind, block).unwrap();
    }
    writer.write_image_data(rgb).unwrap();
    if let (Some(block), true) = (block, behind) {
        writer.write_chunk(kind, block).unwrap();
    }
    writer.finish().unwrap();
    bytes
}

#[test]
fn orientations_are_applied_to_jpegs_and_pngs_in_both_byte_orders() {
    let files = Files::new();
    let size = (33, 20);
    let rgb = picture(size.0, size.1);
    for orientation in 1..=8 {
        let (own, pixels) = stored(&rgb, size, orientation);
        for little in [false, true] {
            let mut file = Jpeg::new(own.0, own.1, &[(1, 1); 3]);
            file.markers = exif(orientation, little);
            let bytes = file.encode(&ycc_planes(&pixels));
            files.near(&bytes, &rgb, &format!("orientation {orientation}"));
            let path = files.put(&bytes);
            let header = |exif| image_header(&path, exif).unwrap();
            assert_eq!(
                header(Exif::Apply),
                Header {
                    size,
                    orientation,
                    given: orientation
                }
            );
            let upright = Header {
                size: own,
                orientation: 1,
                given: orientation,
            };
            assert_eq!(header(Exif::Ignore), upright);
            let ignored = decode_image(&path, Exif::Ignore).unwrap();
            assert!(difference(&ignored.rgb, &pixels) < NEAR);

            for behind in [false, true] {
                let block = tiff(orientation, little);
                let path = files.put(&png(own, &pixels, Some(&block), behind));
                let decoded = decode_image(&path, Exif::Apply).unwrap();
                assert_eq!((decoded.width, decoded.height), size);
                assert!(decoded.rgb == rgb, "PNG, orientation {orientation}");
                assert_eq!(
                    image_header(&path, Exif::Apply).unwrap(),
                    Header {
                        size,
                        orientation,
                        given: orientation
                    }
                );
                assert!(decode_image(&path, Exif::Ignore).unwrap().rgb == pixels);
            }
        }
    }
}

#[test]
fn damaged_exif_data_are_ignored() {
    let files = Files::new();
    let rgb = picture(33, 20);
    let whole = exif(6, true);
    let mut bad: Vec<Vec<u8>> = vec![exif(0, true), exif(9, false), exif(255, true)];
    // Cut blocks, with a length that fits.
    for cut in 4..whole.len() - 7 {
        let mut own = whole[..cut].to_vec();
        own[2..4].copy_from_slice(&(cut as u16 - 2).to_be_bytes());
        bad.push(own);
    }
    // The directory far away, in a circle, of very many entries.
    for (at, byte) in [(14, 0xFF), (17, 0xFF), (14, 0), (20, 0x13), (22, 7)] {
        let mut own = whole.clone();
        own[at] = byte;
        bad.push(own);
    }
    for markers in bad {
        let mut file = Jpeg::new(33, 20, &[(1, 1); 3]);
        file.markers = markers.clone();
        let bytes = file.encode(&ycc_planes(&rgb));
        files.near(&bytes, &rgb, &format!("{markers:?}"));
        let path = files.put(&png(
            (33, 20),
            &rgb,
            Some(&markers[10.min(markers.len())..]),
            false,
        ));
        assert!(
            decode_image(&path, Exif::Apply).unwrap().rgb == rgb,
            "{markers:?}"
        );
    }
}
