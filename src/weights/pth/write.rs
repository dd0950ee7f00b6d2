//! Writing `.pth` files: the zip archive that `torch.save` of today would write.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use safetensors::Dtype;

use super::pickler::pickle;
use super::tree::Value;
use super::zip::{CENTRAL, END, END64, END64_LEN, EXTRA64, LOCAL, LOCAL_LEN, LOCATOR64};
use crate::error::{Error, Result};
use crate::weights::files::replace;

/// Folder of all records.
const FOLDER: &str = "archive";

/// Storages begin at multiples of this, so that they can be mapped.
const ALIGN: u64 = 64;

/// Extra field of padding, as PyTorch's.
const PADDING: u16 = u16::from_le_bytes(*b"FB");

/// Version of zip needed to read: 4.5, the first with 64-bit sizes.
const VERSION: u16 = 45;

/// Flag: names are UTF-8.
const UTF8: u16 = 1 << 11;

/// A tensor to be written.
pub(in crate::weights) struct Tensor<'a> {
    pub(in crate::weights) dtype: Dtype,
    pub(in crate::weights) shape: Vec<usize>,
    /// Its elements in row-major order, fetched when their turn comes.
    pub(in crate::weights) bytes: Box<dyn Fn() -> Result<Vec<u8>> + 'a>,
}

/// Writes a file whole or not at all. Its bytes are a function of `root` and `tensors`.
///
/// # Errors
/// [`Error::Io`] when the folder cannot be written, those of the tensors' bytes.
pub(in crate::weights) fn write(path: &Path, root: &Value, tensors: &[Tensor<'_>]) -> Result<()> {
    let data = pickle(root, tensors)?;
    replace(path, None, |file| {
        let io = |e| Error::io(path, "write the weights", e);
        let mut zip = Zip {
            out: BufWriter::with_capacity(1 << 20, file),
            at: 0,
            entries: Vec::new(),
        };
        zip.record("data.pkl", &data).map_err(io)?;
        zip.record("byteorder", b"little").map_err(io)?;
        for (i, tensor) in tensors.iter().enumerate() {
            let bytes = (tensor.bytes)()?;
            zip.record(&format!("data/{i}"), &bytes).map_err(io)?;
        }
        zip.record("version", b"3\n").map_err(io)?;
        zip.finish().map_err(io)
    })
}

struct Zip<'a> {
    out: BufWriter<&'a File>,
    /// Bytes written.
    at: u64,
    entries: Vec<Entry>,
}

/// A line of the directory.
struct Entry {
    name: String,
    header: u64,
    len: u64,
    crc: u32,
}

/// A number in 32 bits, or the mark that says that it is in the extra field.
fn short(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

fn is_long(value: u64) -> bool {
    value >= u64::from(u32::MAX)
}

/// Fields of a structure, little-endian.
#[derive(Default)]
struct Fields(Vec<u8>);

impl Fields {
    fn u16(mut self, value: u16) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }
}

impl Zip<'_> {
    fn put(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.at += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn record(&mut self, name: &str, contents: &[u8]) -> std::io::Result<()> {
        let entry = Entry {
            name: format!("{FOLDER}/{name}"),
            header: self.at,
            len: contents.len() as u64,
            crc: crc32fast::hash(contents),
        };
        let mut extra = Vec::new();
        if is_long(entry.len) {
            extra = Fields::default()
                .u16(EXTRA64)
                .u16(16)
                .u64(entry.len)
                .u64(entry.len)
                .0;
        }
        let before = self.at + (LOCAL_LEN + entry.name.len() + extra.len() + 4) as u64;
        let padding = before.next_multiple_of(ALIGN) - before;
        extra.extend(Fields::default().u16(PADDING).u16(padding as u16).0);
        extra.resize(extra.len() + padding as usize, b'Z');
        let head = Fields::default()
            .u32(LOCAL)
            .u16(VERSION)
            .u16(UTF8)
            // Stored, at no time: the same input gives the same bytes.
            .u16(0)
            .u32(0)
            .u32(entry.crc)
            .u32(short(entry.len))
            .u32(short(entry.len))
            .u16(entry.name.len() as u16)
            .u16(extra.len() as u16);
        self.put(&head.0)?;
        self.put(entry.name.as_bytes())?;
        self.put(&extra)?;
        self.put(contents)?;
        self.entries.push(entry);
        Ok(())
    }

    /// Writes the directory and its ends, the long and the short.
    fn finish(mut self) -> std::io::Result<()> {
        let start = self.at;
        let entries = std::mem::take(&mut self.entries);
        for entry in &entries {
            self.line(entry)?;
        }
        let (len, end, count) = (self.at - start, self.at, entries.len() as u64);
        let ends = Fields::default()
            .u32(END64)
            // What follows of this structure.
            .u64(END64_LEN as u64 - 12)
            .u16(VERSION)
            .u16(VERSION)
            .u32(0)
            .u32(0)
            .u64(count)
            .u64(count)
            .u64(len)
            .u64(start)
            .u32(LOCATOR64)
            .u32(0)
            .u64(end)
            .u32(1)
            .u32(END)
            .u32(0)
            .u16(u16::try_from(count).unwrap_or(u16::MAX))
            .u16(u16::try_from(count).unwrap_or(u16::MAX))
            .u32(short(len))
            .u32(short(start))
            .u16(0);
        self.put(&ends.0)?;
        self.out.flush()
    }

    /// A line of the directory.
    fn line(&mut self, entry: &Entry) -> std::io::Result<()> {
        let mut wide = Fields::default();
        if is_long(entry.len) {
            wide = wide.u64(entry.len).u64(entry.len);
        }
        if is_long(entry.header) {
            wide = wide.u64(entry.header);
        }
        let mut extra = Vec::new();
        if !wide.0.is_empty() {
            extra = Fields::default().u16(EXTRA64).u16(wide.0.len() as u16).0;
            extra.extend(wide.0);
        }
        let head = Fields::default()
            .u32(CENTRAL)
            .u16(VERSION)
            .u16(VERSION)
            .u16(UTF8)
            .u16(0)
            .u32(0)
            .u32(entry.crc)
            .u32(short(entry.len))
            .u32(short(entry.len))
            .u16(entry.name.len() as u16)
            .u16(extra.len() as u16)
            // No comment, the first disk, no attributes.
            .u16(0)
            .u16(0)
            .u16(0)
            .u32(0)
            .u32(short(entry.header));
        self.put(&head.0)?;
        self.put(entry.name.as_bytes())?;
        self.put(&extra)
    }
}
