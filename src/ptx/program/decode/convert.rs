//! Conversions, and addresses from one state space to another.

use super::*;

impl Decoder<'_> {
    pub(super) fn convert(&mut self, line: &Line<'_>, m: &mut Modifiers<'_>) -> Decoded<Op> {
        let to_integer = m.of(round_integer);
        let rounded = if to_integer.is_none() {
            m.of(round)
        } else {
            None
        };
        let mut ftz = m.takes("ftz");
        let relu = m.takes("relu");
        let mut finite = m.takes("satfinite");
        let relu = relu || m.takes("relu");
        let sat = m.takes("sat");
        ftz |= m.takes("ftz");
        finite |= m.takes("satfinite");
        if let Some(kind) = m.of(float8_pair) {
            return self.float8(line, m, kind, rounded == Some(Round::Near) && finite, relu);
        }
        let to = self.ty(line, m)?;
        if let (Ty::F16x2, Some(kind)) = (to, m.of(float8_pair)) {
            if rounded != Some(Round::Near) || finite || sat || ftz {
                return Err(self.unknown(line));
            }
            return Ok(Op::CvtFrom8 {
                kind,
                relu,
                d: self.dst(line, 0)?,
                a: self.src(line, 1)?,
            });
        }
        let from = self.ty(line, m)?;
        let halves = matches!(to, Ty::F16 | Ty::Bf16 | Ty::F16x2 | Ty::Bf16x2 | Ty::Tf32);
        if (finite && (!halves || from != Ty::F32)) || to == Ty::Pred || from == Ty::Pred {
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
            finite,
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
        use crate::ptx::memory::{LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW};
        let to = m.takes("to");
        let window = m.of(|word| {
            Some(match word {
                "global" | "const" => 0,
                "shared" | "shared::cta" | "shared::cluster" => SHARED_WINDOW,
                "local" => LOCAL_WINDOW,
                "param" | "param::entry" => PARAM_WINDOW,
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

    fn float8(
        &mut self,
        line: &Line<'_>,
        m: &mut Modifiers<'_>,
        kind: Float8,
        known: bool,
        relu: bool,
    ) -> Decoded<Op> {
        let from = self.ty(line, m)?;
        let d = self.dst(line, 0)?;
        match from {
            Ty::F32 if known => Ok(Op::Cvt8 {
                kind,
                relu,
                d,
                a: self.src(line, 1)?,
                b: self.src(line, 2)?,
            }),
            Ty::F16x2 if known => Ok(Op::Cvt8Halves {
                kind,
                relu,
                d,
                a: self.src(line, 1)?,
            }),
            _ => Err(self.unknown(line)),
        }
    }

    /// `cvt.pack.sat`.
    pub(super) fn convert_pack(&mut self, line: &Line<'_>, m: &mut Modifiers<'_>) -> Decoded<Op> {
        if !m.takes("pack") || !m.takes("sat") {
            return Err(self.unknown(line));
        }
        let (to, from) = (self.ty(line, m)?, self.ty(line, m)?);
        let rest = m.takes("b32");
        if from != Ty::S32 || !matches!(to, Ty::S8 | Ty::U8 | Ty::S16 | Ty::U16) {
            return Err(self.unknown(line));
        }
        let c = match rest {
            true => self.src(line, 3)?,
            false => self.constant(0),
        };
        Ok(Op::CvtPackInt {
            to,
            d: self.dst(line, 0)?,
            a: self.src(line, 1)?,
            b: self.src(line, 2)?,
            c,
        })
    }
}

fn float8_pair(word: &str) -> Option<Float8> {
    match word {
        "e4m3x2" => Some(Float8::E4m3),
        "e5m2x2" => Some(Float8::E5m2),
        _ => None,
    }
}
