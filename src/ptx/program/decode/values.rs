//! Moves, selections, comparisons.

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
            "testp" => {
                let kind = m.of(|word| {
                    Some(match word {
                        "finite" => Kind::Finite,
                        "infinite" => Kind::Infinite,
                        "number" => Kind::Number,
                        "notanumber" => Kind::NotANumber,
                        "normal" => Kind::Normal,
                        "subnormal" => Kind::Subnormal,
                        _ => return None,
                    })
                });
                let ty = self.ty(line, m)?;
                let (Some(kind), Ty::F32 | Ty::F64) = (kind, ty) else {
                    return Err(self.unknown(line));
                };
                Ok(Op::Testp {
                    kind,
                    wide: ty == Ty::F64,
                    d: self.dst_pred(line, self.arg(line, 0)?)?,
                    a: self.source(line, 1, ty)?,
                })
            }
            "isspacep" => {
                let space = self.space(m).filter(|space| *space != Space::Generic);
                let space = space.ok_or_else(|| self.unknown(line))?;
                Ok(Op::IsSpace {
                    space,
                    d: self.dst_pred(line, self.arg(line, 0)?)?,
                    a: self.src64(line, 1)?,
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
                    if let (Some(h), None) = (half(ty), with) {
                        let (float, narrow) = match first {
                            Ty::U16 | Ty::S16 if !h.packed => (false, false),
                            Ty::U32 | Ty::S32 => (false, !h.packed),
                            _ if half(first) == Some(h) => (true, false),
                            _ => return Err(self.unknown(line)),
                        };
                        return Ok(Op::SetHalves {
                            h,
                            cmp,
                            ftz,
                            float,
                            narrow,
                            d: self.dst(line, 0)?,
                            a: self.src(line, 1)?,
                            b: self.src(line, 2)?,
                        });
                    }
                    if with.is_some() || !(float || matches!(first, Ty::U32 | Ty::S32)) {
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
                if matches!(ty, Ty::F16x2 | Ty::Bf16x2) {
                    let (p, q) = self.pair(line, 0)?;
                    let d = self.dst_pred(line, p)?;
                    let q = match q {
                        Some(q) => self.dst_pred(line, q)?,
                        None => SINK,
                    };
                    return Ok(Op::SetpPair {
                        brain: ty == Ty::Bf16x2,
                        cmp,
                        ftz,
                        d,
                        q,
                        a: self.src(line, 1)?,
                        b: self.src(line, 2)?,
                        with: match with {
                            Some(f) => Some((f, self.pred(line, 3)?)),
                            None => None,
                        },
                    });
                }
                if matches!(ty, Ty::Pred | Ty::B8 | Ty::U8 | Ty::S8 | Ty::Tf32) {
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
}
