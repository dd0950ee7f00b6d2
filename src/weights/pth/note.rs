//! The tree of a `.pth` file as JSON in the metadata of a safetensors file, so that the way back
//! gives the same containers, numbers and strings around the same tensors.
//!
//! | value | JSON |
//! |---|---|
//! | `None`, booleans, integers, strings | the same |
//! | float | `{"float": bits in hexadecimal}` |
//! | list | array |
//! | tuple | `{"tuple": [..]}` |
//! | `dict`, `OrderedDict` | `{"dict": [[key, value], ..]}`, `{"ordered": [..]}` |
//! | tensor | `{"tensor": true}`; its name is the path that leads to it |

use serde_json::{Value as Json, json};

use super::tree::{Key, MAX_DEPTH, Value, names};

/// The tree as text.
pub(in crate::weights) fn to_note(root: &Value) -> String {
    json(root).to_string()
}

fn json(value: &Value) -> Json {
    let list = |items: &[Value]| items.iter().map(json).collect::<Vec<Json>>();
    match value {
        Value::None => Json::Null,
        Value::Bool(value) => json!(value),
        Value::Int(value) => json!(value),
        Value::Float(value) => json!({"float": format!("{:016x}", value.to_bits())}),
        Value::Text(text) => json!(text),
        Value::List(items) => json!(list(items)),
        Value::Tuple(items) => json!({"tuple": list(items)}),
        Value::Dict { ordered, items } => {
            let pair = |(key, value): &(Key, Value)| match key {
                Key::Text(key) => json!([key, json(value)]),
                Key::Int(key) => json!([key, json(value)]),
            };
            let pairs: Vec<Json> = items.iter().map(pair).collect();
            match ordered {
                true => json!({"ordered": pairs}),
                false => json!({"dict": pairs}),
            }
        }
        Value::Tensor(_) => json!({"tensor": true}),
    }
}

/// The tree of a text and the names of its tensors, in order; nothing if it is no such text.
pub(in crate::weights) fn from_note(text: &str) -> Option<(Value, Vec<String>)> {
    let json: Json = serde_json::from_str(text).ok()?;
    let mut tensors = 0;
    let root = value(&json, 0, &mut tensors)?;
    let names = names(&root).ok()?;
    Some((root, names))
}

fn value(json: &Json, depth: usize, tensors: &mut usize) -> Option<Value> {
    if depth > MAX_DEPTH {
        return None;
    }
    let mut list = |items: &[Json]| {
        let items = items.iter().map(|i| value(i, depth + 1, tensors));
        items.collect::<Option<Vec<Value>>>()
    };
    Some(match json {
        Json::Null => Value::None,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => Value::Int(number.as_i64()?),
        Json::String(text) => Value::Text(text.clone()),
        Json::Array(items) => Value::List(list(items)?),
        Json::Object(map) => {
            let (kind, body) = map.iter().next()?;
            match (kind.as_str(), body) {
                ("float", Json::String(bits)) => {
                    Value::Float(f64::from_bits(u64::from_str_radix(bits, 16).ok()?))
                }
                ("tuple", Json::Array(items)) => Value::Tuple(list(items)?),
                ("dict" | "ordered", Json::Array(pairs)) => Value::Dict {
                    ordered: kind == "ordered",
                    items: dict(pairs, depth, tensors)?,
                },
                ("tensor", _) => {
                    *tensors += 1;
                    Value::Tensor(*tensors - 1)
                }
                _ => return None,
            }
        }
    })
}

fn dict(pairs: &[Json], depth: usize, tensors: &mut usize) -> Option<Vec<(Key, Value)>> {
    let pair = |pair: &Json| {
        let [key, item] = pair.as_array()?.as_slice() else {
            return None;
        };
        let key = match key {
            Json::String(key) => Key::Text(key.clone()),
            key => Key::Int(key.as_i64()?),
        };
        Some((key, value(item, depth + 1, tensors)?))
    };
    pairs.iter().map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_comes_back() {
        let text = |t: &str| Key::Text(t.into());
        let state = vec![
            (text("a.w"), Value::Tensor(0)),
            (text("b"), Value::Tensor(1)),
        ];
        let root = Value::Dict {
            ordered: false,
            items: vec![
                (
                    text("model_state"),
                    Value::Dict {
                        ordered: true,
                        items: state,
                    },
                ),
                (text("epoch"), Value::Int(-3)),
                (text("best"), Value::Float(f64::NAN)),
                (text("none"), Value::None),
                (
                    Key::Int(7),
                    Value::Tuple(vec![Value::Bool(true), Value::Tensor(2)]),
                ),
                (text("list"), Value::List(vec![Value::Text("\"\n".into())])),
            ],
        };
        let note = to_note(&root);
        let (back, names) = from_note(&note).unwrap();
        assert_eq!(names, ["model_state.a.w", "model_state.b", "7.1"]);
        // A NaN is not equal to itself, its text is.
        assert_eq!(to_note(&back), note);
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "",
            "{}",
            "{\"dict\": 1}",
            "{\"dict\": [[1]]}",
            "{\"dict\": [[null, 1]]}",
            "1.5",
            "{\"float\": \"x\"}",
            "{\"exec\": []}",
        ] {
            assert!(from_note(text).is_none(), "{text}");
        }
        let deep = format!("{}{}", "[".repeat(40), "]".repeat(40));
        assert!(from_note(&deep).is_none());
    }
}
