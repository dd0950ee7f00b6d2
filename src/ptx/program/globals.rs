//! A module's own variables, in `.global` and `.const`, and the addresses of its functions.

use std::collections::HashMap;

use crate::ptx::Problem;
use crate::ptx::memory::{FUNCTION_WINDOW, MODULE_START};
use crate::ptx::parse::{Space, Text, Value, Variable};

/// Bytes between variables that are nobody's.
const GAP: u64 = 4096;
/// Most bytes of a module's variables.
const MOST_BYTES: u64 = 1 << 30;
/// Bytes between the addresses of functions.
const STEP: u64 = 64;

/// A variable with what it holds when its module is loaded.
#[derive(Clone, Debug)]
pub struct GlobalVariable {
    pub address: u64,
    pub bytes: Vec<u8>,
}

/// All of a module. Each module has the same addresses: a launch sees its own module's only.
#[derive(Clone, Debug, Default)]
pub struct Globals {
    /// In order of their addresses.
    pub variables: Vec<GlobalVariable>,
    addresses: HashMap<String, u64>,
    functions: HashMap<String, u64>,
}

impl Globals {
    /// Lays out a text's variables and functions.
    pub fn new(text: &Text<'_>, file: &str) -> Result<Globals, Problem> {
        let mut globals = Globals::default();
        for (function, i) in text.functions.iter().zip(1u64..) {
            let address = FUNCTION_WINDOW + STEP * i;
            globals
                .functions
                .entry(function.name.to_string())
                .or_insert(address);
        }
        let own = |v: &&Variable<'_>| matches!(v.space, Space::Global | Space::Const);
        let mut next = MODULE_START;
        for variable in text.variables.iter().filter(own).filter(|v| v.bytes > 0) {
            let address = next.next_multiple_of(u64::from(variable.align.max(16)));
            next = address + u64::from(variable.bytes) + GAP;
            if next - MODULE_START > MOST_BYTES {
                let words = format!("more than {MOST_BYTES} bytes of variables");
                return Err(Problem::at(file, variable.line, words));
            }
            globals.addresses.insert(variable.name.to_string(), address);
        }
        for variable in text.variables.iter().filter(own).filter(|v| v.bytes > 0) {
            let bytes = globals.bytes(variable, file)?;
            if let Some(address) = globals.address(variable.name) {
                globals.variables.push(GlobalVariable { address, bytes });
            }
        }
        globals.variables.sort_by_key(|variable| variable.address);
        globals.variables.dedup_by_key(|variable| variable.address);
        Ok(globals)
    }

    /// The address of a variable.
    pub fn address(&self, name: &str) -> Option<u64> {
        self.addresses.get(name).copied()
    }

    /// The address of a function.
    pub fn function(&self, name: &str) -> Option<u64> {
        self.functions.get(name).copied()
    }

    fn bytes(&self, variable: &Variable<'_>, file: &str) -> Result<Vec<u8>, Problem> {
        let mut bytes = vec![0; variable.bytes as usize];
        let unit = variable.unit as usize;
        for (value, place) in variable.values.iter().zip(bytes.chunks_exact_mut(unit)) {
            let number = match value {
                Value::Int(value) if variable.kind == ".f64" => (*value as f64).to_bits(),
                Value::Int(value) => *value,
                Value::F64(bits) if unit == 4 => {
                    u64::from((f64::from_bits(*bits) as f32).to_bits())
                }
                Value::F64(bits) => *bits,
                Value::Address(name, offset) => {
                    let Some(address) = self.address(name).or(self.function(name)) else {
                        let words = format!("`{}`: `{name}` is not declared", variable.name);
                        return Err(Problem::at(file, variable.line, words));
                    };
                    address.wrapping_add(*offset as u64)
                }
            };
            let little = number.to_le_bytes();
            let size = unit.min(8);
            place[..size].copy_from_slice(&little[..size]);
        }
        Ok(bytes)
    }
}
