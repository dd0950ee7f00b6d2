//! What a launch takes of each resource, and how long that lasts at least.

use std::collections::HashMap;
use std::ops::Range;

use super::chip::Chip;
use super::cost::{self, Pipe, Unit};
use crate::device::gpu::ptx::weigh::{Alike, Weighed};
use crate::ptx::{CLASSES, Class, Counters, Listing};

/// What sets the time of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Resource {
    /// Issue slots of the schedulers.
    Issue,
    /// The busiest of the pipes for integers, floats, doubles and special functions.
    Pipes,
    /// Tensor cores.
    Tensor,
    /// Banks of shared memory.
    Shared,
    /// The L2 cache and a multiprocessor's way to it.
    L2,
    /// Memory.
    Dram,
}

/// How many [`Resource`]s there are.
pub const RESOURCES: usize = 6;

impl Resource {
    /// All of them.
    pub const ALL: [Resource; RESOURCES] = [
        Resource::Issue,
        Resource::Pipes,
        Resource::Tensor,
        Resource::Shared,
        Resource::L2,
        Resource::Dram,
    ];

    /// As tables name it.
    pub fn name(self) -> &'static str {
        match self {
            Resource::Issue => "issue",
            Resource::Pipes => "pipes",
            Resource::Tensor => "tensor",
            Resource::Shared => "shared",
            Resource::L2 => "L2",
            Resource::Dram => "DRAM",
        }
    }
}

/// The main loop of a kernel: the innermost one with the most tensor instructions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loop {
    /// Warp instructions executed in it.
    pub instructions: u64,
    /// Those of the tensor cores among them.
    pub tensor: u64,
}

/// Work of one block, on average over blocks that are alike.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Work {
    slots: f64,
    integer: f64,
    float: f64,
    double: f64,
    special: f64,
    mma: f64,
    wgmma: f64,
    wavefronts: f64,
    /// Bytes from and to the L2 cache: what is copied asynchronously each time, of the rest what is
    /// distinct, for a block finds again in its L1 what it has read.
    l2: f64,
}

/// A launch with everything that its blocks do, whatever the chip.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Kernel.
    pub kernel: &'static str,
    /// Blocks along each axis.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Blocks.
    pub blocks: u64,
    /// Blocks that ran.
    pub ran: u64,
    /// See [`Weighed::exact`].
    pub exact: bool,
    /// Warp instructions by class.
    pub instructions: [u64; CLASSES],
    /// Wavefronts of shared memory.
    pub wavefronts: u64,
    /// The least for the same bytes.
    pub wavefronts_least: u64,
    /// Sectors of global memory.
    pub sectors: u64,
    /// The least for the same bytes.
    pub sectors_least: u64,
    /// Barriers, a warp each.
    pub barriers: u64,
    /// Distinct bytes read.
    pub read_bytes: u64,
    /// Distinct bytes written.
    pub written_bytes: u64,
    /// The main loop, of a kernel that has tensor instructions.
    pub main_loop: Loop,
    pieces: Vec<(u64, Work)>,
}

impl Launch {
    /// Of a weighed launch; `extents` gives the useful bytes of the operand that starts at an address.
    ///
    /// Distinct bytes add up where every block ran. Of a sample they are those of a block times the
    /// blocks, at most the operand: right where blocks share nothing or all of an operand.
    pub fn new(weighed: &Weighed, extents: &HashMap<u64, u64>) -> Launch {
        let listing = &*weighed.listing;
        let costs: Vec<cost::Cost> = listing.opcodes.iter().map(|o| cost::of(o)).collect();
        let mut all = Counters::default();
        let mut launch = Launch {
            kernel: weighed.kernel.name,
            grid: weighed.grid,
            threads: weighed.kernel.threads,
            blocks: 0,
            ran: 0,
            exact: weighed.exact,
            instructions: [0; CLASSES],
            wavefronts: 0,
            wavefronts_least: 0,
            sectors: 0,
            sectors_least: 0,
            barriers: 0,
            read_bytes: 0,
            written_bytes: 0,
            main_loop: Loop::default(),
            pieces: Vec::with_capacity(weighed.blocks.len()),
        };
        for alike in &weighed.blocks {
            launch.blocks += alike.blocks;
            launch.ran += alike.ran;
            add_times(&mut all, &alike.counters, alike.blocks / alike.ran.max(1));
            launch.pieces.push((alike.blocks, work(&costs, alike)));
        }
        launch.instructions = all.instructions;
        launch.wavefronts = all.shared_wavefronts;
        launch.wavefronts_least = all.shared_wavefronts_least;
        launch.sectors = all.global_sectors;
        launch.sectors_least = all.global_sectors_least;
        launch.barriers = all.barriers;
        for region in &all.regions {
            let most = extents.get(&region.start).copied().unwrap_or(u64::MAX);
            launch.read_bytes += region.read_bytes.min(most);
            launch.written_bytes += region.written_bytes.min(most);
        }
        if let Some(range) = main_loop(listing, &all.executed) {
            let part = |i: &usize| all.executed.get(*i).copied().unwrap_or(0);
            let tensor = |i: &usize| listing.classes.get(*i) == Some(&Class::Tensor);
            launch.main_loop = Loop {
                instructions: range.clone().map(|i| part(&i)).sum(),
                tensor: range.filter(tensor).map(|i| part(&i)).sum(),
            };
        }
        launch
    }

