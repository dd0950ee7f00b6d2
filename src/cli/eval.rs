//! `u2pl-engine eval`: mIoU of trained weights on a list of images, of several weights under several
//! protocols side by side.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::common::{CheckArgs, DeviceArgs, Progress, WeightsArgs, emit, emit_json};
use super::looks::LookArgs;
use crate::config::Config;
use crate::config::schema::{DataKind, Protocol};
use crate::contact;
use crate::counted::counted;
use crate::data::check::doubtful;
use crate::data::mask::cityscapes_label_ids;
use crate::data::palette::{Palette, palette};
use crate::data::{Dataset, Part, list, result_name};
use crate::eval::{Boundary, Evaluator, Look, Metrics, Scored};
use crate::files::{check_empty, check_place, write_atomic};
use crate::infer::render;
use crate::{Error, Result, model};

/// Scores trained weights on images with masks.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    weights: WeightsArgs,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    check: CheckArgs,
    /// More weights or run folders, scored likewise and set against the first
    #[arg(long, value_name = "FILE|DIR")]
    against: Vec<PathBuf>,
    /// List of images. Default: data.val of the configuration
    #[arg(long, value_name = "FILE")]
    list: Option<PathBuf>,
    /// How images are scored, by name: voc (whole images), voc-authors (the authors' validation in
    /// training: padded centre crop of 513, padding is class 0), cityscapes (sliding windows of 769,
    /// logits averaged), cityscapes-probabilities (probabilities averaged), multi-scale (six scales
    /// and flip). Several are set side by side
    #[arg(long, value_name = "NAME,..", value_delimiter = ',', value_parser = PRESETS.map(|p| p.0))]
    preset: Vec<String>,
    /// How images are scored. Default: eval.protocol of the configuration
    #[arg(long, value_name = "PROTOCOL", value_parser = ["whole", "center-crop", "sliding"])]
    protocol: Option<String>,
    #[command(flatten)]
    looks: LookArgs,
    /// Also boundary IoU: of the pixels near the borders of classes (2 % of the diagonal)
    #[arg(long)]
    boundary: bool,
    /// Write a line for each image here: pixels, accuracy, mIoU and IoU of each class
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Write the predicted masks here, palette PNGs of class indices named as `infer --recursive` names
    /// those of the folder of images
    #[arg(long, value_name = "DIR")]
    masks: Option<PathBuf>,
    /// Write into a folder of --masks that is not empty
    #[arg(long, requires = "masks")]
    force: bool,
    /// Cityscapes label ids in --masks, as its server wants them, instead of train ids
    #[arg(long, requires = "masks")]
    label_ids: bool,
    /// Name the first layer with values that are no finite numbers, where an image's scores are none
    #[arg(long)]
    trace_nan: bool,
    /// Write the numbers as JSON here; - prints them instead of the table
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Classes that a warning names.
const NAMED: usize = 8;

/// Protocols by name: what they set.
const PRESETS: [(&str, &[&str]); 5] = [
    (
        "voc",
        &[
            "eval.protocol=whole",
            "eval.scales=[1.0]",
            "eval.flip=false",
        ],
    ),
    (
        "voc-authors",
        &[
            "eval.protocol=center-crop",
            "eval.crop=[513, 513]",
            "eval.scales=[1.0]",
            "eval.flip=false",
            // Padding is class 0 there (method §4 row 10).
            "method.mode=released",
        ],
    ),
    (
        "cityscapes",
        &[
            "eval.protocol=sliding",
            "eval.crop=[769, 769]",
            "eval.average=logits",
            "eval.scales=[1.0]",
            "eval.flip=false",
        ],
    ),
    (
        "cityscapes-probabilities",
        &[
            "eval.protocol=sliding",
            "eval.crop=[769, 769]",
            "eval.average=probabilities",
            "eval.scales=[1.0]",
            "eval.flip=false",
        ],
    ),
    (
        "multi-scale",
        &[
            "eval.protocol=whole",
            "eval.scales=[0.5, 0.75, 1.0, 1.25, 1.5, 1.75]",
            "eval.flip=true",
        ],
    ),
];

