//! Line charts in HTML and SVG.
//!
//! The lines stretch with the page and keep their width; axes and legends are text of the page,
//! so that a chart is as readable on a phone. The page's script adds values under the pointer
//! and works from the numbers that stand beside each chart.

use serde_json::json;

use super::text::{Format, escape, grouped, script_json};

/// Points a line has at most; of more, neighbours are averaged.
const POINTS: usize = 400;
/// Side of the drawing, in its own units.
const SIDE: f64 = 1000.0;
/// Colours and dash patterns of the style sheet.
const SLOTS: usize = 8;

/// A line.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// What it is.
    pub name: String,
    /// Which colour and dashes.
    pub slot: usize,
    /// Iteration and value, by iteration.
    pub points: Vec<(f64, f64)>,
}

/// A chart of values over iterations.
#[derive(Clone, Debug, PartialEq)]
pub struct Chart {
    /// What it shows.
    pub title: &'static str,
    /// A few words on how to read it; may be empty.
    pub note: &'static str,
    /// How its values are written.
    pub format: Format,
    /// Whether the axis begins at zero.
    pub from_zero: bool,
    /// Its lines; those without points are left out.
    pub series: Vec<Series>,
}

/// An axis: its ends and the ticks on it.
#[derive(Clone, Debug, PartialEq)]
struct Axis {
    low: f64,
    high: f64,
    step: f64,
}

impl Axis {
    /// An axis of at most `count` steps and a few, of 1, 2, 2.5 or 5 times a power of ten, around
    /// `low` to `high`.
    fn around(low: f64, high: f64, count: f64) -> Self {
        let span = match high > low {
            true => high - low,
            false => low.abs().max(1e-6),
        };
        let rough = span / count;
        let power = 10f64.powf(rough.log10().floor());
        let factor = [1.0, 2.0, 2.5, 5.0]
            .into_iter()
            .find(|f| f * power >= rough * (1.0 - 1e-9));
        let step = factor.unwrap_or(10.0) * power;
        let low = (low / step + 1e-9).floor() * step;
        let high = (high / step - 1e-9).ceil() * step;
        Self {
            low,
            high: high.max(low + step),
            step,
        }
    }

    fn ticks(&self) -> Vec<f64> {
        let count = ((self.high - self.low) / self.step).round() as usize;
        // As multiples of the step, so that zero is zero.
        let first = (self.low / self.step).round();
        let tick = |i: usize| (first + i as f64) * self.step;
        (0..=count.min(50)).map(tick).collect()
    }

    /// 0–1 along the axis.
    fn place(&self, value: f64) -> f64 {
        (value - self.low) / (self.high - self.low)
    }
}

