//! What first contact asks of a device whose kernels may be wrong on the hardware at hand.
//!
//! A device with kernels of its own is [`Checkable`]. Whoever opens it for use sets a [`Guard`] there
//! (`crate::contact` has the only one); whoever is about to run operations tells the device which
//! ([`Device::meet`]), and the device asks its guard. The arrow stays one way: a device knows that
//! somebody may check it, not how.

use super::gpu::MathMode;
use super::{DType, Device, Op, View};
use crate::error::Result;

/// An operation as a program uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Met {
    /// Its name ([`super::Op::name`]).
    pub op: &'static str,
    /// Whether some operand is bf16.
    pub half: bool,
}

impl Met {
    /// The operation of this name on operands of these types.
    pub fn new(op: &'static str, mut operands: impl Iterator<Item = DType>) -> Self {
        Self {
            op,
            half: operands.any(|dtype| dtype == DType::BF16),
        }
    }

    /// A call of `op` on these.
    pub fn of(op: &Op, ins: &[View], outs: &[View]) -> Self {
        Self::new(op.name(), ins.iter().chain(outs).map(|v| v.dtype))
    }
}

/// What a verdict on a device's kernels holds for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The hardware, as people call it.
    pub name: String,
    /// Everything that the verdict depends on: hardware, driver, kernels, version of this crate. A
    /// verdict on another key says nothing.
    pub key: String,
    /// Arithmetic of f32 convolutions.
    pub precision: MathMode,
}

/// A device whose kernels can be checked and replaced.
pub trait Checkable: Send + Sync {
    /// What a verdict holds for; `None` where there is nothing to check.
    fn identity(&self) -> Option<Identity>;

    /// A second device on the same hardware to try kernels on: it works beside this one, shares no
    /// arena with it, plans for a small GPU, so that small shapes reach every kernel and every way of
    /// cutting work up, begins with the same replacements, and notes what it launches.
    fn rehearsal(&self) -> Box<dyn Device>;

    /// From now on runs such operations the next slower way. Says which, or `None` when the slowest is
    /// in use. Workspaces planned before may be too small after.
    ///
    /// # Errors
    /// [`crate::Error::Internal`] after a panic of another thread.
    fn degrade(&self, met: Met) -> Result<Option<&'static str>>;

    /// Kernels that a rehearsal launched since it was last asked; empty elsewhere.
    fn launched(&self) -> Vec<&'static str>;

    /// Whom to ask before operations run that were not met before. The first one stays; `false`
    /// for any other.
    fn set_guard(&self, guard: Box<dyn Guard>) -> bool;
}

/// Asked before operations run on a device for the first time.
pub trait Guard: Send + Sync {
    /// Checks the operations that it has not seen pass, and replaces what fails.
    ///
    /// # Errors
    /// [`crate::Error::Device`] when the device cannot run one of them right.
    fn meet(&self, device: &dyn Checkable, ops: &[Met]) -> Result<()>;
}

/// FNV-1a, 64 bits, of all parts and their lengths: tells builds and files apart, not attackers.
pub fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut hash = 0xCBF2_9CE4_8422_2325u64;
    let mut add = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
    for part in parts {
        part.iter().copied().for_each(&mut add);
        part.len().to_le_bytes().into_iter().for_each(&mut add);
    }
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::digest;

    #[test]
    fn digests_tell_parts_apart() {
        let of = |parts: &[&[u8]]| digest(parts.iter().copied());
        assert_eq!(of(&[b"ab", b"c"]), of(&[b"ab", b"c"]));
        assert_ne!(of(&[b"ab", b"c"]), of(&[b"a", b"bc"]));
        assert_ne!(of(&[b"ab"]), of(&[b"ac"]));
        assert_ne!(of(&[]), of(&[b""]));
    }
}
