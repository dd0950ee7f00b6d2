//! `u2pl-engine selftest`: exit codes and what it prints.
#![cfg(feature = "cli")]

use assert_cmd::Command;
use serde_json::Value;

fn selftest(args: &[&str]) -> (i32, String, String) {
    let output = Command::cargo_bin("u2pl-engine")
        .unwrap()
        .arg("selftest")
        .args(args)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code().unwrap(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[test]
fn the_cpu_passes_and_the_table_says_so() {
    let (code, table, log) = selftest(&["--op", "relu", "--op", "resize", "--threads", "3"]);
    assert_eq!(code, 0, "{log}");
    assert!(
        table.contains("cpu, 3 threads, compared with cpu, 1 thread"),
        "{table}"
    );
    for operation in ["relu ", "resize "] {
        for precision in ["fp32", "bf16"] {
            let row = |line: &&str| line.starts_with(operation) && line.contains(precision);
            let row = table.lines().find(row);
            let row = row.unwrap_or_else(|| panic!("no {operation}{precision} in {table}"));
            assert!(row.ends_with("pass"), "{row}");
        }
    }
    assert!(table.contains("0 failed"), "{table}");
}

#[test]
fn json_goes_to_a_file_or_to_stdout() {
    let (code, text, _) = selftest(&["--op", "mix", "--seed", "9", "--json", "-"]);
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &json["seed"]), (0, &Value::from(9)));
    assert_eq!(json["operations"][0]["operation"], "mix");
    assert_eq!(json["operations"][0]["verdict"], "pass");
    assert_eq!(json["failures"], Value::Array(Vec::new()));

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("selftest.json");
    let (code, text, _) = selftest(&["--op", "mix", "--json", path.to_str().unwrap()]);
    let json: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!((code, &json["failed"]), (0, &Value::from(0)));
    assert!(text.contains("mix"), "the table too: {text}");
}

#[test]
fn mistakes_are_one_line_and_exit_code_2() {
    for (args, parts) in [
        (
            &["--op", "convv"][..],
            &["convv", "did you mean `conv`"][..],
        ),
        (
            &["--device", "gpu"],
            &["--device gpu", "cpu, cuda, cuda:N, ptx, ptx:sm_80 or simt"],
        ),
    ] {
        let (code, out, log) = selftest(args);
        assert_eq!((code, out.as_str()), (2, ""), "{log}");
        assert_eq!(log.lines().count(), 1, "{log}");
        for part in parts {
            assert!(log.contains(part), "{log}");
        }
    }
}

/// Without a GPU: one line, exit code 1.
#[cfg(feature = "cuda")]
#[test]
fn cuda_without_a_gpu_says_so() {
    let (code, _, log) = selftest(&["--device", "cuda", "--op", "fill"]);
    if code == 0 || log.contains("selftest:") {
        println!("skipped: this machine has a CUDA device that ran the selftest");
        return;
    }
    assert_eq!(code, 1, "{log}");
    assert_eq!(log.lines().count(), 1, "{log}");
    assert!(log.starts_with("error: device cuda:0: "), "{log}");
}

#[cfg(feature = "simt")]
#[test]
fn simt_runs_the_kernels_in_every_precision() {
    let args = ["--device", "simt", "--op", "fill", "--json", "-"];
    for more in [&[][..], &["--simt-schedule", "pct", "--simt-seed", "7"]] {
        let (code, text, log) = selftest(&[&args, more].concat());
        assert_eq!(code, 0, "{log}");
        let json: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["device"], "simt");
        let rows = json["operations"].as_array().unwrap();
        assert_eq!(rows.len(), 2, "fp32 and bf16: {rows:?}");
    }
    let (code, _, log) = selftest(&["--device", "simt", "--simt-schedule", "fair"]);
    assert_eq!(code, 2, "{log}");
}
