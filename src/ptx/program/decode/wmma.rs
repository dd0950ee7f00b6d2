//! `wmma`.

use super::*;

impl Decoder<'_> {
    pub(super) fn wmma(&mut self, line: &Line<'_>, m: &mut Modifiers<'_>) -> Decoded<Op> {
        let what = m.of(|word| ["load", "store", "mma"].into_iter().find(|w| *w == word));
        let op = match what {
            Some("mma") => self.wmma_multiply(line, m)?,
            Some(what) => self.wmma_move(line, m, what == "store")?,
            None => return Err(self.unknown(line)),
        };
        Ok(Op::Wmma(Box::new(op)))
    }

    fn wmma_move(&mut self, line: &Line<'_>, m: &mut Modifiers<'_>, store: bool) -> Decoded<Wmma> {
        let part = m.of(|word| {
            ['a', 'b', 'c', 'd']
                .into_iter()
                .find(|p| word == p.to_string())
        });
        let part = part.filter(|part| (*part == 'd') == store);
        let (Some(part), true, true) = (part, m.takes("sync"), m.takes("aligned")) else {
            return Err(self.unknown(line));
        };
        let mut by_column = m.of(|word| match word {
            "row" => Some(false),
            "col" => Some(true),
            _ => None,
        });
        let shape = m.of(wmma_shape).ok_or_else(|| self.unknown(line))?;
        if by_column.is_none() {
            by_column = m.of(|word| match word {
                "row" => Some(false),
                "col" => Some(true),
                _ => None,
            });
        }
        let space = self.space(m).unwrap_or(Space::Generic);
        let number = m.of(wmma_number);
        let (Some(by_column), Some(number)) = (by_column, number) else {
            return Err(self.unknown(line));
        };
        let (values, place) = if store { (1, 0) } else { (0, 1) };
        if !(2..=3).contains(&line.args.len()) {
            return Err(self.problem(line, "another number of operands is not known"));
        }
        let fragment = self.fragment(line, values, part, shape, number, !store)?;
        let stride = match line.args.len() {
            3 => self.src(line, 2)?,
            _ => self.constant(if by_column {
                fragment.rows
            } else {
                fragment.columns
            }),
        };
        Ok(Wmma::Move {
            store,
            space,
            by_column,
            fragment,
            at: self.address(line, place)?,
            stride,
        })
    }

    fn wmma_multiply(&mut self, line: &Line<'_>, m: &mut Modifiers<'_>) -> Decoded<Wmma> {
        if !m.takes("sync") || !m.takes("aligned") {
            return Err(self.unknown(line));
        }
        let layout = |word: &str| matches!(word, "row" | "col").then_some(());
        let (Some(()), Some(())) = (m.of(layout), m.of(layout)) else {
            return Err(self.unknown(line));
        };
        let shape = m.of(wmma_shape).ok_or_else(|| self.unknown(line))?;
        m.takes("rn");
        let mut types = Vec::new();
        while let Some(number) = m.of(wmma_number) {
            types.push(number);
        }
        let clamp = m.takes("satfinite");
        let f16 = Number::Element(Element::F16);
        let [d, a, b, c] = match types.as_slice() {
            [d, c] => [*d, f16, f16, *c],
            [d, a, b, c] => [*d, *a, *b, *c],
            _ => return Err(self.unknown(line)),
        };
        if clamp && d != Number::S32 {
            return Err(self.unknown(line));
        }
        if line.args.len() != 4 {
            return Err(self.problem(line, "another number of operands is not known"));
        }
        Ok(Wmma::Multiply {
            clamp,
            d: self.fragment(line, 0, 'd', shape, d, true)?,
            a: self.fragment(line, 1, 'a', shape, a, false)?,
            b: self.fragment(line, 2, 'b', shape, b, false)?,
            c: self.fragment(line, 3, 'c', shape, c, false)?,
        })
    }

    fn fragment(
        &mut self,
        line: &Line<'_>,
        i: usize,
        part: char,
        [rows, columns, k]: [u32; 3],
        number: Number,
        result: bool,
    ) -> Decoded<Fragment> {
        use Element::{Bf16, F16, F64, S8, Tf32, U8};
        // PTX ISA, "Matrix shape" and "Matrix data-types" of wmma.
        let wide = matches!([rows, columns], [16, 16] | [8, 32] | [32, 8]);
        let (known, registers) = match (part, number, k) {
            ('a' | 'b', Number::Element(F16), 16) => (wide, 8),
            ('a', Number::Element(Bf16), 16) => (wide, rows / 4),
            ('b', Number::Element(Bf16), 16) => (wide, columns / 4),
            ('a', Number::Element(S8 | U8), 16) => (wide, rows / 8),
            ('b', Number::Element(S8 | U8), 16) => (wide, columns / 8),
            ('a' | 'b', Number::Element(Tf32), 8) => (rows == 16 && columns == 16, 4),
            ('a' | 'b', Number::Element(F64), 4) => (rows == 8 && columns == 8, 1),
            ('c' | 'd', Number::Element(F64), 4) => (rows == 8 && columns == 8, 2),
            ('c' | 'd', Number::Element(F16), 16) => (wide, 4),
            ('c' | 'd', Number::F32, 8 | 16) => (wide, 8),
            ('c' | 'd', Number::S32, 16) => (wide, 8),
            _ => (false, 0),
        };
        if !known {
            return Err(self.unknown(line));
        }
        let parts = match self.arg(line, i)? {
            Arg::Vector(parts) => parts.clone(),
            other => vec![other.clone()],
        };
        if parts.len() != registers as usize {
            let words = format!("operand {} wants {registers} registers", i + 1);
            return Err(self.problem(line, &words));
        }
        let registers = parts
            .iter()
            .map(|arg| match (result, number.bits()) {
                (true, 64) => self.dst64_arg(line, arg),
                (false, 64) => self.src64_arg(line, arg),
                (true, _) => self.dst_arg(line, arg),
                (false, _) => self.src_arg(line, arg),
            })
            .collect::<Decoded<_>>()?;
        let (rows, columns) = match part {
            'a' => (rows, k),
            'b' => (k, columns),
            _ => (rows, columns),
        };
        Ok(Fragment {
            rows,
            columns,
            number,
            registers,
        })
    }
}

fn wmma_shape(word: &str) -> Option<[u32; 3]> {
    Some(match word {
        "m16n16k16" => [16, 16, 16],
        "m8n32k16" => [8, 32, 16],
        "m32n8k16" => [32, 8, 16],
        "m16n16k8" => [16, 16, 8],
        "m8n8k4" => [8, 8, 4],
        _ => return None,
    })
}

fn wmma_number(word: &str) -> Option<Number> {
    Some(match word {
        "f32" => Number::F32,
        "s32" => Number::S32,
        "f16" => Number::Element(Element::F16),
        "bf16" => Number::Element(Element::Bf16),
        "tf32" => Number::Element(Element::Tf32),
        "f64" => Number::Element(Element::F64),
        "s8" => Number::Element(Element::S8),
        "u8" => Number::Element(Element::U8),
        _ => return None,
    })
}
