//! Text for the page: escaping, numbers, files as data addresses.

/// Text as HTML, within elements and quoted attributes.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// JSON that may stand in a script element.
pub fn script_json(value: &serde_json::Value) -> String {
    value.to_string().replace('<', "\\u003c")
}

/// How the numbers of a chart are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A share of one in percent.
    Percent,
    /// Four digits.
    Plain,
    /// A whole number.
    Count,
}

impl Format {
    /// `value` in this format.
    pub fn show(self, value: f64) -> String {
        match self {
            Format::Percent => format!("{:.2} %", 100.0 * value),
            Format::Count => grouped(value),
            Format::Plain => significant(value),
        }
    }

    /// A tick of an axis whose ticks are `step` apart.
    pub fn tick(self, value: f64, step: f64) -> String {
        let (value, step, unit) = match self {
            Format::Percent => (100.0 * value, 100.0 * step, " %"),
            _ => (value, step, ""),
        };
        if value.abs() >= 10_000.0 {
            return grouped(value) + unit;
        }
        if value != 0.0 && step < 1e-3 {
            return format!("{value:.1e}{unit}");
        }
        let exact = |digits: &i32| {
            let scaled = step * 10f64.powi(*digits);
            (scaled - scaled.round()).abs() < 1e-6
        };
        let digits = (0..6).find(exact).unwrap_or(6) as usize;
        format!("{value:.digits$}{unit}")
    }

    /// Its name for the page's script.
    pub fn name(self) -> &'static str {
        match self {
            Format::Percent => "percent",
            Format::Plain => "plain",
            Format::Count => "count",
        }
    }
}

/// Four significant digits.
fn significant(value: f64) -> String {
    if value == 0.0 {
        return "0".into();
    }
    let magnitude = value.abs().log10().floor();
    if !(-4.0..6.0).contains(&magnitude) {
        return format!("{value:.3e}");
    }
    let digits = (3.0 - magnitude).max(0.0) as usize;
    format!("{value:.digits$}")
}

/// A whole number in groups of three.
pub fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i) % 3 == 0 {
            out.push('\u{202F}');
        }
        out.push(c);
    }
    match value <= -0.5 {
        true => format!("−{out}"),
        false => out,
    }
}

/// Seconds as people say them.
pub fn duration(seconds: f64) -> String {
    let s = seconds.max(0.0).round() as u64;
    match s {
        0..120 => format!("{s} s"),
        120..7200 => format!("{} min {} s", s / 60, s % 60),
        _ => format!("{} h {} min", s / 3600, s / 60 % 60),
    }
}

/// A file as an address that holds it.
pub fn data_uri(mime: &str, bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = format!("data:{mime};base64,");
    for group in bytes.chunks(3) {
        let byte = |i: usize| u32::from(group.get(i).copied().unwrap_or(0));
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4 {
            out.push(match i <= group.len() {
                true => char::from(DIGITS[(word >> (18 - 6 * i) & 63) as usize]),
                false => '=',
            });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(Format::Percent.show(0.548_833), "54.88 %");
        assert_eq!(Format::Count.show(1_234_567.0), "1\u{202F}234\u{202F}567");
        assert_eq!(Format::Count.show(-999.6), "−1\u{202F}000");
        for (value, text) in [
            (0.0, "0"),
            (1.80263, "1.803"),
            (0.05, "0.05000"),
            (123_456.0, "123456"),
            (1e-7, "1.000e-7"),
        ] {
            assert_eq!(Format::Plain.show(value), text);
        }
        assert_eq!(Format::Percent.tick(0.5, 0.1), "50 %");
        assert_eq!(Format::Percent.tick(0.005, 0.005), "0.5 %");
        assert_eq!(Format::Plain.tick(0.04, 0.02), "0.04");
        assert_eq!(Format::Plain.tick(0.5, 0.25), "0.50");
        assert_eq!(Format::Count.tick(20_000.0, 5000.0), "20\u{202F}000");
        assert_eq!(duration(11_024.6), "3 h 3 min");
        assert_eq!(duration(119.4), "119 s");
    }

    #[test]
    fn nothing_breaks_out_of_its_element() {
        assert_eq!(
            escape("<a href='x'>&\""),
            "&lt;a href=&#39;x&#39;&gt;&amp;&quot;"
        );
        let json = script_json(&serde_json::json!("</script>"));
        assert_eq!(json, "\"\\u003c/script>\"");
    }

    /// Test vectors of RFC 4648.
    #[test]
    fn files_in_base64() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            let expect = format!("data:image/png;base64,{text}");
            assert_eq!(data_uri("image/png", bytes.as_bytes()), expect);
        }
    }
}
