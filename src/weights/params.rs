//! Networks in files: whose tensors to take, and what to say when they do not fit.

use super::fit::Difference;
use super::order::from_disk;
use super::place::{self, ENCODER, Naming, Prefer};
use super::pth::shown;
use super::reader::Reader;
use crate::device::elements;
use crate::error::{Error, Result};
use crate::graph::params::{Kind, Layout, Spec};

/// Differences that an error lists before it only counts.
const LISTED: usize = 3;

/// And those of the decoder.
const DECODER: &str = "decoder.";

/// PyTorch's counters of batches end so; nobody needs them.
const COUNTER: &str = ".num_batches_tracked";

/// Running variances of batch norms end so.
const VARIANCE: &str = ".running_var";

/// Last layers of the heads: as wide as there are classes.
const CLASSIFIERS: [&str; 3] = ["decoder.classifier.8.", "decoder.head.4.", "auxor.aux.4."];

/// Heads that training alone uses. Scripts that train on labels alone save networks without them, and
/// such a network is whole for evaluation and inference.
const TRAINING_HEADS: [&str; 2] = ["decoder.representation.", "auxor."];

/// What a partial initialisation found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitReport {
    /// Tensors taken from the file.
    pub matched: usize,
    /// Tensors of the network.
    pub total: usize,
    /// One line per tensor that the file has in another shape (classifiers for other classes).
    pub warnings: Vec<String>,
    /// Everything that does not match: those, what the file lacks and what it has besides.
    pub differences: Vec<Difference>,
}

