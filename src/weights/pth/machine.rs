//! The stack machine of pickles, with the opcodes that tensors need and no power to run anything.
//!
//! Comes in: the bytes of a pickle. Goes out: its values as nodes that name one another by number,
//! so that shared and even cyclic values cost nothing here. A pickle is a program: it pushes
//! values, collects them, and asks for functions by name to be called. Of those this machine knows
//! a handful ([`super::globals`]) and makes what they would have made ([`super::objects`]); what any
//! other would make is [`Node::Opaque`], a name and what a dictionary of that class would hold. Names
//! that run something, and opcodes of no object, end the reading with their position.
//!
//! Everything is bounded: a pickle has at most [`MAX_PICKLE`] bytes, and what it makes is charged
//! against [`BUDGET`], so neither loops of references nor repeated copies grow beyond it.

use std::collections::HashMap;
use std::sync::Arc;

use super::fault::{Fault, Outcome, shown};
use super::globals::{self, Global, NumpyType};
use super::objects::{Form, StorageRef};
use super::strided::Strided;

/// Bytes of the largest pickle that is read. One of a checkpoint takes some 300 a tensor.
pub(super) const MAX_PICKLE: u64 = 1 << 24;

/// Values and references to them that a pickle may make.
const BUDGET: usize = 1 << 22;

/// Characters of a class's name that are kept.
const MAX_CLASS: usize = 80;

/// Number of a node.
pub(super) type Id = usize;

/// A value.
#[derive(Debug)]
pub(super) enum Node {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Text(String),
    Bytes(Vec<u8>),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    Dict {
        ordered: bool,
        items: Vec<(Id, Id)>,
    },
    Global(Global),
    /// Storage number, its type if it has one, first element of the view, end of the view in bytes.
    Storage {
        storage: usize,
        dtype: Option<safetensors::Dtype>,
        start: usize,
        room: u64,
    },
    Tensor(Strided),
    NumpyType(NumpyType),
    /// A value of a class that is not known, or the class: its name, and its items if it is a
    /// dictionary of a kind.
    Opaque {
        class: Arc<str>,
        items: Vec<(Id, Id)>,
    },
}

/// What a pickle held.
#[derive(Debug)]
pub(super) struct Unpickled {
    pub(super) nodes: Vec<Node>,
    pub(super) root: Id,
    pub(super) storages: Vec<StorageRef>,
    /// Bytes that it took.
    pub(super) used: usize,
}

impl Unpickled {
    /// The value of the whole pickle.
    pub(super) fn value(&self) -> &Node {
        &self.nodes[self.root]
    }

    /// The value that a container names.
    pub(super) fn node(&self, id: Id) -> &Node {
        &self.nodes[id]
    }
}

/// Where a pickle lies, for messages.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    /// Record or part of the file.
    pub(super) name: &'a str,
    /// Position there of the pickle's first byte.
    pub(super) base: u64,
}

/// Reads the pickle at the start of `bytes`.
pub(super) fn unpickle(bytes: &[u8], place: Place<'_>, form: &Form<'_>) -> Outcome<Unpickled> {
    let mut machine = Machine {
        bytes,
        at: 0,
        op: 0,
        place,
        form,
        nodes: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        storages: Vec::new(),
        keys: HashMap::new(),
        left: BUDGET,
    };
    let root = machine.run()?;
    Ok(Unpickled {
        nodes: machine.nodes,
        root,
        storages: machine.storages,
        used: machine.at,
    })
}

pub(super) struct Machine<'a> {
    bytes: &'a [u8],
    /// Next byte.
    at: usize,
    /// Position of the opcode that is being executed.
    op: usize,
    place: Place<'a>,
    pub(super) form: &'a Form<'a>,
    pub(super) nodes: Vec<Node>,
    stack: Vec<Id>,
    /// Heights of the stack at the marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
    pub(super) storages: Vec<StorageRef>,
    /// Storages by key.
    pub(super) keys: HashMap<String, usize>,
    left: usize,
}

