//! What a report says class by class: IoU, and the counts of the method.

use super::chart::line_class;
use super::heat::Heat;
use super::read::{Class, Run, U2pl, Validation};
use super::text::{Format, escape, grouped};

/// Logged steps whose mean the table of the method's counts holds.
const LAST: usize = 10;

/// IoU per class: of one run at its best and last validation, of several at their last ones.
pub fn iou(runs: &[Run]) -> String {
    let columns = match runs {
        [run] => single(run),
        runs => several(runs),
    };
    let rows = runs.iter().max_by_key(|r| r.classes.len());
    let classes = rows.map_or(&[][..], |r| &r.classes[..]);
    if columns.is_empty() || classes.is_empty() {
        return "<p class=\"empty\">No validation yet.</p>".into();
    }
    let mut html =
        String::from("<div class=\"scroll\"><table class=\"iou\"><thead><tr><th>class</th>");
    for c in &columns {
        html += &format!("<th class=\"num\">{}</th>", c.head);
    }
    html += "</tr></thead><tbody>";
    for (c, class) in classes.iter().enumerate() {
        html += &format!("<tr><th>{}</th>", swatch(class));
        for column in &columns {
            let first = columns[0].iou.get(c).copied().flatten();
            let value = column.iou.get(c).copied().flatten();
            html += &bar(value, first.filter(|_| column.compared));
        }
        html += "</tr>";
    }
    html += "</tbody><tfoot><tr><th>mean</th>";
    for column in &columns {
        html += &bar(column.mean, columns[0].mean.filter(|_| column.compared));
    }
    html + "</tr></tfoot></table></div>"
}

/// A column of the table.
struct Column {
    /// HTML.
    head: String,
    iou: Vec<Option<f64>>,
    mean: Option<f64>,
    /// Whether differences to the first column are shown.
    compared: bool,
}

fn single(run: &Run) -> Vec<Column> {
    let mut columns = Vec::new();
    let mut add = |what: &str, v: &Validation| {
        columns.push(Column {
            head: format!(
                "{what}<small>{}, iteration {}</small>",
                escape(&v.model),
                grouped(v.iter as f64)
            ),
            iou: v.iou.clone(),
            mean: v.miou,
            compared: false,
        });
    };
    let (best, last) = (run.best(), run.validations.last());
    if let Some(v) = last {
        add("last", v);
    }
    if let Some(v) = best.filter(|b| last.is_none_or(|l| l.iter != b.iter)) {
        add("best", v);
    }
    let (steps, means) = last_means(run, |u| u.pseudo_iou.clone());
    if means.iter().any(Option::is_some) {
        let present: Vec<f64> = means.iter().copied().flatten().collect();
        columns.push(Column {
            head: format!("pseudo-labels<small>kept pixels, last {steps} logged steps</small>"),
            mean: Some(present.iter().sum::<f64>() / present.len() as f64),
            iou: means,
            compared: false,
        });
    }
    columns
}

fn several(runs: &[Run]) -> Vec<Column> {
    let column = |(slot, run): (usize, &Run)| {
        let v = run.validations.last()?;
        Some(Column {
            head: format!(
                "<svg class=\"key\" viewBox=\"0 0 24 8\" aria-hidden=\"true\">\
                 <path class=\"{}\" d=\"M0 4H24\"/></svg> {}<small>{}, iteration {}</small>",
                line_class(slot),
                escape(&run.name),
                escape(&v.model),
                grouped(v.iter as f64)
            ),
            iou: v.iou.clone(),
            mean: v.miou,
            compared: slot > 0,
        })
    };
    runs.iter().enumerate().filter_map(column).collect()
}

/// A share as a number and a bar, and how much more it is than `than`, in points.
fn bar(value: Option<f64>, than: Option<f64>) -> String {
    let Some(value) = value else {
        return "<td class=\"num\">–</td>".into();
    };
    let difference = than.map_or(String::new(), |than| {
        let points = 100.0 * (value - than);
        let class = if points < 0.0 { "less" } else { "more" };
        let sign = if points < 0.0 { '−' } else { '+' };
        format!(
            " <small class=\"{class}\">{sign}{:.2}</small>",
            points.abs()
        )
    });
    format!(
        "<td class=\"num bar\" style=\"--v:{:.2}%\">{:.2}{difference}</td>",
        (100.0 * value).clamp(0.0, 100.0),
        100.0 * value
    )
}

/// A class with the colour that pictures show it in.
pub fn swatch(class: &Class) -> String {
    let [r, g, b] = class.color;
    format!(
        "<span class=\"swatch\" style=\"background:#{r:02x}{g:02x}{b:02x}\"></span>{}",
        escape(&class.name)
    )
}

/// IoU of every class at every validation.
pub fn iou_over_time(run: &Run) -> String {
    let columns = run.validations.iter().map(|v| (v.iter, v.iou.clone()));
    Heat {
        title: "At every validation",
        format: Format::Percent,
        classes: &run.classes,
        columns: columns.collect(),
    }
    .html()
}

