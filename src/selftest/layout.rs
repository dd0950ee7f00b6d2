//! Where the operands of a case lie in one arena, and what lies around them.
//!
//! Memory that the call may not write holds a canary; memory that it may not read before writing
//! it holds NaN. Everything outside the outputs must be the same bytes after the call.

use super::{Case, Operand};
use crate::device::{ArenaId, DType, View};

/// Fills what nobody may write.
pub(super) const CANARY: u8 = 0xA5;
/// Fills what nobody may read; NaN in f32 and bf16.
pub(super) const NAN: u8 = 0xFF;
/// Least distance between two operands.
const MARGIN_BYTES: usize = 64;
const ALIGN_BYTES: usize = 256;

/// One case's operands in an arena that starts as `image`.
pub(super) struct Layout {
    pub(super) ins: Vec<View>,
    pub(super) outs: Vec<View>,
    pub(super) image: Vec<u8>,
}

/// As the oracle sees an operand, or as the device under test does.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Side {
    Oracle,
    Device,
}

impl Layout {
    /// `shift` decides how far off alignment each operand starts; 0 aligns all.
    pub(super) fn new(case: &Case, side: Side, shift: u64) -> Self {
        let mut layout = Self {
            ins: Vec::new(),
            outs: Vec::new(),
            image: vec![CANARY; ALIGN_BYTES],
        };
        for (i, operand) in case.ins.iter().enumerate() {
            let view = layout.place(operand, side, off_by(shift, i), true);
            layout.ins.push(view);
        }
        for (i, operand) in case.outs.iter().enumerate() {
            let view = match case.alias(i) {
                Some(input) => layout.ins[input],
                None => layout.place(operand, side, off_by(shift, i + case.ins.len()), false),
            };
            layout.outs.push(view);
        }
        layout
    }

    fn place(&mut self, operand: &Operand, side: Side, off: usize, input: bool) -> View {
        let dtype = match (side, operand.dtype) {
            (Side::Oracle, DType::BF16) => DType::F32,
            (_, dtype) => dtype,
        };
        let size = dtype.bytes();
        let offset = self.image.len() + off * size;
        let mut view = View::dense(ArenaId(0), offset, operand.shape, dtype);
        view.ld += operand.gap;
        let end = offset + view.span_bytes();
        let next = (end + MARGIN_BYTES).next_multiple_of(ALIGN_BYTES);
        self.image.resize(next, CANARY);
        if view.elements() == 0 {
            return view;
        }
        // A gap of an input must not be read, one of an output must not be written.
        let own = &mut self.image[offset..end];
        own.fill(if input { NAN } else { CANARY });
        let data = operand.data.as_ref().map(|bytes| match side {
            Side::Oracle => widened(bytes, operand.dtype),
            Side::Device => bytes.clone(),
        });
        let blank = match (side, dtype) {
            (Side::Device, DType::F32 | DType::BF16) => NAN,
            _ => CANARY,
        };
        let (row, step) = (view.channels() * size, view.ld * size);
        for (pixel, to) in own.chunks_mut(step).enumerate() {
            match &data {
                Some(bytes) => to[..row].copy_from_slice(&bytes[pixel * row..][..row]),
                None => to[..row].fill(blank),
            }
        }
        view
    }

    /// Gives every view its arena.
    pub(super) fn bind(&mut self, arena: ArenaId) {
        for view in self.ins.iter_mut().chain(&mut self.outs) {
            view.arena = arena;
        }
    }

    /// Fails when `after` differs from the first image anywhere outside the outputs.
    pub(super) fn untouched(&self, after: &[u8]) -> Result<(), String> {
        let mut expected = self.image.clone();
        for view in &self.outs {
            each_pixel(view, |_, range| {
                expected[range.clone()].copy_from_slice(&after[range]);
            });
        }
        match expected.iter().zip(after).position(|(a, b)| a != b) {
            None => Ok(()),
            Some(at) => Err(self.locate(at)),
        }
    }

    /// Says what lies at a byte of the arena that a call should not have written.
    fn locate(&self, at: usize) -> String {
        let operands = (self.ins.iter().map(|v| ("input", v)).enumerate())
            .chain(self.outs.iter().map(|v| ("output", v)).enumerate());
        let mut nearest = "wrote before the first operand".to_string();
        for (i, (what, view)) in operands {
            let Some(bytes) = at.checked_sub(view.offset) else {
                continue;
            };
            let element = bytes / view.dtype.bytes();
            let (pixel, channel) = (element / view.ld.max(1), element % view.ld.max(1));
            if bytes < view.span_bytes() {
                let gap = if channel < view.channels() {
                    ""
                } else {
                    " (in the gap between pixels)"
                };
                return format!("wrote to {what} {i}, pixel {pixel} channel {channel}{gap}");
            }
            let past = bytes - view.span_bytes();
            nearest =
                format!("wrote outside the operands, {past} bytes past the end of {what} {i}");
        }
        nearest
    }
}

/// Calls `f` with each pixel's number and the bytes of its channels.
pub(super) fn each_pixel(view: &View, mut f: impl FnMut(usize, std::ops::Range<usize>)) {
    let size = view.dtype.bytes();
    for pixel in 0..view.pixels() {
        let start = view.offset + pixel * view.ld * size;
        f(pixel, start..start + view.channels() * size);
    }
}

/// The elements of a view without gaps.
pub(super) fn packed(view: &View, image: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(view.elements() * view.dtype.bytes());
    each_pixel(view, |_, range| bytes.extend_from_slice(&image[range]));
    bytes
}

/// bf16 as f32; the other types as they are.
pub(super) fn widened(bytes: &[u8], dtype: DType) -> Vec<u8> {
    if dtype != DType::BF16 {
        return bytes.to_vec();
    }
    let halves: Vec<half::bf16> = bytemuck::pod_collect_to_vec(bytes);
    let wide: Vec<f32> = halves.into_iter().map(half::bf16::to_f32).collect();
    bytemuck::cast_slice(&wide).to_vec()
}

/// Elements that operand `i` starts off alignment: none for half of them.
fn off_by(shift: u64, i: usize) -> usize {
    if shift == 0 {
        return 0;
    }
    let words = crate::device::philox::Rng::seeded(shift, 0, 0).block(i as u64);
    if words[0] >> 31 == 0 {
        0
    } else {
        1 + words[1] as usize % 15
    }
}
