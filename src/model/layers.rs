//! Layers with named parameters, from which encoder and decoders are composed.

use super::Ctx;
use crate::config::schema::Model;
use crate::device::Shape;
use crate::device::op::Window;
use crate::error::Result;
use crate::graph::TensorId;
use crate::graph::ops::{BnMode, BnParams};
use crate::graph::params::{Init, Kind, Spec};

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

    fn window(self) -> Window {
        Window {
            stride: self.stride,
            padding: self.dilation * (self.kernel - 1) / 2,
            dilation: self.dilation,
        }
    }
}

/// The parameters of a convolution with a bias and of the batch norm behind it.
pub(super) struct Layer {
    weight: Spec,
    bias: Spec,
    /// γ, β, running mean, running variance.
    norm: [Spec; 4],
}

impl Layer {
    /// Two layers as one of twice the channels, where their parameters lie side by side.
    pub fn joined(&self, next: &Self) -> Option<Self> {
        let [gamma, beta, mean, var] = &self.norm;
        let [next_gamma, next_beta, next_mean, next_var] = &next.norm;
        Some(Self {
            weight: self.weight.joined(&next.weight)?,
            bias: self.bias.joined(&next.bias)?,
            norm: [
                gamma.joined(next_gamma)?,
                beta.joined(next_beta)?,
                mean.joined(next_mean)?,
                var.joined(next_var)?,
            ],
        })
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
        self.ctx.graph.conv(name, x, w, bias, conv.window())
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
        let mode = self.bn_mode(!bn.linear);
        self.ctx
            .graph
            .batch_norm(name, x, params, bn.residual, mode, bn.into)
    }

    /// The parameters of layers `{prefix}.{first}` (a convolution with a bias on `channels`) and
    /// `{prefix}.{first + 1}` (batch norm) of sequences, one after the other kind by kind: the
    /// weights of all of them, then their biases, and so on. What [`Layer::joined`] needs.
    pub fn declare_side_by_side(
        &mut self,
        prefixes: [&str; 2],
        first: usize,
        channels: usize,
        conv: Conv,
    ) -> Result<[Layer; 2]> {
        let init = Init::UniformFanIn {
            fan_in: channels * conv.kernel * conv.kernel,
        };
        let kernel = [conv.out, conv.kernel, conv.kernel, channels];
        let vector = [1, 1, 1, conv.out];
        let (norm, one, zero) = (first + 1, Init::Constant(1.0), Init::Constant(0.0));
        let mut both = |layer: usize, part: &str, shape, kind, init| {
            let mut declare = |prefix: &str| {
                let name = format!("{prefix}.{layer}.{part}");
                let spec = self.ctx.layout.declare(&name, shape, kind, init);
                spec.cloned()
            };
            Ok([declare(prefixes[0])?, declare(prefixes[1])?])
        };
        let [w0, w1] = both(first, "weight", kernel, Kind::Weight, init)?;
        let [b0, b1] = both(first, "bias", vector, Kind::Weight, init)?;
        let [g0, g1] = both(norm, "weight", vector, Kind::Weight, one)?;
        let [s0, s1] = both(norm, "bias", vector, Kind::Weight, zero)?;
        let [m0, m1] = both(norm, "running_mean", vector, Kind::Buffer, zero)?;
        let [v0, v1] = both(norm, "running_var", vector, Kind::Buffer, one)?;
        let layer = |weight, bias, norm| Layer { weight, bias, norm };
        Ok([
            layer(w0, b0, [g0, s0, m0, v0]),
            layer(w1, b1, [g1, s1, m1, v1]),
        ])
    }

    /// Convolution, batch norm and ReLU of a layer.
    pub fn layer(
        &mut self,
        name: &str,
        x: TensorId,
        layer: &Layer,
        conv: Conv,
    ) -> Result<TensorId> {
        let set = self.ctx.set;
        let mut tensor = |spec| set.tensor(self.ctx.graph, spec);
        let (w, bias) = (tensor(&layer.weight), tensor(&layer.bias));
        let [gamma, beta, running_mean, running_var] = [0, 1, 2, 3].map(|i| tensor(&layer.norm[i]));
        let norm = BnParams {
            gamma,
            beta,
            running_mean,
            running_var,
        };
        let mode = self.bn_mode(true);
        let graph = &mut self.ctx.graph;
        let z = graph.conv(name, x, w, Some(bias), conv.window())?;
        graph.batch_norm(name, z, norm, None, mode, None)
    }

    fn bn_mode(&self, relu: bool) -> BnMode {
        BnMode {
            train: self.ctx.train,
            eps: BN_EPS,
            momentum: self.cfg.bn_momentum,
            relu,
        }
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
