//! Variables and parameters, with their initial values.

use super::lex::Kind;
use super::{Parser, Space, Value, Variable};
use crate::ptx::Problem;

/// Most bytes of a variable with initial values.
const MOST_BYTES: u64 = 1 << 28;

impl<'a> Parser<'_, 'a> {
    /// What follows the state space: alignment, type, name, extent, initial values.
    pub(super) fn variable(&mut self, space: Space) -> Result<Variable<'a>, Problem> {
        let (mut align, mut unit) = (0, None);
        let line = self.line();
        let mut kind = "";
        let name = loop {
            let word = self.word()?;
            match word {
                ".align" => align = self.small()?,
                ".attribute" => {
                    self.expect(b'(')?;
                    while !self.takes(b')') {
                        self.next()?;
                    }
                }
                ".ptr" | ".global" | ".const" | ".shared" | ".local" => {}
                ".pred" => (kind, unit) = (word, Some(1)),
                ".v2" | ".v4" => return Err(self.problem("vectors of variables are not known")),
                _ if word.starts_with('.') => {
                    let bits = word.trim_start_matches(|c: char| !c.is_ascii_digit());
                    let bits: u32 = bits.parse().map_err(|_| {
                        self.problem(format!("the type `{word}` is not known here"))
                    })?;
                    if unit.is_none() {
                        (kind, unit) = (word, Some(bits / 8));
                        if align == 0 {
                            align = bits / 8;
                        }
                    }
                }
                _ => break word,
            }
        };
        let unit = unit.ok_or_else(|| self.problem(format!("`{name}` has no type")))?;
        if unit == 0 {
            return Err(self.problem(format!("`{name}`: the type `{kind}` is not known here")));
        }
        // Of a pointer parameter `.align` is what it points to.
        let align = if space == Space::Param && self.peek() != Some(Kind::Sign(b'[')) {
            unit
        } else {
            align
        };
        let (mut count, mut open) = (1u64, false);
        while self.takes(b'[') {
            if self.takes(b']') {
                open = true;
                continue;
            }
            count = count.saturating_mul(self.int()?);
            self.expect(b']')?;
        }
        let mut values = Vec::new();
        if self.takes(b'=') {
            if !matches!(space, Space::Global | Space::Const) {
                return Err(self.problem(format!(
                    "`{name}`: only .global and .const have initial values"
                )));
            }
            self.values(&mut values, 0)?;
            if open {
                count = values.len() as u64;
                open = false;
            }
            if values.len() as u64 > count {
                return Err(self.problem(format!("`{name}` has more initial values than elements")));
            }
        }
        let bytes = count.saturating_mul(u64::from(unit));
        let bytes = u32::try_from(bytes)
            .ok()
            .filter(|bytes| u64::from(*bytes) <= MOST_BYTES)
            .ok_or_else(|| self.problem(format!("`{name}` is too large")))?;
        if !align.is_power_of_two() || align > 1 << 20 {
            return Err(self.problem(format!("`{name}`: an alignment of {align} is none")));
        }
        Ok(Variable {
            space,
            name,
            kind,
            align,
            unit,
            bytes: if open { 0 } else { bytes },
            open,
            values,
            line,
        })
    }

    /// `{1, 2}`, nested for arrays of arrays, or one value.
    fn values(&mut self, found: &mut Vec<Value<'a>>, depth: u32) -> Result<(), Problem> {
        if depth > 8 {
            return Err(self.problem("initial values nested too deep"));
        }
        if !self.takes(b'{') {
            found.push(self.value()?);
            return Ok(());
        }
        while !self.takes(b'}') {
            self.values(found, depth + 1)?;
            self.takes(b',');
        }
        Ok(())
    }

    fn value(&mut self) -> Result<Value<'a>, Problem> {
        let negative = self.takes(b'-');
        Ok(match self.next()? {
            Kind::Int(value) if negative => Value::Int(value.wrapping_neg()),
            Kind::Int(value) => Value::Int(value),
            Kind::F32(bits) => Value::Int(u64::from(bits)),
            Kind::F64(bits) => Value::F64(bits),
            Kind::Word(mut name) if !negative => {
                let generic = name == "generic" && self.takes(b'(');
                if generic {
                    name = self.word()?;
                    self.expect(b')')?;
                }
                let offset = if self.takes(b'+') { self.offset()? } else { 0 };
                Value::Address(name, offset)
            }
            _ => {
                self.at -= 1;
                return Err(self.problem("an initial value is missing here"));
            }
        })
    }
}
