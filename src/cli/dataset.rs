//! `u2pl-engine dataset check`: what lies in a folder, and the configuration that trains on it.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::common::{Progress, emit, emit_json};
use crate::config::Config;
use crate::config::schema::{Data, DataKind};
use crate::counted::counted;
use crate::data::absent::Held;
use crate::data::advice::{Advice, advise};
use crate::data::check::{doubtful, most_unusable, turned_line, unusable_line};
use crate::data::discover::{Found, discover, lists_of};
use crate::data::list;
use crate::data::mask::MaskRules;
use crate::data::survey::{Survey, Surveyor, Suspect, Suspicion};
use crate::data::{Dataset, Part, Sample};
use crate::{Error, Result};

/// Suspicious samples printed before "and N more".
const SHOWN: usize = 20;
/// Images without a mask that are named.
const NAMED: usize = 3;

/// Looks at datasets.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Check(CheckArgs),
}

/// Decodes every image and mask of a folder: layout, counts, sizes, how often each class occurs, masks
/// that would fail or teach nothing, and the configuration to use. With --config: the same for the
/// lists of a configuration, and what they name twice; exit code 2 when training would stop at what was
/// found.
#[derive(Debug, clap::Args)]
struct CheckArgs {
    /// Dataset root: JPEGImages/ + SegmentationClass/, leftImg8bit/ + gtFine/, images/ + masks/, or
    /// images alone
    #[arg(
        value_name = "DIR",
        required_unless_present = "config",
        conflicts_with = "config"
    )]
    dir: Option<PathBuf>,
    /// Check the lists of this configuration instead
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Override one key of --config; may be given several times
    #[arg(long, value_name = "KEY=VALUE", requires = "config")]
    set: Vec<String>,
    /// Number of classes; default: what the masks hold
    #[arg(long, value_name = "N", conflicts_with = "config")]
    classes: Option<usize>,
    /// Value of pixels that count for nothing
    #[arg(
        long,
        value_name = "VALUE",
        default_value_t = 255,
        conflicts_with = "config"
    )]
    ignore: u8,
    /// Read the headers of images alone, not their pixels: damage in them goes unseen
    #[arg(long)]
    fast: bool,
    /// Write what was found as JSON here; - prints it instead of the text
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl CheckArgs {
    /// Looks at `samples`, with a bar where somebody watches.
    fn survey(&self, samples: &[&Sample], rules: Option<&MaskRules>, data: &Data) -> Survey {
        let progress = Progress::new("check", samples.len());
        let done = AtomicUsize::new(0);
        let seen = || progress.at(done.fetch_add(1, Ordering::Relaxed) + 1);
        let with = Surveyor {
            rules,
            ignore: data.ignore_index,
            exif: data.exif,
            fast: self.fast,
            seen: &seen,
        };
        Survey::of(samples, with)
    }

    /// A line on what was not looked at.
    fn unseen(&self, survey: &Survey) -> Option<String> {
        let images = counted(
            survey.images,
            "image was not decoded",
            "images were not decoded",
        );
        let line = || format!("--fast: {images}: damage behind the headers goes unseen");
        self.fast.then(line)
    }
}

/// Runs the subcommand.
pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let Command::Check(args) = &args.command;
    match (&args.dir, &args.config) {
        (Some(dir), _) => check_folder(args, dir),
        (None, Some(config)) => check_config(args, config),
        // The parser asks for one of them.
        (None, None) => Ok(()),
    }
}

