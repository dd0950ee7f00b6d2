//! The weight gradient by tiles: F(3×3, 2×2).
//!
//! It is the forward algorithm transposed: `dw = Gᵀ [Σ_tile (A dy Aᵀ) ⊙ (Bᵀ x B)] G`, where a tile
//! is 2×2 pixels of `dy` and the 4×4 pixels of `x` that meet them. Each of the 16 frequencies is a
//! product `[K × tiles] · [tiles × C]`.
//!
//! A task owns a row of four frequencies, which share most of their transforms, a stretch of K, a
//! stretch of C and a segment of the tiles. Chunk by chunk it transforms and packs both operands
//! into its thread's scratch and adds their products to `[segment][K][frequency][C]` in the
//! workspace; at the end `fold` adds up segments, in order, and takes the sums back to weights.

use std::ops::Range;

use rayon::prelude::*;

use super::super::geometry::{Geometry, NONE};
use super::super::implicit::{Map, Target, even};
use super::super::micro::{self, Block, Isa, MAX_COLUMNS, Run};
use super::super::pack;
use super::super::shared::{Scratch, Shared};
use super::{FREQUENCIES, Tiles, add};
use crate::device::cpu::simd::vectorised;

/// Tiles packed at a time: the four frequencies of a chunk stay in the second-level cache.
const CHUNK: usize = 64;
/// Most rows (of K) and columns (of C) of a task.
const ROWS: usize = 128;
const COLUMNS: usize = 256;
/// Tasks wanted, for balance on many threads.
const TASKS: usize = 32;
/// Fewest tiles of a segment.
const SEGMENT: usize = 256;
/// Most elements of workspace for the sake of balance: 16 MiB.
const PARTIALS: usize = 1 << 22;
/// Elements between packed panels: lines of a row that is packed do not share a cache set.
const GAP: usize = 16;
/// So many tiles before one is packed, its pixels are asked for.
const AHEAD: usize = 2;

/// Channels that are taken back to weights at a time.
const FOLD: usize = 64;

/// What a tile reads outside the map.
static ZEROS: [f32; COLUMNS] = [0.0; COLUMNS];

/// Rows of Bᵀ: a row of frequencies is pixel row `.0` of x plus `.2` times pixel row `.1`.
const SPREAD: [(usize, usize, f32); 4] = [(0, 2, -1.0), (1, 2, 1.0), (2, 1, -1.0), (1, 3, -1.0)];

/// Sizes of one call; a function of the shapes and the instruction set, never of the threads.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Plan {
    tiles: Tiles,
    isa: Isa,
    /// Channels of x.
    channels: usize,
    /// Channels of dy.
    outputs: usize,
    /// Rows and columns of a task.
    rows: usize,
    columns: usize,
    segments: usize,
}

/// What the tasks of a call share.
struct Job<'a> {
    plan: &'a Plan,
    x: Map<'a>,
    dy: Map<'a>,
    sums: Shared<'a>,
}

/// Four frequencies of a block of sums, over one segment of the tiles.
struct Task {
    /// Row of frequencies.
    line: usize,
    rows: Range<usize>,
    columns: Range<usize>,
    segment: usize,
}

