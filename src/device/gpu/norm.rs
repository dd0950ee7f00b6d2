//! Launchers of `kernels/norm.cu`.

use super::Launcher;
use super::driver::Ptr;
use super::kernels::{
    self, Kernel, NormApplyArgs, NormDxArgs, NormFinishArgs, NormGradientsArgs, NormMergeArgs,
    NormMomentsArgs, NormSumsArgs, NormTiles,
};
use super::planes::{Stand, THREADS, optional, plane, refuse_accumulate, same_dtype, same_shape};
use crate::device::op::MOMENT_PIXELS;
use crate::device::{DType, Op, View};
use crate::error::Result;

/// Blocks of a reduction, about: a few waves on any GPU. Not the machine's own number, so that
/// the order of a sum follows from the shape alone.
const REDUCTION_BLOCKS: usize = 1024;
/// Pixels that a thread of a reduction sums at least, where there are as many.
const THREAD_PIXELS: usize = 8;
/// Channels that a block of the finishing kernels takes: a warp each.
const MERGED_CHANNELS: usize = THREADS / 32;

const _: () = assert!(
    kernels::MOMENT_PIXELS == MOMENT_PIXELS,
    "the tiles of moments"
);

/// Chunks of a reduction over a map's pixels: (pixels of one, their number). They follow from
/// shape and type: the planner asks for a workspace before it knows where maps lie.
fn chunks(map: &View) -> (usize, usize) {
    let (stand, pixels) = (Stand::of_shape(map), map.pixels());
    let most = pixels.div_ceil(stand.step * THREAD_PIXELS);
    let splits = (REDUCTION_BLOCKS / stand.channel_blocks).max(1).min(most);
    let chunk = pixels.div_ceil(splits.max(1)).next_multiple_of(stand.step);
    (chunk, pixels.div_ceil(chunk))
}

/// Scratch of a reduction: two floats a chunk and channel, two more a channel.
fn scratch(map: &View) -> usize {
    let (_, splits) = chunks(map);
    map.channels() * 2 * (splits + 1) * size_of::<f32>()
}

/// Pixels whose moments a block merges.
const MERGED_PIXELS: usize = MOMENT_PIXELS * kernels::NORM_MERGE_TILES;

/// Chunks of [`Op::BatchNormMerge`], and the scratch for their moments.
fn merge_chunks(map: &View) -> (usize, usize) {
    let splits = map.pixels().div_ceil(MERGED_PIXELS);
    (splits, map.channels() * 2 * splits * size_of::<f32>())
}

/// The maps that the reduction of a call reads; the rest of it follows from them.
fn reduced<'a>(op: &Op, ins: &'a [View]) -> Vec<&'a View> {
    match op {
        Op::BatchNorm { .. } => ins.iter().take(1).collect(),
        // y is read for its sign alone.
        Op::BatchNormBackward { relu } => ins.iter().take(if *relu { 3 } else { 2 }).collect(),
        _ => Vec::new(),
    }
}

/// Scratch bytes of a call.
pub(super) fn workspace(op: &Op, ins: &[View]) -> usize {
    if let (Op::BatchNormMerge { .. }, Some(x)) = (op, ins.first()) {
        return merge_chunks(x).1;
    }
    match reduced(op, ins).first() {
        Some(map) if map.elements() > 0 => scratch(map),
        _ => 0,
    }
}

/// A reduction and where its results go.
struct Reduction {
    stand: Stand,
    tiles: NormTiles,
    partials: Ptr,
    /// Two floats a channel behind the partials.
    extra: Ptr,
}

impl Reduction {
    fn new(cx: &Launcher) -> Result<Self> {
        let maps = reduced(&cx.call.op, &cx.call.ins);
        let map = match maps.first() {
            Some(map) if map.elements() > 0 => *map,
            _ => return Err(cx.wrong("no pixels")),
        };
        let (pixels, channels) = (map.pixels(), map.channels());
        let stand = Stand::new(&maps);
        let (chunk, splits) = chunks(map);
        let (partials, bytes) = cx.workspace()?;
        if bytes < scratch(map) {
            let need = scratch(map);
            return Err(cx.wrong(&format!("a workspace of {bytes} bytes, {need} needed")));
        }
        Ok(Self {
            stand,
            tiles: NormTiles {
                pixels: pixels as u64,
                chunk: chunk as u64,
                channels: cx.size(channels)?,
                lanes_log2: stand.lanes_log2,
                splits: cx.size(splits)?,
                vector: u32::from(stand.vector),
            },
            partials,
            extra: partials.byte_add(channels * 2 * splits * size_of::<f32>()),
        })
    }

    fn grid(&self) -> [usize; 3] {
        [self.tiles.splits as usize, self.stand.channel_blocks, 1]
    }

    fn merge_grid(&self) -> [usize; 3] {
        [
            (self.tiles.channels as usize).div_ceil(MERGED_CHANNELS),
            1,
            1,
        ]
    }
}

