//! The tables of a report: what came out, the configuration, the machine, what could not be read.

use std::collections::BTreeSet;

use super::chart::line_class;
use super::read::Run;
use super::text::{Format, duration, escape, grouped};

/// What came out of one run, in large type.
pub fn headline(run: &Run) -> String {
    let mut cards = Vec::new();
    let percent = |x: f64| Format::Percent.show(x);
    if let Some((best, miou)) = run.best().and_then(|b| Some((b, b.miou?))) {
        let at = format!("{}, iteration {}", best.model, grouped(best.iter as f64));
        cards.push(("best mIoU", percent(miou), at));
    }
    match run.end {
        Some(end) => {
            for (what, miou) in [
                ("student at the end", end.student_miou),
                ("teacher at the end", end.teacher_miou),
            ] {
                cards.extend(miou.map(|m| (what, percent(m), "mIoU".into())));
            }
        }
        None => {
            if let Some((last, miou)) = run.validations.last().and_then(|v| Some((v, v.miou?))) {
                let at = format!("{}, iteration {}", last.model, grouped(last.iter as f64));
                cards.push(("last mIoU", percent(miou), at));
            }
        }
    }
    let planned = planned(run).map_or(String::new(), |n| format!("of {}", grouped(n)));
    let done = grouped(run.iterations() as f64);
    cards.push(("iterations", done, planned));
    if let Some(seconds) = run.end.and_then(|e| e.seconds) {
        cards.push(("time", duration(seconds), "of the last call".into()));
    }
    let card = |(what, value, more): (&str, String, String)| {
        format!(
            "<div class=\"card\"><span>{what}</span><strong>{}</strong><small>{}</small></div>",
            escape(&value),
            escape(&more)
        )
    };
    let cards: String = cards.into_iter().map(card).collect();
    format!("<div class=\"cards\">{cards}</div>")
}

/// Iterations that the configuration asks for, where it says how many an epoch has.
fn planned(run: &Run) -> Option<f64> {
    let number = |key: &str| run.setting(key)?.parse::<f64>().ok();
    let each = number("train.epoch_iters")?;
    Some(number("train.epochs")? * each).filter(|&n| n > 0.0)
}

/// What came out of several runs, a row each.
pub fn comparison(runs: &[Run]) -> String {
    let mut html = String::from(
        "<div class=\"scroll\"><table><thead><tr><th>run</th><th>algorithm</th>\
         <th class=\"num\">best mIoU</th><th class=\"num\">student</th>\
         <th class=\"num\">teacher</th><th class=\"num\">iterations</th>\
         <th class=\"num\">time</th></tr></thead><tbody>",
    );
    let percent = |x: Option<f64>| x.map_or("–".into(), |x| format!("{:.2} %", 100.0 * x));
    for (slot, run) in runs.iter().enumerate() {
        let algorithm = run.setting("train.algorithm").unwrap_or("–");
        let mode = run.setting("method.mode").filter(|_| algorithm == "u2pl");
        html += &format!(
            "<tr><th><svg class=\"key\" viewBox=\"0 0 24 8\" aria-hidden=\"true\">\
             <path class=\"{}\" d=\"M0 4H24\"/></svg> {}</th><td>{} {}</td>",
            line_class(slot),
            escape(&run.name),
            escape(algorithm),
            escape(mode.unwrap_or("")),
        );
        let end = run.end.unwrap_or_default();
        for cell in [
            percent(run.best().and_then(|b| b.miou)),
            percent(end.student_miou),
            percent(end.teacher_miou),
            grouped(run.iterations() as f64),
            end.seconds.map_or("–".into(), duration),
        ] {
            html += &format!("<td class=\"num\">{cell}</td>");
        }
        html += "</tr>";
    }
    html + "</tbody></table></div>"
}

