//! The encoder: ResNet with a deep or a 7×7 stem, late stages dilated instead of strided.

use super::layers::{Bn, Conv, Net};
use crate::config::schema::{Encoder, Model, Stem};
use crate::device::op::Window;
use crate::error::{Error, Result};
use crate::graph::TensorId;

/// What every parameter of the encoder is named under.
pub(super) const PREFIX: &str = "encoder.";

/// Factors on the dilations of layer4's blocks with `model.multi_grid`.
const MULTI_GRID: [usize; 3] = [2, 2, 4];

/// Outputs of the stages that the decoders read.
pub(super) struct Features {
    pub layer1: TensorId,
    pub layer3: TensorId,
    pub layer4: TensorId,
    /// The mean of layer4 over the whole image, `[B, 1, 1, C]`, where `x` is only a part of it.
    pub context: Option<TensorId>,
}

/// The two kinds of residual block.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// 3×3, 3×3.
    Basic,
    /// 1×1, 3×3, 1×1 to four times the width.
    Bottleneck,
}

impl Kind {
    fn expansion(self) -> usize {
        match self {
            Kind::Basic => 1,
            Kind::Bottleneck => 4,
        }
    }
}

/// One residual block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Block {
    planes: usize,
    stride: usize,
    dilation: usize,
}

fn depth(encoder: Encoder) -> (Kind, [usize; 4]) {
    match encoder {
        Encoder::Resnet18 => (Kind::Basic, [2, 2, 2, 2]),
        Encoder::Resnet34 => (Kind::Basic, [3, 4, 6, 3]),
        Encoder::Resnet50 => (Kind::Bottleneck, [3, 4, 6, 3]),
        Encoder::Resnet101 => (Kind::Bottleneck, [3, 4, 23, 3]),
        Encoder::Resnet152 => (Kind::Bottleneck, [3, 8, 36, 3]),
    }
}

/// The blocks of the four stages.
fn stages(cfg: &Model, counts: [usize; 4]) -> Result<[Vec<Block>; 4]> {
    let dilated = match cfg.output_stride {
        8 => [false, false, true, true],
        16 => [false, false, false, true],
        32 => [false; 4],
        other => {
            return Err(Error::input(
                "model.output_stride",
                format!("{other} is not an output stride"),
                "use 8, 16 or 32",
            ));
        }
    };
    if cfg.multi_grid && counts[3] < MULTI_GRID.len() {
        return Err(Error::input(
            "model.multi_grid",
            format!("layer4 of this encoder has {} blocks, not 3", counts[3]),
            "set model.multi_grid to false or use a deeper encoder",
        ));
    }
    let mut dilation = 1;
    Ok(std::array::from_fn(|i| {
        let stride = if i == 0 || dilated[i] { 1 } else { 2 };
        // The block that would have strided still sees the undilated neighbourhood.
        let first = dilation;
        dilation *= if dilated[i] { 2 } else { 1 };
        let grid = |b: usize| match cfg.multi_grid && i == 3 {
            true => MULTI_GRID[b.min(2)],
            false => 1,
        };
        let block = |b: usize| Block {
            planes: cfg.width << i,
            stride: if b == 0 { stride } else { 1 },
            dilation: grid(b) * if b == 0 { first } else { dilation },
        };
        (0..counts[i]).map(block).collect()
    }))
}

/// Adds the encoder on images `x`.
pub(super) fn encoder(net: &mut Net, x: TensorId) -> Result<Features> {
    let (kind, counts) = depth(net.cfg.encoder);
    let stages = stages(net.cfg, counts)?;
    let mut x = stem(net, x)?;
    let mut outs = [x; 4];
    for (i, blocks) in stages.iter().enumerate() {
        for (b, block) in blocks.iter().enumerate() {
            let name = format!("{PREFIX}layer{}.{b}", i + 1);
            x = residual(net, &name, x, kind, *block)?;
        }
        outs[i] = x;
    }
    let [layer1, _, layer3, layer4] = outs;
    Ok(Features {
        layer1,
        layer3,
        layer4,
        context: None,
    })
}

