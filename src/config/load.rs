//! From YAML text and `--set` overrides to a typed [`Config`].
//!
//! The text is read into an untyped tree that remembers line numbers. Each leaf is then checked
//! alone against the schema (the defaults, serialised, are the list of known keys), so that every
//! mistake gets its own line and a wrong key is never reported as a wrong type elsewhere.

use serde_json::{Map, Value};

use super::authors::{self, Authors, AuthorsOptions};
use super::schema::Config;
use super::tree::{Node, parse, plain};
use crate::{Error, Result};

/// One value given by the user: where it stands, its dotted key, the value.
pub(super) struct Given {
    pub(super) at: String,
    pub(super) key: String,
    pub(super) value: Value,
}

/// Gathers what the user gave, and everything wrong with it.
struct Reader<'a> {
    /// The defaults as a tree: its keys are the known keys.
    schema: &'a Value,
    given: Vec<Given>,
    errors: Vec<Error>,
}

/// The defaults overlaid with `text` (named `origin` in messages) and `sets`. Text in the authors'
/// format is read by `options`, which mean nothing to our own.
pub(super) fn resolve(
    origin: &str,
    text: &str,
    sets: &[String],
    options: AuthorsOptions,
) -> Result<(Config, Option<Authors>)> {
    let schema = serde_json::to_value(Config::default())
        .map_err(|e| Error::internal(format!("the default configuration: {e}")))?;
    let mut reader = Reader {
        schema: &schema,
        given: Vec::new(),
        errors: Vec::new(),
    };
    let mut authors = None;
    let at = |line: u64| format!("{origin}:{line}");
    match parse(text) {
        Ok(node) if authors::recognise(&node, &sections(&schema)) => {
            let (given, read) = authors::read(origin, &node, options, &mut reader.errors);
            reader.given = given;
            authors = Some(read);
        }
        Ok(node) => {
            reader.collect(&node, &schema, "", &at, 1);
            reader.errors.extend(not_for_ours(options));
        }
        Err((line, problem)) => {
            let error = Error::input(at(line), problem, "correct the YAML");
            reader.errors.push(error);
        }
    }
    for set in sets {
        if let Err(e) = reader.read_set(set) {
            reader.errors.push(e);
        }
    }

    let Reader {
        given, mut errors, ..
    } = reader;
    let mut merged = schema.clone();
    for leaf in given {
        match check_type(&schema, &leaf) {
            Ok(()) => put(&mut merged, &leaf.key, leaf.value),
            Err(e) => errors.push(e),
        }
    }
    Error::collect(errors)?;
    let config = serde_json::from_value(merged)
        .map_err(|e| Error::internal(format!("the merged configuration: {e}")))?;
    Ok((config, authors))
}

/// What of `config` differs from the defaults, as a tree of sections and keys.
pub(super) fn differences(config: &Config) -> Result<Value> {
    let tree = |c: &Config| {
        serde_json::to_value(c).map_err(|e| Error::internal(format!("a configuration: {e}")))
    };
    let (own, default) = (tree(config)?, tree(&Config::default())?);
    Ok(differing(&own, &default).unwrap_or_else(|| Value::Object(Map::new())))
}

fn differing(own: &Value, default: &Value) -> Option<Value> {
    match (own, default) {
        _ if own == default => None,
        (Value::Object(own), Value::Object(default)) if !default.is_empty() => {
            let pairs = own.iter();
            let pairs = pairs.filter_map(|(key, value)| {
                Some((key.clone(), differing(value, default.get(key)?)?))
            });
            Some(Value::Object(pairs.collect()))
        }
        _ => Some(narrowed(own)),
    }
}

/// Numbers as one would write them: they pass through JSON as f64, but are f32.
fn narrowed(value: &Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.iter().map(narrowed).collect()),
        Value::Number(n) if n.is_f64() => n
            .as_f64()
            .and_then(|x| (x as f32).to_string().parse::<f64>().ok())
            .map_or(value.clone(), Value::from),
        other => other.clone(),
    }
}

