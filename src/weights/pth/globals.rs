//! The names that a pickle may ask for: those that tensors need, and nothing else.
//!
//! A pickle asks for functions and classes by module and name. Here a name is only a name: nothing
//! is imported or called. [`find`] knows the few that stand for a tensor, its storage, its type, or
//! a number of NumPy's. What every other would make is data of no meaning here and left out by name,
//! except that of [`runs`]: no file of weights asks for those, so one that does is refused.

use safetensors::Dtype;

use super::dtype;

/// What a known name stands for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Global {
    /// `collections.OrderedDict`.
    OrderedDict,
    /// `torch._utils._rebuild_tensor`: storage, offset, sizes, strides.
    RebuildTensor,
    /// `torch._utils._rebuild_tensor_v2`: the same, then flags.
    RebuildTensorV2,
    /// `torch._utils._rebuild_tensor_v3`: the same with the type of the elements after them.
    RebuildTensorV3,
    /// `torch._utils._rebuild_parameter` or the class itself: a tensor, then flags.
    Parameter,
    /// `torch._tensor._rebuild_from_type_v2`: a function, the class of what it makes, its arguments,
    /// attributes.
    RebuildFromType,
    /// `torch.Size`: a tuple.
    Size,
    /// A storage class; `None` for bytes of any type.
    Storage(Option<Dtype>),
    /// A tensor class of PyTorch 0.1, such as `torch.FloatTensor`.
    TensorClass,
    /// `torch.float32` and the like.
    Dtype(Dtype),
    /// `numpy.core.multiarray.scalar`: a type, then bytes. Training scripts save their best score
    /// as one.
    NumpyScalar,
    /// `numpy.dtype`: a letter and a size.
    NumpyDtype,
    /// `_codecs.encode`: how pickles of protocol 2 write bytes.
    Encode,
}

/// What `module.name` stands for, if it is one of the known.
pub(super) fn find(module: &str, name: &str) -> Option<Global> {
    Some(match (module, name) {
        ("collections", "OrderedDict") => Global::OrderedDict,
        ("torch._utils", "_rebuild_tensor") => Global::RebuildTensor,
        ("torch._utils", "_rebuild_tensor_v2") => Global::RebuildTensorV2,
        ("torch._utils", "_rebuild_tensor_v3") => Global::RebuildTensorV3,
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") => {
            Global::Parameter
        }
        ("torch._tensor", "_rebuild_from_type_v2") => Global::RebuildFromType,
        ("torch.nn.parameter", "Parameter") => Global::Parameter,
        ("torch", "Size") => Global::Size,
        ("torch" | "torch.storage", "UntypedStorage") => Global::Storage(None),
        ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar") => Global::NumpyScalar,
        ("numpy", "dtype") => Global::NumpyDtype,
        ("_codecs", "encode") => Global::Encode,
        ("torch" | "torch.cuda", name) => return torch(name),
        _ => return None,
    })
}

/// Modules whose functions start programs, open files or run code: what pickles that attack name.
const RUNNING: [&str; 38] = [
    "os",
    "posix",
    "nt",
    "posixpath",
    "ntpath",
    "sys",
    "subprocess",
    "shutil",
    "socket",
    "runpy",
    "importlib",
    "imp",
    "pkgutil",
    "pty",
    "commands",
    "popen2",
    "code",
    "codeop",
    "ctypes",
    "cffi",
    "multiprocessing",
    "webbrowser",
    "urllib",
    "urllib2",
    "requests",
    "http",
    "ftplib",
    "smtplib",
    "tempfile",
    "pickle",
    "_pickle",
    "cloudpickle",
    "dill",
    "marshal",
    "timeit",
    "pdb",
    "bdb",
    "asyncio",
];

/// Functions of Python itself that do, or lead there.
const RUNNING_BUILTINS: [&str; 11] = [
    "eval",
    "exec",
    "execfile",
    "compile",
    "open",
    "input",
    "__import__",
    "getattr",
    "setattr",
    "globals",
    "breakpoint",
];

/// Whether `module.name` runs something. Nothing is run here; but a file that asks for it is none of
/// weights alone.
pub(super) fn runs(module: &str, name: &str) -> bool {
    let top = module.split('.').next().unwrap_or_default();
    match top {
        "builtins" | "__builtin__" => RUNNING_BUILTINS.contains(&name),
        "torch" => matches!(
            (module, name),
            (_, "load")
                | ("torch.hub" | "torch.jit" | "torch.package", _)
                | (_, "_load_from_bytes")
        ),
        "numpy" => name == "load" || module.starts_with("numpy.testing"),
        top => RUNNING.contains(&top),
    }
}

