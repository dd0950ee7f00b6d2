//! Gradients of every differentiable operation of the CPU device against central finite
//! differences: no reference implementation takes part.

mod support;

use support::difference::{Objective, Problem};
use u2pl_engine::device::DType::{F32, U8};
use u2pl_engine::device::Op;
use u2pl_engine::device::cpu::CpuDevice;
use u2pl_engine::device::op::{CeNorm, InfoNce, Variant, Window};

const IGNORE: u8 = 255;

fn device() -> CpuDevice {
    CpuDevice::new(2).expect("cpu")
}

fn conv(seed: u64, shape: [usize; 4], k: usize, size: usize, window: Window) {
    let mut p = Problem::new(seed);
    let [n, h, w, c] = shape;
    let reach = window.dilation * (size - 1) + 1;
    let out = |extent: usize| (extent + 2 * window.padding - reach) / window.stride + 1;
    let (x, weights) = (p.random(shape), p.random([k, size, size, c]));
    let bias = p.random([1, 1, 1, k]);
    let map = [n, out(h), out(w), k];
    let (y, dy) = (p.zeros(map, F32), p.random(map));
    let (dx, dw) = (p.zeros(shape, F32), p.zeros([k, size, size, c], F32));
    let dbias = p.zeros([1, 1, 1, k], F32);
    p.forward(Op::Conv(window), &[x, weights, bias], &[y]);
    p.backward(Op::ConvDgrad(window), &[dy, weights], &[dx]);
    p.backward(Op::ConvWgrad(window), &[x, dy], &[dw, dbias]);
    let objective = Objective::Dot { y, dy };
    p.check(
        &device(),
        objective,
        &[(x, dx), (weights, dw), (bias, dbias)],
    );
}

#[test]
fn convolution() {
    let window = |stride, padding, dilation| Window {
        stride,
        padding,
        dilation,
    };
    conv(1, [2, 3, 4, 5], 4, 1, window(1, 0, 1));
    conv(2, [1, 5, 6, 3], 4, 3, window(1, 1, 1));
    conv(3, [1, 6, 5, 3], 2, 3, window(2, 1, 1));
    conv(4, [1, 6, 7, 2], 3, 3, window(1, 2, 2));
    conv(5, [1, 4, 4, 2], 3, 3, window(1, 6, 6));
    conv(6, [1, 9, 8, 3], 2, 7, window(2, 3, 1));
}

fn batch_norm(seed: u64, relu: bool, residual: bool) {
    let mut p = Problem::new(seed);
    let (shape, vector) = ([2, 3, 3, 4], [1, 1, 1, 4]);
    let (x, gamma, beta, res) = (
        p.random(shape),
        p.random(vector),
        p.random(vector),
        p.random(shape),
    );
    let (y, dy) = (p.zeros(shape, F32), p.random(shape));
    let [mean, inv_std, running_mean, running_var] = [(); 4].map(|()| p.zeros(vector, F32));
    let (dx, dgamma, dbeta, dres) = (
        p.zeros(shape, F32),
        p.zeros(vector, F32),
        p.zeros(vector, F32),
        p.zeros(shape, F32),
    );
    let op = Op::BatchNorm {
        eps: 1e-5,
        momentum: 0.1,
        relu,
    };
    let with = |mut always: Vec<usize>, extra: usize| {
        if residual {
            always.push(extra);
        }
        always
    };
    let outs = [y, mean, inv_std, running_mean, running_var];
    p.forward(op, &with(vec![x, gamma, beta], res), &outs);
    let backward = Op::BatchNormBackward { relu };
    let gradients = with(vec![dx, dgamma, dbeta], dres);
    p.backward(backward, &[dy, x, y, gamma, mean, inv_std], &gradients);
    let mut pairs = vec![(x, dx), (gamma, dgamma), (beta, dbeta)];
    if residual {
        pairs.push((res, dres));
    }
    // Noise of the statistics over the distance between the evaluations.
    p.step = 2e-3;
    p.tolerance = 5e-3;
    p.check(&device(), Objective::Dot { y, dy }, &pairs);
}

#[test]
fn batch_norm_with_residual_and_relu() {
    // Seeds with no output so close to 0 that the step crosses the kink of the ReLU.
    batch_norm(11, false, false);
    batch_norm(12, false, true);
    batch_norm(13, true, false);
    batch_norm(15, true, true);
}