/// Reads a whole network: flat weights and flat buffers, alignment gaps 0, and so the heads that
/// [`each_param`] does without.
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
/// The representation and the auxiliary head, which evaluation and inference do not run, may be
/// missing as a whole: nothing is handed over for them then.
///
/// # Errors
/// As [`read_params`]; those of `take`.
pub fn each_param(
    file: &Reader,
    layout: &Layout,
    prefer: Prefer,
    take: &mut dyn FnMut(&Spec, &[f32]) -> Result<()>,
) -> Result<()> {
    let Some(naming) = place::whole(file, layout, prefer) else {
        return Err(no_network(file));
    };
    let prefix = naming.prefix();
    check(file, layout, &naming)?;
    // Both as large as they will ever be: what an allocator has to grow on the way it tends to keep,
    // and that would be as much as the largest tensor for as long as the process lives.
    let largest = layout.specs().iter().map(|s| elements(s.shape)).max();
    let most = largest.unwrap_or(0);
    let (mut stored, mut values) = (Vec::with_capacity(most), vec![0.0; most]);
    let missing = missing_heads(file, prefix);
    let without = |spec: &&Spec| missing.iter().any(|head| spec.name.starts_with(head));
    for spec in layout.specs().iter().filter(|spec| !without(spec)) {
        let values = &mut values[..elements(spec.shape)];
        let name = format!("{prefix}{}", spec.name);
        file.floats_into(&name, &mut stored)?;
        check_finite(file, &name, &stored)?;
        from_disk(&stored, spec.shape, values);
        take(spec, values)?;
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
        if let Some(difference) = Difference::find(file, spec, &name) {
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
    let (found, report) = plan(file, layout, prefer)?;
    for (spec, name) in &found {
        let flat = match spec.kind {
            Kind::Weight => &mut *weights,
            Kind::Buffer => &mut *buffers,
        };
        read_tensor(file, spec, name, flat)?;
    }
    Ok(report)
}

/// What [`init_params`] would do with `file`, without reading a tensor.
///
/// # Errors
/// As [`init_params`].
pub fn check_init(file: &Reader, layout: &Layout, prefer: Prefer) -> Result<InitReport> {
    plan(file, layout, prefer).map(|(_, report)| report)
}

/// The tensors to take, with the file's names for them.
fn plan<'a>(
    file: &Reader,
    layout: &'a Layout,
    prefer: Prefer,
) -> Result<(Vec<(&'a Spec, String)>, InitReport)> {
    let Some(naming) = place::any(file, layout, prefer) else {
        return Err(no_network(file));
    };
    let differences = compare(file, layout, &naming);
    let (mut warnings, mut wrong) = (Vec::new(), Vec::new());
    for d in differences.iter().filter(|d| d.is_of_shape()) {
        match CLASSIFIERS.iter().any(|c| d.name.starts_with(c)) {
            true => warnings.push(format!("{d}; it keeps its random start")),
            false => wrong.push(d.clone()),
        }
    }
    if !wrong.is_empty() {
        return Err(mismatch(file, &wrong));
    }
    let named = layout.specs().iter().map(|spec| (spec, naming.name(spec)));
    let fits = |(spec, name): &(&Spec, String)| Difference::find(file, spec, name).is_none();
    let found: Vec<(&Spec, String)> = named.filter(fits).collect();
    let report = InitReport {
        matched: found.len(),
        total: layout.specs().len(),
        warnings,
        differences,
    };
    Ok((found, report))
}

/// All that differs between the network in `file` and `layout`, for a table; nothing if the file
/// has no network.
pub fn differences(file: &Reader, layout: &Layout, prefer: Prefer) -> Vec<Difference> {
    let naming = place::any(file, layout, prefer);
    naming.map_or(Vec::new(), |naming| compare(file, layout, &naming))
}

/// `read`, what reading a network gave. If it failed for more differences than its line has room
/// for, all of them go to the log.
#[cfg(feature = "cli")]
pub(crate) fn explained<T>(
    read: Result<T>,
    file: &Reader,
    layout: &Layout,
    prefer: Prefer,
) -> Result<T> {
    if read.is_err() {
        let all = differences(file, layout, prefer);
        if all.len() > LISTED {
            tracing::warn!("{}:\n{}", file.path().display(), super::fit::table(&all));
        }
    }
    read
}

/// What is taken from `file` for a network of `layout`, as a sentence: how many tensors, and what their
/// names begin with; nothing if the file has no network.
pub fn taken(file: &Reader, layout: &Layout, prefer: Prefer) -> Option<String> {
    let naming = place::any(file, layout, prefer)?;
    let (n, all) = (naming.found(file, layout), file.names().len());
    let under = match naming.prefix() {
        "" => String::new(),
        prefix => format!(", those under {}", shown(prefix)),
    };
    let path = file.path().display();
    Some(format!(
        "{path}: {n} of its {all} tensors are the network{under}"
    ))
}

/// Compares both ways: what the network has and what the file has besides.
fn compare(file: &Reader, layout: &Layout, naming: &Naming) -> Vec<Difference> {
    let specs = layout.specs().iter();
    let mut differences: Vec<Difference> = specs
        .filter_map(|spec| Difference::find(file, spec, &naming.name(spec)))
        .collect();
    for name in file.names() {
        if let Some(bare) = naming.bare(&name)
            && !bare.ends_with(COUNTER)
            && layout.get(&bare).is_none()
        {
            differences.push(Difference::unexpected(file, &name, &bare));
        }
    }
    differences
}

fn read_tensor(file: &Reader, spec: &Spec, name: &str, flat: &mut [f32]) -> Result<()> {
    let range = spec.offset..spec.offset + elements(spec.shape);
    let Some(out) = flat.get_mut(range) else {
        return Err(beyond(name));
    };
    let values = file.floats(name)?;
    check_finite(file, name, &values)?;
    from_disk(&values, spec.shape, out);
    Ok(())
}

/// Refuses what a run that diverged leaves: with one such value everything that comes of the network
/// is one. A variance below zero has no root.
fn check_finite(file: &Reader, name: &str, values: &[f32]) -> Result<()> {
    let variance = name.ends_with(VARIANCE);
    let wrong = |v: &&f32| !v.is_finite() || (variance && **v < 0.0);
    match values.iter().find(wrong) {
        None => Ok(()),
        Some(value) if value.is_finite() => Err(Error::input(
            file.path().display().to_string(),
            format!("{} holds {value}, which is no variance", shown(name)),
            "use a checkpoint from before the run diverged, or write or download it again",
        )),
        Some(value) => Err(Error::input(
            file.path().display().to_string(),
            format!("{} holds {value}, which is no weight", shown(name)),
            "use a checkpoint from before the run diverged, or write or download it again",
        )),
    }
}

fn beyond(name: &str) -> Error {
    Error::internal(format!("{name} lies beyond the flat vector"))
}

/// Compares the network under `prefix` with `layout`, both ways: a deeper encoder has every
/// tensor of a shallower one, so what the file has besides matters too.
fn check(file: &Reader, layout: &Layout, naming: &Naming) -> Result<()> {
    let mut differences = compare(file, layout, naming);
    // The auxiliary head only helps training.
    let matters = |d: &Difference| d.name.starts_with(ENCODER) || d.name.starts_with(DECODER);
    let missing = missing_heads(file, naming.prefix());
    let without = |d: &Difference| missing.iter().any(|head| d.name.starts_with(head));
    differences.retain(|d| (d.network.is_some() || matters(d)) && !without(d));
    match differences.is_empty() {
        true => Ok(()),
        false => Err(mismatch(file, &differences)),
    }
}

/// Those of [`TRAINING_HEADS`] of which the network under `prefix` has no tensor at all.
fn missing_heads(file: &Reader, prefix: &str) -> Vec<&'static str> {
    let names = file.names();
    let has = |head: &str| {
        let start = format!("{prefix}{head}");
        names.iter().any(|name| name.starts_with(&start))
    };
    TRAINING_HEADS.into_iter().filter(|h| !has(h)).collect()
}

fn mismatch(file: &Reader, differences: &[Difference]) -> Error {
    let first = differences.iter().take(LISTED).map(ToString::to_string);
    let mut list = first.collect::<Vec<String>>().join(", ");
    if differences.len() > LISTED {
        list += &format!(", and {} more", differences.len() - LISTED);
    }
    let stem =
        |d: &Difference| d.name.starts_with("encoder.conv1.") || d.name.starts_with("encoder.bn1.");
    let mend = match differences.iter().any(stem) {
        true => "set model.stem: deep for the authors' backbones, 7x7 for torchvision's",
        false => "use the config.yaml saved with these weights, or set model.* and data.classes",
    };
    Error::input(
        file.path().display().to_string(),
        format!("holds another architecture than the configuration: {list}"),
        mend,
    )
}

fn no_network(file: &Reader) -> Error {
    let names = file.names();
    let first = names.first().map_or("nothing".into(), |name| shown(name));
    Error::input(
        file.path().display().to_string(),
        format!("has no tensor of this network (it begins with {first})"),
        "give weights of it: names that end like encoder.conv1.0.weight, whatever is in front",
    )
}
