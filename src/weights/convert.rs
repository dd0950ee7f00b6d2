//! From `.pth` to `.safetensors` and back, bit for bit.
//!
//! Tensors keep their names, types and bytes; strided ones are laid out in row-major order. What a
//! `.pth` file holds around its tensors (nesting, epoch, scores) goes into the metadata of the
//! safetensors file and comes back from there. A checkpoint of this engine becomes a file of the
//! authors' layout and back.

use std::collections::BTreeMap;
use std::path::Path;

use super::pth::{self, Key, Tensor, Value, shown};
use super::reader::Reader;
use super::writer::Writer;
use crate::config::Config;
use crate::config::schema::Algorithm;
use crate::error::{Error, Result};

/// Metadata of a safetensors file with the tree of a `.pth` file.
const TREE: &str = "pytorch";

/// Metadata by which a checkpoint of this engine is known.
const ENGINE: &str = "config";

/// What was converted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted {
    /// Tensors.
    pub tensors: usize,
    /// Bytes of all tensors.
    pub bytes: u64,
    /// What of the input is no tensor, container, number or string, and left out; a sentence.
    pub skipped: Option<String>,
    /// Keys of metadata that the other format has no place for.
    pub dropped: Vec<String>,
}

/// Writes the tensors of `input`, of whichever format, to `output`, of the format that its name
/// ends in.
///
/// # Errors
/// [`Error::Input`] when `input` cannot be read as weights, the ending is another, or a tensor has
/// a type that the other format lacks; [`Error::Io`] when the disk refuses. `output` is whole or as
/// it was.
pub fn convert(input: &Path, output: &Path) -> Result<Converted> {
    let ending = output
        .extension()
        .and_then(|e| e.to_str())
        .unwrap_or_default();
    let pth = match ending {
        "safetensors" => false,
        "pth" | "pt" => true,
        _ => {
            return Err(Error::input(
                output.display().to_string(),
                "does not say which format to write",
                "let it end in .safetensors or .pth",
            ));
        }
    };
    let file = Reader::open(input)?;
    let names = file.names();
    let mut bytes = 0;
    for name in &names {
        let (dtype, shape) = file.info(name)?;
        bytes += (shape.iter().product::<usize>() * dtype.bitsize() / 8) as u64;
    }
    let mut dropped = Vec::new();
    match pth {
        true => dropped = to_pth(&file, names.clone(), output)?,
        false => to_safetensors(&file, &names, output)?,
    }
    Ok(Converted {
        tensors: names.len(),
        bytes,
        skipped: file.skipped(),
        dropped,
    })
}

fn to_safetensors(file: &Reader, names: &[String], output: &Path) -> Result<()> {
    let mut writer = Writer::new();
    for name in names {
        writer.copy(file, name)?;
    }
    let metadata = metadata(file);
    if let Some(tree) = file.tree().filter(|_| metadata.is_empty()) {
        writer.meta(TREE, pth::to_note(tree));
    }
    for (key, value) in metadata {
        writer.meta(&key, value);
    }
    writer.save(output)
}

fn metadata(file: &Reader) -> BTreeMap<String, String> {
    let keys = file.meta_keys().into_iter();
    let pairs = keys.filter_map(|key| {
        file.meta(&key)
            .map(str::to_string)
            .map(|value| (key, value))
    });
    pairs.collect()
}

/// Returns the metadata left behind.
fn to_pth(file: &Reader, names: Vec<String>, output: &Path) -> Result<Vec<String>> {
    let metadata = metadata(file);
    let engine = metadata.contains_key(ENGINE);
    let mut dropped = Vec::new();
    let (root, names) = match (file.tree(), metadata.get(TREE)) {
        _ if engine => {
            let tree = pth::engine_file(&names, &metadata, labels_alone(&metadata));
            (tree, names)
        }
        (Some(tree), _) => (tree.clone(), names),
        (None, Some(note)) => noted(file, note)?,
        (None, None) => {
            dropped = metadata.into_keys().collect();
            (bare(&names), names)
        }
    };
    let tensors = names.iter().map(|name| {
        let (dtype, shape) = file.info(name)?;
        if !pth::holds(dtype) {
            return Err(Error::input(
                file.path().display().to_string(),
                format!(
                    "{} is stored as {dtype}, which no .pth file of this program can hold",
                    shown(name)
                ),
                "store it as F32",
            ));
        }
        Ok(Tensor {
            dtype,
            shape: shape.to_vec(),
            bytes: Box::new(move || file.bytes(name)),
        })
    });
    let tensors = tensors.collect::<Result<Vec<Tensor<'_>>>>()?;
    pth::write(output, &root, &tensors)?;
    Ok(dropped)
}

/// Whether a checkpoint of this engine is of a run on labels alone.
fn labels_alone(metadata: &BTreeMap<String, String>) -> bool {
    let config = metadata.get(ENGINE);
    let config = config.and_then(|text| Config::parse(ENGINE, text, &[]).ok());
    config.is_some_and(|config| config.train.algorithm == Algorithm::Supervised)
}

/// The tree in a file's metadata, and its tensors in order, which must be those of the file.
fn noted(file: &Reader, note: &str) -> Result<(Value, Vec<String>)> {
    let sorted = |mut names: Vec<String>| {
        names.sort_unstable();
        names
    };
    match pth::from_note(note) {
        Some((root, names)) if sorted(names.clone()) == sorted(file.names()) => Ok((root, names)),
        _ => Err(Error::input(
            file.path().display().to_string(),
            format!("metadata {TREE} does not describe the tensors of the file"),
            "convert from the .pth file again",
        )),
    }
}

/// A state dict.
fn bare(names: &[String]) -> Value {
    let item = |(i, name): (usize, &String)| (Key::Text(name.clone()), Value::Tensor(i));
    Value::Dict {
        ordered: true,
        items: names.iter().enumerate().map(item).collect(),
    }
}