/// Elements of a packed panel of `width` columns.
fn panel(width: usize) -> usize {
    CHUNK * width + GAP
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
        let rows = even(outputs, ROWS).next_multiple_of(isa.mr);
        let columns = even(channels, COLUMNS).next_multiple_of(isa.nr());
        let blocks = 4 * outputs.div_ceil(rows) * channels.div_ceil(columns);
        let segments = TASKS
            .div_ceil(blocks)
            .min(tiles.count() / SEGMENT)
            .min(PARTIALS / (FREQUENCIES * outputs * channels))
            .max(1);
        Self {
            tiles,
            isa,
            channels,
            outputs,
            rows,
            columns,
            segments,
        }
    }

    /// Elements of the sums of one segment.
    fn elements(&self) -> usize {
        FREQUENCIES * self.outputs * self.channels
    }

    /// Elements of one packed frequency: of dy, of x.
    fn packed(&self) -> [usize; 2] {
        let (mr, nr) = (self.isa.mr, self.isa.nr());
        [
            self.rows.div_ceil(mr) * panel(mr),
            self.columns.div_ceil(nr) * panel(nr),
        ]
    }

    /// Elements of workspace: sums, and for each thread four frequencies of both operands.
    pub(in super::super) fn workspace(&self, threads: usize) -> usize {
        self.segments * self.elements() + threads * 4 * self.packed().iter().sum::<usize>()
    }

    /// Runs the product; `dw` is `[K, 3, 3, C]`, dense.
    pub(in super::super) fn run(&self, x: Map, dy: Map, dw: Target, workspace: &mut [f32]) {
        let (sums, rest) = workspace.split_at_mut(self.segments * self.elements());
        let scratch = Scratch::new(rest, 4 * self.packed().iter().sum::<usize>());
        let job = Job {
            plan: self,
            x,
            dy,
            sums: Shared::new(&mut *sums),
        };
        let down = self.outputs.div_ceil(self.rows);
        let across = self.channels.div_ceil(self.columns);
        // SAFETY: a task makes no rayon call.
        unsafe {
            scratch.each(self.segments * 4 * down * across, |i, scratch| {
                let (column, i) = (i % across * self.columns, i / across);
                let (row, i) = (i % down * self.rows, i / down);
                let task = Task {
                    line: i % 4,
                    rows: row..self.outputs.min(row + self.rows),
                    columns: column..self.channels.min(column + self.columns),
                    segment: i / 4,
                };
                job.task(&task, scratch);
            });
        }
        let (width, accumulate) = (self.channels, dw.accumulate);
        dw.data
            .par_chunks_mut(9 * width)
            .enumerate()
            .for_each(|(k, dw)| {
                for first in (0..width).step_by(FOLD) {
                    let part = first..width.min(first + FOLD);
                    self.fold(&sums[FREQUENCIES * k * width..], part, dw, accumulate);
                }
            });
    }

    /// Adds up the segments of one output's frequencies and takes them back to its weights
    /// `[9][C]`, some channels at a time.
    fn fold(&self, sums: &[f32], part: Range<usize>, dw: &mut [f32], accumulate: bool) {
        let (width, len) = (self.channels, part.len());
        let mut total = [[0.0f32; FOLD]; FREQUENCIES];
        for segment in 0..self.segments {
            for (f, total) in total.iter_mut().enumerate() {
                let start = segment * self.elements() + f * width;
                add(&mut total[..len], &sums[start..][part.clone()]);
            }
        }
        let mut taps = [[0.0f32; FOLD]; 9];
        back(&total, &mut taps);
        for (dw, tap) in dw.chunks_exact_mut(width).zip(&taps) {
            let dw = &mut dw[part.clone()];
            if accumulate {
                add(dw, &tap[..len]);
            } else {
                dw.copy_from_slice(&tap[..len]);
            }
        }
    }
}