/// Tiles and grid of a kernel that handles each pixel of these maps by itself.
fn pixelwise(cx: &Launcher, maps: &[&View]) -> Result<(NormTiles, [usize; 3])> {
    let stand = Stand::new(maps);
    let pixels = maps[0].pixels();
    let blocks = stand.pixel_blocks(&cx.limits(), pixels, 1);
    let chunk = pixels.div_ceil(blocks.max(1)).next_multiple_of(stand.step);
    let tiles = NormTiles {
        pixels: pixels as u64,
        chunk: chunk as u64,
        channels: cx.size(maps[0].channels())?,
        lanes_log2: stand.lanes_log2,
        splits: 0,
        vector: u32::from(stand.vector),
    };
    Ok((tiles, [pixels.div_ceil(chunk), stand.channel_blocks, 1]))
}

/// The f32 or the bf16 kernel, by a map's type.
fn of_type<A>(cx: &Launcher, map: &View, f32s: Kernel<A>, bf16s: Kernel<A>) -> Result<Kernel<A>> {
    match map.dtype {
        DType::F32 => Ok(f32s),
        DType::BF16 => Ok(bf16s),
        _ => Err(cx.wrong(&format!("expected a float map, got {map:?}"))),
    }
}

/// Address of a dense f32 vector of a map's channels.
fn vector(cx: &Launcher, view: &View, map: &View) -> Result<Ptr> {
    if view.elements() != map.channels() {
        return Err(cx.wrong(&format!(
            "expected {} channels, got {view:?}",
            map.channels()
        )));
    }
    cx.dense(view, DType::F32)
}

/// [`Op::BatchNorm`]: maps f32 or bf16, vectors f32; `y` may be `x` or `residual`.
pub(super) fn train(cx: &Launcher, eps: f32, momentum: f32, relu: bool) -> Result<()> {
    let (x, mean, inv_std) = (cx.input(0)?, cx.output(1)?, cx.output(2)?);
    let reduction = Reduction::new(cx)?;
    let first = reduction.extra;
    let kernel = of_type(
        cx,
        x,
        kernels::BATCH_NORM_MOMENTS_F32,
        kernels::BATCH_NORM_MOMENTS_BF16,
    )?;
    let moments = NormMomentsArgs {
        tiles: reduction.tiles,
        x: plane(cx, x)?,
        partials: reduction.partials,
        first,
    };
    let finish = NormFinishArgs {
        tiles: reduction.tiles,
        partials: reduction.partials,
        first,
        mean: vector(cx, mean, x)?,
        inv_std: vector(cx, inv_std, x)?,
        running_mean: vector(cx, cx.output(3)?, x)?,
        running_var: vector(cx, cx.output(4)?, x)?,
        eps,
        momentum,
    };
    cx.launch(kernel, reduction.grid(), 0, &moments)?;
    let grid = reduction.merge_grid();
    cx.launch(kernels::BATCH_NORM_FINISH, grid, 0, &finish)?;
    let kernels = [
        kernels::BATCH_NORM_APPLY_F32,
        kernels::BATCH_NORM_APPLY_BF16,
    ];
    apply(cx, kernels, [mean, inv_std], 3, eps, relu)
}

/// [`Op::BatchNormMerge`]: maps f32 or bf16, vectors f32; `y` may be `x` or `residual`.
pub(super) fn merge(cx: &Launcher, eps: f32, momentum: f32, relu: bool) -> Result<()> {
    let (x, moments) = (cx.input(0)?, cx.input(3)?);
    let (mean, inv_std) = (cx.output(1)?, cx.output(2)?);
    let (pixels, channels) = (x.pixels(), x.channels());
    if x.elements() == 0 {
        return Err(cx.wrong("no pixels"));
    }
    let shape = [1, 1, pixels.div_ceil(MOMENT_PIXELS), 2 * channels];
    cx.want_shapes(&[(moments, shape)])?;
    let (splits, need) = merge_chunks(x);
    let (partials, bytes) = cx.workspace()?;
    if bytes < need {
        return Err(cx.wrong(&format!("a workspace of {bytes} bytes, {need} needed")));
    }
    let tiles = NormTiles {
        pixels: pixels as u64,
        chunk: MERGED_PIXELS as u64,
        channels: cx.size(channels)?,
        lanes_log2: 0,
        splits: cx.size(splits)?,
        vector: 0,
    };
    let finish = NormFinishArgs {
        tiles,
        partials,
        first: Ptr::NULL,
        mean: vector(cx, mean, x)?,
        inv_std: vector(cx, inv_std, x)?,
        running_mean: vector(cx, cx.output(3)?, x)?,
        running_var: vector(cx, cx.output(4)?, x)?,
        eps,
        momentum,
    };
    let columns = channels.div_ceil(kernels::NORM_MERGE_CHANNELS);
    let args = NormMergeArgs {
        finish,
        moments: cx.dense(moments, DType::F32)?,
        tickets: cx.tickets(columns)?,
    };
    cx.launch(kernels::BATCH_NORM_MERGE, [splits, columns, 1], 0, &args)?;
    let kernels = [
        kernels::BATCH_NORM_APPLY_F32,
        kernels::BATCH_NORM_APPLY_BF16,
    ];
    apply(cx, kernels, [mean, inv_std], 4, eps, relu)
}

