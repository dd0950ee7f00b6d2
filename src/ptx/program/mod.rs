//! Programs as the machine runs them: decoded once, flat, operands as row indices.

pub(super) mod decode;
pub(super) mod globals;
pub(super) mod hopper;
pub(super) mod op;
pub(super) mod resolve;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::counters::Class;
use super::flow::{Flow, NEVER};
use super::options::Arch;
use super::parse::{self, Kernel, Location, Text};
use super::problem::Problem;
use decode::Decoder;
use globals::Globals;
use op::{Inst, Op};
use resolve::{Layout, Line};

/// Most bytes of an entry's parameters (PTX ISA, sm_70 and later).
const MAX_PARAM_BYTES: u32 = 32764;

/// How deep functions may be inlined for a message to find the user's line.
const INLINED: usize = 16;

/// Whether a source file is a toolkit's, by its name: CUDA's headers and Triton's own functions.
fn library(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path);
    let suffix = name.rsplit_once('.').map_or("", |(_, suffix)| suffix);
    matches!(suffix, "h" | "hpp" | "inl" | "") || path.contains("/triton/language/")
}

/// A parameter of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// Its name in the PTX.
    pub name: String,
    /// Size in bytes.
    pub bytes: u32,
    /// Alignment in bytes.
    pub align: u32,
    /// Where it lies in the parameter block.
    pub offset: u32,
}

/// The instructions of a kernel, in the order of [`super::Counters::executed`].
#[derive(Debug)]
pub struct Listing {
    /// Opcodes with their modifiers: `mad.lo.s32`.
    pub opcodes: Vec<Arc<str>>,
    /// Their classes.
    pub classes: Vec<Class>,
    /// The loops: from where a branch goes back to, to the branch.
    pub loops: Vec<Range<usize>>,
}

impl Listing {
    fn new(lines: &[Line<'_>], code: &[Inst]) -> Listing {
        let mut known: HashMap<String, Arc<str>> = HashMap::new();
        let opcode = |line: &Line<'_>| {
            let text = known.entry(line.parts.join("."));
            text.or_insert_with_key(|text| text.as_str().into()).clone()
        };
        let back = |(i, inst): (usize, &Inst)| match inst.op {
            Op::Bra { to, .. } if to as usize <= i => Some(to as usize..i + 1),
            _ => None,
        };
        Listing {
            opcodes: lines.iter().map(opcode).collect(),
            classes: code.iter().map(|inst| inst.class).collect(),
            loops: code.iter().enumerate().filter_map(back).collect(),
        }
    }
}

/// A kernel.
#[derive(Debug)]
pub struct Entry {
    /// Its (mangled) name.
    pub name: String,
    /// Its parameters.
    pub params: Vec<Param>,
    /// Bytes of the parameter block.
    pub param_bytes: u32,
    /// Bytes of static shared memory.
    pub static_shared_bytes: u32,
    /// Most threads of a block along each axis (`.maxntid`), or exactly so many (`.reqntid`).
    pub max_threads: Option<[u32; 3]>,
    /// [`Entry::max_threads`] is exact.
    pub exact_threads: bool,
    pub(super) code: Vec<Inst>,
    listing: Arc<Listing>,
    /// Rows of constants.
    pub(super) narrow: Vec<[u32; 32]>,
    pub(super) wide: Vec<[u64; 32]>,
    /// Rows of predicates, of 32 and of 64 bits.
    pub(super) rows: [u32; 3],
    pub(super) shared: Layout,
    /// Bytes of a thread's local memory.
    pub(super) local_bytes: u32,
    /// See [`hopper::touches`].
    pub(super) touches: Vec<Box<[hopper::Touch]>>,
}

impl Entry {
    /// The line of the PTX text of each instruction, in the order of
    /// [`super::Counters::executed`].
    pub fn lines(&self) -> impl ExactSizeIterator<Item = u32> + '_ {
        self.code.iter().map(|inst| inst.line)
    }

    /// What its instructions are.
    pub fn listing(&self) -> &Arc<Listing> {
        &self.listing
    }
}

/// A parsed PTX file.
#[derive(Debug)]
pub struct Module {
    name: String,
    /// All kernels of the text.
    kernels: Vec<String>,
    target: Arch,
    entries: Vec<Entry>,
    files: Vec<(u32, String)>,
    locations: Vec<Location>,
    pub(super) globals: Globals,
    /// No other module has it: a machine keeps each module's variables.
    pub(super) id: u64,
}

/// Modules that were parsed.
static MODULES: AtomicU64 = AtomicU64::new(0);

impl Module {
    /// Parses and decodes a PTX text; `name` names it in messages.
    pub fn parse(text: &str, name: &str) -> Result<Module, Problem> {
        Module::read(text, name, None)
    }

    /// The same for one kernel of the text: others may do what the machine does not know, and cannot
    /// be launched.
    pub fn parse_entry(text: &str, name: &str, entry: &str) -> Result<Module, Problem> {
        Module::read(text, name, Some(entry))
    }

    fn read(text: &str, name: &str, only: Option<&str>) -> Result<Module, Problem> {
        let text = parse::parse(text, name)?;
        let target = Arch::of_target(text.target).ok_or_else(|| {
            Problem::new(format!(
                "{name}: target {} is not known to this machine; compile for sm_80, sm_90 or sm_90a",
                text.target
            ))
        })?;
        let globals = Globals::new(&text, name)?;
        let entries = text
            .kernels
            .iter()
            .filter(|kernel| only.is_none_or(|only| kernel.name == only))
            .map(|kernel| entry(&text, kernel, &globals, name))
            .collect::<Result<_, _>>()?;
        Ok(Module {
            name: name.to_string(),
            kernels: text.kernels.iter().map(|k| k.name.to_string()).collect(),
            target,
            entries,
            files: text
                .files
                .iter()
                .map(|(number, path)| (*number, path.to_string()))
                .collect(),
            locations: text.locations,
            globals,
            id: MODULES.fetch_add(1, Relaxed),
        })
    }

