use std::collections::HashSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::report::{Row, disagreements, operations_sums};
use super::scripts::{Folder, Python};
use super::side::{Served, Side, serve};
use super::turns::{Measured, Times, Turns, median};
use super::work::{InferWork, Place, StepWork, Variant, Work};
use super::{engine, inference, report, summary};
use crate::config::schema::Encoder;
use crate::device::Device;
use crate::device::cpu::CpuDevice;
use crate::{Error, Result};

/// A shell script in the place of a side.
fn script(dir: &Path, text: &str) -> PathBuf {
    let path = dir.join("side.sh");
    let mut file = std::fs::File::create(&path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
    path
}

fn start(dir: &Path, text: &str) -> Result<Side> {
    let args = [script(dir, text)];
    Side::start("fake", Path::new("/bin/sh"), &args, dir.join("log"))
}

const FAKE: &str = r#"
echo '{"ready": {"parameters": 7}}'
while read -r line; do
    case $line in
        *case*) echo '{"unavailable": "no such thing"}' ;;
        *check*) echo '{"checked": {"loss": 2}}' ;;
        *) echo "{\"ms\": ${line##*:}" ;;
    esac
done
echo '{"peak_mib": 30, "base_mib": 10}'
"#;

#[test]
fn a_side_answers_each_request_and_says_its_last_words() {
    let dir = tempfile::tempdir().unwrap();
    let mut side = start(dir.path(), FAKE).unwrap();
    assert_eq!(side.ready()["parameters"], 7);
    // The fake side says of `{"run":5}` that a call took 5 ms.
    assert_eq!(side.run(5).unwrap(), 5.0);
    let answer = side.ask(&json!({"case": {}})).unwrap();
    assert_eq!(answer["unavailable"], "no such thing");
    let checked = side.ask(&json!({"check": true})).unwrap();
    assert_eq!(checked["checked"]["loss"], 2);
    assert_eq!(side.finish().unwrap()["peak_mib"], 30);
}

#[test]
fn a_side_that_ends_early_is_quoted() {
    let dir = tempfile::tempdir().unwrap();
    let text = "echo '{\"ready\": {}}'; read -r line; echo first >&2; echo 'out of memory' >&2";
    let mut side = start(dir.path(), text).unwrap();
    let error = side.run(1).unwrap_err();
    assert_eq!(error.to_string(), "fake: ended early: out of memory");
    assert_eq!(error.exit_code(), 1);
}

#[test]
fn a_side_that_cannot_begin_is_the_users_to_mend() {
    let dir = tempfile::tempdir().unwrap();
    let text = r#"echo '{"error": "no torch", "mend": "install it"}'; exit 2"#;
    let error = start(dir.path(), text).map(drop).unwrap_err();
    assert_eq!(error.to_string(), "fake: no torch; install it");
    assert_eq!(error.exit_code(), 2);
    let text = r#"echo '{"unavailable": "no such provider"}'"#;
    let error = start(dir.path(), text).map(drop).unwrap_err();
    assert_eq!(error.to_string(), "fake: no such provider");
    assert!(matches!(error, Error::Side { .. }), "others go on");
    let error = start(dir.path(), "echo hello").map(drop).unwrap_err();
    assert_eq!(
        error.to_string(),
        "fake: answered `hello`, which is no JSON"
    );
}

#[test]
fn an_answer_that_is_no_time_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let text = "echo '{\"ready\": {}}'; while read -r l; do echo '{\"ms\": \"soon\"}'; done";
    let error = start(dir.path(), text).unwrap().run(1).unwrap_err();
    assert!(error.to_string().contains("instead of a time"), "{error}");
}

fn turns() -> Turns {
    Turns {
        rounds: 3,
        warmup: 1,
        pause: Duration::ZERO,
        span_ms: 4.0,
        most: 10,
    }
}