fn check_folder(args: &CheckArgs, dir: &Path) -> anyhow::Result<()> {
    if let Some(n) = args.classes.filter(|n| !(2..=255).contains(n)) {
        let mend = "give 2 to 255";
        return Err(Error::input("--classes", format!("{n} classes"), mend).into());
    }
    let found = discover(dir)?;
    let samples: Vec<&Sample> = found
        .labeled
        .iter()
        .chain(&found.unlabeled)
        .map(|(_, s)| s)
        .collect();
    // Values are judged where it is known what they mean.
    let known = args.classes.is_some() || found.data.kind != DataKind::Folder;
    let mut data = found.data.clone();
    data.ignore_index = args.ignore;
    data.classes = args.classes.unwrap_or(match data.kind {
        DataKind::Cityscapes => 19,
        _ => 21,
    });
    let rules = known.then(|| MaskRules::new(&data));
    let survey = args.survey(&samples, rules.as_ref(), &data);
    let advice = advise(&found, &survey, args.classes, args.ignore);
    let (lists, mut doubts) = named_lists(dir, &found.data);
    doubts.extend(doubts_of(&lists));
    doubts.extend(turned_line(&survey.turned));
    doubts.extend(args.unseen(&survey));

    if let Some(path) = &args.json {
        let mut value = survey_json(&survey, &found.faults, &advice.config.data);
        merge(&mut value, folder_json(&found, &advice, &doubts)?);
        emit_json(path, &value)?;
        if path.as_os_str() == "-" {
            return Ok(());
        }
    }
    let mut text = folder_text(&found, &lists);
    text += &survey_text(&survey, &found.faults, &advice.config.data);
    text += &section("notes", &[doubts, advice.notes.clone()].concat());
    text += &advice_text(&found, &advice)?;
    emit(&text)
}