/// The error for options of the authors' format beside a configuration of ours.
fn not_for_ours(options: AuthorsOptions) -> Option<Error> {
    let problem = "applies to configurations in the authors' format, and this one is not";
    match options {
        AuthorsOptions {
            semantics: Some(_), ..
        } => Some(Error::input("--semantics", problem, "set method.mode")),
        AuthorsOptions {
            world_size: Some(_),
            ..
        } => Some(Error::input(
            "--world-size",
            problem,
            "set train.batch_labeled and train.batch_unlabeled to the whole batch",
        )),
        _ => None,
    }
}

impl Reader<'_> {
    /// Flattens `node` into leaves, checking every key on the way. `known` is the schema's tree
    /// below `prefix`, `at` names a line of the source.
    fn collect(
        &mut self,
        node: &Node,
        known: &Value,
        prefix: &str,
        at: &dyn Fn(u64) -> String,
        line: u64,
    ) {
        match (node, known) {
            // A section without keys of its own is a map from whatever to whatever.
            (Node::Map(_), Value::Object(keys)) if keys.is_empty() => self.given.push(Given {
                at: at(line),
                key: prefix.to_string(),
                value: plain(node),
            }),
            (Node::Leaf(Value::Null), Value::Object(keys)) if keys.is_empty() => {}
            (Node::Leaf(_), Value::Object(keys)) if keys.is_empty() => {
                self.errors.push(Error::input(
                    at(line),
                    format!("`{prefix}` is a map, not a value"),
                    "write its pairs below it, such as `7: 0`, or {7: 0}",
                ));
            }
            (Node::Map(entries), Value::Object(keys)) => {
                for (key, line, child) in entries {
                    let path = join(prefix, key);
                    match keys.get(key) {
                        Some(inner) => self.collect(child, inner, &path, at, *line),
                        None => self.errors.push(unknown_key(at(*line), &path, self.schema)),
                    }
                }
            }
            // `section:` with nothing below it changes nothing.
            (Node::Leaf(Value::Null), Value::Object(_)) => {}
            (Node::Leaf(_), Value::Object(keys)) => self.errors.push(Error::input(
                at(line),
                format!("`{}` is a section, not a value", display(prefix)),
                format!("give its keys, such as `{}`", join(prefix, first_key(keys))),
            )),
            (Node::Map(_), _) => self.errors.push(Error::input(
                at(line),
                format!("`{prefix}` is a value, not a section"),
                "write the value after the colon",
            )),
            (Node::Leaf(value), _) => self.given.push(Given {
                at: at(line),
                key: prefix.to_string(),
                value: value.clone(),
            }),
        }
    }

    /// Reads one `section.key=value` override.
    fn read_set(&mut self, set: &str) -> Result<()> {
        let at = format!("--set {set}");
        let Some((key, text)) = set.split_once('=') else {
            return Err(Error::input(
                at,
                "no `=` between key and value",
                "write --set section.key=value",
            ));
        };
        let (key, text) = (key.trim(), text.trim());
        let Some(known) = get(self.schema, key) else {
            return Err(unknown_key(at, key, self.schema));
        };
        let node = match parse(text) {
            _ if text.is_empty() => Node::Leaf(Value::String(String::new())),
            // A path such as `2012` is a string wherever the schema wants one.
            Ok(Node::Leaf(Value::Number(_) | Value::Bool(_))) if known.is_string() => {
                Node::Leaf(Value::String(text.to_string()))
            }
            Ok(node) => node,
            Err((_, problem)) => {
                return Err(Error::input(at, problem, "write the value in YAML"));
            }
        };
        self.collect(&node, known, key, &|_| at.clone(), 1);
        Ok(())
    }
}

/// Does the schema accept this one value in place of the default?
fn check_type(schema: &Value, leaf: &Given) -> Result<()> {
    let mut alone = schema.clone();
    put(&mut alone, &leaf.key, leaf.value.clone());
    let Err(e) = serde_json::from_value::<Config>(alone) else {
        return Ok(());
    };
    let default = get(schema, &leaf.key).map_or(String::new(), shown);
    let mend = match nearest_variant(&e.to_string(), &leaf.value) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("give a value like the default, {default}"),
    };
    Err(Error::input(
        leaf.at.clone(),
        format!("`{}`: {}", leaf.key, plain_types(&e.to_string())),
        mend,
    ))
}

