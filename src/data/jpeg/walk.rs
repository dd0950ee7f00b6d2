//! The markers of a JPEG, from its start to its end: which decoder gives its pixels, and how its
//! colours are stored.
//!
//! The fast decoder (zune-jpeg 0.5.15) is right for what cameras and programs write by default. It
//! is not, and says nothing or panics, for sequential files of several scans, for files whose first
//! component is not the one of most samples, for three samples to one, and where the hints about
//! colours contradict each other; and it refuses bytes between segments, which libjpeg passes over.

use super::{APP0, APP14, DRI, EOI, MAGIC, SOS, is_frame};

/// One component of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Component {
    id: u8,
    /// Samples across and down, of the most that a component has.
    across: usize,
    down: usize,
}

/// A frame header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    marker: u8,
    bits: u8,
    pub(super) width: usize,
    pub(super) height: usize,
    components: Vec<Component>,
}

impl Frame {
    /// Reads the segment of `marker`, without its length.
    pub(super) fn parse(marker: u8, segment: &[u8]) -> Result<Frame, String> {
        let cut = || "the JPEG has a damaged frame header".to_string();
        let [bits, h1, h0, w1, w0, count, rest @ ..] = segment else {
            return Err(cut());
        };
        let components: Vec<Component> = rest
            .chunks_exact(3)
            .take(usize::from(*count))
            .map(|c| Component {
                id: c[0],
                across: usize::from(c[1] >> 4),
                down: usize::from(c[1] & 15),
            })
            .collect();
        let range = 1..=4;
        let legal = |c: &Component| range.contains(&c.across) && range.contains(&c.down);
        if components.len() != usize::from(*count) || !components.iter().all(legal) {
            return Err(cut());
        }
        Ok(Frame {
            marker,
            bits: *bits,
            width: usize::from(u16::from_be_bytes([*w1, *w0])),
            height: usize::from(u16::from_be_bytes([*h1, *h0])),
            components,
        })
    }

    /// Refuses what neither decoder reads, by its name.
    pub(super) fn accept(&self) -> Result<(), String> {
        let unread = |what: String| Err(format!("the JPEG is {what}, which is not read"));
        match self.marker {
            0xC3 | 0xCB => return unread("lossless".into()),
            0xC5..=0xC7 | 0xCD..=0xCF => return unread("hierarchical".into()),
            0xC9 | 0xCA => return unread("coded arithmetically".into()),
            _ => {}
        }
        if self.bits != 8 {
            return unread(format!("of {} bits a sample", self.bits));
        }
        if !matches!(self.components.len(), 1 | 3 | 4) {
            return unread(format!("of {} components", self.components.len()));
        }
        if self.width == 0 {
            return Err("the JPEG has no width".into());
        }
        if self.height == 0 {
            return unread("without a height in its header".into());
        }
        Ok(())
    }

    fn is_progressive(&self) -> bool {
        self.marker == 0xC2
    }

    fn most(&self, side: impl Fn(&Component) -> usize) -> usize {
        self.components.iter().map(side).max().unwrap_or(1)
    }
}

/// How the components mean colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colors {
    Gray,
    Rgb,
    YCbCr,
    Cmyk,
    Ycck,
}

/// What the markers of a whole file say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Walk {
    /// Position of the end-of-image marker.
    pub(super) end: usize,
    pub(super) frame: Frame,
    /// Components of each scan.
    scans: Vec<Vec<u8>>,
    restarts: bool,
    /// Bytes between segments that belong to none.
    stray: bool,
    jfif: bool,
    /// The colour transform of Adobe's marker.
    adobe: Option<u8>,
}

impl Walk {
    /// Follows the markers to the end of the image; `None` when the file stops before it.
    pub(super) fn of(bytes: &[u8]) -> Result<Option<Walk>, String> {
        let mut frame = None;
        let mut walk = Walk {
            end: 0,
            frame: Frame {
                marker: 0,
                bits: 0,
                width: 0,
                height: 0,
                components: Vec::new(),
            },
            scans: Vec::new(),
            restarts: false,
            stray: false,
            jfif: false,
            adobe: None,
        };
        let mut at = MAGIC.len();
        // Whether entropy-coded bytes may stand at `at`.
        let mut coded = false;
        loop {
            let Some(found) = next_marker(bytes, at) else {
                return Ok(None);
            };
            // Fill bytes, FF before a marker, are legal.
            walk.stray |= !coded && bytes[at..found].iter().any(|&b| b != 0xFF);
            let marker = bytes[found + 1];
            match marker {
                EOI => {
                    walk.end = found;
                    walk.frame = frame.ok_or("the JPEG has no frame header")?;
                    return Ok(Some(walk));
                }
                // Markers without a segment.
                0x01 | 0xD0..=0xD8 => {
                    at = found + 2;
                    continue;
                }
                _ => {}
            }
            let Some(length) = bytes.get(found + 2..found + 4) else {
                return Ok(None);
            };
            let next = found + 2 + usize::from(u16::from_be_bytes([length[0], length[1]]));
            let Some(segment) = bytes.get(found + 4..next) else {
                return match next < found + 4 {
                    true => Err("the JPEG is damaged (a segment of no length)".into()),
                    false => Ok(None),
                };
            };
            match marker {
                SOS => walk.scans.push(scan_components(segment)),
                DRI => walk.restarts |= segment.iter().any(|&b| b != 0),
                APP0 => walk.jfif |= segment.starts_with(b"JFIF\0"),
                APP14 if segment.starts_with(b"Adobe") => walk.adobe = segment.get(11).copied(),
                _ if is_frame(marker) => frame = Some(Frame::parse(marker, segment)?),
                _ => {}
            }
            coded = marker == SOS;
            at = next;
        }
    }

