//! `wgmma` and the registers that it uses.

use super::{Decoded, HopperOp, Left, Wgmma, count, small};
use crate::ptx::program::decode::{Decoder, Modifiers};
use crate::ptx::program::op::R;
use crate::ptx::program::resolve::{Arg, Line};
use crate::ptx::tensor::accumulate::Sum;
use crate::ptx::tensor::descriptor::Major;
use crate::ptx::tensor::{Element, wgmma};

/// Behind `wgmma`.
pub fn wgmma_(
    line: &Line<'_>,
    decoder: &mut Decoder<'_>,
    m: &mut Modifiers<'_>,
) -> Decoded<HopperOp> {
    let what = m.of(|word| {
        ["fence", "commit_group", "wait_group", "mma_async"]
            .into_iter()
            .find(|k| *k == word)
    });
    if !m.takes("sync") || !m.takes("aligned") {
        return Err(decoder.unknown(line));
    }
    match what {
        Some("fence") => return Ok(HopperOp::WgmmaFence),
        Some("commit_group") => return Ok(HopperOp::WgmmaCommit),
        Some("wait_group") => return Ok(HopperOp::WgmmaWait(small(line, decoder, 0)?)),
        Some(_) => {}
        None => return Err(decoder.unknown(line)),
    }
    let shape_name = m.of(|word| word.starts_with("m64n").then(|| word.to_string()));
    let clamp = m.takes("satfinite");
    let sum = m.of(|word| match word {
        "f32" => Some(Sum::F32),
        "f16" => Some(Sum::F16),
        "s32" => Some(Sum::S32),
        _ => None,
    });
    let (left, right) = (m.of(Element::named), m.of(Element::named));
    let (Some(shape_name), Some(sum), Some(element), Some(right)) = (shape_name, sum, left, right)
    else {
        return Err(decoder.unknown(line));
    };
    let float8 = |e: Element| e.bytes() == 1 && !e.is_integer();
    let integers = element.is_integer();
    let pair =
        element == right || (integers && right.is_integer()) || (float8(element) && float8(right));
    let Some(mut shape) =
        wgmma::Wgmma::new(&shape_name, element, sum).filter(|_| pair && (!clamp || integers))
    else {
        return Err(decoder.unknown(line));
    };
    (shape.right, shape.clamp) = (right, clamp);
    let parts = decoder.vector(line, 0)?;
    if parts.len() != shape.d_registers() {
        let words = format!(
            "{} accumulator registers where the shape has {}",
            parts.len(),
            shape.d_registers()
        );
        return Err(decoder.problem(line, &words));
    }
    let d = parts
        .iter()
        .map(|part| decoder.dst_arg(line, part))
        .collect::<Decoded<Vec<R>>>()?;
    let mut seen = d.clone();
    seen.sort_unstable();
    seen.dedup();
    if seen.len() != d.len() {
        return Err(decoder.problem(line, "an accumulator register twice"));
    }
    let a = match decoder.arg(line, 1)?.clone() {
        Arg::Vector(parts) if parts.len() == 4 => {
            let mut rows = [0; 4];
            for (row, part) in rows.iter_mut().zip(&parts) {
                *row = decoder.src_arg(line, part)?;
            }
            Left::Registers(rows)
        }
        Arg::Vector(_) => return Err(decoder.problem(line, "A has 4 registers")),
        _ => Left::Shared(decoder.src64(line, 1)?),
    };
    let b = decoder.src64(line, 2)?;
    // scale-d, imm-scale-a, imm-scale-b; of 16-bit types imm-trans-a (A in shared memory) and imm-trans-b.
    // Of integers nothing follows scale-d.
    let sixteen = element.bytes() == 2;
    let transposes = if sixteen {
        1 + usize::from(matches!(a, Left::Shared(_)))
    } else {
        0
    };
    let operands = if integers { 4 } else { 6 + transposes };
    count(line, decoder, operands, operands)?;
    let scale_d = decoder.pred(line, 3)?;
    let scales = [(4, &mut shape.negate_a), (5, &mut shape.negate_b)];
    for (i, negate) in scales.into_iter().take(if integers { 0 } else { 2 }) {
        *negate = match decoder.int(line, i)? as i64 {
            1 => false,
            -1 => true,
            _ => return Err(decoder.problem(line, "an immediate scale is 1 or -1")),
        };
    }
    let transposed = |i: usize| match decoder.int(line, i)? {
        0 => Ok(Major::K),
        1 => Ok(Major::Mn),
        _ => Err(decoder.problem(line, "an immediate transposition is 0 or 1")),
    };
    if transposes == 2 {
        shape.a_major = transposed(6)?;
    }
    if transposes > 0 {
        shape.b_major = transposed(5 + transposes)?;
    }
    let mut registers = [Vec::new(), Vec::new()];
    for (i, list) in registers.iter_mut().enumerate() {
        if let Arg::Vector(parts) = decoder.arg(line, i)? {
            list.extend(parts.iter().filter_map(|part| {
                if let Arg::Reg(v) = part {
                    Some(*v)
                } else {
                    None
                }
            }));
        }
    }
    let [d_registers, a_registers] = registers;
    Ok(HopperOp::Wgmma(Wgmma {
        shape,
        d,
        d_registers,
        a_registers,
        a,
        b,
        scale_d,
    }))
}

/// A register of wgmma that another instruction reads or writes.
#[derive(Clone, Copy, Debug)]
pub struct Touch {
    pub register: u32,
    pub written: bool,
    /// It is an accumulator somewhere.
    pub sum: bool,
}

/// For each line the registers of wgmma that it touches, unless it is a wgmma itself. Empty for an
/// entry without wgmma.
pub fn touches(lines: &[Line<'_>], registers: usize) -> Vec<Box<[Touch]>> {
    let mut kinds = vec![0u8; registers];
    let multiplies = |line: &Line<'_>| line.parts.starts_with(&["wgmma", "mma_async"]);
    for line in lines.iter().filter(|line| multiplies(line)) {
        for (arg, kind) in line.args.iter().take(2).zip([1, 2]) {
            if let Arg::Vector(_) = arg {
                crate::ptx::flow::registers(arg, &mut |v| kinds[v as usize] |= kind);
            }
        }
    }
    if kinds.iter().all(|kind| *kind == 0) {
        return Vec::new();
    }
    lines
        .iter()
        .map(|line| {
            let mut found = Vec::new();
            if !multiplies(line) {
                line.each(&mut |v, written| {
                    let kind = kinds[v as usize];
                    if kind != 0 {
                        found.push(Touch {
                            register: v,
                            written,
                            sum: kind & 1 != 0,
                        });
                    }
                });
            }
            found.into()
        })
        .collect()
}