impl Args {
    /// The protocol's options as overrides of the configuration, so that they are checked alike.
    fn sets(&self) -> Vec<String> {
        let protocol = self.protocol.iter().map(|p| format!("eval.protocol={p}"));
        protocol.chain(self.looks.sets()).collect()
    }

    /// Refuses files that could not be written, or would overwrite one another, before anything is
    /// scored.
    fn check_outputs(&self) -> Result<()> {
        let files = [self.csv.as_deref(), self.json.as_deref()];
        for file in files.iter().copied().flatten() {
            check_place(file, self.masks.as_deref())?;
        }
        if self.csv.is_some() && self.csv == self.json {
            return Err(Error::input(
                "--csv and --json",
                "name the same file",
                "name two files",
            ));
        }
        let masks = self.masks.as_deref();
        masks.map_or(Ok(()), |folder| check_empty(folder, self.force))
    }

    /// Whether class maps are wanted, not counts alone.
    fn look(&self) -> Look {
        match self.boundary || self.masks.is_some() {
            true => Look::Maps,
            false => Look::Counts,
        }
    }
}

/// A preset's options, likewise.
fn sets_of(preset: Option<&str>) -> Vec<String> {
    let named = PRESETS.iter().find(|p| Some(p.0) == preset);
    let named = named.map_or(&[] as &[&str], |p| p.1);
    named.iter().map(ToString::to_string).collect()
}

/// What one network scored under one protocol.
struct Outcome {
    weights: PathBuf,
    preset: Option<String>,
    cfg: Config,
    images: usize,
    /// Images that could not be scored.
    failed: usize,
    metrics: Metrics,
    boundary: Option<Boundary>,
}

/// Runs the subcommand.
pub(super) fn run(args: Args) -> anyhow::Result<()> {
    let first = args.weights.path().to_path_buf();
    let weights: Vec<PathBuf> = std::iter::once(first).chain(args.against.clone()).collect();
    let presets: Vec<Option<&str>> = match args.preset.is_empty() {
        true => vec![None],
        false => args.preset.iter().map(|p| Some(p.as_str())).collect(),
    };
    let several = weights.len() * presets.len() > 1;
    if several && (args.csv.is_some() || args.masks.is_some()) {
        return Err(Error::input(
            "--csv and --masks",
            "would be written by each network and protocol in turn",
            "score one network under one protocol",
        )
        .into());
    }
    args.check_outputs()?;
    let mut outcomes = Vec::new();
    for weights in &weights {
        for &preset in &presets {
            let first = outcomes.is_empty();
            outcomes.push(score(&args, weights, preset, first)?);
        }
    }
    if let Some(path) = &args.json {
        let mut all = outcomes.iter().map(Outcome::to_json);
        let value = match several {
            false => all.next().transpose()?.unwrap_or_default(),
            true => json!({ "results": all.collect::<Result<Vec<_>>>()? }),
        };
        emit_json(path, &value)?;
    }
    if args.json.as_deref() != Some(Path::new("-")) {
        match &outcomes[..] {
            [one] => emit(&one.table())?,
            all => emit(&beside(all))?,
        }
    }
    outcomes.iter().find(|o| o.failed > 0).map_or(Ok(()), |o| {
        Err(Error::input(
            o.weights.display().to_string(),
            format!(
                "{} of {} could not be scored",
                o.failed,
                counted(o.images, "image", "images")
            ),
            "fix or leave out those named above: the numbers are of the others alone",
        )
        .into())
    })
}

