//! One axis of a convolution as the kernels see it (`kernels/include/conv/geometry.cuh`): which
//! source pixel each tap of each position reads.

use crate::device::gpu::kernels::ConvAxis;
use crate::device::op::Window;

/// One axis of the forward pass or of the weight gradient: `source` pixels in, `size` out.
pub(super) fn forward(window: Window, size: u32, source: u32, taps: u32) -> ConvAxis {
    ConvAxis {
        count: size,
        start: 0,
        step: 1,
        size,
        source,
        taps,
        first_tap: 0,
        tap_step: 1,
        scale: window.stride as i32,
        offset: -(window.padding as i32),
        offset_step: window.dilation as i32,
        pad: 0,
    }
}

/// One phase of one axis of the data gradient: the destination pixels that are `phase` modulo the
/// stride. Pixel `i` is read by output `(i + padding − r·dilation) / stride` through tap `r` where
/// that divides: the taps of a phase are `first, first + stride/gcd(stride, dilation), …`.
pub(super) fn phase(window: Window, phase: u32, size: u32, source: u32, kernel: u32) -> ConvAxis {
    let Window {
        stride,
        padding,
        dilation,
    } = window;
    let (stride, dilation) = (stride as i64, dilation as i64);
    let strided = |tap: u32| i64::from(phase) + padding as i64 - i64::from(tap) * dilation;
    let tap_step = (stride / gcd(stride, dilation)) as u32;
    let first = (0..kernel.min(tap_step)).find(|&tap| strided(tap) % stride == 0);
    let (first_tap, taps) = first.map_or((0, 0), |f| (f, (kernel - f).div_ceil(tap_step)));
    ConvAxis {
        count: size.saturating_sub(phase).div_ceil(stride as u32),
        start: phase,
        step: stride as u32,
        size,
        source,
        taps,
        first_tap,
        tap_step,
        scale: 1,
        offset: (strided(first_tap).div_euclid(stride)) as i32,
        offset_step: -((i64::from(tap_step) * dilation / stride) as i32),
        pad: 0,
    }
}

fn gcd(a: i64, b: i64) -> i64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn windows() -> impl Iterator<Item = Window> {
        let range = (1..5).flat_map(|stride| (0..5).map(move |padding| (stride, padding)));
        range.flat_map(|(stride, padding)| {
            (1..7).map(move |dilation| Window {
                stride,
                padding,
                dilation,
            })
        })
    }

    /// Every (destination, weight tap, source) that an axis reads.
    fn reads(a: &ConvAxis) -> Vec<(u32, u32, i64)> {
        let mut all = Vec::new();
        for v in 0..a.count {
            for i in 0..a.taps {
                let source = i64::from(v) * i64::from(a.scale)
                    + i64::from(a.offset)
                    + i64::from(i) * i64::from(a.offset_step);
                if (0..i64::from(a.source)).contains(&source) {
                    all.push((a.start + v * a.step, a.first_tap + i * a.tap_step, source));
                }
            }
        }
        all
    }

    /// The phases of the data gradient read exactly what the forward pass read, turned around, and
    /// their pixels are all pixels, once.
    #[test]
    fn phases_are_the_transpose() {
        for w in windows() {
            for (size, kernel) in [(1u32, 1u32), (5, 3), (9, 3), (8, 7), (13, 2), (4, 1)] {
                let reach = w.dilation as u32 * (kernel - 1) + 1;
                let Some(room) = (size + 2 * w.padding as u32).checked_sub(reach) else {
                    continue;
                };
                let out = room / w.stride as u32 + 1;
                let mut wanted: Vec<(u32, u32, i64)> = reads(&forward(w, out, size, kernel))
                    .into_iter()
                    .map(|(y, tap, x)| (x as u32, tap, i64::from(y)))
                    .collect();
                let phases: Vec<_> = (0..w.stride as u32)
                    .map(|p| phase(w, p, size, out, kernel))
                    .collect();
                let mut found: Vec<_> = phases.iter().flat_map(reads).collect();
                wanted.sort_unstable();
                found.sort_unstable();
                assert_eq!(wanted, found, "{w:?} size {size} kernel {kernel}");
                let pixels: u32 = phases.iter().map(|a| a.count).sum();
                assert_eq!(pixels, size);
            }
        }
    }
}
