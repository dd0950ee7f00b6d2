//! A night in small: everything that goes wrong with a run in one night, and the result of an unbroken one.
//! `scripts/night.sh` is the same at full length.
#![cfg(unix)]

use std::fs;
use std::process::Stdio;

use super::runs::{command, iteration, last, output, train};

/// Steps enough for every fault to fall into the run.
const LONG: [&str; 4] = ["--set", "train.epochs=20", "--set", "train.epoch_iters=4"];

#[test]
fn a_night_in_small() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, run) = (dir.path(), dir.path().join("run"));
    train(dir, "whole", &LONG);
    let go = |resume: bool| [&LONG[..], if resume { &["--resume"] } else { &[] }].concat();
    let logged = || {
        let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
        text.lines().count()
    };
    // Killed three times, each somewhere in what the last attempt had reached plus some.
    for kill in 0..3 {
        let mut child = command(dir, "run", &go(kill > 0))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let goal = 12 * (kill + 1);
        while logged() < goal {
            assert!(
                child.try_wait().unwrap().is_none(),
                "it ended before kill {kill}"
            );
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(iteration(&run, "last").is_some(), "kill {kill}");
    }
    // One bit of the newest checkpoint flips.
    let path = run.join("checkpoints/last.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let at = 2 * bytes.len() / 3;
    bytes[at] ^= 4;
    fs::write(&path, &bytes).unwrap();
    let before = iteration(&run, "previous").unwrap();
    // The disk is full: no checkpoint can be written.
    let plain = command(dir, "run", &go(true));
    let mut limited = std::process::Command::new("sh");
    let blocks = bytes.len() / 512 / 2;
    limited.args([
        "-c",
        &format!("ulimit -f {blocks}; trap '' XFSZ; exec \"$@\""),
        "sh",
    ]);
    limited
        .arg(plain.get_program())
        .args(plain.get_args())
        .current_dir(dir);
    let (code, said) = output(limited);
    assert_eq!(code, 2, "{said}");
    assert!(
        said.contains("last.safetensors: tensor") || said.contains("does not match its digest"),
        "{said}"
    );
    assert!(said.contains("cannot write"), "{said}");
    assert_eq!(iteration(&run, "last"), Some(before));

    train(dir, "run", &go(true));
    assert!(last(&run) == last(&dir.join("whole")));
    let metrics = |run: &str| {
        let text = fs::read_to_string(dir.join(run).join("metrics.jsonl")).unwrap();
        let kept = text
            .lines()
            .filter(|l| l.contains("\"loss\"") || l.contains("\"val\""));
        kept.map(str::to_string).collect::<Vec<_>>()
    };
    assert_eq!(metrics("run"), metrics("whole"));
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    assert!(text.contains("\"damaged\":\""), "{text}");
}
