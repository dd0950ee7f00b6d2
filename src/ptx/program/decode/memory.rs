//! Loads, stores, atomics, copies and matrices.

use super::*;

impl Decoder<'_> {
    pub(super) fn space(&self, m: &mut Modifiers<'_>) -> Option<Space> {
        m.of(|word| {
            Some(match word {
                "global" | "const" => Space::Global,
                "shared" | "shared::cta" | "shared::cluster" => Space::Shared,
                "param" | "param::entry" => Space::Param,
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

    pub(super) fn atomic(&mut self, line: &Line<'_>, m: &mut Modifiers<'_>) -> Decoded<Op> {
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

    pub(super) fn matrix(&mut self, line: &Line<'_>, m: &mut Modifiers<'_>) -> Decoded<Op> {
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

    pub(super) fn mma(&mut self, line: &Line<'_>, m: &mut Modifiers<'_>) -> Decoded<Op> {
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
}
