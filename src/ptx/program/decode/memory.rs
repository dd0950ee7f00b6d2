//! Loads, stores, atomics and copies.

use super::*;

impl Decoder<'_> {
    pub(super) fn space(&self, m: &mut Modifiers<'_>) -> Option<Space> {
        m.of(|word| {
            Some(match word {
                "global" | "const" => Space::Global,
                "shared" | "shared::cta" | "shared::cluster" => Space::Shared,
                "local" => Space::Local,
                "param" | "param::entry" | "param::func" => Space::Param,
                _ => return None,
            })
        })
    }

    pub(super) fn memory(&mut self, line: &Line<'_>, m: &mut Modifiers<'_>) -> Decoded<Op> {
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
        // Compilers write order, scope and space in more than one sequence.
        let (mut strong, mut space) = (false, None);
        loop {
            match m.peek() {
                Some(word) if ORDER.contains(&word) => {
                    strong |= word != "weak";
                    m.takes(word);
                }
                Some("mmio") => {
                    m.takes("mmio");
                }
                _ => match self.space(m) {
                    Some(found) if space.is_none() => space = Some(found),
                    Some(_) => return Err(self.unknown(line)),
                    None => break,
                },
            }
        }
        let mut space = space.unwrap_or(Space::Generic);
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
        if matches!(ty, Ty::Pred | Ty::Tf32) || u32::from(count) * ty.bytes() > 32 {
            return Err(self.unknown(line));
        }
        let (values, place) = if store { (1, 0) } else { (0, 1) };
        // A function's parameters are the caller's local memory.
        if let (Space::Param, Some(Arg::Address(base, ..))) = (space, line.args.get(place))
            && matches!(**base, Arg::Local(_))
        {
            space = Space::Local;
        }
        if store && space == Space::Param {
            return Err(self.problem(line, "a store to a kernel's parameter"));
        }
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

    pub(super) fn atomic(&mut self, line: &Line<'_>, m: &mut Modifiers<'_>) -> Decoded<Op> {
        // Compilers write order, scope, space and vector in more than one sequence.
        let (mut ordered, mut space, mut count) = (false, None, 1usize);
        let op = loop {
            let Some(word) = m.peek() else {
                return Err(self.unknown(line));
            };
            if let Some(op) = atom_op(word) {
                m.takes(word);
                break op;
            }
            if let Some(found) = self.space(m) {
                if space.replace(found).is_some() {
                    return Err(self.unknown(line));
                }
                continue;
            }
            match word {
                "acq_rel" | "acquire" | "release" => ordered = true,
                "relaxed" | "cta" | "cluster" | "gpu" | "sys" => {}
                "v2" => count = 2,
                "v4" => count = 4,
                "v8" => count = 8,
                _ => return Err(self.unknown(line)),
            }
            m.takes(word);
        };
        m.skip(&["noftz", "L2::cache_hint"]);
        count = m
            .of(|word| match word {
                "v2" => Some(2),
                "v4" => Some(4),
                "v8" => Some(8),
                _ => None,
            })
            .unwrap_or(count);
        let hinted = line.parts.contains(&"L2::cache_hint");
        let ty = self.ty(line, m)?;
        m.skip(&["noftz", "L2::cache_hint"]);
        let known = match op {
            AtomOp::Add => matches!(
                ty,
                Ty::U32
                    | Ty::S32
                    | Ty::U64
                    | Ty::F32
                    | Ty::F64
                    | Ty::F16
                    | Ty::Bf16
                    | Ty::F16x2
                    | Ty::Bf16x2
            ),
            AtomOp::Min | AtomOp::Max => {
                matches!(ty, Ty::U32 | Ty::S32 | Ty::U64 | Ty::S64)
                    || (count > 1 && half(ty).is_some())
            }
            AtomOp::Inc | AtomOp::Dec => ty == Ty::U32,
            AtomOp::Cas => matches!(ty, Ty::B16 | Ty::B32 | Ty::B64),
            _ => matches!(ty, Ty::B32 | Ty::B64),
        };
        // Vectors are of floats, in global memory (PTX ISA, atom).
        let vector = ty == Ty::F32 || half(ty).is_some();
        if !known
            || matches!(space, Some(Space::Param | Space::Local))
            || (count > 1 && (!vector || count as u32 * ty.bytes() > 16))
        {
            return Err(self.unknown(line));
        }
        let first = usize::from(line.parts[0] == "atom");
        let operands = first + 2 + usize::from(op == AtomOp::Cas) + usize::from(hinted);
        if line.args.len() != operands {
            return Err(self.problem(line, "another number of operands is not known"));
        }
        let parts = |decoder: &Self, i: usize| match decoder.arg(line, i)? {
            Arg::Vector(parts) if parts.len() == count => Ok(parts.clone()),
            arg if count == 1 => Ok(vec![arg.clone()]),
            _ => Err(decoder.problem(line, "the vector has another length than the type says")),
        };
        let (values, news) = (
            parts(self, first + 1)?,
            match op {
                AtomOp::Cas => parts(self, first + 2)?,
                _ => parts(self, first + 1)?,
            },
        );
        let olds = match first {
            1 => parts(self, 0)?,
            _ => vec![Arg::Sink; count],
        };
        let mut rows = Vec::with_capacity(count);
        for ((old, value), new) in olds.iter().zip(&values).zip(&news) {
            rows.push(match ty.bytes() {
                8 => [
                    self.dst64_arg(line, old)?,
                    self.src64_arg(line, value)?,
                    self.src64_arg(line, new)?,
                ],
                _ => [
                    self.dst_arg(line, old)?,
                    self.src_arg(line, value)?,
                    self.src_arg(line, new)?,
                ],
            });
        }
        Ok(Op::Atom(Box::new(Atom {
            op,
            ty,
            space: space.unwrap_or(Space::Generic),
            at: self.address(line, first)?,
            rows,
            ordered,
        })))
    }

    pub(super) fn copy(&mut self, line: &Line<'_>, m: &mut Modifiers<'_>) -> Decoded<Op> {
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
}

fn atom_op(word: &str) -> Option<AtomOp> {
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
}
