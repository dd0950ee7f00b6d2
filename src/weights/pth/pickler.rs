//! Writing the pickle of a `.pth` file: protocol 2, and only what PyTorch's loader takes with
//! `weights_only=True`.

use super::dtype;
use super::strided::row_major;
use super::tree::{Key, Value};
use super::write::Tensor;
use crate::error::{Error, Result};

const ORDERED: Name = ("collections", "OrderedDict");
const REBUILD: Name = ("torch._utils", "_rebuild_tensor_v2");
const REBUILD_TYPED: Name = ("torch._utils", "_rebuild_tensor_v3");
const BYTES: Name = ("torch.storage", "UntypedStorage");

/// Module and name of a function or class.
type Name = (&'static str, &'static str);

/// The pickle of `root`, whose tensors are those of `tensors` by number. The storage of tensor `i`
/// is named `i`.
///
/// # Errors
/// [`Error::Internal`] when a number has no tensor, or a tensor a type that is not known here.
pub(super) fn pickle(root: &Value, tensors: &[Tensor<'_>]) -> Result<Vec<u8>> {
    let mut pickler = Pickler {
        out: vec![0x80, 2],
        memo: Vec::new(),
        tensors,
    };
    pickler.value(root)?;
    pickler.out.push(b'.');
    Ok(pickler.out)
}

struct Pickler<'a> {
    out: Vec<u8>,
    /// Names that were written before, in the order of their memo numbers.
    memo: Vec<Name>,
    tensors: &'a [Tensor<'a>],
}

impl Pickler<'_> {
    fn value(&mut self, value: &Value) -> Result<()> {
        match value {
            Value::None => self.out.push(b'N'),
            Value::Bool(value) => self.out.push(if *value { 0x88 } else { 0x89 }),
            Value::Int(value) => self.int(*value),
            Value::Float(value) => {
                self.out.push(b'G');
                self.out.extend(value.to_be_bytes());
            }
            Value::Text(text) => self.text(text)?,
            Value::List(items) => {
                self.out.extend(b"](");
                self.values(items)?;
                self.out.push(b'e');
            }
            Value::Tuple(items) => {
                self.out.push(b'(');
                self.values(items)?;
                self.out.push(b't');
            }
            Value::Dict { ordered, items } => {
                match ordered {
                    true => self.empty_ordered(),
                    false => self.out.push(b'}'),
                }
                self.out.push(b'(');
                for (key, value) in items {
                    match key {
                        Key::Text(key) => self.text(key)?,
                        Key::Int(key) => self.int(*key),
                    }
                    self.value(value)?;
                }
                self.out.push(b'u');
            }
            Value::Tensor(number) => self.tensor(*number)?,
        }
        Ok(())
    }

    fn values(&mut self, items: &[Value]) -> Result<()> {
        items.iter().try_for_each(|item| self.value(item))
    }

    fn int(&mut self, value: i64) {
        if let Ok(value) = u8::try_from(value) {
            self.out.extend([b'K', value]);
        } else if let Ok(value) = i32::try_from(value) {
            self.out.push(b'J');
            self.out.extend(value.to_le_bytes());
        } else {
            self.out.extend([0x8a, 8]);
            self.out.extend(value.to_le_bytes());
        }
    }

    fn text(&mut self, text: &str) -> Result<()> {
        let Ok(len) = u32::try_from(text.len()) else {
            return Err(Error::internal("a string of more than 4 GiB"));
        };
        self.out.push(b'X');
        self.out.extend(len.to_le_bytes());
        self.out.extend(text.as_bytes());
        Ok(())
    }

    /// A function or class, by its memo number after the first time.
    fn name(&mut self, name: Name) {
        if let Some(known) = self.memo.iter().position(|&n| n == name) {
            self.out.extend([b'h', known as u8]);
            return;
        }
        let (module, function) = name;
        self.out
            .extend(format!("c{module}\n{function}\n").as_bytes());
        // There are a dozen names in all.
        self.out.extend([b'q', self.memo.len() as u8]);
        self.memo.push(name);
    }

    fn empty_ordered(&mut self) {
        self.name(ORDERED);
        self.out.extend(b")R");
    }

    fn sizes(&mut self, sizes: &[usize]) {
        self.out.push(b'(');
        for &size in sizes {
            self.int(size as i64);
        }
        self.out.push(b't');
    }

    fn tensor(&mut self, number: usize) -> Result<()> {
        let Some(tensor) = self.tensors.get(number) else {
            return Err(Error::internal(format!("the tree names tensor {number}")));
        };
        let (shape, dtype) = (tensor.shape.clone(), tensor.dtype);
        let Some((name, storage)) = dtype::names(dtype) else {
            return Err(Error::internal(format!(
                "{dtype} is not a type of .pth files"
            )));
        };
        let elements: usize = shape.iter().product();
        self.name(if storage.is_some() {
            REBUILD
        } else {
            REBUILD_TYPED
        });
        self.out.extend(b"((");
        self.text("storage")?;
        match storage {
            Some(class) => self.name(("torch", class)),
            None => self.name(BYTES),
        }
        self.text(&number.to_string())?;
        self.text("cpu")?;
        self.int(match storage {
            Some(_) => elements as i64,
            None => (elements * dtype::bytes(dtype)) as i64,
        });
        self.out.extend(b"tQ");
        self.int(0);
        self.sizes(&shape);
        self.sizes(&row_major(&shape));
        // No gradient, no hooks.
        self.out.push(0x89);
        self.empty_ordered();
        if storage.is_none() {
            self.name(("torch", name));
        }
        self.out.extend(b"tR");
        Ok(())
    }
}
