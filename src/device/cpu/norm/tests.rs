use super::super::testing::{Bench, close, noise};
use crate::device::{Op, Shape, View};

const EPS: f32 = 1e-5;

/// Batch norm in f64: (x̂·γ + β + residual, mean, 1/σ, unbiased variance).
fn reference(x: &[f64], c: usize, gamma: &[f64], beta: &[f64]) -> [Vec<f64>; 4] {
    let n = (x.len() / c) as f64;
    let column = |i: usize| x.iter().skip(i).step_by(c);
    let mean: Vec<f64> = (0..c).map(|i| column(i).sum::<f64>() / n).collect();
    let squares: Vec<f64> = (0..c)
        .map(|i| column(i).map(|v| (v - mean[i]).powi(2)).sum())
        .collect();
    let inv: Vec<f64> = (squares.iter())
        .map(|s| 1.0 / (s / n + f64::from(EPS)).sqrt())
        .collect();
    let y = (x.iter().enumerate())
        .map(|(i, v)| (v - mean[i % c]) * inv[i % c] * gamma[i % c] + beta[i % c])
        .collect();
    let unbiased = squares.iter().map(|s| s / (n - 1.0).max(1.0)).collect();
    [y, mean, inv, unbiased]
}

fn wide(v: &[f32]) -> Vec<f64> {
    v.iter().map(|&v| f64::from(v)).collect()
}

/// More than one chunk, with a tail; a mean far from 0.
const SHAPE: Shape = [2, 25, 41, 7];

struct Case {
    x: Vec<f32>,
    residual: Vec<f32>,
    dy: Vec<f32>,
    gamma: Vec<f32>,
    beta: Vec<f32>,
}

impl Case {
    fn new(shape: Shape) -> Self {
        let n = crate::device::elements(shape);
        Self {
            x: noise(n, 1).iter().map(|v| 3.0 * v + 100.0).collect(),
            residual: noise(n, 2),
            dy: noise(n, 3),
            gamma: noise(shape[3], 4),
            beta: noise(shape[3], 5),
        }
    }

    /// y = relu(bn(x) + residual) in f64.
    fn output(&self, c: usize) -> Vec<f64> {
        let [y, ..] = reference(&wide(&self.x), c, &wide(&self.gamma), &wide(&self.beta));
        let sum = y.iter().zip(&self.residual);
        sum.map(|(y, &r)| (y + f64::from(r)).max(0.0)).collect()
    }
}

fn train_op(relu: bool) -> Op {
    Op::BatchNorm {
        eps: EPS,
        momentum: 0.1,
        relu,
    }
}

/// mean, inv_std, running mean (from 1), running variance (from 2).
fn state(b: &Bench, c: usize) -> [View; 4] {
    let fresh = || b.vector(&vec![Bench::GAP; c]);
    [
        fresh(),
        fresh(),
        b.vector(&vec![1.0; c]),
        b.vector(&vec![2.0; c]),
    ]
}

#[test]
fn train_matches_f64() {
    let (case, c) = (Case::new(SHAPE), SHAPE[3]);
    let b = Bench::new(2);
    let x = b.f32(SHAPE, 2, &case.x);
    let [gamma, beta] = [&case.gamma, &case.beta].map(|v| b.vector(v));
    let y = b.out(SHAPE, 1);
    let [mean, inv, rm, rv] = state(&b, c);
    b.run(train_op(false), &[x, gamma, beta], &[y, mean, inv, rm, rv]);
    let [want, means, invs, unbiased] =
        reference(&wide(&case.x), c, &wide(&case.gamma), &wide(&case.beta));
    // x is near 100, so f32 holds the mean, and each difference, to some 4e-6.
    close(&b.get(&y), &want, 1e-5);
    close(&b.get(&mean), &means, 3e-7);
    close(&b.get(&inv), &invs, 1e-6);
    let moved: Vec<f64> = means.iter().map(|m| 0.9 + 0.1 * m).collect();
    close(&b.get(&rm), &moved, 1e-6);
    let moved: Vec<f64> = unbiased.iter().map(|v| 1.8 + 0.1 * v).collect();
    close(&b.get(&rv), &moved, 1e-6);
}

