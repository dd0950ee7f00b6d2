//! Builder methods: one per operation, computing output shapes and checking operands.

use super::{Graph, TensorId};
use crate::device::op::Window;
use crate::device::{DType, Op, Shape};
use crate::error::{Error, Result};

/// Output side of a convolution or floor-mode pooling; 0 when the window does not fit.
pub fn conv_out(size: usize, kernel: usize, w: Window) -> usize {
    let reach = w.dilation * (kernel - 1) + 1;
    (size + 2 * w.padding)
        .checked_sub(reach)
        .map_or(0, |free| free / w.stride + 1)
}

/// Output side of ceil-mode pooling as in PyTorch: the last window must start inside the input
/// or its left padding.
pub fn pool_out_ceil(size: usize, kernel: usize, w: Window) -> usize {
    let Some(free) = (size + 2 * w.padding).checked_sub(kernel) else {
        return 0;
    };
    let out = free.div_ceil(w.stride) + 1;
    if (out - 1) * w.stride >= size + w.padding {
        out - 1
    } else {
        out
    }
}

/// Tensors of one batch norm.
#[derive(Clone, Copy, Debug)]
pub struct BnParams {
    /// γ `[C]`.
    pub gamma: TensorId,
    /// β `[C]`.
    pub beta: TensorId,
    /// Running mean `[C]`.
    pub running_mean: TensorId,
    /// Running variance `[C]`.
    pub running_var: TensorId,
}

/// How a batch norm behaves.
#[derive(Clone, Copy, Debug)]
pub struct BnMode {
    /// Batch statistics (and moving buffers) or running ones.
    pub train: bool,
    /// ε.
    pub eps: f32,
    /// Weight of the new batch in the running buffers.
    pub momentum: f32,
    /// ReLU after the residual.
    pub relu: bool,
}

impl Graph {
    fn f32_like(&mut self, name: &str, shape: Shape) -> TensorId {
        self.transient(name, shape, DType::F32)
    }

    fn output(&mut self, name: &str, shape: Shape, into: Option<TensorId>) -> Result<TensorId> {
        match into {
            None => Ok(self.f32_like(name, shape)),
            Some(t) if self.shape(t) == shape => Ok(t),
            Some(t) => Err(Error::internal(format!(
                "{name}: output {shape:?} does not fit a slice of {:?}",
                self.shape(t)
            ))),
        }
    }

    /// Convolution of `x` with `w` `[K,R,S,C]` and an optional bias `[K]`.
    ///
    /// # Errors
    /// [`Error::Internal`] on mismatched channels; [`Error::Input`] when the map is smaller than
    /// the window.
    pub fn conv(
        &mut self,
        name: &str,
        x: TensorId,
        w: TensorId,
        bias: Option<TensorId>,
        window: Window,
    ) -> Result<TensorId> {
        let [n, h, wd, c] = self.shape(x);
        let [k, r, s, wc] = self.shape(w);
        if c != wc {
            return Err(Error::internal(format!(
                "{name}: {c} channels into weights for {wc}"
            )));
        }
        let (ho, wo) = (conv_out(h, r, window), conv_out(wd, s, window));
        self.check_map(name, ho, wo)?;
        let y = self.f32_like(name, [n, ho, wo, k]);
        let mut ins = vec![x, w];
        ins.extend(bias);
        self.push(name, Op::Conv(window), ins, vec![y]);
        Ok(y)
    }

    fn check_map(&self, name: &str, h: usize, w: usize) -> Result<()> {
        if h == 0 || w == 0 {
            return Err(Error::input(
                "image size",
                format!("too small for layer {name}"),
                "use larger images or a larger augment.crop",
            ));
        }
        Ok(())
    }