/// The chain that fusion makes of a convolution and a batch norm, and the backward pass it keeps.
#[test]
fn convolution_with_moments_and_the_batch_norm_that_merges_them() {
    let mut p = Problem::new(16);
    let window = Window {
        stride: 1,
        padding: 1,
        dilation: 1,
    };
    // 80 pixels: a whole tile of moments and a part of one.
    let (shape, kernel, map, vector) = ([2, 5, 8, 3], [4, 3, 3, 3], [2, 5, 8, 4], [1, 1, 1, 4]);
    let (x, w) = (p.random(shape), p.random(kernel));
    let (gamma, beta) = (p.random(vector), p.random(vector));
    let (z, moments) = (p.zeros(map, F32), p.zeros([1, 1, 2, 8], F32));
    let (y, dy, dz) = (p.zeros(map, F32), p.random(map), p.zeros(map, F32));
    let [mean, inv_std, running_mean, running_var] = [(); 4].map(|()| p.zeros(vector, F32));
    let [dgamma, dbeta] = [(); 2].map(|()| p.zeros(vector, F32));
    let (dx, dw) = (p.zeros(shape, F32), p.zeros(kernel, F32));
    p.forward(Op::ConvMoments(window), &[x, w], &[z, moments]);
    let merge = Op::BatchNormMerge {
        eps: 1e-5,
        momentum: 0.1,
        relu: false,
    };
    let outs = [y, mean, inv_std, running_mean, running_var];
    p.forward(merge, &[z, gamma, beta, moments], &outs);
    let backward = Op::BatchNormBackward { relu: false };
    let ins = [dy, z, y, gamma, mean, inv_std];
    p.backward(backward, &ins, &[dz, dgamma, dbeta]);
    p.backward(Op::ConvDgrad(window), &[dz, w], &[dx]);
    p.backward(Op::ConvWgrad(window), &[x, dz], &[dw]);
    p.step = 2e-3;
    p.tolerance = 5e-3;
    let pairs = [(x, dx), (w, dw), (gamma, dgamma), (beta, dbeta)];
    p.check(&device(), Objective::Dot { y, dy }, &pairs);
}

#[test]
fn relu() {
    let mut p = Problem::new(21);
    let shape = [1, 3, 3, 5];
    let (x, y, dy, dx) = (
        p.spread(shape),
        p.zeros(shape, F32),
        p.random(shape),
        p.zeros(shape, F32),
    );
    p.forward(Op::Relu, &[x], &[y]);
    p.backward(Op::ReluBackward, &[dy, y], &[dx]);
    p.check(&device(), Objective::Dot { y, dy }, &[(x, dx)]);
}

#[test]
fn max_pool() {
    let mut p = Problem::new(22);
    let (from, to) = ([1, 8, 7, 3], [1, 5, 4, 3]); // 8 → 5: ceil mode
    let (x, y, tap) = (p.spread(from), p.zeros(to, F32), p.zeros(to, U8));
    let (dy, dx) = (p.random(to), p.zeros(from, F32));
    let window = Window {
        stride: 2,
        padding: 1,
        dilation: 1,
    };
    p.forward(Op::MaxPool { size: 3, window }, &[x], &[y, tap]);
    p.backward(Op::MaxPoolBackward { size: 3, window }, &[dy, tap], &[dx]);
    p.check(&device(), Objective::Dot { y, dy }, &[(x, dx)]);
}

#[test]
fn global_avg_pool() {
    let mut p = Problem::new(23);
    let (from, to) = ([2, 3, 4, 3], [2, 1, 1, 3]);
    let (x, y) = (p.random(from), p.zeros(to, F32));
    let (dy, dx) = (p.random(to), p.zeros(from, F32));
    p.forward(Op::GlobalAvgPool, &[x], &[y]);
    p.backward(Op::GlobalAvgPoolBackward, &[dy], &[dx]);
    p.check(&device(), Objective::Dot { y, dy }, &[(x, dx)]);
}

#[test]
fn resize() {
    for (from, to) in [
        ([1, 4, 3, 3], [1, 9, 8, 3]),
        ([1, 9, 7, 2], [1, 4, 5, 2]),
        ([2, 1, 1, 3], [2, 4, 3, 3]),
    ] {
        let mut p = Problem::new(24);
        let (x, y) = (p.random(from), p.zeros(to, F32));
        let (dy, dx) = (p.random(to), p.zeros(from, F32));
        p.forward(Op::Resize, &[x], &[y]);
        p.backward(Op::ResizeBackward, &[dy], &[dx]);
        p.check(&device(), Objective::Dot { y, dy }, &[(x, dx)]);
    }
}

