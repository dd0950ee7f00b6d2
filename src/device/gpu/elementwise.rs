//! Launchers of `kernels/elementwise.cu`.

use super::Launcher;
use super::driver::Ptr;
use super::kernels::{self, DropoutArgs, FillArgs, LerpArgs, MapArgs, ReluBackwardArgs};
use super::planes::{
    Stand, lanes, optional, plane, refuse_accumulate, runs, same_dtype, same_shape,
};
use crate::device::{DType, View};
use crate::error::Result;

/// Elements of a vector where f32 and bf16 meet: 16 bytes of the one, 8 of the other.
const MIXED: usize = 4;

/// [`crate::device::Op::Fill`]: any type, any layout.
pub(super) fn fill(cx: &Launcher, value: f32) -> Result<()> {
    let out = cx.output(0)?;
    let (kernel, bits) = match out.dtype {
        DType::F32 => (kernels::FILL_4, value.to_bits()),
        DType::U32 => (kernels::FILL_4, value as u32),
        DType::BF16 => (
            kernels::FILL_2,
            u32::from(half::bf16::from_f32(value).to_bits()) * 0x1_0001,
        ),
        DType::U8 => (kernels::FILL_1, u32::from(value as u8) * 0x0101_0101),
    };
    let runs = runs(&[out], lanes(out));
    let args = FillArgs {
        out: plane(cx, out)?,
        rows: runs.rows,
        len: runs.len,
        bits,
        vector: runs.vector,
    };
    cx.launch(kernel, cx.stride_grid(&kernel, runs.items), 0, &args)
}

/// A kernel from one map to another, `width` elements a vector.
fn map(
    cx: &Launcher,
    kernel: kernels::Kernel<MapArgs>,
    x: &View,
    y: &View,
    width: usize,
) -> Result<()> {
    same_shape(cx, &[x, y])?;
    let runs = runs(&[x, y], width);
    let args = MapArgs {
        x: plane(cx, x)?,
        y: plane(cx, y)?,
        rows: runs.rows,
        len: runs.len,
        vector: runs.vector,
        pad: 0,
    };
    cx.launch(kernel, cx.stride_grid(&kernel, runs.items), 0, &args)
}

/// [`crate::device::Op::Copy`]: one type, or f32 and bf16 to each other; sums into f32 only.
pub(super) fn copy(cx: &Launcher) -> Result<()> {
    let (x, y) = (cx.input(0)?, cx.output(0)?);
    let (kernel, width) = match (x.dtype, y.dtype, cx.call.accumulates(0)) {
        (DType::F32, DType::F32, true) => (kernels::ADD_F32_F32, MIXED),
        (DType::BF16, DType::F32, true) => (kernels::ADD_BF16_F32, MIXED),
        (DType::F32, DType::BF16, false) => (kernels::COPY_F32_BF16, MIXED),
        (DType::BF16, DType::F32, false) => (kernels::COPY_BF16_F32, MIXED),
        (from, to, false) if from == to => match from {
            DType::F32 | DType::U32 => (kernels::COPY_4, lanes(x)),
            DType::BF16 => (kernels::COPY_2, lanes(x)),
            DType::U8 => (kernels::COPY_1, lanes(x)),
        },
        _ => return Err(cx.wrong(&format!("cannot copy or add {x:?} to {y:?}"))),
    };
    map(cx, kernel, x, y, width)
}

/// [`crate::device::Op::Relu`]: f32 or bf16 maps; `y` may be `x`.
pub(super) fn relu(cx: &Launcher) -> Result<()> {
    let (x, y) = (cx.input(0)?, cx.output(0)?);
    same_dtype(cx, &[x, y])?;
    let kernel = match x.dtype {
        DType::F32 => kernels::RELU_F32,
        DType::BF16 => kernels::RELU_BF16,
        _ => return Err(cx.wrong(&format!("expected a float map, got {x:?}"))),
    };
    map(cx, kernel, x, y, lanes(x))
}

