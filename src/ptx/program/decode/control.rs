//! What lanes and warps do together.

use super::*;

impl Decoder<'_> {
    pub(super) fn collective(&mut self, line: &Line<'_>, m: &mut Modifiers<'_>) -> Decoded<Op> {
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

    pub(super) fn barrier(&mut self, line: &Line<'_>, m: &mut Modifiers<'_>) -> Decoded<Op> {
        let old = line.parts[0] == "bar";
        if old && m.takes("warp") {
            if !m.takes("sync") {
                return Err(self.unknown(line));
            }
            return Ok(Op::WarpSync {
                mask: self.src(line, 0)?,
            });
        }
        if !old && m.takes("cluster") {
            return self.cluster_barrier(line, m);
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

    /// A cluster has one block: arriving does nothing, and waiting is a barrier of all its threads.
    /// (Stronger than two halves: threads meet where they wait.)
    fn cluster_barrier(&mut self, line: &Line<'_>, m: &mut Modifiers<'_>) -> Decoded<Op> {
        let arrives = m.takes("arrive");
        if !arrives && !m.takes("wait") {
            return Err(self.unknown(line));
        }
        m.skip(&["release", "relaxed", "acquire"]);
        let aligned = m.takes("aligned");
        if arrives {
            return Ok(Op::Nop);
        }
        Ok(Op::Bar(Box::new(Barrier {
            id: self.constant(u32::MAX),
            threads: None,
            arrive: false,
            aligned,
            reduce: None,
            result: SINK,
        })))
    }

    pub(super) fn fence(&mut self, line: &Line<'_>, m: &mut Modifiers<'_>) -> Decoded<Op> {
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
