//! The weight gradient: for each tap, `dw[k][c] = Σ_pixel dy[pixel][k] · x[pixel at tap][c]`.
//!
//! A task owns a block of `dw` (one tap, a stretch of K, a stretch of C) and walks the pixels
//! whose tap hits the image, chunk by chunk: it packs their `dy` and `x` into its thread's scratch
//! and adds their product. Pixels whose tap falls in the padding are never visited. When there are
//! few blocks, the pixels are split into segments as well, each with a partial sum in the
//! workspace; the sums are added in order. Images of a few channels count all taps as one tap of
//! many channels, gathered.

use std::ops::Range;

use rayon::prelude::*;

use super::geometry::Geometry;
use super::implicit::{Map, Target, even};
use super::micro::{self, Block, Isa, MAX_ROWS, Run};
use super::pack;
use super::shared::{Scratch, Shared};

/// Pixels packed at a time: a panel of them stays in the first-level cache.
const CHUNK: usize = 192;
/// Elements between packed panels: lines of a row that is packed do not share a cache set.
const GAP: usize = 16;
/// So many pixels before one is packed, its values are asked for.
const AHEAD: usize = 8;
/// Most rows (of K) and columns (of C) of a task; both packed blocks stay in the second level.
const ROWS: usize = 192;
const COLUMNS: usize = 256;
/// Tasks wanted, for balance on many threads.
const TASKS: usize = 32;
/// Fewest pixels of a segment.
const SEGMENT: usize = 512;
/// Images of fewer channels are gathered.
const GATHER_CHANNELS: usize = 16;

/// Sizes of one call; a function of the shapes and the instruction set, never of the threads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// Of the convolution: `dst` is dy's map, `src` x's.
    geometry: Geometry,
    isa: Isa,
    /// Channels of x.
    channels: usize,
    /// Channels of dy.
    outputs: usize,
    gather: bool,
    /// Rows and columns of a task.
    rows: usize,
    columns: usize,
    segments: usize,
}

/// Elements of a packed panel of `width` columns.
fn panel(width: usize) -> usize {
    CHUNK * width + GAP
}

/// What the tasks of a call share.
struct Job<'a> {
    plan: &'a Plan,
    x: Map<'a>,
    dy: Map<'a>,
    /// `dw`, or the partial sums.
    out: Shared<'a>,
    /// Whether the first chunk adds to `out`.
    accumulate: bool,
}

/// One block of the gradient, over one segment of the pixels.
struct Task {
    tap: usize,
    rows: Range<usize>,
    columns: Range<usize>,
    segment: usize,
}

impl Plan {
    pub(super) fn new(isa: Isa, geometry: Geometry, channels: usize, outputs: usize) -> Self {
        let gather = channels < GATHER_CHANNELS && geometry.taps() > 1;
        let mut plan = Self {
            geometry,
            isa,
            channels,
            outputs,
            gather,
            rows: 0,
            columns: 0,
            segments: 1,
        };
        let (taps, width) = plan.reduction();
        // In whole blocks of the kernel.
        plan.rows = even(outputs, ROWS).next_multiple_of(isa.mr);
        plan.columns = even(width, COLUMNS).next_multiple_of(isa.nr());
        let blocks = taps * outputs.div_ceil(plan.rows) * width.div_ceil(plan.columns);
        plan.segments = TASKS
            .div_ceil(blocks.max(1))
            .min(geometry.pixels() / SEGMENT)
            .max(1);
        plan
    }

    /// Taps, and columns of each; a gathered patch is one tap of many channels.
    fn reduction(&self) -> (usize, usize) {
        let taps = self.geometry.taps();
        if self.gather {
            (1, taps * self.channels)
        } else {
            (taps, self.channels)
        }
    }

    fn elements(&self) -> usize {
        self.outputs * self.geometry.taps() * self.channels
    }

    fn partials(&self) -> usize {
        if self.segments > 1 {
            self.segments * self.elements()
        } else {
            0
        }
    }

