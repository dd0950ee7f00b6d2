//! Instructions that only sm_90 has: wgmma, mbarrier, bulk copies, and what goes with them.
//!
//! Clusters have one block: `shared::cluster` is the block's own shared memory, and multicast,
//! other blocks' memory and cluster barriers are refused as unknown.

use super::decode::{Decoder, Modifiers};
use super::op::{Addr, P, R};
use super::resolve::{Arg, Line};
use crate::ptx::Problem;
use crate::ptx::counters::Class;
use crate::ptx::tensor::accumulate::Sum;
use crate::ptx::tensor::descriptor::Major;
use crate::ptx::tensor::{Element, wgmma};

/// What such an instruction does.
#[derive(Clone, Debug)]
pub enum HopperOp {
    /// `wgmma.fence`: registers written before are wgmma's to use.
    WgmmaFence,
    WgmmaCommit,
    /// At most so many groups stay in flight.
    WgmmaWait(u32),
    Wgmma(Wgmma),
    Mbarrier {
        at: Addr,
        what: Mbarrier,
    },
    /// `mbarrier.pending_count` of a token.
    PendingCount {
        d: R,
        token: R,
    },
    /// `cp.async.mbarrier.arrive`: when this thread's copies so far have come. `noinc`: the arrival
    /// is one of those that the barrier waits for.
    CpArrive {
        at: Addr,
        noinc: bool,
    },
    /// Plain bulk copy to shared memory.
    BulkLoad {
        to: Addr,
        from: Addr,
        bytes: R,
        barrier: Addr,
    },
    /// Plain bulk copy, or reduction, to global memory.
    BulkStore {
        to: Addr,
        from: Addr,
        bytes: R,
        reduce: Option<Reduction>,
    },
    TensorLoad {
        to: Addr,
        map: Addr,
        coordinates: Vec<R>,
        im2col: bool,
        offsets: Vec<R>,
        barrier: Addr,
    },
    /// The reduction's type is the map's.
    TensorStore {
        map: Addr,
        coordinates: Vec<R>,
        from: Addr,
        reduce: Option<ReduceOp>,
    },
    BulkCommit,
    /// At most so many groups stay in flight; `read`: only their reads of shared memory are waited for.
    BulkWait {
        left: u32,
        read: bool,
    },
    Elect {
        d: R,
        p: u32,
        mask: R,
    },
    /// Who owns how many registers is ptxas's business; that the whole warp asks is ours.
    SetMaxNreg,
    /// `fence.proxy.async` of shared memory. (Of global memory the machine keeps no proxies apart.)
    ProxyFence,
    /// `fence.mbarrier_init`, griddepcontrol, hints for caches: nothing to do with one block to a
    /// cluster and one kernel at a time.
    Nothing,
    /// A cache policy: an opaque word.
    Policy {
        d: R,
    },
    /// `mapa` in a cluster of one: the same address.
    Mapa32 {
        d: R,
        a: R,
    },
    Mapa64 {
        d: R,
        a: R,
    },
}

/// `wgmma.mma_async`.
#[derive(Clone, Debug)]
pub struct Wgmma {
    pub shape: wgmma::Wgmma,
    pub d: Vec<R>,
    /// The virtual registers of `d`, and of A.
    pub d_registers: Vec<u32>,
    pub a_registers: Vec<u32>,
    pub a: Left,
    /// B's descriptor, 64 bits.
    pub b: R,
    pub scale_d: P,
}

/// Where A comes from.
#[derive(Clone, Debug)]
pub enum Left {
    Registers([R; 4]),
    /// A descriptor, 64 bits.
    Shared(R),
}