/// [`crate::device::Op::ReluBackward`]: f32 or bf16 maps; `dx` may be `dy`.
pub(super) fn relu_backward(cx: &Launcher) -> Result<()> {
    let (dy, y, dx) = (cx.input(0)?, cx.input(1)?, cx.output(0)?);
    same_shape(cx, &[dy, y, dx])?;
    same_dtype(cx, &[dy, y, dx])?;
    refuse_accumulate(cx, 0, 0)?;
    let kernel = match dy.dtype {
        DType::F32 => kernels::RELU_BACKWARD_F32,
        DType::BF16 => kernels::RELU_BACKWARD_BF16,
        _ => return Err(cx.wrong(&format!("expected float maps, got {dy:?}"))),
    };
    let runs = runs(&[dy, y, dx], lanes(dy));
    let args = ReluBackwardArgs {
        dy: plane(cx, dy)?,
        y: plane(cx, y)?,
        dx: plane(cx, dx)?,
        rows: runs.rows,
        len: runs.len,
        vector: runs.vector,
        accumulate: u32::from(cx.call.accumulates(0)),
    };
    cx.launch(kernel, cx.stride_grid(&kernel, runs.items), 0, &args)
}

/// A scalar in device memory.
pub(super) fn scalar(cx: &Launcher, view: &View) -> Result<Ptr> {
    if view.elements() == 0 {
        return Err(cx.wrong("empty scalar operand"));
    }
    cx.ptr(view, DType::F32)
}

/// [`crate::device::Op::Lerp`]: f32 maps; the copy bf16.
pub(super) fn lerp(cx: &Launcher) -> Result<()> {
    let (src, m, dst) = (cx.input(0)?, cx.input(1)?, cx.output(0)?);
    let copy = cx.call.outs.get(1);
    let maps: Vec<&View> = [src, dst].into_iter().chain(copy).collect();
    same_shape(cx, &maps)?;
    same_dtype(cx, &[src, dst])?;
    cx.ptr(dst, DType::F32)?;
    if let Some(copy) = copy {
        cx.ptr(copy, DType::BF16)?;
    }
    let runs = runs(&maps, MIXED);
    let args = LerpArgs {
        src: plane(cx, src)?,
        dst: plane(cx, dst)?,
        copy: optional(cx, copy)?,
        m: scalar(cx, m)?,
        rows: runs.rows,
        len: runs.len,
        vector: runs.vector,
        pad: 0,
    };
    let kernel = kernels::LERP_F32;
    cx.launch(kernel, cx.stride_grid(&kernel, runs.items), 0, &args)
}

/// [`crate::device::Op::Dropout2d`]: f32 or bf16 maps; `y` may be `x`.
pub(super) fn dropout2d(cx: &Launcher, p: f32, stream: u32) -> Result<()> {
    let (x, rng, y) = (cx.input(0)?, cx.input(1)?, cx.output(0)?);
    same_shape(cx, &[x, y])?;
    same_dtype(cx, &[x, y])?;
    refuse_accumulate(cx, 0, 0)?;
    if rng.elements() < 4 {
        return Err(cx.wrong("random state has fewer than 4 words"));
    }
    let kernel = match x.dtype {
        DType::F32 => kernels::DROPOUT2D_F32,
        DType::BF16 => kernels::DROPOUT2D_BF16,
        _ => return Err(cx.wrong(&format!("expected a float map, got {x:?}"))),
    };
    let [images, h, w, channels] = x.shape;
    let stand = Stand::new(&[x, y]);
    let args = DropoutArgs {
        x: plane(cx, x)?,
        y: plane(cx, y)?,
        rng: cx.dense(rng, DType::U32)?,
        area: (h * w) as u64,
        channels: cx.size(channels)?,
        lanes_log2: stand.lanes_log2,
        vector: u32::from(stand.vector),
        accumulate: u32::from(cx.call.accumulates(0)),
        p,
        stream,
    };
    let blocks = stand.pixel_blocks(&cx.limits(), h * w, images);
    cx.launch(kernel, [blocks, stand.channel_blocks, images], 0, &args)
}
