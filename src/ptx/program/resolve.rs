//! Names to registers and addresses: scopes, special registers, the layout of shared memory.

use std::collections::HashMap;

use crate::ptx::Problem;
use crate::ptx::flow::registers;
use crate::ptx::parse::{Item, Kernel, Operand, Statement, Text, Variable};

/// Where a block's shared memory starts in the shared window: a null pointer is nothing's address.
pub const SHARED_START: u32 = 1024;
/// Bytes around a shared array that belong to nothing.
const GAP: u32 = 16;

/// Kinds of register rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Width {
    /// One bit a lane.
    Pred,
    /// Up to 32 bits a lane.
    Narrow,
    /// 64 bits a lane.
    Wide,
}

/// Registers that the hardware sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    Laneid,
    Warpid,
    Nwarpid,
    LanemaskEq,
    LanemaskLt,
    LanemaskLe,
    LanemaskGt,
    LanemaskGe,
    /// Of a cluster of one block: its id is 0, its extent 1.
    Zero,
    One,
    DynamicShared,
    TotalShared,
}

/// An operand with its names resolved.
#[derive(Clone, Debug, PartialEq)]
pub enum Arg<'a> {
    /// A virtual register.
    Reg(u32),
    /// `!p`.
    Not(u32),
    Int(u64),
    F32(u32),
    F64(u64),
    Vector(Vec<Arg<'a>>),
    /// Base, offset, coordinates.
    Address(Box<Arg<'a>>, i64, Vec<Arg<'a>>),
    Pair(Box<Arg<'a>>, Box<Arg<'a>>),
    /// Address within the block's shared memory.
    Shared(u32),
    /// Offset within the parameter block.
    Param(u32),
    Special(Special),
    /// `_`.
    Sink,
    /// A label, or a word that only the instruction knows.
    Word(&'a str),
}

/// An instruction with its names resolved.
#[derive(Debug)]
pub struct Line<'a> {
    /// Predicate, and whether it is negated.
    pub guard: Option<(u32, bool)>,
    pub parts: Vec<&'a str>,
    pub args: Vec<Arg<'a>>,
    /// Line of the PTX text.
    pub line: u32,
    pub location: u32,
}

impl Line<'_> {
    /// Nothing follows it.
    pub fn ends(&self) -> bool {
        matches!(self.parts[0], "ret" | "exit" | "trap")
    }

    /// Whether the first operand is written.
    fn has_result(&self) -> bool {
        match self.parts[0] {
            "st" | "red" | "cp" | "bra" | "brx" | "ret" | "exit" | "trap" | "membar" | "fence"
            | "prefetch" | "prefetchu" | "nanosleep" | "setmaxnreg" | "griddepcontrol"
            | "discard" | "applypriority" | "stmatrix" | "wgmma" | "pmevent" | "brkpt" | "call"
            | "multimem" => false,
            "bar" | "barrier" => self.parts.contains(&"red"),
            "mbarrier" => matches!(
                self.parts.get(1),
                Some(&("arrive" | "arrive_drop" | "test_wait" | "try_wait" | "pending_count"))
            ),
            _ => true,
        }
    }

    /// Calls `found` with each register and whether it is defined there. A register that is read
    /// and written comes twice.
    pub fn each(&self, found: &mut impl FnMut(u32, bool)) {
        if let Some((v, _)) = self.guard {
            found(v, false);
        }
        let results = usize::from(self.has_result());
        for (i, arg) in self.args.iter().enumerate() {
            let memory = matches!(arg, Arg::Address(..));
            let defines = i < results && !memory;
            registers(arg, &mut |v| found(v, defines));
        }
    }
}

/// An entry with its names resolved.
pub struct Body<'a> {
    pub lines: Vec<Line<'a>>,
    pub widths: Vec<Width>,
    /// Where each line branches to.
    pub targets: Vec<Option<usize>>,
    pub shared: Layout,
}

/// Where shared arrays lie. A gap that belongs to nothing is before and behind each.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// Static arrays: name, start, bytes.
    pub arrays: Vec<(String, u32, u32)>,
    /// Bytes that a launch is charged for.
    pub static_bytes: u32,
    /// Where dynamic shared memory starts.
    pub dynamic_start: u32,
}

#[derive(Clone, Copy)]
enum Symbol {
    Reg(u32),
    Shared(u32),
    Param(u32),
}

struct Scope<'a> {
    names: HashMap<&'a str, Symbol>,
    /// `%r<9>`: prefix, first register, count.
    ranges: HashMap<&'a str, (u32, u32)>,
}

struct Resolver<'a, 'n> {
    file: &'n str,
    scopes: Vec<Scope<'a>>,
    widths: Vec<Width>,
}

