//! The weight gradient of bf16 operands: for each tap,
//! `dw[k][c] = Σ_pixel dy[pixel][k] · x[pixel at tap][c]`.
//!
//! A task owns a block of `dw` (one tap, a stretch of K, a stretch of C) and walks the pixels
//! whose tap hits the image, chunk by chunk. The pixels are the reduction here: `x` is packed as
//! pairs of pixels, `dy` likewise and then transposed, tile by tile. Pixels whose tap falls in the
//! padding are never visited. When there are few blocks, the pixels are split into segments, each
//! with a partial sum in the workspace; the sums are added in order. Images of a few channels
//! count all taps as one tap of many channels, gathered.

use std::ops::Range;

use half::bf16;
use rayon::prelude::*;

use super::super::geometry::Geometry;
use super::super::implicit::even;
use super::super::shared::{Scratch, Shared};
use super::kernel::{Block, COLUMNS, Kernel, MAX_GROUP, Run};
use super::pack::{self, STEPS};
use super::product::Target;
use super::tiles::{SIDE, TILE};
use super::{Half, aligned};
use crate::device::cpu::element::widen;

/// Tiles of pixels packed at a time: two panels of them stay in the first-level cache.
const CHUNK: usize = 12;
/// Most rows (of K) and columns (of C) of a task.
const ROWS: usize = 256;
const MAX_COLUMNS: usize = 256;
/// Tasks wanted, for balance on many threads.
const TASKS: usize = 32;
/// Fewest pixels of a segment.
const SEGMENT: usize = 512;
/// Images of fewer channels are gathered.
const GATHER_CHANNELS: usize = 16;

/// Sizes of one call; a function of the shapes, never of the threads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    /// Of the convolution: `dst` is dy's map, `src` x's.
    geometry: Geometry,
    /// Channels of x.
    channels: usize,
    /// Channels of dy.
    outputs: usize,
    gather: bool,
    /// Rows of a task, a multiple of [`MAX_GROUP`].
    rows: usize,
    /// Columns of a task, a multiple of [`COLUMNS`].
    columns: usize,
    segments: usize,
}

/// What the tasks of a call share.
struct Job<'a> {
    plan: &'a Plan,
    x: Half<'a>,
    dy: Half<'a>,
    /// `dw`, or the partial sums.
    out: Shared<'a>,
    /// Whether a task adds to `out`.
    accumulate: bool,
}

/// One block of the gradient, over one segment of the pixels.
struct Task {
    tap: usize,
    rows: Range<usize>,
    columns: Range<usize>,
    segment: usize,
}

/// One thread's memory.
struct Space<'a> {
    /// dy, `[group][tile of pixels][group / 16]`.
    a: &'a mut [bf16],
    /// x, `[panel][tile of pixels]`.
    b: &'a mut [bf16],
    /// The patches of 32 pixels, where they are gathered.
    patches: &'a mut [bf16],
    /// `[row][column]`.
    sums: &'a mut [f32],
}

impl Plan {
    pub(super) fn new(geometry: Geometry, channels: usize, outputs: usize) -> Self {
        let gather = channels < GATHER_CHANNELS && geometry.taps() > 1;
        let mut plan = Self {
            geometry,
            channels,
            outputs,
            gather,
            rows: 0,
            columns: 0,
            segments: 1,
        };
        let (taps, width) = plan.reduction();
        // In whole blocks of the kernel.
        plan.rows = even(outputs, ROWS).next_multiple_of(MAX_GROUP);
        plan.columns = even(width, MAX_COLUMNS).next_multiple_of(COLUMNS);
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
        match self.gather {
            true => (1, taps * self.channels),
            false => (taps, self.channels),
        }
    }

    fn elements(&self) -> usize {
        self.outputs * self.geometry.taps() * self.channels
    }

    fn partials(&self) -> usize {
        match self.segments {
            1 => 0,
            n => (n * self.elements()).next_multiple_of(SIDE),
        }
    }

