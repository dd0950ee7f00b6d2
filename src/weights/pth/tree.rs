//! What a checkpoint holds: tensors in nested containers, among numbers and strings.
//!
//! The nodes of a pickle may share and even contain one another; here they become a tree of their
//! own values, so its depth and size are bounded. Tensors are numbered in the order in which the
//! tree names them. What is neither tensor, container, number nor string is left out of dictionaries,
//! is `None` in lists, and is listed by where it was and what. A dictionary of a class that is not known
//! is one if there are tensors in it.

use super::fault::{Fault, Outcome, TENSORS_ALONE, shown};
use super::machine::{Id, Node, Unpickled};
use super::strided::Strided;

/// Containers within one another.
pub(super) const MAX_DEPTH: usize = 32;

/// Values, and bytes of their strings, of the whole tree.
const MAX_VALUES: usize = 1 << 21;
const MAX_TEXT: usize = 1 << 26;

/// A value of a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::weights) enum Value {
    /// `None`.
    None,
    /// `True` or `False`.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A float, or one of NumPy's.
    Float(f64),
    /// A string.
    Text(String),
    /// A list.
    List(Vec<Value>),
    /// A tuple.
    Tuple(Vec<Value>),
    /// A dictionary: `dict`, or with `ordered` an `OrderedDict`.
    Dict {
        ordered: bool,
        items: Vec<(Key, Value)>,
    },
    /// The tensor of this number.
    Tensor(usize),
}

/// A key of a dictionary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::weights) enum Key {
    /// A string, as of state dicts.
    Text(String),
    /// An integer, as of the state of optimisers.
    Int(i64),
}

impl Value {
    /// The value under a string key of a dictionary.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        let Value::Dict { items, .. } = self else {
            return None;
        };
        let found = items
            .iter()
            .find(|(k, _)| matches!(k, Key::Text(t) if t == key));
        found.map(|(_, value)| value)
    }
}

/// A value that was left out: the keys that lead to it, and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::weights) struct Skipped {
    /// Keys joined by dots; empty: the whole file.
    pub(in crate::weights) at: String,
    /// Its class, or its kind.
    pub(in crate::weights) what: String,
}

/// The tree of a pickle, its tensors in order, and what was left out. A tensor that the tree names twice
/// is there twice.
pub(super) fn tree(pickle: &Unpickled, name: &str) -> Outcome<(Value, Vec<Strided>, Vec<Skipped>)> {
    let mut builder = Builder {
        pickle,
        name,
        tensors: Vec::new(),
        values: MAX_VALUES,
        text: MAX_TEXT,
        path: Vec::new(),
        skipped: Vec::new(),
    };
    let root = builder.value(pickle.root, 0)?;
    match (builder.tensors.is_empty(), builder.skipped.first()) {
        (true, Some(first)) => {
            let what = first.what.clone();
            Err(builder.foreign(format!("no tensor, but {what}")))
        }
        _ => Ok((
            root.unwrap_or(Value::None),
            builder.tensors,
            builder.skipped,
        )),
    }
}

struct Builder<'a> {
    pickle: &'a Unpickled,
    /// The pickle's name, for messages.
    name: &'a str,
    tensors: Vec<Strided>,
    /// What may still come.
    values: usize,
    text: usize,
    /// Where the walk is.
    path: Vec<String>,
    skipped: Vec<Skipped>,
}