/// Scores one network under one protocol and writes the files that were asked for. The `first` one says
/// what is doubtful about the list.
fn score(args: &Args, weights: &Path, preset: Option<&str>, first: bool) -> Result<Outcome> {
    let device = args.device.open()?;
    contact::introduce(&*device, &args.check.check());
    let (file, cfg) = args
        .weights
        .open_at(weights, sets_of(preset), args.sets())?;
    let mut dataset = open_dataset(&cfg, args.list.as_deref())?;
    let twice = list::take_once(&mut dataset);
    if let Some(line) = doubtful("named more than once, and scored once", &twice).filter(|_| first)
    {
        tracing::warn!("{line}");
    }
    let layout = model::layout(&cfg.model, cfg.data.classes)?;
    let loaded = args.weights.load(&file, &layout, &device)?;
    drop(file);
    let look = args.look();
    if look == Look::Maps && cfg.eval.protocol == Protocol::CenterCrop {
        return Err(Error::input(
            "--boundary and --masks",
            "a centre crop says nothing of an image's border",
            "score whole images or sliding windows",
        ));
    }
    if args.looks.tile.is_some() && cfg.eval.protocol != Protocol::Whole {
        return Err(Error::input(
            "--tile",
            "cuts whole images up, and this protocol does not look at whole images",
            "add --protocol whole, or leave it out",
        ));
    }
    let mut outcome = Outcome {
        weights: weights.to_path_buf(),
        preset: preset.map(String::from),
        images: dataset.len(),
        failed: 0,
        metrics: Metrics::new(cfg.data.classes),
        boundary: args.boundary.then(|| Boundary::new(cfg.data.classes)),
        cfg,
    };
    let files = Files::new(args, &outcome.cfg, &dataset)?;
    let mut lines = files.header();
    let mut evaluator = Evaluator::new(device.clone(), &outcome.cfg, layout);
    evaluator.predictor().tile(args.looks.tile)?;
    evaluator.predictor().trace_nan(args.trace_nan);
    let met = evaluator.met(loaded.weights().set)?;
    device.meet(&met)?;
    let progress = Progress::new("eval", dataset.len());
    let ignore = outcome.cfg.data.ignore_index;
    let scored = evaluator.each(loaded.weights(), &dataset, look, &mut |i, scored| {
        progress.at(i + 1);
        let scored = match scored {
            Ok(scored) => scored,
            Err(fault) => {
                progress.note(&format!("error: {fault}"));
                outcome.failed += 1;
                return Ok(());
            }
        };
        outcome.metrics.add(&scored.confusion)?;
        if let (Some(sum), Some(map)) = (&mut outcome.boundary, &scored.prediction) {
            sum.add(&scored.labels, map, scored.width, ignore);
        }
        lines += &files.image(i, scored)?;
        Ok(())
    });
    drop(progress);
    if let Some(line) = outcome.untrue() {
        tracing::warn!("{line}");
    }
    // What was found before an image failed is not lost for it.
    let written = match &args.csv {
        Some(csv) => write_atomic(csv, lines.as_bytes()),
        None => Ok(()),
    };
    scored.and(written).map(|()| outcome)
}

/// What is written for each image.
struct Files<'a> {
    csv: bool,
    masks: Option<&'a Path>,
    /// Of each image, the path of what is written for it, without extension.
    images: Vec<PathBuf>,
    label_ids: bool,
    classes: usize,
    names: &'a [String],
    palette: Palette,
}

impl<'a> Files<'a> {
    fn new(args: &'a Args, cfg: &'a Config, dataset: &Dataset) -> Result<Self> {
        if args.label_ids && cfg.data.classes != 19 {
            return Err(Error::input(
                "--label-ids",
                format!(
                    "are those of Cityscapes, with 19 classes, not {}",
                    cfg.data.classes
                ),
                "leave it out",
            ));
        }
        let images = result_names(cfg, dataset);
        if args.csv.is_some() || args.masks.is_some() {
            check_distinct(&images, dataset)?;
        }
        if let Some(folder) = &args.masks {
            let parts: BTreeSet<&Path> = images.iter().filter_map(|i| i.parent()).collect();
            for part in parts {
                let folder = folder.join(part);
                fs::create_dir_all(&folder)
                    .map_err(|e| Error::io(&folder, "make the folder", e))?;
            }
        }
        Ok(Self {
            images,
            csv: args.csv.is_some(),
            masks: args.masks.as_deref(),
            label_ids: args.label_ids,
            classes: cfg.data.classes,
            names: &cfg.data.class_names,
            palette: palette(cfg),
        })
    }

