//! Reading files of weights: safetensors, or PyTorch's `.pth`, told apart by what they hold.

use std::path::{Path, PathBuf};

use half::{bf16, f16};
use safetensors::Dtype;

use super::disk::Disk;
use super::pth::{self, Archive, shown};
use super::safe::Safetensors;
use super::writer::Element;
use crate::error::{Error, Result};

/// Values beside the tensors that are named before the rest is only counted.
const SKIPPED: usize = 5;

/// An open file of weights. Tensors are read one at a time, so a checkpoint never lies in memory
/// as a whole.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    format: Format,
}

#[derive(Debug)]
enum Format {
    Safetensors(Safetensors),
    Pth(Archive),
}

impl Reader {
    /// Opens a file and checks that all of it is there.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read, [`Error::Input`] when it is of neither format, a part
    /// of it is missing, or a `.pth` file asks for functions that run something.
    pub fn open(path: &Path) -> Result<Self> {
        let io = |e| Error::io(path, "read the weights", e);
        let disk = Disk::open(path).map_err(io)?;
        let prefix = disk.up_to(0, pth::PREFIX).map_err(io)?;
        let pth = !Safetensors::recognises(&prefix) && Archive::recognises(&prefix);
        let format = match pth {
            true => Format::Pth(Archive::new(path, disk)?),
            false => Format::Safetensors(Safetensors::new(path, disk)?),
        };
        Ok(Self {
            path: path.to_path_buf(),
            format,
        })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names of all tensors, in file order. Those of a `.pth` file are the keys that lead to them,
    /// joined by dots.
    pub fn names(&self) -> Vec<String> {
        match &self.format {
            Format::Safetensors(file) => file.names(),
            Format::Pth(file) => file.names().to_vec(),
        }
    }

    /// Shape of tensor `name`.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        self.find(name).map(|(_, shape)| shape)
    }

    /// Type and shape of tensor `name`.
    ///
    /// # Errors
    /// [`Error::Input`] when the file lacks it.
    pub(super) fn info(&self, name: &str) -> Result<(Dtype, &[usize])> {
        self.find(name).ok_or_else(|| self.lacks(name))
    }

    fn find(&self, name: &str) -> Option<(Dtype, &[usize])> {
        match &self.format {
            Format::Safetensors(file) => file.info(name),
            Format::Pth(file) => file.info(name),
        }
    }

    /// Metadata string `key`.
    pub fn meta(&self, key: &str) -> Option<&str> {
        match &self.format {
            Format::Safetensors(file) => file.meta(key),
            Format::Pth(file) => file.metadata().get(key).map(String::as_str),
        }
    }

    /// Keys of the metadata, sorted.
    pub(super) fn meta_keys(&self) -> Vec<String> {
        match &self.format {
            Format::Safetensors(file) => file.meta_keys(),
            Format::Pth(file) => file.metadata().keys().cloned().collect(),
        }
    }

    /// Metadata string `key`, which the file must have.
    ///
    /// # Errors
    /// [`Error::Input`] when it has none.
    pub fn require_meta(&self, key: &str) -> Result<&str> {
        self.meta(key).ok_or_else(|| self.lacks(key))
    }

    /// What a `.pth` file holds around its tensors, which [`Reader::names`] lists in order.
    pub(super) fn tree(&self) -> Option<&pth::Value> {
        match &self.format {
            Format::Safetensors(_) => None,
            Format::Pth(file) => Some(file.root()),
        }
    }

    /// What the file holds besides tensors, containers, numbers and strings, which is left out: one
    /// sentence for a reader, where there is any.
    pub fn skipped(&self) -> Option<String> {
        let Format::Pth(file) = &self.format else {
            return None;
        };
        let skipped = file.skipped();
        let shown = skipped.iter().take(SKIPPED);
        let shown: Vec<String> = shown.map(|s| format!("{} ({})", s.at, s.what)).collect();
        if shown.is_empty() {
            return None;
        }
        let mut list = shown.join(", ");
        if skipped.len() > SKIPPED {
            list += &format!(" and {} more", skipped.len() - SKIPPED);
        }
        Some(format!(
            "{}: no tensors, left out: {list}",
            self.path.display()
        ))
    }

