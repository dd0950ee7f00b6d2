//! Where labels are.

use std::collections::HashMap;

/// Labels by the scope that they stand in: inline assembly brings its own, under the same name each
/// time, and so does each call of a function.
pub struct Labels<'a> {
    places: HashMap<(u32, &'a str), usize>,
    /// Where a `brx.idx` may go.
    pub lists: HashMap<&'a str, Vec<&'a str>>,
    /// Numbers of the open scopes, the function's first.
    pub open: Vec<u32>,
    scopes: u32,
}

impl<'a> Labels<'a> {
    /// None yet; one scope is open.
    pub fn new() -> Labels<'a> {
        Labels {
            places: HashMap::new(),
            lists: HashMap::new(),
            open: vec![0],
            scopes: 0,
        }
    }

    /// A scope opens.
    pub fn open(&mut self) {
        self.scopes += 1;
        self.open.push(self.scopes);
    }

    /// A function begins, which sees none of the scopes that are open; they are given back.
    pub fn enter(&mut self) -> Vec<u32> {
        self.scopes += 1;
        std::mem::replace(&mut self.open, vec![self.scopes])
    }

    /// A label stands before this line.
    pub fn put(&mut self, name: &'a str, line: usize) {
        let scope = self.open.last().copied().unwrap_or(0);
        self.places.insert((scope, name), line);
    }

    /// The line of a label, seen from within these scopes.
    pub fn find(&self, open: &[u32], name: &str) -> Option<usize> {
        open.iter()
            .rev()
            .find_map(|scope| self.places.get(&(*scope, name)).copied())
    }
}
