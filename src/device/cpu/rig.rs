//! What the unit tests of the operations share: operands on a device, random data, references.

use super::super::op::Op;
use super::super::philox::Rng;
use super::super::{Call, DType, Device, Shape, View, elements};
use super::CpuDevice;

/// Thread counts whose results must be the same bits.
pub(super) const THREADS: [usize; 2] = [1, 3];

/// A device with one arena per operand.
pub(super) struct Rig {
    device: CpuDevice,
}

impl Rig {
    pub(super) fn new(threads: usize) -> Self {
        let device = CpuDevice::new(threads).unwrap();
        Self { device }
    }

    /// A zeroed dense operand.
    pub(super) fn zeros(&self, shape: Shape, dtype: DType) -> View {
        let arena = self.device.alloc(elements(shape) * dtype.bytes()).unwrap();
        View::dense(arena, 0, shape, dtype)
    }

    fn put<T: bytemuck::Pod>(&self, shape: Shape, dtype: DType, data: &[T]) -> View {
        let view = self.zeros(shape, dtype);
        self.device
            .write(&view, bytemuck::cast_slice(data))
            .unwrap();
        view
    }

    pub(super) fn f32(&self, shape: Shape, data: &[f32]) -> View {
        self.put(shape, DType::F32, data)
    }

    pub(super) fn u8(&self, shape: Shape, data: &[u8]) -> View {
        self.put(shape, DType::U8, data)
    }

    pub(super) fn u32(&self, shape: Shape, data: &[u32]) -> View {
        self.put(shape, DType::U32, data)
    }

    /// `data` as a channel slice at offset 3 of a tensor `ld` wide that also holds an image
    /// before it; everything around it is NaN.
    pub(super) fn strided(&self, shape: Shape, data: &[f32], ld: usize) -> View {
        let [b, h, w, c] = shape;
        assert!(ld >= c + 3);
        let mut wide = vec![f32::NAN; (b + 1) * h * w * ld];
        let first = h * w * ld + 3;
        for (pixel, values) in data.chunks_exact(c).enumerate() {
            wide[first + pixel * ld..][..c].copy_from_slice(values);
        }
        let mut view = self.f32([b + 1, h, w, ld], &wide);
        view.shape = shape;
        view.ld = ld;
        view.offset = first * 4;
        view
    }

    pub(super) fn run(&self, op: Op, ins: &[View], outs: &[View], accumulate: u32) {
        self.device
            .run(&Call {
                op,
                ins: ins.to_vec(),
                outs: outs.to_vec(),
                accumulate,
                workspace: None,
            })
            .unwrap();
    }

    fn get<T: bytemuck::Pod>(&self, view: &View) -> Vec<T> {
        let mut data = vec![T::zeroed(); view.elements()];
        let bytes = bytemuck::cast_slice_mut(&mut data);
        self.device.read(view, bytes).unwrap();
        data
    }

    pub(super) fn get_f32(&self, view: &View) -> Vec<f32> {
        self.get(view)
    }

    pub(super) fn get_u8(&self, view: &View) -> Vec<u8> {
        self.get(view)
    }

    pub(super) fn get_u32(&self, view: &View) -> Vec<u32> {
        self.get(view)
    }
}

/// `n` floats uniform on ±`range`.
pub(super) fn floats(n: usize, range: f32, seed: u64) -> Vec<f32> {
    let rng = Rng::seeded(seed, 0, 0);
    (0..n as u64)
        .map(|i| (rng.uniform(i) * 2.0 - 1.0) * range)
        .collect()
}

/// `n` labels below `classes`, about one in six of them `ignore`.
pub(super) fn labels(n: usize, classes: u32, ignore: u8, seed: u64) -> Vec<u8> {
    let rng = Rng::seeded(seed, 1, 0);
    (0..n as u64)
        .map(|i| match rng.below(2 * i, 6) {
            0 => ignore,
            _ => rng.below(2 * i + 1, classes) as u8,
        })
        .collect()
}

/// Bilinear weights (align_corners) of one output coordinate on every input coordinate.
pub(super) fn tent(i: usize, input: usize, output: usize) -> Vec<f64> {
    let at = match output {
        1 => 0.0,
        _ => i as f64 * (input - 1) as f64 / (output - 1) as f64,
    };
    (0..input)
        .map(|k| (1.0 - (at - k as f64).abs()).max(0.0))
        .collect()
}

/// Upsampled logits, pixel after pixel, in f64 by the definition.
pub(super) fn upsampled(
    logits: &[f32],
    shape: Shape,
    height: usize,
    width: usize,
) -> Vec<Vec<f64>> {
    let [b, h, w, c] = shape;
    let mut pixels = Vec::new();
    for image in 0..b {
        for y in 0..height {
            let wy = tent(y, h, height);
            for x in 0..width {
                let wx = tent(x, w, width);
                let mut pixel = vec![0.0; c];
                for (i, v) in pixel.iter_mut().enumerate() {
                    for (yy, wy) in wy.iter().enumerate() {
                        for (xx, wx) in wx.iter().enumerate() {
                            let at = ((image * h + yy) * w + xx) * c + i;
                            *v += wy * wx * f64::from(logits[at]);
                        }
                    }
                }
                pixels.push(pixel);
            }
        }
    }
    pixels
}

/// Softmax by the definition.
pub(super) fn softmax(x: &[f64]) -> Vec<f64> {
    let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let e: Vec<f64> = x.iter().map(|x| (x - max).exp()).collect();
    let sum: f64 = e.iter().sum();
    e.into_iter().map(|e| e / sum).collect()
}

/// Fails unless |got − want| ≤ tolerance·max(1, |want|).
#[track_caller]
pub(super) fn close(got: f32, want: f64, tolerance: f64) {
    let error = (f64::from(got) - want).abs();
    assert!(
        error <= tolerance * want.abs().max(1.0),
        "{got} is not {want}"
    );
}