#[test]
fn sides_take_turns_and_one_that_fails_leaves_the_others_their_rounds() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut whole = start(a.path(), FAKE).unwrap();
    let short = "echo '{\"ready\": {}}'; read -r l; echo '{\"ms\": 9}'; read -r l; \
                 echo '{\"ms\": 9}'";
    let mut short = start(b.path(), short).unwrap();
    let mut order = Vec::new();
    let times = turns().take(&mut [&mut whole, &mut short], &mut |round, name, ms| {
        order.push((round, name.to_string(), ms));
    });
    // After the warm-up (one call of 1 ms) the first side has four calls a turn.
    assert_eq!(times[0].as_ref().unwrap().ms, [4.0, 4.0, 4.0]);
    assert_eq!(times[0].as_ref().unwrap().first_ms, Some(1.0));
    assert_eq!(
        times[1].as_ref().unwrap_err(),
        "fake: ended early without a word"
    );
    let rounds: Vec<usize> = order.iter().map(|(round, ..)| *round).collect();
    assert_eq!(rounds, [1, 1, 2, 3]);
}

struct Counter {
    runs: usize,
}

impl Served for Counter {
    fn run(&mut self, count: usize) -> Result<f64> {
        self.runs += count;
        Ok(self.runs as f64)
    }

    fn last(&mut self) -> Result<Value> {
        Ok(json!({"runs": self.runs}))
    }
}

fn conversation(made: Result<(Box<dyn Served>, Value)>, input: &str) -> (Result<()>, String) {
    let mut output = Vec::new();
    let result = serve(made, input.as_bytes(), &mut output);
    (result, String::from_utf8(output).unwrap())
}

#[test]
fn the_engines_end_speaks_the_same_protocol() {
    let side = || Ok((Box::new(Counter { runs: 0 }) as Box<dyn Served>, json!({})));
    let (result, said) = conversation(side(), "{\"run\":2}\n{\"check\":true}\n{\"case\":{}}\n");
    result.unwrap();
    let lines: Vec<Value> = said.lines().map(|l| l.parse().unwrap()).collect();
    assert_eq!(lines[0], json!({"ready": {}}));
    assert_eq!(lines[1], json!({"ms": 2.0}));
    assert_eq!(lines[2], json!({"checked": {}}));
    assert!(lines[3]["unavailable"].is_string());
    assert_eq!(lines[4], json!({"runs": 2}));

    let (result, _) = conversation(side(), "{\"jump\":1}\n");
    assert!(result.is_err());
    let refused = Err(Error::input("--precision bf16", "not here", "use fp32"));
    let (result, said) = conversation(refused, "");
    result.unwrap();
    let said: Value = said.parse().unwrap();
    assert_eq!(
        said,
        json!({"error": "--precision bf16: not here", "mend": "use fp32"})
    );
}

fn measured(engine: bool, ms: &[f64]) -> Measured {
    let mut side = Measured::missing("PyTorch", engine, "fp32", String::new());
    side.outcome = Ok(Times {
        first_ms: ms.first().map(|ms| 3.0 * ms),
        ms: ms.to_vec(),
        cpu_ms: ms.to_vec(),
    });
    side
}

#[test]
fn ratios_are_taken_round_by_round() {
    let engine = measured(true, &[1.0, 10.0, 2.0]);
    let peer = measured(false, &[2.0, 10.0, 8.0]);
    assert_eq!(peer.times(&engine), Some(2.0)); // of 2, 1, 4
    assert_eq!(peer.cpu_times(&engine), Some(20.0 / 13.0));
    assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), Some(2.5));
    assert_eq!(median(Vec::new()), None);
    let absent = Measured::missing("x", false, "fp32", "no memory".into());
    assert_eq!(absent.times(&engine), None);
    assert_eq!(engine.first_times(), Some(1.5)); // 3 over the median of 1, 2, 10
    assert_eq!(absent.first_times(), None);
}

#[test]
fn sums_count_calls_and_leave_out_what_has_no_peer() {
    let row = |name: &str, calls, sides| Row {
        name: name.into(),
        kind: "conv".into(),
        calls,
        flops: 2e6,
        sides,
    };
    let missing = Measured::missing("PyTorch", false, "fp32", "none of its kind".into());
    let rows = [
        row(
            "a",
            3,
            vec![measured(true, &[1.0]), measured(false, &[2.0])],
        ),
        row("b", 5, vec![measured(true, &[1.0]), missing]),
    ];
    let text = operations_sums(&rows);
    let conv = text.lines().find(|l| l.starts_with("conv")).unwrap();
    let words: Vec<&str> = conv.split_whitespace().collect();
    assert_eq!(words, ["conv", "3.000", "6.000", "2.00"]);
    assert!(rows[1].line().contains("none of its kind"));
}

