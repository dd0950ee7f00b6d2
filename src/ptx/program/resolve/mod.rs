//! Names to registers and addresses. Functions are laid out where they are called, so what comes
//! out is one flat list of lines.

mod calls;
mod labels;
mod line;
mod shared;
mod special;

use std::collections::{HashMap, HashSet};

use super::globals::Globals;
use crate::ptx::Problem;
use crate::ptx::memory::LOCAL_START;
use crate::ptx::parse::{Function, Item, Kernel, Operand, Space, Statement, Text, Variable};
use labels::Labels;
pub use line::{Arg, Line, Width};
pub use shared::Layout;
pub use special::Special;

/// Where a block's shared memory starts in the shared window: a null pointer is nothing's address.
pub const SHARED_START: u32 = 1024;
/// Most bytes of a thread's local memory (CUDA C programming guide, compute capabilities).
const MOST_LOCAL: u32 = 512 << 10;
/// Most registers that a text may declare, and lines with its functions laid out.
const MOST_REGISTERS: usize = 1 << 23;
const MOST_LINES: usize = 1 << 20;

/// An entry with its names resolved.
pub struct Body<'a> {
    pub lines: Vec<Line<'a>>,
    pub widths: Vec<Width>,
    /// Where each line branches to.
    pub targets: Vec<Option<usize>>,
    pub shared: Layout,
    /// Bytes of a thread's local memory.
    pub local_bytes: u32,
}

#[derive(Clone, Copy)]
enum Symbol {
    Reg(u32),
    Shared(u32),
    Param(u32),
    Local(u32),
    Global(u64),
}

#[derive(Default)]
struct Scope<'a> {
    names: HashMap<&'a str, Symbol>,
    /// `%r<9>`: prefix, first register, count.
    ranges: HashMap<&'a str, (u32, u32)>,
}

struct Resolver<'t, 'a> {
    file: &'t str,
    functions: HashMap<&'a str, &'t Function<'a>>,
    globals: &'t Globals,
    /// The module's, the function's, then those that braces open.
    scopes: Vec<Scope<'a>>,
    widths: Vec<Width>,
    lines: Vec<Line<'a>>,
    labels: Labels<'a>,
    /// The scopes that are open at each line, innermost last.
    open_at: Vec<Vec<u32>>,
    /// Where branches of the resolver's own go.
    places: Vec<usize>,
    /// First byte of local memory that is free, and the most there was.
    local: u32,
    local_most: u32,
    /// Functions that are being laid out, outermost first.
    calls: Vec<&'a str>,
    /// The places behind them.
    ends: Vec<usize>,
}

/// Resolves an entry. `params` are the offsets of its parameters.
pub fn resolve<'a>(
    text: &Text<'a>,
    kernel: &Kernel<'a>,
    params: &[u32],
    globals: &Globals,
    file: &str,
) -> Result<Body<'a>, Problem> {
    let mut module = Scope::default();
    for variable in &text.variables {
        if let Some(address) = globals.address(variable.name) {
            module.names.insert(variable.name, Symbol::Global(address));
        }
    }
    for function in &text.functions {
        if let Some(address) = globals.function(function.name) {
            module.names.insert(function.name, Symbol::Global(address));
        }
    }
    let layout = Layout::new(&shared_variables(text, kernel), |name, start| {
        module.names.insert(name, Symbol::Shared(start));
    });
    let mut own = Scope::default();
    for (param, offset) in kernel.params.iter().zip(params) {
        own.names.insert(param.name, Symbol::Param(*offset));
    }
    // A declaration may stand before or behind the definition.
    let mut functions: HashMap<&str, &Function<'_>> = HashMap::new();
    for function in &text.functions {
        let known = functions.entry(function.name).or_insert(function);
        if known.body.is_none() {
            *known = function;
        }
    }
    let mut resolver = Resolver {
        file,
        functions,
        globals,
        scopes: vec![module, own],
        widths: Vec::new(),
        lines: Vec::new(),
        labels: Labels::new(),
        open_at: Vec::new(),
        places: Vec::new(),
        local: LOCAL_START,
        local_most: LOCAL_START,
        calls: Vec::new(),
        ends: Vec::new(),
    };
    resolver.body(&kernel.body)?;
    let targets = resolver.targets()?;
    let Resolver {
        mut lines,
        widths: all,
        local_most,
        ..
    } = resolver;
    // Only registers that something names count.
    let (mut widths, mut numbers) = (Vec::new(), HashMap::new());
    for line in &mut lines {
        line.renumber(&mut |v| {
            *numbers.entry(v).or_insert_with(|| {
                widths.push(all[v as usize]);
                widths.len() as u32 - 1
            })
        });
    }
    Ok(Body {
        lines,
        widths,
        targets,
        shared: layout,
        local_bytes: local_most - LOCAL_START,
    })
}

