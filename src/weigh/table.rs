//! `kernels/counters.tsv`: the counts of every operation of a step, kernel by kernel, for a test to
//! compare.

use std::fmt::Write;

use super::launch::Launch;
use super::report::CLASS_NAMES;
use super::step::Weighing;
use crate::ptx::CLASSES;
use crate::{Error, Result};

/// A kernel in an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// `sm_90a`.
    pub arch: String,
    /// Name of the case ([`crate::bench::Case`]).
    pub operation: String,
    /// Kernel.
    pub kernel: String,
    /// The rest, as the table writes it: launches, blocks, warp instructions of the main loop for each
    /// tensor instruction, wavefronts over their least, sectors over theirs, warp instructions of a block
    /// by class.
    pub figures: [String; FIGURES],
}

/// How many figures a row has.
pub const FIGURES: usize = 5 + CLASSES;

const NAMES: [&str; 5] = ["launches", "blocks", "loop", "wavefronts", "sectors"];

/// Names of the figures.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    NAMES.into_iter().chain(CLASS_NAMES)
}

/// A ratio of whole numbers: the same digits wherever it is worked out.
fn ratio(a: u64, b: u64, digits: u32) -> String {
    if b == 0 {
        return "-".into();
    }
    let scale = 10u128.pow(digits);
    let n = (u128::from(a) * scale + u128::from(b) / 2) / u128::from(b);
    format!(
        "{}.{:0width$}",
        n / scale,
        n % scale,
        width = digits as usize
    )
}

/// The rows of what was weighed.
pub fn rows(weighing: &Weighing) -> Vec<Row> {
    let mut rows = Vec::new();
    for (case, launches) in &weighing.cases {
        let mut kernels: Vec<&str> = Vec::new();
        for launch in launches {
            if !kernels.contains(&launch.kernel) {
                kernels.push(launch.kernel);
            }
        }
        for kernel in kernels {
            let own: Vec<&Launch> = launches.iter().filter(|l| l.kernel == kernel).collect();
            let sum = |of: &dyn Fn(&Launch) -> u64| own.iter().map(|l| of(l)).sum::<u64>();
            let blocks = sum(&|l| l.blocks);
            let loops = [
                sum(&|l| l.main_loop.instructions),
                sum(&|l| l.main_loop.tensor),
            ];
            let waves = [sum(&|l| l.wavefronts), sum(&|l| l.wavefronts_least)];
            let sectors = [sum(&|l| l.sectors), sum(&|l| l.sectors_least)];
            let mut figures: [String; FIGURES] = Default::default();
            figures[0] = own.len().to_string();
            figures[1] = blocks.to_string();
            for (figure, [a, b]) in figures[2..5].iter_mut().zip([loops, waves, sectors]) {
                *figure = ratio(a, b, 4);
            }
            for (i, figure) in figures[5..].iter_mut().enumerate() {
                *figure = ratio(sum(&|l| l.instructions[i]), blocks, 2);
            }
            rows.push(Row {
                arch: weighing.arch.name().into(),
                operation: case.name.clone(),
                kernel: kernel.into(),
                figures,
            });
        }
    }
    rows
}

/// The table's text; `toolkit` is the release of nvcc that made the kernels.
pub fn write_table(rows: &[Row], toolkit: &str) -> String {
    let mut text = format!(
        "# Counts of the PTX machine, exact for the blocks that it ran; kernels of nvcc {toolkit}; the VOC step, bf16, sm_90a as on an H200, sm_80 as on an A100.\n\
         # loop: warp instructions of the main loop for each of the tensor cores; wavefronts, sectors: over the least for the same bytes; the rest: warp instructions of a block.\n\
         arch\toperation\tkernel"
    );
    for name in names() {
        text += "\t";
        text += name;
    }
    text.push('\n');
    for row in rows {
        let _ = writeln!(
            text,
            "{}\t{}\t{}\t{}",
            row.arch,
            row.operation,
            row.kernel,
            row.figures.join("\t")
        );
    }
    text
}

/// The release of nvcc and the rows of a table's text.
///
/// # Errors
/// [`Error::Input`] naming the line that cannot be read.
pub fn read_table(text: &str) -> Result<(String, Vec<Row>)> {
    let wrong = |line: usize| {
        Error::input(
            format!("kernels/counters.tsv:{}", line + 1),
            "not a row of counts",
            "write the table again: u2pl-engine weigh --write kernels/counters.tsv",
        )
    };
    let toolkit = text
        .lines()
        .next()
        .and_then(|line| line.split_once("of nvcc "))
        .and_then(|(_, rest)| rest.split(';').next())
        .ok_or_else(|| wrong(0))?;
    let mut rows = Vec::new();
    for (i, line) in text.lines().enumerate().skip(3) {
        let fields: Vec<&str> = line.split('\t').collect();
        let [arch, operation, kernel, figures @ ..] = &fields[..] else {
            return Err(wrong(i));
        };
        let figures: Vec<String> = figures.iter().map(ToString::to_string).collect();
        rows.push(Row {
            arch: (*arch).into(),
            operation: (*operation).into(),
            kernel: (*kernel).into(),
            figures: figures.try_into().map_err(|_| wrong(i))?,
        });
    }
    Ok((toolkit.into(), rows))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_rounded_once() {
        assert_eq!(ratio(1, 3, 4), "0.3333");
        assert_eq!(ratio(2, 3, 4), "0.6667");
        assert_eq!(ratio(10, 5, 2), "2.00");
        assert_eq!(ratio(0, 0, 2), "-");
    }

    #[test]
    fn a_table_is_read_as_it_was_written() {
        let row = Row {
            arch: "sm_80".into(),
            operation: "conv 1x1 64-64 @65 n4 bf16".into(),
            kernel: "conv_forward_bf16_small".into(),
            figures: std::array::from_fn(|i| i.to_string()),
        };
        let text = write_table(std::slice::from_ref(&row), "13.0");
        let (toolkit, rows) = read_table(&text).expect("a table");
        assert_eq!((toolkit.as_str(), rows), ("13.0", vec![row]));
        assert!(read_table("# nothing\n").is_err());
        assert!(read_table(&(text + "sm_80\tx\n")).is_err());
    }
}
