//! Instructions whose names are resolved, and which registers they define.

use super::Special;
use crate::ptx::flow::registers;

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
    /// Address within a thread's local memory.
    Local(u32),
    /// Address of a module's variable, or of a function.
    Global(u64),
    /// What a call gives or takes.
    List(Vec<Arg<'a>>),
    /// A place that a branch of the resolver's own goes to.
    Place(usize),
    Special(Special),
    /// `_`.
    Sink,
    /// A label, or a word that only the instruction knows.
    Word(&'a str),
}

impl Arg<'_> {
    pub(super) fn renumber(&mut self, number: &mut impl FnMut(u32) -> u32) {
        match self {
            Arg::Reg(v) | Arg::Not(v) => *v = number(*v),
            Arg::Vector(parts) | Arg::List(parts) => {
                parts.iter_mut().for_each(|part| part.renumber(number));
            }
            Arg::Pair(a, b) => {
                a.renumber(number);
                b.renumber(number);
            }
            Arg::Address(base, _, coordinates) => {
                base.renumber(number);
                coordinates
                    .iter_mut()
                    .for_each(|part| part.renumber(number));
            }
            _ => {}
        }
    }
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
            | "multimem" | "tensormap" => false,
            "wmma" => self.parts.get(1) != Some(&"store"),
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
        // Accumulators are read above, and written.
        if let (["wgmma", "mma_async", ..], Some(sums)) = (self.parts.as_slice(), self.args.first())
        {
            registers(sums, &mut |v| found(v, true));
        }
    }

    /// Gives each register another number.
    pub(super) fn renumber(&mut self, number: &mut impl FnMut(u32) -> u32) {
        if let Some((v, _)) = &mut self.guard {
            *v = number(*v);
        }
        for arg in &mut self.args {
            arg.renumber(number);
        }
    }
}
