//! Moves, selections, comparisons, conversions.

use super::*;

impl Decoder<'_> {
    pub(super) fn mov(&mut self, line: &Line<'_>, m: &mut Modifiers<'_>) -> Decoded<Op> {
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

    pub(super) fn select(&mut self, line: &Line<'_>, m: &mut Modifiers<'_>) -> Decoded<Op> {
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

    pub(super) fn convert(&mut self, line: &Line<'_>, m: &mut Modifiers<'_>) -> Decoded<Op> {
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

    pub(super) fn cvta(&mut self, line: &Line<'_>, m: &mut Modifiers<'_>) -> Decoded<Op> {
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
}
