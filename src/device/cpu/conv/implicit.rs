//! The convolution and its data gradient: implicit GEMM over destination pixels.
//!
//! Weights are packed once a call, in panels of output channels, `[panel][tap][channel][column]`.
//! A task owns a block of destination pixels and a stretch of panels. It writes down, once, which
//! source pixel each tap of each pixel reads; the micro-kernel then walks the source map through
//! row pointers, tap after tap, and taps that fall in the padding for a whole row block are
//! skipped (most of them when the dilation nears the size of the map). Nothing is gathered, save
//! for maps of a few channels (images), whose patches are too short to walk.
//!
//! Workspace: packed weights, packed bias, zeros (what a padded tap reads), and for each thread
//! the indices of a pixel block and, for images, its patches.

use std::ops::Range;

use super::finish::Finish;
use super::geometry::{Geometry, NONE};
use super::micro::{self, Block, Isa, MAX_COLUMNS, MIN_ROWS, Run};
use super::pack;
use super::shared::{Scratch, Shared};

/// Reduction steps between stores of a block: the panel's stretch stays in the first-level cache.
pub(super) const STEPS: usize = 384;
/// Most taps in such a stretch.
const MAX_TAPS: usize = 16;
/// Most pixels of a task; their stretch of the source stays in the second-level cache.
const MAX_PIXELS: usize = 96;
/// Most row blocks of a task: those of [`MAX_PIXELS`] at the fewest rows of any kernel.
const MAX_BLOCKS: usize = MAX_PIXELS / MIN_ROWS;
/// Tasks wanted, for balance on many threads.
const TASKS: usize = 64;
/// Maps of fewer channels are gathered.
const GATHER_CHANNELS: usize = 16;

/// Sizes of one call; a function of the shapes and the instruction set, never of the threads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    geometry: Geometry,
    isa: Isa,
    /// Channels of the source.
    channels: usize,
    /// Channels of the destination.
    outputs: usize,
    gather: bool,
    /// Pixels of a task.
    pixels: usize,
    /// Panels of a task.
    panels: usize,
}

/// A map that is read: its elements and the distance between its pixels.
#[derive(Clone, Copy)]
pub(super) struct Map<'a> {
    pub data: &'a [f32],
    pub ld: usize,
}

/// A map that is written.
pub(super) struct Target<'a> {
    pub data: &'a mut [f32],
    pub ld: usize,
    /// Add to the map instead of overwriting it.
    pub accumulate: bool,
    /// What is done to a pixel's sums once they are whole; not where they are added to.
    pub finish: Option<Finish<'a>>,
}

/// Length of the fewest parts of at most `most` that make up `n`, all alike: a short last one
/// would cost as many loads and stores as a long one.
pub(super) fn even(n: usize, most: usize) -> usize {
    n.div_ceil(n.div_ceil(most).max(1)).max(1)
}

/// What the tasks of a call share.
struct Job<'a> {
    plan: &'a Plan,
    src: Map<'a>,
    dst: Shared<'a>,
    dst_ld: usize,
    accumulate: bool,
    /// Packed.
    weights: &'a [f32],
    /// Padded to whole panels.
    bias: &'a [f32],
    zeros: &'a [f32],
    finish: Option<Finish<'a>>,
}

impl Plan {
    pub(super) fn new(isa: Isa, geometry: Geometry, channels: usize, outputs: usize) -> Self {
        let gather = !geometry.transposed && channels < GATHER_CHANNELS && geometry.taps() > 1;
        let panels = outputs.div_ceil(isa.nr());
        let mut pixels = MAX_PIXELS;
        while pixels > 24 && geometry.pixels().div_ceil(pixels) < TASKS / 2 {
            pixels /= 2;
        }
        let blocks = geometry.pixels().div_ceil(pixels).max(1);
        let stretches = TASKS.div_ceil(blocks).min(panels.div_ceil(4)).max(1);
        Self {
            geometry,
            isa,
            channels,
            outputs,
            gather,
            pixels: pixels.next_multiple_of(isa.mr),
            panels: panels.div_ceil(stretches),
        }
    }

    /// Taps and channels of the product; a gathered patch is one tap of many channels.
    fn reduction(&self) -> (usize, usize) {
        if self.gather {
            (1, self.depth())
        } else {
            (self.geometry.taps(), self.channels)
        }
    }

