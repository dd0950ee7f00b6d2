//! The zip archives that `torch.save` writes: stored records only, checked before any is read.
//!
//! Comes in: a file. Goes out: where each record lies, and its checksum. Names are keys of a table
//! and never paths of this machine. The directory at the end says where records are; each one's
//! own header must agree, and no two may share a byte, so what the file says it holds it does hold.

use std::collections::HashMap;

use super::fault::{AGAIN, Fault, Outcome, shown};
use crate::weights::disk::Disk;

/// Signatures.
pub(super) const LOCAL: u32 = 0x0403_4b50;
pub(super) const CENTRAL: u32 = 0x0201_4b50;
pub(super) const END: u32 = 0x0605_4b50;
pub(super) const END64: u32 = 0x0606_4b50;
pub(super) const LOCATOR64: u32 = 0x0706_4b50;

/// Bytes of the fixed part of each structure.
pub(super) const LOCAL_LEN: usize = 30;
pub(super) const CENTRAL_LEN: usize = 46;
pub(super) const END_LEN: usize = 22;
pub(super) const END64_LEN: usize = 56;
pub(super) const LOCATOR64_LEN: usize = 20;

/// Extra field of sizes beyond 32 bits.
pub(super) const EXTRA64: u16 = 1;

/// The largest directory that is read: a record takes some 70 bytes.
const MAX_DIRECTORY: u64 = 1 << 26;

const PLACE: &str = "the zip directory";

/// A record of the archive.
#[derive(Clone, Debug)]
pub(super) struct Record {
    /// First byte of the contents in the file.
    pub(super) start: u64,
    /// Bytes of the contents.
    pub(super) len: u64,
    /// Their checksum, unless the file was written without.
    pub(super) crc: Option<u32>,
}

/// All records by name.
pub(super) type Records = HashMap<String, Record>;

/// A little-endian number at `at`; callers have checked that the structure is whole.
fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// Reads the directory and checks every record against it and the file.
pub(super) fn records(disk: &Disk) -> Outcome<Records> {
    let directory = Directory::find(disk)?;
    let bytes = disk.up_to(directory.start, directory.len)?;
    let mut rest = bytes.as_slice();
    let mut entries = Vec::new();
    for _ in 0..directory.entries {
        let (entry, after) = Entry::parse(rest)?;
        rest = after;
        entries.push(entry);
    }
    if !rest.is_empty() {
        return Err(damaged(format!("has {} bytes too many", rest.len())));
    }
    entries.sort_by_key(|e| e.header);
    let mut records = Records::new();
    let mut free = 0;
    for entry in entries {
        let record = entry.locate(disk, directory.start)?;
        if entry.header < free {
            return Err(damaged(format!(
                "lets {} overlap another record",
                shown(&entry.name)
            )));
        }
        free = record.start + record.len;
        let name = shown(&entry.name);
        if records.insert(entry.name, record).is_some() {
            return Err(damaged(format!("has {name} twice")));
        }
    }
    Ok(records)
}

/// Where the directory lies.
struct Directory {
    start: u64,
    len: u64,
    entries: u64,
}

impl Directory {
    fn find(disk: &Disk) -> Outcome<Self> {
        let tail_start = disk
            .len()
            .saturating_sub(END_LEN as u64 + u64::from(u16::MAX));
        let tail = disk.up_to(tail_start, disk.len())?;
        // The last structure whose comment ends with the file.
        let is_end = |&at: &usize| {
            u32_at(&tail, at) == END
                && at + END_LEN + usize::from(u16_at(&tail, at + 20)) == tail.len()
        };
        let at = (0..(tail.len() + 1).saturating_sub(END_LEN))
            .rev()
            .find(is_end);
        let Some(at) = at else {
            return Err(Fault::Bad {
                problem: "is a zip archive without an end: it is truncated".into(),
                mend: AGAIN,
            });
        };
        let end = &tail[at..];
        if u16_at(end, 4) != 0 || u16_at(end, 6) != 0 || u16_at(end, 8) != u16_at(end, 10) {
            return Err(damaged("is in several parts"));
        }
        let short = Self {
            start: u64::from(u32_at(end, 16)),
            len: u64::from(u32_at(end, 12)),
            entries: u64::from(u16_at(end, 10)),
        };
        let at = tail_start + at as u64;
        let (found, limit) = match Self::find64(disk, at)? {
            Some((wide, place)) => (wide.agreeing(&short)?, place),
            None => (short, at),
        };
        let end = found.start.checked_add(found.len);
        if end.is_none_or(|e| e > limit) {
            return Err(damaged("lies beyond the file"));
        }
        if found.len > MAX_DIRECTORY || found.entries > found.len / CENTRAL_LEN as u64 {
            return Err(damaged(format!("claims {} records", found.entries)));
        }
        Ok(found)
    }

    /// The structure with 64-bit numbers before the short one at `end`, and where it lies.
    fn find64(disk: &Disk, end: u64) -> Outcome<Option<(Self, u64)>> {
        let Some(at) = end.checked_sub(LOCATOR64_LEN as u64) else {
            return Ok(None);
        };
        let locator = disk.up_to(at, LOCATOR64_LEN as u64)?;
        if u32_at(&locator, 0) != LOCATOR64 {
            return Ok(None);
        }
        let place = u64_at(&locator, 8);
        if place.checked_add(END64_LEN as u64).is_none_or(|e| e > at) {
            return Err(damaged("has its 64-bit part beyond the file"));
        }
        let wide = disk.up_to(place, END64_LEN as u64)?;
        if u32_at(&wide, 0) != END64 || u64_at(&wide, 24) != u64_at(&wide, 32) {
            return Err(damaged("has a broken 64-bit part"));
        }
        let found = Self {
            start: u64_at(&wide, 48),
            len: u64_at(&wide, 40),
            entries: u64_at(&wide, 32),
        };
        Ok(Some((found, place)))
    }

