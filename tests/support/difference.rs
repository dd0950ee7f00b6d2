//! Central finite differences of a chain of operations, on any device.

use u2pl_engine::device::philox::Rng;
use u2pl_engine::device::{DType, Device, Op, Shape, elements};

use super::arena::{Spec, Tensors};

/// The scalar whose gradient is checked, summed in f64.
#[derive(Clone, Copy, Debug)]
pub enum Objective {
    /// Σ dy · y of two tensors.
    Dot { y: usize, dy: usize },
    /// `weight` times the first element of a tensor.
    First { tensor: usize, weight: f64 },
}

struct Step {
    op: Op,
    ins: Vec<usize>,
    outs: Vec<usize>,
}

/// A problem: tensors, the forward and backward operations, what to differentiate.
pub struct Problem {
    specs: Vec<Spec>,
    contents: Vec<Vec<u8>>,
    forward: Vec<Step>,
    backward: Vec<Step>,
    seed: u64,
    /// Half the distance between the two evaluations.
    pub step: f32,
    /// Allowed error, relative to the root mean square of the gradient.
    pub tolerance: f64,
}

impl Problem {
    /// An empty problem; `seed` decides its random tensors.
    pub fn new(seed: u64) -> Self {
        Self {
            specs: Vec::new(),
            contents: Vec::new(),
            forward: Vec::new(),
            backward: Vec::new(),
            seed,
            step: 4e-3,
            tolerance: 2e-3,
        }
    }

    fn push(&mut self, shape: Shape, dtype: DType, bytes: Vec<u8>) -> usize {
        assert_eq!(bytes.len(), elements(shape) * dtype.bytes());
        self.specs.push(Spec::dense(shape, dtype));
        self.contents.push(bytes);
        self.specs.len() - 1
    }

    /// A tensor with given contents.
    pub fn f32(&mut self, shape: Shape, values: &[f32]) -> usize {
        self.push(shape, DType::F32, bytemuck::cast_slice(values).to_vec())
    }

    /// Labels.
    pub fn u8(&mut self, shape: Shape, values: &[u8]) -> usize {
        self.push(shape, DType::U8, values.to_vec())
    }

    /// Counts, indices, random state.
    pub fn u32(&mut self, shape: Shape, values: &[u32]) -> usize {
        self.push(shape, DType::U32, bytemuck::cast_slice(values).to_vec())
    }

    /// Zeros, for outputs.
    pub fn zeros(&mut self, shape: Shape, dtype: DType) -> usize {
        self.push(shape, dtype, vec![0; elements(shape) * dtype.bytes()])
    }

    /// Uniform on [−1, 1).
    pub fn random(&mut self, shape: Shape) -> usize {
        let rng = Rng::seeded(self.seed, self.specs.len() as u32, 0);
        let values: Vec<f32> = (0..elements(shape) as u64)
            .map(|i| 2.0 * rng.uniform(i) - 1.0)
            .collect();
        self.f32(shape, &values)
    }

    /// A shuffle of values ≥ 0.02 apart and ≥ 0.01 from 0: no kink of a ReLU or a maximum lies
    /// within the step.
    pub fn spread(&mut self, shape: Shape) -> usize {
        let rng = Rng::seeded(self.seed, self.specs.len() as u32, 0);
        let n = elements(shape);
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by_key(|&i| rng.block(i as u64)[0]);
        let values: Vec<f32> = order
            .iter()
            .map(|&rank| 0.02 * (rank as f32 - (n / 2) as f32) + 0.01)
            .collect();
        self.f32(shape, &values)
    }

    /// Uniform labels; every seventh is `ignore`.
    pub fn labels(&mut self, shape: Shape, classes: u32, ignore: u8) -> usize {
        let rng = Rng::seeded(self.seed, self.specs.len() as u32, 1);
        let values: Vec<u8> = (0..elements(shape) as u64)
            .map(|i| match i % 7 {
                3 => ignore,
                _ => rng.below(i, classes) as u8,
            })
            .collect();
        self.u8(shape, &values)
    }

    /// Adds a forward operation.
    pub fn forward(&mut self, op: Op, ins: &[usize], outs: &[usize]) {
        let (ins, outs) = (ins.to_vec(), outs.to_vec());
        self.forward.push(Step { op, ins, outs });
    }

    /// Adds a backward operation.
    pub fn backward(&mut self, op: Op, ins: &[usize], outs: &[usize]) {
        let (ins, outs) = (ins.to_vec(), outs.to_vec());
        self.backward.push(Step { op, ins, outs });
    }

    /// Compares every element of each (tensor, gradient) pair with the central difference.
    pub fn check(&self, device: &dyn Device, objective: Objective, pairs: &[(usize, usize)]) {
        let tensors = Tensors::new(device, &self.specs);
        for (i, bytes) in self.contents.iter().enumerate() {
            tensors.write(i, bytes);
        }
        let run = |steps: &[Step]| {
            for step in steps {
                tensors.run(&step.op, &step.ins, &step.outs, 0);
            }
        };
        let evaluate = || {
            run(&self.forward);
            match objective {
                Objective::Dot { y, dy } => {
                    let (y, dy) = (tensors.read_f32(y), tensors.read_f32(dy));
                    let products = y.iter().zip(&dy);
                    products.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
                }
                Objective::First { tensor, weight } => {
                    weight * f64::from(tensors.read_f32(tensor)[0])
                }
            }
        };
        let _: f64 = evaluate();
        run(&self.backward);
        for &(tensor, gradient) in pairs {
            let analytic = tensors.read_f32(gradient);
            let values = tensors.read_f32(tensor);
            let squares: f64 = analytic.iter().map(|&g| f64::from(g).powi(2)).sum();
            let rms = (squares / analytic.len() as f64).sqrt();
            assert!(rms > 0.0, "the gradient of tensor {tensor} is zero");
            for i in 0..values.len() {
                let at = |x: f32| {
                    let mut moved = values.clone();
                    moved[i] = x;
                    tensors.write_f32(tensor, &moved);
                    evaluate()
                };
                let (low, high) = (values[i] - self.step, values[i] + self.step);
                let numeric = (at(high) - at(low)) / (f64::from(high) - f64::from(low));
                let error = (numeric - f64::from(analytic[i])).abs();
                assert!(
                    error <= self.tolerance * rms,
                    "d/d tensor {tensor}[{i}]: {} by the operation, {numeric} by differences, \
                     root mean square {rms}",
                    analytic[i]
                );
            }
            tensors.write_f32(tensor, &values);
        }
    }
}