    /// f32 elements of one thread's scratch: tiles of dy, tiles of x, patches, sums.
    fn scratch(&self) -> [usize; 4] {
        let patches = match self.gather {
            true => STEPS * self.reduction().1 / 2,
            false => 0,
        };
        [
            self.rows * CHUNK * SIDE,
            self.columns * CHUNK * SIDE,
            patches.next_multiple_of(SIDE),
            self.rows * self.columns,
        ]
    }

    /// f32 elements of workspace.
    pub(super) fn workspace(&self, threads: usize) -> usize {
        SIDE + self.partials() + threads * self.scratch().iter().sum::<usize>()
    }

    /// Runs the product; `dw` is `[K, R, S, C]`, dense.
    pub(super) fn run<K: Kernel>(&self, x: Half, dy: Half, dw: Target<f32>, workspace: &mut [f32]) {
        let (partials, rest) = aligned(workspace).split_at_mut(self.partials());
        let split = self.segments > 1;
        let scratch = Scratch::new(rest, self.scratch().iter().sum());
        let job = Job {
            plan: self,
            x,
            dy,
            out: Shared::new(if split { &mut *partials } else { &mut *dw.data }),
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
                job.task::<K>(&task, self.space(scratch));
            });
        }
        if split {
            add_up(partials, self.elements(), dw.data, dw.accumulate);
        }
    }

    fn space<'a>(&self, scratch: &'a mut [f32]) -> Space<'a> {
        let [a, b, patches, _] = self.scratch();
        let (a, rest) = scratch.split_at_mut(a);
        let (b, rest) = rest.split_at_mut(b);
        let (patches, sums) = rest.split_at_mut(patches);
        Space {
            a: bytemuck::cast_slice_mut(a),
            b: bytemuck::cast_slice_mut(b),
            patches: bytemuck::cast_slice_mut(patches),
            sums,
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
    fn task<K: Kernel>(&self, task: &Task, mut space: Space) {
        let plan = self.plan;
        let g = &plan.geometry;
        // The output pixels whose tap hits: a rectangle.
        let [ys, xs] = match plan.gather {
            true => [0..g.dst[0], 0..g.dst[1]],
            false => {
                let s = g.kernel[1];
                [g.hits(0, task.tap / s), g.hits(1, task.tap % s)]
            }
        };
        let pixel = |i: usize| {
            let (line, x) = (i / xs.len(), xs.start + i % xs.len());
            [line / ys.len(), ys.start + line % ys.len(), x]
        };
        let hits = g.images * ys.len() * xs.len();
        let first = hits * task.segment / plan.segments;
        let end = hits * (task.segment + 1) / plan.segments;
        // SAFETY: the call chose a kernel that the processor has.
        let mut kernel = unsafe { K::begin() };
        let mut start = first;
        // At least once: a block without pixels is still to be zeroed.
        loop {
            let chunk = (CHUNK * STEPS).min(end - start);
            for tile in 0..chunk.div_ceil(STEPS) {
                let from = start + tile * STEPS;
                let pixels: [_; STEPS] =
                    std::array::from_fn(|i| (from + i < end).then(|| pixel(from + i)));
                self.pack::<K>(task, &pixels, tile, &mut space);
            }
            self.multiply(
                &mut kernel,
                task,
                chunk.div_ceil(STEPS),
                start == first,
                &mut space,
            );
            start += chunk;
            if start >= end {
                break;
            }
        }
        // SAFETY: begun above.
        unsafe { kernel.end() };
        self.finish(task, space.sums);
    }

    /// Packs 32 pixels as tile `tile` of the chunk.
    fn pack<K: Kernel>(
        &self,
        task: &Task,
        pixels: &[Option<[usize; 3]>; STEPS],
        tile: usize,
        space: &mut Space,
    ) {
        let plan = self.plan;
        let g = &plan.geometry;
        let dy = pixels.map(|pixel| {
            let start = g.dst_index(pixel?) * self.dy.ld;
            Some(&self.dy.data[start..][task.rows.clone()])
        });
        let side = K::GROUP / SIDE;
        let mut pairs = [bf16::ZERO; TILE];
        for (i, start) in (0..task.rows.len()).step_by(SIDE).enumerate() {
            let rows = start..task.rows.len().min(start + SIDE);
            pack::pairs(&dy.map(|line| Some(&line?[rows.clone()])), 0, &mut pairs);
            let at = (i / side * CHUNK + tile) * side + i % side;
            pack::transpose(&pairs, &mut space.a[at * TILE..][..TILE]);
        }
        let b = &mut space.b[tile * TILE..];
        if plan.gather {
            let width = plan.reduction().1;
            let patches = &mut space.patches[..STEPS * width];
            for (patch, pixel) in patches.chunks_exact_mut(width).zip(pixels) {
                if let Some(pixel) = *pixel {
                    g.gather(pixel, self.x.data, self.x.ld, plan.channels, patch);
                }
            }
            let x = std::array::from_fn(|i| {
                pixels[i].map(|_| &patches[i * width..][task.columns.clone()])
            });
            pack::pairs(&x, CHUNK * TILE, b);
        } else {
            let x = pixels.map(|pixel| {
                let start = g.hit(pixel?, task.tap) * self.x.ld;
                Some(&self.x.data[start..][task.columns.clone()])
            });
            pack::pairs(&x, CHUNK * TILE, b);
        }
    }

    /// Adds a packed chunk to the block's sums.
    fn multiply<K: Kernel>(
        &self,
        kernel: &mut K,
        task: &Task,
        tiles: usize,
        fresh: bool,
        space: &mut Space,
    ) {
        let width = self.plan.columns;
        let run = Run { a: 0, b: 0, tiles };
        for column in (0..task.columns.len()).step_by(COLUMNS) {
            for row in (0..task.rows.len()).step_by(K::GROUP) {
                let block = Block {
                    a: space.a[row / SIDE * CHUNK * TILE..].as_ptr(),
                    b: space.b[column / SIDE * CHUNK * TILE..].as_ptr(),
                    panel: CHUNK * TILE,
                    out: space.sums[row * width + column..].as_mut_ptr(),
                    ld: width,
                    rows: K::GROUP.min(task.rows.len() - row),
                    wide: task.columns.len() - column > SIDE,
                    fresh,
                };
                // SAFETY: the packed tiles and the sums are whole groups of whole panels.
                unsafe { kernel.block(&[run], &block) };
            }
        }
    }

    /// Writes the block's sums where they belong.
    fn finish(&self, task: &Task, sums: &[f32]) {
        let plan = self.plan;
        let (taps, width) = plan.reduction();
        for (row, sums) in task.rows.clone().zip(sums.chunks_exact(plan.columns)) {
            let at = (task.segment * plan.outputs + row) * taps + task.tap;
            let start = at * width + task.columns.start;
            // SAFETY: the block is this task's alone.
            let out = unsafe { self.out.slice(start, task.columns.len()) };
            if self.accumulate {
                out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
            } else {
                out.copy_from_slice(&sums[..out.len()]);
            }
        }
    }
}

/// The bias gradient: sums of dy's columns. Sixty-four pixels at a time in f32, those sums in f64.
pub(super) fn bias(dy: Half, pixels: usize, dbias: &mut [f32], accumulate: bool) {
    const COLUMNS: usize = 32;
    const PIXELS: usize = 64;
    dbias
        .par_chunks_mut(COLUMNS)
        .enumerate()
        .for_each(|(i, sums)| {
            let mut total = [0.0f64; COLUMNS];
            let mut line = [0.0f32; COLUMNS];
            for start in (0..pixels).step_by(PIXELS) {
                let mut part = [0.0f32; COLUMNS];
                for pixel in start..pixels.min(start + PIXELS) {
                    let row = &dy.data[pixel * dy.ld + i * COLUMNS..][..sums.len()];
                    widen(row, &mut line[..row.len()]);
                    for (sum, value) in part.iter_mut().zip(&line) {
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
