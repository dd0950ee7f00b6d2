//! PyTorch's `.pth` files, read without running anything.
//!
//! A `.pth` file is a pickle, a program that builds Python objects, beside the bytes of its
//! tensors. Here the pickle is interpreted by a machine that knows tensors, containers, numbers and
//! strings; other objects are data without a meaning, left out by name, and what would run something is
//! refused by name and position: a file can do no more than hold weights.
//!
//! ```text
//!  zip     (1.6 and newer)   zip ──records──┐
//!  stream  (0.1.10 to 1.5)   stream ────────┼─► machine ─► objects ─► tree ─► names
//!  tar     (before)          tar ───────────┘     │ Strided              │ Value
//!                                                 └── read(name): bytes in row-major order
//! ```
//!
//! Tensors get the names that lead to them, such as `model_state.module.encoder.conv1.0.weight`.
//! A file that this engine wrote gives them their names in its own checkpoints instead
//! ([`layout`]).

mod dtype;
mod fault;
mod globals;
mod layout;
mod machine;
mod note;
mod objects;
mod pickler;
mod stream;
mod strided;
mod tar;
mod tree;
mod write;
mod zip;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use safetensors::Dtype;

pub(super) use dtype::holds;
pub(super) use fault::shown;
use fault::{Fault, Outcome};
pub(super) use layout::engine_file;
use machine::{MAX_PICKLE, Place, Unpickled, unpickle};
pub(super) use note::{from_note, to_note};
use objects::Form;
use strided::Strided;
pub(super) use tree::{Key, Skipped, Value};
pub(super) use write::{Tensor, write};
use zip::{Record, Records};

use super::disk::Disk;
use crate::error::{Error, Result};

/// Bytes of the file that say what it is.
pub(super) const PREFIX: u64 = 512;

/// All tensors together take at most this many times the file, and this much more: a few bytes can
/// name the same storage again and again.
const MAX_FOLD: u64 = 16;
const MAX_FREE: u64 = 1 << 26;

/// Bytes that are read at once to check a record.
const CHUNK: u64 = 1 << 20;

/// An open `.pth` file. Tensors are read one at a time.
#[derive(Debug)]
pub(super) struct Archive {
    disk: Disk,
    records: Vec<Record>,
    /// Whether a record's checksum has been found right.
    checked: Mutex<Vec<bool>>,
    tensors: Vec<Strided>,
    /// Names of the tensors, and their numbers.
    names: Vec<String>,
    index: HashMap<String, usize>,
    metadata: BTreeMap<String, String>,
    root: Value,
    skipped: Vec<Skipped>,
}

impl Archive {
    /// Whether a file that begins with `prefix` may be one.
    pub(super) fn recognises(prefix: &[u8]) -> bool {
        prefix.starts_with(b"PK\x03\x04") || prefix.starts_with(b"\x80") || tar::is_tar(prefix)
    }

    /// Reads the pickle of an open file and checks where every tensor lies. `path` is for errors.
    ///
    /// # Errors
    /// [`Error::Input`] naming the place in the file when it is damaged or holds more than
    /// tensors, [`Error::Io`] when it cannot be read.
    pub(super) fn new(path: &Path, disk: Disk) -> Result<Self> {
        Self::read_in(disk).map_err(|fault| fault.of(path))
    }

    fn read_in(disk: Disk) -> Outcome<Self> {
        let prefix = disk.up_to(0, PREFIX)?;
        let (pickle, records, name) = if prefix.starts_with(b"PK\x03\x04") {
            read_zip(&disk)?
        } else if tar::is_tar(&prefix) {
            let (pickle, records) = tar::read(&disk)?;
            (pickle, records, "pickle".to_string())
        } else {
            let (pickle, records) = stream::read(&disk)?;
            (pickle, records, "the pickle stream".to_string())
        };
        let (root, tensors, skipped) = tree::tree(&pickle, &name)?;
        let most = disk.len().saturating_mul(MAX_FOLD).saturating_add(MAX_FREE);
        let sum = |sum: u64, t: &Strided| sum.saturating_add(t.bytes() as u64);
        let total = tensors.iter().fold(0, sum);
        if total > most {
            return Err(Fault::foreign(
                &name,
                format!(
                    "its tensors unfold to {total} bytes, the file has {}",
                    disk.len()
                ),
            ));
        }
        let mut names = tree::names(&root)?;
        let metadata = layout::adopt(&root, &mut names);
        let mut index = HashMap::new();
        for (i, name) in names.iter().enumerate() {
            if index.insert(name.clone(), i).is_some() {
                let text = format!("two tensors under the name {}", shown(name));
                return Err(Fault::foreign("the names", text));
            }
        }
        Ok(Self {
            checked: Mutex::new(vec![false; records.len()]),
            disk,
            records,
            tensors,
            names,
            index,
            metadata,
            root,
            skipped,
        })
    }

    /// What the file holds; tensors are numbered as [`Archive::names`] lists them.
    pub(super) fn root(&self) -> &Value {
        &self.root
    }

    /// What the file holds besides that is neither tensor, container, number nor string.
    pub(super) fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// Names of all tensors, in the order of the file's containers.
    pub(super) fn names(&self) -> &[String] {
        &self.names
    }

    /// Metadata of a file that this engine wrote.
    pub(super) fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// Type and shape of a tensor.
    pub(super) fn info(&self, name: &str) -> Option<(Dtype, &[usize])> {
        let tensor = &self.tensors[*self.index.get(name)?];
        Some((tensor.dtype, &tensor.shape))
    }