    /// One scan of baseline or extended sequential coding without restart intervals.
    pub(super) fn is_one_plain_scan(&self) -> bool {
        !self.frame.is_progressive() && self.scans.len() == 1 && !self.restarts
    }

    /// Whether the fast decoder gives the pixels that libjpeg gives.
    pub(super) fn suits_fast(&self) -> bool {
        let frame = &self.frame;
        let all = frame.components.len();
        let (across, down) = (frame.most(|c| c.across), frame.most(|c| c.down));
        let plain = |c: &Component| {
            // A third, or two thirds of the samples, it refuses.
            c.across != 3
                && c.down != 3
                && [across, 1].contains(&c.across)
                && [down, 1].contains(&c.down)
        };
        let scans = match frame.is_progressive() {
            true => true,
            false => self.scans.len() == 1 && self.scans[0].len() == all,
        };
        scans
            && !self.stray
            && frame.components.iter().all(plain)
            && frame
                .components
                .first()
                .is_some_and(|c| (c.across, c.down) == (across, down))
            && self.colors() == self.colors_of_fast()
    }

    /// Whether the careful decoder counts the blocks of a scan of one component wrongly: it knows
    /// components of as many samples as any, and of one, but not of numbers between.
    pub(super) fn misses_blocks(&self) -> bool {
        let frame = &self.frame;
        let (across, down) = (frame.most(|c| c.across), frame.most(|c| c.down));
        let differ = |size: usize, own: usize, most: usize| {
            let blocks = (size * own).div_ceil(most).div_ceil(8);
            let units = size.div_ceil(8 * most);
            blocks != (units * own).min(size.div_ceil(8))
        };
        let mut alone = self.scans.iter().filter(|ids| ids.len() == 1).flatten();
        alone.any(|id| {
            let found = frame.components.iter().find(|c| c.id == *id);
            found.is_some_and(|c| {
                differ(frame.width, c.across, across) || differ(frame.height, c.down, down)
            })
        })
    }

    /// What the components mean, as libjpeg decides it.
    pub(super) fn colors(&self) -> Colors {
        match (self.frame.components.len(), self.adobe) {
            (1, _) => Colors::Gray,
            (4, None | Some(0)) => Colors::Cmyk,
            (4, _) => Colors::Ycck,
            _ if self.jfif => Colors::YCbCr,
            (_, Some(0)) => Colors::Rgb,
            (_, Some(_)) => Colors::YCbCr,
            _ if self.named_rgb() => Colors::Rgb,
            _ => Colors::YCbCr,
        }
    }

    /// What the fast decoder takes them for.
    fn colors_of_fast(&self) -> Colors {
        match (self.frame.components.len(), self.adobe) {
            (1, _) => Colors::Gray,
            (4, Some(2)) => Colors::Ycck,
            (4, _) => Colors::Cmyk,
            _ if self.named_rgb() || self.adobe == Some(0) => Colors::Rgb,
            _ => Colors::YCbCr,
        }
    }

    fn named_rgb(&self) -> bool {
        self.frame.components.iter().map(|c| c.id).eq(*b"RGB")
    }
}

/// Ids of the components of a scan.
fn scan_components(segment: &[u8]) -> Vec<u8> {
    let count = segment.first().map_or(0, |&n| usize::from(n));
    let pairs = segment.get(1..).unwrap_or_default().chunks_exact(2);
    pairs.take(count).map(|pair| pair[0]).collect()
}

/// Position of the next marker at or after `from`: past entropy-coded bytes, in which FF is
/// followed by 00, and past fill bytes, FF before FF.
fn next_marker(bytes: &[u8], from: usize) -> Option<usize> {
    let tail = bytes.get(from..)?;
    let found = tail
        .windows(2)
        .position(|pair| pair[0] == 0xFF && pair[1] != 0x00 && pair[1] != 0xFF)?;
    Some(from + found)
}
