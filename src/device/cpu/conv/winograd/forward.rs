//! The convolution and its data gradient by tiles.
//!
//! A task owns a block of tiles and a stretch of panels of output channels. It transforms the
//! source patches of its tiles, all channels, into its thread's scratch, which stays in the
//! second-level cache; then, panel by panel, come sixteen products with the transformed weights
//! and the way back, which writes finished rows. The transformed map as a whole never exists.
//!
//! Workspace: transformed weights, padded bias, zeros (what a tile reads outside the map), and for
//! each thread the transformed block, the sums of one panel and where they go.

use super::super::finish::Finish;
use super::super::geometry::{Geometry, NONE};
use super::super::implicit::{Map, STEPS, Target, even};
use super::super::micro::{Block, Isa, MAX_COLUMNS, Run};
use super::super::shared::{Scratch, Shared};
use super::{FREQUENCIES, Tiles, add, weights};
use crate::device::cpu::simd::vectorised;

/// Elements of a task's transformed block, where tiles are not few: 512 KiB.
const BLOCK: usize = 1 << 17;
/// Fewest and most tiles of a task: weights are read once a task, hence not fewer.
const TILES: [usize; 2] = [16, 48];
/// Tasks wanted, for balance on many threads.
const TASKS: usize = 32;
/// Fewest panels of a task, so that transforming its block is little beside the products.
const PANELS: usize = 4;
/// Distance between the rows of a block over its channels: rows do not share a cache set.
const GAP: usize = 16;

/// Sizes of one call; a function of the shapes and the instruction set, never of the threads.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Plan {
    tiles: Tiles,
    isa: Isa,
    /// Channels of the source.
    channels: usize,
    /// Channels of the destination.
    outputs: usize,
    /// Tiles of a task.
    block: usize,
    /// Panels of a task.
    panels: usize,
}

/// What the tasks of a call share.
struct Job<'a> {
    plan: &'a Plan,
    src: Map<'a>,
    dst: Shared<'a>,
    dst_ld: usize,
    accumulate: bool,
    /// Transformed and packed.
    weights: &'a [f32],
    /// Padded to whole panels.
    bias: &'a [f32],
    zeros: &'a [f32],
    finish: Option<Finish<'a>>,
}

impl Plan {
    /// None where tiles do not fit, or cost more than the direct sum.
    pub(in super::super) fn new(
        isa: Isa,
        geometry: &Geometry,
        channels: usize,
        outputs: usize,
    ) -> Option<Self> {
        let tiles = Tiles::new(geometry)?;
        cheaper(&tiles, geometry, channels, outputs)
            .then(|| Self::of(isa, tiles, channels, outputs))
    }

    /// The plan for tiles, cheap or not.
    pub(in super::super) fn of(isa: Isa, tiles: Tiles, channels: usize, outputs: usize) -> Self {
        let fitting = BLOCK / FREQUENCIES / (channels + GAP);
        let mut block = fitting.clamp(TILES[0], TILES[1]);
        while block > TILES[0] && tiles.count().div_ceil(block) < TASKS / 2 {
            block = (block / 2).max(TILES[0]);
        }
        // Even blocks, in whole rows of the kernel.
        let block = even(tiles.count(), block).next_multiple_of(isa.mr);
        let panels = outputs.div_ceil(isa.nr());
        let stretches = TASKS
            .div_ceil(tiles.count().div_ceil(block))
            .min(panels / PANELS)
            .max(1);
        Self {
            tiles,
            isa,
            channels,
            outputs,
            block,
            panels: panels.div_ceil(stretches),
        }
    }

    /// Distance between the rows of a transformed block.
    fn ld(&self) -> usize {
        self.channels + GAP
    }

    /// Elements of one thread's scratch: transformed block, sums of a panel, destinations.
    fn scratch(&self) -> [usize; 3] {
        [
            FREQUENCIES * self.block * self.ld(),
            FREQUENCIES * self.block * self.isa.nr(),
            4 * self.block,
        ]
    }

    /// Elements of workspace.
    pub(in super::super) fn workspace(&self, threads: usize) -> usize {
        let columns = self.isa.padded(self.outputs);
        let scratch: usize = self.scratch().iter().sum();
        columns * (FREQUENCIES * self.channels + 1) + self.channels + threads * scratch
    }