/// A default as one would write it: numbers pass through JSON as f64, but are f32.
fn shown(value: &Value) -> String {
    match value {
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(shown).collect();
            format!("[{}]", items.join(", "))
        }
        Value::Number(n) if n.is_f64() => {
            n.as_f64().map_or(n.to_string(), |x| (x as f32).to_string())
        }
        other => other.to_string(),
    }
}

/// Rust's type names in the words of a reader of YAML.
fn plain_types(message: &str) -> String {
    let mut text = message.to_string();
    for (from, to) in [
        ("expected usize", "expected a whole number from 0"),
        ("expected u64", "expected a whole number from 0"),
        ("expected u32", "expected a whole number from 0"),
        ("expected u8", "expected a whole number from 0 to 255"),
        ("expected f32", "expected a number"),
        ("expected a boolean", "expected true or false"),
        ("expected path string", "expected a path"),
        ("expected a sequence", "expected a list"),
        ("expected an array of length", "expected a list of length"),
    ] {
        text = text.replace(from, to);
    }
    text
}

/// For an unknown enumeration value: the variant nearest to it, out of serde's message.
fn nearest_variant(message: &str, value: &Value) -> Option<String> {
    let (_, variants) = message
        .strip_prefix("unknown variant")?
        .split_once("expected")?;
    let names = variants.split('`').skip(1).step_by(2);
    nearest(value.as_str()?, names).map(str::to_string)
}

/// The error for a key that the schema lacks.
fn unknown_key(at: String, key: &str, schema: &Value) -> Error {
    let mut known = Vec::new();
    list_keys(schema, "", &mut known);
    let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
    let parent = |k: &str| k.rsplit_once('.').map_or("", |(s, _)| s).to_string();
    let last = |k: &str| k.rsplit('.').next().unwrap_or("").to_string();
    // First the same section, then the whole key, then a key of that name anywhere.
    let siblings: Vec<String> = known
        .iter()
        .filter(|k| parent(k) == section)
        .cloned()
        .collect();
    let in_section =
        nearest(name, siblings.iter().map(|k| last_part(k))).map(|near| join(section, near));
    let anywhere = || {
        nearest(key, known.iter().map(String::as_str))
            .map(str::to_string)
            .or_else(|| {
                let near = nearest(name, known.iter().map(|k| last_part(k)))?.to_string();
                known.iter().find(|k| last(k) == near).cloned()
            })
    };
    let mend = match in_section.or_else(anywhere) {
        Some(near) => format!("did you mean `{near}`?"),
        None if siblings.is_empty() => format!("known sections: {}", sections(schema).join(", ")),
        None => format!("known keys here: {}", siblings.join(", ")),
    };
    Error::input(at, format!("unknown key `{key}`"), mend)
}

/// The candidate within a third of its length in edits of `name`, if any.
pub(super) fn nearest<'a>(
    name: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    candidates
        .map(|c| (strsim::damerau_levenshtein(name, c), c))
        .filter(|(distance, c)| *distance <= (c.chars().count() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, c)| c)
}

fn list_keys(schema: &Value, prefix: &str, out: &mut Vec<String>) {
    if let Value::Object(map) = schema {
        for (key, inner) in map {
            let path = join(prefix, key);
            list_keys(inner, &path, out);
            out.push(path);
        }
    }
}

/// The names of our sections.
fn sections(schema: &Value) -> Vec<&str> {
    let map = schema.as_object();
    map.map(|map| map.keys().map(String::as_str).collect())
        .unwrap_or_default()
}

fn last_part(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}

fn first_key(map: &Map<String, Value>) -> &str {
    map.keys().next().map_or("", String::as_str)
}

fn join(prefix: &str, key: &str) -> String {
    if prefix.is_empty() {
        key.to_string()
    } else {
        format!("{prefix}.{key}")
    }
}

fn display(prefix: &str) -> &str {
    if prefix.is_empty() {
        "the file"
    } else {
        prefix
    }
}

fn get<'a>(value: &'a Value, key: &str) -> Option<&'a Value> {
    key.split('.').try_fold(value, |v, part| v.get(part))
}

/// Replaces the leaf `key`; keys come from the schema, so a missing one is left alone.
fn put(root: &mut Value, key: &str, value: Value) {
    let slot = key.split('.').try_fold(root, |v, part| v.get_mut(part));
    if let Some(slot) = slot {
        *slot = value;
    }
}
