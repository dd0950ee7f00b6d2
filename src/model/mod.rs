//! Networks: functions that add nodes to a graph.
//!
//! [`network`] builds ResNet + DeepLabv3 or v3+ (method §2) from a [`Model`] configuration. It
//! asks a [`Layout`] for every parameter by the name it has in the authors' state dict (without
//! `module.`), so the same walk declares the layout once ([`layout`]) and looks it up afterwards:
//! student and teacher, training and inference differ only in the [`Ctx`] that is passed.
//!
//! Parameters are declared encoder first, so the flat vector is two runs: the encoder, trained at
//! the base learning rate, and everything else, at `head_lr_mult` times it ([`groups`]).

mod decoder;
mod init;
mod layers;
mod resnet;

pub use init::init;

use crate::config::schema::{Decoder, Model};
use crate::device::DType;
use crate::device::op::SgdGroup;
use crate::error::{Error, Result};
use crate::graph::params::{Kind, Layout, ParamSet};
use crate::graph::{Graph, TensorId};

/// What a network is built into, and how it behaves.
pub struct Ctx<'a> {
    /// Receives the nodes.
    pub graph: &'a mut Graph,
    /// Names and places of the parameters; declares new ones unless frozen.
    pub layout: &'a mut Layout,
    /// Which copy of the parameters: the student's or the teacher's.
    pub set: ParamSet,
    /// Batch norm uses (and moves) batch statistics, dropout drops.
    pub train: bool,
    /// Random state `u32 [1,1,1,4]` that dropout draws from; unread unless `train`.
    pub rng: TensorId,
    /// Random stream of the next dropout; advanced by one per dropout.
    pub stream: u32,
}

/// Which optional heads to build.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Want {
    /// The representation head.
    pub rep: bool,
    /// The auxiliary head; only with `model.aux`.
    pub aux: bool,
    /// Classifier and representation head apart from their first convolution on: for a training
    /// pass whose losses reach one of them alone. Otherwise they begin as one, where they can.
    pub apart: bool,
}

/// What a network computes.
#[derive(Clone, Copy, Debug)]
pub struct Outputs {
    /// `[B, h, w, classes]`, before softmax, on layer1's grid (v3+) or layer4's (v3).
    pub logits: TensorId,
    /// `[B, h, w, rep_width]`, not normalised, on the logits' grid.
    pub rep: Option<TensorId>,
    /// `[B, h3, w3, classes]`, before softmax, on layer3's grid.
    pub aux: Option<TensorId>,
}

/// Adds the network that `cfg` describes, applied to images `x` `[B, H, W, 3]`.
///
/// # Errors
/// [`Error::Input`] for a configuration that is no network (output stride, multi-grid) or an
/// image smaller than a window; [`Error::Internal`] when a frozen layout is that of another
/// network.
pub fn network(
    ctx: &mut Ctx,
    cfg: &Model,
    classes: usize,
    x: TensorId,
    want: Want,
) -> Result<Outputs> {
    let mut net = layers::Net { ctx, cfg };
    let features = resnet::encoder(&mut net, x)?;
    heads(&mut net, &features, classes, want)
}

/// What the image-level branch of the pyramid takes the mean of, `[B, h, w, C]`: layer4 of the
/// encoder on images `x`.
///
/// # Errors
/// As [`network`].
pub fn features(ctx: &mut Ctx, cfg: &Model, x: TensorId) -> Result<TensorId> {
    Ok(resnet::encoder(&mut layers::Net { ctx, cfg }, x)?.layer4)
}

/// Logits of `x`, a part of an image, and the input that they take besides: the mean of
/// [`features`] over the whole image, `[B, 1, 1, C]`.
///
/// # Errors
/// As [`network`].
pub fn network_in_context(
    ctx: &mut Ctx,
    cfg: &Model,
    classes: usize,
    x: TensorId,
) -> Result<(TensorId, TensorId)> {
    let mut net = layers::Net { ctx, cfg };
    let mut features = resnet::encoder(&mut net, x)?;
    let [n, _, _, channels] = net.shape(features.layer4);
    let context = net
        .ctx
        .graph
        .input("context", [n, 1, 1, channels], DType::F32);
    features.context = Some(context);
    let logits = heads(&mut net, &features, classes, Want::default())?.logits;
    Ok((logits, context))
}

fn heads(
    net: &mut layers::Net,
    features: &resnet::Features,
    classes: usize,
    want: Want,
) -> Result<Outputs> {
    let (logits, rep) = match net.cfg.decoder {
        Decoder::Deeplabv3 => decoder::deeplabv3(net, features, classes, want)?,
        Decoder::Deeplabv3plus => decoder::deeplabv3plus(net, features, classes, want)?,
    };
    let aux = match want.aux {
        true => Some(decoder::auxiliary(net, features, classes)?),
        false => None,
    };
    Ok(Outputs { logits, rep, aux })
}

/// Every parameter and buffer of the network, optional heads included (the auxiliary one when
/// `cfg.aux`), frozen.
///
/// # Errors
/// [`Error::Input`] for a configuration that is no network.
pub fn layout(cfg: &Model, classes: usize) -> Result<Layout> {
    // Shapes of parameters do not depend on the image: any that survives every stride will do.
    const SIDE: usize = 64;
    let mut graph = Graph::new();
    let mut layout = Layout::new();
    let x = graph.input("x", [1, SIDE, SIDE, 3], DType::F32);
    let rng = graph.input("rng", [1, 1, 1, 4], DType::U32);
    let mut ctx = Ctx {
        graph: &mut graph,
        layout: &mut layout,
        set: ParamSet {
            weights: 0,
            buffers: 0,
            copy: None,
            vectors: None,
            trainable: false,
        },
        train: false,
        rng,
        stream: 0,
    };
    let want = Want {
        rep: true,
        aux: cfg.aux,
        apart: false,
    };
    network(&mut ctx, cfg, classes, x, want)?;
    layout.freeze();
    Ok(layout)
}

/// Length of the encoder's run at the start of the flat weights.
///
/// # Errors
/// [`Error::Internal`] when the encoder's weights are not one run at the start.
pub fn encoder_len(layout: &Layout) -> Result<usize> {
    let weights = || layout.specs().iter().filter(|s| s.kind == Kind::Weight);
    let is_encoder = |name: &str| name.starts_with(resnet::PREFIX);
    let heads = weights().filter(|s| !is_encoder(&s.name));
    let end = heads
        .map(|s| s.offset)
        .min()
        .unwrap_or(layout.weights_len());
    match weights().find(|s| is_encoder(&s.name) && s.offset >= end) {
        Some(s) => Err(Error::internal(format!("{} lies among the heads", s.name))),
        None => Ok(end),
    }
}

/// Parameter groups of the optimiser: the encoder at the base learning rate, the rest at
/// `head_lr_mult` times it, all with the same weight decay (as the authors train).
///
/// # Errors
/// As [`encoder_len`].
pub fn groups(layout: &Layout, head_lr_mult: f32, weight_decay: f32) -> Result<Vec<SgdGroup>> {
    let split = encoder_len(layout)?;
    let group = |start, end: usize, lr_mult| SgdGroup {
        start,
        len: end - start,
        lr_mult,
        weight_decay,
    };
    Ok(vec![
        group(0, split, 1.0),
        group(split, layout.weights_len(), head_lr_mult),
    ])
}