    /// `self`, if the short structure says the same wherever its numbers suffice.
    fn agreeing(self, short: &Self) -> Outcome<Self> {
        let max = u64::from(u32::MAX);
        let same = |short: u64, max: u64, wide: u64| short == max || short == wide;
        if same(short.start, max, self.start)
            && same(short.len, max, self.len)
            && same(short.entries, u64::from(u16::MAX), self.entries)
        {
            Ok(self)
        } else {
            Err(damaged("says two different things about itself"))
        }
    }
}

/// A line of the directory.
struct Entry {
    name: String,
    /// Position of the record's own header.
    header: u64,
    len: u64,
    crc: u32,
}

impl Entry {
    /// The entry at the start of `bytes`, and what comes after.
    fn parse(bytes: &[u8]) -> Outcome<(Self, &[u8])> {
        if bytes.len() < CENTRAL_LEN || u32_at(bytes, 0) != CENTRAL {
            return Err(damaged("is broken"));
        }
        let part = |at: usize| usize::from(u16_at(bytes, at));
        let (name_len, extra_len, comment_len) = (part(28), part(30), part(32));
        let (name_end, total) = (
            CENTRAL_LEN + name_len,
            CENTRAL_LEN + name_len + extra_len + comment_len,
        );
        if bytes.len() < total {
            return Err(damaged("is broken"));
        }
        let name = name(&bytes[CENTRAL_LEN..name_end])?;
        let (flags, method) = (u16_at(bytes, 8), u16_at(bytes, 10));
        if flags & 1 != 0 {
            return Err(damaged(format!("has {} encrypted", shown(&name))));
        }
        if method != 0 {
            return Err(Fault::Bad {
                problem: format!(
                    "{} is compressed (zip method {method}); torch.save stores records as they are",
                    shown(&name)
                ),
                mend: "unpack the archive and pack it again without compression (zip -0)",
            });
        }
        let mut numbers = [
            u64::from(u32_at(bytes, 24)),
            u64::from(u32_at(bytes, 20)),
            u64::from(u32_at(bytes, 42)),
        ];
        widen(&mut numbers, &bytes[name_end..name_end + extra_len])?;
        let [len, packed, header] = numbers;
        if len != packed {
            return Err(damaged(format!("gives {} two sizes", shown(&name))));
        }
        let entry = Self {
            name,
            header,
            len,
            crc: u32_at(bytes, 16),
        };
        Ok((entry, &bytes[total..]))
    }

    /// The record, after a look at its own header; all of it lies before `limit`.
    fn locate(&self, disk: &Disk, limit: u64) -> Outcome<Record> {
        let beyond = || damaged(format!("puts {} beyond the file", shown(&self.name)));
        let fixed = LOCAL_LEN as u64 + self.name.len() as u64;
        if self.header.checked_add(fixed).is_none_or(|e| e > limit) {
            return Err(beyond());
        }
        let head = disk.up_to(self.header, fixed)?;
        let differs = u32_at(&head, 0) != LOCAL
            || u16_at(&head, 8) != 0
            || usize::from(u16_at(&head, 26)) != self.name.len()
            || &head[LOCAL_LEN..] != self.name.as_bytes();
        if differs {
            let name = shown(&self.name);
            return Err(damaged(format!("disagrees with the header of {name}")));
        }
        let start = self.header + fixed + u64::from(u16_at(&head, 28));
        if start.checked_add(self.len).is_none_or(|e| e > limit) {
            return Err(beyond());
        }
        Ok(Record {
            start,
            len: self.len,
            // torch.serialization.set_crc32_options(False) leaves it out.
            crc: (self.crc != 0).then_some(self.crc),
        })
    }
}

/// Replaces the numbers that are too large for 32 bits by those in the extra field.
fn widen(numbers: &mut [u64; 3], mut extra: &[u8]) -> Outcome<()> {
    while extra.len() >= 4 {
        let (id, len) = (u16_at(extra, 0), usize::from(u16_at(extra, 2)));
        let Some(mut body) = extra.get(4..4 + len) else {
            return Err(damaged("has a broken extra field"));
        };
        if id == EXTRA64 {
            let narrow = |n: &&mut u64| **n == u64::from(u32::MAX);
            for number in numbers.iter_mut().filter(narrow) {
                let Some((wide, rest)) = body.split_first_chunk::<8>() else {
                    return Err(damaged("lacks a 64-bit size"));
                };
                *number = u64::from_le_bytes(*wide);
                body = rest;
            }
        }
        extra = &extra[4 + len..];
    }
    Ok(())
}

/// A record's name: text, relative, and going nowhere but down.
fn name(raw: &[u8]) -> Outcome<String> {
    let text = std::str::from_utf8(raw).map_err(|_| damaged("has a name that is not UTF-8"))?;
    let trick = text.starts_with('/')
        || text.contains('\\')
        || text.chars().any(char::is_control)
        || text.split('/').any(|part| part == ".." || part == ".");
    if text.is_empty() || trick {
        return Err(Fault::Bad {
            problem: format!("{PLACE} names a record `{}`", shown(text)),
            mend: "do not trust this file: torch.save writes no such names",
        });
    }
    Ok(text.to_string())
}

fn damaged(problem: impl std::fmt::Display) -> Fault {
    Fault::Bad {
        problem: format!("{PLACE} {problem}"),
        mend: AGAIN,
    }
}