    /// Warp instructions.
    pub fn total_instructions(&self) -> u64 {
        self.instructions.iter().sum()
    }

    /// Seconds that each resource alone takes at least on `chip`. Blocks go to the multiprocessor with
    /// the least to do, in their order; of what multiprocessors do themselves that of the busiest counts.
    pub fn times(&self, chip: &Chip) -> [f64; RESOURCES] {
        let mut busiest = [0.0f64; RESOURCES];
        let mut loads = vec![[0.0f64; RESOURCES]; chip.multiprocessors as usize];
        let mut next = Least::new(loads.len());
        for (blocks, work) in &self.pieces {
            let clocks = work.clocks(chip);
            let own = clocks.iter().copied().fold(0.0, f64::max);
            // As many for each first: what is left over goes to the least busy.
            let each = blocks / loads.len() as u64;
            let left = blocks % loads.len() as u64;
            if each > 0 {
                for load in &mut loads {
                    add(load, &clocks, each as f64);
                }
                next.raise(own * each as f64);
            }
            for _ in 0..left {
                add(&mut loads[next.take(own)], &clocks, 1.0);
            }
        }
        for load in &loads {
            for (most, clocks) in busiest.iter_mut().zip(load) {
                *most = most.max(*clocks);
            }
        }
        let mut times = busiest.map(|clocks| clocks / chip.clock);
        let all = self.pieces.iter();
        let bytes: f64 = all.map(|(blocks, work)| *blocks as f64 * work.l2).sum();
        let l2 = &mut times[Resource::L2 as usize];
        *l2 = l2.max(bytes / chip.l2);
        times[Resource::Dram as usize] = (self.read_bytes + self.written_bytes) as f64 / chip.dram;
        times
    }
}

fn add(load: &mut [f64; RESOURCES], clocks: &[f64; RESOURCES], times: f64) {
    for (sum, clocks) in load.iter_mut().zip(clocks) {
        *sum += times * clocks;
    }
}

/// The multiprocessor with the least to do.
struct Least(Vec<f64>);

impl Least {
    fn new(n: usize) -> Self {
        Least(vec![0.0; n])
    }

    fn raise(&mut self, by: f64) {
        self.0.iter_mut().for_each(|busy| *busy += by);
    }

    fn take(&mut self, more: f64) -> usize {
        let least = self.0.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1));
        let at = least.map_or(0, |(i, _)| i);
        self.0[at] += more;
        at
    }
}

fn add_times(sum: &mut Counters, counters: &Counters, times: u64) {
    let mut scaled = counters.clone();
    let all = [
        &mut scaled.blocks,
        &mut scaled.warps,
        &mut scaled.shared_wavefronts,
        &mut scaled.shared_wavefronts_least,
        &mut scaled.global_sectors,
        &mut scaled.global_sectors_least,
        &mut scaled.distinct_read_bytes,
        &mut scaled.distinct_written_bytes,
        &mut scaled.barriers,
    ];
    let lists = scaled.instructions.iter_mut().chain(&mut scaled.executed);
    for n in all.into_iter().chain(lists) {
        *n *= times;
    }
    for region in &mut scaled.regions {
        region.read_bytes *= times;
        region.written_bytes *= times;
    }
    sum.add(&scaled);
}

