//! Launchers of `kernels/resize.cu`.

use super::Launcher;
use super::kernels::{self, ResizeArgs, ResizeAxis};
use super::planes::{image_grid, lanes, plane, same_dtype, vectorised};
use crate::device::{DType, View};
use crate::error::Result;

/// Longest axis that the backward's search for readers is exact for.
const MAX_SIDE: usize = 1 << 20;

/// An axis resized from `input` to `output` pixels; the scale in f32, as PyTorch has it.
fn axis(cx: &Launcher, input: usize, output: usize) -> Result<ResizeAxis> {
    if input == 0 || output == 0 || input.max(output) > MAX_SIDE {
        return Err(cx.wrong(&format!("{input} pixels to {output}")));
    }
    let scale = match output {
        1 => 0.0,
        _ => (input - 1) as f32 / (output - 1) as f32,
    };
    Ok(ResizeAxis {
        input: input as u32,
        output: output as u32,
        scale,
        inverse: if scale > 0.0 { 1.0 / scale } else { 0.0 },
    })
}

/// Arguments for a resize of `small` to `large` (or the gradient's way back) and how many channels
/// a thread takes.
fn arguments(
    cx: &Launcher,
    [from, to]: [&View; 2],
    [x, y]: [&View; 2],
) -> Result<(ResizeArgs, usize)> {
    same_dtype(cx, &[x, y])?;
    let ([n, h, w, c], [_, oh, ow, _]) = (x.shape, y.shape);
    if y.shape != [n, oh, ow, c] {
        return Err(cx.wrong(&format!("{x:?} to {y:?}")));
    }
    let vector = vectorised(&[x, y], lanes(x));
    let args = ResizeArgs {
        from: plane(cx, from)?,
        to: plane(cx, to)?,
        rows: axis(cx, h, oh)?,
        columns: axis(cx, w, ow)?,
        channels: cx.size(c)?,
        vector: u32::from(vector),
        accumulate: u32::from(cx.call.accumulates(0)),
        items: 0,
    };
    Ok((args, c / if vector { lanes(x) } else { 1 }))
}

/// [`crate::device::Op::Resize`]: f32 or bf16 maps.
pub(super) fn resize(cx: &Launcher) -> Result<()> {
    let (x, y) = (cx.input(0)?, cx.output(0)?);
    let (mut args, groups) = arguments(cx, [x, y], [x, y])?;
    let [n, oh, ow, _] = y.shape;
    let items = oh * ow.div_ceil(kernels::RESIZE_RUN) * groups;
    args.items = cx.size(items)?;
    let kernel = match x.dtype {
        DType::F32 => kernels::RESIZE_F32,
        DType::BF16 => kernels::RESIZE_BF16,
        _ => return Err(cx.wrong(&format!("expected a float map, got {x:?}"))),
    };
    cx.launch(kernel, image_grid(cx, items, n)?, 0, &args)
}

/// [`crate::device::Op::ResizeBackward`]: f32 or bf16 maps.
pub(super) fn resize_backward(cx: &Launcher) -> Result<()> {
    let (dy, dx) = (cx.input(0)?, cx.output(0)?);
    let (mut args, groups) = arguments(cx, [dy, dx], [dx, dy])?;
    let [n, h, w, _] = dx.shape;
    let items = h * w * groups;
    args.items = cx.size(items)?;
    let kernel = match dx.dtype {
        DType::F32 => kernels::RESIZE_BACKWARD_F32,
        DType::BF16 => kernels::RESIZE_BACKWARD_BF16,
        _ => return Err(cx.wrong(&format!("expected a float map, got {dx:?}"))),
    };
    cx.launch(kernel, image_grid(cx, items, n)?, 0, &args)
}
