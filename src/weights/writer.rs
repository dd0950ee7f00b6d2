//! Writing safetensors files, atomically and without a second copy in memory.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use rayon::prelude::*;
use safetensors::Dtype;
use serde_json::{Map, Value, json};

use super::digest;
use super::files::replace;
use super::order::{disk_shape, to_disk};
use super::reader::Reader;
use crate::device::{Shape, elements};
use crate::error::{Error, Result};
use crate::graph::params::{Kind, Layout};

mod sealed {
    pub trait Sealed {}
    impl Sealed for f32 {}
    impl Sealed for u32 {}
    impl Sealed for u8 {}
}

/// An element type that files hold.
pub trait Element: bytemuck::Pod + sealed::Sealed {
    /// Its name in the format.
    #[doc(hidden)]
    const DTYPE: Dtype;
}

impl Element for f32 {
    const DTYPE: Dtype = Dtype::F32;
}
impl Element for u32 {
    const DTYPE: Dtype = Dtype::U32;
}
impl Element for u8 {
    const DTYPE: Dtype = Dtype::U8;
}

enum Data<'a> {
    Plain(&'a [u8]),
    /// Reordered while being written.
    Kernel(&'a [f32], Shape),
    /// Fetched from another file while being written: the file, the tensor's name and its bytes.
    Copy(&'a Reader, String, usize),
}

impl Data<'_> {
    fn bytes(&self) -> Result<Cow<'_, [u8]>> {
        Ok(match self {
            Data::Plain(bytes) => Cow::Borrowed(bytes),
            Data::Kernel(values, shape) => {
                let ordered = to_disk(values, *shape);
                Cow::Owned(bytemuck::cast_slice(&ordered).to_vec())
            }
            Data::Copy(file, name, _) => Cow::Owned(file.bytes(name)?),
        })
    }

    fn len(&self) -> usize {
        match self {
            Data::Plain(bytes) => bytes.len(),
            Data::Kernel(values, _) => size_of_val(*values),
            Data::Copy(_, _, len) => *len,
        }
    }
}

struct Entry<'a> {
    name: String,
    dtype: Dtype,
    shape: Vec<usize>,
    data: Data<'a>,
}

/// Tensors and metadata of a file to be. Borrows the values until [`Writer::save`].
#[derive(Default)]
pub struct Writer<'a> {
    entries: Vec<Entry<'a>>,
    metadata: BTreeMap<String, String>,
}

impl<'a> Writer<'a> {
    /// An empty file.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `values` as they are, e.g. a memory bank or a counter.
    ///
    /// # Errors
    /// [`Error::Internal`] when the shape does not hold the values.
    pub fn tensor<T: Element>(
        &mut self,
        name: &str,
        shape: &[usize],
        values: &'a [T],
    ) -> Result<&mut Self> {
        if shape.iter().product::<usize>() != values.len() {
            let n = values.len();
            return Err(Error::internal(format!("{name}: {n} values as {shape:?}")));
        }
        self.entries.push(Entry {
            name: name.to_string(),
            dtype: T::DTYPE,
            shape: shape.to_vec(),
            data: Data::Plain(bytemuck::cast_slice(values)),
        });
        Ok(self)
    }

    /// Adds a tensor of another file as it is there, of whatever type.
    ///
    /// # Errors
    /// [`Error::Input`] when the file lacks it.
    pub fn copy(&mut self, file: &'a Reader, name: &str) -> Result<&mut Self> {
        let (dtype, shape) = file.info(name)?;
        let len = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        self.entries.push(Entry {
            name: name.to_string(),
            dtype,
            shape: shape.to_vec(),
            data: Data::Copy(file, name.to_string(), len),
        });
        Ok(self)
    }

    /// Adds the tensors of one kind from a flat vector, named `prefix` + the layout's names.
    ///
    /// # Errors
    /// [`Error::Internal`] when the vector is shorter than the layout.
    pub fn flat(
        &mut self,
        prefix: &str,
        layout: &Layout,
        kind: Kind,
        values: &'a [f32],
    ) -> Result<&mut Self> {
        for spec in layout.specs().iter().filter(|s| s.kind == kind) {
            let range = spec.offset..spec.offset + elements(spec.shape);
            let Some(values) = values.get(range) else {
                return Err(Error::internal(format!(
                    "{} lies beyond the flat vector",
                    spec.name
                )));
            };
            self.entries.push(Entry {
                name: format!("{prefix}{}", spec.name),
                dtype: Dtype::F32,
                shape: disk_shape(spec),
                data: Data::Kernel(values, spec.shape),
            });
        }
        Ok(self)
    }