/// Operations on an mbarrier.
#[derive(Clone, Debug)]
pub enum Mbarrier {
    Init {
        count: R,
    },
    Inval,
    /// `d` takes the token ([`super::op::SINK`]: nobody). `tx`: bytes expected first.
    Arrive {
        d: R,
        count: Option<R>,
        tx: Option<R>,
        no_complete: bool,
        drop: bool,
    },
    ExpectTx {
        bytes: R,
    },
    CompleteTx {
        bytes: R,
    },
    /// `d` is a predicate. `wait`: may sleep until the phase is complete.
    Test {
        d: u32,
        phase: Phase,
        wait: bool,
    },
}

/// The phase that is waited for.
#[derive(Clone, Copy, Debug)]
pub enum Phase {
    /// A token, 64 bits.
    Token(R),
    Parity(R),
}

/// Reductions of bulk copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReduceOp {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Inc,
    Dec,
}

/// A reduction and its element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reduction {
    pub op: ReduceOp,
    pub data_type: crate::ptx::tensor::map::DataType,
}

type Decoded<T> = Result<T, Problem>;

/// Decodes a line, or `None` when the opcode is none of these.
pub fn decode(line: &Line<'_>, decoder: &mut Decoder<'_>) -> Decoded<Option<HopperOp>> {
    let mut m = Modifiers::new(line);
    let second = line.parts.get(1).copied().unwrap_or("");
    let third = line.parts.get(2).copied().unwrap_or("");
    let op = match (line.parts[0], second) {
        ("wgmma", _) => wgmma_(line, decoder, &mut m)?,
        ("mbarrier", _) => mbarrier(line, decoder, &mut m)?,
        ("cp", "async") if third == "mbarrier" => {
            m.skip(&["async", "mbarrier"]);
            if !m.takes("arrive") {
                return Err(decoder.unknown(line));
            }
            let noinc = m.takes("noinc");
            m.skip(&["shared", "shared::cta"]);
            if !m.takes("b64") {
                return Err(decoder.unknown(line));
            }
            HopperOp::CpArrive {
                at: decoder.address(line, 0)?,
                noinc,
            }
        }
        ("cp", "async") if third == "bulk" => {
            m.skip(&["async", "bulk"]);
            bulk(line, decoder, &mut m)?
        }
        ("cp", "reduce") => {
            m.skip(&["reduce", "async", "bulk"]);
            reduce(line, decoder, &mut m)?
        }
        ("elect", "sync") => {
            m.takes("sync");
            let (d, p) = match decoder.arg(line, 0)? {
                Arg::Pair(d, p) => (decoder.dst_arg(line, d)?, decoder.dst_pred(line, p)?),
                _ => return Err(decoder.problem(line, "`d|p` is needed")),
            };
            HopperOp::Elect {
                d,
                p,
                mask: decoder.src(line, 1)?,
            }
        }
        ("setmaxnreg", _) => {
            let increase = m.takes("inc");
            if !(increase || m.takes("dec"))
                || !m.takes("sync")
                || !m.takes("aligned")
                || !m.takes("u32")
            {
                return Err(decoder.unknown(line));
            }
            let registers = decoder.int(line, 0)?;
            if !(24..=256).contains(&registers) || registers % 8 != 0 {
                return Err(decoder.problem(line, "a multiple of 8 within 24 to 256 is needed"));
            }
            HopperOp::SetMaxNreg
        }
        ("fence", "proxy") => {
            m.takes("proxy");
            if !m.takes("async") {
                return Err(decoder.unknown(line));
            }
            // Without a state space: of all.
            if m.takes("global") {
                HopperOp::Nothing
            } else {
                m.skip(&["shared::cta", "shared::cluster"]);
                HopperOp::ProxyFence
            }
        }
        ("fence", "mbarrier_init") => {
            m.skip(&["mbarrier_init", "release", "cluster"]);
            HopperOp::Nothing
        }
        ("griddepcontrol", "wait" | "launch_dependents") => {
            m.skip(&["wait", "launch_dependents"]);
            HopperOp::Nothing
        }
        ("prefetch", _) if line.parts.last() == Some(&"tensormap") => {
            m.skip(&["param", "const", "tensormap"]);
            decoder.address(line, 0)?;
            HopperOp::Nothing
        }
        ("createpolicy", _) => {
            if line.parts.last() != Some(&"b64") {
                return Err(decoder.unknown(line));
            }
            return Ok(Some(HopperOp::Policy {
                d: decoder.dst64(line, 0)?,
            }));
        }
        ("mapa", _) => {
            m.takes("shared::cluster");
            if m.takes("u32") {
                HopperOp::Mapa32 {
                    d: decoder.dst(line, 0)?,
                    a: decoder.src(line, 1)?,
                }
            } else if m.takes("u64") {
                HopperOp::Mapa64 {
                    d: decoder.dst64(line, 0)?,
                    a: decoder.src64(line, 1)?,
                }
            } else {
                return Err(decoder.unknown(line));
            }
        }
        _ => return Ok(None),
    };
    match m.peek() {
        None => Ok(Some(op)),
        Some(_) => Err(decoder.unknown(line)),
    }
}

