//! Bulk copies, of plain bytes and of tensors.

use super::{Decoded, HopperOp, ReduceOp, Reduction, count, small};
use crate::ptx::program::decode::{Decoder, Modifiers};
use crate::ptx::program::op::{Addr, R};
use crate::ptx::program::resolve::{Arg, Line};

/// Behind `cp.async.bulk`.
pub fn bulk(
    line: &Line<'_>,
    decoder: &mut Decoder<'_>,
    m: &mut Modifiers<'_>,
) -> Decoded<HopperOp> {
    if m.takes("commit_group") {
        return Ok(HopperOp::BulkCommit);
    }
    if m.takes("wait_group") {
        let read = m.takes("read");
        return Ok(HopperOp::BulkWait {
            left: small(line, decoder, 0)?,
            read,
        });
    }
    if m.takes("prefetch") {
        m.skip(&[
            "tensor",
            "1d",
            "2d",
            "3d",
            "4d",
            "5d",
            "L2",
            "global",
            "tile",
            "im2col",
            "L2::cache_hint",
        ]);
        return Ok(HopperOp::Nothing);
    }
    if m.takes("tensor") {
        let rank = dimensions(line, decoder, m)?;
        return if m.takes("global") {
            tensor_store(line, decoder, m, rank, None)
        } else {
            tensor_load(line, decoder, m, rank)
        };
    }
    if m.takes("global") {
        if !m.takes("shared::cta") || !m.takes("bulk_group") {
            return Err(decoder.unknown(line));
        }
        let hint = m.takes("L2::cache_hint");
        count(line, decoder, 3 + usize::from(hint), 3 + usize::from(hint))?;
        let (to, from, bytes) = (
            decoder.address(line, 0)?,
            decoder.address(line, 1)?,
            decoder.src(line, 2)?,
        );
        return Ok(HopperOp::BulkStore {
            to,
            from,
            bytes,
            reduce: None,
        });
    }
    if !(m.takes("shared::cluster") || m.takes("shared::cta"))
        || !m.takes("global")
        || !m.takes("mbarrier::complete_tx::bytes")
    {
        return Err(decoder.unknown(line));
    }
    let hint = m.takes("L2::cache_hint");
    count(line, decoder, 4 + usize::from(hint), 4 + usize::from(hint))?;
    Ok(HopperOp::BulkLoad {
        to: decoder.address(line, 0)?,
        from: decoder.address(line, 1)?,
        bytes: decoder.src(line, 2)?,
        barrier: decoder.address(line, 3)?,
    })
}

fn dimensions(line: &Line<'_>, decoder: &Decoder<'_>, m: &mut Modifiers<'_>) -> Decoded<usize> {
    let rank = m.of(|word| {
        ["1d", "2d", "3d", "4d", "5d"]
            .iter()
            .position(|k| *k == word)
    });
    rank.map(|rank| rank + 1)
        .ok_or_else(|| decoder.unknown(line))
}

/// `[map, {coordinates}]`.
fn map_and_coordinates(
    line: &Line<'_>,
    decoder: &mut Decoder<'_>,
    i: usize,
    rank: usize,
) -> Decoded<(Addr, Vec<R>)> {
    let Arg::Address(base, offset, coordinates) = decoder.arg(line, i)?.clone() else {
        return Err(decoder.problem(line, "`[map, {coordinates}]` is needed"));
    };
    let coordinates = match coordinates.as_slice() {
        [Arg::Vector(parts)] => parts.clone(),
        other => other.to_vec(),
    };
    if coordinates.len() != rank {
        return Err(decoder.problem(
            line,
            &format!("{} coordinates for {rank} dimensions", coordinates.len()),
        ));
    }
    let map = decoder.address_of(line, &base, offset)?;
    let rows = coordinates
        .iter()
        .map(|part| decoder.src_arg(line, part))
        .collect::<Decoded<_>>()?;
    Ok((map, rows))
}

