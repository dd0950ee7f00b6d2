//! Checkpoints: every damaged byte is noticed, and one generation is whole whatever happens.

use std::fs;
use std::path::Path;

use super::runs::{command, iteration, last, output, refused, train};
use u2pl_engine::weights::{Reader, Writer};

/// Numbers without a pattern, the same every time.
fn mixed(i: u64) -> u64 {
    let x = (i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (x ^ x >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 16
}

fn read(path: &Path) -> Result<Reader, String> {
    let file = Reader::open(path).map_err(|e| e.to_string())?;
    file.verify().map_err(|e| e.to_string())?;
    Ok(file)
}

#[test]
fn every_flipped_bit_of_a_file_of_weights_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.safetensors");
    let (a, b, c) = (vec![1.5f32; 24], [7u32, 8, 9], [1u8, 2, 3, 4, 5]);
    let mut writer = Writer::new();
    writer.tensor("a.weight", &[2, 3, 4], &a).unwrap();
    writer.tensor("b", &[3], &b).unwrap();
    writer.tensor("c", &[5], &c).unwrap();
    writer
        .meta("iteration", "1200")
        .meta("config", "train: {lr: 0.1}");
    writer.save(&path).unwrap();
    let whole = fs::read(&path).unwrap();
    assert!(read(&path).is_ok());
    let bits = 8 * whole.len();
    let harmless: Vec<usize> = (0..bits)
        .filter(|bit| {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(&path, &bytes).unwrap();
            read(&path).is_ok()
        })
        .collect();
    // What may change is how the header is spaced: blanks that become other white space.
    for bit in harmless {
        let mut bytes = whole.clone();
        let was = bytes[bit / 8];
        bytes[bit / 8] ^= 1 << (bit % 8);
        let is = bytes[bit / 8];
        assert!(
            was.is_ascii_whitespace() && is.is_ascii_whitespace(),
            "byte {}: {was} {is}",
            bit / 8
        );
    }
    // Cut off anywhere.
    for len in 0..whole.len() {
        fs::write(&path, &whole[..len]).unwrap();
        assert!(read(&path).is_err(), "{len} bytes");
    }
}

/// Headers and tensors of a real checkpoint, damaged in many places at once: read without a panic, and
/// never as something else than was written.
#[test]
fn damaged_checkpoints_are_refused_or_unharmed() {
    const RUNS: u64 = 6000;
    let dir = tempfile::tempdir().unwrap();
    train(dir.path(), "run", &["--max-iters", "0"]);
    let whole = last(&dir.path().join("run"));
    let header = 8 + u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let path = dir.path().join("w.safetensors");
    let (mut refused, mut same) = (0, 0);
    for run in 0..RUNS {
        let draw = |k: u64| mixed(run * 100 + k) as usize;
        let mut bytes = whole.clone();
        for k in 0..1 + draw(0) as u64 % 4 {
            let at = match draw(3 * k + 1) % 8 {
                0 => draw(3 * k + 2) % bytes.len(),
                1 => draw(3 * k + 2) % 9,
                _ => draw(3 * k + 2) % header,
            };
            let at = at % bytes.len();
            match draw(3 * k + 3) % 6 {
                0 => bytes[at] = b"{}[]\":,0 9\0\xFF"[draw(3 * k + 4) % 12],
                1 => drop(bytes.drain(at..(at + draw(3 * k + 4) % 40).min(bytes.len()))),
                2 => {
                    let end = (at + draw(3 * k + 4) % 40).min(bytes.len());
                    let copy = bytes[at..end].to_vec();
                    bytes.splice(at..at, copy);
                }
                3 => bytes.truncate(at),
                _ => bytes[at] ^= 1 << (draw(3 * k + 4) % 8),
            }
            if bytes.is_empty() {
                break;
            }
        }
        fs::write(&path, &bytes).unwrap();
        match read(&path) {
            Err(line) => {
                assert!(
                    line.contains("w.safetensors") && !line.contains('\n'),
                    "{line:?}"
                );
                refused += 1;
            }
            Ok(file) => {
                let good =
                    Reader::open(&dir.path().join("run/checkpoints/last.safetensors")).unwrap();
                assert_eq!(file.names().len(), good.names().len(), "run {run}");
                assert_eq!(file.meta("iteration"), good.meta("iteration"), "run {run}");
                assert_eq!(file.meta("config"), good.meta("config"), "run {run}");
                same += 1;
            }
        }
    }
    println!("{RUNS} runs: {refused} refused, {same} read as written");
    assert_eq!(refused + same, RUNS);
    assert!(refused > RUNS * 9 / 10, "{refused} of {RUNS} refused");
}

#[test]
fn a_file_that_another_program_wrote_is_read_and_one_it_changed_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("w.safetensors");
    let values = [1.0f32, 2.0, 3.0];
    let mut writer = Writer::new();
    writer.tensor("w", &[3], &values).unwrap().meta("k", "v");
    writer.save(&path).unwrap();
    let bytes = fs::read(&path).unwrap();
    let header = |bytes: &[u8]| -> (serde_json::Value, usize) {
        let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        (serde_json::from_slice(&bytes[8..8 + len]).unwrap(), 8 + len)
    };
    let write = |header: &serde_json::Value, data: &[u8]| {
        let text = header.to_string();
        let mut out = (text.len() as u64).to_le_bytes().to_vec();
        out.extend(text.as_bytes());
        out.extend(data);
        fs::write(&path, out).unwrap();
    };
    let (parsed, start) = header(&bytes);
    // The same, its keys in another order.
    let mut other = serde_json::Map::new();
    for key in ["w", "__metadata__"] {
        other.insert(key.into(), parsed[key].clone());
    }
    write(&other.clone().into(), &bytes[start..]);
    assert_eq!(read(&path).unwrap().meta("k"), Some("v"));
    // Other numbers under the old digests.
    let mut data = bytes[start..].to_vec();
    data[..4].copy_from_slice(&9f32.to_le_bytes());
    write(&other.clone().into(), &data);
    let error = read(&path).err().unwrap();
    assert!(
        error.contains("w is not as it was written") && error.contains("u2pl.tensors"),
        "{error}"
    );
    // Without digests, as other programs write them.
    other["__metadata__"] = serde_json::json!({"k": "v"});
    write(&other.into(), &data);
    assert_eq!(read(&path).unwrap().floats("w").unwrap(), [9.0, 2.0, 3.0]);
}

