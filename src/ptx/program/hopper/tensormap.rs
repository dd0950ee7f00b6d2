//! Tensor maps that a kernel makes.

use super::{Decoded, HopperOp, count, small};
use crate::ptx::program::decode::{Decoder, Modifiers};
use crate::ptx::program::resolve::Line;
use crate::ptx::tensor::map::Field;

/// Behind `tensormap.replace`.
pub fn replace(
    line: &Line<'_>,
    decoder: &mut Decoder<'_>,
    m: &mut Modifiers<'_>,
) -> Decoded<HopperOp> {
    m.skip(&["replace", "tile"]);
    let field = m.of(|word| {
        Some(match word {
            "global_address" => Field::GlobalAddress,
            "rank" => Field::Rank,
            "box_dim" => Field::BoxDim,
            "global_dim" => Field::GlobalDim,
            "global_stride" => Field::GlobalStride,
            "element_stride" => Field::ElementStride,
            "elemtype" => Field::ElemType,
            "interleave_layout" => Field::InterleaveLayout,
            "swizzle_mode" => Field::SwizzleMode,
            "fill_mode" => Field::FillMode,
            _ => return None,
        })
    });
    let global = m.takes("global");
    if !global && !m.takes("shared::cta") {
        return Err(decoder.unknown(line));
    }
    let wide = m.takes("b1024") && m.peek() == Some("b64");
    let (Some(field), true) = (field, m.takes("b64") || m.takes("b32")) else {
        return Err(decoder.unknown(line));
    };
    let dimensions = matches!(
        field,
        Field::BoxDim | Field::GlobalDim | Field::GlobalStride | Field::ElementStride
    );
    let value = 1 + usize::from(dimensions);
    count(line, decoder, value + 1, value + 1)?;
    Ok(HopperOp::MapReplace {
        at: decoder.address(line, 0)?,
        global,
        field,
        dimension: if dimensions {
            small(line, decoder, 1)?
        } else {
            0
        },
        value: match wide {
            true => decoder.src64(line, value)?,
            false => decoder.src(line, value)?,
        },
        wide,
    })
}

/// Behind `tensormap.cp_fenceproxy`.
pub fn publish(
    line: &Line<'_>,
    decoder: &mut Decoder<'_>,
    m: &mut Modifiers<'_>,
) -> Decoded<HopperOp> {
    m.skip(&[
        "cp_fenceproxy",
        "global",
        "shared::cta",
        "tensormap::generic",
    ]);
    m.skip(&["release", "cta", "cluster", "gpu", "sys"]);
    m.skip(&["sync", "aligned"]);
    count(line, decoder, 3, 3)?;
    if decoder.int(line, 2)? != 128 {
        return Err(decoder.problem(line, "a tensor map has 128 bytes"));
    }
    Ok(HopperOp::MapPublish {
        to: decoder.address(line, 0)?,
        from: decoder.address(line, 1)?,
    })
}