#[test]
fn residual_and_relu_separate_and_in_place() {
    let (case, c) = (Case::new(SHAPE), SHAPE[3]);
    let want = case.output(c);
    let mut bits = Vec::new();
    for place in 0..3 {
        let b = Bench::new(1 + place);
        let x = b.f32(SHAPE, 1, &case.x);
        let residual = b.f32(SHAPE, 3, &case.residual);
        let [gamma, beta] = [&case.gamma, &case.beta].map(|v| b.vector(v));
        let y = [b.out(SHAPE, 0), x, residual][place];
        let [mean, inv, rm, rv] = state(&b, c);
        let outs = [y, mean, inv, rm, rv];
        b.run(train_op(true), &[x, gamma, beta, residual], &outs);
        let got = b.get(&y);
        close(&got, &want, 1e-5);
        bits.push(got);
    }
    assert_eq!(bits[0], bits[1]);
    assert_eq!(bits[0], bits[2]);
}

#[test]
fn eval_uses_running_statistics() {
    let b = Bench::new(1);
    let x = b.f32([1, 1, 2, 2], 1, &[1.0, 2.0, 3.0, 4.0]);
    let [gamma, beta] = [[2.0, 1.0], [0.5, 0.0]].map(|v| b.vector(&v));
    let [mean, var] = [[1.0, 0.0], [4.0, 0.25]].map(|v| b.vector(&v));
    let residual = b.f32([1, 1, 2, 2], 0, &[0.0, -5.0, 1.0, 0.0]);
    let y = b.out([1, 1, 2, 2], 2);
    let op = |relu| Op::BatchNormEval { eps: 0.0, relu };
    let ins = [x, gamma, beta, mean, var, residual];
    b.run(op(false), &ins[..5], &[y]);
    assert_eq!(b.get(&y), [0.5, 4.0, 2.5, 8.0]);
    b.run(op(true), &ins, &[y]);
    assert_eq!(b.get(&y), [0.5, 0.0, 3.5, 8.0]);
    b.run(op(true), &ins, &[residual]);
    assert_eq!(b.get(&residual), [0.5, 0.0, 3.5, 8.0]);
    b.run(op(false), &ins[..5], &[x]);
    assert_eq!(b.get(&x), [0.5, 4.0, 2.5, 8.0]);
}

#[test]
fn one_pixel_has_no_variance() {
    let b = Bench::new(1);
    let x = b.f32([1, 1, 1, 2], 0, &[5.0, -3.0]);
    let [gamma, beta] = [[2.0, 2.0], [0.25, 0.5]].map(|v| b.vector(&v));
    let y = b.out([1, 1, 1, 2], 0);
    let [mean, inv, rm, rv] = state(&b, 2);
    b.run(train_op(false), &[x, gamma, beta], &[y, mean, inv, rm, rv]);
    assert_eq!(b.get(&y), [0.25, 0.5]);
    close(&b.get(&rv), &[1.8, 1.8], 1e-7);
}

/// Outputs of forward then backward: dx, dgamma, dbeta, dresidual.
/// `place`: 0 separate, 1 dx is dy, 2 dresidual is dy.
fn gradients(case: &Case, shape: Shape, threads: usize, place: usize) -> [Vec<f32>; 4] {
    let b = Bench::new(threads);
    let x = b.f32(shape, 1, &case.x);
    let residual = b.f32(shape, 0, &case.residual);
    let dy = b.f32(shape, 2, &case.dy);
    let [gamma, beta] = [&case.gamma, &case.beta].map(|v| b.vector(v));
    let y = b.out(shape, 3);
    let [mean, inv, rm, rv] = state(&b, shape[3]);
    let outs = [y, mean, inv, rm, rv];
    b.run(train_op(true), &[x, gamma, beta, residual], &outs);
    let [dgamma, dbeta, ..] = state(&b, shape[3]);
    let dx = if place == 1 { dy } else { b.out(shape, 1) };
    let dr = if place == 2 { dy } else { b.out(shape, 0) };
    let outs = [dx, dgamma, dbeta, dr];
    let op = Op::BatchNormBackward { relu: true };
    b.run(op, &[dy, x, y, gamma, mean, inv], &outs);
    outs.map(|v| b.get(&v))
}

