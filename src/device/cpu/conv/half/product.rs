//! The convolution and its data gradient of bf16 operands: implicit GEMM over destination pixels.
//!
//! Weights are packed once a call, in panels of 16 columns. A task owns a block of destination
//! pixels and a stretch of columns. It writes down which source pixel each tap of each pixel
//! reads, then goes through the reduction stretch by stretch: the source pixels of a stretch are
//! packed into tiles (that is the gather: there is no im2col), every panel is multiplied with
//! them, the sums wait in f32. Taps that fall in the padding for a whole group of pixels are
//! neither packed nor multiplied. At the end each row of sums is finished once.

use std::ops::Range;

use half::bf16;

use super::super::super::element::Element;
use super::super::finish::Finish;
use super::super::geometry::{Geometry, NONE};
use super::super::implicit::even;
use super::super::pack::prefetch;
use super::super::shared::{Scratch, Shared};
use super::kernel::{Block, COLUMNS, Kernel, MAX_STRETCH, Run};
use super::pack::{self, STEPS};
use super::tiles::{SIDE, TILE};
use super::{Half, aligned};

/// Most pixels of a task; a stretch of them stays in the second-level cache.
const MAX_PIXELS: usize = 128;
/// Most columns of a task; their sums stay in the second-level cache.
const MAX_COLUMNS: usize = 512;
/// Tasks wanted, for balance on many threads.
const TASKS: usize = 64;
/// Maps of fewer channels have all their taps gathered into one.
const GATHER_CHANNELS: usize = 16;
/// Pixels whose source is asked for before it is packed: rows of a map that are far apart are not
/// foreseen by the processor.
const AHEAD: usize = 3;
/// Most groups of a task.
const MAX_GROUPS: usize = MAX_PIXELS / SIDE;
/// Most runs of a stretch: every other tile.
const MAX_RUNS: usize = MAX_STRETCH.div_ceil(2);

/// Sizes of one call; a function of the shapes and the kernel, never of the threads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    geometry: Geometry,
    /// Channels of the source.
    channels: usize,
    /// Channels of the destination.
    outputs: usize,
    gather: bool,
    /// Pixels of a task, a multiple of [`super::kernel::MAX_GROUP`].
    pixels: usize,
    /// Columns of a task, a multiple of [`COLUMNS`].
    columns: usize,
}

/// A map that is written.
pub(super) struct Target<'a, T> {
    pub data: &'a mut [T],
    pub ld: usize,
    /// Add to the map instead of overwriting it.
    pub accumulate: bool,
    /// What becomes of a row of sums before it is written.
    pub finish: Option<Finish<'a, T>>,
}

/// What the tasks of a call share.
struct Job<'a, T> {
    plan: &'a Plan,
    src: Half<'a>,
    dst: Shared<'a, T>,
    dst_ld: usize,
    accumulate: bool,
    /// Packed.
    weights: &'a [bf16],
    bias: Option<&'a [f32]>,
    finish: Option<Finish<'a, T>>,
}

/// One thread's memory.
struct Space<'a> {
    /// Source pixel of each tap, `[tap][pixel]`.
    sources: &'a mut [u32],
    /// Destination of each pixel.
    destinations: &'a mut [u32],
    /// One patch, where patches are gathered.
    patch: &'a mut [bf16],
    /// The packed stretch, `[group][tile][group / 16]`.
    a: &'a mut [bf16],
    /// Sums, `[pixel][column]`.
    sums: &'a mut [f32],
}

impl Plan {
    pub(super) fn new(geometry: Geometry, channels: usize, outputs: usize) -> Self {
        let gather = !geometry.transposed && channels < GATHER_CHANNELS && geometry.taps() > 1;
        let mut pixels = MAX_PIXELS;
        while pixels > COLUMNS && geometry.pixels().div_ceil(pixels) < TASKS / 2 {
            pixels /= 2;
        }
        let blocks = geometry.pixels().div_ceil(pixels).max(1);
        let whole = outputs.next_multiple_of(COLUMNS);
        let wanted = TASKS.div_ceil(blocks).min(whole / (4 * COLUMNS));
        let parts = wanted.max(whole.div_ceil(MAX_COLUMNS)).max(1);
        Self {
            geometry,
            channels,
            outputs,
            gather,
            pixels,
            columns: whole.div_ceil(parts).next_multiple_of(COLUMNS),
        }
    }

    /// Taps of the product, and channels of each; a gathered patch is one tap of many channels.
    fn reduction(&self) -> (usize, usize) {
        let taps = self.geometry.taps();
        match self.gather {
            true => (1, taps * self.channels),
            false => (taps, self.channels),
        }
    }

    /// Tiles of the reduction.
    fn depth(&self) -> usize {
        let (taps, channels) = self.reduction();
        taps * channels.div_ceil(STEPS)
    }

    /// bf16 elements of the packed weights.
    fn packed(&self) -> usize {
        self.outputs.div_ceil(SIDE) * self.depth() * TILE
    }