/// Resolves an entry. `params` are the offsets of its parameters.
pub fn resolve<'a>(
    text: &Text<'a>,
    kernel: &Kernel<'a>,
    params: &[u32],
    file: &str,
) -> Result<Body<'a>, Problem> {
    let mut resolver = Resolver {
        file,
        scopes: vec![Scope {
            names: HashMap::new(),
            ranges: HashMap::new(),
        }],
        widths: Vec::new(),
    };
    for (param, offset) in kernel.params.iter().zip(params) {
        resolver.scopes[0]
            .names
            .insert(param.name, Symbol::Param(*offset));
    }
    // Static arrays first, wherever they are declared, then the dynamic one.
    let mut layout = Layout::default();
    let inner = kernel.body.iter().filter_map(|item| match item {
        Item::Variable(variable) => Some(variable),
        _ => None,
    });
    let variables: Vec<&Variable<'a>> = text.variables.iter().chain(inner).collect();
    let mut next = SHARED_START;
    let mut charged = 0u32;
    for variable in variables.iter().filter(|v| !v.open) {
        // A module's arrays count only where they are used; nvcc declares those that are.
        let start = place(next, variable.align);
        next = start.saturating_add(variable.bytes);
        charged = charged
            .next_multiple_of(variable.align)
            .saturating_add(variable.bytes);
        layout
            .arrays
            .push((variable.name.to_string(), start, variable.bytes));
        resolver.scopes[0]
            .names
            .insert(variable.name, Symbol::Shared(start));
    }
    layout.static_bytes = charged;
    let open: Vec<_> = variables.iter().filter(|v| v.open).collect();
    let align = open.iter().map(|v| v.align).max().unwrap_or(16).max(16);
    // Without static arrays dynamic memory starts the block's, at a multiple of 1024: kernels rely
    // on it for swizzles whatever alignment they declare.
    layout.dynamic_start = match layout.arrays.is_empty() {
        true => SHARED_START,
        false => next.saturating_add(GAP).next_multiple_of(align),
    };
    for variable in open {
        resolver.scopes[0]
            .names
            .insert(variable.name, Symbol::Shared(layout.dynamic_start));
    }
    let mut lines = Vec::new();
    let mut labels = Labels::default();
    // The scopes that are open at each line, innermost last.
    let mut open_at = Vec::new();
    for item in &kernel.body {
        match item {
            Item::Open => {
                resolver.scopes.push(Scope {
                    names: HashMap::new(),
                    ranges: HashMap::new(),
                });
                labels.open();
            }
            Item::Close => {
                resolver.scopes.pop();
                labels.open.pop();
            }
            Item::Label(name) => labels.put(name, lines.len()),
            Item::Targets(name, targets) => {
                labels.lists.insert(name, targets.clone());
            }
            Item::Variable(_) => {}
            Item::Registers(kind, names, line) => resolver.declare(kind, names, *line)?,
            Item::Statement(statement) => {
                let line = resolver.line(statement)?;
                if line.parts[0] == "brx" {
                    resolver.branch_by_index(line, &labels, &mut lines)?;
                } else {
                    lines.push(line);
                }
            }
        }
        open_at.resize(lines.len(), labels.open.clone());
    }
    let mut targets = Vec::with_capacity(lines.len());
    for (line, open) in lines.iter().zip(&open_at) {
        targets.push(match (line.parts[0], line.args.first()) {
            ("bra", Some(Arg::Word(label))) => match labels.find(open, label) {
                Some(target) if target < lines.len() => Some(target),
                Some(_) => {
                    return Err(Problem::at(
                        file,
                        line.line,
                        "a branch to behind the last instruction",
                    ));
                }
                None => return Err(Problem::at(file, line.line, format!("no label `{label}`"))),
            },
            _ => None,
        });
    }
    Ok(Body {
        lines,
        widths: resolver.widths,
        targets,
        shared: layout,
    })
}

/// Labels by the scope that they stand in: inline assembly brings its own, under the same name each
/// time.
#[derive(Default)]
struct Labels<'a> {
    places: HashMap<(u32, &'a str), usize>,
    /// Where a `brx.idx` may go.
    lists: HashMap<&'a str, Vec<&'a str>>,
    /// Numbers of the open scopes below the outermost, which is 0.
    open: Vec<u32>,
    scopes: u32,
}

impl<'a> Labels<'a> {
    fn open(&mut self) {
        self.scopes += 1;
        self.open.push(self.scopes);
    }

    fn put(&mut self, name: &'a str, line: usize) {
        let scope = self.open.last().copied().unwrap_or(0);
        self.places.insert((scope, name), line);
    }

    fn find(&self, open: &[u32], name: &str) -> Option<usize> {
        let inner = open.iter().rev().chain(&[0]);
        inner
            .copied()
            .find_map(|scope| self.places.get(&(scope, name)).copied())
    }
}

/// The next start behind a gap that has this alignment and, below 16, no more than this.
fn place(from: u32, align: u32) -> u32 {
    let start = from.saturating_add(GAP).next_multiple_of(align);
    match align < 16 && start.is_multiple_of(2 * align) {
        true => start + align,
        false => start,
    }
}

