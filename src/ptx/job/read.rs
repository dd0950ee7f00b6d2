//! `job.json` to a [`Job`]: every key checked, every problem one line.

use std::path::Path;

use serde_json::{Map, Value};

use super::super::tensor::descriptor::Swizzle;
use super::super::tensor::map::{DataType, Interleave, TensorMap, encode_im2col, encode_tiled};
use super::super::{Module, Problem};
use super::{Arg, Buffer, Dtype, Expect, Job};

impl Job {
    /// Reads a job and its files, parses its PTX and checks that the arguments fit.
    ///
    /// # Errors
    /// One line that names the file or the key.
    pub fn load(path: &Path) -> Result<Job, Problem> {
        let text = read_text(path)?;
        let shown = path.display();
        let json: Value = serde_json::from_str(&text)
            .map_err(|e| Problem::new(format!("{shown}: not JSON: {e}")))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        Reader {
            folder,
            buffers: Vec::new(),
            scratch: 0,
        }
        .job(&json)
        .map_err(|e| {
            let words = e.to_string();
            // What names a file of its own needs no second name.
            if words.starts_with(&folder.display().to_string()) && !folder.as_os_str().is_empty() {
                e
            } else {
                Problem::new(format!("{shown}: {words}"))
            }
        })
    }
}

fn read_text(path: &Path) -> Result<String, Problem> {
    let bytes = read(path)?;
    String::from_utf8(bytes).map_err(|_| Problem::new(format!("{}: not a text", path.display())))
}

fn read(path: &Path) -> Result<Vec<u8>, Problem> {
    std::fs::read(path).map_err(|e| Problem::new(format!("{}: cannot read: {e}", path.display())))
}

fn problem<T>(key: &str, words: impl std::fmt::Display) -> Result<T, Problem> {
    Err(Problem::new(format!("{key}: {words}")))
}

/// Most bytes of all scratches together.
const MOST_SCRATCH: u64 = 1 << 32;

struct Reader<'a> {
    folder: &'a Path,
    buffers: Vec<Buffer>,
    /// Bytes of the scratches so far.
    scratch: u64,
}

/// An object whose keys must all be asked for.
struct Keys<'a> {
    at: String,
    map: &'a Map<String, Value>,
}

impl<'a> Keys<'a> {
    fn new(at: &str, value: &'a Value, known: &[&str]) -> Result<Self, Problem> {
        let Value::Object(map) = value else {
            return problem(
                if at.is_empty() { "the job" } else { at },
                "an object is needed",
            );
        };
        let keys = Keys {
            at: at.to_string(),
            map,
        };
        for key in map.keys() {
            if !known.contains(&key.as_str()) {
                return problem(
                    &keys.name(key),
                    format!("unknown key; known are {}", known.join(", ")),
                );
            }
        }
        Ok(keys)
    }

    fn name(&self, key: &str) -> String {
        if self.at.is_empty() {
            key.to_string()
        } else {
            format!("{}.{key}", self.at)
        }
    }

    fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key)
    }

    fn need(&self, key: &str) -> Result<&'a Value, Problem> {
        self.get(key)
            .map_or_else(|| problem(&self.name(key), "missing"), Ok)
    }

    fn text(&self, key: &str) -> Result<&'a str, Problem> {
        self.need(key)?
            .as_str()
            .map_or_else(|| problem(&self.name(key), "a string is needed"), Ok)
    }

    fn float(&self, key: &str, otherwise: f64) -> Result<f64, Problem> {
        match self.get(key).map(Value::as_f64) {
            None => Ok(otherwise),
            Some(Some(value)) if value >= 0.0 => Ok(value),
            _ => problem(&self.name(key), "a number of at least 0 is needed"),
        }
    }

    fn integer<T: TryFrom<i128>>(&self, key: &str) -> Result<T, Problem> {
        integer(&self.name(key), self.need(key)?)
    }

    fn list<T: TryFrom<i128>>(&self, key: &str) -> Result<Vec<T>, Problem> {
        let name = self.name(key);
        let Value::Array(values) = self.need(key)? else {
            return problem(&name, "a list of integers is needed");
        };
        values
            .iter()
            .enumerate()
            .map(|(i, value)| integer(&format!("{name}[{i}]"), value))
            .collect()
    }

    fn extents(&self, key: &str) -> Result<[u32; 3], Problem> {
        match <[u32; 3]>::try_from(self.list::<u32>(key)?) {
            Ok(extents) if extents.iter().all(|&extent| extent > 0) => Ok(extents),
            _ => problem(&self.name(key), "three integers of at least 1 are needed"),
        }
    }
}