    /// Batch norm (+ residual, + ReLU), into a slice when `into` names one.
    ///
    /// # Errors
    /// [`Error::Input`] in training when there is one value per channel, so no variance.
    pub fn batch_norm(
        &mut self,
        name: &str,
        x: TensorId,
        p: BnParams,
        residual: Option<TensorId>,
        mode: BnMode,
        into: Option<TensorId>,
    ) -> Result<TensorId> {
        let shape = self.shape(x);
        if residual.is_some_and(|r| self.shape(r) != shape) {
            return Err(Error::internal(format!(
                "{name}: residual of another shape"
            )));
        }
        let y = self.output(name, shape, into)?;
        let (eps, relu) = (mode.eps, mode.relu);
        if mode.train {
            if shape[0] * shape[1] * shape[2] == 1 {
                return Err(Error::input(
                    "train.batch_labeled",
                    format!("batch norm {name} over a 1×1 map with a batch of 1 has no variance"),
                    "use at least 2 images per batch",
                ));
            }
            let c = [1, 1, 1, shape[3]];
            let mean = self.f32_like(&format!("{name}.mean"), c);
            let inv_std = self.f32_like(&format!("{name}.inv_std"), c);
            let mut ins = vec![x, p.gamma, p.beta];
            ins.extend(residual);
            let op = Op::BatchNorm {
                eps,
                momentum: mode.momentum,
                relu,
            };
            self.push(
                name,
                op,
                ins,
                vec![y, mean, inv_std, p.running_mean, p.running_var],
            );
        } else {
            let mut ins = vec![x, p.gamma, p.beta, p.running_mean, p.running_var];
            ins.extend(residual);
            self.push(name, Op::BatchNormEval { eps, relu }, ins, vec![y]);
        }
        Ok(y)
    }

    /// ReLU.
    pub fn relu(&mut self, name: &str, x: TensorId) -> TensorId {
        let y = self.f32_like(name, self.shape(x));
        self.push(name, Op::Relu, vec![x], vec![y]);
        y
    }

    /// Square max pooling.
    ///
    /// # Errors
    /// [`Error::Input`] when the map is smaller than the window.
    pub fn max_pool(
        &mut self,
        name: &str,
        x: TensorId,
        size: usize,
        window: Window,
        ceil: bool,
    ) -> Result<TensorId> {
        let [n, h, w, c] = self.shape(x);
        let side = |len| {
            if ceil {
                pool_out_ceil(len, size, window)
            } else {
                conv_out(len, size, window)
            }
        };
        let (ho, wo) = (side(h), side(w));
        self.check_map(name, ho, wo)?;
        let y = self.f32_like(name, [n, ho, wo, c]);
        let tap = self.transient(format!("{name}.tap"), [n, ho, wo, c], DType::U8);
        self.push(name, Op::MaxPool { size, window }, vec![x], vec![y, tap]);
        Ok(y)
    }

    /// Mean over H × W.
    pub fn global_avg_pool(&mut self, name: &str, x: TensorId) -> TensorId {
        let [n, _, _, c] = self.shape(x);
        let y = self.f32_like(name, [n, 1, 1, c]);
        self.push(name, Op::GlobalAvgPool, vec![x], vec![y]);
        y
    }

    /// Bilinear resize with aligned corners, into a slice when `into` names one.
    ///
    /// # Errors
    /// [`Error::Internal`] when `into` has another shape.
    pub fn resize(
        &mut self,
        name: &str,
        x: TensorId,
        h: usize,
        w: usize,
        into: Option<TensorId>,
    ) -> Result<TensorId> {
        let [n, _, _, c] = self.shape(x);
        let y = self.output(name, [n, h, w, c], into)?;
        self.push(name, Op::Resize, vec![x], vec![y]);
        Ok(y)
    }

    /// Dropout2d; `x` itself when p = 0.
    pub fn dropout2d(
        &mut self,
        name: &str,
        x: TensorId,
        rng: TensorId,
        p: f32,
        stream: u32,
    ) -> TensorId {
        if p == 0.0 {
            return x;
        }
        let y = self.f32_like(name, self.shape(x));
        self.push(name, Op::Dropout2d { p, stream }, vec![x, rng], vec![y]);
        y
    }

    /// An f32 vector `[1,1,1,n]`, e.g. the statistics of a loss.
    pub fn vector(&mut self, name: &str, n: usize) -> TensorId {
        self.f32_like(name, [1, 1, 1, n])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_pytorch() {
        let w = |stride, padding, dilation| Window {
            stride,
            padding,
            dilation,
        };
        assert_eq!(conv_out(513, 3, w(2, 1, 1)), 257);
        assert_eq!(conv_out(65, 3, w(1, 36, 36)), 65);
        assert_eq!(conv_out(2, 3, w(1, 0, 1)), 0);
        // MaxPool2d(3, 2, 1, ceil_mode=True): 257 → 129, 256 → 129, 255 → 128, 64 → 33, 1 → 1.
        for (size, out) in [
            (257, 129),
            (256, 129),
            (255, 128),
            (64, 33),
            (1, 1),
            (2, 2),
            (3, 2),
        ] {
            assert_eq!(pool_out_ceil(size, 3, w(2, 1, 1)), out, "{size}");
        }
    }
}