impl<'a> Resolver<'a, '_> {
    fn declare(
        &mut self,
        kind: &str,
        names: &[(&'a str, Option<u32>)],
        line: u32,
    ) -> Result<(), Problem> {
        let width = match kind {
            ".pred" => Width::Pred,
            ".b8" | ".u8" | ".s8" | ".b16" | ".u16" | ".s16" | ".f16" | ".b32" | ".u32"
            | ".s32" | ".f32" | ".f16x2" => Width::Narrow,
            ".b64" | ".u64" | ".s64" | ".f64" => Width::Wide,
            _ => {
                let words = format!("registers of type `{kind}` are not known to this machine");
                return Err(Problem::at(self.file, line, words));
            }
        };
        for (name, count) in names {
            let first = self.widths.len() as u32;
            let n = count.unwrap_or(1);
            if n > 1 << 20 {
                return Err(Problem::at(
                    self.file,
                    line,
                    format!("{n} registers are too many"),
                ));
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

    fn line(&self, statement: &Statement<'a>) -> Result<Line<'a>, Problem> {
        let at = |words: String| Problem::at(self.file, statement.line, words);
        let guard = match statement.guard {
            Some((name, negated)) => match self.find(name) {
                Some(Symbol::Reg(v)) if self.widths[v as usize] == Width::Pred => {
                    Some((v, negated))
                }
                _ => return Err(at(format!("`{name}` is no predicate"))),
            },
            None => None,
        };
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
    fn branch_by_index(
        &mut self,
        line: Line<'a>,
        labels: &Labels<'a>,
        lines: &mut Vec<Line<'a>>,
    ) -> Result<(), Problem> {
        let list = match (&line.parts[1..], line.args.as_slice(), line.guard) {
            (["idx"] | ["idx", "uni"], [_, Arg::Word(list)], None) => labels.lists.get(list),
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
                lines.push(new(None, vec!["setp", "eq", "u32"], args));
                guard = Some((p, false));
            }
            lines.push(new(guard, vec!["bra"], vec![Arg::Word(target)]));
        }
        Ok(())
    }

    fn name(&self, name: &'a str, line: u32) -> Result<Arg<'a>, Problem> {
        Ok(match self.find(name) {
            Some(Symbol::Reg(v)) => Arg::Reg(v),
            Some(Symbol::Shared(at)) => Arg::Shared(at),
            Some(Symbol::Param(at)) => Arg::Param(at),
            None if name == "_" => Arg::Sink,
            None if name.starts_with('%') => match special(name) {
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
            Operand::Pair(a, b) => {
                Arg::Pair(Box::new(self.name(a, line)?), Box::new(self.name(b, line)?))
            }
            Operand::Sum(name, offset) => match self.name(name, line)? {
                Arg::Shared(start) => Arg::Shared(start.wrapping_add(*offset as u32)),
                Arg::Param(start) => Arg::Param(start.wrapping_add(*offset as u32)),
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

fn special(name: &str) -> Option<Special> {
    let axis = |suffix: &str| match suffix {
        ".x" => Some(0),
        ".y" => Some(1),
        ".z" => Some(2),
        _ => None,
    };
    Some(match name {
        "%laneid" => Special::Laneid,
        "%warpid" => Special::Warpid,
        "%nwarpid" => Special::Nwarpid,
        "%lanemask_eq" => Special::LanemaskEq,
        "%lanemask_lt" => Special::LanemaskLt,
        "%lanemask_le" => Special::LanemaskLe,
        "%lanemask_gt" => Special::LanemaskGt,
        "%lanemask_ge" => Special::LanemaskGe,
        "%dynamic_smem_size" => Special::DynamicShared,
        "%total_smem_size" => Special::TotalShared,
        "%cluster_ctarank" | "%cluster_ctaid.x" | "%cluster_ctaid.y" | "%cluster_ctaid.z" => {
            Special::Zero
        }
        "%cluster_nctarank" | "%cluster_nctaid.x" | "%cluster_nctaid.y" | "%cluster_nctaid.z" => {
            Special::One
        }
        _ => {
            if let Some(a) = name.strip_prefix("%tid").and_then(axis) {
                Special::Tid(a)
            } else if let Some(a) = name.strip_prefix("%ntid").and_then(axis) {
                Special::Ntid(a)
            } else if let Some(a) = name
                .strip_prefix("%ctaid")
                .or(name.strip_prefix("%clusterid"))
                .and_then(axis)
            {
                Special::Ctaid(a)
            } else if let Some(a) = name
                .strip_prefix("%nctaid")
                .or(name.strip_prefix("%nclusterid"))
                .and_then(axis)
            {
                Special::Nctaid(a)
            } else {
                return None;
            }
        }
    })
}