    fn header(&self) -> String {
        if !self.csv {
            return String::new();
        }
        let name = |c| quoted(&self.names.get(c).cloned().unwrap_or(format!("class {c}")));
        let names: Vec<String> = (0..self.classes).map(name).collect();
        format!("image,pixels,pixel_accuracy,miou,{}\n", names.join(","))
    }

    /// Writes the mask of image `i`; its line of the table.
    fn image(&self, i: usize, scored: Scored) -> Result<String> {
        let name = &self.images[i];
        let mut line = String::new();
        if self.csv {
            let mut metrics = Metrics::new(self.classes);
            metrics.add(&scored.confusion)?;
            let share = |v: Option<f64>| v.map_or(String::new(), |v| format!("{v:.6}"));
            let shares = [metrics.pixel_accuracy(), metrics.miou()];
            let shares = shares.into_iter().chain(metrics.iou()).map(share);
            let shares: Vec<String> = shares.collect();
            let image = quoted(&name.display().to_string());
            line = format!("{image},{},{}\n", metrics.pixels(), shares.join(","));
        }
        if let (Some(folder), Some(mut map)) = (self.masks, scored.prediction) {
            // Appended: what follows a dot in the name stays.
            let mut path = folder.join(name).into_os_string();
            path.push(".png");
            let path = PathBuf::from(path);
            let (width, height) = (scored.width, scored.height);
            let png = if self.label_ids {
                cityscapes_label_ids(&mut map);
                render::grey(&map, width, height)?
            } else {
                render::indexed(&map, width, height, &self.palette)?
            };
            write_atomic(&path, &png)?;
        }
        Ok(line)
    }
}

/// For each image the path of what is written for it, without extension.
fn result_names(cfg: &Config, dataset: &Dataset) -> Vec<PathBuf> {
    match dataset.samples() {
        [] => (0..dataset.len()).map(|i| dataset.id(i).into()).collect(),
        samples => {
            let names = samples.iter().map(|s| result_name(&cfg.data, &s.image));
            names.collect()
        }
    }
}

/// Refuses two images whose results would be the same files.
fn check_distinct(names: &[PathBuf], dataset: &Dataset) -> Result<()> {
    let mut seen: HashMap<&Path, &Path> = HashMap::new();
    for (name, sample) in names.iter().zip(dataset.samples()) {
        let Some(other) = seen.insert(name, &sample.image) else {
            continue;
        };
        return Err(Error::input(
            sample.at.clone(),
            format!(
                "the results of {} would overwrite those of {}",
                sample.image.display(),
                other.display()
            ),
            "rename one of them, or list them in two files",
        ));
    }
    Ok(())
}

/// A field of a line of values between commas.
fn quoted(text: &str) -> String {
    match text.contains([',', '"', '\n']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_string(),
    }
}

impl Outcome {
    /// A line on classes that no pixel of the truth is of and that were predicted: they count in the
    /// mean, with 0.
    fn untrue(&self) -> Option<String> {
        let untrue = self.metrics.untrue();
        if untrue.is_empty() {
            return None;
        }
        let names = &self.cfg.data.class_names;
        let name = |&(c, _): &(usize, u64)| match names.get(c) {
            Some(name) => format!("class {c} ({name})"),
            None => format!("class {c}"),
        };
        let mut named: Vec<String> = untrue.iter().take(NAMED).map(name).collect();
        if let more @ 1.. = untrue.len().saturating_sub(NAMED) {
            named.push(format!("{more} more"));
        }
        let pixels: u64 = untrue.iter().map(|(_, n)| n).sum();
        let pixels = counted(pixels as usize, "pixel", "pixels");
        let mean = percent(self.metrics.miou_of_truth());
        Some(format!(
            "{}: no mask holds {}, predicted at {pixels}: an IoU of 0 that counts in the mIoU; that of \
             the other classes is {mean} %",
            self.weights.display(),
            named.join(", ")
        ))
    }

