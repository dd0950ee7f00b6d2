//! The counts of `kernels/counters.tsv`: what the kernels of the VOC step execute and move, against what
//! they do now, so that a bank conflict or a division in a loop fails like a wrong number does.
//!
//! `u2pl-engine weigh --write kernels/counters.tsv` writes the table again; the difference belongs in the
//! commit that caused it. A few operations are weighed here, one of each kind; CI weighs all of them
//! (`U2PL_ALL_COUNTERS=1`).

use std::path::Path;

use u2pl_engine::bench::{Case, Recipe};
use u2pl_engine::device::gpu::MathMode;
use u2pl_engine::device::gpu::ptx::{Edited, text, toolkit};
use u2pl_engine::ptx::Arch;
use u2pl_engine::weigh::{Chip, Options, Row, Weighing, read_table, rows};

/// What changes the table.
const FIX: &str = "u2pl-engine weigh --write kernels/counters.tsv, if it is meant";

/// Operations that are weighed where not all are: a large and a small convolution, their
/// gradients, a norm whose last block finishes, an entropy.
const SOME: [&str; 7] = [
    "conv_moments 1x1 256-1024 @65 n8 bf16",
    "conv_moments 1x1 256-64 @129 n8 bf16",
    "conv_batch_norm_eval 1x1 256-1024 @65 n4 residual relu bf16",
    "conv_dgrad 1x1 1024-256 @65 n8 bf16 add",
    "conv_wgrad 1x1 1024-256 @65 n8 bf16-f32",
    "batch_norm_merge 256 @65 n8 relu bf16",
    "softmax_entropy",
];

fn weigh(arch: Arch, only: &(dyn Fn(&Case) -> bool + Sync), units: &[Edited]) -> Vec<Row> {
    let recipe = Recipe::named("voc", &[]).expect("a built-in recipe");
    let options = Options {
        arch,
        math: MathMode::Bf16,
        multiprocessors: Chip::of_arch(arch).multiprocessors,
        threads: 0,
        only,
        units,
    };
    rows(&Weighing::new(&recipe, &options).expect("counts"))
}

/// The table, where the build's nvcc is the one that it is of.
fn table() -> Option<Vec<Row>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/counters.tsv");
    let text = std::fs::read_to_string(path).expect("kernels/counters.tsv");
    let (release, rows) = read_table(&text).expect("a table of counts");
    assert!(
        !toolkit().is_empty(),
        "built without nvcc: run scripts/install-nvcc.sh"
    );
    if !toolkit().starts_with(&format!("{release}.")) {
        println!(
            "the table is of nvcc {release}, this build of {}: not compared",
            toolkit()
        );
        return None;
    }
    Some(rows)
}

/// Rows that differ from the table, or are not in it.
fn differences(table: &[Row], now: &[Row]) -> Vec<String> {
    let key = |row: &Row| (row.arch.clone(), row.operation.clone(), row.kernel.clone());
    let mut found = Vec::new();
    for row in now {
        let name = format!("{} {}: {}", row.arch, row.operation, row.kernel);
        match table.iter().find(|r| key(r) == key(row)) {
            None => found.push(format!("{name}: not in the table")),
            Some(then) if then.figures != row.figures => {
                found.push(format!(
                    "{name}: {:?}, table {:?}",
                    row.figures, then.figures
                ));
            }
            Some(_) => {}
        }
    }
    found
}

fn some(case: &Case) -> bool {
    SOME.iter()
        .any(|name| case.name == *name || case.kind == *name)
}

#[test]
fn the_kernels_execute_and_move_what_the_table_says() {
    let Some(table) = table() else { return };
    let all = std::env::var_os("U2PL_ALL_COUNTERS").is_some_and(|v| v != "0");
    let wanted = |case: &Case| all || some(case);
    for arch in [Arch::Sm80, Arch::Sm90a] {
        let now = weigh(arch, &wanted, &[]);
        if all {
            let gone = table
                .iter()
                .filter(|row| row.arch == arch.name())
                .filter(|row| {
                    !now.iter()
                        .any(|r| r.operation == row.operation && r.kernel == row.kernel)
                });
            let gone: Vec<&Row> = gone.collect();
            assert!(gone.is_empty(), "in the table only: {gone:#?}\n{FIX}");
        } else {
            for name in SOME {
                let there = now.iter().any(|r| r.operation.starts_with(name));
                assert!(there, "the step has no {name} any more: name another here");
            }
        }
        let found = differences(&table, &now);
        assert!(
            found.is_empty(),
            "kernels/counters.tsv:\n{}\n{FIX}",
            found.join("\n")
        );
    }
}

/// A kernel in a PTX text, from its head to the next one's.
fn kernel<'t>(text: &'t str, name: &str) -> &'t str {
    let head = format!(".entry {name}(");
    let at = text.find(&head).expect("the kernel");
    let start = text[..at].rfind(".visible").expect("its head");
    let end = text[at..]
        .find(".visible")
        .or_else(|| text[at..].find("\t.file"));
    &text[start..end.map_or(text.len(), |end| at + end)]
}

/// The same kernel with rows of its product that meet in the same banks: more wavefronts, a different row.
#[test]
fn a_planted_bank_conflict_is_found() {
    let Some(table) = table() else { return };
    let planted = std::fs::read_to_string(concat!(env!("OUT_DIR"), "/conflict.ptx"));
    let planted = planted.expect("PTX of kernels/simt/tests/conflict.cu");
    let name = "conv_moments_bf16_large";
    let own = text("conv", Arch::Sm90a).expect("PTX of kernels/conv.cu");
    let unit = Edited {
        unit: "conv".into(),
        name: "conv.cu with a planted conflict".into(),
        text: own.replace(kernel(own, name), kernel(&planted, name)),
    };
    let one = |case: &Case| case.name == SOME[0];
    let now = weigh(Arch::Sm90a, &one, &[unit]);
    let found = differences(&table, &now);
    println!("{}", found.join("\n"));
    assert!(found.len() == 1 && found[0].contains(name), "{found:#?}");
    let row = now.iter().find(|r| r.kernel == name);
    let then = table
        .iter()
        .find(|r| r.arch == "sm_90a" && r.operation == SOME[0] && r.kernel == name);
    let wavefronts = |row: Option<&Row>| -> f64 {
        row.and_then(|r| r.figures[3].parse().ok())
            .expect("a row of the kernel")
    };
    assert!(
        wavefronts(row) > 1.1 * wavefronts(then),
        "{row:?}, table {then:?}"
    );
}
