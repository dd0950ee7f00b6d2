//! A run folder as the report sees it: `config.yaml`, `metrics.jsonl` and `samples/*.png`.
//!
//! Folders of older and newer engines are read too, and runs that are not over: what is missing
//! is left out, what is damaged is left out and named in [`Run::problems`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use super::pictures::{self, Picture};
use crate::config::Config;
use crate::data::palette::{palette, voc_color};
use crate::{Error, Result};

/// What is read of a run.
#[derive(Debug, Default)]
pub struct Run {
    /// How the page calls it: the end of its path that no other run has.
    pub name: String,
    /// Its folder.
    pub path: PathBuf,
    /// Dotted keys of its configuration and their values as YAML would have them.
    pub config: Vec<(String, String)>,
    /// Its classes.
    pub classes: Vec<Class>,
    /// Colour of pixels that count for nothing.
    pub ignored: [u8; 3],
    /// Logged steps, by iteration.
    pub steps: Vec<Step>,
    /// Validations, by iteration.
    pub validations: Vec<Validation>,
    /// How it ended, if it did.
    pub end: Option<End>,
    /// Where it ran: from which iteration on, and what is known of the machine.
    pub machines: Vec<(u64, Map<String, Value>)>,
    /// Pictures of its validations, by name.
    pub pictures: Vec<Picture>,
    /// What could not be read, and what the run was short of, a line each.
    pub problems: Vec<String>,
    /// Classes that no labelled mask holds, and those that no validation mask holds.
    absent: [Vec<usize>; 2],
    /// The first unlabelled image that was skipped, and how many there were.
    skipped: Option<(String, u64)>,
}

/// A class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Class {
    /// Its name.
    pub name: String,
    /// Its colour on pictures.
    pub color: [u8; 3],
}

/// A logged step.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// Steps done, this one included.
    pub iter: u64,
    /// Learning rate.
    pub lr: Option<f64>,
    /// Loss terms by name.
    pub loss: BTreeMap<String, Option<f64>>,
    /// The method's own numbers.
    pub u2pl: Option<U2pl>,
}

/// The method's numbers at one step, as far as they were logged.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct U2pl {
    pub kept: Option<f64>,
    pub gamma: Option<f64>,
    pub alpha: Option<f64>,
    pub lambda_u: Option<f64>,
    pub contrast_classes: Option<f64>,
    pub disagreement: Option<f64>,
    pub pseudo_accuracy: Option<f64>,
    pub pseudo_iou: Vec<Option<f64>>,
    pub anchors_labeled: Vec<f64>,
    pub anchors_unlabeled: Vec<f64>,
    pub negatives_labeled: Vec<f64>,
    pub negatives_unlabeled: Vec<f64>,
    pub bank: Vec<f64>,
}

