//! What becomes of a run's numbers over its iterations: a line for each run in every chart.

use super::chart::{Chart, Series};
use super::read::{Run, Step, U2pl};
use super::text::Format;

/// mIoU, losses and learning rate.
pub fn training(runs: &[Run]) -> String {
    let mut html = Chart {
        title: "Validation mIoU",
        note: "of the network that the run is judged by",
        format: Format::Percent,
        from_zero: false,
        series: series(runs, |run| {
            let scored = run.validations.iter();
            scored
                .filter_map(|v| Some((v.iter as f64, v.miou?)))
                .collect()
        }),
    }
    .html();
    for (key, title, note) in [
        ("sup", "Supervised loss", "L_s, labelled pixels"),
        (
            "unsup",
            "Unsupervised loss",
            "λ_u · L_u, pseudo-labelled pixels",
        ),
        ("contrast", "Contrastive loss", "L_c, before its weight"),
        ("aux", "Auxiliary loss", "before its weight"),
    ] {
        html += &of_steps(runs, title, note, Format::Plain, true, |s| {
            s.loss.get(key).copied()?
        });
    }
    html + &of_steps(runs, "Learning rate", "", Format::Plain, true, |s| s.lr)
}

/// The method's own numbers that are one a step.
pub fn method(runs: &[Run]) -> String {
    type Number = fn(&U2pl) -> Option<f64>;
    let charts: [(&'static str, &'static str, Format, Number); 7] = [
        (
            "γ_t",
            "entropy in nats from which on a pixel is unreliable",
            Format::Plain,
            |u| u.gamma,
        ),
        (
            "Kept pixels",
            "share of unlabelled pixels whose pseudo-label counts",
            Format::Percent,
            |u| u.kept,
        ),
        (
            "Pseudo-label accuracy",
            "of kept pixels, where the truth is known after all",
            Format::Percent,
            |u| u.pseudo_accuracy,
        ),
        (
            "Disagreement",
            "share of pixels that the teacher's two passes class differently",
            Format::Percent,
            |u| u.disagreement,
        ),
        (
            "α_t",
            "unreliable share by the schedule",
            Format::Percent,
            |u| u.alpha.map(|a| a / 100.0),
        ),
        (
            "λ_u",
            "weight of L_u: all pixels over kept ones",
            Format::Plain,
            |u| u.lambda_u,
        ),
        (
            "Classes in the contrastive loss",
            "with anchors, and negatives in the bank",
            Format::Count,
            |u| u.contrast_classes,
        ),
    ];
    charts
        .into_iter()
        .map(|(title, note, format, number)| {
            of_steps(runs, title, note, format, true, move |s| {
                s.u2pl.as_ref().and_then(number)
            })
        })
        .collect()
}

fn of_steps(
    runs: &[Run],
    title: &'static str,
    note: &'static str,
    format: Format,
    from_zero: bool,
    number: impl Fn(&Step) -> Option<f64>,
) -> String {
    let points = |run: &Run| {
        let steps = run.steps.iter();
        steps
            .filter_map(|s| Some((s.iter as f64, number(s)?)))
            .collect()
    };
    Chart {
        title,
        note,
        format,
        from_zero,
        series: series(runs, points),
    }
    .html()
}

fn series(runs: &[Run], points: impl Fn(&Run) -> Vec<(f64, f64)>) -> Vec<Series> {
    let one = |(slot, run): (usize, &Run)| Series {
        name: run.name.clone(),
        slot,
        points: points(run),
    };
    runs.iter().enumerate().map(one).collect()
}