/// Convolutions at stride 2, then max-pool at stride 2.
fn stem(net: &mut Net, x: TensorId) -> Result<TensorId> {
    let w = net.cfg.width;
    let (x, ceil) = match net.cfg.stem {
        Stem::Deep => {
            let x = net.conv("encoder.conv1.0", x, Conv::encoder(3, w).stride(2))?;
            let x = net.bn("encoder.conv1.1", x, Bn::default())?;
            let x = net.conv("encoder.conv1.3", x, Conv::encoder(3, w))?;
            let x = net.bn("encoder.conv1.4", x, Bn::default())?;
            (
                net.conv("encoder.conv1.6", x, Conv::encoder(3, 2 * w))?,
                true,
            )
        }
        Stem::Conv7 => (
            net.conv("encoder.conv1", x, Conv::encoder(7, w).stride(2))?,
            false,
        ),
    };
    let x = net.bn("encoder.bn1", x, Bn::default())?;
    let window = Window {
        stride: 2,
        padding: 1,
        dilation: 1,
    };
    net.ctx
        .graph
        .max_pool("encoder.maxpool", x, 3, window, ceil)
}

fn residual(net: &mut Net, name: &str, x: TensorId, kind: Kind, block: Block) -> Result<TensorId> {
    let Block {
        planes,
        stride,
        dilation,
    } = block;
    let out = planes * kind.expansion();
    let plain = Bn::default();
    let part = |p: &str| format!("{name}.{p}");
    let wide = |net: &mut Net, p: &str, x, stride| {
        let conv = Conv::encoder(3, planes).stride(stride).dilation(dilation);
        net.conv(&part(p), x, conv)
    };
    let (branch, last) = match kind {
        Kind::Basic => {
            let y = wide(net, "conv1", x, stride)?;
            let y = net.bn(&part("bn1"), y, plain)?;
            (wide(net, "conv2", y, 1)?, "bn2")
        }
        Kind::Bottleneck => {
            let y = net.conv(&part("conv1"), x, Conv::encoder(1, planes))?;
            let y = net.bn(&part("bn1"), y, plain)?;
            let y = wide(net, "conv2", y, stride)?;
            let y = net.bn(&part("bn2"), y, plain)?;
            (net.conv(&part("conv3"), y, Conv::encoder(1, out))?, "bn3")
        }
    };
    // After the branch: in inference its intermediates are dead by now, so the peak is lower.
    let shortcut = if stride != 1 || net.shape(x)[3] != out {
        let conv = Conv::encoder(1, out).stride(stride);
        let y = net.conv(&part("downsample.0"), x, conv)?;
        let linear = Bn {
            linear: true,
            ..plain
        };
        net.bn(&part("downsample.1"), y, linear)?
    } else {
        x
    };
    let bn = Bn {
        residual: Some(shortcut),
        zero: net.cfg.zero_init_residual,
        ..plain
    };
    net.bn(&part(last), branch, bn)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dilations(cfg: &Model) -> [Vec<usize>; 4] {
        let (_, counts) = depth(cfg.encoder);
        stages(cfg, counts)
            .unwrap()
            .map(|s| s.iter().map(|b| b.dilation).collect())
    }

    #[test]
    fn dilations_follow_the_released_code() {
        let mut cfg = Model {
            encoder: Encoder::Resnet50,
            ..Model::default()
        };
        let ones = |n| vec![1; n];
        assert_eq!(
            dilations(&cfg),
            [ones(3), ones(4), vec![1, 2, 2, 2, 2, 2], vec![4, 8, 16]]
        );
        cfg.output_stride = 16;
        assert_eq!(dilations(&cfg), [ones(3), ones(4), ones(6), vec![2, 4, 8]]);
        cfg.multi_grid = false;
        assert_eq!(dilations(&cfg), [ones(3), ones(4), ones(6), vec![1, 2, 2]]);
        cfg.output_stride = 32;
        assert_eq!(dilations(&cfg), [ones(3), ones(4), ones(6), ones(3)]);
    }

    #[test]
    fn impossible_networks_are_the_users_to_mend() {
        let mut cfg = Model {
            encoder: Encoder::Resnet18,
            ..Model::default()
        };
        let error = stages(&cfg, [2; 4]).unwrap_err();
        assert!(error.to_string().starts_with("model.multi_grid:"));
        cfg.output_stride = 4;
        let error = stages(&cfg, [2; 4]).unwrap_err();
        assert!(error.to_string().starts_with("model.output_stride:"));
        assert_eq!(error.exit_code(), 2);
    }
}