/// A validation.
#[derive(Clone, Debug, Default)]
pub struct Validation {
    /// Steps done.
    pub iter: u64,
    /// Which network.
    pub model: String,
    /// 0–1.
    pub miou: Option<f64>,
    /// 0–1, a class each.
    pub iou: Vec<Option<f64>>,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct End {
    /// Of the last call.
    pub seconds: Option<f64>,
    /// 0–1.
    pub student_miou: Option<f64>,
    /// 0–1.
    pub teacher_miou: Option<f64>,
}

/// A line of `metrics.jsonl`, of whichever kind.
#[derive(Deserialize)]
struct Line {
    iter: u64,
    lr: Option<f64>,
    loss: Option<BTreeMap<String, Option<f64>>>,
    u2pl: Option<U2pl>,
    val: Option<ValLine>,
    end: Option<End>,
    machine: Option<Map<String, Value>>,
    absent: Option<Absent>,
    skipped: Option<SkippedLine>,
}

/// Classes that no mask holds.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Absent {
    labeled: Vec<usize>,
    val: Vec<usize>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct SkippedLine {
    file: String,
    images: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ValLine {
    model: String,
    miou: Option<f64>,
    iou: Vec<Option<f64>>,
}

const MADE: &str = "name folders that `u2pl-engine train` made";

/// The run folders that `paths` mean: themselves, or where one holds runs and is none itself (the
/// demo's), those.
///
/// # Errors
/// [`Error::Input`] for a path that is neither.
pub fn folders(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut found: Vec<PathBuf> = Vec::new();
    for path in paths {
        let mut runs = vec![path.clone()];
        if !is_run(path) {
            let entries = std::fs::read_dir(path).map_err(|e| {
                let problem = format!("cannot be read as a run folder: {e}");
                Error::input(path.display().to_string(), problem, MADE)
            })?;
            runs = entries.filter_map(|e| Some(e.ok()?.path())).collect();
            runs.retain(|p| is_run(p));
            runs.sort();
        }
        if runs.is_empty() {
            return Err(Error::input(
                path.display().to_string(),
                "is no run folder: there is no metrics.jsonl in it or in a folder of it",
                MADE,
            ));
        }
        found.extend(runs);
    }
    let mut seen = Vec::with_capacity(found.len());
    found.retain(|p| {
        let real = std::fs::canonicalize(p).unwrap_or_else(|_| p.clone());
        let first = !seen.contains(&real);
        seen.push(real);
        first
    });
    Ok(found)
}

fn is_run(path: &Path) -> bool {
    path.join("metrics.jsonl").is_file()
}

/// Names for folders: as much of the end of each path as tells it from the others.
pub fn names(folders: &[PathBuf]) -> Vec<String> {
    let parts: Vec<Vec<String>> = folders
        .iter()
        .map(|p| std::path::absolute(p).unwrap_or_else(|_| p.clone()))
        .map(|p| {
            let names = p.components().map(|c| c.as_os_str().to_string_lossy());
            names.map(|n| n.into_owned()).collect()
        })
        .collect();
    let end = |parts: &[String], n: usize| parts[parts.len().saturating_sub(n)..].join("/");
    let longest = parts.iter().map(Vec::len).max().unwrap_or(1);
    let unique = |n: usize| {
        let mut ends: Vec<String> = parts.iter().map(|p| end(p, n)).collect();
        ends.sort();
        ends.windows(2).all(|w| w[0] != w[1])
    };
    let count = (1..longest).find(|&n| unique(n)).unwrap_or(longest);
    parts.iter().map(|p| end(p, count)).collect()
}

impl Run {
    /// Reads the run folder `path`.
    ///
    /// # Errors
    /// [`Error::Io`] when `metrics.jsonl` cannot be read at all.
    pub fn read(path: &Path, name: String) -> Result<Self> {
        let mut run = Self {
            name,
            path: path.to_path_buf(),
            ..Self::default()
        };
        let config = run.read_config();
        run.read_metrics()?;
        run.find_classes(config.as_ref());
        run.tell_shortcomings();
        let (pictures, problems) = pictures::find(&path.join("samples"));
        run.pictures = pictures;
        run.problems.extend(problems);
        Ok(run)
    }

    /// A line on classes without a mask, and one on images that were left out.
    fn tell_shortcomings(&mut self) {
        let path = self.path.display();
        for (what, classes) in ["labelled", "validation"].iter().zip(&self.absent) {
            if classes.is_empty() {
                continue;
            }
            let name = |c: &usize| match self.classes.get(*c) {
                Some(class) => class.name.clone(),
                None => format!("class {c}"),
            };
            let names: Vec<String> = classes.iter().map(name).collect();
            self.problems
                .push(format!("{path}: no {what} mask holds {}", names.join(", ")));
        }
        if let Some((first, images)) = &self.skipped {
            self.problems.push(format!(
                "{path}: {images} unlabelled images could not be used and were skipped, the first {first}"
            ));
        }
    }

    /// The validation with the best mIoU, the first of them.
    pub fn best(&self) -> Option<&Validation> {
        let scored = self.validations.iter().filter(|v| v.miou.is_some());
        scored.fold(None, |best: Option<&Validation>, v| match best {
            Some(b) if b.miou >= v.miou => best,
            _ => Some(v),
        })
    }

    /// A value of the configuration.
    pub fn setting(&self, key: &str) -> Option<&str> {
        let found = self.config.iter().find(|(k, _)| k == key);
        found.map(|(_, value)| value.as_str())
    }

    /// Steps done, as far as lines tell.
    pub fn iterations(&self) -> u64 {
        let step = self.steps.last().map(|s| s.iter);
        let val = self.validations.last().map(|v| v.iter);
        step.max(val).unwrap_or(0)
    }

    /// Reads `config.yaml`, loosely for the table and strictly for names and colours.
    fn read_config(&mut self) -> Option<Config> {
        let path = self.path.join("config.yaml");
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) => {
                self.problems
                    .push(format!("{}: cannot be read: {e}", path.display()));
                return None;
            }
        };
        match serde_saphyr::from_str::<Value>(&text) {
            Ok(value) => flatten(&value, "", &mut self.config),
            Err(e) => {
                let text = e.without_snippet().to_string();
                let first = text.lines().next().unwrap_or_default();
                self.problems.push(format!("{}: {first}", path.display()));
            }
        }
        // A key that this engine does not know costs class names and colours only.
        Config::parse("config.yaml", &text, &[]).ok()
    }

