//! Lines to instructions: every modifier is understood or refused.

use std::collections::HashMap;

use super::hopper;
use super::op::*;
use super::resolve::{Arg, Line, Width};
use crate::ptx::Problem;
use crate::ptx::counters::Class;

/// What decoding needs to know about an entry, and the constants that it collects.
pub struct Decoder<'d> {
    pub file: &'d str,
    /// Row of each virtual register.
    pub rows: &'d [u32],
    pub widths: &'d [Width],
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
    pub fn new(file: &'d str, rows: &'d [u32], widths: &'d [Width]) -> Decoder<'d> {
        Decoder {
            file,
            rows,
            widths,
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
            Arg::Shared(at) | Arg::Param(at) => self.constant(*at),
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
            Arg::Shared(at) | Arg::Param(at) => self.constant64(u64::from(*at)),
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
            Arg::Shared(at) | Arg::Param(at) => Addr {
                base: Base::None,
                offset: i64::from(*at).wrapping_add(offset),
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
        let op = match line.parts[0] {
            "mov" => self.mov(line, &mut m)?,
            "add" | "sub" | "mul" | "div" | "min" | "max" | "rem" | "mul24" => {
                self.arithmetic(line, &mut m)?
            }
            "mad" | "fma" => self.multiply_add(line, &mut m)?,
            "and" | "or" | "xor" | "not" | "cnot" | "shl" | "shr" => self.logic(line, &mut m)?,
            "neg" | "abs" | "rcp" | "sqrt" | "rsqrt" | "sin" | "cos" | "lg2" | "ex2" | "tanh"
            | "popc" | "clz" | "brev" | "bfind" | "copysign" => self.one(line, &mut m)?,
            "bfi" | "bfe" | "lop3" | "prmt" | "shf" | "sad" | "dp4a" | "bmsk" | "szext" => {
                self.bits(line, &mut m)?
            }
            "selp" | "slct" | "setp" | "set" => self.select(line, &mut m)?,
            "cvt" => self.convert(line, &mut m)?,
            "cvta" => self.cvta(line, &mut m)?,
            "ld" | "ldu" | "st" => self.memory(line, &mut m)?,
            "atom" | "red" => self.atomic(line, &mut m)?,
            "cp" => self.copy(line, &mut m)?,
            "ldmatrix" | "stmatrix" => self.matrix(line, &mut m)?,
            "mma" => self.mma(line, &mut m)?,
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
            "trap" => Op::Trap,
            "nanosleep" => {
                m.takes("u32");
                self.src(line, 0)?;
                Op::Nop
            }
            "prefetch" | "prefetchu" => {
                m.skip(&["global", "L1", "L2"]);
                Op::Nop
            }
            _ => return Err(self.unknown(line)),
        };
        match m.peek() {
            None => Ok(op),
            Some(_) => Err(self.unknown(line)),
        }
    }

    fn ty(&self, line: &Line<'_>, m: &mut Modifiers<'_>) -> Decoded<Ty> {
        m.of(Ty::from_name).ok_or_else(|| self.unknown(line))
    }

    fn mov(&mut self, line: &Line<'_>, m: &mut Modifiers<'_>) -> Decoded<Op> {
        let ty = self.ty(line, m)?;
        if ty == Ty::Pred {
            return Ok(Op::MovPred {
                d: self.dst_pred(line, self.arg(line, 0)?)?,
                s: self.pred(line, 1)?,
            });
        }
        let wide = ty.bytes() == 8;
        match (self.arg(line, 0)?, self.arg(line, 1)?) {
            (Arg::Vector(to), from) => {
                let from = from.clone();
                let narrow = to.iter().all(|arg| {
                    matches!(arg, Arg::Sink)
                        || matches!(arg, Arg::Reg(v) if self.widths[*v as usize] == Width::Narrow)
                });
                if !narrow {
                    return Err(self.unknown(line));
                }
                let d: Vec<R> = to
                    .iter()
                    .map(|arg| self.dst_arg(line, arg))
                    .collect::<Result<_, _>>()?;
                match (wide, d.as_slice()) {
                    (true, [a, b]) => Ok(Op::Unpack64 {
                        d: [*a, *b],
                        s: self.src64_arg(line, &from)?,
                    }),
                    (true, [a, b, c, e]) => Ok(Op::Unpack64x4 {
                        d: [*a, *b, *c, *e],
                        s: self.src64_arg(line, &from)?,
                    }),
                    (false, [a, b]) => Ok(Op::Unpack32 {
                        d: [*a, *b],
                        s: self.src_arg(line, &from)?,
                    }),
                    _ => Err(self.unknown(line)),
                }
            }
            (_, Arg::Vector(from)) => {
                let from = from.clone();
                let s: Vec<R> = from
                    .iter()
                    .map(|arg| self.src_arg(line, arg))
                    .collect::<Result<_, _>>()?;
                match (wide, s.as_slice()) {
                    (true, [a, b]) => Ok(Op::Pack64 {
                        d: self.dst64(line, 0)?,
                        parts: [*a, *b],
                    }),
                    (true, [a, b, c, e]) => Ok(Op::Pack64x4 {
                        d: self.dst64(line, 0)?,
                        parts: [*a, *b, *c, *e],
                    }),
                    (false, [a, b]) => Ok(Op::Pack32 {
                        d: self.dst(line, 0)?,
                        parts: [*a, *b],
                    }),
                    _ => Err(self.unknown(line)),
                }
            }
            (_, Arg::Special(what)) => Ok(Op::Read {
                what: *what,
                wide,
                d: self.result(line, ty)?,
            }),
            _ if wide => Ok(Op::Mov64 {
                d: self.dst64(line, 0)?,
                s: self.src64(line, 1)?,
            }),
            (_, Arg::Int(value)) if ty.bytes() == 2 => {
                let s = self.constant(*value as u32 & 0xFFFF);
                Ok(Op::Mov32 {
                    d: self.dst(line, 0)?,
                    s,
                })
            }
            _ => Ok(Op::Mov32 {
                d: self.dst(line, 0)?,
                s: self.src(line, 1)?,
            }),
        }
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

    fn arithmetic(&mut self, line: &Line<'_>, m: &mut Modifiers<'_>) -> Decoded<Op> {
        let name = line.parts[0];
        // Integers: an optional hi, lo or wide, then the type.
        let part = m.of(|word| ["hi", "lo", "wide"].into_iter().find(|p| *p == word));
        let mut mods = self.float_modifiers(m);
        let approx = m.takes("approx") || m.takes("full");
        mods.ftz |= m.takes("ftz");
        mods.sat |= m.takes("sat");
        mods.nan |= m.takes("NaN");
        let xorsign = m.peek() == Some("xorsign");
        let ty = self.ty(line, m)?;
        if xorsign || (approx && !(name == "div" && ty == Ty::F32)) {
            return Err(self.unknown(line));
        }
        if ty.float() {
            if part.is_some() {
                return Err(self.unknown(line));
            }
            let f = match name {
                "add" => F2::Add,
                "sub" => F2::Sub,
                "mul" => F2::Mul,
                "div" => F2::Div,
                "min" => F2::Min,
                "max" => F2::Max,
                _ => return Err(self.unknown(line)),
            };
            if let Some(h) = half(ty) {
                if f == F2::Div || mods.round != Round::Near {
                    return Err(self.unknown(line));
                }
                return Ok(Op::Half2 {
                    f,
                    h,
                    m: mods,
                    d: self.dst(line, 0)?,
                    a: self.src(line, 1)?,
                    b: self.src(line, 2)?,
                });
            }
            // Directed rounding is known where it occurs.
            let near = mods.round == Round::Near;
            if !near && (ty == Ty::F64 || !matches!(f, F2::Add | F2::Sub | F2::Mul)) {
                return Err(self.unknown(line));
            }
            return Ok(match ty {
                Ty::F32 => Op::F32 {
                    f,
                    m: mods,
                    d: self.dst(line, 0)?,
                    a: self.src(line, 1)?,
                    b: self.src(line, 2)?,
                },
                Ty::F64 if !mods.ftz && !mods.sat => Op::F64 {
                    f,
                    m: mods,
                    d: self.dst64(line, 0)?,
                    a: self.src64(line, 1)?,
                    b: self.src64(line, 2)?,
                },
                _ => return Err(self.unknown(line)),
            });
        }
        if mods.nan || mods.ftz || mods.relu || mods.round != Round::Near {
            return Err(self.unknown(line));
        }
        let (signed, bytes) = (ty.signed(), ty.bytes());
        if part == Some("wide") {
            if name != "mul" || mods.sat {
                return Err(self.unknown(line));
            }
            return Ok(match bytes {
                2 => {
                    let f = if signed {
                        I32::MulWideS16
                    } else {
                        I32::MulWideU16
                    };
                    Op::I32 {
                        f,
                        d: self.dst(line, 0)?,
                        a: self.integer(line, 1, ty)?,
                        b: self.integer(line, 2, ty)?,
                    }
                }
                4 => Op::MulWide {
                    signed,
                    d: self.dst64(line, 0)?,
                    a: self.src(line, 1)?,
                    b: self.src(line, 2)?,
                },
                _ => return Err(self.unknown(line)),
            });
        }
        if bytes == 8 {
            let f = match (name, part, signed) {
                ("add", None, _) => I64::Add,
                ("sub", None, _) => I64::Sub,
                ("mul", Some("lo"), _) => I64::Mul,
                ("mul", Some("hi"), false) => I64::MulHiU,
                ("mul", Some("hi"), true) => I64::MulHiS,
                ("min", None, false) => I64::MinU,
                ("min", None, true) => I64::MinS,
                ("max", None, false) => I64::MaxU,
                ("max", None, true) => I64::MaxS,
                ("div", None, false) => I64::DivU,
                ("div", None, true) => I64::DivS,
                ("rem", None, false) => I64::RemU,
                ("rem", None, true) => I64::RemS,
                _ => return Err(self.unknown(line)),
            };
            if mods.sat {
                return Err(self.unknown(line));
            }
            return Ok(Op::I64 {
                f,
                d: self.dst64(line, 0)?,
                a: self.src64(line, 1)?,
                b: self.src64(line, 2)?,
            });
        }
        let f = match (name, part, signed, bytes) {
            ("add", None, true, 4) if mods.sat => I32::AddSatS,
            ("sub", None, true, 4) if mods.sat => I32::SubSatS,
            _ if mods.sat => return Err(self.unknown(line)),
            ("add", None, _, 4) => I32::Add,
            ("sub", None, _, 4) => I32::Sub,
            ("mul", Some("lo"), _, 4) => I32::Mul,
            ("mul", Some("hi"), false, 4) => I32::MulHiU,
            ("mul", Some("hi"), true, 4) => I32::MulHiS,
            ("mul24", Some("lo"), false, 4) => I32::Mul24U,
            ("mul24", Some("lo"), true, 4) => I32::Mul24S,
            ("min", None, false, _) => I32::MinU,
            ("max", None, false, _) => I32::MaxU,
            ("min", None, true, 4) => I32::MinS,
            ("max", None, true, 4) => I32::MaxS,
            ("div", None, false, _) => I32::DivU,
            ("rem", None, false, _) => I32::RemU,
            ("div", None, true, 4) => I32::DivS,
            ("rem", None, true, 4) => I32::RemS,
            ("add", None, _, 2) => I32::Add16,
            ("sub", None, _, 2) => I32::Sub16,
            ("mul", Some("lo"), _, 2) => I32::Mul16,
            ("min", None, true, 2) => I32::MinS16,
            ("max", None, true, 2) => I32::MaxS16,
            ("div", None, true, 2) => I32::DivS16,
            ("rem", None, true, 2) => I32::RemS16,
            _ => return Err(self.unknown(line)),
        };
        Ok(Op::I32 {
            f,
            d: self.dst(line, 0)?,
            a: self.integer(line, 1, ty)?,
            b: self.integer(line, 2, ty)?,
        })
    }

    /// Rounding, `.ftz`, `.sat`, `.NaN`, `.relu`, in PTX's order.
    fn float_modifiers(&self, m: &mut Modifiers<'_>) -> Mods {
        let round = m.of(round).unwrap_or(Round::Near);
        Mods {
            round,
            ftz: m.takes("ftz"),
            sat: m.takes("sat"),
            nan: m.takes("NaN"),
            relu: m.takes("relu"),
        }
    }

    fn multiply_add(&mut self, line: &Line<'_>, m: &mut Modifiers<'_>) -> Decoded<Op> {
        let part = m.of(|word| ["hi", "lo", "wide"].into_iter().find(|p| *p == word));
        let mods = self.float_modifiers(m);
        let ty = self.ty(line, m)?;
        if ty.float() {
            if part.is_some() {
                return Err(self.unknown(line));
            }
            if let Some(h) = half(ty) {
                return Ok(Op::HalfFma {
                    h,
                    m: mods,
                    d: self.dst(line, 0)?,
                    a: self.src(line, 1)?,
                    b: self.src(line, 2)?,
                    c: self.src(line, 3)?,
                });
            }
            return Ok(match ty {
                Ty::F32 => Op::Fma32 {
                    m: mods,
                    d: self.dst(line, 0)?,
                    a: self.src(line, 1)?,
                    b: self.src(line, 2)?,
                    c: self.src(line, 3)?,
                },
                Ty::F64 if mods == Mods::PLAIN => Op::Fma64 {
                    m: mods,
                    d: self.dst64(line, 0)?,
                    a: self.src64(line, 1)?,
                    b: self.src64(line, 2)?,
                    c: self.src64(line, 3)?,
                },
                _ => return Err(self.unknown(line)),
            });
        }
        if line.parts[0] == "fma" || mods != Mods::PLAIN {
            return Err(self.unknown(line));
        }
        let signed = ty.signed();
        Ok(match (part, ty.bytes()) {
            (Some("wide"), 4) => Op::MadWide {
                signed,
                d: self.dst64(line, 0)?,
                a: self.src(line, 1)?,
                b: self.src(line, 2)?,
                c: self.src64(line, 3)?,
            },
            (Some("lo"), 8) => Op::Mad64 {
                d: self.dst64(line, 0)?,
                a: self.src64(line, 1)?,
                b: self.src64(line, 2)?,
                c: self.src64(line, 3)?,
            },
            (Some(part), 2 | 4) => {
                let f = match (part, ty.bytes(), signed) {
                    ("lo", 4, _) => T32::Mad,
                    ("hi", 4, false) => T32::MadHiU,
                    ("hi", 4, true) => T32::MadHiS,
                    ("lo", 2, _) => T32::Mad16,
                    ("wide", 2, false) => T32::MadWideU16,
                    ("wide", 2, true) => T32::MadWideS16,
                    _ => return Err(self.unknown(line)),
                };
                let c = if part == "wide" {
                    self.src(line, 3)?
                } else {
                    self.integer(line, 3, ty)?
                };
                Op::T32 {
                    f,
                    d: self.dst(line, 0)?,
                    a: self.integer(line, 1, ty)?,
                    b: self.integer(line, 2, ty)?,
                    c,
                }
            }
            _ => return Err(self.unknown(line)),
        })
    }

    fn logic(&mut self, line: &Line<'_>, m: &mut Modifiers<'_>) -> Decoded<Op> {
        let name = line.parts[0];
        let ty = self.ty(line, m)?;
        if ty == Ty::Pred {
            let d = self.dst_pred(line, self.arg(line, 0)?)?;
            let a = self.pred(line, 1)?;
            let f = match name {
                "not" => {
                    return Ok(Op::MovPred {
                        d,
                        s: P {
                            negated: !a.negated,
                            ..a
                        },
                    });
                }
                "and" => Bool::And,
                "or" => Bool::Or,
                "xor" => Bool::Xor,
                _ => return Err(self.unknown(line)),
            };
            return Ok(Op::Pred2 {
                f,
                d,
                a,
                b: self.pred(line, 2)?,
            });
        }
        let bytes = ty.bytes();
        if ty.float() || bytes == 1 {
            return Err(self.unknown(line));
        }
        Ok(match (name, bytes) {
            ("not", 8) => Op::U64 {
                f: U64::Not,
                d: self.dst64(line, 0)?,
                a: self.src64(line, 1)?,
            },
            ("not", 4) => Op::U32 {
                f: U32::Not,
                d: self.dst(line, 0)?,
                a: self.src(line, 1)?,
            },
            ("not", _) => Op::U32 {
                f: U32::Not16,
                d: self.dst(line, 0)?,
                a: self.src(line, 1)?,
            },
            ("cnot", 4) => Op::U32 {
                f: U32::Cnot,
                d: self.dst(line, 0)?,
                a: self.src(line, 1)?,
            },
            ("shl", 8) => Op::Shl64 {
                d: self.dst64(line, 0)?,
                a: self.src64(line, 1)?,
                b: self.src(line, 2)?,
            },
            ("shr", 8) => Op::Shr64 {
                signed: ty.signed(),
                d: self.dst64(line, 0)?,
                a: self.src64(line, 1)?,
                b: self.src(line, 2)?,
            },
            ("shl" | "shr", _) => {
                let f = match (name, bytes, ty.signed()) {
                    ("shl", 4, _) => I32::Shl,
                    ("shl", _, _) => I32::Shl16,
                    (_, 4, false) => I32::ShrU,
                    (_, 4, true) => I32::ShrS,
                    (_, _, false) => I32::ShrU16,
                    (_, _, true) => I32::ShrS16,
                };
                Op::I32 {
                    f,
                    d: self.dst(line, 0)?,
                    a: self.integer(line, 1, ty)?,
                    b: self.src(line, 2)?,
                }
            }
            (_, 8) => {
                let f = match name {
                    "and" => I64::And,
                    "or" => I64::Or,
                    "xor" => I64::Xor,
                    _ => return Err(self.unknown(line)),
                };
                Op::I64 {
                    f,
                    d: self.dst64(line, 0)?,
                    a: self.src64(line, 1)?,
                    b: self.src64(line, 2)?,
                }
            }
            _ => {
                let f = match name {
                    "and" => I32::And,
                    "or" => I32::Or,
                    "xor" => I32::Xor,
                    _ => return Err(self.unknown(line)),
                };
                Op::I32 {
                    f,
                    d: self.dst(line, 0)?,
                    a: self.integer(line, 1, ty)?,
                    b: self.integer(line, 2, ty)?,
                }
            }
        })
    }

    fn one(&mut self, line: &Line<'_>, m: &mut Modifiers<'_>) -> Decoded<Op> {
        let name = line.parts[0];
        let shift = name == "bfind" && m.takes("shiftamt");
        let approx = m.takes("approx");
        let rounded = m.peek().and_then(round).is_some();
        let mods = self.float_modifiers(m);
        let ty = self.ty(line, m)?;
        let float = match name {
            "neg" => Some(F1::Neg),
            "abs" => Some(F1::Abs),
            "rcp" => Some(F1::Rcp),
            "sqrt" => Some(F1::Sqrt),
            "rsqrt" => Some(F1::Rsqrt),
            "sin" => Some(F1::Sin),
            "cos" => Some(F1::Cos),
            "lg2" => Some(F1::Lg2),
            "ex2" => Some(F1::Ex2),
            "tanh" => Some(F1::Tanh),
            _ => None,
        };
        if name == "copysign" {
            let plain = mods == Mods::PLAIN && !approx;
            return match ty {
                Ty::F32 if plain => Ok(Op::F32 {
                    f: F2::Copysign,
                    m: mods,
                    d: self.dst(line, 0)?,
                    a: self.src(line, 1)?,
                    b: self.src(line, 2)?,
                }),
                Ty::F64 if plain => Ok(Op::F64 {
                    f: F2::Copysign,
                    m: mods,
                    d: self.dst64(line, 0)?,
                    a: self.src64(line, 1)?,
                    b: self.src64(line, 2)?,
                }),
                _ => Err(self.unknown(line)),
            };
        }
        if ty.float() {
            let Some(f) = float else {
                return Err(self.unknown(line));
            };
            let exact = matches!(f, F1::Neg | F1::Abs);
            // Reciprocals and roots are rounded or approximate; the others approximate only.
            let known = match f {
                F1::Neg | F1::Abs => !approx && !rounded,
                F1::Rcp | F1::Sqrt => approx != rounded,
                _ => approx && !rounded,
            };
            if !known || mods.sat || mods.nan || mods.relu || mods.round != Round::Near {
                return Err(self.unknown(line));
            }
            if let Some(h) = half(ty) {
                if !exact && !matches!(f, F1::Ex2 | F1::Tanh) {
                    return Err(self.unknown(line));
                }
                return Ok(Op::Half1 {
                    f,
                    h,
                    m: mods,
                    d: self.dst(line, 0)?,
                    a: self.src(line, 1)?,
                });
            }
            return match ty {
                Ty::F32 => Ok(Op::One32 {
                    f,
                    m: mods,
                    d: self.dst(line, 0)?,
                    a: self.src(line, 1)?,
                }),
                Ty::F64 if exact || (rounded && mods == Mods::PLAIN) => Ok(Op::One64 {
                    f,
                    m: mods,
                    d: self.dst64(line, 0)?,
                    a: self.src64(line, 1)?,
                }),
                _ => Err(self.unknown(line)),
            };
        }
        if approx || rounded || mods != Mods::PLAIN {
            return Err(self.unknown(line));
        }
        let (bytes, signed) = (ty.bytes(), ty.signed());
        let wide = match (name, signed) {
            ("popc", _) => Some(N64::Popc),
            ("clz", _) => Some(N64::Clz),
            ("bfind", false) => Some(if shift { N64::BfindShiftU } else { N64::BfindU }),
            ("bfind", true) => Some(if shift { N64::BfindShiftS } else { N64::BfindS }),
            _ => None,
        };
        if bytes == 8 {
            if let Some(f) = wide {
                return Ok(Op::N64 {
                    f,
                    d: self.dst(line, 0)?,
                    a: self.src64(line, 1)?,
                });
            }
            let f = match name {
                "neg" => U64::Neg,
                "abs" => U64::Abs,
                "brev" => U64::Brev,
                _ => return Err(self.unknown(line)),
            };
            return Ok(Op::U64 {
                f,
                d: self.dst64(line, 0)?,
                a: self.src64(line, 1)?,
            });
        }
        let f = match (name, bytes, signed) {
            ("neg", 4, _) => U32::Neg,
            ("neg", 2, _) => U32::Neg16,
            ("abs", 4, _) => U32::Abs,
            ("abs", 2, _) => U32::Abs16,
            ("popc", 4, _) => U32::Popc,
            ("clz", 4, _) => U32::Clz,
            ("brev", 4, _) => U32::Brev,
            ("bfind", 4, false) => {
                if shift {
                    U32::BfindShiftU
                } else {
                    U32::BfindU
                }
            }
            ("bfind", 4, true) => {
                if shift {
                    U32::BfindShiftS
                } else {
                    U32::BfindS
                }
            }
            _ => return Err(self.unknown(line)),
        };
        Ok(Op::U32 {
            f,
            d: self.dst(line, 0)?,
            a: self.src(line, 1)?,
        })
    }

    fn bits(&mut self, line: &Line<'_>, m: &mut Modifiers<'_>) -> Decoded<Op> {
        let name = line.parts[0];
        let f = match name {
            "lop3" => {
                let Ok(table) = u8::try_from(self.int(line, 4)?) else {
                    return Err(self.problem(line, "the table is no byte"));
                };
                T32::Lop3(table)
            }
            "prmt" => {
                if !m.takes("b32") {
                    return Err(self.unknown(line));
                }
                let f = m.of(|word| {
                    Some(match word {
                        "f4e" => T32::PrmtF4e,
                        "b4e" => T32::PrmtB4e,
                        "rc8" => T32::PrmtRc8,
                        "ecl" => T32::PrmtEcl,
                        "ecr" => T32::PrmtEcr,
                        "rc16" => T32::PrmtRc16,
                        _ => return None,
                    })
                });
                let f = f.unwrap_or(T32::Prmt);
                return Ok(Op::T32 {
                    f,
                    d: self.dst(line, 0)?,
                    a: self.src(line, 1)?,
                    b: self.src(line, 2)?,
                    c: self.src(line, 3)?,
                });
            }
            "shf" => {
                let left = m.takes("l");
                if !left && !m.takes("r") {
                    return Err(self.unknown(line));
                }
                let wrap = m.takes("wrap");
                if !wrap && !m.takes("clamp") {
                    return Err(self.unknown(line));
                }
                match (left, wrap) {
                    (true, true) => T32::ShfLWrap,
                    (true, false) => T32::ShfLClamp,
                    (false, true) => T32::ShfRWrap,
                    (false, false) => T32::ShfRClamp,
                }
            }
            "bmsk" | "szext" => {
                let wrap = m.takes("wrap");
                if !wrap && !m.takes("clamp") {
                    return Err(self.unknown(line));
                }
                let ty = self.ty(line, m)?;
                let f = match (name, ty, wrap) {
                    ("bmsk", Ty::B32, true) => T32::BmskWrap,
                    ("bmsk", Ty::B32, false) => T32::BmskClamp,
                    ("szext", Ty::U32, true) => T32::SzextUWrap,
                    ("szext", Ty::U32, false) => T32::SzextUClamp,
                    ("szext", Ty::S32, true) => T32::SzextSWrap,
                    ("szext", Ty::S32, false) => T32::SzextSClamp,
                    _ => return Err(self.unknown(line)),
                };
                let zero = self.constant(0);
                return Ok(Op::T32 {
                    f,
                    d: self.dst(line, 0)?,
                    a: self.src(line, 1)?,
                    b: self.src(line, 2)?,
                    c: zero,
                });
            }
            "dp4a" => {
                let (a, b) = (self.ty(line, m)?, self.ty(line, m)?);
                let f = match (a, b) {
                    (Ty::U32, Ty::U32) => T32::Dp4aUU,
                    (Ty::S32, Ty::S32) => T32::Dp4aSS,
                    (Ty::U32, Ty::S32) => T32::Dp4aUS,
                    (Ty::S32, Ty::U32) => T32::Dp4aSU,
                    _ => return Err(self.unknown(line)),
                };
                return Ok(Op::T32 {
                    f,
                    d: self.dst(line, 0)?,
                    a: self.src(line, 1)?,
                    b: self.src(line, 2)?,
                    c: self.src(line, 3)?,
                });
            }
            _ => T32::Mad,
        };
        let ty = self.ty(line, m)?;
        match (name, ty) {
            ("bfi", Ty::B32) => Ok(Op::Bfi32 {
                d: self.dst(line, 0)?,
                a: self.src(line, 1)?,
                b: self.src(line, 2)?,
                c: self.src(line, 3)?,
                e: self.src(line, 4)?,
            }),
            ("bfi", Ty::B64) => Ok(Op::Bfi64 {
                d: self.dst64(line, 0)?,
                a: self.src64(line, 1)?,
                b: self.src64(line, 2)?,
                c: self.src(line, 3)?,
                e: self.src(line, 4)?,
            }),
            ("bfe", Ty::U64 | Ty::S64) => Ok(Op::Bfe64 {
                signed: ty.signed(),
                d: self.dst64(line, 0)?,
                a: self.src64(line, 1)?,
                b: self.src(line, 2)?,
                c: self.src(line, 3)?,
            }),
            _ => {
                let f = match (name, ty) {
                    ("bfe", Ty::U32) => T32::BfeU,
                    ("bfe", Ty::S32) => T32::BfeS,
                    ("sad", Ty::U32) => T32::SadU,
                    ("sad", Ty::S32) => T32::SadS,
                    ("lop3" | "shf", Ty::B32) => f,
                    _ => return Err(self.unknown(line)),
                };
                Ok(Op::T32 {
                    f,
                    d: self.dst(line, 0)?,
                    a: self.src(line, 1)?,
                    b: self.src(line, 2)?,
                    c: self.src(line, 3)?,
                })
            }
        }
    }

    fn select(&mut self, line: &Line<'_>, m: &mut Modifiers<'_>) -> Decoded<Op> {
        match line.parts[0] {
            "selp" => {
                let ty = self.ty(line, m)?;
                let p = self.pred(line, 3)?;
                Ok(match ty.bytes() {
                    8 => Op::Selp64 {
                        d: self.dst64(line, 0)?,
                        a: self.src64(line, 1)?,
                        b: self.src64(line, 2)?,
                        p,
                    },
                    1 => return Err(self.unknown(line)),
                    _ => Op::Selp32 {
                        d: self.dst(line, 0)?,
                        a: self.integer(line, 1, ty)?,
                        b: self.integer(line, 2, ty)?,
                        p,
                    },
                })
            }
            "slct" => {
                let ty = self.ty(line, m)?;
                let of = self.ty(line, m)?;
                if ty.bytes() != 4 || !matches!(of, Ty::S32 | Ty::F32) {
                    return Err(self.unknown(line));
                }
                Ok(Op::Slct {
                    float: of == Ty::F32,
                    d: self.dst(line, 0)?,
                    a: self.src(line, 1)?,
                    b: self.src(line, 2)?,
                    c: self.src(line, 3)?,
                })
            }
            name => {
                let cmp = m.of(compare).ok_or_else(|| self.unknown(line))?;
                let with = m.of(boolean);
                let ftz = m.takes("ftz");
                let first = self.ty(line, m)?;
                if name == "set" {
                    // set.cmp.dtype.stype
                    let ty = self.ty(line, m)?;
                    let float = first == Ty::F32;
                    if with.is_some()
                        || !(float || matches!(first, Ty::U32 | Ty::S32))
                        || half(ty).is_some()
                    {
                        return Err(self.unknown(line));
                    }
                    return Ok(Op::Set {
                        ty,
                        cmp,
                        ftz,
                        float,
                        d: self.dst(line, 0)?,
                        a: self.integer(line, 1, ty)?,
                        b: self.integer(line, 2, ty)?,
                    });
                }
                let ty = first;
                if matches!(
                    ty,
                    Ty::F16x2 | Ty::Bf16x2 | Ty::Pred | Ty::B8 | Ty::U8 | Ty::S8 | Ty::Tf32
                ) {
                    return Err(self.unknown(line));
                }
                let unordered = !matches!(
                    cmp,
                    Cmp::Eq | Cmp::Ne | Cmp::Lt | Cmp::Le | Cmp::Gt | Cmp::Ge
                );
                if unordered && !ty.float() {
                    return Err(self.unknown(line));
                }
                let (p, q) = self.pair(line, 0)?;
                let d = self.dst_pred(line, p)?;
                let q = match q {
                    Some(q) => self.dst_pred(line, q)?,
                    None => SINK,
                };
                let with = match with {
                    Some(f) => Some((f, self.pred(line, 3)?)),
                    None => None,
                };
                Ok(Op::Setp {
                    ty,
                    cmp,
                    ftz,
                    d,
                    q,
                    a: self.integer(line, 1, ty)?,
                    b: self.integer(line, 2, ty)?,
                    with,
                })
            }
        }
    }

    fn convert(&mut self, line: &Line<'_>, m: &mut Modifiers<'_>) -> Decoded<Op> {
        let to_integer = m.of(round_integer);
        let rounded = if to_integer.is_none() {
            m.of(round)
        } else {
            None
        };
        let mut ftz = m.takes("ftz");
        let relu = m.takes("relu");
        let satfinite = m.takes("satfinite");
        let sat = m.takes("sat");
        ftz |= m.takes("ftz");
        let to = self.ty(line, m)?;
        let from = self.ty(line, m)?;
        if satfinite || to == Ty::Pred || from == Ty::Pred {
            return Err(self.unknown(line));
        }
        let c = Cvt {
            to,
            from,
            round: to_integer.or(rounded).unwrap_or(if to.float() {
                Round::Near
            } else {
                Round::Zero
            }),
            integer: to_integer.is_some(),
            ftz,
            sat,
            relu,
        };
        let packed = |ty: Ty| matches!(ty, Ty::F16x2 | Ty::Bf16x2);
        if packed(to) {
            if from != Ty::F32
                || ftz
                || sat
                || !matches!(c.round, Round::Near | Round::Zero)
                || rounded.is_none()
            {
                return Err(self.unknown(line));
            }
            return Ok(Op::CvtPack {
                brain: to == Ty::Bf16x2,
                c,
                d: self.dst(line, 0)?,
                a: self.src(line, 1)?,
                b: self.src(line, 2)?,
            });
        }
        // Which rounding a pair of types takes (PTX ISA, cvt).
        let known = match (from.float(), to.float()) {
            _ if packed(from) || from == Ty::Tf32 => false,
            _ if to == Ty::Tf32 => {
                from == Ty::F32
                    && matches!(rounded, Some(Round::Away | Round::Near | Round::Zero))
                    && !sat
                    && !ftz
            }
            (true, false) => to_integer.is_some(),
            (false, true) => rounded.is_some() && rounded != Some(Round::Away) && !ftz,
            (true, true) if to.bytes() < from.bytes() => {
                rounded.is_some() && rounded != Some(Round::Away)
            }
            (true, true) => rounded.is_none() || (to == from && rounded.is_none()),
            (false, false) => rounded.is_none() && to_integer.is_none() && !ftz,
        };
        if !known || (relu && !matches!(to, Ty::F16 | Ty::Bf16 | Ty::Tf32)) {
            return Err(self.unknown(line));
        }
        // A wider register may hold a narrower result or source.
        let wide = |decoder: &Self, i: usize| matches!(line.args.get(i), Some(Arg::Reg(v)) if decoder.widths[*v as usize] == Width::Wide);
        if (to.bytes() == 8) != wide(self, 0) || (from.bytes() == 8) != wide(self, 1) {
            let constant = !matches!(self.arg(line, 1)?, Arg::Reg(_));
            if (to.bytes() == 8) != wide(self, 0) || !constant {
                return Err(self.problem(
                    line,
                    "operands of another width than the types' are not known here",
                ));
            }
        }
        Ok(Op::Cvt {
            c,
            d: self.result(line, to)?,
            a: self.source(line, 1, from)?,
        })
    }

    fn cvta(&mut self, line: &Line<'_>, m: &mut Modifiers<'_>) -> Decoded<Op> {
        use crate::ptx::memory::{PARAM_WINDOW, SHARED_WINDOW};
        let to = m.takes("to");
        let window = m.of(|word| {
            Some(match word {
                "global" | "const" => 0,
                "shared" | "shared::cta" | "shared::cluster" => SHARED_WINDOW,
                "param" => PARAM_WINDOW,
                _ => return None,
            })
        });
        let Some(window) = window else {
            return Err(self.unknown(line));
        };
        if !m.takes("u64") {
            return Err(self.unknown(line));
        }
        let (d, s) = (self.dst64(line, 0)?, self.src64(line, 1)?);
        if window == 0 {
            return Ok(Op::Mov64 { d, s });
        }
        let b = self.constant64(if to { window.wrapping_neg() } else { window });
        Ok(Op::I64 {
            f: I64::Add,
            d,
            a: s,
            b,
        })
    }

    fn space(&self, m: &mut Modifiers<'_>) -> Option<Space> {
        m.of(|word| {
            Some(match word {
                "global" | "const" => Space::Global,
                "shared" | "shared::cta" | "shared::cluster" => Space::Shared,
                "param" | "param::entry" => Space::Param,
                _ => return None,
            })
        })
    }

    fn memory(&mut self, line: &Line<'_>, m: &mut Modifiers<'_>) -> Decoded<Op> {
        const ORDER: &[&str] = &[
            "weak", "volatile", "relaxed", "acquire", "release", "cta", "cluster", "gpu", "sys",
        ];
        const CACHE: &[&str] = &[
            "nc",
            "ca",
            "cg",
            "cs",
            "lu",
            "cv",
            "wb",
            "wt",
            "L1::evict_normal",
            "L1::evict_unchanged",
            "L1::evict_first",
            "L1::evict_last",
            "L1::no_allocate",
            "L2::evict_first",
            "L2::evict_last",
            "L2::evict_normal",
            "L2::64B",
            "L2::128B",
            "L2::256B",
            "L2::cache_hint",
        ];
        let strong = m.peek().is_some_and(|word| ORDER[1..].contains(&word));
        m.skip(ORDER);
        let space = self.space(m).unwrap_or(Space::Generic);
        let hinted = line.parts.contains(&"L2::cache_hint");
        m.skip(CACHE);
        let count = m
            .of(|word| match word {
                "v2" => Some(2u8),
                "v4" => Some(4),
                "v8" => Some(8),
                _ => None,
            })
            .unwrap_or(1);
        let ty = self.ty(line, m)?;
        let store = line.parts[0] == "st";
        if matches!(ty, Ty::Pred | Ty::Tf32)
            || u32::from(count) * ty.bytes() > 32
            || (store && space == Space::Param)
        {
            return Err(self.unknown(line));
        }
        let (values, place) = if store { (1, 0) } else { (0, 1) };
        if line.args.len() != 2 + usize::from(hinted) {
            return Err(self.problem(line, "another number of operands is not known"));
        }
        let parts = match (count, self.arg(line, values)?) {
            (1, Arg::Vector(parts)) if parts.len() == 1 => parts.clone(),
            (1, arg) => vec![arg.clone()],
            (_, Arg::Vector(parts)) if parts.len() == usize::from(count) => parts.clone(),
            _ => return Err(self.problem(line, "the vector has another length than the type says")),
        };
        let at = self.address(line, place)?;
        // Registers may be wider than the type.
        let is_wide = |decoder: &Self, arg: &Arg<'_>| match arg {
            Arg::Reg(v) => decoder.widths[*v as usize] == Width::Wide,
            _ => ty.bytes() == 8,
        };
        let wide = parts
            .iter()
            .any(|arg| !matches!(arg, Arg::Sink) && is_wide(self, arg));
        if ty.bytes() == 8 && !wide {
            return Err(self.problem(line, "a register is narrower than the type"));
        }
        let mut rows = [SINK; 8];
        for (row, arg) in rows.iter_mut().zip(&parts) {
            *row = match (store, wide) {
                (true, true) => self.src64_arg(line, arg)?,
                (true, false) => self.src_arg(line, arg)?,
                (false, true) => self.dst64_arg(line, arg)?,
                (false, false) => self.dst_arg(line, arg)?,
            };
        }
        Ok(match store {
            true => Op::St {
                space,
                ty,
                count,
                s: rows,
                wide,
                strong,
                at,
            },
            false => Op::Ld {
                space,
                ty,
                count,
                d: rows,
                wide,
                strong,
                at,
            },
        })
    }

    fn atomic(&mut self, line: &Line<'_>, m: &mut Modifiers<'_>) -> Decoded<Op> {
        // Compilers write order, scope and space in more than one sequence.
        let mut ordered = m.takes("acq_rel") || m.takes("acquire") || m.takes("release");
        m.skip(&["relaxed", "cta", "cluster", "gpu", "sys"]);
        let mut space = self.space(m);
        m.skip(&["cta", "cluster", "gpu", "sys"]);
        ordered |= m.takes("acq_rel") || m.takes("acquire") || m.takes("release");
        m.skip(&["relaxed"]);
        if space.is_none() {
            space = self.space(m);
        }
        let op = m.of(|word| {
            Some(match word {
                "add" => AtomOp::Add,
                "min" => AtomOp::Min,
                "max" => AtomOp::Max,
                "and" => AtomOp::And,
                "or" => AtomOp::Or,
                "xor" => AtomOp::Xor,
                "inc" => AtomOp::Inc,
                "dec" => AtomOp::Dec,
                "exch" => AtomOp::Exch,
                "cas" => AtomOp::Cas,
                _ => return None,
            })
        });
        let op = op.ok_or_else(|| self.unknown(line))?;
        m.takes("noftz");
        let ty = self.ty(line, m)?;
        let known = match op {
            AtomOp::Add => matches!(
                ty,
                Ty::U32 | Ty::S32 | Ty::U64 | Ty::F32 | Ty::F64 | Ty::F16x2 | Ty::Bf16x2
            ),
            AtomOp::Min | AtomOp::Max => matches!(ty, Ty::U32 | Ty::S32 | Ty::U64 | Ty::S64),
            AtomOp::Inc | AtomOp::Dec => ty == Ty::U32,
            _ => matches!(ty, Ty::B32 | Ty::B64),
        };
        if !known || space == Some(Space::Param) {
            return Err(self.unknown(line));
        }
        let first = usize::from(line.parts[0] == "atom");
        let d = if first == 1 {
            self.result(line, ty)?
        } else {
            SINK
        };
        let at = self.address(line, first)?;
        let b = self.source(line, first + 1, ty)?;
        let c = if op == AtomOp::Cas {
            self.source(line, first + 2, ty)?
        } else {
            b
        };
        Ok(Op::Atom(Box::new(Atom {
            op,
            ty,
            space: space.unwrap_or(Space::Generic),
            d,
            at,
            b,
            c,
            ordered,
        })))
    }

    fn copy(&mut self, line: &Line<'_>, m: &mut Modifiers<'_>) -> Decoded<Op> {
        if !m.takes("async") {
            return Err(self.unknown(line));
        }
        if m.takes("commit_group") {
            return Ok(Op::CpCommit);
        }
        if m.takes("wait_all") {
            return Ok(Op::CpWait(None));
        }
        if m.takes("wait_group") {
            let left = self.int(line, 0)?;
            return Ok(Op::CpWait(Some(
                u32::try_from(left).map_err(|_| self.problem(line, "no such number of groups"))?,
            )));
        }
        let all = m.takes("ca");
        if !all && !m.takes("cg") {
            return Err(self.unknown(line));
        }
        if !(m.takes("shared") || m.takes("shared::cta") || m.takes("shared::cluster"))
            || !m.takes("global")
        {
            return Err(self.unknown(line));
        }
        m.skip(&["L2::64B", "L2::128B", "L2::256B"]);
        let bytes = self.int(line, 2)?;
        if !(bytes == 16 || (all && (bytes == 4 || bytes == 8))) {
            return Err(self.problem(line, &format!("a copy of {bytes} bytes is none")));
        }
        let (mut source_bytes, mut ignore) = (None, None);
        match line.args.get(3) {
            None => {}
            Some(Arg::Not(_)) => ignore = Some(self.pred(line, 3)?),
            Some(Arg::Reg(v)) if self.widths[*v as usize] == Width::Pred => {
                ignore = Some(self.pred(line, 3)?)
            }
            Some(_) => source_bytes = Some(self.src(line, 3)?),
        }
        if line.args.len() > 4 {
            return Err(self.problem(line, "another number of operands is not known"));
        }
        Ok(Op::CpAsync {
            bytes: bytes as u8,
            to: self.address(line, 0)?,
            from: self.address(line, 1)?,
            source_bytes,
            ignore,
        })
    }

    fn matrix(&mut self, line: &Line<'_>, m: &mut Modifiers<'_>) -> Decoded<Op> {
        if !m.takes("sync") || !m.takes("aligned") || !m.takes("m8n8") {
            return Err(self.unknown(line));
        }
        let count = m.of(|word| match word {
            "x1" => Some(1u8),
            "x2" => Some(2),
            "x4" => Some(4),
            _ => None,
        });
        let count = count.ok_or_else(|| self.unknown(line))?;
        let transposed = m.takes("trans");
        if !(m.takes("shared") || m.takes("shared::cta")) || !m.takes("b16") {
            return Err(self.unknown(line));
        }
        let load = line.parts[0] == "ldmatrix";
        let (values, place) = if load { (0, 1) } else { (1, 0) };
        let parts = match self.arg(line, values)? {
            Arg::Vector(parts) => parts.clone(),
            other => vec![other.clone()],
        };
        if parts.len() != usize::from(count) {
            return Err(self.problem(line, "the vector has another length than `.x` says"));
        }
        let mut rows = [SINK; 4];
        for (row, arg) in rows.iter_mut().zip(&parts) {
            *row = if load {
                self.dst_arg(line, arg)?
            } else {
                self.src_arg(line, arg)?
            };
        }
        let at = self.address(line, place)?;
        Ok(match load {
            true => Op::Ldmatrix {
                count,
                transposed,
                d: rows,
                at,
            },
            false => Op::Stmatrix {
                count,
                transposed,
                s: rows,
                at,
            },
        })
    }

    fn mma(&mut self, line: &Line<'_>, m: &mut Modifiers<'_>) -> Decoded<Op> {
        if !m.takes("sync") || !m.takes("aligned") {
            return Err(self.unknown(line));
        }
        let k = m.of(|word| match word {
            "m16n8k4" => Some(4u32),
            "m16n8k8" => Some(8),
            "m16n8k16" => Some(16),
            "m16n8k32" => Some(32),
            _ => None,
        });
        let k = k.ok_or_else(|| self.unknown(line))?;
        if !m.takes("row") || !m.takes("col") {
            return Err(self.unknown(line));
        }
        let d = m.of(Ty::from_name);
        let element = |word: &str| {
            Some(match word {
                "f16" => Element::F16,
                "bf16" => Element::Bf16,
                "tf32" => Element::Tf32,
                "s8" => Element::S8,
                "u8" => Element::U8,
                _ => return None,
            })
        };
        let (a_type, b_type) = (m.of(element), m.of(element));
        let c = m.of(Ty::from_name);
        let (Some(a_type), Some(b_type)) = (a_type, b_type) else {
            return Err(self.unknown(line));
        };
        let half_sums = d == Some(Ty::F16);
        let integer = |e: Element| matches!(e, Element::S8 | Element::U8);
        let known = d == c
            && match (a_type, k) {
                (Element::F16, 8 | 16) => b_type == a_type && matches!(d, Some(Ty::F32 | Ty::F16)),
                (Element::Bf16, 8 | 16) | (Element::Tf32, 4 | 8) => {
                    b_type == a_type && d == Some(Ty::F32)
                }
                (Element::S8 | Element::U8, 16 | 32) => integer(b_type) && d == Some(Ty::S32),
                _ => false,
            };
        if !known {
            return Err(self.unknown(line));
        }
        let per_row = match a_type {
            Element::Tf32 => 1,
            Element::S8 | Element::U8 => 4,
            _ => 2,
        };
        let a_rows = (16 * k / 32 / per_row) as usize;
        let sums = if half_sums { 2 } else { 4 };
        let mut read = |i: usize, length: usize, result: bool| -> Decoded<Vec<R>> {
            let parts = match self.arg(line, i)? {
                Arg::Vector(parts) => parts.clone(),
                other => vec![other.clone()],
            };
            if parts.len() != length {
                return Err(
                    self.problem(line, &format!("operand {} wants {length} registers", i + 1))
                );
            }
            parts
                .iter()
                .map(|arg| {
                    if result {
                        self.dst_arg(line, arg)
                    } else {
                        self.src_arg(line, arg)
                    }
                })
                .collect()
        };
        let d = read(0, sums, true)?;
        let a = read(1, a_rows, false)?;
        let b = read(2, a_rows / 2, false)?;
        let c = read(3, sums, false)?;
        Ok(Op::Mma(Box::new(Mma {
            k,
            a_type,
            b_type,
            half_sums,
            d,
            a,
            b,
            c,
        })))
    }

    fn collective(&mut self, line: &Line<'_>, m: &mut Modifiers<'_>) -> Decoded<Op> {
        let name = line.parts[0];
        if name == "activemask" {
            if !m.takes("b32") {
                return Err(self.unknown(line));
            }
            return Ok(Op::ActiveMask {
                d: self.dst(line, 0)?,
            });
        }
        let matching = if name == "match" {
            m.of(|w| match w {
                "any" => Some(false),
                "all" => Some(true),
                _ => None,
            })
        } else {
            None
        };
        if name == "match" && matching.is_none() {
            return Err(self.unknown(line));
        }
        if !m.takes("sync") {
            return Err(self.unknown(line));
        }
        match name {
            "shfl" => {
                let mode = m.of(|word| {
                    Some(match word {
                        "up" => Shuffle::Up,
                        "down" => Shuffle::Down,
                        "bfly" => Shuffle::Bfly,
                        "idx" => Shuffle::Idx,
                        _ => return None,
                    })
                });
                let mode = mode.ok_or_else(|| self.unknown(line))?;
                if !m.takes("b32") {
                    return Err(self.unknown(line));
                }
                let (d, p) = self.pair(line, 0)?;
                let d = self.dst_arg(line, d)?;
                let p = match p {
                    Some(p) => self.dst_pred(line, p)?,
                    None => SINK,
                };
                Ok(Op::Shfl {
                    mode,
                    d,
                    p,
                    a: self.src(line, 1)?,
                    b: self.src(line, 2)?,
                    c: self.src(line, 3)?,
                    mask: self.src(line, 4)?,
                })
            }
            "vote" => {
                let kind = m.of(|word| {
                    Some(match word {
                        "all" => Vote::All,
                        "any" => Vote::Any,
                        "uni" => Vote::Uni,
                        "ballot" => Vote::Ballot,
                        _ => return None,
                    })
                });
                let kind = kind.ok_or_else(|| self.unknown(line))?;
                let ty = self.ty(line, m)?;
                let ballot = kind == Vote::Ballot;
                if ty != if ballot { Ty::B32 } else { Ty::Pred } {
                    return Err(self.unknown(line));
                }
                let d = if ballot {
                    self.dst(line, 0)?
                } else {
                    self.dst_pred(line, self.arg(line, 0)?)?
                };
                Ok(Op::Vote {
                    kind,
                    d,
                    p: self.pred(line, 1)?,
                    mask: self.src(line, 2)?,
                })
            }
            "match" => {
                let ty = self.ty(line, m)?;
                let (d, p) = self.pair(line, 0)?;
                let d = self.dst_arg(line, d)?;
                let p = match p {
                    Some(p) => self.dst_pred(line, p)?,
                    None => SINK,
                };
                let wide = ty == Ty::B64;
                if !wide && ty != Ty::B32 {
                    return Err(self.unknown(line));
                }
                let a = self.source(line, 1, ty)?;
                Ok(Op::Match {
                    all: matching == Some(true),
                    wide,
                    d,
                    p,
                    a,
                    mask: self.src(line, 2)?,
                })
            }
            _ => {
                let word = m.of(|w| {
                    ["add", "min", "max", "and", "or", "xor"]
                        .into_iter()
                        .find(|k| *k == w)
                });
                let ty = self.ty(line, m)?;
                let f = match (word, ty) {
                    (Some("add"), Ty::U32 | Ty::S32) => I32::Add,
                    (Some("min"), Ty::U32) => I32::MinU,
                    (Some("min"), Ty::S32) => I32::MinS,
                    (Some("max"), Ty::U32) => I32::MaxU,
                    (Some("max"), Ty::S32) => I32::MaxS,
                    (Some("and"), Ty::B32) => I32::And,
                    (Some("or"), Ty::B32) => I32::Or,
                    (Some("xor"), Ty::B32) => I32::Xor,
                    _ => return Err(self.unknown(line)),
                };
                Ok(Op::Redux {
                    f,
                    d: self.dst(line, 0)?,
                    a: self.src(line, 1)?,
                    mask: self.src(line, 2)?,
                })
            }
        }
    }

    fn barrier(&mut self, line: &Line<'_>, m: &mut Modifiers<'_>) -> Decoded<Op> {
        let old = line.parts[0] == "bar";
        if old && m.takes("warp") {
            if !m.takes("sync") {
                return Err(self.unknown(line));
            }
            return Ok(Op::WarpSync {
                mask: self.src(line, 0)?,
            });
        }
        m.takes("cta");
        let what = m.of(|word| ["sync", "arrive", "red"].into_iter().find(|k| *k == word));
        let Some(what) = what else {
            return Err(self.unknown(line));
        };
        let mut aligned = old;
        aligned |= m.takes("aligned");
        let mut barrier = Barrier {
            id: 0,
            threads: None,
            arrive: what == "arrive",
            aligned,
            reduce: None,
            result: SINK,
        };
        let mut at = 0;
        let mut operands = line.args.len();
        if what == "red" {
            let f = m.of(|word| ["and", "or", "popc"].into_iter().find(|k| *k == word));
            m.takes("aligned");
            let p = self.pred(line, operands.wrapping_sub(1))?;
            let ty = self.ty(line, m)?;
            barrier.reduce = Some(match (f, ty) {
                (Some("and"), Ty::Pred) => Reduce::And(p),
                (Some("or"), Ty::Pred) => Reduce::Or(p),
                (Some("popc"), Ty::U32) => Reduce::Popc(p),
                _ => return Err(self.unknown(line)),
            });
            barrier.result = match barrier.reduce {
                Some(Reduce::Popc(_)) => self.dst(line, 0)?,
                _ => self.dst_pred(line, self.arg(line, 0)?)?,
            };
            at = 1;
            operands -= 1;
        }
        barrier.id = self.src(line, at)?;
        match operands - at {
            1 if what != "arrive" => {}
            2 => barrier.threads = Some(self.src(line, at + 1)?),
            _ => return Err(self.problem(line, "another number of operands is not known")),
        }
        Ok(Op::Bar(Box::new(barrier)))
    }

    fn fence(&mut self, line: &Line<'_>, m: &mut Modifiers<'_>) -> Decoded<Op> {
        if line.parts[0] == "membar" {
            let device = m.takes("gl") || m.takes("sys");
            if !device && !m.takes("cta") {
                return Err(self.unknown(line));
            }
            return Ok(Op::Fence { device });
        }
        if !(m.takes("sc") || m.takes("acq_rel") || m.takes("acquire") || m.takes("release")) {
            return Err(self.unknown(line));
        }
        let device = m.takes("gpu") || m.takes("sys");
        if !device && !m.takes("cta") && !m.takes("cluster") {
            return Err(self.unknown(line));
        }
        Ok(Op::Fence { device })
    }
}

fn class(op: &Op) -> Class {
    match op {
        Op::Mma(_) => Class::Tensor,
        Op::Ldmatrix { .. } | Op::Stmatrix { .. } => Class::Shared,
        Op::Ld { space, .. } | Op::St { space, .. } => match space {
            Space::Shared => Class::Shared,
            // Parameters are operands of instructions, from the constant bank.
            Space::Param => Class::Integer,
            _ => Class::Global,
        },
        Op::Atom(atom) => match atom.space {
            Space::Shared => Class::Shared,
            _ => Class::Global,
        },
        Op::CpAsync { .. } | Op::CpCommit | Op::CpWait(_) => Class::Async,
        Op::F32 { .. }
        | Op::F64 { .. }
        | Op::Fma32 { .. }
        | Op::Fma64 { .. }
        | Op::One32 { .. }
        | Op::One64 { .. }
        | Op::Half2 { .. }
        | Op::HalfFma { .. }
        | Op::Half1 { .. }
        | Op::CvtPack { .. } => Class::Float,
        Op::Cvt { c, .. } if c.to.float() || c.from.float() => Class::Float,
        Op::Setp { ty, .. } | Op::Set { ty, .. } if ty.float() => Class::Float,
        Op::Shfl { .. }
        | Op::Vote { .. }
        | Op::Match { .. }
        | Op::Redux { .. }
        | Op::ActiveMask { .. }
        | Op::Bar(_)
        | Op::WarpSync { .. }
        | Op::Fence { .. }
        | Op::Bra { .. }
        | Op::Exit
        | Op::Trap
        | Op::Nop => Class::Control,
        Op::Hopper(op) => hopper::class(op),
        _ => Class::Integer,
    }
}

fn yields(op: &Op) -> bool {
    match op {
        Op::Ld { space, .. } => *space != Space::Param,
        Op::St { .. }
        | Op::Atom(_)
        | Op::CpAsync { .. }
        | Op::CpWait(_)
        | Op::Ldmatrix { .. }
        | Op::Stmatrix { .. }
        | Op::Shfl { .. }
        | Op::Vote { .. }
        | Op::Match { .. }
        | Op::Redux { .. }
        | Op::Bar(_)
        | Op::WarpSync { .. }
        | Op::Fence { .. }
        | Op::Hopper(_) => true,
        _ => false,
    }
}