/// The configuration of one run: what is not as by default, then all of it.
pub fn configuration(run: &Run, defaults: &[(String, String)]) -> String {
    let default = |key: &str| {
        let found = defaults.iter().find(|(k, _)| k == key);
        found.map(|(_, value)| value.as_str())
    };
    let other = |(key, value): &&(String, String)| default(key) != Some(value);
    let changed: Vec<_> = run.config.iter().filter(other).collect();
    let mut html = String::from(
        "<div class=\"scroll\"><table class=\"keys\"><thead><tr><th>key</th><th>value</th>\
         <th>default</th></tr></thead><tbody>",
    );
    for (key, value) in &changed {
        html += &format!(
            "<tr><th>{}</th><td>{}</td><td>{}</td></tr>",
            escape(key),
            escape(value),
            escape(default(key).unwrap_or("–"))
        );
    }
    html += "</tbody></table></div>";
    if changed.is_empty() {
        html = "<p class=\"empty\">Every key has its default.</p>".into();
    }
    html + &whole(run)
}

/// Every key of a run.
fn whole(run: &Run) -> String {
    let lines: String = run
        .config
        .iter()
        .map(|(key, value)| format!("{}: {}\n", escape(key), escape(value)))
        .collect();
    format!(
        "<details><summary>All {} keys of {}</summary><pre>{lines}</pre></details>",
        run.config.len(),
        escape(&run.name)
    )
}

/// The keys in which runs differ.
pub fn differences(runs: &[Run]) -> String {
    let mut keys: Vec<&str> = Vec::new();
    let mut seen = BTreeSet::new();
    for (key, _) in runs.iter().flat_map(|r| &r.config) {
        if seen.insert(key.as_str()) {
            keys.push(key);
        }
    }
    keys.retain(|key| {
        let first = runs[0].setting(key);
        runs.iter().any(|r| r.setting(key) != first)
    });
    let mut html = String::new();
    if keys.is_empty() {
        html += "<p class=\"empty\">The configurations are the same.</p>";
    } else {
        html += "<div class=\"scroll\"><table class=\"keys\"><thead><tr><th>key</th>";
        for run in runs {
            html += &format!("<th>{}</th>", escape(&run.name));
        }
        html += "</tr></thead><tbody>";
        for key in keys {
            html += &format!("<tr><th>{}</th>", escape(key));
            for run in runs {
                html += &format!("<td>{}</td>", escape(run.setting(key).unwrap_or("–")));
            }
            html += "</tr>";
        }
        html += "</tbody></table></div>";
    }
    html + &runs.iter().map(whole).collect::<String>()
}

/// Where each run ran.
pub fn machines(runs: &[Run]) -> String {
    const UNKNOWN: &str = "<p class=\"empty\">Not recorded: an older engine made the run.</p>";
    if runs.iter().all(|r| r.machines.is_empty()) {
        return UNKNOWN.into();
    }
    let mut html = String::new();
    for run in runs {
        if runs.len() > 1 {
            html += &format!("<h4>{}</h4>", escape(&run.name));
        }
        if run.machines.is_empty() {
            html += UNKNOWN;
        }
        for (iter, machine) in &run.machines {
            html += "<dl>";
            if run.machines.len() > 1 {
                let from = grouped(*iter as f64);
                html += &format!("<dt>from iteration</dt><dd>{from}</dd>");
            }
            for (key, value) in machine {
                let value = match value.as_str() {
                    Some(text) => text.to_string(),
                    None => value.to_string(),
                };
                html += &format!("<dt>{}</dt><dd>{}</dd>", escape(key), escape(&value));
            }
            html += "</dl>";
        }
    }
    html
}

/// What could not be read.
pub fn problems(runs: &[Run]) -> String {
    let lines: Vec<String> = runs
        .iter()
        .flat_map(|r| &r.problems)
        .map(|p| format!("<li>{}</li>", escape(p)))
        .collect();
    match lines.len() {
        0 => String::new(),
        n => format!(
            "<aside class=\"problems\" role=\"note\"><b>Left out, {n} in all:</b><ul>{}</ul></aside>",
            lines.concat()
        ),
    }
}