    fn depth(&self) -> usize {
        self.geometry.taps() * self.channels
    }

    fn zeros(&self) -> usize {
        self.reduction().1.max(MAX_COLUMNS)
    }

    /// Elements of one thread's scratch: sources of every tap, destinations, patches.
    fn scratch(&self) -> [usize; 3] {
        let patches = if self.gather { self.depth() } else { 0 };
        [
            self.pixels * self.reduction().0,
            self.pixels,
            self.pixels * patches,
        ]
    }

    /// Elements of workspace.
    pub(super) fn workspace(&self, threads: usize) -> usize {
        let columns = self.isa.padded(self.outputs);
        let scratch: usize = self.scratch().iter().sum();
        columns * (self.depth() + 1) + self.zeros() + threads * scratch
    }

    /// Runs the product. `weights` are `[K, R, S, C]`; the transposed product reduces over K.
    pub(super) fn run(
        &self,
        src: Map,
        weights: &[f32],
        bias: Option<&[f32]>,
        dst: Target,
        workspace: &mut [f32],
    ) {
        let columns = self.isa.padded(self.outputs);
        let (packed, rest) = workspace.split_at_mut(columns * self.depth());
        let (padded, rest) = rest.split_at_mut(columns);
        let (zeros, rest) = rest.split_at_mut(self.zeros());
        zeros.fill(0.0);
        padded.fill(0.0);
        if let Some(bias) = bias {
            padded[..self.outputs].copy_from_slice(&bias[..self.outputs]);
        }
        let taps = self.geometry.taps();
        if self.geometry.transposed {
            pack::transposed(
                &self.isa,
                weights,
                taps,
                self.channels,
                self.outputs,
                packed,
            );
        } else {
            pack::forward(&self.isa, weights, self.depth(), self.outputs, packed);
        }
        let job = Job {
            plan: self,
            src,
            dst: Shared::new(dst.data),
            dst_ld: dst.ld,
            accumulate: dst.accumulate,
            weights: packed,
            bias: padded,
            zeros,
            finish: dst.finish,
        };
        let scratch = Scratch::new(rest, self.scratch().iter().sum());
        let blocks = self.geometry.pixels().div_ceil(self.pixels);
        let stretches = self.outputs.div_ceil(self.isa.nr()).div_ceil(self.panels);
        // SAFETY: a task makes no rayon call.
        unsafe {
            scratch.each(blocks * stretches, |task, scratch| {
                job.task(task / stretches, task % stretches, scratch);
            });
        }
    }
}

