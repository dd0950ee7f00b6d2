//! The safetensors format: a JSON header that names every tensor, then their bytes.

use std::collections::HashMap;
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::Metadata;

use super::digest;
use super::disk::Disk;
use super::pth::shown;
use crate::error::{Error, Result};

/// Headers larger than this are refused (as the format's own library does).
const MAX_HEADER: u64 = 100_000_000;

/// An open safetensors file.
#[derive(Debug)]
pub(super) struct Safetensors {
    disk: Disk,
    header: Metadata,
    /// Position of the first tensor.
    start: u64,
    /// What the bytes of each tensor sum up to, where the file says so.
    digests: HashMap<String, u32>,
}

impl Safetensors {
    /// Whether a file that begins with `prefix` may be one.
    pub(super) fn recognises(prefix: &[u8]) -> bool {
        header_length(prefix).is_some()
    }

    /// Checks the header of an open file against its size.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, [`Error::Input`] when it is not a safetensors file
    /// or a part of it is missing.
    pub(super) fn new(path: &Path, disk: Disk) -> Result<Self> {
        let io = |e| Error::io(path, "read the weights", e);
        let total = disk.len();
        let prefix = disk.up_to(0, 9).map_err(io)?;
        let Some(length) = header_length(&prefix) else {
            return Err(not_weights(path, &prefix));
        };
        let start = 8 + length;
        if start > total {
            return Err(truncated(path, total, start));
        }
        let text = disk.up_to(8, length).map_err(io)?;
        let header: Metadata =
            serde_json::from_slice(&text).map_err(|e| broken(path, &e.to_string()))?;
        let expected = start + header.data_len() as u64;
        if total < expected {
            return Err(truncated(path, total, expected));
        }
        if total > expected {
            let extra = total - expected;
            return Err(broken(
                path,
                &format!("{extra} bytes after the last tensor"),
            ));
        }
        let digests = check_header(path, &header)?;
        Ok(Self {
            disk,
            header,
            start,
            digests,
        })
    }

    /// Names of all tensors, in file order.
    pub(super) fn names(&self) -> Vec<String> {
        self.header.offset_keys()
    }

    /// Type and shape of a tensor.
    pub(super) fn info(&self, name: &str) -> Option<(Dtype, &[usize])> {
        self.header
            .info(name)
            .map(|i| (i.dtype, i.shape.as_slice()))
    }

    /// Metadata string `key`.
    pub(super) fn meta(&self, key: &str) -> Option<&str> {
        let map = self.header.metadata().as_ref()?;
        map.get(key).map(String::as_str)
    }

    /// Keys of the metadata, sorted.
    pub(super) fn meta_keys(&self) -> Vec<String> {
        let map = self.header.metadata().iter().flatten();
        let map = map.filter(|(key, _)| !digest::is_own(key));
        let mut keys: Vec<String> = map.map(|(key, _)| key.clone()).collect();
        keys.sort_unstable();
        keys
    }

    /// Bytes of a tensor.
    pub(super) fn len(&self, name: &str) -> Option<usize> {
        let (from, to) = self.header.info(name)?.data_offsets;
        Some(to - from)
    }

    /// Fills `out` with a tensor.
    pub(super) fn read(&self, path: &Path, name: &str, out: &mut [u8]) -> Result<()> {
        let from = self.header.info(name).map_or(0, |i| i.data_offsets.0);
        if self.len(name) != Some(out.len()) {
            let len = out.len();
            return Err(Error::internal(format!("{name}: {len} bytes asked for")));
        }
        let read = self.disk.read(self.start + from as u64, out);
        read.map_err(|e| Error::io(path, "read a tensor", e))?;
        match self.digests.get(name) {
            Some(&expected) if digest::of(out) != expected => Err(altered(path, &shown(name))),
            _ => Ok(()),
        }
    }
}

/// Compares a header with its own digest, if it has one; the digests of the tensors.
fn check_header(path: &Path, header: &Metadata) -> Result<HashMap<String, u32>> {
    let Some(metadata) = header.metadata() else {
        return Ok(HashMap::new());
    };
    let [of_header, of_tensors] = [digest::HEADER, digest::TENSORS].map(|key| metadata.get(key));
    if of_header.is_none() && of_tensors.is_none() {
        return Ok(HashMap::new());
    }
    let texts = metadata.iter().map(|(k, v)| (k.as_str(), v.as_str()));
    let names = header.offset_keys();
    let tensors = names.iter().filter_map(|name| {
        let info = header.info(name)?;
        Some((name.as_str(), info.dtype, info.shape.as_slice()))
    });
    let found = digest::text(digest::of_header(&texts.collect(), tensors));
    let digests = of_tensors.and_then(|text| digest::parse(text));
    match (of_header, digests) {
        (Some(expected), Some(digests)) if *expected == found => Ok(digests),
        _ => Err(altered(path, "the header")),
    }
}

fn altered(path: &Path, part: &str) -> Error {
    Error::input(
        path.display().to_string(),
        format!("{part} is not as it was written: it does not match its digest"),
        "use another checkpoint, or a copy; a program that changes weights must drop the metadata \
         u2pl.tensors and u2pl.header",
    )
}

/// Length of the header, if the first nine bytes can begin a safetensors file.
fn header_length(prefix: &[u8]) -> Option<u64> {
    let (length, rest) = prefix.split_first_chunk::<8>()?;
    let length = u64::from_le_bytes(*length);
    (rest.first() == Some(&b'{') && length <= MAX_HEADER).then_some(length)
}

fn not_weights(path: &Path, prefix: &[u8]) -> Error {
    let (problem, mend) = match prefix.is_empty() {
        true => ("is empty", "write or download it again"),
        false => (
            "is neither a safetensors file nor one of PyTorch's",
            "give a .safetensors or .pth file with weights",
        ),
    };
    Error::input(path.display().to_string(), problem, mend)
}

fn truncated(path: &Path, got: u64, expected: u64) -> Error {
    Error::input(
        path.display().to_string(),
        format!("is truncated: {got} of {expected} bytes"),
        "write or download it again",
    )
}

fn broken(path: &Path, reason: &str) -> Error {
    Error::input(
        path.display().to_string(),
        format!("has a broken safetensors header ({reason})"),
        "write or download it again",
    )
}
