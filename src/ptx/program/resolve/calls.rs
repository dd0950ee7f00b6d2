//! Calls: the function's lines stand where it is called, with registers and local memory of their
//! own. Parameters live in local memory, so passing one is naming the caller's place.

use super::{Arg, Line, Resolver, Scope, Symbol, Width};
use crate::ptx::Problem;
use crate::ptx::parse::{Function, Operand, Space, Statement, Variable};

/// How deep calls may be nested.
const DEPTH: usize = 64;

/// A call as written.
struct Call<'s, 'a> {
    returns: &'s [Operand<'a>],
    target: &'a str,
    params: &'s [Operand<'a>],
}

fn parts<'s, 'a>(operands: &'s [Operand<'a>]) -> Option<Call<'s, 'a>> {
    let (returns, rest) = match operands {
        [Operand::List(returns), rest @ ..] => (returns.as_slice(), rest),
        rest => (&[][..], rest),
    };
    let [Operand::Name(target), rest @ ..] = rest else {
        return None;
    };
    let params = match rest {
        [Operand::List(params), ..] => params.as_slice(),
        _ => &[],
    };
    Some(Call {
        returns,
        target,
        params,
    })
}

impl<'t, 'a> Resolver<'t, 'a> {
    /// `call`.
    pub(super) fn call(&mut self, statement: &'t Statement<'a>) -> Result<(), Problem> {
        let Some(call) = parts(&statement.operands) else {
            return Err(self.problem(statement.line, "`call` wants the name of a function"));
        };
        let guard = self.guard(statement)?;
        let end = self.new_place();
        if let Some((v, negated)) = guard {
            self.push(branch(statement, Some((v, !negated)), end));
        }
        match self.find(call.target) {
            Some(Symbol::Reg(v)) => self.call_by_address(statement, &call, v, end)?,
            _ => {
                let Some(function) = self.functions.get(call.target).copied() else {
                    let words = format!("`{}` is no function", call.target);
                    return Err(self.problem(statement.line, words));
                };
                self.lay_out(statement, &call, function)?;
            }
        }
        self.places[end] = self.lines.len();
        Ok(())
    }

    /// Through a pointer: to whichever function of these parameters has the address.
    fn call_by_address(
        &mut self,
        statement: &'t Statement<'a>,
        call: &Call<'t, 'a>,
        register: u32,
        end: usize,
    ) -> Result<(), Problem> {
        let mut candidates: Vec<(u64, &'t Function<'a>)> = self
            .functions
            .values()
            .filter(|f| f.body.is_some() && !self.calls.contains(&f.name))
            .filter(|f| {
                f.returns.len() == call.returns.len() && f.params.len() == call.params.len()
            })
            .filter_map(|f| Some((self.globals.function(f.name)?, *f)))
            .collect();
        candidates.sort_by_key(|(address, _)| *address);
        let new = |guard, parts, args| Line {
            guard,
            parts,
            args,
            line: statement.line,
            location: statement.location,
        };
        for (address, function) in candidates {
            let p = self.widths.len() as u32;
            self.widths.push(Width::Pred);
            let args = vec![Arg::Reg(p), Arg::Reg(register), Arg::Int(address)];
            self.push(new(None, vec!["setp", "ne", "u64"], args));
            let next = self.new_place();
            self.push(branch(statement, Some((p, false)), next));
            self.lay_out(statement, call, function)?;
            self.push(branch(statement, None, end));
            self.places[next] = self.lines.len();
        }
        let words = "a call of what is no function of these parameters";
        self.push(new(None, vec!["trap", words], Vec::new()));
        Ok(())
    }

