//! Where in a file a network is: what its names begin with there, and which network it is where there
//! are several.
//!
//! Training scripts wrap networks in one another (`state_dict.`, `module.`, `_orig_mod.`, `model.`,
//! `ema.`), so what is in front is not looked up in a list but read off the file: whatever stands before
//! a name of the network's own.

use super::reader::Reader;
use crate::graph::params::{Layout, Spec};

/// What every parameter of the encoder is named under.
pub(super) const ENCODER: &str = "encoder.";

/// Names of the encoder that are looked for to find one that is alone.
const PROBES: usize = 24;

/// Which network to take from a file that holds both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefer {
    /// The averaged network, the one to evaluate and use.
    Teacher,
    /// The network that SGD trains.
    Student,
}

/// How the names of a file follow from those of a layout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Naming {
    /// A prefix in front.
    Prefix(String),
    /// The encoder alone: `encoder.` replaced by a prefix.
    Encoder(String),
}

/// What a network's names say it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Averaged,
    Trained,
    Unsaid,
}

impl Role {
    /// Of the network under `prefix`.
    fn of(prefix: &str) -> Self {
        let words = || prefix.split(['.', '_']);
        let averaged = ["teacher", "ema", "averaged", "avg", "swa", "shadow"];
        if words().any(|w| averaged.contains(&w)) {
            Role::Averaged
        } else if words().any(|w| w == "student") || prefix.starts_with("model_state.") {
            Role::Trained
        } else {
            Role::Unsaid
        }
    }

    /// Its place among those that are wanted, the first best.
    fn rank(self, prefer: Prefer) -> usize {
        match (self, prefer) {
            (Role::Averaged, Prefer::Teacher) | (Role::Trained, Prefer::Student) => 0,
            (Role::Unsaid, _) => 1,
            _ => 2,
        }
    }
}

impl Naming {
    /// What the file would call `spec`.
    pub(super) fn name(&self, spec: &Spec) -> String {
        match self {
            Naming::Prefix(prefix) => format!("{prefix}{}", spec.name),
            Naming::Encoder(prefix) => match spec.name.strip_prefix(ENCODER) {
                Some(bare) => format!("{prefix}{bare}"),
                None => spec.name.clone(),
            },
        }
    }

    /// What the layout would call the file's `name`, if it is of this network at all.
    pub(super) fn bare(&self, name: &str) -> Option<String> {
        match self {
            Naming::Prefix(prefix) => name.strip_prefix(prefix.as_str()).map(str::to_string),
            Naming::Encoder(prefix) => {
                let bare = name.strip_prefix(prefix.as_str())?;
                Some(format!("{ENCODER}{bare}"))
            }
        }
    }

    /// What stands in front of its names in the file.
    pub(super) fn prefix(&self) -> &str {
        match self {
            Naming::Prefix(prefix) | Naming::Encoder(prefix) => prefix,
        }
    }

    /// Tensors of the layout that the file has under these names, of whatever shape.
    pub(super) fn found(&self, file: &Reader, layout: &Layout) -> usize {
        let mut specs = layout.specs().iter().collect::<Vec<_>>();
        if let Naming::Encoder(_) = self {
            specs.retain(|s| s.name.starts_with(ENCODER));
        }
        let there = |s: &&&Spec| file.shape(&self.name(s)).is_some();
        specs.iter().filter(there).count()
    }
}

/// The whole network that `prefer` means, or the other one, or one of which nothing is said.
pub(super) fn whole(file: &Reader, layout: &Layout, prefer: Prefer) -> Option<Naming> {
    let names = file.names();
    let mut specs = layout.specs().iter();
    // The first name that there is at all tells of every network.
    let prefixes = specs.find_map(|spec| {
        let found = prefixes(&names, &spec.name);
        (!found.is_empty()).then_some(found)
    })?;
    best(
        file,
        layout,
        prefer,
        prefixes.into_iter().map(Naming::Prefix),
    )
}

/// As [`whole`], or else an encoder alone.
pub(super) fn any(file: &Reader, layout: &Layout, prefer: Prefer) -> Option<Naming> {
    whole(file, layout, prefer).or_else(|| {
        let names = file.names();
        let bare = layout
            .specs()
            .iter()
            .filter_map(|s| s.name.strip_prefix(ENCODER));
        let mut found: Vec<String> = Vec::new();
        for prefix in bare.take(PROBES).flat_map(|bare| prefixes(&names, bare)) {
            if !found.contains(&prefix) {
                found.push(prefix);
            }
        }
        best(file, layout, prefer, found.into_iter().map(Naming::Encoder))
    })
}

/// What stands in front of `bare` in `names`, in their order.
fn prefixes(names: &[String], bare: &str) -> Vec<String> {
    let fronts = names.iter().filter_map(|name| name.strip_suffix(bare));
    let fronts = fronts.filter(|front| front.is_empty() || front.ends_with('.'));
    fronts
        .filter(|front| !is_state(front))
        .map(str::to_string)
        .collect()
}

/// Whether what is under `prefix` is an optimiser's, not a network's.
fn is_state(prefix: &str) -> bool {
    let of_optimisers = [
        "velocity",
        "optimizer",
        "exp_avg",
        "exp_avg_sq",
        "momentum_buffer",
    ];
    prefix.split('.').any(|part| of_optimisers.contains(&part))
}

/// Of those that have about as many tensors as any, the first of the wanted role.
fn best(
    file: &Reader,
    layout: &Layout,
    prefer: Prefer,
    candidates: impl Iterator<Item = Naming>,
) -> Option<Naming> {
    let counted: Vec<(usize, Naming)> = candidates
        .map(|naming| (naming.found(file, layout), naming))
        .collect();
    let most = counted.iter().map(|(n, _)| *n).max()?;
    let whole = counted.into_iter().filter(|(n, _)| 2 * n >= most);
    let rank = |naming: &Naming| Role::of(naming.prefix()).rank(prefer);
    whole.map(|(_, naming)| naming).min_by_key(rank)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_read_off_names() {
        for (prefix, role) in [
            ("teacher.", Role::Averaged),
            ("teacher_state.module.", Role::Averaged),
            ("state_dict_ema.", Role::Averaged),
            ("model_ema.module.", Role::Averaged),
            ("ema_model.", Role::Averaged),
            ("ema.shadow.", Role::Averaged),
            ("student.module.", Role::Trained),
            ("model_state.", Role::Trained),
            ("", Role::Unsaid),
            ("state_dict.model._orig_mod.", Role::Unsaid),
            ("schema.", Role::Unsaid),
        ] {
            assert_eq!(Role::of(prefix), role, "{prefix}");
        }
    }

    #[test]
    fn what_is_in_front_ends_with_a_dot_and_is_no_optimisers() {
        let names = [
            "a.conv.w",
            "conv.w",
            "xconv.w",
            "velocity.conv.w",
            "o.exp_avg.conv.w",
        ];
        let names = names.map(String::from);
        assert_eq!(prefixes(&names, "conv.w"), ["a.", ""]);
    }
}
