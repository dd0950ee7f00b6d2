//! The page as a whole: what is on it, and that it needs nothing else.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use image::{Rgb as Pixel, RgbImage};

use super::Report;
use crate::train::sheet::{Column, Kind, Sheet};

/// A run of two classes, the second with a hostile name.
struct Made {
    dir: tempfile::TempDir,
}

const NAMES: [&str; 2] = ["road", "</script><b>'\""];

impl Made {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A run that ends with an mIoU of `miou`, and further lines of metrics.
    fn run(&self, name: &str, lr: f32, miou: f64, more: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.join("samples")).unwrap();
        let config = format!(
            "data: {{kind: shapes, classes: 2, class_names: [{}, {}]}}\n\
             train: {{lr: {lr}, algorithm: u2pl}}\nmethod: {{bank_size: 200}}\n",
            serde_json::json!(NAMES[0]),
            serde_json::json!(NAMES[1])
        );
        std::fs::write(path.join("config.yaml"), config).unwrap();
        let mut metrics = String::from(
            "{\"iter\":0,\"machine\":{\"cpu\":\"A <CPU>\",\"cores\":2}}\n\
             {\"iter\":10,\"epoch\":0,\"lr\":0.5,\"loss\":{\"sup\":1.25}}\n",
        );
        for iter in [20, 30] {
            writeln!(
                metrics,
                "{{\"iter\":{iter},\"epoch\":1,\"lr\":0.25,\"loss\":{{\"sup\":0.75,\"unsup\":0.375,\
                 \"contrast\":2.5}},\"u2pl\":{{\"kept\":0.8125,\"gamma\":1.625,\"alpha\":15.0,\
                 \"lambda_u\":1.2308,\"anchors_labeled\":[3,4],\"anchors_unlabeled\":[5,6],\
                 \"negatives_labeled\":[70,80],\"negatives_unlabeled\":[900,1000],\
                 \"contrast_classes\":2,\"bank\":[1234,150],\"disagreement\":0.0625,\
                 \"pseudo_accuracy\":0.9375,\"pseudo_iou\":[0.4375,null]}}}}"
            )
            .unwrap();
        }
        writeln!(
            metrics,
            "{{\"iter\":30,\"val\":{{\"model\":\"teacher\",\"miou\":{miou},\"iou\":[{},0.125]}}}}\n\
             {{\"iter\":30,\"end\":{{\"seconds\":75.0,\"student_miou\":0.28125,\"teacher_miou\":{miou}}}}}\n{more}",
            2.0 * miou - 0.125
        )
        .unwrap();
        std::fs::write(path.join("metrics.jsonl"), metrics).unwrap();
        path
    }

    fn sheet(&self, run: &Path, name: &str) {
        let column = |kind, title: &str| Column {
            kind,
            title: title.into(),
        };
        let mut sheet = Sheet::new(vec![
            column(Kind::Image, "image"),
            column(Kind::Negatives, &format!("negatives of {}", NAMES[1])),
        ]);
        // Faint noise: what JPEG makes smaller.
        let noise = RgbImage::from_fn(160, 40, |x, y| {
            let n = (x + 160 * y).wrapping_mul(2_654_435_761);
            Pixel([8, 16, 24].map(|shift| (x + (n >> shift) % 8) as u8))
        });
        sheet.push(vec![noise.clone(), noise]).unwrap();
        std::fs::write(run.join("samples").join(name), sheet.to_png().unwrap()).unwrap();
    }

    fn page(&self, runs: &[PathBuf]) -> String {
        Report::read(runs).unwrap().html(None).unwrap()
    }
}

fn assert_has(page: &str, parts: &[&str]) {
    for part in parts {
        assert!(page.contains(part), "`{part}` is not on the page");
    }
}

/// Start tags of the page with their attributes, after checking that all are closed in order.
fn tags(page: &str) -> Vec<String> {
    const EMPTY: [&str; 3] = ["meta", "img", "!DOCTYPE"];
    let (mut open, mut found) = (Vec::new(), Vec::new());
    let mut rest = page;
    while let Some(at) = rest.find('<') {
        let end = at + rest[at..].find('>').expect("a tag that ends");
        let tag = &rest[at + 1..end];
        rest = &rest[end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name));
            continue;
        }
        let name = tag.split([' ', '/']).next().unwrap().to_string();
        found.push(tag.to_string());
        if matches!(name.as_str(), "script" | "style") {
            // Text up to the end tag, whatever is in it.
            let end = rest.find(&format!("</{name}>")).expect("an end tag");
            rest = &rest[end..];
        }
        if !EMPTY.contains(&name.as_str()) && !tag.ends_with('/') {
            open.push(name);
        }
    }
    assert!(open.is_empty(), "{open:?}");
    found
}