impl Machine<'_> {
    fn run(&mut self) -> Outcome<Id> {
        loop {
            self.op = self.at;
            let [op] = self.take()?;
            if op == b'.' {
                return self.pop();
            }
            self.step(op)?;
        }
    }

    fn step(&mut self, op: u8) -> Outcome<()> {
        match op {
            // PROTO and FRAME say what the opcodes say anyway.
            0x80 => self.take::<1>().map(|_| ()),
            0x95 => self.take::<8>().map(|_| ()),
            b'N' => self.push(Node::None),
            0x88 => self.push(Node::Bool(true)),
            0x89 => self.push(Node::Bool(false)),
            b'K' => self.take().map(u8::from_le_bytes).and_then(|v| self.int(v)),
            b'M' => self
                .take()
                .map(u16::from_le_bytes)
                .and_then(|v| self.int(v)),
            b'J' => self
                .take()
                .map(i32::from_le_bytes)
                .and_then(|v| self.int(v)),
            0x8a => {
                let [len] = self.take()?;
                self.long(usize::from(len))
            }
            0x8b => {
                let len = u32::from_le_bytes(self.take()?);
                self.long(len as usize)
            }
            b'G' => {
                let value = f64::from_be_bytes(self.take()?);
                self.push(Node::Float(value))
            }
            b'X' | 0x8c | 0x8d | b'U' | b'T' | b'C' | b'B' | 0x8e | 0x96 => self.string(op),
            b'}' => self.push(Node::Dict {
                ordered: false,
                items: Vec::new(),
            }),
            b']' => self.push(Node::List(Vec::new())),
            b')' => self.push(Node::Tuple(Vec::new())),
            b'(' => {
                self.charge(1)?;
                self.marks.push(self.stack.len());
                Ok(())
            }
            b't' => self
                .pop_mark()
                .and_then(|items| self.push(Node::Tuple(items))),
            0x85..=0x87 => self.short_tuple(usize::from(op - 0x84)),
            b'0' => self.pop().map(|_| ()),
            b'1' => self.pop_mark().map(|_| ()),
            b'2' => self.top().and_then(|top| self.push_id(top)),
            0x8f => self.push_opaque("set"),
            0x91 => {
                self.pop_mark()?;
                self.push_opaque("frozenset")
            }
            b'a' | b'e' | b's' | b'u' | 0x90 => self.fill(op),
            b'q' | b'r' | 0x94 => self.remember(op),
            b'h' | b'j' => self.recall(op),
            b'c' | 0x93 => self.global(op),
            b'R' | 0x81 => {
                let (arguments, function) = (self.pop()?, self.pop()?);
                let made = self.call(function, arguments)?;
                self.push_id(made)
            }
            0x92 => {
                // The arguments that have names say nothing of tensors.
                let (_, arguments, class) = (self.pop()?, self.pop()?, self.pop()?);
                let made = self.call(class, arguments)?;
                self.push_id(made)
            }
            b'o' => {
                let mut items = self.pop_mark()?;
                if items.is_empty() {
                    return Err(self.damaged("an object without a class"));
                }
                let class = items.remove(0);
                let arguments = self.add(Node::Tuple(items))?;
                let made = self.call(class, arguments)?;
                self.push_id(made)
            }
            b'b' => {
                let (state, object) = (self.pop()?, self.top()?);
                self.set_state(object, state)
            }
            b'Q' => {
                let id = self.pop()?;
                let node = self.persistent(id)?;
                self.push(node)
            }
            other => Err(self.foreign(format!("opcode {} is not of tensors", name_of(other)))),
        }
    }

    fn take<const N: usize>(&mut self) -> Outcome<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.slice(N)?);
        Ok(out)
    }

    fn slice(&mut self, len: usize) -> Outcome<&[u8]> {
        let end = self.at.checked_add(len).filter(|&e| e <= self.bytes.len());
        let Some(end) = end else {
            // A stream is cut at the limit, so its end may be the limit's doing.
            if self.bytes.len() as u64 >= MAX_PICKLE {
                let problem = format!("a pickle of more than {} MiB", MAX_PICKLE >> 20);
                return Err(self.foreign(problem));
            }
            return Err(self.damaged("the pickle ends in the middle"));
        };
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn line(&mut self) -> Outcome<String> {
        let rest = &self.bytes[self.at..];
        let Some(len) = rest.iter().position(|&b| b == b'\n') else {
            return Err(self.damaged("the pickle ends in the middle"));
        };
        let text = String::from_utf8_lossy(&rest[..len]).into_owned();
        self.at += len + 1;
        Ok(text)
    }

    /// Counts `n` values or references against the budget.
    pub(super) fn charge(&mut self, n: usize) -> Outcome<()> {
        match self.left.checked_sub(n) {
            Some(left) => self.left = left,
            None => return Err(self.foreign(format!("more than {BUDGET} values"))),
        }
        Ok(())
    }

    /// Adds a value.
    pub(super) fn add(&mut self, node: Node) -> Outcome<Id> {
        self.charge(1)?;
        self.nodes.push(node);
        Ok(self.nodes.len() - 1)
    }

    fn push(&mut self, node: Node) -> Outcome<()> {
        let id = self.add(node)?;
        self.stack.push(id);
        Ok(())
    }

    fn push_id(&mut self, id: Id) -> Outcome<()> {
        self.charge(1)?;
        self.stack.push(id);
        Ok(())
    }

    fn int(&mut self, value: impl Into<i128>) -> Outcome<()> {
        self.push(Node::Int(value.into()))
    }

    /// Two's complement of up to 16 bytes; PyTorch's magic number has 10. The state of a generator of
    /// random numbers may have more: then it is no number here.
    fn long(&mut self, len: usize) -> Outcome<()> {
        let raw = self.slice(len)?;
        if len > 16 {
            return self.push_opaque("int");
        }
        let negative = raw.last().is_some_and(|b| b & 0x80 != 0);
        let mut wide = if negative { [0xff; 16] } else { [0; 16] };
        wide[..len].copy_from_slice(raw);
        self.int(i128::from_le_bytes(wide))
    }

    fn string(&mut self, op: u8) -> Outcome<()> {
        let len = match op {
            0x8c | b'U' | b'C' => u64::from(self.take::<1>()?[0]),
            0x8d | 0x8e | 0x96 => u64::from_le_bytes(self.take()?),
            _ => u64::from(u32::from_le_bytes(self.take()?)),
        };
        let raw = self.slice(usize::try_from(len).unwrap_or(usize::MAX))?;
        let raw = raw.to_vec();
        let node = match (op, String::from_utf8(raw)) {
            (b'C' | b'B' | 0x8e | 0x96, text) => {
                Node::Bytes(text.map_or_else(|e| e.into_bytes(), String::into_bytes))
            }
            (_, Ok(text)) => Node::Text(text),
            // Python 2 writes bytes and text alike.
            (b'U' | b'T', Err(e)) => Node::Bytes(e.into_bytes()),
            (_, Err(_)) => return Err(self.damaged("text that is not UTF-8")),
        };
        self.push(node)
    }

    fn pop(&mut self) -> Outcome<Id> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn top(&mut self) -> Outcome<Id> {
        let floor = self.marks.last().copied().unwrap_or(0);
        match self.stack.last() {
            Some(&id) if self.stack.len() > floor => Ok(id),
            _ => Err(self.damaged("the pickle takes a value where there is none")),
        }
    }

    fn pop_mark(&mut self) -> Outcome<Vec<Id>> {
        let Some(mark) = self.marks.pop() else {
            return Err(self.damaged("the pickle collects values without a mark"));
        };
        Ok(self.stack.split_off(mark))
    }

    fn short_tuple(&mut self, len: usize) -> Outcome<()> {
        let mut items = vec![0; len];
        for item in items.iter_mut().rev() {
            *item = self.pop()?;
        }
        self.push(Node::Tuple(items))
    }

    /// APPEND, APPENDS, SETITEM, SETITEMS.
    fn fill(&mut self, op: u8) -> Outcome<()> {
        let new = match op {
            b'a' => vec![self.pop()?],
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                vec![key, value]
            }
            _ => self.pop_mark()?,
        };
        let target = self.top()?;
        let pairs = matches!(op, b's' | b'u');
        match &mut self.nodes[target] {
            // A list or a set of a kind: of no meaning here.
            Node::Opaque { .. } if !pairs => {}
            Node::Opaque { items, .. } if new.len().is_multiple_of(2) => {
                items.extend(new.chunks_exact(2).map(|p| (p[0], p[1])));
            }
            Node::List(items) if !pairs => items.extend(new),
            Node::Dict { items, .. } if pairs && new.len().is_multiple_of(2) => {
                items.extend(new.chunks_exact(2).map(|p| (p[0], p[1])));
            }
            _ => return Err(self.damaged("the pickle fills what is no container")),
        }
        Ok(())
    }

    /// BINPUT, LONG_BINPUT, MEMOIZE.
    fn remember(&mut self, op: u8) -> Outcome<()> {
        let index = match op {
            b'q' => u32::from(self.take::<1>()?[0]),
            b'r' => u32::from_le_bytes(self.take()?),
            _ => self.memo.len() as u32,
        };
        self.charge(1)?;
        let top = self.top()?;
        self.memo.insert(index, top);
        Ok(())
    }

    /// BINGET, LONG_BINGET.
    fn recall(&mut self, op: u8) -> Outcome<()> {
        let index = match op {
            b'h' => u32::from(self.take::<1>()?[0]),
            _ => u32::from_le_bytes(self.take()?),
        };
        match self.memo.get(&index) {
            Some(&id) => self.push_id(id),
            None => Err(self.damaged(format!("the pickle recalls value {index}, never kept"))),
        }
    }

    /// GLOBAL, STACK_GLOBAL.
    fn global(&mut self, op: u8) -> Outcome<()> {
        let (module, name) = if op == b'c' {
            (self.line()?, self.line()?)
        } else {
            let (name, module) = (self.pop()?, self.pop()?);
            match (&self.nodes[module], &self.nodes[name]) {
                (Node::Text(module), Node::Text(name)) => (module.clone(), name.clone()),
                _ => return Err(self.damaged("a function without a name")),
            }
        };
        match globals::find(&module, &name) {
            Some(global) => self.push(Node::Global(global)),
            None if globals::runs(&module, &name) => {
                let name = shown(&format!("{module}.{name}"));
                Err(self.foreign(format!("asks for {name}, which tensors do not need")))
            }
            None => self.push_opaque(&format!("{module}.{name}")),
        }
    }

    /// A value of a class that is not known.
    pub(super) fn opaque(class: &str) -> Node {
        Node::Opaque {
            class: class.chars().take(MAX_CLASS).collect::<String>().into(),
            items: Vec::new(),
        }
    }

    fn push_opaque(&mut self, class: &str) -> Outcome<()> {
        self.push(Self::opaque(class))
    }

    fn here(&self) -> String {
        format!(
            "{}, byte {}",
            self.place.name,
            self.place.base + self.op as u64
        )
    }

    /// A refusal: the pickle is no pickle.
    pub(super) fn damaged(&self, problem: impl std::fmt::Display) -> Fault {
        Fault::damaged(self.here(), problem)
    }

    /// A refusal: the pickle holds other things than tensors.
    pub(super) fn foreign(&self, problem: impl std::fmt::Display) -> Fault {
        Fault::foreign(self.here(), problem)
    }
}

/// Opcode in hexadecimal and by name, where a pickle might well hold it.
fn name_of(op: u8) -> String {
    let name = match op {
        b'i' => "INST",
        b'P' => "PERSID",
        b'I' | b'L' | b'F' | b'S' | b'V' | b'p' | b'g' | b'd' | b'l' => "of the text protocol",
        0x82..=0x84 => "EXT",
        0x97 | 0x98 => "of buffers",
        _ => "unknown",
    };
    format!("0x{op:02x} ({name})")
}