    /// f32 elements of one thread's scratch: sources, destinations, patch, tiles, sums.
    fn scratch(&self) -> [usize; 5] {
        let (taps, channels) = self.reduction();
        let patch = if self.gather { channels.div_ceil(2) } else { 0 };
        [
            self.pixels * taps,
            self.pixels,
            patch.next_multiple_of(SIDE),
            self.pixels * self.depth().min(MAX_STRETCH) * SIDE,
            self.pixels * self.columns,
        ]
    }

    /// f32 elements of workspace.
    pub(super) fn workspace(&self, threads: usize) -> usize {
        // A line more: the start is moved to one.
        SIDE + self.packed() / 2 + threads * self.scratch().iter().sum::<usize>()
    }

    /// Runs the product. `weights` are `[K, R, S, C]`; the transposed product reduces over K.
    pub(super) fn run<K: Kernel, T: Element>(
        &self,
        src: Half,
        weights: &[bf16],
        bias: Option<&[f32]>,
        dst: Target<T>,
        workspace: &mut [f32],
    ) {
        let (packed, rest) = aligned(workspace).split_at_mut(self.packed() / 2);
        let packed: &mut [bf16] = bytemuck::cast_slice_mut(packed);
        let (taps, channels) = self.reduction();
        if self.geometry.transposed {
            pack::transposed(weights, taps, channels, self.outputs, packed);
        } else {
            pack::forward(weights, taps, channels, self.outputs, packed);
        }
        let job = Job {
            plan: self,
            src,
            dst: Shared::new(dst.data),
            dst_ld: dst.ld,
            accumulate: dst.accumulate,
            weights: packed,
            bias,
            finish: dst.finish,
        };
        let scratch = Scratch::new(rest, self.scratch().iter().sum());
        let blocks = self.geometry.pixels().div_ceil(self.pixels);
        let parts = self.outputs.div_ceil(self.columns);
        // SAFETY: a task makes no rayon call.
        unsafe {
            scratch.each(blocks * parts, |task, scratch| {
                job.task::<K>(task / parts, task % parts, self.space(scratch));
            });
        }
    }

    fn space<'a>(&self, scratch: &'a mut [f32]) -> Space<'a> {
        let [sources, destinations, patch, a, _] = self.scratch();
        let (sources, rest) = scratch.split_at_mut(sources);
        let (destinations, rest) = rest.split_at_mut(destinations);
        let (patch, rest) = rest.split_at_mut(patch);
        let (a, sums) = rest.split_at_mut(a);
        Space {
            sources: bytemuck::cast_slice_mut(sources),
            destinations: bytemuck::cast_slice_mut(destinations),
            patch: bytemuck::cast_slice_mut(patch),
            a: bytemuck::cast_slice_mut(a),
            sums,
        }
    }
}

