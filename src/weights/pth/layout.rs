//! This engine's checkpoints as `.pth` files that the authors' scripts read.
//!
//! | in `.safetensors` | in `.pth` |
//! |---|---|
//! | `student.NAME` | `model_state` → `module.NAME` |
//! | `teacher.NAME` | `teacher_state` → `module.NAME` |
//! | other tensors (velocity, memory bank) | `u2pl_engine_state` → the same name |
//! | metadata (configuration, iteration) | `u2pl_engine` → the same key |
//! | `best_miou` of the metadata | also `best_miou`, as a number |

use std::collections::BTreeMap;

use super::tree::{Key, Value};

const META: &str = "u2pl_engine";
const REST: &str = "u2pl_engine_state";
const NETWORKS: [(&str, &str); 2] = [
    (crate::weights::STUDENT, "model_state"),
    (crate::weights::TEACHER, "teacher_state"),
];
/// What distributed training puts before every name.
const MODULE: &str = "module.";
const BEST: &str = "best_miou";

/// Metadata of a file that this engine wrote, whose tensors then get back the names they have in
/// its checkpoints; nothing of other files.
pub(super) fn adopt(root: &Value, names: &mut [String]) -> BTreeMap<String, String> {
    let Some(Value::Dict { items, .. }) = root.get(META) else {
        return BTreeMap::new();
    };
    let text = |(key, value): &(Key, Value)| match (key, value) {
        (Key::Text(key), Value::Text(value)) => Some((key.clone(), value.clone())),
        _ => None,
    };
    for name in names {
        let networks = NETWORKS.map(|(ours, theirs)| (ours, format!("{theirs}.{MODULE}")));
        let rest = ("", format!("{REST}."));
        let known = networks.into_iter().chain([rest]);
        let mut bare = known.filter_map(|(ours, theirs)| {
            let bare = name.strip_prefix(&theirs)?;
            Some(format!("{ours}{bare}"))
        });
        if let Some(ours) = bare.next() {
            *name = ours;
        }
    }
    items.iter().filter_map(text).collect()
}

/// The tree of a `.pth` file for a checkpoint of this engine with tensors of these names, in their
/// order.
pub(in crate::weights) fn engine_file(
    names: &[String],
    metadata: &BTreeMap<String, String>,
) -> Value {
    let mut states = NETWORKS.map(|(prefix, key)| (prefix, key, Vec::new()));
    let mut rest = Vec::new();
    for (i, name) in names.iter().enumerate() {
        let state = states.iter_mut().find_map(|(prefix, _, state)| {
            let bare = name.strip_prefix(*prefix)?;
            Some((state, format!("{MODULE}{bare}")))
        });
        let (state, name) = state.unwrap_or((&mut rest, name.clone()));
        state.push((Key::Text(name), Value::Tensor(i)));
    }
    let ordered = |items| Value::Dict {
        ordered: true,
        items,
    };
    let mut items = Vec::new();
    for (_, key, state) in states {
        if !state.is_empty() {
            items.push((Key::Text(key.into()), ordered(state)));
        }
    }
    // The engine keeps its bits as an integer.
    let best = metadata.get(BEST).and_then(|bits| bits.parse().ok());
    if let Some(best) = best {
        items.push((Key::Text(BEST.into()), Value::Float(f64::from_bits(best))));
    }
    let meta = metadata
        .iter()
        .map(|(key, value)| (Key::Text(key.clone()), Value::Text(value.clone())));
    let meta = Value::Dict {
        ordered: false,
        items: meta.collect(),
    };
    items.push((Key::Text(META.into()), meta));
    if !rest.is_empty() {
        items.push((Key::Text(REST.into()), ordered(rest)));
    }
    Value::Dict {
        ordered: false,
        items,
    }
}
