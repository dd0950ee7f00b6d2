//! Reads argument structs and kernels out of the CUDA sources and writes their Rust side.
//!
//! The grammar is small on purpose. An argument struct is
//!
//! ```text
//! ARGS(CopyArgs) {
//!     const float* x;   // any pointer
//!     uint64_t n;       // uint64_t int64_t uint32_t int32_t float, another ARGS struct,
//!     uint32_t q[4];    // or an array of them
//! };
//! ```
//!
//! a kernel is `KERNEL(name, CopyArgs, 256)` at the start of a line: name, its only argument, threads
//! of a block, and where ptxas must be told how many blocks a multiprocessor is to hold; and
//! `CONSTANT(COPY_ROWS, 64);` is a number that both sides need. Structs must have no padding: what
//! the host writes is what a kernel reads.

use std::collections::HashMap;
use std::fmt::Write;
use std::path::Path;

use crate::Sources;

/// CUDA's limit on the parameters of a kernel, bytes.
const MAX_ARGS_BYTES: usize = 4096;

struct Type {
    rust: String,
    size: usize,
    align: usize,
}

struct Field {
    name: String,
    rust: String,
}

struct Struct {
    name: String,
    fields: Vec<Field>,
    size: usize,
    align: usize,
}

struct Kernel {
    name: String,
    args: String,
    threads: u32,
    unit: String,
}

/// Every argument struct, constant and kernel of the sources.
pub struct Table {
    structs: Vec<Struct>,
    constants: Vec<(String, u32)>,
    kernels: Vec<Kernel>,
}

impl Table {
    /// Parses the headers, then the units.
    pub fn read(sources: &Sources) -> Result<Self, String> {
        let mut table = Table {
            structs: Vec::new(),
            constants: Vec::new(),
            kernels: Vec::new(),
        };
        for path in sources.headers.iter().chain(&sources.units) {
            let text =
                std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
            table.parse(path, &text)?;
        }
        Ok(table)
    }

    fn parse(&mut self, path: &Path, text: &str) -> Result<(), String> {
        let unit = path.file_stem().unwrap_or_default().to_string_lossy();
        let mut lines = text.lines().enumerate();
        while let Some((i, line)) = lines.next() {
            let at = |problem: &str| format!("{}:{}: {problem}", path.display(), i + 1);
            if let Some(rest) = line.strip_prefix("ARGS(") {
                let name = rest.split(')').next().unwrap_or_default().trim();
                let mut body = String::new();
                for (_, line) in lines.by_ref() {
                    let code = line.split("//").next().unwrap_or_default();
                    if code.trim_start().starts_with('}') {
                        break;
                    }
                    body.push_str(code);
                    body.push(' ');
                }
                let parsed = self.structure(name, &body).map_err(|p| at(&p))?;
                self.structs.push(parsed);
            } else if let Some(rest) = line.strip_prefix("CONSTANT(") {
                let constant = rest.split_once(')').and_then(|(inner, _)| {
                    let (name, value) = inner.split_once(',')?;
                    Some((name.trim().to_string(), value.trim().parse().ok()?))
                });
                let (name, value) =
                    constant.ok_or_else(|| at("CONSTANT takes a name and a decimal number"))?;
                if self.constants.iter().any(|(known, _)| *known == name) {
                    return Err(at(&format!("a second constant named {name}")));
                }
                self.constants.push((name, value));
            } else if let Some(rest) = line.strip_prefix("KERNEL(") {
                let inner = rest.split(')').next().unwrap_or_default();
                let parts: Vec<&str> = inner.split(',').map(str::trim).collect();
                let ([name, args, threads] | [name, args, threads, _]) = parts[..] else {
                    return Err(at(
                        "KERNEL takes a name, an ARGS struct, the threads of a block and at will the \
                         blocks at once, on one line",
                    ));
                };
                let threads: u32 = threads
                    .parse()
                    .ok()
                    .filter(|t| (32..=1024).contains(t) && t % 32 == 0)
                    .ok_or_else(|| at("threads must be a literal multiple of 32 up to 1024"))?;
                if !self.structs.iter().any(|s| s.name == args) {
                    return Err(at(&format!("no ARGS({args}) before this kernel")));
                }
                if self.kernels.iter().any(|k| k.name == name) {
                    return Err(at(&format!("a second kernel named {name}")));
                }
                self.kernels.push(Kernel {
                    name: name.to_string(),
                    args: args.to_string(),
                    threads,
                    unit: unit.to_string(),
                });
            }
        }
        Ok(())
    }

