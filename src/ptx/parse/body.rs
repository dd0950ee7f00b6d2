//! What stands between the braces of an entry or a function: declarations, labels, instructions.

use super::lex::Kind;
use super::{Item, Operand, Parser, Space, Statement};
use crate::ptx::Problem;

/// How deep operands may be nested.
const DEPTH: u32 = 4;

impl<'a> Parser<'_, 'a> {
    /// Up to the closing brace.
    pub(super) fn body(&mut self) -> Result<Vec<Item<'a>>, Problem> {
        let mut items = Vec::new();
        let mut depth = 0;
        loop {
            let line = self.line();
            match self.next()? {
                Kind::Sign(b'{') => {
                    depth += 1;
                    items.push(Item::Open);
                }
                Kind::Sign(b'}') if depth == 0 => return Ok(items),
                Kind::Sign(b'}') => {
                    depth -= 1;
                    items.push(Item::Close);
                }
                Kind::Sign(b';') => {}
                Kind::Sign(b'@') => {
                    let negated = self.takes(b'!');
                    let guard = Some((self.word()?, negated));
                    let word = self.word()?;
                    items.push(self.statement(guard, word, line)?);
                }
                Kind::Word(".loc") => self.loc()?,
                Kind::Word(".file") => self.source_file()?,
                Kind::Word(".pragma") => {
                    self.next()?;
                    self.expect(b';')?;
                }
                Kind::Word(".reg") => {
                    let kind = self.word()?;
                    let mut names = Vec::new();
                    loop {
                        let name = self.word()?;
                        let mut count = None;
                        if self.takes(b'<') {
                            count = Some(self.small()?);
                            self.expect(b'>')?;
                        }
                        names.push((name, count));
                        if !self.takes(b',') {
                            break;
                        }
                    }
                    self.expect(b';')?;
                    items.push(Item::Registers(kind, names, line));
                }
                Kind::Word(word @ (".shared" | ".local" | ".param")) => {
                    let space = match word {
                        ".shared" => Space::Shared,
                        ".local" => Space::Local,
                        _ => Space::Param,
                    };
                    loop {
                        items.push(Item::Variable(self.variable(space)?));
                        if !self.takes(b',') {
                            break;
                        }
                    }
                    self.expect(b';')?;
                }
                Kind::Word(word) if word.starts_with('.') => {
                    self.at -= 1;
                    return Err(self.problem(format!("`{word}` is not known to this machine")));
                }
                Kind::Word(word) if self.peek() == Some(Kind::Sign(b':')) => {
                    self.at += 1;
                    match self.peek() {
                        Some(Kind::Word(".branchtargets" | ".calltargets")) => {
                            self.at += 1;
                            items.push(Item::Targets(word, self.names()?));
                        }
                        // What a call through a pointer takes is seen from its operands.
                        Some(Kind::Word(".callprototype")) => {
                            while self.next()? != Kind::Sign(b';') {}
                        }
                        _ => items.push(Item::Label(word)),
                    }
                }
                Kind::Word(word) => items.push(self.statement(None, word, line)?),
                _ => {
                    self.at -= 1;
                    return Err(self.problem("an instruction is missing here"));
                }
            }
        }
    }

    /// Names up to the semicolon.
    fn names(&mut self) -> Result<Vec<&'a str>, Problem> {
        let mut names = vec![self.word()?];
        while self.takes(b',') {
            names.push(self.word()?);
        }
        self.expect(b';')?;
        Ok(names)
    }

    fn statement(
        &mut self,
        guard: Option<(&'a str, bool)>,
        opcode: &'a str,
        line: u32,
    ) -> Result<Item<'a>, Problem> {
        let mut operands = Vec::new();
        if !self.takes(b';') {
            loop {
                operands.push(self.operand(0)?);
                if self.takes(b';') {
                    break;
                }
                self.expect(b',')?;
            }
        }
        Ok(Item::Statement(Statement {
            guard,
            parts: opcode.split('.').collect(),
            operands,
            line,
            location: self.location,
        }))
    }

    fn operand(&mut self, depth: u32) -> Result<Operand<'a>, Problem> {
        if depth > DEPTH {
            return Err(self.problem("operands nested too deep"));
        }
        Ok(match self.next()? {
            Kind::Word(name) => {
                if self.takes(b'|') {
                    Operand::Pair(name, self.word()?)
                } else if self.takes(b'+') {
                    Operand::Sum(name, self.offset()?)
                } else {
                    Operand::Name(name)
                }
            }
            Kind::Int(value) => Operand::Int(value),
            Kind::F32(bits) => Operand::F32(bits),
            Kind::F64(bits) => Operand::F64(bits),
            Kind::Sign(b'!') => Operand::Not(self.word()?),
            Kind::Sign(b'-') => Operand::Int(self.int()?.wrapping_neg()),
            Kind::Sign(b'{') => {
                let mut parts = Vec::new();
                while !self.takes(b'}') {
                    parts.push(self.operand(depth + 1)?);
                    self.takes(b',');
                }
                Operand::Vector(parts)
            }
            // The parameters of a call.
            Kind::Sign(b'(') => {
                let mut parts = Vec::new();
                while !self.takes(b')') {
                    parts.push(self.operand(depth + 1)?);
                    self.takes(b',');
                }
                Operand::List(parts)
            }
            Kind::Sign(b'[') => {
                let base = match self.next()? {
                    Kind::Word(name) => Operand::Name(name),
                    Kind::Int(value) => Operand::Int(value),
                    _ => {
                        self.at -= 1;
                        return Err(self.problem("an address is missing here"));
                    }
                };
                let mut offset = 0;
                if self.takes(b'+') {
                    offset = self.offset()?;
                } else if self.takes(b'-') {
                    self.at -= 1;
                    offset = self.offset()?;
                }
                let mut coordinates = Vec::new();
                while self.takes(b',') {
                    coordinates.push(self.operand(depth + 1)?);
                }
                self.expect(b']')?;
                Operand::Address(Box::new(base), offset, coordinates)
            }
            _ => {
                self.at -= 1;
                return Err(self.problem("an operand is missing here"));
            }
        })
    }

    pub(super) fn offset(&mut self) -> Result<i64, Problem> {
        let negative = self.takes(b'-');
        let value = self.int()? as i64;
        Ok(if negative {
            value.wrapping_neg()
        } else {
            value
        })
    }
}