fn integer<T: TryFrom<i128>>(name: &str, value: &Value) -> Result<T, Problem> {
    let wide = value
        .as_u64()
        .map(i128::from)
        .or_else(|| value.as_i64().map(i128::from));
    let Some(wide) = wide else {
        return problem(name, "an integer is needed");
    };
    T::try_from(wide).map_or_else(|_| problem(name, format!("{wide} is out of range")), Ok)
}

impl Reader<'_> {
    fn job(mut self, json: &Value) -> Result<Job, Problem> {
        let keys = Keys::new(
            "",
            json,
            &[
                "ptx",
                "entry",
                "grid",
                "block",
                "dynamic_shared_bytes",
                "args",
            ],
        )?;
        let (grid, block) = (keys.extents("grid")?, keys.extents("block")?);
        let dynamic_shared_bytes = if keys.get("dynamic_shared_bytes").is_some() {
            keys.integer("dynamic_shared_bytes")?
        } else {
            0
        };
        let Value::Array(list) = keys.need("args")? else {
            return problem("args", "a list is needed");
        };
        let entry = keys.text("entry")?.to_string();
        let ptx_path = self.folder.join(keys.text("ptx")?);
        let ptx = read_text(&ptx_path)?;
        let shown = ptx_path.display().to_string();
        let module = Module::parse_entry(&ptx, &shown, &entry)?;
        let mut args = Vec::with_capacity(list.len());
        for (i, value) in list.iter().enumerate() {
            args.push(self.arg(&format!("args[{i}]"), value)?);
        }
        let buffers = self.buffers;
        let job = Job {
            ptx_path,
            ptx,
            module,
            entry,
            grid,
            block,
            dynamic_shared_bytes,
            buffers,
            args,
        };
        job.check_arguments()?;
        Ok(job)
    }

    fn arg(&mut self, at: &str, value: &Value) -> Result<Arg, Problem> {
        const KINDS: [&str; 11] = [
            "buffer",
            "tensor_map",
            "scratch",
            "u8",
            "u16",
            "u32",
            "i32",
            "u64",
            "i64",
            "f32",
            "f64",
        ];
        let kinds = &KINDS;
        let Value::Object(map) = value else {
            return problem(at, "an object is needed");
        };
        let Some(kind) = map.keys().find(|key| kinds.contains(&key.as_str())) else {
            return problem(at, format!("one of {} is needed", kinds.join(", ")));
        };
        if kind == "buffer" {
            let keys = Keys::new(at, value, &["buffer", "expect", "dtype", "atol", "rtol"])?;
            return Ok(Arg::Buffer(self.buffer(&keys, None)?));
        }
        let keys = Keys::new(at, value, &[kind])?;
        Ok(match kind.as_str() {
            "tensor_map" => return self.tensor_map(&keys.name(kind), keys.need(kind)?),
            "scratch" => match keys.integer::<u64>(kind)? {
                0 => return problem(&keys.name(kind), "at least 1 byte is needed"),
                bytes => {
                    self.scratch = self.scratch.saturating_add(bytes);
                    if self.scratch > MOST_SCRATCH {
                        let words = format!("more than {MOST_SCRATCH} bytes in all are too many");
                        return problem(&keys.name(kind), words);
                    }
                    Arg::Scratch(bytes)
                }
            },
            "u8" => Arg::Value(keys.integer::<u8>(kind)?.to_le_bytes().to_vec()),
            "u16" => Arg::Value(keys.integer::<u16>(kind)?.to_le_bytes().to_vec()),
            "u32" => Arg::Value(keys.integer::<u32>(kind)?.to_le_bytes().to_vec()),
            "i32" => Arg::Value(keys.integer::<i32>(kind)?.to_le_bytes().to_vec()),
            "u64" => Arg::Value(keys.integer::<u64>(kind)?.to_le_bytes().to_vec()),
            "i64" => Arg::Value(keys.integer::<i64>(kind)?.to_le_bytes().to_vec()),
            _ => {
                let Some(number) = keys.need(kind)?.as_f64() else {
                    return problem(&keys.name(kind), "a number is needed");
                };
                let bytes = if kind == "f32" {
                    (number as f32).to_le_bytes().to_vec()
                } else {
                    number.to_le_bytes().to_vec()
                };
                Arg::Value(bytes)
            }
        })
    }

    /// The buffer that `keys.buffer` names, read once; with what `keys.expect` says of it.
    fn buffer(&mut self, keys: &Keys, dtype: Option<Dtype>) -> Result<usize, Problem> {
        let name = keys.text("buffer")?;
        let at = match self.buffers.iter().position(|buffer| buffer.name == name) {
            Some(at) => at,
            None => {
                let bytes = read(&self.folder.join(name))?;
                if bytes.is_empty() {
                    return problem(&keys.name("buffer"), format!("{name} is empty"));
                }
                self.buffers.push(Buffer {
                    name: name.to_string(),
                    bytes,
                    expect: None,
                });
                self.buffers.len() - 1
            }
        };
        let Some(_) = keys.get("expect") else {
            for key in ["atol", "rtol"] {
                if keys.get(key).is_some() {
                    return problem(&keys.name(key), "means nothing without `expect`");
                }
            }
            return Ok(at);
        };
        let dtype = match dtype {
            Some(dtype) => dtype,
            None => {
                let name = keys.text("dtype")?;
                Dtype::named(name).map_or_else(
                    || problem(&keys.name("dtype"), format!("`{name}` is not known")),
                    Ok,
                )?
            }
        };
        let expect = keys.text("expect")?;
        let bytes = read(&self.folder.join(expect))?;
        let size = self.buffers[at].bytes.len();
        if bytes.len() != size || !size.is_multiple_of(dtype.bytes()) {
            return problem(
                &keys.name("expect"),
                format!(
                    "{expect} has {} bytes, {name} {size}: the same number of whole {} is needed",
                    bytes.len(),
                    dtype.name()
                ),
            );
        }
        if self.buffers[at].expect.is_some() {
            return problem(&keys.name("expect"), format!("{name} is expected twice"));
        }
        let (atol, rtol) = (keys.float("atol", 0.0)?, keys.float("rtol", 0.0)?);
        self.buffers[at].expect = Some(Expect {
            bytes,
            dtype,
            atol,
            rtol,
        });
        Ok(at)
    }

    fn tensor_map(&mut self, at: &str, value: &Value) -> Result<Arg, Problem> {
        let known = [
            "dtype",
            "buffer",
            "dims",
            "strides_bytes",
            "box",
            "swizzle",
            "element_strides",
            "fill",
            "im2col",
            "expect",
            "atol",
            "rtol",
        ];
        let keys = Keys::new(at, value, &known)?;
        let name = keys.text("dtype")?;
        let Some(data_type) = DataType::named(name) else {
            return problem(&keys.name("dtype"), format!("`{name}` is not known"));
        };
        let buffer = self.buffer(&keys, Dtype::named(name))?;
        let dims = keys.list::<u64>("dims")?;
        let strides = keys.list::<u64>("strides_bytes")?;
        let steps = if keys.get("element_strides").is_some() {
            keys.list("element_strides")?
        } else {
            vec![1; dims.len()]
        };
        let swizzle = if keys.get("swizzle").is_some() {
            keys.integer::<u32>("swizzle")?
        } else {
            0
        };
        let Some(swizzle) = Swizzle::of_bytes(swizzle) else {
            return problem(
                &keys.name("swizzle"),
                format!("{swizzle} is none of 0, 32, 64, 128"),
            );
        };
        let nan = match keys.get("fill").map(Value::as_str) {
            None | Some(Some("zero")) => false,
            Some(Some("nan")) => true,
            _ => return problem(&keys.name("fill"), "`zero` or `nan` is needed"),
        };
        let plain = Interleave::None;
        let map = if let Some(value) = keys.get("im2col") {
            if keys.get("box").is_some() {
                return problem(&keys.name("box"), "not together with `im2col`");
            }
            let column = Keys::new(
                &keys.name("im2col"),
                value,
                &["lower", "upper", "channels", "pixels"],
            )?;
            let (lower, upper) = (column.list("lower")?, column.list("upper")?);
            let (channels, pixels) = (column.integer("channels")?, column.integer("pixels")?);
            encode_im2col(
                data_type, 0, &dims, &strides, &lower, &upper, channels, pixels, &steps, plain,
                swizzle, nan,
            )
        } else {
            let extent = keys.list("box")?;
            encode_tiled(
                data_type, 0, &dims, &strides, &extent, &steps, plain, swizzle, nan,
            )
        };
        let map = map.map_err(|e| Problem::new(format!("{at}: {e}")))?;
        check_extent(at, &map, &self.buffers[buffer])?;
        Ok(Arg::Map(Box::new(map), buffer))
    }
}

/// The whole tensor must lie within its buffer.
fn check_extent(at: &str, map: &TensorMap, buffer: &Buffer) -> Result<(), Problem> {
    let mut last = u128::from(map.dims[0]) * u128::from(map.data_type.bytes());
    for i in 1..map.rank {
        last += u128::from(map.dims[i] - 1) * u128::from(map.strides_bytes[i - 1]);
    }
    let have = buffer.bytes.len();
    if last > have as u128 {
        return problem(
            at,
            format!("the tensor needs {last} bytes, {} has {have}", buffer.name),
        );
    }
    Ok(())
}