#[test]
fn different_work_is_pointed_out() {
    let with = |parameters: usize| {
        let mut side = measured(parameters == 7, &[1.0]);
        side.said = json!({"ready": {"parameters": parameters}});
        side
    };
    assert_eq!(disagreements(&with(7), &with(7)), "");
    assert!(disagreements(&with(7), &with(8)).contains("parameters"));
}

#[test]
fn a_peer_that_is_no_python_is_told_apart() {
    for (path, problem) in [
        ("/nowhere/python", "no such file"),
        ("/", "is a folder"),
        ("/bin/sh", "is no Python"),
    ] {
        let error = Python::new(Path::new(path)).map(drop).unwrap_err();
        assert!(error.to_string().contains(problem), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}

#[test]
fn the_folder_holds_every_script_and_goes_away() {
    let folder = Folder::new().unwrap();
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers");
    for entry in std::fs::read_dir(beside).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "py") {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let carried = std::fs::read(folder.file(&name)).unwrap();
            assert_eq!(carried, std::fs::read(&path).unwrap(), "{name}");
        }
    }
    let path = folder.file("");
    drop(folder);
    assert!(!path.exists());
}

#[test]
fn both_sides_are_asked_for_the_same_work() {
    let place = Place {
        cuda: true,
        precision: "bf16".into(),
        threads: 0,
    };
    for work in StepWork::known() {
        let cfg = work.config();
        assert_eq!(cfg.augment.crop, [work.crop; 2]);
        let variants = Work::Step(work.clone()).variants(&place).unwrap();
        for Variant { args, .. } in &variants {
            let value = |flag: &str| {
                let at = args.iter().position(|a| a == flag).unwrap();
                args[at + 1].clone()
            };
            assert_eq!(value("--crop"), cfg.augment.crop[0].to_string());
            assert_eq!(value("--batch"), cfg.train.batch_labeled.to_string());
            assert_eq!(value("--bank"), cfg.method.bank_size.to_string());
            assert_eq!(value("--device"), "cuda");
        }
        assert!(
            variants
                .iter()
                .any(|v| v.args.iter().any(|a| a == "authors"))
        );
    }
    for work in InferWork::known() {
        let variants = Work::Infer(work.clone()).variants(&place).unwrap();
        for Variant { args, .. } in &variants {
            let value = |flag: &str| {
                let at = args.iter().position(|a| a == flag).unwrap();
                args[at + 1].clone()
            };
            assert_eq!(value("--height"), work.size[0].to_string());
            assert_eq!(value("--width"), work.size[1].to_string());
            assert_eq!(value("--batch"), work.batch.to_string());
            assert_eq!(value("--precision"), "bf16");
            let encoder = format!("{:?}", work.encoder).to_lowercase();
            assert_eq!(value("--encoder"), encoder);
        }
        let scripts: Vec<&str> = variants.iter().map(|v| v.script).collect();
        assert_eq!(scripts.last(), Some(&"infer_ort.py"));
        let text = serde_json::to_string(&Work::Infer(work.clone())).unwrap();
        let again: Work = serde_json::from_str(&text).unwrap();
        assert_eq!(again, Work::Infer(work));
    }
}

#[test]
fn inference_has_every_encoder_size_and_batch_once() {
    let known = InferWork::known();
    for encoder in [Encoder::Resnet50, Encoder::Resnet101] {
        for size in [[360, 480], [513, 513]] {
            for batch in [1, 8] {
                let same = |w: &&InferWork| (w.encoder, w.size, w.batch) == (encoder, size, batch);
                assert_eq!(known.iter().filter(same).count(), 1, "{size:?} {batch}");
            }
        }
    }
    let names: HashSet<&str> = known.iter().map(|w| w.name.as_str()).collect();
    assert_eq!((known.len(), names.len()), (8, 8));
}

