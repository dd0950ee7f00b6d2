//! From YAML text and `--set` overrides to a typed [`Config`].
//!
//! The text is read into an untyped tree that remembers line numbers. Each leaf is then checked
//! alone against the schema (the defaults, serialised, are the list of known keys), so that every
//! mistake gets its own line and a wrong key is never reported as a wrong type elsewhere.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_saphyr::Spanned;

use super::schema::Config;
use crate::{Error, Result};

/// A YAML value with the line of every key.
enum Node {
    Map(Vec<(String, u64, Node)>),
    Leaf(Value),
}

/// One value given by the user: where it stands, its dotted key, the value.
struct Given {
    at: String,
    key: String,
    value: Value,
}

/// Gathers what the user gave, and everything wrong with it.
struct Reader<'a> {
    /// The defaults as a tree: its keys are the known keys.
    schema: &'a Value,
    given: Vec<Given>,
    errors: Vec<Error>,
}

/// The defaults overlaid with `text` (named `origin` in messages) and `sets`.
pub(super) fn resolve(origin: &str, text: &str, sets: &[String]) -> Result<Config> {
    let schema = serde_json::to_value(Config::default())
        .map_err(|e| Error::internal(format!("the default configuration: {e}")))?;
    let mut reader = Reader {
        schema: &schema,
        given: Vec::new(),
        errors: Vec::new(),
    };
    let at = |line: u64| format!("{origin}:{line}");
    match parse(text) {
        Ok(node) => reader.collect(&node, &schema, "", &at, 1),
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
    serde_json::from_value(merged)
        .map_err(|e| Error::internal(format!("the merged configuration: {e}")))
}

/// Parses YAML; the error is (line, one-line problem).
fn parse(text: &str) -> Result<Node, (u64, String)> {
    if text.trim().is_empty() {
        return Ok(Node::Map(Vec::new()));
    }
    serde_saphyr::from_str::<Node>(text).map_err(|e| {
        let e = e.without_snippet();
        let line = e.location().map_or(1, |at| at.line());
        let text = e.to_string();
        let first = text.lines().next().unwrap_or("not YAML");
        (line, first.trim().to_string())
    })
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
        None if siblings.is_empty() => format!("known sections: {}", top_keys(schema)),
        None => format!("known keys here: {}", siblings.join(", ")),
    };
    Error::input(at, format!("unknown key `{key}`"), mend)
}

/// The candidate within a third of its length in edits of `name`, if any.
fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
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

fn top_keys(schema: &Value) -> String {
    let keys: Vec<&str> = schema
        .as_object()
        .map(|map| map.keys().map(String::as_str).collect())
        .unwrap_or_default();
    keys.join(", ")
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

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a section, a list, or a value")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Node, E> {
        Ok(Node::Leaf(v.into()))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Node, E> {
        Ok(Node::Leaf(v.into()))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Node, E> {
        Ok(Node::Leaf(v.into()))
    }

    fn visit_f64<E>(self, v: f64) -> Result<Node, E> {
        Ok(Node::Leaf(v.into()))
    }

    fn visit_str<E>(self, v: &str) -> Result<Node, E> {
        Ok(Node::Leaf(v.into()))
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Leaf(Value::Null))
    }

    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Leaf(Value::Null))
    }

    fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Node, D::Error> {
        Node::deserialize(d)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element::<Node>()? {
            items.push(plain(item));
        }
        Ok(Node::Leaf(Value::Array(items)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some((key, node)) = map.next_entry::<Spanned<String>, Node>()? {
            entries.push((key.value, key.referenced.line(), node));
        }
        Ok(Node::Map(entries))
    }
}

/// A node without its lines.
fn plain(node: Node) -> Value {
    match node {
        Node::Leaf(value) => value,
        Node::Map(entries) => Value::Object(
            entries
                .into_iter()
                .map(|(key, _, node)| (key, plain(node)))
                .collect(),
        ),
    }
}