/// Finite differences of Σ dy·y in f64, every parameter and a sample of pixels.
#[test]
fn backward_matches_finite_differences() {
    let shape = [2, 3, 5, 3];
    let mut case = Case::new(shape);
    case.x = noise(case.x.len(), 8);
    let c = shape[3];
    let [dx, dgamma, dbeta, dr] = gradients(&case, shape, 2, 0);
    let h = 1e-6;
    let slope = |which: usize, i: usize| {
        let at = |step: f64| {
            let mut args = [&case.x, &case.residual, &case.gamma, &case.beta].map(|v| wide(v));
            args[which][i] += step;
            let [y, ..] = reference(&args[0], c, &args[2], &args[3]);
            let out = y.iter().zip(&args[1]).map(|(y, r)| (y + r).max(0.0));
            out.zip(&case.dy)
                .map(|(y, &d)| y * f64::from(d))
                .sum::<f64>()
        };
        (at(h) - at(-h)) / (2.0 * h)
    };
    for (which, got) in [(0, &dx), (1, &dr), (2, &dgamma), (3, &dbeta)] {
        let want: Vec<f64> = (0..got.len()).map(|i| slope(which, i)).collect();
        close(got, &want, 2e-5);
    }
}

#[test]
fn backward_in_place_and_on_any_threads_gives_the_same_bits() {
    let case = Case::new(SHAPE);
    let want = gradients(&case, SHAPE, 1, 0);
    assert_eq!(want, gradients(&case, SHAPE, 3, 0));
    let [dx, dgamma, dbeta, dr] = gradients(&case, SHAPE, 2, 1);
    assert_eq!([&dx, &dgamma, &dbeta, &dr], want.each_ref());
    let [dx, dgamma, dbeta, dr] = gradients(&case, SHAPE, 2, 2);
    assert_eq!([&dx, &dgamma, &dbeta, &dr], want.each_ref());
}

#[test]
fn backward_without_relu_accumulates() {
    let (case, c) = (Case::new(SHAPE), SHAPE[3]);
    let b = Bench::new(2);
    let [x, dy] = [&case.x, &case.dy].map(|v| b.f32(SHAPE, 0, v));
    let [gamma, beta] = [&case.gamma, &case.beta].map(|v| b.vector(v));
    let y = b.out(SHAPE, 0);
    let [mean, inv, rm, rv] = state(&b, c);
    b.run(train_op(false), &[x, gamma, beta], &[y, mean, inv, rm, rv]);
    let [dgamma, dbeta, ..] = state(&b, c);
    let outs = [b.out(SHAPE, 1), dgamma, dbeta];
    let op = Op::BatchNormBackward { relu: false };
    let ins = [dy, x, y, gamma, mean, inv];
    b.run(op.clone(), &ins, &outs);
    let once = outs.map(|v| b.get(&v));
    b.add(op.clone(), &ins, &outs, 0b111);
    for (out, once) in outs.iter().zip(&once) {
        let twice: Vec<f32> = once.iter().map(|v| v + v).collect();
        assert_eq!(b.get(out), twice);
    }
    let sum: f64 = case.dy.iter().step_by(c).map(|&d| f64::from(d)).sum();
    close(&once[2][..1], &[sum], 1e-6);
    // The gradient has no component along a constant: dx sums to 0 in every channel.
    let sum: f64 = once[0].iter().step_by(c).map(|&d| f64::from(d)).sum();
    assert!(sum.abs() < 1e-3, "{sum}");
    assert!(b.try_run(op, &ins, &[dy, dgamma, dbeta], 1).is_err());
}
