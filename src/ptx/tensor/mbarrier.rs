//! The `mbarrier` object: a phase completes when no arrival and no transaction byte is pending.
//!
//! The 64 bits in shared memory are opaque to programs; these are the machine's own. The state is
//! handed over by value, so that each operation is one word read and written.

/// Largest number of arrivals, and of transaction bytes either way.
pub const LIMIT: u32 = (1 << 20) - 1;

const MAGIC: u64 = 0b11;

/// A barrier's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mbarrier {
    /// Arrivals that the next phase will wait for.
    pub expected: u32,
    /// Arrivals that this phase still waits for.
    pub pending: u32,
    /// Bytes that this phase still waits for; negative where they came before they were expected.
    pub tx: i32,
    /// Parity of the current, incomplete phase.
    pub parity: bool,
}

/// What a program did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MbarrierError {
    /// The word holds no barrier.
    #[error("no mbarrier here: not initialised, invalidated or overwritten")]
    NotABarrier,
    /// `init` with a count out of range.
    #[error("mbarrier.init with a count of {0}, not within 1 to {LIMIT}")]
    Count(u32),
    /// More arrivals than the phase waits for.
    #[error("{arrivals} more arrivals where this phase of the mbarrier waits for {pending}")]
    TooManyArrivals {
        /// What arrived.
        arrivals: u32,
        /// What the phase still waited for.
        pending: u32,
    },
    /// `arrive.noComplete` that completes the phase.
    #[error("arrive.noComplete completes the phase of the mbarrier")]
    Completes,
    /// More bytes than expected, and nobody left to expect them.
    #[error("{0} bytes more came than this phase of the mbarrier expects: wrong transaction count")]
    TooManyBytes(i32),
    /// The transaction count leaves its range.
    #[error("the transaction count of the mbarrier leaves its range (2^20 - 1 bytes)")]
    TxRange,
}

impl Mbarrier {
    /// `mbarrier.init` with so many arrivals a phase.
    pub fn init(count: u32) -> Result<Self, MbarrierError> {
        if !(1..=LIMIT).contains(&count) {
            return Err(MbarrierError::Count(count));
        }
        Ok(Self {
            expected: count,
            pending: count,
            tx: 0,
            parity: false,
        })
    }

    /// The word in shared memory.
    pub fn to_bits(self) -> u64 {
        u64::from(self.expected)
            | u64::from(self.pending) << 20
            | ((self.tx as u32 & 0x1F_FFFF) as u64) << 40
            | u64::from(self.parity) << 61
            | MAGIC << 62
    }

    /// Decodes the word in shared memory.
    pub fn from_bits(bits: u64) -> Result<Self, MbarrierError> {
        if bits >> 62 != MAGIC {
            return Err(MbarrierError::NotABarrier);
        }
        // 21 bits with a sign.
        let tx = ((bits >> 40 & 0x1F_FFFF) as i32) << 11 >> 11;
        Ok(Self {
            expected: (bits & 0xF_FFFF) as u32,
            pending: (bits >> 20 & 0xF_FFFF) as u32,
            tx,
            parity: bits >> 61 & 1 != 0,
        })
    }

    /// `mbarrier.expect_tx`: this phase waits for so many bytes more.
    pub fn expect_tx(&mut self, bytes: u32) -> Result<(), MbarrierError> {
        self.tx = self
            .tx
            .checked_add_unsigned(bytes)
            .filter(|&tx| tx <= LIMIT as i32)
            .ok_or(MbarrierError::TxRange)?;
        Ok(())
    }

    /// `mbarrier.complete_tx`: so many bytes have come. True if that completed the phase.
    pub fn complete_tx(&mut self, bytes: u32) -> Result<bool, MbarrierError> {
        self.tx = self
            .tx
            .checked_sub_unsigned(bytes)
            .filter(|&tx| tx >= -(LIMIT as i32))
            .ok_or(MbarrierError::TxRange)?;
        self.settle()
    }

    /// `mbarrier.arrive`. True if that completed the phase. The token to wait with is
    /// [`Mbarrier::token`] of the state before.
    pub fn arrive(&mut self, count: u32) -> Result<bool, MbarrierError> {
        if count > self.pending {
            return Err(MbarrierError::TooManyArrivals {
                arrivals: count,
                pending: self.pending,
            });
        }
        self.pending -= count;
        self.settle()
    }

    /// `mbarrier.arrive.noComplete`: an error if it completes the phase.
    pub fn arrive_no_complete(&mut self, count: u32) -> Result<(), MbarrierError> {
        if self.arrive(count)? {
            Err(MbarrierError::Completes)
        } else {
            Ok(())
        }
    }

    /// `mbarrier.arrive_drop`: arrives, and is expected in no later phase.
    pub fn arrive_drop(&mut self, count: u32) -> Result<bool, MbarrierError> {
        if count > self.pending {
            return Err(MbarrierError::TooManyArrivals {
                arrivals: count,
                pending: self.pending,
            });
        }
        self.expected -= count;
        self.arrive(count)
    }

    /// The opaque word that `arrive` gives: it names the current phase.
    pub fn token(self) -> u64 {
        self.to_bits()
    }