    /// Fills `out` with the elements of a tensor in row-major order.
    ///
    /// # Errors
    /// [`Error::Input`] when its storage is damaged, [`Error::Io`] when it cannot be read,
    /// [`Error::Internal`] when there is no such tensor or `out` is of another size.
    pub(super) fn read(&self, path: &Path, name: &str, out: &mut [u8]) -> Result<()> {
        let tensor = self.index.get(name).map(|&i| &self.tensors[i]);
        match tensor.filter(|t| t.bytes() == out.len()) {
            Some(tensor) => self.fill(tensor, out).map_err(|fault| fault.of(path)),
            None => Err(Error::internal(format!(
                "{name}: {} bytes asked for",
                out.len()
            ))),
        }
    }

    fn fill(&self, tensor: &Strided, out: &mut [u8]) -> Outcome<()> {
        let record = &self.records[tensor.storage];
        let (start, span) = tensor.range();
        if tensor.is_contiguous() {
            self.disk.read(record.start + start, out)?;
        } else {
            let bytes = self.disk.up_to(record.start + start, span as u64)?;
            tensor.gather(&bytes, out);
        }
        let whole = tensor.is_contiguous() && out.len() as u64 == record.len;
        self.check(tensor.storage, whole.then_some(&*out))
    }

    /// Checks a record's checksum, once; `contents` are its bytes if they are at hand.
    fn check(&self, record: usize, contents: Option<&[u8]>) -> Outcome<()> {
        let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
        if !checked[record] {
            verify(&self.disk, &self.records[record], contents)?;
            checked[record] = true;
        }
        Ok(())
    }
}

/// Compares a record with its checksum, if it has one.
fn verify(disk: &Disk, record: &Record, contents: Option<&[u8]>) -> Outcome<()> {
    let Some(expected) = record.crc else {
        return Ok(());
    };
    let mut hash = crc32fast::Hasher::new();
    match contents {
        Some(bytes) => hash.update(bytes),
        None => {
            let mut at = 0;
            while at < record.len {
                let bytes = disk.up_to(record.start + at, CHUNK.min(record.len - at))?;
                hash.update(&bytes);
                at += bytes.len() as u64;
            }
        }
    }
    if hash.finalize() == expected {
        return Ok(());
    }
    let (from, to) = (record.start, record.start + record.len);
    Err(Fault::damaged(
        format!("bytes {from} to {to}"),
        "do not match their checksum",
    ))
}

/// The pickle of a zip archive, its storages in the order of its references, and its name.
fn read_zip(disk: &Disk) -> Outcome<(Unpickled, Vec<Record>, String)> {
    let records = zip::records(disk)?;
    let root = top_folder(&records)?;
    let record = |name: &str| records.get(&format!("{root}/{name}"));
    if record("constants.pkl").is_some() {
        return Err(Fault::foreign(
            "the zip archive",
            "is a TorchScript program",
        ));
    }
    if let Some(order) = record("byteorder") {
        verify(disk, order, None)?;
        match disk.up_to(order.start, order.len.min(16))?.as_slice() {
            b"little" => {}
            b"big" => return Err(stream::big_endian()),
            _ => return Err(Fault::damaged("byteorder", "is neither little nor big")),
        }
    }
    let name = format!("{}/data.pkl", shown(root));
    let data = record("data.pkl").ok_or_else(|| Fault::damaged(&name, "is missing"))?;
    if data.len > MAX_PICKLE {
        let problem = format!("a pickle of more than {} MiB", MAX_PICKLE >> 20);
        return Err(Fault::foreign(name, problem));
    }
    let bytes = disk.up_to(data.start, data.len)?;
    verify(disk, data, Some(&bytes))?;
    let place = Place {
        name: &name,
        base: 0,
    };
    let pickle = unpickle(&bytes, place, &Form::Zip)?;
    if pickle.used < bytes.len() {
        let problem = format!("{} bytes after its end", bytes.len() - pickle.used);
        return Err(Fault::damaged(name, problem));
    }
    let storages = pickle.storages.iter().map(|storage| {
        let key = format!("data/{}", storage.key);
        match record(&key) {
            Some(record) if record.len == storage.bytes => Ok(record.clone()),
            Some(record) => Err(Fault::damaged(
                format!("{root}/{key}"),
                format!(
                    "has {} bytes where its tensors want {}",
                    record.len, storage.bytes
                ),
            )),
            None => Err(Fault::damaged(
                format!("{}/{key}", shown(root)),
                "is missing",
            )),
        }
    });
    let storages = storages.collect::<Outcome<Vec<Record>>>()?;
    Ok((pickle, storages, name))
}

/// The folder that all records of an archive lie in, named after the file when it was written.
fn top_folder(records: &Records) -> Outcome<&str> {
    let data = records
        .keys()
        .filter_map(|name| name.strip_suffix("/data.pkl"));
    let mut folders: Vec<&str> = data.filter(|folder| !folder.contains('/')).collect();
    folders.sort_unstable();
    match folders.as_slice() {
        [one] => Ok(one),
        [] => Err(Fault::Bad {
            problem: "is a zip archive without data.pkl: not a PyTorch file".into(),
            mend: "give a file that torch.save wrote",
        }),
        many => Err(Fault::damaged(
            "the zip archive",
            format!("holds {} data.pkl", many.len()),
        )),
    }
}