    fn lay_out(
        &mut self,
        statement: &'t Statement<'a>,
        call: &Call<'t, 'a>,
        function: &'t Function<'a>,
    ) -> Result<(), Problem> {
        let name = function.name;
        let Some(body) = &function.body else {
            if name == "__assertfail" {
                self.push(Line {
                    guard: None,
                    parts: vec!["trap", "an assertion of the kernel failed"],
                    args: Vec::new(),
                    line: statement.line,
                    location: statement.location,
                });
                return Ok(());
            }
            let words =
                format!("`{name}` has no body here: what it does is not known to this machine");
            return Err(self.problem(statement.line, words));
        };
        if self.calls.contains(&name) {
            let words = format!("`{name}` calls itself: recursion is not known to this machine");
            return Err(self.problem(statement.line, words));
        }
        if self.calls.len() >= DEPTH {
            return Err(self.problem(statement.line, format!("more than {DEPTH} calls in calls")));
        }
        if function.params.len() != call.params.len()
            || function.returns.len() != call.returns.len()
        {
            let words = format!("`{name}` takes or gives another number of parameters");
            return Err(self.problem(statement.line, words));
        }
        let top = self.local;
        let mut scope = Scope::default();
        let mut after = Vec::new();
        for (formal, actual) in function.params.iter().zip(call.params) {
            let symbol = self.pass(statement, formal, actual)?;
            scope.names.insert(formal.name, symbol);
        }
        for (formal, actual) in function.returns.iter().zip(call.returns) {
            let (symbol, line) = self.give(statement, formal, actual)?;
            scope.names.insert(formal.name, symbol);
            after.extend(line);
        }
        let outer = self.scopes.split_off(1);
        self.scopes.push(scope);
        let labels = self.labels.enter();
        let end = self.new_place();
        self.ends.push(end);
        self.calls.push(name);
        self.body(body)?;
        self.calls.pop();
        self.ends.pop();
        self.labels.open = labels;
        self.scopes.truncate(1);
        self.scopes.extend(outer);
        self.places[end] = self.lines.len();
        self.local = top;
        for line in after {
            self.push(line);
        }
        Ok(())
    }

    /// Binds a parameter to what the caller passes.
    fn pass(
        &mut self,
        statement: &Statement<'a>,
        formal: &Variable<'a>,
        actual: &Operand<'a>,
    ) -> Result<Symbol, Problem> {
        let arg = self.arg(actual, statement.line)?;
        if let (Space::Param, Arg::Local(at)) = (formal.space, &arg) {
            return Ok(Symbol::Local(*at));
        }
        let kind = formal.kind.trim_start_matches('.');
        let (symbol, parts, to) = match formal.space {
            Space::Param => {
                let at = self.allocate(formal)?;
                let place = Arg::Address(Box::new(Arg::Local(at)), 0, Vec::new());
                (Symbol::Local(at), vec!["st", "local", kind], place)
            }
            _ => {
                let v = self.register(formal.kind, statement.line)?;
                (Symbol::Reg(v), vec!["mov", kind], Arg::Reg(v))
            }
        };
        self.push(Line {
            guard: None,
            parts,
            args: vec![to, arg],
            line: statement.line,
            location: statement.location,
        });
        Ok(symbol)
    }

    /// Binds a result to where the caller wants it; a line that brings it there afterwards.
    fn give(
        &mut self,
        statement: &Statement<'a>,
        formal: &Variable<'a>,
        actual: &Operand<'a>,
    ) -> Result<(Symbol, Option<Line<'a>>), Problem> {
        let arg = self.arg(actual, statement.line)?;
        if let (Space::Param, Arg::Local(at)) = (formal.space, &arg) {
            return Ok((Symbol::Local(*at), None));
        }
        let kind = formal.kind.trim_start_matches('.');
        let (symbol, parts, from) = match formal.space {
            Space::Param => {
                let at = self.allocate(formal)?;
                let place = Arg::Address(Box::new(Arg::Local(at)), 0, Vec::new());
                (Symbol::Local(at), vec!["ld", "local", kind], place)
            }
            _ => {
                let v = self.register(formal.kind, statement.line)?;
                (Symbol::Reg(v), vec!["mov", kind], Arg::Reg(v))
            }
        };
        let line = Line {
            guard: None,
            parts,
            args: vec![arg, from],
            line: statement.line,
            location: statement.location,
        };
        Ok((symbol, Some(line)))
    }

    fn new_place(&mut self) -> usize {
        self.places.push(usize::MAX);
        self.places.len() - 1
    }
}

fn branch<'a>(statement: &Statement<'a>, guard: Option<(u32, bool)>, to: usize) -> Line<'a> {
    Line {
        guard,
        parts: vec!["bra"],
        args: vec![Arg::Place(to)],
        line: statement.line,
        location: statement.location,
    }
}
