use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use super::report::{Row, disagreements, operations_sums};
use super::scripts::{Folder, Python};
use super::side::{Served, Side, serve};
use super::turns::{Measured, Times, Turns, median};
use super::work::{InferWork, Place, StepWork, Variant, Work};
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
    let [infer, ..] = &InferWork::known()[..] else {
        panic!("no case")
    };
    let text = serde_json::to_string(&Work::Infer(infer.clone())).unwrap();
    let again: Work = serde_json::from_str(&text).unwrap();
    assert_eq!(again, Work::Infer(infer.clone()));
}
