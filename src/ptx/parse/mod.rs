//! PTX text to statements: names still as text, nothing decoded.

mod body;
mod lex;
mod variable;

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
    /// `(a, b)`: what a call gives or takes.
    List(Vec<Operand<'a>>),
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

/// Where a variable lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    Shared,
    Local,
    Param,
    Global,
    Const,
    /// A function's parameter that is a register.
    Reg,
}

/// An initial value of one element.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// An integer, or an f32's bits.
    Int(u64),
    /// An f64's bits.
    F64(u64),
    /// The address of a variable or function, and an offset.
    Address(&'a str, i64),
}

/// A variable or parameter.
#[derive(Clone, Debug)]
pub struct Variable<'a> {
    pub space: Space,
    pub name: &'a str,
    /// Its type, as `.b32`.
    pub kind: &'a str,
    pub align: u32,
    /// Bytes of an element.
    pub unit: u32,
    pub bytes: u32,
    /// `[]`: as large as the launch says.
    pub open: bool,
    /// Of the first elements; the others are zero.
    pub values: Vec<Value<'a>>,
    pub line: u32,
}

/// A function that kernels and functions call.
#[derive(Debug)]
pub struct Function<'a> {
    pub name: &'a str,
    pub returns: Vec<Variable<'a>>,
    pub params: Vec<Variable<'a>>,
    /// `None` where it is only declared.
    pub body: Option<Vec<Item<'a>>>,
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
    pub functions: Vec<Function<'a>>,
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
                ".visible" | ".extern" | ".weak" | ".common" => {}
                ".entry" => {
                    let kernel = self.entry()?;
                    self.text.kernels.push(kernel);
                }
                ".func" => self.function()?,
                ".pragma" => {
                    self.next()?;
                    self.expect(b';')?;
                }
                ".shared" | ".global" | ".const" => {
                    let space = match word {
                        ".shared" => Space::Shared,
                        ".global" => Space::Global,
                        _ => Space::Const,
                    };
                    // Textures and samplers: code that names one is refused, as using an undeclared name.
                    let odd =
                        |kind| matches!(kind, Kind::Word(".texref" | ".samplerref" | ".surfref"));
                    if self.peek().is_some_and(odd) {
                        while self.next()? != Kind::Sign(b';') {}
                        continue;
                    }
                    loop {
                        let variable = self.variable(space)?;
                        self.text.variables.push(variable);
                        if !self.takes(b',') {
                            break;
                        }
                    }
                    self.expect(b';')?;
                }
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

    /// Parameters up to the closing parenthesis; `registers`: a function's may be registers.
    fn parameters(&mut self, registers: bool) -> Result<Vec<Variable<'a>>, Problem> {
        let mut params = Vec::new();
        while !self.takes(b')') {
            let space = match self.word()? {
                ".param" => Space::Param,
                ".reg" if registers => Space::Reg,
                _ => {
                    self.at -= 1;
                    return Err(self.problem("`.param` is missing here"));
                }
            };
            params.push(self.variable(space)?);
            self.takes(b',');
        }
        Ok(params)
    }

    /// A function, or its declaration.
    fn function(&mut self) -> Result<(), Problem> {
        let returns = match self.takes(b'(') {
            true => self.parameters(true)?,
            false => Vec::new(),
        };
        let name = self.word()?;
        let params = match self.takes(b'(') {
            true => self.parameters(true)?,
            false => Vec::new(),
        };
        let body = loop {
            match self.next()? {
                Kind::Sign(b'{') => {
                    self.location = 0;
                    break Some(self.body()?);
                }
                Kind::Sign(b';') => break None,
                Kind::Word(".noreturn" | ".unique") => {}
                Kind::Word(".pragma") => {
                    self.next()?;
                    self.takes(b';');
                }
                Kind::Word(".attribute") => {
                    self.expect(b'(')?;
                    while !self.takes(b')') {
                        self.next()?;
                    }
                }
                _ => {
                    self.at -= 1;
                    return Err(self
                        .problem("a directive of the function that is not known to this machine"));
                }
            }
        };
        self.text.functions.push(Function {
            name,
            returns,
            params,
            body,
        });
        Ok(())
    }

    fn entry(&mut self) -> Result<Kernel<'a>, Problem> {
        let name = self.word()?;
        let params = match self.takes(b'(') {
            true => self.parameters(false)?,
            false => Vec::new(),
        };
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
                Kind::Word(".minnctapersm" | ".maxnreg" | ".maxclusterrank") => {
                    self.int()?;
                }
                Kind::Word(".explicitcluster") => {}
                Kind::Word(".reqnctapercluster") => {
                    let mut blocks = self.int()?;
                    while self.takes(b',') {
                        blocks = blocks.saturating_mul(self.int()?);
                    }
                    if blocks != 1 {
                        return Err(self.problem(format!(
                            "a cluster of {blocks} blocks: this machine's clusters have one block"
                        )));
                    }
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
}
