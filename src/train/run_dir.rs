//! The run folder: `config.yaml`, `metrics.jsonl`, `checkpoints/`, `samples/`, `profile.json`, and
//! TensorBoard's event file.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use crate::config::Config;
use crate::device::Cost;
use crate::files::{remove_unfinished, write_atomic};
use crate::graph::exec::Timing;
use crate::{Error, Result};

/// An open run folder.
pub struct RunDir {
    path: PathBuf,
    metrics: File,
}

impl RunDir {
    /// Makes a new folder for a run and saves its resolved configuration.
    ///
    /// # Errors
    /// [`Error::Input`] when the folder exists and is not empty, [`Error::Io`] when it cannot be
    /// written.
    pub fn create(path: &Path, cfg: &Config) -> Result<Self> {
        if path.exists() {
            let mut entries =
                fs::read_dir(path).map_err(|e| Error::io(path, "use it as run folder", e))?;
            if entries.next().is_some() {
                return Err(Error::input(
                    path.display().to_string(),
                    "the run folder exists and is not empty",
                    "choose another --out, or continue that run with --resume",
                ));
            }
        }
        for sub in ["checkpoints", "samples"] {
            let dir = path.join(sub);
            fs::create_dir_all(&dir).map_err(|e| Error::io(&dir, "create the run folder", e))?;
        }
        write_atomic(&path.join("config.yaml"), cfg.to_yaml()?.as_bytes())?;
        Self::open_metrics(path)
    }

    /// Opens the folder of an interrupted run; lines of `metrics.jsonl` from after its checkpoint
    /// (`iteration` steps done) are dropped, since they will be written again, and so are damaged
    /// ones and what a killed process had not finished.
    ///
    /// # Errors
    /// [`Error::Io`] when it cannot be read or written.
    pub fn reopen(path: &Path, iteration: usize) -> Result<Self> {
        let file = path.join("metrics.jsonl");
        if file.exists() {
            let bytes = fs::read(&file).map_err(|e| Error::io(&file, "read the metrics", e))?;
            let mut kept = Vec::with_capacity(bytes.len());
            let mut damaged = 0;
            for line in bytes.split_inclusive(|&b| b == b'\n') {
                // What a killed process had not finished is no damage.
                let Some(line) = line.strip_suffix(b"\n") else {
                    continue;
                };
                match serde_json::from_slice(line) {
                    Ok(value) if is_before(&value, iteration) => {
                        kept.extend(line);
                        kept.push(b'\n');
                    }
                    Ok(_) => {}
                    Err(_) => damaged += 1,
                }
            }
            if damaged > 0 {
                tracing::warn!("{}: {damaged} damaged lines are left out", file.display());
            }
            write_atomic(&file, &kept)?;
        }
        for sub in ["checkpoints", "samples"] {
            let dir = path.join(sub);
            fs::create_dir_all(&dir).map_err(|e| Error::io(&dir, "create the run folder", e))?;
        }
        for sub in ["", "checkpoints", "samples"] {
            remove_unfinished(&path.join(sub));
        }
        Self::open_metrics(path)
    }

    /// Saves the configuration that a run goes on with.
    ///
    /// # Errors
    /// [`Error::Io`] when the folder cannot be written.
    pub fn save_config(&self, cfg: &Config) -> Result<()> {
        write_atomic(&self.path.join("config.yaml"), cfg.to_yaml()?.as_bytes())
    }

    fn open_metrics(path: &Path) -> Result<Self> {
        let file = path.join("metrics.jsonl");
        let metrics = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&file)
            .map_err(|e| Error::io(&file, "write the metrics", e))?;
        Ok(Self {
            path: path.to_path_buf(),
            metrics,
        })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `checkpoints/<name>.safetensors`.
    pub fn checkpoint(&self, name: &str) -> PathBuf {
        checkpoint_path(&self.path, name)
    }

    /// `samples/<name>.png`.
    pub fn sample(&self, name: &str) -> PathBuf {
        sample_path(&self.path, name)
    }

