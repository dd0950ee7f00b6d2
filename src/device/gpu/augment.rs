//! Launchers of `kernels/augment.cu`.

use super::Launcher;
use super::kernels::{self, AugmentArgs};
use crate::device::DType;
use crate::device::op::Augment;
use crate::error::Result;

/// [`crate::device::Op::Augment`].
pub(super) fn augment(cx: &Launcher, a: &Augment) -> Result<()> {
    let (images, labels, sizes, rng) = (cx.input(0)?, cx.input(1)?, cx.input(2)?, cx.input(3)?);
    let (x, label) = (cx.output(0)?, cx.output(1)?);
    let [n, height, width, _] = x.shape;
    let capacity = labels.channels();
    cx.want_shapes(&[
        (x, [n, height, width, 3]),
        (label, [n, height, width, 1]),
        (images, [n, 1, 1, 3 * capacity]),
        (labels, [n, 1, 1, capacity]),
        (sizes, [n, 1, 1, 2]),
        (rng, [1, 1, 1, 4]),
    ])?;
    let area = height * width;
    if area > 1 << 30 || capacity > 1 << 31 {
        return Err(cx.wrong("an image of more than 2^30 pixels"));
    }
    let args = AugmentArgs {
        images: cx.ptr(images, DType::U8)?,
        labels: cx.ptr(labels, DType::U8)?,
        sizes: cx.ptr(sizes, DType::U32)?,
        rng: cx.ptr(rng, DType::U32)?,
        x: cx.ptr(x, DType::F32)?,
        label: cx.ptr(label, DType::U8)?,
        image_ld: images.ld as u64,
        label_in_ld: labels.ld as u64,
        sizes_ld: sizes.ld as u64,
        x_ld: x.ld as u64,
        label_ld: label.ld as u64,
        capacity: capacity as u64,
        height: height as u32,
        width: width as u32,
        scale_min: a.scale.0,
        scale_max: a.scale.1,
        flip: a.flip,
        random_crop: u32::from(a.random_crop),
        mean: a.mean,
        std: a.std,
        pad_label: u32::from(a.pad_label),
        stream: a.stream,
    };
    let blocks = area.div_ceil(kernels::AUGMENT_PIXELS) * n;
    cx.launch(kernels::AUGMENT, [blocks, 1, 1], 0, &args)
}