/// The shared arrays that the kernel or a function names.
fn shared_variables<'t, 'a>(text: &'t Text<'a>, kernel: &'t Kernel<'a>) -> Vec<&'t Variable<'a>> {
    let bodies = || {
        let functions = text.functions.iter().filter_map(|f| f.body.as_deref());
        functions
            .chain(std::iter::once(kernel.body.as_slice()))
            .flatten()
    };
    let mut named = HashSet::new();
    for item in bodies() {
        if let Item::Statement(statement) = item {
            statement
                .operands
                .iter()
                .for_each(|operand| names(operand, &mut named));
        }
    }
    let inner = bodies().filter_map(|item| match item {
        Item::Variable(variable) => Some(variable),
        _ => None,
    });
    text.variables
        .iter()
        .chain(inner)
        .filter(|v| v.space == Space::Shared && (v.open || named.contains(v.name)))
        .collect()
}

fn names<'a>(operand: &Operand<'a>, found: &mut HashSet<&'a str>) {
    match operand {
        Operand::Name(name) | Operand::Sum(name, _) => {
            found.insert(name);
        }
        Operand::Vector(parts) | Operand::List(parts) => {
            parts.iter().for_each(|part| names(part, found));
        }
        Operand::Address(base, _, _) => names(base, found),
        _ => {}
    }
}

impl<'t, 'a> Resolver<'t, 'a> {
    fn problem(&self, line: u32, words: impl std::fmt::Display) -> Problem {
        Problem::at(self.file, line, words)
    }

