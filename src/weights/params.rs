//! Networks in files: whose tensors to take, and what to say when they do not fit.

use super::order::{disk_shape, from_disk};
use super::pth::shown;
use super::reader::Reader;
use super::{STUDENT, TEACHER};
use crate::device::elements;
use crate::error::{Error, Result};
use crate::graph::params::{Kind, Layout, Spec};

/// Differences that an error lists before it only counts.
const LISTED: usize = 3;

/// Last layers of the heads: as wide as there are classes.
const CLASSIFIERS: [&str; 3] = ["decoder.classifier.8.", "decoder.head.4.", "auxor.aux.4."];

/// Prefixes of a network's names: this engine's, then those of the authors' checkpoints.
const STUDENTS: [&str; 3] = [STUDENT, "student.module.", "model_state.module."];
const TEACHERS: [&str; 3] = [TEACHER, "teacher.module.", "teacher_state.module."];
const BARE: [&str; 2] = ["", "module."];

/// Which network to take from a file that holds both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefer {
    /// The averaged network, the one to evaluate and use.
    Teacher,
    /// The network that SGD trains.
    Student,
}

impl Prefer {
    /// Prefixes to try, in order.
    fn prefixes(self) -> impl Iterator<Item = &'static str> {
        let (first, second) = match self {
            Prefer::Teacher => (TEACHERS, STUDENTS),
            Prefer::Student => (STUDENTS, TEACHERS),
        };
        first.into_iter().chain(BARE).chain(second)
    }
}

/// What a partial initialisation found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitReport {
    /// Tensors taken from the file.
    pub matched: usize,
    /// Tensors of the network.
    pub total: usize,
    /// One line per tensor that the file has in another shape (classifiers for other classes).
    pub warnings: Vec<String>,
}

/// Reads a whole network: flat weights and flat buffers, alignment gaps 0.
///
/// # Errors
/// [`Error::Input`] naming the first tensors that differ when the file holds another
/// architecture, or none; [`Error::Io`] when reading fails.
pub fn read_params(file: &Reader, layout: &Layout, prefer: Prefer) -> Result<(Vec<f32>, Vec<f32>)> {
    let mut weights = vec![0.0; layout.weights_len()];
    let mut buffers = vec![0.0; layout.buffers_len()];
    each_param(file, layout, prefer, &mut |spec, values| {
        let flat = match spec.kind {
            Kind::Weight => &mut weights,
            Kind::Buffer => &mut buffers,
        };
        let place = flat.get_mut(spec.offset..spec.offset + values.len());
        place
            .ok_or_else(|| beyond(&spec.name))?
            .copy_from_slice(values);
        Ok(())
    })?;
    Ok((weights, buffers))
}

/// Hands every tensor of a network to `take`, one after another, in the device's order of elements.
///
/// # Errors
/// As [`read_params`]; those of `take`.
pub fn each_param(
    file: &Reader,
    layout: &Layout,
    prefer: Prefer,
    take: &mut dyn FnMut(&Spec, &[f32]) -> Result<()>,
) -> Result<()> {
    let has = |prefix: &str| {
        let mut specs = layout.specs().iter();
        specs.any(|s| file.shape(&format!("{prefix}{}", s.name)).is_some())
    };
    let Some(prefix) = prefer.prefixes().find(|p| has(p)) else {
        return Err(no_network(file));
    };
    check(file, layout, prefix)?;
    let mut values = Vec::new();
    for spec in layout.specs() {
        values.resize(elements(spec.shape), 0.0);
        let name = format!("{prefix}{}", spec.name);
        from_disk(&file.floats(&name)?, spec.shape, &mut values);
        take(spec, &values)?;
    }
    Ok(())
}

/// Reads the tensors of one kind under `prefix` into a flat vector, alignment gaps 0.
///
/// # Errors
/// [`Error::Input`] naming the first tensor that is missing or has another shape; [`Error::Io`]
/// when reading fails.
pub fn read_flat(file: &Reader, layout: &Layout, kind: Kind, prefix: &str) -> Result<Vec<f32>> {
    let len = match kind {
        Kind::Weight => layout.weights_len(),
        Kind::Buffer => layout.buffers_len(),
    };
    let mut flat = vec![0.0; len];
    for spec in layout.specs().iter().filter(|s| s.kind == kind) {
        let name = format!("{prefix}{}", spec.name);
        if let Some(difference) = difference(file, spec, &name) {
            return Err(mismatch(file, &[difference]));
        }
        read_tensor(file, spec, &name, &mut flat)?;
    }
    Ok(flat)
}