fn small(line: &Line<'_>, decoder: &Decoder<'_>, i: usize) -> Decoded<u32> {
    u32::try_from(decoder.int(line, i)?)
        .map_err(|_| decoder.problem(line, "a constant is too large"))
}

fn count(line: &Line<'_>, decoder: &Decoder<'_>, least: usize, most: usize) -> Decoded<()> {
    if (least..=most).contains(&line.args.len()) {
        return Ok(());
    }
    Err(decoder.problem(line, "another number of operands is not known"))
}

fn wgmma_(line: &Line<'_>, decoder: &mut Decoder<'_>, m: &mut Modifiers<'_>) -> Decoded<HopperOp> {
    let what = m.of(|word| {
        ["fence", "commit_group", "wait_group", "mma_async"]
            .into_iter()
            .find(|k| *k == word)
    });
    if !m.takes("sync") || !m.takes("aligned") {
        return Err(decoder.unknown(line));
    }
    match what {
        Some("fence") => return Ok(HopperOp::WgmmaFence),
        Some("commit_group") => return Ok(HopperOp::WgmmaCommit),
        Some("wait_group") => return Ok(HopperOp::WgmmaWait(small(line, decoder, 0)?)),
        Some(_) => {}
        None => return Err(decoder.unknown(line)),
    }
    let shape_name = m.of(|word| word.starts_with("m64n").then(|| word.to_string()));
    let sum = m.of(|word| match word {
        "f32" => Some(Sum::F32),
        "f16" => Some(Sum::F16),
        _ => None,
    });
    let (left, right) = (m.of(Element::named), m.of(Element::named));
    let (Some(shape_name), Some(sum), Some(element), Some(right)) = (shape_name, sum, left, right)
    else {
        return Err(decoder.unknown(line));
    };
    let Some(mut shape) = wgmma::Wgmma::new(&shape_name, element, sum).filter(|_| element == right)
    else {
        return Err(decoder.unknown(line));
    };
    let parts = decoder.vector(line, 0)?;
    if parts.len() != shape.d_registers() {
        let words = format!(
            "{} accumulator registers where the shape has {}",
            parts.len(),
            shape.d_registers()
        );
        return Err(decoder.problem(line, &words));
    }
    let d = parts
        .iter()
        .map(|part| decoder.dst_arg(line, part))
        .collect::<Decoded<Vec<R>>>()?;
    let mut seen = d.clone();
    seen.sort_unstable();
    seen.dedup();
    if seen.len() != d.len() {
        return Err(decoder.problem(line, "an accumulator register twice"));
    }
    let a = match decoder.arg(line, 1)?.clone() {
        Arg::Vector(parts) if parts.len() == 4 => {
            let mut rows = [0; 4];
            for (row, part) in rows.iter_mut().zip(&parts) {
                *row = decoder.src_arg(line, part)?;
            }
            Left::Registers(rows)
        }
        Arg::Vector(_) => return Err(decoder.problem(line, "A has 4 registers")),
        _ => Left::Shared(decoder.src64(line, 1)?),
    };
    let b = decoder.src64(line, 2)?;
    // scale-d, imm-scale-a, imm-scale-b; of 16-bit types imm-trans-a (A in shared memory) and imm-trans-b.
    let sixteen = element != Element::Tf32;
    let transposes = if sixteen {
        1 + usize::from(matches!(a, Left::Shared(_)))
    } else {
        0
    };
    count(line, decoder, 6 + transposes, 6 + transposes)?;
    let scale_d = decoder.pred(line, 3)?;
    for (i, negate) in [(4, &mut shape.negate_a), (5, &mut shape.negate_b)] {
        *negate = match decoder.int(line, i)? as i64 {
            1 => false,
            -1 => true,
            _ => return Err(decoder.problem(line, "an immediate scale is 1 or -1")),
        };
    }
    let transposed = |i: usize| match decoder.int(line, i)? {
        0 => Ok(Major::K),
        1 => Ok(Major::Mn),
        _ => Err(decoder.problem(line, "an immediate transposition is 0 or 1")),
    };
    if transposes == 2 {
        shape.a_major = transposed(6)?;
    }
    if transposes > 0 {
        shape.b_major = transposed(5 + transposes)?;
    }
    let mut registers = [Vec::new(), Vec::new()];
    for (i, list) in registers.iter_mut().enumerate() {
        if let Arg::Vector(parts) = decoder.arg(line, i)? {
            list.extend(parts.iter().filter_map(|part| {
                if let Arg::Reg(v) = part {
                    Some(*v)
                } else {
                    None
                }
            }));
        }
    }
    let [d_registers, a_registers] = registers;
    Ok(HopperOp::Wgmma(Wgmma {
        shape,
        d,
        d_registers,
        a_registers,
        a,
        b,
        scale_d,
    }))
}