    /// Writes `profile.json`: every operation of one step with its time and work, in order, and
    /// the sums by kind of operation, slowest first.
    ///
    /// # Errors
    /// [`Error::Io`] when the disk is full or gone.
    pub fn profile(&self, iteration: usize, timings: &[Timing]) -> Result<()> {
        let line = |op: &str, calls: usize, time: Duration, cost: Cost| {
            json!({
                "op": op,
                "calls": calls,
                "ms": 1e3 * time.as_secs_f64(),
                "flops": cost.flops,
                "least_bytes": cost.bytes,
            })
        };
        let mut kinds: Vec<(&str, usize, Duration, Cost)> = Vec::new();
        for t in timings {
            let at = kinds.iter().position(|(op, ..)| *op == t.op);
            let at = at.unwrap_or_else(|| {
                kinds.push((t.op, 0, Duration::ZERO, Cost::default()));
                kinds.len() - 1
            });
            let (_, calls, time, cost) = &mut kinds[at];
            *calls += 1;
            *time += t.time;
            cost.flops += t.cost.flops;
            cost.bytes += t.cost.bytes;
        }
        kinds.sort_by_key(|(_, _, time, _)| std::cmp::Reverse(*time));
        let operations: Vec<Value> = kinds.iter().map(|k| line(k.0, k.1, k.2, k.3)).collect();
        let calls: Vec<Value> = timings
            .iter()
            .map(|t| {
                let mut call = line(t.op, 1, t.time, t.cost);
                call["layer"] = json!(t.name);
                call
            })
            .collect();
        let total: Duration = timings.iter().map(|t| t.time).sum();
        let profile = json!({
            "iter": iteration,
            "ms": 1e3 * total.as_secs_f64(),
            "operations": operations,
            "calls": calls,
        });
        write_atomic(
            &self.path.join("profile.json"),
            format!("{profile:#}\n").as_bytes(),
        )
    }

    /// Appends one object to `metrics.jsonl`.
    ///
    /// # Errors
    /// [`Error::Io`] when the disk is full or gone.
    pub fn log(&mut self, line: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_string(line)
            .map_err(|e| Error::internal(format!("metrics as JSON: {e}")))?;
        text.push('\n');
        self.metrics
            .write_all(text.as_bytes())
            .map_err(|e| Error::io(self.path.join("metrics.jsonl"), "write the metrics", e))
    }
}

/// `checkpoints/<name>.safetensors` of the run folder `dir`.
pub fn checkpoint_path(dir: &Path, name: &str) -> PathBuf {
    dir.join("checkpoints").join(format!("{name}.safetensors"))
}

/// `samples/<name>.png` of the run folder `dir`.
pub fn sample_path(dir: &Path, name: &str) -> PathBuf {
    dir.join("samples").join(format!("{name}.png"))
}

/// Files of the unlabelled images that the run in `dir` has skipped, as its metrics name them.
pub fn skipped_files(dir: &Path) -> Vec<PathBuf> {
    named_files(dir, |line| line.get("skipped")?.get("file"))
}

/// Files that the run in `dir` could not use, skipped or its end, as its metrics name them.
pub fn faulty_files(dir: &Path) -> Vec<PathBuf> {
    let mut files = skipped_files(dir);
    files.extend(named_files(dir, |line| line.get("failed")));
    files
}

fn named_files(dir: &Path, of: impl Fn(&Value) -> Option<&Value>) -> Vec<PathBuf> {
    let bytes = fs::read(dir.join("metrics.jsonl")).unwrap_or_default();
    let file = |line: &[u8]| {
        let value: Value = serde_json::from_slice(line).ok()?;
        Some(PathBuf::from(of(&value)?.as_str()?))
    };
    bytes.split(|&b| b == b'\n').filter_map(file).collect()
}

/// Whether a metrics line was written with at most `iteration` steps done.
fn is_before(value: &Value, iteration: usize) -> bool {
    let done = value.get("iter").and_then(serde_json::Value::as_u64);
    // A run that is over ends again.
    done.is_some_and(|i| i as usize <= iteration) && value.get("end").is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_used_folder_is_refused_and_a_new_one_holds_the_config() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("run");
        let cfg = Config::default();
        drop(RunDir::create(&dir, &cfg).unwrap());
        assert_eq!(
            fs::read_to_string(dir.join("config.yaml")).unwrap(),
            cfg.to_yaml().unwrap()
        );
        let error = RunDir::create(&dir, &cfg).err().unwrap();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("not empty"), "{error}");
    }

    #[test]
    fn reopening_drops_lines_past_the_checkpoint() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join("run");
        let mut run = RunDir::create(&dir, &Config::default()).unwrap();
        for iter in [10, 20, 30] {
            run.log(&serde_json::json!({"iter": iter})).unwrap();
        }
        run.log(&serde_json::json!({"iter": 20, "end": {}}))
            .unwrap();
        drop(run);
        // What a crash leaves: a line cut off, or bytes that never were text.
        let torn = b"\xFF\xFE{\n{\"iter\":1";
        fs::OpenOptions::new()
            .append(true)
            .open(dir.join("metrics.jsonl"))
            .and_then(|mut file| file.write_all(torn))
            .unwrap();
        fs::write(dir.join("checkpoints/.last.safetensors.7.part"), "half").unwrap();
        drop(RunDir::reopen(&dir, 20).unwrap());
        let text = fs::read_to_string(dir.join("metrics.jsonl")).unwrap();
        assert_eq!(text, "{\"iter\":10}\n{\"iter\":20}\n");
        let left = fs::read_dir(dir.join("checkpoints")).unwrap();
        assert_eq!(left.count(), 0);
    }
}
