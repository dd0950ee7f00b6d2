//! Strided maps as the memory-bound kernels see them (`kernels/include/planes.cuh`): planes, how
//! many elements a thread may move at once, and the grids that follow.

use super::Launcher;
use super::driver::{Limits, Ptr};
use super::kernels::Plane;
use crate::device::View;
use crate::error::Result;

/// Threads of every block of these kernels.
pub(super) const THREADS: usize = 256;
/// Threads along the channels at most: a warp.
const MAX_LANES: usize = 32;
/// Blocks a multiprocessor, at most: twice what is resident.
const BLOCKS: usize = 16;

/// A view's memory.
pub(super) fn plane(cx: &Launcher, view: &View) -> Result<Plane> {
    Ok(Plane {
        data: cx.device.address(view)?,
        ld: view.ld as u64,
    })
}

/// An operand that the call may lack.
pub(super) fn optional(cx: &Launcher, view: Option<&View>) -> Result<Plane> {
    match view {
        Some(view) => plane(cx, view),
        None => Ok(Plane {
            data: Ptr::NULL,
            ld: 0,
        }),
    }
}

/// Fails unless all maps have the first one's shape.
pub(super) fn same_shape(cx: &Launcher, maps: &[&View]) -> Result<()> {
    match maps.iter().find(|m| m.shape != maps[0].shape) {
        None => Ok(()),
        Some(m) => Err(cx.wrong(&format!("{m:?} beside a map of {:?}", maps[0].shape))),
    }
}

/// Fails unless all maps have the first one's type.
pub(super) fn same_dtype(cx: &Launcher, maps: &[&View]) -> Result<()> {
    match maps.iter().find(|m| m.dtype != maps[0].dtype) {
        None => Ok(()),
        Some(m) => Err(cx.wrong(&format!("{m:?} beside a map of {:?}", maps[0].dtype))),
    }
}

/// Whether two views name the same memory (in-place use).
pub(super) fn same_memory(a: &View, b: &View) -> bool {
    a.arena == b.arena && a.offset == b.offset
}

/// Fails when output `out` both takes the place of input `input` and is added to.
pub(super) fn refuse_accumulate(cx: &Launcher, out: usize, input: usize) -> Result<()> {
    let in_place = match (cx.call.outs.get(out), cx.call.ins.get(input)) {
        (Some(o), Some(i)) => same_memory(o, i),
        _ => false,
    };
    if in_place && cx.call.accumulates(out) {
        return Err(cx.wrong(&format!("output {out} accumulates in place")));
    }
    Ok(())
}

/// Elements of a 16-byte vector of a view's type.
pub(super) fn lanes(view: &View) -> usize {
    16 / view.dtype.bytes()
}

/// Whether every pixel of a view starts at a multiple of `width` elements. Arenas are aligned to
/// 256 bytes, so offsets say it.
fn aligned(view: &View, width: usize) -> bool {
    view.offset.is_multiple_of(width * view.dtype.bytes())
        && (view.ld.is_multiple_of(width) || view.pixels() == 1)
}

/// Whether whole vectors of `width` channels cover each of these maps.
pub(super) fn vectorised(maps: &[&View], width: usize) -> bool {
    maps.iter()
        .all(|m| aligned(m, width) && m.channels().is_multiple_of(width))
}

/// How maps of one shape are walked run by run: `rows` of `len` elements.
pub(super) struct Runs {
    pub(super) rows: u64,
    pub(super) len: u64,
    pub(super) vector: u32,
    /// Threads' worth of work.
    pub(super) items: usize,
}

/// Runs of `width` elements; maps without gaps are one long row.
pub(super) fn runs(maps: &[&View], width: usize) -> Runs {
    let first = maps[0];
    let one_row = maps.iter().all(|m| m.is_dense() || m.pixels() == 1);
    let (rows, len) = match one_row {
        true => (1, first.elements()),
        false => (first.pixels(), first.channels()),
    };
    let vector = maps.iter().all(|m| {
        m.offset.is_multiple_of(width * m.dtype.bytes()) && (one_row || m.ld.is_multiple_of(width))
    });
    Runs {
        rows: rows as u64,
        len: len as u64,
        vector: u32::from(vector),
        items: rows * len.div_ceil(if vector { width } else { 1 }),
    }
}

/// How the threads of a block share the channels of a map, each keeping its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stand {
    /// Whether a thread takes a 16-byte vector of channels, else one.
    pub(super) vector: bool,
    /// Threads along the channels.
    pub(super) lanes_log2: u32,
    /// Pixels that a block covers at once.
    pub(super) step: usize,
    /// Blocks that cover the channels.
    pub(super) channel_blocks: usize,
}

impl Stand {
    /// For maps of one shape and type; at most `max_lanes` threads along the channels.
    pub(super) fn with_lanes(maps: &[&View], max_lanes: usize) -> Self {
        let vector = vectorised(maps, lanes(maps[0]));
        Self::of(maps[0], vector, max_lanes)
    }

    /// What `new` gives where memory is aligned: a function of shape and type.
    pub(super) fn of_shape(map: &View) -> Self {
        let vector = map.channels().is_multiple_of(lanes(map));
        Self::of(map, vector, MAX_LANES)
    }

    fn of(map: &View, vector: bool, max_lanes: usize) -> Self {
        let groups = map.channels() / if vector { lanes(map) } else { 1 };
        let lanes = groups.clamp(1, max_lanes).next_power_of_two();
        Self {
            vector,
            lanes_log2: lanes.trailing_zeros(),
            step: THREADS / lanes,
            channel_blocks: groups.div_ceil(lanes),
        }
    }

    /// With up to a warp along the channels.
    pub(super) fn new(maps: &[&View]) -> Self {
        Self::with_lanes(maps, MAX_LANES)
    }

    /// Blocks along the pixels of an elementwise kernel: enough to fill the machine with `others`
    /// blocks beside each, no more than work.
    pub(super) fn pixel_blocks(&self, limits: &Limits, pixels: usize, others: usize) -> usize {
        let full = limits.multiprocessors as usize * BLOCKS;
        let share = (full / (self.channel_blocks * others).max(1)).max(1);
        pixels.div_ceil(self.step).min(share)
    }
}

/// Grid of a kernel that gives `items` threads' worth of work to each image.
pub(super) fn image_grid(cx: &Launcher, items: usize, images: usize) -> Result<[usize; 3]> {
    if items >= 1 << 31 {
        return Err(cx.wrong("an image of 2^31 elements"));
    }
    let full = cx.limits().multiprocessors as usize * BLOCKS;
    let share = (full / images.max(1)).max(1);
    Ok([items.div_ceil(THREADS).min(share), 1, images])
}