/// Overwrites the tensors that `file` has too, for a start from pretrained weights: a whole
/// network, or an encoder alone (`encoder.layer1…`, or `layer1…` as in ImageNet checkpoints).
///
/// # Errors
/// [`Error::Input`] when no tensor matches or one other than a classifier has another shape;
/// [`Error::Io`] when reading fails.
pub fn init_params(
    file: &Reader,
    layout: &Layout,
    prefer: Prefer,
    weights: &mut [f32],
    buffers: &mut [f32],
) -> Result<InitReport> {
    let specs = layout.specs();
    let Some(naming) = namings(prefer).find(|n| specs.iter().any(|s| n.find(file, s).is_some()))
    else {
        return Err(no_network(file));
    };
    let mut report = InitReport {
        matched: 0,
        total: specs.len(),
        warnings: Vec::new(),
    };
    let (mut found, mut differences) = (Vec::new(), Vec::new());
    for spec in specs {
        let Some(name) = naming.find(file, spec) else {
            continue;
        };
        match difference(file, spec, &name) {
            None => found.push((spec, name)),
            Some(d) if CLASSIFIERS.iter().any(|c| spec.name.starts_with(c)) => {
                report
                    .warnings
                    .push(format!("{d}; it keeps its random start"));
            }
            Some(d) => differences.push(d),
        }
    }
    if !differences.is_empty() {
        return Err(mismatch(file, &differences));
    }
    for (spec, name) in &found {
        let flat = match spec.kind {
            Kind::Weight => &mut *weights,
            Kind::Buffer => &mut *buffers,
        };
        read_tensor(file, spec, name, flat)?;
    }
    report.matched = found.len();
    Ok(report)
}

/// How the names of a file follow from those of a layout.
#[derive(Clone, Copy)]
enum Naming {
    /// A prefix in front.
    Prefix(&'static str),
    /// The encoder alone: `encoder.` replaced by a prefix.
    Encoder(&'static str),
}

impl Naming {
    /// The file's name for `spec`, when the file has it.
    fn find(self, file: &Reader, spec: &Spec) -> Option<String> {
        let name = match self {
            Naming::Prefix(prefix) => format!("{prefix}{}", spec.name),
            Naming::Encoder(prefix) => {
                format!("{prefix}{}", spec.name.strip_prefix("encoder.")?)
            }
        };
        file.shape(&name).map(|_| name)
    }
}

fn namings(prefer: Prefer) -> impl Iterator<Item = Naming> {
    let whole = prefer.prefixes().map(Naming::Prefix);
    whole.chain(BARE.into_iter().map(Naming::Encoder))
}

fn read_tensor(file: &Reader, spec: &Spec, name: &str, flat: &mut [f32]) -> Result<()> {
    let range = spec.offset..spec.offset + elements(spec.shape);
    let Some(out) = flat.get_mut(range) else {
        return Err(beyond(name));
    };
    from_disk(&file.floats(name)?, spec.shape, out);
    Ok(())
}

fn beyond(name: &str) -> Error {
    Error::internal(format!("{name} lies beyond the flat vector"))
}

/// What is wrong with the file's `name` as a value of `spec`.
fn difference(file: &Reader, spec: &Spec, name: &str) -> Option<String> {
    let expected = disk_shape(spec);
    match file.shape(name) {
        None => Some(format!("{} {expected:?} is missing", spec.name)),
        Some(found) if found != expected => Some(format!(
            "{} is {found:?}, the network's is {expected:?}",
            spec.name
        )),
        Some(_) => None,
    }
}

/// Compares the network under `prefix` with `layout`, both ways: a deeper encoder has every
/// tensor of a shallower one, so what the file has besides matters too.
fn check(file: &Reader, layout: &Layout, prefix: &str) -> Result<()> {
    let specs = layout.specs().iter();
    let mut differences: Vec<String> = specs
        .filter_map(|s| difference(file, s, &format!("{prefix}{}", s.name)))
        .collect();
    for name in file.names() {
        // The auxiliary head only helps training, and PyTorch's counters of batches nobody.
        let Some(bare) = name.strip_prefix(prefix) else {
            continue;
        };
        let network = bare.starts_with("encoder.") || bare.starts_with("decoder.");
        if network && !bare.ends_with(".num_batches_tracked") && layout.get(bare).is_none() {
            let shape = file.shape(&name).unwrap_or_default();
            differences.push(format!("{} {shape:?} is not in the network", shown(bare)));
        }
    }
    if differences.is_empty() {
        return Ok(());
    }
    Err(mismatch(file, &differences))
}

fn mismatch(file: &Reader, differences: &[String]) -> Error {
    let mut list = differences[..differences.len().min(LISTED)].join(", ");
    if differences.len() > LISTED {
        list += &format!(", and {} more", differences.len() - LISTED);
    }
    Error::input(
        file.path().display().to_string(),
        format!("holds another architecture than the configuration: {list}"),
        "use the config.yaml saved with these weights, or mend model.* and data.classes",
    )
}

fn no_network(file: &Reader) -> Error {
    let names = file.names();
    let first = names.first().map_or("nothing".into(), |name| shown(name));
    Error::input(
        file.path().display().to_string(),
        format!("has no tensor of this network (it begins with {first})"),
        "give weights whose names begin with encoder., module.encoder., student. or teacher.",
    )
}
