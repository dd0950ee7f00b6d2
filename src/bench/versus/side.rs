//! How a side is driven: a line of JSON on its stdin asks, a line on its stdout answers.
//!
//! | request | answer |
//! |---|---|
//! | (started) | `{"ready": {...}}`, or `{"error": "...", "mend": "..."}` or `{"unavailable": "..."}` and the end |
//! | `{"case": {...}, "copies": n}` | `{"ready": {...}}` or `{"unavailable": "..."}`; operations only |
//! | `{"run": k}` | `{"ms": t}`: milliseconds of each of k calls in a row |
//! | `{"check": true}` | `{"checked": {...}}`: what the sides must agree on |
//! | end of stdin | `{"peak_mib": ..., "base_mib": ..., ...}` |
//!
//! An error ends the whole comparison: it is the user's to mend. A side that is unavailable has a row
//! that says why. `benches/peers/protocol.py` is the same in Python.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::{Error, Result};

/// A running side.
pub struct Side {
    name: String,
    child: Child,
    /// Closing it ends the side.
    stdin: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
    /// Where its stderr goes.
    log: PathBuf,
    ready: Value,
}

impl Side {
    /// Starts a process and waits until it is ready. Its stderr goes to the file `log`.
    ///
    /// # Errors
    /// [`Error::Input`] with the side's own words when it says what is missing; [`Error::Io`]
    /// when there is no such program; [`Error::Side`] when it is unavailable or ends without a
    /// word.
    pub fn start(
        name: &str,
        program: &Path,
        args: &[impl AsRef<OsStr>],
        log: PathBuf,
    ) -> Result<Self> {
        let stderr = File::create(&log).map_err(|e| Error::io(&log, "create", e))?;
        let mut child = Command::new(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()
            .map_err(|e| Error::io(program, "start", e))?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let stdout = stdout.ok_or_else(|| Error::internal("a child without pipes"))?;
        let mut side = Self {
            name: name.into(),
            child,
            stdin,
            lines: BufReader::new(stdout).lines(),
            log,
            ready: Value::Null,
        };
        let first = side.answer()?;
        if let Some(error) = first["error"].as_str() {
            let mend = first["mend"].as_str().unwrap_or_default();
            return Err(Error::input(name, error, mend));
        }
        if let Some(reason) = first["unavailable"].as_str() {
            return Err(side.failed(reason));
        }
        match first.get("ready") {
            Some(ready) => side.ready = ready.clone(),
            None => return Err(side.failed(format!("began with {first}"))),
        }
        Ok(side)
    }

    /// What a table calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it said when it was ready: versions, device, parameters.
    pub fn ready(&self) -> &Value {
        &self.ready
    }

    fn failed(&self, problem: impl Into<String>) -> Error {
        Error::Side {
            side: self.name.clone(),
            problem: problem.into(),
        }
    }

    fn answer(&mut self) -> Result<Value> {
        match self.lines.next() {
            Some(Ok(line)) => serde_json::from_str(&line)
                .map_err(|_| self.failed(format!("answered `{line}`, which is no JSON"))),
            Some(Err(e)) => Err(self.failed(format!("cannot be read: {e}"))),
            None => Err(self.failed(match last_line(&self.log) {
                Some(line) => format!("ended early: {line}"),
                None => "ended early without a word".into(),
            })),
        }
    }

    /// Sends one request; its answer.
    ///
    /// # Errors
    /// [`Error::Side`] when the process ended or answers something else than JSON.
    pub fn ask(&mut self, request: &Value) -> Result<Value> {
        if let Some(stdin) = &mut self.stdin {
            // A side that is gone has said why; reading finds it.
            let _ = writeln!(stdin, "{request}").and_then(|()| stdin.flush());
        }
        self.answer()
    }

    /// Milliseconds of each of `count` calls in a row.
    ///
    /// # Errors
    /// As [`Side::ask`].
    pub fn run(&mut self, count: usize) -> Result<f64> {
        let answer = self.ask(&json!({ "run": count }))?;
        let ms = answer["ms"].as_f64().filter(|ms| ms.is_finite());
        ms.ok_or_else(|| self.failed(format!("answered {answer} instead of a time")))
    }

    /// CPU time of the process so far, all its threads, in milliseconds; `None` where the system
    /// does not tell.
    pub fn cpu_ms(&self) -> Option<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?;
        // Fields 14 and 15, in ticks of 10 ms; the name before may hold anything.
        let (_, fields) = stat.rsplit_once(')')?;
        let ticks = fields.split_whitespace().skip(11).take(2);
        let ticks: Vec<f64> = ticks.filter_map(|t| t.parse().ok()).collect();
        (ticks.len() == 2).then(|| 10.0 * (ticks[0] + ticks[1]))
    }

