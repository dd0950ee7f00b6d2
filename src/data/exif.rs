//! EXIF orientation: how a camera was held, and the pixels turned as viewers show them.
//!
//! Damaged EXIF data say nothing: a picture is never refused for them.

/// Orientation tag of the first image directory.
const TAG: u16 = 0x0112;
/// Entries of a directory that are looked at; real ones have some dozens.
const MOST_ENTRIES: u16 = 1024;

/// The orientation, 1 to 8, in an APP1 segment of a JPEG; `None` when it holds no EXIF data.
pub(super) fn of_app1(segment: &[u8]) -> Option<u8> {
    let block = segment.strip_prefix(b"Exif\0")?;
    // A pad byte, 00 or FF.
    Some(of_tiff(block.get(1..)?).unwrap_or(1))
}

/// The orientation, 1 to 8, of a TIFF block in either byte order; `None` when it gives none.
pub(super) fn of_tiff(block: &[u8]) -> Option<u8> {
    let little = match block.get(..4)? {
        b"II*\0" => true,
        b"MM\0*" => false,
        _ => return None,
    };
    let short = |at: usize| -> Option<u16> {
        let pair: [u8; 2] = block.get(at..at.checked_add(2)?)?.try_into().ok()?;
        Some(match little {
            true => u16::from_le_bytes(pair),
            false => u16::from_be_bytes(pair),
        })
    };
    let long = |at: usize| -> Option<usize> {
        let four: [u8; 4] = block.get(at..at.checked_add(4)?)?.try_into().ok()?;
        Some(match little {
            true => u32::from_le_bytes(four),
            false => u32::from_be_bytes(four),
        } as usize)
    };
    let directory = long(4)?;
    let entries = short(directory)?.min(MOST_ENTRIES);
    for i in 0..usize::from(entries) {
        let entry = directory.checked_add(2 + 12 * i)?;
        if short(entry)? != TAG {
            continue;
        }
        // A SHORT by the standard; some programs write a LONG, and some a byte.
        let value = match short(entry + 2)? {
            1 => usize::from(*block.get(entry + 8)?),
            3 => usize::from(short(entry + 8)?),
            4 => long(entry + 8)?,
            _ => return None,
        };
        return u8::try_from(value).ok().filter(|o| (1..=8).contains(o));
    }
    None
}

/// Whether the orientation exchanges width and height.
pub(super) fn is_on_its_side(orientation: u8) -> bool {
    (5..=8).contains(&orientation)
}

/// (width, height) as it is seen.
pub(super) fn seen_size((width, height): (usize, usize), orientation: u8) -> (usize, usize) {
    match is_on_its_side(orientation) {
        true => (height, width),
        false => (width, height),
    }
}

/// Packed RGB of (width, height) turned as it is seen, with its new size.
pub(super) fn turn(
    (width, height): (usize, usize),
    rgb: Vec<u8>,
    orientation: u8,
) -> ((usize, usize), Vec<u8>) {
    if !(2..=8).contains(&orientation) {
        return ((width, height), rgb);
    }
    let (w, h) = seen_size((width, height), orientation);
    let mut out = Vec::with_capacity(rgb.len());
    for y in 0..h {
        for x in 0..w {
            // Where the pixel that is seen at (x, y) is stored.
            let (sx, sy) = match orientation {
                2 => (width - 1 - x, y),
                3 => (width - 1 - x, height - 1 - y),
                4 => (x, height - 1 - y),
                5 => (y, x),
                6 => (y, height - 1 - x),
                7 => (width - 1 - y, height - 1 - x),
                _ => (width - 1 - y, x),
            };
            let at = 3 * (sy * width + sx);
            out.extend_from_slice(&rgb[at..at + 3]);
        }
    }
    ((w, h), out)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A TIFF block of one directory, the tag among two others.
    fn block(little: bool, kind: u16, value: u32) -> Vec<u8> {
        let short = |v: u16| {
            if little {
                v.to_le_bytes()
            } else {
                v.to_be_bytes()
            }
        };
        let long = |v: u32| {
            if little {
                v.to_le_bytes()
            } else {
                v.to_be_bytes()
            }
        };
        let mut out = if little {
            b"II*\0".to_vec()
        } else {
            b"MM\0*".to_vec()
        };
        out.extend(long(8));
        out.extend(short(3));
        for (tag, kind, value) in [(0x010F, 3, 9), (TAG, kind, value), (0x0128, 3, 2)] {
            out.extend(short(tag));
            out.extend(short(kind));
            out.extend(long(1));
            match kind {
                1 => out.extend([value as u8, 0, 0, 0]),
                3 => out.extend([short(value as u16), [0, 0]].concat()),
                _ => out.extend(long(value)),
            }
        }
        out
    }

    #[test]
    fn all_orientations_in_both_byte_orders_and_three_types() {
        for little in [true, false] {
            for kind in [1, 3, 4] {
                for value in 1..=8 {
                    assert_eq!(of_tiff(&block(little, kind, value)), Some(value as u8));
                }
                for value in [0, 9, 255] {
                    assert_eq!(of_tiff(&block(little, kind, value)), None);
                }
            }
            assert_eq!(of_tiff(&block(little, 2, 6)), None);
        }
    }

    #[test]
    fn damaged_blocks_say_nothing() {
        for little in [true, false] {
            let whole = block(little, 3, 6);
            for cut in 0..whole.len() {
                // Cut behind the value it is still there.
                let expected = (cut >= 32).then_some(6);
                assert_eq!(of_tiff(&whole[..cut]), expected, "{cut}");
            }
            for at in 0..whole.len() {
                for byte in [0, 1, 127, 255] {
                    let mut bad = whole.clone();
                    bad[at] = byte;
                    let found = of_tiff(&bad);
                    assert!(found.is_none_or(|o| (1..=8).contains(&o)));
                }
            }
        }
        assert_eq!(of_app1(b"http://ns.adobe.com/xap/1.0/\0"), None);
        assert_eq!(of_app1(b"Exif\0\0II"), Some(1));
    }

    #[test]
    fn turning_moves_the_corners_where_the_standard_says() {
        // Stored rows:  0 1 2 / 3 4 5.
        let rgb: Vec<u8> = (0..6).flat_map(|v| [v; 3]).collect();
        let expected: [(u8, (usize, usize), [u8; 6]); 9] = [
            (0, (3, 2), [0, 1, 2, 3, 4, 5]),
            (1, (3, 2), [0, 1, 2, 3, 4, 5]),
            (2, (3, 2), [2, 1, 0, 5, 4, 3]),
            (3, (3, 2), [5, 4, 3, 2, 1, 0]),
            (4, (3, 2), [3, 4, 5, 0, 1, 2]),
            (5, (2, 3), [0, 3, 1, 4, 2, 5]),
            (6, (2, 3), [3, 0, 4, 1, 5, 2]),
            (7, (2, 3), [5, 2, 4, 1, 3, 0]),
            (8, (2, 3), [2, 5, 1, 4, 0, 3]),
        ];
        for (orientation, size, order) in expected {
            let (got, turned) = turn((3, 2), rgb.clone(), orientation);
            let values: Vec<u8> = turned.chunks(3).map(|p| p[0]).collect();
            assert_eq!((got, &values[..]), (size, &order[..]), "{orientation}");
            assert_eq!(seen_size((3, 2), orientation), size);
        }
    }
}