    fn read_metrics(&mut self) -> Result<()> {
        let path = self.path.join("metrics.jsonl");
        let bytes = std::fs::read(&path).map_err(|e| Error::io(&path, "read the metrics", e))?;
        for (i, line) in bytes.split(|&b| b == b'\n').enumerate() {
            if line.trim_ascii().is_empty() {
                continue;
            }
            match serde_json::from_slice::<Line>(line) {
                Ok(line) => self.take(line),
                Err(e) => {
                    let why = e.to_string();
                    // The position is that within the line.
                    let why = why.split(" at line ").next().unwrap_or_default();
                    let at = format!("{}:{}", path.display(), i + 1);
                    self.problems.push(format!("{at}: left out: {why}"));
                }
            }
        }
        self.steps.sort_by_key(|s| s.iter);
        self.validations.sort_by_key(|v| v.iter);
        Ok(())
    }

    fn take(&mut self, line: Line) {
        let iter = line.iter;
        if let Some(loss) = line.loss {
            self.steps.push(Step {
                iter,
                lr: line.lr,
                loss,
                u2pl: line.u2pl,
            });
        }
        if let Some(v) = line.val {
            self.validations.push(Validation {
                iter,
                model: v.model,
                miou: v.miou,
                iou: v.iou,
            });
        }
        if let Some(absent) = line.absent {
            self.absent = [absent.labeled, absent.val];
        }
        if let Some(line) = line.skipped {
            let (_, images) = self.skipped.get_or_insert((line.file, 0));
            *images = line.images.max(*images);
        }
        self.end = line.end.or(self.end);
        self.machines.extend(line.machine.map(|m| (iter, m)));
    }

    /// As many classes as were scored, by the configuration's names and colours where it is known.
    fn find_classes(&mut self, config: Option<&Config>) {
        let scored = self.validations.iter().map(|v| v.iou.len());
        let counted = self
            .steps
            .iter()
            .filter_map(|s| s.u2pl.as_ref())
            .map(|u| u.bank.len().max(u.pseudo_iou.len()));
        let count = scored
            .chain(counted)
            .chain(config.map(|c| c.data.classes))
            .max()
            .unwrap_or(0);
        let colors = config.map_or_else(|| (0..=255).map(voc_color).collect(), palette);
        let ignored = config.map_or(255, |c| c.data.ignore_index);
        let class = |c: usize| Class {
            name: config.map_or_else(|| format!("class {c}"), |cfg| cfg.data.class_name(c)),
            color: colors.get(c).copied().unwrap_or_default(),
        };
        self.classes = (0..count.min(256)).map(class).collect();
        self.ignored = colors[usize::from(ignored)];
    }
}

/// The leaves of a tree under dotted keys, lists whole.
fn flatten(value: &Value, prefix: &str, out: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) => {
            for (key, inner) in map {
                let path = match prefix {
                    "" => key.clone(),
                    _ => format!("{prefix}.{key}"),
                };
                flatten(inner, &path, out);
            }
        }
        leaf => out.push((prefix.to_string(), plain(leaf))),
    }
}

/// A value as one would write it in YAML.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(plain).collect();
            format!("[{}]", items.join(", "))
        }
        other => other.to_string(),
    }
}

