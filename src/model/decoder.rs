//! Decoders: DeepLabv3, DeepLabv3+ and the auxiliary head.

use super::Want;
use super::layers::{Bn, Conv, Net};
use super::resnet::Features;
use crate::device::DType;
use crate::error::Result;
use crate::graph::TensorId;

/// Atrous spatial pyramid pooling: global context, a 1×1 and one dilated 3×3 per
/// `model.aspp_dilations`, side by side in the channels of one tensor, each written in place.
/// `context` stands in for the mean of `x` where `x` is a part of an image.
fn aspp(net: &mut Net, x: TensorId, context: Option<TensorId>) -> Result<TensorId> {
    const NAME: &str = "decoder.aspp";
    let [n, h, w, _] = net.shape(x);
    let width = net.cfg.head_width;
    let dilations = net.cfg.aspp_dilations.clone();
    let shape = [n, h, w, (dilations.len() + 2) * width];
    let y = net.ctx.graph.transient(NAME, shape, DType::F32);

    let context = match context {
        Some(context) => context,
        None => net.ctx.graph.global_avg_pool("decoder.aspp.conv1.0", x),
    };
    let context = net.conv("decoder.aspp.conv1.1", context, Conv::decoder(1, width))?;
    let context = net.bn("decoder.aspp.conv1.2", context, Bn::default())?;
    let slice = net.ctx.graph.channel_slice(y, 0, width)?;
    net.ctx
        .graph
        .resize("decoder.aspp.conv1", context, h, w, Some(slice))?;

    let point = Conv::decoder(1, width);
    let atrous = dilations
        .iter()
        .map(|&d| Conv::decoder(3, width).dilation(d));
    for (i, conv) in std::iter::once(point).chain(atrous).enumerate() {
        let branch = format!("{NAME}.conv{}", i + 2);
        let z = net.conv(&format!("{branch}.0"), x, conv)?;
        let bn = Bn {
            into: Some(net.ctx.graph.channel_slice(y, (i + 1) * width, width)?),
            ..Bn::default()
        };
        net.bn(&format!("{branch}.1"), z, bn)?;
    }
    Ok(y)
}

/// Layers `conv` and `conv + 1` of a sequence: 3×3 convolution, batch norm, ReLU, dropout.
fn unit(net: &mut Net, prefix: &str, first: usize, x: TensorId, conv: Conv) -> Result<TensorId> {
    let x = net.conv(&format!("{prefix}.{first}"), x, conv)?;
    let x = net.bn(&format!("{prefix}.{}", first + 1), x, Bn::default())?;
    Ok(net.dropout(&format!("{prefix}.{}", first + 3), x))
}

const CLASSIFIER: &str = "decoder.classifier";
const REPRESENTATION: &str = "decoder.representation";

/// Classifier and representation head: two 3×3 units and a 1×1 to `out` channels.
fn fused_head(net: &mut Net, prefix: &str, x: TensorId, out: usize) -> Result<TensorId> {
    let conv = Conv::decoder(3, net.cfg.head_width).bias();
    let x = net.conv(&format!("{prefix}.0"), x, conv)?;
    let x = net.bn(&format!("{prefix}.1"), x, Bn::default())?;
    rest_of_head(net, prefix, x, out)
}

/// A head behind its first convolution and batch norm.
fn rest_of_head(net: &mut Net, prefix: &str, x: TensorId, out: usize) -> Result<TensorId> {
    let conv = Conv::decoder(3, net.cfg.head_width).bias();
    let x = net.dropout(&format!("{prefix}.3"), x);
    let x = unit(net, prefix, 4, x, conv)?;
    net.conv(&format!("{prefix}.8"), x, Conv::decoder(1, out).bias())
}