/// [`Op::BatchNormEval`]: maps f32 or bf16, vectors f32; `y` may be `x` or `residual`.
pub(super) fn eval(cx: &Launcher, eps: f32, relu: bool) -> Result<()> {
    let kernels = [kernels::BATCH_NORM_EVAL_F32, kernels::BATCH_NORM_EVAL_BF16];
    apply(cx, kernels, [cx.input(3)?, cx.input(4)?], 5, eps, relu)
}

/// Normalises by a mean and a spread, adds input `residual` where there is one.
fn apply(
    cx: &Launcher,
    [f32s, bf16s]: [Kernel<NormApplyArgs>; 2],
    [mean, spread]: [&View; 2],
    residual: usize,
    eps: f32,
    relu: bool,
) -> Result<()> {
    let (x, y) = (cx.input(0)?, cx.output(0)?);
    let residual = cx.call.ins.get(residual);
    let maps: Vec<&View> = [x, y].into_iter().chain(residual).collect();
    same_shape(cx, &maps)?;
    same_dtype(cx, &maps)?;
    if x.elements() == 0 {
        return Ok(());
    }
    let (tiles, grid) = pixelwise(cx, &maps)?;
    let args = NormApplyArgs {
        tiles,
        x: plane(cx, x)?,
        residual: optional(cx, residual)?,
        y: plane(cx, y)?,
        gamma: vector(cx, cx.input(1)?, x)?,
        beta: vector(cx, cx.input(2)?, x)?,
        mean: vector(cx, mean, x)?,
        spread: vector(cx, spread, x)?,
        eps,
        relu: u32::from(relu),
    };
    cx.launch(of_type(cx, x, f32s, bf16s)?, grid, 0, &args)
}

/// [`Op::BatchNormBackward`]: maps f32 or bf16, vectors f32; `dx` or `dresidual` may be `dy`.
pub(super) fn backward(cx: &Launcher, relu: bool) -> Result<()> {
    let (dy, x, y, dx) = (cx.input(0)?, cx.input(1)?, cx.input(2)?, cx.output(0)?);
    let dresidual = cx.call.outs.get(3);
    let maps: Vec<&View> = [dy, x, y, dx].into_iter().chain(dresidual).collect();
    same_shape(cx, &maps)?;
    same_dtype(cx, &maps)?;
    refuse_accumulate(cx, 0, 0)?;
    refuse_accumulate(cx, 3, 0)?;
    let reduction = Reduction::new(cx)?;
    let coefficients = reduction.extra;
    let (mean, inv_std) = (vector(cx, cx.input(4)?, x)?, vector(cx, cx.input(5)?, x)?);
    let sums = NormSumsArgs {
        tiles: reduction.tiles,
        dy: plane(cx, dy)?,
        x: plane(cx, x)?,
        y: plane(cx, y)?,
        mean,
        partials: reduction.partials,
        relu: u32::from(relu),
        pad: 0,
    };
    let gradients = NormGradientsArgs {
        tiles: reduction.tiles,
        partials: reduction.partials,
        inv_std,
        dgamma: vector(cx, cx.output(1)?, x)?,
        dbeta: vector(cx, cx.output(2)?, x)?,
        coefficients,
        add_dgamma: u32::from(cx.call.accumulates(1)),
        add_dbeta: u32::from(cx.call.accumulates(2)),
    };
    let (tiles, grid) = pixelwise(cx, &maps)?;
    let gradient = NormDxArgs {
        tiles,
        dy: sums.dy,
        x: sums.x,
        y: sums.y,
        dx: plane(cx, dx)?,
        dresidual: optional(cx, dresidual)?,
        gamma: vector(cx, cx.input(3)?, x)?,
        mean,
        inv_std,
        coefficients,
        relu: u32::from(relu),
        add_dx: u32::from(cx.call.accumulates(0)),
        add_dresidual: u32::from(cx.call.accumulates(3)),
        pad: 0,
    };
    let sum = of_type(
        cx,
        dy,
        kernels::BATCH_NORM_SUMS_F32,
        kernels::BATCH_NORM_SUMS_BF16,
    )?;
    let write = of_type(
        cx,
        dy,
        kernels::BATCH_NORM_DX_F32,
        kernels::BATCH_NORM_DX_BF16,
    )?;
    cx.launch(sum, reduction.grid(), 0, &sums)?;
    let merge = reduction.merge_grid();
    cx.launch(kernels::BATCH_NORM_GRADIENTS, merge, 0, &gradients)?;
    cx.launch(write, grid, 0, &gradient)
}
