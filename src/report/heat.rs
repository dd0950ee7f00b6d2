//! Maps of a number per class over the iterations: a row per class, darker for more.

use serde_json::json;

use super::read::Class;
use super::text::{Format, escape, grouped, script_json};

/// Columns a map has at most; of more, neighbours are averaged.
const COLUMNS: usize = 60;
/// Shades of the style sheet, from nothing to most.
const SHADES: usize = 9;

/// The shades side by side.
const RAMP: &str = "<span class=\"ramp\"></span>";

/// A map of a number per class.
pub struct Heat<'a> {
    /// What it shows.
    pub title: &'a str,
    /// How its values are written: a share is shaded up to one, a count by its logarithm.
    pub format: Format,
    /// The rows.
    pub classes: &'a [Class],
    /// Iteration and a value for each class, by iteration.
    pub columns: Vec<(u64, Vec<Option<f64>>)>,
}

impl Heat<'_> {
    /// The map; nothing where there are no values.
    pub fn html(&self) -> String {
        let columns = self.thinned();
        let values = columns
            .iter()
            .flat_map(|(_, v)| v.iter().copied().flatten());
        let most = values.fold(f64::NEG_INFINITY, f64::max);
        if !most.is_finite() || self.classes.is_empty() {
            return String::new();
        }
        let most = match self.format {
            Format::Percent => 1.0,
            _ => most.max(1.0),
        };
        let rows = self.classes.len();
        let names: String = self
            .classes
            .iter()
            .map(|c| format!("<span>{}</span>", escape(&c.name)))
            .collect();
        let first = columns.first().map_or(0, |c| c.0);
        let last = columns.last().map_or(0, |c| c.0);
        format!(
            "<figure class=\"heat\"><figcaption><b>{}</b> <span class=\"note\">{}</span></figcaption>\
             <div class=\"plot\" tabindex=\"0\" role=\"img\" aria-label=\"{}\" style=\"--rows:{rows}\">\
             <div class=\"names\" aria-hidden=\"true\">{names}</div>\
             <div class=\"area\">{}<div class=\"cell\"></div><div class=\"tip\"></div></div>\
             <div class=\"xs\" aria-hidden=\"true\"><span>{}</span><span>{}</span></div></div>\
             <script type=\"application/json\">{}</script></figure>",
            escape(self.title),
            self.scale(most),
            escape(&self.in_words(&columns)),
            self.drawing(&columns, most),
            grouped(first as f64),
            grouped(last as f64),
            script_json(&json!({
                "format": self.format.name(),
                "classes": self.classes.iter().map(|c| &c.name).collect::<Vec<_>>(),
                "x": columns.iter().map(|c| c.0).collect::<Vec<_>>(),
                "values": columns.iter().map(|c| c.1.iter().map(|v| v.map(|v| self.rounded(v))).collect::<Vec<_>>()).collect::<Vec<_>>(),
            })),
        )
    }

    fn rounded(&self, value: f64) -> f64 {
        match self.format {
            Format::Count => value.round(),
            _ => (1e4 * value).round() / 1e4,
        }
    }

    /// What the shades mean.
    fn scale(&self, most: f64) -> String {
        match self.format {
            Format::Percent => format!("0 {RAMP} 100 %"),
            _ => format!("0 {RAMP} {}, logarithmic", grouped(most)),
        }
    }

    /// The last column, for those who cannot see it.
    fn in_words(&self, columns: &[(u64, Vec<Option<f64>>)]) -> String {
        let mut text = self.title.to_string();
        if let Some((iter, values)) = columns.last() {
            text += &format!(", at iteration {iter}");
            for (class, value) in self.classes.iter().zip(values) {
                if let Some(value) = value {
                    text += &format!("; {} {}", class.name, self.format.show(*value));
                }
            }
        }
        text
    }

    /// One path for each shade, of unit squares.
    fn drawing(&self, columns: &[(u64, Vec<Option<f64>>)], most: f64) -> String {
        let mut paths = vec![String::new(); SHADES];
        for (x, (_, values)) in columns.iter().enumerate() {
            for (y, value) in values.iter().enumerate().take(self.classes.len()) {
                if let Some(value) = value {
                    let share = match self.format {
                        Format::Percent => value / most,
                        _ => value.max(0.0).ln_1p() / most.ln_1p(),
                    };
                    let shade = share.clamp(0.0, 1.0) * (SHADES - 1) as f64;
                    // Something is never shown as nothing.
                    let shade = if *value > 0.0 { shade.ceil() } else { 0.0 };
                    paths[shade as usize] += &format!("M{x} {y}h1v1h-1z");
                }
            }
        }
        let shapes: String = paths
            .iter()
            .enumerate()
            .filter(|(_, path)| !path.is_empty())
            .map(|(shade, path)| format!("<path class=\"s{shade}\" d=\"{path}\"/>"))
            .collect();
        format!(
            "<svg viewBox=\"0 0 {} {}\" preserveAspectRatio=\"none\" aria-hidden=\"true\" \
             shape-rendering=\"crispEdges\">{shapes}</svg>",
            columns.len(),
            self.classes.len()
        )
    }

    /// At most [`COLUMNS`] columns: means of neighbours, under the iteration of the last.
    fn thinned(&self) -> Vec<(u64, Vec<Option<f64>>)> {
        let group = self.columns.len().div_ceil(COLUMNS).max(1);
        let merge = |group: &[(u64, Vec<Option<f64>>)]| {
            let mean = |class: usize| {
                let values = group.iter().filter_map(|(_, v)| v.get(class).copied()?);
                let (sum, n) = values.fold((0.0, 0.0), |(s, n), v| (s + v, n + 1.0));
                (n > 0.0).then_some(sum / n)
            };
            let iter = group.last().map_or(0, |g| g.0);
            (iter, (0..self.classes.len()).map(mean).collect())
        };
        self.columns.chunks(group).map(merge).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classes() -> Vec<Class> {
        let class = |name: &str| Class {
            name: name.into(),
            color: [0; 3],
        };
        vec![class("sky"), class("<car>")]
    }

    #[test]
    fn shades_go_from_nothing_to_most_and_gaps_stay_gaps() {
        let classes = classes();
        let heat = Heat {
            title: "bank",
            format: Format::Count,
            classes: &classes,
            columns: vec![
                (10, vec![Some(0.0), Some(1.0)]),
                (20, vec![Some(3000.0), None]),
            ],
        };
        let html = heat.html();
        for part in [
            "class=\"s0\" d=\"M0 0h1v1h-1z\"",
            "class=\"s1\" d=\"M0 1h1v1h-1z\"",
            "class=\"s8\" d=\"M1 0h1v1h-1z\"",
            "</span> 3\u{202F}000, logarithmic",
            "&lt;car&gt;",
            "[3000.0,null]",
        ] {
            assert!(html.contains(part), "{part} in {html}");
        }
    }

    #[test]
    fn many_columns_become_means_and_no_values_no_map() {
        let classes = classes();
        let heat = |columns| Heat {
            title: "IoU",
            format: Format::Percent,
            classes: &classes,
            columns,
        };
        let many = (0..150)
            .map(|i| (i, vec![Some(f64::from(i as u32 % 3)), None]))
            .collect();
        let few = heat(many).thinned();
        assert_eq!(few.len(), 50);
        assert_eq!(few[0], (2, vec![Some(1.0), None]));
        assert_eq!(heat(vec![(1, vec![None, None])]).html(), "");
        assert_eq!(heat(Vec::new()).html(), "");
    }
}