impl Chart {
    /// The chart; nothing where there is nothing to draw.
    pub fn html(&self) -> String {
        let mut whole = self.series.clone();
        for s in &mut whole {
            s.points.retain(|(x, y)| x.is_finite() && y.is_finite());
        }
        whole.retain(|s| !s.points.is_empty());
        if whole.is_empty() {
            return String::new();
        }
        let mut series = whole.clone();
        for s in &mut series {
            s.points = thinned(&s.points);
        }
        let points = || series.iter().flat_map(|s| &s.points);
        let ends = |values: &mut dyn Iterator<Item = f64>| {
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| {
                (a.min(v), b.max(v))
            })
        };
        let (x_low, x_high) = ends(&mut points().map(|p| p.0));
        let (y_low, y_high) = ends(&mut points().map(|p| p.1));
        let y_low = if self.from_zero {
            y_low.min(0.0)
        } else {
            y_low
        };
        let y = Axis::around(y_low, y_high, 5.0);
        let x = Axis {
            low: x_low.min(0.0),
            high: x_high.max(1.0),
            step: Axis::around(0.0, x_high.max(1.0), 4.0).step,
        };
        format!(
            "<figure class=\"chart\"><figcaption><b>{}</b>{}</figcaption>{}\
             <div class=\"plot\" tabindex=\"0\" role=\"img\" aria-label=\"{}\">{}\
             <div class=\"area\">{}<div class=\"cursor\"></div><div class=\"tip\"></div></div>{}</div>\
             <script type=\"application/json\">{}</script></figure>",
            escape(self.title),
            self.notes(&whole),
            self.legend(&whole),
            escape(&self.in_words(&whole)),
            self.y_labels(&y),
            drawing(&series, &x, &y),
            x_labels(&x),
            script_json(&self.data(&series, &x, &y)),
        )
    }

    /// How to read it, and what its points are.
    fn notes(&self, series: &[Series]) -> String {
        let most = series.iter().map(|s| group(s.points.len())).max();
        let means = most.filter(|&n| n > 1);
        let means = means.map(|n| format!("means of {n} logged steps"));
        let note = Some(self.note.to_string()).filter(|n| !n.is_empty());
        let notes: Vec<String> = note.into_iter().chain(means).collect();
        match notes.is_empty() {
            true => String::new(),
            false => format!(" <span class=\"note\">{}</span>", escape(&notes.join("; "))),
        }
    }

    /// Name, line and last value of each series.
    fn legend(&self, series: &[Series]) -> String {
        let mut html = String::from("<ul class=\"legend\">");
        for s in series {
            html += &format!(
                "<li><svg class=\"key\" viewBox=\"0 0 24 8\" aria-hidden=\"true\">\
                 <path class=\"{}\" d=\"M0 4H24\"/></svg>{} <output>{}</output></li>",
                line_class(s.slot),
                escape(&s.name),
                s.points
                    .last()
                    .map_or(String::new(), |p| self.format.show(p.1))
            );
        }
        html + "</ul>"
    }

    /// For those who cannot see it.
    fn in_words(&self, series: &[Series]) -> String {
        let mut text = self.title.to_string();
        for s in series {
            if let (Some(first), Some(last)) = (s.points.first(), s.points.last()) {
                text += &format!(
                    "; {}: {} at iteration {:.0}, {} at iteration {:.0}",
                    s.name,
                    self.format.show(first.1),
                    first.0,
                    self.format.show(last.1),
                    last.0
                );
            }
        }
        text
    }

    fn y_labels(&self, y: &Axis) -> String {
        let mut html = String::from("<div class=\"ys\" aria-hidden=\"true\">");
        for tick in y.ticks() {
            html += &format!(
                "<span style=\"bottom:{:.2}%\">{}</span>",
                100.0 * y.place(tick),
                self.format.tick(tick, y.step)
            );
        }
        html + "</div>"
    }

    /// What the script needs.
    fn data(&self, series: &[Series], x: &Axis, y: &Axis) -> serde_json::Value {
        let lines: Vec<serde_json::Value> = series
            .iter()
            .map(|s| {
                let (xs, ys): (Vec<f64>, Vec<f64>) = s
                    .points
                    .iter()
                    .map(|&(x, y)| (x.round(), rounded(y)))
                    .unzip();
                json!({"name": s.name, "slot": s.slot % SLOTS, "x": xs, "y": ys})
            })
            .collect();
        json!({
            "format": self.format.name(),
            "x": [x.low, x.high],
            "y": [y.low, y.high],
            "series": lines,
        })
    }
}

/// Classes of a line of the style sheet: colours first, then other dashes.
pub fn line_class(slot: usize) -> String {
    format!("c{} d{}", slot % SLOTS, slot % 4)
}

fn x_labels(x: &Axis) -> String {
    let mut html = String::from("<div class=\"xs\" aria-hidden=\"true\">");
    let mut tick = 0.0;
    while tick <= x.high {
        let place = 100.0 * x.place(tick);
        // Labels near an end do not hang over it.
        let shift = match place {
            0.0..5.0 => "0",
            5.0..95.0 => "-50%",
            _ => "-100%",
        };
        html += &format!(
            "<span style=\"left:{place:.2}%;transform:translateX({shift})\">{}</span>",
            grouped(tick)
        );
        tick += x.step;
    }
    html + "</div>"
}

