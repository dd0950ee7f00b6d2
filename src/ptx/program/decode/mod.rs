//! Lines to instructions: every modifier is understood or refused.

mod arithmetic;
mod class;
mod control;
mod convert;
mod logic;
mod matrix;
mod memory;
mod values;
mod wmma;

use std::collections::HashMap;

use super::hopper;
use super::op::*;
use super::resolve::{Arg, Line, Width};
use crate::ptx::Problem;
use class::{class, yields};

/// What decoding needs to know about an entry, and the constants that it collects.
pub struct Decoder<'d> {
    pub file: &'d str,
    /// Row of each virtual register.
    pub rows: &'d [u32],
    pub widths: &'d [Width],
    /// Row of the carry.
    pub carry: u32,
    /// Where the line branches to, and where its lanes meet again.
    pub branch: Option<(u32, u32)>,
    pub narrow: Vec<u32>,
    pub wide: Vec<u64>,
    narrow_at: HashMap<u32, u32>,
    wide_at: HashMap<u64, u32>,
    line: u32,
}

/// The modifiers of an opcode, taken in the order that PTX writes them.
pub struct Modifiers<'l> {
    all: &'l [&'l str],
    at: usize,
}

impl<'l> Modifiers<'l> {
    /// Those of a line, behind the opcode.
    pub fn new(line: &'l Line<'_>) -> Modifiers<'l> {
        Modifiers {
            all: &line.parts,
            at: 1,
        }
    }

    /// The next one.
    pub fn peek(&self) -> Option<&'l str> {
        self.all.get(self.at).copied()
    }

    /// Takes the next one if it is this.
    pub fn takes(&mut self, word: &str) -> bool {
        let found = self.peek() == Some(word);
        self.at += usize::from(found);
        found
    }

    /// Takes the next one if a value stands for it.
    pub fn of<T>(&mut self, find: impl Fn(&str) -> Option<T>) -> Option<T> {
        let found = self.peek().and_then(find);
        self.at += usize::from(found.is_some());
        found
    }

    /// Takes all that follow which are among these; nothing depends on them.
    pub fn skip(&mut self, words: &[&str]) {
        while self.peek().is_some_and(|word| words.contains(&word)) {
            self.at += 1;
        }
    }
}

fn round(word: &str) -> Option<Round> {
    Some(match word {
        "rn" => Round::Near,
        "rna" => Round::Away,
        "rz" => Round::Zero,
        "rm" => Round::Down,
        "rp" => Round::Up,
        _ => return None,
    })
}

fn round_integer(word: &str) -> Option<Round> {
    Some(match word {
        "rni" => Round::Near,
        "rzi" => Round::Zero,
        "rmi" => Round::Down,
        "rpi" => Round::Up,
        _ => return None,
    })
}

fn compare(word: &str) -> Option<Cmp> {
    Some(match word {
        "eq" => Cmp::Eq,
        "ne" => Cmp::Ne,
        "lt" | "lo" => Cmp::Lt,
        "le" | "ls" => Cmp::Le,
        "gt" | "hi" => Cmp::Gt,
        "ge" | "hs" => Cmp::Ge,
        "equ" => Cmp::Equ,
        "neu" => Cmp::Neu,
        "ltu" => Cmp::Ltu,
        "leu" => Cmp::Leu,
        "gtu" => Cmp::Gtu,
        "geu" => Cmp::Geu,
        "num" => Cmp::Num,
        "nan" => Cmp::Nan,
        _ => return None,
    })
}

fn boolean(word: &str) -> Option<Bool> {
    Some(match word {
        "and" => Bool::And,
        "or" => Bool::Or,
        "xor" => Bool::Xor,
        _ => return None,
    })
}

fn half(ty: Ty) -> Option<Half> {
    Some(match ty {
        Ty::F16 => Half {
            brain: false,
            packed: false,
        },
        Ty::F16x2 => Half {
            brain: false,
            packed: true,
        },
        Ty::Bf16 => Half {
            brain: true,
            packed: false,
        },
        Ty::Bf16x2 => Half {
            brain: true,
            packed: true,
        },
        _ => return None,
    })
}

/// `Ok` or an error that names the instruction.
type Decoded<T> = Result<T, Problem>;

