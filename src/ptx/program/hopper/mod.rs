//! Instructions that only sm_90 has: wgmma, mbarrier, bulk copies, and what goes with them.
//!
//! Clusters have one block: `shared::cluster` is the block's own shared memory, and multicast,
//! other blocks' memory and cluster barriers are refused as unknown.

mod bulk;
mod mbarrier;
mod tensormap;
mod wgmma;

use super::decode::{Decoder, Modifiers};
use super::op::{Addr, P, R};
use super::resolve::{Arg, Line};
use crate::ptx::Problem;
use crate::ptx::counters::Class;
use crate::ptx::tensor::map::Field;
use crate::ptx::tensor::wgmma as shapes;
pub use wgmma::{Touch, touches};

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
    /// `tensormap.replace`: a field of a tensor map in memory.
    MapReplace {
        at: Addr,
        global: bool,
        field: Field,
        dimension: u32,
        value: R,
        wide: bool,
    },
    /// `tensormap.cp_fenceproxy`: a tensor map from shared to global memory.
    MapPublish {
        to: Addr,
        from: Addr,
    },
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
    pub shape: shapes::Wgmma,
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
        ("wgmma", _) => wgmma::wgmma_(line, decoder, &mut m)?,
        ("mbarrier", _) => mbarrier::mbarrier(line, decoder, &mut m)?,
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
            bulk::bulk(line, decoder, &mut m)?
        }
        ("cp", "reduce") => {
            m.skip(&["reduce", "async", "bulk"]);
            bulk::reduce(line, decoder, &mut m)?
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
        ("fence", "proxy") if third.starts_with("tensormap") => {
            m.skip(&["proxy", "tensormap::generic", "acquire", "release"]);
            m.skip(&["cta", "cluster", "gpu", "sys"]);
            HopperOp::Nothing
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
        ("tensormap", "replace") => tensormap::replace(line, decoder, &mut m)?,
        ("tensormap", "cp_fenceproxy") => tensormap::publish(line, decoder, &mut m)?,
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

/// The class that it is counted in.
pub fn class(op: &HopperOp) -> Class {
    match op {
        HopperOp::Wgmma(_) => Class::Tensor,
        HopperOp::Mbarrier { .. } | HopperOp::MapReplace { .. } => Class::Shared,
        HopperOp::CpArrive { .. }
        | HopperOp::BulkLoad { .. }
        | HopperOp::BulkStore { .. }
        | HopperOp::TensorLoad { .. }
        | HopperOp::TensorStore { .. }
        | HopperOp::MapPublish { .. }
        | HopperOp::BulkCommit
        | HopperOp::BulkWait { .. } => Class::Async,
        HopperOp::PendingCount { .. }
        | HopperOp::Policy { .. }
        | HopperOp::Mapa32 { .. }
        | HopperOp::Mapa64 { .. } => Class::Integer,
        _ => Class::Control,
    }
}
