//! What a launch cost, in units that do not depend on a clock.

/// Kinds of warp instructions, as an SM's pipes divide them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Class {
    /// mma, wgmma.
    Tensor,
    /// Loads, stores and atomics in shared memory, ldmatrix.
    Shared,
    /// Loads, stores and atomics in global memory.
    Global,
    /// cp.async, bulk and tensor copies, their groups.
    Async,
    /// 32-bit and 64-bit integers, addresses, predicates, moves.
    Integer,
    /// Arithmetic and conversions of floats.
    Float,
    /// Branches, barriers, shuffles, votes, fences.
    Control,
}

/// How many [`Class`]es there are.
pub const CLASSES: usize = 7;

impl Class {
    /// Every class, in the order of [`Counters::instructions`].
    pub const ALL: [Class; CLASSES] = [
        Class::Tensor,
        Class::Shared,
        Class::Global,
        Class::Async,
        Class::Integer,
        Class::Float,
        Class::Control,
    ];
}

/// What a launch touched of an allocation, in sectors of 32 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Where the allocation starts.
    pub start: u64,
    /// Distinct bytes read.
    pub read_bytes: u64,
    /// Distinct bytes written.
    pub written_bytes: u64,
}

/// Counters of a launch, exact for the blocks that ran.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Blocks that ran.
    pub blocks: u64,
    /// Warps that ran.
    pub warps: u64,
    /// Warp instructions by [`Class`].
    pub instructions: [u64; CLASSES],
    /// Shared-memory wavefronts: times that the banks were occupied.
    pub shared_wavefronts: u64,
    /// The least wavefronts that would move the same distinct bytes, instruction by instruction.
    pub shared_wavefronts_least: u64,
    /// 32-byte sectors of global memory that instructions asked for.
    pub global_sectors: u64,
    /// The least sectors for the bytes asked for, instruction by instruction.
    pub global_sectors_least: u64,
    /// Distinct bytes of global memory read, in sectors of 32 bytes. Only with [`super::Counting::Full`].
    pub distinct_read_bytes: u64,
    /// Distinct bytes of global memory written, in sectors of 32 bytes. Only with [`super::Counting::Full`].
    pub distinct_written_bytes: u64,
    /// The same by allocation. Only with [`super::Counting::Full`].
    pub regions: Vec<Region>,
    /// Block barriers, one per warp that arrives.
    pub barriers: u64,
    /// Executions of each instruction of the entry, in the order of the text. Empty unless
    /// [`super::Counting::Full`]. [`super::Entry::lines`] gives the PTX lines.
    pub executed: Vec<u64>,
}

impl Counters {
    /// All warp instructions.
    pub fn total(&self) -> u64 {
        self.instructions.iter().sum()
    }

    /// Instructions of a class.
    pub fn of(&self, class: Class) -> u64 {
        self.instructions[class as usize]
    }

    /// Adds another launch's, or another block's.
    pub fn add(&mut self, other: &Counters) {
        self.blocks += other.blocks;
        self.warps += other.warps;
        for (mine, theirs) in self.instructions.iter_mut().zip(other.instructions) {
            *mine += theirs;
        }
        self.shared_wavefronts += other.shared_wavefronts;
        self.shared_wavefronts_least += other.shared_wavefronts_least;
        self.global_sectors += other.global_sectors;
        self.global_sectors_least += other.global_sectors_least;
        self.distinct_read_bytes += other.distinct_read_bytes;
        self.distinct_written_bytes += other.distinct_written_bytes;
        for region in &other.regions {
            match self.regions.iter_mut().find(|r| r.start == region.start) {
                Some(mine) => {
                    mine.read_bytes += region.read_bytes;
                    mine.written_bytes += region.written_bytes;
                }
                None => self.regions.push(*region),
            }
        }
        self.barriers += other.barriers;
        if self.executed.len() < other.executed.len() {
            self.executed.resize(other.executed.len(), 0);
        }
        for (mine, theirs) in self.executed.iter_mut().zip(&other.executed) {
            *mine += theirs;
        }
    }
}