/// A side of `name` that took `ms` and 10 MiB for each.
fn side(name: &str, precision: &str, ms: f64) -> Measured {
    let mut side = measured(name == "engine", &[ms]);
    (side.name, side.precision) = (name.into(), precision.into());
    side.said = json!({"last": {"peak_mib": 10.0 * ms, "base_mib": 0.0}});
    side
}

#[test]
fn a_table_names_the_best_peer_the_plan_and_what_halves_bring() {
    let mut engine = side("engine", "fp32", 2.0);
    let plan = json!({"weights_mib": 8, "call_mib": 10, "host_mib": 1.5, "measured_mib": 20.25});
    let last = engine.said["last"].as_object_mut().unwrap();
    last.extend(plan.as_object().unwrap().clone());
    let sides = [
        engine,
        side("PyTorch nhwc", "fp32", 5.0),
        side("ONNX Runtime", "fp32", 3.0),
        side("engine", "bf16", 1.0),
        Measured::missing(
            "ONNX Runtime",
            false,
            "bf16",
            "no convolution in bf16".into(),
        ),
    ];
    let text = report::case("infer", &sides);
    for words in [
        "ONNX Runtime bf16              not available: no convolution in bf16",
        "fp32: best peer / engine: time 1.50 (ONNX Runtime), CPU time 1.50 (ONNX Runtime), \
         memory 1.50 (ONNX Runtime)",
        "fp32: memory planned 19.5 MiB (weights 8.0, a call 10.0, images and maps 1.5), measured \
         20.2 MiB",
        "engine: bf16 2.00 × as fast as fp32",
    ] {
        assert!(text.contains(words), "{text} lacks {words}");
    }

    let cases = [("infer".to_string(), sides.to_vec())];
    let text = summary::summary(&cases);
    let lines: Vec<Vec<&str>> = text
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    let fp32 = "infer fp32 2.0 5.0 2.50 3.0 1.50 20 2.50 1.50 3.00";
    assert_eq!(lines[2].join(" "), fp32);
    assert_eq!(lines[3].join(" "), "infer bf16 1.0 – – – – 10 – – 3.00");
    // One line says no more than the case's own table.
    let alone = [("infer".to_string(), vec![side("engine", "fp32", 1.0)])];
    assert_eq!(summary::summary(&alone), "");
}

#[test]
fn the_engine_plans_at_its_first_call_and_tells_its_memory() {
    let work = InferWork {
        encoder: Encoder::Resnet34,
        size: [33, 65],
        classes: 3,
        batch: 2,
        name: "small".into(),
    };
    let device: Arc<dyn Device> = Arc::new(CpuDevice::new(1).unwrap());
    let dir = tempfile::tempdir().unwrap();
    let weights = dir.path().join("w.safetensors");
    inference::save_untrained(&work, &weights).unwrap();
    let made = engine::serve_work(&Work::Infer(work), Some(&weights), device);
    let (result, said) = conversation(made, "{\"run\":1}\n{\"run\":2}\n{\"check\":true}\n");
    result.unwrap();
    let lines: Vec<Value> = said.lines().map(|l| l.parse().unwrap()).collect();
    let parameters = lines[0]["ready"]["parameters"].as_u64();
    assert!(parameters.unwrap_or(0) > 10_000_000, "{}", lines[0]);
    assert!(lines[1]["ms"].as_f64().unwrap() > 0.0);
    assert!(lines[3]["checked"]["conv_flops"].as_f64().unwrap() > 0.0);
    let last = &lines[4];
    let mib = |key: &str| last[key].as_f64().unwrap();
    assert!(mib("weights_mib") > 40.0 && mib("call_mib") > 0.0, "{last}");
    assert_eq!(
        mib("call_mib"),
        mib("held_mib"),
        "a caller holds what was planned"
    );
    assert_eq!(
        mib("host_mib"),
        (12 * 2 * 33 * 65) as f64 / (1u64 << 20) as f64
    );
    assert!(mib("peak_mib") > mib("base_mib"), "{last}");
}
