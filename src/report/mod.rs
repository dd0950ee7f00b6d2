//! One page that shows a run, or sets several side by side.
//!
//! Comes in: run folders (`metrics.jsonl`, `config.yaml`, `samples/*.png`). Goes out: one HTML
//! file with everything in it, styles, drawings, pictures and script, that needs no network. Runs
//! of older engines and runs that still go on are shown as far as they go; what is damaged is
//! named on the page.
//!
//! ```text
//!  read ── Run ─┬─ curves ── chart     lines over iterations
//!               ├─ classes ─ heat      tables and maps per class
//!               ├─ pictures            sample sheets, taken apart
//!               └─ tables              results, configuration, machine
//! ```

mod chart;
mod classes;
mod curves;
mod heat;
mod pictures;
mod read;
mod tables;
mod text;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use crate::Result;
use crate::files::write_atomic;
use read::{Class, Run};
use text::escape;

/// Pictures of a single run, and of each of several.
const PICTURES: [usize; 2] = [4, 1];

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// A page in the making.
#[derive(Debug)]
pub struct Report {
    runs: Vec<Run>,
}

impl Report {
    /// Reads the run folders `paths`; a folder that holds runs and is none stands for them.
    ///
    /// # Errors
    /// [`crate::Error::Input`] for a path without a run, [`crate::Error::Io`] for what cannot be
    /// read at all.
    pub fn read(paths: &[PathBuf]) -> Result<Self> {
        let folders = read::folders(paths)?;
        let names = read::names(&folders);
        let runs = folders
            .iter()
            .zip(names)
            .map(|(p, name)| Run::read(p, name));
        Ok(Self {
            runs: runs.collect::<Result<_>>()?,
        })
    }

    /// Names of the runs, as the page has them.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.runs.iter().map(|r| r.name.as_str())
    }

    /// What could not be read, a line each with file and line.
    pub fn problems(&self) -> impl Iterator<Item = &str> {
        self.runs
            .iter()
            .flat_map(|r| &r.problems)
            .map(String::as_str)
    }

    /// Writes the page, with `pictures` of each run's validations or as many as suit the number
    /// of runs.
    ///
    /// # Errors
    /// [`crate::Error::Io`] when the file cannot be written.
    pub fn write(&mut self, path: &Path, pictures: Option<usize>) -> Result<()> {
        let page = self.html(pictures)?;
        write_atomic(path, page.as_bytes())
    }

    /// The page. A picture that cannot be shown joins the problems.
    ///
    /// # Errors
    /// [`crate::Error::Internal`] when a picture cannot be encoded.
    pub fn html(&mut self, pictures: Option<usize>) -> Result<String> {
        let many = self.runs.len() > 1;
        let count = pictures.unwrap_or(PICTURES[usize::from(many)]);
        let samples = self.samples(count);
        let runs = &self.runs;
        let names: Vec<&str> = self.names().collect();
        let title = match &names[..] {
            [name] => format!("{name} – training report"),
            [_, _, _, _, ..] => format!("{} runs – comparison", names.len()),
            names => format!("{} – comparison", names.join(", ")),
        };
        let result = match &runs[..] {
            [run] => tables::headline(run),
            runs => tables::comparison(runs),
        };
        let configuration = match &runs[..] {
            [run] => tables::configuration(run, &read::defaults()?),
            runs => tables::differences(runs),
        };
        let sections = [
            ("result", "Result", result),
            ("curves", "Curves", charts(curves::training(runs))),
            ("classes", "IoU by class", class_section(runs)),
            ("u2pl", "Unlabelled images", method_section(runs)),
            ("samples", "Samples", samples),
            (
                "config",
                if many {
                    "Configurations"
                } else {
                    "Configuration"
                },
                configuration,
            ),
            ("machine", "Machine", tables::machines(runs)),
        ];
        let shown: Vec<_> = sections.iter().filter(|s| !s.2.is_empty()).collect();
        let links: String = shown
            .iter()
            .map(|(id, name, _)| format!("<a href=\"#{id}\">{name}</a>"))
            .collect();
        let body: String = shown
            .iter()
            .map(|(id, name, html)| format!("<section id=\"{id}\"><h2>{name}</h2>{html}</section>"))
            .collect();
        let policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; \
                      script-src 'unsafe-inline'";
        Ok(format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
             <meta name=\"color-scheme\" content=\"light dark\">\
             <meta http-equiv=\"Content-Security-Policy\" content=\"{policy}\">\
             <title>{title}</title>\n<style>\n{STYLE}</style></head>\n<body><header>\
             <h1>{title}</h1><nav>{links}</nav></header>\n<main>{problems}{body}</main>\n\
             <footer>u2pl-engine {version}</footer>\n<script>\n{SCRIPT}</script></body></html>\n",
            title = escape(&title),
            problems = tables::problems(runs),
            version = env!("CARGO_PKG_VERSION"),
        ))
    }

    /// Pictures of every run, the last open.
    fn samples(&mut self, count: usize) -> String {
        let many = self.runs.len() > 1;
        let mut html = String::new();
        for run in &mut self.runs {
            let chosen = pictures::spread(&run.pictures, count);
            let mut shown = Vec::new();
            for picture in chosen {
                match picture.html() {
                    Ok(html) => shown.push((picture.name.clone(), html)),
                    Err(e) => run.problems.push(e.to_string()),
                }
            }
            if shown.is_empty() {
                continue;
            }
            html += "<div>";
            if many {
                html += &format!("<h3>{}</h3>", escape(&run.name));
            }
            let ignored = Class {
                name: "ignored".into(),
                color: run.ignored,
            };
            let shades = run.classes.iter().chain([&ignored]);
            let swatches: String = shades
                .map(|c| format!("<li>{}</li>", classes::swatch(c)))
                .collect();
            html += &format!("<ul class=\"swatches\">{swatches}</ul>");
            if run.pictures.len() > shown.len() {
                html += &format!(
                    "<p class=\"note\">{} of {} validations; the others are in the run's \
                     samples folder.</p>",
                    shown.len(),
                    run.pictures.len()
                );
            }
            let last = shown.len() - 1;
            for (i, (name, picture)) in shown.into_iter().enumerate() {
                let open = if i == last { " open" } else { "" };
                html += &format!(
                    "<details{open}><summary>{}</summary>{picture}</details>",
                    escape(&name.replace('-', " "))
                );
            }
            html += "</div>";
        }
        match many && !html.is_empty() {
            true => format!("<div class=\"charts\">{html}</div>"),
            false => html,
        }
    }
}

fn charts(html: String) -> String {
    match html.as_str() {
        "" => "<p class=\"empty\">Nothing is logged yet.</p>".into(),
        _ => format!("<div class=\"charts\">{html}</div>"),
    }
}

fn class_section(runs: &[Run]) -> String {
    let maps = per_run(runs, classes::iou_over_time);
    classes::iou(runs) + &maps
}

fn method_section(runs: &[Run]) -> String {
    let lines = curves::method(runs);
    let maps = per_run(runs, classes::method);
    match (lines.is_empty(), maps.is_empty()) {
        (true, true) => String::new(),
        _ => format!("<div class=\"charts\">{lines}</div>{maps}"),
    }
}

/// What is shown of each run apart, folded up where there are several.
fn per_run(runs: &[Run], part: impl Fn(&Run) -> String) -> String {
    let shown = runs.iter().map(|run| match (part(run), runs.len()) {
        (html, _) if html.is_empty() => html,
        (html, 1) => html,
        (html, _) => format!(
            "<details><summary>{}</summary>{html}</details>",
            escape(&run.name)
        ),
    });
    shown.collect()
}