    /// Tensor `name` exactly as stored.
    ///
    /// # Errors
    /// [`Error::Input`] when it is missing, damaged or of another type, [`Error::Io`] when reading
    /// fails.
    pub fn tensor<T: Element>(&self, name: &str) -> Result<Vec<T>> {
        let (dtype, _) = self.info(name)?;
        if dtype != T::DTYPE {
            return Err(self.wrong_type(name, dtype));
        }
        self.values(name)
    }

    /// Tensor `name` as f32, converted from f16, bf16 or f64 where need be.
    ///
    /// # Errors
    /// [`Error::Input`] when it is missing, damaged or holds no floats, [`Error::Io`] when reading
    /// fails.
    pub fn floats(&self, name: &str) -> Result<Vec<f32>> {
        let mut out = Vec::new();
        self.floats_into(name, &mut out)?;
        Ok(out)
    }

    /// As [`Reader::floats`], in place of what `out` held.
    ///
    /// # Errors
    /// As [`Reader::floats`].
    pub(super) fn floats_into(&self, name: &str, out: &mut Vec<f32>) -> Result<()> {
        out.clear();
        match self.info(name)?.0 {
            Dtype::F32 => self.fill(name, out)?,
            Dtype::F16 => out.extend(self.values::<f16>(name)?.iter().map(|v| v.to_f32())),
            Dtype::BF16 => out.extend(self.values::<bf16>(name)?.iter().map(|v| v.to_f32())),
            Dtype::F64 => out.extend(self.values::<f64>(name)?.iter().map(|&v| v as f32)),
            other => return Err(self.wrong_type(name, other)),
        }
        Ok(())
    }

    /// The bytes of tensor `name`, its elements in row-major order.
    ///
    /// # Errors
    /// [`Error::Input`] when it is missing or damaged, [`Error::Io`] when reading fails.
    pub(super) fn bytes(&self, name: &str) -> Result<Vec<u8>> {
        self.values(name)
    }

    fn values<T: bytemuck::Pod>(&self, name: &str) -> Result<Vec<T>> {
        let mut values = Vec::new();
        self.fill(name, &mut values)?;
        Ok(values)
    }

    /// Reads all of tensor `name` into `values`, which becomes as long as that.
    fn fill<T: bytemuck::Pod>(&self, name: &str, values: &mut Vec<T>) -> Result<()> {
        let (dtype, shape) = self.info(name)?;
        let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
        values.resize(bytes / size_of::<T>(), T::zeroed());
        let out = bytemuck::cast_slice_mut(values);
        match &self.format {
            Format::Safetensors(file) => file.read(&self.path, name, out),
            Format::Pth(file) => file.read(&self.path, name, out),
        }
    }

    /// Reads every tensor once and compares it with its digest, where the file has one.
    ///
    /// # Errors
    /// [`Error::Input`] naming the first that is damaged, [`Error::Io`] when reading fails.
    pub fn verify(&self) -> Result<()> {
        let mut bytes = Vec::<u8>::new();
        let mut names = self.names().into_iter();
        names.try_for_each(|name| self.fill(&name, &mut bytes))
    }

    fn lacks(&self, name: &str) -> Error {
        Error::input(
            self.path.display().to_string(),
            format!("has no {}", shown(name)),
            "use a checkpoint that this program wrote",
        )
    }

    fn wrong_type(&self, name: &str, dtype: Dtype) -> Error {
        Error::input(
            self.path.display().to_string(),
            format!("{} is stored as {dtype}", shown(name)),
            "store it as F32",
        )
    }
}