#[test]
fn a_damaged_newest_checkpoint_is_named_and_the_one_before_taken() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, run) = (dir.path(), dir.path().join("run"));
    train(dir, "whole", &[]);
    train(dir, "run", &["--max-iters", "7"]);
    let [newest, before] = ["last", "previous"].map(|name| iteration(&run, name).unwrap());
    assert_eq!((newest, before), (7, 6));
    let path = run.join("checkpoints/last.safetensors");
    let bytes = fs::read(&path).unwrap();
    let keep = dir.join("keep");
    fs::rename(&run, &keep).unwrap();
    let again = || {
        let _ = fs::remove_dir_all(&run);
        let copied = std::process::Command::new("cp")
            .arg("-r")
            .args([&keep, &run])
            .status();
        assert!(copied.unwrap().success());
    };
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap());
    let end = bytes.len() as u64;
    let mut faults: Vec<(String, Vec<u8>)> = (0..6u64)
        .map(|i| {
            // Half of them in the header.
            let at = match i % 2 {
                0 => 8 + mixed(i) % header,
                _ => 8 + header + mixed(i) % (end - 8 - header),
            };
            let mut bytes = bytes.clone();
            bytes[at as usize] ^= 1 << (i % 7);
            (format!("bit {} of byte {at}", i % 7), bytes)
        })
        .collect();
    faults.push(("cut off".into(), bytes[..bytes.len() / 2].to_vec()));
    faults.push(("empty".into(), Vec::new()));
    faults.push(("zeros".into(), vec![0; bytes.len()]));
    for (what, fault) in faults {
        again();
        fs::write(&path, fault).unwrap();
        let said = train(dir, "run", &["--resume"]);
        assert!(
            said.contains("last.safetensors") && said.contains("iteration 6"),
            "{what}: {said}"
        );
        assert!(last(&run) == last(&dir.join("whole")), "{what}");
        assert!(run.join("checkpoints/last.damaged").exists(), "{what}");
        let metrics = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
        assert!(metrics.contains("\"damaged\":\""), "{what}: {metrics}");
    }
    // It is missing altogether: as if killed between two renames.
    again();
    fs::remove_file(&path).unwrap();
    train(dir, "run", &["--resume"]);
    assert!(last(&run) == last(&dir.join("whole")));
    // Both damaged: nothing is made up.
    again();
    for name in ["last", "previous"] {
        fs::write(
            run.join(format!("checkpoints/{name}.safetensors")),
            &bytes[..100],
        )
        .unwrap();
    }
    let line = refused(dir, "run", &["--resume"]);
    for part in [
        "last.safetensors",
        "previous.safetensors is no help",
        "--init",
    ] {
        assert!(line.contains(part), "{part}: {line}");
    }
    assert!(run.join("checkpoints/previous.safetensors").exists());
    // The mend that it names works, with the folder's name, too.
    train(dir, "new", &["--init", "run/checkpoints/best.safetensors"]);
    train(dir, "newer", &["--init", "run"]);
    assert!(last(&dir.join("new")) == last(&dir.join("newer")));
    fs::remove_file(run.join("checkpoints/best.safetensors")).unwrap();
    let line = refused(dir, "run", &["--resume"]);
    assert!(line.contains("start anew"), "{line}");
}