    /// Ends the side; its last words: memory, and the engine's profile.
    ///
    /// # Errors
    /// As [`Side::ask`].
    pub fn finish(mut self) -> Result<Value> {
        self.stdin = None;
        let last = self.answer()?;
        // Its exit status adds nothing to its last words.
        let _ = self.child.wait();
        Ok(last)
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        // Nothing is left to do where it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The last line of a log that says anything.
fn last_line(log: &Path) -> Option<String> {
    let text = std::fs::read(log).ok()?;
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().rev().find(|l| !l.trim().is_empty())?;
    Some(line.trim().to_string())
}

/// A line of /proc/self/status in MiB: VmRSS, or VmHWM, the highest VmRSS so far; 0 where the
/// system does not tell.
pub fn status_mib(key: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix(key));
    let kib = line.map(|l| l.trim_matches([':', '\t', ' ', 'k', 'B']).parse::<f64>());
    kib.and_then(|k| k.ok()).unwrap_or(0.0) / 1024.0
}

/// The answering end of the conversation.
pub trait Served {
    /// Makes a case of the table the one that runs; the answer, `ready` or `unavailable`.
    ///
    /// # Errors
    /// The device's.
    fn case(&mut self, request: &Value) -> Result<Value> {
        let _ = request;
        Ok(json!({"unavailable": "this side has one case"}))
    }

    /// Runs `count` times in a row; milliseconds of each.
    ///
    /// # Errors
    /// The device's.
    fn run(&mut self, count: usize) -> Result<f64>;

    /// What the sides must agree on.
    ///
    /// # Errors
    /// The device's.
    fn check(&mut self) -> Result<Value> {
        Ok(json!({}))
    }

    /// Last words.
    ///
    /// # Errors
    /// The device's.
    fn last(&mut self) -> Result<Value>;
}

/// Answers the requests of `input` on `output` until the input ends. `made` is the side, with what
/// it says when it is ready, or why there is none.
///
/// # Errors
/// The side's; [`Error::Side`] when the driver is gone or asks what no driver asks.
pub fn serve(
    made: Result<(Box<dyn Served + '_>, Value)>,
    input: impl BufRead,
    mut output: impl Write,
) -> Result<()> {
    let driver = |problem: String| Error::Side {
        side: "driver".into(),
        problem,
    };
    let mut say = |value: Value| {
        writeln!(output, "{value}")
            .and_then(|()| output.flush())
            .map_err(|e| driver(e.to_string()))
    };
    let (mut side, ready) = match made {
        Ok(made) => made,
        Err(e) => return say(refusal(&e)),
    };
    say(json!({ "ready": ready }))?;
    for line in input.lines() {
        let line = line.map_err(|e| driver(e.to_string()))?;
        let request: Value = serde_json::from_str(&line).map_err(|e| driver(e.to_string()))?;
        if request.get("case").is_some() {
            say(side.case(&request)?)?;
        } else if let Some(count) = request["run"].as_u64() {
            say(json!({ "ms": side.run(count as usize)? }))?;
        } else if request.get("check").is_some() {
            say(json!({ "checked": side.check()? }))?;
        } else {
            return Err(driver(format!("unknown request {line}")));
        }
    }
    say(side.last()?)
}

/// Why a side cannot begin, in the protocol's words.
fn refusal(error: &Error) -> Value {
    match error {
        Error::Input { at, problem, mend } => {
            json!({"error": format!("{at}: {problem}"), "mend": mend})
        }
        other => json!({"error": other.to_string(), "mend": ""}),
    }
}
