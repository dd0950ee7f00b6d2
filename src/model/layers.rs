//! Layers with named parameters, from which encoder and decoders are composed.

use super::Ctx;
use crate::config::schema::Model;
use crate::device::Shape;
use crate::device::op::Window;
use crate::error::Result;
use crate::graph::TensorId;
use crate::graph::ops::{BnMode, BnParams};
use crate::graph::params::{Init, Kind};

/// ε of every batch norm.
const BN_EPS: f32 = 1e-5;

/// A network under construction.
pub(super) struct Net<'c, 'a> {
    pub ctx: &'c mut Ctx<'a>,
    pub cfg: &'c Model,
}

/// Which initial values a convolution gets.
#[derive(Clone, Copy)]
enum Start {
    /// Kaiming normal, fan-out: the encoder.
    Kaiming,
    /// What PyTorch's `Conv2d` starts with: decoder and auxiliary head.
    Uniform,
}

/// A convolution whose padding keeps the map's size at stride 1.
#[derive(Clone, Copy)]
pub(super) struct Conv {
    out: usize,
    kernel: usize,
    stride: usize,
    dilation: usize,
    bias: bool,
    start: Start,
}

impl Conv {
    /// `kernel × kernel` to `out` channels, as the encoder's are initialised.
    pub fn encoder(kernel: usize, out: usize) -> Self {
        Self {
            out,
            kernel,
            stride: 1,
            dilation: 1,
            bias: false,
            start: Start::Kaiming,
        }
    }

    /// `kernel × kernel` to `out` channels, as the decoder's are initialised.
    pub fn decoder(kernel: usize, out: usize) -> Self {
        Self {
            start: Start::Uniform,
            ..Self::encoder(kernel, out)
        }
    }

    pub fn stride(self, stride: usize) -> Self {
        Self { stride, ..self }
    }

    pub fn dilation(self, dilation: usize) -> Self {
        Self { dilation, ..self }
    }

    pub fn bias(self) -> Self {
        Self { bias: true, ..self }
    }
}

/// A batch norm's surroundings.
#[derive(Clone, Copy, Default)]
pub(super) struct Bn {
    /// Added before the ReLU.
    pub residual: Option<TensorId>,
    /// Slice that receives the output.
    pub into: Option<TensorId>,
    /// Leave the ReLU out.
    pub linear: bool,
    /// Start γ at 0: the residual branch begins as nothing.
    pub zero: bool,
}

impl Net<'_, '_> {
    pub fn shape(&self, t: TensorId) -> Shape {
        self.ctx.graph.shape(t)
    }

    fn parameter(&mut self, name: &str, shape: Shape, kind: Kind, init: Init) -> Result<TensorId> {
        let spec = self.ctx.layout.declare(name, shape, kind, init)?;
        Ok(self.ctx.set.tensor(self.ctx.graph, spec))
    }

    /// Convolution with weights `{name}.weight` and, with a bias, `{name}.bias`.
    pub fn conv(&mut self, name: &str, x: TensorId, conv: Conv) -> Result<TensorId> {
        let channels = self.shape(x)[3];
        let fan_in = channels * conv.kernel * conv.kernel;
        let init = match conv.start {
            Start::Kaiming => Init::KaimingNormalFanOut,
            Start::Uniform => Init::UniformFanIn { fan_in },
        };
        let shape = [conv.out, conv.kernel, conv.kernel, channels];
        let w = self.parameter(&format!("{name}.weight"), shape, Kind::Weight, init)?;
        let bias = match conv.bias {
            true => {
                let (name, shape) = (format!("{name}.bias"), [1, 1, 1, conv.out]);
                let init = Init::UniformFanIn { fan_in };
                Some(self.parameter(&name, shape, Kind::Weight, init)?)
            }
            false => None,
        };
        let window = Window {
            stride: conv.stride,
            padding: conv.dilation * (conv.kernel - 1) / 2,
            dilation: conv.dilation,
        };
        self.ctx.graph.conv(name, x, w, bias, window)
    }

    /// Batch norm with `{name}.weight`, `.bias`, `.running_mean` and `.running_var`.
    pub fn bn(&mut self, name: &str, x: TensorId, bn: Bn) -> Result<TensorId> {
        let mut vector = |part: &str, kind, value| {
            let shape = [1, 1, 1, self.ctx.graph.shape(x)[3]];
            self.parameter(
                &format!("{name}.{part}"),
                shape,
                kind,
                Init::Constant(value),
            )
        };
        let gamma = if bn.zero { 0.0 } else { 1.0 };
        let params = BnParams {
            gamma: vector("weight", Kind::Weight, gamma)?,
            beta: vector("bias", Kind::Weight, 0.0)?,
            running_mean: vector("running_mean", Kind::Buffer, 0.0)?,
            running_var: vector("running_var", Kind::Buffer, 1.0)?,
        };
        let mode = BnMode {
            train: self.ctx.train,
            eps: BN_EPS,
            momentum: self.cfg.bn_momentum,
            relu: !bn.linear,
        };
        self.ctx
            .graph
            .batch_norm(name, x, params, bn.residual, mode, bn.into)
    }

    /// Dropout2d in training, `x` itself otherwise.
    pub fn dropout(&mut self, name: &str, x: TensorId) -> TensorId {
        if !self.ctx.train {
            return x;
        }
        let stream = self.ctx.stream;
        self.ctx.stream += 1;
        let (rng, p) = (self.ctx.rng, self.cfg.dropout);
        self.ctx.graph.dropout2d(name, x, rng, p, stream)
    }
}