    /// The name that it was parsed under.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it was compiled for.
    pub fn target(&self) -> Arch {
        self.target
    }

    /// Names of all kernels of the text, those that were not decoded too.
    pub fn kernels(&self) -> &[String] {
        &self.kernels
    }

    /// Its kernels.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The kernel of this name.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.name == name)
    }

    /// Takes this off the front of the source files' paths in messages.
    pub fn strip_prefix(&mut self, prefix: &str) {
        for (_, path) in &mut self.files {
            if let Some(rest) = path.strip_prefix(prefix) {
                *path = rest.trim_start_matches('/').to_string();
            }
        }
    }

    /// Source position of an instruction as `file:line`, with the line that it was inlined at.
    pub(super) fn at(&self, inst: &Inst) -> String {
        let location = self.locations[inst.location as usize];
        let file = |number: u32| {
            let found = self.files.iter().find(|(n, _)| *n == number);
            found.map_or("?", |(_, path)| path.as_str())
        };
        if inst.location == 0 {
            return format!("{}:{}", self.name, inst.line);
        }
        let own = format!("{}:{}", file(location.file), location.line);
        // Out of a library's header to whoever called it.
        let mut outer = location.inlined_at;
        let is_library = |number: u32| library(file(number));
        for _ in 0..INLINED {
            match outer {
                Some((number, line)) if is_library(location.file) && is_library(number) => {
                    outer = self.inlined_at(number, line);
                }
                _ => break,
            }
        }
        match outer.or(location.inlined_at) {
            Some((number, line)) if is_library(location.file) => {
                format!("{}:{line} (in {own})", file(number))
            }
            Some((number, line)) => format!("{own} (from {}:{line})", file(number)),
            None => own,
        }
    }

    /// Where a line that calls is inlined itself.
    fn inlined_at(&self, file: u32, line: u32) -> Option<(u32, u32)> {
        self.locations
            .iter()
            .filter(|at| (at.file, at.line) == (file, line))
            .find_map(|at| at.inlined_at)
    }

    /// Whether two instructions come from the same source line.
    pub(super) fn same_line(&self, a: &Inst, b: &Inst) -> bool {
        a.location == b.location
            || self.locations[a.location as usize] == self.locations[b.location as usize]
    }
}

fn entry(
    text: &Text<'_>,
    kernel: &Kernel<'_>,
    globals: &Globals,
    file: &str,
) -> Result<Entry, Problem> {
    let mut params = Vec::new();
    let mut end = 0u32;
    for param in &kernel.params {
        let offset = end.next_multiple_of(param.align.max(1));
        end = offset.saturating_add(param.bytes);
        if end > MAX_PARAM_BYTES {
            let words = format!("more than {MAX_PARAM_BYTES} bytes of parameters");
            return Err(Problem::at(file, param.line, words));
        }
        params.push(Param {
            name: param.name.to_string(),
            bytes: param.bytes,
            align: param.align,
            offset,
        });
    }
    let offsets: Vec<u32> = params.iter().map(|param| param.offset).collect();
    let body = resolve::resolve(text, kernel, &offsets, globals, file)?;
    let targets = &body.targets;
    if !body
        .lines
        .last()
        .is_some_and(|line| line.guard.is_none() && (line.ends() || line.parts[0] == "bra"))
    {
        return Err(Problem::new(format!(
            "{file}: kernel {} does not end in ret, exit, trap or a branch",
            kernel.name
        )));
    }
    let flow = Flow::new(&body.lines, targets);
    let meetings = flow.meetings(targets);
    let (rows, counts) = flow
        .rows(&body.lines, &body.widths)
        .ok_or_else(|| too_large(file, kernel.name))?;
    let mut decoder = Decoder::new(file, &rows, &body.widths, counts[0] + 1);
    let mut code = Vec::with_capacity(body.lines.len());
    for (i, line) in body.lines.iter().enumerate() {
        decoder.branch = targets[i].map(|target| (target as u32, meetings[i]));
        code.push(decoder.decode(line)?);
    }
    debug_assert!(
        meetings
            .iter()
            .all(|m| *m == NEVER || (*m as usize) < code.len())
    );
    Ok(Entry {
        name: kernel.name.to_string(),
        params,
        param_bytes: end,
        static_shared_bytes: body.shared.static_bytes,
        max_threads: kernel.max_threads,
        exact_threads: kernel.exact_threads,
        listing: Arc::new(Listing::new(&body.lines, &code)),
        code,
        narrow: decoder.narrow.iter().map(|value| [*value; 32]).collect(),
        wide: decoder.wide.iter().map(|value| [*value; 32]).collect(),
        rows: [counts[0] + 2, counts[1], counts[2]],
        shared: body.shared,
        local_bytes: body.local_bytes,
        touches: hopper::touches(&body.lines, body.widths.len()),
    })
}

fn too_large(file: &str, kernel: &str) -> Problem {
    Problem::new(format!(
        "{file}: kernel {kernel} has more branches times registers than this machine can follow"
    ))
}