impl Builder<'_> {
    /// Leaves a value out.
    fn skip(&mut self, what: &str) -> Outcome<Option<Value>> {
        let at = self.path.join(".");
        let (at, what) = (self.text(&shown(&at))?, self.text(&shown(what))?);
        self.skipped.push(Skipped { at, what });
        Ok(None)
    }

    /// The value, or nothing where it is left out.
    fn value(&mut self, id: Id, depth: usize) -> Outcome<Option<Value>> {
        if depth > MAX_DEPTH {
            return Err(self.foreign(format!("more than {MAX_DEPTH} containers in one another")));
        }
        match self.values.checked_sub(1) {
            Some(left) => self.values = left,
            None => return Err(self.foreign(format!("more than {MAX_VALUES} values"))),
        }
        let pickle = self.pickle;
        Ok(Some(match pickle.node(id) {
            Node::None => Value::None,
            Node::Bool(value) => Value::Bool(*value),
            Node::Int(value) => match i64::try_from(*value) {
                Ok(value) => Value::Int(value),
                Err(_) => return self.skip(&format!("the integer {value}")),
            },
            Node::Float(value) => Value::Float(*value),
            Node::Text(text) => Value::Text(self.text(text)?),
            Node::List(items) => Value::List(self.values(items, depth)?),
            Node::Tuple(items) => Value::Tuple(self.values(items, depth)?),
            Node::Dict { ordered, items } => Value::Dict {
                ordered: *ordered,
                items: self.items(items, depth)?,
            },
            Node::Tensor(tensor) => {
                self.tensors.push(tensor.clone());
                Value::Tensor(self.tensors.len() - 1)
            }
            Node::Opaque { class, items } => {
                let (tensors, skipped) = (self.tensors.len(), self.skipped.len());
                let items = match items.is_empty() {
                    true => Vec::new(),
                    false => self.items(items, depth)?,
                };
                if self.tensors.len() == tensors {
                    // Named as a whole.
                    self.skipped.truncate(skipped);
                    return self.skip(class);
                }
                Value::Dict {
                    ordered: false,
                    items,
                }
            }
            Node::Bytes(_) => return self.skip("bytes that are no tensor"),
            Node::Storage { .. } => return self.skip("a storage that is no tensor's"),
            Node::Global(_) | Node::NumpyType(_) => {
                return self.skip("a function or type instead of a value");
            }
        }))
    }

    fn values(&mut self, items: &[Id], depth: usize) -> Outcome<Vec<Value>> {
        let items = items.iter().enumerate().map(|(i, &id)| {
            self.path.push(i.to_string());
            let value = self.value(id, depth + 1);
            self.path.pop();
            // Others keep their places.
            Ok(value?.unwrap_or(Value::None))
        });
        items.collect()
    }

    fn items(&mut self, items: &[(Id, Id)], depth: usize) -> Outcome<Vec<(Key, Value)>> {
        let mut kept = Vec::new();
        for &(key, value) in items {
            let Some(key) = self.key(key)? else {
                self.skip("a value under a key that is neither text nor an integer")?;
                continue;
            };
            self.path.push(match &key {
                Key::Text(text) => shown(text),
                Key::Int(value) => value.to_string(),
            });
            let value = self.value(value, depth + 1);
            self.path.pop();
            kept.extend(value?.map(|value| (key, value)));
        }
        Ok(kept)
    }

    fn key(&mut self, id: Id) -> Outcome<Option<Key>> {
        let pickle = self.pickle;
        Ok(match pickle.node(id) {
            Node::Text(text) => Some(Key::Text(self.text(text)?)),
            Node::Int(value) => i64::try_from(*value).ok().map(Key::Int),
            _ => None,
        })
    }

    fn text(&mut self, text: &str) -> Outcome<String> {
        match self.text.checked_sub(text.len()) {
            Some(left) => self.text = left,
            None => return Err(self.foreign(format!("more than {MAX_TEXT} bytes of text"))),
        }
        Ok(text.to_string())
    }

    fn foreign(&self, problem: impl std::fmt::Display) -> Fault {
        Fault::foreign(self.name, format!("holds {problem}"))
    }
}

/// Name of a tensor that is the whole file.
const ALONE: &str = "tensor";

/// The tensors of a tree by name: the keys and positions that lead there, joined by dots.
pub(super) fn names(root: &Value) -> Outcome<Vec<String>> {
    let mut walk = Walk {
        path: String::new(),
        names: Vec::new(),
        text: MAX_TEXT,
    };
    walk.visit(root)?;
    let mut sorted: Vec<&String> = walk.names.iter().collect();
    sorted.sort_unstable();
    if let Some(pair) = sorted.windows(2).find(|p| p[0] == p[1]) {
        return Err(Fault::Bad {
            problem: format!("holds two tensors under the name {}", shown(pair[0])),
            mend: TENSORS_ALONE,
        });
    }
    Ok(walk.names)
}

struct Walk {
    path: String,
    names: Vec<String>,
    /// Bytes that names may still have.
    text: usize,
}

impl Walk {
    fn visit(&mut self, value: &Value) -> Outcome<()> {
        match value {
            Value::Tensor(_) => {
                let name = if self.path.is_empty() {
                    ALONE
                } else {
                    &self.path
                };
                let Some(left) = self.text.checked_sub(name.len()) else {
                    return Err(Fault::Bad {
                        problem: format!("names its tensors in more than {MAX_TEXT} bytes"),
                        mend: TENSORS_ALONE,
                    });
                };
                self.text = left;
                self.names.push(name.to_string());
            }
            Value::List(items) | Value::Tuple(items) => {
                for (i, item) in items.iter().enumerate() {
                    self.below(&i.to_string(), item)?;
                }
            }
            Value::Dict { items, .. } => {
                for (key, item) in items {
                    match key {
                        Key::Text(key) => self.below(key, item)?,
                        Key::Int(key) => self.below(&key.to_string(), item)?,
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn below(&mut self, key: &str, value: &Value) -> Outcome<()> {
        let len = self.path.len();
        if len > 0 {
            self.path.push('.');
        }
        self.path.push_str(key);
        let done = self.visit(value);
        self.path.truncate(len);
        done
    }
}
