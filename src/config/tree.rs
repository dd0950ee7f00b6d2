//! YAML as an untyped tree that remembers the line of every key.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_saphyr::Spanned;

/// A YAML value with the line of every key.
pub(super) enum Node {
    /// Key, line, value; in the file's order.
    Map(Vec<(String, u64, Node)>),
    /// A scalar or a list.
    Leaf(Value),
}

/// Parses YAML; the error is (line, one-line problem).
pub(super) fn parse(text: &str) -> Result<Node, (u64, String)> {
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
            items.push(plain(&item));
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
pub(super) fn plain(node: &Node) -> Value {
    match node {
        Node::Leaf(value) => value.clone(),
        Node::Map(entries) => {
            let pairs = entries.iter();
            Value::Object(
                pairs
                    .map(|(key, _, node)| (key.clone(), plain(node)))
                    .collect(),
            )
        }
    }
}
