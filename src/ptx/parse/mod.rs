//! PTX text to statements: names still as text, nothing decoded.

mod lex;

use lex::{Kind, Token};

use crate::ptx::Problem;

/// The newest PTX version whose meaning the machine knows (CUDA 13.0).
const NEWEST: u64 = 90;

/// An operand as written.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand<'a> {
    /// A register, label or symbol; `_` is the sink.
    Name(&'a str),
    /// `!p`.
    Not(&'a str),
    /// An integer, negative ones as two's complement.
    Int(u64),
    /// Bits of an f32.
    F32(u32),
    /// Bits of an f64.
    F64(u64),
    /// `{a, b}`.
    Vector(Vec<Operand<'a>>),
    /// `[base + offset, …]`: a memory operand; what follows a comma are coordinates.
    Address(Box<Operand<'a>>, i64, Vec<Operand<'a>>),
    /// `a|p`.
    Pair(&'a str, &'a str),
    /// `symbol + offset` outside brackets.
    Sum(&'a str, i64),
}

/// An instruction as written.
#[derive(Clone, Debug)]
pub struct Statement<'a> {
    /// `@p` or, with `true`, `@!p`.
    pub guard: Option<(&'a str, bool)>,
    /// The opcode with its modifiers, between dots.
    pub parts: Vec<&'a str>,
    /// Operands in order.
    pub operands: Vec<Operand<'a>>,
    /// Line of the PTX text.
    pub line: u32,
    /// Index into [`Text::locations`], 0 = none.
    pub location: u32,
}

/// What a body is made of.
#[derive(Clone, Debug)]
pub enum Item<'a> {
    /// An instruction.
    Statement(Statement<'a>),
    /// A label before the next instruction.
    Label(&'a str),
    /// `{`: names declared from here on end with the scope.
    Open,
    /// `}`.
    Close,
    /// `.reg` with type and names; a count for `%r<9>`.
    Registers(&'a str, Vec<(&'a str, Option<u32>)>, u32),
    /// A variable in a state space.
    Variable(Variable<'a>),
    /// `name: .branchtargets a, b;`: where a `brx.idx` may go.
    Targets(&'a str, Vec<&'a str>),
}

/// A variable or parameter.
#[derive(Clone, Debug)]
pub struct Variable<'a> {
    pub name: &'a str,
    pub align: u32,
    pub bytes: u32,
    /// `[]`: as large as the launch says.
    pub open: bool,
    pub line: u32,
}

/// A kernel as written.
#[derive(Debug)]
pub struct Kernel<'a> {
    pub name: &'a str,
    pub params: Vec<Variable<'a>>,
    pub max_threads: Option<[u32; 3]>,
    pub exact_threads: bool,
    pub body: Vec<Item<'a>>,
}

/// A source position: file and line, and the call that it was inlined at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    pub file: u32,
    pub line: u32,
    pub inlined_at: Option<(u32, u32)>,
}

/// A PTX file as written.
#[derive(Debug, Default)]
pub struct Text<'a> {
    pub version: u64,
    pub target: &'a str,
    pub files: Vec<(u32, &'a str)>,
    pub locations: Vec<Location>,
    pub variables: Vec<Variable<'a>>,
    pub kernels: Vec<Kernel<'a>>,
}

/// Reads a PTX file.
pub fn parse<'a>(text: &'a str, name: &'a str) -> Result<Text<'a>, Problem> {
    let tokens = lex::tokens(text, name)?;
    let mut parser = Parser {
        tokens: &tokens,
        at: 0,
        name,
        location: 0,
        text: Text {
            locations: vec![Location {
                file: 0,
                line: 0,
                inlined_at: None,
            }],
            ..Text::default()
        },
    };
    parser.file()?;
    Ok(parser.text)
}

struct Parser<'t, 'a> {
    tokens: &'t [Token<'a>],
    at: usize,
    name: &'a str,
    location: u32,
    text: Text<'a>,
}

