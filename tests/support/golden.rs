//! Runs the fixtures of `tests/golden` (format: its README) on a device.

use std::collections::HashMap;
use std::path::PathBuf;

use safetensors::SafeTensors;
use serde_json::Value;
use u2pl_engine::device::{DType, Device, Shape};

use super::arena::{Spec, Tensors};
use super::ops;

/// How the tensors of a case lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// No gaps.
    Dense,
    /// Tensors that the fixture calls `wide` are channel slices of wider ones.
    Strided,
}

fn fixture(family: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(format!("{family}.safetensors"));
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn spec(entry: &Value, layout: Layout) -> Spec {
    let dtype = match entry["dtype"].as_str() {
        Some("f32") => DType::F32,
        Some("u8") => DType::U8,
        Some("u32") => DType::U32,
        other => panic!("dtype {other:?}"),
    };
    let dims: Vec<usize> = entry["shape"]
        .as_array()
        .expect("shape")
        .iter()
        .map(|d| d.as_u64().expect("dimension") as usize)
        .collect();
    let shape: Shape = dims.try_into().expect("rank 4");
    let wide = layout == Layout::Strided && entry["wide"] == true;
    Spec {
        shape,
        dtype,
        gap: if wide { 5 } else { 0 },
    }
}

/// The runs of elements that are defined: all, unless the fixture says `only`.
fn defined(entry: &Value, elements: usize) -> Vec<std::ops::Range<usize>> {
    let Some(runs) = entry["only"].as_array() else {
        return std::iter::once(0..elements).collect();
    };
    runs.iter()
        .map(|run| {
            let number = |i: usize| run[i].as_u64().expect("run") as usize;
            number(0)..number(0) + number(1)
        })
        .collect()
}

/// Compares the defined elements of a tensor.
fn compare(entry: &Value, want: &[u8], got: &[u8]) -> Result<(), String> {
    let size = if entry["dtype"] == "u8" { 1 } else { 4 };
    for run in defined(entry, want.len() / size) {
        let bytes = run.start * size..run.end * size;
        compare_run(entry, &want[bytes.clone()], &got[bytes])
            .map_err(|problem| format!("from element {}: {problem}", run.start))?;
    }
    Ok(())
}

/// `|got − want| ≤ atol + rtol·|want|` for every element; integers exactly.
fn compare_run(entry: &Value, want: &[u8], got: &[u8]) -> Result<(), String> {
    if entry["dtype"] != "f32" {
        return match want.iter().zip(got).position(|(w, g)| w != g) {
            None => Ok(()),
            Some(i) => Err(format!("byte {i}: want {}, got {}", want[i], got[i])),
        };
    }
    let (rtol, atol) = (
        entry["rtol"].as_f64().expect("rtol"),
        entry["atol"].as_f64().expect("atol"),
    );
    let want: Vec<f32> = bytemuck::pod_collect_to_vec(want);
    let got: Vec<f32> = bytemuck::pod_collect_to_vec(got);
    let (mut bad, mut worst) = (0, (0, 0.0));
    for (i, (&w, &g)) in want.iter().zip(&got).enumerate() {
        let error = (f64::from(w) - f64::from(g)).abs();
        let limit = atol + rtol * f64::from(w).abs();
        let good = w == g || error <= limit;
        if !good {
            bad += 1;
            let excess = if error.is_finite() {
                error / limit.max(f64::MIN_POSITIVE)
            } else {
                f64::INFINITY
            };
            if excess > worst.1 || bad == 1 {
                worst = (i, excess);
            }
        }
    }
    if bad == 0 {
        return Ok(());
    }
    let i = worst.0;
    Err(format!(
        "{bad} of {} elements differ; worst at {i}: want {}, got {} ({:.1} times the tolerance)",
        want.len(),
        want[i],
        got[i],
        worst.1
    ))
}

/// The outputs of one case and what is wrong with them.
struct Outcome {
    problems: Vec<String>,
    outputs: Vec<Vec<u8>>,
}

fn run_case(device: &dyn Device, data: &SafeTensors, case: &Value, layout: Layout) -> Outcome {
    let name = case["name"].as_str().expect("case name");
    let entries = case["tensors"].as_object().expect("tensors");
    let index: HashMap<&str, usize> = entries.keys().map(String::as_str).zip(0..).collect();
    let specs: Vec<Spec> = entries.values().map(|e| spec(e, layout)).collect();
    let tensors = Tensors::new(device, &specs);
    let contents = |key: &str| data.tensor(key).expect("fixture tensor").data();
    for (key, entry) in entries {
        if entry["init"] == true {
            tensors.write(index[key.as_str()], contents(&format!("{name}/{key}")));
        }
    }
    for call in case["calls"].as_array().expect("calls") {
        let ids = |side: &str| -> Vec<usize> {
            let names = call[side].as_array().expect("operands");
            names
                .iter()
                .map(|n| index[n.as_str().expect("tensor name")])
                .collect()
        };
        let accumulate = call["accumulate"].as_u64().expect("accumulate") as u32;
        tensors.run(&ops::parse(call), &ids("ins"), &ids("outs"), accumulate);
    }
    let mut outcome = Outcome {
        problems: Vec::new(),
        outputs: Vec::new(),
    };
    for (key, entry) in entries {
        let got = tensors.read(index[key.as_str()]);
        if entry["expect"] == true
            && let Err(problem) = compare(entry, contents(&format!("{name}/{key}=")), &got)
        {
            outcome
                .problems
                .push(format!("{name} ({layout:?}): {key}: {problem}"));
        }
        outcome.outputs.push(got);
    }
    tensors.check_padding();
    outcome
}

fn cases(bytes: &[u8]) -> Vec<Value> {
    let (_, metadata) = SafeTensors::read_metadata(bytes).expect("fixture header");
    let table = metadata.metadata().as_ref().expect("fixture metadata");
    let cases: Value = serde_json::from_str(&table["cases"]).expect("fixture cases");
    let cases = cases.as_array().expect("list of cases").clone();
    assert!(!cases.is_empty(), "no cases");
    cases
}

/// Every case of a family, in every layout, against its reference.
pub fn conforms(device: &dyn Device, family: &str) {
    let bytes = fixture(family);
    let data = SafeTensors::deserialize(&bytes).expect("fixture");
    let mut problems = Vec::new();
    for case in cases(&bytes) {
        for layout in [Layout::Dense, Layout::Strided] {
            // A refusal panics inside: name the case before it does.
            println!("{} ({layout:?})", case["name"]);
            problems.extend(run_case(device, &data, &case, layout).problems);
        }
    }
    assert!(
        problems.is_empty(),
        "{} on {}:\n{}",
        family,
        device.name(),
        problems.join("\n")
    );
}

/// Two devices give the same bits for every case of a family.
pub fn same_bits(a: &dyn Device, b: &dyn Device, family: &str) {
    let bytes = fixture(family);
    let data = SafeTensors::deserialize(&bytes).expect("fixture");
    for case in cases(&bytes) {
        let first = run_case(a, &data, &case, Layout::Dense).outputs;
        let second = run_case(b, &data, &case, Layout::Dense).outputs;
        assert!(first == second, "{}: the bits differ", case["name"]);
    }
}

/// A test per fixture file of `tests/golden`, each calling `$check` with the file's name.
#[allow(unused_macros)] // each test binary uses a part
macro_rules! test_families {
    ($check:path) => {
        $crate::support::golden::test_families!(
            $check: conv norm pool_resize elementwise pseudo_label loss optimizer evaluation
            partition contrast augment mix
        );
    };
    ($check:path: $($name:ident)+) => {$(
        #[test]
        fn $name() {
            $check(stringify!($name));
        }
    )+};
}
#[allow(unused_imports)]
pub(crate) use test_families;