/// The method's counts of every class over the iterations, and the last of them as a table.
pub fn method(run: &Run) -> String {
    type Counts = fn(&U2pl) -> Vec<Option<f64>>;
    let maps: [(&str, Format, Counts); 4] = [
        ("Entries in the memory bank", Format::Count, |u| {
            some(&u.bank)
        }),
        ("Anchors a step", Format::Count, |u| {
            sum(&u.anchors_labeled, &u.anchors_unlabeled)
        }),
        ("Negatives a step", Format::Count, |u| {
            sum(&u.negatives_labeled, &u.negatives_unlabeled)
        }),
        ("IoU of kept pseudo-labels", Format::Percent, |u| {
            u.pseudo_iou.clone()
        }),
    ];
    let map = |(title, format, counts): (&'static str, Format, Counts)| {
        let steps = run.steps.iter();
        let columns = steps.filter_map(|s| Some((s.iter, counts(s.u2pl.as_ref()?))));
        Heat {
            title,
            format,
            classes: &run.classes,
            columns: columns.collect(),
        }
        .html()
    };
    let maps: String = maps.into_iter().map(map).collect();
    let table = counts_table(run);
    if maps.is_empty() && table.is_empty() {
        return String::new();
    }
    format!("<div class=\"heats\">{maps}</div>{table}")
}

/// Anchors, negatives and bank of every class at the end.
fn counts_table(run: &Run) -> String {
    type Counts = fn(&U2pl) -> Vec<Option<f64>>;
    let columns: [(&str, Counts); 5] = [
        ("anchors<small>labelled</small>", |u| {
            some(&u.anchors_labeled)
        }),
        ("anchors<small>unlabelled</small>", |u| {
            some(&u.anchors_unlabeled)
        }),
        ("negatives<small>labelled</small>", |u| {
            some(&u.negatives_labeled)
        }),
        ("negatives<small>unlabelled</small>", |u| {
            some(&u.negatives_unlabeled)
        }),
        ("bank<small>entries</small>", |u| some(&u.bank)),
    ];
    let means = columns.map(|(_, counts)| last_means(run, counts));
    let steps = means[0].0;
    if means.iter().all(|(_, m)| m.iter().all(Option::is_none)) {
        return String::new();
    }
    let mut html = format!(
        "<h4>By class, mean of the last {steps} logged steps</h4>\
         <div class=\"scroll\"><table><thead><tr><th>class</th>"
    );
    for (head, _) in columns {
        html += &format!("<th class=\"num\">{head}</th>");
    }
    html += "<th class=\"num\">bank<small>full</small></th></tr></thead><tbody>";
    for (c, class) in run.classes.iter().enumerate() {
        html += &format!("<tr><th>{}</th>", swatch(class));
        for (_, mean) in &means {
            let value = mean.get(c).copied().flatten();
            let text = value.map_or("–".into(), grouped);
            html += &format!("<td class=\"num\">{text}</td>");
        }
        let fill = means[4].1.get(c).copied().flatten();
        let full = fill.zip(capacity(run, c)).map(|(n, all)| n / all);
        html += &match full {
            Some(share) => format!(
                "<td class=\"num bar\" style=\"--v:{:.1}%\">{:.0} %</td>",
                (100.0 * share).clamp(0.0, 100.0),
                100.0 * share
            ),
            None => "<td class=\"num\">–</td>".into(),
        };
        html += "</tr>";
    }
    html + "</tbody></table></div>"
}

/// Entries that the bank of a class holds at most.
fn capacity(run: &Run, class: usize) -> Option<f64> {
    let key = match class {
        0 => "method.bank_background",
        _ => "method.bank_size",
    };
    run.setting(key)?.parse().ok().filter(|&n: &f64| n > 0.0)
}

/// How many of the last logged steps have the method's numbers, and their mean per class.
fn last_means(run: &Run, numbers: impl Fn(&U2pl) -> Vec<Option<f64>>) -> (usize, Vec<Option<f64>>) {
    let steps = run.steps.iter().rev().filter_map(|s| s.u2pl.as_ref());
    let last: Vec<Vec<Option<f64>>> = steps.take(LAST).map(numbers).collect();
    let mean = |class: usize| {
        let values = last.iter().filter_map(|v| v.get(class).copied()?);
        let (sum, n) = values.fold((0.0, 0.0), |(s, n), v| (s + v, n + 1.0));
        (n > 0.0).then_some(sum / n)
    };
    (last.len(), (0..run.classes.len()).map(mean).collect())
}

fn some(counts: &[f64]) -> Vec<Option<f64>> {
    counts.iter().copied().map(Some).collect()
}

fn sum(a: &[f64], b: &[f64]) -> Vec<Option<f64>> {
    a.iter().zip(b).map(|(a, b)| Some(a + b)).collect()
}