    /// Elements of one thread's scratch: packed dy, packed x, one patch.
    fn scratch(&self) -> [usize; 3] {
        let patch = if self.gather { self.reduction().1 } else { 0 };
        let panels = |n: usize, width: usize| n.div_ceil(width) * panel(width);
        [
            panels(self.rows, self.isa.mr),
            panels(self.columns, self.isa.nr()),
            patch,
        ]
    }

    /// Elements of workspace.
    pub(super) fn workspace(&self, threads: usize) -> usize {
        self.partials() + threads * self.scratch().iter().sum::<usize>()
    }

    /// Runs the product; `dw` is `[K, R, S, C]`, dense.
    pub(super) fn run(&self, x: Map, dy: Map, dw: Target, workspace: &mut [f32]) {
        let (partials, rest) = workspace.split_at_mut(self.partials());
        let split = self.segments > 1;
        let scratch = Scratch::new(rest, self.scratch().iter().sum());
        let dw_data = dw.data;
        let job = Job {
            plan: self,
            x,
            dy,
            out: Shared::new(if split { &mut *partials } else { &mut *dw_data }),
            accumulate: dw.accumulate && !split,
        };
        let (taps, width) = self.reduction();
        let down = self.outputs.div_ceil(self.rows);
        let across = width.div_ceil(self.columns);
        // SAFETY: a task makes no rayon call.
        unsafe {
            scratch.each(self.segments * taps * down * across, |i, scratch| {
                let (column, i) = (i % across * self.columns, i / across);
                let (row, i) = (i % down * self.rows, i / down);
                let task = Task {
                    tap: i % taps,
                    rows: row..self.outputs.min(row + self.rows),
                    columns: column..width.min(column + self.columns),
                    segment: i / taps,
                };
                job.task(&task, scratch);
            });
        }
        if split {
            add_up(partials, self.elements(), dw_data, dw.accumulate);
        }
    }
}

/// Adds the segments' sums in order.
fn add_up(partials: &[f32], elements: usize, dw: &mut [f32], accumulate: bool) {
    const PIECE: usize = 4096;
    dw.par_chunks_mut(PIECE).enumerate().for_each(|(i, piece)| {
        if !accumulate {
            piece.fill(0.0);
        }
        for partial in partials.chunks_exact(elements) {
            for (sum, value) in piece.iter_mut().zip(&partial[i * PIECE..]) {
                *sum += value;
            }
        }
    });
}

