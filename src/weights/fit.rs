//! How the tensors of a file fit a network: what is missing, what is left over, and what has
//! another shape, as sentences for an error and as a table for a reader.

use std::fmt::{self, Display};

use super::order::disk_shape;
use super::pth::shown;
use super::reader::Reader;
use crate::graph::params::Spec;

/// Rows of a table before the rest is only counted.
const ROWS: usize = 30;

/// A tensor that the network and the file do not have alike. At most one shape is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The network's name for it.
    pub name: String,
    /// Shape in the network, as on disk; `None`: the network has no such tensor.
    pub network: Option<Vec<usize>>,
    /// Shape in the file; `None`: the file has no such tensor.
    pub file: Option<Vec<usize>>,
}

impl Difference {
    /// What is wrong with the file's tensor `name` as a value of `spec`.
    pub(super) fn find(file: &Reader, spec: &Spec, name: &str) -> Option<Self> {
        let (network, found) = (disk_shape(spec), file.shape(name));
        (found != Some(&network)).then(|| Self {
            name: spec.name.clone(),
            network: Some(network),
            file: found.map(<[usize]>::to_vec),
        })
    }

    /// Whether both have the tensor, in different shapes.
    pub(super) fn is_of_shape(&self) -> bool {
        self.network.is_some() && self.file.is_some()
    }

    /// The file's tensor `name`, which is none of the network's; `bare` is what it would be there.
    pub(super) fn unexpected(file: &Reader, name: &str, bare: &str) -> Self {
        Self {
            name: bare.to_string(),
            network: None,
            file: file.shape(name).map(<[usize]>::to_vec),
        }
    }
}

impl Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = shown(&self.name);
        match (&self.network, &self.file) {
            (Some(network), None) => write!(f, "{name} {network:?} is missing"),
            (Some(network), Some(file)) => {
                write!(f, "{name} is {file:?}, the network's is {network:?}")
            }
            (None, file) => {
                let shape = file.as_deref().unwrap_or_default();
                write!(f, "{name} {shape:?} is not in the network")
            }
        }
    }
}

/// Differences as a table, one a line; a part of the network that is missing or left over as a
/// whole is one line. The first line is the heading.
pub fn table(differences: &[Difference]) -> String {
    let mut rows = vec![["tensor".into(), "network".into(), "file".into()]];
    let shape = |shape: &Option<Vec<usize>>, none: &str| match shape {
        Some(shape) => format!("{shape:?}"),
        None => none.to_string(),
    };
    let mut rest = differences;
    while let Some((first, after)) = rest.split_first() {
        if rows.len() > ROWS {
            rows.push([
                format!("and {} more", rest.len()),
                String::new(),
                String::new(),
            ]);
            break;
        }
        let part = part(rest);
        let (name, count) = match part.len() {
            0 | 1 => (shown(&first.name), String::new()),
            n => (format!("{}.*", shown(top(first))), format!("{n} tensors")),
        };
        let cell = |s: &Option<Vec<usize>>, none: &str| match (s, count.is_empty()) {
            (Some(_), false) => count.clone(),
            _ => shape(s, none),
        };
        let (network, file) = (cell(&first.network, "—"), cell(&first.file, "missing"));
        rows.push([name, network, file]);
        rest = after
            .get(part.len().saturating_sub(1)..)
            .unwrap_or_default();
    }
    align(&rows)
}

/// First component of a name.
fn top(difference: &Difference) -> &str {
    let name = difference.name.as_str();
    name.split_once('.').map_or(name, |(top, _)| top)
}

/// The differences at the start of `all` that are of one kind and of one part of the network.
fn part(all: &[Difference]) -> &[Difference] {
    let Some(first) = all.first() else {
        return all;
    };
    let alike = |d: &&Difference| {
        let kind = |d: &Difference| (d.network.is_some(), d.file.is_some());
        kind(d) == kind(first) && top(d) == top(first) && kind(d) != (true, true)
    };
    &all[..all.iter().take_while(alike).count()]
}

/// Columns, each as wide as its widest cell.
fn align(rows: &[[String; 3]]) -> String {
    let width = |column: usize| rows.iter().map(|r| r[column].chars().count()).max();
    let (first, second) = (width(0).unwrap_or(0), width(1).unwrap_or(0));
    let lines: Vec<String> = rows
        .iter()
        .map(|[a, b, c]| {
            format!("{a:first$}  {b:second$}  {c}")
                .trim_end()
                .to_string()
        })
        .collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(name: &str, network: Option<&[usize]>, file: Option<&[usize]>) -> Difference {
        Difference {
            name: name.into(),
            network: network.map(<[usize]>::to_vec),
            file: file.map(<[usize]>::to_vec),
        }
    }

    #[test]
    fn a_table_has_a_line_for_each_tensor_or_part() {
        let all = [
            difference("decoder.aspp.conv1.1.weight", Some(&[4, 4, 1, 1]), None),
            difference("decoder.aspp.conv1.2.bias", Some(&[4]), None),
            difference(
                "decoder.classifier.8.weight",
                Some(&[3, 4, 1, 1]),
                Some(&[6, 4, 1, 1]),
            ),
            difference("decoder.classifier.8.bias", Some(&[3]), Some(&[6])),
            difference("fc.weight", None, Some(&[1000, 8])),
        ];
        let expected = "\
tensor                       network       file
decoder.*                    2 tensors     missing
decoder.classifier.8.weight  [3, 4, 1, 1]  [6, 4, 1, 1]
decoder.classifier.8.bias    [3]           [6]
fc.weight                    —             [1000, 8]";
        assert_eq!(table(&all), expected);
        assert_eq!(table(&[]).lines().count(), 1);
    }

    #[test]
    fn a_table_ends() {
        let all: Vec<Difference> = (0..100)
            .map(|i| difference(&format!("part{i}.w"), None, Some(&[1])))
            .collect();
        let text = table(&all);
        assert_eq!(text.lines().count(), 32);
        assert!(text.ends_with("and 70 more"), "{text}");
    }
}
