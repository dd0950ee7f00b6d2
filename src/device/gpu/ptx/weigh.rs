//! Launches that are weighed, not computed: a sample of their blocks runs, and every block counts.
//!
//! A grid is cut into units, blocks that must run together because the last of them finishes what the
//! others began (the parts of a convolution's cut tile, the blocks along x of a short row). Of a range
//! of like units a few run; where two neighbours of the sample differ, those between are looked at until
//! the place is found. A unit that did not run counts as the nearer one of the sample that did. Counts
//! of whole numbers of blocks, so sums are exact wherever the units between two of the sample are like
//! them ([`Weighed::exact`]). What the kernels compute is not right, and nobody reads it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use crate::device::gpu::kernels::{ConvArgs, KernelInfo};
use crate::error::{Error, Result};
use crate::ptx::{Counters, Listing};

/// Blocks up to which every block of a launch runs.
const FEW: u64 = 8;
/// Blocks along x up to which those of one row of the grid run together.
const SHORT_ROW: u64 = 64;
/// Kernels whose last block along x finishes what the row began (`arrives_last` of common.cuh): a row of
/// theirs runs whole, however long.
const FINISHES_ROWS: [&str; 1] = ["batch_norm_merge"];
/// Most units of a range that run.
const MOST_UNITS: usize = 24;
/// Two units differ by more than one part in so many instructions: what lies between is looked at.
const ALIKE: u64 = 50;

/// Blocks of a launch that are alike.
#[derive(Clone, Debug)]
pub struct Alike {
    /// How many there are.
    pub blocks: u64,
    /// How many of them ran.
    pub ran: u64,
    /// What those that ran cost together.
    pub counters: Counters,
}

/// A launch, weighed.
#[derive(Clone, Debug)]
pub struct Weighed {
    /// Kernel.
    pub kernel: KernelInfo,
    /// Its instructions.
    pub listing: Arc<Listing>,
    /// Blocks along each axis.
    pub grid: [u32; 3],
    /// Dynamic shared memory of a block, bytes.
    pub shared_bytes: u32,
    /// All blocks, in the order of the grid.
    pub blocks: Vec<Alike>,
    /// Between any two units that ran are only such as execute what both of them executed, as far as
    /// the sample tells.
    pub exact: bool,
}

/// The launches of a driver since somebody asked.
#[derive(Debug, Default)]
pub struct Log {
    whole: AtomicBool,
    launches: Mutex<Vec<Weighed>>,
}

impl Log {
    /// From now on every block of a launch runs, or a sample: operations whose work is in their data
    /// need what the kernel before wrote.
    pub fn run_whole(&self, whole: bool) {
        self.whole.store(whole, Ordering::Relaxed);
    }

    /// The launches since the last call.
    ///
    /// # Errors
    /// [`Error::Internal`] after a panic of another thread.
    pub fn take(&self) -> Result<Vec<Weighed>> {
        let launches = self.launches.lock();
        let mut launches = launches.map_err(|_| Error::internal("poisoned log of launches"))?;
        Ok(std::mem::take(&mut *launches))
    }

    /// Weighs a launch; `run` executes the blocks from a number on and tells what they cost.
    pub(super) fn weigh(
        &self,
        kernel: &KernelInfo,
        listing: &Arc<Listing>,
        grid: [u32; 3],
        shared_bytes: u32,
        args: &[u8],
        run: &mut dyn FnMut(u64, u64) -> Result<Counters>,
    ) -> Result<()> {
        let all: u64 = grid.iter().map(|n| u64::from(*n)).product();
        let mut weighed = Weighed {
            kernel: *kernel,
            listing: listing.clone(),
            grid,
            shared_bytes,
            blocks: Vec::new(),
            exact: true,
        };
        if all <= FEW || self.whole.load(Ordering::Relaxed) {
            weighed.blocks.push(Alike {
                blocks: all,
                ran: all,
                counters: run(0, all)?,
            });
        } else {
            for range in ranges(kernel, grid, args) {
                let exact = range.sample(&mut weighed.blocks, run)?;
                weighed.exact &= exact;
            }
        }
        let launches = self.launches.lock();
        let mut launches = launches.map_err(|_| Error::internal("poisoned log of launches"))?;
        launches.push(weighed);
        Ok(())
    }
}

/// Like units of a grid, one after the other.
struct Range {
    /// First block.
    first: u64,
    units: u64,
    /// Blocks of a unit.
    size: u64,
    /// How often the grid has such a range.
    times: u64,
}

/// A grid in ranges.
fn ranges(kernel: &KernelInfo, grid: [u32; 3], args: &[u8]) -> Vec<Range> {
    let [x, y, z] = grid.map(u64::from);
    let range = |first, units, size, times| Range {
        first,
        units,
        size,
        times,
    };
    let passes = [
        "conv_forward_",
        "conv_norm_",
        "conv_moments_",
        "conv_dgrad_",
    ];
    if passes.iter().any(|pass| kernel.name.starts_with(pass))
        && let Ok(conv) = bytemuck::try_pod_read_unaligned::<ConvArgs>(args)
    {
        let (whole, parts) = (
            u64::from(conv.schedule.whole),
            u64::from(conv.schedule.parts),
        );
        return vec![
            range(0, whole, 1, 1),
            range(whole, (x - whole) / parts.max(1), parts, 1),
        ];
    }
    let rows = y * z;
    if FINISHES_ROWS.contains(&kernel.name) {
        return vec![range(0, rows, x, 1)];
    }
    match rows {
        1 => vec![range(0, x, 1, 1)],
        _ if x <= SHORT_ROW => vec![range(0, rows, x, 1)],
        _ => vec![
            range(0, x, 1, 1),
            range(rows / 2 * x, x, 1, rows - 2),
            range((rows - 1) * x, x, 1, 1),
        ],
    }
}