    /// The items of an entry or a function.
    fn body(&mut self, items: &'t [Item<'a>]) -> Result<(), Problem> {
        for item in items {
            match item {
                Item::Open => {
                    self.scopes.push(Scope::default());
                    self.labels.open();
                }
                Item::Close => {
                    self.scopes.pop();
                    self.labels.open.pop();
                }
                Item::Label(name) => self.labels.put(name, self.lines.len()),
                Item::Targets(name, targets) => {
                    self.labels.lists.insert(name, targets.clone());
                }
                Item::Variable(variable) => {
                    if matches!(variable.space, Space::Local | Space::Param) {
                        let at = self.allocate(variable)?;
                        self.bind(variable.name, Symbol::Local(at));
                    }
                }
                Item::Registers(kind, names, line) => self.declare(kind, names, *line)?,
                Item::Statement(statement) => match statement.parts[0] {
                    "call" => self.call(statement)?,
                    "brx" => {
                        let line = self.line(statement)?;
                        self.branch_by_index(line)?;
                    }
                    "ret" if !self.calls.is_empty() => {
                        let mut line = self.line(statement)?;
                        let end = self.ends.last().copied().unwrap_or(0);
                        line.parts = vec!["bra"];
                        line.args = vec![Arg::Place(end)];
                        self.push(line);
                    }
                    _ => {
                        let line = self.line(statement)?;
                        self.push(line);
                    }
                },
            }
            if self.lines.len() > MOST_LINES || self.widths.len() > MOST_REGISTERS {
                let line = self.lines.last().map_or(0, |line| line.line);
                let words = format!(
                    "more than {MOST_LINES} instructions or {MOST_REGISTERS} registers with the functions that are called"
                );
                return Err(self.problem(line, words));
            }
        }
        Ok(())
    }

    fn push(&mut self, line: Line<'a>) {
        self.lines.push(line);
        self.open_at.push(self.labels.open.clone());
    }

    fn bind(&mut self, name: &'a str, symbol: Symbol) {
        if let Some(scope) = self.scopes.last_mut() {
            scope.names.insert(name, symbol);
        }
    }

    /// Local memory for a variable.
    fn allocate(&mut self, variable: &Variable<'a>) -> Result<u32, Problem> {
        let at = self.local.next_multiple_of(variable.align.max(1));
        let end = at.saturating_add(variable.bytes);
        if end - LOCAL_START > MOST_LOCAL {
            let words = format!("more than {MOST_LOCAL} bytes of local memory");
            return Err(self.problem(variable.line, words));
        }
        self.local = end;
        self.local_most = self.local_most.max(end);
        Ok(at)
    }

    /// Where each line branches to.
    fn targets(&mut self) -> Result<Vec<Option<usize>>, Problem> {
        // Behind a call of a function that does not come back there may be nothing.
        if self.places.contains(&self.lines.len()) {
            let (line, location) = self.lines.last().map_or((0, 0), |l| (l.line, l.location));
            self.push(Line {
                guard: None,
                parts: vec!["trap"],
                args: Vec::new(),
                line,
                location,
            });
        }
        let mut targets = Vec::with_capacity(self.lines.len());
        for (line, open) in self.lines.iter().zip(&self.open_at) {
            let target = match (line.parts[0], line.args.first()) {
                ("bra", Some(Arg::Word(label))) => match self.labels.find(open, label) {
                    Some(target) => target,
                    None => return Err(self.problem(line.line, format!("no label `{label}`"))),
                },
                ("bra", Some(Arg::Place(place))) => self.places[*place],
                _ => {
                    targets.push(None);
                    continue;
                }
            };
            if target >= self.lines.len() {
                return Err(self.problem(line.line, "a branch to behind the last instruction"));
            }
            targets.push(Some(target));
        }
        Ok(targets)
    }

    fn width(&self, kind: &str, line: u32) -> Result<Width, Problem> {
        Ok(match kind {
            ".pred" => Width::Pred,
            ".b8" | ".u8" | ".s8" | ".b16" | ".u16" | ".s16" | ".f16" | ".bf16" | ".b32"
            | ".u32" | ".s32" | ".f32" | ".f16x2" | ".bf16x2" => Width::Narrow,
            ".b64" | ".u64" | ".s64" | ".f64" => Width::Wide,
            _ => {
                let words = format!("registers of type `{kind}` are not known to this machine");
                return Err(self.problem(line, words));
            }
        })
    }

    /// A register without a name.
    fn register(&mut self, kind: &str, line: u32) -> Result<u32, Problem> {
        let width = self.width(kind, line)?;
        self.widths.push(width);
        Ok(self.widths.len() as u32 - 1)
    }

    fn declare(
        &mut self,
        kind: &str,
        names: &[(&'a str, Option<u32>)],
        line: u32,
    ) -> Result<(), Problem> {
        let width = self.width(kind, line)?;
        for (name, count) in names {
            let first = self.widths.len() as u32;
            let n = count.unwrap_or(1);
            if n as usize > MOST_REGISTERS - self.widths.len().min(MOST_REGISTERS) {
                let words = format!("more than {MOST_REGISTERS} registers");
                return Err(Problem::at(self.file, line, words));
            }
            self.widths.extend((0..n).map(|_| width));
            let Some(scope) = self.scopes.last_mut() else {
                return Err(Problem::at(self.file, line, "a `}` too many"));
            };
            match count {
                Some(count) => {
                    scope.ranges.insert(name, (first, *count));
                }
                None => {
                    scope.names.insert(name, Symbol::Reg(first));
                }
            }
        }
        Ok(())
    }

    fn find(&self, name: &str) -> Option<Symbol> {
        let digits = name.bytes().rev().take_while(u8::is_ascii_digit).count();
        let (prefix, number) = name.split_at(name.len() - digits);
        let number: Option<u32> = number.parse().ok();
        for scope in self.scopes.iter().rev() {
            if let Some(symbol) = scope.names.get(name) {
                return Some(*symbol);
            }
            if let (Some(number), Some((first, count))) = (number, scope.ranges.get(prefix))
                && number < *count
            {
                return Some(Symbol::Reg(first + number));
            }
        }
        None
    }

    fn guard(&self, statement: &Statement<'a>) -> Result<Option<(u32, bool)>, Problem> {
        let Some((name, negated)) = statement.guard else {
            return Ok(None);
        };
        match self.find(name) {
            Some(Symbol::Reg(v)) if self.widths[v as usize] == Width::Pred => {
                Ok(Some((v, negated)))
            }
            _ => Err(self.problem(statement.line, format!("`{name}` is no predicate"))),
        }
    }

    fn line(&self, statement: &Statement<'a>) -> Result<Line<'a>, Problem> {
        let guard = self.guard(statement)?;
        let args = statement
            .operands
            .iter()
            .map(|operand| self.arg(operand, statement.line))
            .collect::<Result<_, _>>()?;
        Ok(Line {
            guard,
            parts: statement.parts.clone(),
            args,
            line: statement.line,
            location: statement.location,
        })
    }

    /// `brx.idx` as a comparison and a branch for each target but the last. (It is one instruction
    /// on a GPU: counters see more.)
    fn branch_by_index(&mut self, line: Line<'a>) -> Result<(), Problem> {
        let list = match (&line.parts[1..], line.args.as_slice(), line.guard) {
            (["idx"] | ["idx", "uni"], [_, Arg::Word(list)], None) => {
                self.labels.lists.get(list).cloned()
            }
            _ => None,
        };
        let Some(targets) = list else {
            let words = "`brx` is known as an unguarded `brx.idx` behind its `.branchtargets`";
            return Err(Problem::at(self.file, line.line, words));
        };
        let index = line.args[0].clone();
        let new = |guard, parts, args| Line {
            guard,
            parts,
            args,
            line: line.line,
            location: line.location,
        };
        for (i, target) in targets.iter().enumerate() {
            let mut guard = None;
            if i + 1 < targets.len() {
                let p = self.widths.len() as u32;
                self.widths.push(Width::Pred);
                let args = vec![Arg::Reg(p), index.clone(), Arg::Int(i as u64)];
                self.push(new(None, vec!["setp", "eq", "u32"], args));
                guard = Some((p, false));
            }
            self.push(new(guard, vec!["bra"], vec![Arg::Word(target)]));
        }
        Ok(())
    }

    fn name(&self, name: &'a str, line: u32) -> Result<Arg<'a>, Problem> {
        Ok(match self.find(name) {
            Some(Symbol::Reg(v)) => Arg::Reg(v),
            Some(Symbol::Shared(at)) => Arg::Shared(at),
            Some(Symbol::Param(at)) => Arg::Param(at),
            Some(Symbol::Local(at)) => Arg::Local(at),
            Some(Symbol::Global(at)) => Arg::Global(at),
            None if name == "_" => Arg::Sink,
            None if name.starts_with('%') => match special::special(name) {
                Some(special) => Arg::Special(special),
                None => {
                    let words = format!("the register `{name}` is not known");
                    return Err(Problem::at(self.file, line, words));
                }
            },
            None => Arg::Word(name),
        })
    }

    fn arg(&self, operand: &Operand<'a>, line: u32) -> Result<Arg<'a>, Problem> {
        let at = |words: String| Problem::at(self.file, line, words);
        Ok(match operand {
            Operand::Name(name) => self.name(name, line)?,
            Operand::Not(name) => match self.name(name, line)? {
                Arg::Reg(v) => Arg::Not(v),
                _ => return Err(at(format!("`{name}` is no predicate"))),
            },
            Operand::Int(value) => Arg::Int(*value),
            Operand::F32(bits) => Arg::F32(*bits),
            Operand::F64(bits) => Arg::F64(*bits),
            Operand::Vector(parts) => Arg::Vector(self.args(parts, line)?),
            Operand::List(parts) => Arg::List(self.args(parts, line)?),
            Operand::Pair(a, b) => {
                Arg::Pair(Box::new(self.name(a, line)?), Box::new(self.name(b, line)?))
            }
            Operand::Sum(name, offset) => match self.name(name, line)? {
                Arg::Shared(start) => Arg::Shared(start.wrapping_add(*offset as u32)),
                Arg::Param(start) => Arg::Param(start.wrapping_add(*offset as u32)),
                Arg::Local(start) => Arg::Local(start.wrapping_add(*offset as u32)),
                Arg::Global(start) => Arg::Global(start.wrapping_add(*offset as u64)),
                _ => return Err(at(format!("`{name}` is no variable"))),
            },
            Operand::Address(base, offset, coordinates) => {
                let base = self.arg(base, line)?;
                if let (Arg::Word(name), true) = (&base, true) {
                    return Err(at(format!("`{name}` is not declared")));
                }
                Arg::Address(Box::new(base), *offset, self.args(coordinates, line)?)
            }
        })
    }

    fn args(&self, parts: &[Operand<'a>], line: u32) -> Result<Vec<Arg<'a>>, Problem> {
        parts.iter().map(|part| self.arg(part, line)).collect()
    }
}