fn check_config(args: &CheckArgs, path: &Path) -> anyhow::Result<()> {
    let cfg = Config::load(Some(path), &args.set)?;
    cfg.validate_for_use()?;
    if cfg.data.kind == DataKind::Shapes {
        let mend = "give a configuration of files";
        return Err(Error::input("data.kind", "synthetic shapes have no files", mend).into());
    }
    let mut sets = Vec::new();
    for part in [Part::Labeled, Part::Unlabeled, Part::Val] {
        if part == Part::Unlabeled && cfg.data.unlabeled.as_os_str().is_empty() {
            continue;
        }
        sets.push((part, Dataset::open(&cfg, part)?));
    }
    let lists: Vec<(&'static str, Vec<Sample>)> = sets
        .iter()
        .map(|(part, set)| (name_of(*part), set.samples().to_vec()))
        .collect();
    let mut doubts = doubts_of(&lists);
    let samples: Vec<&Sample> = lists.iter().flat_map(|(_, samples)| samples).collect();
    let rules = MaskRules::new(&cfg.data);
    let mut survey = args.survey(&samples, Some(&rules), &cfg.data);
    let stops = Stops::of(&sets, &cfg, &mut survey);
    doubts.extend(absent_lines(&lists, &samples, &survey, &rules, &cfg.data));
    doubts.extend(rules.second_class(survey.values().into_iter()));
    doubts.extend(turned_line(&survey.turned));
    doubts.extend(stops.unlabeled.clone());
    doubts.extend(args.unseen(&survey));
    report_config(args, &lists, &survey, &doubts, &cfg.data)?;
    stops.error(path).map_or(Ok(()), |e| Err(e.into()))
}

/// Prints what was found in the lists of a configuration.
fn report_config(
    args: &CheckArgs,
    lists: &[(&'static str, Vec<Sample>)],
    survey: &Survey,
    doubts: &[String],
    data: &Data,
) -> anyhow::Result<()> {
    if let Some(path) = &args.json {
        let mut value = survey_json(survey, &[], data);
        let counts = lists
            .iter()
            .map(|(name, s)| (name.to_string(), json!(s.len())));
        merge(
            &mut value,
            json!({"lists": Value::Object(counts.collect()), "doubts": doubts}),
        );
        emit_json(path, &value)?;
        if path.as_os_str() == "-" {
            return Ok(());
        }
    }
    let mut text = row("lists", &counts_text(lists));
    text += &survey_text(survey, &[], data);
    text += &section("notes", doubts);
    emit(&text)
}

/// What training would stop at.
#[derive(Default)]
struct Stops {
    /// Labelled and validation images that cannot be used, or whose masks cannot.
    counting: usize,
    /// On unlabelled images that cannot be used, and whether they are too many.
    unlabeled: Option<String>,
    too_many: bool,
}

impl Stops {
    /// Judges what was found in `sets`, looked at one after another, and adds to it the images that are
    /// too small.
    fn of(sets: &[(Part, Dataset)], cfg: &Config, survey: &mut Survey) -> Self {
        let mut stops = Self::default();
        let mut first = 0;
        for (part, set) in sets {
            for (i, sample) in (first..).zip(set.samples()) {
                let size = survey.size_of.get(i).copied().flatten();
                if let Some(Err(e)) = size.map(|size| set.scaled_size(&sample.image, size)) {
                    survey.suspicious.push(Suspicion {
                        sample: i,
                        kind: Suspect::Image,
                        line: e.to_string(),
                    });
                }
            }
            let own = first..first + set.len();
            let bad = |kinds: &[Suspect]| {
                let of = |s: &&Suspicion| own.contains(&s.sample) && kinds.contains(&s.kind);
                let samples = survey.suspicious.iter().filter(of).map(|s| s.sample);
                samples.collect::<HashSet<usize>>().len()
            };
            if *part == Part::Unlabeled {
                let (count, most) = (bad(&[Suspect::Image]), most_unusable(cfg, set.len()));
                stops.too_many = count > most;
                let line = || {
                    let line = unusable_line(count, set.len(), most);
                    format!("{line} (data.max_bad_unlabeled)")
                };
                stops.unlabeled = (count > 0).then(line);
            } else {
                stops.counting += bad(&[Suspect::Image, Suspect::Mask]);
            }
            first = own.end;
        }
        survey.suspicious.sort_by_key(|s| s.sample);
        stops
    }

    fn error(self, config: &Path) -> Option<Error> {
        let counting = (self.counting > 0).then(|| {
            counted(
                self.counting,
                "labelled or validation image cannot be used, or its mask cannot",
                "labelled or validation images cannot be used, or their masks cannot",
            )
        });
        let unlabeled = self.unlabeled.filter(|_| self.too_many);
        let why: Vec<String> = counting.into_iter().chain(unlabeled).collect();
        (!why.is_empty()).then(|| {
            Error::input(
                config.display().to_string(),
                format!("training would stop: {}", why.join("; ")),
                "fix the files named above, or take them out of the lists",
            )
        })
    }
}

/// A line for the labelled and for the validation list on classes that none of its masks holds.
/// `samples` are those of all lists, one after another.
fn absent_lines(
    lists: &[(&'static str, Vec<Sample>)],
    samples: &[&Sample],
    survey: &Survey,
    rules: &MaskRules,
    data: &Data,
) -> Vec<String> {
    let held: HashMap<&Path, [u64; 4]> = samples
        .iter()
        .zip(&survey.held)
        .filter_map(|(sample, held)| Some((sample.mask.as_deref()?, (*held)?)))
        .collect();
    let of = |(name, samples): &(&'static str, Vec<Sample>)| {
        let mut all = Held::default();
        for bits in samples.iter().filter_map(|s| held.get(s.mask.as_deref()?)) {
            let values = (0..=255u8).filter(|v| bits[usize::from(*v) / 64] >> (v % 64) & 1 == 1);
            all.add(values.filter_map(|v| rules.label(v)));
        }
        all.line(name, data)
    };
    let counting = |list: &&(&str, Vec<Sample>)| list.0 != name_of(Part::Unlabeled);
    lists.iter().filter(counting).filter_map(of).collect()
}

fn name_of(part: Part) -> &'static str {
    match part {
        Part::Labeled => "labelled",
        Part::Unlabeled => "unlabelled",
        Part::Val => "validation",
    }
}

/// The lists beside a dataset that are called labeled, unlabeled and val, the first of each name, and
/// lines on those that are not taken.
fn named_lists(root: &Path, data: &Data) -> (Vec<(&'static str, Vec<Sample>)>, Vec<String>) {
    let files = lists_of(root);
    let (mut lists, mut notes) = (Vec::new(), Vec::new());
    let (mut taken, mut left) = (Vec::new(), Vec::new());
    for (part, name) in [
        (Part::Labeled, "labeled.txt"),
        (Part::Unlabeled, "unlabeled.txt"),
        (Part::Val, "val.txt"),
    ] {
        let is = |f: &&PathBuf| f.file_name().is_some_and(|n| n == name);
        let mut own = files.iter().filter(is).map(|f| f.display().to_string());
        let Some(first) = own.next() else { continue };
        match list::read(data, part.key(), Path::new(&first)) {
            Ok(samples) => lists.push((name_of(part), samples)),
            Err(e) => notes.push(e.to_string()),
        }
        taken.push(first);
        left.extend(own);
    }
    if !left.is_empty() {
        let (taken, left) = (taken.join(", "), left.join(", "));
        notes.push(format!(
            "lists lie in more than one folder: {taken} taken, {left} not"
        ));
    }
    (lists, notes)
}

/// Images that lists name twice, within one and across two.
fn doubts_of(lists: &[(&'static str, Vec<Sample>)]) -> Vec<String> {
    let mut doubts = Vec::new();
    for (i, (name, samples)) in lists.iter().enumerate() {
        let what = format!("named more than once in the {name} list");
        doubts.extend(doubtful(&what, &list::repeated(samples)));
        for (other, others) in &lists[i + 1..] {
            let what = format!("in both the {name} and {other} lists");
            doubts.extend(doubtful(&what, &list::shared(samples, others)));
        }
    }
    doubts
}

// Text.

fn row(name: &str, text: &str) -> String {
    format!("{name:<12} {text}\n")
}

fn section(name: &str, lines: &[String]) -> String {
    let rows = lines.iter().enumerate();
    rows.map(|(i, line)| row(if i == 0 { name } else { "" }, line))
        .collect()
}

fn counts_text(lists: &[(&'static str, Vec<Sample>)]) -> String {
    let counts: Vec<String> = lists
        .iter()
        .map(|(name, s)| format!("{} {name}", s.len()))
        .collect();
    counts.join(", ")
}

fn folder_text(found: &Found, lists: &[(&'static str, Vec<Sample>)]) -> String {
    let kind = match found.data.kind {
        DataKind::Voc => "voc",
        DataKind::Cityscapes => "cityscapes",
        _ => "folder",
    };
    let masks = match &found.masks {
        Some(masks) => format!("masks in {}", masks.display()),
        None => "no folder of masks".into(),
    };
    let mut text = row(
        "layout",
        &format!("{kind}: images in {}, {masks}", found.images.display()),
    );
    let orphans = match found.orphans.len() {
        0 => String::new(),
        n => format!(
            ", {} without an image (first {})",
            counted(n, "mask", "masks"),
            found.orphans[0].display()
        ),
    };
    text += &row(
        "images",
        &format!(
            "{} with a mask, {} without{orphans}",
            found.labeled.len(),
            found.unlabeled.len()
        ),
    );
    if !found.labeled.is_empty() && !found.unlabeled.is_empty() {
        let names = found.unlabeled.iter().map(|(line, _)| line.clone());
        let mut names: Vec<String> = names.take(NAMED).collect();
        if let more @ 1.. = found.unlabeled.len() - names.len() {
            names.push(format!("{more} more"));
        }
        text += &row("no mask", &names.join(", "));
    }
    if !lists.is_empty() {
        text += &row("lists", &counts_text(lists));
    }
    text
}

/// `faults` are lines on what was suspicious before anything was looked into.
fn survey_text(survey: &Survey, faults: &[String], data: &Data) -> String {
    let mut text = String::new();
    if let Some([least, middle, most]) = survey.extremes() {
        let size = |(w, h): (usize, usize)| format!("{w} × {h}");
        text += &row(
            "sizes",
            &match least == most {
                true => format!("{} (width × height)", size(least)),
                false => format!(
                    "{} to {}, middle {} (width × height)",
                    size(least),
                    size(most),
                    size(middle)
                ),
            },
        );
    }
    let total: u64 = survey.pixels.iter().sum();
    if total > 0 {
        text += &format!("\n{:>5} {:>9} {:>7}  meaning\n", "value", "pixels", "masks");
        let rules = MaskRules::new(data);
        for value in survey.values() {
            let v = usize::from(value);
            let share = 100.0 * survey.pixels[v] as f64 / total as f64;
            text += &format!(
                "{value:>5} {share:>7.3} % {:>7}  {}\n",
                survey.holders[v],
                meaning(rules.label(value), data)
            );
        }
        text.push('\n');
    }
    let mut suspicious = suspicions(survey, faults);
    let hidden = suspicious.len().saturating_sub(SHOWN);
    if hidden > 0 {
        suspicious.truncate(SHOWN);
        suspicious.push(format!("and {hidden} more"));
    }
    if suspicious.is_empty() {
        suspicious.push("nothing".into());
    }
    text + &section("suspicious", &suspicious)
}

fn suspicions(survey: &Survey, faults: &[String]) -> Vec<String> {
    let found = survey.suspicious.iter().map(|s| s.line.clone());
    faults.iter().cloned().chain(found).collect()
}

fn meaning(label: Option<u8>, data: &Data) -> String {
    match label {
        None => "no class".into(),
        Some(label) if label == data.ignore_index => "ignored".into(),
        Some(label) => match data.class_names.get(usize::from(label)) {
            Some(name) => format!("class {label}, {name}"),
            None => format!("class {label}"),
        },
    }
}

fn advice_text(found: &Found, advice: &Advice) -> Result<String> {
    let mut text = String::new();
    let root = found.data.root.display();
    if found.labeled.is_empty() {
        text +=
            "\nNo image has a mask: name the folder as the unlabelled images of another dataset\n";
        text += &format!(
            "data.unlabeled: {}\n",
            advice.config.data.unlabeled.display()
        );
        return Ok(text);
    }
    if !advice.missing_lists.is_empty() {
        text += "\nThe lists to make (choose the numbers):\n";
        let (labeled, val) = proposed(found.labeled.len());
        text += &format!(
            "u2pl-engine split --data {root} --labeled {labeled} --val {val} --draw class-balanced --out {root}/splits\n"
        );
    }
    text += "\nThe configuration to use:\n";
    text += advice.config.to_brief_yaml()?.trim_end();
    text.push('\n');
    Ok(text)
}

/// An eighth labelled, a fifth for validation.
fn proposed(images: usize) -> (usize, usize) {
    ((images / 8).max(1), (images / 5).max(1))
}

// JSON.

fn survey_json(survey: &Survey, faults: &[String], data: &Data) -> Value {
    let rules = MaskRules::new(data);
    let total: u64 = survey.pixels.iter().sum::<u64>().max(1);
    let values: Vec<Value> = survey
        .values()
        .into_iter()
        .map(|value| {
            let v = usize::from(value);
            json!({
                "value": value,
                "label": rules.label(value),
                "share": survey.pixels[v] as f64 / total as f64,
                "masks": survey.holders[v],
            })
        })
        .collect();
    json!({
        "images": survey.images,
        "masks": survey.masks,
        "sizes": survey.extremes().map(|e| e.map(|(w, h)| [w, h])),
        "values": values,
        "suspicious": suspicions(survey, faults),
    })
}

fn folder_json(found: &Found, advice: &Advice, doubts: &[String]) -> Result<Value> {
    let config =
        serde_json::to_value(&advice.config).map_err(|e| Error::internal(e.to_string()))?;
    Ok(json!({
        "with_mask": found.labeled.len(),
        "without_mask": found.unlabeled.len(),
        "masks_without_image": found.orphans,
        "doubts": doubts,
        "notes": advice.notes,
        "config": config,
    }))
}

fn merge(into: &mut Value, from: Value) {
    if let (Value::Object(into), Value::Object(from)) = (into, from) {
        into.extend(from);
    }
}