/// A register of wgmma that another instruction reads or writes.
#[derive(Clone, Copy, Debug)]
pub struct Touch {
    pub register: u32,
    pub written: bool,
    /// It is an accumulator somewhere.
    pub sum: bool,
}

/// For each line the registers of wgmma that it touches, unless it is a wgmma itself. Empty for an
/// entry without wgmma.
pub fn touches(lines: &[Line<'_>], registers: usize) -> Vec<Box<[Touch]>> {
    let mut kinds = vec![0u8; registers];
    let multiplies = |line: &Line<'_>| line.parts.starts_with(&["wgmma", "mma_async"]);
    for line in lines.iter().filter(|line| multiplies(line)) {
        for (arg, kind) in line.args.iter().take(2).zip([1, 2]) {
            if let Arg::Vector(_) = arg {
                crate::ptx::flow::registers(arg, &mut |v| kinds[v as usize] |= kind);
            }
        }
    }
    if kinds.iter().all(|kind| *kind == 0) {
        return Vec::new();
    }
    lines
        .iter()
        .map(|line| {
            let mut found = Vec::new();
            if !multiplies(line) {
                line.each(&mut |v, written| {
                    let kind = kinds[v as usize];
                    if kind != 0 {
                        found.push(Touch {
                            register: v,
                            written,
                            sum: kind & 1 != 0,
                        });
                    }
                });
            }
            found.into()
        })
        .collect()
}

fn mbarrier(
    line: &Line<'_>,
    decoder: &mut Decoder<'_>,
    m: &mut Modifiers<'_>,
) -> Decoded<HopperOp> {
    const WHAT: [&str; 9] = [
        "init",
        "inval",
        "expect_tx",
        "complete_tx",
        "arrive",
        "arrive_drop",
        "test_wait",
        "try_wait",
        "pending_count",
    ];
    let what = m.of(|word| WHAT.into_iter().find(|k| *k == word));
    let (tx, no_complete) = (m.takes("expect_tx"), m.takes("noComplete"));
    let parity = m.takes("parity");
    m.skip(&["release", "acquire", "relaxed"]);
    m.skip(&["cta", "cluster"]);
    // Without a state space the address is generic, and must lie in shared memory.
    m.skip(&["shared", "shared::cta", "shared::cluster"]);
    if !m.takes("b64") {
        return Err(decoder.unknown(line));
    }
    let arrives = matches!(what, Some("arrive" | "arrive_drop"));
    let tests = matches!(what, Some("test_wait" | "try_wait"));
    if ((tx || no_complete) && !arrives) || (tx && no_complete) || (parity && !tests) {
        return Err(decoder.unknown(line));
    }
    let what = match what {
        Some("pending_count") => {
            count(line, decoder, 2, 2)?;
            return Ok(HopperOp::PendingCount {
                d: decoder.dst(line, 0)?,
                token: decoder.src64(line, 1)?,
            });
        }
        Some("init") => {
            count(line, decoder, 2, 2)?;
            Mbarrier::Init {
                count: decoder.src(line, 1)?,
            }
        }
        Some("inval") => {
            count(line, decoder, 1, 1)?;
            Mbarrier::Inval
        }
        Some("expect_tx") => {
            count(line, decoder, 2, 2)?;
            Mbarrier::ExpectTx {
                bytes: decoder.src(line, 1)?,
            }
        }
        Some("complete_tx") => {
            count(line, decoder, 2, 2)?;
            Mbarrier::CompleteTx {
                bytes: decoder.src(line, 1)?,
            }
        }
        Some(kind @ ("arrive" | "arrive_drop")) => {
            count(line, decoder, 2 + usize::from(tx || no_complete), 3)?;
            let d = decoder.dst64(line, 0)?;
            let value = if line.args.len() > 2 {
                Some(decoder.src(line, 2)?)
            } else {
                None
            };
            let (count, tx) = if tx { (None, value) } else { (value, None) };
            Mbarrier::Arrive {
                d,
                count,
                tx,
                no_complete,
                drop: kind == "arrive_drop",
            }
        }
        Some(kind @ ("test_wait" | "try_wait")) => {
            let wait = kind == "try_wait";
            // The hint of a time to sleep changes nothing.
            count(line, decoder, 3, 3 + usize::from(wait))?;
            let d = decoder.dst_pred(line, decoder.arg(line, 0)?)?;
            let phase = if parity {
                Phase::Parity(decoder.src(line, 2)?)
            } else {
                Phase::Token(decoder.src64(line, 2)?)
            };
            Mbarrier::Test { d, phase, wait }
        }
        _ => return Err(decoder.unknown(line)),
    };
    let at = usize::from(arrives || tests);
    Ok(HopperOp::Mbarrier {
        at: decoder.address(line, at)?,
        what,
    })
}

/// Behind `cp.async.bulk`.
fn bulk(line: &Line<'_>, decoder: &mut Decoder<'_>, m: &mut Modifiers<'_>) -> Decoded<HopperOp> {
    if m.takes("commit_group") {
        return Ok(HopperOp::BulkCommit);
    }
    if m.takes("wait_group") {
        let read = m.takes("read");
        return Ok(HopperOp::BulkWait {
            left: small(line, decoder, 0)?,
            read,
        });
    }
    if m.takes("prefetch") {
        m.skip(&[
            "tensor",
            "1d",
            "2d",
            "3d",
            "4d",
            "5d",
            "L2",
            "global",
            "tile",
            "im2col",
            "L2::cache_hint",
        ]);
        return Ok(HopperOp::Nothing);
    }
    if m.takes("tensor") {
        let rank = dimensions(line, decoder, m)?;
        return if m.takes("global") {
            tensor_store(line, decoder, m, rank, None)
        } else {
            tensor_load(line, decoder, m, rank)
        };
    }
    if m.takes("global") {
        if !m.takes("shared::cta") || !m.takes("bulk_group") {
            return Err(decoder.unknown(line));
        }
        let hint = m.takes("L2::cache_hint");
        count(line, decoder, 3 + usize::from(hint), 3 + usize::from(hint))?;
        let (to, from, bytes) = (
            decoder.address(line, 0)?,
            decoder.address(line, 1)?,
            decoder.src(line, 2)?,
        );
        return Ok(HopperOp::BulkStore {
            to,
            from,
            bytes,
            reduce: None,
        });
    }
    if !(m.takes("shared::cluster") || m.takes("shared::cta"))
        || !m.takes("global")
        || !m.takes("mbarrier::complete_tx::bytes")
    {
        return Err(decoder.unknown(line));
    }
    let hint = m.takes("L2::cache_hint");
    count(line, decoder, 4 + usize::from(hint), 4 + usize::from(hint))?;
    Ok(HopperOp::BulkLoad {
        to: decoder.address(line, 0)?,
        from: decoder.address(line, 1)?,
        bytes: decoder.src(line, 2)?,
        barrier: decoder.address(line, 3)?,
    })
}

fn dimensions(line: &Line<'_>, decoder: &Decoder<'_>, m: &mut Modifiers<'_>) -> Decoded<usize> {
    let rank = m.of(|word| {
        ["1d", "2d", "3d", "4d", "5d"]
            .iter()
            .position(|k| *k == word)
    });
    rank.map(|rank| rank + 1)
        .ok_or_else(|| decoder.unknown(line))
}

/// `[map, {coordinates}]`.
fn map_and_coordinates(
    line: &Line<'_>,
    decoder: &mut Decoder<'_>,
    i: usize,
    rank: usize,
) -> Decoded<(Addr, Vec<R>)> {
    let Arg::Address(base, offset, coordinates) = decoder.arg(line, i)?.clone() else {
        return Err(decoder.problem(line, "`[map, {coordinates}]` is needed"));
    };
    let coordinates = match coordinates.as_slice() {
        [Arg::Vector(parts)] => parts.clone(),
        other => other.to_vec(),
    };
    if coordinates.len() != rank {
        return Err(decoder.problem(
            line,
            &format!("{} coordinates for {rank} dimensions", coordinates.len()),
        ));
    }
    let map = decoder.address_of(line, &base, offset)?;
    let rows = coordinates
        .iter()
        .map(|part| decoder.src_arg(line, part))
        .collect::<Decoded<_>>()?;
    Ok((map, rows))
}

fn tensor_load(
    line: &Line<'_>,
    decoder: &mut Decoder<'_>,
    m: &mut Modifiers<'_>,
    rank: usize,
) -> Decoded<HopperOp> {
    if !(m.takes("shared::cluster") || m.takes("shared::cta")) || !m.takes("global") {
        return Err(decoder.unknown(line));
    }
    let im2col = m.takes("im2col");
    m.takes("tile");
    if !m.takes("mbarrier::complete_tx::bytes") {
        return Err(decoder.unknown(line));
    }
    let hint = m.takes("L2::cache_hint");
    let operands = 3 + usize::from(im2col) + usize::from(hint);
    count(line, decoder, operands, operands)?;
    let (map, coordinates) = map_and_coordinates(line, decoder, 1, rank)?;
    let mut offsets = Vec::new();
    if im2col {
        for part in decoder.vector(line, 3)?.to_vec() {
            offsets.push(decoder.src_arg(line, &part)?);
        }
        if offsets.len() + 2 != rank {
            return Err(decoder.problem(
                line,
                &format!("{} im2col offsets for {rank} dimensions", offsets.len()),
            ));
        }
    }
    let (to, barrier) = (decoder.address(line, 0)?, decoder.address(line, 2)?);
    Ok(HopperOp::TensorLoad {
        to,
        map,
        coordinates,
        im2col,
        offsets,
        barrier,
    })
}

fn tensor_store(
    line: &Line<'_>,
    decoder: &mut Decoder<'_>,
    m: &mut Modifiers<'_>,
    rank: usize,
    reduce: Option<ReduceOp>,
) -> Decoded<HopperOp> {
    m.takes("tile");
    if !m.takes("bulk_group") {
        // Behind `global`: the source's space, and of a reduction its operation.
        if !m.takes("shared::cta") {
            return Err(decoder.unknown(line));
        }
        let found = m.of(reduce_op);
        m.takes("tile");
        if !m.takes("bulk_group") {
            return Err(decoder.unknown(line));
        }
        let hint = m.takes("L2::cache_hint");
        count(line, decoder, 2 + usize::from(hint), 2 + usize::from(hint))?;
        let (map, coordinates) = map_and_coordinates(line, decoder, 0, rank)?;
        let from = decoder.address(line, 1)?;
        return Ok(HopperOp::TensorStore {
            map,
            coordinates,
            from,
            reduce: found.or(reduce),
        });
    }
    Err(decoder.unknown(line))
}

fn reduce_op(word: &str) -> Option<ReduceOp> {
    Some(match word {
        "add" => ReduceOp::Add,
        "min" => ReduceOp::Min,
        "max" => ReduceOp::Max,
        "and" => ReduceOp::And,
        "or" => ReduceOp::Or,
        "xor" => ReduceOp::Xor,
        "inc" => ReduceOp::Inc,
        "dec" => ReduceOp::Dec,
        _ => return None,
    })
}

/// Behind `cp.reduce.async.bulk`.
fn reduce(line: &Line<'_>, decoder: &mut Decoder<'_>, m: &mut Modifiers<'_>) -> Decoded<HopperOp> {
    use crate::ptx::tensor::map::DataType;
    if m.takes("tensor") {
        let rank = dimensions(line, decoder, m)?;
        if !m.takes("global") {
            return Err(decoder.unknown(line));
        }
        let op = tensor_store(line, decoder, m, rank, None)?;
        return match op {
            HopperOp::TensorStore {
                reduce: Some(_), ..
            } => Ok(op),
            _ => Err(decoder.unknown(line)),
        };
    }
    if !m.takes("global") || !m.takes("shared::cta") || !m.takes("bulk_group") {
        return Err(decoder.unknown(line));
    }
    let hint = m.takes("L2::cache_hint");
    let op = m.of(reduce_op);
    m.takes("noftz");
    let data_type = m.of(|word| match word {
        "u32" | "b32" => Some(DataType::U32),
        "s32" => Some(DataType::I32),
        "u64" | "b64" => Some(DataType::U64),
        "s64" => Some(DataType::I64),
        "f16" => Some(DataType::F16),
        "bf16" => Some(DataType::Bf16),
        "f32" => Some(DataType::F32),
        "f64" => Some(DataType::F64),
        _ => None,
    });
    let (Some(op), Some(data_type)) = (op, data_type) else {
        return Err(decoder.unknown(line));
    };
    count(line, decoder, 3 + usize::from(hint), 3 + usize::from(hint))?;
    let (to, from, bytes) = (
        decoder.address(line, 0)?,
        decoder.address(line, 1)?,
        decoder.src(line, 2)?,
    );
    Ok(HopperOp::BulkStore {
        to,
        from,
        bytes,
        reduce: Some(Reduction { op, data_type }),
    })
}

/// The class that it is counted in.
pub fn class(op: &HopperOp) -> Class {
    match op {
        HopperOp::Wgmma(_) => Class::Tensor,
        HopperOp::Mbarrier { .. } => Class::Shared,
        HopperOp::CpArrive { .. }
        | HopperOp::BulkLoad { .. }
        | HopperOp::BulkStore { .. }
        | HopperOp::TensorLoad { .. }
        | HopperOp::TensorStore { .. }
        | HopperOp::BulkCommit
        | HopperOp::BulkWait { .. } => Class::Async,
        HopperOp::PendingCount { .. }
        | HopperOp::Policy { .. }
        | HopperOp::Mapa32 { .. }
        | HopperOp::Mapa64 { .. } => Class::Integer,
        _ => Class::Control,
    }
}