    /// `test_wait` with a token: is the phase that it names complete? (It is the current or the one
    /// before, so a parity tells.)
    pub fn is_complete(self, token: u64) -> Result<bool, MbarrierError> {
        Ok(Self::from_bits(token)?.parity != self.parity)
    }

    /// `test_wait.parity`: is the phase of this parity complete?
    pub fn is_complete_parity(self, parity: bool) -> bool {
        parity != self.parity
    }

    /// `mbarrier.pending_count` of a token.
    pub fn pending_count(token: u64) -> Result<u32, MbarrierError> {
        Ok(Self::from_bits(token)?.pending)
    }

    fn settle(&mut self) -> Result<bool, MbarrierError> {
        if self.pending > 0 || self.tx > 0 {
            return Ok(false);
        }
        if self.tx < 0 {
            return Err(MbarrierError::TooManyBytes(-self.tx));
        }
        self.pending = self.expected;
        self.parity = !self.parity;
        Ok(true)
    }
}

impl std::fmt::Display for Mbarrier {
    /// "waits for 1 arrival and 512 bytes (phase of parity 0)": for reports of what never completes.
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        let s = if self.pending == 1 { "" } else { "s" };
        write!(
            f,
            "waits for {} arrival{s} and {} bytes (phase of parity {})",
            self.pending,
            self.tx,
            u8::from(self.parity)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_decode_to_the_same_state() {
        for tx in [0, 1, -1, LIMIT as i32, -(LIMIT as i32)] {
            for parity in [false, true] {
                let barrier = Mbarrier {
                    expected: LIMIT,
                    pending: 3,
                    tx,
                    parity,
                };
                assert_eq!(Mbarrier::from_bits(barrier.to_bits()), Ok(barrier));
            }
        }
        assert_eq!(Mbarrier::from_bits(0), Err(MbarrierError::NotABarrier));
    }

    #[test]
    fn a_phase_of_arrivals() {
        let mut b = Mbarrier::init(2).unwrap();
        let token = b.token();
        assert_eq!(b.arrive(1), Ok(false));
        assert_eq!(b.is_complete(token), Ok(false));
        assert!(!b.is_complete_parity(false));
        assert!(
            b.is_complete_parity(true),
            "the phase before the first counts as complete"
        );
        assert_eq!(b.arrive(1), Ok(true));
        assert_eq!(b.is_complete(token), Ok(true));
        assert!(b.is_complete_parity(false));
        assert_eq!(
            b,
            Mbarrier {
                expected: 2,
                pending: 2,
                tx: 0,
                parity: true
            }
        );
    }

    #[test]
    fn a_phase_of_bytes() {
        let mut b = Mbarrier::init(1).unwrap();
        b.expect_tx(4096).unwrap();
        assert_eq!(b.arrive(1), Ok(false));
        assert_eq!(b.complete_tx(2048), Ok(false));
        assert_eq!(b.complete_tx(2048), Ok(true));
        // Bytes may come before they are expected, while an arrival is pending.
        assert_eq!(b.complete_tx(512), Ok(false));
        b.expect_tx(512).unwrap();
        assert_eq!(b.arrive(1), Ok(true));
        assert!(!b.parity);
    }

    #[test]
    fn dropping_out() {
        let mut b = Mbarrier::init(3).unwrap();
        assert_eq!(b.arrive_drop(1), Ok(false));
        assert_eq!(b.arrive(2), Ok(true));
        assert_eq!((b.expected, b.pending), (2, 2));
        assert_eq!(Mbarrier::pending_count(b.token()), Ok(2));
    }

    #[test]
    fn misuse() {
        assert_eq!(Mbarrier::init(0), Err(MbarrierError::Count(0)));
        assert_eq!(Mbarrier::init(1 << 20), Err(MbarrierError::Count(1 << 20)));
        let mut b = Mbarrier::init(1).unwrap();
        assert_eq!(
            b.arrive(2),
            Err(MbarrierError::TooManyArrivals {
                arrivals: 2,
                pending: 1
            })
        );
        assert_eq!(b.arrive_no_complete(1), Err(MbarrierError::Completes));
        let mut b = Mbarrier::init(1).unwrap();
        b.expect_tx(100).unwrap();
        b.arrive(1).unwrap();
        assert_eq!(b.complete_tx(128), Err(MbarrierError::TooManyBytes(28)));
        let mut b = Mbarrier::init(1).unwrap();
        b.expect_tx(LIMIT).unwrap();
        assert_eq!(b.expect_tx(1), Err(MbarrierError::TxRange));
        let mut b = Mbarrier::init(1).unwrap();
        b.complete_tx(LIMIT).unwrap();
        assert_eq!(b.complete_tx(1), Err(MbarrierError::TxRange));
    }

    #[test]
    fn the_state_reads_as_a_sentence() {
        let mut b = Mbarrier::init(1).unwrap();
        b.expect_tx(512).unwrap();
        assert_eq!(
            b.to_string(),
            "waits for 1 arrival and 512 bytes (phase of parity 0)"
        );
    }
}
