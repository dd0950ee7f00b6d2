//! Digests by which damage to a file of weights is found.
//!
//! Every file that this program writes says in its metadata what the bytes of each tensor sum up to
//! (CRC-32), and what the header itself does: names, types, shapes and all other metadata. The sums
//! are of what the header means, not of how it is written, so that programs which rewrite a file
//! without changing it are not taken for damage. Files without digests are read as they are.

use std::collections::{BTreeMap, HashMap};

use safetensors::Dtype;

/// Metadata with the digests of the tensors, `{"name": "crc32"}`.
pub(super) const TENSORS: &str = "u2pl.tensors";
/// Metadata with the digest of the header.
pub(super) const HEADER: &str = "u2pl.header";

/// Whether `key` is metadata of this module, of no meaning to anybody else.
pub(super) fn is_own(key: &str) -> bool {
    key == TENSORS || key == HEADER
}

/// Digest of a tensor's bytes.
pub(super) fn of(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// As it is written.
pub(super) fn text(digest: u32) -> String {
    format!("{digest:08x}")
}

/// Digest of a header: all metadata but [`HEADER`], then `tensors` in the order of their names.
pub(super) fn of_header<'a>(
    metadata: &BTreeMap<&str, &str>,
    tensors: impl Iterator<Item = (&'a str, Dtype, &'a [usize])>,
) -> u32 {
    let mut hash = crc32fast::Hasher::new();
    let mut add = |text: &str| {
        // With its length: where one text ends and the next begins counts, too.
        hash.update(&(text.len() as u64).to_le_bytes());
        hash.update(text.as_bytes());
    };
    for (key, value) in metadata.iter().filter(|(key, _)| **key != HEADER) {
        add(key);
        add(value);
    }
    let mut tensors: Vec<_> = tensors.collect();
    tensors.sort_unstable_by_key(|t| t.0);
    for (name, dtype, shape) in tensors {
        add(name);
        add(&format!("{dtype:?} {shape:?}"));
    }
    hash.finalize()
}

/// The digests of the tensors out of a file's metadata; `None` where they are none.
pub(super) fn parse(text: &str) -> Option<HashMap<String, u32>> {
    let map: HashMap<String, String> = serde_json::from_str(text).ok()?;
    let pairs = map.into_iter();
    let pairs = pairs.map(|(name, digest)| Some((name, u32::from_str_radix(&digest, 16).ok()?)));
    pairs.collect()
}
