//! Logic, shifts, functions of one value, bit fields.

use super::*;

impl Decoder<'_> {
    pub(super) fn logic(&mut self, line: &Line<'_>, m: &mut Modifiers<'_>) -> Decoded<Op> {
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
            ("cnot", 8) => Op::U64 {
                f: U64::Cnot,
                d: self.dst64(line, 0)?,
                a: self.src64(line, 1)?,
            },
            ("cnot", _) => Op::U32 {
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

    pub(super) fn one(&mut self, line: &Line<'_>, m: &mut Modifiers<'_>) -> Decoded<Op> {
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
            let near = mods.round == Round::Near || matches!(f, F1::Rcp | F1::Sqrt);
            if !known || mods.sat || mods.nan || mods.relu || !near {
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
                Ty::F64
                    if exact
                        || (rounded && !mods.ftz)
                        || (approx && matches!(f, F1::Rcp | F1::Rsqrt)) =>
                {
                    Ok(Op::One64 {
                        f,
                        round: mods.round,
                        coarse: approx && mods.ftz,
                        d: self.dst64(line, 0)?,
                        a: self.src64(line, 1)?,
                    })
                }
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

    pub(super) fn bits(&mut self, line: &Line<'_>, m: &mut Modifiers<'_>) -> Decoded<Op> {
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
            "dp2a" => {
                let upper = m.takes("hi");
                if !upper && !m.takes("lo") {
                    return Err(self.unknown(line));
                }
                let (a, b) = (self.ty(line, m)?, self.ty(line, m)?);
                if ![a, b].iter().all(|ty| matches!(ty, Ty::U32 | Ty::S32)) {
                    return Err(self.unknown(line));
                }
                return Ok(Op::T32 {
                    f: T32::Dp2a(a.signed(), b.signed(), upper),
                    d: self.dst(line, 0)?,
                    a: self.src(line, 1)?,
                    b: self.src(line, 2)?,
                    c: self.src(line, 3)?,
                });
            }
            "mad24" => {
                let lower = m.takes("lo");
                let ty = self.ty(line, m)?;
                let f = match ty {
                    Ty::U32 if lower => T32::Mad24U,
                    Ty::S32 if lower => T32::Mad24S,
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
                    ("sad", Ty::U16) => T32::SadU16,
                    ("sad", Ty::S16) => T32::SadS16,
                    ("fns", Ty::B32) => T32::Fns,
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

    /// `vadd2`, `vabsdiff4` and kin, with all parts in their places.
    pub(super) fn parts(&mut self, line: &Line<'_>, m: &mut Modifiers<'_>) -> Decoded<Op> {
        let (name, parts) = line.parts[0].split_at(line.parts[0].len() - 1);
        let f = match name {
            "vadd" => Part::Add,
            "vsub" => Part::Sub,
            "vavrg" => Part::Average,
            "vabsdiff" => Part::Difference,
            "vmin" => Part::Min,
            "vmax" => Part::Max,
            _ => return Err(self.unknown(line)),
        };
        let mut signed = [false; 3];
        for signed in &mut signed {
            *signed = match self.ty(line, m)? {
                Ty::U32 => false,
                Ty::S32 => true,
                _ => return Err(self.unknown(line)),
            };
        }
        let (sat, add) = (m.takes("sat"), m.takes("add"));
        Ok(Op::Parts {
            f,
            parts: if parts == "2" { 2 } else { 4 },
            signed,
            sat,
            add,
            d: self.dst(line, 0)?,
            a: self.src(line, 1)?,
            b: self.src(line, 2)?,
            c: self.src(line, 3)?,
        })
    }
}
