//! This engine's checkpoints as `.pth` files that the authors' scripts read.
//!
//! | in `.safetensors` | in `.pth` |
//! |---|---|
//! | `student.NAME` | `model_state` → `module.NAME` |
//! | `teacher.NAME` | `teacher_state` → `module.NAME` |
//! | other tensors (velocity, memory bank) | `u2pl_engine_state` → the same name |
//! | the same, its representation head, of a run on labels alone | `u2pl_engine_state` → the same name |
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
/// The authors' networks for training on labels alone are without it.
const REPRESENTATION: &str = "decoder.representation.";

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
/// order; `labels_alone` when the run learned from labels alone.
pub(in crate::weights) fn engine_file(
    names: &[String],
    metadata: &BTreeMap<String, String>,
    labels_alone: bool,
) -> Value {
    let mut states = NETWORKS.map(|(prefix, key)| (prefix, key, Vec::new()));
    let mut rest = Vec::new();
    for (i, name) in names.iter().enumerate() {
        let state = states.iter_mut().find_map(|(prefix, _, state)| {
            let bare = name.strip_prefix(*prefix)?;
            let theirs = !labels_alone || !bare.starts_with(REPRESENTATION);
            theirs.then(|| (state, format!("{MODULE}{bare}")))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(tree: &Value, part: &str) -> Vec<String> {
        let Some(Value::Dict { items, .. }) = tree.get(part) else {
            panic!("no {part}");
        };
        let text = |(key, _): &(Key, Value)| match key {
            Key::Text(text) => text.clone(),
            other => panic!("{other:?}"),
        };
        items.iter().map(text).collect()
    }

    /// Strict loading takes the names of a network and no others.
    #[test]
    fn networks_that_learned_from_labels_alone_have_no_representation_head() {
        let names = [
            "student.encoder.bn1.weight",
            "student.decoder.representation.8.bias",
            "teacher.auxor.aux.4.bias",
            "teacher.decoder.representation.8.bias",
            "velocity.decoder.representation.8.bias",
        ]
        .map(String::from);
        let metadata = BTreeMap::from([(BEST.to_string(), 0.5f64.to_bits().to_string())]);
        let tree = |labels_alone| engine_file(&names, &metadata, labels_alone);
        let (whole, bare) = (tree(false), tree(true));
        let student = [
            "module.encoder.bn1.weight",
            "module.decoder.representation.8.bias",
        ];
        assert_eq!(keys(&whole, "model_state"), student);
        assert_eq!(keys(&bare, "model_state"), student[..1]);
        let teacher = [
            "module.auxor.aux.4.bias",
            "module.decoder.representation.8.bias",
        ];
        assert_eq!(keys(&whole, "teacher_state"), teacher);
        assert_eq!(keys(&bare, "teacher_state"), teacher[..1]);
        assert_eq!(keys(&whole, REST), names[4..]);
        assert_eq!(
            keys(&bare, REST),
            [names[1].clone(), names[3].clone(), names[4].clone()]
        );
        assert!(matches!(whole.get(BEST), Some(Value::Float(0.5))));
    }
}