impl<'d> Decoder<'d> {
    pub fn new(file: &'d str, rows: &'d [u32], widths: &'d [Width], carry: u32) -> Decoder<'d> {
        Decoder {
            file,
            rows,
            widths,
            carry,
            branch: None,
            narrow: Vec::new(),
            wide: Vec::new(),
            narrow_at: HashMap::new(),
            wide_at: HashMap::new(),
            line: 0,
        }
    }

    /// An error about an operand of the line.
    pub fn problem(&self, line: &Line<'_>, words: &str) -> Problem {
        let opcode = line.parts.join(".");
        Problem::at(self.file, line.line, format!("`{opcode}`: {words}"))
    }

    /// The error of an instruction or modifier that is not known.
    pub fn unknown(&self, line: &Line<'_>) -> Problem {
        let opcode = line.parts.join(".");
        Problem::at(
            self.file,
            line.line,
            format!("`{opcode}` is not known to this machine"),
        )
    }

    /// A constant row of 32 bits.
    pub fn constant(&mut self, value: u32) -> R {
        let next = self.narrow.len() as u32;
        let at = *self.narrow_at.entry(value).or_insert(next);
        if at == next {
            self.narrow.push(value);
        }
        at | CONST
    }

    /// A constant row of 64 bits.
    pub fn constant64(&mut self, value: u64) -> R {
        let next = self.wide.len() as u32;
        let at = *self.wide_at.entry(value).or_insert(next);
        if at == next {
            self.wide.push(value);
        }
        at | CONST
    }

    pub fn arg<'a, 'l>(&self, line: &'l Line<'a>, i: usize) -> Decoded<&'l Arg<'a>> {
        line.args
            .get(i)
            .ok_or_else(|| self.problem(line, &format!("operand {} is missing", i + 1)))
    }

    fn row(&self, line: &Line<'_>, v: u32, width: Width) -> Decoded<u32> {
        if self.widths[v as usize] != width {
            let wants = match width {
                Width::Pred => "a predicate",
                Width::Narrow => "a register of at most 32 bits",
                Width::Wide => "a register of 64 bits",
            };
            return Err(self.problem(line, &format!("an operand is not {wants}")));
        }
        Ok(self.rows[v as usize] + u32::from(width == Width::Pred))
    }

    /// Row of a 32-bit source.
    pub fn src(&mut self, line: &Line<'_>, i: usize) -> Decoded<R> {
        let arg = self.arg(line, i)?.clone();
        self.src_arg(line, &arg)
    }

    pub fn src_arg(&mut self, line: &Line<'_>, arg: &Arg<'_>) -> Decoded<R> {
        Ok(match arg {
            Arg::Reg(v) => self.row(line, *v, Width::Narrow)?,
            Arg::Int(value) => self.constant(*value as u32),
            Arg::F32(bits) => self.constant(*bits),
            Arg::F64(bits) => self.constant((f64::from_bits(*bits) as f32).to_bits()),
            Arg::Shared(at) | Arg::Param(at) | Arg::Local(at) => self.constant(*at),
            _ => return Err(self.problem(line, "an operand is no value of 32 bits")),
        })
    }

    /// Row of a 64-bit source.
    pub fn src64(&mut self, line: &Line<'_>, i: usize) -> Decoded<R> {
        let arg = self.arg(line, i)?.clone();
        self.src64_arg(line, &arg)
    }

    pub fn src64_arg(&mut self, line: &Line<'_>, arg: &Arg<'_>) -> Decoded<R> {
        Ok(match arg {
            Arg::Reg(v) => self.row(line, *v, Width::Wide)?,
            Arg::Int(value) => self.constant64(*value),
            Arg::F64(bits) => self.constant64(*bits),
            Arg::F32(bits) => self.constant64(f64::from(f32::from_bits(*bits)).to_bits()),
            Arg::Shared(at) | Arg::Param(at) | Arg::Local(at) => self.constant64(u64::from(*at)),
            Arg::Global(at) => self.constant64(*at),
            _ => return Err(self.problem(line, "an operand is no value of 64 bits")),
        })
    }

    /// Row of a source as wide as the type.
    fn source(&mut self, line: &Line<'_>, i: usize, ty: Ty) -> Decoded<R> {
        match ty.bytes() {
            8 => self.src64(line, i),
            _ => self.src(line, i),
        }
    }

    pub fn dst(&self, line: &Line<'_>, i: usize) -> Decoded<R> {
        self.dst_arg(line, self.arg(line, i)?)
    }

    pub fn dst_arg(&self, line: &Line<'_>, arg: &Arg<'_>) -> Decoded<R> {
        match arg {
            Arg::Reg(v) => self.row(line, *v, Width::Narrow),
            Arg::Sink => Ok(SINK),
            _ => Err(self.problem(line, "the result is no register")),
        }
    }

    pub fn dst64_arg(&self, line: &Line<'_>, arg: &Arg<'_>) -> Decoded<R> {
        match arg {
            Arg::Reg(v) => self.row(line, *v, Width::Wide),
            Arg::Sink => Ok(SINK),
            _ => Err(self.problem(line, "the result is no register")),
        }
    }

    pub fn dst64(&self, line: &Line<'_>, i: usize) -> Decoded<R> {
        self.dst64_arg(line, self.arg(line, i)?)
    }

    fn result(&self, line: &Line<'_>, ty: Ty) -> Decoded<R> {
        match ty.bytes() {
            8 => self.dst64(line, 0),
            _ => self.dst(line, 0),
        }
    }

    pub fn dst_pred(&self, line: &Line<'_>, arg: &Arg<'_>) -> Decoded<u32> {
        match arg {
            Arg::Reg(v) => self.row(line, *v, Width::Pred),
            Arg::Sink => Ok(SINK),
            _ => Err(self.problem(line, "the result is no predicate")),
        }
    }

    pub fn pred(&self, line: &Line<'_>, i: usize) -> Decoded<P> {
        let (v, negated) = match self.arg(line, i)? {
            Arg::Reg(v) => (*v, false),
            Arg::Not(v) => (*v, true),
            Arg::Int(value) => {
                return Ok(P {
                    row: 0,
                    negated: *value == 0,
                });
            }
            _ => return Err(self.problem(line, "an operand is no predicate")),
        };
        Ok(P {
            row: self.row(line, v, Width::Pred)?,
            negated,
        })
    }

    /// The result and the predicate of `d|p`.
    fn pair<'l, 'a>(
        &self,
        line: &'l Line<'a>,
        i: usize,
    ) -> Decoded<(&'l Arg<'a>, Option<&'l Arg<'a>>)> {
        Ok(match self.arg(line, i)? {
            Arg::Pair(a, b) => (a, Some(b)),
            other => (other, None),
        })
    }

    pub fn int(&self, line: &Line<'_>, i: usize) -> Decoded<u64> {
        match self.arg(line, i)? {
            Arg::Int(value) => Ok(*value),
            _ => Err(self.problem(line, &format!("operand {} must be a constant", i + 1))),
        }
    }

    pub fn vector<'l, 'a>(&self, line: &'l Line<'a>, i: usize) -> Decoded<&'l [Arg<'a>]> {
        match self.arg(line, i)? {
            Arg::Vector(parts) => Ok(parts),
            _ => Err(self.problem(line, &format!("operand {} must be in braces", i + 1))),
        }
    }

