//! What the known functions of a pickle make: tensors, storages, ordered dictionaries, numbers.

use std::collections::HashMap;

use safetensors::Dtype;

use super::dtype;
use super::fault::Outcome;
use super::globals::{Global, Number, NumpyType};
use super::machine::{Id, Machine, Node};
use super::strided::Strided;

/// Characters of a storage's key. Keys are numbers: positions or addresses.
const MAX_KEY: usize = 32;

/// Bytes of an encoded value: numbers of NumPy's have up to 8.
const MAX_ENCODED: usize = 64;

/// Arguments of a call, or flags of a state: no known function has more.
const MAX_ARGUMENTS: usize = 16;

/// What persistent ids mean in a pickle.
pub(super) enum Form<'a> {
    /// None are expected.
    Plain,
    /// `("storage", class, key, location, elements)`.
    Zip,
    /// The same, then a view of the storage or nothing.
    Stream,
    /// The number of a tensor.
    Tar(&'a HashMap<i128, Strided>),
}

/// A storage that a pickle asks for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct StorageRef {
    /// Its name in the file.
    pub(super) key: String,
    /// Its bytes by the pickle.
    pub(super) bytes: u64,
    /// Bytes of its elements.
    pub(super) element: usize,
}

impl Machine<'_> {
    /// REDUCE and NEWOBJ: what `function` would have made of `arguments`.
    pub(super) fn call(&mut self, function: Id, arguments: Id) -> Outcome<Id> {
        if let (Node::Opaque { class, .. }, Node::Tuple(_)) =
            (&self.nodes[function], &self.nodes[arguments])
        {
            let made = Node::Opaque {
                class: class.clone(),
                items: Vec::new(),
            };
            return self.add(made);
        }
        let (Node::Global(global), Node::Tuple(arguments)) =
            (&self.nodes[function], &self.nodes[arguments])
        else {
            return Err(self.damaged("a call of what is no function"));
        };
        if arguments.len() > MAX_ARGUMENTS {
            return Err(self.damaged(format!("a call with {} arguments", arguments.len())));
        }
        let (global, arguments) = (*global, arguments.clone());
        let made = match (global, arguments.as_slice()) {
            (Global::OrderedDict, items) => self.ordered(items)?,
            (Global::RebuildTensor, [storage, offset, sizes, strides]) => {
                self.tensor([*storage, *offset, *sizes, *strides], None)?
            }
            (Global::RebuildTensorV2, [storage, offset, sizes, strides, _, _, rest @ ..]) => {
                self.no_flags(rest)?;
                self.tensor([*storage, *offset, *sizes, *strides], None)?
            }
            (Global::RebuildTensorV3, [storage, offset, sizes, strides, _, _, kind, rest @ ..]) => {
                self.no_flags(rest)?;
                match &self.nodes[*kind] {
                    Node::Global(Global::Dtype(kind)) => {
                        let kind = *kind;
                        self.tensor([*storage, *offset, *sizes, *strides], Some(kind))?
                    }
                    // A type of numbers that is not known, a newer one, say.
                    Node::Opaque { class, .. } => Node::Opaque {
                        class: class.clone(),
                        items: Vec::new(),
                    },
                    _ => return Err(self.damaged("a tensor of no type")),
                }
            }
            (Global::Parameter, [tensor, ..]) if self.is_tensor(*tensor) => return Ok(*tensor),
            (Global::Parameter, [other, ..]) if self.is_opaque(*other) => return Ok(*other),
            (Global::RebuildFromType, [function, _, arguments, ..])
                if !matches!(self.nodes[*function], Node::Global(Global::RebuildFromType)) =>
            {
                return self.call(*function, *arguments);
            }
            (Global::Size, [sizes]) if matches!(self.nodes[*sizes], Node::Tuple(_)) => {
                return Ok(*sizes);
            }
            (Global::NumpyDtype, [code, ..]) => self.numpy_type(*code)?,
            (Global::NumpyScalar, [kind, raw]) => self.numpy_scalar(*kind, *raw)?,
            (Global::Encode, [text, code]) => self.encode(*text, *code)?,
            _ => return Err(self.damaged(format!("{global:?} of other arguments than its own"))),
        };
        self.add(made)
    }

    fn is_tensor(&self, id: Id) -> bool {
        matches!(self.nodes[id], Node::Tensor(_))
    }

    fn is_opaque(&self, id: Id) -> bool {
        matches!(self.nodes[id], Node::Opaque { .. })
    }

    /// The last argument of a tensor: flags (conjugate, negative) that change its values.
    fn no_flags(&self, rest: &[Id]) -> Outcome<()> {
        match rest.first().map(|&id| &self.nodes[id]) {
            None | Some(Node::None) => Ok(()),
            Some(Node::Dict { items, .. }) if items.is_empty() => Ok(()),
            Some(_) => Err(self.foreign("a tensor with flags (conjugate or negative)")),
        }
    }

    /// `OrderedDict()`, or of pairs as Python 2 writes it.
    fn ordered(&mut self, arguments: &[Id]) -> Outcome<Node> {
        let mut pairs = Vec::new();
        if let Some(&list) = arguments.first() {
            self.charge_items(list)?;
            let Node::List(list) = &self.nodes[list] else {
                return Err(self.damaged("an OrderedDict of what is no list"));
            };
            for &pair in list {
                match &self.nodes[pair] {
                    Node::List(pair) | Node::Tuple(pair) if pair.len() == 2 => {
                        pairs.push((pair[0], pair[1]));
                    }
                    _ => return Err(self.damaged("an OrderedDict of other things than pairs")),
                }
            }
        }
        Ok(Node::Dict {
            ordered: true,
            items: pairs,
        })
    }

    /// A tensor on a storage. `kind` overrides the storage's type.
    fn tensor(
        &mut self,
        [storage, offset, sizes, strides]: [Id; 4],
        kind: Option<Dtype>,
    ) -> Outcome<Node> {
        if let Node::Opaque { class, .. } = &self.nodes[storage] {
            // Of numbers that are not known: what has them is not, either.
            return Ok(Node::Opaque {
                class: class.clone(),
                items: Vec::new(),
            });
        }
        let Node::Storage {
            storage,
            dtype,
            start,
            room,
        } = self.nodes[storage]
        else {
            return Err(self.damaged("a tensor without a storage"));
        };
        // Bytes of no type are of type uint8.
        let kind = kind.or(dtype).unwrap_or(Dtype::U8);
        if dtype.is_some_and(|d| d != kind) {
            return Err(self.damaged(format!("a tensor of {kind} on another storage")));
        }
        let (sizes, strides) = (self.sizes(sizes)?, self.sizes(strides)?);
        let offset = self.size(offset)?.saturating_add(start);
        Strided::new(storage, room, kind, offset, sizes, strides)
            .map(Node::Tensor)
            .map_err(|problem| self.damaged(problem))
    }

    /// Counts the items of a container, which are about to be copied, against the budget.
    fn charge_items(&mut self, id: Id) -> Outcome<()> {
        match &self.nodes[id] {
            Node::Tuple(items) | Node::List(items) => self.charge(items.len()),
            _ => Ok(()),
        }
    }

    fn sizes(&mut self, id: Id) -> Outcome<Vec<usize>> {
        self.charge_items(id)?;
        match &self.nodes[id] {
            Node::Tuple(items) | Node::List(items) => items.iter().map(|&i| self.size(i)).collect(),
            _ => Err(self.damaged("sizes that are no tuple")),
        }
    }

    /// A size, stride or offset.
    fn size(&self, id: Id) -> Outcome<usize> {
        match self.nodes[id] {
            Node::Int(value) => {
                usize::try_from(value).map_err(|_| self.damaged(format!("a size of {value}")))
            }
            _ => Err(self.damaged("a size that is no integer")),
        }
    }

    fn numpy_type(&self, code: Id) -> Outcome<Node> {
        match &self.nodes[code] {
            Node::Text(code) => match NumpyType::of(code) {
                Some(kind) => Ok(Node::NumpyType(kind)),
                None => Ok(Self::opaque(&format!("a NumPy value of type {code}"))),
            },
            _ => Err(self.damaged("a NumPy type without a name")),
        }
    }

    fn numpy_scalar(&self, kind: Id, raw: Id) -> Outcome<Node> {
        if let Node::Opaque { class, .. } = &self.nodes[kind] {
            return Ok(Node::Opaque {
                class: class.clone(),
                items: Vec::new(),
            });
        }
        let raw = match &self.nodes[raw] {
            Node::Bytes(raw) => raw.as_slice(),
            // Python 2 writes bytes and text alike.
            Node::Text(raw) => raw.as_bytes(),
            _ => return Err(self.damaged("a NumPy number without bytes")),
        };
        let number = match &self.nodes[kind] {
            Node::NumpyType(kind) => kind.number(raw),
            _ => None,
        };
        match number {
            Some(Number::Bool(value)) => Ok(Node::Bool(value)),
            Some(Number::Int(value)) => Ok(Node::Int(value)),
            Some(Number::Float(value)) => Ok(Node::Float(value)),
            None => Err(self.damaged("a NumPy number of the wrong size")),
        }
    }

    /// `_codecs.encode(text, "latin1")`: characters to the bytes of the same numbers.
    fn encode(&self, text: Id, code: Id) -> Outcome<Node> {
        let (Node::Text(text), Node::Text(code)) = (&self.nodes[text], &self.nodes[code]) else {
            return Err(self.damaged("bytes that are no text"));
        };
        if text.len() > MAX_ENCODED {
            return Ok(Self::opaque("bytes"));
        }
        let raw: Option<Vec<u8>> = text.chars().map(|c| u8::try_from(c).ok()).collect();
        let (Some(raw), "latin1" | "latin-1") = (raw, code.as_str()) else {
            return Err(self.foreign("bytes in another encoding than latin1"));
        };
        Ok(Node::Bytes(raw))
    }

    /// BUILD: the state of an object that was made before.
    pub(super) fn set_state(&mut self, object: Id, state: Id) -> Outcome<()> {
        match (&self.nodes[object], &self.nodes[state]) {
            (Node::Opaque { .. }, _) => Ok(()),
            // Attributes of a state dict: the versions of its modules (`_metadata`).
            (Node::Dict { ordered: true, .. }, Node::Dict { .. }) => Ok(()),
            // A parameter of PyTorch 0.1: whether it has a gradient, and hooks.
            (Node::Tensor(_), Node::Tuple(flags)) if self.are_flags(flags) => Ok(()),
            // Attributes that a script gave it.
            (Node::Tensor(_), Node::Dict { .. }) => Ok(()),
            (&Node::NumpyType(kind), Node::Tuple(items)) => {
                let order = items.get(1).map(|&id| &self.nodes[id]);
                let little = matches!(order, Some(Node::Text(o)) if o == "<" || o == "|");
                if !little {
                    self.nodes[object] = Self::opaque("a NumPy value that is not little-endian");
                    return Ok(());
                }
                self.nodes[object] = Node::NumpyType(NumpyType { little, ..kind });
                Ok(())
            }
            _ => Err(self.foreign("an object with a state of its own")),
        }
    }

    fn are_flags(&self, ids: &[Id]) -> bool {
        let is_flag = |&id: &Id| match &self.nodes[id] {
            Node::Bool(_) | Node::None => true,
            Node::Dict { items, .. } => items.is_empty(),
            _ => false,
        };
        ids.len() <= MAX_ARGUMENTS && ids.iter().all(is_flag)
    }

    /// BINPERSID: what lies elsewhere in the file.
    pub(super) fn persistent(&mut self, id: Id) -> Outcome<Node> {
        if let Form::Tar(tensors) = self.form {
            let number = match &self.nodes[id] {
                Node::Int(number) => Some(*number),
                Node::Text(text) => text.parse().ok(),
                _ => None,
            };
            let Some(tensor) = number.and_then(|n| tensors.get(&n)) else {
                return Err(self.damaged("a tensor that the file does not hold"));
            };
            self.charge(tensor.shape.len())?;
            return Ok(Node::Tensor(tensor.clone()));
        }
        if let Node::Tuple(id) = &self.nodes[id]
            && let [kind, class, ..] = id.as_slice()
            && matches!(&self.nodes[*kind], Node::Text(kind) if kind == "module")
        {
            // A class of modules with its source, as streams have it.
            return Ok(match &self.nodes[*class] {
                Node::Opaque { class, .. } => Self::opaque(class),
                _ => Self::opaque("a class"),
            });
        }
        let (class, key, elements, view) = match (self.form, &self.nodes[id]) {
            (Form::Zip, Node::Tuple(id)) if id.len() == 5 => (id[1], id[2], id[4], None),
            (Form::Stream, Node::Tuple(id)) if id.len() == 6 => (id[1], id[2], id[4], Some(id[5])),
            _ => return Err(self.damaged("a reference that is no storage")),
        };
        // A storage of numbers that are not known is one all the same: streams list it.
        let (dtype, element, foreign) = match &self.nodes[class] {
            Node::Global(Global::Storage(dtype)) => (*dtype, dtype.map_or(1, dtype::bytes), None),
            Node::Opaque { class, .. } => match element_of(class) {
                Some(element) => (None, element, Some(class.clone())),
                None => return Ok(Self::opaque(class)),
            },
            _ => return Err(self.damaged("a storage of no type")),
        };
        let elements = self.size(elements)?;
        let Some(bytes) = elements.checked_mul(element) else {
            return Err(self.damaged(format!("a storage of {elements} elements")));
        };
        let key = match &self.nodes[key] {
            Node::Text(key) if is_key(key) => key.clone(),
            Node::Text(key) => {
                let key = super::fault::shown(key);
                return Err(self.damaged(format!("a storage under the name {key}")));
            }
            _ => return Err(self.damaged("a storage without a name")),
        };
        let (start, end) = self.view(view, elements)?;
        let storage = self.storage(StorageRef {
            key,
            bytes: bytes as u64,
            element,
        })?;
        if let Some(class) = foreign {
            return Ok(Self::opaque(&class));
        }
        Ok(Node::Storage {
            storage,
            dtype,
            start,
            room: (end * element) as u64,
        })
    }

    /// First element and end of a storage's view `(key, offset, elements)`, or of all of it.
    fn view(&self, view: Option<Id>, elements: usize) -> Outcome<(usize, usize)> {
        match view.map(|id| &self.nodes[id]) {
            None | Some(Node::None) => Ok((0, elements)),
            Some(Node::Tuple(items)) if items.len() == 3 => {
                let (start, len) = (self.size(items[1])?, self.size(items[2])?);
                let end = start.checked_add(len).filter(|&e| e <= elements);
                let end = end.ok_or_else(|| self.damaged("a view beyond its storage"))?;
                Ok((start, end))
            }
            Some(_) => Err(self.damaged("a view that is no tuple")),
        }
    }

    /// The number of a storage, the same for the same key.
    fn storage(&mut self, new: StorageRef) -> Outcome<usize> {
        if let Some(&known) = self.keys.get(&new.key) {
            let (old, key) = (&self.storages[known], &new.key);
            if old.bytes != new.bytes {
                let problem = format!("storage {key} of {} bytes, and of {}", old.bytes, new.bytes);
                return Err(self.damaged(problem));
            }
            return Ok(known);
        }
        self.charge(1)?;
        self.keys.insert(new.key.clone(), self.storages.len());
        self.storages.push(new);
        Ok(self.storages.len() - 1)
    }
}

/// Bytes of an element of PyTorch's storage `class` whose numbers no tensor here has.
fn element_of(class: &str) -> Option<usize> {
    let (module, name) = class.rsplit_once('.')?;
    let bytes = match name {
        "ComplexDoubleStorage" => 16,
        "ComplexFloatStorage" => 8,
        "ComplexHalfStorage" | "QInt32Storage" => 4,
        "QInt8Storage" | "QUInt8Storage" => 1,
        _ => return None,
    };
    matches!(module, "torch" | "torch.cuda").then_some(bytes)
}

fn is_key(key: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    !key.is_empty() && key.len() <= MAX_KEY && key.chars().all(plain)
}