fn tensor_load(
    line: &Line<'_>,
    decoder: &mut Decoder<'_>,
    m: &mut Modifiers<'_>,
    rank: usize,
) -> Decoded<HopperOp> {
    if !(m.takes("shared::cluster") || m.takes("shared::cta")) || !m.takes("global") {
        return Err(decoder.unknown(line));
    }
    let im2col = m.takes("im2col");
    m.takes("tile");
    if !m.takes("mbarrier::complete_tx::bytes") {
        return Err(decoder.unknown(line));
    }
    let hint = m.takes("L2::cache_hint");
    let operands = 3 + usize::from(im2col) + usize::from(hint);
    count(line, decoder, operands, operands)?;
    let (map, coordinates) = map_and_coordinates(line, decoder, 1, rank)?;
    let mut offsets = Vec::new();
    if im2col {
        for part in decoder.vector(line, 3)?.to_vec() {
            offsets.push(decoder.src_arg(line, &part)?);
        }
        if offsets.len() + 2 != rank {
            return Err(decoder.problem(
                line,
                &format!("{} im2col offsets for {rank} dimensions", offsets.len()),
            ));
        }
    }
    let (to, barrier) = (decoder.address(line, 0)?, decoder.address(line, 2)?);
    Ok(HopperOp::TensorLoad {
        to,
        map,
        coordinates,
        im2col,
        offsets,
        barrier,
    })
}

fn tensor_store(
    line: &Line<'_>,
    decoder: &mut Decoder<'_>,
    m: &mut Modifiers<'_>,
    rank: usize,
    reduce: Option<ReduceOp>,
) -> Decoded<HopperOp> {
    m.takes("tile");
    if !m.takes("bulk_group") {
        // Behind `global`: the source's space, and of a reduction its operation.
        if !m.takes("shared::cta") {
            return Err(decoder.unknown(line));
        }
        let found = m.of(reduce_op);
        m.takes("tile");
        if !m.takes("bulk_group") {
            return Err(decoder.unknown(line));
        }
        let hint = m.takes("L2::cache_hint");
        count(line, decoder, 2 + usize::from(hint), 2 + usize::from(hint))?;
        let (map, coordinates) = map_and_coordinates(line, decoder, 0, rank)?;
        let from = decoder.address(line, 1)?;
        return Ok(HopperOp::TensorStore {
            map,
            coordinates,
            from,
            reduce: found.or(reduce),
        });
    }
    Err(decoder.unknown(line))
}

fn reduce_op(word: &str) -> Option<ReduceOp> {
    Some(match word {
        "add" => ReduceOp::Add,
        "min" => ReduceOp::Min,
        "max" => ReduceOp::Max,
        "and" => ReduceOp::And,
        "or" => ReduceOp::Or,
        "xor" => ReduceOp::Xor,
        "inc" => ReduceOp::Inc,
        "dec" => ReduceOp::Dec,
        _ => return None,
    })
}

/// Behind `cp.reduce.async.bulk`.
pub fn reduce(
    line: &Line<'_>,
    decoder: &mut Decoder<'_>,
    m: &mut Modifiers<'_>,
) -> Decoded<HopperOp> {
    use crate::ptx::tensor::map::DataType;
    if m.takes("tensor") {
        let rank = dimensions(line, decoder, m)?;
        if !m.takes("global") {
            return Err(decoder.unknown(line));
        }
        let op = tensor_store(line, decoder, m, rank, None)?;
        return match op {
            HopperOp::TensorStore {
                reduce: Some(_), ..
            } => Ok(op),
            _ => Err(decoder.unknown(line)),
        };
    }
    if !m.takes("global") || !m.takes("shared::cta") || !m.takes("bulk_group") {
        return Err(decoder.unknown(line));
    }
    let hint = m.takes("L2::cache_hint");
    let op = m.of(reduce_op);
    m.takes("noftz");
    let data_type = m.of(|word| match word {
        "u32" | "b32" => Some(DataType::U32),
        "s32" => Some(DataType::I32),
        "u64" | "b64" => Some(DataType::U64),
        "s64" => Some(DataType::I64),
        "f16" => Some(DataType::F16),
        "bf16" => Some(DataType::Bf16),
        "f32" => Some(DataType::F32),
        "f64" => Some(DataType::F64),
        _ => None,
    });
    let (Some(op), Some(data_type)) = (op, data_type) else {
        return Err(decoder.unknown(line));
    };
    count(line, decoder, 3 + usize::from(hint), 3 + usize::from(hint))?;
    let (to, from, bytes) = (
        decoder.address(line, 0)?,
        decoder.address(line, 1)?,
        decoder.src(line, 2)?,
    );
    Ok(HopperOp::BulkStore {
        to,
        from,
        bytes,
        reduce: Some(Reduction { op, data_type }),
    })
}