    /// Adds a network: flat weights and flat buffers.
    ///
    /// # Errors
    /// As [`Writer::flat`].
    pub fn params(
        &mut self,
        prefix: &str,
        layout: &Layout,
        weights: &'a [f32],
        buffers: &'a [f32],
    ) -> Result<&mut Self> {
        self.flat(prefix, layout, Kind::Weight, weights)?;
        self.flat(prefix, layout, Kind::Buffer, buffers)
    }

    /// Adds a string, e.g. a counter or the resolved configuration.
    pub fn meta(&mut self, key: &str, value: impl Into<String>) -> &mut Self {
        self.metadata.insert(key.to_string(), value.into());
        self
    }

    /// Writes the file: to a temporary file in the same folder, synchronised, then renamed over
    /// `path`, so that a reader or a crash sees the old file or the new one. The bytes are a
    /// function of what was added.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder cannot be written; the temporary file is removed.
    pub fn save(&self, path: &Path) -> Result<()> {
        replace(path, None, |file| self.write(path, file))
    }

    /// As [`Writer::save`]; the file that was at `path` stays as `previous`. At every moment one of
    /// the two is whole.
    ///
    /// # Errors
    /// As [`Writer::save`]; both files stay as they were.
    pub fn save_keeping(&self, path: &Path, previous: &Path) -> Result<()> {
        replace(path, Some(previous), |file| self.write(path, file))
    }

    fn write(&self, path: &Path, file: &File) -> Result<()> {
        let io = |e| Error::io(path, "write the weights", e);
        // Widest elements first, so that every tensor is aligned in a mapped file.
        let mut order: Vec<&Entry> = self.entries.iter().collect();
        order.sort_by_key(|e| std::cmp::Reverse(e.dtype.bitsize()));
        let header = self.header(&order)?;
        let mut out = BufWriter::with_capacity(1 << 20, file);
        let length = (header.len() as u64).to_le_bytes();
        out.write_all(&length).map_err(io)?;
        out.write_all(header.as_bytes()).map_err(io)?;
        for entry in order {
            out.write_all(&entry.data.bytes()?).map_err(io)?;
        }
        out.flush().map_err(io)
    }

    /// All metadata: what was added, and the digests.
    fn metadata(&self, order: &[&Entry]) -> Result<BTreeMap<&str, String>> {
        let digests = order.par_iter().map(|entry| {
            let digest = digest::of(&entry.data.bytes()?);
            Ok((entry.name.clone(), digest::text(digest)))
        });
        let digests: BTreeMap<String, String> = digests.collect::<Result<_>>()?;
        let mut all: BTreeMap<&str, String> = self
            .metadata
            .iter()
            .map(|(key, value)| (key.as_str(), value.clone()))
            .collect();
        all.insert(digest::TENSORS, json!(digests).to_string());
        let texts = all.iter().map(|(key, value)| (*key, value.as_str()));
        let tensors = order
            .iter()
            .map(|e| (e.name.as_str(), e.dtype, e.shape.as_slice()));
        let header = digest::of_header(&texts.collect(), tensors);
        all.insert(digest::HEADER, digest::text(header));
        Ok(all)
    }

    /// The JSON header, padded to a multiple of 8 bytes.
    fn header(&self, order: &[&Entry]) -> Result<String> {
        let mut map = Map::new();
        map.insert("__metadata__".into(), json!(self.metadata(order)?));
        let mut start = 0;
        for entry in order {
            let end = start + entry.data.len();
            let info = json!({
                "dtype": entry.dtype,
                "shape": entry.shape,
                "data_offsets": [start, end],
            });
            map.insert(entry.name.clone(), info);
            start = end;
        }
        let mut text = Value::Object(map).to_string();
        let padding = text.len().next_multiple_of(8) - text.len();
        text.extend(std::iter::repeat_n(' ', padding));
        Ok(text)
    }
}