fn torch(name: &str) -> Option<Global> {
    if let Some(dtype) = dtype::of_storage(name) {
        return Some(Global::Storage(Some(dtype)));
    }
    if let Some(kind) = name.strip_suffix("Tensor") {
        return dtype::of_storage(&format!("{kind}Storage")).map(|_| Global::TensorClass);
    }
    dtype::named(name).map(Global::Dtype)
}

/// A number type of NumPy's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct NumpyType {
    /// Letter of the kind: `f`, `i`, `u` or `b`.
    pub(super) kind: u8,
    pub(super) bytes: usize,
    /// The file says that it is little-endian, or that there is only one byte.
    pub(super) little: bool,
}

/// A number of NumPy's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Number {
    Bool(bool),
    Int(i128),
    Float(f64),
}

impl NumpyType {
    /// The type that `numpy.dtype(code)` means, such as `f8`.
    pub(super) fn of(code: &str) -> Option<Self> {
        let (kind, bytes) = match code {
            "f8" => (b'f', 8),
            "f4" => (b'f', 4),
            "i8" => (b'i', 8),
            "i4" => (b'i', 4),
            "u8" => (b'u', 8),
            "u4" => (b'u', 4),
            "u1" => (b'u', 1),
            "b1" => (b'b', 1),
            _ => return None,
        };
        Some(Self {
            kind,
            bytes,
            little: bytes == 1,
        })
    }

    /// The number that `raw` holds.
    pub(super) fn number(self, raw: &[u8]) -> Option<Number> {
        if raw.len() != self.bytes || !self.little {
            return None;
        }
        let mut wide = [0; 8];
        wide[..raw.len()].copy_from_slice(raw);
        let bits = u64::from_le_bytes(wide);
        Some(match (self.kind, self.bytes) {
            (b'f', 8) => Number::Float(f64::from_bits(bits)),
            (b'f', _) => Number::Float(f64::from(f32::from_bits(bits as u32))),
            (b'i', 8) => Number::Int(i128::from(bits as i64)),
            (b'i', _) => Number::Int(i128::from(bits as u32 as i32)),
            (b'b', _) => Number::Bool(bits != 0),
            _ => Number::Int(i128::from(bits)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_tensors_need_is_known() {
        let float = Global::Storage(Some(Dtype::F32));
        assert_eq!(find("torch", "FloatStorage"), Some(float));
        assert_eq!(find("torch.cuda", "FloatStorage"), Some(float));
        assert_eq!(find("torch", "CharTensor"), Some(Global::TensorClass));
        assert_eq!(find("torch", "uint32"), Some(Global::Dtype(Dtype::U32)));
        for (module, name) in [
            ("os", "system"),
            ("posix", "system"),
            ("builtins", "eval"),
            ("torch", "load"),
            ("torch", "Tensor"),
            ("torch", "ComplexFloatStorage"),
            ("torch._utils", "_rebuild_qtensor"),
            ("torch.os", "system"),
            ("collections", "Counter"),
            ("_codecs", "decode"),
            ("numpy", "load"),
            ("", ""),
        ] {
            assert_eq!(find(module, name), None, "{module}.{name}");
        }
        for (module, name) in [
            ("os", "system"),
            ("posix", "system"),
            ("os.path", "join"),
            ("subprocess", "Popen"),
            ("builtins", "eval"),
            ("__builtin__", "getattr"),
            ("torch", "load"),
            ("torch.hub", "load"),
            ("torch.storage", "_load_from_bytes"),
        ] {
            assert!(runs(module, name), "{module}.{name}");
        }
        for (module, name) in [
            ("argparse", "Namespace"),
            ("builtins", "set"),
            ("collections", "defaultdict"),
            ("datetime", "datetime"),
            ("pathlib", "PosixPath"),
            ("torch", "device"),
            ("oslo", "system"),
        ] {
            assert!(!runs(module, name), "{module}.{name}");
        }
    }

    #[test]
    fn numbers_of_numpy() {
        let little = |code| NumpyType {
            little: true,
            ..NumpyType::of(code).unwrap()
        };
        let number = |code, raw: &[u8]| little(code).number(raw);
        let half = 0.5f64.to_le_bytes();
        assert_eq!(number("f8", &half), Some(Number::Float(0.5)));
        let third = (-1.25f32).to_le_bytes();
        assert_eq!(number("f4", &third), Some(Number::Float(-1.25)));
        assert_eq!(number("i4", &[0xfe, 255, 255, 255]), Some(Number::Int(-2)));
        assert_eq!(number("u1", &[200]), Some(Number::Int(200)));
        assert_eq!(number("b1", &[1]), Some(Number::Bool(true)));
        assert_eq!(number("f8", &half[..4]), None);
        assert_eq!(NumpyType::of("f8").unwrap().number(&half), None);
        assert_eq!(NumpyType::of("O8"), None);
    }
}