impl<T: Element> Job<'_, T> {
    /// One block of pixels times one stretch of columns.
    fn task<K: Kernel>(&self, block: usize, part: usize, space: Space) {
        let plan = self.plan;
        let first = block * plan.pixels;
        let count = plan.pixels.min(plan.geometry.pixels() - first);
        let columns = part * plan.columns..plan.outputs.min((part + 1) * plan.columns);
        self.index(first, count, space.sources, space.destinations);
        let depth = plan.depth();
        let stretch = even(depth, K::STRETCH);
        // SAFETY: the call chose a kernel that the processor has.
        let mut kernel = unsafe { K::begin() };
        let mut runs = [[Run::EMPTY; MAX_RUNS]; MAX_GROUPS];
        let mut live = [0; MAX_GROUPS];
        for start in (0..depth).step_by(stretch) {
            let tiles = stretch.min(depth - start);
            let groups = (0..count)
                .step_by(K::GROUP)
                .zip(space.a.chunks_exact_mut(K::GROUP / SIDE * stretch * TILE));
            for (group, (pixel, a)) in groups.enumerate() {
                let part = Part {
                    pixels: pixel..count.min(pixel + K::GROUP),
                    tiles: start..start + tiles,
                    sources: space.sources,
                    side: K::GROUP / SIDE,
                };
                live[group] = match plan.gather {
                    true => self.gather(first, &part, space.patch, a, &mut runs[group]),
                    false => self.pack(&part, a, &mut runs[group]),
                };
            }
            for column in columns.clone().step_by(COLUMNS) {
                let panel = column / SIDE;
                for (group, pixel) in (0..count).step_by(K::GROUP).enumerate() {
                    let block = Block {
                        a: space.a[group * (K::GROUP / SIDE) * stretch * TILE..].as_ptr(),
                        b: self.weights[(panel * depth + start) * TILE..].as_ptr(),
                        panel: depth * TILE,
                        out: space.sums[pixel * plan.columns + column - columns.start..]
                            .as_mut_ptr(),
                        ld: plan.columns,
                        rows: K::GROUP.min(count - pixel),
                        wide: plan.outputs - column > SIDE,
                        fresh: start == 0,
                    };
                    if live[group] > 0 || block.fresh {
                        // SAFETY: `a` holds the group's live tiles, the weights whole panels and
                        // the sums whole groups of whole panels.
                        unsafe { kernel.block(&runs[group][..live[group]], &block) };
                    }
                }
            }
        }
        // SAFETY: begun above.
        unsafe { kernel.end() };
        for (sums, &to) in space
            .sums
            .chunks_exact_mut(plan.columns)
            .zip(&space.destinations[..count])
        {
            let start = to as usize * self.dst_ld + columns.start;
            // SAFETY: the pixel's columns are this task's alone.
            let row = unsafe { self.dst.slice(start, columns.len()) };
            self.finish(to as usize, columns.start, &mut sums[..row.len()], row);
        }
    }

    /// Finishes a row of sums, channels `first ..` of a pixel: bias, batch norm, residual and
    /// ReLU, what is there already, one rounding.
    #[inline(always)]
    fn finish(&self, pixel: usize, first: usize, sums: &mut [f32], row: &mut [T]) {
        if let Some(bias) = self.bias {
            let bias = &bias[first..][..sums.len()];
            sums.iter_mut().zip(bias).for_each(|(sum, b)| *sum += b);
        }
        if let Some(finish) = &self.finish {
            finish.row(pixel, first, sums);
        }
        if self.accumulate {
            let mut scratch = [0.0; MAX_COLUMNS];
            T::update(row, &mut scratch, |row| {
                row.iter_mut().zip(&*sums).for_each(|(y, sum)| *y += sum);
            });
        } else {
            T::write(sums, row);
        }
    }

    /// Writes down what each pixel of a block reads, `[tap][pixel]`, and where it goes.
    fn index(&self, first: usize, count: usize, sources: &mut [u32], destinations: &mut [u32]) {
        let Plan {
            geometry,
            pixels,
            gather,
            ..
        } = self.plan;
        for (i, to) in destinations[..count].iter_mut().enumerate() {
            let pixel = geometry.pixel(first + i);
            *to = geometry.dst_index(pixel) as u32;
            if !gather {
                geometry.sources(pixel, |tap, index| sources[tap * pixels + i] = index);
            }
        }
    }

    /// Packs a part's tiles and writes down which of them count.
    fn pack(&self, part: &Part, a: &mut [bf16], runs: &mut [Run; MAX_RUNS]) -> usize {
        let channels = self.plan.channels;
        let per_tap = channels.div_ceil(STEPS);
        let mut live = 0;
        let mut tile = part.tiles.start;
        while tile < part.tiles.end {
            let tap = tile / per_tap;
            let end = part.tiles.end.min((tap + 1) * per_tap);
            let from = &part.sources[tap * self.plan.pixels..][part.pixels.clone()];
            let (at, count) = (tile - part.tiles.start, end - tile);
            let channel = tile % per_tap * STEPS;
            tile = end;
            if from.iter().all(|&i| i == NONE) {
                continue;
            }
            let end = channels.min(channel + count * STEPS);
            let line = |&index: &u32| {
                let start = index as usize * self.src.ld;
                (index != NONE).then(|| &self.src.data[start + channel..start + end])
            };
            for (i, index) in from.iter().enumerate() {
                if let Some(later) = from.get(i + AHEAD).and_then(line) {
                    prefetch(later);
                }
                part.row(i, at, count, line(index), a);
            }
            match runs[..live].last_mut() {
                Some(run) if run.a + run.tiles == at => run.tiles += count,
                _ => {
                    let (a, b) = (at, at);
                    runs[live] = Run { a, b, tiles: count };
                    live += 1;
                }
            }
        }
        live
    }

    /// As [`Job::pack`] of gathered patches: every tile counts.
    fn gather(
        &self,
        first: usize,
        part: &Part,
        patch: &mut [bf16],
        a: &mut [bf16],
        runs: &mut [Run; MAX_RUNS],
    ) -> usize {
        let (geometry, channels) = (&self.plan.geometry, self.plan.channels);
        let patch = &mut patch[..geometry.taps() * channels];
        let tiles = part.tiles.len();
        for (i, pixel) in part.pixels.clone().enumerate() {
            let pixel = geometry.pixel(first + pixel);
            geometry.gather(pixel, self.src.data, self.src.ld, channels, patch);
            part.row(i, 0, tiles, Some(&patch[part.tiles.start * STEPS..]), a);
        }
        let (a, b) = (0, 0);
        runs[0] = Run { a, b, tiles };
        1
    }
}

/// What one group of pixels packs at a time.
struct Part<'a> {
    pixels: Range<usize>,
    tiles: Range<usize>,
    sources: &'a [u32],
    /// Tiles of 16 rows that a group has.
    side: usize,
}

impl Part<'_> {
    /// Row `i` of `count` tiles from tile `at` of the part.
    #[inline(always)]
    fn row(&self, i: usize, at: usize, count: usize, line: Option<&[bf16]>, a: &mut [bf16]) {
        let to = &mut a[(at * self.side + i / SIDE) * TILE..];
        pack::row(line, i % SIDE, self.side * TILE, to, count);
    }
}
