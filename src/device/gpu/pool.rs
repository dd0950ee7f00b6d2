//! Launchers of `kernels/pool.cu`.

use super::Launcher;
use super::kernels::{
    self, AveragePoolArgs, AveragePoolBackwardArgs, Kernel, MaxPoolArgs, MaxPoolBackwardArgs,
    PoolGeometry,
};
use super::planes::{Stand, image_grid, lanes, plane, same_dtype, vectorised};
use crate::device::op::Window;
use crate::device::{DType, View};
use crate::error::Result;

/// Threads along the channels of the average, at most: 128 bytes, and blocks enough.
const AVERAGE_LANES: usize = 8;

/// The f32 or the bf16 kernel, by a map's type.
fn of_type<A>(cx: &Launcher, map: &View, f32s: Kernel<A>, bf16s: Kernel<A>) -> Result<Kernel<A>> {
    match map.dtype {
        DType::F32 => Ok(f32s),
        DType::BF16 => Ok(bf16s),
        _ => Err(cx.wrong(&format!("expected a float map, got {map:?}"))),
    }
}

/// The pooling of `x` to `y`, whose taps are `tap`.
fn geometry(
    cx: &Launcher,
    side: usize,
    window: Window,
    [x, y, tap]: [&View; 3],
) -> Result<PoolGeometry> {
    let ([n, h, w, c], [_, oh, ow, _]) = (x.shape, y.shape);
    if y.shape != [n, oh, ow, c] || tap.shape != y.shape {
        return Err(cx.wrong(&format!("{x:?} to {y:?} with taps {tap:?}")));
    }
    cx.ptr(tap, DType::U8)?;
    let Window {
        stride,
        padding,
        dilation,
    } = window;
    let fits = |input: usize, output: usize| {
        output == 0 || (output - 1).saturating_mul(stride) < input + padding
    };
    // Taps are bytes.
    let sound = stride > 0 && side <= 16 && padding < side && dilation == 1;
    if !sound || !fits(h, oh) || !fits(w, ow) {
        return Err(cx.wrong(&format!("window {side} {window:?} from {x:?} to {y:?}")));
    }
    Ok(PoolGeometry {
        in_h: cx.size(h)?,
        in_w: cx.size(w)?,
        out_h: cx.size(oh)?,
        out_w: cx.size(ow)?,
        channels: cx.size(c)?,
        size: side as u32,
        stride: cx.size(stride)?,
        padding: padding as u32,
        items: 0,
    })
}

/// Work of an image of `map`, its grid, and whether vectors of channels cover the maps.
fn spread(cx: &Launcher, map: &View, maps: &[&View]) -> Result<(u32, [usize; 3], bool)> {
    let width = lanes(map);
    let vector = vectorised(maps, width);
    let [n, h, w, c] = map.shape;
    let items = h * w * (c / if vector { width } else { 1 });
    Ok((cx.size(items)?, image_grid(cx, items, n)?, vector))
}

/// [`crate::device::Op::MaxPool`]: f32 or bf16 maps, u8 taps.
pub(super) fn max_pool(cx: &Launcher, side: usize, window: Window) -> Result<()> {
    let (x, y, tap) = (cx.input(0)?, cx.output(0)?, cx.output(1)?);
    same_dtype(cx, &[x, y])?;
    let g = geometry(cx, side, window, [x, y, tap])?;
    let (items, grid, vector) = spread(cx, y, &[x, y, tap])?;
    let args = MaxPoolArgs {
        g: PoolGeometry { items, ..g },
        x: plane(cx, x)?,
        y: plane(cx, y)?,
        tap: plane(cx, tap)?,
        vector: u32::from(vector),
    };
    let kernel = of_type(cx, x, kernels::MAX_POOL_F32, kernels::MAX_POOL_BF16)?;
    cx.launch(kernel, grid, 0, &args)
}

/// [`crate::device::Op::MaxPoolBackward`]: f32 or bf16 maps, u8 taps.
pub(super) fn max_pool_backward(cx: &Launcher, side: usize, window: Window) -> Result<()> {
    let (dy, tap, dx) = (cx.input(0)?, cx.input(1)?, cx.output(0)?);
    same_dtype(cx, &[dy, dx])?;
    let g = geometry(cx, side, window, [dx, dy, tap])?;
    let (items, grid, vector) = spread(cx, dx, &[dy, tap, dx])?;
    let args = MaxPoolBackwardArgs {
        g: PoolGeometry { items, ..g },
        dy: plane(cx, dy)?,
        tap: plane(cx, tap)?,
        dx: plane(cx, dx)?,
        vector: u32::from(vector),
        accumulate: u32::from(cx.call.accumulates(0)),
        pad: 0,
    };
    let kernel = of_type(
        cx,
        dy,
        kernels::MAX_POOL_BACKWARD_F32,
        kernels::MAX_POOL_BACKWARD_BF16,
    )?;
    cx.launch(kernel, grid, 0, &args)
}

/// Fails unless `mean` is `[N, 1, 1, C]` for the map `map`, which has pixels.
fn check_mean(cx: &Launcher, map: &View, mean: &View) -> Result<()> {
    same_dtype(cx, &[map, mean])?;
    let [n, _, _, c] = map.shape;
    if mean.shape != [n, 1, 1, c] || map.elements() == 0 {
        return Err(cx.wrong(&format!("the mean of {map:?} is not {mean:?}")));
    }
    Ok(())
}

/// [`crate::device::Op::GlobalAvgPool`]: f32 or bf16 maps.
pub(super) fn global_avg_pool(cx: &Launcher) -> Result<()> {
    let (x, y) = (cx.input(0)?, cx.output(0)?);
    check_mean(cx, x, y)?;
    let [n, h, w, c] = x.shape;
    let stand = Stand::with_lanes(&[x, y], AVERAGE_LANES);
    let args = AveragePoolArgs {
        x: plane(cx, x)?,
        y: plane(cx, y)?,
        area: (h * w) as u64,
        channels: cx.size(c)?,
        lanes_log2: stand.lanes_log2,
        vector: u32::from(stand.vector),
        pad: 0,
    };
    let kernel = of_type(
        cx,
        x,
        kernels::GLOBAL_AVG_POOL_F32,
        kernels::GLOBAL_AVG_POOL_BF16,
    )?;
    cx.launch(kernel, [1, stand.channel_blocks, n], 0, &args)
}

/// [`crate::device::Op::GlobalAvgPoolBackward`]: f32 or bf16 maps.
pub(super) fn global_avg_pool_backward(cx: &Launcher) -> Result<()> {
    let (dy, dx) = (cx.input(0)?, cx.output(0)?);
    check_mean(cx, dx, dy)?;
    let [n, h, w, c] = dx.shape;
    let stand = Stand::new(&[dx, dy]);
    let args = AveragePoolBackwardArgs {
        dy: plane(cx, dy)?,
        dx: plane(cx, dx)?,
        area: (h * w) as u64,
        channels: cx.size(c)?,
        lanes_log2: stand.lanes_log2,
        share: 1.0 / (h * w) as f32,
        vector: u32::from(stand.vector),
        accumulate: u32::from(cx.call.accumulates(0)),
        pad: 0,
    };
    let kernel = of_type(
        cx,
        dx,
        kernels::GLOBAL_AVG_POOL_BACKWARD_F32,
        kernels::GLOBAL_AVG_POOL_BACKWARD_BF16,
    )?;
    let blocks = stand.pixel_blocks(&cx.limits(), h * w, n);
    cx.launch(kernel, [blocks, stand.channel_blocks, n], 0, &args)
}