    /// `[base + offset]`.
    pub fn address(&mut self, line: &Line<'_>, i: usize) -> Decoded<Addr> {
        let Arg::Address(base, offset, coordinates) = self.arg(line, i)? else {
            return Err(self.problem(line, &format!("operand {} is no address", i + 1)));
        };
        if !coordinates.is_empty() {
            return Err(self.problem(line, "an address with coordinates is not known here"));
        }
        self.address_of(line, base, *offset)
    }

    pub fn address_of(&self, line: &Line<'_>, base: &Arg<'_>, offset: i64) -> Decoded<Addr> {
        Ok(match base {
            Arg::Reg(v) => Addr {
                base: match self.widths[*v as usize] {
                    Width::Narrow => Base::R32(self.row(line, *v, Width::Narrow)?),
                    _ => Base::R64(self.row(line, *v, Width::Wide)?),
                },
                offset,
            },
            Arg::Shared(at) | Arg::Param(at) | Arg::Local(at) => Addr {
                base: Base::None,
                offset: i64::from(*at).wrapping_add(offset),
            },
            Arg::Global(at) => Addr {
                base: Base::None,
                offset: (*at as i64).wrapping_add(offset),
            },
            Arg::Int(at) => Addr {
                base: Base::None,
                offset: (*at as i64).wrapping_add(offset),
            },
            _ => return Err(self.problem(line, "an address of this kind is not known")),
        })
    }

    /// Decodes a line.
    pub fn decode(&mut self, line: &Line<'_>) -> Decoded<Inst> {
        self.line = line.line;
        let guard = match line.guard {
            Some((v, negated)) => P {
                row: self.row(line, v, Width::Pred)?,
                negated,
            },
            None => P {
                row: 0,
                negated: false,
            },
        };
        let op = match hopper::decode(line, self)? {
            Some(op) => Op::Hopper(Box::new(op)),
            None => self.op(line)?,
        };
        let class = class(&op);
        let yields = yields(&op);
        Ok(Inst {
            op,
            guard,
            class,
            yields,
            line: line.line,
            location: line.location,
        })
    }