/// The defaults under dotted keys, as [`Run::config`] has its values.
///
/// # Errors
/// [`Error::Internal`] when they cannot be written.
pub fn defaults() -> Result<Vec<(String, String)>> {
    let text = Config::default().to_yaml()?;
    let value: Value = serde_saphyr::from_str(&text)
        .map_err(|e| Error::internal(format!("the defaults as YAML: {e}")))?;
    let mut out = Vec::new();
    flatten(&value, "", &mut out);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(metrics: &[u8], config: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("metrics.jsonl"), metrics).unwrap();
        std::fs::write(dir.path().join("config.yaml"), config).unwrap();
        dir
    }

    fn read(dir: &tempfile::TempDir) -> Run {
        Run::read(dir.path(), "run".into()).unwrap()
    }

    #[test]
    fn damaged_lines_are_named_and_the_others_read() {
        let metrics = b"{\"iter\":10,\"lr\":0.5,\"loss\":{\"sup\":1.5}}\n\
            {\"iter\":20,\"lo\n\
            \n\
            {\"iter\":20,\"loss\":{\"sup\":null},\"u2pl\":{\"gamma\":null,\"new key\":1}}\r\n\
            \xFF\xFE\n\
            {\"iter\":20,\"val\":{\"model\":\"student\",\"miou\":0.25,\"iou\":[0.5,null]}}\n\
            {\"iter\":20,\"end\":{\"seconds\":3.5}}\n\
            {\"iter\":2";
        let run = read(&folder(metrics, "data: {kind: shapes, classes: 2}"));
        assert_eq!(run.steps.len(), 2);
        assert_eq!(run.steps[0].loss["sup"], Some(1.5));
        assert_eq!(run.validations[0].iou, [Some(0.5), None]);
        assert_eq!(run.end.unwrap().seconds, Some(3.5));
        assert_eq!(run.problems.len(), 3, "{:?}", run.problems);
        for (problem, line) in run.problems.iter().zip(["2", "5", "8"]) {
            assert!(
                problem.contains(&format!("metrics.jsonl:{line}: ")),
                "{problem}"
            );
        }
        assert_eq!(run.setting("data.kind"), Some("shapes"));
        assert_eq!(run.classes[1].name, "class 1");
        assert_eq!(run.iterations(), 20);
    }

    #[test]
    fn configs_of_other_engines_are_read_for_the_table() {
        let config = "data: {classes: 2}\nfuture: {key: [1, a]}\n";
        let run = read(&folder(
            b"{\"iter\":1,\"val\":{\"miou\":0.5,\"iou\":[1,0,0]}}",
            config,
        ));
        assert_eq!(run.setting("future.key"), Some("[1, a]"));
        assert_eq!(run.classes.len(), 3);
        assert!(run.problems.is_empty(), "{:?}", run.problems);
        let run = read(&folder(b"", "a: [1\nb"));
        assert_eq!(run.problems.len(), 1);
        assert!(run.steps.is_empty() && run.config.is_empty());
    }

    #[test]
    fn the_best_validation_is_the_first_of_the_highest() {
        let metrics = [0.25, 0.5, 0.5, 0.375]
            .iter()
            .enumerate()
            .map(|(i, m)| format!("{{\"iter\":{i},\"val\":{{\"miou\":{m}}}}}\n"))
            .collect::<String>();
        let run = read(&folder(metrics.as_bytes(), ""));
        assert_eq!(run.best().map(|v| v.iter), Some(1));
    }

    #[test]
    fn names_are_as_short_as_they_can_be_and_folders_of_runs_are_opened() {
        let dir = tempfile::tempdir().unwrap();
        for sub in ["a/u2pl", "b/u2pl", "b/supervised"] {
            let sub = dir.path().join(sub);
            std::fs::create_dir_all(&sub).unwrap();
            std::fs::write(sub.join("metrics.jsonl"), "").unwrap();
        }
        let path = |name: &str| dir.path().join(name);
        let found = folders(&[path("a/u2pl"), path("b"), path("b/u2pl")]).unwrap();
        assert_eq!(
            found,
            [path("a/u2pl"), path("b/supervised"), path("b/u2pl")]
        );
        assert_eq!(names(&found), ["a/u2pl", "b/supervised", "b/u2pl"]);
        assert_eq!(names(&found[1..]), ["supervised", "u2pl"]);
        let error = folders(&[dir.path().to_path_buf()]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("is no run folder"), "{error}");
        assert_eq!(folders(&[path("none")]).unwrap_err().exit_code(), 2);
    }
}