/// Work of a block out of the executions of each instruction.
fn work(costs: &[cost::Cost], alike: &Alike) -> Work {
    let counters = &alike.counters;
    let asked = 32 * counters.global_sectors;
    let distinct = counters.distinct_read_bytes + counters.distinct_written_bytes;
    let l2 = match counters.of(Class::Async) {
        0 => asked.min(distinct),
        _ => asked,
    };
    let mut work = Work {
        wavefronts: counters.shared_wavefronts as f64,
        l2: l2 as f64,
        ..Work::default()
    };
    for (cost, executed) in costs.iter().zip(&counters.executed) {
        let slots = cost.slots * *executed as f64;
        work.slots += slots;
        match cost.pipe {
            Pipe::Integer => work.integer += slots,
            Pipe::Float => work.float += slots,
            Pipe::Double => work.double += slots,
            Pipe::Special => work.special += *executed as f64,
            Pipe::None => {}
        }
        if let Some(products) = cost.products {
            let halves = products.halves * *executed as f64;
            match products.unit {
                Unit::Mma => work.mma += halves,
                Unit::Wgmma => work.wgmma += halves,
            }
        }
    }
    let ran = alike.ran.max(1) as f64;
    let each = [
        &mut work.slots,
        &mut work.integer,
        &mut work.float,
        &mut work.double,
        &mut work.special,
        &mut work.mma,
        &mut work.wgmma,
        &mut work.wavefronts,
        &mut work.l2,
    ];
    for n in each {
        *n /= ran;
    }
    work
}

impl Work {
    /// Clocks of a multiprocessor.
    fn clocks(&self, chip: &Chip) -> [f64; RESOURCES] {
        let pipe = |warps: f64, lanes: f64| 32.0 * warps / lanes;
        let pipes = [
            pipe(self.integer, chip.integer),
            pipe(self.float, chip.float),
            pipe(self.double, chip.double),
            pipe(self.special, chip.special),
        ];
        let wgmma = match self.wgmma > 0.0 {
            true => self.wgmma / chip.wgmma_half,
            false => 0.0,
        };
        [
            self.slots / chip.issue,
            pipes.into_iter().fold(0.0, f64::max),
            self.mma / chip.mma_half + wgmma,
            self.wavefronts / chip.wavefronts,
            self.l2 / chip.port,
            0.0,
        ]
    }
}

/// The innermost loop with the most executed tensor instructions.
fn main_loop(listing: &Listing, executed: &[u64]) -> Option<Range<usize>> {
    let tensor = |range: &Range<usize>| -> u64 {
        let part = range
            .clone()
            .zip(executed.get(range.clone()).unwrap_or(&[]));
        let mma = part.filter(|(i, _)| listing.classes[*i] == Class::Tensor);
        mma.map(|(_, n)| *n).sum()
    };
    let with = listing.loops.iter().filter(|range| tensor(range) > 0);
    with.max_by_key(|range| (tensor(range), std::cmp::Reverse(range.len())))
        .cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(pieces: Vec<(u64, Work)>) -> Launch {
        Launch {
            kernel: "none",
            grid: [1; 3],
            threads: 128,
            blocks: 0,
            ran: 0,
            exact: true,
            instructions: [0; CLASSES],
            wavefronts: 0,
            wavefronts_least: 0,
            sectors: 0,
            sectors_least: 0,
            barriers: 0,
            read_bytes: 0,
            written_bytes: 0,
            main_loop: Loop::default(),
            pieces,
        }
    }

    /// 265 equal blocks on 132 multiprocessors: one of them has three.
    #[test]
    fn the_busiest_multiprocessor_counts() {
        let chip = Chip::of_arch(crate::ptx::Arch::Sm90a);
        let work = Work {
            mma: 1300.0 * 1000.0,
            slots: 400.0,
            ..Work::default()
        };
        let times = launch(vec![(200, work), (65, work)]).times(chip);
        let clocks = times.map(|t| t * chip.clock);
        assert!(
            (clocks[Resource::Tensor as usize] - 3000.0).abs() < 1e-6,
            "{clocks:?}"
        );
        assert!(
            (clocks[Resource::Issue as usize] - 300.0).abs() < 1e-6,
            "{clocks:?}"
        );
        assert_eq!(clocks[Resource::Shared as usize], 0.0);
    }
}