    fn to_json(&self) -> Result<Value> {
        let mut value = self.metrics.to_json();
        if let Some(map) = value.as_object_mut() {
            map.insert("images".into(), self.images.into());
            map.insert("failed".into(), self.failed.into());
            let untrue = self.metrics.untrue();
            let untrue: Vec<usize> = untrue.into_iter().map(|(class, _)| class).collect();
            map.insert("predicted_without_truth".into(), untrue.into());
            map.insert("protocol".into(), protocol_name(self.cfg.eval.protocol)?);
            map.insert("weights".into(), self.weights.display().to_string().into());
            map.insert("preset".into(), self.preset.clone().into());
            if let Some(boundary) = &self.boundary {
                map.insert("boundary_miou".into(), boundary.mean().into());
                map.insert("boundary_iou".into(), boundary.iou().into());
            }
        }
        Ok(value)
    }

    fn table(&self) -> String {
        let mut text = self.metrics.table(&self.cfg.data.class_names);
        if let Some(boundary) = &self.boundary {
            text += &format!("boundary mIoU  {}\n", percent(boundary.mean()));
        }
        text
    }
}

fn percent(value: Option<f64>) -> String {
    value.map_or("–".into(), |v| format!("{:.2}", 100.0 * v))
}

/// Several outcomes, a line each, and how far each is from the first.
fn beside(outcomes: &[Outcome]) -> String {
    let name = |o: &Outcome| match &o.preset {
        Some(preset) => format!("{}, {preset}", o.weights.display()),
        None => o.weights.display().to_string(),
    };
    let width = outcomes.iter().map(|o| name(o).chars().count()).max();
    let width = width.unwrap_or(0);
    let mut text = format!(
        "{:width$}  {:>7} {:>7}  {:>8}  {:>8}  {:>8}\n",
        "", "mIoU %", "Δ", "pixel %", "freq.w. %", "border %"
    );
    let first = outcomes.first().and_then(|o| o.metrics.miou());
    for outcome in outcomes {
        let metrics = &outcome.metrics;
        let delta = metrics.miou().zip(first).map(|(own, first)| own - first);
        let delta = delta.map_or("–".into(), |d| format!("{:+.2}", 100.0 * d));
        text += &format!(
            "{:width$}  {:>7} {delta:>7}  {:>8}  {:>9}  {:>8}\n",
            name(outcome),
            percent(metrics.miou()),
            percent(metrics.pixel_accuracy()),
            percent(metrics.frequency_weighted_iou()),
            percent(outcome.boundary.as_ref().and_then(Boundary::mean)),
        );
    }
    text
}

fn open_dataset(cfg: &Config, list: Option<&Path>) -> Result<Dataset> {
    match (list, cfg.data.kind) {
        (None, DataKind::Shapes) => {
            // Shapes have classes of their own, which the whole check knows.
            cfg.validate()?;
            Dataset::open(cfg, Part::Val)
        }
        (Some(_), DataKind::Shapes) => Err(Error::input(
            "--list",
            "the configuration's data are synthetic shapes, which have no files",
            "leave --list out, or set data.kind and data.root",
        )),
        (None, _) => Dataset::open(cfg, Part::Val),
        (Some(list), _) => Dataset::from_list(cfg, Part::Val, list),
    }
}

fn protocol_name(protocol: Protocol) -> Result<Value> {
    serde_json::to_value(protocol).map_err(|e| Error::internal(e.to_string()))
}