impl Job<'_> {
    /// One block of pixels times one stretch of panels.
    fn task(&self, block: usize, stretch: usize, scratch: &mut [f32]) {
        let plan = self.plan;
        let first = block * plan.pixels;
        let count = plan.pixels.min(plan.geometry.pixels() - first);
        let [sources, destinations, _] = plan.scratch();
        let (sources, rest) = scratch.split_at_mut(sources);
        let (destinations, patches) = rest.split_at_mut(destinations);
        let sources: &mut [u32] = bytemuck::cast_slice_mut(sources);
        let destinations: &mut [u32] = bytemuck::cast_slice_mut(destinations);
        self.index(first, count, sources, destinations, patches);
        let map = if plan.gather {
            Map {
                data: patches,
                ld: plan.depth(),
            }
        } else {
            self.src
        };
        let panels = plan.outputs.div_ceil(plan.isa.nr());
        let panels = stretch * plan.panels..panels.min((stretch + 1) * plan.panels);
        let (taps, channels) = plan.reduction();
        let step_channels = even(channels, STEPS);
        let step_taps = even(taps, (STEPS / step_channels).clamp(1, MAX_TAPS));
        let mut runs = [[Run::EMPTY; MAX_TAPS]; MAX_BLOCKS];
        let mut live = [0; MAX_BLOCKS];
        for tap in (0..taps).step_by(step_taps) {
            for channel in (0..channels).step_by(step_channels) {
                let part = Part {
                    taps: tap..taps.min(tap + step_taps),
                    channels: channel..channels.min(channel + step_channels),
                };
                let blocks = count.div_ceil(plan.isa.mr);
                for (rows, live) in live[..blocks].iter_mut().enumerate() {
                    *live = self.runs(rows, &part, map, sources, &mut runs[rows]);
                }
                for panel in panels.clone() {
                    let runs = runs.iter().zip(&live).map(|(runs, &live)| &runs[..live]);
                    self.panel(panel, &part, runs, &destinations[..count]);
                }
            }
        }
        if let Some(finish) = &self.finish {
            let first = panels.start * plan.isa.nr();
            let columns = plan.outputs.min(panels.end * plan.isa.nr()) - first;
            for &pixel in &destinations[..count] {
                let pixel = pixel as usize;
                // SAFETY: these channels of this pixel belong to this task alone, which has no
                // other reference to them.
                let row = unsafe { self.dst.slice(pixel * self.dst_ld + first, columns) };
                finish.row(pixel, first, row);
            }
        }
    }

    /// Writes down what each pixel of a block reads and where it goes, `[row block][tap][row]`.
    fn index(
        &self,
        first: usize,
        count: usize,
        sources: &mut [u32],
        destinations: &mut [u32],
        patches: &mut [f32],
    ) {
        let Plan { geometry, isa, .. } = self.plan;
        let (taps, _) = self.plan.reduction();
        sources.fill(NONE);
        for i in 0..count {
            let pixel = geometry.pixel(first + i);
            destinations[i] = geometry.dst_index(pixel) as u32;
            let base = i / isa.mr * taps * isa.mr + i % isa.mr;
            if self.plan.gather {
                sources[base] = i as u32;
                let depth = self.plan.depth();
                let patch = &mut patches[i * depth..][..depth];
                geometry.gather(pixel, self.src.data, self.src.ld, self.plan.channels, patch);
            } else {
                geometry.sources(pixel, |tap, index| sources[base + tap * isa.mr] = index);
            }
        }
    }

    /// Writes the runs of one row block: its taps that hit the map, the same for every panel.
    /// Returns how many there are.
    fn runs(
        &self,
        rows: usize,
        part: &Part,
        map: Map,
        sources: &[u32],
        runs: &mut [Run; MAX_TAPS],
    ) -> usize {
        let mr = self.plan.isa.mr;
        let (taps, channels) = self.plan.reduction();
        let mut live = 0;
        for tap in part.taps.clone() {
            let indices = &sources[(rows * taps + tap) * mr..][..mr];
            if indices.iter().all(|&i| i == NONE) {
                continue;
            }
            let run = &mut runs[live];
            for (a, &index) in run.a.iter_mut().zip(indices) {
                *a = if index == NONE {
                    self.zeros.as_ptr()
                } else {
                    map.data[index as usize * map.ld + part.channels.start..].as_ptr()
                };
            }
            run.step = tap * channels + part.channels.start;
            live += 1;
        }
        live
    }

    /// A part of the reduction for every pixel of a block and one panel.
    fn panel<'r>(
        &self,
        panel: usize,
        part: &Part,
        runs: impl Iterator<Item = &'r [Run]>,
        destinations: &[u32],
    ) {
        let isa = &self.plan.isa;
        let first_column = panel * isa.nr();
        let columns = isa.nr().min(self.plan.outputs - first_column);
        let wide = columns > isa.lanes;
        let width = if wide { isa.nr() } else { isa.lanes };
        let weights = &self.weights[first_column * self.plan.depth()..];
        let opening = part.taps.start == 0 && part.channels.start == 0;
        let init = if opening && !self.accumulate {
            self.bias[first_column..].as_ptr()
        } else {
            std::ptr::null()
        };
        let kernel = (isa.rows[usize::from(wide)], isa.mr, width);
        for (runs, block) in runs.zip(destinations.chunks(isa.mr)) {
            if runs.is_empty() && init.is_null() {
                continue;
            }
            let mut out = Block::new(weights.as_ptr(), init);
            for (row, &index) in out.out.iter_mut().zip(block) {
                *row = self.dst.at(index as usize * self.dst_ld + first_column);
            }
            let size = (block.len(), columns);
            // SAFETY: sources are whole pixels (or zeros) and weights whole panels; destination
            // rows are in bounds and belong to this task alone.
            unsafe { micro::run(kernel, runs, part.channels.len(), &out, size) };
        }
    }
}

/// A part of the reduction.
struct Part {
    taps: Range<usize>,
    channels: Range<usize>,
}