    /// Runs the product. `weights` are `[K, R, S, C]`; the data gradient reduces over K.
    pub(in super::super) fn run(
        &self,
        src: Map,
        weights: &[f32],
        bias: Option<&[f32]>,
        dst: Target,
        workspace: &mut [f32],
    ) {
        let columns = self.isa.padded(self.outputs);
        let (packed, rest) = workspace.split_at_mut(columns * FREQUENCIES * self.channels);
        let (padded, rest) = rest.split_at_mut(columns);
        let (zeros, rest) = rest.split_at_mut(self.channels);
        zeros.fill(0.0);
        padded.fill(0.0);
        if let Some(bias) = bias {
            padded[..self.outputs].copy_from_slice(&bias[..self.outputs]);
        }
        let turned = self.tiles.turned;
        weights::pack(
            &self.isa,
            weights,
            turned,
            self.channels,
            self.outputs,
            packed,
        );
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
        let blocks = self.tiles.count().div_ceil(self.block);
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
    /// One block of tiles times one stretch of panels.
    fn task(&self, block: usize, stretch: usize, scratch: &mut [f32]) {
        let plan = self.plan;
        let first = block * plan.block;
        let count = plan.block.min(plan.tiles.count() - first);
        let [transformed, sums, _] = plan.scratch();
        let (transformed, rest) = scratch.split_at_mut(transformed);
        let (sums, destinations) = rest.split_at_mut(sums);
        let destinations: &mut [u32] = bytemuck::cast_slice_mut(destinations);
        for (i, written) in destinations.chunks_exact_mut(4).take(count).enumerate() {
            written.copy_from_slice(&self.transform(first + i, i, transformed));
        }
        let panels = plan.outputs.div_ceil(plan.isa.nr());
        for panel in stretch * plan.panels..panels.min((stretch + 1) * plan.panels) {
            self.multiply(panel, count, transformed, sums);
            self.finish(panel, &destinations[..4 * count], sums);
        }
    }

    /// Transforms the patch of a tile, row `row` of the block; returns the pixels it writes.
    fn transform(&self, tile: usize, row: usize, transformed: &mut [f32]) -> [u32; 4] {
        let plan = self.plan;
        let (read, written) = plan.tiles.pixels(tile);
        let sources = read.map(|index| match index {
            NONE => self.zeros.as_ptr(),
            index => self.src.data[index as usize * self.src.ld..][..plan.channels].as_ptr(),
        });
        let stride = plan.block * plan.ld();
        let out = &mut transformed[row * plan.ld()..];
        assert!(out.len() >= (FREQUENCIES - 1) * stride + plan.channels);
        // SAFETY: sources hold a pixel each, `out` the row of every frequency.
        unsafe { (plan.isa.input)(&sources, plan.channels, out.as_mut_ptr(), stride) };
        written
    }

    /// The sixteen products of a block with one panel: `[frequency][tile][column]`.
    fn multiply(&self, panel: usize, count: usize, transformed: &[f32], sums: &mut [f32]) {
        const ZEROS: [f32; MAX_COLUMNS] = [0.0; MAX_COLUMNS];
        let plan = self.plan;
        let (isa, channels) = (&plan.isa, plan.channels);
        let nr = isa.nr();
        let wide = plan.outputs - panel * nr > isa.lanes;
        let kernel = isa.rows[usize::from(wide)];
        let weights = &self.weights[panel * nr * FREQUENCIES * channels..];
        let step = even(channels, STEPS);
        let sums = Shared::new(sums);
        for f in 0..FREQUENCIES {
            for start in (0..channels).step_by(step) {
                let init = if start == 0 {
                    ZEROS.as_ptr()
                } else {
                    std::ptr::null()
                };
                for row in (0..count).step_by(isa.mr) {
                    let mut run = Run::EMPTY;
                    run.step = f * channels + start;
                    let mut block = Block::new(weights.as_ptr(), init);
                    for i in 0..isa.mr {
                        let at = f * plan.block + row + i;
                        run.a[i] = transformed[at * plan.ld() + start..].as_ptr();
                        block.out[i] = sums.at(at * nr);
                    }
                    let len = step.min(channels - start);
                    // SAFETY: the block has whole rows of the kernel, its last ones perhaps
                    // unused; weights and sums have whole panels.
                    unsafe { kernel(&[run], len, &block) };
                }
            }
        }
    }

    /// Takes the sums of a panel back to pixels and writes them.
    fn finish(&self, panel: usize, destinations: &[u32], sums: &[f32]) {
        let plan = self.plan;
        let nr = plan.isa.nr();
        let first = panel * nr;
        let columns = nr.min(plan.outputs - first);
        let width = if columns > plan.isa.lanes {
            nr
        } else {
            plan.isa.lanes
        };
        let mut rows = [0.0; 4 * MAX_COLUMNS];
        for (tile, pixels) in destinations.chunks_exact(4).enumerate() {
            let stride = plan.block * nr;
            let from = &sums[tile * nr..];
            assert!(from.len() >= (FREQUENCIES - 1) * stride + width);
            // SAFETY: the panel's sums of every frequency; `rows` holds four rows of any panel.
            unsafe { (plan.isa.output)(from.as_ptr(), stride, width, rows.as_mut_ptr()) };
            for (row, &pixel) in rows.chunks_exact(width).zip(pixels) {
                if pixel != NONE {
                    self.finish_row(pixel as usize, first, &row[..columns]);
                }
            }
        }
    }

    /// Writes one pixel's outputs from column `first` on.
    fn finish_row(&self, pixel: usize, first: usize, values: &[f32]) {
        // SAFETY: pixels and panels of a task are its own.
        let out = unsafe { self.dst.slice(pixel * self.dst_ld + first, values.len()) };
        if self.accumulate {
            add(out, values);
        } else {
            sum(out, values, &self.bias[first..]);
            if let Some(finish) = &self.finish {
                finish.row(pixel, first, out);
            }
        }
    }
}

vectorised! {
    fn sum(out: &mut [f32], a: &[f32], b: &[f32]) {
        for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
            *out = a + b;
        }
    }
}

/// Whether tiles cost less than the direct sum. In multiply-adds for each pair of a channel and an
/// output:
///
/// - direct: the taps of each row of pixels that hit the map, in blocks of eight as the kernel
///   takes them, and packing the weights;
/// - tiles: 16 a tile, the way there (shared by all outputs), the way back (shared by all
///   channels, with what a short product costs besides), and transforming the weights.
///
/// The weights of the sum are fitted to times of single layers with AVX-512, not derived.
fn cheaper(tiles: &Tiles, geometry: &Geometry, channels: usize, outputs: usize) -> bool {
    const PACK: f64 = 144.0;
    const TRANSFORM: f64 = 160.0;
    const THERE: f64 = 64.0;
    const BACK: f64 = 160.0;
    if channels < 16 || outputs < 16 {
        return false;
    }
    let direct = geometry.live(8) as f64 + PACK;
    let (there, back) = (THERE / outputs as f64, BACK / channels as f64);
    let tiled = tiles.count() as f64 * (FREQUENCIES as f64 + there + back) + TRANSFORM;
    tiled < direct
}