/// Whether nothing on the page comes from elsewhere.
fn assert_self_contained(page: &str) {
    for tag in tags(page) {
        let name = tag.split(' ').next().unwrap();
        assert!(
            !["link", "iframe", "object", "embed", "base"].contains(&name),
            "{tag}"
        );
        for attribute in ["src=\"", "href=\"", "srcset=\"", "action=\""] {
            let Some((_, value)) = tag.split_once(attribute) else {
                continue;
            };
            let own = value.starts_with("data:image/") || value.starts_with('#');
            assert!(own, "{tag:.80}");
        }
    }
    for text in [
        "http:", "https:", "//", "@import", "url(", "fetch(", "import(",
    ] {
        let found = page
            .match_indices(text)
            // Comments of the script, and base64.
            .filter(|(at, _)| text != "//" || page[..*at].ends_with(':'))
            .count();
        assert_eq!(found, 0, "{text}");
    }
}

#[test]
fn a_page_of_one_run_has_its_numbers_and_needs_nothing_else() {
    let made = Made::new();
    let run = made.run("only", 0.5, 0.5, "{\"iter\":40,\"lo");
    for name in ["epoch-0001.png", "epoch-0002.png", "final.png"] {
        made.sheet(&run, name);
    }
    std::fs::write(run.join("samples/epoch-0003.png"), "no picture").unwrap();
    let page = made.page(&[run]);
    assert_self_contained(&page);
    assert_has(
        &page,
        &[
            "<title>only – training report</title>",
            // mIoU, IoU of both classes, of the pseudo-labels, of the student.
            "50.00 %",
            "87.50",
            "12.50",
            "43.75",
            "28.12 %",
            "75 s",
            // Losses, γ, kept, accuracy, disagreement, α, λ_u.
            "0.7500",
            "0.3750",
            "2.500",
            "1.625",
            "81.25 %",
            "93.75 %",
            "6.25 %",
            "15.00 %",
            "1.231",
            // Anchors, negatives, bank and its fill.
            ">900<",
            ">1\u{202F}000<",
            ">1\u{202F}234<",
            ">75 %<",
            // Configuration and machine.
            "<tr><th>train.lr</th><td>0.5</td><td>0.001</td></tr>",
            "A &lt;CPU&gt;",
            // What is damaged.
            "metrics.jsonl:7: left out",
            "epoch-0003.png",
            "&lt;/script&gt;&lt;b&gt;",
            "data:image/jpeg;base64,",
            "ignored</li>",
        ],
    );
    // Three pictures: the final one is another than the damaged last.
    assert_eq!(page.matches("<div class=\"tiles\">").count(), 3);
    assert_eq!(page.matches("<details open>").count(), 1);
}

#[test]
fn a_comparison_has_every_runs_numbers_and_the_keys_that_differ() {
    let made = Made::new();
    let runs = [made.run("a", 0.5, 0.5, ""), made.run("b", 0.25, 0.4375, "")];
    made.sheet(&runs[1], "final.png");
    let page = made.page(&runs);
    assert_self_contained(&page);
    assert_has(
        &page,
        &[
            "<title>a, b – comparison</title>",
            "50.00 %",
            "43.75 %",
            "87.50",
            "75.00 <small class=\"less\">−12.50</small>",
            "43.75 <small class=\"less\">−6.25</small>",
            "12.50 <small class=\"more\">+0.00</small>",
            "<tr><th>train.lr</th><td>0.5</td><td>0.25</td></tr>",
            "c0 d0",
            "c1 d1",
        ],
    );
    assert!(!page.contains("<tr><th>method.bank_size</th>"));
    assert_eq!(page.matches("<div class=\"tiles\">").count(), 1);
}

#[test]
fn runs_without_anything_yet_are_said_to_be_so() {
    let made = Made::new();
    let run = made.path("new");
    std::fs::create_dir(&run).unwrap();
    std::fs::write(run.join("metrics.jsonl"), "").unwrap();
    let page = made.page(&[run.clone(), made.run("old", 0.5, 0.5, "")]);
    assert_self_contained(&page);
    assert_has(&page, &["config.yaml: cannot be read"]);
    let page = made.page(&[run]);
    assert_self_contained(&page);
    assert_has(
        &page,
        &["Nothing is logged yet", "No validation yet", "Not recorded"],
    );
}

#[test]
fn a_page_is_written_where_it_is_wanted() {
    let made = Made::new();
    let mut report = Report::read(&[made.run("a", 0.5, 0.5, "")]).unwrap();
    let out = made.path("page.html");
    report.write(&out, Some(0)).unwrap();
    let page = std::fs::read_to_string(&out).unwrap();
    assert!(page.ends_with("</html>\n"));
    assert_eq!(report.names().collect::<Vec<_>>(), ["a"]);
    assert_eq!(report.problems().count(), 0);
    let error = report.write(&made.path("no/such.html"), None).unwrap_err();
    assert_eq!(error.exit_code(), 2);
}
