//! Reading safetensors files.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

use super::writer::Element;
use crate::error::{Error, Result};

/// Headers larger than this are refused (as the format's own library does).
const MAX_HEADER: u64 = 100_000_000;

/// An open safetensors file. Tensors are read one at a time, so a checkpoint never lies in memory
/// as a whole.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    file: File,
    header: Metadata,
    /// Position of the first tensor.
    start: u64,
}

impl Reader {
    /// Opens a file and checks its header against its size.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, [`Error::Input`] when it is not a safetensors file
    /// or a part of it is missing.
    pub fn open(path: &Path) -> Result<Self> {
        let io = |e| Error::io(path, "read the weights", e);
        let mut file = File::open(path).map_err(io)?;
        let total = file.metadata().map_err(io)?.len();
        let mut prefix = Vec::new();
        (&mut file).take(9).read_to_end(&mut prefix).map_err(io)?;
        let Some(length) = header_length(&prefix) else {
            return Err(not_weights(path, &prefix));
        };
        let start = 8 + length;
        if start > total {
            return Err(truncated(path, total, start));
        }
        let mut text = vec![0; length as usize];
        file.seek(SeekFrom::Start(8)).map_err(io)?;
        file.read_exact(&mut text).map_err(io)?;
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
        Ok(Self {
            path: path.to_path_buf(),
            file,
            header,
            start,
        })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of all tensors, in file order.
    pub fn names(&self) -> Vec<String> {
        self.header.offset_keys()
    }

    /// Shape of tensor `name`.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.header.info(name).map(|i| i.shape.as_slice())
    }

    /// Metadata string `key`.
    pub fn meta(&self, key: &str) -> Option<&str> {
        let map = self.header.metadata().as_ref()?;
        map.get(key).map(String::as_str)
    }

    /// Metadata string `key`, which the file must have.
    ///
    /// # Errors
    /// [`Error::Input`] when it has none.
    pub fn require_meta(&self, key: &str) -> Result<&str> {
        self.meta(key).ok_or_else(|| self.lacks(key))
    }

    /// Tensor `name` exactly as stored.
    ///
    /// # Errors
    /// [`Error::Input`] when it is missing or of another type, [`Error::Io`] when reading fails.
    pub fn tensor<T: Element>(&self, name: &str) -> Result<Vec<T>> {
        let info = self.info(name)?;
        if info.dtype != T::DTYPE {
            return Err(self.wrong_type(name, info.dtype));
        }
        self.values(info)
    }

    /// Tensor `name` as f32, converted from f16, bf16 or f64 where need be.
    ///
    /// # Errors
    /// [`Error::Input`] when it is missing or holds no floats, [`Error::Io`] when reading fails.
    pub fn floats(&self, name: &str) -> Result<Vec<f32>> {
        let info = self.info(name)?;
        match info.dtype {
            Dtype::F32 => self.values(info),
            Dtype::F16 => Ok(map(&self.values::<f16>(info)?, |v| v.to_f32())),
            Dtype::BF16 => Ok(map(&self.values::<bf16>(info)?, |v| v.to_f32())),
            Dtype::F64 => Ok(map(&self.values::<f64>(info)?, |v| v as f32)),
            other => Err(self.wrong_type(name, other)),
        }
    }

    fn info(&self, name: &str) -> Result<&TensorInfo> {
        self.header.info(name).ok_or_else(|| self.lacks(name))
    }

    fn values<T: bytemuck::Pod>(&self, info: &TensorInfo) -> Result<Vec<T>> {
        let (from, to) = info.data_offsets;
        let mut values = vec![T::zeroed(); (to - from) / size_of::<T>()];
        let mut file = &self.file;
        file.seek(SeekFrom::Start(self.start + from as u64))
            .and_then(|_| file.read_exact(bytemuck::cast_slice_mut(&mut values)))
            .map_err(|e| Error::io(&self.path, "read a tensor", e))?;
        Ok(values)
    }

    fn lacks(&self, name: &str) -> Error {
        Error::input(
            self.path.display().to_string(),
            format!("has no {name}"),
            "use a checkpoint that this program wrote",
        )
    }

    fn wrong_type(&self, name: &str, dtype: Dtype) -> Error {
        Error::input(
            self.path.display().to_string(),
            format!("{name} is stored as {dtype}"),
            "store it as F32",
        )
    }
}

fn map<T: Copy>(values: &[T], f: impl Fn(T) -> f32) -> Vec<f32> {
    values.iter().map(|&v| f(v)).collect()
}

/// Length of the header, if the first nine bytes can begin a safetensors file.
fn header_length(prefix: &[u8]) -> Option<u64> {
    let (length, rest) = prefix.split_first_chunk::<8>()?;
    let length = u64::from_le_bytes(*length);
    (rest.first() == Some(&b'{') && length <= MAX_HEADER).then_some(length)
}

fn not_weights(path: &Path, prefix: &[u8]) -> Error {
    // PyTorch writes zip archives, and before 1.6 bare pickles.
    let pytorch = prefix.starts_with(b"PK\x03\x04") || prefix.starts_with(b"\x80\x02");
    let (problem, mend) = match (prefix.is_empty(), pytorch) {
        (true, _) => ("is empty", "write or download it again"),
        (_, true) => (
            "is a PyTorch file, not a safetensors file",
            "convert it to safetensors first",
        ),
        _ => (
            "is not a safetensors file",
            "give a .safetensors file with weights",
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
