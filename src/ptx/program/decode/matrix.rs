//! Matrices: their parts to and from shared memory, and their products.

use super::*;

impl Decoder<'_> {
    pub(super) fn matrix(&mut self, line: &Line<'_>, m: &mut Modifiers<'_>) -> Decoded<Op> {
        if !m.takes("sync") || !m.takes("aligned") || !m.takes("m8n8") {
            return Err(self.unknown(line));
        }
        let count = m.of(|word| match word {
            "x1" => Some(1u8),
            "x2" => Some(2),
            "x4" => Some(4),
            _ => None,
        });
        let count = count.ok_or_else(|| self.unknown(line))?;
        let transposed = m.takes("trans");
        if !(m.takes("shared") || m.takes("shared::cta")) || !m.takes("b16") {
            return Err(self.unknown(line));
        }
        let load = line.parts[0] == "ldmatrix";
        let (values, place) = if load { (0, 1) } else { (1, 0) };
        let parts = match self.arg(line, values)? {
            Arg::Vector(parts) => parts.clone(),
            other => vec![other.clone()],
        };
        if parts.len() != usize::from(count) {
            return Err(self.problem(line, "the vector has another length than `.x` says"));
        }
        let mut rows = [SINK; 4];
        for (row, arg) in rows.iter_mut().zip(&parts) {
            *row = if load {
                self.dst_arg(line, arg)?
            } else {
                self.src_arg(line, arg)?
            };
        }
        let at = self.address(line, place)?;
        Ok(match load {
            true => Op::Ldmatrix {
                count,
                transposed,
                d: rows,
                at,
            },
            false => Op::Stmatrix {
                count,
                transposed,
                s: rows,
                at,
            },
        })
    }

    pub(super) fn mma(&mut self, line: &Line<'_>, m: &mut Modifiers<'_>) -> Decoded<Op> {
        if !m.takes("sync") || !m.takes("aligned") {
            return Err(self.unknown(line));
        }
        let shape = m.of(|word| {
            let (rows, rest) = word.strip_prefix('m')?.split_once('n')?;
            let (columns, k) = rest.split_once('k')?;
            Some([rows.parse().ok()?, columns.parse().ok()?, k.parse().ok()?])
        });
        let shape: [u32; 3] = shape.ok_or_else(|| self.unknown(line))?;
        if !m.takes("row") || !m.takes("col") {
            return Err(self.unknown(line));
        }
        let finite = m.takes("satfinite");
        m.takes("kind::f8f6f4");
        let d = m.of(Ty::from_name);
        let (a_type, b_type) = (m.of(element), m.of(element));
        let c = m.of(Ty::from_name);
        let (Some(d), Some(a_type), Some(b_type)) = (d, a_type, b_type) else {
            return Err(self.unknown(line));
        };
        let half_sums = d == Ty::F16;
        let integers = matches!(d, Ty::S32);
        let floats = matches!(d, Ty::F32 | Ty::F16);
        let same = a_type == b_type;
        // PTX ISA, "Matrix multiply-accumulate operation using mma instruction".
        use Element::{Bf16, F16, F64, Float8, S4, S8, Tf32, U4, U8};
        let known = match (a_type, b_type, shape) {
            (F16, _, [16, 8, 8 | 16]) => same && floats,
            (Bf16, _, [16, 8, 8 | 16]) | (Tf32, _, [16, 8, 4 | 8]) => same && d == Ty::F32,
            (Float8(_), Float8(_), [16, 8, 16 | 32]) => floats,
            (F64, _, [8, 8, 4] | [16, 8, 4 | 8 | 16]) => same && d == Ty::F64,
            (S8 | U8, S8 | U8, [8, 8, 16] | [16, 8, 16 | 32]) => integers,
            (S4 | U4, S4 | U4, [8, 8, 32] | [16, 8, 32 | 64]) => integers,
            _ => false,
        };
        if !known || c != Some(d) || (finite && !integers) {
            return Err(self.unknown(line));
        }
        let [rows, columns, k] = shape;
        let bits = match a_type {
            F64 => 64,
            Tf32 => 32,
            F16 | Bf16 => 16,
            S8 | U8 | Float8(_) => 8,
            S4 | U4 => 4,
        };
        let register = bits.max(32);
        let registers = |elements: u32, bits: u32| (elements * bits / 32 / register) as usize;
        let sums = match d {
            Ty::F16 => registers(rows * columns, 16),
            Ty::F64 => registers(rows * columns, 64),
            _ => registers(rows * columns, 32),
        };
        let mut read = |i: usize, length: usize, result: bool| -> Decoded<Vec<R>> {
            let parts = match self.arg(line, i)? {
                Arg::Vector(parts) => parts.clone(),
                other => vec![other.clone()],
            };
            if parts.len() != length {
                return Err(
                    self.problem(line, &format!("operand {} wants {length} registers", i + 1))
                );
            }
            parts
                .iter()
                .map(|arg| match (result, bits) {
                    (true, 64) => self.dst64_arg(line, arg),
                    (false, 64) => self.src64_arg(line, arg),
                    (true, _) => self.dst_arg(line, arg),
                    (false, _) => self.src_arg(line, arg),
                })
                .collect()
        };
        let d = read(0, sums, true)?;
        let a = read(1, registers(rows * k, bits), false)?;
        let b = read(2, registers(columns * k, bits), false)?;
        let c = read(3, sums, false)?;
        Ok(Op::Mma(Box::new(Mma {
            m: rows,
            k,
            a_type,
            b_type,
            half_sums,
            finite,
            d,
            a,
            b,
            c,
        })))
    }
}

fn element(word: &str) -> Option<Element> {
    Some(match word {
        "f16" => Element::F16,
        "bf16" => Element::Bf16,
        "tf32" => Element::Tf32,
        "f64" => Element::F64,
        "s8" => Element::S8,
        "u8" => Element::U8,
        "s4" => Element::S4,
        "u4" => Element::U4,
        "e4m3" => Element::Float8(Float8::E4m3),
        "e5m2" => Element::Float8(Float8::E5m2),
        _ => return None,
    })
}
