//! Which warp runs next, and in which order blocks do: a function of the seed alone.

use super::options::Schedule;

/// One in so many yields changes a priority.
const CHANGE: u64 = 128;

/// SplitMix64.
#[derive(Clone, Copy)]
pub struct Random(u64);

impl Random {
    /// A stream of its own for each pair.
    pub fn new(seed: u64, stream: u64) -> Random {
        let mut random = Random(seed ^ stream.wrapping_mul(0xD1B5_4A32_D192_ED03));
        random.next();
        random
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(bound)) >> 64) as u64
    }
}

/// Chooses among the warps of a block.
pub struct Chooser {
    schedule: Schedule,
    random: Random,
    priorities: [u64; 32],
    lowest: u64,
    warps: u32,
}

impl Chooser {
    /// For blocks of so many warps.
    pub fn new(schedule: Schedule, warps: u32) -> Chooser {
        Chooser {
            // One warp alone has nobody to choose from.
            schedule: if warps == 1 {
                Schedule::Sequential
            } else {
                schedule
            },
            random: Random::new(0, 0),
            priorities: [0; 32],
            lowest: 0,
            warps,
        }
    }

    /// For a block of a run with this seed.
    pub fn reset(&mut self, seed: u64, block: u32) {
        self.random = Random::new(seed, u64::from(block) + 1);
        self.lowest = 1 << 32;
        for priority in &mut self.priorities[..self.warps as usize] {
            *priority = self.lowest + (self.random.next() >> 31);
        }
    }

    /// A warp runs until it waits, whatever it does.
    pub fn runs_on(&self) -> bool {
        self.schedule == Schedule::Sequential
    }

    /// One of the ready warps, of which there is at least one.
    pub fn choose(&mut self, ready: u32) -> u32 {
        match self.schedule {
            Schedule::Sequential => ready.trailing_zeros(),
            Schedule::Uniform => {
                let mut skip = self.random.below(u64::from(ready.count_ones()));
                let mut left = ready;
                while skip > 0 {
                    left &= left - 1;
                    skip -= 1;
                }
                left.trailing_zeros()
            }
            Schedule::Pct => {
                let mut best = ready.trailing_zeros();
                for warp in 0..self.warps {
                    let better = self.priorities[warp as usize] > self.priorities[best as usize];
                    if ready >> warp & 1 != 0 && better {
                        best = warp;
                    }
                }
                if self.random.below(CHANGE) == 0 {
                    self.lowest -= 1;
                    self.priorities[best as usize] = self.lowest;
                }
                best
            }
        }
    }
}

/// The order in which blocks start.
pub fn order(blocks: &mut [u32], schedule: Schedule, seed: u64) {
    if schedule == Schedule::Sequential {
        return;
    }
    let mut random = Random::new(seed, 0);
    for i in (1..blocks.len()).rev() {
        blocks.swap(i, random.below(i as u64 + 1) as usize);
    }
}