/// Classifier and representation head on one input. Their first convolutions and batch norms run
/// as one of twice the channels where their parameters lie side by side, which takes a width that
/// is a multiple of the layout's alignment; either way the values are the same but for rounding.
fn both_heads(
    net: &mut Net,
    x: TensorId,
    classes: usize,
    apart: bool,
) -> Result<(TensorId, TensorId)> {
    let (width, rep_width) = (net.cfg.head_width, net.cfg.rep_width);
    let conv = Conv::decoder(3, width).bias();
    let channels = net.shape(x)[3];
    let [a, b] = net.declare_side_by_side([CLASSIFIER, REPRESENTATION], 0, channels, conv)?;
    let Some(both) = a.joined(&b).filter(|_| !apart) else {
        let logits = fused_head(net, CLASSIFIER, x, classes)?;
        return Ok((logits, fused_head(net, REPRESENTATION, x, rep_width)?));
    };
    let y = net.layer("decoder.heads", x, &both, conv)?;
    let graph = &mut net.ctx.graph;
    let (left, right) = (
        graph.channel_slice(y, 0, width)?,
        graph.channel_slice(y, width, width)?,
    );
    let logits = rest_of_head(net, CLASSIFIER, left, classes)?;
    Ok((logits, rest_of_head(net, REPRESENTATION, right, rep_width)?))
}

/// DeepLabv3: logits straight from the pyramid, on layer4's grid. The released DeepLabv3 has no
/// representation head; this one has v3+'s form and reads the pyramid.
pub(super) fn deeplabv3(
    net: &mut Net,
    features: &Features,
    classes: usize,
    want: Want,
) -> Result<(TensorId, Option<TensorId>)> {
    let pyramid = aspp(net, features.layer4, features.context)?;
    let conv = Conv::decoder(3, net.cfg.head_width);
    let x = unit(net, "decoder.head", 0, pyramid, conv)?;
    let logits = net.conv("decoder.head.4", x, Conv::decoder(1, classes).bias())?;
    let rep = match want.rep {
        true => Some(fused_head(net, REPRESENTATION, pyramid, net.cfg.rep_width)?),
        false => None,
    };
    Ok((logits, rep))
}

/// DeepLabv3+: the pyramid, brought to layer1's grid, beside layer1's own features (low level
/// first); classifier and representation head read both.
pub(super) fn deeplabv3plus(
    net: &mut Net,
    features: &Features,
    classes: usize,
    want: Want,
) -> Result<(TensorId, Option<TensorId>)> {
    let width = net.cfg.head_width;
    let pyramid = aspp(net, features.layer4, features.context)?;
    let high = unit(net, "decoder.head", 0, pyramid, Conv::decoder(3, width))?;

    let [n, h, w, _] = net.shape(features.layer1);
    let fused = net
        .ctx
        .graph
        .transient("decoder.fused", [n, h, w, 2 * width], DType::F32);
    let conv = Conv::decoder(1, width).bias();
    let low = net.conv("decoder.low_conv.0", features.layer1, conv)?;
    let bn = Bn {
        into: Some(net.ctx.graph.channel_slice(fused, 0, width)?),
        ..Bn::default()
    };
    net.bn("decoder.low_conv.1", low, bn)?;
    let slice = net.ctx.graph.channel_slice(fused, width, width)?;
    net.ctx
        .graph
        .resize("decoder.upsample", high, h, w, Some(slice))?;

    if want.rep {
        let (logits, rep) = both_heads(net, fused, classes, want.apart)?;
        return Ok((logits, Some(rep)));
    }
    Ok((fused_head(net, CLASSIFIER, fused, classes)?, None))
}

/// The auxiliary head on layer3.
pub(super) fn auxiliary(net: &mut Net, features: &Features, classes: usize) -> Result<TensorId> {
    let conv = Conv::decoder(3, net.cfg.head_width).bias();
    let x = unit(net, "auxor.aux", 0, features.layer3, conv)?;
    net.conv("auxor.aux.4", x, Conv::decoder(1, classes).bias())
}
