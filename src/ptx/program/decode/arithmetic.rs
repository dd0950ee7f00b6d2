//! Arithmetic of two and three operands.

use super::*;

impl Decoder<'_> {
    pub(super) fn arithmetic(&mut self, line: &Line<'_>, m: &mut Modifiers<'_>) -> Decoded<Op> {
        let name = line.parts[0];
        // Integers: an optional hi, lo or wide, then the type.
        let part = m.of(|word| ["hi", "lo", "wide"].into_iter().find(|p| *p == word));
        let mut mods = self.float_modifiers(m);
        let approx = m.takes("approx") || m.takes("full");
        mods.ftz |= m.takes("ftz");
        mods.sat |= m.takes("sat");
        mods.nan |= m.takes("NaN");
        let xorsign = m.peek() == Some("xorsign");
        if let Some(f) = m.of(|word| pair(name, word)) {
            let plain = part.is_none() && !approx && mods == Mods::PLAIN;
            return match plain {
                true => Ok(Op::I32 {
                    f,
                    d: self.dst(line, 0)?,
                    a: self.src(line, 1)?,
                    b: self.src(line, 2)?,
                }),
                false => Err(self.unknown(line)),
            };
        }
        let ty = self.ty(line, m)?;
        if matches!(m.peek(), Some("cc"))
            || xorsign
            || (approx && !(name == "div" && ty == Ty::F32))
        {
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
            let near = mods.round == Round::Near;
            if !near && !matches!(f, F2::Add | F2::Sub | F2::Mul | F2::Div) {
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
            ("mul24", Some("hi"), false, 4) => I32::Mul24HiU,
            ("mul24", Some("hi"), true, 4) => I32::Mul24HiS,
            ("mul", Some("hi"), false, 2) => I32::MulHiU16,
            ("mul", Some("hi"), true, 2) => I32::MulHiS16,
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
    pub(super) fn float_modifiers(&self, m: &mut Modifiers<'_>) -> Mods {
        let round = m.of(round).unwrap_or(Round::Near);
        Mods {
            round,
            ftz: m.takes("ftz"),
            sat: m.takes("sat"),
            nan: m.takes("NaN"),
            relu: m.takes("relu"),
        }
    }

    pub(super) fn multiply_add(&mut self, line: &Line<'_>, m: &mut Modifiers<'_>) -> Decoded<Op> {
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
                Ty::F64
                    if Mods {
                        round: Round::Near,
                        ..mods
                    } == Mods::PLAIN =>
                {
                    Op::Fma64 {
                        round: mods.round,
                        d: self.dst64(line, 0)?,
                        a: self.src64(line, 1)?,
                        b: self.src64(line, 2)?,
                        c: self.src64(line, 3)?,
                    }
                }
                _ => return Err(self.unknown(line)),
            });
        }
        let signed = ty.signed();
        let clamps = mods.sat && part == Some("hi") && ty == Ty::S32;
        if line.parts[0] == "fma" || (mods != Mods::PLAIN && !clamps) {
            return Err(self.unknown(line));
        }
        Ok(match (part, ty.bytes()) {
            (Some("wide"), 4) => Op::MadWide {
                signed,
                d: self.dst64(line, 0)?,
                a: self.src(line, 1)?,
                b: self.src(line, 2)?,
                c: self.src64(line, 3)?,
            },
            (Some(part @ ("lo" | "hi")), 8) => Op::Mad64 {
                f: match (part, signed) {
                    ("lo", _) => I64::Mul,
                    (_, false) => I64::MulHiU,
                    (_, true) => I64::MulHiS,
                },
                d: self.dst64(line, 0)?,
                a: self.src64(line, 1)?,
                b: self.src64(line, 2)?,
                c: self.src64(line, 3)?,
            },
            (Some(part), 2 | 4) => {
                let f = match (part, ty.bytes(), signed) {
                    ("lo", 4, _) => T32::Mad,
                    ("hi", 4, false) => T32::MadHiU,
                    ("hi", 4, true) if clamps => T32::MadSatHi,
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

    /// `add.cc`, `addc`, `sub.cc`, `subc`, `mad.lo.cc`, `madc.hi` …: `None` without a carry.
    pub(super) fn carrying(
        &mut self,
        line: &Line<'_>,
        m: &mut Modifiers<'_>,
    ) -> Decoded<Option<Op>> {
        let takes = matches!(line.parts[0], "addc" | "subc" | "madc");
        if !takes && !line.parts.contains(&"cc") {
            return Ok(None);
        }
        let part = m.of(|word| ["hi", "lo"].into_iter().find(|p| *p == word));
        let gives = m.takes("cc");
        let ty = self.ty(line, m)?;
        let f = match (line.parts[0], part, ty) {
            (_, _, Ty::U32 | Ty::S32 | Ty::U64 | Ty::S64) => match (line.parts[0], part) {
                ("add" | "addc", None) => Carry::Add,
                ("sub" | "subc", None) => Carry::Sub,
                ("mad" | "madc", Some("lo")) => Carry::MadLo,
                ("mad" | "madc", Some("hi")) if ty.signed() => Carry::MadHiS,
                ("mad" | "madc", Some("hi")) => Carry::MadHiU,
                _ => return Err(self.unknown(line)),
            },
            _ => return Err(self.unknown(line)),
        };
        let wide = ty.bytes() == 8;
        let (a, b) = (self.source(line, 1, ty)?, self.source(line, 2, ty)?);
        let c = match f {
            Carry::Add | Carry::Sub => a,
            _ => self.source(line, 3, ty)?,
        };
        Ok(Some(Op::Carry {
            f,
            wide,
            carry: self.carry,
            takes,
            gives,
            d: self.result(line, ty)?,
            a,
            b,
            c,
        }))
    }
}

/// Functions of pairs of 16 bits.
fn pair(name: &str, ty: &str) -> Option<I32> {
    Some(match (name, ty) {
        ("add", "u16x2" | "s16x2") => I32::AddPair,
        ("min", "u16x2") => I32::MinUPair,
        ("min", "s16x2") => I32::MinSPair,
        ("max", "u16x2") => I32::MaxUPair,
        ("max", "s16x2") => I32::MaxSPair,
        _ => return None,
    })
}