impl Job<'_> {
    fn task(&self, task: &Task, scratch: &mut [f32]) {
        let plan = self.plan;
        let [a, b, _] = plan.scratch();
        let (a, rest) = scratch.split_at_mut(a);
        let (b, patch) = rest.split_at_mut(b);
        let g = &plan.geometry;
        // The output pixels whose tap hits: a rectangle.
        let [ys, xs] = if plan.gather {
            [0..g.dst[0], 0..g.dst[1]]
        } else {
            let s = g.kernel[1];
            [g.hits(0, task.tap / s), g.hits(1, task.tap % s)]
        };
        let hits = g.images * ys.len() * xs.len();
        let first = hits * task.segment / plan.segments;
        let end = hits * (task.segment + 1) / plan.segments;
        let mut start = first;
        // At least once: a block without pixels is still to be zeroed.
        loop {
            let chunk = CHUNK.min(end - start);
            let pixel = |at: usize| {
                let (line, x) = (at / xs.len(), xs.start + at % xs.len());
                [line / ys.len(), ys.start + line % ys.len(), x]
            };
            for i in 0..chunk {
                if !plan.gather && start + i + AHEAD < hits {
                    let [dy, x] = self.rows(task, pixel(start + i + AHEAD));
                    pack::prefetch(dy);
                    pack::prefetch(x);
                }
                self.pack(task, pixel(start + i), i, a, b, patch);
            }
            self.multiply(task, chunk, start > first || self.accumulate, a, b);
            start += chunk;
            if start >= end {
                break;
            }
        }
    }

    /// What a pixel and its tap give: the block's rows of dy and columns of x.
    fn rows(&self, task: &Task, pixel: [usize; 3]) -> [&[f32]; 2] {
        let g = &self.plan.geometry;
        let (dy, x) = (g.dst_index(pixel), g.hit(pixel, task.tap));
        [
            &self.dy.data[dy * self.dy.ld..][task.rows.clone()],
            &self.x.data[x * self.x.ld..][task.columns.clone()],
        ]
    }

    /// Packs one pixel as row `i` of the chunk.
    fn pack(
        &self,
        task: &Task,
        pixel: [usize; 3],
        i: usize,
        a: &mut [f32],
        b: &mut [f32],
        patch: &mut [f32],
    ) {
        let plan = self.plan;
        let g = &plan.geometry;
        let dy = &self.dy.data[g.dst_index(pixel) * self.dy.ld..][task.rows.clone()];
        pack::line(plan.isa.mr, panel(plan.isa.mr), i, dy, a);
        let x = if plan.gather {
            g.gather(pixel, self.x.data, self.x.ld, plan.channels, patch);
            &patch[task.columns.clone()]
        } else {
            let start = g.hit(pixel, task.tap) * self.x.ld;
            &self.x.data[start..][task.columns.clone()]
        };
        pack::line(plan.isa.nr(), panel(plan.isa.nr()), i, x, b);
    }

    /// Adds a packed chunk to the block.
    fn multiply(&self, task: &Task, chunk: usize, add: bool, a: &[f32], b: &[f32]) {
        let plan = self.plan;
        let isa = &plan.isa;
        let (taps, width) = plan.reduction();
        const ZEROS: [f32; micro::MAX_COLUMNS] = [0.0; micro::MAX_COLUMNS];
        let init = if add {
            std::ptr::null()
        } else {
            ZEROS.as_ptr()
        };
        let kernel = (isa.packed[1], isa.mr, isa.nr());
        for (j, column) in task.columns.clone().step_by(isa.nr()).enumerate() {
            for (i, row) in task.rows.clone().step_by(isa.mr).enumerate() {
                let mut run = Run::EMPTY;
                run.a[0] = a[i * panel(isa.mr)..].as_ptr();
                let rows = isa.mr.min(task.rows.end - row);
                let columns = isa.nr().min(task.columns.end - column);
                let mut block = Block::new(b[j * panel(isa.nr())..].as_ptr(), init);
                for (r, out) in block.out.iter_mut().enumerate().take(rows) {
                    let at = ((task.segment * plan.outputs + row + r) * taps + task.tap) * width;
                    *out = self.out.at(at + column);
                }
                debug_assert!(rows <= MAX_ROWS);
                // SAFETY: packed blocks hold `CHUNK >= chunk` steps; the rows of `dw` are in
                // bounds and belong to this task alone.
                unsafe { micro::run(kernel, &[run], chunk, &block, (rows, columns)) };
            }
        }
    }
}

/// The bias gradient: sums of dy's columns. Sixty-four pixels at a time in f32, those sums in f64.
pub(super) fn bias(dy: Map, pixels: usize, dbias: &mut [f32], accumulate: bool) {
    const COLUMNS: usize = 32;
    const PIXELS: usize = 64;
    dbias
        .par_chunks_mut(COLUMNS)
        .enumerate()
        .for_each(|(i, sums)| {
            let mut total = [0.0f64; COLUMNS];
            for start in (0..pixels).step_by(PIXELS) {
                let mut part = [0.0f32; COLUMNS];
                for pixel in start..pixels.min(start + PIXELS) {
                    let line = &dy.data[pixel * dy.ld + i * COLUMNS..][..sums.len()];
                    for (sum, value) in part.iter_mut().zip(line) {
                        *sum += value;
                    }
                }
                for (sum, value) in total.iter_mut().zip(part) {
                    *sum += f64::from(value);
                }
            }
            for (sum, value) in sums.iter_mut().zip(total) {
                let before = if accumulate { *sum } else { 0.0 };
                *sum = (f64::from(before) + value) as f32;
            }
        });
}
