//! All cases of a run in one table: the engine against the best of each kind of peer.

use super::report::{best, number, peers};
use super::turns::Measured;
use super::work::{ONNX_RUNTIME, PYTORCH};

/// A line for every case and precision in which the engine ran; nothing for a single one, which its
/// own table says.
pub fn summary(cases: &[(String, Vec<Measured>)]) -> String {
    let lines: Vec<String> = cases
        .iter()
        .flat_map(|(name, sides)| lines(name, sides))
        .collect();
    if lines.len() < 2 {
        return String::new();
    }
    let header = format!(
        "\n{:<20} {:>10} {:>10} {:>8} {:>10} {:>8} {:>8} {:>8} {:>8} {:>8}\n",
        "case",
        "engine ms",
        "PyTorch ms",
        "× engine",
        "ORT ms",
        "× engine",
        "MiB",
        "PyTorch×",
        "ORT ×",
        "first ×"
    );
    header + &lines.concat()
}

fn lines<'a>(name: &'a str, sides: &'a [Measured]) -> impl Iterator<Item = String> + 'a {
    let engines = sides.iter().filter(|s| s.engine && s.outcome.is_ok());
    engines.map(move |engine| {
        let of =
            |kind: &'static str| peers(engine, sides).filter(move |p| p.name.starts_with(kind));
        let time = |kind| best(of(kind), |p| p.times(engine));
        let memory = |kind| best(of(kind), |p| p.memory_times(engine)).map(|(_, r)| r);
        let ms = |best: Option<(&Measured, f64)>| number(best.and_then(|(p, _)| p.median_ms()), 1);
        let ratio = |best: Option<(&Measured, f64)>| number(best.map(|(_, r)| r), 2);
        let (pytorch, onnx_runtime) = (time(PYTORCH), time(ONNX_RUNTIME));
        format!(
            "{:<20} {:>10} {:>10} {:>8} {:>10} {:>8} {:>8} {:>8} {:>8} {:>8}\n",
            format!("{name} {}", engine.precision),
            number(engine.median_ms(), 1),
            ms(pytorch),
            ratio(pytorch),
            ms(onnx_runtime),
            ratio(onnx_runtime),
            number(engine.work_mib(), 0),
            number(memory(PYTORCH), 2),
            number(memory(ONNX_RUNTIME), 2),
            number(engine.first_times(), 2),
        )
    })
}
