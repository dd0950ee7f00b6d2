//! How the benchmark drives a side: a line on stdin asks for a step, its milliseconds come back
//! on stdout, and one JSON line at the end of stdin (`benches/peers/protocol.py` is the same).

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Lines, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::report::Measured;

/// Between turns, so that the last side's spinning threads are asleep before the next begins.
const PAUSE: Duration = Duration::from_millis(300);

/// A running side.
pub(crate) struct Side {
    name: String,
    child: Child,
    /// Closing it ends the side.
    stdin: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
    cpu_times_ms: Vec<f64>,
}

impl Side {
    pub(crate) fn start(name: String, program: &Path, args: &[impl AsRef<OsStr>]) -> Result<Self> {
        let mut child = Command::new(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("{name} has no pipes");
        };
        let lines = BufReader::new(stdout).lines();
        Ok(Self {
            name,
            child,
            stdin: Some(stdin),
            lines,
            cpu_times_ms: Vec::new(),
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    fn line(&mut self) -> Result<String> {
        let line = self.lines.next();
        line.with_context(|| format!("{} ended early", self.name))?
            .with_context(|| format!("cannot read from {}", self.name))
    }

    /// One step; its milliseconds.
    pub(crate) fn step(&mut self) -> Result<f64> {
        std::thread::sleep(PAUSE);
        let before = self.cpu_ms()?;
        let stdin = self.stdin.as_mut().context("a side that has ended")?;
        stdin.write_all(b"step\n")?;
        let ms = self.line()?.trim().parse()?;
        self.cpu_times_ms.push(self.cpu_ms()? - before);
        Ok(ms)
    }

    /// CPU time of the side's process so far, all threads: fields 14 and 15 of its `stat`, in
    /// ticks of 10 ms.
    fn cpu_ms(&self) -> Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let (_, fields) = stat.rsplit_once(')').context("no process name")?;
        let ticks = fields.split_whitespace().skip(11).take(2);
        let ticks: f64 = ticks.map(str::parse::<f64>).sum::<Result<_, _>>()?;
        Ok(10.0 * ticks)
    }

    /// Ends the side; what it measured, without its first `skip` steps.
    pub(crate) fn finish(mut self, skip: usize) -> Result<Measured> {
        self.stdin = None;
        let last: Value = serde_json::from_str(&self.line()?)?;
        self.child.wait()?;
        Measured::new(self.name, &last, &self.cpu_times_ms, skip)
    }
}

/// A line of /proc/self/status in MiB: VmRSS, or VmHWM, the highest VmRSS so far.
pub(crate) fn status_mib(key: &str) -> Result<f64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|l| l.strip_prefix(key));
    let kib = line.and_then(|l| {
        l.trim_matches([':', '\t', ' ', 'k', 'B'])
            .parse::<f64>()
            .ok()
    });
    Ok(kib.with_context(|| format!("/proc/self/status has no {key}"))? / 1024.0)
}

/// The engine's end: runs `step` per line of stdin, then prints times, memory and `extra`.
pub(crate) fn serve(
    base_mib: f64,
    mut step: impl FnMut() -> Result<f64>,
    extra: impl FnOnce() -> Result<Value>,
) -> Result<()> {
    let mut times = Vec::new();
    for line in std::io::stdin().lines() {
        line?;
        let ms = step()?;
        println!("{ms:.3}");
        times.push(ms);
    }
    // Before anything that only the report needs.
    let peak_mib = status_mib("VmHWM")?;
    let mut last = json!({"times_ms": times, "peak_mib": peak_mib, "base_mib": base_mib});
    last["extra"] = extra()?;
    println!("{last}");
    Ok(())
}