#[cfg(unix)]
#[test]
fn a_run_that_is_killed_at_any_moment_goes_on_to_the_same_end() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, run) = (dir.path(), dir.path().join("run"));
    train(dir, "whole", &[]);
    let mut kills = 0;
    for attempt in 0..40u64 {
        let resume: &[&str] = if iteration(&run, "last").is_some() {
            &["--resume"]
        } else {
            &[]
        };
        if resume.is_empty() {
            let _ = fs::remove_dir_all(&run);
        }
        let mut child = command(dir, "run", resume)
            .stderr(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(std::time::Duration::from_millis(
            60 + 40 * attempt + mixed(attempt) % 40,
        ));
        match child.try_wait().unwrap() {
            Some(status) => {
                assert!(status.success());
                break;
            }
            None => {
                child.kill().unwrap();
                child.wait().unwrap();
                kills += 1;
            }
        }
        // One of the two is whole, once there is any.
        let [a, b] = ["last", "previous"].map(|name| iteration(&run, name));
        let any = run.join("checkpoints/last.safetensors").exists();
        assert!(!any || a.is_some(), "after {kills} kills: {a:?}, {b:?}");
    }
    assert!(kills > 0);
    if iteration(&run, "last") != Some(12) {
        train(dir, "run", &["--resume"]);
    }
    assert!(
        last(&run) == last(&dir.join("whole")),
        "after {kills} kills"
    );
}

/// Metrics that cannot be written end a run; its steps are saved, also those of an epoch's last step.
#[cfg(unix)]
#[test]
fn steps_are_saved_when_the_metrics_of_an_epochs_end_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, run) = (dir.path(), dir.path().join("run"));
    let seldom = ["--set", "train.log_every=3"];
    train(dir, "whole", &seldom);
    train(dir, "run", &[&seldom[..], &["--max-iters", "1"]].concat());
    // The largest file, and room in it for the line that going on begins with, not for a step's.
    let metrics = run.join("metrics.jsonl");
    let text = fs::read_to_string(&metrics).unwrap();
    let line = text.lines().find(|l| l.contains("\"machine\"")).unwrap();
    let limit = 2 * last(&run).len() / 512 * 512;
    let empty = "{\"iter\":0,\"pad\":\"\"}\n".len();
    let pad = "x".repeat(limit - text.len() - line.len() - 1 - empty - 20);
    fs::write(
        &metrics,
        format!("{text}{{\"iter\":0,\"pad\":\"{pad}\"}}\n"),
    )
    .unwrap();
    let resume = [&seldom[..], &["--resume"]].concat();
    let plain = command(dir, "run", &resume);
    let mut limited = std::process::Command::new("sh");
    let script = format!("ulimit -f {}; trap '' XFSZ; exec \"$@\"", limit / 512);
    limited.args(["-c", &script, "sh"]).arg(plain.get_program());
    limited.args(plain.get_args()).current_dir(dir);
    let (code, stderr) = output(limited);
    assert_eq!(code, 2, "{stderr}");
    for part in ["metrics.jsonl: cannot write", "3 iterations are saved"] {
        assert!(stderr.contains(part), "{part}: {stderr}");
    }
    assert_eq!(iteration(&run, "last"), Some(3));
    train(dir, "run", &resume);
    assert!(last(&run) == last(&dir.join("whole")));
}

/// A checkpoint that does not fit: the ones there are stay, and the run goes on when there is room.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_a_whole_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, run) = (dir.path(), dir.path().join("run"));
    train(dir, "whole", &[]);
    train(dir, "run", &["--max-iters", "4"]);
    let plain = command(dir, "run", &["--resume"]);
    let blocks = last(&run).len() / 512 / 2;
    let mut limited = std::process::Command::new("sh");
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
        said.contains("last.safetensors: cannot write the weights"),
        "{said}"
    );
    assert_eq!(iteration(&run, "last"), Some(4));
    train(dir, "run", &["--resume"]);
    assert!(last(&run) == last(&dir.join("whole")));
}

/// The validation is due, but its best network cannot be written: neither the steps nor the validation
/// are lost.
#[test]
fn a_validation_that_fails_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, run) = (dir.path(), dir.path().join("run"));
    train(dir, "whole", &[]);
    train(dir, "run", &["--max-iters", "2"]);
    let best = run.join("checkpoints/best.safetensors");
    fs::create_dir_all(best.join("in the way")).unwrap();
    // As often as it fails: what is saved stays as it is.
    for _ in 0..2 {
        let line = refused(dir, "run", &["--resume"]);
        assert!(line.contains("best.safetensors: cannot"), "{line}");
        assert_eq!(iteration(&run, "last"), Some(3));
    }
    fs::remove_dir_all(&best).unwrap();
    train(dir, "run", &["--resume"]);
    assert!(last(&run) == last(&dir.join("whole")));
    let other = dir.join("whole/checkpoints/best.safetensors");
    assert!(fs::read(best).unwrap() == fs::read(other).unwrap());
    let validations = |run: &str| {
        let text = fs::read_to_string(dir.join(run).join("metrics.jsonl")).unwrap();
        let kept = text.lines().filter(|l| l.contains("\"val\""));
        kept.map(str::to_string).collect::<Vec<_>>()
    };
    assert_eq!(validations("run"), validations("whole"));
    assert_eq!(validations("run").len(), 4);
}