impl Job<'_> {
    fn task(&self, task: &Task, scratch: &mut [f32]) {
        let plan = self.plan;
        let (a, b) = scratch.split_at_mut(4 * plan.packed()[0]);
        let all = plan.tiles.count();
        let first = all * task.segment / plan.segments;
        let end = all * (task.segment + 1) / plan.segments;
        let mut pixels = [([NONE; 16], [NONE; 4]); CHUNK];
        for start in (first..end).step_by(CHUNK) {
            let chunk = CHUNK.min(end - start);
            for (i, pixels) in pixels[..chunk].iter_mut().enumerate() {
                *pixels = plan.tiles.pixels(start + i);
            }
            for i in 0..chunk {
                if let Some((read, written)) = pixels[..chunk].get(i + AHEAD) {
                    let rows = self.x_rows(task, read);
                    rows.as_flattened().iter().for_each(|r| pack::prefetch(r));
                    let rows = self.dy_rows(task, written);
                    rows.as_flattened().iter().for_each(|r| pack::prefetch(r));
                }
                let (read, written) = &pixels[i];
                self.pack(task, read, written, i, a, b);
            }
            self.multiply(task, chunk, start > first, a, b);
        }
    }

    /// The two pixel rows of x that a row of frequencies is made of, `[column][row]`.
    fn x_rows(&self, task: &Task, read: &[u32; 16]) -> [[&[f32]; 2]; 4] {
        let (above, below, _) = SPREAD[task.line];
        std::array::from_fn(|j| {
            [above, below].map(|i| pixel(self.x, read[4 * i + j], &task.columns))
        })
    }

    /// The two pixel rows of dy that a row of frequencies is made of, `[column][row]`; a row that
    /// does not count is zeros.
    fn dy_rows(&self, task: &Task, written: &[u32; 4]) -> [[&[f32]; 2]; 2] {
        let counts = [task.line < 3, task.line > 0];
        std::array::from_fn(|j| {
            [0, 1].map(|i| {
                let index = if counts[i] { written[2 * i + j] } else { NONE };
                pixel(self.dy, index, &task.rows)
            })
        })
    }

    /// Transforms a tile and packs it as row `i` of the chunk.
    fn pack(
        &self,
        task: &Task,
        read: &[u32; 16],
        written: &[u32; 4],
        i: usize,
        a: &mut [f32],
        b: &mut [f32],
    ) {
        let plan = self.plan;
        let (mr, nr) = (plan.isa.mr, plan.isa.nr());
        let [each_a, each_b] = plan.packed();
        let mut lines = [[0.0f32; COLUMNS]; 4];
        let sign = if task.line < 2 { 1.0 } else { -1.0 };
        widen(
            &self.dy_rows(task, written),
            sign,
            task.rows.len(),
            &mut lines,
        );
        for (line, a) in lines.iter().zip(a.chunks_exact_mut(each_a)) {
            pack::line(mr, panel(mr), i, &line[..task.rows.len()], a);
        }
        let sign = SPREAD[task.line].2;
        spread(
            &self.x_rows(task, read),
            sign,
            task.columns.len(),
            &mut lines,
        );
        for (line, b) in lines.iter().zip(b.chunks_exact_mut(each_b)) {
            pack::line(nr, panel(nr), i, &line[..task.columns.len()], b);
        }
    }

    /// Adds the products of a packed chunk to the sums.
    fn multiply(&self, task: &Task, chunk: usize, add: bool, a: &[f32], b: &[f32]) {
        const NOTHING: [f32; MAX_COLUMNS] = [0.0; MAX_COLUMNS];
        let plan = self.plan;
        let isa = &plan.isa;
        let (mr, nr) = (isa.mr, isa.nr());
        let [each_a, each_b] = plan.packed();
        let init = if add {
            std::ptr::null()
        } else {
            NOTHING.as_ptr()
        };
        let kernel = (isa.packed[1], mr, nr);
        let segment = task.segment * plan.outputs;
        for f in 0..4 {
            let (a, b) = (&a[f * each_a..], &b[f * each_b..]);
            for (j, column) in task.columns.clone().step_by(nr).enumerate() {
                for (i, row) in task.rows.clone().step_by(mr).enumerate() {
                    let mut run = Run::EMPTY;
                    run.a[0] = a[i * panel(mr)..].as_ptr();
                    let rows = mr.min(task.rows.end - row);
                    let columns = nr.min(task.columns.end - column);
                    let mut block = Block::new(b[j * panel(nr)..].as_ptr(), init);
                    for (r, out) in block.out.iter_mut().enumerate().take(rows) {
                        let at = FREQUENCIES * (segment + row + r) + 4 * task.line + f;
                        *out = self.sums.at(at * plan.channels + column);
                    }
                    // SAFETY: packed panels hold `CHUNK >= chunk` steps; the rows of the sums are
                    // in bounds and belong to this task alone.
                    unsafe { micro::run(kernel, &[run], chunk, &block, (rows, columns)) };
                }
            }
        }
    }
}

