//! How a machine runs.

use std::fmt;

use super::tensor::Accumulation as MmaModel;

/// The chip that the machine plays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Arch {
    /// A100.
    Sm80,
    /// H100 and H200, without what only `sm_90a` has.
    Sm90,
    /// H100 and H200 with wgmma and setmaxnreg.
    Sm90a,
}

impl Arch {
    /// `sm_80`, `sm_90` or `sm_90a`.
    pub fn from_name(name: &str) -> Option<Arch> {
        match name {
            "sm_80" => Some(Arch::Sm80),
            "sm_90" => Some(Arch::Sm90),
            "sm_90a" => Some(Arch::Sm90a),
            _ => None,
        }
    }

    /// The least chip here that runs code of this target, which may be an older one, or one between.
    pub fn of_target(name: &str) -> Option<Arch> {
        let number = name.strip_prefix("sm_")?;
        match number.parse::<u32>() {
            Ok(50..=80) => Some(Arch::Sm80),
            Ok(81..=90) => Some(Arch::Sm90),
            _ => Arch::from_name(name),
        }
    }

    /// As PTX writes it.
    pub fn name(self) -> &'static str {
        match self {
            Arch::Sm80 => "sm_80",
            Arch::Sm90 => "sm_90",
            Arch::Sm90a => "sm_90a",
        }
    }

    /// Most shared memory of one block, in bytes (CUDA C programming guide, compute capabilities).
    pub fn shared_bytes(self) -> u32 {
        match self {
            Arch::Sm80 => 163 * 1024,
            Arch::Sm90 | Arch::Sm90a => 227 * 1024,
        }
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Order in which the warps of a block run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// Warp after warp, as far as each can go; blocks in order.
    Sequential,
    /// Any ready warp at each memory or collective instruction; blocks permuted.
    Uniform,
    /// Random priorities per warp with rare changes (PCT, Burckhardt et al. 2010); blocks permuted.
    Pct,
}

impl Schedule {
    /// `sequential`, `uniform` or `pct`.
    pub fn from_name(name: &str) -> Option<Schedule> {
        match name {
            "sequential" => Some(Schedule::Sequential),
            "uniform" => Some(Schedule::Uniform),
            "pct" => Some(Schedule::Pct),
            _ => None,
        }
    }
}

/// Which of the costlier checks run. Bounds, alignment, barriers and masks are always checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checks {
    /// Reads of global bytes that nobody wrote.
    pub global_uninitialised: bool,
    /// Data races between blocks of a launch, in global memory.
    pub global_races: bool,
    /// Data races within a block in shared memory, reads of what nobody wrote or what is in flight.
    pub shared: bool,
    /// `bar.sync 0` reached by threads on different source lines.
    pub barrier_lines: bool,
}

impl Checks {
    /// Everything.
    pub const ALL: Checks = Checks {
        global_uninitialised: true,
        global_races: true,
        shared: true,
        barrier_lines: true,
    };
    /// Only what is always checked.
    pub const NONE: Checks = Checks {
        global_uninitialised: false,
        global_races: false,
        shared: false,
        barrier_lines: false,
    };
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Counting {
    /// Blocks, warps and instructions by class.
    Instructions,
    /// Also wavefronts, sectors, distinct bytes, executions of each instruction.
    Full,
}

/// How a [`super::Machine`] runs.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The chip.
    pub arch: Arch,
    /// Order of warps.
    pub schedule: Schedule,
    /// Seed of the schedule: with the same seed the same order, whatever `threads` is.
    pub seed: u64,
    /// Host threads that blocks are spread over; 0 = every core.
    pub threads: usize,
    /// How tensor cores add.
    pub mma: MmaModel,
    /// Whether tensor cores multiply. Without, their accumulators stay what they are: what is counted
    /// is the same, in a fifth of the time.
    pub products: bool,
    /// Which costly checks run.
    pub checks: Checks,
    /// What is counted.
    pub counting: Counting,
    /// Most warp instructions of one block: the bound against endless loops.
    pub max_instructions: u64,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            arch: Arch::Sm90a,
            schedule: Schedule::Sequential,
            seed: 0,
            threads: 0,
            mma: MmaModel::Ieee,
            products: true,
            checks: Checks::ALL,
            counting: Counting::Instructions,
            max_instructions: 1 << 32,
        }
    }
}