fn drawing(series: &[Series], x: &Axis, y: &Axis) -> String {
    let mut svg = format!(
        "<svg viewBox=\"0 0 {SIDE} {SIDE}\" preserveAspectRatio=\"none\" aria-hidden=\"true\">\
         <path class=\"grid\" d=\""
    );
    for tick in y.ticks() {
        svg += &format!("M0 {:.1}H{SIDE}", SIDE * (1.0 - y.place(tick)));
    }
    svg += "\"/>";
    for s in series {
        let mut line = String::new();
        let mut dots = String::new();
        for (i, &(a, b)) in s.points.iter().enumerate() {
            let (a, b) = (SIDE * x.place(a), SIDE * (1.0 - y.place(b)));
            line += &format!("{}{a:.1} {b:.1}", if i == 0 { 'M' } else { 'L' });
            // Lines without length that round ends make dots of.
            dots += &format!("M{a:.1} {b:.1}h0");
        }
        let class = line_class(s.slot);
        svg += &format!("<path class=\"{class}\" d=\"{line}\"/>");
        if s.points.len() <= 40 {
            svg += &format!("<path class=\"{class} dots\" d=\"{dots}\"/>");
        }
    }
    svg + "</svg>"
}

/// At most [`POINTS`] points: means of neighbours.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mean = |group: &[(f64, f64)]| {
        let n = group.len() as f64;
        let sum = group.iter().fold((0.0, 0.0), |s, p| (s.0 + p.0, s.1 + p.1));
        (sum.0 / n, sum.1 / n)
    };
    points.chunks(group(points.len())).map(mean).collect()
}

/// Points of `count` that one point of the drawing stands for.
fn group(count: usize) -> usize {
    count.div_ceil(POINTS).max(1)
}

/// Six significant digits, so that pages stay small.
fn rounded(value: f64) -> f64 {
    format!("{value:.5e}").parse().unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_have_round_ticks() {
        let axis = Axis::around(0.0, 0.55, 4.0);
        assert_eq!(axis.ticks(), [0.0, 0.2, 0.4, 0.6000000000000001]);
        assert_eq!(Axis::around(0.0, 1.0, 4.0).step, 0.25);
        let axis = Axis::around(-0.03, 0.07, 4.0);
        assert!(axis.ticks().contains(&0.0), "{axis:?}");
        for (low, high) in [(0.0, 0.0), (5.0, 5.0), (-1e9, 1e9), (1e-12, 2e-12)] {
            let axis = Axis::around(low, high, 4.0);
            assert!(axis.low <= low && axis.high >= high && axis.low < axis.high);
            assert!((2..=12).contains(&axis.ticks().len()), "{axis:?}");
        }
    }

    #[test]
    fn many_points_become_means_of_neighbours() {
        let points: Vec<(f64, f64)> = (0..1000)
            .map(|i| (f64::from(i), f64::from(i % 3)))
            .collect();
        let few = thinned(&points);
        assert_eq!(few.len(), 334);
        assert_eq!(few[0], (1.0, 1.0));
        assert_eq!(thinned(&points[..400]), points[..400]);
    }

    #[test]
    fn a_chart_says_its_numbers_and_leaves_out_what_is_none() {
        let mut chart = Chart {
            title: "L_s",
            note: "",
            format: Format::Plain,
            from_zero: true,
            series: vec![Series {
                name: "a<b".into(),
                slot: 9,
                points: vec![(10.0, 1.5), (20.0, f64::NAN), (30.0, 0.25)],
            }],
        };
        let html = chart.html();
        for part in [
            "a&lt;b <output>0.2500</output>",
            "1.500 at iteration 10, 0.2500 at iteration 30",
            "\"x\":[10.0,30.0],\"y\":[1.5,0.25]",
            "a\\u003cb",
            "c1 d1",
        ] {
            assert!(html.contains(part), "{part} in {html}");
        }
        chart.series[0].points.clear();
        assert_eq!(chart.html(), "");
    }
}