    fn op(&mut self, line: &Line<'_>) -> Decoded<Op> {
        let mut m = Modifiers::new(line);
        if let Some(op) = self.carrying(line, &mut m)? {
            return match m.peek() {
                None => Ok(op),
                Some(_) => Err(self.unknown(line)),
            };
        }
        let op = match line.parts[0] {
            "mov" => self.mov(line, &mut m)?,
            "add" | "sub" | "mul" | "div" | "min" | "max" | "rem" | "mul24" => {
                self.arithmetic(line, &mut m)?
            }
            "mad" | "fma" => self.multiply_add(line, &mut m)?,
            "and" | "or" | "xor" | "not" | "cnot" | "shl" | "shr" => self.logic(line, &mut m)?,
            "neg" | "abs" | "rcp" | "sqrt" | "rsqrt" | "sin" | "cos" | "lg2" | "ex2" | "tanh"
            | "popc" | "clz" | "brev" | "bfind" | "copysign" => self.one(line, &mut m)?,
            "bfi" | "bfe" | "lop3" | "prmt" | "shf" | "sad" | "dp4a" | "dp2a" | "mad24" | "fns"
            | "bmsk" | "szext" => self.bits(line, &mut m)?,
            "selp" | "slct" | "setp" | "set" | "testp" | "isspacep" => self.select(line, &mut m)?,
            "vadd2" | "vadd4" | "vsub2" | "vsub4" | "vavrg2" | "vavrg4" | "vabsdiff2"
            | "vabsdiff4" | "vmin2" | "vmin4" | "vmax2" | "vmax4" => self.parts(line, &mut m)?,
            "cvt" if line.parts.get(1) == Some(&"pack") => self.convert_pack(line, &mut m)?,
            "cvt" => self.convert(line, &mut m)?,
            "cvta" => self.cvta(line, &mut m)?,
            "ld" | "ldu" | "st" => self.memory(line, &mut m)?,
            "atom" | "red" => self.atomic(line, &mut m)?,
            "cp" => self.copy(line, &mut m)?,
            "ldmatrix" | "stmatrix" => self.matrix(line, &mut m)?,
            "mma" => self.mma(line, &mut m)?,
            "wmma" => self.wmma(line, &mut m)?,
            "shfl" | "vote" | "match" | "redux" | "activemask" => self.collective(line, &mut m)?,
            "bar" | "barrier" => self.barrier(line, &mut m)?,
            "membar" | "fence" => self.fence(line, &mut m)?,
            "bra" => {
                m.takes("uni");
                let (to, meet) = self
                    .branch
                    .ok_or_else(|| self.problem(line, "no such label"))?;
                Op::Bra { to, meet }
            }
            "ret" => {
                m.takes("uni");
                Op::Exit
            }
            "exit" => Op::Exit,
            "trap" => Op::Trap(line.parts.get(1).copied().unwrap_or("trap").into()),
            "nanosleep" => {
                m.takes("u32");
                self.src(line, 0)?;
                Op::Sleep
            }
            "prefetch" | "prefetchu" | "discard" | "applypriority" => {
                m.skip(&[
                    "global",
                    "local",
                    "L1",
                    "L2",
                    "L2::evict_normal",
                    "L2::evict_last",
                    "L2::128B",
                ]);
                Op::Nop
            }
            "pmevent" | "brkpt" => {
                m.skip(&["mask"]);
                Op::Nop
            }
            _ => return Err(self.unknown(line)),
        };
        match m.peek() {
            _ if matches!(op, Op::Trap(_)) => Ok(op),
            None => Ok(op),
            Some(_) => Err(self.unknown(line)),
        }
    }

    fn ty(&self, line: &Line<'_>, m: &mut Modifiers<'_>) -> Decoded<Ty> {
        m.of(Ty::from_name).ok_or_else(|| self.unknown(line))
    }

    /// Row of an integer source; constants of 16 bits are cut to them.
    fn integer(&mut self, line: &Line<'_>, i: usize, ty: Ty) -> Decoded<R> {
        match (ty.bytes(), self.arg(line, i)?) {
            (2, Arg::Int(value)) => {
                let value = *value as u32 & 0xFFFF;
                Ok(self.constant(value))
            }
            _ => self.source(line, i, ty),
        }
    }
}