/// A stretch of a pixel's channels, zeros outside the map.
fn pixel<'a>(map: Map<'a>, index: u32, part: &Range<usize>) -> &'a [f32] {
    match index {
        NONE => &ZEROS[..part.len()],
        index => &map.data[index as usize * map.ld..][part.clone()],
    }
}

vectorised! {
    /// A row of four frequencies of x, from two pixel rows of a tile.
    fn spread(d: &[[&[f32]; 2]; 4], sign: f32, len: usize, out: &mut [[f32; COLUMNS]; 4]) {
        let d = d.map(|rows| rows.map(|row| &row[..len]));
        let [o0, o1, o2, o3] = out.each_mut().map(|line| &mut line[..len]);
        for c in 0..len {
            let t = d.map(|[above, below]| above[c] + sign * below[c]);
            o0[c] = t[0] - t[2];
            o1[c] = t[1] + t[2];
            o2[c] = t[2] - t[1];
            o3[c] = t[1] - t[3];
        }
    }

    /// A row of four frequencies of dy, from two pixel rows of a tile.
    fn widen(d: &[[&[f32]; 2]; 2], sign: f32, len: usize, out: &mut [[f32; COLUMNS]; 4]) {
        let d = d.map(|rows| rows.map(|row| &row[..len]));
        let [o0, o1, o2, o3] = out.each_mut().map(|line| &mut line[..len]);
        for c in 0..len {
            let t = d.map(|[above, below]| above[c] + sign * below[c]);
            o0[c] = t[0];
            o1[c] = t[0] + t[1];
            o2[c] = t[0] - t[1];
            o3[c] = -t[1];
        }
    }

    /// `Gᵀ m G`.
    fn back(m: &[[f32; FOLD]; 16], taps: &mut [[f32; FOLD]; 9]) {
        for c in 0..FOLD {
            let mut lines = [[0.0f32; 3]; 4];
            for (i, line) in lines.iter_mut().enumerate() {
                *line = narrow([m[4 * i][c], m[4 * i + 1][c], m[4 * i + 2][c], m[4 * i + 3][c]]);
            }
            for j in 0..3 {
                let column = narrow([lines[0][j], lines[1][j], lines[2][j], lines[3][j]]);
                for (i, value) in column.into_iter().enumerate() {
                    taps[3 * i + j][c] = value;
                }
            }
        }
    }
}

/// `Gᵀ m` of four values.
#[inline(always)]
fn narrow(m: [f32; 4]) -> [f32; 3] {
    let (sum, difference) = (0.5 * (m[1] + m[2]), 0.5 * (m[1] - m[2]));
    [m[0] + sum, difference, sum + m[3]]
}

/// Whether tiles cost less than the direct sum, by multiply-adds for each pair of a row and a
/// column of `dw`: the pixels whose tap hits the map, against 16 a tile, transforming and packing
/// x and dy (shared by the rows and columns of a task), and taking the sums back. The weights of
/// the sum are fitted to times of single layers with AVX-512, not derived.
fn cheaper(tiles: &Tiles, geometry: &Geometry, channels: usize, outputs: usize) -> bool {
    const TRANSFORM: f64 = 650.0;
    const FOLD: f64 = 100.0;
    if channels < 16 || outputs < 16 {
        return false;
    }
    let packing = 1.0 / outputs.min(ROWS) as f64 + 1.0 / channels.min(COLUMNS) as f64;
    let tiled = tiles.count() as f64 * (16.0 + TRANSFORM * packing) + FOLD;
    tiled < geometry.live(1) as f64
}