#[test]
fn dropout2d_is_its_own_backward() {
    let mut p = Problem::new(25);
    let shape = [2, 3, 2, 12];
    let rng = p.u32([1, 1, 1, 4], &[7, 8, 3, 0]);
    let (x, y) = (p.random(shape), p.zeros(shape, F32));
    let (dy, dx) = (p.random(shape), p.zeros(shape, F32));
    let op = Op::Dropout2d { p: 0.4, stream: 5 };
    p.forward(op.clone(), &[x, rng], &[y]);
    p.backward(op, &[dy, rng], &[dx]);
    p.check(&device(), Objective::Dot { y, dy }, &[(x, dx)]);
}

fn cross_entropy(seed: u64, norm: CeNorm, size: [usize; 2], threshold: Option<f32>) {
    let mut p = Problem::new(seed);
    let shape = [2, 4, 3, 5];
    let logits = p.random(shape);
    let labels = p.labels([2, size[0], size[1], 1], 5, IGNORE);
    let (stats, dlogits) = (p.zeros([1, 1, 1, 4], F32), p.zeros(shape, F32));
    let (mut ins, mut backward_ins) = (vec![logits, labels], vec![logits, labels, stats]);
    if let Some(value) = threshold {
        let threshold = p.f32([1, 1, 1, 1], &[value]);
        ins.push(threshold);
        backward_ins.push(threshold);
    }
    let (ignore, weight) = (IGNORE, 0.4);
    p.forward(Op::CrossEntropy { ignore, norm }, &ins, &[stats]);
    let backward = Op::CrossEntropyBackward { ignore, weight };
    p.backward(backward, &backward_ins, &[dlogits]);
    p.step = 2e-2;
    p.tolerance = 5e-3;
    let objective = Objective::First {
        tensor: stats,
        weight: f64::from(weight),
    };
    p.check(&device(), objective, &[(logits, dlogits)]);
}

#[test]
fn cross_entropy_to_low_resolution_logits() {
    cross_entropy(31, CeNorm::Valid, [9, 8], None);
    cross_entropy(32, CeNorm::ValidTimesAllOverValid, [7, 7], None);
    cross_entropy(33, CeNorm::Valid, [4, 3], None);
    // Above every probability: nothing crosses the threshold when logits move.
    cross_entropy(34, CeNorm::Valid, [9, 8], Some(0.99));
}

/// Three classes; class 1 has no anchor, so in `Released` position 0 and 1 are classes 0 and 2.
fn info_nce(seed: u64, variant: Variant) {
    let mut p = Problem::new(seed);
    let (shape, pixels, d) = ([1, 3, 4, 6], 12, 6);
    let rep = p.random(shape);
    let mut rows = vec![0u32; 3 * pixels];
    rows[..4].copy_from_slice(&[0, 3, 5, 8]);
    rows[pixels] = 7;
    rows[2 * pixels..2 * pixels + 2].copy_from_slice(&[1, 11]);
    let list = p.u32([1, 1, 3, pixels], &rows);
    let anchors = p.u32([1, 1, 2, 3], &[4, 1, 2, 0, 0, 0]);
    let positives = p.u32([1, 1, 2, 3], &[4, 0, 2, 0, 0, 0]);
    let prototype = p.random([1, 1, 3, d]);
    let bank = p.random([1, 1, 15, d]);
    let inverse: Vec<f32> = vec![0.7; 15]; // any constant serves: it scales the similarities
    let inv_norm = p.f32([1, 1, 1, 15], &inverse);
    let cursor = p.u32([1, 1, 2, 3], &[1, 2, 4, 5, 5, 4]);
    let rng = p.u32([1, 1, 1, 4], &[1, 2, 3, 0]);
    let (stats, drep) = (p.zeros([1, 1, 1, 4], F32), p.zeros(shape, F32));
    let op = InfoNce {
        variant,
        anchors: 8,
        negatives: 6,
        temperature: 0.5,
        capacities: vec![5, 5, 5],
        stream: 32,
    };
    let mut ins = vec![
        rep, list, anchors, positives, prototype, bank, inv_norm, cursor, rng,
    ];
    p.forward(Op::InfoNce(op.clone()), &ins, &[stats]);
    ins.push(stats);
    p.backward(Op::InfoNceBackward(op, 0.5), &ins, &[drep]);
    p.step = 1e-2;
    p.tolerance = 5e-3;
    let objective = Objective::First {
        tensor: stats,
        weight: 0.5,
    };
    p.check(&device(), objective, &[(rep, drep)]);
}

#[test]
fn info_nce_to_anchor_representations() {
    info_nce(41, Variant::Paper);
    info_nce(42, Variant::Released);
}