    fn structure(&self, name: &str, body: &str) -> Result<Struct, String> {
        if self.structs.iter().any(|s| s.name == name) {
            return Err(format!("a second ARGS({name})"));
        }
        let mut parsed = Struct {
            name: name.to_string(),
            fields: Vec::new(),
            size: 0,
            align: 1,
        };
        for declaration in body.split(';').map(str::trim).filter(|d| !d.is_empty()) {
            let (ty, field) = self.field(declaration)?;
            if !parsed.size.is_multiple_of(ty.align) {
                return Err(format!(
                    "{name}: padding before {}; put 8-byte fields first",
                    field.name
                ));
            }
            parsed.size += ty.size;
            parsed.align = parsed.align.max(ty.align);
            parsed.fields.push(field);
        }
        if parsed.size == 0 || parsed.size > MAX_ARGS_BYTES {
            return Err(format!(
                "{name}: {} bytes, not 1 to {MAX_ARGS_BYTES}",
                parsed.size
            ));
        }
        if !parsed.size.is_multiple_of(parsed.align) {
            return Err(format!("{name}: padding at the end; add a uint32_t"));
        }
        Ok(parsed)
    }

    fn field(&self, declaration: &str) -> Result<(Type, Field), String> {
        let wrong = || format!("cannot read field `{declaration}`");
        let split = declaration
            .rfind(|c: char| c.is_whitespace() || c == '*')
            .ok_or_else(wrong)?;
        let (ty, name) = declaration.split_at(split + 1);
        let (name, count) = match name.split_once('[') {
            Some((name, rest)) => {
                let count: usize = rest
                    .trim_end_matches(']')
                    .trim()
                    .parse()
                    .map_err(|_| wrong())?;
                (name.trim(), Some(count))
            }
            None => (name.trim(), None),
        };
        let one = self.scalar(ty.trim()).ok_or_else(wrong)?;
        let ty = match count {
            None => one,
            Some(n) => Type {
                rust: format!("[{}; {n}]", one.rust),
                size: one.size * n,
                align: one.align,
            },
        };
        let field = Field {
            name: name.to_string(),
            rust: ty.rust.clone(),
        };
        Ok((ty, field))
    }

    fn scalar(&self, ty: &str) -> Option<Type> {
        let plain: HashMap<&str, (&str, usize)> = HashMap::from([
            ("uint64_t", ("u64", 8)),
            ("int64_t", ("i64", 8)),
            ("uint32_t", ("u32", 4)),
            ("int32_t", ("i32", 4)),
            ("float", ("f32", 4)),
        ]);
        let of = |rust: &str, size: usize, align: usize| {
            Some(Type {
                rust: rust.to_string(),
                size,
                align,
            })
        };
        if ty.ends_with('*') {
            return of("Ptr", 8, 8);
        }
        if let Some((rust, size)) = plain.get(ty) {
            return of(rust, *size, *size);
        }
        let known = self.structs.iter().find(|s| s.name == ty)?;
        of(&known.name, known.size, known.align)
    }

    /// The Rust side, to be included where `Ptr` and `Kernel` are in scope.
    pub fn rust(&self) -> String {
        let mut text = String::new();
        for s in &self.structs {
            let _ = writeln!(
                text,
                "#[repr(C)]\n#[derive(Clone, Copy, Debug, bytemuck::Pod, bytemuck::Zeroable)]\n\
                 pub struct {} {{",
                s.name
            );
            for f in &s.fields {
                let _ = writeln!(text, "    pub {}: {},", f.name, f.rust);
            }
            let _ = writeln!(
                text,
                "}}\nconst _: () = assert!(size_of::<{}>() == {});",
                s.name, s.size
            );
        }
        for (name, value) in &self.constants {
            let _ = writeln!(text, "pub const {name}: usize = {value};");
        }
        for k in &self.kernels {
            let _ = writeln!(
                text,
                "pub const {}: Kernel<{}> = Kernel::new(\"{}\", {}, \"{}\");",
                k.name.to_uppercase(),
                k.args,
                k.name,
                k.threads,
                k.unit,
            );
        }
        text.push_str("pub const ALL: &[KernelInfo] = &[\n");
        for k in &self.kernels {
            let _ = writeln!(text, "    {}.info,", k.name.to_uppercase());
        }
        text.push_str("];\n");
        text
    }
}
