//! The format of PyTorch before 0.1.10: a tar archive of four files.
//!
//! ```text
//!  sys_info   the machine
//!  storages   number; for each: pickle (key, location, class), elements, their bytes;
//!             then a list of views (key, key of the whole, offset, elements)
//!  tensors    number; for each: pickle (key, storage, class), dimensions, sizes, strides, offset
//!  pickle     the checkpoint; its persistent ids are keys of tensors
//! ```
//!
//! The ImageNet backbones that torchvision offered until 2021 are such files.

use std::collections::HashMap;

use safetensors::Dtype;

use super::dtype;
use super::fault::{Fault, Outcome, shown};
use super::globals::Global;
use super::machine::{MAX_PICKLE, Node, Place, Unpickled, unpickle};
use super::objects::Form;
use super::stream::{little_endian, sized};
use super::strided::{MAX_DIMS, Strided};
use super::zip::Record;
use crate::weights::disk::Disk;

/// Bytes of a header, and the unit that contents are padded to.
const BLOCK: u64 = 512;

/// Files that an archive of PyTorch's has, with room for a folder or two.
const MAX_MEMBERS: usize = 16;

/// Bytes that the largest pickle of `storages` or `tensors` may take.
const MAX_LINE: u64 = 1 << 12;

/// Whether the first block of a file is the header of a tar archive.
pub(super) fn is_tar(block: &[u8]) -> bool {
    block.get(257..262) == Some(b"ustar")
}

/// Where a file of the archive lies.
#[derive(Clone, Copy)]
struct Member {
    start: u64,
    end: u64,
}

/// A part of a storage, by the key that tensors use.
struct Part {
    record: usize,
    dtype: Dtype,
    start: usize,
    elements: usize,
}

/// The checkpoint and where its storages lie.
pub(super) fn read(disk: &Disk) -> Outcome<(Unpickled, Vec<Record>)> {
    let members = members(disk)?;
    let member = |name: &'static str| {
        let found = members.get(name).copied();
        let missing = || Fault::damaged(name, "is not in the archive");
        found
            .map(|m| Cursor {
                disk,
                name,
                at: m.start,
                end: m.end,
            })
            .ok_or_else(missing)
    };
    little_endian(&member("sys_info")?.pickle(MAX_LINE, &Form::Plain)?)?;
    let (parts, records) = storages(&mut member("storages")?)?;
    let tensors = tensors(&mut member("tensors")?, &parts)?;
    let pickle = member("pickle")?.pickle(MAX_PICKLE, &Form::Tar(&tensors))?;
    Ok((pickle, records))
}

/// The archive's files by name.
fn members(disk: &Disk) -> Outcome<HashMap<String, Member>> {
    let mut members = HashMap::new();
    let mut at = 0;
    while at + BLOCK <= disk.len() {
        let head = disk.up_to(at, BLOCK)?;
        if head.iter().all(|&b| b == 0) {
            break;
        }
        let broken = || Fault::damaged(format!("byte {at}"), "a broken tar header");
        if !is_tar(&head) || checksum(&head) != octal(&head[148..156]) {
            return Err(broken());
        }
        let len = octal(&head[124..136]).ok_or_else(broken)?;
        let start = at + BLOCK;
        let end = start.checked_add(len).filter(|&e| e <= disk.len());
        let end =
            end.ok_or_else(|| Fault::damaged(format!("byte {at}"), "the file is truncated"))?;
        let raw = head[..100].split(|&b| b == 0).next().unwrap_or_default();
        let name = String::from_utf8_lossy(raw).into_owned();
        let name = name.strip_prefix("./").unwrap_or(&name).to_string();
        // A file, by type; folders and the rest are of no use here.
        if matches!(head[156], b'0' | 0) {
            let text = shown(&name);
            if members.insert(name, Member { start, end }).is_some() {
                return Err(Fault::damaged(text, "is in the archive twice"));
            }
        }
        if members.len() > MAX_MEMBERS {
            return Err(Fault::foreign(
                "the tar archive",
                "holds more files than PyTorch's",
            ));
        }
        at = end.next_multiple_of(BLOCK);
    }
    Ok(members)
}

/// Octal digits, then spaces or zeros.
fn octal(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(field).ok()?;
    u64::from_str_radix(text.trim_matches([' ', '\0']), 8).ok()
}

/// Sum of a header's bytes, its own field counted as spaces.
fn checksum(head: &[u8]) -> Option<u64> {
    let field = 148..156;
    let sum: u64 = head.iter().map(|&b| u64::from(b)).sum();
    let own: u64 = head[field].iter().map(|&b| u64::from(b)).sum();
    Some(sum - own + 8 * u64::from(b' '))
}

/// A position in a file of the archive.
struct Cursor<'a> {
    disk: &'a Disk,
    name: &'static str,
    at: u64,
    end: u64,
}

