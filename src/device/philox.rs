//! Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
//!
//! Counter-based: a number is a pure function of (seed, stream, step, index), so every device,
//! thread count and resumed run sees the same draws.

const M0: u32 = 0xD251_1F53;
const M1: u32 = 0xCD9E_8D57;
const W0: u32 = 0x9E37_79B9;
const W1: u32 = 0xBB67_AE85;

/// The raw block function: ten rounds over `counter` with `key`.
#[inline]
pub fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..10 {
        let p0 = u64::from(M0) * u64::from(counter[0]);
        let p1 = u64::from(M1) * u64::from(counter[2]);
        counter = [
            (p1 >> 32) as u32 ^ counter[1] ^ key[0],
            p1 as u32,
            (p0 >> 32) as u32 ^ counter[3] ^ key[1],
            p0 as u32,
        ];
        key = [key[0].wrapping_add(W0), key[1].wrapping_add(W1)];
    }
    counter
}

/// Counter, key and result: vectors published with the reference implementation (Random123,
/// `kat_vectors`).
pub const KNOWN_ANSWERS: [([u32; 4], [u32; 2], [u32; 4]); 3] = [
    (
        [0; 4],
        [0; 2],
        [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8],
    ),
    (
        [u32::MAX; 4],
        [u32::MAX; 2],
        [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd],
    ),
    (
        [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
        [0xa409_3822, 0x299f_31d0],
        [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
    ),
];

/// The state an operation draws from: `[seed_lo, seed_hi, step, 0]`, a `u32[4]` on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rng {
    seed: [u32; 2],
    step: u32,
    stream: u32,
}

impl Rng {
    /// From the device state and an operation's stream number.
    pub fn new(state: [u32; 4], stream: u32) -> Self {
        Self {
            seed: [state[0], state[1]],
            step: state[2],
            stream,
        }
    }

    /// From plain numbers, for draws on the host.
    pub fn seeded(seed: u64, stream: u32, step: u32) -> Self {
        Self {
            seed: [seed as u32, (seed >> 32) as u32],
            step,
            stream,
        }
    }

    /// Four words for `index`.
    #[inline]
    pub fn block(&self, index: u64) -> [u32; 4] {
        philox4x32(
            [index as u32, (index >> 32) as u32, self.step, self.stream],
            self.seed,
        )
    }

    /// First word for `index` as a float uniform on [0, 1), 24 bits.
    #[inline]
    pub fn uniform(&self, index: u64) -> f32 {
        to_unit(self.block(index)[0])
    }

    /// First word for `index` as an integer uniform on `0..n` (`n > 0`), by multiply-high.
    #[inline]
    pub fn below(&self, index: u64, n: u32) -> u32 {
        to_below(self.block(index)[0], n)
    }
}

/// A word as a float uniform on [0, 1), 24 bits.
#[inline]
pub fn to_unit(word: u32) -> f32 {
    (word >> 8) as f32 * (1.0 / 16_777_216.0)
}

/// A word as an integer uniform on `0..n`, by multiply-high.
#[inline]
pub fn to_below(word: u32, n: u32) -> u32 {
    ((u64::from(word) * u64::from(n)) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        for (counter, key, answer) in KNOWN_ANSWERS {
            assert_eq!(philox4x32(counter, key), answer);
        }
    }

    #[test]
    fn draws_stay_in_range() {
        let rng = Rng::seeded(7, 1, 2);
        for i in 0..1000 {
            let u = rng.uniform(i);
            assert!((0.0..1.0).contains(&u));
            assert!(rng.below(i, 3) < 3);
        }
        assert_eq!(to_below(u32::MAX, 5), 4);
        assert!(to_unit(u32::MAX) < 1.0);
    }
}
