//! Element types: PyTorch's names for them and safetensors'.

use safetensors::Dtype;

/// One element type.
struct Row {
    dtype: Dtype,
    /// `torch.NAME`.
    name: &'static str,
    /// `torch.NAMEStorage`, which the unsigned types of PyTorch 2.3 do not have.
    storage: Option<&'static str>,
    bytes: usize,
}

const fn row(dtype: Dtype, name: &'static str, storage: Option<&'static str>, bytes: usize) -> Row {
    Row {
        dtype,
        name,
        storage,
        bytes,
    }
}

const ROWS: [Row; 13] = [
    row(Dtype::F32, "float32", Some("FloatStorage"), 4),
    row(Dtype::F64, "float64", Some("DoubleStorage"), 8),
    row(Dtype::F16, "float16", Some("HalfStorage"), 2),
    row(Dtype::BF16, "bfloat16", Some("BFloat16Storage"), 2),
    row(Dtype::I64, "int64", Some("LongStorage"), 8),
    row(Dtype::I32, "int32", Some("IntStorage"), 4),
    row(Dtype::I16, "int16", Some("ShortStorage"), 2),
    row(Dtype::I8, "int8", Some("CharStorage"), 1),
    row(Dtype::U8, "uint8", Some("ByteStorage"), 1),
    row(Dtype::BOOL, "bool", Some("BoolStorage"), 1),
    row(Dtype::U16, "uint16", None, 2),
    row(Dtype::U32, "uint32", None, 4),
    row(Dtype::U64, "uint64", None, 8),
];

/// The type that `torch.NAME` means.
pub(super) fn named(name: &str) -> Option<Dtype> {
    let row = ROWS.iter().find(|r| r.name == name)?;
    Some(row.dtype)
}

/// The type of the elements of `torch.NAME`, a storage class.
pub(super) fn of_storage(name: &str) -> Option<Dtype> {
    let row = ROWS.iter().find(|r| r.storage == Some(name))?;
    Some(row.dtype)
}

/// PyTorch's name and storage class of a type, if it has the type.
pub(super) fn names(dtype: Dtype) -> Option<(&'static str, Option<&'static str>)> {
    let row = ROWS.iter().find(|r| r.dtype == dtype)?;
    Some((row.name, row.storage))
}

/// Bytes of an element. Types that this reader never makes count as one byte.
pub(super) fn bytes(dtype: Dtype) -> usize {
    let row = ROWS.iter().find(|r| r.dtype == dtype);
    row.map_or(1, |r| r.bytes)
}

/// Whether a `.pth` file of this module can hold the type.
pub(in crate::weights) fn holds(dtype: Dtype) -> bool {
    names(dtype).is_some()
}