impl<'a> Parser<'_, 'a> {
    fn peek(&self) -> Option<Kind<'a>> {
        self.tokens.get(self.at).map(|t| t.kind)
    }

    fn line(&self) -> u32 {
        let at = self.at.min(self.tokens.len().saturating_sub(1));
        self.tokens.get(at).map_or(0, |t| t.line)
    }

    fn problem(&self, words: impl std::fmt::Display) -> Problem {
        Problem::at(self.name, self.line(), words)
    }

    fn next(&mut self) -> Result<Kind<'a>, Problem> {
        let kind = self
            .peek()
            .ok_or_else(|| self.problem("the text ends in the middle"))?;
        self.at += 1;
        Ok(kind)
    }

    fn takes(&mut self, sign: u8) -> bool {
        let found = self.peek() == Some(Kind::Sign(sign));
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, sign: u8) -> Result<(), Problem> {
        match self.takes(sign) {
            true => Ok(()),
            false => Err(self.problem(format!("`{}` is missing here", char::from(sign)))),
        }
    }

    fn word(&mut self) -> Result<&'a str, Problem> {
        match self.next()? {
            Kind::Word(word) => Ok(word),
            _ => {
                self.at -= 1;
                Err(self.problem("a name is missing here"))
            }
        }
    }

    fn int(&mut self) -> Result<u64, Problem> {
        match self.next()? {
            Kind::Int(value) => Ok(value),
            _ => {
                self.at -= 1;
                Err(self.problem("an integer is missing here"))
            }
        }
    }

    fn small(&mut self) -> Result<u32, Problem> {
        let value = self.int()?;
        u32::try_from(value).map_err(|_| self.problem(format!("{value} is too large here")))
    }

    fn file(&mut self) -> Result<(), Problem> {
        while let Some(kind) = self.peek() {
            let Kind::Word(word) = kind else {
                return Err(self.problem("a directive is missing here"));
            };
            self.at += 1;
            match word {
                ".version" => {
                    let Kind::Decimal(version) = self.next()? else {
                        return Err(self.problem("`.version` wants a number such as 9.0"));
                    };
                    if version > NEWEST {
                        return Err(self.problem(format!(
                            "PTX version {}.{} is newer than {}.{}, the newest that this machine knows; \
                             compile with an older toolkit",
                            version / 10, version % 10, NEWEST / 10, NEWEST % 10
                        )));
                    }
                    self.text.version = version;
                }
                ".target" => {
                    self.text.target = self.word()?;
                    while self.takes(b',') {
                        self.word()?;
                    }
                }
                ".address_size" => {
                    if self.int()? != 64 {
                        return Err(self.problem("only addresses of 64 bits are known"));
                    }
                }
                ".file" => self.source_file()?,
                ".loc" => self.loc()?,
                ".section" => self.section()?,
                ".visible" | ".extern" | ".weak" => {}
                ".entry" => {
                    let kernel = self.entry()?;
                    self.text.kernels.push(kernel);
                }
                ".shared" => {
                    let variable = self.variable("shared")?;
                    self.expect(b';')?;
                    self.text.variables.push(variable);
                }
                // Module variables are not modelled; code that names one is refused as using an
                // undeclared name. Triton leaves strings that nothing uses.
                ".global" | ".const" => while self.next()? != Kind::Sign(b';') {},
                other => {
                    self.at -= 1;
                    return Err(self.problem(format!("`{other}` is not known to this machine")));
                }
            }
        }
        if self.text.version == 0 || self.text.target.is_empty() {
            return Err(Problem::new(format!(
                "{}: no `.version` and `.target`: this is no PTX",
                self.name
            )));
        }
        Ok(())
    }

    fn source_file(&mut self) -> Result<(), Problem> {
        let number = self.small()?;
        let Kind::Text(path) = self.next()? else {
            return Err(self.problem("`.file` wants a path in quotes"));
        };
        while self.takes(b',') {
            self.int()?;
        }
        self.text.files.push((number, path));
        Ok(())
    }

    /// Line information, to the end of its line.
    fn loc(&mut self) -> Result<(), Problem> {
        let line = self.tokens[self.at - 1].line;
        let mut position = [self.small()?, self.small()?, self.small()?];
        let mut inlined_at = None;
        while self.tokens.get(self.at).is_some_and(|t| t.line == line) {
            if self.next()? == Kind::Word("inlined_at") {
                inlined_at = Some((self.small()?, self.small()?));
                self.small()?;
            }
        }
        // Line 0: code without a line; the one before is the better answer.
        if position[1] == 0 {
            let last = self.text.locations[self.location as usize];
            if last.file != position[0] {
                return Ok(());
            }
            position[1] = last.line;
        }
        let location = Location {
            file: position[0],
            line: position[1],
            inlined_at,
        };
        if self.text.locations[self.location as usize] != location {
            self.text.locations.push(location);
            self.location = (self.text.locations.len() - 1) as u32;
        }
        Ok(())
    }

    fn section(&mut self) -> Result<(), Problem> {
        self.word()?;
        self.expect(b'{')?;
        let mut depth = 1;
        while depth > 0 {
            match self.next()? {
                Kind::Sign(b'{') => depth += 1,
                Kind::Sign(b'}') => depth -= 1,
                _ => {}
            }
        }
        Ok(())
    }

    /// What follows the state space: alignment, type, name, extent.
    fn variable(&mut self, space: &'a str) -> Result<Variable<'a>, Problem> {
        let (mut align, mut unit) = (0, None);
        let line = self.line();
        let name = loop {
            let word = self.word()?;
            match word {
                ".align" => align = self.small()?,
                ".ptr" | ".global" | ".const" | ".shared" | ".local" => {}
                _ if word.starts_with('.') => {
                    let bits = word.trim_start_matches(|c: char| !c.is_ascii_digit());
                    let bits: u32 = bits.parse().map_err(|_| {
                        self.problem(format!("the type `{word}` is not known here"))
                    })?;
                    if unit.is_none() {
                        unit = Some(bits / 8);
                        if align == 0 {
                            align = bits / 8;
                        }
                    }
                }
                _ => break word,
            }
        };
        let unit = unit.ok_or_else(|| self.problem(format!("`{name}` has no type")))?;
        // Of a pointer parameter `.align` is what it points to.
        let align = if space == "param" && self.peek() != Some(Kind::Sign(b'[')) {
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
        if self.peek() == Some(Kind::Sign(b'=')) {
            return Err(self.problem(format!(
                "`{name}`: initial values are not known to this machine"
            )));
        }
        let bytes = u32::try_from(count.saturating_mul(u64::from(unit)))
            .map_err(|_| self.problem(format!("`{name}` is too large")))?;
        if !align.is_power_of_two() {
            return Err(self.problem(format!("`{name}`: an alignment of {align} is none")));
        }
        Ok(Variable {
            name,
            align,
            bytes: if open { 0 } else { bytes },
            open,
            line,
        })
    }

    fn entry(&mut self) -> Result<Kernel<'a>, Problem> {
        let name = self.word()?;
        let mut params = Vec::new();
        if self.takes(b'(') {
            while !self.takes(b')') {
                if self.word()? != ".param" {
                    self.at -= 1;
                    return Err(self.problem("`.param` is missing here"));
                }
                params.push(self.variable("param")?);
                self.takes(b',');
            }
        }
        let (mut max_threads, mut exact_threads) = (None, false);
        loop {
            match self.next()? {
                Kind::Sign(b'{') => break,
                Kind::Word(word @ (".maxntid" | ".reqntid")) => {
                    let mut threads = [self.small()?, 1, 1];
                    for extent in &mut threads[1..] {
                        if self.takes(b',') {
                            *extent = self.small()?;
                        }
                    }
                    exact_threads = word == ".reqntid";
                    max_threads = Some(threads);
                }
                Kind::Word(".minnctapersm" | ".maxnreg") => {
                    self.int()?;
                }
                Kind::Word(".pragma") => {
                    self.next()?;
                    self.takes(b';');
                }
                _ => {
                    self.at -= 1;
                    return Err(
                        self.problem("a directive of the entry that is not known to this machine")
                    );
                }
            }
        }
        self.location = 0;
        let body = self.body()?;
        Ok(Kernel {
            name,
            params,
            max_threads,
            exact_threads,
            body,
        })
    }

    fn body(&mut self) -> Result<Vec<Item<'a>>, Problem> {
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
                Kind::Word(".shared") => {
                    let variable = self.variable("shared")?;
                    self.expect(b';')?;
                    items.push(Item::Variable(variable));
                }
                Kind::Word(word) if word.starts_with('.') => {
                    self.at -= 1;
                    return Err(self.problem(format!("`{word}` is not known to this machine")));
                }
                Kind::Word(word) if self.peek() == Some(Kind::Sign(b':')) => {
                    self.at += 1;
                    if self.peek() == Some(Kind::Word(".branchtargets")) {
                        self.at += 1;
                        items.push(Item::Targets(word, self.names()?));
                    } else {
                        items.push(Item::Label(word));
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
                operands.push(self.operand()?);
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

    fn operand(&mut self) -> Result<Operand<'a>, Problem> {
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
                    parts.push(self.operand()?);
                    self.takes(b',');
                }
                Operand::Vector(parts)
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
                    coordinates.push(self.operand()?);
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

    fn offset(&mut self) -> Result<i64, Problem> {
        let negative = self.takes(b'-');
        let value = self.int()? as i64;
        Ok(if negative {
            value.wrapping_neg()
        } else {
            value
        })
    }
}
