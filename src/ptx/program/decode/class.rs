//! What an instruction is counted as, and whether another warp may run before it.

use crate::ptx::counters::Class;
use crate::ptx::program::hopper;
use crate::ptx::program::op::{Op, Space, Wmma};

/// The class that it is counted in.
pub fn class(op: &Op) -> Class {
    match op {
        Op::Mma(_) => Class::Tensor,
        Op::Wmma(op) => match &**op {
            Wmma::Multiply { .. } => Class::Tensor,
            Wmma::Move {
                space: Space::Shared,
                ..
            } => Class::Shared,
            Wmma::Move { .. } => Class::Global,
        },
        Op::Ldmatrix { .. } | Op::Stmatrix { .. } => Class::Shared,
        Op::Ld { space, .. } | Op::St { space, .. } => match space {
            Space::Shared => Class::Shared,
            // Parameters are operands of instructions, from the constant bank.
            Space::Param => Class::Integer,
            _ => Class::Global,
        },
        Op::Atom(atom) => match atom.space {
            Space::Shared => Class::Shared,
            _ => Class::Global,
        },
        Op::CpAsync { .. } | Op::CpCommit | Op::CpWait(_) => Class::Async,
        Op::F32 { .. }
        | Op::F64 { .. }
        | Op::Fma32 { .. }
        | Op::Fma64 { .. }
        | Op::One32 { .. }
        | Op::One64 { .. }
        | Op::Half2 { .. }
        | Op::HalfFma { .. }
        | Op::Half1 { .. }
        | Op::CvtPack { .. }
        | Op::Cvt8 { .. }
        | Op::Cvt8Halves { .. }
        | Op::CvtFrom8 { .. }
        | Op::SetpPair { .. }
        | Op::SetHalves { .. }
        | Op::Testp { .. } => Class::Float,
        Op::Cvt { c, .. } if c.to.float() || c.from.float() => Class::Float,
        Op::Setp { ty, .. } | Op::Set { ty, .. } if ty.float() => Class::Float,
        Op::Shfl { .. }
        | Op::Vote { .. }
        | Op::Match { .. }
        | Op::Redux { .. }
        | Op::ActiveMask { .. }
        | Op::Bar(_)
        | Op::WarpSync { .. }
        | Op::Fence { .. }
        | Op::Bra { .. }
        | Op::Exit
        | Op::Trap(_)
        | Op::Nop
        | Op::Sleep => Class::Control,
        Op::Hopper(op) => hopper::class(op),
        _ => Class::Integer,
    }
}

/// Whether another warp may run before it.
pub fn yields(op: &Op) -> bool {
    match op {
        Op::Ld { space, .. } | Op::St { space, .. } => {
            !matches!(space, Space::Param | Space::Local)
        }
        Op::Sleep
        | Op::Atom(_)
        | Op::CpAsync { .. }
        | Op::CpWait(_)
        | Op::Ldmatrix { .. }
        | Op::Stmatrix { .. }
        | Op::Wmma(_)
        | Op::Shfl { .. }
        | Op::Vote { .. }
        | Op::Match { .. }
        | Op::Redux { .. }
        | Op::Bar(_)
        | Op::WarpSync { .. }
        | Op::Fence { .. }
        | Op::Hopper(_) => true,
        _ => false,
    }
}