impl Range {
    /// Runs some of its units; says whether those between are known to be like them.
    fn sample(
        &self,
        into: &mut Vec<Alike>,
        run: &mut dyn FnMut(u64, u64) -> Result<Counters>,
    ) -> Result<bool> {
        if self.units == 0 || self.times == 0 {
            return Ok(true);
        }
        let last = self.units - 1;
        let mut found: BTreeMap<u64, Counters> = BTreeMap::new();
        let mut look = |unit: u64, found: &mut BTreeMap<u64, Counters>| -> Result<()> {
            if let std::collections::btree_map::Entry::Vacant(e) = found.entry(unit) {
                e.insert(run(self.first + unit * self.size, self.size)?);
            }
            Ok(())
        };
        for unit in [0, last / 3, last - last / 3, last] {
            look(unit, &mut found)?;
        }
        while found.len() < MOST_UNITS {
            let pairs = found.iter().zip(found.iter().skip(1));
            let between = pairs
                .filter(|((a, _), (b, _))| *b - *a > 1)
                .find(|((_, a), (_, b))| differ(a, b))
                .map(|((a, _), (b, _))| a + (b - a) / 2);
            let Some(unit) = between else { break };
            look(unit, &mut found)?;
        }
        let mut pairs = found.iter().zip(found.iter().skip(1));
        let exact = pairs
            .all(|((a, first), (b, second))| *b - *a == 1 || first.executed == second.executed);
        let units: Vec<u64> = found.keys().copied().collect();
        for (i, (unit, counters)) in found.into_iter().enumerate() {
            // The gap before it is shared with its neighbour, as is the one behind it.
            let before = i.checked_sub(1).map_or(0, |j| (unit - units[j] - 1) / 2);
            let behind = units
                .get(i + 1)
                .map_or(0, |next| (next - unit - 1).div_ceil(2));
            into.push(Alike {
                blocks: self.times * (1 + before + behind) * self.size,
                ran: self.size,
                counters,
            });
        }
        Ok(exact)
    }
}

fn differ(a: &Counters, b: &Counters) -> bool {
    a.total().abs_diff(b.total()) > a.total().max(b.total()) / ALIKE
}

/// The blocks from `first` on of a grid.
pub(super) fn blocks(grid: [u32; 3], first: u64, count: u64) -> Vec<[u32; 3]> {
    let [x, y, _] = grid.map(u64::from);
    let at = |i: u64| [i % x, i / x % y, i / x / y].map(|n| n as u32);
    (first..first + count).map(at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three kinds of blocks in a row: where one kind ends is found, so that sums are exact.
    #[test]
    fn what_did_not_run_counts_as_its_neighbours() {
        let cost = |block: u64| match block {
            0..700 => 1000,
            700..999 => 400,
            _ => 100,
        };
        let mut ran = 0;
        let mut run = |first: u64, count: u64| {
            ran += count;
            let mut counters = Counters::default();
            counters.instructions[0] = (first..first + count).map(cost).sum();
            counters.executed = vec![counters.instructions[0]];
            Ok(counters)
        };
        let range = Range {
            first: 0,
            units: 1000,
            size: 1,
            times: 1,
        };
        let mut found = Vec::new();
        assert!(range.sample(&mut found, &mut run).expect("counts"));
        let sum = |of: &dyn Fn(&Alike) -> u64| found.iter().map(of).sum::<u64>();
        assert_eq!(sum(&|a| a.blocks), 1000);
        let instructions = sum(&|a| a.counters.total() * (a.blocks / a.ran));
        assert_eq!(instructions, (0..1000).map(cost).sum::<u64>());
        assert!(ran <= MOST_UNITS as u64, "{ran} blocks ran");
    }

    /// Blocks that finish one another's work run together: a row of a norm, however long.
    #[test]
    fn rows_of_a_norm_run_whole() {
        let kernel = |name| KernelInfo {
            name,
            threads: 256,
            args_bytes: 0,
            unit: "norm",
        };
        let units = |name, grid| -> Vec<(u64, u64, u64)> {
            let ranges = ranges(&kernel(name), grid, &[]);
            ranges.iter().map(|r| (r.units, r.size, r.times)).collect()
        };
        assert_eq!(units("batch_norm_merge", [129, 2, 1]), [(2, 129, 1)]);
        assert_eq!(units("copy_4", [64, 9, 1]), [(9, 64, 1)]);
        assert_eq!(
            units("copy_4", [65, 9, 1]),
            [(65, 1, 1), (65, 1, 7), (65, 1, 1)]
        );
    }
}