impl Cursor<'_> {
    /// The pickle here, of at most `limit` bytes.
    fn pickle(&mut self, limit: u64, form: &Form<'_>) -> Outcome<Unpickled> {
        let bytes = self.disk.up_to(self.at, limit.min(self.end - self.at))?;
        let place = Place {
            name: self.name,
            base: self.at,
        };
        let pickle = unpickle(&bytes, place, form)?;
        self.at += pickle.used as u64;
        Ok(pickle)
    }

    /// How many items follow.
    fn count(&mut self) -> Outcome<u64> {
        let at = self.at;
        let pickle = self.pickle(MAX_LINE, &Form::Plain)?;
        match *pickle.value() {
            // Every item takes more than a byte.
            Node::Int(count) if (0..=i128::from(self.end - self.at)).contains(&count) => {
                Ok(count as u64)
            }
            _ => Err(self.broken(at, "no number of items")),
        }
    }

    /// `count` numbers of 64 bits.
    fn words(&mut self, count: usize) -> Outcome<Vec<u64>> {
        let len = 8 * count as u64;
        if len > self.end - self.at {
            return Err(self.broken(self.at, "the file is truncated"));
        }
        let bytes = self.disk.up_to(self.at, len)?;
        self.at += len;
        let words = bytes.chunks_exact(8);
        Ok(words
            .map(|w| w.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b)))
            .collect())
    }

    /// `count` sizes, strides or offsets.
    fn sizes(&mut self, count: usize) -> Outcome<Vec<usize>> {
        let at = self.at;
        let sizes = self
            .words(count)?
            .into_iter()
            .map(|w| i64::try_from(w).ok().map(|w| w as usize));
        let sizes: Option<Vec<usize>> = sizes.collect();
        sizes.ok_or_else(|| self.broken(at, "a negative size"))
    }

    fn broken(&self, at: u64, problem: impl std::fmt::Display) -> Fault {
        Fault::damaged(format!("{}, byte {at}", self.name), problem)
    }
}

/// The integers and the class of a tuple.
fn tuple(pickle: &Unpickled) -> Option<(Vec<i128>, Option<Global>)> {
    let Node::Tuple(items) = pickle.value() else {
        return None;
    };
    let (mut numbers, mut class) = (Vec::new(), None);
    for &id in items {
        match pickle.node(id) {
            Node::Int(value) => numbers.push(*value),
            Node::Global(global) => class = Some(*global),
            _ => {}
        }
    }
    Some((numbers, class))
}

/// Reads `storages`.
fn storages(cursor: &mut Cursor<'_>) -> Outcome<(HashMap<i128, Part>, Vec<Record>)> {
    let (mut parts, mut records) = (HashMap::new(), Vec::new());
    for _ in 0..cursor.count()? {
        let at = cursor.at;
        let line = cursor.pickle(MAX_LINE, &Form::Plain)?;
        let Some((numbers, Some(Global::Storage(Some(dtype))))) = tuple(&line) else {
            return Err(cursor.broken(at, "a storage of no type"));
        };
        let &[key] = numbers.as_slice() else {
            return Err(cursor.broken(at, "a storage without a key"));
        };
        let size = dtype::bytes(dtype) as u64;
        let record = sized(cursor.disk, cursor.at, size, cursor.end)?;
        cursor.at = record.start + record.len;
        let part = Part {
            record: records.len(),
            dtype,
            start: 0,
            elements: (record.len / size) as usize,
        };
        parts.insert(key, part);
        records.push(record);
    }
    let at = cursor.at;
    let views = cursor.pickle(MAX_PICKLE, &Form::Plain)?;
    let Node::List(list) = views.value() else {
        return Err(cursor.broken(at, "no list of views"));
    };
    for &id in list {
        let (key, part) =
            view(&views, id, &parts).ok_or_else(|| cursor.broken(at, "a broken view"))?;
        parts.insert(key, part);
    }
    Ok((parts, records))
}

/// `(key, key of the whole, offset, elements)`.
fn view(views: &Unpickled, id: usize, parts: &HashMap<i128, Part>) -> Option<(i128, Part)> {
    let Node::Tuple(items) = views.node(id) else {
        return None;
    };
    let number = |i: usize| match items.get(i).map(|&id| views.node(id)) {
        Some(Node::Int(value)) => Some(*value),
        _ => None,
    };
    let whole = parts.get(&number(1)?)?;
    let (start, elements) = (
        usize::try_from(number(2)?).ok()?,
        usize::try_from(number(3)?).ok()?,
    );
    let inside = start
        .checked_add(elements)
        .is_some_and(|end| end <= whole.elements);
    let part = Part {
        record: whole.record,
        dtype: whole.dtype,
        start: whole.start + start,
        elements,
    };
    inside.then_some((number(0)?, part))
}

/// Reads `tensors`.
fn tensors(
    cursor: &mut Cursor<'_>,
    parts: &HashMap<i128, Part>,
) -> Outcome<HashMap<i128, Strided>> {
    let mut tensors = HashMap::new();
    for _ in 0..cursor.count()? {
        let at = cursor.at;
        let line = cursor.pickle(MAX_LINE, &Form::Plain)?;
        let Some((numbers, Some(Global::TensorClass))) = tuple(&line) else {
            return Err(cursor.broken(at, "a tensor of no type"));
        };
        let &[key, storage] = numbers.as_slice() else {
            return Err(cursor.broken(at, "a tensor without a key"));
        };
        let Some(part) = parts.get(&storage) else {
            return Err(cursor.broken(at, "a tensor without a storage"));
        };
        // The upper half of these 64 bits was never set.
        let dims = cursor.words(1)?[0] as u32 as usize;
        if dims > MAX_DIMS {
            return Err(cursor.broken(at, format!("a tensor of {dims} dimensions")));
        }
        let (shape, strides) = (cursor.sizes(dims)?, cursor.sizes(dims)?);
        let offset = cursor.sizes(1)?[0].saturating_add(part.start);
        let size = dtype::bytes(part.dtype) as u64;
        let room = (part.start + part.elements) as u64 * size;
        let tensor = Strided::new(part.record, room, part.dtype, offset, shape, strides)
            .map_err(|problem| cursor.broken(at, problem))?;
        tensors.insert(key, tensor);
    }
    Ok(tensors)
}
