//! Launchers of `kernels/elementwise.cu`.

use super::Launcher;
use super::kernels::{self, FillArgs};
use crate::device::DType;
use crate::error::Result;

/// [`crate::device::Op::Fill`].
pub(super) fn fill(cx: &Launcher, value: f32) -> Result<()> {
    let out = cx.output(0)?;
    let (kernel, bits) = match out.dtype {
        DType::F32 => (kernels::FILL_4, value.to_bits()),
        DType::U32 => (kernels::FILL_4, value as u32),
        DType::BF16 => (
            kernels::FILL_2,
            u32::from(half::bf16::from_f32(value).to_bits()),
        ),
        DType::U8 => (kernels::FILL_1, u32::from(value as u8)),
    };
    let args = FillArgs {
        out: cx.map(out)?,
        bits,
        pad: 0,
    };
    cx.launch(kernel, cx.stride_grid(&kernel, out.elements()), 0, &args)
}

pub(super) fn copy(cx: &Launcher) -> Result<()> {
    Err(cx.wrong("has no launcher"))
}

pub(super) fn lerp(cx: &Launcher) -> Result<()> {
    Err(cx.wrong("has no launcher"))
}

pub(super) fn relu(cx: &Launcher) -> Result<()> {
    Err(cx.wrong("has no launcher"))
}

pub(super) fn relu_backward(cx: &Launcher) -> Result<()> {
    Err(cx.wrong("has no launcher"))
}

pub(super) fn dropout2d(cx: &Launcher, _p: f32, _stream: u32) -> Result<()> {
    Err(cx.wrong("has no launcher"))
}
